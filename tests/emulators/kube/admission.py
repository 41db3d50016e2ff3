"""What the API server and Volcano's webhooks refuse of a Job, in the recorded words; and the defaults that they fill in."""

from __future__ import annotations

import copy
import re
from typing import Any

from tests.emulators.kube import errors, quantities
from tests.emulators.kube.kinds import JOB, QUEUE, Resource
from tests.emulators.kube.store import Json, Store

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
ENV_NAME = r"[-._a-zA-Z][-._a-zA-Z0-9]*"
SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with "
    f"an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    f"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{DNS_LABEL}')"
)
VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    f"an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{LABEL_VALUE}')"
)
ENV_RULE = (
    "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with "
    f"a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '{ENV_NAME}')"
)
EVENTS = ("*", "PodPending", "PodRunning", "PodFailed", "PodEvicted", "Unknown", "TaskCompleted", "OutOfSync")
EVENTS += ("CommandIssued", "JobUpdated", "TaskFailed")
ACTIONS = ("ResumeJob", "RestartPod", "CompleteJob", "AbortJob", "RestartJob", "RestartTask", "TerminateJob")
PLUGINS = ("env", "svc", "ssh", "pytorch", "tensorflow", "mpi", "hcclrank", "ray")
_POLICY = {"action": None, "event": None, "events": None, "exitCode": None, "timeout": None}
_RESOURCES: Json = {"limits": None, "requests": None, "claims": None}
_CONTAINER: Json = {
    **dict.fromkeys(
        ("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name")
    ),
    **dict.fromkeys(
        ("ports", "readinessProbe", "resizePolicy", "restartPolicy", "securityContext", "startupProbe", "stdin")
    ),
    **dict.fromkeys(
        ("stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "workingDir")
    ),
    "resources": _RESOURCES,
    "volumeMounts": [
        dict.fromkeys(
            ("mountPath", "mountPropagation", "name", "readOnly", "recursiveReadOnly", "subPath", "subPathExpr")
        )
    ],
}
_POD_SPEC: Json = {
    **dict.fromkeys(
        (
            "activeDeadlineSeconds",
            "affinity",
            "automountServiceAccountToken",
            "dnsConfig",
            "dnsPolicy",
            "enableServiceLinks",
        )
    ),
    **dict.fromkeys(
        ("ephemeralContainers", "hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostUsers", "hostname")
    ),
    **dict.fromkeys(("imagePullSecrets", "nodeName", "nodeSelector", "os", "overhead", "preemptionPolicy", "priority")),
    **dict.fromkeys(
        ("priorityClassName", "readinessGates", "resourceClaims", "restartPolicy", "runtimeClassName", "schedulerName")
    ),
    **dict.fromkeys(
        ("schedulingGates", "securityContext", "serviceAccount", "serviceAccountName", "setHostnameAsFQDN")
    ),
    **dict.fromkeys(("shareProcessNamespace", "subdomain", "terminationGracePeriodSeconds", "tolerations", "volumes")),
    **dict.fromkeys(("topologySpreadConstraints", "resources")),
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
}
JOB_FIELDS: Json = {
    "apiVersion": None,
    "kind": None,
    "metadata": None,
    "status": None,
    "spec": {
        **dict.fromkeys(
            ("maxRetry", "minAvailable", "minSuccess", "networkTopology", "plugins", "priorityClassName", "queue")
        ),
        **dict.fromkeys(("runningEstimate", "schedulerName", "ttlSecondsAfterFinished")),
        "policies": [_POLICY],
        "volumes": [dict.fromkeys(("mountPath", "volumeClaim", "volumeClaimName"))],
        "tasks": [
            {
                **dict.fromkeys(("dependsOn", "maxRetry", "minAvailable", "name", "replicas", "topologyPolicy")),
                "policies": [_POLICY],
                "template": {"metadata": None, "spec": _POD_SPEC},
            }
        ],
    },
}


def unknown_fields(body: Any, known: Any, path: str = "") -> list[str]:
    """The paths of what the schema does not know. The schema is complete for a Job, and within its pods for pod and container."""
    if isinstance(known, list) and isinstance(body, list):
        return [one for i, entry in enumerate(body) for one in unknown_fields(entry, known[0], f"{path}[{i}]")]
    if not isinstance(known, dict) or not isinstance(body, dict):
        return []
    found = []
    for key, value in body.items():
        where = f"{path}.{key}" if path else key
        found += unknown_fields(value, known[key], where) if key in known else [where]
    return found


def pruned(body: Any, known: Any) -> Any:
    """Without the fields that the schema does not know, as the server stores it when it was not asked to be strict."""
    if isinstance(known, list) and isinstance(body, list):
        return [pruned(entry, known[0]) for entry in body]
    if not isinstance(known, dict) or not isinstance(body, dict):
        return body
    return {key: pruned(value, known[key]) for key, value in body.items() if key in known}


def check_metadata(resource: Resource, body: Json) -> None:
    meta = body.get("metadata") or {}
    name = meta.get("name", "")
    if not name and not meta.get("generateName"):
        why = "Required value: name or generateName is required"
        raise errors.invalid(resource, "", "metadata.name", why, "FieldValueRequired")
    if name and (len(name) > 253 or not re.fullmatch(SUBDOMAIN, name)):
        raise errors.invalid(resource, name, "metadata.name", f'Invalid value: "{name}": {SUBDOMAIN_RULE}')
    for value in (meta.get("labels") or {}).values():
        if len(value) > 63:
            why = f'Invalid value: "{value}": must be no more than 63 bytes'
            raise errors.invalid(resource, name, "metadata.labels", why)
        if not re.fullmatch(LABEL_VALUE, value):
            raise errors.invalid(resource, name, "metadata.labels", f'Invalid value: "{value}": {VALUE_RULE}')


def job(store: Store, body: Json, *, strict: bool) -> Json:
    """The Job as it is stored. Raises Refused."""
    unknown = unknown_fields(body, JOB_FIELDS)
    if unknown and strict:
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise errors.bad_request(
            f'Job in version "v1alpha1" cannot be handled as a Job: strict decoding error: {listed}'
        )
    body = pruned(copy.deepcopy(body), JOB_FIELDS)
    spec = body.setdefault("spec", {})
    _check_types(spec)
    if not spec.get("tasks"):
        check_metadata(JOB, body)
        raise errors.denied("validatejob", "No task specified in job spec")
    _fill_in(spec)
    _check_schema(body)
    _check_job(store, body)
    return body


def job_change(old: Json, new: Json) -> None:
    """Only the number of pods may change."""

    def rest(spec: Json) -> Json:
        kept = {key: value for key, value in spec.items() if key not in ("minAvailable", "priorityClassName")}
        kept["tasks"] = [
            {k: v for k, v in task.items() if k not in ("replicas", "minAvailable")} for task in spec["tasks"]
        ]
        return kept

    if rest(old["spec"]) != rest(new["spec"]):
        why = "job updates may not change fields other than `minAvailable`, `tasks[*].replica under spec`"
        raise errors.denied("validatejob", why)


def _check_types(spec: Json) -> None:
    """What Go cannot decode, the mutating webhook refuses."""
    numbers = [("JobSpec.spec", "", spec, ("minAvailable", "maxRetry", "minSuccess", "ttlSecondsAfterFinished"))]
    numbers += [
        ("TaskSpec.spec.tasks", "", task, ("replicas", "minAvailable", "maxRetry")) for task in spec.get("tasks") or ()
    ]
    for struct, _, holder, fields in numbers:
        for field in fields:
            value = holder.get(field)
            if value is not None and not isinstance(value, int):
                kind = "string" if isinstance(value, str) else "number" if isinstance(value, float) else "object"
                text = f"json: cannot unmarshal {kind} into Go struct field {struct}.{field} of type int32"
                raise errors.denied("mutatejob", text)
    for task in spec.get("tasks") or ():
        for container in (task.get("template") or {}).get("spec", {}).get("containers") or ():
            for side in ((container.get("resources") or {}).get(key) or {} for key in ("requests", "limits")):
                for quantity in side.values():
                    try:
                        quantities.amount(quantity)
                    except ValueError:
                        rule = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                        raise errors.denied("mutatejob", rule) from None


def _fill_in(spec: Json) -> None:
    spec.setdefault("queue", "default")
    spec.setdefault("schedulerName", "volcano")
    spec["maxRetry"] = spec.get("maxRetry") or 3
    for index, task in enumerate(spec["tasks"]):
        task.setdefault("name", f"default{index}")
        task.setdefault("replicas", 1)
        task.setdefault("minAvailable", task["replicas"])
        task.setdefault("maxRetry", 3)
    spec.setdefault("minAvailable", sum(task["minAvailable"] for task in spec["tasks"]))


def _check_schema(body: Json) -> None:
    check_metadata(JOB, body)
    for index, policy in enumerate(body["spec"].get("policies") or ()):
        event = policy.get("event")
        if event is not None and event not in EVENTS:
            supported = ", ".join(f'"{one}"' for one in EVENTS)
            why = f'Unsupported value: "{event}": supported values: {supported}'
            name = body["metadata"].get("name", "")
            raise errors.invalid(JOB, name, f"spec.policies[{index}].event", why, "FieldValueNotSupported")


def _check_job(store: Store, body: Json) -> None:
    spec, name = body["spec"], body["metadata"].get("name", "")
    told = ""
    seen: set[str] = set()
    for task in spec["tasks"]:
        if task["replicas"] < 0:
            told += f"'replicas' < 0 in task: {task['name']}, job: {name}; "
        if task["minAvailable"] < 0:
            told += f"'minAvailable' < 0 in task: {task['name']}, job: {name}; "
        if task["minAvailable"] > task["replicas"]:
            told += f"'minAvailable' is greater than 'replicas' in task: {task['name']}, job: {name}; "
    total = sum(task["replicas"] for task in spec["tasks"])
    for index, task in enumerate(spec["tasks"]):
        if not re.fullmatch(DNS_LABEL, task["name"]):
            told += f"[{LABEL_RULE}];"
        if task["name"] in seen:
            told += f"duplicated task name {task['name']};"
            break
        seen.add(task["name"])
        told += _check_pod(task, index)
        pods = [f"{name}-{task['name']}-{i}" for i in range(max(task["replicas"], 1))]
        if any(len(pod) > 63 for pod in pods) and len(pods[0]) > 63:
            told += f"create pod with name {pods[0]} validate failed [name part must be no more than 63 characters];"
    if len(name) > 63:
        told += f"create job with name {name} validate failed [name part must be no more than 63 characters]"
    if spec["minAvailable"] > total:
        told += "job 'minAvailable' should not be greater than total replicas in tasks;"
    told += _check_policies(spec)
    for plugin in spec.get("plugins") or {}:
        if plugin not in PLUGINS:
            told += f"unable to find job plugin: {plugin};"
    queue = store.get(QUEUE, "", spec["queue"])
    if queue is None:
        told += f'unable to find job queue: queue.scheduling.volcano.sh "{spec["queue"]}" not found;'
    elif queue["status"]["state"] != "Open":
        status = f"queue `{spec['queue']}` status is `{queue['status']['state']}`"
        told += f"can only submit job to queue with state `Open`, {status};"
    if told:
        raise errors.denied("validatejob", told)


def _check_policies(spec: Json) -> str:
    for policy in spec.get("policies") or ():
        if policy.get("action") not in ACTIONS:
            valid = "PodFailed TaskCompleted JobUpdated * PodEvicted PodPending Unknown TaskFailed"
            bad = f'1 error occurred:\n\t* spec.policies: Invalid value: "{policy.get("action")}": invalid policy action\n\n'
            return f"{bad} valid events are [{valid}], valid actions are [{' '.join(ACTIONS)}];"
    return ""


def _check_pod(task: Json, index: int) -> str:
    where = f"spec.task[{index}]"
    pod = (task.get("template") or {}).get("spec") or {}
    told = []
    if not re.fullmatch(SUBDOMAIN, task["name"]):
        told.append(f'{where}.metadata.name: Invalid value: "{task["name"]}": {SUBDOMAIN_RULE}')
    containers = pod.get("containers") or []
    if not containers:
        told.append(f"{where}.template.spec.containers: Required value")
    volumes = {volume.get("name") for volume in pod.get("volumes") or ()}
    for i, container in enumerate(containers):
        here = f"{where}.template.spec.containers[{i}]"
        if not container.get("image"):
            told.append(f"{here}.image: Required value")
        for j, entry in enumerate(container.get("env") or ()):
            if not re.fullmatch(ENV_NAME, entry.get("name", "")):
                told.append(f'{here}.env[{j}].name: Invalid value: "{entry.get("name", "")}": {ENV_RULE}')
        for j, mount in enumerate(container.get("volumeMounts") or ()):
            if mount.get("name") not in volumes:
                told.append(f'{here}.volumeMounts[{j}].name: Not found: "{mount.get("name")}"')
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        for key, value in (resources.get("requests") or {}).items():
            if key in limits and quantities.amount(value) > quantities.amount(limits[key]):
                why = f"must be less than or equal to {key} limit of {limits[key]}"
                told.append(f'{here}.resources.requests: Invalid value: "{value}": {why}')
    policy = pod.get("restartPolicy")
    if policy is not None and policy not in ("Always", "OnFailure", "Never"):
        supported = 'supported values: "Always", "OnFailure", "Never"'
        told.append(f'{where}.template.spec.restartPolicy: Unsupported value: "{policy}": {supported}')
    return "".join(f"{one}." for one in told)

"""One run as Kubernetes gets it: a Volcano job whose pods are all alike, and the Secret that they read. Data, never text. Pure.

Whatever Volcano's admission webhook would fill in is filled in here, so that the same manifest applied again changes nothing
(docs/volcano.md). Restarts are the reconciler's: no policy restarts anything, and the end of one pod ends the gang.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.backends.kube_control import JOB, SECRET
from reconciler.backends.volcano_marks import OURS, TASK, annotations_of, labels_of, object_name
from reconciler.core.errors import Rejected
from reconciler.core.job import JobSpec, Json
from reconciler.core.run import Run

# Where the pods find what they are to run, and where the kubelet takes the last word of a container from.
RUN_MOUNT = "/var/run/reconciler"
TERMINATION_LOG = "/dev/termination-log"
CONTAINER = "worker"
# Between the program's own grace and KILL: what our supervisor writes about the end, the other pods' last words included.
LAST_WORDS_S = 15
CPU_ONLY = ("8", "64Gi")
"""CPUs and memory of a pod without accelerators where nobody says, as in the original."""
_ANNOTATION_BYTES_MAX = 200 * 1024
"""The API takes 256 KiB for all annotations of an object."""
_SECRET_BYTES_MAX = 1024 * 1024

# $1 is the runtime's directory on the claim. Where it is missing the API has to be told, for nobody else can say it.
_START = (
    '[ -f "$1/bootstrap.sh" ] || { m="the runtime is not on the claim ($1)"; echo "reconciler: $m" >&2; '
    'printf \'{"status":"failed","cause":"infrastructure","message":"%s","seq":0}\' "$m" >"$RECONCILER_TERMINATION_LOG"; '
    'exit 90; }; d=$1; shift; exec sh "$d/bootstrap.sh" "$@"'
)


@dataclass(frozen=True, slots=True)
class PodSite:
    """What the inventory says of a cluster's pods. Amounts are Kubernetes' text, None for what is not asked."""

    namespace: str
    image: str
    claim: str
    mount: str
    service_account: str | None = None
    priority_class: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    tolerations: Sequence[Mapping[str, Json]] = ()
    gpu_key: str = "nvidia.com/gpu"
    cpu: str | None = None
    memory: str | None = None
    cpu_cpu: str | None = None
    cpu_memory: str | None = None
    shm_size: str | None = None
    rdma: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Resource key and count of RDMA devices of each pod that has accelerators."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    pull_secrets: Sequence[str] = ()
    pull_policy: str | None = None
    keep_finished_s: float = 604_800.0
    python: str | None = None
    pod: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of the pod's spec as they are: ours go over them, volumes beside them. `container`: of its container."""
    container: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Order:
    """What one run is submitted as. `secret` lacks the values of the run's secrets: they are put in when it is sent."""

    namespace: str
    name: str
    queue: str
    job: Mapping[str, Any] = field(hash=False)
    secret: Mapping[str, Any] = field(hash=False)


def order_of(run: Run, spec: JobSpec, site: PodSite, record: Mapping[str, Json], *, bundle: str) -> Order:
    """The objects of a run. Raises Rejected for what no object can hold."""
    given, place = spec.volcano, run.place
    namespace, name = given.namespace or site.namespace, object_name(run.run_id)
    nodes, gpus = _whole(place.get("nodes"), 1), _whole(place.get("gpus_per_node"), 0)
    queue = str(place.get("queue") or given.queue or "default")
    priority = given.priority_class or site.priority_class
    labels = {**site.labels, **given.labels, **labels_of(run)}
    annotations = {**site.annotations, **given.annotations}
    ours = sorted(key for key in (*site.labels, *given.labels, *annotations) if key.startswith(OURS))
    if ours:
        raise Rejected(
            f"{run.job}: the label or annotation {ours[0]!r} cannot be given: {OURS!r} begins the marks of our own objects",
            hint="Choose another name in volcano.labels or volcano.annotations, of the job or of its host.",
        )
    marks = annotations_of(run)
    size = sum(len(text.encode()) for text in marks.values())
    if size > _ANNOTATION_BYTES_MAX:
        raise Rejected(
            f"{run.job}: its spec is {size // 1024} KiB, more than an object in Kubernetes can carry",
            hint="Put a large spec.config into a file of the source tree.",
        )
    pod = _pod(spec, site, nodes=nodes, gpus=gpus, name=name, bundle=bundle)
    if priority:
        pod["priorityClassName"] = priority
    job = {
        "apiVersion": f"{JOB.group}/{JOB.version}",
        "kind": JOB.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": {**annotations, **marks}},
        "spec": {
            "schedulerName": "volcano",
            "queue": queue,
            "minAvailable": nodes,
            "maxRetry": 1,
            "ttlSecondsAfterFinished": math.ceil(site.keep_finished_s),
            **({"priorityClassName": priority} if priority else {}),
            "plugins": {"env": [], "svc": [], "ssh": []},
            "policies": [
                {"event": "PodFailed", "action": "TerminateJob"},
                {"event": "PodEvicted", "action": "TerminateJob"},
            ],
            "tasks": [
                {
                    "name": TASK,
                    "replicas": nodes,
                    "minAvailable": nodes,
                    "maxRetry": 1,
                    "policies": [{"event": "TaskCompleted", "action": "CompleteJob"}],
                    "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
                }
            ],
        },
    }
    secret = {
        "apiVersion": SECRET.version,
        "kind": SECRET.kind,
        "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": labels_of(run), "annotations": marks},
        "data": {"record.json": _base64(json.dumps({**record, "handed_over": handed_over(spec)}))},
    }
    return Order(namespace, name, queue, job, secret)


def with_secrets(order: Order, secrets: Mapping[str, str], owner: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The Secret as it is sent, with the values; `owner` is the job that it goes with, once there is one."""
    secret = dict(order.secret)
    data = {**secret["data"], "secrets.json": _base64(json.dumps(dict(secrets)))}
    if sum(map(len, data.values())) > _SECRET_BYTES_MAX:
        raise Rejected(
            f"{order.name}: its record and secrets are more than the 1 MiB that a Secret can hold",
            hint="Put a large spec.config into a file of the source tree.",
        )
    metadata = dict(secret["metadata"])
    if owner is not None:
        metadata["ownerReferences"] = [owner_reference(owner)]
    return {**secret, "metadata": metadata, "data": data}


def owner_reference(job: Mapping[str, Any]) -> dict[str, Any]:
    """By which the cluster deletes what belongs to a job together with it."""
    metadata = job["metadata"]
    return {
        "apiVersion": f"{JOB.group}/{JOB.version}",
        "kind": JOB.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


def _pod(spec: JobSpec, site: PodSite, *, nodes: int, gpus: int, name: str, bundle: str) -> dict[str, Any]:
    given = spec.volcano
    mounts: list[dict[str, Any]] = [
        {"name": "workspace", "mountPath": site.mount},
        {"name": "run", "mountPath": RUN_MOUNT, "readOnly": True},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": site.claim}},
        {"name": "run", "secret": {"secretName": name, "defaultMode": 0o444}},
    ]
    shm = given.shm_size or site.shm_size
    if shm and gpus:
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})  # noqa: S108
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}})
    amounts = _amounts(spec, site, gpus)
    container: dict[str, Any] = {
        **site.container,
        "name": CONTAINER,
        "image": given.image or site.image,
        "command": ["sh", "-c", _START, "sh", _literal(bundle), "pod", RUN_MOUNT],
        "env": [*site.container.get("env", ()), *_environment(spec, site)],
        "volumeMounts": [*mounts, *site.container.get("volumeMounts", ())],
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
    }
    if site.pull_policy:
        container["imagePullPolicy"] = site.pull_policy
    if amounts:
        container["resources"] = {"requests": amounts, "limits": amounts}
    selector = {**site.node_selector, **given.node_selector}
    account = given.service_account or site.service_account
    pod: dict[str, Any] = {
        **site.pod,
        "schedulerName": "volcano",
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(spec.grace_s) + LAST_WORDS_S,
        "containers": [container],
        "volumes": [*volumes, *site.pod.get("volumes", ())],
    }
    if account:
        pod["serviceAccountName"] = account
    if selector:
        pod["nodeSelector"] = selector
    if site.tolerations:
        pod["tolerations"] = [dict(one) for one in site.tolerations]
    if site.pull_secrets:
        pod["imagePullSecrets"] = [{"name": one} for one in site.pull_secrets]
    if nodes > 1 and "affinity" not in pod:
        # One after another on as few machines as possible, where a machine holds several pods of the gang.
        pod["affinity"] = {
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "labelSelector": {"matchLabels": {"volcano.sh/job-name": name}},
                            "topologyKey": "kubernetes.io/hostname",
                        },
                    }
                ]
            }
        }
    return pod


def handed_over(spec: JobSpec) -> list[str]:
    """Names of the variables that the cluster fills in from its own secrets."""
    return [name for name, reference in spec.secrets.items() if reference.kind == "kubernetes"]


def _environment(spec: JobSpec, site: PodSite) -> list[dict[str, Any]]:
    """Of the container. Secrets that the cluster keeps itself are handed over by it, unseen by us."""
    plain = {"RECONCILER_TERMINATION_LOG": TERMINATION_LOG, "THESEUS_VOLCANO_MODE": "1"}
    if site.python:
        plain["RECONCILER_PYTHON"] = _literal(site.python)
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    for name, reference in spec.secrets.items():
        if reference.kind == "kubernetes":
            secret, key = tuple(reference.target)
            found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return found


def _amounts(spec: JobSpec, site: PodSite, gpus: int) -> dict[str, str]:
    """What each pod gets: requests and limits alike, so that nobody is throttled or evicted for another."""
    given, asked = spec.volcano, spec.request.mem_bytes
    if gpus:
        cpu, memory = site.cpu, site.memory
    else:
        cpu, memory = site.cpu_cpu or CPU_ONLY[0], site.cpu_memory or CPU_ONLY[1]
    wanted = {
        "cpu": given.cpu or cpu,
        "memory": given.memory or (str(asked) if asked is not None else memory),
        site.gpu_key: str(gpus) if gpus else None,
        **{key: str(count) for key, count in site.rdma.items() if gpus},
    }
    return {name: amount for name, amount in wanted.items() if amount is not None}


def _literal(text: str) -> str:
    """Text of a command or variable that Kubernetes is to take as it is: `$(NAME)` would be filled in, and `$$` is a dollar."""
    return text.replace("$", "$$")


def _whole(value: Json, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()

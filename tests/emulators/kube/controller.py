"""The simulated job controller, modelled on the recorded Volcano 1.12.4 (tests/records/kubernetes/vcjob/watch.jsonl).

Each job has a queue of events (its pods' changes). An event either meets a policy, whose action kills the job's pods, or leads
to a sync, which makes missing pods and counts the others. Both write the job's status as the real controller does, the forgotten
counts of ended jobs included.
"""

from __future__ import annotations

import copy
import re
from collections import Counter, deque
from typing import Any

from tests.emulators.kube import clock, errors, quantities
from tests.emulators.kube.kinds import JOB, POD, POD_GROUP, QUOTA
from tests.emulators.kube.store import Change, Json, Store, stamp

MANAGER = {"component": "vc-controller-manager"}
ENDED = ("Completed", "Failed", "Terminated", "Aborted")
KILLING = {
    "AbortJob": "Aborting",
    "TerminateJob": "Terminating",
    "CompleteJob": "Completing",
    "RestartJob": "Restarting",
}
AFTER = {"Aborting": "Aborted", "Terminating": "Terminated", "Completing": "Completed"}
COUNTS = ("pending", "running", "succeeded", "failed", "terminating", "unknown")
Event = tuple[str, str, int, int]  # event, task, exit code, the job's version that the pod belongs to


class JobController:
    """Called with the store's lock held. `stuck`: it makes no pods, as seen after an outage of the API server. `loopback`: pods
    are told this machine's address in place of names, which nothing resolves here."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stuck = False
        self.loopback = False
        self._events: dict[tuple[str, str], deque[Event]] = {}
        self._phases: dict[str, str] = {}  # the last phase seen of a pod, by uid
        self._evicted: set[str] = set()
        self._since: dict[str, float] = {}  # by the job's uid: when it was made, for runningDuration
        self._ended_at: dict[str, float] = {}
        store.listeners.append(self._noted)

    def tick(self) -> None:
        """One event for each job; a job without events is left alone."""
        for (namespace, name), events in list(self._events.items()):
            job = self.store.get(JOB, namespace, name)
            if job is None or not events:
                del self._events[namespace, name]
                continue
            self._handle(job, self._next(job, events))
        self._expire()

    def command(self, job: Json, action: str) -> None:
        """As a Command object of Volcano's bus does: AbortJob, ResumeJob, TerminateJob, CompleteJob, RestartJob."""
        text = f"Start to execute command {action}, and clean it up to make sure executed not more than once."
        self.store.event(JOB, job, "Normal", "CommandIssued", text, MANAGER)
        self._act(job, action)

    def wake(self) -> None:
        """Every job is looked at again."""
        for job in self.store.list(JOB):
            self._queue(job["metadata"]["namespace"], job["metadata"]["name"], ("Sync", "", 0, 0))

    # -- what happened

    def _noted(self, change: Change) -> None:
        kind, namespace, name = change.key
        body = change.object
        if kind is JOB and change.type == "ADDED":
            self._since[body["metadata"]["uid"]] = clock.monotonic()
            self._queue(namespace, name, ("Sync", "", 0, 0))
        elif kind is POD_GROUP and change.type == "MODIFIED":
            self._queue(namespace, body["metadata"]["ownerReferences"][0]["name"], ("Sync", "", 0, 0))
        elif kind is POD and (job := body["metadata"].get("annotations", {}).get("volcano.sh/job-name")):
            self._pod_noted(change, namespace, job)

    def _pod_noted(self, change: Change, namespace: str, job: str) -> None:
        meta, status = change.object["metadata"], change.object.get("status", {})
        uid, phase = meta["uid"], status.get("phase", "Pending")
        before = self._phases.get(uid)
        event, code = "Sync", 0
        if change.type == "DELETED" or meta.get("deletionTimestamp"):
            if uid not in self._evicted:
                event = "PodEvicted"
                self._evicted.add(uid)
            elif change.type != "DELETED":
                return
        elif before != phase and phase == "Failed":
            event = "PodFailed"
            state = (status.get("containerStatuses") or [{}])[0].get("state", {})
            code = state.get("terminated", {}).get("exitCode", 0)
        elif before != phase and phase == "Succeeded":
            event = "PodSucceeded"
        elif before == phase:
            return
        self._phases[uid] = phase
        if change.type == "DELETED":
            self._phases.pop(uid, None)
            self._evicted.discard(uid)
        annotations = meta["annotations"]
        version = int(annotations.get("volcano.sh/job-version", 0))
        owner = (meta.get("ownerReferences") or [{}])[0].get("uid", "")
        found = self.store.get(JOB, namespace, job)
        if found is not None and found["metadata"]["uid"] != owner:
            event = "Sync"
        self._queue(namespace, job, (event, annotations.get("volcano.sh/task-spec", ""), code, version))

    def _queue(self, namespace: str, job: str, event: Event) -> None:
        queue = self._events.setdefault((namespace, job), deque())
        if event[0] != "Sync" or not queue or queue[-1][0] != "Sync":
            queue.append(event)

    # -- what is done about it

    def _handle(self, job: Json, event: Event) -> None:
        status = job.get("status")
        if not status:
            self._initiate(job)
            return
        phase = status["state"]["phase"]
        action = self._policy(job, event) if phase in ("Pending", "Running") else ""
        if action in KILLING:
            self.store.event(JOB, job, "Normal", "ExecuteAction", f"Start to execute action {action} ", MANAGER)
            self._act(job, action)
        elif phase in ("Pending", "Running"):
            self._sync(job)
        elif phase == "Restarting":
            self._restarting(job)
        else:
            self._kill(job, AFTER.get(phase, ""))

    def _next(self, job: Json, events: deque[Event]) -> Event:
        """What meets a policy comes first, so that no sync, which sees all pods as they are now, ends the job before it."""
        if job.get("status", {}).get("state", {}).get("phase") in ("Pending", "Running"):
            for event in events:
                if self._policy(job, event):
                    events.remove(event)
                    return event
        return events.popleft()

    def _policy(self, job: Json, event: Event) -> str:
        name, task_name, code, version = event
        if name == "Sync" or version < job["status"].get("version", 0):
            return ""
        if name == "PodSucceeded":
            task = next((task for task in job["spec"]["tasks"] if task["name"] == task_name), None)
            done = [
                pod for pod in self._pods(job) if _task(pod) == task_name and pod["status"].get("phase") == "Succeeded"
            ]
            if task is None or len(done) < task["replicas"]:
                return ""
            name = "TaskCompleted"
        task_policies = [
            p for task in job["spec"]["tasks"] if task["name"] == task_name for p in task.get("policies", ())
        ]
        for policy in [*task_policies, *job["spec"].get("policies", ())]:
            events = policy.get("events") or [policy.get("event")]
            if name in events or "*" in events or (policy.get("exitCode") and policy["exitCode"] == code):
                return str(policy["action"])
        return ""

    def _act(self, job: Json, action: str) -> None:
        meta = job["metadata"]
        phase = job.get("status", {}).get("state", {}).get("phase", "Pending")
        if action == "ResumeJob":
            if phase == "Aborted":
                self._kill(job, "Restarting", retries=1)
            return
        if phase in ENDED:
            return
        self._kill(job, KILLING[action], retries=1 if action == "RestartJob" else 0, retain=action != "RestartJob")
        self._queue(meta["namespace"], meta["name"], ("Sync", "", 0, 0))

    def _initiate(self, job: Json) -> None:
        """The first steps: the status begins, and the pod group is made."""
        meta, spec = job["metadata"], job["spec"]
        state = {"lastTransitionTime": stamp(), "phase": "Pending"}
        conditions = [{"lastTransitionTime": stamp(), "status": "Pending"}]
        self._write(job, {"conditions": conditions, "minAvailable": spec["minAvailable"], "state": state})
        amounts = []
        members = {}
        for task in spec["tasks"]:
            members[task["name"]] = task.get("minAvailable", task["replicas"])
            amounts += [quantities.of_pod(task["template"]["spec"])] * members[task["name"]]
        total = quantities.summed(amounts)
        least = {key: quantities.text(value, key) for key, value in total.items()}
        pods = str(spec["minAvailable"])
        resources = {
            "count/pods": pods,
            **least,
            "pods": pods,
            **{f"requests.{key}": value for key, value in least.items()},
        }
        body: Json = {
            "metadata": {"name": _group(job), "labels": meta.get("labels", {}), "ownerReferences": [_owner(job)]},
            "spec": {
                "minMember": spec["minAvailable"],
                "minResources": dict(sorted(resources.items())),
                "minTaskMember": members,
                "queue": spec["queue"],
            },
            "status": {"phase": "Pending"},
        }
        if spec.get("priorityClassName"):
            body["spec"]["priorityClassName"] = spec["priorityClassName"]
        self.store.create(POD_GROUP, meta["namespace"], body)

    def _sync(self, job: Json) -> None:
        meta, spec, status = job["metadata"], job["spec"], job["status"]
        group = self.store.get(POD_GROUP, meta["namespace"], _group(job))
        if group is None or group["status"]["phase"] == "Pending" or meta.get("deletionTimestamp"):
            return
        if self.stuck:
            return
        made, refused = self._make_pods(job)
        if refused:
            listed = " ".join(refused)
            self.store.event(JOB, job, "Warning", "FailedCreate", f"Error creating pods: [{listed}]", MANAGER)
            return
        counts, tasks = self._counted(job)
        minimum, total = spec["minAvailable"], sum(task["replicas"] for task in spec["tasks"])
        phase = status["state"]["phase"]
        running, ended = counts.get("running", 0), counts.get("succeeded", 0) + counts.get("failed", 0)
        if phase == "Pending":
            phase = "Running" if total and running + ended >= minimum else phase
        elif total and ended == total:
            wanted = spec.get("minSuccess") or minimum
            phase = "Completed" if counts.get("succeeded", 0) >= wanted else "Failed"
        elif running + ended + counts.get("terminating", 0) < minimum:
            phase = "Pending"
        new = {
            key: value for key, value in status.items() if key not in (*COUNTS, "taskStatusCount", "runningDuration")
        }
        new.update(counts)
        if tasks:
            new["taskStatusCount"] = tasks
        if made and (controlled := {f"plugin-{name}": name for name in spec.get("plugins", {})}):
            new["controlledResources"] = controlled
        if phase == status["state"]["phase"] and _counts(new) == _counts(status):
            return
        self._write(job, _turned(new, phase))
        if phase in ENDED or (phase == "Running" and total and ended == total):
            self._queue(meta["namespace"], meta["name"], ("Sync", "", 0, 0))

    def _restarting(self, job: Json) -> None:
        status = job["status"]
        if status.get("retryCount", 0) >= job["spec"]["maxRetry"]:
            self._kill(job, "Failed", retain=False, bump=False)
            return
        left = self._pods(job)
        if left:
            self._kill(job, "", retain=False)
            return
        kept = {key: value for key, value in status.items() if key not in COUNTS}
        self._write(job, _turned(kept, "Pending"))
        meta = job["metadata"]
        self._queue(meta["namespace"], meta["name"], ("Sync", "", 0, 0))

    def _kill(self, job: Json, phase: str, *, retries: int = 0, retain: bool = True, bump: bool = True) -> None:
        """Deletes the pods (ended ones are retained, and no longer counted), and goes on to `phase`; from a state on the way to
        an end only when no pod is left that ends."""
        meta, status = job["metadata"], job["status"]
        for pod in self._pods(job):
            ended = pod["status"].get("phase") in ("Succeeded", "Failed")
            if pod["metadata"].get("deletionTimestamp") or (retain and ended):
                continue
            self.store.delete(POD, meta["namespace"], pod["metadata"]["name"], grace_s=None, policy="Background")
        over = (phase or status["state"]["phase"]) in ENDED[:3]  # what was suspended may be resumed
        if over and self.store.get(POD_GROUP, meta["namespace"], _group(job)):
            self.store.delete(POD_GROUP, meta["namespace"], _group(job), grace_s=None, policy="Background")
        # a real kubelet needs a moment to remove what is deleted; here a pod without one is gone already
        terminating = sum(bool(pod["metadata"].get("deletionTimestamp")) for pod in self._pods(job))
        old = status["state"]["phase"]
        if old in AFTER and terminating:
            phase = ""
        new = {
            key: value
            for key, value in status.items()
            if key not in (*COUNTS, "taskStatusCount", "controlledResources")
        }
        if terminating:
            new["terminating"] = terminating
        if retries:
            new["retryCount"] = status.get("retryCount", 0) + retries
        elapsed = clock.monotonic() - self._since.get(meta["uid"], clock.monotonic())
        turned = bool(phase) and phase != old
        if turned:
            new = _turned(new, phase)
        new["runningDuration"] = f"{elapsed:.9f}s" if turned else status.get("runningDuration") or f"{int(elapsed)}s"
        if not turned:
            new["runningDuration"] = new["runningDuration"].partition(".")[0].rstrip("s") + "s"
        if new == status:
            return
        if bump:
            new["version"] = status.get("version", 0) + 1
        self._write(job, new)
        if turned:
            self._queue(meta["namespace"], meta["name"], ("Sync", "", 0, 0))

    def _write(self, job: Json, status: Json) -> None:
        meta = job["metadata"]
        self.store.status(JOB, meta["namespace"], meta["name"], status)

    def _expire(self) -> None:
        for job in self.store.list(JOB):
            limit = job["spec"].get("ttlSecondsAfterFinished")
            meta = job["metadata"]
            phase = job.get("status", {}).get("state", {}).get("phase")
            if limit is None or phase not in ("Completed", "Failed", "Terminated") or meta.get("deletionTimestamp"):
                continue
            ended = self._ended_at.setdefault(meta["uid"], clock.monotonic())
            if clock.monotonic() - ended >= limit:
                self.store.delete(JOB, meta["namespace"], meta["name"], grace_s=None, policy="Foreground")

    # -- pods

    def _pods(self, job: Json) -> list[Json]:
        """By the job's name, as the real one does: those of an earlier job of this name are among them."""
        meta = job["metadata"]
        return [
            pod
            for pod in self.store.list(POD, meta["namespace"])
            if pod["metadata"].get("annotations", {}).get("volcano.sh/job-name") == meta["name"]
        ]

    def _counted(self, job: Json) -> tuple[dict[str, int], Json]:
        counts: Counter[str] = Counter()
        tasks: dict[str, Counter[str]] = {}
        for pod in self._pods(job):
            if pod["metadata"].get("deletionTimestamp"):
                counts["terminating"] += 1
                continue
            phase = pod["status"].get("phase", "Pending")
            counts[phase.lower()] += 1
            tasks.setdefault(_task(pod), Counter())[phase] += 1
        return dict(counts), {name: {"phase": dict(sorted(phases.items()))} for name, phases in tasks.items()}

    def _make_pods(self, job: Json) -> tuple[int, list[str]]:
        made, refused = 0, []
        namespace = job["metadata"]["namespace"]
        for task in job["spec"]["tasks"]:
            for index in range(task["replicas"]):
                name = f"{job['metadata']['name']}-{task['name']}-{index}"
                if self.store.get(POD, namespace, name) is not None:
                    continue
                pod = _pod(job, task, index, loopback=self.loopback)
                try:
                    check_quota(self.store, namespace, name, pod["spec"])
                    self.store.create(POD, namespace, pod)
                    made += 1
                except errors.Refused as problem:
                    refused.append(_go_error(name, problem))
        return made, refused


def check_quota(store: Store, namespace: str, name: str, spec: Json) -> None:
    """Raises Refused where a quota of the namespace has no room for one more pod."""
    asked = quantities.of_pod(spec)
    wanted = {"pods": quantities.amount(1), "count/pods": quantities.amount(1)}
    wanted.update({f"requests.{key}": value for key, value in asked.items()})
    wanted.update(asked)
    pods = [pod for pod in store.list(POD, namespace) if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    used = quantities.summed(quantities.of_pod(pod["spec"]) for pod in pods)
    for quota in store.list(QUOTA, namespace):
        over = []
        for key, text in quota["spec"].get("hard", {}).items():
            plain = key.removeprefix("requests.")
            taken = (
                quantities.amount(len(pods)) if key in ("pods", "count/pods") else used.get(plain, quantities.amount(0))
            )
            if key in wanted and taken + wanted[key] > quantities.amount(text):
                over.append((key, quantities.text(wanted[key], key), quantities.text(taken, key), str(text)))
        if over:
            parts = [",".join(f"{one[0]}={one[column]}" for one in over) for column in (1, 2, 3)]
            told = f"requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"
            raise errors.forbidden(POD, name, f"exceeded quota: {quota['metadata']['name']}, {told}")


def _pod(job: Json, task: Json, index: int, *, loopback: bool) -> Json:
    meta, spec = job["metadata"], job["spec"]
    template = copy.deepcopy(task["template"])
    status = job["status"]
    marks = {
        "volcano.sh/job-name": meta["name"],
        "volcano.sh/queue-name": spec["queue"],
        "volcano.sh/task-index": str(index),
        "volcano.sh/task-spec": task["name"],
    }
    annotations = {
        **template.get("metadata", {}).get("annotations", {}),
        "scheduling.k8s.io/group-name": _group(job),
        **marks,
        "volcano.sh/job-retry-count": str(status.get("retryCount", 0)),
        "volcano.sh/job-version": str(status.get("version", 0)),
        "volcano.sh/template-uid": f"{meta['name']}-{task['name']}",
    }
    labels = {**template.get("metadata", {}).get("labels", {}), **marks, "volcano.sh/job-namespace": meta["namespace"]}
    pod = template["spec"]
    name = f"{meta['name']}-{task['name']}-{index}"
    extra: list[Json] = []
    if "env" in spec.get("plugins", {}):
        extra += [{"name": "VK_TASK_INDEX", "value": str(index)}, {"name": "VC_TASK_INDEX", "value": str(index)}]
    if "svc" in spec.get("plugins", {}):
        pod.update(hostname=name, subdomain=meta["name"])
        for other in spec["tasks"]:
            word = re.sub(r"-", "_", other["name"]).upper()
            hosts = [f"{meta['name']}-{other['name']}-{i}.{meta['name']}" for i in range(other["replicas"])]
            hosts = ["127.0.0.1"] * len(hosts) if loopback else hosts
            extra += [
                {"name": f"VC_{word}_HOSTS", "value": ",".join(hosts)},
                {"name": f"VC_{word}_NUM", "value": str(len(hosts))},
            ]
    for container in pod["containers"]:
        container["env"] = [*container.get("env", ()), *extra]
        if not container["env"]:
            del container["env"]
    complete_pod(pod)
    pod.setdefault("schedulerName", spec["schedulerName"])
    header = {"name": name, "labels": dict(sorted(labels.items())), "annotations": dict(sorted(annotations.items()))}
    return {"metadata": {**header, "ownerReferences": [_owner(job)]}, "spec": pod, "status": new_pod_status(pod)}


def complete_pod(spec: Json) -> None:
    """The defaults that an API server fills in."""
    for container in spec["containers"]:
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
    for key, value in (
        ("dnsPolicy", "ClusterFirst"),
        ("priority", 0),
        ("restartPolicy", "Always"),
        ("securityContext", {}),
    ):
        spec.setdefault(key, value)
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("terminationGracePeriodSeconds", 30)


def new_pod_status(spec: Json) -> Json:
    asked = any(container.get("resources", {}).get("requests") for container in spec["containers"])
    return {"phase": "Pending", "qosClass": "Burstable" if asked else "BestEffort"}


def _turned(status: Json, phase: str) -> Json:
    now = stamp()
    conditions = [*status.get("conditions", ()), {"lastTransitionTime": now, "status": phase}]
    return {**status, "conditions": conditions, "state": {"lastTransitionTime": now, "phase": phase}}


def _counts(status: Json) -> dict[str, Any]:
    return {key: status.get(key) for key in (*COUNTS, "taskStatusCount")}


def _task(pod: Json) -> str:
    return str(pod["metadata"]["annotations"].get("volcano.sh/task-spec", ""))


def _group(job: Json) -> str:
    return f"{job['metadata']['name']}-{job['metadata']['uid']}"


def _owner(job: Json) -> Json:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    kind = {"apiVersion": JOB.api_version, "blockOwnerDeletion": True, "controller": True, "kind": JOB.kind}
    return {**kind, "name": name, "uid": uid}


def _go_error(name: str, problem: errors.Refused) -> str:
    """As Go prints the error that the controller got."""
    message = str(problem).replace("\\", "\\\\").replace('"', '\\"')
    empty = 'TypeMeta:v1.TypeMeta{Kind:"", APIVersion:""}, ListMeta:v1.ListMeta{SelfLink:"", ResourceVersion:"", Continue:"", '
    rest = f'RemainingItemCount:(*int64)(nil)}}, Status:"Failure", Message:"{message}", Reason:"Forbidden", '
    tail = f"Details:(*v1.StatusDetails)(0xc00067d7a0), Code:{problem.code}}}}}"
    return f"failed to create pod {name}, err: &errors.StatusError{{ErrStatus:v1.Status{{{empty}{rest}{tail}"

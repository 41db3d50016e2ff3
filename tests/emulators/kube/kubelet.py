"""The simulated kubelets: they start the containers of pods that have a node, tell how they end, and end those that are deleted.

Only the first container of a pod is run, and it is never started again (restartPolicy is taken for Never).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.emulators.kube import clock
from tests.emulators.kube.containers import CannotConfigure, Container, StartError
from tests.emulators.kube.kinds import NODE, POD
from tests.emulators.kube.store import Change, Json, Store, stamp

RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
NO_HOST = (
    'failed to pull and unpack image "{image}": failed to resolve reference "{image}": lookup {host}: no such host'
)


class Kubelets:
    """All of them. Everything is called with the store's lock held."""

    def __init__(self, store: Store, folder: Path, replaced_keys: tuple[str, ...]) -> None:
        self.store = store
        self.folder = folder
        self.replaced_keys = replaced_keys
        self.start_s = 0.0
        self.make: Callable[[Store, Json, Path, Path, tuple[str, ...]], Container] = Container
        self.lost: set[str] = set()
        self.bad_images: dict[str, str] = {}
        self.containers: dict[str, Container] = {}  # by the pod's uid
        self._orphans: dict[str, tuple[str, float]] = {}  # removed from the API while they run: node, killed after
        self._created: dict[str, float] = {}
        self._deadlines: dict[str, float] = {}
        self._reasons: dict[str, tuple[int, str]] = {}
        store.listeners.append(self._noted)

    def tick(self) -> None:
        """At most one start or end for each owner of pods, so that whoever watches sees them one after the other."""
        moved: set[str] = set()
        for pod in self.store.list(POD):
            owner = (pod["metadata"].get("ownerReferences") or [{}])[0].get("uid", pod["metadata"]["uid"])
            node = pod["spec"].get("nodeName")
            if not node or node in self.lost or owner in moved:
                continue
            if self._attend(pod):
                moved.add(owner)
        for uid, (node, _) in list(self._orphans.items()):
            if node not in self.lost:
                del self._orphans[uid]
                if container := self.containers.pop(uid, None):
                    container.kill()
                    shutil.rmtree(container.folder, ignore_errors=True)

    def oom(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        self._reasons[uid] = (137, "OOMKilled")
        self.containers[uid].kill()

    def close(self) -> None:
        for container in list(self.containers.values()):
            container.kill()
        self.containers.clear()

    # -- one pod

    def _attend(self, pod: Json) -> bool:
        meta, phase = pod["metadata"], pod.get("status", {}).get("phase", "Pending")
        uid = meta["uid"]
        container = self.containers.get(uid)
        if phase in ("Succeeded", "Failed"):
            if meta.get("deletionTimestamp"):
                self._forget(uid)
                self.store.remove((POD, meta["namespace"], meta["name"]))
                return True
            return False
        if container is not None:
            if container.process is None or container.process.poll() is None:
                self._end_if_deleted(pod, container)
                return False
            self._ended(pod, container)
            return not meta.get("deletionTimestamp")
        if meta.get("deletionTimestamp"):
            self.store.remove((POD, meta["namespace"], meta["name"]))
            return True
        return self._begin(pod)

    def _end_if_deleted(self, pod: Json, container: Container) -> None:
        if not pod["metadata"].get("deletionTimestamp"):
            return
        uid, grace = container.uid, pod["metadata"].get("deletionGracePeriodSeconds", 0)
        now = clock.monotonic()
        if uid not in self._deadlines:
            self._deadlines[uid] = now + grace
            self._tell(pod, "Normal", "Killing", f"Stopping container {container.spec['name']}")
            container.terminate()
        elif now >= self._deadlines[uid]:
            container.kill()

    def _begin(self, pod: Json) -> bool:
        meta = pod["metadata"]
        uid = meta["uid"]
        spec = pod["spec"]["containers"][0]
        image, name = spec["image"], spec["name"]
        if uid not in self._created:
            self._created[uid] = clock.monotonic()
            self._waiting(pod, "ContainerCreating", "")
            return False
        if image.split("/")[0].endswith(".invalid"):  # a name that no resolver knows, by its definition
            self.bad_images.setdefault(image, NO_HOST.format(image=image, host=image.split("/")[0]))
        if image in self.bad_images:
            if spec.get("imagePullPolicy") == "Never":
                why = f'Container image "{image}" is not present with pull policy of Never'
                self._waiting(pod, "ErrImageNeverPull", why, ready="True")
                return False
            if self._waiting(pod, "ErrImagePull", self.bad_images[image], ready="True"):
                self._tell(pod, "Normal", "Pulling", f'Pulling image "{image}"')
                self._tell(pod, "Warning", "Failed", f'Failed to pull image "{image}": {self.bad_images[image]}')
                self._tell(pod, "Warning", "Failed", "Error: ErrImagePull")
            return False
        if clock.monotonic() < self._created[uid] + self.start_s:
            return False
        try:
            container = self.make(
                self.store, pod, self.folder / "pods" / uid, self.folder / "claims", self.replaced_keys
            )
        except CannotConfigure as problem:
            if self._waiting(pod, "CreateContainerConfigError", str(problem), ready="True"):
                self._tell(pod, "Warning", "Failed", f"Error: {problem}")
            return False
        self._tell(pod, "Normal", "Pulled", f'Container image "{image}" already present on machine')
        self._tell(pod, "Normal", "Created", f"Created container: {name}")
        try:
            container.start()
        except StartError as problem:
            why = f"{RUNC}unable to start container process: {problem}"
            self._tell(pod, "Warning", "Failed", f"Error: {why}")
            self._terminated(pod, container, 128, "StartError", why, started="1970-01-01T00:00:00Z")
            return True
        self.containers[uid] = container
        self._tell(pod, "Normal", "Started", f"Started container {name}")
        state = {"running": {"startedAt": stamp()}}
        conditions = _conditions(
            pod, PodReadyToStartContainers="True", Initialized="True", Ready="True", ContainersReady="True"
        )
        self._status(pod, "Running", state, conditions, ready=True, identity=_identity())
        return True

    def _ended(self, pod: Json, container: Container) -> None:
        container.sweep()
        assert container.process is not None
        code = container.process.returncode
        code, reason = self._reasons.pop(container.uid, (128 - code if code < 0 else code, ""))
        self._terminated(pod, container, code, reason or ("Error" if code else "Completed"), container.message())

    def _terminated(
        self, pod: Json, container: Container, code: int, reason: str, message: str, started: str = ""
    ) -> None:
        old = (pod["status"].get("containerStatuses") or [{}])[0]
        identity = old.get("containerID") or _identity()
        ended = {"containerID": identity, "exitCode": code, "finishedAt": stamp(), "reason": reason}
        ended["startedAt"] = started or old.get("state", {}).get("running", {}).get("startedAt", stamp())
        if message:
            ended["message"] = message
        phase = "Failed" if code else "Succeeded"
        word = "PodFailed" if code else "PodCompleted"
        conditions = _conditions(
            pod,
            PodReadyToStartContainers="False",
            Initialized="True" if code else f"True {word}",
            Ready=f"False {word}",
            ContainersReady=f"False {word}",
        )
        self.containers.setdefault(container.uid, container)
        self._status(pod, phase, {"terminated": ended}, conditions, ready=False, identity=identity)

    def _waiting(self, pod: Json, reason: str, message: str, ready: str = "False") -> bool:
        state = {"waiting": {**({"message": message} if message else {}), "reason": reason}}
        why = f"containers with unready status: [{pod['spec']['containers'][0]['name']}]"
        unready = f"False ContainersNotReady {why}"
        conditions = _conditions(
            pod, PodReadyToStartContainers=ready, Initialized="True", Ready=unready, ContainersReady=unready
        )
        return self._status(pod, "Pending", state, conditions, ready=False)

    def _status(
        self, pod: Json, phase: str, state: Json, conditions: list[Json], *, ready: bool, identity: str = ""
    ) -> bool:
        spec, meta = pod["spec"]["containers"][0], pod["metadata"]
        container = {
            **({"containerID": identity} if identity else {}),
            "image": spec["image"],
            "imageID": "sha256:" + "0" * 64 if identity else "",
            "lastState": {},
            "name": spec["name"],
            "ready": ready,
            "restartCount": 0,
            "started": ready,
            "state": state,
        }
        status = {
            **pod.get("status", {}),
            "conditions": conditions,
            "containerStatuses": [container],
            "hostIP": "127.0.0.1",
            "hostIPs": [{"ip": "127.0.0.1"}],
            "phase": phase,
            "startTime": pod.get("status", {}).get("startTime") or stamp(),
        }
        if identity:
            status.update(podIP="127.0.0.1", podIPs=[{"ip": "127.0.0.1"}])
        before = pod.get("status")
        self.store.status(POD, meta["namespace"], meta["name"], status)
        return before != status

    def _tell(self, pod: Json, type_: str, reason: str, message: str) -> None:
        source = {"component": "kubelet", "host": pod["spec"]["nodeName"]}
        self.store.event(POD, pod, type_, reason, message, source)

    def _noted(self, change: Change) -> None:
        if change.key[0] is not POD or change.type != "DELETED":
            return
        uid = change.object["metadata"]["uid"]
        container = self.containers.get(uid)
        if container is not None and container.process is not None and container.process.poll() is None:
            self._orphans[uid] = (change.object["spec"]["nodeName"], 0.0)
        else:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        if container := self.containers.pop(uid, None):
            container.kill()
            shutil.rmtree(container.folder, ignore_errors=True)
        for table in (self._created, self._deadlines, self._reasons):
            table.pop(uid, None)


def lose(store: Store, name: str) -> None:
    """As the node controller tells it once a kubelet is silent: the pods' Ready is False, and nothing else of them changes."""
    conditions = [_unknown(kind) for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")]

    def silent(node: Json) -> None:
        node["status"]["conditions"] = conditions
        taint = {"effect": "NoSchedule", "key": "node.kubernetes.io/unreachable", "timeAdded": stamp()}
        node["spec"]["taints"] = [taint]

    store.update(NODE, "", name, silent)
    _ready(store, name, "True", "False")


def find(store: Store, name: str) -> None:
    def back(node: Json) -> None:
        node["status"]["conditions"] = good_conditions()
        node["spec"].pop("taints", None)

    store.update(NODE, "", name, back)
    _ready(store, name, "False", "True")


def _ready(store: Store, node: str, before: str, after: str) -> None:
    for pod in store.list(POD):
        if pod["spec"].get("nodeName") != node or pod["status"].get("phase") != "Running":
            continue

        def turn(body: Json) -> None:
            for condition in body["status"]["conditions"]:
                if condition["type"] == "Ready" and condition["status"] == before:
                    condition.update(status=after, lastTransitionTime=stamp())

        store.update(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], turn)


def good_conditions() -> list[Json]:
    words = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
    }
    times = {"lastHeartbeatTime": stamp(), "lastTransitionTime": stamp()}
    return [
        {**times, "message": message, "reason": reason, "status": status, "type": kind}
        for kind, (status, reason, message) in words.items()
    ]


def _unknown(kind: str) -> Json:
    why = {"message": "Kubelet stopped posting node status.", "reason": "NodeStatusUnknown"}
    return {"lastHeartbeatTime": stamp(), "lastTransitionTime": stamp(), **why, "status": "Unknown", "type": kind}


def _conditions(pod: Json, **wanted: str) -> list[Json]:
    """`NAME="STATUS REASON message"`. What has not changed keeps its time; others (DisruptionTarget) stay."""
    old = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions", ())}
    made: list[Json] = []
    for kind, text in wanted.items():
        status, _, rest = text.partition(" ")
        reason, _, message = rest.partition(" ")
        before = old.pop(kind, {})
        time_ = before["lastTransitionTime"] if before.get("status") == status else stamp()
        condition: Json = {"lastProbeTime": None, "lastTransitionTime": time_}
        if message:
            condition["message"] = message
        if reason:
            condition["reason"] = reason
        made.append({**condition, "status": status, "type": kind})
    return [*made, *old.values()]


def _identity() -> str:
    return f"containerd://{secrets.token_hex(32)}"

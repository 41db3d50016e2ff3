"""The simulated scheduler: pod groups enter the queue, then all pods of a gang get nodes or none does. Oldest first."""

from __future__ import annotations

import uuid
from collections import Counter
from fractions import Fraction
from typing import Any

from tests.emulators.kube import quantities
from tests.emulators.kube.kinds import CLAIM, JOB, NODE, POD, POD_GROUP, QUEUE
from tests.emulators.kube.quantities import Amounts
from tests.emulators.kube.store import Json, Store, stamp

OVERCOMMIT = Fraction(12, 10)  # how far beyond what is there Volcano lets pod groups enter the queue
GROUP_NAME = "scheduling.k8s.io/group-name"
VOLCANO = {"component": "volcano"}


class Scheduler:
    """Called with the store's lock held."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def tick(self) -> None:
        groups = [body for key, body in list(self.store.objects.items()) if key[0] is POD_GROUP]  # as they were created
        for group in groups:
            if group["status"]["phase"] == "Pending":
                self._enqueue(group)
        waiting = [pod for pod in self.store.list(POD) if not pod["spec"].get("nodeName") and not _leaving(pod)]
        for group in self.store.list(POD_GROUP):
            pods = [pod for pod in waiting if _group_of(pod) == group["metadata"]["name"]]
            self._allocate(group, sorted(pods, key=_index))
        for pod in waiting:
            if not _group_of(pod):
                self._alone(pod)
        self._account()

    # -- the queue

    def _enqueue(self, group: Json) -> None:
        queue = self.store.get(QUEUE, "", group["spec"]["queue"])
        if queue is None or queue["status"]["state"] != "Open":
            return
        asked = _amounts(group["spec"].get("minResources", {}))
        others = [other for other in self.store.list(POD_GROUP) if other["status"]["phase"] in ("Inqueue", "Running")]
        room = quantities.summed(self._allocatable(node) for node in self._nodes())
        taken = quantities.summed(self._claimed(other) for other in others)
        if not _fits(asked, {key: value * OVERCOMMIT for key, value in room.items()}, taken):
            return
        same = quantities.summed(
            self._claimed(other) for other in others if other["spec"]["queue"] == group["spec"]["queue"]
        )
        limits = {key: quantities.amount(value) for key, value in queue["spec"].get("capability", {}).items()}
        if any(asked.get(key, 0) + same.get(key, 0) > limit for key, limit in limits.items()):
            return
        self._group_status(group, {**group["status"], "phase": "Inqueue"})

    def _claimed(self, group: Json) -> Amounts:
        """What a group in the queue holds, or is about to."""
        pods = [
            pod
            for pod in self.store.list(POD, group["metadata"]["namespace"])
            if _group_of(pod) == group["metadata"]["name"]
        ]
        if pods and all(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in pods):
            return {}
        return _amounts(group["spec"].get("minResources", {}))

    def _account(self) -> None:
        for queue in self.store.list(QUEUE):
            name = queue["metadata"]["name"]
            used: list[Amounts] = []
            for pod in self.store.list(POD):
                mine = pod["metadata"].get("annotations", {}).get("volcano.sh/queue-name") == name or name == "root"
                if mine and _holds(pod):
                    used.append({**quantities.of_pod(pod["spec"]), "pods": Fraction(1)})
            total = quantities.summed([{"cpu": Fraction(0), "memory": Fraction(0)}, *used])
            allocated = {key: quantities.text(value, key) for key, value in sorted(total.items())}
            self.store.status(QUEUE, "", name, {**queue["status"], "allocated": allocated})

    # -- nodes

    def _allocate(self, group: Json, waiting: list[Json]) -> None:
        meta = group["metadata"]
        mine = [pod for pod in self.store.list(POD, meta["namespace"]) if _group_of(pod) == meta["name"]]
        if group["status"]["phase"] == "Inqueue" and not mine:
            minimum = group["spec"]["minMember"]
            why = f"0/0 tasks in gang unschedulable: pod group is not ready, {minimum} minAvailable"
            if not self.store.get(JOB, meta["namespace"], meta["ownerReferences"][0]["name"]):
                return
            self.store.event(POD_GROUP, group, "Warning", "Unschedulable", why, VOLCANO)
        placed = sum(bool(pod["spec"].get("nodeName")) for pod in mine)
        if waiting:
            places, blocked = self._places(waiting)
            if placed + len(places) >= group["spec"]["minMember"]:
                for pod, node in places:
                    self._bind(pod, node)
                placed += len(places)
            else:
                self._refuse(group, waiting, blocked, placed)
                return
        if mine and placed >= group["spec"]["minMember"]:
            phases = Counter(pod["status"].get("phase") for pod in mine if not _leaving(pod))
            scheduled = _condition("Scheduled", "tasks in gang are ready to be scheduled", "")
            counts = {key.lower(): phases[key] for key in ("Running", "Succeeded", "Failed") if phases[key]}
            old = group["status"].get("conditions", ())
            kept = next((one for one in old if one["type"] == "Scheduled"), scheduled)
            self._group_status(group, {"conditions": [kept], "phase": "Running", **counts})

    def _places(self, pods: list[Json]) -> tuple[list[tuple[Json, str]], dict[str, str]]:
        """A node for each pod that can have one, and why the others cannot, by pod name."""
        nodes = self._nodes(all_of_them=True)
        free = {node["metadata"]["name"]: self._free(node) for node in nodes}
        places: list[tuple[Json, str]] = []
        blocked: dict[str, str] = {}
        for pod in pods:
            missing = self._missing_claim(pod)
            if missing:
                why = f'plugin VolumeBinding pre-predicates failed persistentvolumeclaim "{missing}" not found'
                blocked[pod["metadata"]["name"]] = f"0/{len(nodes)} nodes are unavailable: {len(nodes)} {why}."
                continue
            asked = {**quantities.of_pod(pod["spec"]), "pods": Fraction(1)}
            reasons: Counter[str] = Counter()
            for node in nodes:
                name = node["metadata"]["name"]
                why = _unfit(pod, node, asked, free[name])
                if not why:
                    places.append((pod, name))
                    for key, value in asked.items():
                        free[name][key] = free[name].get(key, Fraction(0)) - value
                    break
                reasons[why] += 1
            else:
                told = ", ".join(f"{count} {why}" for why, count in reasons.items())
                blocked[pod["metadata"]["name"]] = f"0/{len(nodes)} nodes are unavailable: {told}."
        return places, blocked

    def _refuse(self, group: Json, waiting: list[Json], blocked: dict[str, str], placed: int) -> None:
        minimum = group["spec"]["minMember"]
        first = next(iter(blocked), "")
        origin = f" Origin reason is {first}: {blocked[first]}" if first else ""
        counted = f"{len(waiting)} Pending, {minimum} minAvailable; Pending: {len(waiting)} Unschedulable"
        total = placed + len(waiting)
        why = f"pod group is not ready, {counted}{'.' if origin else ''}{origin}"
        head = f"{max(minimum, total)}/{total} tasks in gang unschedulable: "
        old = group["status"].get("conditions") or [{}]
        if old[0].get("message") != head + why:
            unschedulable = _condition("Unschedulable", "NotEnoughResources", head + why)
            self._group_status(group, {**group["status"], "conditions": [unschedulable], "phase": "Inqueue"})
            self.store.event(
                POD_GROUP, group, "Warning", "Unschedulable", f"{total}/{total}{head[head.index(' ') :]}{why}", VOLCANO
            )
            meta = group["metadata"]
            job = self.store.get(JOB, meta["namespace"], meta["ownerReferences"][0]["name"])
            if job is not None:
                text = f"PodGroup {meta['namespace']}:{job['metadata']['name']} unschedulable, reason: {head}{why}"
                self.store.event(JOB, job, "Warning", "PodGroupPending", text, {"component": "vc-controller-manager"})
        for pod in waiting:
            self._unschedulable(pod, blocked[first] if pod["metadata"]["name"] == first else why)

    def _alone(self, pod: Json) -> None:
        places, blocked = self._places([pod])
        for one, node in places:
            self._bind(one, node)
        for why in blocked.values():
            self._unschedulable(pod, why)

    def _unschedulable(self, pod: Json, why: str) -> None:
        old = (pod["status"].get("conditions") or [{}])[0]
        if old.get("message") == why:
            return
        condition: Json = {
            "lastProbeTime": None,
            "lastTransitionTime": stamp(),
            "message": why,
            "reason": "Unschedulable",
        }
        condition.update(status="False", type="PodScheduled")
        meta = pod["metadata"]
        self.store.status(POD, meta["namespace"], meta["name"], {**pod["status"], "conditions": [condition]})
        self.store.event(POD, pod, "Warning", "FailedScheduling", why, VOLCANO)

    def _bind(self, pod: Json, node: str) -> None:
        meta = pod["metadata"]

        def bind(body: Json) -> None:
            body["spec"]["nodeName"] = node
            scheduled = {"lastProbeTime": None, "lastTransitionTime": stamp(), "status": "True", "type": "PodScheduled"}
            body["status"]["conditions"] = [scheduled]

        self.store.update(POD, meta["namespace"], meta["name"], bind)
        text = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}"
        self.store.event(POD, pod, "Normal", "Scheduled", text, VOLCANO)

    def _nodes(self, *, all_of_them: bool = False) -> list[Json]:
        nodes = self.store.list(NODE)
        return nodes if all_of_them else [node for node in nodes if not node["spec"].get("taints")]

    def _allocatable(self, node: Json) -> Amounts:
        return {key: quantities.amount(value) for key, value in node["status"]["allocatable"].items()}

    def _free(self, node: Json) -> Amounts:
        free = self._allocatable(node)
        for pod in self.store.list(POD):
            if pod["spec"].get("nodeName") == node["metadata"]["name"] and _holds(pod):
                for key, value in {**quantities.of_pod(pod["spec"]), "pods": Fraction(1)}.items():
                    free[key] = free.get(key, Fraction(0)) - value
        return free

    def _missing_claim(self, pod: Json) -> str:
        for volume in pod["spec"].get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and self.store.get(CLAIM, pod["metadata"]["namespace"], claim) is None:
                return str(claim)
        return ""

    def _group_status(self, group: Json, status: Json) -> None:
        self.store.status(POD_GROUP, group["metadata"]["namespace"], group["metadata"]["name"], status)


def _unfit(pod: Json, node: Json, asked: Amounts, free: Amounts) -> str:
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return "node(s) didn't match Pod's node affinity/selector"
    if node["spec"].get("taints"):
        return "node(s) had untolerated taint {" + node["spec"]["taints"][0]["key"] + ": }"
    for key, value in asked.items():
        if value > free.get(key, 0):
            return f"Insufficient {key}"
    return ""


def _holds(pod: Json) -> bool:
    return bool(pod["spec"].get("nodeName")) and pod["status"].get("phase") not in ("Succeeded", "Failed")


def _fits(asked: Amounts, room: Amounts, taken: Amounts) -> bool:
    return all(value + taken.get(key, 0) <= room.get(key, 0) for key, value in asked.items())


def _amounts(resources: dict[str, Any]) -> Amounts:
    """Of a pod group's minResources, without those that stand in it twice."""
    return {
        key: quantities.amount(value)
        for key, value in resources.items()
        if not key.startswith(("count/", "requests.", "limits."))
    }


def _condition(kind: str, reason: str, message: str) -> Json:
    text = {"message": message} if message else {}
    made = {"lastTransitionTime": stamp(), **text, "reason": reason, "status": "True"}
    return {**made, "transitionID": str(uuid.uuid4()), "type": kind}


def _group_of(pod: Json) -> str:
    return str(pod["metadata"].get("annotations", {}).get(GROUP_NAME, ""))


def _leaving(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _index(pod: Json) -> tuple[str, int]:
    labels = pod["metadata"].get("labels", {})
    return labels.get("volcano.sh/task-spec", ""), int(labels.get("volcano.sh/task-index", 0))

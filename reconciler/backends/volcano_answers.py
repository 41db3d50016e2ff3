"""What the Kubernetes API's objects say, as typed values. Pure: one JSON object in, one value out.

Raises Unparsable for what is no such object. A status that is missing is not an error (a job has none until Volcano's
controller looks at it), nor are missing counts (Volcano 1.12.4 forgets them); a field of the wrong type is one, because
guessing is how a living job becomes a dead one. An unknown phase word is UNKNOWN.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reconciler.core.errors import Unparsable
from reconciler.core.volcano import (
    Disruption,
    Event,
    Exit,
    Pod,
    PodGroup,
    VcJob,
    VcPhase,
    VcQueue,
    VcQueueState,
    Waiting,
    quantity,
)

JOB_NAME = "volcano.sh/job-name"
TASK_INDEX = "volcano.sh/task-index"

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_INDEX_AT_END = re.compile(r"-(\d{1,9})\Z", re.ASCII)
_PHASES = {phase.value: phase for phase in VcPhase}
_QUEUE_STATES = {state.value: state for state in (VcQueueState.OPEN, VcQueueState.CLOSED, VcQueueState.CLOSING)}
_SIGNAL_MAX = 64
_PODS_MAX = 10_000


def job_of(obj: object) -> VcJob:
    """A Volcano Job."""
    it = _Object(obj, "Job")
    spec, status = it.map("spec"), it.map("status")
    state = _map(status, "state", it.what)
    word = _text(state, "phase", it.what)
    # A status without a phase says that somebody looked at the job, and no more.
    phase = _PHASES.get(word, VcPhase.UNKNOWN) if word else (VcPhase.UNKNOWN if status else VcPhase.NOT_SEEN)
    tasks = [_mapping(task, it.what, "spec.tasks") for task in _items(spec, "tasks", it.what)]
    # What a task or job does not say, Volcano takes as 1 and as the sum.
    replicas = sum(1 if (count := _count(task, "replicas", it.what)) is None else count for task in tasks)
    least = _count(spec, "minAvailable", it.what)
    return VcJob(
        name=it.name,
        uid=it.uid,
        labels=it.texts("labels"),
        annotations=it.texts("annotations"),
        phase=phase,
        word=word,
        reason=_text(state, "reason", it.what),
        message=_text(state, "message", it.what),
        created=it.created,
        changed=_time(state, "lastTransitionTime", it.what),
        deleting=it.deleting,
        queue=_text(spec, "queue", it.what),
        tasks=tuple(_text(task, "name", it.what) for task in tasks),
        replicas=replicas,
        min_available=replicas if least is None else least,
        retry_count=_count(status, "retryCount", it.what) or 0,
        terminating=_count(status, "terminating", it.what) or 0,
        version=_text(it.metadata, "resourceVersion", it.what),
    )


def pod_of(obj: object) -> Pod:
    """A Pod, of whomever."""
    it = _Object(obj, "Pod")
    spec, status = it.map("spec"), it.map("status")
    labels, annotations = it.texts("labels"), it.texts("annotations")
    phase = _text(status, "phase", it.what)
    images = _images(spec, it.what)
    mains = [_mapping(one, it.what, "containerStatuses") for one in _items(status, "containerStatuses", it.what)]
    firsts = [
        _mapping(one, it.what, "initContainerStatuses") for one in _items(status, "initContainerStatuses", it.what)
    ]
    # The first container of the template is the job's, whatever a cluster puts beside it.
    first = next(iter(images), "")
    mains.sort(key=lambda one: _text(one, "name", it.what) != first)
    conditions = _conditions(status, it.what)
    ready, lost_at = conditions.get("Ready"), None
    node_lost = phase == "Unknown" or _text(status, "reason", it.what) == "NodeLost"
    if ready is not None and phase == "Running":
        # The node controller turns Ready off, with no reason; what the kubelet said last stays.
        contained = conditions.get("ContainersReady", {})
        silent = not _text(ready, "reason", it.what) and _text(contained, "status", it.what) == "True"
        node_lost = node_lost or (_text(ready, "status", it.what) in ("False", "Unknown") and silent)
    if node_lost and ready is not None:
        lost_at = _time(ready, "lastTransitionTime", it.what)
    told = _text(ready or {}, "status", it.what)
    return Pod(
        name=it.name,
        uid=it.uid,
        labels=labels,
        job=labels.get(JOB_NAME) or annotations.get(JOB_NAME, ""),
        owner_uid=it.owner_uid,
        index=_index(labels.get(TASK_INDEX) or annotations.get(TASK_INDEX, ""), it.name),
        phase=phase,
        reason=_text(status, "reason", it.what),
        message=_text(status, "message", it.what),
        created=it.created,
        ready={"True": True, "False": False}.get(told),
        deleting=it.deleting,
        node=_text(spec, "nodeName", it.what),
        node_lost=node_lost,
        lost_at=lost_at,
        began=any(
            _map(_map(one, "state", it.what), word, it.what)
            for one in (*mains, *firsts)
            for word in ("running", "terminated")
        ),
        waiting=_waiting((*firsts, *mains), images, it.what),
        exit=_exit(mains, firsts, it.what),
        disruption=_disruption(conditions, it.what),
        unschedulable=_unschedulable(conditions, it.what),
    )


def group_of(obj: object) -> PodGroup:
    """A PodGroup."""
    it = _Object(obj, "PodGroup")
    spec, status = it.map("spec"), it.map("status")
    reason = message = ""
    newest: tuple[float, int] | None = None
    for at, one in enumerate(_items(status, "conditions", it.what)):
        condition = _mapping(one, it.what, "status.conditions")
        kind, true = _text(condition, "type", it.what), _text(condition, "status", it.what) == "True"
        when = (_time(condition, "lastTransitionTime", it.what) or 0.0, at)
        if kind in ("Scheduled", "Unschedulable") and true and (newest is None or when > newest):
            newest, unmet = when, kind == "Unschedulable"
            reason = _text(condition, "reason", it.what) if unmet else ""
            message = _text(condition, "message", it.what) if unmet else ""
    return PodGroup(
        name=it.name,
        uid=it.uid,
        owner_uid=it.owner_uid,
        phase=_text(status, "phase", it.what),
        queue=_text(spec, "queue", it.what),
        reason=reason,
        message=message,
        wanted=_amounts(spec, "minResources", it.what) or {},
    )


def event_of(obj: object) -> Event:
    """An Event, old style or new."""
    it = _Object(obj, "Event")
    about = it.map("involvedObject")
    series = it.map("series")
    created = it.created
    first = _time(it.data, "firstTimestamp", it.what) or _time(it.data, "eventTime", it.what) or created
    last = _time(series, "lastObservedTime", it.what) or _time(it.data, "lastTimestamp", it.what) or first
    return Event(
        reason=_text(it.data, "reason", it.what),
        message=_text(it.data, "message", it.what),
        kind=_text(about, "kind", it.what),
        name=_text(about, "name", it.what),
        uid=_text(about, "uid", it.what),
        warning=_text(it.data, "type", it.what) == "Warning",
        count=_count(it.data, "count", it.what) or _count(series, "count", it.what) or 1,
        since=first,
        at=last,
    )


def queue_of(obj: object) -> VcQueue:
    """A Queue."""
    it = _Object(obj, "Queue")
    spec, status = it.map("spec"), it.map("status")
    word = _text(status, "state", it.what)
    return VcQueue(
        name=it.name,
        state=_QUEUE_STATES.get(word, VcQueueState.UNKNOWN),
        word=word,
        capability=_amounts(spec, "capability", it.what),
        allocated=_amounts(status, "allocated", it.what),
    )


def missing_queue(name: str) -> VcQueue:
    """What the server said has no queue of this name."""
    return VcQueue(name, VcQueueState.MISSING)


def pods_of(job: VcJob, pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """The job's own pods by index. An older job of the same name had pods with the same names and labels: the owner's
    uid tells."""
    own = [pod for pod in pods if pod.owner_uid == job.uid]
    return tuple(sorted(own, key=lambda pod: (pod.index is None, pod.index or 0, pod.name)))


def pod_names(job: VcJob) -> set[str]:
    """What Volcano calls the job's pods. A task of several has fewer than the job; a name too many is nobody's."""
    return {f"{job.name}-{task}-{index}" for task in job.tasks for index in range(min(max(job.replicas, 0), _PODS_MAX))}


def events_of(job: VcJob, pods: Iterable[Pod], events: Iterable[Event]) -> tuple[Event, ...]:
    """What was said about this very job, its pod group and its pods, oldest first; `pods` are all that are known, of
    whomever.

    A pod that is gone is known by its name alone. Of a uid that nobody knows, nothing counts if anything was said about
    it before the job was made: then it was a pod of an older job of the same name. Some speakers (the taint manager)
    give no uid at all.
    """
    everything = tuple(events)
    pods = tuple(pods)
    owners = {pod.uid: pod.owner_uid for pod in pods}
    names = pod_names(job)
    names.update(pod.name for pod in pods if pod.owner_uid == job.uid)
    first: dict[str, float] = {}
    for event in everything:
        if event.since is not None:
            first[event.uid] = min(event.since, first.get(event.uid, event.since))

    def is_ours(event: Event) -> bool:
        if event.kind == "Job":
            return event.uid == job.uid
        if event.kind == "PodGroup":
            return event.name == f"{job.name}-{job.uid}"
        if event.kind != "Pod":
            return False
        if event.uid in owners:
            return owners[event.uid] == job.uid
        said = first.get(event.uid) if event.uid else event.since
        return event.name in names and job.created is not None and said is not None and said >= job.created

    return tuple(sorted(filter(is_ours, everything), key=lambda event: event.at or 0.0))


class _Object:
    """An object of the API: a name, a uid, and whatever else is there."""

    def __init__(self, obj: object, kind: str) -> None:
        if not isinstance(obj, Mapping):
            raise Unparsable(f"instead of a {kind}, the cluster sent {_piece(obj)}")
        told = obj.get("kind")
        # The items of a list carry no kind of their own.
        if told is not None and told != kind:
            raise Unparsable(
                f"instead of a {kind}, the cluster sent a {_piece(told)}: {_piece(obj.get('message') or '')}"
            )
        self.data: Mapping[str, Any] = obj
        self.metadata = _map(obj, "metadata", f"a {kind}")
        self.name = _text(self.metadata, "name", f"a {kind}")
        self.what = f"{kind} {self.name}"
        self.uid = _text(self.metadata, "uid", self.what)
        if not self.name or not self.uid:
            raise Unparsable(f"the cluster sent a {kind} without a name or a uid: {_piece(dict(self.metadata))}")
        self.created = _time(self.metadata, "creationTimestamp", self.what)
        self.deleting = _time(self.metadata, "deletionTimestamp", self.what) is not None

    def map(self, key: str) -> Mapping[str, Any]:
        return _map(self.data, key, self.what)

    def texts(self, key: str) -> Mapping[str, str]:
        found = _map(self.metadata, key, self.what)
        return {name: _text(found, name, self.what) for name in found}

    @property
    def owner_uid(self) -> str:
        """Of the one owner that controls it; "" for nobody's."""
        for one in _items(self.metadata, "ownerReferences", self.what):
            owner = _mapping(one, self.what, "metadata.ownerReferences")
            if owner.get("controller") is True:
                return _text(owner, "uid", self.what)
        return ""


def _images(spec: Mapping[str, Any], what: str) -> dict[str, str]:
    """Image by container, the template's first container first."""
    found: dict[str, str] = {}
    for key in ("containers", "initContainers"):
        for one in _items(spec, key, what):
            container = _mapping(one, what, f"spec.{key}")
            found[_text(container, "name", what)] = _text(container, "image", what)
    return found


def _conditions(status: Mapping[str, Any], what: str) -> dict[str, Mapping[str, Any]]:
    found = [_mapping(one, what, "status.conditions") for one in _items(status, "conditions", what)]
    return {_text(one, "type", what): one for one in found}


def _disruption(conditions: Mapping[str, Mapping[str, Any]], what: str) -> Disruption | None:
    target, ready = conditions.get("DisruptionTarget", {}), conditions.get("Ready", {})
    if _text(target, "status", what) == "True":
        found = target
    elif _text(ready, "reason", what) == "Evict":  # how Volcano's scheduler marks a pod before it deletes it
        found = ready
    else:
        return None
    return Disruption(
        _text(found, "reason", what), _text(found, "message", what), _time(found, "lastTransitionTime", what)
    )


def _unschedulable(conditions: Mapping[str, Mapping[str, Any]], what: str) -> str:
    scheduled = conditions.get("PodScheduled", {})
    if _text(scheduled, "status", what) != "False":
        return ""
    return _text(scheduled, "message", what) or _text(scheduled, "reason", what)


# A container that waits for one of these waits for others, or for nothing special: it explains nothing.
_PATIENT = frozenset({"", "ContainerCreating", "PodInitializing"})


def _waiting(statuses: Sequence[Mapping[str, Any]], images: Mapping[str, str], what: str) -> Waiting | None:
    found: list[Waiting] = []
    for one in statuses:
        waiting = _map(_map(one, "state", what), "waiting", what)
        if waiting:
            image = images.get(_text(one, "name", what)) or _text(one, "image", what)
            found.append(Waiting(_text(waiting, "reason", what), _text(waiting, "message", what), image))
    return min(found, key=lambda one: one.reason in _PATIENT, default=None)


def _exit(mains: Sequence[Mapping[str, Any]], firsts: Sequence[Mapping[str, Any]], what: str) -> Exit | None:
    """Of the job's container; where it never began, of the container before it that failed."""
    for at, one in enumerate((*mains[:1], *firsts)):
        ended = _map(_map(one, "state", what), "terminated", what)
        if not ended:
            continue
        code, signal = _count(ended, "exitCode", what), _count(ended, "signal", what)
        if at >= len(mains[:1]) and code == 0:
            continue  # what stands before the job's container is meant to end
        if not signal and code is not None and 128 < code <= 128 + _SIGNAL_MAX:
            signal = code - 128
        return Exit(
            code=code,
            signal=signal or None,
            reason=_text(ended, "reason", what),
            message=_text(ended, "message", what),
            # A container that could not be started "started" in 1970.
            started=_time(ended, "startedAt", what) or None,
            finished=_time(ended, "finishedAt", what) or None,
            container=_text(one, "name", what),
        )
    return None


def _index(label: str, name: str) -> int | None:
    if label.isascii() and label.isdigit() and len(label) < 10:
        return int(label)
    matched = _INDEX_AT_END.search(name)
    return int(matched[1]) if matched else None


def _amounts(parent: Mapping[str, Any], key: str, what: str) -> Mapping[str, float] | None:
    if parent.get(key) is None:
        return None
    try:
        return {name: quantity(value) for name, value in _map(parent, key, what).items()}
    except ValueError as error:
        raise Unparsable(f"{what}: {key}: {error}") from error


def _mapping(value: object, what: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unparsable(f"{what}: {key} holds {_piece(value)} instead of an object")
    return value


def _map(parent: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return {} if value is None else _mapping(value, what, key)


def _items(parent: Mapping[str, Any], key: str, what: str) -> Sequence[Any]:
    value = parent.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Unparsable(f"{what}: {key} is {_piece(value)} instead of a list")
    return value


def _text(parent: Mapping[str, Any], key: str, what: str) -> str:
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unparsable(f"{what}: {key} is {_piece(value)} instead of a text")
    return value


def _count(parent: Mapping[str, Any], key: str, what: str) -> int | None:
    value = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unparsable(f"{what}: {key} is {_piece(value)} instead of a whole number")
    return value


def _time(parent: Mapping[str, Any], key: str, what: str) -> float | None:
    text = _text(parent, key, what)
    if not text:
        return None
    matched = _TIME.match(text)
    try:
        if matched is None:
            raise ValueError(text)
        whole = datetime.datetime.fromisoformat(matched[1] + matched[3].replace("Z", "+00:00"))
    except ValueError as error:
        raise Unparsable(f"{what}: {key} is {_piece(text)} instead of a time") from error
    return whole.timestamp() + float(matched[2] or 0)


def _piece(value: object) -> str:
    return repr(value)[:120]

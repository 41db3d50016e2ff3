"""Why a Volcano job is not running: a stable reason and a sentence for people, with the next step. Pure.

Volcano leaves a job in Pending whatever is wrong. What is wrong stands in its pods' conditions and containers, in the
pod group, in the queue, or in events alone; this reads them from the surest to the vaguest. Events are evidence only
when they are about the job itself. How a job ended is told by volcano_ends.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from reconciler.backends.volcano_answers import events_of, pods_of
from reconciler.core.quantity import show_seconds
from reconciler.core.volcano import Event, Pod, PodGroup, VcJob, VcPhase, VcQueue, VcQueueState

# Controller and scheduler work once a second; only when they took this long for a step is the step what the job waits for.
SETTLED_S = 15.0


class Why(NamedTuple):
    """Both empty: it does not wait."""

    reason: str
    sentence: str


def pending(
    job: VcJob,
    pods: Iterable[Pod],
    group: PodGroup | None,
    events: Iterable[Event],
    queue: VcQueue | None,
    *,
    waited_s: float,
) -> Why:
    """Why not all of the job runs. `pods` may hold others' too: an older job's pods of the same name are a reason.
    `queue` None: it was not asked. `waited_s` is how long it waits by our clock."""
    everyone = tuple(pods)
    own, said = pods_of(job, everyone), events_of(job, everyone, events)
    why = _by_phase(job, own, queue, waited_s)
    if why is not None:
        return why
    for found in (
        _gang(job),
        _containers(own, said),
        _older(job, own, everyone),
        _refused(job, own, said),
        _mounts(own, said),
        _unplaced(own, group, said),
        _queue(job, group, queue, said, waited_s),
    ):
        if found is not None:
            return found
    return _under_way(job, own, group, waited_s)


def node_lost(pods: Sequence[Pod]) -> str:
    """Which nodes of these pods stopped answering, since when, and what that means; "" for none."""
    lost: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.node_lost and not pod.over:
            lost.setdefault(pod.node, []).append(pod)
    parts: list[str] = []
    for node, gone in lost.items():
        since = min((pod.lost_at for pod in gone if pod.lost_at is not None), default=None)
        when = f" since {show_time(since)}" if since is not None else ""
        names = ", ".join(pod.name for pod in gone)
        parts.append(f"node {node or '(unnamed)'} does not answer{when}: {names} may still run there")
    if not parts:
        return ""
    node = next(iter(lost))
    return (
        f"{'; '.join(parts)}. See `kubectl describe node {node}`; it goes on when the node returns, or ends when "
        f"the node is deleted."
    )


def show_time(at: float) -> str:
    """A time of the cluster's for people, and in the form that reports keep."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _by_phase(job: VcJob, own: Sequence[Pod], queue: VcQueue | None, waited_s: float) -> Why | None:
    if job.finished:
        return Why("", "")
    if job.suspended:
        return Why(
            "Suspended", "somebody suspended it (Volcano calls it Aborted). `vcctl job resume` would let it go on."
        )
    if job.deleting:
        left = f"; {_pods(len(own))} of it still there: {_names(own)}" if own else ""
        return Why("Deleting", f"it is being deleted{left}")
    if job.phase is VcPhase.UNKNOWN:
        word = f"{job.word!r}" if job.word else "nothing"
        return Why(
            "UnknownPhase",
            f"Volcano says {word} of its state, which means nothing here. See `kubectl describe vcjob {job.name}`.",
        )
    if job.phase in (VcPhase.ABORTING, VcPhase.TERMINATING):
        return Why("Ending", f"its pods are being stopped (Volcano calls it {job.word})")
    if job.phase is VcPhase.RESTARTING:
        return Why("Restarting", "Volcano stops its pods to start them again")
    if job.phase in (VcPhase.RUNNING, VcPhase.COMPLETING):
        lost = node_lost(own)
        return Why("NodeLost", lost) if lost else Why("", "")
    if not own and queue is not None:
        if queue.state is VcQueueState.MISSING:
            return Why(
                "QueueMissing",
                f"there is no queue {job.queue!r} in Volcano. `kubectl get queue` shows yours: correct volcano.queue.",
            )
        if queue.state in (VcQueueState.CLOSED, VcQueueState.CLOSING):
            return Why(
                "QueueClosed",
                f"the queue {queue.name!r} is {queue.word.lower()} and starts nothing. Ask its owner to open it, or "
                f"take another queue.",
            )
    if job.phase is VcPhase.NOT_SEEN:
        if not job.queue:
            return Why("QueueMissing", "the job names no queue, and Volcano passes such a job over. Set volcano.queue.")
        silent = f"Volcano's controller has not looked at it for {show_seconds(int(waited_s))}"
        return Why("NotYetSeen", f"{silent}. If that lasts, is it running? See `kubectl -n volcano-system get pods`.")
    return None


def _gang(job: VcJob) -> Why | None:
    if job.min_available <= job.replicas:
        return None
    has = _pods(job.replicas)
    return Why(
        "GangTooLarge", f"it wants {job.min_available} pods at once and has {has}: it can never start. Make it anew."
    )


_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_PATIENT = frozenset({"", "ContainerCreating", "PodInitializing"})


def _containers(own: Sequence[Pod], said: Sequence[Event]) -> Why | None:
    """What the kubelets say of containers that they cannot start."""
    for pod in own:
        waiting = pod.waiting
        if pod.over or waiting is None or waiting.reason in _PATIENT:
            continue
        words = waiting.message
        if waiting.reason not in _IMAGE:
            return Why(
                "ContainerWaits",
                f"{pod.name} cannot be started on {pod.node or 'its node'}: {_ended(words or waiting.reason)}",
            )
        if waiting.reason == "ImagePullBackOff":
            # It says that it waits; why, it said before.
            told = [
                one.message for one in said if one.uid == pod.uid and one.message.startswith("Failed to pull image")
            ]
            words = told[-1] if told else words
        image = f"the image {waiting.image!r}" if waiting.image else "its image"
        if waiting.reason == "ErrImageNeverPull":
            step = "Put it on the node, or let it be pulled (imagePullPolicy)."
        else:
            step = "Correct the name, or see that the nodes reach the registry and may read it (imagePullSecrets)."
        return Why(
            "ImagePull", f"{image} cannot be had on {pod.node or 'the node'}: {_ended(words or waiting.reason)} {step}"
        )
    return None


def _older(job: VcJob, own: Sequence[Pod], everyone: Sequence[Pod]) -> Why | None:
    if own:
        return None
    older = [
        pod
        for pod in everyone
        if pod.owner_uid != job.uid and pod.job == job.name and not (pod.over and not pod.deleting)
    ]
    if not older and not job.terminating:
        return None
    names = f" ({_names(older)})" if older else ""
    nodes = sorted({pod.node for pod in older if pod.node})
    where = f" on {', '.join(nodes)}" if nodes else ""
    return Why(
        "OldPodsTerminating",
        f"{_pods(len(older) or job.terminating)} of an older job of the same name still end{names}{where}; it starts "
        f"when they are gone. If "
        f"their node is lost for good: `kubectl delete pod NAME --force`.",
    )


_SERVER_SAID = re.compile(r'Message:"((?:[^"\\]|\\.)*)"')
_QUOTA = re.compile(r"exceeded quota: ([^,]+)")


def _refused(job: VcJob, own: Sequence[Pod], said: Sequence[Event]) -> Why | None:
    """Why Volcano's controller cannot make the pods that are missing."""
    if len(own) >= job.replicas:
        return None
    failures = [event for event in said if event.kind == "Job" and event.reason in ("FailedCreate", "PluginError")]
    if not failures:
        return None
    event = failures[-1]
    matched = _SERVER_SAID.search(event.message)
    words = re.sub(r"\\(.)", r"\1", matched[1]) if matched else event.message
    if event.reason == "PluginError":
        return Why("PluginError", f"a plugin of Volcano's cannot be used: {_ended(words)} Correct volcano.plugins.")
    quota = _QUOTA.search(words)
    if quota:
        return Why(
            "QuotaExceeded",
            f"the namespace's quota does not allow its pods: {_ended(words)} Wait until others end, ask for less, or "
            f"have the quota "
            f"{quota[1]!r} raised (`kubectl describe quota {quota[1]}`).",
        )
    if "violates PodSecurity" in words:
        return Why(
            "PodSecurity",
            f"the namespace's pod security forbids its pods: {_ended(words)} Set what it asks for, or use another namespace.",
        )
    return Why("PodsRefused", f"the cluster refuses its pods: {_ended(words)}")


_MOUNTS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})


def _mounts(own: Sequence[Pod], said: Sequence[Event]) -> Why | None:
    starting = {pod.uid: pod for pod in own if pod.node and not pod.began and not pod.over}
    for event in reversed(said):
        pod = starting.get(event.uid)
        if pod is None:
            continue
        if event.reason in _MOUNTS:
            return Why(
                "VolumeMount", f"a volume of {pod.name} cannot be mounted on {pod.node}: {_ended(event.message)}"
            )
        if event.reason == "FailedCreatePodSandBox":
            return Why(
                "PodSandbox",
                f"{pod.node} cannot set up {pod.name}: {_ended(event.message)} That is for the cluster's admin.",
            )
    return None


_NODES = re.compile(r"\d+/\d+ nodes are (?:un)?available: .*", re.S)
_CLAIM_GONE = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_CLAIM_UNBOUND = re.compile(
    r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim \"[^\"]+\" (?:bound to|is being)"
)
_LACKS = re.compile(r"\binsufficient ([A-Za-z0-9][\w./-]*[\w])", re.I)
_FULL = re.compile(r"too many pods", re.I)


def _unplaced(own: Sequence[Pod], group: PodGroup | None, said: Sequence[Event]) -> Why | None:
    """Why the scheduler finds no nodes for the pods, in its words."""
    now = [pod.unschedulable for pod in own if pod.unschedulable and not pod.node]
    if not now:
        return None
    texts = [*now, group.message if group is not None else ""]
    texts += [event.message for event in reversed(said) if event.reason in ("FailedScheduling", "PodGroupPending")]
    for text in texts:
        gone = _CLAIM_GONE.search(text)
        if gone:
            return Why(
                "ClaimMissing",
                f"its volume claim {gone[1]!r} is not there. Make it, or name another (`kubectl get pvc`).",
            )
        if _CLAIM_UNBOUND.search(text):
            return Why(
                "ClaimUnbound",
                f"a volume claim of it has no volume yet: {_ended(_nodes(text))} See `kubectl describe pvc`.",
            )
    for text in texts:
        # Nodes that would do, but for this, make the others' reasons idle.
        lacking = sorted(
            {name.rstrip(".") for name in _LACKS.findall(text)} | ({"pods"} if _FULL.search(text) else set())
        )
        if lacking:
            return Why(
                "NoCapacity",
                f"the cluster has no room for it: not enough {', '.join(lacking)} "
                f"({_ended(_nodes(text)).rstrip('.')}). Wait until others "
                f"end, or ask for less.",
            )
    for text in texts:
        if _NODES.search(text):
            return Why(
                "NoMatchingNode",
                f"no node fits it: {_ended(_nodes(text))} Correct what it asks of a node (selector, chip, "
                f"tolerations), or add such a node.",
            )
        if "no nodes available" in text:
            return Why("NoMatchingNode", "the cluster has no node at all that takes pods. See `kubectl get nodes`.")
    return Why("Scheduling", f"the scheduler has not placed all its pods: {_ended(now[0])}")


def _nodes(text: str) -> str:
    found = _NODES.search(text)
    return found[0] if found else text


_WAIT = "Wait until others in it end, ask for less, or have it enlarged."


def _queue(
    job: VcJob, group: PodGroup | None, queue: VcQueue | None, said: Sequence[Event], waited_s: float
) -> Why | None:
    """Why the scheduler does not let it in: until then the pod group is Pending and no pod is made."""
    if group is None or group.phase != "Pending":
        return None
    wants = ", ".join(f"{name} {_amount(name, number)}" for name, number in _plain(group.wanted).items())
    told = [event.message for event in said if event.kind == "PodGroup" and event.reason == "Unschedulable"]
    refusals = [text for text in told if "queue resource quota" in text or "in cluster is overused" in text]
    words = refusals[-1] if refusals else ""
    named = ", ".join(_LACKS.findall(words.partition(":")[2]))
    short = _short(group, queue)
    name = group.queue or job.queue
    if "in cluster is overused" not in words and (short or "queue resource quota" in words):
        why = "; ".join(short) or (f"not enough {named}" if named else f"it wants {wants}")
        never = any("may ever hold" in one for one in short)
        step = "Ask for less, take another queue, or have it enlarged." if never else _WAIT
        return Why("NoCapacity", f"the queue {name!r} has no room: {why}. {step}")
    if words:
        lacks = f"not enough {named}; " if named else ""
        return Why(
            "NoCapacity",
            f"the cluster is full: {lacks}it wants {wants} at once. Wait until others end, or ask for less.",
        )
    if waited_s < SETTLED_S:
        return Why("Scheduling", f"it waits to be let into the queue {name!r}")
    return Why(
        "NoCapacity",
        f"the scheduler has not let it into the queue {name!r} for {show_seconds(int(waited_s))}, as when cluster or "
        f"queue have no room for "
        f"{wants or 'it'} at once. Wait, ask for less, or see `kubectl describe podgroup {group.name}`.",
    )


def _short(group: PodGroup, queue: VcQueue | None) -> list[str]:
    """Which of the queue's limits it would break, in words."""
    if queue is None or queue.capability is None:
        return []
    found: list[str] = []
    for name, limit in queue.capability.items():
        wanted, held = group.wanted.get(name, 0.0), (queue.allocated or {}).get(name, 0.0)
        if wanted > limit:
            found.append(
                f"it wants {name} {_amount(name, wanted)}, more than the {_amount(name, limit)} that the queue may ever hold"
            )
        elif wanted + held > limit:
            free = _amount(name, max(0.0, limit - held))
            found.append(f"it wants {name} {_amount(name, wanted)}, and of {_amount(name, limit)} {free} is free")
    return found


def _plain(wanted: Mapping[str, float]) -> dict[str, float]:
    """Without the names under which quotas count the same again."""
    return {name: number for name, number in wanted.items() if not name.startswith(("requests.", "limits.", "count/"))}


def _amount(name: str, number: float) -> str:
    if name.endswith(("memory", "storage")) or name.startswith("hugepages-"):
        for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if number >= size:
                return f"{round(number / size, 2):g}{unit}"
    return f"{number:g}"


def _under_way(job: VcJob, own: Sequence[Pod], group: PodGroup | None, waited_s: float) -> Why:
    """Nothing is wrong, as far as anybody says."""
    if not own:
        if group is None or waited_s < SETTLED_S:
            return Why("Scheduling", "Volcano is making its pods")
        return Why(
            "NoPods",
            f"the scheduler let it in, and Volcano's controller has made no pods for {show_seconds(int(waited_s))}. "
            f"It may be stuck: "
            f"`kubectl -n volcano-system rollout restart deployment volcano-controllers`.",
        )
    lost = node_lost(own)
    if lost:
        return Why("NodeLost", lost)
    placed = [pod for pod in own if pod.node]
    if len(placed) < len(own) or len(own) < job.replicas:
        return Why("Scheduling", f"{len(placed)} of its {_pods(job.replicas)} have a node")
    starting = [pod for pod in own if not pod.began and not pod.over]
    if starting:
        nodes = sorted({pod.node for pod in starting})
        return Why("Starting", f"{', '.join(nodes)} prepare{'s' if len(nodes) == 1 else ''} {_names(starting)}")
    return Why("Starting", "all its pods were started, and Volcano has not said so yet")


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"


def _names(pods: Sequence[Pod]) -> str:
    shown = [pod.name for pod in pods[:4]]
    return ", ".join(shown) + (f" and {len(pods) - len(shown)} more" if len(pods) > len(shown) else "")


def _ended(text: str) -> str:
    """One line that ends with a full stop and is not too long."""
    line = " ".join(text.split())
    line = line if len(line) <= 600 else f"{line[:596]} ..."
    return line if line.endswith((".", "!", "?")) else f"{line}."

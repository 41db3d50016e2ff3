"""What a look at one namespace comes to, run by run: from the API's objects, and what runs wrote, to sightings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.backends.gang import gang_of
from reconciler.backends.volcano_answers import pods_of
from reconciler.backends.volcano_ends import end_of, part_of
from reconciler.backends.volcano_words import Why, node_lost, pending
from reconciler.core.cause import Cause
from reconciler.core.observation import Patience, Presence, Report, ReportStatus, Sighting
from reconciler.core.queue import QueueJob, QueueState
from reconciler.core.run import Handle, Run
from reconciler.core.volcano import Event, Pod, PodGroup, VcJob, VcPhase, VcQueue

# Somebody has to change something before these go away; and what only the cluster's own parts can be to blame for.
_REFUSED = frozenset(
    {
        "ImagePull",
        "ClaimMissing",
        "PodSecurity",
        "PodsRefused",
        "QueueMissing",
        "GangTooLarge",
        "ContainerWaits",
        "PluginError",
    }
)
_BROKEN = frozenset(
    {
        "NotYetSeen",
        "NoPods",
        "OldPodsTerminating",
        "VolumeMount",
        "PodSandbox",
        "UnknownPhase",
        "Starting",
        "Restarting",
    }
)


# Volcano is ending the pods: they have their grace, and no other patience than a silent node's counts.
_ON_THE_WAY_OUT = frozenset({VcPhase.COMPLETING, VcPhase.TERMINATING, VcPhase.ABORTING})


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that was listed in one namespace at (almost) one moment."""

    jobs: Sequence[VcJob]
    pods: Sequence[Pod]
    groups: Mapping[str, PodGroup] = field(default_factory=dict, hash=False)
    """By their job's uid."""
    events: Sequence[Event] = ()
    queues: Mapping[str, VcQueue] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what is borne, in seconds: waiting for room (None: for ever), waiting for what never mends, a silent node, and
    part of a gang that goes on after another part's end: then Volcano is not doing what its policies say."""

    pending_s: float | None = None
    stuck_s: float = 1800.0
    lost_s: float = 600.0
    broken_s: float = 120.0


def parts_of(job: VcJob, pods: Sequence[Pod], run_id: str) -> list[Sighting]:
    """The job's pods by rank; ABSENT for one that is not there."""
    by_rank = {pod.index: part_of(pod, run_id) for pod in pods_of(job, pods) if pod.index is not None}
    return [by_rank.get(rank, Sighting(run_id, Presence.ABSENT)) for rank in range(max(job.replicas, 1))]


def is_unclear(job: VcJob, pods: Sequence[Pod]) -> bool:
    """Are events and pod groups needed to say how it stands?"""
    own = pods_of(job, pods)
    running = job.phase is VcPhase.RUNNING and len(own) >= job.replicas and not node_lost(own)
    return not running and job.phase is not VcPhase.COMPLETED


def sight(
    run: Run, job: VcJob, scene: Scene, live: Report | None, limits: Limits, *, namespace: str, waited_s: float
) -> Sighting:
    """One run. `live` is what it wrote on the claim, where that was read; `waited_s` is since its launch, by our clock."""
    own = pods_of(job, scene.pods)
    parts = parts_of(job, scene.pods, run.run_id)
    gang = gang_of(parts)
    base = Sighting(
        run.run_id,
        Presence.PRESENT,
        alive=True,
        stopping="deleted" if job.deleting else "",
        handle=handle_of(run, job, namespace),
        run=run,
    )
    ended = end_of(job, scene.pods, scene.events, parts)
    over = all(part.presence is Presence.PRESENT and not part.alive for part in parts)
    if ended is None and over and gang.report is not None and gang.report.status is ReportStatus.COMPLETED:
        ended = gang.report  # by the kubelets' word, whenever Volcano's controller says so, too
    lives = gang.alive or any(part.presence is Presence.UNKNOWN for part in parts)
    if ended is not None and not lives:
        return replace(base, alive=False, stopping="", report=_with(ended, live), queue=_ended(job))
    lost = node_lost(own)
    nodes = ", ".join(sorted({pod.node for pod in own if pod.node}))
    patience = Patience("NodeLost", limits.lost_s, Cause.INFRASTRUCTURE, lost) if lost else None
    if ended is not None or job.deleting or job.phase in _ON_THE_WAY_OUT:
        sentence = lost or "its pods are ending"
        queue = QueueJob(job.name, job.name, "", QueueState.RUNNING, job.word, nodes=nodes, sentence=sentence)
        return replace(base, queue=queue, report=live, patience=patience, error=lost)
    if gang.begun == len(parts):
        word = "RUNNING" if not lost else job.word
        queue = QueueJob(job.name, job.name, "", QueueState.RUNNING, word, nodes=nodes, sentence=lost)
        report, error = live or Report(ReportStatus.RUNNING, seq=0), lost
        if (gang.broken or over) and gang.report is not None:
            # Who or what ended it, Volcano will say in a moment; what it does not say, the pods have.
            what = "all its pods have ended" if over else "a pod of it ended, and the rest goes on"
            report, words = gang.report, f"{what}, and Volcano has done nothing about it: {_first_line(gang.report)}"
            patience = patience or Patience("GangBroken", limits.broken_s, report.cause or Cause.FAILURE, words)
            error = "; ".join(filter(None, (lost, words)))
        return replace(base, queue=queue, report=report, patience=patience, error=error)
    said = pending(
        job, scene.pods, scene.groups.get(job.uid), scene.events, scene.queues.get(job.queue), waited_s=waited_s
    )
    why = Why(said.reason or "Starting", said.sentence or f"{gang.begun} of {len(parts)} pods have started")
    queue = QueueJob(
        job.name,
        job.name,
        "",
        QueueState.WAITING,
        job.word or "not seen by Volcano yet",
        partition=f"queue {job.queue}" if job.queue else "",
        nodes=nodes,
        reason=why.reason,
        sentence=why.sentence,
    )
    return replace(base, queue=queue, patience=patience or _patience(why, limits), error=lost)


def handle_of(run: Run, job: VcJob, namespace: str) -> Handle:
    """By which the run is found again."""
    return Handle(run.run_id, run.token, {"job": job.name, "uid": job.uid, "namespace": namespace})


def ending(run: Run, pods: Sequence[Pod], limits: Limits, *, namespace: str, name: str) -> Sighting:
    """The job is gone, its pods are not yet: they may run until they are."""
    lost = node_lost(pods)
    names = ", ".join(pod.name for pod in pods)
    queue = QueueJob(
        name, name, "", QueueState.RUNNING, "Terminating", sentence=lost or f"its pods are ending: {names}"
    )
    native = {"job": name, "namespace": namespace}
    handle = Handle(run.run_id, run.token, native)
    patience = Patience("NodeLost", limits.lost_s, Cause.INFRASTRUCTURE, lost) if lost else None
    return Sighting(
        run.run_id,
        Presence.PRESENT,
        alive=True,
        stopping="deleted",
        handle=handle,
        run=run,
        queue=queue,
        patience=patience,
        error=lost,
    )


def vanished(run: Run, name: str, written: Report | None) -> Sighting:
    """Its job is gone although we did not delete it. What the run itself wrote last says how it ended, if it had ended."""
    if written is not None and written.status.final and not _was_ended(written):
        return Sighting(run.run_id, Presence.PRESENT, run=run, report=written)
    message = f"Volcano job {name} was deleted by somebody"
    base = written if written is not None else Report(ReportStatus.FAILED, seq=0)
    report = replace(base, status=ReportStatus.FAILED, cause=Cause.CANCELLED, message=message)
    return Sighting(run.run_id, Presence.PRESENT, run=run, report=report)


def _was_ended(written: Report) -> bool:
    """Does it say no more than that somebody outside asked it to stop? That is what deleting its job does."""
    return written.status is ReportStatus.PREEMPTED


def _with(ended: Report, live: Report | None) -> Report:
    """The end, with what only the record on the claim tells: how far it had come."""
    if live is None:
        return ended
    return replace(
        ended,
        seq=max(ended.seq, live.seq),
        progress=ended.progress or live.progress,
        checkpoint_step=ended.checkpoint_step if ended.checkpoint_step is not None else live.checkpoint_step,
    )


def _ended(job: VcJob) -> QueueJob:
    return QueueJob(job.name, job.name, "", QueueState.ENDED, job.word)


def _patience(why: Why, limits: Limits) -> Patience | None:
    if why.reason in _REFUSED:
        return Patience(why.reason, limits.stuck_s, Cause.REFUSED, why.sentence)
    if why.reason in _BROKEN:
        return Patience(why.reason, limits.stuck_s, Cause.INFRASTRUCTURE, why.sentence)
    if limits.pending_s is None:
        return None
    return Patience(why.reason, limits.pending_s, Cause.CAPACITY, why.sentence)


def _first_line(report: Report | None) -> str:
    return report.message.partition("\n")[0] if report is not None else "no report"

"""How one pod of a Volcano job stands, and how the whole attempt ended: by its pods, and where those are gone by its
events. Pure.

A pod tells the most in its container's termination message, where our runtime leaves its final record. Where the cluster
took the pod away, the runtime knows only that a signal came; then the cluster's own word counts. Two times are compared
only where both are the cluster's.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from reconciler.backends.gang import gang_of
from reconciler.backends.node_answers import report_of
from reconciler.backends.volcano_answers import events_of, pod_names, pods_of
from reconciler.backends.volcano_words import node_lost, show_time
from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, Report, ReportStatus, Sighting
from reconciler.core.volcano import Event, Exit, Pod, VcJob, VcPhase

# What happens to a part because of another part's end, because of our asking, or because its place was taken: no reason
# of its own.
_CONSEQUENCES = frozenset(
    {Cause.PREEMPTION, Cause.CANCELLED, Cause.REPLACED, Cause.SUSPENDED, Cause.DELETED, Cause.FENCED}
)


def part_of(pod: Pod, run_id: str) -> Sighting:
    """One pod as a part of the run: ABSENT until something of it began, alive until it ended for sure, then with its
    final report.

    A pod on a node that does not answer may still run: it is alive, with the sentence about the node as `error`.
    """
    if pod.over:
        return Sighting(run_id, Presence.PRESENT, report=report_of_pod(pod))
    lost = node_lost([pod])
    if pod.began or lost or pod.phase == "Running":
        return Sighting(run_id, Presence.PRESENT, alive=True, error=lost)
    if pod.phase == "Pending":
        return Sighting(run_id, Presence.ABSENT)
    return Sighting(
        run_id, Presence.UNKNOWN, error=f"pod {pod.name} is in a phase that is not known here ({pod.phase or 'none'})"
    )


def report_of_pod(pod: Pod) -> Report:
    """How a pod that is over ended: its runtime's own final record, where the cluster does not know better; else the
    cluster's word."""
    ended = pod.exit
    found = _record(ended.message) if ended is not None else None
    if found is not None:
        record, signalled = found
        if not signalled or record.cause not in (Cause.PREEMPTION, Cause.INFRASTRUCTURE, Cause.FAILURE):
            return record
        better = _taken(pod)
        if ended is not None and ended.reason == "OOMKilled" and record.cause is not Cause.PREEMPTION:
            better = _Verdict(Cause.OUT_OF_MEMORY, _memory_words(pod))
        if better is None:
            return record
        _, _, output = record.message.partition("\n")
        message = "\n".join(filter(None, (better.sentence, output)))
        return replace(record, status=_status(better.cause), cause=better.cause, message=message)
    code = ended.code if ended is not None else None
    when = show_time(ended.finished) if ended is not None and ended.finished is not None else ""
    if pod.phase == "Succeeded":
        return Report(ReportStatus.COMPLETED, seq=0, exit_code=0 if code is None else code, end_time=when)
    verdict = _by_cluster(pod, ended)
    started = show_time(ended.started) if ended is not None and ended.started is not None else ""
    return Report(
        _status(verdict.cause),
        seq=0,
        cause=verdict.cause,
        exit_code=code,
        message=verdict.sentence,
        start_time=started,
        end_time=when,
    )


def end_of(job: VcJob, pods: Iterable[Pod], events: Iterable[Event], parts: Sequence[Sighting]) -> Report | None:
    """How the attempt ended; None while Volcano may still start a pod of it (an Aborted job is over for us: somebody
    suspended it).

    `parts` are its sightings by rank, from `part_of` or from the record files, ABSENT for a pod that is gone. That Volcano is
    through does not say that the last process is: parts that are alive say so.
    """
    if not job.finished and not job.suspended:
        return None
    everyone = tuple(pods)
    own, said = pods_of(job, everyone), events_of(job, everyone, events)
    told = [one.report for one in parts if _has_ended(one) and one.report is not None and one.report.status.final]
    failed = [one for one in told if one.status is not ReportStatus.COMPLETED]
    commanded = _commanded(job, said)
    if job.phase is VcPhase.COMPLETED:
        return _completed(parts, told, failed, commanded)
    reasons = [one for one in failed if one.cause not in _CONSEQUENCES]
    disrupted = _disrupted(own, said)
    own_end = min((at for one in reasons if (at := _epoch(one.end_time)) is not None), default=None)
    for verdict in filter(None, (commanded, disrupted)):
        # What had failed before the cluster touched the job was the reason; what failed after that was its consequence.
        if reasons and own_end is not None and (verdict.at is None or own_end < verdict.at):
            continue
        if reasons and own_end is None and verdict is commanded:
            continue
        return _ended(parts, verdict)
    if reasons:
        return gang_of(parts).report
    asked = [one for one in failed if one.status is ReportStatus.CANCELLED]
    if asked:
        return asked[0]
    if job.suspended:
        return _ended(parts, _Verdict(Cause.CANCELLED, "somebody suspended it (Volcano calls it Aborted)"))
    deleted = _deleted(job, own, said)
    if deleted is not None:
        return _ended(parts, deleted)
    if failed:
        return gang_of(parts).report
    return _ended(parts, _unexplained(job, own, said))


class _Verdict(NamedTuple):
    """Why something ended, and when, by the cluster's clock."""

    cause: Cause
    sentence: str
    at: float | None = None


def _status(cause: Cause) -> ReportStatus:
    if cause is Cause.PREEMPTION:
        return ReportStatus.PREEMPTED
    # FAILED with the cause `cancelled`: somebody else did it, which restart.cancelled may pay for. CANCELLED would say
    # that we asked.
    return ReportStatus.FAILED


def _record(message: str) -> tuple[Report, bool] | None:
    """Our runtime's final record, and whether it says that something from outside ended it."""
    if not message.lstrip().startswith("{"):
        return None
    try:
        data = json.loads(message)
        report = report_of({"metadata": data})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if report is None or not report.status.final:
        return None
    signal = data.get("signal")
    signalled = isinstance(signal, int) and not isinstance(signal, bool)
    return report, signalled or report.status is ReportStatus.PREEMPTED


# Reasons of the condition DisruptionTarget, in Kubernetes' and Volcano's words.
_OF_NODE = {
    "DeletionByTaintManager": "its node {node} was lost or tainted, and the cluster deleted the pod",
    "DeletionByPodGC": "its node {node} is gone from the cluster",
}
_OF_PLACE = {
    "PreemptionByScheduler": "the scheduler gave its place on {node} to another",
    "PreemptionByKubeScheduler": "the scheduler gave its place on {node} to another",
    "Evict": "Volcano's scheduler took its place on {node}",
    "EvictionByEvictionAPI": "it was evicted from {node}, as when a node is drained",
    "TerminationByKubelet": "{node} evicted it",
}
# A pod's own reason, written by the kubelet or the node controller.
_SHUTDOWN = re.compile(r"shut ?down", re.I)
_EVICTED = frozenset({"Evicted", "Preempting", "Preempted"})
_OWN_LIMIT = re.compile(r"exceeds the (?:total )?limit|exceeded its local ephemeral storage limit", re.I)
_NOT_STARTED = frozenset(
    {"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError", "CreateContainerConfigError"}
)
_RUNC = re.compile(r"(?:unable to start container process|exec failed): (.*?)(?:: unknown)?\Z", re.S)
_KILLED, _STOPPED = 9, frozenset({1, 2, 15})


def _taken(pod: Pod) -> _Verdict | None:
    """The cluster ended the pod for its own reasons: which."""
    node, disruption = pod.node or "its node", pod.disruption
    reason = disruption.reason if disruption is not None else ""
    at = disruption.at if disruption is not None else None
    words = disruption.message if disruption is not None and disruption.message else pod.message
    if pod.reason in ("NodeShutdown", "Terminated", "Shutdown") or (
        reason == "TerminationByKubelet" and _SHUTDOWN.search(words)
    ):
        return _Verdict(Cause.INFRASTRUCTURE, _join(f"{node} was shut down", words), at)
    if pod.reason in _EVICTED and _OWN_LIMIT.search(pod.message):
        return _Verdict(Cause.FAILURE, _join(f"{node} evicted it because it used more than it may", pod.message), at)
    if reason in _OF_NODE or pod.reason == "NodeLost":
        sentence = _OF_NODE.get(reason, "its node {node} was lost").format(node=node)
        return _Verdict(Cause.INFRASTRUCTURE, _join(sentence, words), at)
    if disruption is not None or pod.reason in _EVICTED:
        known = _OF_PLACE.get(reason) or (
            "{node} evicted it" if not reason else f"it was disrupted on {{node}} ({reason})"
        )
        return _Verdict(Cause.PREEMPTION, _join(known.format(node=node), words), at)
    return None


def _by_cluster(pod: Pod, ended: Exit | None) -> _Verdict:
    """Why a pod failed that left no record of ours."""
    node = pod.node or "its node"
    if pod.reason == "DeadlineExceeded":
        return _Verdict(Cause.TIMEOUT, _join("the cluster ended it because it ran longer than it may", pod.message))
    if ended is not None and ended.reason == "OOMKilled":
        return _Verdict(Cause.OUT_OF_MEMORY, _memory_words(pod))
    taken = _taken(pod)
    if taken is not None:
        return taken
    if ended is None:
        # The kubelet would not take it (OutOfcpu, UnexpectedAdmissionError, NodeAffinity), or its containers are forgotten.
        said = _join(pod.reason or "it said no more", pod.message)
        return _Verdict(Cause.INFRASTRUCTURE, f"pod {pod.name} failed on {node} before anything of it ran: {said}")
    if ended.reason in _NOT_STARTED:
        matched = _RUNC.search(ended.message)
        words = matched[1] if matched else ended.message or f"exit code {ended.code}"
        return _Verdict(Cause.FAILURE, f"its container could not be started: {_short(words)}")
    if ended.reason == "ContainerStatusUnknown":
        return _Verdict(Cause.INFRASTRUCTURE, _join(f"{node} does not know what became of it", ended.message))
    if ended.signal == _KILLED:
        return _Verdict(Cause.INFRASTRUCTURE, "something outside killed it (KILL), and no memory limit was hit")
    if ended.signal in _STOPPED:
        return _Verdict(Cause.PREEMPTION, f"something outside asked it to stop (signal {ended.signal})")
    if ended.code == 0:
        return _Verdict(
            Cause.INFRASTRUCTURE, _join(f"pod {pod.name} failed although its program ended well", pod.message)
        )
    what = f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
    where = f" (container {ended.container})" if ended.container else ""
    tail = f"\nIts last words:\n{ended.message}" if ended.message else ""
    return _Verdict(Cause.FAILURE, f"it ended with {what}{where} and left no record of its own{tail}")


def _memory_words(pod: Pod) -> str:
    return f"it used more memory than its container may, and was killed on {pod.node or 'its node'}"


def _completed(
    parts: Sequence[Sighting], told: Sequence[Report], failed: Sequence[Report], commanded: _Verdict | None
) -> Report:
    """Volcano counts it as completed: what its pods say counts, as far as there are any."""
    if failed:
        found = gang_of(parts).report
        return found if found is not None else failed[0]
    if commanded is not None and len(told) < len(parts):
        return _ended(parts, commanded)
    if not told:
        return Report(
            ReportStatus.COMPLETED, seq=0, message="Volcano says that all of it completed; no pod is left to tell more"
        )
    silent = [
        str(rank)
        for rank, one in enumerate(parts)
        if not (_has_ended(one) and one.report is not None and one.report.status.final)
    ]
    return replace(told[0], detail=f"no record of worker {', '.join(silent)} is left") if silent else told[0]


def _has_ended(part: Sighting) -> bool:
    return part.presence is Presence.PRESENT and not part.alive


def _ended(parts: Sequence[Sighting], verdict: _Verdict) -> Report:
    """The verdict, on top of what the first part had reported by then."""
    base = next((one.report for one in parts if one.report is not None), None) or Report(ReportStatus.FAILED, seq=0)
    _, _, output = base.message.partition("\n")
    message = "\n".join(filter(None, (verdict.sentence, output)))
    code = base.exit_code or None
    return replace(base, status=_status(verdict.cause), cause=verdict.cause, exit_code=code, message=message)


_COMMAND = re.compile(r"command (\w+)")
_COMMANDS = {VcPhase.ABORTED: "AbortJob", VcPhase.TERMINATED: "TerminateJob", VcPhase.COMPLETED: "CompleteJob"}
_COMMAND_WORDS = {
    "AbortJob": "suspended it",
    "TerminateJob": "terminated it",
    "CompleteJob": "had it count as completed",
}


def _commanded(job: VcJob, said: Sequence[Event]) -> _Verdict | None:
    """The last command that Volcano was given for the job, where it explains the phase. A resume takes back what was
    before it."""
    given = [event for event in said if event.kind == "Job" and event.reason == "CommandIssued"]
    matched = _COMMAND.search(given[-1].message) if given else None
    if matched is None or matched[1] != _COMMANDS.get(job.phase):
        return None
    sentence = f"somebody {_COMMAND_WORDS[matched[1]]} with a command to Volcano ({matched[1]})"
    return _Verdict(Cause.CANCELLED, sentence, given[-1].at)


# What an event about a pod, or about the pod group (Evict), says of its end.
_TAINTED = "TaintManagerEviction"
_EVENTS: dict[str, tuple[Cause, str]] = {
    "Evict": (Cause.PREEMPTION, "Volcano's scheduler took its place"),
    "Preempted": (Cause.PREEMPTION, "the scheduler gave its place to another"),
    "Evicted": (Cause.PREEMPTION, "its node evicted it"),
    "Preempting": (Cause.PREEMPTION, "its node gave its place to another"),
    "ScaleDown": (Cause.PREEMPTION, "its node was taken away to make the cluster smaller"),
    "Descheduled": (Cause.PREEMPTION, "it was moved from its node"),
    _TAINTED: (Cause.INFRASTRUCTURE, "its node was lost or tainted, and the cluster deleted the pod"),
    "NodeShutdown": (Cause.INFRASTRUCTURE, "its node was shut down"),
    "DeadlineExceeded": (Cause.TIMEOUT, "it ran longer than the cluster lets it"),
}


def _disrupted(own: Sequence[Pod], said: Sequence[Event]) -> _Verdict | None:
    """The first time that the cluster took a pod of the job away, by its pods' conditions or the events of those that
    are gone."""
    found: list[_Verdict] = []
    unhurt: set[str] = set()
    for pod in own:
        # A pod that completed all the same was not hurt; one that lives may be spared.
        if pod.phase == "Succeeded" or not (pod.over or pod.deleting) or _survived(pod):
            unhurt.add(pod.name)
            continue
        verdict = _taken(pod)
        if verdict is not None:
            found.append(verdict._replace(sentence=f"{pod.name}: {verdict.sentence}"))
    spared = {event.name for event in said if event.reason == _TAINTED and event.message.startswith("Cancel")}
    for event in said:
        known = _EVENTS.get(event.reason)
        if known is None or event.name in unhurt:
            continue
        if event.reason != _TAINTED or event.name not in spared:
            cause, sentence = known
            found.append(_Verdict(cause, _join(f"{event.name}: {sentence}", event.message), event.since))
    return min(found, key=lambda one: one.at if one.at is not None else float("inf"), default=None)


def _survived(pod: Pod) -> bool:
    """Its own record says that it was through before it was taken."""
    found = _record(pod.exit.message) if pod.exit is not None else None
    return found is not None and not found[1]


def _deleted(job: VcJob, own: Sequence[Pod], said: Sequence[Event]) -> _Verdict | None:
    """Every pod that is gone was stopped in the orderly way, and nothing of the cluster's is known to have done it.

    Its place was taken away: a drained node leaves no more than that, and it is not told from a person who deletes a pod. Who
    wants the run to end deletes its job.
    """
    left = {pod.name for pod in own}
    gone = pod_names(job) - left
    killed = [event for event in said if event.kind == "Pod" and event.reason == "Killing" and event.name in gone]
    if not gone or {event.name for event in killed} != gone:
        return None
    first = min(killed, key=lambda event: event.since or 0.0)
    when = f" at {show_time(first.since)}" if first.since is not None else ""
    return _Verdict(
        Cause.PREEMPTION,
        f"pod {first.name} was deleted{when} (by a drain of its node, or `kubectl delete pod`), and Volcano ended the "
        f"rest",
        first.since,
    )


# What was said while the job waited explains no end.
_OF_WAITING = frozenset({"Unschedulable", "PodGroupPending", "FailedScheduling", "FailedCreate"})


def _unexplained(job: VcJob, own: Sequence[Pod], said: Sequence[Event]) -> _Verdict:
    seen: list[str] = []
    if job.reason or job.message:
        seen.append(_join(job.reason or "its state", job.message))
    unready = [event.name for event in said if event.reason == "NodeNotReady"]
    if unready:
        seen.append(f"the node of {unready[0]} stopped answering before")
    last = [
        event
        for event in said
        if (event.warning or event.reason in ("ExecuteAction", "Killing")) and event.reason not in _OF_WAITING
    ]
    if last:
        seen.append(f"the last event is {last[-1].reason} of {last[-1].name}: {_short(last[-1].message)}")
    tail = f" ({'; '.join(seen)})" if seen else " (no event is left either)"
    pods = (
        "no pod is left to tell why"
        if not own
        else f"its pods do not tell why ({', '.join(pod.name for pod in own[:4])})"
    )
    return _Verdict(Cause.INFRASTRUCTURE, f"Volcano ended it as {job.word or 'over'}, and {pods}{tail}")


def _epoch(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _join(sentence: str, words: str) -> str:
    return f"{sentence}: {_short(words)}" if words else sentence


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 500 else f"{line[:496]} ..."

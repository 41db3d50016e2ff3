"""What to do about one job, from what is wanted, what is remembered and what is seen. Pure and total.

`tend` minds the attempt that may be alive; `start` considers a new one. They are two functions because a pass tends all jobs
before it starts any: a dependency that is seen to have finished lets its dependant start in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reconciler.core.actions import Action, Start, Stop, Verb, Verdict, View
from reconciler.core.cause import Cause
from reconciler.core.diff import changes
from reconciler.core.ending import judge
from reconciler.core.job import Desired, JobSpec, Json
from reconciler.core.machine import Machine
from reconciler.core.memory import (
    Adopted,
    Edited,
    Ended,
    Forgotten,
    Launched,
    Line,
    Memory,
    Noticed,
    Refused,
    Unsettled,
    fold,
)
from reconciler.core.observation import Observation, Presence, Report, ReportStatus, Sighting
from reconciler.core.phase import Phase
from reconciler.core.queue import QueueJob, QueueState
from reconciler.core.release import disposal_of, outlived
from reconciler.core.run import Handle, Run
from reconciler.core.solve import Placement, Unplaceable

Decode = Callable[[Mapping[str, Json]], JobSpec]

# How long past its grace a stopping run may take before it is ended without further grace: the supervisor's own KILL comes
# first, so this is reached only when the supervisor is stuck or gone.
STOP_MARGIN_S = 30.0

# A launch command cut off on its way may still be starting on a busy host when we look. A run that is no longer wanted is let
# go only this long after the call was given up; one that is still wanted need not wait, because the same run sent twice is one.
LATE_START_S = 60.0

# How long past its grace a run on a rented machine may not be told to stop, before the machine is deleted under it.
SILENT_S = 300.0


@dataclass(frozen=True, slots=True)
class Tended:
    """The first half of a verdict. `action` or `settled` end it; otherwise the job may start with `memory`."""

    memory: Memory
    lines: tuple[Line, ...]
    view: View | None = None
    action: Action | None = None


def tend(
    memory: Memory,
    desired: Desired | None,
    *,
    frozen: bool,
    prunable: bool,
    stray: Sighting | None,
    observation: Observation,
    decode: Decode,
    now: float,
) -> Tended:
    """Mind the attempt that may be alive: adopt, let go on, stop, or record its end.

    `stray` is the newest run on any host that carries our mark for this job and is not the one in memory. `prunable` is false
    when the source was not read completely: then a missing manifest proves nothing.
    """
    lines: list[Line] = []
    action: Action | None = None
    if stray is not None and stray.machine is not None and not is_readable(stray, decode):
        stray = None
    if memory.run is None and stray is not None and stray.run is not None and _adoptable(memory, desired, stray):
        lines.append(Adopted(stray.run, stray.handle))
        memory = fold(memory, lines[0], now)
        if stray.alive:
            message = f"attempt {stray.run.attempt} on {stray.run.host} carries our mark; it is minded from now on"
            action = Action(Verb.ADOPT, memory.job, "FoundByMark", message, stray.run_id, stray.run.host)
        stray = None
    run = memory.run
    if run is None:
        return Tended(memory, tuple(lines), None, action)
    if observation.look(run.host, run.run_id).presence is Presence.UNKNOWN:
        heir = _heir(run, observation)
        if heir is not None and heir != run.host:
            moved = Edited(run.run_id, replace(run, host=heir))
            lines.append(moved)
            memory, run = fold(memory, moved, now), moved.run
    seen = observation.look(run.host, run.run_id)
    if seen.presence is Presence.UNKNOWN:
        reason = "HostUnknown"
        message = (
            f"{run.host} cannot be asked: {seen.error}. Nothing is done about attempt {run.attempt} until it answers"
        )
        view = _view(memory, run, Phase.UNKNOWN, reason, message, frozen=frozen)
        return Tended(memory, tuple(lines), view, _hold(memory, run, reason, message))
    if seen.presence is Presence.PRESENT and not memory.submitted:
        if seen.run is not None and seen.run.token != run.token and seen.run.owner == run.owner:
            # A claim is exclusive, so ours never happened. Another state of this repository made it (this one is a restored
            # backup): it bears our mark.
            theirs = replace(seen, run=replace(seen.run, host=run.host))
            never: Line = Refused(run.run_id, "its run id was claimed before, by another state of this repository", 0.0)
            after = tend(
                fold(memory, never, now),
                desired,
                frozen=frozen,
                prunable=prunable,
                stray=stray if stray is not None and stray.alive and not seen.alive else theirs,
                observation=observation,
                decode=decode,
                now=now,
            )
            return replace(after, lines=(*lines, never, *after.lines))
        if seen.run is not None and seen.run.token != run.token:
            reason = "OwnershipConflict"
            message = (
                f"run {run.run_id} on {run.host} was claimed by somebody else; `reconciler forget` or rename the job"
            )
            view = _view(memory, run, Phase.HELD, reason, message, frozen=frozen)
            return Tended(memory, tuple(lines), view, _hold(memory, run, reason, message))
        if seen.handle is not None:
            settled = Launched(run.run_id, seen.handle, adopted=True)
            lines.append(settled)
            memory = fold(memory, settled, now)
    begun = seen.machine is not None and seen.handle is not None and bool(seen.handle.native.get("begun"))
    if begun and memory.handle is not None and not memory.handle.native.get("begun") and seen.handle is not None:
        # All its machines had it once: from now on one that says nothing is silent, not new.
        known = Launched(run.run_id, seen.handle)
        lines.append(known)
        memory = fold(memory, known, now)
    open_alive = seen.presence is Presence.PRESENT and seen.alive
    never_began = seen.presence is Presence.ABSENT and not memory.submitted and memory.stop is None
    successor = None
    if stray is not None and stray.run is not None and desired is not None and not open_alive:
        # A later attempt than any we know: this state is older than the world (a restored backup).
        later = stray.run.attempt > memory.attempt
        successor = stray if later or (stray.alive and not never_began) else None
    if stray is not None and stray.run is not None and stray.alive and successor is None:
        message = f"attempt {stray.run.attempt} on {stray.run.host} is alive beside attempt {run.attempt}; it is ended"
        handle = stray.handle or Handle(stray.run_id, stray.run.token, {})
        stop = Stop(stray.run, handle, Cause.REPLACED, 0.0)
        action = Action(Verb.CANCEL, memory.job, "StrayAttempt", message, stray.run_id, stray.run.host, effect=stop)
    if open_alive and action is None and seen.twins:
        action = _end_twin(memory, run, seen)
    if open_alive:
        reason = seen.patience.reason if seen.patience is not None else ""
        if reason != (memory.concern[0] if memory.concern is not None else ""):
            noticed = Noticed(run.run_id, reason)
            lines.append(noticed)
            memory = fold(memory, noticed, now)
        verdict = _alive(memory, run, seen, desired, frozen=frozen, prunable=prunable, decode=decode, now=now)
        lines.extend(verdict.lines)
        return Tended(memory, tuple(lines), verdict.view, action or verdict.action)
    if never_began:
        if successor is None and action is None:
            return _never_started(memory, run, tuple(lines), desired, frozen=frozen, prunable=prunable, now=now)
        if successor is None:
            message = f"the launch of attempt {run.attempt} is unsettled; an older attempt is ended first"
            return Tended(memory, tuple(lines), _view(memory, run, Phase.PENDING, "LaunchUnsettled", message), action)
        over: Line = Refused(run.run_id, "its launch never happened, and a later attempt exists", 0.0)
    else:
        over = _over(memory, run, seen, desired, decode, now)
    lines.append(over)
    memory = fold(memory, over, now)
    if successor is None:
        return Tended(memory, tuple(lines), None, action)
    after = tend(
        memory,
        desired,
        frozen=frozen,
        prunable=prunable,
        stray=successor,
        observation=observation,
        decode=decode,
        now=now,
    )
    return replace(after, lines=(*lines, *after.lines))


def is_readable(seen: Sighting, decode: Decode) -> bool:
    """Can the record of the run that a machine carries be understood? Somebody may have edited it."""
    if seen.run is None:
        return False
    try:
        decode(seen.run.normal)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def _heir(run: Run, observation: Observation) -> str | None:
    """The host that minds the machine of a run whose own host is not in the inventory any more."""
    for host, census in observation.censuses.items():
        seen = census.sightings.get(run.run_id)
        if seen is not None and seen.machine is not None and seen.run is not None and seen.run.token == run.token:
            return host
    return None


def _end_twin(memory: Memory, run: Run, seen: Sighting) -> Action:
    """A submission that was sent again arrived twice. The job that is not minded could never begin; it need not wait either."""
    twin = seen.twins[0]
    minded = seen.handle.native.get("job") if seen.handle else ""
    message = (
        f"attempt {run.attempt} is in the queue of {run.host} twice, as jobs {minded} and {twin}; job {twin} is ended"
    )
    stop = Stop(run, Handle(run.run_id, run.token, {"job": twin, "twin": True}), Cause.REPLACED, 0.0)
    return Action(Verb.CANCEL, memory.job, "StrayAttempt", message, run.run_id, run.host, effect=stop)


def _over(memory: Memory, run: Run, seen: Sighting, desired: Desired | None, decode: Decode, now: float) -> Ended:
    spec = decode(desired.normal if desired is not None else run.normal)
    ended = judge(run, memory, seen, spec.restart, now)
    if desired is not None and (desired.digest, desired.generation) != (run.digest, run.generation) and ended.requeue:
        # The spec has moved on: the next attempt is new work and pays from no budget of the old.
        ended = replace(ended, requeue=False, phase=Phase.PENDING, not_before=0.0)
    # Somebody else's cancel is none of our wishes: nothing to take back.
    ours = memory.stop is not None or (seen.report is not None and seen.report.status is ReportStatus.CANCELLED)
    taken_back = (ended.cause is Cause.CANCELLED and ours and not memory.cancelled) or ended.cause is Cause.DELETED
    if desired is not None and ended.phase is Phase.CANCELLED and taken_back:
        # The stop was asked for, and before it was done the wish was taken back (resume, the manifest restored).
        ended = replace(ended, phase=Phase.PENDING)
    return ended


def _adoptable(memory: Memory, desired: Desired | None, stray: Sighting) -> bool:
    assert stray.run is not None
    if desired is None:
        # Let go by a person or by spec.deletion stays let go. Anything else alive is ours by its mark, so it is minded, and then
        # removed like all that nobody wants: a launch that started late among them.
        return stray.alive and not memory.released
    return stray.alive or stray.run.attempt > memory.known


def _never_started(
    memory: Memory,
    run: Run,
    lines: tuple[Line, ...],
    desired: Desired | None,
    *,
    frozen: bool,
    prunable: bool,
    now: float,
) -> Tended:
    """The submit was never settled and a complete look shows nothing: it did not happen, or has not happened yet.

    Submitting the same run again is safe, because a claim with the same token is the same run. When it is no longer wanted it
    is let go; should it appear after all, its mark brings it back as a stray.
    """
    wanted = desired is not None and (desired.digest, desired.generation) == (run.digest, run.generation)
    if (
        wanted
        and not frozen
        and desired is not None
        and not desired.suspend
        and not memory.suspended
        and not memory.cancelled
    ):
        message = f"the launch of attempt {run.attempt} on {run.host} was cut short and left nothing; it is sent again"
        verb = Verb.LAUNCH if run.attempt == 1 else Verb.REQUEUE
        # What runs is what the manifest says, never what a record says that it said: others may write the state.
        again = replace(run, normal=desired.normal, spec_digest=desired.spec_digest)
        effect = Start(None, run.attempt, run.commit, again=again)
        action = Action(verb, memory.job, "LaunchUnsettled", message, run.run_id, run.host, effect=effect)
        return Tended(memory, lines, _view(memory, run, Phase.PENDING, "LaunchUnsettled", message), action)
    if frozen or (desired is None and not prunable):
        message = f"the launch of attempt {run.attempt} is unsettled and its manifest cannot be read"
        return Tended(memory, lines, _view(memory, run, Phase.HELD, "Frozen", message, frozen=True))
    if not memory.given_up:
        # Whoever sent it is gone before he could say when he gave it up: that was at the latest now.
        silent: Line = Unsettled(run.run_id, "whoever sent it did not come to say what became of it")
        memory, lines = fold(memory, silent, now), (*lines, silent)
    if now - memory.run_at < LATE_START_S:
        message = f"the launch of attempt {run.attempt} on {run.host} was cut short and is no longer wanted; "
        message += "making sure that it does not start late"
        return Tended(memory, lines, _view(memory, run, Phase.PENDING, "LaunchUnsettled", message))
    why = "its launch never happened and it is no longer wanted"
    line: Line = Forgotten(why) if desired is None else Refused(run.run_id, why, 0.0)
    return Tended(fold(memory, line, now), (*lines, line))


def _alive(
    memory: Memory,
    run: Run,
    seen: Sighting,
    desired: Desired | None,
    *,
    frozen: bool,
    prunable: bool,
    decode: Decode,
    now: float,
) -> Verdict:
    report, phase = seen.report, phase_of(seen)
    # What a person asked for does not wait for a manifest to be mended; every other stop does.
    if memory.stop is not None and (not frozen or memory.cancelled or memory.suspended):
        return _stopping(memory, run, seen, decode, now)
    if memory.cancelled:
        return _stop(memory, run, seen, Verb.CANCEL, Cause.CANCELLED, "CancelRequested", "cancelled by request", decode)
    if memory.suspended:
        why = "suspended by request; it checkpoints and stops"
        return _stop(memory, run, seen, Verb.CANCEL, Cause.SUSPENDED, "Suspended", why, decode)
    ending = _must_end(memory, run, seen, (desired or run).normal, decode, now)
    if ending is not None:
        return ending if memory.stop is None else _stopping(memory, run, seen, decode, now)
    if frozen:
        return Verdict(
            _view(
                memory, run, phase, "Frozen", "its manifest is broken; the run goes on untouched", report, frozen=True
            )
        )
    if desired is None:
        return _unwanted(memory, run, seen, phase, prunable=prunable, decode=decode)
    if desired.suspend:
        why = "spec.suspend is true; it checkpoints and stops"
        return _stop(memory, run, seen, Verb.CANCEL, Cause.SUSPENDED, "Suspended", why, decode)
    if (desired.digest, desired.generation) != (run.digest, run.generation):
        found = changes(run.normal, desired.normal)
        what = ", ".join(change.path for change in found[:3]) + ("…" if len(found) > 3 else "") or "spec.generation"
        if decode(desired.normal).on_change == "hold":
            if seen.machine is not None and phase is Phase.PROVISIONING:
                return _provision(memory, run, seen, seen.machine, now)
            message = f"{what} changed, and spec.on_change is hold: the live run goes on as it was launched"
            return Verdict(_view(memory, run, phase, "ChangeHeld", message, report))
        verdict = _stop(memory, run, seen, Verb.REPLACE, Cause.REPLACED, "SpecChanged", f"{what} changed", decode)
        assert verdict.action is not None
        return replace(verdict, action=replace(verdict.action, changes=found))
    lines: tuple[Line, ...] = ()
    if desired.spec_digest != run.spec_digest:
        lines = (Edited(run.run_id, replace(run, spec_digest=desired.spec_digest, normal=desired.normal)),)
    if seen.machine is not None and phase is Phase.PROVISIONING:
        verdict = _provision(memory, run, seen, seen.machine, now, desired)
        return replace(verdict, lines=(*lines, *verdict.lines))
    if seen.queue is not None and phase is Phase.QUEUED:
        return Verdict(_view(memory, run, phase, seen.queue.reason or "Queued", in_queue(seen.queue), report), lines)
    if seen.error and report is None:
        message = f"it was started on {run.host}, and nothing is known of it: {seen.error}"
        return Verdict(_view(memory, run, Phase.UNKNOWN, "WorkersSilent", message), lines)
    if phase is Phase.PREPARING:
        detail = report.detail if report and report.detail else "being set up"
        return Verdict(_view(memory, run, phase, "Preparing", f"{detail} on {run.host}", report), lines)
    if not seen.supervised:
        message = (
            f"running on {run.host}, but its supervisor is gone: no heartbeat, and its exit code will not be known"
        )
        return Verdict(_view(memory, run, phase, "SupervisorLost", message, report), lines)
    message = f"running on {run.host}"
    if seen.machine is not None:
        message += f", {seen.machine.name}" + (f"; it is {seen.machine.words}" if seen.machine.words != "READY" else "")
    if seen.error:
        message += f"; {seen.error}"
    if seen.queue is not None:
        message += f", {seen.queue.nodes}" if seen.queue.nodes else ""
        # Suspended, completing, ...: whatever is not simply running deserves a word.
        message += f"; {seen.queue.sentence}" if seen.queue.sentence and seen.queue.word != "RUNNING" else ""
    return Verdict(_view(memory, run, phase, "Running", message, report), lines)


def _must_end(
    memory: Memory, run: Run, seen: Sighting, normal: Mapping[str, Json], decode: Decode, now: float
) -> Verdict | None:
    """What ends a run whatever its manifest says by now, or whether it can be read: it cannot go on, or costs for nothing."""
    report = seen.report
    if seen.broken:
        said = report.message.partition("\n")[0] if report else "no report"
        why = f"a part of it ended ({said}); the rest is ended too"
        return _stop(memory, run, seen, Verb.CANCEL, Cause.INFRASTRUCTURE, "GangBroken", why, decode)
    patience, concern = seen.patience, memory.concern
    if patience is not None and concern is not None and now - concern[1] > patience.wait_s:
        why = f"{patience.why}; given up after {patience.wait_s:.0f} s"
        return _stop(memory, run, seen, Verb.CANCEL, patience.cause, "GivenUp", why, decode)
    return None if seen.machine is None else _must_end_there(memory, run, seen, seen.machine, normal, decode, now)


def _must_end_there(
    memory: Memory, run: Run, seen: Sighting, machine: Machine, normal: Mapping[str, Json], decode: Decode, now: float
) -> Verdict | None:
    """What ends a run on a rented machine."""
    disposal = disposal_of(machine.disposal, decode(normal).tpu)
    if outlived(machine, disposal, now):
        why = f"{machine.shown} has reached its ttl of {disposal.ttl_s:.0f} s"
        return _stop(memory, run, seen, Verb.CANCEL, Cause.TIMEOUT, "TtlReached", why, decode)
    waited_s = now - max(memory.run_at, machine.waits_from)
    if phase_of(seen) is Phase.PROVISIONING and machine.wait_s is not None and waited_s > machine.wait_s:
        cause = Cause.INFRASTRUCTURE if machine.ready else Cause.CAPACITY
        what = "its run could not be started there" if machine.ready else "it was not made"
        why = f"{machine.shown} is {machine.words}, and {what} within {machine.wait_s:.0f} s; it is given up"
        return _stop(memory, run, seen, Verb.CANCEL, cause, "GivenUp", why, decode)
    return None


def _provision(
    memory: Memory, run: Run, seen: Sighting, machine: Machine, now: float, desired: Desired | None = None
) -> Verdict:
    """Its machine is being made, or waits for the rest of the launch: of the run as `desired` says it, where that is the same."""
    if desired is not None:
        run = replace(run, normal=desired.normal, spec_digest=desired.spec_digest)
    if not seen.unfinished:
        message = f"{machine.shown} is {machine.words}, for {max(0.0, now - memory.run_at):.0f} s now"
        return Verdict(_view(memory, run, Phase.PROVISIONING, "Provisioning", message, seen.report))
    verb = Verb.LAUNCH if run.attempt == 1 else Verb.REQUEUE
    message = f"{machine.shown} is {machine.words}: {seen.unfinished}"
    effect = Start(None, run.attempt, run.commit, again=run, machine=machine)
    action = Action(verb, memory.job, "MachineReady", message, run.run_id, run.host, effect=effect)
    return Verdict(_view(memory, run, Phase.PROVISIONING, "MachineReady", message, seen.report), (), action)


def phase_of(seen: Sighting) -> Phase:
    """How far a living run has come."""
    if seen.machine is not None and (seen.unfinished or not seen.machine.ready):
        return Phase.PROVISIONING
    if seen.queue is not None and seen.queue.state is not QueueState.RUNNING:
        return Phase.QUEUED
    report = seen.report
    return Phase.PREPARING if report is None or report.status is ReportStatus.PREPARING else Phase.RUNNING


def in_queue(job: QueueJob) -> str:
    """Why a job waits behind its scheduler, when it may start, and what to do where waiting will not help."""
    said = job.sentence or (f"the scheduler says {job.word}" + (f" ({job.reason})" if job.reason else ""))
    when = f"; the scheduler expects to start it at {job.starts_at}" if job.starts_at else ""
    return f"job {job.ident}" + (f" in {job.partition}" if job.partition else "") + f": {said}{when}"


def _unwanted(memory: Memory, run: Run, seen: Sighting, phase: Phase, *, prunable: bool, decode: Decode) -> Verdict:
    if not prunable:
        message = "no manifest was found, but the manifests could not all be read: nothing is removed"
        return Verdict(
            _view(memory, run, phase, "SourceIncomplete", message, seen.report),
            (),
            _hold(memory, run, "SourceIncomplete", message),
        )
    if decode(run.normal).deletion == "orphan":
        message = f"its manifest is gone and spec.deletion is orphan: the run on {run.host} goes on, unminded"
        action = Action(Verb.FORGET, memory.job, "Orphaned", message, run.run_id, run.host, destructive=True)
        return Verdict(_view(memory, run, phase, "Orphaned", message, seen.report), (), action)
    verdict = _stop(memory, run, seen, Verb.DELETE, Cause.DELETED, "ManifestRemoved", "its manifest is gone", decode)
    assert verdict.action is not None
    return replace(verdict, action=replace(verdict.action, destructive=True))


def _stopping(memory: Memory, run: Run, seen: Sighting, decode: Decode, now: float) -> Verdict:
    assert memory.stop is not None
    spec = decode(run.normal)
    message = f"{memory.stop.value} on {run.host}; waiting for its processes to end"
    overdue = now - memory.stop_at > (0.0 if memory.stop_forced else spec.grace_s) + STOP_MARGIN_S
    if not seen.stopping or overdue:
        # Either the signal never arrived (a crash between intent and effect) or it was not obeyed in time.
        again = _stop(
            memory,
            run,
            seen,
            Verb.CANCEL,
            memory.stop,
            "StopAgain" if seen.stopping else "StopUnsettled",
            message,
            decode,
        )
        assert again.action is not None
        assert isinstance(again.action.effect, Stop)
        # A machine that costs is not waited for until somebody can be told on it.
        silent = seen.machine is not None and memory.stop_at - memory.stop_since > spec.grace_s + SILENT_S
        effect = replace(again.action.effect, forced=bool(seen.stopping) or silent)
        return replace(again, action=replace(again.action, effect=effect))
    return Verdict(_view(memory, run, Phase.TERMINATING, "Stopping", message, seen.report))


def _stop(
    memory: Memory, run: Run, seen: Sighting, verb: Verb, cause: Cause, reason: str, message: str, decode: Decode
) -> Verdict:
    handle = seen.handle or memory.handle or Handle(run.run_id, run.token, {})
    effect = Stop(run, handle, cause, decode(run.normal).grace_s, machine=seen.machine)
    phase = Phase.TERMINATING if memory.stop else phase_of(seen)
    action = Action(verb, memory.job, reason, message, run.run_id, run.host, effect=effect)
    return Verdict(_view(memory, run, phase, reason, message, seen.report), (), action)


def _hold(memory: Memory, run: Run, reason: str, message: str) -> Action:
    return Action(Verb.HOLD, memory.job, reason, message, run.run_id, run.host)


def _view(
    memory: Memory,
    run: Run,
    phase: Phase,
    reason: str,
    message: str,
    report: Report | None = None,
    *,
    frozen: bool = False,
) -> View:
    native = memory.handle.native if memory.handle else {}
    ident = native.get("job") or native.get("pid")
    return View(
        memory.job,
        phase,
        reason,
        message,
        host=run.host,
        attempt=run.attempt,
        run_id=run.run_id,
        handle="" if ident is None else str(ident),
        progress=report.progress if report else None,
        checkpoint_step=report.checkpoint_step if report else None,
        last_heartbeat=report.last_heartbeat if report else "",
        frozen=frozen,
    )


# --- a new attempt ----------------------------------------------------------------------------------------------------


def rest(memory: Memory, desired: Desired) -> View | None:
    """The job's view when it has finished or is told to rest, else None: then it wants to start."""
    stone = memory.tombstone
    if stone is not None and (stone.digest, stone.generation) == (desired.digest, desired.generation):
        reason = {Phase.SUCCEEDED: "Finished", Phase.CANCELLED: "Cancelled"}.get(stone.phase, "BudgetSpent")
        message = stone.message
        if memory.stalled:
            reason = "Stalled"
        elif stone.phase is not Phase.SUCCEEDED:
            message += "; to run it again, raise spec.generation"
        return View(
            memory.job,
            stone.phase,
            reason,
            message,
            stone.host,
            memory.attempt,
            stone.run_id,
            exit_code=stone.exit_code,
        )
    if memory.cancelled and memory.cancelled_for in (None, (desired.digest, desired.generation)):
        message = "cancelled by request before it ran; `reconciler resume` or a new generation starts it"
        return View(memory.job, Phase.CANCELLED, "Cancelled", message, attempt=memory.attempt)
    if desired.suspend or memory.suspended:
        why = "spec.suspend is true" if desired.suspend else "suspended by request; `reconciler resume` starts it again"
        return View(memory.job, Phase.SUSPENDED, "Suspended", why, memory.last_host, memory.attempt)
    return None


def launch(memory: Memory, desired: Desired, placement: Placement) -> Verdict:
    """A new attempt at `placement`: a requeue when the same work ran before, else a launch."""
    same = memory.pin_for == (desired.digest, desired.generation) and memory.attempt > 0
    attempt = memory.attempt + 1
    where = placement.host
    if placement.words:
        where += f", {placement.words}"
    elif placement.gpus:
        where += f", {len(placement.gpus)} {placement.chip or 'chips'}"
    if same and memory.last_end:
        verb, reason, message = (
            Verb.REQUEUE,
            "AttemptEnded",
            f"attempt {attempt} on {where}; before: {_was(memory)}",
        )
    elif memory.attempt and not same:
        verb, reason, message = Verb.LAUNCH, "NewSpec", f"attempt {attempt} on {where}: new spec or generation"
    else:
        verb, reason, message = Verb.LAUNCH, "New", f"on {where}"
    effect = Start(placement, attempt, memory.pin if same else None)
    action = Action(verb, desired.key, reason, message, host=placement.host, effect=effect)
    view = View(desired.key, Phase.PENDING, reason, message, placement.host, attempt, next_try=0.0)
    return Verdict(view, (), action)


def wait(
    memory: Memory,
    desired: Desired,
    reason: str,
    message: str,
    *,
    held: bool = False,
    next_try: float = 0.0,
    unplaceable: Unplaceable | None = None,
) -> Verdict:
    """Not now: a view that says what is waited for, and a hold when a person has to do something."""
    view = View(
        desired.key,
        Phase.HELD if held else _waiting_phase(memory),
        reason,
        message,
        memory.last_host,
        memory.attempt,
        next_try=next_try,
        passed_over=unplaceable.reasons if unplaceable else (),
    )
    action = Action(Verb.HOLD, desired.key, reason, message) if held else None
    return Verdict(view, (), action)


def _waiting_phase(memory: Memory) -> Phase:
    if memory.last_phase in (Phase.PREEMPTED, Phase.LOST) and memory.tombstone is None:
        return memory.last_phase
    return Phase.PENDING


def _was(memory: Memory) -> str:
    sentence = memory.last_end.partition("\n")[0]
    return sentence if len(sentence) <= 160 else sentence[:159] + "…"

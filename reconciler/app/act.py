"""Carry out a plan: intent, effect, settle.

All intents of a pass are one durable transaction, written before the first effect. Each host's effects run on its lane; their
results are settled as they come back. A crash anywhere leaves an intent that the next pass resolves by looking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.excerpt import with_excerpts
from reconciler.app.lanes import Lanes
from reconciler.app.ports import Package, Ports, Progress
from reconciler.core.actions import Action, Release, Start, Stop, Verb
from reconciler.core.backoff import delay_s
from reconciler.core.cause import Cause
from reconciler.core.cooling import BLAMED_REASONS
from reconciler.core.cost import cost_of
from reconciler.core.errors import AccessRefused, LockHeld, ReconcilerError, Rejected, Retry, Unreachable
from reconciler.core.job import Desired, JobSpec
from reconciler.core.machine import Machine
from reconciler.core.memory import (
    Billed,
    Deferred,
    Ended,
    Forgotten,
    Launched,
    Launching,
    Line,
    Memory,
    Refused,
    Releasing,
    Stopped,
    Stopping,
    Unsettled,
)
from reconciler.core.names import JobKey, run_id
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan
from reconciler.core.protocols import Accepted, Backend, Declined, Facts, Known, Rents, Store, Submission
from reconciler.core.run import Run
from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one action, for people. `ok` is false when it did not happen or may not have happened."""

    action: Action
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class _Ready:
    """A start whose code and secrets are at hand. `again`: the same run was sent before, and nobody knows what became of it."""

    action: Action
    run: Run
    spec: JobSpec
    package: Package
    secrets: Mapping[str, Secret]
    chip: str | None
    heir_of: str
    again: bool = False
    machine: Machine | None = None
    sweep: str = ""
    parallel: int | None = None


@dataclass(slots=True)
class _HostWork:
    stops: list[tuple[Action, Stop]] = field(default_factory=list)
    releases: list[tuple[Action, Release]] = field(default_factory=list)
    starts: list[_Ready] = field(default_factory=list)


def act(
    made: Plan,
    desired: Mapping[JobKey, Desired],
    memories: Mapping[JobKey, Memory],
    ports: Ports,
    lanes: Lanes,
    *,
    commit: str,
    why: str,
    scanned: Iterable[str] = (),
    progress: Progress | None = None,
    report: Callable[[Done], None] | None = None,
) -> list[Done]:
    """Do everything in `made`, at most one effect per job.

    `scanned` hosts were looked at completely. That is remembered once what was found there is, and before an effect shows that
    there is more to find. Raises StoreError or LockHeld before any effect that could not be recorded; errors of hosts are
    results.
    """
    done: list[Done] = []

    def note(item: Done) -> None:
        done.append(item)
        if report is not None:
            report(item)

    leave = _Leave(ports.store)
    lines: list[tuple[JobKey, Line]] = with_excerpts(made.lines, memories, ports, lanes, tick=leave.renew)
    work: dict[str, _HostWork] = {}
    packages: dict[tuple[object, ...], Package] = {}
    for action in made.actions:
        match action.effect:
            case Start() as start:
                ready = _prepare(action, start, desired, memories, ports, packages, commit or None)
                if isinstance(ready, ReconcilerError):
                    wait_s = delay_s(
                        ports.decode(desired[action.job].normal).restart.backoff, _tries(memories, action.job)
                    )
                    lines.append((action.job, Deferred(ready.message, ports.clock.now() + wait_s)))
                    note(Done(action, False, str(ready)))
                    continue
                price = start.placement.price_per_hour if start.placement is not None else None
                lines.append((action.job, Launching(ready.run, action.verb is Verb.REQUEUE, price)))
                work.setdefault(ready.run.host, _HostWork()).starts.append(ready)
            case Stop() as stop:
                # A stray is not the run that memory minds: its intent is journaled and changes nothing there.
                intent: Line = Stopping(stop.run.run_id, stop.cause, stop.forced)
                if action.reason == "StrayAttempt":
                    intent = Unsettled(stop.run.run_id, action.message)
                lines.append((action.job, intent))
                work.setdefault(stop.run.host, _HostWork()).stops.append((action, stop))
            case Release() as release:
                machine = release.machine
                lines.append((action.job, Releasing(machine.run_id, machine.shown, action.message.partition(": ")[2])))
                work.setdefault(action.host, _HostWork()).releases.append((action, release))
            case None if action.verb is Verb.FORGET:
                lines.append((action.job, Forgotten(action.message, released=True)))
                note(Done(action, True, action.message))
            case None if action.verb is Verb.ADOPT:
                note(Done(action, True, action.message))
    ports.store.append(lines, commit=commit, why=why)
    ports.store.mark_scanned(scanned)
    if not work:
        return done
    calls = {host: _on_lane(host, item, ports, progress, leave) for host, item in work.items()}
    for host, results in lanes.each(calls, tick=leave.renew):
        settled, items, rescan = _settle(host, work[host], results, desired, memories, ports)
        if rescan:
            # Before the refusal that asks for it is settled: else a crash between the two would forget that there is more to see.
            ports.store.unmark_scanned(host)
        ports.store.append(settled, commit=commit, why=why)
        for item in items:
            note(item)
    return done


def _tries(memories: Mapping[JobKey, Memory], job: JobKey) -> int:
    memory = memories.get(job)
    return (memory.unlucky if memory else 0) + 1


def _prepare(
    action: Action,
    start: Start,
    desired: Mapping[JobKey, Desired],
    memories: Mapping[JobKey, Memory],
    ports: Ports,
    packages: dict[tuple[object, ...], Package],
    head: str | None,
) -> _Ready | ReconcilerError:
    """Everything that can fail on this side, before any intent: the commit, the archive, the secrets."""
    wanted = desired[action.job]
    spec = ports.decode(start.again.normal if start.again else wanted.normal)
    host = start.again.host if start.again else action.host
    try:
        key = (spec.source, start.pin)
        if key not in packages:
            packages[key] = ports.shipper.prepare(spec, start.pin, head)
        package = packages[key]
        secrets = ports.secrets(spec, host)
    except ReconcilerError as error:
        return error
    memory = memories.get(action.job) or Memory(action.job)
    if start.again is not None:
        chip = spec.request.chip
        again = _Ready(action, start.again, spec, package, secrets, chip, memory.heir_of, True)
        return replace(again, machine=start.machine, sweep=wanted.sweep, parallel=wanted.parallel)
    assert start.placement is not None
    same = memory.pin_for == (wanted.digest, wanted.generation)
    run = Run(
        job=action.job,
        run_id=run_id(action.job, wanted.digest, start.attempt),
        attempt=start.attempt,
        token=ports.token(),
        digest=wanted.digest,
        spec_digest=wanted.spec_digest,
        generation=wanted.generation,
        host=host,
        owner=ports.owner,
        gpus=start.placement.gpus,
        commit=package.commit,
        dirty=package.dirty,
        spent={cause.value: count for cause, count in memory.spent.items()} if same else {},
        normal=wanted.normal,
        place=start.placement.place,
    )
    action, chip = replace(action, run_id=run.run_id), start.placement.chip
    return _Ready(
        action, run, spec, package, secrets, chip, memory.heir_of, sweep=wanted.sweep, parallel=wanted.parallel
    )


_Result = Accepted | Declined | ReconcilerError
# Our own word for a launch that was not even sent, because its code could not be.
_UNDELIVERED = "undelivered"


@dataclass(frozen=True, slots=True)
class _Results:
    stops: tuple[str | ReconcilerError, ...]
    releases: tuple[str | ReconcilerError, ...]
    starts: Mapping[str, _Result]


class _Leave:
    """May an effect still be made? Lanes ask before each: a process that slept through its lock's term, or was told that another
    reconciler has it, does nothing more. It is set by the pass's thread and read by all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lost = False

    def renew(self) -> None:
        """Keep the lock. Raises LockHeld or StoreError, and from then on nothing may be done."""
        try:
            self._store.renew()
        except ReconcilerError:
            self._lost = True
            raise

    def check(self) -> None:
        """Raises LockHeld."""
        if self._lost or not self._store.holds():
            raise LockHeld(
                "The lock of this repository's state was lost before this was done; whoever has it now looks again"
            )


def _on_lane(
    host: str, work: _HostWork, ports: Ports, progress: Progress | None, leave: _Leave
) -> Callable[[], _Results]:
    """The work of one host: stops and deletions first, for they free what the starts need; then one submit for all starts."""

    def call() -> _Results:
        backend = ports.backends(host)
        stops: list[str | ReconcilerError] = []
        for _, stop in work.stops:
            try:
                leave.check()
                known = Known(stop.run, stop.handle)
                stops.append(backend.cancel(known, reason=stop.cause.value, grace_s=stop.grace_s, force=stop.forced))
            except ReconcilerError as error:
                stops.append(error)
        releases = tuple(_release(backend, release, leave) for _, release in work.releases)
        starts = _start_all(host, work.starts, ports, progress, leave, send=False)
        missing = [ready for ready in work.starts if _is_missing(starts.get(ready.run.run_id))]
        if missing:
            starts |= _start_all(host, missing, ports, progress, leave, send=True)
        return _Results(tuple(stops), releases, starts)

    return call


def _release(backend: Backend, release: Release, leave: _Leave) -> str | ReconcilerError:
    assert isinstance(backend, Rents)
    try:
        leave.check()
        return backend.release(release.machine)
    except ReconcilerError as error:
        return error


def _start_all(
    host: str, starts: Sequence[_Ready], ports: Ports, progress: Progress | None, leave: _Leave, *, send: bool
) -> dict[str, _Result]:
    """Submit all starts of a host in one call (in as many as its batches need). `send`: bring their code there first."""
    backend = ports.backends(host)
    results: dict[str, _Result] = {}
    submissions: list[Submission] = []
    for ready in starts:
        try:
            tree = ports.shipper.deliver(host, ready.package, progress, send=send)
            submissions.append(
                backend.render(
                    ready.run,
                    Facts(ready.spec, tree, ready.secrets, ready.chip, ready.heir_of, ready.sweep, ready.parallel),
                )
            )
        except ReconcilerError as error:
            results[ready.run.run_id] = Declined(_UNDELIVERED, error.message)
    for first in range(0, len(submissions), backend.capabilities.batch_max):
        batch = submissions[first : first + backend.capabilities.batch_max]
        try:
            leave.check()
            results.update(backend.submit(batch))
        except ReconcilerError as error:
            results.update({item.run.run_id: error for item in batch})
    return results


def _is_missing(result: _Result | None) -> bool:
    return isinstance(result, Declined) and result.reason == "missing"


def _settle(
    host: str,
    work: _HostWork,
    results: _Results | ReconcilerError,
    desired: Mapping[JobKey, Desired],
    memories: Mapping[JobKey, Memory],
    ports: Ports,
) -> tuple[list[tuple[JobKey, Line]], list[Done], bool]:
    """Journal lines and reports for what one host's lane brought back, and whether that host needs a complete look."""
    rescan = False
    lines: list[tuple[JobKey, Line]] = []
    items: list[Done] = []
    for index, (action, stop) in enumerate(work.stops):
        outcome = results if isinstance(results, ReconcilerError) else results.stops[index]
        if isinstance(outcome, ReconcilerError):
            lines.append((action.job, Unsettled(stop.run.run_id, outcome.message)))
            items.append(Done(action, False, f"{outcome.message}; the next pass looks and asks again"))
        else:
            lines.append((action.job, Stopped(stop.run.run_id, outcome)))
            if stop.machine is not None:
                lines.append((action.job, _bill(stop.machine, ports)))
            items.append(Done(action, True, outcome))
    for index, (action, release) in enumerate(work.releases):
        outcome = results if isinstance(results, ReconcilerError) else results.releases[index]
        if isinstance(outcome, ReconcilerError):
            said = f"{release.machine.shown} is not deleted, and goes on costing: {outcome}; the next pass asks again"
            items.append(Done(action, False, said))
        else:
            lines.append((action.job, _bill(release.machine, ports)))
            items.append(Done(action, True, outcome))
    for ready in work.starts:
        run = ready.run
        result: _Result | None = results if isinstance(results, ReconcilerError) else results.starts.get(run.run_id)
        match result:
            case Accepted(handle, repeated, words):
                lines.append((run.job, Launched(run.run_id, handle)))
                job = handle.native.get("job")
                began = words or (f"in the queue as job {job}" if job else "started")
                parts = (
                    f"was already there{f' as job {job}' if job else ''}" if repeated and not words else began,
                    *ready.package.notes,
                )
                items.append(Done(ready.action, True, "; ".join(parts)))
            case Declined(_, message, True):
                lines.append((run.job, _refused_for_good(run, message)))
                items.append(
                    Done(ready.action, False, f"{message}. It is not tried again until spec.generation is raised")
                )
            case Declined(reason, message, _, cause) if _is_settled(ready, reason):
                if reason in ("fenced", "claimed", "alive"):
                    # The host knows an attempt that we do not: look at everything there before trying again.
                    rescan = True
                blamed = reason in BLAMED_REASONS
                later = _next_try(run, desired, memories, ports)
                lines.append((run.job, Refused(run.run_id, message, later, cause, blamed)))
                items.append(Done(ready.action, False, message))
            case ReconcilerError() as error if error.retry is not Retry.AFTER_LOOKING and not ready.again:
                later = _next_try(run, desired, memories, ports)
                # What refuses a whole call lies with the host: no way there, no entry, or a runtime that does not start.
                blamed = isinstance(error, (Unreachable, AccessRefused, Rejected))
                lines.append((run.job, Refused(run.run_id, error.message, later, blamed=blamed)))
                items.append(Done(ready.action, False, str(error)))
            case _:
                # What was sent before may still be on its way: that this call did nothing does not settle it. Only the host's
                # own word does.
                said = result.message if result is not None else f"{host} did not answer for this run"
                lines.append((run.job, Unsettled(run.run_id, said)))
                items.append(Done(ready.action, False, f"{said}; whether it started is seen at the next pass"))
    return lines, items, rescan


def _is_settled(ready: _Ready, reason: str) -> bool:
    """Does this refusal say that the run did not start, and never will?"""
    if not ready.again:
        return True
    # Code that is missing right after it was brought: on a machine of its own nothing else can start the run, and the machine
    # goes with whatever has begun on it. It costs, so that it is not asked the same at every pass.
    return reason != _UNDELIVERED and (reason != "missing" or ready.machine is not None)


def _bill(machine: Machine, ports: Ports) -> Billed:
    """What it has cost until now, when its end was asked for: asked for again, what stands then counts."""
    return Billed(machine.run_id, machine.key, cost_of(machine, ports.clock.now()))


def _refused_for_good(run: Run, message: str) -> Line:
    return Ended(run.run_id, Phase.FAILED, Cause.REFUSED, None, message, requeue=False, lasted=False, not_before=0.0)


def _next_try(run: Run, desired: Mapping[JobKey, Desired], memories: Mapping[JobKey, Memory], ports: Ports) -> float:
    spec = ports.decode(desired[run.job].normal if run.job in desired else run.normal)
    return ports.clock.now() + delay_s(spec.restart.backoff, _tries(memories, run.job))

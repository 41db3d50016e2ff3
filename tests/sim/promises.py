"""What must hold whenever the reconciler writes a line, decides a pass or touches a host, judged by what the world itself knows.

Each check stands apart from the code it judges: it counts, compares and remembers for itself, so that a mistake there is not
repeated here. tests/sim/planted shows that each of them finds something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reconciler.backends.fake import FakeMachine, Process
from reconciler.core.actions import Start, Stop
from reconciler.core.cause import Cause
from reconciler.core.job import JobSpec
from reconciler.core.memory import (
    Adopted,
    Deferred,
    Ended,
    Forgotten,
    Launched,
    Launching,
    Line,
    Memory,
    Refused,
    Stopping,
)
from reconciler.core.names import JobKey
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Known
from reconciler.core.run import Run
from reconciler.load.normal import decode

if TYPE_CHECKING:
    from reconciler.app.converge import Pass
    from reconciler.app.ports import DesiredState
    from tests.sim.world import Incarnation, SimWorld

Work = tuple[str, int]  # digest and generation


class Promises:
    """One world's memory of what was promised."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self.tokens: dict[str, str] = {}
        self.not_before: dict[JobKey, float] = {}
        self.work: dict[JobKey, Work] = {}
        self.paid: dict[JobKey, Counter[Cause]] = {}
        self.told_done: set[tuple[JobKey, Work]] = set()
        self.first_stop: dict[str, float] = {}
        self.released: set[str] = set()

    def state_lost(self) -> None:
        """Whoever has lost the state may begin to count anew. What was let go of, and what is done, he finds on the hosts."""
        self.tokens.clear()
        self.not_before.clear()
        self.work.clear()
        self.paid.clear()
        self.released.clear()

    # --- a pass that was decided

    def decided(self, incarnation: Incarnation, seen: Pass) -> None:
        """Nothing is done, and no end is believed, where the answer does not say so; the guard has looked at what is removed."""
        censuses = seen.world.observation.censuses
        for action in seen.plan.effects:
            census = censuses.get(action.host)
            if isinstance(action.effect, Start):
                again = census.sightings.get(action.run_id) if census is not None and action.effect.again else None
                told = again is not None and again.presence is not Presence.UNKNOWN  # of this run, though not of all
                answered = told or (census is not None and census.complete)
                assert answered, f"{action.job}: launched on {action.host}, which gave no answer"
            if isinstance(action.effect, Stop):
                sighting = census.sightings.get(action.run_id) if census is not None else None
                present = sighting is not None and sighting.presence is Presence.PRESENT
                assert present, f"{action.run_id} was to be stopped, and was not seen"
        for job, line in seen.plan.lines:
            if isinstance(line, Ended):
                self._was_seen_to_end(job, line, seen)
        removed = sum(action.destructive for action in seen.plan.actions)
        live = sum(memory.run is not None for memory in self._world.folded.values())
        live += sum(isinstance(line, Adopted) for _, line in seen.plan.lines)
        confirmed = incarnation.allowed == removed or seen.plan.refusal is not None
        assert confirmed or removed < 2 or removed * 4 <= live, (
            f"{removed} of {live} live jobs removed, and nobody was asked"
        )
        everything = removed and removed >= live and not seen.state.desired
        assert confirmed or not everything, "everything was removed, and nobody was asked"

    def _was_seen_to_end(self, job: JobKey, line: Ended, seen: Pass) -> None:
        memory = self._world.folded.get(job)
        adopted = [one.run for key, one in seen.plan.lines if key == job and isinstance(one, Adopted)]
        runs = [*adopted, *([memory.run] if memory is not None and memory.run is not None else [])]
        run = next((run for run in runs if run.run_id == line.run_id), None)
        assert run is not None, f"{line.run_id} was taken for over, and is not minded"
        census = seen.world.observation.censuses.get(run.host)
        sighting = census.sightings.get(run.run_id) if census is not None else None
        proved = sighting.presence is not Presence.UNKNOWN if sighting is not None else census and census.complete
        assert proved, f"{run.run_id} was taken for over, and {run.host} had not said so"

    # --- a line of the journal

    def line(self, incarnation: Incarnation, job: JobKey, line: Line, before: Memory) -> None:
        """`before` is the memory that this line is about to change."""
        state = incarnation.seen.state if incarnation.seen is not None else None
        match line:
            case Launching(run=run):
                assert state is not None
                self._launching(job, run, state)
            case Launched(run_id=run_id, handle=handle):
                if before.run is not None and before.run.run_id == run_id and self._is_kept(before.run):
                    process = self._process(before.run)
                    assert process is not None, f"{run_id} was settled as launched, and {before.run.host} never saw it"
                    assert process.run.token == before.run.token == handle.token, f"{run_id} belongs to somebody else"
            case Ended():
                if before.run is not None and before.run.run_id == line.run_id:
                    self._ended(job, before.run, line, incarnation.seen)
            case Refused(run_id=run_id, not_before=not_before):
                self.not_before[job] = not_before
                process = self._process(before.run) if before.run is not None and before.run.run_id == run_id else None
                ours = process is not None and before.run is not None and process.run.token == before.run.token
                assert not ours or process is None or not process.alive, f"{run_id} was taken for refused, and lives"
            case Deferred(not_before=not_before):
                self.not_before[job] = not_before
            case Adopted(run=run):
                assert run.run_id not in self.released or (state is not None and job in state.desired), (
                    f"{run.run_id} was let go of, and is minded again"
                )
                self.work[job] = (run.digest, run.generation)
                self.paid[job] = Counter({Cause(name): count for name, count in run.spent.items()})
            case Stopping():
                assert state is not None
                self._stopping(job, line, before, state)
            case Forgotten(released=released):
                self.not_before.pop(job, None)
                self.work.pop(job, None)
                if state is not None and not released:
                    assert state.complete, f"{job} was forgotten, and the manifests could not all be read"
                    assert job not in state.desired | state.frozen, f"{job} was forgotten, and is wanted"
                if state is not None and released and before.run is not None:
                    assert state.complete, f"{job} was let go of, and the manifests could not all be read"
                    assert job not in state.desired | state.frozen, f"{job} was let go of, and is wanted"
                    assert decode(before.run.normal).deletion == "orphan", (
                        f"{job} was let go of, and nobody had asked for it"
                    )
                    self.released.add(before.run.run_id)
            case _:
                pass

    def _launching(self, job: JobKey, run: Run, state: DesiredState) -> None:
        wanted, now = state.desired.get(job), self._world.clock.now()
        assert job not in state.frozen, f"{job} was launched, and its manifest is broken"
        assert wanted is not None, f"{job} was launched, and nobody wants it"
        assert not wanted.suspend, f"{job} was launched, and is suspended"
        assert (wanted.digest, wanted.generation) == (run.digest, run.generation), f"{run.run_id} is not what is wanted"
        assert self.tokens.setdefault(run.run_id, run.token) == run.token, f"{run.run_id} names two attempts"
        if (run.run_id, run.token) in self._world.intents:
            return
        assert now >= self.not_before.get(job, 0.0), f"{run.run_id} was launched before its time"
        for other in wanted.depends_on:
            needed = state.desired.get(other)
            done = needed is not None and self._has_completed(other, (needed.digest, needed.generation))
            assert done, f"{run.run_id} was launched, and {other} has not succeeded"
        work = (run.digest, run.generation)
        if self.work.get(job) != work:
            self.work[job], self.paid[job] = work, Counter()

    def _ended(self, job: JobKey, run: Run, line: Ended, seen: Pass | None) -> None:
        assert seen is not None
        process, now = self._process(run), seen.world.now
        assert process is None or not process.alive, f"{run.run_id} was taken for over, and lives"
        if line.phase.value == "Succeeded":
            self.told_done.add((job, (run.digest, run.generation)))
            final = process.final if process is not None else None
            completed = final is not None and final.status is ReportStatus.COMPLETED
            assert completed or not self._is_kept(run), f"{run.run_id} was taken for succeeded, and it ended otherwise"
        self.not_before[job] = line.not_before
        if not line.requeue:
            return
        assert process is not None or not self._is_kept(run), (
            f"{run.run_id} was paid from a budget, and never was on {run.host}"
        )
        restart = self._spec(job, run, seen.state).restart
        assert line.cause is not None
        limit, paid = budget_of(restart, line.cause), self.paid.setdefault(job, Counter())
        assert limit is None or paid[line.cause] < limit, f"{job} was requeued more than {limit} times for {line.cause}"
        paid[line.cause] += 1
        first = min(restart.backoff.initial_s, restart.backoff.max_s)
        assert line.not_before >= now + first, f"{job} is requeued without a pause"

    def _stopping(self, job: JobKey, line: Stopping, before: Memory, state: DesiredState) -> None:
        run, now = before.run, self._world.clock.now()
        assert run is not None, f"{line.run_id} was stopped, and nothing is minded"
        assert run.run_id == line.run_id, f"{line.run_id} was stopped, and is not what is minded"
        wanted, again = state.desired.get(job), before.stop is not None
        since = self.first_stop.setdefault(run.run_id, now) if not again else self.first_stop.get(run.run_id, now)
        if line.forced:
            assert now - since >= decode(run.normal).grace_s, f"{run.run_id} was killed within its grace"
        # What cannot go on, or costs for nothing, ends whatever its manifest says by now.
        useless = line.cause not in (Cause.REPLACED, Cause.DELETED, Cause.SUSPENDED)
        assert job not in state.frozen or before.cancelled or before.suspended or useless, (
            f"{run.run_id} was stopped, and is frozen"
        )
        if again:
            assert line.cause is before.stop, f"{run.run_id} was stopped for {before.stop}, and now for {line.cause}"
            return
        reason = {
            Cause.DELETED: wanted is None and state.complete,
            Cause.REPLACED: wanted is not None
            and (wanted.digest, wanted.generation) != (run.digest, run.generation)
            and decode(wanted.normal).on_change == "replace",
            Cause.SUSPENDED: before.suspended or (wanted is not None and wanted.suspend),
            Cause.CANCELLED: before.cancelled,
        }.get(line.cause, True)
        assert reason, f"{run.run_id} was stopped as {line.cause}, and nobody wished it"

    # --- an effect

    def acts(self, incarnation: Incarnation) -> None:
        """Whoever touches a host has the lock, as the state itself says."""
        epoch, expires = incarnation.store._db.execute("SELECT epoch, expires FROM lock").fetchone()
        assert epoch == incarnation.store._epoch, f"{incarnation.actor} acts, and another one has the lock"
        assert self._world.clock.now() <= expires, f"{incarnation.actor} acts on a lock that has expired"

    def cancels(self, known: Known, grace_s: float, *, force: bool) -> None:
        """What we mind is given its grace; strays and twins are not waited for."""
        minded = (self._world.folded.get(known.run.job) or Memory(known.run.job)).run
        twin = known.handle is not None and known.handle.native.get("twin")
        if not force and not twin and minded is not None and minded.run_id == known.run.run_id:
            asked = decode(known.run.normal).grace_s
            assert grace_s >= asked, f"{known.run.run_id} was given {grace_s} s to end, {asked} were promised"

    def starts(self, machine: FakeMachine, process: Process) -> None:
        """It runs where it may, with as much as it asked for."""
        run = process.run
        request = decode(run.normal).request
        named = machine.name if machine.name in self._world.machines else run.host
        assert not request.hosts or named in request.hosts, f"{run.run_id} runs on {named}"
        if run.gpus is not None:
            assert len(run.gpus) >= request.min_chips, f"{run.run_id} got {len(run.gpus)} of {request.min_chips} chips"

    def stops(self, process: Process) -> None:
        """What was let go of is let be."""
        assert process.run.run_id not in self.released or self._minded(process.run), (
            f"{process.run.run_id} was let go of"
        )

    # ---

    def _minded(self, run: Run) -> bool:
        minded = (self._world.folded.get(run.job) or Memory(run.job)).run
        return minded is not None and minded.run_id == run.run_id

    def _is_kept(self, run: Run) -> bool:
        """Does its machine stay? What ran on one that was rented goes with it, and proves nothing afterwards."""
        return run.host in self._world.machines

    def _process(self, run: Run) -> Process | None:
        machine = self._world.machines.get(run.host)
        if machine is None:
            return None
        machine.settle()
        return machine.processes.get(run.run_id)

    def _has_completed(self, job: JobKey, work: Work) -> bool:
        return any(
            process.run.job == job
            and (process.run.digest, process.run.generation) == work
            and process.final is not None
            and process.final.status is ReportStatus.COMPLETED
            for machine in self._world.everywhere()
            for process in machine.processes.values()
        )

    def _spec(self, job: JobKey, run: Run, state: DesiredState) -> JobSpec:
        wanted = state.desired.get(job)
        return decode(wanted.normal if wanted is not None else run.normal)


_BUDGETS: Mapping[Cause, str] = {
    Cause.PREEMPTION: "preemption",
    Cause.CAPACITY: "preemption",
    Cause.QUOTA: "preemption",
    Cause.INFRASTRUCTURE: "infrastructure",
    Cause.FAILURE: "failure",
    Cause.TIMEOUT: "timeout",
    Cause.OUT_OF_MEMORY: "out_of_memory",
    Cause.CANCELLED: "cancelled",
}


def budget_of(restart: object, cause: Cause) -> int | None:
    """How often the manifest allows a requeue for this cause; what it does not name is never requeued."""
    name = _BUDGETS.get(cause)
    return getattr(restart, name) if name is not None else 0

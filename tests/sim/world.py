"""A simulated world: machines, a repository of manifests, a virtual clock, and the real reconciler on its real store.

Nothing here takes wall time or depends on threads, so a seed replays exactly. The promises of DESIGN section 2 are checked at
the moment of each effect (`_started`, `_stopped`, Gate) and after each pass (`check`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from reconciler.app.converge import Moved, Options, Pass, Reconciler
from reconciler.app.lanes import Lanes, T
from reconciler.app.ports import DesiredState, Package, Ports
from reconciler.app.wiring import chip_of
from reconciler.backends.fake import Course, FakeBackend, FakeMachine, Fault, Process
from reconciler.backends.fake_queue import FakeCluster
from reconciler.core.errors import LockHeld, Problem, ReconcilerError
from reconciler.core.job import Desired, JobSpec
from reconciler.core.machine import Machine
from reconciler.core.memory import Ended, Forgotten, Launching, Line, Memory, Releasing, Stopping, Unsettled, fold
from reconciler.core.names import JobKey
from reconciler.core.observation import Census, ReportStatus
from reconciler.core.partitions import QueueView
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan
from reconciler.core.protocols import Accepted, Backend, Declined, Known, Look, Rents, Submission
from reconciler.core.run import Run
from reconciler.core.secret import Secret
from reconciler.core.solve import HostView
from reconciler.load.normal import decode
from reconciler.store.sqlite import SqliteStore
from tests.sim.promises import Promises
from tests.sim.wire import LoginEndpoint, NodeEndpoint
from tests.worlds import OWNER, job, key

PACE_S = 5.0
RESTART_S = 5.0
LOCK_TICK_S = 10.0
SETTLED = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.SUSPENDED, Phase.HELD, Phase.RUNNING})


class Killed(BaseException):
    """The reconciler's process is gone, here and now."""


@dataclass(slots=True)
class VirtualClock:
    at: float = 1_000_000.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@lru_cache(maxsize=4096)
def _job(name: str, spec: str) -> Desired:
    import json

    return job(name, spec=json.loads(spec))


def manifest(name: str, **spec: Any) -> Desired:
    """A manifest, through the real loader; the same one is read once."""
    import json

    return _job(name, json.dumps(spec, sort_keys=True))


def machine_view(machine: FakeMachine, kind: str) -> HostView:
    if isinstance(machine, FakeCluster):
        return HostView(machine.name, "slurm", "hpc", None, queue=QueueView())
    return HostView(machine.name, kind, "lab", None if machine.gpus else {}, slots=machine.cpus)


@dataclass(frozen=True, slots=True)
class Deed:
    """`submit`, `resubmit` or `cancel`, and the number of the host's last look before it."""

    verb: str
    host: str
    look: int | None


class OneByOne(Lanes):
    """Lanes without threads: every host's work is done, then the results come back. A kill finds some hosts acted upon and
    nothing settled, which is the worst that threads can do."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def each(
        self, work: Mapping[str, Callable[[], T]], *, tick: Callable[[], None] | None = None
    ) -> Iterable[tuple[str, T | ReconcilerError]]:  # type: ignore[override]
        results: list[tuple[str, T | ReconcilerError]] = []
        before, self._world.tick = self._world.tick, tick
        try:
            for host in self._world.shuffled(work):
                try:
                    results.append((host, work[host]()))
                except ReconcilerError as error:
                    results.append((host, error))
        finally:
            self._world.tick = before
        yield from results


class Site(Protocol):
    """A host whose machines come and go. `hooks` is to be called with each of them as it comes to be."""

    name: str
    hooks: Callable[[FakeMachine], None]

    def view(self) -> HostView: ...
    def backend(self) -> Backend: ...
    def machines(self) -> list[FakeMachine]:
        """All there ever were."""
        ...

    def settle(self) -> None:
        """Bring everything to the present."""
        ...

    def bury(self) -> None:
        """End what ran on machines that are no more."""
        ...

    def disturb(self) -> None:
        """Something may go wrong with a call of the next pass."""
        ...

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        ...

    def check(self, *, stopping: set[str], intents: set[str]) -> None:
        """Raises AssertionError for a broken promise. `stopping`: runs that were to end; `intents`: for which an intent to end
        them, or to delete their machine, was durable."""
        ...

    def busy(self) -> bool:
        """Is something of ours being made, or on its way out?"""
        ...

    def leaks(self) -> list[str]:
        """What is left of ours and serves nothing, in a world at rest."""
        ...

    def close(self) -> None: ...


class Gate:
    """The way from one incarnation of the reconciler to a machine, with a boundary before and after each effect."""

    def __init__(self, backend: Backend, name: str, incarnation: Incarnation) -> None:
        self._backend, self._name, self._in = backend, name, incarnation
        self.capabilities = backend.capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        for item in submissions:
            mark = (item.run.run_id, item.run.token)
            assert mark in self._in.world.intents, f"{mark} was submitted without a durable intent"
        self._in.world.promises.acts(self._in)
        self._in.world.acted(self._name, "submit", *(item.run for item in submissions))
        with self._in.effect(f"submit {self._name}"):
            return self._backend.submit(submissions)

    def observe(self, look: Look) -> Census:
        return self._in.world.seen(self._name, self._backend.observe(look))

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        run_id = known.run.run_id
        assert run_id in self._in.world.stop_intents, f"{run_id} was stopped without a durable intent"
        self._in.world.promises.acts(self._in)
        self._in.world.promises.cancels(known, grace_s, force=force)
        self._in.world.acted(self._name, "cancel", known.run)
        with self._in.effect(f"cancel {self._name}"):
            return self._backend.cancel(known, reason=reason, grace_s=grace_s, force=force)


class RentingGate(Gate):
    """Of a host whose machines are made for runs."""

    def release(self, machine: Machine) -> str:
        assert machine.run_id in self._in.world.releasing, f"{machine.shown} was released without a durable intent"
        self._in.world.promises.acts(self._in)
        with self._in.effect(f"release {self._name}"):
            return str(self._backend.release(machine))  # type: ignore[attr-defined]


def _gate(backend: Backend, name: str, incarnation: Incarnation) -> Gate:
    return (RentingGate if isinstance(backend, Rents) else Gate)(backend, name, incarnation)


class Journal:
    """The real store, with a boundary before and after each write; dead once its process was killed."""

    def __init__(self, store: SqliteStore, incarnation: Incarnation) -> None:
        self._store = store
        self._in = incarnation

    def __getattr__(self, name: str) -> Any:
        self._in.alive_or_killed()
        return getattr(self._store, name)

    def append(self, lines: Iterable[tuple[JobKey, Line]], *, commit: str, why: str = "") -> None:
        batch = list(lines)
        if not batch:
            return
        world = self._in.world
        with self._in.effect("append " + ",".join(sorted({type(line).__name__ for _, line in batch}))):
            self._store.append(batch, commit=commit, why=why)
            world.recorded(batch, self._in)

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        names = set(hosts) - self._store.scanned()
        if names:
            with self._in.effect("mark_scanned"):
                self._store.mark_scanned(names)

    def unmark_scanned(self, host: str) -> None:
        with self._in.effect("unmark_scanned"):
            self._store.unmark_scanned(host)

    def unlock(self) -> None:
        with self._in.effect("unlock"):
            self._store.unlock()


class Incarnation:
    """One process of the reconciler, from its start to its end."""

    def __init__(self, world: World, actor: str) -> None:
        self.world = world
        self.dead = False
        self.actor = actor
        self.allowed: int | None = None
        self.seen: Pass | None = None
        self.store = SqliteStore(world.path, now=world.clock.now, actor=actor)
        # A kill of the process, not of the machine, is simulated: what SQLite was told stays.
        self.store._db.execute("PRAGMA synchronous = OFF")
        self.reconciler = self._reconciler(None)

    def allow(self, count: int) -> None:
        """The user confirms that so many jobs are removed."""
        self.allowed = count
        self.reconciler = self._reconciler(count)

    def give_up(self, hosts: Iterable[str]) -> None:
        """The user says that what is missing there is lost."""
        self.reconciler = self._reconciler(None, frozenset(hosts))

    def _reconciler(self, delete_allowed: int | None, lost: frozenset[str] = frozenset()) -> Reconciler:
        world = self.world
        trusted = frozenset(host.name for host in world.hosts) if world.trusting else frozenset()
        gates = {host.name: _gate(world.backend(host.name), host.name, self) for host in world.hosts}
        ports = Ports(
            source=world,
            store=Journal(self.store, self),  # type: ignore[arg-type]
            clock=world.clock,
            shipper=world,
            hosts=world.hosts,
            backends=gates.__getitem__,  # type: ignore[arg-type]
            secrets=world.secrets,
            token=world.token,
            decode=decode,
            chip_of=chip_of,
            check=lambda jobs: (),
            owner=OWNER,
            approve=True,
        )
        return Reconciler(
            ports, Options(delete_allowed=delete_allowed, lost=lost, trusted=trusted), lanes=OneByOne(world)
        )

    def alive_or_killed(self) -> None:
        if self.dead:
            raise Killed

    def effect(self, name: str) -> _Boundary:
        self.alive_or_killed()
        return _Boundary(self, name)

    def end(self) -> None:
        self.dead = True
        self.store.close()


class _Boundary:
    def __init__(self, incarnation: Incarnation, name: str) -> None:
        self._in, self._name = incarnation, name

    def __enter__(self) -> None:
        self._in.world.boundary(self._in, f"before {self._name}")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None or (isinstance(kind, type) and issubclass(kind, ReconcilerError)):
            self._in.world.boundary(self._in, f"after {self._name}")


class SimWorld:
    """Everything outside the reconciler. `kill_at` is the number of the boundary at which the process ends."""

    def __init__(
        self,
        directory: Path,
        machines: Iterable[FakeMachine],
        clock: VirtualClock,
        *,
        seed: int = 0,
        kinds: Mapping[str, str] | None = None,
        wire: bool = False,
        sites: Iterable[Site] = (),
    ) -> None:
        """`wire`: the real adapters speak to the machines, in bytes."""
        self.path = directory / "state.sqlite"
        self.clock = clock
        self.rng = random.Random(seed)
        self.machines = {machine.name: machine for machine in machines}
        self.endpoints = (
            {name: endpoint_of(machine, self.rng) for name, machine in self.machines.items()} if wire else {}
        )
        self.sites = {site.name: site for site in sites}
        self.hosts = (
            *(machine_view(machine, (kinds or {}).get(machine.name, "plain")) for machine in self.machines.values()),
            *(site.view() for site in self.sites.values()),
        )
        self.began = clock.at
        self.every_host = self.hosts
        self.manifests: dict[str, Desired] = {}
        self.broken: set[str] = set()
        self.complete = True
        self.requests: tuple[Mapping[str, object], ...] = ()
        self.boundaries: list[str] = []
        self.interrupt: dict[int, Callable[[Incarnation], None]] = {}
        self.tick: Callable[[], None] | None = None
        self.folded: dict[JobKey, Memory] = {}
        self.intents: set[tuple[str, str]] = set()
        self.stop_intents: set[str] = set()
        self.stopping: set[str] = set()
        self.releasing: set[str] = set()
        self.done_work: dict[JobKey, tuple[str, int]] = {}
        self._noted: set[str] = set()
        self.foreign: list[Process] = []
        self.scancelled: set[str] = set()
        self.started: list[Process] = []
        self.passes = 0
        self.quiet = 0
        self.last: Pass | None = None
        self.pace_s = PACE_S
        self.confirm = True
        self.surely_lost = False
        self.trusting = False
        self.takeover_s = RESTART_S
        self.notes: list[str] = []
        self.actor = "reconciler"
        self.others: list[Incarnation] = []
        self.steps: list[Step] = []
        self.lines: list[Line] = []
        self.promises = Promises(self)
        self.censuses: list[Census] = []
        self.lenses: dict[int, Callable[[Census], Census]] = {}
        self.deeds: list[Deed] = []
        self.punctual = True
        self.saved: tuple[bytes, dict[JobKey, Memory]] | None = None
        self._sent: set[str] = set()
        self.reasons: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.disturb: Callable[[str, FakeMachine], Fault | None] = lambda verb, machine: None
        self._tokens = 0
        self._actors = 0
        for machine in self.machines.values():
            self.mind(machine)
        for site in self.sites.values():
            site.hooks = self.mind
        self.now = self.born()

    def mind(self, machine: FakeMachine) -> None:
        """Watch what begins and ends there."""
        machine.on_start, machine.on_stop, machine.hangs = self._started, self._stopped, self.hang
        machine.disturb = self.disturb

    def everywhere(self) -> list[FakeMachine]:
        """Every machine, as it is now."""
        for site in self.sites.values():
            site.settle()
        for machine in self.machines.values():
            machine.settle()
        return [*self.machines.values(), *(machine for site in self.sites.values() for machine in site.machines())]

    # --- ports

    def read(self) -> DesiredState:
        wanted = {item.key: item for name, item in self.manifests.items() if name not in self.broken}
        frozen = {key(name): Problem(f"{name}.yaml", 3, "broken") for name in self.broken}
        return DesiredState(wanted, frozen, tuple(frozen.values()), self.complete, "commit", False)

    def prepare(self, spec: JobSpec, pin: str | None, head: str | None) -> Package:
        return Package(pin, False, None)

    def deliver(self, host: str, package: Package, progress: object, *, send: bool) -> None:
        return None

    def secrets(self, spec: JobSpec, host: str) -> Mapping[str, Secret]:
        return {}

    def token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens:05d}"

    def backend(self, host: str) -> Backend:
        """A connection to the host, as a process of the reconciler opens it."""
        if host in self.sites:
            return self.sites[host].backend()
        endpoint = self.endpoints.get(host)
        return FakeBackend(self.machines[host]) if endpoint is None else endpoint.backend()

    # --- the reconciler's process

    def born(self, actor: str | None = None) -> Incarnation:
        self._actors += 1
        return Incarnation(self, actor or "reconciler")

    def boundary(self, incarnation: Incarnation, name: str) -> None:
        incarnation.alive_or_killed()
        number = len(self.boundaries)
        self.boundaries.append(name)
        what = self.interrupt.pop(number, None)
        if what is not None:
            self.notes.append(f"{self.clock.at - self.began:.0f} s: boundary {number}, {name}: {what.__name__}")
            what(incarnation)

    def kill(self, incarnation: Incarnation) -> None:
        incarnation.end()
        raise Killed

    def kill_and_lose_state(self, incarnation: Incarnation) -> None:
        self._lose(incarnation, *self.others)
        raise Killed

    def lose_state(self) -> None:
        """Between two passes; another process takes over."""
        self._lose(self.now)
        self.now = self.born()

    def _lose(self, *incarnations: Incarnation) -> None:
        for one in {*incarnations}:
            if not one.dead:
                one.end()
        for path in self.path.parent.glob(self.path.name + "*"):
            path.unlink()
        self.folded.clear()
        self.promises.state_lost()

    def restart(self, actor: str | None = None) -> None:
        if not self.now.dead:
            self.now.end()
        self.clock.sleep(self.takeover_s)
        self.now = self.born(actor or self.actor)
        assert dict(self.now.store.memories()) == self.folded, "the reopened store is not the fold of its journal"

    def close(self) -> None:
        for incarnation in {self.now, *self.others}:
            if not incarnation.dead:
                incarnation.end()
        for site in self.sites.values():
            site.close()

    def step(self) -> Pass | None:
        """One pass of the present incarnation. None when it was killed, or had to look again.

        Where there are `others`, two take turns, and every third pass one acts between the other's look and its effects.
        """
        if self.others:
            self.others.reverse()
            self.now = self.others[0]
            if self.passes % 3 == 2:
                return self.guarded(self.now, between=lambda: void(self.guarded(self.others[1])))
        return self.guarded(self.now)

    def guarded(self, incarnation: Incarnation, between: Callable[[], None] = lambda: None) -> Pass | None:
        """A pass; when it is killed, another process takes its place."""
        try:
            return self.one_pass(incarnation, between)
        except Killed:
            assert incarnation.dead
            if incarnation is self.now:
                self.restart(incarnation.actor if self.others else None)
                heir = self.now
            elif incarnation in self.others:
                heir = self.born(incarnation.actor)
            self.others = [heir if item is incarnation else item for item in self.others]
            return None

    def one_pass(self, incarnation: Incarnation, between: Callable[[], None] = lambda: None) -> Pass | None:
        self.happen()
        reconciler = incarnation.reconciler
        try:
            seen = incarnation.seen = reconciler.look()
            self.promises.decided(incarnation, seen)
            self.reasons.update(action.reason for action in seen.plan.actions)
            self.reasons.update(view.reason for view in seen.plan.views)
            self.phases.update(view.phase.value for view in seen.plan.views)
            if seen.plan.refusal is not None and self.confirm:
                incarnation.allow(sum(action.destructive for action in seen.plan.actions))
                return None
            if seen.plan.alarms and self.surely_lost:
                incarnation.give_up(alarm.host for alarm in seen.plan.alarms)
                return None
            between()
            incarnation.alive_or_killed()
            newest, passes = incarnation.store.newest(), self.passes
            if seen.plan.refusal is None:
                reconciler.apply(seen, why="sim")
                if not seen.plan.effects and not seen.plan.lines and passes == self.passes:
                    assert incarnation.store.newest() == newest, "a quiet pass wrote to the journal"
        except (LockHeld, Moved) as error:
            self.notes.append(f"{self.clock.at - self.began:.0f} s: {incarnation.actor}: {error.message}")
            return None
        self.passes += 1
        self.last = seen
        self.check()
        return seen

    def happen(self) -> None:
        """What is due of the script, and what goes wrong elsewhere."""
        for site in self.sites.values():
            site.disturb()
        while self.steps and self.steps[0].when(self):
            self.steps.pop(0).do(self)

    def shuffled(self, hosts: Iterable[str]) -> list[str]:
        names = sorted(hosts)
        self.rng.shuffle(names)
        return names

    def hang(self) -> None:
        """A call that is cut takes its whole deadline, during which a waiting pass renews its lock."""
        for _ in range(6):
            self.clock.sleep(LOCK_TICK_S)
            if self.tick is not None:
                self.tick()

    # --- what must hold

    def _note_done(self) -> None:
        for machine in self.machines.values():
            machine.settle()
            for run_id, process in machine.processes.items():
                if process.final and process.final.status is ReportStatus.COMPLETED and run_id not in self._noted:
                    self._noted.add(run_id)
                    self.done_work[process.run.job] = (process.run.digest, process.run.generation)

    def seen(self, host: str, census: Census) -> Census:
        """What one look at one host brings. `lenses` say, by the number of the look, what is seen in place of the truth."""
        number = len(self.censuses)
        self.censuses.append(census)
        lens = self.lenses.get(number)
        return census if lens is None else lens(census)

    def acted(self, host: str, verb: str, *runs: Run) -> None:
        """A host is about to be told something."""
        again = any(run.attempt > 1 or run.run_id in self._sent for run in runs)
        self._sent |= {run.run_id for run in runs}
        look = max((number for number, one in enumerate(self.censuses) if one.host == host), default=None)
        self.deeds.append(Deed("resubmit" if verb == "submit" and again else verb, host, look))

    def recorded(self, batch: Iterable[tuple[JobKey, Line]], incarnation: Incarnation) -> None:
        self._note_done()
        for job_key, line in batch:
            self.lines.append(line)
            self.promises.line(incarnation, job_key, line, self.folded.get(job_key) or Memory(job_key))
            self.folded[job_key] = fold(self.folded.get(job_key) or Memory(job_key), line, self.clock.now())
            match line:
                case Launching(run=run):
                    if self.done_work.get(job_key) != (run.digest, run.generation):
                        self.done_work.pop(job_key, None)
                    self.intents.add((run.run_id, run.token))
                case Forgotten():
                    done = self.done_work.get(job_key)
                    if done is not None and (job_key, done) not in self.promises.told_done:
                        del self.done_work[job_key]  # nobody knew that it was done
                case Stopping(run_id=run_id):
                    self.stop_intents.add(run_id)
                    self.stopping.add(run_id)
                case Releasing(run_id=run_id):
                    self.releasing.add(run_id)
                case Ended(run_id=run_id, phase=Phase.SUCCEEDED):
                    done = self.folded[job_key].tombstone
                    assert done is not None, f"{run_id} has succeeded, and that is not kept"
                    self.done_work[job_key] = (done.digest, done.generation)
                case Unsettled(run_id=run_id):
                    self.stop_intents.add(run_id)

    def _started(self, machine: FakeMachine, process: Process) -> None:
        run = process.run
        if run.owner != OWNER:
            return
        self.promises.starts(machine, process)
        if not any(one is process for one in self.started):  # a scheduler may start the same attempt anew
            self.started.append(process)
        assert (run.run_id, run.token) in self.intents, f"{run.run_id} started without a durable intent"
        work = (run.digest, run.generation)
        assert self.done_work.pop(run.job, None) != work, f"{run.run_id} started although that work is done"
        now = self.clock.now()
        for site in self.sites.values():
            site.bury()
        for other_machine in [
            *self.machines.values(),
            *(one for site in self.sites.values() for one in site.machines()),
        ]:
            for other in other_machine.processes.values():
                if other is process or not other.alive or other.started_at is None or other.ends_at <= now:
                    continue
                if (other.run.run_id, other.run.token) == (run.run_id, run.token) and machine.name not in self.machines:
                    continue  # another machine of the same gang
                late = not self.punctual and run.attempt != other.run.attempt
                assert late or other.run.job != run.job or other.run.owner != OWNER, (
                    f"two live attempts: {run.run_id} on {machine.name} beside {other.run.run_id} on {other_machine.name}"
                )
                if other_machine is machine and set(run.gpus or ()) & set(other.run.gpus or ()):
                    raise AssertionError(f"{run.run_id} and {other.run.run_id} use the same accelerator")

        if isinstance(machine, FakeCluster):
            asked, place = decode(run.normal).request.min_chips, run.place
            assert int(place["nodes"]) * int(place["gpus_per_node"]) >= asked, (
                f"{run.run_id} got fewer chips than asked"
            )  # type: ignore[arg-type]
            assert min(map(machine.free, machine.machines)) >= 0, f"{run.run_id} was given an accelerator that is taken"

    def _stopped(self, machine: FakeMachine, process: Process) -> None:
        run = process.run
        assert run.owner == OWNER, f"somebody else's run {run.run_id} was stopped"
        self.promises.stops(process)
        minded = (self.folded.get(run.job) or Memory(run.job)).run
        if minded is not None and (minded.run_id, minded.token) == (run.run_id, run.token):
            assert run.run_id in self.stopping, f"the run {run.run_id} was ended, and only its twin was meant"

    def check(self) -> None:
        self._note_done()
        assert dict(self.now.store.memories()) == self.folded, "memory is not the fold of the journal"
        for process in self.foreign:
            booted = process.boot_id == f"{process.run.host}-boot-{self.machines[process.run.host].boots}"
            assert process.alive or not booted, "somebody else's run was touched"
            assert not process.request, "somebody else's run was asked to stop"
        for site in self.sites.values():
            site.settle()
            site.check(stopping=self.stopping, intents=self.stop_intents | self.releasing)
        for machine in self.machines.values():
            if isinstance(machine, FakeCluster):
                continue  # its scheduler counts
            cpu = [p for p in machine.living() if p.run.owner == OWNER and not p.run.gpus]
            assert len(cpu) <= machine.cpus, f"{len(cpu)} CPU jobs on the {machine.cpus} slots of {machine.name}"

    # --- what tests ask

    def runs(self, name: str) -> list[Process]:
        return [process for process in self.started if process.run.job == key(name)]

    def live(self, name: str) -> Process | None:
        self.everywhere()
        return next((process for process in reversed(self.runs(name)) if process.alive), None)

    def ran(self, name: str, seconds: float) -> bool:
        process = self.live(name)
        return (
            process is not None
            and process.started_at is not None
            and self.clock.now() - process.started_at >= seconds
            and self.minds(name)
        )

    def waits(self, name: str) -> bool:
        """The job's run is in a queue, and the reconciler knows."""
        for machine in self.machines.values():
            machine.settle()
            for process in machine.processes.values():
                if process.run.job == key(name) and process.alive and process.started_at is None:
                    return isinstance(machine, FakeCluster) and self.minds(name)
        return False

    def minds(self, name: str) -> bool:
        """The reconciler knows that the live run runs: it has seen the answer of its launch."""
        memory = self.folded.get(key(name))
        return memory is not None and memory.run is not None and memory.submitted

    def machine_of(self, process: Process) -> FakeMachine:
        return next(m for m in self.everywhere() if m.processes.get(process.run.run_id) is process)

    def outcome(self) -> dict[str, Any]:
        """What can be compared between worlds: per job how it stands, and how each started run ended."""
        assert self.last is not None
        views = {view.job.name: f"{view.phase} {view.reason}" for view in self.last.plan.views}
        runs: dict[str, list[str]] = {}
        for process in self.started:
            status = process.final.status.value if process.final else ("alive" if process.alive else "lost")
            runs.setdefault(process.run.job.name, []).append(
                f"{process.run.digest[:8]}/{process.run.generation} {status}"
            )
        return {"views": views, "runs": {name: sorted(found) for name, found in sorted(runs.items())}}

    def at_rest(self, made: Plan) -> bool:
        """Nothing will change any more by itself."""
        if any(site.busy() for site in self.sites.values()):
            return False
        if made.effects or made.lines or any(view.phase not in SETTLED or view.next_try for view in made.views):
            return False
        if any(view.phase is Phase.HELD and not view.reason.startswith("Dependency") for view in made.views):
            return False
        if any(view.phase is Phase.RUNNING and self.live(view.job.name) is None for view in made.views):
            return False  # it has ended since it was seen
        living = [process for machine in self.everywhere() for process in machine.living()]
        return all(process.ends_at == math.inf for process in living if process.run.owner == OWNER)

    def until_rest(self, *, limit_s: float) -> None:
        """Passes until nothing changes any more, then two silent ones: no line, no effect."""
        end = self.clock.now() + limit_s
        while True:
            seen = self.step()
            if seen is not None and self.at_rest(seen.plan):
                break
            views = [] if self.last is None else [f"{v.job.name}: {v.phase} {v.reason}" for v in self.last.plan.views]
            assert self.clock.now() < end, f"no rest within {limit_s} s: {views}"
            self.clock.sleep(self.pace_s)
        self._one_each()
        newest, calls = self.now.store.newest(), self.effects()
        for _ in range(2):
            self.clock.sleep(60.0)
            self.step()
        later = [f"{entry.job.name} {entry.line}" for entry in self.now.store.history()[newest:]]
        assert (later, self.effects()) == ([], calls), f"the world at rest was disturbed: {later}"
        left = [leak for site in self.sites.values() for leak in site.leaks()]
        assert not left, f"left behind, and costing: {left}"

    def _one_each(self) -> None:
        """At rest no job lives twice, nor waits twice in a queue, though something came later than promised."""
        living = Counter(p.run.job for m in self.machines.values() for p in m.living() if p.run.owner == OWNER)
        assert max(living.values(), default=0) <= 1, f"at rest, and more than one attempt lives: {living}"
        for machine in self.machines.values():
            if isinstance(machine, FakeCluster):
                queued = Counter(job.run_id for job in machine.jobs if not job.over)
                assert max(queued.values(), default=0) <= 1, f"at rest, and queued twice: {queued}"

    def effects(self) -> int:
        """Launches and stops that reached a host."""
        return sum(verb in ("submit", "cancel") for machine in self.everywhere() for verb in machine.calls)


def endpoint_of(machine: FakeMachine, rng: random.Random) -> NodeEndpoint:
    """The far end of the wire."""
    return (LoginEndpoint if isinstance(machine, FakeCluster) else NodeEndpoint)(machine, rng)


World = SimWorld


def void(_: object) -> None:
    """Forget a result."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens, as soon as `when` holds in the world itself."""

    when: Callable[[SimWorld], bool]
    do: Callable[[SimWorld], None]


def play(world: SimWorld, steps: Iterable[Step], *, limit_s: float = 6 * 3600.0) -> None:
    """Passes while the steps happen one after another, then to rest."""
    world.steps = list(steps)
    end = world.clock.now() + limit_s
    while world.steps:
        world.step()
        assert world.clock.now() < end, f"{len(world.steps)} steps did not come true; {world.notes}"
        world.clock.sleep(world.pace_s)
    world.until_rest(limit_s=limit_s)


def faults(world: SimWorld, share: float) -> None:
    """From now on this share of calls goes wrong, in every way a call can."""

    def disturb(verb: str, machine: FakeMachine) -> Fault | None:
        if world.rng.random() >= share:
            return None
        machine.late_s = world.rng.choice([5.0, 30.0, 110.0])  # the call itself is given up after 60
        return world.rng.choice(list(Fault))

    world.disturb = disturb
    for machine in world.everywhere():
        machine.disturb = disturb


def calm(world: SimWorld) -> None:
    """Faults stop, machines answer, manifests are whole."""
    world.disturb = lambda verb, machine: None
    for machine in world.everywhere():
        machine.disturb = world.disturb
        machine.unreadable.clear()
    for machine in world.machines.values():
        machine.reachable = True
    for site in world.sites.values():
        site.calm()
    world.broken.clear()
    world.complete = True
    world.surely_lost = True  # nothing is hidden: what is not to be seen any more is gone


def claim_foreign(world: SimWorld, machine: FakeMachine, name: str) -> None:
    """Somebody else's run, on the same machine, made by the same program."""
    from tests.worlds import run_of

    run = replace(run_of(manifest(name), host=machine.name, owner="somebody else"), token="theirs")
    machine.claim(Submission(run, {}, {}))
    process = machine.processes[run.run_id]
    process.course, process.ends_at = Course(), math.inf
    world.foreign.append(process)

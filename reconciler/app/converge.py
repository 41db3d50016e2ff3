"""One pass: read what is wanted, look at what is, plan, act. The same code serves `plan`, `apply`, `watch` and `status`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from reconciler.app.act import Done, act
from reconciler.app.lanes import Lanes
from reconciler.app.ports import DesiredState, Ports, Progress
from reconciler.core.actions import Verb
from reconciler.core.cooling import STRIKES_KEPT, STRIKES_KEPT_S
from reconciler.core.decide import rest
from reconciler.core.errors import ReconcilerError, Retry, StoreError, on_the_way
from reconciler.core.job import Desired
from reconciler.core.memory import Memory
from reconciler.core.names import JobKey
from reconciler.core.observation import Census, Observation, Presence, Sighting
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan, World, plan
from reconciler.core.protocols import Known, Look
from reconciler.core.solve import DRIVEN, NO_DRIVER, NOT_ASKED, candidates

# A host that did not answer is left alone this long inside `watch`, so that a dead host costs one connect timeout a while, not
# one a pass.
COOL_DOWN_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line may say about a pass. `lost`: hosts whose missing runs are lost, said of the first look that shows
    them; `trusted`: hosts that take jobs although they cool down."""

    assume_empty: frozenset[str] = frozenset()
    delete_allowed: int | None = None
    approved: bool = False
    only: frozenset[JobKey] | None = None
    lost: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pass:
    """What one look showed and what would be done about it."""

    state: DesiredState
    world: World
    plan: Plan
    observed_at: Mapping[str, float] = field(hash=False)
    newest: int = 0
    """Number of the newest journal line when this was looked at: the plan holds only while it is still that."""

    @property
    def partial(self) -> bool:
        """Something is not as it is wanted and no action of this plan will mend it: exit 4."""
        return bool(
            self.state.problems
            or not self.state.complete
            or self.plan.spending.blind
            or any(action.verb is Verb.HOLD for action in self.plan.actions)
            or any(view.frozen or view.phase in _STUCK for view in self.plan.views)
        )

    @property
    def moving(self) -> bool:
        """A later pass will find something else without anybody's doing: a run is alive, a try is due, a job waits, or a rented
        machine is on its way out."""
        return (
            any(view.phase in _MOVING for view in self.plan.views)
            or any(fate.until for _, fate in self.plan.kept)
            or any(
                machine.going and machine.owner == self.world.owner
                for census in self.world.observation.censuses.values()
                for machine in census.machines
            )
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Runs found by their mark, and the hosts that could not be asked, with the reason."""

    runs: tuple[Sighting, ...]
    unseen: Mapping[str, str] = field(hash=False)


_STUCK = frozenset({Phase.HELD, Phase.FAILED, Phase.UNKNOWN})
_MOVING = frozenset(
    {
        Phase.PENDING,
        Phase.PROVISIONING,
        Phase.QUEUED,
        Phase.PREPARING,
        Phase.RUNNING,
        Phase.PREEMPTED,
        Phase.LOST,
        Phase.TERMINATING,
        Phase.UNKNOWN,
    }
)


class Moved(ReconcilerError):
    """Another reconciler wrote to the store between our look and our lock: look again."""

    retry = Retry.SAFE


class Reconciler:
    """Passes over one repository of manifests. Keeps connections, and what it saw last, from one pass to the next."""

    def __init__(self, ports: Ports, options: Options | None = None, *, lanes: Lanes | None = None) -> None:
        self._ports = ports
        self._options = options or Options()
        self._lanes = lanes or Lanes()
        self._observed_at: dict[str, float] = {}
        self._cooling: dict[str, tuple[float, Census]] = {}
        self._poll_s = {view.name: view.poll_s for view in ports.hosts if view.poll_s > 0}
        self._confirmed: dict[str, frozenset[str]] = {}
        """By host, what contradicts our memory and was said twice: run ids."""
        self._recent: dict[str, tuple[float, Look, Census]] = {}
        self._reachable: dict[str, bool] = {}
        self._breaks: dict[str, tuple[float, ...]] = {}

    @property
    def ports(self) -> Ports:
        return self._ports

    def select(self, only: frozenset[JobKey] | None) -> None:
        """Mind only these jobs from now on; None minds all."""
        self._options = replace(self._options, only=only)

    def distrust(self, hosts: Iterable[str]) -> None:
        """What was seen on these hosts is not the present any more: ask them at the next look, however short ago that was."""
        for host in hosts:
            self._recent.pop(host, None)

    def look(self, *, tick: Callable[[], None] | None = None) -> Pass:
        """Read, observe, plan; no effect but connections, no lock. Raises SourceError and StoreError."""
        ports = self._ports
        newest = ports.store.newest()
        state = ports.source.read()
        memories = ports.store.memories()
        unscanned = self._unscanned()
        only = self._options.only
        minded = memories if only is None else {key: memory for key, memory in memories.items() if key in only}
        state = _checked(state, minded, only, ports)
        hungry = _hungry(state.desired, memories, only)
        looks = _looks(hungry, minded, memories, unscanned, ports)
        censuses = self._heard_twice(looks, minded, tick)
        world = self._world(state, memories, unscanned, censuses)
        made = plan(world)
        # What ended in this look may be requeued now: ask the hosts that were not asked what is free there.
        missing = {
            host
            for view in made.views
            if view.reason == "Unplaceable"
            for host, why in view.passed_over
            if (why == NOT_ASKED and (host not in censuses or censuses[host].complete))
            or (why == NO_DRIVER and not looks[host].probe)
        }
        if missing:
            more = {
                host: Look(looks[host].known if host in looks else (), host in unscanned, probe=True)
                for host in missing
            }
            censuses |= self._heard_twice(more, minded, tick)
            world = self._world(state, memories, unscanned, censuses)
            made = plan(world)
        return Pass(state, world, made, dict(self._observed_at), newest)

    def apply(
        self,
        seen: Pass,
        *,
        why: str,
        progress: Progress | None = None,
        report: Callable[[Done], None] | None = None,
    ) -> list[Done]:
        """Carry out what was seen, under the lock; a pass with nothing to write takes no lock and writes nothing.

        Raises LockHeld when another reconciler is acting, Moved when one has acted since the look, StoreError.
        """
        assert seen.plan.refusal is None
        store = self._ports.store
        # What a selection leaves aside is not learned from a scan, so the scan has to be made again.
        scanned = [
            name
            for name, census in seen.world.observation.censuses.items()
            if census.scanned and seen.world.only is None
        ]
        if not seen.plan.effects and not seen.plan.lines and not set(scanned) & self._unscanned():
            self._heeded(seen)
            return []
        store.lock()
        try:
            if store.newest() != seen.newest:
                raise Moved("Another reconciler has acted since this look")
            for action in seen.plan.effects:
                self._recent.pop(action.host, None)
            done = act(
                seen.plan,
                seen.world.desired,
                seen.world.memories,
                self._ports,
                self._lanes,
                commit=seen.state.commit or "",
                why=why,
                scanned=scanned,
                progress=progress,
                report=report,
            )
        except BaseException:
            with suppress(StoreError):  # what went wrong first says more
                store.unlock()
            raise
        store.unlock()
        self._heeded(seen)
        return done

    def _heeded(self, seen: Pass) -> None:
        """That runs are lost is said of what is missing now: what vanishes later, while this process goes on, is another
        matter."""
        looked = {host for host, census in seen.world.observation.censuses.items() if census.complete}
        self._options = replace(self._options, lost=self._options.lost - looked)

    def probe(self) -> dict[str, Census]:
        """Ask every host that is driven what it has and what runs there."""
        looks = {view.name: Look(probe=True) for view in self._ports.hosts if view.kind in DRIVEN}
        return self._observe(looks, None)

    def find_runs(self, job: JobKey, *, any_owner: bool = False) -> Found:
        """Look everywhere for runs of a job that carry our mark (or anybody's), newest living first."""
        looks = {view.name: Look(scan=True) for view in self._ports.hosts if view.kind in DRIVEN}
        censuses = self._observe(looks, None)
        runs = [
            seen
            for census in censuses.values()
            for seen in census.sightings.values()
            if seen.run is not None and seen.run.job == job and (any_owner or seen.run.owner == self._ports.owner)
        ]
        runs.sort(key=lambda seen: (seen.alive, seen.run.attempt if seen.run else 0), reverse=True)
        unseen = {host: census.error for host, census in censuses.items() if not census.complete}
        return Found(tuple(runs), unseen)

    def _unscanned(self) -> frozenset[str]:
        ours = frozenset(view.name for view in self._ports.hosts if view.kind in DRIVEN)
        return ours - self._ports.store.scanned()

    def close(self) -> None:
        self._lanes.close()

    # ---

    def _world(
        self,
        state: DesiredState,
        memories: Mapping[JobKey, Memory],
        unscanned: Iterable[str],
        censuses: Mapping[str, Census],
    ) -> World:
        blind = tuple(
            host
            for host in sorted(unscanned)
            if host not in self._options.assume_empty and not (host in censuses and censuses[host].scanned)
        )
        return World(
            desired=state.desired,
            frozen=state.frozen,
            complete=state.complete,
            memories=memories,
            observation=Observation(censuses),
            hosts=self._ports.hosts,
            owner=self._ports.owner,
            now=self._ports.clock.now(),
            decode=self._ports.decode,
            chip_of=self._ports.chip_of,
            unscanned=blind,
            delete_allowed=self._options.delete_allowed,
            approved=self._options.approved or self._ports.approve,
            limits=self._ports.limits,
            only=self._options.only,
            lost=self._options.lost,
            trusted=self._options.trusted,
            breaks=dict(self._breaks),
        )

    def _heard_twice(
        self, looks: Mapping[str, Look], memories: Mapping[JobKey, Memory], tick: Callable[[], None] | None
    ) -> dict[str, Census]:
        """What the hosts answer. An old answer (of a cache, a replica, another login node) shows nothing of a run that was
        launched since, or one alive that has ended: what contradicts our memory is believed when it is said twice, and then goes
        on being believed as long as it is said."""
        censuses = self._observe(looks, tick)
        doubts = _contradictions(memories, censuses, self._ports.owner)
        again = {host: looks[host] for host, runs in doubts.items() if runs - self._confirmed.get(host, frozenset())}
        if again:
            self.distrust(again)
            censuses |= self._observe(again, tick)
            doubts = _contradictions(memories, censuses, self._ports.owner)
        others = {host: runs for host, runs in self._confirmed.items() if host not in looks}
        self._confirmed = {**others, **doubts}
        return censuses

    def _observe(self, looks: Mapping[str, Look], tick: Callable[[], None] | None) -> dict[str, Census]:
        now = self._ports.clock.now()
        found: dict[str, Census] = {}
        calls: dict[str, Callable[[], Census]] = {}
        for host, look in looks.items():
            cooling, recent = self._cooling.get(host), self._recent.get(host)
            if cooling is not None and now < cooling[0]:
                found[host] = cooling[1]
            elif recent is not None and now < recent[0] and _covers(recent[1], look):
                found[host] = recent[2]
            else:
                calls[host] = _observation(self._ports, host, look)
        for host, census in self._lanes.each(calls, tick=tick):
            if isinstance(census, ReconcilerError):
                census = Census(host, complete=False, error=str(census), away=on_the_way(census))  # noqa: PLW2901
            found[host] = census
            self._note_way(host, there=not census.away)
            if census.complete:
                self._observed_at[host] = self._ports.clock.now()
                if host in self._poll_s:
                    self._recent[host] = (self._ports.clock.now() + self._poll_s[host], looks[host], census)
                self._cooling.pop(host, None)
            elif not census.sightings:
                self._cooling[host] = (self._ports.clock.now() + COOL_DOWN_S, census)
        return found

    def _note_way(self, host: str, *, there: bool) -> None:
        """Remember when the way to a host was seen to go away, as long as that can lead to a pause."""
        if self._reachable.get(host) and not there:
            now = self._ports.clock.now()
            had = (at for at in self._breaks.get(host, ()) if abs(now - at) < STRIKES_KEPT_S)
            self._breaks[host] = (*had, now)[-STRIKES_KEPT:]
        self._reachable[host] = there


def _covers(had: Look, wanted: Look) -> bool:
    """Does an earlier look answer this one? Of the same runs, and of at least the same things."""
    same = {item.run.run_id: (item.handle, item.stopping) for item in had.known} == {
        item.run.run_id: (item.handle, item.stopping) for item in wanted.known
    }
    return same and had.scan >= wanted.scan and had.probe >= wanted.probe


def _observation(ports: Ports, host: str, look: Look) -> Callable[[], Census]:
    return lambda: ports.backends(host).observe(look)


def _contradictions(
    memories: Mapping[JobKey, Memory], censuses: Mapping[str, Census], owner: str
) -> dict[str, frozenset[str]]:
    """By host, runs that were surely there and are not known to it, and those that live there although we know their end."""
    found: dict[str, set[str]] = {}
    for memory in memories.values():
        run = memory.run
        census = censuses.get(run.host) if run is not None and memory.submitted else None
        if run is not None and census is not None and census.look(run.run_id).presence is Presence.ABSENT:
            found.setdefault(census.host, set()).add(run.run_id)
    for host, census in censuses.items():
        for seen in census.sightings.values():
            if not seen.alive or seen.run is None or seen.run.owner != owner:
                continue
            known = memories.get(seen.run.job)
            if known is None or known.released or seen.run.attempt > known.attempt:
                continue
            if known.run is None or known.run.run_id != seen.run_id:
                found.setdefault(host, set()).add(seen.run_id)
    return {host: frozenset(runs) for host, runs in sorted(found.items())}


def _checked(
    state: DesiredState, memories: Mapping[JobKey, Memory], only: frozenset[JobKey] | None, ports: Ports
) -> DesiredState:
    """Freeze jobs that name hosts, clusters or chips which the inventory lacks, if they would start or be replaced."""
    moving = _hungry(state.desired, memories, only)
    for key, memory in memories.items():
        wanted = state.desired.get(key)
        if memory.run is not None and wanted is not None and wanted.digest != memory.run.digest:
            moving.append(wanted)
    problems = ports.check(moving)
    if not problems:
        return state
    where = {(problem.file, problem.line): problem for problem in problems}
    bad = {item.key: where[item.file, item.line] for item in moving if (item.file, item.line) in where}
    return replace(
        state,
        desired={key: item for key, item in state.desired.items() if key not in bad},
        frozen={**state.frozen, **bad},
        problems=tuple(sorted({*state.problems, *problems})),
    )


def _hungry(
    desired: Mapping[JobKey, Desired], memories: Mapping[JobKey, Memory], only: frozenset[JobKey] | None
) -> list[Desired]:
    """Jobs of the selection that want to start, as far as memory alone can tell."""
    found = []
    for key, wanted in desired.items():
        if only is not None and key not in only:
            continue
        memory = memories.get(key)
        if memory is None or (memory.run is None and rest(memory, wanted) is None):
            found.append(wanted)
    return found


def _looks(
    hungry: Iterable[Desired],
    minded: Mapping[JobKey, Memory],
    memories: Mapping[JobKey, Memory],
    unscanned: frozenset[str],
    ports: Ports,
) -> dict[str, Look]:
    """Which hosts to ask, and what: those with an open run, those never looked at, those a job could start on, and those on which
    something forgotten would cost money. A world without these in which everything has finished asks nobody.

    A host that is asked is asked for all its runs, `minded` in this pass or not: whether too many are missing depends on all.
    """
    open_on = {memory.run.host for memory in minded.values() if memory.run is not None}
    known: dict[str, list[Known]] = {}
    for memory in memories.values():
        if memory.run is not None:
            known.setdefault(memory.run.host, []).append(
                Known(memory.run, memory.handle, memory.run_at, memory.stop is not None)
            )
    probe: set[str] = set()
    every = {view.name for view in ports.hosts}
    rented = {view.name for view in ports.hosts if view.rented is not None}
    for wanted in hungry:
        if probe == every:
            break
        probe.update(candidates(ports.decode(wanted.normal).request, ports.hosts))
    # The hosts of a cluster share its root: what is missing on one is judged by what is missing on all.
    clusters = {view.cluster for view in ports.hosts if view.name in open_on}
    beside = {view.name for view in ports.hosts if view.cluster in clusters and view.name in known}
    asked = (open_on | beside | unscanned | probe | rented) & every
    return {host: Look(tuple(known.get(host, ())), host in unscanned, host in probe) for host in sorted(asked)}

"""One pass, decided: what is wanted, remembered and seen in; actions, views and journal lines out. Pure and total."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core import breaker, cooling
from reconciler.core.actions import Action, Release, Start, Verb, Verdict, View
from reconciler.core.breaker import Alarm
from reconciler.core.cause import Cause
from reconciler.core.cost import Spending, over, spending, was_approved
from reconciler.core.decide import Decode, Tended, is_readable, launch, rest, tend, wait
from reconciler.core.errors import Problem
from reconciler.core.inventory import Limits
from reconciler.core.job import Desired, Json
from reconciler.core.machine import Machine
from reconciler.core.memory import Forgotten, Line, Memory
from reconciler.core.names import JobKey, digest_of
from reconciler.core.observation import Gpu, Observation, Presence, Sighting
from reconciler.core.phase import FINAL, Phase
from reconciler.core.release import Fate, disposal_of, fate, outlived
from reconciler.core.run import Run
from reconciler.core.solve import Closed, HostView, Placement, Reservations, Unplaceable, place

# A pass that would end more than this share of the live jobs is more likely a mistake than a wish.
DELETE_SHARE_MAX = 0.25
DELETE_COUNT_MIN = 2


@dataclass(frozen=True, slots=True)
class World:
    """All that a pass knows. `hosts` are in the solver's order. `unscanned` are hosts on which jobs may run that this store
    has never looked at completely. `complete` tells that every manifest was read or its job is known to be frozen. `only` are
    the jobs to decide, None for all: what the others hold stays reserved, and they are let be. `approved`: somebody says yes to
    what costs money, before or after seeing this plan. `limits` are about that. `lost`: hosts of which a person says that what
    is missing there is lost; `trusted`: those that are to take jobs although they cool down. `breaks`: when the way to a host
    was seen to go away."""

    desired: Mapping[JobKey, Desired] = field(hash=False)
    frozen: Mapping[JobKey, Problem] = field(hash=False)
    complete: bool
    memories: Mapping[JobKey, Memory] = field(hash=False)
    observation: Observation
    hosts: tuple[HostView, ...]
    owner: str
    now: float
    decode: Decode
    chip_of: Callable[[Gpu], str | None]
    unscanned: tuple[str, ...] = ()
    delete_allowed: int | None = None
    approved: bool = True
    limits: Limits = field(default_factory=Limits)
    only: frozenset[JobKey] | None = None
    lost: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()
    breaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the safety guard stops a pass, and the flag that confirms it."""

    message: str
    flag: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`actions` in the order they are shown and done: destructive ones last. `lines` are what memory learns from looking.
    `kept` are machines that no attempt needs and that stay all the same, with the reason."""

    actions: tuple[Action, ...]
    views: tuple[View, ...]
    lines: tuple[tuple[JobKey, Line], ...]
    refusal: Refusal | None = None
    kept: tuple[tuple[Machine, Fate], ...] = ()
    spending: Spending = field(default_factory=Spending)
    """Before this plan."""
    alarms: tuple[Alarm, ...] = ()
    """Hosts that are left alone, because too many runs vanished there at once."""

    @property
    def effects(self) -> tuple[Action, ...]:
        """Actions that do something: to the world, or to what we mind."""
        return tuple(action for action in self.actions if action.verb is not Verb.HOLD)

    @property
    def digest(self) -> str:
        """Identity of what would be done, without what changes from one look to the next (times, messages, free GPUs)."""
        return digest_of([[a.verb, str(a.job), a.reason, a.run_id, a.host] for a in self.effects])

    def counts(self) -> dict[str, int]:
        """Number of actions per verb, zero included, in a fixed order."""
        found = {verb.value: 0 for verb in Verb}
        for action in self.actions:
            found[action.verb.value] += 1
        return found


_ORDER = [Verb.ADOPT, Verb.REQUEUE, Verb.LAUNCH, Verb.HOLD, Verb.REPLACE, Verb.CANCEL, Verb.FORGET, Verb.DELETE]


def plan(world: World) -> Plan:
    """Decide every job once. Never raises for any combination of its inputs.

    Holds for all inputs (tests/properties): at most one effect per job; no effect on a job whose host is UNKNOWN or whose
    manifest is broken; nothing is deleted unless the source is complete; no accelerator is given twice.
    """
    strays = _strays(world)
    alarms = breaker.alarms(world, strays.keys())
    tended: dict[JobKey, Tended] = {}
    taken = Reservations()
    for key in _keys(world, strays):
        memory = world.memories.get(key) or Memory(key)
        desired, stray = world.desired.get(key), strays.get(key)
        if memory.run is None and stray is None:
            if desired is None and world.complete and key not in world.frozen and _is_settled(memory):
                continue  # over years these become many: nothing is to be done or said about them
            tended[key] = Tended(memory, ())
            continue
        alarm = alarms.get(memory.run.host) if alarms and memory.run is not None else None
        if alarm is not None and stray is None and breaker.is_missing(world, memory):
            tended[key] = breaker.held(memory, desired, alarm, frozen=key in world.frozen)
            continue
        state = tend(
            memory,
            desired,
            frozen=key in world.frozen,
            prunable=world.complete,
            stray=stray,
            observation=world.observation,
            decode=world.decode,
            now=world.now,
        )
        alarm = alarms.get(state.action.host) if alarms and state.action is not None else None
        tended[key] = state if alarm is None else breaker.restrained(state, alarm)
    kept = _release(world, tended, alarms)
    _reserve(world, tended, taken)
    spent = spending(world.hosts, world.observation, world.memories, world.owner, world.now)
    verdicts = _settle(world, tended, taken, spent, alarms)
    actions = sorted(
        (verdict.action for verdict in verdicts.values() if verdict.action is not None),
        key=lambda action: (action.destructive, _ORDER.index(action.verb)),
    )
    lines = tuple((key, line) for key, verdict in verdicts.items() for line in verdict.lines)
    views = tuple(verdicts[key].view for key in sorted(verdicts))
    return Plan(
        tuple(actions),
        tuple(view for view in views if view is not None),
        lines,
        _guard(world, actions, tended),
        kept,
        spent,
        tuple(alarm for _, alarm in sorted(alarms.items()) if breaker.concerns(world, alarm)),
    )


def _keys(world: World, strays: Mapping[JobKey, Sighting]) -> list[JobKey]:
    keys = {**dict.fromkeys(world.desired), **dict.fromkeys(world.memories), **dict.fromkeys(strays)}
    return [key for key in keys if world.only is None or key in world.only]


def _strays(world: World) -> dict[JobKey, Sighting]:
    """Per job, the run with our mark that is not the open one in memory: a living one first, then the newest.

    A run is where it was seen: its claim may name the host otherwise, when the inventory was edited since.
    """
    found: dict[JobKey, Sighting] = {}
    for host, census in world.observation.censuses.items():
        for seen in census.sightings.values():
            run = seen.run
            if run is None or run.owner != world.owner or seen.presence is not Presence.PRESENT:
                continue
            memory = world.memories.get(run.job)
            open_run = memory.run if memory is not None else None
            if open_run is not None and (open_run.run_id, open_run.token) == (run.run_id, run.token):
                continue
            if not seen.alive and memory is not None and run.attempt <= memory.known:
                continue
            if seen.machine is not None and _is_over(memory, run):
                continue  # its machine is a leftover; what it does not tell any more (a wiped disk) does not bring the run back
            best = found.get(run.job)
            if best is None or (seen.alive, run.attempt) > (best.alive, best.run.attempt if best.run else 0):
                found[run.job] = replace(seen, run=replace(run, host=host))
    return found


def _release(
    world: World, tended: dict[JobKey, Tended], alarms: Mapping[str, Alarm]
) -> tuple[tuple[Machine, Fate], ...]:
    """Delete the machines that nobody needs: the one effect of their job in this pass, before any new attempt of it."""
    kept: list[tuple[Machine, Fate]] = []
    for host, census in world.observation.censuses.items():
        if host in alarms:
            kept += [(one, Fate(False, breaker.passed_over(alarms[host]))) for one in breaker.unminded(world, census)]
            continue
        for machine in census.machines if census.complete else ():
            key = machine.job
            if machine.owner != world.owner or (world.only is not None and key not in world.only):
                continue
            state = tended.get(key) or Tended(world.memories.get(key) or Memory(key), ())
            seen = census.look(machine.run_id)
            may_live = seen.alive or seen.presence is Presence.UNKNOWN
            if state.memory.run is None and seen.run is not None and not is_readable(seen, world.decode):
                kept.append((machine, Fate(False, "the record of its run cannot be read, so that nobody minds it")))
                continue
            # Neither asked for, nor coming, nor waiting for its start: what runs there stays, in repair or in an unknown state.
            started = bool(machine.ident) and not seen.unfinished and (machine.ready or machine.wait_s is None)
            if may_live and state.memory.released and started and not outlived(machine, machine.disposal, world.now):
                kept.append((machine, Fate(False, "its run was let go of, and may run on")))
                continue
            if _is_second(seen, machine):
                state = _delete(state, key, machine, host, "its run has another one")
                tended[key] = state
                continue
            over = state.memory.released or (seen.run is not None and _is_over(state.memory, seen.run))
            if may_live and not over:
                continue  # minded as a run, or as a stray
            desired = world.desired.get(key)
            if desired is not None:
                asked = disposal_of(machine.disposal, world.decode(desired.normal).tpu)
                found = fate(replace(machine, disposal=asked), state.memory, world.now)
            else:
                found = fate(machine, state.memory, world.now)
            if found is not None and not found.delete:
                kept.append((machine, found))
            elif found is not None:
                tended[key] = _delete(state, key, machine, host, found.why)
    return tuple(kept)


def _is_second(seen: Sighting, machine: Machine) -> bool:
    """Has its run another machine, on which it is minded? Two are made when the inventory is changed at a bad moment."""
    first = seen.machine
    return first is not None and (first.name, first.zone, first.ident) != (machine.name, machine.zone, machine.ident)


def _delete(state: Tended, key: JobKey, machine: Machine, host: str, why: str) -> Tended:
    """One effect per job and pass: what is being done already comes first. A hold does nothing."""
    if machine.going or (state.action is not None and state.action.verb is not Verb.HOLD):
        return state
    message = f"{machine.shown} is deleted: {why}"
    action = Action(Verb.DELETE, key, "MachineReleased", message, machine.run_id, host, effect=Release(machine))
    return replace(state, action=action)


def _is_over(memory: Memory | None, run: Run) -> bool:
    """Do we know that this attempt has ended? Every attempt up to the newest has, but the open one. Of the number of one that was
    refused, only that very one: another state of this repository may have made the other."""
    if memory is None or memory.released or (memory.run is not None and memory.run.run_id == run.run_id):
        return False
    if memory.refused and run.attempt == memory.attempt:
        return run.token == memory.refused
    return run.attempt <= memory.attempt


def _reserve(world: World, tended: Mapping[JobKey, Tended], taken: Reservations) -> None:
    """Count what runs now: every living run seen on a host, whoever owns it, and ours that cannot be seen or are on their way."""
    counted: set[str] = set()
    for host, census in world.observation.censuses.items():
        for seen in census.sightings.values():
            if seen.alive and seen.run is not None:
                counted.add(seen.run_id)
                taken.take(host, seen.run.gpus)
    memories = dict(world.memories) | {key: state.memory for key, state in tended.items()}
    for memory in memories.values():
        if memory.run is not None and memory.run.run_id not in counted:
            taken.take(memory.run.host, memory.run.gpus)


def _settle(
    world: World,
    tended: Mapping[JobKey, Tended],
    taken: Reservations,
    spent: Spending,
    alarms: Mapping[str, Alarm],
) -> dict[JobKey, Verdict]:
    """Each job's verdict; those that want to start are placed by priority, then by name. A launch that was cut short is paid for
    before any new one."""
    verdicts: dict[JobKey, Verdict] = {}
    hungry: list[tuple[JobKey, Desired, Tended]] = []
    again: list[tuple[Desired, Tended, Action, Placement]] = []
    for key, state in tended.items():
        desired = world.desired.get(key)
        found = _rented_again(world, state.action)
        if found is not None and desired is not None and state.action is not None:
            again.append((desired, state, state.action, found))
        elif state.memory.run is not None or state.view is not None:
            verdicts[key] = Verdict(state.view, state.lines, state.action)
        elif desired is None:
            verdicts[key] = _unmanifested(world, key, state)
        else:
            view = rest(state.memory, desired)
            if view is not None:
                verdicts[key] = Verdict(view, state.lines, state.action)
            else:
                hungry.append((key, desired, state))
    for desired, state, action, found in sorted(again, key=lambda item: (-item[0].priority, item[0].key)):
        verdict = _send_again(world, desired, state, action, found, spent)
        verdicts[desired.key] = verdict
        if verdict.action is not None and verdict.action.verb is not Verb.HOLD:
            spent = spent.with_one(found)
    dry = _dry(world, tended) if hungry else {}
    shut = breaker.closed(world, tended, alarms) if hungry else breaker.Shut({}, {})
    for key, desired, state in sorted(hungry, key=lambda item: (-item[1].priority, item[0])):
        verdict = _begin(world, desired, state.memory, tended, taken, spent, dry, shut.to(key))
        # One effect per job and pass: an adoption or a stray's end comes first, the start in the next pass.
        effective = state.action or verdict.action
        verdicts[key] = replace(verdict, lines=(*state.lines, *verdict.lines), action=effective)
        if state.action is None and verdict.action is not None and isinstance(verdict.action.effect, Start):
            placement = verdict.action.effect.placement
            if placement is not None:
                taken.take(placement.host, placement.gpus)
                spent = spent if placement.price_per_hour is None else spent.with_one(placement)
                taken.promise(placement.host, placement.machines)
    return verdicts


def _dry(world: World, tended: Mapping[JobKey, Tended]) -> dict[tuple[str, str], float]:
    """Until when each zone is passed over that had no machine for some job, by its host. A time that has not come yet is from a
    clock ahead of ours, and says nothing of how long ago that was."""
    waits_s = {view.name: view.rented.cooldown_s for view in world.hosts if view.rented is not None}
    found: dict[tuple[str, str], float] = {}
    if not any(waits_s.values()):
        return found
    for memory in (*world.memories.values(), *(state.memory for state in tended.values())):
        for host, zone, at in memory.dry:
            if host in waits_s and at <= world.now:
                found[host, zone] = max(found.get((host, zone), 0.0), at + waits_s[host])
    return found


def _unmanifested(world: World, key: JobKey, state: Tended) -> Verdict:
    """No manifest and nothing alive: forget it, unless its manifest may merely be unreadable."""
    problem = world.frozen.get(key)
    if problem is not None or not world.complete:
        stone = state.memory.tombstone
        phase = stone.phase if stone is not None else Phase.HELD
        why = (
            f"its manifest is broken ({problem.file}:{problem.line})"
            if problem
            else "the manifests could not all be read"
        )
        return Verdict(
            View(key, phase, "Frozen", why, attempt=state.memory.attempt, frozen=True), state.lines, state.action
        )
    if _is_settled(state.memory):
        return Verdict(None, state.lines, state.action)
    return Verdict(None, (*state.lines, Forgotten("its manifest is gone and nothing of it runs")), state.action)


def _is_settled(memory: Memory) -> bool:
    """Without a manifest, is nothing left to be written about it?

    How it ended is kept: should its manifest come back (a revert), the job must not run a second time. So is that a run of it was
    let go of: else the next look would find it by its mark, and remove it."""
    stone = memory.tombstone
    return memory.released or (stone is not None and stone.cause is not Cause.DELETED) or memory.blank


def _begin(
    world: World,
    desired: Desired,
    memory: Memory,
    tended: Mapping[JobKey, Tended],
    taken: Reservations,
    spent: Spending,
    dry: Mapping[tuple[str, str], float],
    closed: Mapping[str, Closed],
) -> Verdict:
    blocked = _dependencies(world, desired, tended)
    if blocked is not None:
        reason, message, held = blocked
        return wait(memory, desired, reason, message, held=held)
    if world.now < memory.not_before:
        message = f"{memory.last_end.partition(chr(10))[0]}; the next try waits out the back-off"
        return wait(memory, desired, "BackingOff", message, next_try=memory.not_before)
    if world.unscanned and (memory.attempt == 0 or memory.heir_of):
        message = _never_seen(world)
        return wait(memory, desired, "HostNeverSeen", message, held=True)
    leaving = _leaving(world, desired.key)
    if leaving is not None:
        return wait(memory, desired, "MachineLeaving", leaving)
    spec = world.decode(desired.normal)
    found = place(
        spec.request,
        world.hosts,
        world.observation.censuses,
        taken,
        world.chip_of,
        spec.slurm,
        spec.volcano,
        tries=memory.unlucky,
        zones=spec.tpu.zones,
        dry=dry,
        closed=closed,
        now=world.now,
    )
    if isinstance(found, Unplaceable):
        reason = cooling.REASON if found.cooling else "Unplaceable"
        said = found.sentence
        if found.cooling:
            first = next(host for host, why in found.reasons if host in closed and closed[host].why == why)
            said += f". It is tried again by itself then; sooner: reconciler apply --trust-host {first}"
        verdict = wait(memory, desired, reason, said, unplaceable=found, held=found.final, next_try=found.until)
        unknown = [host for host in found.blind if host in world.observation.censuses]
        if not unknown:
            return verdict
        # A host that might have had room cannot be asked: that is for a person to see, not only a matter of waiting.
        return replace(verdict, action=Action(Verb.HOLD, desired.key, "HostUnknown", found.sentence, host=unknown[0]))
    no = _no_money(world, memory, desired, found, spent)
    if no is not None:
        reason, message, held = no
        return wait(memory, desired, reason, message, held=held)
    return launch(memory, desired, found)


def _no_money(
    world: World, memory: Memory, desired: Desired, found: Placement, spent: Spending
) -> tuple[str, str, bool] | None:
    """(reason, sentence, needs a person) why what is rented for it may not be paid for, None where it may or costs nothing."""
    if found.price_per_hour is None:
        return None
    too_much = over(world.limits, spent, found)
    if too_much is not None:
        return "OverLimit", *too_much
    if world.approved or was_approved(memory, desired, found):
        return None
    costs = (
        f"costs {found.price_per_hour:.2f} an hour" if found.price_per_hour else "costs money (its price is not known)"
    )
    before = memory.approved.get(found.host) if memory.pin_for == (desired.digest, desired.generation) else None
    said = "nobody has said yes" if not before else f"the yes that was said is for {before:.2f}"
    message = f"{found.host} {costs} and {said}: `reconciler apply`, or approve: auto in the inventory"
    return "NeedsApproval", message, True


def _rented_again(world: World, action: Action | None) -> Placement | None:
    """The machine that would be made, at today's type and price, were a launch that was cut short sent again; None for any other
    action, and where a machine of that run is seen."""
    start = action.effect if action is not None else None
    if not isinstance(start, Start) or start.again is None or start.machine is not None:
        return None
    run = start.again
    rented = next((view.rented for view in world.hosts if view.name == run.host), None)
    census = world.observation.censuses.get(run.host)
    if rented is None or (census is not None and any(one.run_id == run.run_id for one in census.machines)):
        return None
    price = rented.price_per_hour
    return Placement(run.host, run.gpus, rented.chip, run.place, price_per_hour=price, chips=rented.chips)


def _send_again(
    world: World, desired: Desired, state: Tended, action: Action, found: Placement, spent: Spending
) -> Verdict:
    """A launch that was cut short costs what a new one costs. Held, its run stays open: it may have happened after all, and each
    pass looks."""
    no = _no_money(world, state.memory, desired, found, spent)
    if no is None:
        assert isinstance(action.effect, Start)
        cost = f"{found.price_per_hour:.2f} an hour" if found.price_per_hour else "price not known"
        # With its price: what is said yes to now is remembered like any other yes.
        effect = replace(action.effect, placement=found)
        return Verdict(state.view, state.lines, replace(action, message=f"{action.message}, {cost}", effect=effect))
    reason, why, held = no
    message = f"its launch was cut short and is not sent again: {why}"
    view = replace(state.view, reason=reason, message=message) if state.view is not None else None
    if view is not None and held:
        view = replace(view, phase=Phase.HELD)
    hold = Action(Verb.HOLD, action.job, reason, message, action.run_id, action.host) if held else None
    return Verdict(view, state.lines, hold)


def _leaving(world: World, key: JobKey) -> str | None:
    """A machine on which an earlier attempt of the job may still live for a moment, while it is being deleted."""
    for census in world.observation.censuses.values():
        for machine in census.machines:
            if machine.job != key or machine.owner != world.owner or machine.dead:
                continue
            seen = census.look(machine.run_id)
            if machine.going or seen.alive or seen.presence is Presence.UNKNOWN:
                return f"{machine.shown} of an earlier attempt is {machine.words}; the next one starts once it is gone"
    return None


def _never_seen(world: World) -> str:
    """Why a job without a memory must not start yet: a run of it may live where nobody has looked."""
    named = []
    for host in world.unscanned:
        census = world.observation.censuses.get(host)
        named.append(f"{host} ({census.error})" if census and census.error else host)
    return (
        f"not yet looked at since this state was created: {', '.join(named)}. A run of this job may be there already. It starts "
        f"when they answer, or with --assume-empty {world.unscanned[0]} if no run of yours is there"
    )


def _dependencies(world: World, desired: Desired, tended: Mapping[JobKey, Tended]) -> tuple[str, str, bool] | None:
    """(reason, sentence, needs a person) for the first dependency that is not fulfilled, or None."""
    for key in desired.depends_on:
        wanted = world.desired.get(key)
        if wanted is None:
            why = "its manifest is broken" if key in world.frozen else "no manifest describes it"
            return "DependencyMissing", f"waits for {key}, but {why}", True
        if _reaches(world.desired, key, desired.key):
            return "DependencyCycle", f"waits for {key}, which waits for this job", True
        state = tended.get(key)
        memory = state.memory if state else world.memories.get(key)
        stone = memory.tombstone if memory else None
        if stone is not None and (stone.digest, stone.generation) == (wanted.digest, wanted.generation):
            if stone.phase is Phase.SUCCEEDED:
                continue
            return "DependencyFailed", f"waits for {key}, which is {stone.phase}: {stone.message}", True
        return "DependencyWaiting", f"waits for {key} to succeed", False
    return None


def _reaches(desired: Mapping[JobKey, Desired], start: JobKey, goal: JobKey) -> bool:
    seen: set[JobKey] = set()
    open_ = [start]
    while open_:
        key = open_.pop()
        if key == goal:
            return True
        if key in seen or key not in desired:
            continue
        seen.add(key)
        open_.extend(desired[key].depends_on)
    return False


def _guard(world: World, actions: Iterable[Action], tended: Mapping[JobKey, Tended]) -> Refusal | None:
    """Refuse to remove more than a quarter of the live jobs (at least two), or all of them, unless confirmed by count."""
    removals = [action for action in actions if action.destructive]
    live = sum(
        state.memory.run is not None and (state.memory.tombstone is None or state.memory.tombstone.phase not in FINAL)
        for state in tended.values()
    )
    if not removals or world.delete_allowed == len(removals):
        return None
    # A run that was found by its mark, and that this state has never seen wanted, may be wanted by a newer commit than ours.
    found = any(action.job in world.memories and _only_found(world.memories[action.job]) for action in removals)
    many = len(removals) >= DELETE_COUNT_MIN and len(removals) > DELETE_SHARE_MAX * live
    everything = len(removals) >= live and (len(removals) >= DELETE_COUNT_MIN or not world.desired)
    if not many and not everything and not found:
        return None
    names = ", ".join(str(action.job) for action in removals[:5]) + (", …" if len(removals) > 5 else "")
    flag = f"--confirm-delete {len(removals)}"
    return Refusal(
        f"This would remove {len(removals)} of {live} live jobs ({names}). Nothing was done. If you want that, add {flag}",
        flag,
    )


def _only_found(memory: Memory) -> bool:
    return memory.run is not None and bool(memory.heir_of)


def plan_to_json(
    made: Plan, *, exit_code: int, complete: bool, commit: str | None, dirty: bool, problems: Iterable[Problem]
) -> dict[str, Json]:
    """The document of `plan --json` and `plan -o` (schemas/plan.schema.json)."""
    actions: list[Json] = [
        {
            "verb": action.verb.value,
            "job": str(action.job),
            "run_id": action.run_id,
            "host": action.host,
            "reason": action.reason,
            "message": action.message,
            "destructive": action.destructive,
            "changes": [{"path": c.path, "old": c.old, "new": c.new, "effect": c.effect.value} for c in action.changes],
        }
        for action in made.actions
    ]
    errors: list[Json] = [{"file": p.file, "line": p.line, "message": p.message} for p in problems]
    counts: dict[str, Json] = dict(made.counts())
    counts["frozen"] = sum(view.frozen for view in made.views)
    counts["jobs"] = len(made.views)
    return {
        "version": 1,
        "exit_code": exit_code,
        "complete": complete,
        "digest": made.digest,
        "source": {"commit": commit, "dirty": dirty},
        "actions": actions,
        "errors": errors,
        "summary": counts,
        "refused": made.refusal.message if made.refusal else None,
        "alarms": [alarm.to_json() for alarm in made.alarms],
    }

"""Where may a job run: the first host, in the user's order, that can hold all it asks for.

Never gives fewer chips than asked, never gives one accelerator twice within a pass, and says for each host passed over which
rule failed. Rules as in the original dispatcher's documentation: priority order, cluster allow and deny lists, configured chip
counts, free accelerators by nvidia-smi; the busy rule is applied per accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from reconciler.core import gangs
from reconciler.core.cooling import clock
from reconciler.core.job import Json, Request, SlurmOverrides, VolcanoOverrides
from reconciler.core.observation import Capacity, Census, Gpu
from reconciler.core.partitions import Cannot, Fit, QueueView
from reconciler.core.partitions import fit as fit_queue

# Rules that fail for want of a question: the host was not asked, or not asked what is free.
NOT_ASKED = "has not been asked"
DRIVEN = frozenset({"local", "plain", "slurm", "tpu", "volcano"})
NO_DRIVER = "has no nvidia-smi to tell which accelerators are free"


@dataclass(frozen=True, slots=True)
class Rented:
    """A host whose machines are made for a run and deleted after it: at most `machines_max` at a time, in one of `zones`, each
    with `chips` of `chip`. `count` is the number in the type's name, which the original took for its chips. A zone that had none
    is passed over for `cooldown_s`."""

    chip: str
    chips: int
    count: int
    zones: tuple[str, ...]
    machines_max: int = 1
    price_per_chip_hour: float | None = None
    cooldown_s: float = 0.0

    @property
    def price_per_hour(self) -> float:
        """Of one machine; 0 where the inventory gives no price."""
        return (self.price_per_chip_hour or 0.0) * self.chips


@dataclass(frozen=True, slots=True)
class HostView:
    """What the solver needs to know of a host. `chips` is what the inventory grants per chip; empty means CPU only, None
    whatever the machine turns out to have.

    `slots` bounds CPU jobs at once. An accelerator counts as busy from `busy_mib` of used memory on. `queue` or `gang` is set for
    hosts behind which a scheduler decides; with `queue`, `chips` caps what one job may ask for, and None is no cap. What
    was seen `poll_s` ago may be taken for the present, unless we changed something.
    """

    name: str
    kind: str
    cluster: str
    chips: Mapping[str, int] | None = field(hash=False)
    slots: int | None = None
    busy_mib: int = 100
    queue: QueueView | None = None
    poll_s: float = 0.0
    rented: Rented | None = None
    gang: gangs.GangView | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """A host, and the accelerators taken there: uuids or indexes; () is CPU mode. `chip` is what they are, where known.

    Behind a queue the scheduler picks accelerators: `gpus` is None, `place` says partition and shape, `words` the same for
    people, and `machines` which free machines the solver counted on.
    """

    host: str
    gpus: tuple[str, ...] | None
    chip: str | None
    place: Mapping[str, Json] = field(default_factory=dict, hash=False)
    words: str = ""
    machines: tuple[tuple[str, int], ...] = ()
    price_per_hour: float | None = None
    """What it costs while it lives, 0 where that is not known; None where nothing is rented."""
    chips: int = 0
    """Of the machine that is rented."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A host that takes no new jobs for now: `why`, and until when, where that is known (our clock; else 0)."""

    why: str
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No host can take the job now. One (host, rule that failed) per host, in the order tried.

    `blind` names hosts that could not be asked: they might have had room. `final`: a queue's host was looked at, and no change
    of load can make room on any host; somebody has to change the job or the inventory. `until` (our clock): when a zone that
    had no machine is asked again, or a host takes jobs again, 0 where none is waited for. `cooling`: every host that may ever
    take it cools down.
    """

    reasons: tuple[tuple[str, str], ...]
    blind: tuple[str, ...] = ()
    final: bool = False
    until: float = 0.0
    cooling: bool = False

    @property
    def sentence(self) -> str:
        if not self.reasons:
            return "the inventory has no hosts"
        return "; ".join(f"{host}: {why}" for host, why in self.reasons)


@dataclass(slots=True)
class Reservations:
    """What is taken on each host, filled while a pass places one job after another: the one mutable thing in the solver."""

    gpus: dict[str, set[str]] = field(default_factory=dict)
    cpu_jobs: dict[str, int] = field(default_factory=dict)
    machines: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, host: str, gpus: Sequence[str] | None) -> None:
        """Count one run on `host`: its accelerators, or a CPU slot when it has none."""
        if gpus:
            self.gpus.setdefault(host, set()).update(gpus)
        else:
            self.cpu_jobs[host] = self.cpu_jobs.get(host, 0) + 1

    def promise(self, host: str, machines: Iterable[tuple[str, int]]) -> None:
        """Count accelerators of machines behind a queue that a job of this pass was placed for."""
        promised = self.machines.setdefault(host, {})
        for machine, count in machines:
            promised[machine] = promised.get(machine, 0) + count


def place(
    request: Request,
    hosts: Iterable[HostView],
    censuses: Mapping[str, Census],
    taken: Reservations,
    chip_of: Callable[[Gpu], str | None],
    slurm: SlurmOverrides = SlurmOverrides(),  # noqa: B008  frozen
    volcano: VolcanoOverrides = VolcanoOverrides(),  # noqa: B008
    *,
    tries: int = 0,
    zones: tuple[str, ...] = (),
    dry: Mapping[tuple[str, str], float] = MappingProxyType({}),
    closed: Mapping[str, Closed] = MappingProxyType({}),
    now: float = 0.0,
) -> Placement | Unplaceable:
    """The first host that can hold `request` now; else the queue with the most free accelerators, to wait in; else the first
    failing rule of each.

    `hosts` are in the user's order. `chip_of` maps a driver's product name to a chip key. Never raises; does not reserve:
    the caller does, once it decides to launch. `tries`: how often in a row the job was unlucky, which changes the zone;
    `zones` stand in place of the host's. `dry`: until when (host, zone) is passed over, as `now` counts. `closed` hosts are
    passed over, whatever is free there.
    """
    reasons: list[tuple[str, str]] = []
    blind: list[str] = []
    queues: list[tuple[HostView, Fit]] = []
    final, asked = True, False
    until = 0.0
    allowed = cooling = 0
    for host in hosts:
        why = _forbidden(request, host)
        shut = closed.get(host.name)
        allowed += why is None
        if why is None and shut is not None:
            final, why = False, shut.why
            if shut.until:
                cooling += 1
                until = min(until or shut.until, shut.until)
        elif why is None:
            census = censuses.get(host.name)
            if census is not None and census.complete and host.rented is not None:
                final = False
                wet, dried = _ask_in_turn(host.name, zones or host.rented.zones, tries, dry, now)
                rent = _fit_rented(request, host, host.rented, census, taken, wet, dried)
                if isinstance(rent, Placement):
                    return rent
                if rent == dried[0]:
                    until = min(until or dried[1], dried[1])
                why = rent
            elif census is None or not census.complete or census.capacity is None:
                why = f"cannot be asked: {census.error}" if census and census.error else NOT_ASKED
                blind.append(host.name)
                final = False
            elif host.queue is not None or host.gang is not None:
                fitted = (
                    _fit_queue(request, host, host.queue, census.capacity, taken, slurm)
                    if host.queue is not None
                    else _fit_gang(request, host, census.capacity, taken, volcano)
                )
                if isinstance(fitted, Fit) and fitted.now:
                    return _behind(request, host, fitted)
                if isinstance(fitted, Fit):
                    queues.append((host, fitted))
                    final, why = False, fitted.words
                else:
                    asked, final, why = True, final and fitted.final, fitted.why
            else:
                final = False
                found = _fit(request, host, census.capacity, taken, chip_of)
                if isinstance(found, Placement):
                    return found
                why = found
        reasons.append((host.name, why))
    if queues:
        host, fitted = max(queues, key=lambda item: item[1].free)
        return _behind(request, host, fitted)
    only_cooling = 0 < cooling == allowed
    return Unplaceable(tuple(reasons), tuple(blind), final=final and asked, until=until, cooling=only_cooling)


def _fit_queue(
    request: Request,
    host: HostView,
    queue: QueueView,
    capacity: Capacity,
    taken: Reservations,
    slurm: SlurmOverrides,
) -> Fit | Cannot:
    if capacity.queue is None:
        return Cannot(f"its partitions cannot be read: {capacity.error or 'nothing was said'}", final=False)
    found = fit_queue(request, queue, capacity.queue, taken.machines.get(host.name, {}), slurm)
    if isinstance(found, Fit) and host.chips is not None and request.min_chips:
        nodes, each = found.place["nodes"], found.place["gpus_per_node"]
        assert isinstance(nodes, int)
        assert isinstance(each, int)
        granted = _granted(request, host.chips)
        if nodes * each > granted:
            return Cannot(f"{nodes * each} {request.chip or 'chips'} are needed, the inventory grants {granted} a job")
    return found


def _fit_gang(
    request: Request, host: HostView, capacity: Capacity, taken: Reservations, volcano: VolcanoOverrides
) -> Fit | Cannot:
    assert host.gang is not None
    if capacity.rooms is None:
        return Cannot(f"its queues cannot be read: {capacity.error or 'nothing was said'}", final=False)
    promised = taken.machines.get(host.name, {})
    return gangs.fit(request, host.gang, capacity.rooms, promised, volcano, capacity.error)


def _fit_rented(
    request: Request,
    host: HostView,
    rented: Rented,
    census: Census,
    taken: Reservations,
    zone: str,
    dried: tuple[str, float],
) -> Placement | str:
    """A machine of its own, where one more may be made. A leftover counts until it is seen to be gone."""
    left = sum(not census.look(machine.run_id).alive for machine in census.machines)
    used = taken.cpu_jobs.get(host.name, 0) + left
    if used >= rented.machines_max:
        leftover = f", {left} of them to be deleted" if left else ""
        return f"{used} of at most {rented.machines_max} machines exist{leftover}"
    if not zone:
        return dried[0]
    price = rented.price_per_hour
    cost = f", {price:.2f} an hour" if price else ", price not known"
    words = f"{rented.chips} {rented.chip} in {zone}{cost}"
    if request.min_chips > rented.chips:
        words += f" (the {request.min_chips} asked count TensorCores, two to a chip)"
    return Placement(host.name, None, rented.chip, {"zone": zone}, words, price_per_hour=price, chips=rented.chips)


def _ask_in_turn(
    host: str, zones: tuple[str, ...], tries: int, dry: Mapping[tuple[str, str], float], now: float
) -> tuple[str, tuple[str, float]]:
    """The zone whose turn it is, "" when none had a machine lately; then why, and until when."""
    first = tries % len(zones)
    for zone in (*zones[first:], *zones[:first]):
        if dry.get((host, zone), 0.0) <= now:
            return zone, ("", 0.0)
    said = [f"{zone} until {clock(dry[host, zone])}" for zone in zones]
    return "", (f"had no capacity: {', '.join(said)}", min(dry[host, zone] for zone in zones))


def _behind(request: Request, host: HostView, fitted: Fit) -> Placement:
    kind = fitted.place["gpu_type"]
    chip = request.chip
    if chip is None and host.gang is not None and kind:
        chip = str(kind)
    if chip is None and host.queue is not None and kind:
        chip = next((name for name, known in host.queue.types.items() if known == kind), str(kind))
    return Placement(host.name, None, chip, fitted.place, fitted.words, fitted.taken)


def candidates(request: Request, hosts: Iterable[HostView]) -> list[str]:
    """Hosts that no fixed rule excludes, in order: those worth asking for what is free."""
    return [host.name for host in hosts if _forbidden(request, host) is None]


def _forbidden(request: Request, host: HostView) -> str | None:
    """The first rule that no change of load can mend, or None."""
    if host.kind not in DRIVEN:
        return f"{host.kind} hosts are not driven by this version"
    if request.hosts and host.name not in request.hosts:
        return f"not among request.hosts ({', '.join(request.hosts)})"
    if request.clusters and host.cluster not in request.clusters:
        return f"its cluster {host.cluster} is not among request.clusters ({', '.join(request.clusters)})"
    if host.cluster in request.exclude_clusters:
        return f"its cluster {host.cluster} is in request.exclude_clusters"
    if host.rented is not None:
        return _too_little(request, host.rented)
    if host.gang is not None:
        return None  # its chips are counted per node
    if request.min_chips == 0 or host.chips is None:
        return None
    granted = _granted(request, host.chips)
    if granted == 0:
        what = request.chip or "any chip"
        return f"has no {what}" if host.chips else "has no chips in the inventory (CPU only)"
    if granted < request.min_chips:
        return f"has {granted} {request.chip or 'chips'}, {request.min_chips} asked"
    return None


def _too_little(request: Request, rented: Rented) -> str | None:
    if request.min_chips == 0:
        return "is rented for its chips, none are asked"
    if request.chip is not None and request.chip != rented.chip:
        return f"has {rented.chip}, not {request.chip}"
    if request.min_chips > max(rented.chips, rented.count):
        return f"has {rented.chips} {rented.chip}, {request.min_chips} asked"
    return None


def _granted(request: Request, chips: Mapping[str, int]) -> int:
    if request.chip is not None:
        return max(0, chips.get(request.chip, 0))
    return sum(count for count in chips.values() if count > 0)


def _fit(
    request: Request,
    host: HostView,
    capacity: Capacity,
    taken: Reservations,
    chip_of: Callable[[Gpu], str | None],
) -> Placement | str:
    if request.min_chips == 0:
        slots = capacity.cpus if host.slots is None else host.slots
        used = taken.cpu_jobs.get(host.name, 0)
        if used >= slots:
            return f"all {slots} slots for CPU jobs are in use"
        return Placement(host.name, (), None)
    if capacity.error:
        return f"its accelerators cannot be read: {capacity.error}"
    if capacity.gpus is None:
        return NO_DRIVER
    ours = taken.gpus.get(host.name, set())
    kinds = {gpu.ident: chip_of(gpu) for gpu in capacity.gpus}
    right = [gpu for gpu in capacity.gpus if request.chip is None or kinds[gpu.ident] == request.chip]
    if len(right) < request.min_chips:
        seen = ", ".join(sorted({gpu.name for gpu in capacity.gpus})) or "none"
        return f"nvidia-smi shows {len(right)} {request.chip or 'accelerators'}, {request.min_chips} asked (it has: {seen})"
    # The inventory's count is a grant: of 8 accelerators with `h100: 4`, ours may hold 4 at a time.
    granted = len(right) if host.chips is None else _granted(request, host.chips)
    room = granted - sum(gpu.ident in ours for gpu in right)
    free = [gpu for gpu in right if gpu.ident not in ours and gpu.used_mib < host.busy_mib]
    if min(room, len(free)) < request.min_chips:
        busy = sum(gpu.used_mib >= host.busy_mib and gpu.ident not in ours for gpu in right)
        return (
            f"{min(max(room, 0), len(free))} of {len(right)} {request.chip or 'accelerators'} free, {request.min_chips} asked "
            f"({len(ours & {gpu.ident for gpu in right})} held by our jobs, {busy} busy with {host.busy_mib} MiB or more)"
        )
    chosen = free[: request.min_chips]
    chips = {kinds[gpu.ident] for gpu in chosen}
    return Placement(
        host.name, tuple(gpu.ident for gpu in chosen), request.chip or (chips.pop() if len(chips) == 1 else None)
    )

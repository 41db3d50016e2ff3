"""Which partition of a queue system takes a job, with how many machines: what must hold, and what is free now. Pure.

Accelerators are counted per machine: eight machines with one free each do not satisfy a job that asks for eight. A job for
which nothing is free now can still be left to the queue; one that no load could ever make room for is refused, in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.job import Json, Request, SlurmOverrides
from reconciler.core.quantity import show_seconds
from reconciler.core.queue import QueueCapacity, QueueNode, QueuePartition


@dataclass(frozen=True, slots=True)
class PartitionWish:
    """A partition that the inventory names; `default` ones are tried first."""

    name: str
    default: bool = False
    constraint: str | None = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """What the inventory says of a queue host. `types` gives the scheduler's name of a chip."""

    partitions: tuple[PartitionWish, ...] = ()
    cpu_partitions: tuple[PartitionWish, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict, hash=False)
    account: str | None = None
    time_s: int | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cannot:
    """Why a host does not take the job. `final`: no change of load can mend it."""

    why: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Fit:
    """A partition that takes the job. `now`: enough is free; else it waits in the queue, where `free` accelerators are free
    now. `taken` lists (machine, accelerators) that it would use, so that the next job of the same pass does not count on them.
    """

    place: Mapping[str, Json] = field(hash=False)
    words: str
    now: bool
    free: int
    preferred: bool
    taken: tuple[tuple[str, int], ...] = ()


_NO_OVERRIDES = SlurmOverrides()


def fit(
    request: Request,
    view: QueueView,
    capacity: QueueCapacity,
    reserved: Mapping[str, int],
    slurm: SlurmOverrides = _NO_OVERRIDES,
) -> Fit | Cannot:
    """The best partition: one where the job can start now, the inventory's default first, then the most free accelerators;
    else the one with the most free to wait in. `reserved` are accelerators promised in this pass, per machine."""
    fits: list[Fit] = []
    cannot: list[Cannot] = []
    for wish in _wishes(request, view, capacity, slurm):
        partition = capacity.partitions.get(wish.name)
        if partition is None:
            known = ", ".join(sorted(capacity.partitions)) or "none"
            cannot.append(Cannot(f"there is no partition {wish.name} (the cluster has: {known})"))
            continue
        found = _fit_partition(request, view, wish, partition, capacity, reserved, slurm)
        (fits if isinstance(found, Fit) else cannot).append(found)  # type: ignore[arg-type]
    if fits:
        best = max(fits, key=lambda one: (one.now, one.preferred if one.now else False, one.free))
        return _any_of(best, fits) if slurm.partition is not None and len(fits) > 1 else best
    if not cannot:
        return Cannot("the cluster has no partition that is up", final=False)
    return Cannot("; ".join(dict.fromkeys(one.why for one in cannot)), final=all(one.final for one in cannot))


def _any_of(best: Fit, fits: Sequence[Fit]) -> Fit:
    """The job names several partitions: every one that takes it in the same shape, for the shortest of their times, so that the
    scheduler chooses."""
    also = [one for one in fits if _shape(one) == _shape(best)]
    times = [time_s for one in also if isinstance(time_s := one.place["time_s"], int)]
    names = ",".join(str(one.place["partition"]) for one in also)
    words = best.words.replace(f"partition {best.place['partition']}", f"partition {names}", 1)
    return replace(best, place={**best.place, "partition": names, "time_s": min(times, default=None)}, words=words)


def _shape(one: Fit) -> dict[str, Json]:
    return {key: value for key, value in one.place.items() if key not in ("partition", "time_s")}


def _wishes(
    request: Request, view: QueueView, capacity: QueueCapacity, slurm: SlurmOverrides
) -> Iterable[PartitionWish]:
    named = view.partitions if request.min_chips else view.cpu_partitions or view.partitions
    if slurm.partition is not None:
        by_name = {wish.name: wish for wish in named}
        return [by_name.get(name, PartitionWish(name)) for name in dict.fromkeys(slurm.partition.split(",")) if name]
    if named:
        return sorted(named, key=lambda wish: not wish.default)
    everything = sorted(capacity.partitions.values(), key=lambda partition: not partition.default)
    return [PartitionWish(partition.name, partition.default) for partition in everything if partition.up]


def _fit_partition(
    request: Request,
    view: QueueView,
    wish: PartitionWish,
    partition: QueuePartition,
    capacity: QueueCapacity,
    reserved: Mapping[str, int],
    slurm: SlurmOverrides,
) -> Fit | Cannot:
    account = slurm.account or view.account
    if account is not None and partition.accounts is not None and account not in partition.accounts:
        allowed = ", ".join(sorted(partition.accounts)) or "none"
        return Cannot(f"partition {wish.name} does not take account {account} (it takes: {allowed})")
    time_s = request.time_s or view.time_s
    if time_s is not None and partition.time_max_s is not None and time_s > partition.time_max_s:
        most = show_seconds(partition.time_max_s)
        return Cannot(f"{show_seconds(time_s)} asked, partition {wish.name} allows {most}")
    nodes = capacity.of(wish.name)
    place: dict[str, Json] = {
        "partition": wish.name,
        "constraint": wish.constraint,
        "nodes": slurm.nodes or 1,
        "gpus_per_node": 0,
        "gpu_type": "",
        "time_s": time_s if time_s is not None else partition.time_max_s,
    }
    if request.min_chips == 0:
        return _fit_cpus(place, wish, partition, nodes)
    types = _types(request, view, nodes)
    if not types:
        there = ", ".join(sorted({kind or "untyped" for node in nodes for kind in node.gpus})) or "no accelerators"
        return Cannot(f"partition {wish.name} has no {request.chip or 'accelerators'} (it has: {there})")
    found = [_fit_type(request, view, place, wish, partition, nodes, kind, reserved, slurm) for kind in types]
    fits = [one for one in found if isinstance(one, Fit)]
    if fits:
        return max(fits, key=lambda one: (one.now, one.free))
    return next(one for one in found if isinstance(one, Cannot))


def _fit_cpus(
    place: Mapping[str, Json], wish: PartitionWish, partition: QueuePartition, nodes: Sequence[QueueNode]
) -> Fit | Cannot:
    count = place["nodes"]
    assert isinstance(count, int)
    refused = _too_many(count, count, "machines", wish, partition, nodes)
    if refused is not None:
        return refused
    words = f"partition {wish.name}" + (f", {count} machines" if count > 1 else "")
    if not partition.up:
        words += "; it waits in the queue until the partition is up"
    return Fit(place, words, now=partition.up, free=sum(node.usable for node in nodes), preferred=wish.default)


def _types(request: Request, view: QueueView, nodes: Sequence[QueueNode]) -> list[str]:
    """The scheduler's types that will do. A chip without an entry in gres_mapping goes by its own name."""
    there = sorted({kind for node in nodes for kind, count in node.gpus.items() if count > 0})
    if request.chip is None:
        return there
    wanted = view.types.get(request.chip, request.chip)
    return [wanted] if wanted in there else []


def _fit_type(
    request: Request,
    view: QueueView,
    place: Mapping[str, Json],
    wish: PartitionWish,
    partition: QueuePartition,
    nodes: Sequence[QueueNode],
    kind: str,
    reserved: Mapping[str, int],
    slurm: SlurmOverrides,
) -> Fit | Cannot:
    name = request.chip or kind or "accelerators"
    most = max(node.gpus.get(kind, 0) for node in nodes)
    least = -(-request.min_chips // most)
    # As few machines as there are large enough ones of: with one of 8 and four of 4, twelve chips are three machines of 4.
    counts = [slurm.nodes] if slurm.nodes else range(least, max(least, min(request.min_chips, len(nodes))) + 1)
    refused: Cannot | None = None
    for count in counts:
        each = -(-request.min_chips // count)
        large = [node for node in nodes if node.gpus.get(kind, 0) >= each]
        found = _too_many(count, each, name, wish, partition, large)
        if found is None:
            break
        refused = refused or found
    else:
        assert refused is not None
        return refused
    usable = _usable(nodes, view, slurm)
    left = {node.name: node.free(kind) - reserved.get(node.name, 0) for node in nodes if node.name in usable}
    free_now = [node.name for node in large if left.get(node.name, 0) >= each]
    free, total = sum(max(0, one) for one in left.values()), sum(node.gpus.get(kind, 0) for node in nodes)
    now = partition.up and len(free_now) >= count
    shape = f"{count} machines with {each} {name} each" if count > 1 else f"{each} {name}"
    words = f"partition {wish.name}, {shape}"
    if not now:
        words += f"; it waits in the queue ({free} of {total} free, {len(free_now)} of {count} machines ready)"
    return Fit(
        {**place, "nodes": count, "gpus_per_node": each, "gpu_type": kind},
        words,
        now=now,
        free=free,
        preferred=wish.default,
        taken=tuple((machine, each) for machine in free_now[:count]) if now else (),
    )


def _usable(nodes: Sequence[QueueNode], view: QueueView, slurm: SlurmOverrides) -> set[str]:
    """Machines that the job may get: none that it or its host excludes, and of those that it names no others."""
    excluded = {*view.exclude, *slurm.exclude}
    named = {*slurm.nodelist}
    return {node.name for node in nodes if node.name not in excluded and (not named or node.name in named)}


def _too_many(
    count: int, each: int, name: str, wish: PartitionWish, partition: QueuePartition, large: Sequence[QueueNode]
) -> Cannot | None:
    if partition.nodes_max is not None and count > partition.nodes_max:
        return Cannot(f"needs {count} machines, partition {wish.name} allows {partition.nodes_max} a job")
    if len(large) < count:
        what = f"{count} machines" if name == "machines" else f"{count} machine{'s' * (count > 1)} with {each} {name}"
        return Cannot(f"needs {what}, partition {wish.name} has {len(large)}")
    return None


def with_constraint(place: Mapping[str, Json], slurm: SlurmOverrides) -> str | None:
    """The job's own constraint, else that of its partition."""
    own = place.get("constraint")
    return slurm.constraint or (own if isinstance(own, str) else None)

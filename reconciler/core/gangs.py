"""How many equal pods a job needs on a cluster that schedules gangs (Volcano), and whether its queue has room for them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.job import Json, Request, VolcanoOverrides
from reconciler.core.partitions import Cannot, Fit

# What accelerators promised within one pass are counted under: a queue's room is one number, whatever the nodes.
_PROMISED = "chips of queue "
DEFAULT_QUEUE = "default"


@dataclass(frozen=True, slots=True)
class GangView:
    """What the inventory says of such a cluster: chips per node, the queue, and the most nodes of a run (None: any)."""

    chips: Mapping[str, int] = field(hash=False)
    queue: str = DEFAULT_QUEUE
    nodes_max: int | None = None


@dataclass(frozen=True, slots=True)
class QueueRoom:
    """One queue. `state` is Volcano's word; only an Open one takes jobs. `cap` is what its capability grants in accelerators,
    None for no limit; `used` what is allocated."""

    name: str
    state: str
    cap: int | None
    used: int = 0


def fit(
    request: Request,
    view: GangView,
    rooms: Mapping[str, QueueRoom],
    promised: Mapping[str, int],
    given: VolcanoOverrides,
    unread: str = "",
) -> Fit | Cannot:
    """The gang that holds what is asked: as few nodes as possible, each with the same number of accelerators, never fewer in all
    than asked. `unread`: why not all queues are in `rooms`.
    `now`: the queue's cap leaves room for it; whether nodes are free only the scheduler knows."""
    name = given.queue or view.queue or DEFAULT_QUEUE
    room = rooms.get(name)
    if room is None and unread:
        return Cannot(f"queue {name} cannot be read: {unread}", final=False)
    if room is None:
        known = ", ".join(sorted(rooms)) or "none"
        return Cannot(f"there is no queue {name} (the cluster has: {known})", final=False)
    if room.state != "Open":
        return Cannot(f"queue {name} is {room.state or 'in an unknown state'}, it takes no jobs", final=False)
    shape = _shape(request, view, given)
    if isinstance(shape, Cannot):
        return shape
    chip, nodes, each = shape
    need = nodes * each
    if room.cap is not None and need > room.cap:
        return Cannot(f"queue {name} grants {room.cap} accelerators in all, {need} are needed")
    taken = room.used + promised.get(_PROMISED + name, 0)
    free = None if room.cap is None else max(0, room.cap - taken)
    place: dict[str, Json] = {"queue": name, "nodes": nodes, "gpus_per_node": each, "gpu_type": chip or ""}
    what = f"{nodes} x {each} {chip}" if each else f"{nodes} x CPU only" if nodes > 1 else "CPU only"
    words = f"queue {name}, {what}"
    if free is not None and need > free:
        words += f", where {free} of {room.cap} accelerators are free"
    now = free is None or need <= free
    return Fit(place, words, now, free if free is not None else need, preferred=True, taken=((_PROMISED + name, need),))


def _shape(request: Request, view: GangView, given: VolcanoOverrides) -> tuple[str | None, int, int] | Cannot:
    """(chip, nodes, chips of each)."""
    need = request.min_chips
    if need == 0:
        return _few(None, given.nodes or 1, 0, view)
    chips = {name: count for name, count in view.chips.items() if count > 0}
    if not chips:
        return Cannot("has no chips in the inventory (CPU only)")
    if request.chip is not None and request.chip not in chips:
        return Cannot(f"has no {request.chip} (its nodes have: {', '.join(chips)})")
    chip = request.chip or next(
        (name for name, count in chips.items() if count >= need), max(chips, key=chips.__getitem__)
    )
    per_node = chips[chip]
    nodes = given.nodes or -(-need // per_node)
    each = -(-need // nodes)
    if each > per_node:
        return Cannot(f"spec.volcano.nodes: {nodes} nodes hold {nodes * per_node} {chip}, {need} asked")
    return _few(chip, nodes, each, view)


def _few(chip: str | None, nodes: int, each: int, view: GangView) -> tuple[str | None, int, int] | Cannot:
    if view.nodes_max is not None and nodes > view.nodes_max:
        return Cannot(f"{nodes} nodes are needed, the inventory grants {view.nodes_max} a run (max_nodes)")
    return chip, nodes, each

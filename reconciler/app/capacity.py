"""What each host has and what is free there, by the same rules as the solver's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from reconciler.app.converge import Reconciler
from reconciler.app.ports import Ports
from reconciler.core.cooling import Pause, pauses
from reconciler.core.errors import StoreError
from reconciler.core.gangs import GangView
from reconciler.core.observation import Capacity, Census
from reconciler.core.solve import HostView, Reservations


@dataclass(frozen=True, slots=True)
class Row:
    """One host. `chips` counts what the solver may give, `free` what it could give now. `words` says it where counts cannot."""

    name: str
    kind: str
    cluster: str
    reachable: bool | None
    chips: Mapping[str, int] = field(hash=False)
    free: Mapping[str, int] = field(hash=False)
    slots: int | None
    slots_free: int | None
    note: str = ""
    words: str = ""


def survey(reconciler: Reconciler) -> list[Row]:
    """Ask every host now."""
    censuses = reconciler.probe()
    taken = Reservations()
    for host, census in censuses.items():
        for seen in census.sightings.values():
            if seen.alive and seen.run is not None:
                taken.take(host, seen.run.gpus)
    rows = [_row(view, censuses.get(view.name), taken, reconciler) for view in reconciler.ports.hosts]
    paused: Mapping[str, Pause] = {}
    with suppress(StoreError):  # what the machines have can be told without the state
        paused = cooled(reconciler.ports)
    return [
        replace(row, note="; ".join(filter(None, (paused[row.name].sentence, row.note)))) if row.name in paused else row
        for row in rows
    ]


def cooled(ports: Ports) -> Mapping[str, Pause]:
    """The hosts that cool down for every job now, as far as the journal tells. Raises StoreError."""
    strikes = ((key, *one) for key, memory in ports.store.memories().items() for one in memory.strikes)
    return pauses(strikes, {}, ports.clock.now()).every


def _queue_row(view: HostView, capacity: Capacity, promised: Mapping[str, int]) -> Row:
    """A scheduler's machines, by chip: all that its partitions have, and what is free on machines that take work."""
    queue = capacity.queue
    if queue is None:
        return Row(view.name, view.kind, view.cluster, True, promised, {}, None, None, capacity.error)
    types = {kind: chip for chip, kind in (view.queue.types if view.queue else {}).items()}
    named = {wish.name for wish in (*view.queue.partitions, *view.queue.cpu_partitions)} if view.queue else set()
    partitions = [one for one in queue.partitions.values() if not named or one.name in named]
    machines = {name for one in partitions for name in one.nodes if name in queue.nodes}
    there: dict[str, int] = {}
    free: dict[str, int] = {}
    for name in machines:
        node = queue.nodes[name]
        for kind, count in node.gpus.items():
            chip = types.get(kind, kind or "untyped")
            there[chip] = there.get(chip, 0) + count
            free[chip] = free.get(chip, 0) + node.free(kind)
    usable = sum(queue.nodes[name].usable for name in machines)
    note = f"{usable} of {len(machines)} machines take work, partitions {', '.join(one.name for one in partitions)}"
    missing = sorted(named - queue.partitions.keys())
    if missing:
        note += f"; the cluster has no partition {', '.join(missing)}"
    return Row(view.name, view.kind, view.cluster, True, there, free, None, None, note)


def _gang_row(view: HostView, gang: GangView, capacity: Capacity) -> Row:
    """A cluster that schedules gangs: what a node holds, and what the queue grants. Which nodes are free it does not tell."""
    per_node = {chip: count for chip, count in gang.chips.items() if count}
    words = ", ".join(f"{count} {chip} a node" for chip, count in per_node.items()) or "none"
    room = (capacity.rooms or {}).get(gang.queue)
    if capacity.rooms is None:
        return Row(view.name, view.kind, view.cluster, True, {}, {}, None, None, capacity.error, words)
    if room is None:
        known = ", ".join(sorted(capacity.rooms)) or "none"
        note = f"the cluster has no queue {gang.queue} (it has: {known})"
        return Row(view.name, view.kind, view.cluster, True, {}, {}, None, None, note, words)
    limit = f"{room.used} of {room.cap}" if room.cap is not None else f"{room.used}"
    note = f"queue {room.name}: {limit} accelerators in use" + ("" if room.cap is not None else ", no limit")
    if room.state != "Open":
        note += f"; it is {room.state or 'in no state'} and takes no jobs"
    chips: dict[str, int] = {}
    free: dict[str, int] = {}
    if room.cap is not None and len(per_node) == 1:
        (chip,) = per_node
        chips, free = {chip: room.cap}, {chip: max(0, room.cap - room.used)}
    return Row(view.name, view.kind, view.cluster, True, chips, free, None, None, note, words)


def _row(view: HostView, census: Census | None, taken: Reservations, reconciler: Reconciler) -> Row:
    promised = dict(view.chips or {})
    if census is None:
        return Row(view.name, view.kind, view.cluster, None, promised, {}, None, None, "not driven by this version")
    if not census.complete or census.capacity is None:
        return Row(view.name, view.kind, view.cluster, False, promised, {}, view.slots, 0, census.error)
    capacity = census.capacity
    if view.gang is not None:
        return _gang_row(view, view.gang, capacity)
    if capacity.queue is not None or view.queue is not None:
        return _queue_row(view, capacity, promised)
    slots = capacity.cpus if view.slots is None else view.slots
    slots_free = max(0, slots - taken.cpu_jobs.get(view.name, 0))
    held = taken.gpus.get(view.name, set())
    there: dict[str, int] = {}
    free: dict[str, int] = {}
    ours: dict[str, int] = {}
    for gpu in capacity.gpus or ():
        chip = reconciler.ports.chip_of(gpu) or gpu.name
        there[chip] = there.get(chip, 0) + 1
        ours[chip] = ours.get(chip, 0) + (gpu.ident in held)
        if gpu.ident not in held and gpu.used_mib < view.busy_mib:
            free[chip] = free.get(chip, 0) + 1
    granted = there if view.chips is None else promised
    free = {chip: min(free.get(chip, 0), max(0, count - ours.get(chip, 0))) for chip, count in granted.items()}
    notes = [capacity.error] if capacity.error else []
    notes += [
        f"the inventory grants {n} {chip}, nvidia-smi shows {there.get(chip, 0)}"
        for chip, n in promised.items()
        if there.get(chip, 0) < n
    ]
    return Row(view.name, view.kind, view.cluster, True, granted, free, slots, slots_free, "; ".join(notes))

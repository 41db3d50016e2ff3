"""A long quiet life: days of virtual time in which users come and go, one call in twenty fails, and the reconciler is started
anew each day. What is asked: does it still converge, does its memory grow, do journal and hosts agree in the end?
"""

from __future__ import annotations

import gc
import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.backends.fake import Course, FakeMachine, Process
from reconciler.backends.fake_queue import FakeCluster
from reconciler.core.memory import Ended, Launching, Line
from reconciler.core.names import JobKey
from reconciler.core.observation import ReportStatus
from reconciler.core.phase import Phase
from reconciler.core.run import Run
from tests.sim.wire import LoginEndpoint, NodeEndpoint
from tests.sim.workloads import build
from tests.sim.world import Incarnation, SimWorld, _job, calm, faults, manifest
from tests.worlds import OWNER

FAULTS = 0.05
PACE_S = 60.0
DAY_S = 86_400.0
JOBS = 40
"""How many manifests there are at most."""


@dataclass(frozen=True, slots=True)
class Day:
    """Of one day: what the process holds at its end (MiB), passes, runs that began, journal lines."""

    number: int
    memory_mib: float
    passes: int
    started: int
    lines: int


@dataclass
class Ledger:
    """What hosts and journal said, as it was said."""

    started: Counter[str]
    launched: set[str]
    completed: set[str]
    succeeded: set[str]


def soak(directory: Path, *, days: int = 7, seed: int = 1) -> Iterator[Day]:
    """One Day at a time. Raises AssertionError for a broken promise, also at the end: no rest, or journal and hosts disagree."""
    rng = random.Random(seed)
    world = build(
        directory,
        local=2,
        queue=(4, {"n1": 4, "n2": 4}),
        waits=lambda run, ident: random.Random(ident).choice([0.0, 60.0, 600.0]),
        plain=(("gpu1", 4, 4), ("gpu2", 4, 2)),
        courses={f"j{number}": _course for number in range(10_000)},
        seed=seed,
        wire=True,
    )
    try:
        yield from _days(world, rng, days)
    finally:
        world.close()


def _course(run: Run) -> Course:
    lot = random.Random(run.run_id)
    return Course(
        lot.choice([120.0, 1800.0, 7200.0, 6 * 3600.0]),
        lot.choice([0, 0, 0, 0, 0, 7]),
        lot.choice([1.0, 30.0, math.inf]),
    )


def _days(world: SimWorld, rng: random.Random, days: int) -> Iterator[Day]:
    ledger = _listened(world)
    faults(world, FAULTS)
    number = 0
    for day in range(1, days + 1):
        passes, started, newest = world.passes, sum(ledger.started.values()), world.now.store.newest()
        end = world.began + day * DAY_S
        while world.clock.now() < end:
            if rng.random() < 1 / 8:
                number += 1
                _edit(world, rng, number)
            if rng.random() < 1 / 300:
                _mishap(world, rng)
            world.step()
            world.clock.sleep(PACE_S)
            _forget(world)
        world.restart()
        _job.cache_clear()
        gc.collect()
        lines = world.now.store.newest() - newest
        yield Day(day, memory_mib(), world.passes - passes, sum(ledger.started.values()) - started, lines)
    calm(world)
    world.until_rest(limit_s=2 * DAY_S)
    _agree(world, ledger)


def _edit(world: SimWorld, rng: random.Random, number: int) -> None:
    """Somebody adds a job, edits one, or takes one away."""
    names = sorted(world.manifests)
    if len(names) >= JOBS or (names and rng.random() < 0.3):
        world.manifests.pop(rng.choice(names))
        return
    request = rng.choice(
        [{}, {"chip": "h100", "min_chips": 1}, {"hosts": ["hpc"], "min_chips": 2}, {"hosts": ["gpu1"]}]
    )
    name = rng.choice(names) if names and rng.random() < 0.2 else f"j{number}"
    world.manifests[name] = manifest(name, request=request, command=["train", str(number)])


def _mishap(world: SimWorld, rng: random.Random) -> None:
    machine = world.machines[rng.choice(sorted(world.machines))]
    living = [
        process for process in machine.living() if process not in world.foreign and process.started_at is not None
    ]
    if living:
        machine.preempt(rng.choice(living).run.run_id)


def _listened(world: SimWorld) -> Ledger:
    ledger = Ledger(Counter(), set(), set(), set())
    recorded = world.recorded

    def note(batch: Iterable[tuple[JobKey, Line]], by: Incarnation) -> None:
        items = list(batch)
        recorded(items, by)
        for _, line in items:
            match line:
                case Launching(run=run):
                    ledger.launched.add(f"{run.run_id} {run.token}")
                case Ended(run_id=run_id, phase=Phase.SUCCEEDED):
                    ledger.succeeded.add(run_id)

    world.recorded = note  # type: ignore[method-assign]
    for machine in world.machines.values():
        machine.on_start = _noted(machine.on_start, ledger)
    _COMPLETED[id(world)] = ledger
    return ledger


_COMPLETED: dict[int, Ledger] = {}


def _noted(inner: object, ledger: Ledger) -> object:
    def on_start(machine: FakeMachine, process: Process) -> None:
        inner(machine, process)  # type: ignore[operator]
        if process.run.owner == OWNER:
            ledger.started[f"{process.run.run_id} {process.run.token}"] += 1

    return on_start


def _forget(world: SimWorld) -> None:
    """Of what has long been over, neither the worlds nor the hosts keep anything: a disk is cleaned, too."""
    ledger = _COMPLETED[id(world)]
    for log in (world.boundaries, world.lines, world.notes, world.censuses, world.deeds):
        log.clear()
    for machine in world.machines.values():
        machine.calls.clear()
        for run_id, process in list(machine.processes.items()):
            if process.final is not None and process.final.status is ReportStatus.COMPLETED:
                ledger.completed.add(run_id)
            memory = world.folded.get(process.run.job)
            minded = memory is not None and memory.run is not None and memory.run.run_id == run_id
            newest = machine.fences.get(process.run.job)
            wanted = process.run.job.name in world.manifests and newest is not None and newest.run_id == run_id
            if not process.alive and not minded and not wanted:
                del machine.processes[run_id]
        for key in [key for key in machine.fences if key.name not in world.manifests]:
            if not any(process.run.job == key for process in machine.processes.values()):
                del machine.fences[key]
        if isinstance(machine, FakeCluster):
            _purge(machine, world.endpoints[machine.name])
    world.started[:] = [process for process in world.started if process.alive]


def _purge(cluster: FakeCluster, endpoint: NodeEndpoint) -> None:
    """Neither its scheduler nor the accounting knows of what is cleaned away."""
    assert isinstance(endpoint, LoginEndpoint)
    cluster.jobs = [job for job in cluster.jobs if job.run_id in cluster.processes]
    idents = {job.ident for job in cluster.jobs}
    for by_run in (cluster.begun, cluster.lost, endpoint.answers, endpoint.written):
        for run_id in by_run.keys() - cluster.processes.keys():
            del by_run[run_id]  # type: ignore[attr-defined]
    for by_job in (endpoint.rows, endpoint.ended_at):
        for ident in by_job.keys() - idents:
            del by_job[ident]  # type: ignore[attr-defined]


def _agree(world: SimWorld, ledger: Ledger) -> None:
    """Nothing ran that the journal does not know, and what it calls done was done."""
    _forget(world)
    unknown = ledger.started.keys() - ledger.launched
    assert not unknown, f"ran without a line in the journal: {sorted(unknown)[:5]}"
    undone = ledger.succeeded - ledger.completed
    assert not undone, f"called done, and never completed: {sorted(undone)[:5]}"
    assert world.last is not None
    for view in world.last.plan.views:
        assert view.phase in (Phase.SUCCEEDED, Phase.FAILED), view
    del _COMPLETED[id(world)]


def memory_mib() -> float:
    """What this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

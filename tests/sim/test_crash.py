"""The reconciler is killed at every boundary of every workload, and the end is that of the run nobody interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.workloads import WORKLOADS, Workload
from tests.sim.world import Incarnation, SimWorld, play

NAMES = [workload.name for workload in WORKLOADS]
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def run(workload: Workload, directory: Path, prepare: Callable[[SimWorld], None] = lambda world: None) -> SimWorld:
    shutil.rmtree(directory, ignore_errors=True)
    world = workload.make(directory)
    try:
        prepare(world)
        play(world, workload.steps)
    except AssertionError as error:
        raise AssertionError(f"{workload.name}: {error}\n" + "\n".join(world.notes)) from error
    finally:
        if not world.now.dead:
            world.now.end()
    return world


def each_boundary(
    workload: Workload, directory: Path, what: Callable[[SimWorld], Callable[[Incarnation], None]]
) -> tuple[SimWorld, list[SimWorld]]:
    """The uninterrupted world, and one world per boundary."""
    whole = run(workload, directory)

    def interrupted(number: int) -> SimWorld:
        return run(workload, directory, lambda world: world.interrupt.__setitem__(number, what(world)))

    return whole, [interrupted(number) for number in range(len(whole.boundaries))]


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_boundary_changes_nothing_in_the_end(name, tmp_path):
    whole, worlds = each_boundary(BY_NAME[name], tmp_path, lambda world: world.kill)
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)

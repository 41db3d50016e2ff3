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
        world.close()
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


@pytest.mark.parametrize("name", ["preempt and requeue", "many jobs over two hosts with accelerators"])
def test_a_kill_whose_lock_has_to_expire_changes_nothing_in_the_end(name, tmp_path):
    def prepare(world: SimWorld) -> Callable[[Incarnation], None]:
        # Another machine takes over: it cannot see that the holder is dead, and waits for the lock's term.
        def kill(incarnation: Incarnation) -> None:
            world.actor = "somebody elsewhere"
            world.kill(incarnation)

        return kill

    whole, worlds = each_boundary(BY_NAME[name], tmp_path, prepare)
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)


@pytest.mark.parametrize("name", ["edit and replace", "preempt and requeue", "dependency chain", "delete"])
def test_the_state_lost_at_any_boundary_is_found_again_on_the_hosts(name, tmp_path):
    whole, worlds = each_boundary(BY_NAME[name], tmp_path, lambda world: world.kill_and_lose_state)
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_reconciler_that_takes_over_from_a_stalled_one_changes_nothing_in_the_end(name, tmp_path):
    """The first stops in its tracks (a laptop's lid), the second waits for the lock and goes on, then the first wakes up."""

    def prepare(world: SimWorld) -> Callable[[Incarnation], None]:
        def stall(incarnation: Incarnation) -> None:
            second = world.born("the second")
            for _ in range(4):
                world.clock.sleep(30.0)
                world.one_pass(second)
            second.end()

        return stall

    whole, worlds = each_boundary(BY_NAME[name], tmp_path, prepare)
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)


@pytest.mark.parametrize("name", NAMES)
def test_two_reconcilers_that_take_turns_on_one_state_end_like_one(name, tmp_path):
    whole = run(BY_NAME[name], tmp_path)

    def prepare(world: SimWorld) -> None:
        world.others = [world.now, world.born("the second")]

    both = run(BY_NAME[name], tmp_path, prepare)
    assert both.outcome() == whole.outcome()
    assert any(incarnation.actor == "the second" for incarnation in both.others)

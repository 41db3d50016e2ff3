"""The reconciler is interrupted at every boundary of every workload, and the end is that of the run nobody interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.interruptions import Interruption, glance, kill, kill_elsewhere, lose_state, run, run_interrupted, stall
from tests.sim.lives import ALL
from tests.sim.world import SimWorld

NAMES = [workload.name for workload in ALL]
BY_NAME = {workload.name: workload for workload in ALL}


def interrupted_everywhere_ends_like_uninterrupted(name: str, directory: Path, what: Interruption) -> None:
    whole = run(BY_NAME[name], directory)
    for number, boundary in enumerate(whole.boundaries):
        world = run_interrupted(BY_NAME[name], directory, what, number)
        assert world.outcome() == whole.outcome(), (number, boundary, world.notes)


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_boundary_changes_nothing_in_the_end(name, tmp_path):
    interrupted_everywhere_ends_like_uninterrupted(name, tmp_path, kill)


@pytest.mark.parametrize("name", ["preempt and requeue", "many jobs over two hosts with accelerators"])
def test_a_kill_whose_lock_has_to_expire_changes_nothing_in_the_end(name, tmp_path):
    interrupted_everywhere_ends_like_uninterrupted(name, tmp_path, kill_elsewhere)


@pytest.mark.parametrize("name", ["edit and replace", "preempt and requeue", "dependency chain", "delete"])
def test_the_state_lost_at_any_boundary_is_found_again_on_the_hosts(name, tmp_path):
    interrupted_everywhere_ends_like_uninterrupted(name, tmp_path, lose_state)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_reconciler_that_takes_over_from_a_stalled_one_changes_nothing_in_the_end(name, tmp_path):
    interrupted_everywhere_ends_like_uninterrupted(name, tmp_path, stall)


@pytest.mark.parametrize("name", ["edit and replace", "preempt and requeue", "many jobs over two hosts with accelerators"])
def test_a_second_reconciler_that_looks_in_at_any_boundary_changes_nothing_in_the_end(name, tmp_path):
    interrupted_everywhere_ends_like_uninterrupted(name, tmp_path, glance)


@pytest.mark.parametrize("name", NAMES)
def test_two_reconcilers_that_take_turns_on_one_state_end_like_one(name, tmp_path):
    whole = run(BY_NAME[name], tmp_path)

    def prepare(world: SimWorld) -> None:
        world.others = [world.now, world.born("the second")]

    both = run(BY_NAME[name], tmp_path, prepare)
    assert both.outcome() == whole.outcome()
    assert any(incarnation.actor == "the second" for incarnation in both.others)

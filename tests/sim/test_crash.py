"""The reconciler is interrupted at every boundary of every workload, and the end is that of the run nobody interrupted."""

from __future__ import annotations

import pytest

from tests.sim.interruptions import INTERRUPTIONS, run, run_interrupted
from tests.sim.lives import ALL
from tests.sim.sweeps import DELICATE, PLACES, STURDY
from tests.sim.world import SimWorld

BY_NAME = {workload.name: workload for workload in ALL}


@pytest.mark.parametrize(("how", "name"), [(how, name) for how, names in PLACES.items() for name in names])
def test_an_interruption_at_any_boundary_changes_nothing_in_the_end(how, name, tmp_path):
    whole = run(BY_NAME[name], tmp_path)
    for number, boundary in enumerate(whole.boundaries):
        world = run_interrupted(BY_NAME[name], tmp_path, INTERRUPTIONS[how], number)
        assert world.outcome() == whole.outcome(), (number, boundary, world.notes)


@pytest.mark.parametrize("name", sorted(DELICATE))
def test_a_kill_at_any_boundary_breaks_no_promise(name, tmp_path):
    for number in range(len(run(BY_NAME[name], tmp_path).boundaries)):
        run_interrupted(BY_NAME[name], tmp_path, INTERRUPTIONS["kill"], number)


@pytest.mark.parametrize("name", STURDY)
def test_two_reconcilers_that_take_turns_on_one_state_end_like_one(name, tmp_path):
    whole = run(BY_NAME[name], tmp_path)

    def prepare(world: SimWorld) -> None:
        world.others = [world.now, world.born("the second")]

    both = run(BY_NAME[name], tmp_path, prepare)
    assert both.outcome() == whole.outcome()
    assert any(incarnation.actor == "the second" for incarnation in both.others)

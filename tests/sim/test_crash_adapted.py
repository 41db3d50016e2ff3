"""The reconciler is killed at every boundary of lives that the real adapters drive, and the end is that of the run nobody
interrupted: no VM leaked, no gang started twice."""

from __future__ import annotations

import pytest

from tests.emulators.tpu.emulator import GET_LIBRARY, have_library
from tests.sim.adapted import ADAPTED
from tests.sim.test_crash import each_boundary

BY_NAME = {workload.name: workload for workload in ADAPTED}


def needs(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.skipif(name.startswith("vm") and not have_library(), reason=GET_LIBRARY)]


NAMES = [pytest.param(name, marks=needs(name)) for name in BY_NAME]


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_boundary_changes_nothing_in_the_end(name, tmp_path):
    whole, worlds = each_boundary(BY_NAME[name], tmp_path, lambda world: world.kill)
    assert worlds
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs(name))
        for name in ("slurm: preempted and requeued", "vm: removed while it is made")
    ],
)
def test_the_state_lost_at_any_boundary_is_found_again_on_the_hosts(name, tmp_path):
    whole, worlds = each_boundary(BY_NAME[name], tmp_path, lambda world: world.kill_and_lose_state)
    for number, world in enumerate(worlds):
        assert world.outcome() == whole.outcome(), (number, whole.boundaries[number], world.notes)

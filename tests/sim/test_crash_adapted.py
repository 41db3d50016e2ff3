"""The reconciler is killed at every boundary of lives that the real adapters drive, and the end is that of the run nobody
interrupted: no VM leaked, no gang started twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.tpu.emulator import GET_LIBRARY, have_library
from tests.sim.adapted import ADAPTED
from tests.sim.interruptions import Interruption, kill, lose_state, run, run_interrupted

BY_NAME = {workload.name: workload for workload in ADAPTED}


def needs(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.skipif(name.startswith("vm") and not have_library(), reason=GET_LIBRARY)]


def interrupted_everywhere(name: str, directory: Path, what: Interruption) -> None:
    whole = run(BY_NAME[name], directory)
    assert whole.boundaries
    for number, boundary in enumerate(whole.boundaries):
        world = run_interrupted(BY_NAME[name], directory, what, number)
        assert world.outcome() == whole.outcome(), (number, boundary, world.notes)


NAMES = [pytest.param(name, marks=needs(name)) for name in BY_NAME]


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_boundary_changes_nothing_in_the_end(name, tmp_path):
    interrupted_everywhere(name, tmp_path, kill)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs(name))
        for name in ("slurm: preempted and requeued", "vm: removed while it is made")
    ],
)
def test_the_state_lost_at_any_boundary_is_found_again_on_the_hosts(name, tmp_path):
    interrupted_everywhere(name, tmp_path, lose_state)

"""`--seed N` replays one world of the campaign. Worlds keep their state in memory."""

import pytest

from tests.sim.folder import folder


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=None, help="replay this world of the simulated campaign")


@pytest.fixture
def tmp_path():
    with folder() as made:
        yield made

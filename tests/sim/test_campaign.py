"""Worlds by chance. A failing one names its seed and the command that replays it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.campaign import EXPECTED, storm

SEEDS = range(50)


def test_no_promise_is_broken_in_any_storm(tmp_path, request):
    given = request.config.getoption("seed", default=None)
    met: Counter[str] = Counter()
    for seed in SEEDS if given is None else [given]:
        try:
            world = storm(seed, tmp_path / str(seed))
        except AssertionError as error:
            pytest.fail(
                f"{error}\n\nreplay: pytest tests/sim/test_campaign.py --seed {seed}", pytrace=given is not None
            )
        met.update(type(entry).__name__ for entry in world.lines)
        met.update(world.reasons)
    if given is None:
        missing = EXPECTED - met.keys()
        assert not missing, f"these never came up, so they were not tested: {missing}"


def test_a_seed_gives_the_same_world_each_time(tmp_path):
    first, second = storm(3, tmp_path / "first"), storm(3, tmp_path / "second")
    assert first.lines == second.lines
    assert first.boundaries == second.boundaries

"""Two ways to the same manifests end alike, and worlds that broke a promise once keep it now."""

from __future__ import annotations

import pytest

from tests.sim.differential import canonical, cluster, from_nothing, squashed, there_and_back
from tests.sim.kinds import KINDS, regressions
from tests.sim.world import manifest

SEEDS = range(12)


def test_commits_one_after_another_in_any_order_end_like_all_at_once(tmp_path):
    for seed in SEEDS:
        squashed(seed, tmp_path / str(seed))


def test_there_and_back_ends_as_if_nothing_had_been(tmp_path):
    for seed in SEEDS:
        there_and_back(seed, tmp_path / str(seed))


def test_one_that_begins_with_the_last_commit_and_no_state_ends_like_one_that_lived_through_all(tmp_path):
    for seed in SEEDS:
        from_nothing(seed, tmp_path / str(seed))


def test_an_edit_that_is_taken_back_before_anybody_looked_has_no_effect(tmp_path):
    world = cluster(0, tmp_path)
    world.manifests["a"] = manifest("a", command=["sleep", "1"])
    world.until_rest(limit_s=3600.0)
    effects, ended = world.effects(), canonical(world)
    world.manifests["a"] = manifest("a", command=["sleep", "2"])
    world.manifests["b"] = manifest("b")
    world.manifests["a"] = manifest("a", command=["sleep", "1"])
    del world.manifests["b"]
    world.until_rest(limit_s=3600.0)
    assert (world.effects(), canonical(world)) == (effects, ended)
    world.close()


@pytest.mark.parametrize(("kind", "seed", "note"), regressions())
def test_a_world_that_broke_a_promise_keeps_it_now(kind, seed, note, tmp_path):
    KINDS[kind].make(seed, tmp_path)


def test_every_kind_of_regression_is_known():
    assert {kind for kind, _, _ in regressions()} <= KINDS.keys()

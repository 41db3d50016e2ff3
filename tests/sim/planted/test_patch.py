"""The patches themselves: in effect for a while, and loud when the product has changed under them."""

from __future__ import annotations

import pytest

from reconciler.core import backoff
from reconciler.core.backoff import delay_s
from reconciler.core.job import Backoff
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.patch import Outdated, planted

MODULE = backoff.__name__
TIGHT = ("    if tries <= 0:\n", "    if tries <= 1:\n")


def test_a_patch_reaches_whoever_imported_the_function_and_is_taken_back():
    assert delay_s(Backoff(), 1) == 10.0
    with planted([(MODULE, [TIGHT])]):
        assert delay_s(Backoff(), 1) == 0.0
    assert delay_s(Backoff(), 1) == 10.0


@pytest.mark.parametrize("old", ["    if tries <= 17:\n", "e"])
def test_a_text_that_is_not_there_once_is_an_error(old):
    with pytest.raises(Outdated), planted([(MODULE, [(old, "pass")])]):
        pass


def test_a_patch_that_changes_nothing_is_an_error():
    with pytest.raises(Outdated), planted([(MODULE, [("# 2**20 initial", "# 2**21 initial")])]):
        pass


@pytest.mark.parametrize("name", BUGS)
def test_every_planted_bug_fits_the_product(name):
    with planted([(BUGS[name].module, BUGS[name].edits)]):
        pass

"""Owners that begin alike have states of their own, and those that were named before keep theirs."""

from __future__ import annotations

import re

import pytest

from reconciler.source.owner import state_name

COMMIT = "408de35bba37485e" + "0" * 24


@pytest.mark.parametrize("owner", [COMMIT, COMMIT + "0" * 24, "dir-0123456789abcdef"])
def test_the_owners_that_are_made_here_keep_the_name_of_their_state(owner: str) -> None:
    assert state_name(owner) == owner[:16]


def test_owners_by_name_differ_and_fit_into_a_path_and_a_ref() -> None:
    owners = [
        "my-organisation-speech",
        "my-organisation-vision",
        "team a",
        "x.lock",
        "../x",
        "a/b",
        "\udcff",
        COMMIT + "x",
        COMMIT[:16],
    ]
    names = [state_name(owner) for owner in owners]
    assert len({*names, state_name(COMMIT)}) == len(owners) + 1
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)

"""Every planted bug is found, by the world that is known to find it, and by a promise, not because the product falls over.

Should the storms change, so that a known seed finds it no more, the first ones are tried in its place; what is not found by
WITHIN of them is a failure, and `python -m tests.sim --prove` tells what finds it now.
"""

from __future__ import annotations

import pytest

from tests.sim.folder import folder
from tests.sim.kinds import KINDS
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.hunt import Found, ends_right, play, proved
from tests.sim.planted.proofs import PROOFS, Storm


def test_every_bug_has_a_proof():
    assert PROOFS.keys() == BUGS.keys()
    assert len(BUGS) >= 25


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug):
    proof = PROOFS[bug]
    if isinstance(proof, Storm) and KINDS[proof.kind].missing:
        pytest.skip(KINDS[proof.kind].missing)
    found = proved(bug)
    assert found is not None, f"{bug} ({BUGS[bug].what}) was not found"
    assert _holds_without(found), f"{found.where} breaks a promise without any bug"


def _holds_without(found: Found) -> bool:
    """The same world, without the bug."""
    with folder() as directory:
        try:
            if found.seed is not None:
                KINDS[found.kind].make(found.seed, directory)
                return True
            world = play(found.workload, directory, found.how, found.at)
        except AssertionError:
            return False
    return ends_right(world, found.workload, found.how)

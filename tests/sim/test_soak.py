"""A day of the soak; `python -m tests.sim --soak 7` is the long one, with its memory."""

from __future__ import annotations

from tests.sim.soak import soak


def test_a_day_of_faults_and_a_restart_ends_at_rest_and_in_agreement(tmp_path):
    (day,) = soak(tmp_path, days=1)
    assert day.passes > 1000
    assert day.started > 50
    assert day.lines > day.started

"""Before every run that is ended and every launch that is sent again, the host's answer is an old one, or none. Nothing is
harmed, and the end is that of the world in which it was true."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.interruptions import run
from tests.sim.lives import ALL
from tests.sim.stale import replay, swaps

SWEPT = (
    "preempt and requeue",
    "edit and replace",
    "delete",
    "delete everything",
    "suspend and resume",
    "host restarts",
    "fail, fail, succeed, run again",
    "behind a queue, preempted and requeued",
    "replaced while it waits",
    "removed while it waits",
    "forgotten by the scheduler while it runs",
    "in the queue twice",
    "fails until its budget is spent",
    "each cause has a budget of its own",
    "removed and committed again",
    "run again while it runs",
    "an edit that is held",
    "cancelled by request and resumed",
    "the manifest is broken while it runs",
    "the state is lost between two failures",
    "a launch arrives late",
    "a launch arrives later",
    "a launch arrives late, and was sent again in vain",
    "a launch arrives after it was given up",
    "an old state is restored",
    "its manifest is broken while its run is ended",
    "removed, and wanted again before it has ended",
    "a dependency is to run again",
    "it has finished before its end is asked for",
    "an accelerator is kept for a launch on its way",
)
BY_NAME = {workload.name: workload for workload in ALL}


@pytest.mark.parametrize("name", SWEPT)
def test_an_old_or_lost_answer_changes_nothing_in_the_end(name, tmp_path):
    whole = run(BY_NAME[name], tmp_path)
    tried: Counter[bool] = Counter()
    for swap in swaps(whole):
        world = replay(BY_NAME[name], tmp_path, whole, swap)
        assert world.outcome() == whole.outcome(), (str(swap), world.notes)
        tried[swap.earlier is None] += 1
    assert tried[True], "there was no answer to lose"
    assert tried[False], "there was no other answer to give"


def test_every_workload_that_ends_or_sends_again_is_swept(tmp_path):
    critical = {workload.name for workload in ALL if list(swaps(run(workload, tmp_path)))}
    assert critical == set(SWEPT)

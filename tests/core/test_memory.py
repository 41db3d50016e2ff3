"""Memory is the fold of the journal, in this process and in the next one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.cause import Cause
from reconciler.core.memory import Forgotten, Launching, Memory, Refused, fold
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from tests.properties.strategies import KEYS, make_line, thrown
from tests.worlds import job, run_of

LINES = thrown(make_line)


@given(st.lists(LINES, max_size=12))
def test_what_is_kept_is_what_was_folded(lines):
    memory = Memory(KEYS[0])
    for at, line in enumerate(lines):
        memory = fold(memory, line, 1000.0 + at)
        assert load_memory(KEYS[0], dump_memory(memory)) == memory


@given(LINES)
def test_a_line_comes_back_as_it_was(line):
    assert load_line(*dump_line(line)) == line


@given(st.lists(LINES, max_size=12), LINES)
def test_attempts_only_grow(lines, last):
    memory = Memory(KEYS[0])
    for line in lines:
        memory = fold(memory, line, 1000.0)
    assert fold(memory, last, 1001.0).attempt >= memory.attempt


def test_what_was_said_yes_to_and_which_zones_were_dry_reach_the_next_process():
    run = replace(run_of(job("train"), host="pod"), place={"zone": "z1"})
    memory = fold(Memory(run.job), Launching(run, False, 12.5), 1000.0)
    memory = fold(memory, Refused(run.run_id, "no capacity", 0.0, Cause.CAPACITY), 1001.0)
    assert (memory.approved, memory.dry) == ({"pod": 12.5}, (("pod", "z1", 1001.0),))
    assert load_memory(run.job, dump_memory(memory)) == memory
    again = replace(run, run_id="train-2", attempt=2)
    memory = fold(fold(memory, Launching(again, True), 1002.0), Refused("train-2", "busy", 0.0, Cause.QUOTA), 1003.0)
    assert memory.dry == (("pod", "z1", 1001.0),)  # no quota is not no capacity
    assert fold(memory, Forgotten("gone"), 1004.0).dry == memory.dry

"""Memory is the fold of the journal, in this process and in the next one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.memory import Memory, fold
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from tests.properties.strategies import KEYS, make_line, thrown

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

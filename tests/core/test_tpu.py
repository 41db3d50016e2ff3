from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import tpu
from reconciler.core.tpu import RequestState, TpuState, label_value, node_name, request_state_of, state_of

STATES = {
    TpuState.COMING: {"CREATING", "STARTING", "RESTARTING", "REIMAGING", "UNHIDING"},
    TpuState.READY: {"READY"},
    TpuState.DEGRADED: {"REPAIRING"},
    TpuState.LOST: {"PREEMPTED", "TERMINATED", "HIDDEN", "UNKNOWN", "STOPPED"},
    TpuState.GOING: {"DELETING", "STOPPING", "HIDING"},
    TpuState.UNKNOWN: {"STATE_UNSPECIFIED"},
}


def test_every_documented_word_has_a_state_and_a_sentence() -> None:
    assert {word: state for state, words in STATES.items() for word in words} == {
        word: state_of(word) for word in tpu.WORDS
    }
    assert all(tpu.sentence_of(word) for word in tpu.WORDS)
    assert {word for word in tpu.WORDS if tpu.taken_back(word)} == {"PREEMPTED", "TERMINATED"}


def test_the_words_are_those_of_the_library() -> None:
    library = pytest.importorskip(
        "google.cloud.tpu_v2", reason="google-cloud-tpu is not installed: pip install 'reconciler[tpu]'"
    )
    assert {state.name for state in library.Node.State} == set(tpu.WORDS)
    assert {state.name for state in library.QueuedResourceState.State} == set(tpu.REQUEST_WORDS)
    assert {health.name for health in library.Node.Health} == set(tpu.HEALTH)


@given(st.text(max_size=20).filter(lambda word: word not in tpu.WORDS and word not in tpu.REQUEST_WORDS))
def test_an_unknown_word_is_unknown_and_never_lost(word: str) -> None:
    assert state_of(word) is TpuState.UNKNOWN
    assert request_state_of(word) is RequestState.UNKNOWN
    assert not tpu.taken_back(word)
    assert tpu.sentence_of(word)
    assert tpu.request_sentence_of(word)


def test_health_speaks_only_when_something_is_wrong() -> None:
    assert tpu.health_sentence("HEALTHY") == tpu.health_sentence("") == ""
    assert "maintenance" in tpu.health_sentence("UNHEALTHY_MAINTENANCE")
    assert "NEW_WORD" in tpu.health_sentence("NEW_WORD")


NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")


@given(st.text(max_size=200))
def test_any_text_makes_a_name_and_a_label(text: str) -> None:
    name, value = node_name(text), label_value(text)
    assert NAME.match(name)
    assert len(name) <= 63
    assert tpu.is_node_name(name)
    assert tpu.is_label_value(value)
    assert (node_name(text), label_value(text)) == (name, value)


@given(st.lists(st.text(alphabet="aB-_.x0f9é ", max_size=70), unique=True, max_size=8))
def test_two_texts_never_share_a_name(texts: list[str]) -> None:
    assert len({node_name(text) for text in texts}) == len(texts)
    assert len({label_value(text) for text in texts}) == len(texts)


def test_a_result_is_not_the_name_of_another_text() -> None:
    for text in ("A-b", "x" * 64, "a_b", "1a", "", "-", "日本"):
        assert node_name(node_name(text)) != node_name(text)
        assert node_name(text) != text
    assert node_name("lm-default-pretrain-0a1b2c3d-1") == "lm-default-pretrain-0a1b2c3d-1"
    assert node_name("lm-Default_pretrain.7b-0a1b2c3d-1").startswith("lm-default-pretrain-7b-0a1b2c3d-1-x")


@pytest.mark.parametrize("text", ["", "A", "1a", "a-", "-a", "a" * 64, "a_b", "a.b", "a\n"])
def test_what_is_no_name_of_a_node(text: str) -> None:
    assert not tpu.is_node_name(text)


@pytest.mark.parametrize("text", ["", "Aa", "1a", "_a", "a" * 64, "a.b", "a\n"])
def test_what_is_no_key_of_a_label(text: str) -> None:
    assert not tpu.is_label_key(text)


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-1", "v2-alpha-tpuv6e"),
    ],
)
def test_every_generation_has_its_usual_software(kind: str, version: str) -> None:
    assert tpu.default_version(kind) == version

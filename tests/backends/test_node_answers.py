"""What a node says, read with suspicion: garbage never raises, never proves absence, never counts as complete."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.backends.node_answers import MARKER, Answer, census_from, handle_from, parse
from reconciler.core.observation import Census, Presence
from tests.worlds import job, run_of

RUN = run_of(job())

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["present", "absent", "running", "completed", "1e999", "cancelled", "replaced", "-1"]),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
FIELDS = {
    "run_id": st.just(RUN.run_id) | ANYTHING,
    "status_dir": ANYTHING,
    "state": st.sampled_from(["present", "absent"]) | ANYTHING,
    "alive": st.booleans() | ANYTHING,
    "supervised": st.booleans() | ANYTHING,
    "started": st.fixed_dictionaries({}, optional={"pid": ANYTHING, "boot_id": ANYTHING}) | ANYTHING,
    "claim": st.fixed_dictionaries(
        {}, optional={"run": st.just(RUN.to_json()) | ANYTHING, "token": ANYTHING, "boot_id": ANYTHING}
    )
    | ANYTHING,
    "metadata": st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from(["running", "completed", "failed"]) | ANYTHING,
            "seq": ANYTHING,
            "cause": ANYTHING,
            "exit_code": ANYTHING,
            "message": ANYTHING,
            "checkpoint": ANYTHING,
            "progress": ANYTHING,
        },
    )
    | ANYTHING,
    "progress": st.fixed_dictionaries({}, optional={"step": ANYTHING, "total": ANYTHING, "metrics": ANYTHING})
    | ANYTHING,
    "request": ANYTHING,
    "error": st.none() | ANYTHING,
}
SIGHTINGS = st.fixed_dictionaries({}, optional=FIELDS) | ANYTHING
CLOSING = st.fixed_dictionaries(
    {"done": st.just(True) | ANYTHING},
    optional={
        "boot_id": ANYTHING,
        "cpus": ANYTHING,
        "gpus": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": ANYTHING,
                    "uuid": ANYTHING,
                    "name": ANYTHING,
                    "memory_total_mib": ANYTHING,
                    "used_mib": ANYTHING,
                },
            ),
            max_size=2,
        )
        | ANYTHING,
        "gpu_error": ANYTHING,
        "roots": st.dictionaries(st.text(max_size=4), st.none() | ANYTHING, max_size=2) | ANYTHING,
    },
)


def line(value: Any) -> bytes:
    return MARKER + json.dumps(value).encode() + b"\n"


def check(census: Census, answer: Answer) -> None:
    """What must hold of any census made of any answer."""
    assert census.complete <= answer.done
    assert census.scanned <= census.complete
    if not census.complete:
        assert census.look("somebody-1").presence is Presence.UNKNOWN
    for seen in census.sightings.values():
        if seen.presence is Presence.ABSENT:
            said = [entry["sighting"] for entry in answer.lines if isinstance(entry.get("sighting"), dict)]
            assert any(
                one.get("run_id") == seen.run_id and one.get("state") == "absent" and not one.get("error")
                for one in said
            )
        if seen.presence is Presence.UNKNOWN:
            assert seen.error
    if census.capacity is not None:
        for gpu in census.capacity.gpus or ():
            assert gpu.ident


@given(st.binary(max_size=300))
@example(b"@r1 {\n")
@example(b'@r1 {"done": true}')
@example(MARKER + b"\xff\xfe\n")
def test_any_bytes_are_read_without_an_error(output):
    answer = parse(output)
    check(census_from("ws", answer, scanned=True), answer)


@given(st.lists(SIGHTINGS, max_size=3), CLOSING)
@settings(max_examples=400)
def test_any_values_in_the_right_places_are_read_without_an_error(sightings, closing):
    output = b"".join(line({"sighting": sighting}) for sighting in sightings) + line(closing)
    answer = parse(output)
    census = census_from("ws", answer, scanned=True)
    check(census, answer)
    roots = closing.get("roots")
    if isinstance(roots, dict) and any(roots.values()):
        assert not census.complete


def test_an_answer_nested_beyond_reason_is_garbage():
    assert not parse(MARKER + b"[" * 100_000).done


def test_an_answer_that_does_not_say_which_roots_were_read_proves_nothing():
    assert not census_from("ws", parse(line({"done": True, "cpus": 4})), scanned=True).complete


@given(st.data())
def test_an_answer_cut_anywhere_is_incomplete(data):
    whole = (
        line({"sighting": {"run_id": RUN.run_id, "state": "present", "alive": True, "claim": {"run": RUN.to_json()}}})
        + b"banner\n"
        + line({"done": True, "cpus": 4, "roots": {"/r": None}, "boot_id": "b"})
    )
    answer = parse(whole)
    assert census_from("ws", answer, scanned=True).complete
    cut = whole[: data.draw(st.integers(0, len(whole) - 2))]
    answer = parse(cut)
    census = census_from("ws", answer, scanned=True)
    assert not census.complete
    assert census.look(RUN.run_id).presence is not Presence.ABSENT


@pytest.mark.parametrize("noise", [b"Welcome to ws!\n", b"no newline ", b"\x1b[0m\n", b"motd\r\n\r\n"])
def test_noise_of_a_login_shell_is_skipped(noise):
    answer = parse(noise + line({"done": True, "cpus": 4, "roots": {"/r": None}}))
    assert census_from("ws", answer, scanned=False).complete


def test_what_follows_the_closing_line_is_handed_over_byte_for_byte():
    body = bytes(range(256)) + line({"done": True})
    assert parse(line({"offset": 0, "done": True}) + body).rest == body


@given(ANYTHING)
def test_a_handle_is_one_or_none(data):
    handle = handle_from("run-1", "token", data)
    assert handle is None or handle.token == "token"

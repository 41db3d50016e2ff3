"""One thread per host: what one does never touches the others."""

from __future__ import annotations

import threading

import pytest

from reconciler.app import lanes as lanes_module
from reconciler.app.lanes import Crashed, Lanes
from reconciler.core.errors import Retry, Unreachable


@pytest.fixture
def lanes():
    made = Lanes()
    yield made
    made.close()


def raising(error):
    def call():
        raise error

    return call


def test_results_errors_and_bugs_come_back_as_values(lanes):
    work = {"good": lambda: 1, "down": raising(Unreachable("no")), "buggy": raising(KeyError("x"))}
    results = dict(lanes.each(work))
    assert results["good"] == 1
    assert isinstance(results["down"], Unreachable)
    assert isinstance(results["buggy"], Crashed)
    assert results["buggy"].retry is Retry.AFTER_LOOKING
    assert "KeyError" in results["buggy"].message
    assert "test_lanes.py" in results["buggy"].hint


def test_a_host_keeps_its_thread(lanes):
    first = dict(lanes.each({"a": threading.get_ident, "b": threading.get_ident}))
    assert dict(lanes.each({"a": threading.get_ident, "b": threading.get_ident})) == first
    assert first["a"] != first["b"]


def test_a_slow_host_does_not_delay_the_results_of_the_others(lanes):
    gate = threading.Event()
    results = lanes.each({"slow": lambda: gate.wait(30), "quick": lambda: "done"})
    assert next(results) == ("quick", "done")
    gate.set()
    assert next(results) == ("slow", True)


def test_the_caller_is_ticked_while_it_waits_and_what_the_tick_raises_ends_the_wait(lanes, monkeypatch):
    monkeypatch.setattr(lanes_module, "TICK_S", 0.01)
    gate, ticks = threading.Event(), []

    def tick():
        ticks.append(threading.current_thread())
        if len(ticks) == 3:
            raise Unreachable("the lock was lost")

    with pytest.raises(Unreachable, match="lock was lost"):
        list(lanes.each({"slow": lambda: gate.wait(30)}, tick=tick))
    gate.set()
    assert ticks == [threading.main_thread()] * 3


def test_no_work_makes_no_thread(lanes):
    before = threading.active_count()
    assert list(lanes.each({})) == []
    assert threading.active_count() == before

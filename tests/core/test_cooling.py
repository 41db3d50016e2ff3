"""Hosts that lose or refuse attempts again and again: when they cool down, for how long, and who is to blame."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.cause import Cause
from reconciler.core.cooling import (
    BLAMED_REASONS,
    BREAKS_WINDOW_S,
    FIRST_PAUSE_S,
    INCIDENT_S,
    LONGEST_PAUSE_S,
    STRIKES_KEPT,
    STRIKES_KEPT_S,
    WINDOW_S,
    blames_host,
    clock,
    pauses,
    strike,
)
from reconciler.core.memory import Ended, Forgotten, Memory, Refused, fold
from reconciler.core.observation import Report, ReportStatus
from reconciler.core.plan import plan
from reconciler.core.solve import HostView
from reconciler.core.tpu import DeniedKind
from reconciler.store.codec import dump_memory, load_memory
from tests.worlds import HOST, NOW, census, job, key, live_memory, phase_of, planned, run_of, seen, words, world

OTHER = HostView("other", "plain", "lab", {}, slots=4)
MINUTE = 60.0


def until(*ago_s: float, now: float = NOW) -> float | None:
    """For how long from now the host cools down for all, after strikes so long ago, of two jobs in turn."""
    names = ("one", "two")
    strikes = [(key(names[index % 2]), "ws", now - ago) for index, ago in enumerate(ago_s)]
    found = pauses(strikes, {}, now).every.get("ws")
    return None if found is None else found.until - now


def struck(*ago_s: float, names: tuple[str, ...] = ("one", "two"), host: str = "ws") -> list[Memory]:
    """Memories of jobs whose attempts that host lost, in turn."""
    return [
        Memory(key(name), attempt=len(ago_s), strikes=tuple((host, NOW - ago) for ago in ago_s[index :: len(names)]))
        for index, name in enumerate(names)
    ]


def test_the_third_within_half_an_hour_gives_ten_minutes():
    assert until(20 * MINUTE, 10 * MINUTE) is None
    assert until(20 * MINUTE, 10 * MINUTE, 0.0) == FIRST_PAUSE_S == 600
    assert until(20 * MINUTE, 10 * MINUTE, 4 * MINUTE) == 6 * MINUTE
    assert until(WINDOW_S, 10 * MINUTE, 0.0) is None


def test_each_further_one_doubles_it_up_to_an_hour():
    times = [100 * MINUTE, 90 * MINUTE, 80 * MINUTE]
    assert until(*times, *[65 * MINUTE] * 2, *[40 * MINUTE] * 2, 0.0, 0.0) == LONGEST_PAUSE_S == 3600
    assert until(*(time - 65 * MINUTE for time in times), 0.0) == 20 * MINUTE
    assert until(*(time - 60 * MINUTE for time in times), 5 * MINUTE, 0.0) == 40 * MINUTE
    assert until(*(MINUTE * 2 * n for n in range(40))) == LONGEST_PAUSE_S


def test_a_host_that_was_quiet_for_long_enough_starts_anew():
    quiet = 10 * MINUTE + WINDOW_S
    assert until(quiet + 20 * MINUTE, quiet + 10 * MINUTE, quiet + 1, 0.0, 0.0) is None
    assert until(quiet + 20 * MINUTE, quiet + 10 * MINUTE, quiet - 1, 0.0, 0.0) == 20 * MINUTE


def test_one_incident_is_no_flapping_however_many_attempts_it_costs():
    assert until(*(n * INCIDENT_S / 10 for n in range(10))) is None
    assert until(*([0.0] * 8)) is None
    assert until(*([0.0] * 8), *([10 * MINUTE] * 8)) == FIRST_PAUSE_S


def test_a_clock_that_was_ahead_freezes_nobody():
    assert until(-10 * MINUTE, -20 * MINUTE, -5.0) is None
    assert until(20 * MINUTE, 10 * MINUTE, -1.0) is None
    assert pauses([], {"ws": (NOW - 100, NOW - 50, NOW + 1)}, NOW).every == {}


STRUCK = st.tuples(st.sampled_from(["one", "two", "three"]), st.floats(-6000, 2000))


@given(st.lists(STRUCK, max_size=30), st.lists(st.floats(-6000, 2000), max_size=30))
def test_no_pause_is_longer_than_an_hour_nor_in_the_past(strikes, breaks):
    given_ = [(key(name), "ws", NOW + at) for name, at in strikes]
    found = pauses(given_, {"ws": [NOW + at for at in breaks]}, NOW)
    for one in (*found.every.values(), *(own["ws"] for own in found.alone.values())):
        assert NOW < one.until <= NOW + LONGEST_PAUSE_S


@given(st.lists(STRUCK, max_size=12), st.randoms())
def test_the_order_in_which_jobs_are_remembered_changes_nothing(strikes, dice):
    given_ = [(key(name), "ws", NOW + at) for name, at in strikes]
    mixed = list(given_)
    dice.shuffle(mixed)
    assert pauses(given_, {}, NOW) == pauses(mixed, {}, NOW)


@given(st.lists(st.floats(-6000, 0), max_size=30))
def test_one_job_alone_closes_a_host_for_nobody_else(times):
    assert pauses([(key("one"), "ws", NOW + at) for at in times], {}, NOW).every == {}


def test_a_job_that_meets_with_it_alone_stays_away_itself():
    strikes = [(key("one"), "ws", NOW - ago * MINUTE) for ago in (20, 10, 5)]
    found = pauses([*strikes, (key("two"), "ws", NOW - 40 * MINUTE)], {}, NOW)
    assert found.every == {}
    assert found.alone[key("one")]["ws"].until == NOW + 5 * MINUTE
    assert list(found.alone) == [key("one")]
    assert pauses([*strikes, (key("two"), "ws", NOW)], {}, NOW).every["ws"].until == NOW + FIRST_PAUSE_S


def test_one_job_alone_does_not_lengthen_the_pause_of_all_either():
    row = [(key(name), "ws", NOW - ago * MINUTE) for name, ago in (("one", 50), ("two", 45), ("two", 35))]
    alone = (key("one"), "ws", NOW)
    assert pauses([*row, alone], {}, NOW).every == {}
    assert pauses([*row, alone, (key("two"), "ws", NOW)], {}, NOW).every["ws"].until == NOW + 2 * FIRST_PAUSE_S


def test_what_is_said_of_it_is_still_true_when_it_is_read():
    strikes = [(key(("one", "two")[n % 2]), "ws", NOW - (70 - 12 * n) * MINUTE) for n in range(4)]
    why = pauses(strikes, {}, NOW - 20 * MINUTE).every["ws"].why
    assert why == f"4 attempts of 2 jobs were lost or refused there, the last at {clock(NOW - 34 * MINUTE)}"


def test_a_way_that_broke_off_three_times_in_a_quarter_of_an_hour_is_treated_alike():
    assert pauses([], {"ws": (NOW - 300, NOW)}, NOW).every == {}
    found = pauses([], {"ws": (NOW - 600, NOW - 300, NOW)}, NOW).every["ws"]
    assert found.until == NOW + FIRST_PAUSE_S
    assert "connection" in found.sentence
    assert pauses([], {"ws": (NOW - BREAKS_WINDOW_S, NOW - 300, NOW)}, NOW).every == {}


# --- who is to blame


def lost(
    place: dict | None = None, report: Report | None = None, *, lasted: bool = False, cause=Cause.INFRASTRUCTURE
) -> bool:
    return blames_host(replace(run_of(job()), place=place or {}), cause, report, lasted=lasted)


def test_a_machine_that_loses_its_runs_is_to_blame_and_a_run_that_tells_of_itself_clears_it():
    assert lost()
    assert lost(report=Report(ReportStatus.RUNNING, 9), lasted=True)
    assert not lost(report=Report(ReportStatus.FAILED, 3, Cause.INFRASTRUCTURE, message="Set-up failed in step uv"))
    assert not lost(cause=Cause.FAILURE)
    assert not lost(cause=Cause.PREEMPTION)


def test_a_scheduler_minds_its_machines_itself_and_a_rented_one_is_replaced_unless_none_comes_to_work():
    assert not lost({"partition": "gpu", "nodes": 2})
    assert lost({"zone": "z1"})
    assert lost({"zone": "z1"}, Report(ReportStatus.FAILED, 0, Cause.INFRASTRUCTURE, message="it did not boot"))
    assert not lost({"zone": "z1"}, lasted=True)


def test_no_word_of_a_cloud_speaks_against_the_whole_cloud():
    """A burst of requests that is put off would close all its zones for all jobs."""
    assert BLAMED_REASONS.isdisjoint(get_args(DeniedKind))


# --- remembered


def test_what_a_host_lost_or_refused_is_remembered_over_processes_and_survives_forgetting():
    run = run_of(job())
    ended = planned([job()], [live_memory(run)], [census(boot="boot-2")])
    [(_, line)] = ended.lines
    assert isinstance(line, Ended)
    assert line.blamed
    memory = fold(live_memory(run), line, NOW)
    assert memory.strikes == (("ws", NOW),)
    assert load_memory(memory.job, dump_memory(memory)) == memory
    assert fold(memory, Forgotten("gone"), NOW).strikes == memory.strikes
    assert fold(memory, Forgotten("gone"), NOW).blank
    refused = fold(live_memory(run), Refused(run.run_id, "no room", 0.0, blamed=True), NOW)
    assert refused.strikes == (("ws", NOW),)
    assert fold(live_memory(run), Refused(run.run_id, "no room", 0.0), NOW).strikes == ()


def test_only_what_can_still_lead_to_a_pause_is_kept():
    had: tuple[tuple[str, float], ...] = (("ws", NOW - STRIKES_KEPT_S),)
    for number in range(STRIKES_KEPT + 5):
        had = strike(had, "ws", NOW + number)
    assert len(had) == STRIKES_KEPT
    assert min(at for _, at in had) >= NOW


# --- what follows


def test_no_new_job_is_started_there_and_other_hosts_are_chosen():
    bad = struck(20 * MINUTE, 10 * MINUTE, 0.0)
    made = planned([job()], bad, [census(), census(host="other")], hosts=(HOST, OTHER))
    assert words(made) == ["launch a New"]
    assert made.actions[0].host == "other"


def test_a_job_that_can_go_nowhere_else_waits_with_the_time_of_the_next_try():
    bad = struck(20 * MINUTE, 10 * MINUTE, 0.0)
    made = planned([job(request={"hosts": ["ws"]})], bad, [census(), census(host="other")], hosts=(HOST, OTHER))
    assert phase_of(made) == "Pending HostCoolingDown"
    [view] = [view for view in made.views if view.job.name == "a"]
    assert view.next_try == NOW + FIRST_PAUSE_S
    assert "cools down until" in view.message
    assert "3 attempts of 2 jobs" in view.message
    assert view.message.endswith("It is tried again by itself then; sooner: reconciler apply --trust-host ws")
    later = plan(world([job(request={"hosts": ["ws"]})], bad, now=NOW + FIRST_PAUSE_S))
    assert words(later) == ["launch a New"]


def test_a_job_that_also_waits_for_room_elsewhere_says_both():
    bad = struck(20 * MINUTE, 10 * MINUTE, 0.0)
    full = census(host="other", cpus=0)
    made = planned([job()], bad, [census(), full], hosts=(HOST, replace(OTHER, slots=0)))
    assert phase_of(made) == "Pending Unplaceable"
    [view] = made.views[:1]
    assert view.next_try == NOW + FIRST_PAUSE_S
    assert dict(view.passed_over)["other"].startswith("all 0 slots")


def test_what_runs_there_goes_on():
    bad = struck(20 * MINUTE, 10 * MINUTE, 0.0)
    run = run_of(job())
    made = planned([job()], [*bad, live_memory(run)], [census(seen(run))])
    assert phase_of(made) == "Running Running"


def test_an_end_that_is_seen_in_this_very_pass_counts():
    bad = struck(20 * MINUTE, 10 * MINUTE)
    run = run_of(job(restart={"backoff": {"initial": "0s"}}))
    wanted = job(restart={"backoff": {"initial": "0s"}})
    made = planned([wanted], [*bad, live_memory(run)], [census(boot="boot-2")])
    assert phase_of(made) == "Lost HostCoolingDown"
    assert made.effects == ()


@pytest.mark.parametrize("strikes", [(), (20 * MINUTE, 10 * MINUTE, 0.0)])
def test_a_persons_word_overrides_it(strikes):
    breaks = {"ws": (NOW - 600, NOW - 300, NOW)}
    arguments = ([job()], struck(*strikes) if strikes else [])
    assert phase_of(planned(*arguments, breaks=breaks)) == "Pending HostCoolingDown"
    assert words(planned(*arguments, breaks=breaks, trusted=frozenset({"ws"}))) == ["launch a New"]


def test_a_job_that_meets_with_it_alone_goes_elsewhere_and_the_others_start_there_all_the_same():
    own = struck(20 * MINUTE, 10 * MINUTE, 0.0, names=("a",))
    arguments = ([job(), job("b")], own, [census(), census(host="other")])
    made = planned(*arguments, hosts=(HOST, OTHER))
    assert {action.job.name: action.host for action in made.effects} == {"a": "other", "b": "ws"}
    trusting = planned(*arguments, hosts=(HOST, OTHER), trusted=frozenset({"ws"}))
    assert {action.host for action in trusting.effects} == {"ws"}
    alone = planned([job()], own)
    assert phase_of(alone) == "Pending HostCoolingDown"
    assert "of this job alone" in alone.views[0].message

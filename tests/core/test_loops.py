"""The same failure again and again without a step of progress, and what is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.cause import Cause
from reconciler.core.ending import judge
from reconciler.core.job import Restart
from reconciler.core.loops import Series
from reconciler.core.memory import Adopted, Ended, Launched, Launching, Memory, Requested, Stopping, fold
from reconciler.core.observation import Presence, Report, ReportStatus, Sighting
from reconciler.core.phase import Phase
from reconciler.core.plan import plan
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from tests.worlds import NOW, census, handle_of, job, key, phase_of, planned, run_of, world

UNLIMITED = Restart(failure=None, infrastructure=None, timeout=None, out_of_memory=None, preemption=None)
JOB = job("a", restart={"failure": "unlimited"})


class Life:
    """One job's attempts, one after another; each `ends` with what its record says."""

    def __init__(self, restart: Restart = UNLIMITED) -> None:
        self.memory = Memory(key("a"))
        self.restart = restart
        self.at = NOW
        self.last: Ended | None = None

    def ends(self, cause: Cause = Cause.FAILURE, code: int | None = 7, *, lives_s: float = 20.0, **report) -> Ended:
        attempt = self.memory.attempt + 1
        run = run_of(JOB, attempt=attempt)
        for line in (Launching(run, attempt > 1), Launched(run.run_id, handle_of(run))):
            self.memory = fold(self.memory, line, self.at)
        self.at += lives_s
        status = ReportStatus.PREEMPTED if cause is Cause.PREEMPTION else ReportStatus.FAILED
        said = Report(
            status, report.pop("seq", 2), cause, code, report.pop("message", f"It ended with {code}."), **report
        )
        seen = Sighting(run.run_id, Presence.PRESENT, handle=handle_of(run), run=run, report=said)
        self.last = judge(run, self.memory, seen, self.restart, self.at)
        self.memory = fold(self.memory, self.last, self.at)
        return self.last


def step(number: int):
    from reconciler.core.observation import Progress

    return Progress(number)


def test_the_fifth_in_a_row_gives_the_job_up_with_the_end_of_its_output():
    life = Life()
    said = "It ended with exit code 7.\nThe last lines of its output:\nno such file: data.bin"
    ends = [life.ends(message=said) for _ in range(5)]
    assert [end.requeue for end in ends] == [True] * 4 + [False]
    assert ends[-1].phase is Phase.FAILED
    first, *rest = ends[-1].message.split("\n")
    assert "5 times in a row" in first
    assert "exit code 7" in first
    assert "resume" in first
    assert rest == ["The last lines of its output:", "no such file: data.bin"]
    made = planned([JOB], [life.memory])
    assert phase_of(made) == "Failed Stalled"
    assert made.views[0].message == ends[-1].message
    assert made.effects == ()


@pytest.mark.parametrize("limit", [2, 3, None])
def test_the_manifest_sets_how_many(limit):
    life = Life(replace(UNLIMITED, same_failure=limit))
    ends = [life.ends() for _ in range(12 if limit is None else limit)]
    assert [end.requeue for end in ends] == [True] * 12 if limit is None else [*[True] * (limit - 1), False]


@pytest.mark.parametrize("cause", [Cause.FAILURE, Cause.OUT_OF_MEMORY, Cause.TIMEOUT, Cause.INFRASTRUCTURE])
def test_whatever_may_be_the_programs_doing_counts(cause):
    life = Life()
    assert [life.ends(cause, 137).requeue for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("cause", [Cause.PREEMPTION, Cause.CAPACITY, Cause.QUOTA])
def test_preemption_and_want_of_capacity_or_quota_never_count_nor_do_they_interrupt(cause):
    life = Life()
    assert all(life.ends(cause, 143).requeue for _ in range(20))
    assert life.memory.series is None
    life.ends()
    life.ends(cause, 143)
    assert [life.ends().requeue for _ in range(4)] == [True] * 3 + [False]


def test_another_exit_code_or_cause_is_another_failure():
    life = Life()
    for code in (1, 2, 1, 2, 1, 2, 1, 2):
        assert life.ends(code=code).requeue
    for cause in (Cause.FAILURE, Cause.OUT_OF_MEMORY) * 4:
        assert life.ends(cause, 137).requeue
    assert life.memory.series.count == 1


def test_without_an_exit_code_the_words_count_but_for_hosts_and_numbers():
    life = Life()
    for number in range(5):
        end = life.ends(Cause.INFRASTRUCTURE, None, message=f"its VM a-{number} is gone from ws after {number} s")
    assert not end.requeue
    life = Life()
    for number in range(8):
        assert life.ends(Cause.INFRASTRUCTURE, None, message="the disk is full" if number % 2 else "no uv").requeue


@pytest.mark.parametrize("what", ["progress", "checkpoint"])
def test_a_step_beyond_all_before_is_progress_and_one_that_was_reached_before_is_none(what):
    def reached(number: int) -> dict:
        return {"progress": step(number)} if what == "progress" else {"checkpoint_step": number}

    life = Life()
    for number in range(100, 1200, 100):
        assert life.ends(**reached(number)).requeue
    assert [life.ends(**reached(1100 - number)).requeue for number in range(4)] == [True] * 3 + [False]


def test_progress_of_a_preempted_attempt_counts_too():
    life = Life()
    for number in (100, 100, 100):
        life.ends(progress=step(number))
    life.ends(Cause.PREEMPTION, 143, progress=step(200))
    assert [life.ends(progress=step(200)).requeue for _ in range(5)] == [True] * 4 + [False]


def test_where_nothing_is_reported_an_attempt_of_ten_minutes_is_progress():
    life = Life()
    assert all(life.ends(lives_s=600.0).requeue for _ in range(10))
    for _ in range(4):
        end = life.ends(lives_s=599.0)
    assert not end.requeue


def test_a_preempted_attempt_of_ten_minutes_is_progress_too_and_a_shorter_one_is_not():
    for lives_s, more in ((600.0, 5), (599.0, 2)):
        life = Life()
        for _ in range(3):
            life.ends()
        life.ends(Cause.PREEMPTION, 143, lives_s=lives_s)
        assert [life.ends().requeue for _ in range(more)] == [True] * (more - 1) + [False]


def test_a_program_that_reports_is_not_excused_by_the_time_it_ran():
    life = Life()
    assert [life.ends(lives_s=86_400.0, progress=step(50)).requeue for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.INFRASTRUCTURE])
def test_long_work_that_a_limit_or_a_machine_ended_is_no_loop_though_each_attempt_counts_its_steps_anew(cause):
    life = Life()
    for reached in (100, 90, 100, 80, 100, 100, 100):
        assert life.ends(cause, 143, lives_s=2 * 86_400.0, progress=step(reached), checkpoint_step=50).requeue
    assert [life.ends(cause, 143, lives_s=599.0, progress=step(100)).requeue for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize("cause", [Cause.FAILURE, Cause.OUT_OF_MEMORY])
def test_what_the_program_itself_comes_to_is_a_loop_however_long_it_takes(cause):
    life = Life()
    ends = [life.ends(cause, 137, lives_s=2 * 86_400.0, progress=step(100)).requeue for _ in range(5)]
    assert ends == [True] * 4 + [False]


def test_a_stalled_job_whose_run_turned_out_to_live_and_was_cancelled_is_cancelled():
    life = Life()
    for _ in range(5):
        life.ends()
    assert phase_of(planned([JOB], [life.memory])) == "Failed Stalled"
    run = run_of(JOB, attempt=5)
    memory = fold(life.memory, Adopted(run, handle_of(run)), life.at)
    memory = fold(memory, Requested("cancel", "by hand", (JOB.digest, JOB.generation)), life.at)
    memory = fold(memory, Stopping(run.run_id, Cause.CANCELLED), life.at)
    memory = fold(memory, judge(run, memory, Sighting(run.run_id, Presence.ABSENT), UNLIMITED, life.at), life.at)
    assert phase_of(planned([JOB], [memory])) == "Cancelled Cancelled"


def test_how_long_it_ran_is_told_by_its_own_record_not_by_when_we_looked():
    """A pass a day: each attempt failed within a second of its start, whatever time it was when that was seen."""
    times = {"start_time": "2026-11-26T10:00:00.000Z", "end_time": "2026-11-26T10:00:01.000Z"}
    life = Life()
    assert [life.ends(lives_s=86_400.0, **times).requeue for _ in range(5)] == [True] * 4 + [False]
    nonsense = {"start_time": "2026-11-26T10:00:00", "end_time": "2026-11-26T10:00:01Z"}
    assert Life().ends(lives_s=86_400.0, **nonsense).requeue


@pytest.mark.parametrize("how", ["resume", "generation", "spec"])
def test_a_person_starts_the_count_anew(how):
    life = Life()
    for _ in range(4):
        life.ends()
    if how == "resume":
        life.memory = fold(life.memory, Requested("resume", "mended"), life.at)
    else:
        other = job("a", generation=2) if how == "generation" else job("a", command=["false"])
        run = run_of(other, attempt=9)
        life.memory = fold(life.memory, Launching(run, False), life.at)
        assert life.memory.series is None
        life = Life()
    assert [life.ends().requeue for _ in range(5)] == [True] * 4 + [False]


def test_resume_tries_a_stalled_job_again_and_no_job_whose_budget_is_spent():
    life = Life()
    for _ in range(5):
        life.ends()
    assert life.memory.stalled
    life.memory = fold(life.memory, Requested("resume", "mended"), life.at)
    assert life.memory.tombstone is None
    assert plan(world([JOB], [life.memory], now=life.at + 1)).counts()["requeue"] == 1
    spent = Life(replace(UNLIMITED, failure=1))
    spent.ends()
    assert not spent.ends().requeue
    assert phase_of(planned([JOB], [spent.memory])) == "Failed BudgetSpent"
    assert fold(spent.memory, Requested("resume", "please"), spent.at).tombstone is not None


def test_an_end_that_was_asked_for_leaves_the_count():
    life = Life()
    life.ends()
    had = life.memory.series
    run = run_of(JOB, attempt=2)
    memory = fold(fold(life.memory, Launching(run, True), NOW), Requested("suspend", "x"), NOW)
    memory = fold(memory, Stopping(run.run_id, Cause.SUSPENDED), NOW)
    ended = judge(run, memory, Sighting(run.run_id, Presence.ABSENT), UNLIMITED, NOW)
    assert fold(memory, ended, NOW).series == had


def test_a_line_from_before_it_was_counted_is_read_and_counts_nothing():
    old = (
        '{"run_id":"r","phase":"Pending","cause":"failure","exit_code":7,"message":"m","requeue":true,"lasted":false,'
        '"not_before":1.0}'
    )
    line = load_line("Ended", old)
    assert (line.series, line.blamed) == (None, False)
    refused = load_line("Refused", '{"run_id":"r","message":"m","not_before":1.0}')
    assert refused.blamed is False
    assert load_memory(key("a"), '{"attempt":3}').series is None


def test_the_count_reaches_the_next_process():
    life = Life()
    life.ends(progress=step(3))
    assert life.memory.series == Series("failure 7", 1, 3, None)
    assert load_memory(key("a"), dump_memory(life.memory)) == life.memory
    assert load_line(*dump_line(life.last)) == life.last


def test_a_live_run_of_a_job_that_failed_before_is_left_alone():
    life = Life()
    life.ends()
    made = planned([JOB], [life.memory], [census()])
    assert made.counts()["requeue"] == 0  # its back-off

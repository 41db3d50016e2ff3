"""What squeue and sacct say: recorded answers of every state the lab can produce, hand-made ones for the rest."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.backends import slurm_states
from reconciler.backends.dialect import Answer
from reconciler.backends.slurm import SlurmDialect
from reconciler.core.cause import Cause
from reconciler.core.errors import Unparsable
from reconciler.core.queue import QueueState
from tests.backends.slurm_records import (
    ANSWERS,
    by_ident,
    by_name,
    history_answer,
    history_row,
    queue_answer,
    queue_row,
    recorded,
)

SLURM = SlurmDialect()
QUEUES = sorted(name for name in ANSWERS if name.startswith("queue-") and name != "queue-controller-down")
HISTORIES = sorted(name for name in ANSWERS if name.startswith("history-") and name != "history-dbd-down")


# --- the queue, recorded


def test_an_empty_queue_is_an_answer() -> None:
    assert SLURM.parse_queue(recorded("queue-empty")) == ()


@pytest.mark.parametrize("reason", [
    "Resources", "Priority", "Dependency", "DependencyNeverSatisfied", "BeginTime", "JobHeldUser", "JobHeldAdmin",
    "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "PartitionTimeLimit", "PartitionDown", "ReqNodeNotAvail",
])  # fmt: skip
def test_a_waiting_job_says_why_in_plain_words(reason: str) -> None:
    job = by_name(SLURM.parse_queue(recorded("queue-waiting")))[reason]
    assert (job.state, job.word, job.cause) == (QueueState.WAITING, "PENDING", None)
    assert job.reason.startswith(reason)
    assert "Slurm says" not in job.sentence


def test_a_job_that_waits_for_a_person_names_the_next_step() -> None:
    jobs = by_name(SLURM.parse_queue(recorded("queue-waiting")))
    held = {name for name, job in jobs.items() if job.held}
    assert held == {"JobHeldUser", "JobHeldAdmin", "PartitionTimeLimit", "DependencyNeverSatisfied"}
    assert f"`scontrol release {jobs['JobHeldUser'].ident}`" in jobs["JobHeldUser"].sentence
    assert f"`scancel {jobs['DependencyNeverSatisfied'].ident}`" in jobs["DependencyNeverSatisfied"].sentence
    assert "spec.request.time" in jobs["PartitionTimeLimit"].sentence
    assert "cpu02" in jobs["ReqNodeNotAvail"].sentence


def test_the_expected_start_is_told_where_slurm_knows_it() -> None:
    jobs = by_name(SLURM.parse_queue(recorded("queue-waiting")))
    assert jobs["Resources"].starts_at.startswith("2026-")
    assert (jobs["JobHeldUser"].starts_at, jobs["JobHeldUser"].started_at) == ("", "")
    assert (jobs["big"].starts_at, jobs["big"].started_at[:5], jobs["big"].nodes) == ("", "2026-", "gh[01-02]")


def test_members_of_an_array_are_jobs_each() -> None:
    jobs = [job for job in SLURM.parse_queue(recorded("queue-running")) if job.name == "members"]
    base = jobs[0].array
    assert sorted((job.ident, job.array, job.index) for job in jobs) == [(f"{base}_{i}", base, i) for i in range(6)]
    assert {job.mark for job in jobs} == {"reconciler:a"}
    assert [job.state for job in sorted(jobs, key=lambda job: job.index or 0)] == [
        *[QueueState.RUNNING] * 2,
        *[QueueState.WAITING] * 4,
    ]


@pytest.mark.parametrize(("name", "state", "cause", "code"), [
    ("done", QueueState.ENDED, None, 0),
    ("signal", QueueState.ENDED, None, None),
    ("no-output", QueueState.ENDED, None, None),
    ("late", QueueState.ENDED, Cause.TIMEOUT, None),
    ("cancelled", QueueState.ENDED, Cause.CANCELLED, None),
    ("cancelled-waiting", QueueState.ENDED, Cause.CANCELLED, None),
    ("victim", QueueState.ENDED, Cause.PREEMPTION, None),
    ("lost", QueueState.ENDED, Cause.INFRASTRUCTURE, None),
    ("suspended", QueueState.RUNNING, None, None),
    ("put-back-held", QueueState.WAITING, None, None),
])  # fmt: skip
def test_how_recorded_jobs_ended(name: str, state: QueueState, cause: Cause | None, code: int | None) -> None:
    job = by_name(SLURM.parse_queue(recorded("queue-ended")))[name]
    assert (job.state, job.cause, job.exit_code) == (state, cause, code)
    assert job.revivable == (cause in (Cause.PREEMPTION, Cause.INFRASTRUCTURE))


def test_a_job_that_is_ending_still_runs() -> None:
    jobs = by_name(SLURM.parse_queue(recorded("queue-member-cancelled")))
    assert (jobs["cancelled"].word, jobs["cancelled"].state) == ("COMPLETING", QueueState.RUNNING)


def test_hostile_names_and_comments_neither_hide_nor_invent_a_job() -> None:
    jobs = SLURM.parse_queue(recorded("queue-running"))
    odd = next(job for job in jobs if job.name.startswith("two\nlines"))
    assert odd.ident.isdigit()
    assert odd.mark == ""  # it holds our separator: what is name and what comment cannot be told
    assert len({job.ident for job in jobs}) == len(jobs)


def test_a_member_cancelled_by_us_leaves_the_other_members_waiting() -> None:
    """Recorded after cancel("33_5"): with a filter, scancel would have taken the whole waiting rest."""
    jobs = [job for job in SLURM.parse_queue(recorded("queue-member-cancelled")) if job.name == "members"]
    assert sorted(job.index or 0 for job in jobs) == [0, 1, 2, 3, 4]
    assert {job.cause for job in jobs} == {None}


def test_the_rest_of_a_cancelled_array_is_one_record_without_an_index() -> None:
    jobs = {job.ident: job for job in SLURM.parse_queue(recorded("queue-ended")) if job.name == "members"}
    base = min(jobs, key=len)
    assert (jobs[base].index, jobs[base].array, jobs[base].cause) == (None, "", Cause.CANCELLED)


# --- the queue, hand-made


@pytest.mark.parametrize(("word", "state", "cause", "revivable", "held"), [
    ("PENDING", QueueState.WAITING, None, False, False),
    ("REQUEUED", QueueState.WAITING, None, False, False),
    ("REQUEUE_FED", QueueState.WAITING, None, False, False),
    ("REQUEUE_HOLD", QueueState.WAITING, None, False, True),
    ("SPECIAL_EXIT", QueueState.WAITING, None, False, True),
    ("RESV_DEL_HOLD", QueueState.WAITING, None, False, True),
    ("CONFIGURING", QueueState.RUNNING, None, False, False),
    ("COMPLETING", QueueState.RUNNING, None, False, False),
    ("STOPPED", QueueState.RUNNING, None, False, False),
    ("SUSPENDED", QueueState.RUNNING, None, False, False),
    ("RESIZING", QueueState.RUNNING, None, False, False),
    ("SIGNALING", QueueState.RUNNING, None, False, False),
    ("STAGE_OUT", QueueState.RUNNING, None, False, False),
    ("CANCELLED by 1001", QueueState.ENDED, Cause.CANCELLED, False, False),
    ("DEADLINE", QueueState.ENDED, Cause.TIMEOUT, False, False),
    ("BOOT_FAIL", QueueState.ENDED, Cause.INFRASTRUCTURE, True, False),
    ("OUT_OF_MEMORY", QueueState.ENDED, Cause.OUT_OF_MEMORY, False, False),
    ("REVOKED", QueueState.UNKNOWN, None, False, False),
    ("HIBERNATING", QueueState.UNKNOWN, None, False, False),
    ("COMPLETED+", QueueState.UNKNOWN, None, False, False),
    ("completed", QueueState.UNKNOWN, None, False, False),
])  # fmt: skip
def test_state_words(word: str, state: QueueState, cause: Cause | None, revivable: bool, held: bool) -> None:
    """Hand-made records."""
    (job,) = SLURM.parse_queue(queue_answer(queue_row(word=word)))
    assert (job.state, job.cause, job.revivable, job.held) == (state, cause, revivable, held)
    assert job.word == word
    assert job.sentence
    assert "{" not in job.sentence


def test_two_ends_by_time_are_told_apart() -> None:
    assert slurm_states.meaning("DEADLINE").sentence != slurm_states.meaning("TIMEOUT").sentence


@pytest.mark.parametrize(("reason", "held", "part"), [
    ("launch failed requeued held", True, "scontrol release 7_4"),
    ("launch_failed_requeued_held", True, "scontrol release 7_4"),
    ("JobHoldMaxRequeue", True, "scontrol release 7_4"),
    ("BadConstraints", True, "scontrol show job 7_4"),
    ("QOSMaxWallDurationPerJobLimit", True, "run time"),
    ("QOSMaxCpuPerJobLimit", True, "CPUs"),
    ("QOSGrpCpuLimit", False, "its QOS as a whole"),
    ("AssocGrpCPURunMinutesLimit", False, "CPU time of running jobs"),
    ("AssocMaxJobsLimit", False, "its account sets on jobs"),
    ("QOSMinGRES", True, "accelerators"),
    ("ReqNodeNotAvail, Reserved for maintenance", False, "(Reserved for maintenance)"),
    ("ReqNodeNotAvail,_UnavailableNodes:gpu_01,gpu_02", False, "gpu_01,gpu_02"),
    ("ReqNodeNotAvail(Unavailable:n[1-2])", False, "n[1-2]"),
    ("Nodes required for job are DOWN, DRAINED or reserved", False, "'Nodes required for job are DOWN, DRAINED or reserved'"),
    ("SomethingNew", False, "'SomethingNew'"),
])  # fmt: skip
def test_reasons(reason: str, held: bool, part: str) -> None:
    """Hand-made records; a reason that we do not know is given in Slurm's own words."""
    (job,) = SLURM.parse_queue(queue_answer(queue_row("7_4", index="4", reason=reason)))
    assert (job.reason, job.held) == (reason, held)
    assert part in job.sentence


def test_the_waiting_rest_of_an_array_in_one_record() -> None:
    """Hand-made: a squeue that does not heed -r."""
    jobs = SLURM.parse_queue(queue_answer(queue_row("7_[0,2-4,10-20:5%2]", index="0,2-4,10-20:5%2")))
    assert [job.index for job in jobs] == [0, 2, 3, 4, 10, 15, 20]
    assert jobs[1].ident == "7_2"


@pytest.mark.parametrize("row", [
    queue_row("7_[0-2,4,...]"), queue_row("x"), queue_row(""), queue_row("7", base="8"), queue_row("7", index="3"),
    queue_row(word=""), queue_row().replace("\x1d", ""), queue_row().replace("\x1fgpu\x1f1:00:00", ""), "oops\n",
    "CLUSTER: other\n",
])  # fmt: skip
def test_a_record_that_cannot_be_read_makes_the_answer_unparsable(row: str) -> None:
    with pytest.raises(Unparsable):
        SLURM.parse_queue(queue_answer(queue_row("6"), row))


def test_a_heterogeneous_job_of_somebody_does_not_stop_the_answer() -> None:
    """Hand-made."""
    (job,) = SLURM.parse_queue(queue_answer(queue_row("123+1", base="124", word="RUNNING")))
    assert job.ident == "123+1"


# --- answers that are none


@pytest.mark.parametrize("answer", [
    recorded("queue-controller-down"),
    Answer(None, "", "ended at its deadline"),
    Answer(0, "", ""),
    Answer(0, "reconciler: whole\n", ""),
    replace(recorded("queue-waiting"), returncode=1),
    replace(recorded("queue-waiting"), returncode=None),
    replace(recorded("queue-waiting"), stderr="squeue: error: slurm_receive_msg: Zero Bytes were transmitted\n"),
    Answer(0, recorded("queue-waiting").stdout.partition("\n")[2], ""),
], ids=repr)  # fmt: skip
def test_whatever_is_not_whole_is_unparsable(answer: Answer) -> None:
    with pytest.raises(Unparsable):
        SLURM.parse_queue(answer)


def test_the_words_of_slurm_are_kept() -> None:
    with pytest.raises(Unparsable, match="Unable to contact slurm controller"):
        SLURM.parse_queue(recorded("queue-controller-down"))
    with pytest.raises(Unparsable, match="Problem talking to the database"):
        SLURM.parse_accounting(recorded("history-dbd-down"))


def test_a_warning_on_stderr_is_no_error() -> None:
    assert SLURM.parse_queue(replace(recorded("queue-waiting"), stderr="Welcome! Report every error: to us\n"))


@pytest.mark.parametrize("name", [*QUEUES, *HISTORIES])
def test_no_strict_prefix_of_an_answer_passes_for_a_smaller_one(name: str) -> None:
    whole = recorded(name)
    parse = SLURM.parse_queue if name.startswith("queue") else SLURM.parse_accounting
    jobs = parse(whole)
    for end in range(len(whole.stdout)):
        try:
            assert parse(replace(whole, stdout=whole.stdout[:end])) == jobs
        except Unparsable:
            continue


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x1d\x1e\x1f\n"), max_size=20)


@settings(max_examples=200)
@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4), st.data())
def test_hostile_names_lose_no_job_and_truncation_never_shrinks(
    names: list[str], marks: list[str], data: st.DataObject
) -> None:
    rows = [
        queue_row(str(at), name=name, mark=mark) for at, (name, mark) in enumerate(zip(names, marks, strict=False), 1)
    ]
    whole = queue_answer(*rows)
    try:
        jobs = SLURM.parse_queue(whole)
    except Unparsable:
        return
    assert {str(at) for at in range(1, len(rows) + 1)} <= {job.ident for job in jobs}
    end = data.draw(st.integers(0, len(whole.stdout) - 1))
    try:
        assert SLURM.parse_queue(replace(whole, stdout=whole.stdout[:end])) == jobs
    except Unparsable:
        pass


@settings(max_examples=200)
@given(st.text(), st.text(), st.sampled_from([0, 1, None]))
def test_garbage_is_unparsable(stdout: str, stderr: str, returncode: int | None) -> None:
    for parse in (SLURM.parse_queue, SLURM.parse_accounting):
        with pytest.raises(Unparsable):
            parse(Answer(returncode, stdout, stderr))


# --- the history


def test_an_empty_history_is_an_answer() -> None:
    assert SLURM.parse_accounting(recorded("history-empty")) == ()


@pytest.mark.parametrize(("name", "word", "code", "signal"), [
    ("done", "COMPLETED", 0, 0), ("signal", "FAILED", 0, 11), ("no-output", "FAILED", 0, 53), ("late", "TIMEOUT", 0, 0),
    ("cancelled", "CANCELLED by 1001", 0, 0), ("victim", "PREEMPTED", 0, 0), ("lost", "NODE_FAIL", 0, 0),
])  # fmt: skip
def test_recorded_ends(name: str, word: str, code: int, signal: int) -> None:
    job = by_name(SLURM.parse_accounting(recorded("history-ended")))[name]
    assert (job.state, job.word, job.exit_code, job.signal) == (QueueState.ENDED, word, code, signal)


def test_of_a_requeued_job_the_newest_run_counts() -> None:
    """Recorded: preempted, then running again; two rows with one id."""
    text = recorded("history-ended").stdout
    job = by_name(SLURM.parse_accounting(recorded("history-ended")))["victim-back"]
    assert len(re.findall(rf"(?m)^{job.ident}\x1f", text)) == 2
    assert (job.state, job.exit_code, job.revivable) == (QueueState.RUNNING, None, False)


def test_the_newest_row_wins_in_any_order() -> None:
    """Hand-made."""
    old = history_row(word="PREEMPTED", submit="2026-11-21T07:10:57")
    new = history_row(word="RUNNING", submit="2026-11-21T07:10:58")
    for rows in ((old, new), (new, old)):
        (job,) = SLURM.parse_accounting(history_answer(*rows))
        assert job.word == "RUNNING"


def test_an_id_given_out_twice_is_two_jobs() -> None:
    """Hand-made: a crashed controller forgot the first (slurm_lab 4.5)."""
    jobs = SLURM.parse_accounting(
        history_answer(history_row("61", name="ours"), history_row("61", name="theirs", submit="2026-11-27T00:00:00"))
    )
    assert sorted(job.name for job in jobs) == ["ours", "theirs"]


def test_a_row_that_lags_gives_no_name_and_yields_to_any_other() -> None:
    """Hand-made after slurm_lab 4.4."""
    lag = history_row(word="FAILED", code="1:0", submit="Unknown", name="allocation", partition="")
    (job,) = SLURM.parse_accounting(history_answer(lag))
    assert (job.name, job.partition, job.submitted_at, job.started_at) == ("", "", "", "")
    (job,) = SLURM.parse_accounting(history_answer(history_row(word="RUNNING"), lag))
    assert (job.name, job.word) == ("run", "RUNNING")


def test_the_row_of_an_arrays_rest_speaks_for_members_without_a_row_of_their_own() -> None:
    """Hand-made after a real one: 45_[0-4] stayed although 45_1 had a row of its own."""
    jobs = by_ident(
        SLURM.parse_accounting(
            history_answer(
                history_row("45_1"), history_row("45_[0-4%2]", word="CANCELLED by 0", submit="2026-11-28T00:00:00")
            )
        )
    )
    assert sorted(jobs) == [f"45_{i}" for i in range(5)]
    assert (jobs["45_1"].word, jobs["45_3"].cause, jobs["45_3"].array, jobs["45_3"].index) == (
        "COMPLETED", Cause.CANCELLED, "45", 3,
    )  # fmt: skip


@pytest.mark.parametrize("row", [
    history_row("45_[0-4,...]"), history_row(code="x"), history_row("nonsense"), history_row(word=""), "sacct is gone\n",
])  # fmt: skip
def test_a_row_that_cannot_be_read(row: str) -> None:
    with pytest.raises(Unparsable):
        SLURM.parse_accounting(history_answer(row))


# --- commands


def test_the_queue_is_asked_once_for_all() -> None:
    argv = SLURM.queue()
    assert argv[:2] == ("sh", "-c")
    assert argv[3:10] == ("squeue", "--me", "-a", "-r", "-t", "all", "-o")
    for variable in ("SQUEUE_PARTITION", "SQUEUE_NAMES", "SLURM_CLUSTERS"):
        assert variable in argv[2]


def test_ids_and_names_are_asked_apart_and_in_pieces() -> None:
    argvs = SLURM.accounting([str(i) for i in range(1, 1202)], ["b", "a", "a"])
    assert len(argvs) == 4
    assert [argv[-2] for argv in argvs[:3]] == ["-j"] * 3
    assert argvs[3][-3:] == ("-S", "now-30days", "--name=a,b")
    assert sum(len(argv[-1].split(",")) for argv in argvs[:3]) == 1201
    assert max(len(" ".join(argv)) for argv in argvs) < 10_000
    assert SLURM.accounting([], []) == []

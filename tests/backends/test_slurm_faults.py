"""What the batch driver promises when Slurm, its site or its people misbehave (DESIGN, section 2), on an emulated Slurm."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends import batch, batch_judge
from reconciler.backends.batch import BatchBackend
from reconciler.core.cause import Cause
from reconciler.core.errors import OutcomeUnknown, ReconcilerError
from reconciler.core.observation import Presence, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Declined, Facts, Known, LogCursor, Look
from reconciler.core.run import Handle, Run
from reconciler.core.secret import Secret
from reconciler.load.normal import decode
from runtime import contract
from tests.backends.emulated import EmulatedSite
from tests.worlds import job, run_of

pytestmark = pytest.mark.real

FOR_EVER = "exec sleep 600"
# Ends by itself when it is told to, as a program that checkpoints does.
TRAP = "trap 'echo told; exit 0' TERM; "
POLITE = TRAP + "sleep 600 & wait"
HURT = ("down", "hang", "cut", "records", "empty", "banner")
SECRET = "hunter2-and-more"


class World:
    """One reconciler, one login node, one emulated Slurm; a file in which every start of a program leaves a line."""

    def __init__(self, root: Path, bundle: Any) -> None:
        self.site = EmulatedSite(root, bundle, kill_wait_s=0.5)
        self.slurm = self.site.slurm
        self.backend: BatchBackend = self.site.open()
        self.ran = root / "ran"
        self._names = itertools.count()

    def run(self, then: str = "", *, attempt: int = 1, name: str = "", **spec: Any) -> Run:
        """A run whose program leaves its name and its job's id, and then does `then`."""
        # Once the line is there the program may be told to end: a trap has to be set by then.
        trap = TRAP if TRAP in then else ""
        program = f'{trap}echo "$RECONCILER_RUN_ID $SLURM_JOB_ID" >> {self.ran}; {then.replace(TRAP, "")}'
        wanted = job(name or f"job{next(self._names)}", spec={"command": ["sh", "-c", program], "grace": "1s", **spec})
        made = run_of(wanted, attempt=attempt, host="login01")
        return replace(made, token=f"token-{made.run_id}")

    def submit(self, *runs: Run, **facts: Any) -> Any:
        """The answers by run; the only one's, for one run. None: no answer, only looking tells."""
        rendered = [
            self.backend.render(run, Facts(decode(run.normal), None, **{"secrets": {}, **facts})) for run in runs
        ]
        try:
            answers = self.backend.submit(rendered)
        except OutcomeUnknown:
            answers = {}
        return answers.get(runs[0].run_id) if len(runs) == 1 else answers

    def start(self, run: Run, **facts: Any) -> Known:
        """Submitted, and its program runs (or is over)."""
        answer = self.submit(run, **facts)
        assert isinstance(answer, Accepted), answer
        known = Known(run, answer.handle)
        self.began(known)
        return known

    def see(self, run: Run | Known, **look: Any) -> Sighting:
        known = run if isinstance(run, Known) else Known(run)
        return self.backend.observe(Look((known,), **look)).look(known.run.run_id)

    def until(self, holds: Any) -> Any:
        return self.site.until(holds)

    def began(self, run: Run | Known) -> None:
        def look() -> bool:
            return bool(self.starts(run.run if isinstance(run, Known) else run)) or _is_over(self.see(run))

        self.until(look)

    def ended(self, run: Run | Known) -> Sighting:
        def look() -> Sighting | None:
            seen = self.see(run)
            return seen if _is_over(seen) else None

        found: Sighting = self.until(look)
        return found

    def jobs(self, run: Run) -> list[dict[str, Any]]:
        return self.slurm.jobs(run.run_id)

    def ident(self, run: Run) -> str:
        (one,) = self.jobs(run)
        return str(one["ident"])

    def over(self, run: Run) -> None:
        """None of its jobs is waiting or running."""
        self.until(lambda: all(one["word"] in ("FAILED", "COMPLETED", "CANCELLED") for one in self.jobs(run)))

    def starts(self, run: Run) -> list[str]:
        """The job of every start of the run's program."""
        lines = self.ran.read_text().splitlines() if self.ran.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == run.run_id]

    @contextlib.contextmanager
    def hurt(self, command: str, how: str, **more: Any) -> Iterator[None]:
        self.slurm.fault(command, how, count=None, **more)
        yield
        self.slurm.heal()


def _is_over(seen: Sighting) -> bool:
    """Not to be known (a machine that stood still, so that a command came late) is not over."""
    return seen.presence is Presence.PRESENT and not seen.alive


def scontrol(world: World, *argv: str) -> None:
    subprocess.run([f"{world.slurm.bin}/scontrol", *argv], check=True)


@pytest.fixture
def world(tmp_path, bundle) -> Iterator[World]:
    made = World(tmp_path, bundle)
    yield made
    made.site.clear()
    made.backend.close()


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Commands that hang are given up soon."""
    monkeypatch.setattr(batch, "COMMAND_S", 1.5)


# --- a submission whose answer is not an answer


@pytest.mark.parametrize("how", ["timed-out", "hang", "empty", "cut", "banner", "kill-caller"])
@pytest.mark.usefixtures("impatient")
def test_a_submission_that_arrived_is_one_job_whatever_its_answer_was(world: World, how):
    run = world.run()
    world.slurm.fault("sbatch", how, **({"keep": 0} if how == "cut" else {}))
    first = world.submit(run)
    assert (first is not None) == (how == "banner")
    assert len(world.jobs(run)) == 1
    again = world.submit(run)
    assert isinstance(again, Accepted)
    assert again.repeated
    assert again.handle.native["job"] == world.ident(run)
    assert world.ended(run).report.status is ReportStatus.COMPLETED
    assert world.submit(run).repeated
    assert world.starts(run) == [world.ident(run)]


@pytest.mark.parametrize("how", ["timed-out", "kill-caller"])
def test_a_submission_that_arrived_is_found_by_looking(world: World, how):
    run = world.run(FOR_EVER)
    world.slurm.fault("sbatch", how)
    assert world.submit(run) is None
    seen = world.see(run)
    assert seen.alive
    assert seen.handle.native["job"] == world.ident(run)


@pytest.mark.parametrize("how", ["down", "hang-before", "kill-caller-before"])
def test_a_submission_that_did_not_arrive_is_doubt_first_absence_later_and_one_job_in_the_end(
    world: World, how, monkeypatch
):
    run = world.run()
    world.slurm.fault("sbatch", how)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "COMMAND_S", 1.5)
        assert world.submit(run) is None
    assert world.jobs(run) == []
    seen = world.see(run)
    assert seen.presence is Presence.UNKNOWN
    assert "may still arrive" in seen.error
    with monkeypatch.context() as patch:
        patch.setattr(batch_judge, "UNSENT_S", 0.0)
        assert world.see(run).presence is Presence.ABSENT
    again = world.submit(run)
    assert isinstance(again, Accepted)
    assert not again.repeated
    world.ended(run)
    assert world.starts(run) == [world.ident(run)]


def test_a_launcher_that_dies_between_the_claim_and_its_note_is_repeated(world: World):
    run = world.run()
    world.slurm.fault("sbatch", "kill-caller-before")
    assert world.submit(run) is None
    # It had not come as far as the note of its submission.
    (world.site.run_dir(run) / contract.QUEUED).unlink()
    assert world.see(run).presence is not Presence.PRESENT
    assert isinstance(world.submit(run), Accepted)
    world.ended(run)
    assert len(world.starts(run)) == 1


def test_a_refusal_leaves_nothing_behind(world: World):
    run = world.run(slurm={"account": "nope"})
    answer = world.submit(run)
    assert isinstance(answer, Declined)
    assert answer.final
    assert "Invalid account" in answer.message
    assert world.see(run).presence is Presence.ABSENT
    assert not world.site.run_dir(run).exists()


@pytest.mark.usefixtures("impatient")
def test_the_queue_is_asked_before_a_doubtful_submission_is_sent_again(world: World):
    run = world.run()
    world.slurm.set(paused=True)
    world.slurm.fault("sbatch", "kill-caller-before")
    assert world.submit(run) is None
    # It is not in the queue; whoever cannot hear that does not send it again. A greeting hides nothing.
    for how in ("down", "hang", "cut", "records", "empty"):
        with world.hurt("squeue", how, **({"keep": 0} if how == "records" else {})):
            assert world.submit(run) is None, how
        assert world.jobs(run) == [], how
    with world.hurt("squeue", "banner"):
        assert isinstance(world.submit(run), Accepted)
    world.slurm.set(paused=False)
    world.ended(run)
    assert len(world.starts(run)) == 1


# --- a submission that arrived twice


def test_of_two_jobs_of_one_run_exactly_one_runs_the_program(world: World):
    run = world.run("sleep 0.3")
    world.slurm.fault("sbatch", "twice")
    known = world.start(run)
    world.until(lambda: all(one["state"] in ("COMPLETED", "FAILED") for one in world.jobs(run)))
    assert sorted(one["exit"] for one in world.jobs(run)) == [[0, 0], [79, 0]]
    seen = world.see(known)
    assert seen.report.status is ReportStatus.COMPLETED
    assert world.starts(run) == [seen.handle.native["job"]]
    log = (world.site.run_dir(run) / "scheduler.out").read_text()
    assert "submitted twice" in log


def test_a_job_that_arrives_after_its_submission_was_repeated_never_runs_the_program(world: World, monkeypatch):
    run = world.run(FOR_EVER)
    world.slurm.fault("sbatch", "late", late_s=2.5)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "COMMAND_S", 1.0)
        assert world.submit(run) is None
    known = world.start(run)
    assert len(world.jobs(run)) == 2
    world.until(lambda: [79, 0] in [one["exit"] for one in world.jobs(run)])
    seen = world.see(known)
    assert seen.alive
    assert world.starts(run) == [seen.handle.native["job"]]


def test_a_twin_that_waits_is_reported_and_can_be_ended_by_itself(world: World):
    run = world.run(FOR_EVER)
    world.slurm.set(paused=True)
    world.slurm.fault("sbatch", "twice")
    known = Known(run, world.submit(run).handle)
    seen = world.see(known)
    assert seen.alive
    (twin,) = seen.twins
    assert {twin, seen.handle.native["job"]} == {one["ident"] for one in world.jobs(run)}
    handle = Handle(run.run_id, run.token, {"job": twin, "twin": True})
    assert world.backend.cancel(Known(run, handle), reason="replaced", grace_s=0.0) == "signalled"
    seen = world.see(known)
    assert (seen.alive, seen.twins) == (True, ())
    world.slurm.set(paused=False)
    world.began(known)
    assert world.starts(run) == [seen.handle.native["job"]]


def test_a_twin_that_has_begun_meanwhile_is_the_run_and_is_left(world: World):
    """Seen waiting, of the two the wrong one: before it is ended, it is the one that begins."""
    run = world.run(FOR_EVER)
    known, elder = ran_by_the_elder(world, run)
    handle = Handle(run.run_id, run.token, {"job": elder, "twin": True})
    assert world.backend.cancel(Known(run, handle), reason="replaced", grace_s=0.0) == "already gone"
    assert world.see(known).alive
    assert world.starts(run) == [elder]


@pytest.mark.parametrize("handle", ["of the other job", "none"])
def test_a_run_that_is_in_the_queue_twice_is_stopped_where_it_runs(world: World, handle):
    """sbatch told of the younger job; the elder began, and the younger is over."""
    run = world.run(FOR_EVER)
    known, elder = ran_by_the_elder(world, run)
    told = Known(run, known.handle if handle != "none" else None)
    assert world.backend.cancel(told, reason="cancelled", grace_s=1.0) == "signalled"
    seen = world.ended(known)
    assert seen.report.cause is Cause.CANCELLED
    assert world.starts(run) == [elder]


def ran_by_the_elder(world: World, run: Run) -> tuple[Known, str]:
    """Two jobs of one run, of which the elder runs it and the younger has found that out."""
    world.slurm.set(paused=True)
    world.slurm.fault("sbatch", "twice")
    known = Known(run, world.submit(run).handle)
    elder, younger = (one["ident"] for one in world.jobs(run))
    assert known.handle.native["job"] == younger
    scontrol(world, "hold", younger)
    world.slurm.set(paused=False)
    world.began(known)
    scontrol(world, "release", younger)
    world.until(lambda: [one["exit"] for one in world.jobs(run)] == [[0, 0], [79, 0]])
    assert world.starts(run) == [elder]
    return known, elder


# --- answers that prove nothing


@pytest.mark.usefixtures("impatient")
def test_a_queue_that_does_not_answer_whole_proves_nothing_about_anything(world: World, monkeypatch):
    monkeypatch.setattr(batch_judge, "UNSENT_S", 0.0)
    lives, over, doubtful, never = world.run(FOR_EVER), world.run(), world.run(), world.run()
    knowns = [world.start(lives), world.start(over)]
    world.ended(over)
    world.slurm.fault("sbatch", "kill-caller-before")
    assert world.submit(doubtful) is None
    look = Look((*knowns, Known(doubtful), Known(never)), scan=True, probe=True)
    for how in HURT:
        with world.hurt("squeue", how):
            census = world.backend.observe(look)
        assert not census.complete, how
        assert not census.scanned, how
        assert census.error, how
        assert census.capacity is None, how
        for run in (lives, over, doubtful, never):
            assert census.look(run.run_id).presence is Presence.UNKNOWN, how
    census = world.backend.observe(look)
    assert census.complete
    assert census.look(lives.run_id).alive
    assert census.look(over.run_id).report.status is ReportStatus.COMPLETED
    assert [census.look(run.run_id).presence for run in (doubtful, never)] == [Presence.ABSENT] * 2


def test_machines_that_cannot_be_asked_leave_the_runs_known(world: World):
    known = world.start(world.run(FOR_EVER))
    for how in ("down", "cut", "records", "empty", "banner"):
        with world.hurt("scontrol", how):
            census = world.backend.observe(Look((known,), probe=True))
        assert census.complete, how
        assert census.look(known.run.run_id).alive, how
        assert census.capacity is not None, how
        assert census.capacity.error, how
        assert census.capacity.queue is None, how


@pytest.mark.usefixtures("impatient")
def test_what_cannot_be_asked_is_not_said_to_be_gone(world: World):
    known = world.start(world.run(FOR_EVER))
    for how in ("down", "hang", "empty"):
        with world.hurt("squeue", how), pytest.raises(OutcomeUnknown):
            world.backend.cancel(known, reason="cancelled", grace_s=0.0)
        assert world.see(known).alive, how
    with world.hurt("controller", "down"), pytest.raises(OutcomeUnknown):
        world.backend.cancel(known, reason="cancelled", grace_s=0.0)
    assert world.backend.cancel(known, reason="cancelled", grace_s=1.0) == "signalled"
    assert world.ended(known).report.cause is Cause.CANCELLED


def test_a_cancel_that_slurm_did_not_take_reaches_the_run_by_its_request(world: World):
    known = world.start(world.run(POLITE))
    with world.hurt("scancel", "down"):
        assert asked(world, known, "suspended") in ("unknown", "already gone")
    report = world.ended(known).report
    assert (report.status, report.cause) == (ReportStatus.CANCELLED, Cause.SUSPENDED)
    assert b"told" in world.backend.logs(known, LogCursor()).data


@pytest.mark.parametrize("how", ["timed-out", "kill-caller"])
def test_a_cancel_whose_answer_is_lost_is_done_and_can_be_repeated(world: World, how):
    known = world.start(world.run(POLITE))
    world.slurm.fault("scancel", how)
    assert asked(world, known, "deleted") in ("unknown", "already gone")
    assert world.ended(known).report.cause is Cause.DELETED
    assert world.backend.cancel(known, reason="deleted", grace_s=5.0) == "already gone"


def test_no_new_attempt_while_the_queue_cannot_tell_of_the_old_one(world: World):
    old = world.run(FOR_EVER, name="same")
    world.start(old)
    new = world.run(FOR_EVER, name="same", attempt=2)
    for how in ("down", "empty"):
        with world.hurt("squeue", how):
            answer = world.submit(new)
        assert isinstance(answer, Declined), how
        assert answer.reason == "unsure", how
    assert world.submit(new).reason == "alive"
    assert world.jobs(new) == []
    assert world.see(new).presence is Presence.ABSENT


def test_a_state_word_that_nobody_knows_is_alive_and_no_end(world: World):
    run = world.run(FOR_EVER)
    known = world.start(run)
    world.slurm.show_as(world.ident(run), "FROBNICATING")
    seen = world.see(known)
    assert seen.alive
    assert seen.queue.word == "FROBNICATING"
    with pytest.raises(OutcomeUnknown):
        world.backend.cancel(known, reason="cancelled", grace_s=1.0)
    world.slurm.show_as(world.ident(run), None)
    assert world.see(known).queue.word == "RUNNING"


# --- the queue forgets, the history is away or behind


def cancelled_while_nobody_looked(world: World) -> Known:
    """A run that somebody ended, and that the queue has forgotten: its own record only knows that it was told to end."""
    run = world.run(POLITE)
    known = world.start(run)
    world.slurm.cancel(world.ident(run), by=4242)
    world.over(run)
    world.slurm.set(min_job_age_s=0)
    assert world.jobs(run) == []
    return known


def test_an_end_that_the_queue_forgot_is_known_from_the_history(world: World):
    known = cancelled_while_nobody_looked(world)
    report = world.see(known).report
    assert (report.status, report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)
    assert "by user 4242" in report.message


@pytest.mark.parametrize("how", ["down", "behind", "half", "cut", "empty", "banner", "hang"])
@pytest.mark.usefixtures("impatient")
def test_what_only_the_history_knows_is_unknown_until_it_tells(world: World, how, monkeypatch):
    known = cancelled_while_nobody_looked(world)
    if how not in (
        "behind",
        "half",
    ):  # one that answers may lag, and so long nothing is concluded; silence never concludes
        monkeypatch.setattr(batch_judge, "HISTORY_LAG_S", 0.0)
    match how:
        case "down":
            world.slurm.set(accounting="down")
        case "behind":
            world.slurm.set(history_lag_s=600)
        case "half":
            world.slurm.half()
        case _:
            world.slurm.fault("sacct", how, count=None)
    seen = world.see(known)
    assert seen.presence is Presence.UNKNOWN, seen
    assert "history" in seen.error
    world.slurm.heal()
    world.slurm.half(half=False)
    world.slurm.set(accounting="up", history_lag_s=0)
    assert world.see(known).report.cause is Cause.CANCELLED


def test_a_site_without_a_history_is_not_waited_for(world: World):
    world.slurm.set(accounting="off")
    known = cancelled_while_nobody_looked(world)
    report = world.see(known).report
    assert (report.status, report.cause) == (ReportStatus.PREEMPTED, Cause.PREEMPTION)


def test_what_the_run_itself_knows_needs_no_history(world: World):
    run = world.run("exit 3")
    known = world.start(run)
    world.ended(known)
    world.over(run)
    world.slurm.set(min_job_age_s=0, accounting="down")
    assert world.jobs(run) == []
    report = world.see(known).report
    assert (report.status, report.cause, report.exit_code) == (ReportStatus.FAILED, Cause.FAILURE, 3)


def test_a_run_of_which_nobody_knows_is_given_up_only_after_silence(world: World, monkeypatch):
    run = world.run(FOR_EVER)
    known = world.start(run)
    world.slurm.forget(world.ident(run), history=False)
    seen = world.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "given up after" in seen.error
    monkeypatch.setattr(batch_judge, "HISTORY_LAG_S", 0.0)
    monkeypatch.setattr(batch_judge, "QUIET_BEATS", 0)
    seen = world.see(known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, False)
    assert not seen.report.status.final


# --- whose job is it


@pytest.mark.parametrize("user", ["alice", "bob"])
@pytest.mark.parametrize("force", [True, False])
def test_a_foreign_job_that_was_given_our_id_is_neither_ours_nor_touched(world: World, user, force, monkeypatch):
    run = world.run(FOR_EVER)
    known = world.start(run)
    ident = world.ident(run)
    world.slurm.forget(ident, reuse=True, history=False)
    assert world.slurm.foreign(user=user, comment="reconciler:another") == ident
    monkeypatch.setattr(batch_judge, "HISTORY_LAG_S", 0.0)
    monkeypatch.setattr(batch_judge, "QUIET_BEATS", 0)
    assert not world.see(known).alive
    world.backend.cancel(known, reason="cancelled", grace_s=0.0, force=force)
    twin = Handle(run.run_id, run.token, {"job": ident, "twin": True})
    world.backend.cancel(Known(run, twin), reason="replaced", grace_s=0.0)
    (theirs,) = world.slurm.jobs()
    assert (theirs["name"], theirs["word"]) == ("theirs", "RUNNING")


def test_a_foreign_job_with_our_old_id_does_not_keep_the_next_attempt_away(world: World):
    """Found by name once, so that its id is known; then the controller loses it and gives the id to somebody else."""
    run = world.run(FOR_EVER, name="same")
    world.slurm.fault("sbatch", "timed-out")
    assert world.submit(run) is None
    assert world.submit(run).repeated
    world.began(run)
    ident = world.ident(run)
    world.slurm.forget(ident, reuse=True, history=False)
    assert world.slurm.foreign() == ident
    answer = world.submit(world.run(FOR_EVER, name="same", attempt=2))
    assert isinstance(answer, Accepted), answer


def test_of_two_runs_that_were_given_one_id_each_is_told_by_its_name(world: World, monkeypatch):
    """The controller forgot the first; the accounting knows both."""
    lost, found = world.run(FOR_EVER), world.run(FOR_EVER)
    known = world.start(lost)
    ident = world.ident(lost)
    world.slurm.forget(ident, reuse=True)
    follower = world.start(found)
    assert follower.handle.native["job"] == ident
    census = world.backend.observe(Look((known, follower)))
    assert census.look(lost.run_id).presence is Presence.UNKNOWN
    assert census.look(found.run_id).alive
    world.backend.cancel(known, reason="cancelled", grace_s=0.0, force=True)
    assert [one["word"] for one in world.jobs(found)] == ["RUNNING"]
    world.slurm.cancel(ident)
    assert world.ended(follower).report.cause is Cause.CANCELLED
    assert world.see(known).presence is Presence.UNKNOWN


def test_a_job_that_only_the_history_still_believes_in_is_given_up_after_silence(world: World, monkeypatch):
    """The controller lost it, and told nobody: its row says RUNNING for ever."""
    run = world.run(FOR_EVER)
    known = world.start(run)
    world.slurm.forget(world.ident(run))
    seen = world.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "RUNNING" in seen.error
    monkeypatch.setattr(batch_judge, "HISTORY_LAG_S", 0.0)
    monkeypatch.setattr(batch_judge, "QUIET_BEATS", 0)
    seen = world.see(known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, False)


def test_a_job_of_our_name_with_another_mark_is_not_ours(world: World):
    run = world.run()
    world.slurm.set(paused=True)
    ident = world.slurm.foreign(name=run.run_id, comment="reconciler:another", user="alice")
    assert world.see(run).presence is Presence.ABSENT
    assert world.backend.cancel(Known(run), reason="cancelled", grace_s=0.0, force=True) == "already gone"
    world.slurm.fault("sbatch", "kill-caller-before")
    assert world.submit(run) is None
    answer = world.submit(run)
    assert not answer.repeated
    assert answer.handle.native["job"] != ident
    assert [one["word"] for one in world.slurm.jobs(run.run_id)] == ["PENDING", "PENDING"]
    assert world.see(run).twins == ()


def test_a_site_that_drops_comments_is_served_by_names(world: World):
    world.slurm.set(drop_comments=True)
    run = world.run(FOR_EVER)
    world.slurm.fault("sbatch", "kill-caller")
    assert world.submit(run) is None
    again = world.submit(run)
    assert again.repeated
    known = Known(run, again.handle)
    world.began(known)
    assert world.see(known).queue.mark == ""
    assert world.backend.cancel(known, reason="cancelled", grace_s=1.0) == "signalled"
    assert world.ended(known).report.cause is Cause.CANCELLED
    assert len(world.starts(run)) == 1


def test_a_job_whose_directory_is_gone_is_still_ours_to_end(world: World):
    run = world.run(FOR_EVER)
    world.slurm.set(paused=True)
    known = Known(run, world.submit(run).handle)
    (world.site.run_dir(run)).rename(Path(world.site.root) / "aside")
    assert world.see(known).alive
    assert world.backend.cancel(known, reason="deleted", grace_s=1.0) == "signalled"
    assert [one["word"] for one in world.jobs(run)] == ["CANCELLED"]


# --- attempts


def test_of_an_attempt_that_is_in_the_queue_twice_the_job_that_runs_keeps_the_next_one_away(world: World):
    run = world.run(FOR_EVER, name="same")
    ran_by_the_elder(world, run)
    answer = world.submit(world.run(FOR_EVER, name="same", attempt=2))
    assert isinstance(answer, Declined)
    assert answer.reason == "alive"


def test_an_attempt_that_starts_late_after_a_newer_one_ends_without_running(world: World):
    old, new = world.run(name="same"), world.run(FOR_EVER, name="same", attempt=2)
    world.slurm.set(paused=True)
    assert isinstance(world.submit(old), Accepted)
    assert isinstance(world.submit(new), Accepted)
    world.slurm.set(paused=False)
    world.began(new)
    world.over(old)
    assert [one["exit"] for one in world.jobs(old)] == [[79, 0]]
    assert (world.starts(old), world.starts(new)) == ([], [world.ident(new)])
    assert world.see(old).report.cause is Cause.FENCED


def test_an_attempt_that_was_stopped_before_it_started_never_starts(world: World):
    run = world.run()
    world.slurm.set(paused=True)
    known = Known(run, world.submit(run).handle)
    with world.hurt("scancel", "down"), contextlib.suppress(ReconcilerError):
        world.backend.cancel(known, reason="cancelled", grace_s=1.0)
    world.slurm.set(paused=False)
    world.over(run)
    report = world.see(known).report
    assert (report.status, report.cause) == (ReportStatus.CANCELLED, Cause.CANCELLED)
    assert world.starts(run) == []


def test_a_supervisor_that_was_killed_leaves_an_end_all_the_same(world: World):
    run = world.run("kill -KILL $PPID")
    known = world.start(run)
    report = world.ended(known).report
    assert report.status is ReportStatus.FAILED
    assert report.cause is Cause.INFRASTRUCTURE


def test_an_end_that_the_queue_lists_without_its_code_waits_for_the_history(world: World):
    """The queue says FAILED and no more; why is in the history a moment later."""
    world.slurm.set(history_lag_s=600)
    run = world.run("kill -KILL $PPID")
    known = world.start(run)
    world.over(run)
    seen = world.see(known)
    assert seen.presence is Presence.UNKNOWN, seen
    assert "does not say how it ended yet" in seen.error
    world.slurm.set(history_lag_s=0)
    report = world.see(known).report
    assert (report.status, report.cause) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE)


def test_an_end_whose_directory_is_gone_does_not_wait_for_a_history_that_never_comes(world: World):
    """Without its directory nothing tells how long it has been silent: what the queue says has to do."""
    world.slurm.set(history_lag_s=10**9)
    run = world.run("kill -KILL $PPID")
    known = world.start(run)
    world.over(run)
    shutil.rmtree(world.site.run_dir(run))
    report = world.ended(known).report
    assert (report.status, report.cause) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE)


# --- who owns restarts


def test_with_slurm_as_owner_a_preempted_run_is_waited_for_and_its_log_goes_on(world: World):
    run = world.run("echo began; " + POLITE, restart={"owner": "slurm"})
    known = world.start(run)
    ident = world.ident(run)
    world.slurm.set(requeue_delay_s=3600)
    world.slurm.preempt(ident)
    world.until(lambda: [one["word"] for one in world.jobs(run)] == ["PENDING"])
    seen = world.see(known)
    assert seen.alive
    assert seen.queue.reason == "BeginTime"
    assert world.slurm.jobs()[0]["restarts"] == 1
    assert world.submit(run).repeated
    assert (world.site.run_dir(run) / contract.CLAIM).exists()
    scontrol(world, "release", ident)
    world.until(lambda: world.jobs(run) and len(world.starts(run)) == 2)
    world.until(lambda: world.see(known).report.status is ReportStatus.RUNNING)
    text = world.backend.logs(known, LogCursor()).data.decode()
    assert text.count("began") == 2
    assert "started this attempt anew (restart 1)" in text
    assert world.starts(run) == [ident] * 2
    assert len(world.jobs(run)) == 1


def test_a_machine_that_is_cut_off_does_not_run_the_attempt_beside_its_next_life(world: World):
    """The old processes live on unseen; they learn that the scheduler started the job anew, and end."""
    run = world.run(f"echo $$ $PPID >> {world.site.root}/pids; {FOR_EVER}", restart={"owner": "slurm"})
    known = world.start(run)
    ident = world.ident(run)
    world.slurm.node(world.jobs(run)[0]["nodes"][0], "down", unseen=True)
    pids = Path(world.site.root) / "pids"
    world.until(lambda: world.jobs(run) and len(pids.read_text().splitlines()) == 2)
    (old, minder), (new, _) = (line.split() for line in pids.read_text().splitlines())
    world.until(lambda: not Path(f"/proc/{old}").exists() and not Path(f"/proc/{minder}").exists())
    assert Path(f"/proc/{new}").exists()
    seen = world.see(known)
    assert seen.alive
    assert seen.handle.native["job"] == ident
    assert seen.report.status is ReportStatus.RUNNING


@pytest.mark.parametrize("word", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_an_end_from_which_slurm_may_start_it_anew_is_an_end_only_when_restarts_are_ours(world: World, word):
    theirs, ours = world.run(FOR_EVER, restart={"owner": "slurm"}), world.run(FOR_EVER)
    for run in (theirs, ours):
        known = world.start(run)
        world.slurm.show_as(world.ident(run), word)
        assert world.see(known).alive == (run is theirs)
        assert world.see(run).alive == (run is theirs)


def test_with_us_as_owner_slurm_may_not_start_it_anew(world: World):
    run = world.run(POLITE)
    known = world.start(run)
    world.slurm.preempt(world.ident(run), "REQUEUE")
    report = world.ended(known).report
    assert (report.status, report.cause) == (ReportStatus.PREEMPTED, Cause.PREEMPTION)
    assert "PREEMPTED" in report.message
    assert len(world.starts(run)) == 1


# --- ends of all kinds


def test_somebody_elses_cancel_is_told_apart_from_a_preemption(world: World):
    run = world.run(POLITE)
    known = world.start(run)
    world.slurm.cancel(world.ident(run))
    assert world.ended(known).report.cause is Cause.CANCELLED


def test_a_machine_that_is_lost_is_an_infrastructure_failure(world: World):
    run = world.run(FOR_EVER)
    known = world.start(run)
    world.slurm.node(world.jobs(run)[0]["nodes"][0], "down")
    report = world.ended(known).report
    assert (report.status, report.cause) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "NODE_FAIL" in report.message


def test_a_time_limit_is_told_as_one(world: World):
    world.slurm.set(minute_s=0.5)
    known = world.start(replace(world.run(FOR_EVER), place={"time_s": 120}))
    assert world.ended(known).report.cause is Cause.TIMEOUT


def test_a_run_is_warned_before_its_time_is_up(world: World):
    world.slurm.set(minute_s=2.0)
    run = world.run(
        POLITE,
        restart={"timeout": "unlimited"},
        slurm={"warn": "55s"},
    )
    known = world.start(replace(run, place={"time_s": 120}))
    report = world.ended(known).report
    assert (report.status, report.cause) == (ReportStatus.PREEMPTED, Cause.TIMEOUT)
    assert b"told" in world.backend.logs(known, LogCursor()).data
    assert world.jobs(run)[0]["state"] != "TIMEOUT"


def test_one_failing_machine_ends_the_gang(world: World):
    run = world.run("[ $RECONCILER_NODE_RANK = 0 ] || exit 7; exec sleep 600", slurm={"nodes": 2})
    known = world.start(run)
    report = world.ended(known).report
    assert (report.status, report.cause, report.exit_code) == (ReportStatus.FAILED, Cause.FAILURE, 7)
    assert "Worker 1" in report.message
    assert len(world.starts(run)) == 2


def test_gpus_of_the_job_reach_its_program(world: World):
    place = {"partition": "gpu", "nodes": 1, "gpus_per_node": 3, "gpu_type": "h100"}
    run = replace(world.run("echo $CUDA_VISIBLE_DEVICES"), place=place)
    known = world.start(run)
    world.ended(known)
    assert world.backend.logs(known, LogCursor()).data == b"0,1,2\n"


# --- arrays


def asked(world: World, known: Known, reason: str) -> str:
    """What came of a cancel whose scancel fails: nobody knows, or the run heard of its request and was over before we looked."""
    try:
        return world.backend.cancel(known, reason=reason, grace_s=5.0)
    except OutcomeUnknown:
        return "unknown"


def members(world: World, *bodies: str) -> list[Run]:
    return [world.run(body) for body in bodies]


def test_members_of_a_sweep_are_one_array_and_each_has_its_own_end(world: World):
    runs = members(world, "exit 0", "exit 4", FOR_EVER)
    world.slurm.fault("sbatch", "timed-out")
    assert world.submit(*runs, sweep="general/default/s") == {}
    assert len(world.slurm.jobs()) == 3
    answers = world.submit(*runs, sweep="general/default/s")
    assert all(answers[run.run_id].repeated for run in runs)
    base = world.slurm.jobs()[0]["array"]
    for index, run in enumerate(
        runs
    ):  # of one that has begun, only its own number may be known by now: that is no handle
        assert answers[run.run_id].handle.native["job"] in (f"{base}_{index}", "")
    assert world.ended(runs[0]).report.status is ReportStatus.COMPLETED
    assert world.ended(runs[1]).report.exit_code == 4
    assert world.see(runs[2]).alive
    assert len(world.slurm.jobs()) == 3


def test_a_waiting_member_is_ended_without_the_others(world: World):
    runs = members(world, FOR_EVER, FOR_EVER, FOR_EVER)
    world.slurm.set(paused=True)
    answers = world.submit(*runs, sweep="general/default/s")
    known = Known(runs[1], answers[runs[1].run_id].handle)
    assert world.backend.cancel(known, reason="cancelled", grace_s=1.0) == "already gone"
    assert [one["index"] for one in world.slurm.jobs()] == [0, 2]
    world.slurm.set(paused=False)
    world.until(lambda: world.see(runs[0]).report.status is ReportStatus.RUNNING)
    assert world.see(known).report.cause is Cause.CANCELLED
    assert world.see(runs[2]).alive


@pytest.mark.parametrize("force", [True, False])
def test_the_member_whose_job_has_the_number_of_the_array_is_ended_without_the_others(world: World, force):
    """Its submission was doubtful, so it is known by what its job wrote: SLURM_JOB_ID, which for the last is the array's."""
    runs = members(world, FOR_EVER, FOR_EVER, FOR_EVER)
    world.slurm.fault("sbatch", "timed-out")
    assert world.submit(*runs, sweep="general/default/s") == {}
    for run in runs:
        world.began(run)
    answers = world.submit(*runs, sweep="general/default/s")
    assert [one["id"] == one["array"] for one in world.slurm.jobs()] == [False, False, True]
    known = Known(runs[2], answers[runs[2].run_id].handle)
    assert world.backend.cancel(known, reason="cancelled", grace_s=0.5, force=force) == "signalled"
    assert world.ended(runs[2]).report.cause is Cause.CANCELLED
    for run in runs[:2]:
        seen = world.see(run)
        assert seen.alive
        assert seen.report.status is ReportStatus.RUNNING
    assert [one["word"] for one in world.slurm.jobs()][:2] == ["RUNNING", "RUNNING"]


@pytest.mark.parametrize("then", ["stopped", "followed"])
def test_of_two_arrays_of_the_same_runs_the_member_that_began_counts(world: World, then):
    runs = [world.run(FOR_EVER, name=name) for name in ("one", "two")]
    world.slurm.set(paused=True)
    world.slurm.fault("sbatch", "twice")
    answers = world.submit(*runs, sweep="general/default/s")
    elder, younger = dict.fromkeys(one["array"] for one in world.slurm.jobs())
    world.slurm.set(held_arrays=[younger])
    world.slurm.set(paused=False)
    for run in runs:
        world.began(run)
    world.slurm.set(held_arrays=[])
    world.until(lambda: [one["exit"] for one in world.slurm.jobs() if one["array"] == younger] == [[79, 0]] * 2)
    if then == "followed":
        answer = world.submit(world.run(FOR_EVER, name="one", attempt=2))
        assert isinstance(answer, Declined)
        assert answer.reason == "alive"
        return
    known = Known(runs[1], answers[runs[1].run_id].handle)
    assert world.backend.cancel(known, reason="cancelled", grace_s=1.0) == "signalled"
    assert world.ended(runs[1]).report.cause is Cause.CANCELLED
    seen = world.see(runs[0])
    assert seen.alive
    assert seen.handle.native["job"] == f"{elder}_0"


# --- secrets


def test_secrets_are_in_one_private_file_that_is_gone_at_the_end(world: World):
    said = world.site.root + "/said"
    run = world.run(f'test "$KEY" = {SECRET[:4]}"{SECRET[4:]}" && touch {said}; {POLITE}')
    world.slurm.set(paused=True)
    known = Known(run, world.submit(run, secrets={"KEY": Secret(SECRET)}).handle)
    kept = world.site.run_dir(run) / contract.SECRETS
    assert kept.stat().st_mode & 0o777 == 0o600
    assert holders(world) == [kept]
    world.slurm.set(paused=False)
    world.until(lambda: Path(said).exists())
    assert holders(world) == [kept]
    world.backend.cancel(known, reason="cancelled", grace_s=5.0)
    world.ended(known)
    world.over(run)
    assert holders(world) == []


@pytest.mark.parametrize("how", ["refused", "abandoned", "stopped", "newer"])
def test_secrets_of_a_run_that_never_started_are_removed(world: World, how):
    run = world.run(name="same", slurm={"account": "nope"} if how == "refused" else {})
    world.slurm.set(paused=True)
    answer = world.submit(run, secrets={"KEY": Secret(SECRET)})
    assert (how == "refused") == (holders(world) == [])
    match how:
        case "abandoned":
            world.slurm.cancel(answer.handle.native["job"])
            world.backend.cancel(Known(run, answer.handle), reason="cancelled", grace_s=0.0)
        case "stopped":
            world.backend.cancel(Known(run, answer.handle), reason="cancelled", grace_s=0.0)
        case "newer":
            assert isinstance(world.submit(world.run(name="same", attempt=2)), Accepted)
    assert holders(world) == []


def holders(world: World) -> list[Path]:
    """Files below the site, Slurm's own included, that hold the secret; and no process's command line does."""
    found = []
    for path in Path(world.site.root).rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and SECRET.encode() in path.read_bytes():
                found.append(path)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert SECRET.encode() not in process.read_bytes()
    return found


# --- the launcher itself is stopped for a while


def test_two_launchers_of_one_run_make_one_job(world: World):
    """The first stands still within its submission, alive, while a second reconciler sends the same run."""
    run = world.run(FOR_EVER)
    world.slurm.fault("sbatch", "hang-before")
    first = threading.Thread(target=lambda: world.site.open().submit([render(world, run)]))
    first.start()
    try:
        queued = world.site.run_dir(run) / contract.QUEUED
        world.until(queued.exists)
        world.until(lambda: not world.slurm.laid())
        assert isinstance(world.submit(run), Accepted)
        world.began(run)
        assert len(world.jobs(run)) == 1
    finally:
        world.slurm.let_go()
        first.join()
    assert len(world.starts(run)) == 1


def render(world: World, run: Run) -> Any:
    return world.backend.render(run, Facts(decode(run.normal), None, secrets={}))


# --- found by review -------------------------------------------------------------------------------------------------


def test_of_two_arrays_the_member_that_began_is_minded_and_never_taken_for_the_twin(world: World):
    """The elder array is still tidying up when the younger has begun: its own number says nothing of that."""
    runs = [world.run(FOR_EVER, name=name) for name in ("one", "two")]
    world.slurm.set(paused=True)
    world.slurm.fault("sbatch", "twice")
    answers = world.submit(*runs, sweep="general/default/s")
    elder, younger = dict.fromkeys(one["array"] for one in world.slurm.jobs())
    world.slurm.set(held_arrays=[elder])
    world.slurm.set(paused=False)
    for run in runs:
        world.began(run)
    world.slurm.set(held_arrays=[])
    world.until(lambda: [one["exit"] for one in world.slurm.jobs() if one["array"] == elder] == [[79, 0]] * 2)
    world.slurm.show_as(f"{elder}_0", "RUNNING")
    known = Known(runs[0], answers[runs[0].run_id].handle)
    seen = world.see(known)
    assert seen.handle.native["job"] == f"{younger}_0"
    assert seen.twins == (f"{elder}_0",)
    ours = Handle(runs[0].run_id, runs[0].token, {"job": f"{younger}_0", "twin": True})
    assert world.backend.cancel(Known(runs[0], ours), reason="replaced", grace_s=0.0) == "already gone"
    assert world.see(known).alive


def test_a_member_that_an_earlier_array_runs_is_followed_there(world: World, monkeypatch):
    """The first array arrives late, when the sweep has been sent again without one member: other names, other places."""
    runs = [world.run(FOR_EVER, name=name) for name in ("one", "two", "three")]
    world.slurm.fault("sbatch", "late", late_s=2.0)
    with monkeypatch.context() as patch:
        patch.setattr(batch, "COMMAND_S", 1.0)
        assert world.submit(*runs, sweep="general/default/s") == {}
    world.slurm.set(paused=True)
    answers = world.submit(*runs[:2], sweep="general/default/s")
    second = answers[runs[0].run_id].handle.native["job"].partition("_")[0]
    world.until(lambda: len({one["array"] for one in world.slurm.jobs()}) == 2)
    world.slurm.set(held_arrays=[int(second)])
    world.slurm.set(paused=False)
    world.until(lambda: world.slurm.jobs() and world.starts(runs[0]))
    world.slurm.set(held_arrays=[])
    again = f"{second}_0"
    world.until(lambda: [one["exit"] for one in world.slurm.jobs() if one["ident"] == again] == [[79, 0]])
    seen = world.see(Known(runs[0], answers[runs[0].run_id].handle))
    assert seen.alive
    assert seen.handle.native["job"].partition("_")[0] != second


def test_a_run_whose_secrets_are_gone_does_not_start_without_them(world: World):
    run = world.run("echo ran")
    world.slurm.set(paused=True)
    known = Known(run, world.submit(run, secrets={"KEY": Secret("hunter2-x")}).handle)
    (world.site.run_dir(run) / contract.SECRETS).unlink()
    world.slurm.set(paused=False)
    seen = world.ended(known)
    assert seen.report.status is ReportStatus.FAILED
    assert b"ran" not in world.backend.logs(known, LogCursor()).data


def test_a_stop_that_never_reached_the_scheduler_is_made_good_by_the_next(world: World):
    run = world.run(FOR_EVER)
    world.slurm.set(paused=True)
    known = Known(run, world.submit(run).handle)
    with world.hurt("scancel", "down"), pytest.raises(OutcomeUnknown):
        world.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert world.backend.cancel(known, reason="cancelled", grace_s=1.0) == "already gone"
    assert [one["word"] for one in world.jobs(run)] == ["CANCELLED"]


def test_a_run_whose_directory_is_gone_ends_where_no_history_is_kept(world: World, monkeypatch):
    world.slurm.set(accounting="off")
    monkeypatch.setattr(batch_judge, "HISTORY_LAG_S", 0.0)
    run = world.run("exit 0")
    known = world.start(run)
    world.ended(known)
    world.over(run)
    world.slurm.set(min_job_age_s=0)
    world.site.run_dir(run).rename(Path(world.site.root) / "aside")
    seen = world.see(known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, False)


def test_no_history_is_no_history_however_many_questions_it_takes(world: World, monkeypatch):
    from reconciler.backends import slurm

    world.slurm.set(accounting="off")
    for name in ("HISTORY_LAG_S", "QUIET_BEATS"):
        monkeypatch.setattr(batch_judge, name, 0)
    monkeypatch.setattr(slurm, "_ASKED_MAX", 1)
    knowns = []
    for name in ("one", "two"):
        run = world.run("trap 'exit 0' TERM; sleep 600 & wait", name=name)
        knowns.append(world.start(run))
        world.slurm.preempt(world.ident(run), "CANCEL")
    for known in knowns:
        world.ended(known)
    world.slurm.set(min_job_age_s=0)
    world.until(lambda: not world.slurm.jobs())
    census = world.backend.observe(Look(tuple(knowns)))
    assert [census.look(known.run.run_id).presence for known in knowns] == [Presence.PRESENT] * 2


def test_what_a_users_profile_says_to_sbatch_decides_nothing(world: World, monkeypatch, tmp_path):
    monkeypatch.setenv("SBATCH_WAIT", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "nope")
    monkeypatch.setenv("FROM_THE_PROFILE", "kept")
    run = world.run(f"env > {tmp_path}/environment")
    assert isinstance(world.submit(run), Accepted)
    assert world.ended(run).report.status is ReportStatus.COMPLETED
    told = (tmp_path / "environment").read_text()
    assert "FROM_THE_PROFILE=kept" in told
    assert "SBATCH_" not in told


def test_what_was_prepared_behind_a_scheduler_that_fell_silent_is_taken_back(world: World, impatient):
    """Submissions overlap: those on their way are in doubt, the one prepared meanwhile and all later ones were never sent."""
    runs = [world.run(FOR_EVER) for _ in range(6)]
    with world.hurt("sbatch", "hang"):
        answers = world.submit(*runs)
    assert set(answers) == {run.run_id for run in runs[3:]}
    for run in runs[3:]:
        assert isinstance(answers[run.run_id], Declined)
        assert answers[run.run_id].reason == "busy"
        assert not world.site.run_dir(run).exists()
        assert world.see(run).presence is Presence.ABSENT
    answers = world.submit(*runs)
    assert all(isinstance(answers[run.run_id], Accepted) for run in runs)
    assert all(len(world.jobs(run)) == 1 for run in runs)


@pytest.mark.parametrize("how", ["kill-caller", "kill-caller-before"])
def test_a_login_node_that_dies_with_several_submissions_on_their_way_doubles_none(world: World, how, monkeypatch):
    """Overlapping submissions keep the order of each: claim, note, sbatch. Whatever of it was done, each is in the queue once."""
    monkeypatch.setattr(batch_judge, "UNSENT_S", 0.0)
    world.slurm.set(paused=True)  # none begins, so that none tells by beginning that it was sent
    runs = [world.run(FOR_EVER) for _ in range(8)]
    world.slurm.fault("sbatch", how)
    assert len(world.submit(*runs)) < len(runs)
    for _ in range(3):
        world.until(lambda: all(world.see(run).presence is not Presence.UNKNOWN for run in runs))
        world.submit(*runs)
    assert [len(world.jobs(run)) for run in runs] == [1] * 8

"""What every backend promises. A backend's test module subclasses this and provides `site`.

A site is one host with nothing on it, and the ways in which it can be hurt. What takes time is waited for with `site.until`: real
hosts are polled, a host in memory lets its clock run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import pytest

from reconciler.core.cause import Cause
from reconciler.core.errors import ReconcilerError, Rejected, Retry, Unreachable
from reconciler.core.job import Desired
from reconciler.core.observation import Census, Presence, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Backend, Declined, Facts, Known, LogCursor, Look
from reconciler.core.run import Run
from reconciler.core.secret import Secret
from reconciler.load.normal import decode
from tests.worlds import job, run_of

# What the jobs of the contract do. `deaf` ignores being asked to end; a site that does not run commands goes by the names.
OUTPUT = b"one\ntwo\nthree\n"
COMMANDS = {
    "endless": ["sleep", "600"],
    "quick": ["printf", "%s", OUTPUT.decode()],
    "fails": ["sh", "-c", "exit 7"],
    "deaf": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
}


class Site(Protocol):
    host: str

    def open(self) -> Backend:
        """A connection of its own, as another process of the reconciler would make."""
        ...

    def commands(self) -> int:
        """How often the host was asked something."""
        ...

    def until(self, holds: Callable[[], Any]) -> Any:
        """The first true value; fails the test when there is none in time."""
        ...

    def unreachable(self) -> AbstractContextManager[None]: ...

    def garbled(self) -> AbstractContextManager[None]:
        """The host does what it is asked; its answers arrive as nonsense."""
        ...

    def cut_after(self) -> AbstractContextManager[None]:
        """The host does what it is asked; its answers do not arrive."""
        ...


def wanted(name: str, **spec: Any) -> Desired:
    return job(name, spec={"command": COMMANDS[name], "grace": "1s", **spec})


class BackendContract:
    @pytest.fixture
    def site(self) -> Site:
        raise NotImplementedError

    @pytest.fixture
    def backend(self, site: Site) -> Any:
        made = site.open()
        yield made
        made.close()

    # --- tools

    @staticmethod
    def run(site: Site, name: str, *, attempt: int = 1, **changes: Any) -> Run:
        made = run_of(wanted(name), attempt=attempt, host=site.host)
        return replace(made, **{"token": f"token-{name}-{attempt}-{id(site):x}", **changes})

    @staticmethod
    def render(backend: Backend, run: Run, **facts: Any) -> Any:
        return backend.render(run, Facts(**{"spec": decode(run.normal), "tree": None, "secrets": {}, **facts}))

    def start(self, backend: Backend, run: Run) -> Known:
        answer = backend.submit([self.render(backend, run)])[run.run_id]
        assert isinstance(answer, Accepted), answer
        return Known(run, answer.handle)

    @staticmethod
    def see(backend: Backend, run: Run, **look: Any) -> Sighting:
        return backend.observe(Look(**{"known": (Known(run),), **look})).look(run.run_id)

    def ended(self, site: Site, backend: Backend, run: Run) -> Sighting:
        def look() -> Sighting | None:
            seen = self.see(backend, run)
            return None if seen.alive or seen.presence is not Presence.PRESENT else seen

        return site.until(look)

    # --- launching

    def test_a_run_that_was_accepted_lives_and_carries_its_record(self, site, backend):
        known = self.start(backend, self.run(site, "endless"))
        seen = self.see(backend, known.run)
        assert (seen.presence, seen.alive, seen.supervised) == (Presence.PRESENT, True, True)
        assert seen.run == known.run
        assert seen.run.normal == known.run.normal
        assert seen.handle.token == known.run.token

    def test_the_same_submission_twice_is_one_run(self, site, backend):
        run = self.run(site, "endless")
        first = self.start(backend, run)
        answer = backend.submit([self.render(backend, run)])[run.run_id]
        assert isinstance(answer, Accepted)
        assert answer.repeated
        assert answer.handle.native == first.handle.native

    def test_the_same_submission_after_the_end_starts_nothing(self, site, backend):
        run = self.run(site, "quick")
        self.start(backend, run)
        self.ended(site, backend, run)
        answer = backend.submit([self.render(backend, run)])[run.run_id]
        assert isinstance(answer, Accepted)
        assert answer.repeated
        assert not self.see(backend, run).alive

    def test_the_same_run_id_with_another_token_is_declined(self, site, backend):
        run = self.run(site, "endless")
        self.start(backend, run)
        other = replace(run, token="somebody-elses")
        answer = backend.submit([self.render(backend, other)])[run.run_id]
        assert isinstance(answer, Declined)
        assert answer.reason in ("claimed", "fenced")
        assert self.see(backend, run).run.token == run.token

    def test_a_new_attempt_is_declined_while_an_older_one_lives(self, site, backend):
        old, new = self.run(site, "endless"), self.run(site, "endless", attempt=2)
        self.start(backend, old)
        answer = backend.submit([self.render(backend, new)])[new.run_id]
        assert isinstance(answer, Declined)
        assert answer.reason == "alive"
        assert self.see(backend, new).presence is Presence.ABSENT

    def test_an_older_attempt_is_fenced_off_by_a_newer_one(self, site, backend):
        old, new = self.run(site, "quick"), self.run(site, "quick", attempt=2)
        self.start(backend, new)
        self.ended(site, backend, new)
        answer = backend.submit([self.render(backend, old)])[old.run_id]
        assert isinstance(answer, Declined)
        assert answer.reason == "fenced"
        assert self.see(backend, old).presence is Presence.ABSENT

    def test_a_job_of_the_same_name_with_another_mark_is_declined_unless_taken_over(self, site, backend):
        theirs = self.run(site, "quick", owner="theirs")
        self.start(backend, theirs)
        self.ended(site, backend, theirs)
        ours = self.run(site, "quick", attempt=2)
        answer = backend.submit([self.render(backend, ours)])[ours.run_id]
        assert isinstance(answer, Declined)
        assert answer.reason == "owned"
        assert isinstance(
            backend.submit([self.render(backend, ours, heir_of="theirs")])[ours.run_id],
            Accepted,
        )

    def test_a_batch_is_one_call_and_is_answered_run_by_run(self, site, backend):
        taken = self.run(site, "endless")
        self.start(backend, taken)
        runs = [self.run(site, "quick"), replace(taken, token="somebody-elses"), self.run(site, "fails")]
        before = site.commands()
        answers = backend.submit([self.render(backend, run) for run in runs])
        assert site.commands() == before + 1
        assert [type(answers[run.run_id]) for run in runs] == [Accepted, Declined, Accepted]

    def test_rendering_is_pure_and_shows_no_secret(self, site, backend):
        run = self.run(site, "quick")
        before = site.commands()
        facts = {"secrets": {"WANDB_API_KEY": Secret("hunter2")}}
        first, second = self.render(backend, run, **facts), self.render(backend, run, **facts)
        assert first.body == second.body
        assert "hunter2" not in repr(first)
        assert "hunter2" not in str(first.body)
        assert site.commands() == before

    # --- looking

    def test_many_known_runs_are_one_question(self, site, backend):
        runs = [
            self.run(site, "endless"),
            self.run(site, "quick"),
            *(self.run(site, "fails", attempt=n) for n in (1, 2)),
        ]
        self.start(backend, runs[0])
        before = site.commands()
        census = backend.observe(Look(tuple(map(Known, runs)), scan=True, probe=True))
        assert site.commands() == before + 1
        assert census.complete
        assert [census.look(run.run_id).presence for run in runs] == [Presence.PRESENT] + [Presence.ABSENT] * 3

    def test_a_host_that_cannot_be_asked_proves_nothing(self, site, backend):
        run = self.run(site, "endless")
        self.start(backend, run)
        with site.unreachable():
            census = backend.observe(Look((Known(run),), scan=True, probe=True))
        self.proves_nothing(census, run)

    def test_nonsense_proves_nothing(self, site, backend):
        run = self.run(site, "endless")
        self.start(backend, run)
        with site.garbled():
            census = backend.observe(Look((Known(run),), scan=True, probe=True))
        self.proves_nothing(census, run)

    def test_an_answer_that_does_not_arrive_proves_nothing(self, site, backend):
        run = self.run(site, "endless")
        with site.cut_after():
            census = backend.observe(Look((Known(run),), scan=True, probe=True))
        self.proves_nothing(census, run)

    @staticmethod
    def proves_nothing(census: Census, run: Run) -> None:
        assert not census.complete
        assert not census.scanned
        assert census.error
        assert census.look(run.run_id).presence is Presence.UNKNOWN

    def test_a_living_run_that_nobody_remembers_is_found(self, site, backend):
        run = self.run(site, "endless")
        self.start(backend, run)
        census = backend.observe(Look())
        assert census.complete
        assert census.sightings[run.run_id].run == run
        assert census.sightings[run.run_id].alive

    def test_a_scan_finds_what_has_finished_and_a_plain_look_does_not_list_it(self, site, backend):
        run = self.run(site, "quick")
        self.start(backend, run)
        self.ended(site, backend, run)
        census = backend.observe(Look(scan=True))
        assert census.scanned
        assert census.sightings[run.run_id].run == run
        assert census.sightings[run.run_id].report.status is ReportStatus.COMPLETED
        plain = backend.observe(Look())
        assert not plain.scanned
        assert run.run_id not in plain.sightings

    @pytest.mark.parametrize(
        ("name", "status", "cause", "code"),
        [("quick", ReportStatus.COMPLETED, None, 0), ("fails", ReportStatus.FAILED, Cause.FAILURE, 7)],
    )
    def test_an_end_is_reported_with_its_cause_and_exit_code(self, site, backend, name, status, cause, code):
        run = self.run(site, name)
        self.start(backend, run)
        report = self.ended(site, backend, run).report
        assert (report.status, report.cause, report.exit_code) == (status, cause, code)

    def test_a_probe_says_what_the_host_has(self, site, backend):
        census = backend.observe(Look(probe=True))
        assert census.capacity is not None
        assert census.capacity.cpus >= 1

    # --- answers that get lost

    def test_a_launch_whose_answer_is_lost_is_found_by_looking(self, site, backend):
        run = self.run(site, "endless")
        with site.cut_after(), pytest.raises(ReconcilerError) as lost:
            backend.submit([self.render(backend, run)])
        assert lost.value.retry is Retry.AFTER_LOOKING
        assert site.until(lambda: self.see(backend, run).alive)

    def test_a_launch_whose_answer_is_nonsense_is_not_taken_for_anything(self, site, backend):
        run = self.run(site, "endless")
        with site.garbled():
            try:
                answers = backend.submit([self.render(backend, run)])
            except ReconcilerError as error:
                assert error.retry is Retry.AFTER_LOOKING  # noqa: PT017
                answers = {}
        assert run.run_id not in answers

    def test_a_launch_that_reached_nobody_says_so(self, site, backend):
        run = self.run(site, "endless")
        with site.unreachable(), pytest.raises(Unreachable):
            backend.submit([self.render(backend, run)])
        assert self.see(backend, run).presence is Presence.ABSENT

    # --- stopping

    @pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.SUSPENDED, Cause.REPLACED, Cause.DELETED])
    def test_a_run_that_is_asked_to_end_ends_for_our_reason(self, site, backend, cause):
        known = self.start(backend, self.run(site, "endless"))
        backend.cancel(known, reason=cause.value, grace_s=1.0)
        report = self.ended(site, backend, known.run).report
        assert (report.status, report.cause) == (ReportStatus.CANCELLED, cause)

    def test_while_it_ends_it_is_seen_to_be_stopping(self, site, backend):
        known = self.start(backend, self.run(site, "deaf"))
        backend.cancel(known, reason="deleted", grace_s=5.0)
        seen = self.see(backend, known.run)
        assert seen.alive
        assert seen.stopping == "deleted"
        backend.cancel(known, reason="deleted", grace_s=0.0, force=True)
        self.ended(site, backend, known.run)

    def test_a_run_that_does_not_listen_is_ended_after_its_grace(self, site, backend):
        known = self.start(backend, self.run(site, "deaf"))
        backend.cancel(known, reason="cancelled", grace_s=0.3)
        self.ended(site, backend, known.run)

    def test_asking_what_is_gone_to_end_is_quiet(self, site, backend):
        known = self.start(backend, self.run(site, "quick"))
        self.ended(site, backend, known.run)
        assert backend.cancel(known, reason="cancelled", grace_s=1.0) == "already gone"
        assert self.see(backend, known.run).report.status is ReportStatus.COMPLETED
        never = Known(self.run(site, "endless"))
        assert backend.cancel(never, reason="cancelled", grace_s=1.0) == "already gone"

    def test_somebody_elses_run_is_not_ended(self, site, backend):
        known = self.start(backend, self.run(site, "endless"))
        with pytest.raises(Rejected):
            backend.cancel(Known(replace(known.run, token="not-theirs")), reason="cancelled", grace_s=0.0, force=True)
        seen = self.see(backend, known.run)
        assert seen.alive
        assert not seen.stopping

    # --- logs

    def test_a_log_is_read_in_pieces_from_any_place(self, site, backend):
        known = self.start(backend, self.run(site, "quick"))
        self.ended(site, backend, known.run)
        whole = backend.logs(known, LogCursor())
        assert (whole.data, whole.start, whole.end) == (OUTPUT, 0, len(OUTPUT))
        read, at = b"", 0
        while chunk := backend.logs(known, LogCursor(at, 5)).data:
            assert len(chunk) <= 5
            read += chunk
            at += len(chunk)
        assert read == OUTPUT
        tail = backend.logs(known, LogCursor(-6))
        assert (tail.data, tail.start, tail.end) == (OUTPUT[-6:], len(OUTPUT) - 6, len(OUTPUT))
        assert backend.logs(known, LogCursor(-1000)).data == OUTPUT

    def test_a_place_beyond_the_end_says_that_the_log_began_anew(self, site, backend):
        known = self.start(backend, self.run(site, "quick"))
        self.ended(site, backend, known.run)
        chunk = backend.logs(known, LogCursor(1000))
        assert chunk.rotated
        assert chunk.start == 0

    def test_a_log_that_was_never_written_is_empty(self, site, backend):
        chunk = backend.logs(Known(self.run(site, "quick")), LogCursor())
        assert (chunk.data, chunk.start, chunk.end) == (b"", 0, 0)

    # --- connections

    def test_a_run_outlives_its_connection_and_another_one_sees_it(self, site, backend):
        known = self.start(backend, self.run(site, "endless"))
        backend.close()
        other = site.open()
        assert self.see(other, known.run).alive
        other.close()

    def test_a_closed_connection_is_opened_again_when_needed(self, site, backend):
        backend.close()
        backend.close()
        assert backend.observe(Look()).complete

    def test_after_the_host_comes_back_everything_is_as_it_was(self, site, backend):
        known = self.start(backend, self.run(site, "endless"))
        with site.unreachable():
            backend.observe(Look())
        assert self.see(backend, known.run).alive

"""The machine in memory keeps the contract, so what is tested on it holds for real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from reconciler.backends.fake import Course, FakeBackend, FakeMachine, Fault
from reconciler.backends.fake_queue import REVIVAL_S, FakeCluster
from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Backend, Declined, Known, Look, Submission
from reconciler.core.queue import QueueState
from reconciler.core.run import Handle, Run
from tests.contract.backend_contract import OUTPUT, BackendContract

COURSES = {
    "endless": Course(),
    "quick": Course(lasts_s=1.0, output=OUTPUT),
    "fails": Course(lasts_s=1.0, exit_code=7),
    "deaf": Course(stops_s=1e9),
}


class MemorySite:
    host = "memory"

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.machine = FakeMachine(self.host, lambda: self.at, course=self._course)

    @staticmethod
    def _course(run: Run) -> Course:
        return COURSES[run.job.name]

    def open(self) -> Backend:
        return FakeBackend(self.machine)

    def commands(self) -> int:
        return len(self.machine.calls)

    def until(self, holds: Callable[[], Any]) -> Any:
        for _ in range(100):
            value = holds()
            if value:
                return value
            self.at += 1.0
        raise AssertionError("did not come true within 100 s")

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        self.machine.reachable = False
        yield
        self.machine.reachable = True

    @contextlib.contextmanager
    def _disturbed(self, fault: Fault) -> Iterator[None]:
        self.machine.disturb = lambda verb, machine: fault
        yield
        self.machine.disturb = lambda verb, machine: None

    def garbled(self) -> contextlib.AbstractContextManager[None]:
        return self._disturbed(Fault.GARBLED)

    def cut_after(self) -> contextlib.AbstractContextManager[None]:
        return self._disturbed(Fault.AFTER)


class TestFakeBackend(BackendContract):
    @pytest.fixture
    def site(self) -> MemorySite:
        return MemorySite()

    @pytest.mark.parametrize("fault", list(Fault))
    def test_a_look_disturbed_in_any_way_never_proves_absence(self, site, backend, fault):
        known = self.start(backend, self.run(site, "endless"))
        site.machine.disturb = lambda verb, machine: fault
        assert backend.observe(Look((known,), scan=True)).look("another").presence is Presence.UNKNOWN

    def test_a_launch_on_its_way_arrives_late(self, site, backend):
        run = self.run(site, "endless")
        site.machine.disturb = lambda verb, machine: Fault.LATE if verb == "submit" else None
        with contextlib.suppress(Exception):
            backend.submit([self.render(backend, run)])
        assert self.see(backend, run).presence is Presence.ABSENT
        site.at += site.machine.late_s
        assert self.see(backend, run).alive

    def test_a_launcher_that_is_late_is_abandoned_by_the_next_attempt(self, site, backend):
        run, following = self.run(site, "endless"), self.run(site, "endless", attempt=2)
        site.machine.disturb = lambda verb, machine: Fault.CLAIMED if verb == "submit" else None
        with contextlib.suppress(Exception):
            backend.submit([self.render(backend, run)])
        assert self.see(backend, run).alive
        site.machine.disturb = lambda verb, machine: None
        self.start(backend, following)
        site.at += site.machine.late_s
        assert not self.see(backend, run).alive
        assert len(site.machine.living()) == 1

    def test_a_reboot_ends_everything_without_a_record_and_changes_the_boot(self, site, backend):
        run = self.run(site, "endless")
        known = self.start(backend, run)
        site.machine.reboot()
        seen = self.see(backend, run)
        assert (seen.presence, seen.alive, seen.report.status.final) == (Presence.PRESENT, False, False)
        assert seen.boot_id != known.handle.native["boot_id"]
        assert backend.cancel(Known(run), reason="deleted", grace_s=1.0) == "already gone"

    def test_a_stuck_supervisor_ends_by_force_only(self, site, backend):
        site.machine.course = lambda run: Course(stops_s=1e9, stuck=True)
        known = self.start(backend, self.run(site, "endless"))
        backend.cancel(known, reason="cancelled", grace_s=1.0)
        site.at += 60
        assert self.see(backend, known.run).alive
        backend.cancel(known, reason="cancelled", grace_s=0.0, force=True)
        assert not self.see(backend, known.run).alive


class QueueSite(MemorySite):
    def __init__(self) -> None:
        super().__init__()
        self.machine = FakeCluster(self.host, lambda: self.at, course=self._course, machines={"n1": 4, "n2": 4})


class TestFakeQueue(BackendContract):
    @pytest.fixture
    def site(self) -> QueueSite:
        self._site = QueueSite()
        return self._site

    def start(self, backend: Backend, run: Run) -> Known:
        """Accepted is not yet begun: what the contract says of running things holds once the scheduler has started it."""
        known = super().start(backend, run)
        self._site.until(lambda: self.see(backend, run).queue.state is not QueueState.WAITING)
        return known

    def queued(self, backend: Backend, run: Run) -> Known:
        return super().start(backend, run)

    def test_what_was_accepted_waits_then_runs(self, site, backend):
        known = self.queued(backend, self.run(site, "endless"))
        seen = self.see(backend, known.run)
        assert (seen.alive, seen.queue.state, seen.queue.ident) == (
            True,
            QueueState.WAITING,
            known.handle.native["job"],
        )
        site.at += 10
        assert self.see(backend, known.run).queue.state is QueueState.RUNNING

    def test_a_full_machine_lets_it_wait(self, site, backend):
        place = {"nodes": 2, "gpus_per_node": 3}
        first, second = (self.run(site, name, place=place) for name in ("quick", "endless"))
        self.start(backend, first)
        self.queued(backend, second)
        assert [site.machine.free(name) for name in ("n1", "n2")] == [1, 1]
        assert self.see(backend, second).queue.state is QueueState.WAITING
        capacity = backend.observe(Look(probe=True)).capacity.queue
        assert [node.free("h100") for node in capacity.of("batch")] == [1, 1]
        site.at += 11
        assert self.see(backend, second).queue.state is QueueState.RUNNING

    @pytest.mark.parametrize("waiting", [True, False])
    def test_one_that_somebody_cancels_says_so(self, site, backend, waiting):
        run = self.run(site, "endless")
        (self.queued if waiting else self.start)(backend, run)
        site.machine.scancel(run.run_id)
        seen = self.see(backend, run)
        assert not seen.alive
        assert (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)

    def test_one_that_is_stopped_while_it_waits_never_starts(self, site, backend):
        known = self.queued(backend, self.run(site, "endless"))
        assert backend.cancel(known, reason="deleted", grace_s=1.0) == "already gone"
        site.at += 60
        seen = self.see(backend, known.run)
        assert (seen.alive, seen.report.cause) == (False, Cause.DELETED)
        assert isinstance(backend.submit([self.render(backend, known.run)])[known.run.run_id], Declined)

    @pytest.mark.parametrize(("mishap", "cause"), [("preempt", Cause.PREEMPTION), ("fail_node", Cause.INFRASTRUCTURE)])
    @pytest.mark.parametrize("owner", ["reconciler", "slurm"])
    def test_the_scheduler_starts_anew_only_what_is_its_own_to_restart(self, site, backend, mishap, cause, owner):
        run = self.run(site, "endless")
        run = replace(run, normal={**run.normal, "spec": {**run.normal["spec"], "restart": {"owner": owner}}})
        site.machine.claim(Submission(run, {}, {}))
        site.at += 10
        assert self.see(backend, run).queue.state is QueueState.RUNNING
        getattr(site.machine, mishap)(run.run_id)
        seen = self.see(backend, run)
        assert (seen.queue.state, seen.queue.revivable) == (QueueState.ENDED, True)
        assert seen.alive == (owner == "slurm")
        assert seen.alive or seen.report.cause is cause
        site.at += REVIVAL_S
        assert self.see(backend, run).alive == (owner == "slurm")
        site.at += 10
        assert (self.see(backend, run).queue.state is QueueState.RUNNING) == (owner == "slurm")

    def test_one_that_the_controller_forgot_is_unknown_then_lost(self, site, backend):
        known = self.start(backend, self.run(site, "endless"))
        site.machine.lose(known.run.run_id)
        assert self.see(backend, known.run).presence is Presence.UNKNOWN
        site.at += 600
        seen = self.see(backend, known.run)
        assert (seen.presence, seen.alive, seen.report.status.final) == (Presence.PRESENT, False, False)

    def test_a_submission_that_arrives_after_it_was_repeated_is_a_twin_that_can_be_ended(self, site, backend):
        run = self.run(site, "endless")
        site.machine.disturb = lambda verb, machine: Fault.CLAIMED if verb == "submit" else None
        with contextlib.suppress(Exception):
            backend.submit([self.render(backend, run)])
        site.machine.disturb = lambda verb, machine: None
        site.machine.waits = lambda run, ident: 60.0
        assert self.see(backend, run).presence is Presence.UNKNOWN
        known = self.queued(backend, run)
        site.at += 40
        seen = self.see(backend, run)
        assert {*seen.twins, seen.handle.native["job"]} == {"101", "102"}
        twin = Known(run, Handle(run.run_id, run.token, {"job": seen.twins[0], "twin": True}))
        assert backend.cancel(twin, reason="replaced", grace_s=0.0) == "signalled"
        assert (self.see(backend, run).alive, self.see(backend, run).twins) == (True, ())
        site.at += 60
        assert self.see(backend, run).queue.state is QueueState.RUNNING
        assert known.run == run

    def test_of_two_jobs_of_one_run_one_runs_it_and_is_no_twin(self, site, backend):
        run = self.run(site, "endless")
        self.queued(backend, run)
        site.machine.waits = lambda run, ident: 1.0
        site.machine.submit_twice(run.run_id)
        before = self.see(backend, run)
        site.at += 1
        begun = self.see(backend, run).handle.native["job"]
        assert before.twins == (begun,)
        twin = Known(run, Handle(run.run_id, run.token, {"job": begun, "twin": True}))
        assert backend.cancel(twin, reason="replaced", grace_s=0.0) == "already gone"
        site.at += 60
        assert self.see(backend, run).alive
        assert len(site.machine.living()) == 1

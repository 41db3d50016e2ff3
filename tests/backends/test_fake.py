"""The machine in memory keeps the contract, so what is tested on it holds for real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reconciler.backends.fake import Course, FakeBackend, FakeMachine, Fault
from reconciler.core.observation import Presence
from reconciler.core.protocols import Backend, Known, Look
from reconciler.core.run import Run
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

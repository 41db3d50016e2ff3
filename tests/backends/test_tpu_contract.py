"""The TPU driver keeps the contract of backends on an emulated control plane, with processes of this machine as the worker.

Asked for is not begun: the site lets the VM come and finishes the launch, as the next pass does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends.tpu_client import Patience, TpuClientControl
from reconciler.core.errors import Rejected
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Accepted, Backend, Declined, Known, Look, Submission
from reconciler.core.run import Run
from tests.backends.sites import DEADLINE_S, Hurt
from tests.backends.test_tpu import OTHER, ZONE, World
from tests.contract.backend_contract import BackendContract
from tests.emulators.tpu.emulator import GET_LIBRARY, Emulator, have_library

pytestmark = [pytest.mark.real, pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)]

# Refused, after which nothing was done; done, and then the answer is lost.
FAULTS = {
    Hurt.UNREACHABLE: {"status": "UNAVAILABLE", "message": "no connection"},
    Hurt.CUT: {"status": "UNAVAILABLE", "message": "the connection was cut", "after": True},
    Hurt.GARBLED: {"raw": {"code": 200, "body": "\x01 nonsense"}},
}


class TpuContractSite:
    """A host of v4-8, which has one worker, and the cloud that it comes from: both are hurt together."""

    host = "pod"

    def __init__(self, root: Path, bundle: Any, tpu: Emulator) -> None:
        self.tpu = tpu
        self.world = World(root, bundle, tpu, wish={})
        wish = replace(self.world.site.wish, accelerator_type="v4-8")
        self.world.site = replace(self.world.site, wish=wish, chips=4)
        self.patient = True

    def open(self) -> Backend:
        backend = self.world.open()
        backend._control = TpuClientControl(
            self.tpu.world.project, endpoint=f"http://{self.tpu.grpc}", patience=Patience(tries_s=0.5, pause_s=0.05)
        )
        backend._owner = ""  # the runs of the contract are of several owners
        submit = backend.submit

        def until_begun(submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
            answers = dict(submit(submissions))
            waiting = [item for item in submissions if self._waits(answers.get(item.run.run_id))]
            if self.patient and waiting:
                self.tpu.advance(600)
                answers.update(submit(waiting))
            return answers

        backend.submit = until_begun  # type: ignore[method-assign]
        return backend

    @staticmethod
    def _waits(answer: Accepted | Declined | None) -> bool:
        return isinstance(answer, Accepted) and not answer.handle.native.get("begun")

    def commands(self) -> int:
        """Of the worker: the control plane is asked per zone, and by name (benchmarks/tpu.py counts that)."""
        return sum(switch.commands for switch in self.world.switches.values())

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_S
        while not (value := holds()):
            assert time.monotonic() < end, f"did not come true within {DEADLINE_S:g} s"
            time.sleep(0.02)
        return value

    @contextlib.contextmanager
    def _hurt(self, hurt: Hurt) -> Iterator[None]:
        self.tpu.fault("*", times=None, **FAULTS[hurt])
        for switch in self.world.switches.values():
            switch.hurt = hurt
        yield
        self.tpu.heal()
        for switch in self.world.switches.values():
            switch.hurt = Hurt.NOTHING

    def unreachable(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.UNREACHABLE)

    def garbled(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.GARBLED)

    def cut_after(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.CUT)

    def began(self, backend: Backend, run: Run) -> bool:
        seen = backend.observe(Look((Known(run),))).look(run.run_id)
        if seen.presence is not Presence.PRESENT:
            return False
        return not seen.alive or (seen.report is not None and seen.report.status is not ReportStatus.PREPARING)

    def clear(self) -> None:
        self.world.power_off()
        self.world.backend.close()


class TestTpu(BackendContract):
    @pytest.fixture
    def site(self, tmp_path, bundle) -> Iterator[TpuContractSite]:
        with Emulator(zones=[ZONE, OTHER]) as tpu:
            self._site = TpuContractSite(tmp_path, bundle, tpu)
            yield self._site
            self._site.clear()

    @staticmethod
    def run(site: TpuContractSite, name: str, *, attempt: int = 1, **changes: Any) -> Run:
        return BackendContract.run(site, name, attempt=attempt, **{"place": {"zone": ZONE}, **changes})

    def start(self, backend: Backend, run: Run) -> Known:
        known = super().start(backend, run)
        self._site.until(lambda: self._site.began(backend, run))
        return known

    # --- where a machine made for the run changes what is promised

    def test_a_batch_is_one_call_and_is_answered_run_by_run(self, site, backend):
        """Each run has a VM of its own: a batch is one run, so that an error at one says nothing of another."""
        assert backend.capabilities.batch_max == 1

    def test_a_new_attempt_is_declined_while_an_older_one_lives(self, site, backend):
        old, new = self.run(site, "endless"), self.run(site, "endless", attempt=2)
        self.start(backend, old)
        self.is_not_started(backend, new, "attempt 1")

    def test_an_older_attempt_is_fenced_off_by_a_newer_one(self, site, backend):
        old, new = self.run(site, "quick"), self.run(site, "quick", attempt=2)
        self.start(backend, new)
        self.ended(site, backend, new)
        self.is_not_started(backend, old, "attempt 2")

    def test_a_job_of_the_same_name_with_another_mark_is_declined_unless_taken_over(self, site, backend):
        theirs = self.run(site, "quick", owner="theirs")
        self.start(backend, theirs)
        self.ended(site, backend, theirs)
        ours = self.run(site, "quick", attempt=2)
        self.is_not_started(backend, ours, "take-over")
        answer = backend.submit([self.render(backend, ours, heir_of="theirs")])[ours.run_id]
        assert answer.handle.native["begun"]

    def is_not_started(self, backend: Backend, run: Run, why: str) -> None:
        """Its VM is there by the time its worker refuses, and is the run's until boot_timeout is over: then it is given up."""
        answer = backend.submit([self.render(backend, run)])[run.run_id]
        assert isinstance(answer, Accepted)
        assert "started on 0 of 1 workers" in answer.words
        assert why in answer.words
        seen = self.see(backend, run)
        assert seen.report is None
        assert seen.unfinished

    @pytest.mark.skip(reason="a VM costs as long as it exists: every look lists it, whether its run has ended or not")
    def test_a_scan_finds_what_has_finished_and_a_plain_look_does_not_list_it(self, site, backend): ...

    def test_a_probe_says_what_the_host_has(self, site, backend):
        """Nothing, until something is rented: what may be made is in the inventory."""
        assert backend.observe(Look(probe=True)).capacity is not None

    def test_a_launch_whose_answer_is_lost_is_found_by_looking(self, site, backend):
        run = self.run(site, "endless")
        with site.cut_after():
            assert backend.submit([self.render(backend, run)]) == {}  # not answered: only a look tells
        seen = self.see(backend, run)
        assert seen.alive
        assert seen.run == run

    def test_a_launch_that_reached_nobody_says_so(self, site, backend):
        """UNAVAILABLE does not tell whether the service acted, so that this too is not answered."""
        run = self.run(site, "endless")
        with site.unreachable():
            assert backend.submit([self.render(backend, run)]) == {}
        assert self.see(backend, run).presence is Presence.ABSENT

    def test_while_it_ends_it_is_seen_to_be_stopping(self, site, backend):
        known = self.start(backend, self.run(site, "deaf"))
        backend.cancel(known, reason="deleted", grace_s=5.0)
        seen = self.see(backend, known.run)
        assert seen.alive
        assert seen.stopping == "deleted"
        assert "is being deleted" in backend.cancel(known, reason="deleted", grace_s=0.0, force=True)
        site.tpu.advance(600)
        assert self.see(backend, known.run).presence is Presence.ABSENT  # with its VM

    @pytest.mark.skip(reason="without a VM there is no log, and that is said instead of showing an empty one")
    def test_a_log_that_was_never_written_is_empty(self, site, backend): ...

    # --- the same for machines

    def test_another_reconcilers_vm_of_the_same_run_is_neither_started_nor_deleted(self, site, backend):
        """Two clones with a state each want the same run: labels are the same, tokens are not."""
        site.patient = False
        theirs = self.run(site, "endless")
        assert isinstance(backend.submit([self.render(backend, theirs)])[theirs.run_id], Accepted)
        ours = replace(theirs, token="ours")
        answer = backend.submit([self.render(backend, ours)])[ours.run_id]
        assert isinstance(answer, Declined)
        assert answer.reason == "claimed"
        with pytest.raises(Rejected):
            backend.cancel(Known(ours), reason="cancelled", grace_s=0.0, force=True)
        site.tpu.advance(600)
        assert len(site.tpu.nodes()) == 1

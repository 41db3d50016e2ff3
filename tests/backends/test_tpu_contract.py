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

from reconciler.backends.tpu import TpuBackend
from reconciler.core.errors import Unreachable
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Accepted, Backend, Declined, Known, Look, Submission
from reconciler.core.run import Run
from reconciler.core.tpu import node_name
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

"""A workstation with a TPU host: the real driver and client on an emulated control plane; the worker is this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from reconciler.app.converge import Options, Reconciler
from reconciler.app.shipping import Bundle
from reconciler.core.inventory import Limits
from reconciler.core.machine import Disposal
from reconciler.core.phase import Phase
from reconciler.core.solve import HostView, Rented
from tests.app.worlds import Desk
from tests.backends.test_tpu import GET_LIBRARY, OTHER, ZONE, Emulator, World, have_library
from tests.worlds import job

MARKS = [pytest.mark.real, pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)]
FOR_EVER = ["sleep", "600"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle()


class TpuClock:
    def __init__(self, tpu: Emulator) -> None:
        self._tpu = tpu

    def now(self) -> float:
        return self._tpu.now

    def sleep(self, seconds: float) -> None:
        self._tpu.advance(seconds)


class Lost(Exception):
    """The reconciler is killed."""


class TpuDesk:
    """A workstation with one TPU host, v4-8 (one worker)."""

    limits = Limits()
    approve = False
    machines_max = 1
    price_per_chip_hour = 3.22
    cooldown_s = 0.0

    def __init__(self, root: Any, bundle: Bundle, tpu: Emulator, **site: Any) -> None:
        self.tpu, self.root = tpu, root
        self.world = World(root, bundle, tpu, **site)
        self.world.site = replace(
            self.world.site,
            wish=replace(self.world.site.wish, accelerator_type="v4-8"),
            zones=(ZONE, OTHER),
            chips=4,
            price_per_hour=12.88,
        )
        self.world.backend = self.world.open()
        self.clock: Any = TpuClock(tpu)
        self.desk = Desk(root, names=(), clock=self.clock)
        self.reconciler = self.another()

    def another(self, **options: Any) -> Reconciler:
        rented = Rented("tpu-v4", 4, 8, (ZONE, OTHER), self.machines_max, self.price_per_chip_hour, self.cooldown_s)
        view = HostView("pod", "tpu", "lab", {}, rented=rented)
        self.ports = self.desk.ports(
            hosts=(view,), backends=lambda name: self.world.backend, limits=self.limits, approve=self.approve
        )
        return Reconciler(self.ports, Options(**{"approved": True, **options}))

    def killed(self) -> None:
        """Another process goes on, with the same state."""
        self.world.backend = self.world.open()
        self.reconciler = self.another()

    def forget_all(self) -> None:
        """The state is lost too."""
        self.desk.store.close()
        for path in self.root.glob("state.sqlite*"):
            path.unlink()
        self.desk = replace_desk(self.desk)
        self.killed()

    def want(self, command: Any, name: str = "train", **spec: Any) -> None:
        self.desk.manifests.clear()
        request = {"chip": "tpu-v4", "min_chips": 4}
        self.desk.want(job(name, spec={"command": command, "grace": "1s", "request": request, **spec}))

    def drop(self) -> None:
        """Its manifest is removed, as `--confirm-delete 1` confirms."""
        self.desk.manifests.clear()
        self.reconciler = self.another(delete_allowed=1)

    def lose(self, name: str) -> None:
        self.tpu.preempt(name)
        self.world.power_off()

    def one_pass(self) -> Any:
        seen = self.reconciler.look()
        self.done = self.reconciler.apply(seen, why="test")
        return seen

    def phase(self) -> Phase | None:
        views = self.reconciler.look().plan.views
        return views[0].phase if views else None

    def settle(self, until: Any, *, step_s: float = 30.0, passes: int = 200) -> None:
        """Passes until it holds; the cloud's clock runs between them, and so do the real processes."""
        for _ in range(passes):
            self.one_pass()
            if until():
                return
            self.tpu.advance(step_s)
        raise AssertionError(f"not within {passes} passes: {self.reconciler.look().plan}")

    def creates(self) -> int:
        """VMs made so far, whatever became of them."""
        return sum(call.code == "OK" for call in self.tpu.calls("CreateNode"))

    def verbs(self) -> list[str]:
        return [action.verb.value for action in self.reconciler.look().plan.actions]

    def is_over(self, phase: Phase) -> bool:
        return self.phase() is phase and not self.tpu.nodes()


def replace_desk(old: Desk) -> Desk:
    return Desk(old.directory, names=(), clock=old.clock, manifests=old.manifests)


@pytest.fixture
def tpu() -> Iterator[Emulator]:
    with Emulator(zones=[ZONE, OTHER]) as made:
        yield made


@pytest.fixture
def desk(tmp_path, bundle, tpu) -> Iterator[TpuDesk]:
    made = TpuDesk(tmp_path, bundle, tpu)
    yield made
    finish(made)


def finish(made: TpuDesk) -> None:
    made.tpu.heal()
    made.drop()
    made.world.site = replace(made.world.site, disposal=Disposal())
    for _ in range(200):
        made.one_pass()
        if not [one for one in made.tpu.nodes().values() if "reconciler-owner" in one.get("labels", {})]:
            break
        made.tpu.advance(30)
    made.reconciler.close()
    made.desk.close()


def two_jobs(desk: TpuDesk) -> None:
    request = {"chip": "tpu-v4", "min_chips": 4}
    for name in ("one", "two"):
        desk.desk.want(job(name, spec={"command": FOR_EVER, "grace": "1s", "request": request}))

"""A simulated zone of Cloud TPU VMs for the simulated world: the real driver and the real google-cloud-tpu library, over gRPC, in
front of an emulated service (tests/emulators/tpu) on the world's virtual clock; on each VM's machines, simulated nodes.

What must hold beside the world's own promises: a VM is deleted only with an intent, never under a run that is wanted, never
somebody else's; at rest no VM of ours is without its run.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.backends.fake import Course, FakeMachine, Fault, Process
from reconciler.backends.node_call import NodeSettings
from reconciler.backends.tpu import TpuBackend, TpuSite
from reconciler.backends.tpu_client import Patience, TpuClientControl
from reconciler.backends.tpu_marks import OWNER as OWNER_LABEL
from reconciler.backends.tpu_marks import RUN as RUN_LABEL
from reconciler.backends.tpu_marks import labels_of, metadata_of
from reconciler.core.errors import ReconcilerError
from reconciler.core.machine import Disposal
from reconciler.core.protocols import Backend
from reconciler.core.run import Run
from reconciler.core.solve import HostView, Rented
from reconciler.core.tpu import NodeWish, TpuNode, label_value
from reconciler.core.transport import Transport
from tests.emulators.tpu.clock import START, Clock
from tests.emulators.tpu.emulator import Emulator
from tests.sim.campaign import Climate, Deed
from tests.sim.wire import PATHS, NodeEndpoint
from tests.sim.workloads import CourseOf
from tests.sim.world import SimWorld, VirtualClock
from tests.worlds import OWNER, job, run_of

NAME = "pod"
ZONES = ("us-central2-b", "us-east5-a")
TYPE = "v4-8"
NO_CAPACITY = {"code": 8, "message": "There is no more capacity in the zone"}
WEIRD = {"code": 13, "message": "Internal error"}
_PATIENCE = Patience(5.0, 5.0, 0.0, 0.0)
# What may be met by one call, by the beginning of its method's name.
_CALLS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "*": (
        {"status": "UNAVAILABLE", "message": "backend error"},
        {"status": "UNAVAILABLE", "message": "backend error", "after": True},
        {"status": "DEADLINE_EXCEEDED", "message": "too late", "after": True},
        {"status": "UNAUTHENTICATED", "message": "Request had invalid authentication credentials."},
        {"status": "PERMISSION_DENIED", "message": "Permission denied"},
        {
            "status": "RESOURCE_EXHAUSTED",
            "message": "Quota exceeded for quota metric 'requests' of service 'tpu.googleapis.com'",
        },
        {"drop": True},
        {"drop": True, "after": True},
        {"raw": {"code": 200, "body": "<html>", "type": "text/html"}},
    ),
    "List*": ({"stale": True}, {"unreachable": [ZONES[0]]}, {"unreachable": list(ZONES)}),
    "CreateNode": (
        {"lro_error": NO_CAPACITY, "provision_s": 20.0},
        {"lro_error": WEIRD, "provision_s": 60.0},
        {"provision_s": 500.0},
        {"invisible_s": 30.0},
        {"preempt_after_s": 90.0},
        {"endpoints": "partial"},
    ),
    "DeleteNode": ({"lro_error": WEIRD}, {"delete_s": 300.0}),
}


class _Now:
    """Which world's clock the one emulator of this process follows."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: START

    def __call__(self) -> float:
        return self.clock()


@functools.cache
def _emulator() -> tuple[Emulator, _Now]:
    """One per process: a server takes longer to start than a world to live."""
    now = _Now()
    emulator = Emulator(zones=ZONES)
    emulator.world.clock = Clock(now, start=START)
    return emulator.start(), now


@dataclass(slots=True)
class WorkerEndpoint(NodeEndpoint):
    """One machine of a VM; what happened to the VM happens to it first."""

    cloud: Cloud | None = None

    def _reach(self, verb: str) -> Fault | None:
        assert self.cloud is not None
        self.cloud.settle()
        return NodeEndpoint._reach(self, verb)


@dataclass
class Cloud:
    """The TPU host of a simulated world. `hooks` are set on every machine that comes to be."""

    now: Callable[[], float]
    rng: random.Random
    course: Callable[[Run], Course]
    machines_max: int = 2
    kind: str = TYPE
    hooks: Callable[[FakeMachine], None] = lambda machine: None
    endpoints: dict[tuple[str, str, int], WorkerEndpoint] = field(default_factory=dict)
    killed: dict[str, set[str]] = field(default_factory=dict)
    faults_share: float = 0.0
    name: str = NAME

    def __post_init__(self) -> None:
        self.tpu, follow = _emulator()
        follow.clock = self.now
        self.tpu.reset()
        self.tpu.world.clock = Clock(follow, start=self.now())
        self.tpu.world.random.seed(self.rng.random())
        self._foreign: dict[str, str] = {}
        self.claim("theirs", ZONES[0])
        self._control = TpuClientControl(self.tpu.world.project, endpoint=f"http://{self.tpu.grpc}", patience=_PATIENCE)
        self._seen = 0

    def claim(self, name: str, zone: str) -> None:
        """Somebody else has a VM of this name, made by the same program."""
        run = replace(run_of(job("a"), host=NAME, owner="somebody else"), token="theirs")
        metadata = metadata_of(run, Disposal(), None)
        faults, self.tpu.world.faults[:] = list(self.tpu.world.faults), []  # laid for our own calls
        made = self.tpu.create(name, type=self.kind, zone=zone, labels=labels_of(run), metadata=metadata)
        self.tpu.world.faults[:] = faults
        self._foreign[str(made["name"])] = str(made["id"])

    def view(self) -> HostView:
        return HostView(NAME, "tpu", "lab", {}, rented=Rented("tpu-v4", 4, 8, ZONES, self.machines_max))

    def backend(self) -> Backend:
        site = TpuSite(
            NodeWish("", "", self.kind, "tpu-ubuntu2204-base", spot=True), ZONES, fixed=False, chip="tpu-v4", chips=4
        )
        return TpuBackend(
            NodeSettings(NAME, PATHS),
            site,
            self._control,
            open_worker=self._worker,
            install=_install,
            abreast=_one_after_another,
            owner=OWNER,
            now=self.now,
        )

    def machines(self) -> list[FakeMachine]:
        return [endpoint.machine for endpoint in self.endpoints.values()]

    def _worker(self, node: TpuNode, rank: int) -> Transport:
        mark = (f"{node.zone}/{node.name}", node.ident, rank)
        if mark not in self.endpoints:
            machine = FakeMachine(f"{node.name}-{node.ident}-{rank}", self.now, course=self.course)
            self.hooks(machine)
            self.endpoints[mark] = WorkerEndpoint(machine, self.rng, cloud=self)
        return self.endpoints[mark]

    # --- time and mishaps

    def settle(self) -> None:
        self.bury()
        for machine in self.machines():
            machine.settle()

    def bury(self) -> None:
        """What became of the VMs becomes of their machines."""
        with self.tpu.world.lock:
            self.tpu.world.clock.run_due()
            nodes = {
                (f"{name.split('/')[3]}/{name.rpartition('/')[2]}", str(node.json.get("id", ""))): node.state
                for name, node in self.tpu.world.nodes.all.items()
            }
        for (where, ident, _), endpoint in self.endpoints.items():
            state, machine = nodes.get((where, ident)), endpoint.machine
            if state in ("READY", "CREATING", "DELETING"):
                continue
            machine.reachable = False
            alive = {process.run.run_id for process in machine.processes.values() if process.alive}
            if alive and state is None:
                self.killed.setdefault(where, set()).update(alive)
            if alive:
                machine.reboot()

    def disturb(self) -> None:
        """Lay a fault for a call of the next pass, now and then."""
        self.tpu.world.faults[:] = [fault for fault in self.tpu.world.faults if not fault.spent][-12:]
        if self.rng.random() >= self.faults_share:
            return
        method = self.rng.choice(list(_CALLS))
        if method == "List*" and self.rng.random() < 0.5:  # one listing, as things were some passes ago
            self.tpu.fault("List*", times=2, after_n=self.rng.randint(0, 30), stale=True)
            return
        self.tpu.fault(
            method, times=self.rng.randint(1, 3), after_n=self.rng.randint(0, 3), **self.rng.choice(_CALLS[method])
        )

    def calm(self) -> None:
        self.faults_share = 0.0
        self.tpu.heal()
        self.tpu.quota(ZONES[0], v4=None)
        self.tpu.quota(ZONES[1], v4=None)
        self.settle()
        for (where, ident, _), endpoint in self.endpoints.items():
            endpoint.machine.reachable = self._state(where, ident) in ("READY", "CREATING", "DELETING")

    def _state(self, where: str, ident: str) -> Any:
        for node in self.tpu.world.nodes.all.values():
            zone, name = node.name.split("/")[3], node.name.rpartition("/")[2]
            if (f"{zone}/{name}", str(node.json.get("id", ""))) == (where, ident):
                return node.state
        return None

    def ours(self) -> list[tuple[str, dict[str, Any]]]:
        found = self.tpu.nodes()
        return [
            (name, node) for name, node in sorted(found.items()) if node.get("labels", {}).get(OWNER_LABEL) == OWNER
        ]

    def lose(self, process: Process, how: str) -> None:
        """The VM under a process is preempted, vanishes, or is repaired."""
        for (where, ident, _), endpoint in self.endpoints.items():
            if process in endpoint.machine.processes.values():
                zone, name = where.split("/")
                full = f"{self.tpu.world.parent(zone)}/nodes/{name}"
                if self._state(where, ident) == "READY":
                    getattr(self.tpu, how)(full)
                    self.settle()
                    self.killed.pop(where, None)  # that was not us

    # --- what must hold

    def check(self, *, stopping: set[str], intents: set[str]) -> None:
        """Of every deletion since the last look: it was ours, had an intent, and took no run that was not to end."""
        for name, ident in self._foreign.items():
            node = self.tpu.world.nodes.all.get(name)
            assert node is not None, f"somebody else's VM {name} is gone"
            assert node.json["id"] == ident, f"somebody else's VM {name} is gone"
            assert node.state != "DELETING", f"somebody else's VM {name} is being deleted"
        exchanges = list(self.tpu.world.exchanges)
        for exchange in exchanges[self._seen :]:
            if exchange.method == "DeleteNode" and exchange.code != "NOT_FOUND":
                where = f"{exchange.name.split('/')[3]}/{exchange.name.rpartition('/')[2]}"
                for run_id in self.killed.get(where, ()):
                    assert run_id in intents, f"the VM of {run_id} was deleted without a durable intent"
                    assert run_id in stopping, f"the VM of {run_id} was deleted under it, and it was not to end"
        self._seen = len(exchanges)
        living = [name for name, node in self.ours() if node["state"] in ("CREATING", "READY")]
        assert len(living) <= self.machines_max, f"{len(living)} VMs at once: {living}"

    def busy(self) -> bool:
        return any(node["state"] in ("CREATING", "DELETING", "REPAIRING") for _, node in self.ours())

    def leaks(self) -> list[str]:
        """VMs of ours on which nothing of ours lives."""
        alive = {process.run.run_id for machine in self.machines() for process in machine.living()}
        labels = {label_value(run_id) for run_id in alive}
        return [name for name, node in self.ours() if node["labels"].get(RUN_LABEL) not in labels]

    def close(self) -> None:
        """The emulator goes on, for the next world."""


def clouds(world: SimWorld) -> list[Cloud]:
    return [site for site in world.sites.values() if isinstance(site, Cloud)]


def _vm(how: str) -> Deed:
    def deed(world: SimWorld, rng: random.Random, name: str) -> None:
        process = world.live(name)
        for cloud in clouds(world):
            if process is not None:
                cloud.lose(process, how)

    deed.__name__ = f"vm_{how}"
    return deed


def worker_silent(world: SimWorld, rng: random.Random, name: str) -> None:
    """A machine of a VM cannot be logged in to for a while."""
    process = world.live(name)
    for cloud in clouds(world):
        for machine in cloud.machines():
            if process is not None and process in machine.processes.values():
                machine.reachable = not machine.reachable


def vm_usurped(world: SimWorld, rng: random.Random, name: str) -> None:
    """A VM of ours vanishes, and somebody else's has its name."""
    for cloud in clouds(world):
        for where, node in cloud.ours():
            if node["state"] == "READY" and f"-{name}-" in where:
                full = str(node["name"])
                cloud.tpu.vanish(full)
                cloud.settle()
                cloud.killed.clear()
                cloud.claim(where, full.split("/")[3])
                return


def no_quota(world: SimWorld, rng: random.Random, name: str) -> None:
    for cloud in clouds(world):
        cloud.tpu.quota(rng.choice(ZONES), **{"v4-preemptible": rng.choice([0, None])})


def api_hurt(world: SimWorld, rng: random.Random, name: str) -> None:
    """Calls of the control plane go wrong, or go right again."""
    for cloud in clouds(world):
        cloud.faults_share = rng.choice([0.0, 0.2, 0.6])


def api_down(world: SimWorld, rng: random.Random, name: str) -> None:
    for cloud in clouds(world):
        cloud.tpu.fault(
            "*", times=rng.randint(5, 40), status="UNAVAILABLE", message="The service is currently unavailable."
        )


TPU_DEEDS: tuple[Deed, ...] = (
    _vm("preempt"),
    _vm("preempt"),
    _vm("vanish"),
    _vm("repair"),
    vm_usurped,
    worker_silent,
    no_quota,
    api_hurt,
    api_hurt,
    api_down,
)


def _cloud(clock: VirtualClock, course: CourseOf, rng: random.Random) -> list[Cloud]:
    kind = rng.choice(["v4-8", "v4-16"])
    return [Cloud(clock.now, rng, course, machines_max=rng.randint(1, 3), kind=kind)]


TPU = Climate(
    "tpu",
    wire=True,
    sites=_cloud,
    deeds=TPU_DEEDS,
    requests=({"hosts": [NAME], "chip": "tpu-v4", "min_chips": 4},) * 12,
    began=START,
)


def _install(transport: Transport) -> None:
    assert isinstance(transport, NodeEndpoint)
    transport.install()


def _one_after_another(calls: Mapping[int, Callable[[], object]]) -> Mapping[int, object]:
    results: dict[int, object] = {}
    for key, call in calls.items():
        try:
            results[key] = call()
        except ReconcilerError as error:
            results[key] = error
    return results

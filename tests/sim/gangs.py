"""A simulated Kubernetes cluster with Volcano for the simulated world: the real driver and the real `kubernetes` library, over
HTTP, in front of an emulated API server, controller and scheduler (tests/emulators/kube) on the world's virtual clock.

Simulated are the containers: what runtime/pod.py does in them is played here, and so is the way into a pod. What must hold
beside the world's own promises: a job is deleted only with an intent, never somebody else's; at rest none of ours is left that
runs for nobody.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from reconciler.backends.fake import REASONS, Course, FakeMachine, Fault, Process
from reconciler.backends.kube_client import KubeClient
from reconciler.backends.kube_client import Patience as Patient
from reconciler.backends.kube_control import Kind, Listed
from reconciler.backends.node_call import BUNDLE_MISSING, NodeSettings
from reconciler.backends.volcano import VolcanoBackend, VolcanoSite
from reconciler.backends.volcano_helper import Helper, HelperWish
from reconciler.backends.volcano_job import PodSite
from reconciler.backends.volcano_marks import HELPER, OWNER, RUN, annotations_of, label_value, labels_of, run_of
from reconciler.backends.volcano_sight import Limits
from reconciler.backends.volcano_space import Space
from reconciler.core.cause import Cause
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Unreachable
from reconciler.core.gangs import GangView
from reconciler.core.observation import ReportStatus
from reconciler.core.protocols import Backend
from reconciler.core.run import Run
from reconciler.core.solve import HostView
from reconciler.core.transport import Command, Completed, Transport
from reconciler.transports.shell import Progress
from tests.emulators.kube import clock as emulated_clock
from tests.emulators.kube.cluster import Cluster
from tests.emulators.kube.containers import CannotConfigure
from tests.emulators.kube.kinds import JOB, SECRET
from tests.emulators.kube.store import Store
from tests.sim.campaign import Climate, Deed
from tests.sim.wire import PATHS, NodeEndpoint, claim_json, handle_json, metadata_json
from tests.sim.world import SimWorld
from tests.worlds import OWNER as US
from tests.worlds import job
from tests.worlds import run_of as wanted_run

NAME, NAMESPACE = "k8s", "team-a"
BEGAN = 1_795_000_000.0
NOT_OURS = 79
TICKS_MAX = 400
Json = dict[str, Any]

_FAULTS: tuple[Json, ...] = (
    {"status": 503},
    {"status": 500},
    {"status": 429},
    {"status": 500, "after": True},
    {"status": 504, "after": True},
    {"drop": True},
    {"drop": True, "after": True},
    {"raw": "<html>"},
    {"raw": "{", "after": True},
    {"status": 401},
    {"status": 403},
)


@dataclass(eq=False)
class Gang:
    """One run as its pods play it. `told`: somebody wrote a request on the claim. `termed_at`: a pod got TERM."""

    run: Run
    replicas: int
    process: Process | None = None
    there: set[int] = field(default_factory=set)
    refused: str = ""
    termed_at: float | None = None


class SimProcess:
    """The first process of a simulated container, as far as a kubelet looks at it."""

    def __init__(self, container: SimContainer) -> None:
        self._container = container

    @property
    def returncode(self) -> int:
        return self.poll() or 0

    def poll(self) -> int | None:
        return self._container.code()


class SimContainer:
    """Stands in for tests/emulators/kube/containers.Container. One of a helper lives until it is told to end."""

    def __init__(self, site: Gangs, store: Store, pod: Json, folder: Path) -> None:
        self.pod, self.folder, self.log = pod, folder, folder / "output.log"
        self.uid = str(pod["metadata"]["uid"])
        self.spec: Json = pod["spec"]["containers"][0]
        self.process: SimProcess | None = None
        self._site, self._killed = site, False
        self._gang: Gang | None = None
        self.node = str(pod["spec"]["nodeName"])
        if HELPER in pod["metadata"].get("labels", {}):
            return
        name = str(pod["metadata"]["annotations"]["volcano.sh/job-name"])
        if store.get(SECRET, NAMESPACE, name) is None:
            raise CannotConfigure(f'secret "{name}" not found')
        self._gang = site.gang_of(name, pod)

    def start(self) -> None:
        self.process = SimProcess(self)
        if self._gang is not None:
            self._site.joined(self._gang, int(self.pod["metadata"]["labels"]["volcano.sh/task-index"]))

    def code(self) -> int | None:
        if self._killed:
            return 137
        gang = self._gang
        if gang is None:
            return None
        if gang.refused:
            return NOT_OURS
        process = gang.process
        if process is None or process.alive:
            return None
        if process.final is None:
            return 137
        return 0 if process.final.status is ReportStatus.COMPLETED else process.final.exit_code or 1

    def terminate(self) -> None:
        if self._gang is None:
            self._killed = True
        else:
            self._site.termed(self._gang, self.pod)

    def kill(self) -> None:
        self._killed = True
        process = self._gang.process if self._gang is not None else None
        if process is not None and process.alive:
            process.gone = True

    def sweep(self) -> None:
        """Nothing is left behind."""

    def message(self) -> str:
        """The last record, as runtime/pod.py leaves it."""
        gang = self._gang
        if gang is None:
            return ""
        told: Json = {"run_id": gang.run.run_id, "attempt": gang.run.attempt, "rank": 0}
        if gang.refused:
            return json.dumps(
                {**told, "status": "failed", "cause": "fenced", "message": gang.refused, "seq": 0, "exit_code": None}
            )
        if gang.process is None or gang.process.final is None:
            return ""
        return json.dumps({**told, **metadata_json(gang.process.final)})


@dataclass
class Gangs:
    """The Volcano host of a simulated world."""

    now: Callable[[], float]
    sleep: Callable[[float], None]
    rng: random.Random
    course: Callable[[Run], Course]
    folder: Path
    nodes: int = 2
    hooks: Callable[[FakeMachine], None] = lambda machine: None
    faults_share: float = 0.0
    lists_share: float = 0.0
    name: str = NAME
    evicted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        emulated_clock.use(self.now)
        sizes = {f"node-{index}": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4"} for index in range(self.nodes)}
        self.cluster = Cluster(self.folder, nodes=sizes, namespace=NAMESPACE, claims=("data",))
        self.store = self.cluster.world.store
        self.store.random.seed(self.rng.random())
        self.cluster.world.kubelets.make = lambda store, pod, folder, claims, keys: SimContainer(
            self, store, pod, folder
        )  # type: ignore[assignment,return-value]
        self.cluster.start()
        self.cluster.renew_token()
        self.machine = FakeMachine(NAME, self.now, course=self.course)
        self.gangs: dict[str, Gang] = {}
        self.there: set[str] = set()
        self._settled = (-1.0, -1)
        self._client = KubeClient(
            namespace=NAMESPACE,
            kubeconfig=str(self.cluster.kubeconfig),
            patience=Patient(5.0, 5.0, 5.0, 0.0, 0.0, 1),
            clock=self.now,
            sleep=lambda seconds: None,
        )
        self._before: dict[str, Listed] = {}
        self._tokens = 0
        self._foreign: dict[str, str] = {}
        self.claim("theirs")

    def claim(self, name: str) -> None:
        """Somebody else has a job of this name, made by the same program."""
        run = replace(wanted_run(job("a"), host=NAME, owner="somebody else"), token="theirs")
        body = {
            "apiVersion": "batch.volcano.sh/v1alpha1",
            "kind": "Job",
            "metadata": {"name": name, "labels": labels_of(run), "annotations": annotations_of(run)},
            "spec": {"minAvailable": 1, "queue": "default", "schedulerName": "volcano", "tasks": []},
        }
        with self.store.lock:
            made = self.store.create(JOB, NAMESPACE, body)
        self._foreign[name] = str(made["metadata"]["uid"])

    # --- a host of the world

    def view(self) -> HostView:
        return HostView(NAME, "volcano", "lab", {}, gang=GangView({"h100": 4}, "default", self.nodes))

    def backend(self) -> Backend:
        node = NodeSettings(NAME, PATHS)
        pods = PodSite(
            NAMESPACE, "registry/train:1", "data", "/mnt", cpu="2", memory="4Gi", cpu_cpu="2", cpu_memory="4Gi"
        )
        site = VolcanoSite(pods, Limits(None, 1800.0, 600.0, 120.0))
        kube = StaleKube(self)

        def open_space(namespace: str) -> Space:
            wish = HelperWish(label_value(US), label_value(NAME), "maker", "registry/helper:1", "data", "/mnt")
            helper = Helper(
                kube,
                wish,
                transport=self.reach,
                ready_s=60.0,
                clock=self.now,
                now=self.now,
                sleep=self._pause,
                token=self._token,
            )
            return Space(node, kube, helper, reach=self.reach, install=self._install)

        return VolcanoBackend(node, site, open_space, owner=US, now=self.now)

    def machines(self) -> list[FakeMachine]:
        if self.machine.on_start is not self._hooked:
            self.hooks(self.machine)
            self._hooked = self.machine.on_start
        return [self.machine]

    _hooked: Any = None

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:012x}"

    def _pause(self, seconds: float) -> None:
        self.sleep(seconds)
        self.settle()

    def reach(self, pod: str) -> Transport:
        return PodEndpoint(self.machine, self.rng, True, site=self, pod=pod)

    @staticmethod
    def _install(way: Transport) -> None:
        import io

        way.put(io.BytesIO(b"x"), f"{PATHS.bundle}/bootstrap.sh", size=1, deadline_s=60.0)

    # --- time

    def settle(self) -> None:
        with self.store.lock:
            if self._settled == (self.now(), self.store.version):
                return
            self.machines()
            quiet = 0
            for _ in range(TICKS_MAX):
                self._end_termed()
                self.machine.settle()
                version = self.store.version
                self.cluster.world.tick()
                quiet = quiet + 1 if self.store.version == version else 0
                if quiet == 3:
                    break
            else:
                raise AssertionError("the emulated cluster does not come to rest")
            self._settled = (self.now(), self.store.version)

    def bury(self) -> None:
        """Pods end with their own kubelets' ticks."""

    def _end_termed(self) -> None:
        for gang in self.gangs.values():
            process = gang.process
            if process is None or not process.alive or gang.termed_at is None or process.request:
                continue
            if self.now() >= min(process.ends_at, gang.termed_at + process.course.stops_s):
                self.machine.end(gang.run.run_id, ReportStatus.PREEMPTED, Cause.PREEMPTION, 143)

    # --- what containers do

    def gang_of(self, name: str, pod: Json) -> Gang:
        uid = str(pod["metadata"]["ownerReferences"][0]["uid"])
        if uid not in self.gangs:
            job = self.store.get(JOB, NAMESPACE, name)
            if job is None or job["metadata"]["uid"] != uid:
                raise CannotConfigure("its job is gone")
            run = run_of(job["metadata"]["labels"], job["metadata"]["annotations"])
            assert run is not None, f"{name} does not tell its run"
            self.gangs[uid] = Gang(run, int(job["spec"]["tasks"][0]["replicas"]))
        return self.gangs[uid]

    def joined(self, gang: Gang, rank: int) -> None:
        """A pod has started: the first claims the run, and when all have, its programs start."""
        run, machine = gang.run, self.machine
        gang.there.add(rank)
        if rank == 0:
            known, fence = machine.processes.get(run.run_id), machine.fences.get(run.job)
            if known is not None:
                gang.refused = "the run is not this pod's to start"
            elif fence is not None and fence.token != run.token and fence.attempt >= run.attempt:
                gang.refused = "a newer attempt has claimed the job"
            if gang.refused:
                return
            self._fence_the_silent(run)
            machine.fences[run.job] = run
            machine._pids += 1
            process = Process(
                run, machine.course(run), machine.boot_id, machine._pids, self.now(), starts_at=float("inf")
            )
            gang.process = machine.processes[run.run_id] = process
        if len(gang.there) == gang.replicas and gang.process is not None and gang.process.alive:
            machine._start(gang.process)

    def _fence_the_silent(self, run: Run) -> None:
        """An older attempt on a node that nobody reaches finds the fence, and ends before it writes a checkpoint."""
        silent = self.cluster.world.kubelets.lost
        for container in self.cluster.world.kubelets.containers.values():
            assert isinstance(container, SimContainer)
            gang = container._gang
            if gang is not None and gang.run.job == run.job and gang.process is not None and container.node in silent:
                gang.process.gone = True

    def termed(self, gang: Gang, pod: Json) -> None:
        """TERM to the first process of one of its pods."""
        job = self.store.get(JOB, NAMESPACE, str(pod["metadata"]["annotations"]["volcano.sh/job-name"]))
        going = job is None or bool(job["metadata"].get("deletionTimestamp"))
        process = gang.process
        if process is None or not process.alive:
            if process is None:
                gang.refused = gang.refused or "it was ended before it started"
            return
        if going and gang.run.run_id not in self.evicted:
            self.machine.on_stop(self.machine, process)
        gang.termed_at = self.now()
        if process.started_at is None:
            process.gone = True
        elif process.request:
            process.ends_at = min(process.ends_at, self.now() + process.course.stops_s)

    # --- mishaps

    def disturb(self) -> None:
        self.cluster.world.faults._laid[:] = [one for one in self.cluster.world.faults._laid if one.times != 0][-4:]
        if self.rng.random() < self.faults_share:
            verb = self.rng.choice(["*", "list", "create", "delete", "get", "patch"])
            kind = self.rng.choice(["*", "jobs", "pods", "secrets"])
            self.cluster.fault(verb, kind, times=self.rng.randint(1, 3), **self.rng.choice(_FAULTS))

    def calm(self) -> None:
        self.faults_share = self.lists_share = 0.0
        self.cluster.heal()
        for node in list(self.cluster.world.kubelets.lost):
            self.cluster.return_node(node)
        self.cluster.stuck_controller(False)
        self.settle()

    def pods_of(self, name: str) -> list[str]:
        """Pods of the job's live run."""
        found = []
        for container in self.cluster.world.kubelets.containers.values():
            assert isinstance(container, SimContainer)
            gang = container._gang
            alive = gang is not None and gang.process is not None and gang.process.alive
            if gang is not None and alive and gang.run.job.name == name:
                found.append(str(container.pod["metadata"]["name"]))
        return sorted(found)

    # --- what must hold

    def check(self, *, stopping: set[str], intents: set[str]) -> None:
        assert not self.cluster.world.broken, self.cluster.world.broken
        for name, uid in self._foreign.items():
            found = self.cluster.get("jobs", name)
            assert found is not None, f"somebody else's job {name} is gone"
            assert found["metadata"]["uid"] == uid, f"somebody else's job {name} is gone"
            assert not found["metadata"].get("deletionTimestamp"), f"somebody else's job {name} is being deleted"

    def busy(self) -> bool:
        return any(job["metadata"].get("deletionTimestamp") for job in self.cluster.list("jobs"))

    def leaks(self) -> list[str]:
        """Jobs of ours that are not over and whose run is not alive; Secrets without a job."""
        alive = {process.run.run_id for process in self.machine.living()}
        ours = {OWNER: label_value(US)}.items()
        jobs = [job for job in self.cluster.list("jobs") if ours <= job["metadata"].get("labels", {}).items()]
        names = {job["metadata"]["name"] for job in jobs}
        over = ("Completed", "Failed", "Terminated", "Aborted")
        left = [
            f"job {job['metadata']['name']}"
            for job in jobs
            if RUN in job["metadata"]["labels"]
            and job.get("status", {}).get("state", {}).get("phase") not in over
            and job["metadata"]["labels"][RUN] not in {label_value(run_id) for run_id in alive}
        ]
        for secret in self.cluster.list("secrets"):
            about = secret["metadata"]
            if ours <= about.get("labels", {}).items() and about["name"] not in names:
                made_at = emulated_clock_of(about["creationTimestamp"])
                if self.now() - made_at > 3600.0:
                    left.append(f"secret {about['name']}")
        return left

    def close(self) -> None:
        self.cluster.close()
        emulated_clock.use(None)


def emulated_clock_of(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


class StaleKube:
    """The client, whose lists may be what they were before: some API servers answer from a copy that is behind."""

    def __init__(self, site: Gangs) -> None:
        self._site = site
        self.namespace = NAMESPACE

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name)

    def _call(self, name: str, *given: Any, **more: Any) -> Any:
        """After an error on a new connection: when the end of the old one is noticed is chance, and a seed knows none."""
        try:
            return getattr(self._site._client, name)(*given, **more)
        except ReconcilerError:
            self._site._client.close()
            raise

    def list(self, kind: Kind, **how: Any) -> Listed:
        site = self._site
        mark = f"{kind.plural} {sorted((how.get('labels') or {}).items())}"
        before = site._before.get(mark)
        found: Listed = self._call("list", kind, **how)
        site._before[mark] = found
        return before if before is not None and site.rng.random() < site.lists_share else found

    def close(self) -> None:
        """The world closes the client."""


@dataclass(slots=True)
class PodEndpoint(NodeEndpoint):
    """The container of a pod, and what it sees of the claim."""

    site: Gangs | None = None
    pod: str = ""

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        fault = self._reach_pod()
        assert self.site is not None
        words = command.argv
        if words[-1] == "observe":
            if f"{PATHS.bundle}/bootstrap.sh" not in self.site.there:
                return Completed(BUNDLE_MISSING, b"", b"")
            return Completed(0, self._spoiled(self._told(self._claims(json.loads(command.stdin))), fault), b"")
        if "bootstrap.sh" in words[-1] or ("printf" in words[2] and "-e" in words[2]):
            gone = [path for path in words[4:] if path not in self.site.there]
            return Completed(0, "".join(f"{path}\n" for path in gone).encode(), b"")
        assert "request.new" in words[2], words
        self._request(words[4], json.loads(words[5]))
        return Completed(0, b"", b"")

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o644,
        deadline_s: float,
        progress: Progress | None = None,
    ) -> None:
        self._reach_pod()
        assert self.site is not None
        self.site.there.add(path)

    def _reach_pod(self) -> Fault | None:
        assert self.site is not None
        pod = self.site.cluster.get("pods", self.pod)
        if pod is None or pod["status"].get("phase") != "Running":
            raise Unreachable(f"pod {self.pod} does not run")
        if pod["spec"]["nodeName"] in self.site.cluster.world.kubelets.lost:
            raise Unreachable(f"pod {self.pod}: connection refused")
        fault = self.machine.disturb("exec", self.machine)
        if fault is Fault.BEFORE:
            raise Unreachable(f"pod {self.pod}: no connection")
        if fault in (Fault.LOST, Fault.AFTER, Fault.LATE, Fault.CLAIMED):
            raise OutcomeUnknown(f"pod {self.pod}: the connection was cut")
        return fault

    def _claims(self, document: Json) -> list[Json]:
        machine = self.machine
        wanted = [known["run_id"] for known in document["known"]]
        if document["scan"]:
            wanted += [fence.run_id for fence in machine.fences.values()]
        lines: list[Json] = []
        for run_id in sorted(set(wanted)):
            process = machine.processes.get(run_id)
            if process is None:
                lines.append({"sighting": {"run_id": run_id, "state": "absent", "error": None}})
                continue
            record = process.final or machine._report(process)
            lines.append(
                {
                    "sighting": {
                        "run_id": run_id,
                        "status_dir": PATHS.status_dir(process.run),
                        "state": "present",
                        "claim": {**claim_json(process), "queue": {"system": "volcano"}},
                        "started": handle_json(process) if process.started_at is not None else None,
                        "metadata": metadata_json(record),
                        "progress": None,
                        "request": {"reason": process.request} if process.request else None,
                        "error": "metadata.json cannot be read" if run_id in machine.unreadable else None,
                    }
                }
            )
        return [
            *lines,
            {"boot_id": "", "cpus": 1, "gpus": None, "roots": dict.fromkeys(document["status_roots"]), "done": True},
        ]

    def _request(self, status_dir: str, asked: Json) -> None:
        for process in self.machine.processes.values():
            if PATHS.status_dir(process.run) == status_dir and process.alive:
                assert asked["reason"] in REASONS
                process.request = asked["reason"]


# --- what happens there


def sites_of(world: SimWorld) -> list[Gangs]:
    return [site for site in world.sites.values() if isinstance(site, Gangs)]


def evict(world: SimWorld, rng: random.Random, name: str) -> None:
    for site in sites_of(world):
        for pod in site.pods_of(name)[:1]:
            rng.choice([site.cluster.evict, site.cluster.preempt, site.cluster.delete_pod])(pod)


def lose_node(world: SimWorld, rng: random.Random, name: str) -> None:
    for site in sites_of(world):
        lost, node = site.cluster.world.kubelets.lost, f"node-{rng.randrange(site.nodes)}"
        (site.cluster.return_node if node in lost else site.cluster.lose_node)(node)


def oom(world: SimWorld, rng: random.Random, name: str) -> None:
    for site in sites_of(world):
        for pod in site.pods_of(name)[:1]:
            site.cluster.oom(pod)


def delete_job(world: SimWorld, rng: random.Random, name: str) -> None:
    """A person deletes a job of ours by hand."""
    for site in sites_of(world):
        for one in site.cluster.list("jobs"):
            labels = one["metadata"].get("labels", {})
            ours = labels.get(OWNER) == label_value(US) and f"-{name}-" in labels.get(RUN, "")
            if ours and not one["metadata"].get("deletionTimestamp"):
                run = run_of(labels, one["metadata"]["annotations"])
                assert run is not None
                site.evicted.add(run.run_id)
                world.scancelled.add(name)
                site.cluster.delete("jobs", one["metadata"]["name"])
                return


def api_hurt(world: SimWorld, rng: random.Random, name: str) -> None:
    for site in sites_of(world):
        site.faults_share = rng.choice([0.0, 0.2, 0.6])
        site.lists_share = rng.choice([0.0, 0.3, 0.6])


def stuck_controller(world: SimWorld, rng: random.Random, name: str) -> None:
    for site in sites_of(world):
        site.cluster.stuck_controller(rng.random() < 0.5)


VOLCANO_DEEDS: tuple[Deed, ...] = (
    evict,
    evict,
    evict,
    lose_node,
    oom,
    delete_job,
    api_hurt,
    api_hurt,
    stuck_controller,
)


def volcano(folder: Path) -> Climate:
    """`folder`: where its API server keeps its files."""
    return Climate(
        "volcano",
        wire=True,
        sites=lambda clock, course, rng: [Gangs(clock.now, clock.sleep, rng, course, folder, rng.randint(2, 3))],
        deeds=VOLCANO_DEEDS,
        requests=(
            {"hosts": [NAME]},
            {"hosts": [NAME], "chip": "h100", "min_chips": 4},
            {"hosts": [NAME], "chip": "h100", "min_chips": 4},
            {"hosts": [NAME], "chip": "h100", "min_chips": 8},
        )
        * 4,
        began=BEGAN,
    )

"""A Volcano host on the simulated cluster (tests/emulators/kube), as the driver gets to see it: the real client of the API over
HTTP, real websockets into pods that are processes of this machine, the claim a directory."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from reconciler.app.shipping import Bundle
from reconciler.backends.kube_client import KubeClient, Patience
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.volcano import VolcanoBackend, VolcanoSite
from reconciler.backends.volcano_helper import Helper, HelperWish
from reconciler.backends.volcano_job import PodSite
from reconciler.backends.volcano_marks import label_value
from reconciler.backends.volcano_sight import Limits
from reconciler.backends.volcano_space import Space
from reconciler.core.observation import Census, Presence, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Declined, Facts, Known, Look
from reconciler.core.run import Run
from reconciler.core.transport import Transport
from reconciler.load.normal import decode
from reconciler.source.deliver import deliver_runtime, runtime_path
from reconciler.transports.kube import KubeTransport
from tests.backends.sites import DEADLINE_S, Hurt
from tests.emulators.kube import Cluster
from tests.worlds import OWNER, job, run_of

CLAIM = "data"
IMAGE = "registry/train:1"
NODE = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
QUICK = Patience(connect_s=2.0, read_s=3.0, effect_s=3.0, tries_s=2.0, pause_s=0.01, tries=2)
FOR_EVER = ["sleep", "600"]

# Refused at the door; done, and then the answer is lost; an answer of nobody knows whom.
FAULTS: dict[Hurt, dict[str, Any]] = {
    Hurt.UNREACHABLE: {"status": 503, "message": "no connection"},
    Hurt.CUT: {"drop": True, "after": True},
    Hurt.GARBLED: {"raw": "\x01 nonsense"},
}


class KubeSite:
    """`clock` is ours, in seconds: tests move it. What a test changes of the rest counts for the next `open`."""

    host = "k8s"

    def __init__(self, root: Path, bundle: Bundle, kube: Cluster) -> None:
        self.kube, self._bundle = kube, bundle
        self.root = str(kube.claim_directory(CLAIM))
        self.pods = PodSite(
            namespace=kube.namespace,
            image=IMAGE,
            claim=CLAIM,
            mount=self.root,
            cpu="2",
            memory="4Gi",
            cpu_cpu="1",
            cpu_memory="1Gi",
            python=sys.executable,
        )
        self.limits = Limits(None, 1800.0)
        self.ready_s = 20.0
        self.clock = 1_000_000.0
        self.maker = f"tests:{root}"
        self.paths = NodePaths(
            status=f"{self.root}/status",
            work=f"{self.root}/work",
            checkpoints=f"{self.root}/checkpoints",
            results=f"{self.root}/results",
            bundle=runtime_path(f"{self.root}/share", bundle.sha256),
        )

    # --- the driver

    def open(self, *, owner: str = OWNER, name: str = host) -> VolcanoBackend:
        """A connection of its own, as another process of the same reconciler would make."""
        node = NodeSettings(name, self.paths, heartbeat_s=0.2, python=sys.executable)
        site = VolcanoSite(self.pods, self.limits)
        return VolcanoBackend(node, site, partial(self._space, node, owner), owner=owner, now=lambda: self.clock)

    def _space(self, node: NodeSettings, owner: str, namespace: str) -> Space:
        kube = KubeClient(namespace=namespace, kubeconfig=str(self.kube.kubeconfig), patience=QUICK)
        wish = HelperWish(label_value(owner), label_value(node.name), self.maker, IMAGE, CLAIM, self.root)
        helper = Helper(kube, wish, transport=partial(KubeTransport, kube), ready_s=self.ready_s)
        return Space(node, kube, helper, reach=partial(KubeTransport, kube), install=self.install)

    def install(self, way: Transport) -> None:
        deliver_runtime(way, f"{self.root}/share", self._bundle.data, deadline_s=60.0)

    # --- the contract's site

    def commands(self) -> int:
        return len(self.kube.calls)

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_S
        while not (value := holds()):
            jobs = {one["metadata"]["name"]: one.get("status") for one in self.kube.list("jobs")}
            pods = {one["metadata"]["name"]: one.get("status") for one in self.kube.list("pods")}
            assert time.monotonic() < end, f"did not come true within {DEADLINE_S:g} s; jobs {jobs}; pods {pods}"
            time.sleep(0.02)
        return value

    @contextlib.contextmanager
    def _hurt(self, hurt: Hurt, *which: str) -> Iterator[None]:
        self.kube.fault(*which, times=None, **FAULTS[hurt])
        yield
        self.kube.heal()

    def unreachable(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.UNREACHABLE)

    def garbled(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.GARBLED)

    def cut_after(self, *which: str) -> contextlib.AbstractContextManager[None]:
        """`which` calls: verb, plural, name; without them, all."""
        return self._hurt(Hurt.CUT, *which)

    def run_dir(self, run: Run) -> Path:
        return Path(self.paths.status_dir(run))

    # --- what tests of the driver do

    def run(
        self, name: str = "train", command: Any = FOR_EVER, *, nodes: int = 1, attempt: int = 1, **spec: Any
    ) -> Run:
        changes = spec.pop("changes", {})
        wanted = job(name, spec={"command": command, "grace": "1s", **spec})
        made = run_of(wanted, attempt=attempt, host=self.host)
        made = replace(made, token=f"token-{made.run_id}", gpus=None, place={"nodes": nodes})
        return replace(made, **changes)

    @staticmethod
    def submit(backend: VolcanoBackend, run: Run, **facts: Any) -> Accepted | Declined | None:
        item = backend.render(run, Facts(**{"spec": decode(run.normal), "tree": None, "secrets": {}, **facts}))
        return backend.submit([item]).get(run.run_id)

    def accepted(self, backend: VolcanoBackend, run: Run, **facts: Any) -> Known:
        answer = self.submit(backend, run, **facts)
        assert isinstance(answer, Accepted), answer
        return Known(run, answer.handle, since=self.clock)

    def start(self, backend: VolcanoBackend, run: Run) -> Known:
        """Accepted, and its program runs, as it says itself."""
        known = self.accepted(backend, run)
        self.until(lambda: self.runs(backend, known))
        return known

    def runs(self, backend: VolcanoBackend, known: Known) -> bool:
        seen = see(backend, known)
        wrote = self.run_dir(known.run) / "metadata.json"
        return (
            seen.alive
            and seen.report is not None
            and seen.report.status is ReportStatus.RUNNING
            and wrote.exists()
            and json.loads(wrote.read_text()).get("status") == "running"
        )

    def ended(self, backend: VolcanoBackend, known: Known) -> Sighting:
        def look() -> Sighting | None:
            seen = see(backend, known)
            return None if seen.alive or seen.presence is not Presence.PRESENT else seen

        found: Sighting = self.until(look)
        return found

    def names(self, kind: str = "jobs") -> list[str]:
        """Of all objects of a kind, but for helpers and what belongs to them."""
        found = [one["metadata"]["name"] for one in self.kube.list(kind)]
        return sorted(name for name in found if not name.startswith("reconciler-helper"))

    def helpers(self) -> list[str]:
        return sorted({one["metadata"]["name"] for one in self.kube.list("jobs")} - set(self.names()))

    def writes(self, since: int = 0) -> list[tuple[str, str, str]]:
        """What the cluster was asked to change, reading the claim included."""
        calls = self.kube.calls[since:]
        return [(one.verb, one.kind, one.name) for one in calls if one.verb not in ("get", "list", "watch")]


def see(backend: VolcanoBackend, known: Known | Run, **look: Any) -> Sighting:
    known = known if isinstance(known, Known) else Known(known)
    census: Census = backend.observe(Look(**{"known": (known,), **look}))
    return census.look(known.run.run_id)


@contextlib.contextmanager
def kube_site(root: Path, bundle: Bundle, kind: Any = None, **cluster: Any) -> Iterator[Any]:
    nodes = cluster.pop("nodes", {"node-a": NODE, "node-b": NODE})
    with Cluster(root / "cluster", claims=(CLAIM,), nodes=nodes, **cluster) as kube:
        yield (kind or KubeSite)(root, bundle, kube)

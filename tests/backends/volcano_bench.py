"""The Volcano driver on a Kubernetes API in memory, which records what it is asked to change; the claim is a directory here.

Pods do not run: a test says what became of them. The way into a pod leads to this machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from reconciler.app.shipping import Bundle
from reconciler.backends.kube_control import JOB, POD, SECRET, Kind, Listed, Made, Object
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.volcano import VolcanoBackend, VolcanoSite
from reconciler.backends.volcano_helper import Helper, HelperWish
from reconciler.backends.volcano_job import PodSite
from reconciler.backends.volcano_marks import label_value, object_name
from reconciler.backends.volcano_sight import Limits
from reconciler.backends.volcano_space import Space
from reconciler.core.errors import ReconcilerError
from reconciler.core.observation import Sighting
from reconciler.core.protocols import Accepted, Declined, Facts, Known, Look
from reconciler.core.run import Run
from reconciler.core.transport import Transport
from reconciler.load.normal import decode
from reconciler.source.deliver import deliver_runtime, runtime_path
from reconciler.transports.local import LocalTransport
from tests.backends.kube_fake import FakeKube
from tests.worlds import OWNER, job, run_of

HOST = "k8s"


@dataclass
class RecordingKube(FakeKube):
    """`changed`: verb, kind, name, uid and grace of every change that was asked for. `hidden`: names that no list shows, as if
    it were older than they are. `unlistable`: plural -> what listing it raises."""

    changed: list[tuple[str, str, str, str, int | None]] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    unlistable: dict[str, ReconcilerError] = field(default_factory=dict)

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed:
        if kind.plural in self.unlistable:
            raise self.unlistable[kind.plural]
        found = super().list(kind, labels=labels, fields=fields)
        return replace(found, objects=[one for one in found.objects if one["metadata"]["name"] not in self.hidden])

    def create(self, kind: Kind, body: Object) -> Made:
        self.changed.append(("create", kind.kind, body["metadata"]["name"], "", None))
        return super().create(kind, body)

    def delete(self, kind: Kind, name: str, *, uid: str, grace_s: int | None = None) -> bool:
        self.changed.append(("delete", kind.kind, name, uid, grace_s))
        return super().delete(kind, name, uid=uid, grace_s=grace_s)

    def patch(self, kind: Kind, name: str, body: Object) -> Object | None:
        self.changed.append(("patch", kind.kind, name, "", None))
        return super().patch(kind, name, body)


class Bench:
    """`clock`: our time, in seconds since 1970; what the API makes is made at the same time."""

    def __init__(self, root: Path, bundle: Bundle) -> None:
        self.root, self._bundle = root, bundle
        self.clock = 1_795_000_000.0
        self.kubes: dict[str, RecordingKube] = {}
        self.kube = self.of("team-a")
        self.pods = PodSite("team-a", "registry/train:1", "data", str(root), cpu="1", memory="1Gi")
        self.paths = NodePaths(
            *(f"{root}/{name}" for name in ("status", "work", "checkpoints", "results")),
            bundle=runtime_path(f"{root}/share", bundle.sha256),
        )
        self.limits = Limits(None, 1800.0)
        self.comes_up = True
        self.broken: ReconcilerError | None = None
        self.backend = self.open()

    def of(self, namespace: str) -> RecordingKube:
        made = RecordingKube(namespace=namespace, namespaces={"team-a", "team-b"}, clock="2026-11-18T11:06:40Z")
        return self.kubes.setdefault(namespace, made)

    def open(self, owner: str = OWNER) -> VolcanoBackend:
        """As another process of the reconciler would."""
        node = NodeSettings(HOST, self.paths, heartbeat_s=0.2, python=sys.executable)
        site = VolcanoSite(self.pods, self.limits, 600.0)
        return VolcanoBackend(node, site, partial(self._space, node), owner=owner, now=lambda: self.clock)

    def _space(self, node: NodeSettings, namespace: str) -> Space:
        kube = self.of(namespace)
        wish = HelperWish(OWNER, HOST, "tests", "registry/helper:1", "data", str(self.root))
        time = iter(range(10_000))

        def come_up(pause_s: float) -> None:
            if self.comes_up:
                kube.run_pods(helper.name)

        helper = Helper(kube, wish, transport=self.reach, ready_s=20.0, clock=lambda: float(next(time)), sleep=come_up)
        return Space(node, kube, helper, reach=self.reach, install=self.install)

    def reach(self, pod: str) -> Transport:
        if self.broken is not None:
            raise self.broken
        return LocalTransport(pod)

    def install(self, way: Transport) -> None:
        deliver_runtime(way, f"{self.root}/share", self._bundle.data, deadline_s=60.0)

    # --- what is done

    def run(self, name: str = "train", *, nodes: int = 1, attempt: int = 1, changes: Any = None, **spec: Any) -> Run:
        made = run_of(job(name, spec={"command": ["true"], **spec}), attempt=attempt, host=HOST)
        return replace(made, **{"gpus": None, "place": {"nodes": nodes}, **(changes or {})})

    def submit(self, run: Run, backend: VolcanoBackend | None = None, **facts: Any) -> Accepted | Declined | None:
        backend = backend or self.backend
        item = backend.render(run, Facts(**{"spec": decode(run.normal), "tree": None, "secrets": {}, **facts}))
        return backend.submit([item]).get(run.run_id)

    def start(self, run: Run, *, phase: str = "Running", pods: str = "Running") -> Known:
        """Accepted; its job is in this phase, and its pods, if any, in theirs."""
        answer = self.submit(run)
        assert isinstance(answer, Accepted), answer
        self.phase(run, phase)
        if pods:
            self.of(str(answer.handle.native["namespace"])).run_pods(object_name(run.run_id), phase=pods)
        self.forget()
        return Known(run, answer.handle, since=self.clock)

    def forget(self) -> None:
        for kube in self.kubes.values():
            kube.changed.clear()

    def phase(self, run: Run, phase: str) -> None:
        self.job(run)["status"] = {"state": {"phase": phase}}

    def job(self, run: Run) -> dict[str, Any]:
        for kube in self.kubes.values():
            found = kube.there(JOB, object_name(run.run_id))
            if found is not None:
                return found
        raise AssertionError(f"no job of {run.run_id}")

    def pod(self, run: Run, index: int = 0) -> dict[str, Any]:
        found = self.kube.there(POD, f"{object_name(run.run_id)}-worker-{index}")
        assert found is not None
        return found

    def lose(self, run: Run, *, pods: bool = True) -> None:
        """Its job is gone, as somebody deleted it; and its pods."""
        name = object_name(run.run_id)
        self.kube.finish(JOB, name)
        self.kube.finish(SECRET, name)
        for pod in [one for one in self.kube.names(POD) if one.startswith(f"{name}-")] if pods else ():
            self.kube.finish(POD, pod)

    def wrote(self, run: Run, **metadata: Any) -> None:
        """The last record of a run on the claim, made by hand."""
        folder = Path(self.paths.status_dir(run))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metadata.json").write_text(json.dumps({"seq": 1, **metadata}))

    def see(self, item: Known | Run, backend: VolcanoBackend | None = None, **look: Any) -> Sighting:
        known = item if isinstance(item, Known) else Known(item)
        return (backend or self.backend).observe(Look(**{"known": (known,), **look})).look(known.run.run_id)

    def helpers(self, namespace: str = "team-a") -> list[str]:
        return [name for name in self.of(namespace).names(JOB) if name.startswith("reconciler-helper")]

    def names(self, kind: Kind) -> list[str]:
        return [name for name in self.kube.names(kind) if not name.startswith("reconciler-helper")]

    def deleted(self) -> list[tuple[str, str, str, str, int | None]]:
        """What was asked to be deleted, but for helpers."""
        return [one for one in self.kube.changed if one[0] == "delete" and not one[2].startswith("reconciler-helper")]

    def theirs(self, kind: Kind, name: str, owner: str = "theirs", **more: Any) -> dict[str, Any]:
        """An object of another owner, with our kind of marks; in `team-a`."""
        labels = {"reconciler/owner": label_value(owner), "reconciler/run": "r", "reconciler/host": HOST}
        return self.kube.put(kind, {"metadata": {"name": name, "labels": labels}, **more})

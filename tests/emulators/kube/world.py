"""What the emulated cluster is: its objects, and those that act on them. One lock, that of the store, guards all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.emulators.kube.containers import Container
from tests.emulators.kube.controller import JobController
from tests.emulators.kube.faults import Call, Faults
from tests.emulators.kube.kinds import NAMESPACE, NODE, POD, QUEUE, STORED, Resource
from tests.emulators.kube.kubelet import Kubelets, good_conditions
from tests.emulators.kube.scheduler import Scheduler
from tests.emulators.kube.store import Json, Store


class World:
    def __init__(
        self,
        folder: Path,
        nodes: dict[str, dict[str, Any]],
        namespaces: tuple[str, ...],
        replaced_keys: tuple[str, ...],
    ) -> None:
        self.folder = folder
        self.store = Store()
        self.controller = JobController(self.store)
        self.scheduler = Scheduler(self.store)
        self.kubelets = Kubelets(self.store, folder, replaced_keys)
        self.faults = Faults()
        self.calls: list[Call] = []
        self.broken: list[BaseException] = []  # what failed in the emulator itself
        self.tokens: set[str] = set()
        self.user = "limited"
        self.denied: set[tuple[str, str]] = set()
        self.without_volcano = False
        self.pages: dict[str, tuple[int, list[Json]]] = {}
        self._seen = -1
        with self.store.lock:
            for name in namespaces:
                body: Json = {
                    "metadata": {"name": name},
                    "spec": {"finalizers": ["kubernetes"]},
                    "status": {"phase": "Active"},
                }
                self.store.create(NAMESPACE, "", body)
            for name in ("root", "default"):
                self.add_queue(name)
            for name, resources in nodes.items():
                self.add_node(name, resources)

    def tick(self) -> None:
        """One small step of controller, scheduler and kubelets. Called with the store's lock held."""
        if not self.without_volcano:
            self.controller.tick()
            if self.store.version != self._seen:
                self.scheduler.tick()
                self._seen = self.store.version
        self.kubelets.tick()

    def add_node(self, name: str, resources: dict[str, Any]) -> None:
        """`resources` are its allocatable ones; `labels` among them are its labels."""
        resources = dict(resources)
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **resources.pop("labels", {})}
        amounts = {"cpu": "4", "memory": "16Gi", "pods": "110", **resources}
        status = {"allocatable": amounts, "capacity": amounts, "conditions": good_conditions()}
        self.store.create(NODE, "", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})

    def add_queue(self, name: str, capability: dict[str, str] | None = None, state: str = "Open") -> None:
        spec: Json = {"reclaimable": name != "root", "weight": 1, **({} if name == "root" else {"parent": "root"})}
        if capability:
            spec["capability"] = capability
        old = self.store.get(QUEUE, "", name)
        status: Json = {"allocated": {"cpu": "0", "memory": "0"}, "reservation": {}, "state": state}
        if old is None:
            self.store.create(QUEUE, "", {"metadata": {"name": name}, "spec": spec, "status": status})
            return

        def change(body: Json) -> None:
            body["spec"] = {**body["spec"], **spec}
            body["status"] = {**body["status"], "state": state}

        self.store.update(QUEUE, "", name, change)

    def provision(self, name: str, spec: Json) -> Json:
        """A claim is a directory, and bound at once."""
        (self.folder / "claims" / name).mkdir(parents=True, exist_ok=True)
        size = spec.get("resources", {}).get("requests", {}).get("storage", "1Gi")
        return {
            "accessModes": spec.get("accessModes", ["ReadWriteMany"]),
            "capacity": {"storage": size},
            "phase": "Bound",
        }

    def end_namespace(self, name: str) -> Json:
        """Everything in it is deleted; it is Terminating until all is gone (here: it stays so)."""
        for resource in STORED:
            if resource.namespaced:
                for body in self.store.list(resource, name):
                    if self.store.get(resource, name, body["metadata"]["name"]) is not None:
                        self.store.delete(resource, name, body["metadata"]["name"], grace_s=None, policy="Background")
        return self.store.status(NAMESPACE, "", name, {"phase": "Terminating"})

    def denies(self, verb: str, resource: Resource, sub: str) -> bool:
        kind = f"{resource.plural}/{sub}" if sub else resource.plural
        return any(one[0] in ("*", verb) and one[1] in ("*", kind) for one in self.denied)

    def container_of(self, pod: Json) -> Container | None:
        return self.kubelets.containers.get(pod["metadata"]["uid"])

    def log_of(self, pod: Json) -> Path:
        return self.kubelets.folder / "pods" / str(pod["metadata"]["uid"]) / "output.log"

    def pods(self) -> list[Json]:
        return self.store.list(POD)

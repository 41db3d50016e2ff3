"""A group's repository whose jobs go to a Kubernetes cluster with Volcano: the simulated one, whose pods are local processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.emulators.kube import Cluster
from tests.real.conftest import Said, Site

CLAIM = "data"
NODE = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}


class KubeSite(Site):
    """`shared` is the claim's directory."""

    kube: Cluster
    shared: Path

    def inventory(self, *, name: str = "k8s", **host: Any) -> dict[str, Any]:
        mount = str(self.shared)
        body = {
            "type": "volcano",
            "cluster": "k8s",
            "namespace": self.kube.namespace,
            "image": "registry/train:1",
            "pvc_name": CLAIM,
            "pvc_mount_path": mount,
            "chips": {"h100": 8},
            "cpu": "2",
            "memory": "4Gi",
            "cpu_cpu": "1",
            "cpu_memory": "1Gi",
            "kubeconfig": str(self.kube.kubeconfig),
            "poll": 0,  # tests have no manners
            **host,
        }
        return {
            "clusters": {"k8s": {"root": mount, "work": f"{mount}/work"}},
            "hosts": {name: {key: value for key, value in body.items() if value is not None}},
        }

    def gang(self, name: str, command: list[str] | str, chips: int = 16, **spec: Any) -> None:
        """A manifest of a job for some H100."""
        request = {"chip": "h100", "min_chips": chips} if chips else {}
        self.job(name, command, **{"request": request, "grace": "2s", **spec})

    def phase(self, name: str, *wanted: str, apply: bool = True) -> dict[str, Any]:
        """Pass after pass until the job is in one of these phases."""
        found: dict[str, Any] = self.until(lambda jobs: jobs[name]["phase"] in wanted, apply=apply)[name]
        return found

    def jobs(self) -> list[str]:
        """Names of the Volcano jobs of runs; helpers are not among them."""
        return [name for name in self._names() if not name.startswith("reconciler-helper")]

    def helpers(self) -> list[str]:
        return [name for name in self._names() if name.startswith("reconciler-helper")]

    def creates(self) -> int:
        """Jobs of runs that were created so far, whatever became of them."""
        made = [call for call in self.kube.calls if (call.verb, call.kind) == ("create", "jobs")]
        return sum(not call.name.startswith("reconciler-helper") for call in made)

    def _names(self) -> list[str]:
        return sorted(job["metadata"]["name"] for job in self.kube.list("jobs"))


@contextmanager
def kube_site(root: Path, **cluster: Any) -> Iterator[KubeSite]:
    (root / "home").mkdir(parents=True)
    made = KubeSite(root)
    made.env = {"XDG_CACHE_HOME": str(root / "cache")}
    nodes = cluster.pop("nodes", {"node-a": NODE, "node-b": NODE, "node-c": NODE})
    with Cluster(root / "cluster", claims=(CLAIM,), nodes=nodes, **cluster) as made.kube:
        made.shared = made.kube.claim_directory(CLAIM)
        yield made


def ok(said: Said) -> Said:
    assert said.code == 0, said
    return said

"""Against the cluster that $KUBECONFIG names, with Volcano in it. A namespace and a claim are made in it, and deleted.

Nothing is installed.

    KUBECONFIG=... pytest tests/real/test_kubernetes.py

| variable | meaning | default |
| --- | --- | --- |
| RECONCILER_TEST_IMAGE | an image with sh, bash, tar, gzip and Python | python:3.12-slim |
| RECONCILER_TEST_STORAGE_CLASS | of the claim | the cluster's |
| RECONCILER_TEST_ACCESS_MODE | of the claim | ReadWriteOnce, which does on one node |
| RECONCILER_TEST_NODE | the node that all pods go to, by kubernetes.io/hostname | any |
| RECONCILER_TEST_MOUNT | where the claim is mounted; {claim} stands for its name | /workspace |

The emulator (docs/volcano-emulator.md) can stand in for a cluster, to see that these tests themselves work. It has no mounts, so
the claim has to be mounted where it lies:

    python -m tests.emulators.kube DIR --detached --node a:cpu=8,memory=32Gi
    KUBECONFIG=DIR/kubeconfig RECONCILER_TEST_MOUNT=DIR/claims/{claim} pytest tests/real/test_kubernetes.py
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.conftest import Site
from tests.real.kube import KubeSite, ok

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("kubernetes")]

GROUPS = {
    "jobs": ("batch.volcano.sh", "v1alpha1"),
    "queues": ("scheduling.volcano.sh", "v1beta1"),
}
# The first pod of an image is as slow as the registry.
PATIENCE_S = 300.0


def variable(name: str, default: str = "") -> str:
    return os.environ.get(f"RECONCILER_TEST_{name}", default)


class Live:
    """A namespace of our own in a real cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        import kubernetes

        self.kubeconfig = kubeconfig
        self.namespace = f"reconciler-test-{secrets.token_hex(4)}"
        self.claim = f"claim-{secrets.token_hex(4)}"
        self.mount = variable("MOUNT", "/workspace").replace("{claim}", self.claim)
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self._core = kubernetes.client.CoreV1Api(self._client)
        self._custom = kubernetes.client.CustomObjectsApi(self._client)
        self._missing = kubernetes.client.ApiException

    def has_volcano(self) -> bool:
        try:
            self._custom.list_cluster_custom_object(*GROUPS["queues"], "queues")
        except self._missing as error:
            if error.status == 404:
                return False
            raise
        return True

    def make(self) -> None:
        self._core.create_namespace({"metadata": {"name": self.namespace}})
        spec: dict[str, Any] = {
            "accessModes": [variable("ACCESS_MODE", "ReadWriteOnce")],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        if variable("STORAGE_CLASS"):
            spec["storageClassName"] = variable("STORAGE_CLASS")
        body = {"metadata": {"name": self.claim}, "spec": spec}
        self._core.create_namespaced_persistent_volume_claim(self.namespace, body)

    def remove(self) -> None:
        self._core.delete_namespace(self.namespace)
        self._client.close()

    def list(self, plural: str) -> list[dict[str, Any]]:
        if plural in GROUPS:
            found = self._custom.list_namespaced_custom_object(*GROUPS[plural], self.namespace, plural)
            return list(found["items"])
        call = {"pods": self._core.list_namespaced_pod, "secrets": self._core.list_namespaced_secret}[plural]
        return [{"metadata": {"name": item.metadata.name}} for item in call(self.namespace).items]

    def delete_job(self, name: str) -> None:
        self._custom.delete_namespaced_custom_object(*GROUPS["jobs"], self.namespace, "jobs", name)

    def wait(self, what: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := what()):
            assert time.monotonic() < deadline, (self.list("jobs"), self.list("pods"))
            time.sleep(0.2)
        return found


class LiveSite(KubeSite):
    """A repository whose host is that namespace; each test has one, and a root of its own on the claim."""

    live: Live

    def entry(self, **host: Any) -> dict[str, Any]:
        node = variable("NODE")
        fixed: dict[str, Any] = {
            "image": variable("IMAGE", "python:3.12-slim"),
            "pvc_name": self.live.claim,
            "pvc_mount_path": self.live.mount,
            "kubeconfig": str(self.live.kubeconfig),
            "chips": None,
            "cpu": None,
            "memory": None,
            "cpu_cpu": "250m",
            "cpu_memory": "256Mi",
            "helper_resources": {"requests.cpu": "100m", "requests.memory": "128Mi"},
            "node_selector": {"kubernetes.io/hostname": node} if node else None,
            **host,
        }
        found = self.inventory(**fixed)
        found["clusters"]["k8s"] = {"root": str(self.shared), "work": f"{self.shared}/work"}
        return found

    def pods(self, name: str, command: list[str] | str, count: int = 2, **spec: Any) -> None:
        volcano = {"nodes": count, **spec.pop("volcano", {})}
        self.job(name, command, **{"request": {"min_chips": 0}, "volcano": volcano, "grace": "2s", **spec})


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    path = os.environ.get("KUBECONFIG", "")
    if not path:
        pytest.skip("KUBECONFIG is not set: there is no cluster to test against")
    pytest.importorskip("kubernetes")
    made = Live(Path(path.split(os.pathsep)[0]).resolve())
    if not made.has_volcano():
        pytest.skip(f"the cluster of {path} has no Volcano")
    made.make()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def group(live: Live, tmp_path: Path) -> Iterator[LiveSite]:
    (tmp_path / "home").mkdir()
    # HOME stays: a kubeconfig's sign-in program may need it.
    made = LiveSite(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": os.environ["HOME"]}, PATIENCE_S)
    made.live = live
    made.kube = live  # type: ignore[assignment]
    made.shared = Path(live.mount) / tmp_path.name
    yield made
    for job in live.list("jobs"):
        live.delete_job(job["metadata"]["name"])
    live.wait(lambda: not live.list("jobs") and not live.list("pods"))


def applied(group: Site, *arguments: str) -> None:
    ok(group("apply", "--yes", *arguments, timeout_s=PATIENCE_S))


def test_doctor_is_content(group: LiveSite):
    group.make(group.entry(max_nodes=1))
    said = group("doctor", "k8s", timeout_s=PATIENCE_S)
    assert said.code == 0, said
    assert group.helpers() == []


def test_a_gang_of_two_runs_code_from_the_claim(group: LiveSite):
    group.make(group.entry())
    (group.repo / "code.sh").write_text('echo "$RECONCILER_NODE_RANK of $RECONCILER_NUM_NODES $(cat data/x)"\n')
    (group.repo / "data").mkdir()
    (group.repo / "data" / "x").write_text("payload\n")
    group.pods("t", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    applied(group, "--wait")
    assert group.status()["t"]["phase"] == "Succeeded"
    said = ok(group("logs", "t", "--all"))
    assert {f"{rank}: {rank} of 2 payload" for rank in range(2)} <= set(said.out.splitlines())
    assert group.helpers() == []
    assert group("plan").code == 0


def test_a_failing_program_fails_the_gang_and_says_how(group: LiveSite):
    group.make(group.entry())
    group.pods("t", '[ "$RECONCILER_NODE_RANK" = 1 ] && { echo boom; exit 3; }; sleep 600', restart={"failure": 0})
    group.commit()
    applied(group)
    found = group.phase("t", "Failed")
    assert found["exit_code"] == 3
    assert "boom" in found["message"]


def test_cancel_ends_the_pods(group: LiveSite):
    group.make(group.entry())
    group.pods("t", ["sleep", "600"])
    group.commit()
    applied(group)
    group.phase("t", "Running")
    ok(group("cancel", "t", "--why", "wrong data"))
    group.phase("t", "Cancelled")
    assert group.jobs() == []
    group.live.wait(lambda: not group.live.list("pods"))
    left = [secret["metadata"]["name"] for secret in group.live.list("secrets")]
    assert not [name for name in left if name.startswith("general-default-t")]


def test_the_same_name_again(group: LiveSite):
    group.make(group.entry())
    for generation in (1, 2):
        group.pods("t", f"echo run {generation}", generation=generation)
        group.commit()
        applied(group, "--wait")
        assert f"run {generation}" in ok(group("logs", "t")).out
    assert group.status()["t"]["attempt"] == 2


def test_what_finds_no_room_says_so_and_is_cancelled_at_once(group: LiveSite):
    group.make(group.entry())
    group.pods("t", ["true"], volcano={"cpu": "10000"})
    group.commit()
    applied(group)
    found = group.until(lambda jobs: jobs["t"]["reason"] == "NoCapacity", apply=True)["t"]
    assert found["phase"] == "Queued"
    ok(group("cancel", "t"))
    group.phase("t", "Cancelled")
    assert group.jobs() == []


def test_an_image_that_cannot_be_had_is_named(group: LiveSite):
    image = "registry.invalid/none:1"
    group.make(group.entry())
    group.pods("t", ["true"], volcano={"image": image})
    group.commit()
    applied(group)
    found = group.until(lambda jobs: jobs["t"]["reason"] == "ImagePull", apply=True)["t"]
    assert image in found["message"]


def test_an_api_that_is_not_reached_proves_nothing(group: LiveSite):
    ours = group.root / "kubeconfig"
    group.make(group.entry(kubeconfig=str(ours)))
    copy_of(group.live.kubeconfig, ours)
    group.pods("t", ["sleep", "600"], count=1)
    group.commit()
    applied(group)
    before = group.phase("t", "Running")["run_id"]
    copy_of(group.live.kubeconfig, ours, port=1)
    said = group("apply", "--yes", timeout_s=PATIENCE_S)
    assert said.code == 4, said
    found = group.status()["t"]
    assert (found["phase"], found["run_id"]) == ("Unknown", before)
    copy_of(group.live.kubeconfig, ours)
    assert group.phase("t", "Running")["run_id"] == before
    assert len(group.jobs()) == 1


def test_a_helper_that_is_deleted_under_the_reconciler_is_made_anew(group: LiveSite):
    group.make(group.entry())
    (group.repo / "code.sh").write_text("echo shipped\n")
    group.pods("t", ["sh", "code.sh"], count=1, source={"ref": "HEAD"})
    group.commit()
    process = group.start("apply", "--yes")
    (helper,) = group.live.wait(group.helpers)
    group.live.delete_job(helper)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 4), (out, err)
    group.phase("t", "Succeeded")
    assert "shipped" in ok(group("logs", "t")).out
    assert group.status()["t"]["attempt"] == 1
    assert group.helpers() == []


def copy_of(kubeconfig: Path, to: Path, port: int | None = None) -> None:
    """The same kubeconfig in another place; with `port`, its servers are looked for there."""
    known = yaml.safe_load(kubeconfig.read_text())
    for entry in known["clusters"]:
        about = entry["cluster"]
        if port is not None:
            scheme, _, rest = about["server"].partition("://")
            about["server"] = f"{scheme}://{rest.partition('/')[0].rpartition(':')[0] or rest}:{port}"
    for entry in [*known["clusters"], *known["users"]]:
        about = entry.get("cluster") or entry.get("user") or {}
        for field in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
            if about.get(field):
                about[field] = str(kubeconfig.parent / about[field])
    to.write_text(yaml.safe_dump(known))
    to.chmod(0o600)

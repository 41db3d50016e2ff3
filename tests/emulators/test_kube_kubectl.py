"""The simulated Kubernetes API server through the real kubectl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.kube import Cluster

RECORDS = Path(__file__).parents[1] / "records" / "kubernetes"
KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl: install Debian's package kubernetes-client")


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "kube", user="limited") as cluster:
        yield cluster


def kubectl(kube: Cluster, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    assert KUBECTL is not None
    command = [KUBECTL, "--kubeconfig", str(kube.kubeconfig), f"--cache-dir={kube.folder}/cache", *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def minor(kube: Cluster) -> int:
    version = json.loads(kubectl(kube, "version", "--client", "-o", "json").stdout)["clientVersion"]["minor"]
    return int(re.sub(r"\D", "", version))


CONTAINER = {"name": "main", "image": "lab/busybox:1", "command": ["sh", "-c", "echo up; sleep 600"]}
JOB = {
    "apiVersion": "batch.volcano.sh/v1alpha1",
    "kind": "Job",
    "metadata": {"name": "one"},
    "spec": {"tasks": [{"name": "worker", "replicas": 1, "template": {"spec": {"containers": [CONTAINER]}}}]},
}


def test_a_job_is_created_seen_read_and_deleted(kube: Cluster) -> None:
    made = kubectl(kube, "create", "--validate=false", "-f", "-", given=json.dumps(JOB))
    assert (made.returncode, made.stdout) == (0, "job.batch.volcano.sh/one created\n"), made.stderr
    waited = kubectl(kube, "wait", "--for=condition=Ready", "pod/one-worker-0", "--timeout=20s")
    kube.wait(lambda: kube.phase("one") == "Running")
    assert waited.returncode == 0 or "NotFound" in waited.stderr  # asked before the pod was made
    assert json.loads(kubectl(kube, "get", "vcjob", "one", "-o", "json").stdout)["status"]["running"] == 1
    assert kubectl(kube, "logs", "one-worker-0").stdout == "up\n"
    assert kubectl(kube, "delete", "vcjob", "one").stdout == 'job.batch.volcano.sh "one" deleted\n'
    assert kube.get("jobs", "one") is None


def test_exec_gives_output_and_exit_code(kube: Cluster) -> None:
    if minor(kube) < 29:
        pytest.skip("this kubectl's exec knows no websockets: it takes kubectl 1.29 or later")
    kubectl(kube, "create", "--validate=false", "-f", "-", given=json.dumps(JOB))
    kube.wait(lambda: kube.phase("one") == "Running")
    told = kubectl(kube, "exec", "-i", "one-worker-0", "--", "sh", "-c", "cat; echo err >&2; exit 3", given="in")
    assert (told.returncode, told.stdout) == (3, "in")
    assert "err\n" in told.stderr
    recorded = json.loads((RECORDS / "pods" / "exec.no-such-command.json").read_text(encoding="utf-8"))
    missing = kubectl(kube, "exec", "one-worker-0", "--", "no-such-command")
    assert (missing.returncode, bare_id(missing.stderr)) == (recorded["exit"], bare_id(recorded["stderr"]))


def bare_id(text: str) -> str:
    return re.sub(r"[0-9a-f]{64}", "ID", text)


REFUSED = {
    "forbidden.get": ("get", "get vcjob failed"),
    "forbidden.list": ("list", "get vcjob"),
    "forbidden.delete": ("delete", "delete vcjob failed"),
    "forbidden.logs": ("get", "logs helper"),
    "forbidden.queue": ("list", "get queue"),
    "forbidden.can-i": ("create", "auth can-i create vcjob"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_user_without_rights_reads_the_recorded_words(kube: Cluster, name: str) -> None:
    verb, words = REFUSED[name]
    recorded = json.loads((RECORDS / "errors" / f"{name}.json").read_text(encoding="utf-8"))
    kube.deny(verb, "*")
    told = kubectl(kube, *words.split())
    assert (told.returncode, told.stdout or "", told.stderr) == (
        recorded["exit"],
        recorded["stdout"] or "",
        recorded["stderr"],
    )


def test_without_volcano_there_is_no_such_kind(kube: Cluster) -> None:
    kube.no_volcano()
    told = kubectl(kube, "get", "vcjob", "x")
    assert (told.returncode, told.stderr) == (1, 'error: the server doesn\'t have a resource type "vcjob"\n')

"""The workers of emulated TPU nodes, reached by real ssh."""

from __future__ import annotations

import getpass
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.tpu import Emulator
from tests.lab.sshd import namespaces_work, require_sshd

pytestmark = pytest.mark.real


class Lab:
    """An emulator with machines, and a key that opens them."""

    def __init__(self, tpu: Emulator, key: Path) -> None:
        self.tpu, self.key = tpu, key
        self.ssh_keys = f"{getpass.getuser()}:{Path(f'{key}.pub').read_text().strip()}"

    def create(self, name: str = "n1", type: str = "v4-8", **more: Any) -> Any:
        return self.tpu.create(name, type=type, **{"metadata": {"ssh-keys": self.ssh_keys}, **more})

    def ssh(self, worker: int, *command: str, node: str = "n1") -> subprocess.CompletedProcess[str]:
        argv = self.tpu.workers.ssh(node, worker, self.key, *command)
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)

    def begin(self, worker: int, *command: str) -> subprocess.Popen[str]:
        argv = self.tpu.workers.ssh("n1", worker, self.key, *command)
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sshd()
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(params=["namespaces", "plain"])
def lab(request: pytest.FixtureRequest, key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    if request.param == "plain":
        monkeypatch.setenv("LAB_NAMESPACES", "0")
    elif not namespaces_work():
        pytest.skip("machines of their own need root and Linux namespaces")
    with Emulator(workers=True, grpc=False) as tpu:
        yield Lab(tpu, key)
        root = tpu.workers.root
    assert not root.exists()


def test_four_workers_of_a_pod(lab: Lab):
    node = lab.create(type="v4-32")
    with ThreadPoolExecutor(4) as pool:
        told = list(
            pool.map(lambda worker: lab.ssh(worker, "echo $TPU_WORKER_ID $TPU_WORKER_HOSTNAMES; pwd"), range(4))
        )
    addresses = [end["ipAddress"] for end in node["networkEndpoints"]]
    for worker, answer in enumerate(told):
        assert answer.returncode == 0, answer
        ident, place = answer.stdout.splitlines()
        assert ident == f"{worker} {','.join(addresses)}"
        if not lab.tpu.workers.namespaces:
            assert place == str(lab.tpu.workers["n1"][worker].home)
    assert lab.ssh(2, "exit 3").returncode == 3
    (lab.tpu.workers["n1"][1].home / "here").write_text("1")
    assert [lab.ssh(worker, "ls").stdout for worker in (0, 1)] == ["", "here\n"]


def test_the_host_key_is_the_published_one(lab: Lab):
    lab.create()
    request = {"name": "projects/demo-project/locations/us-central1-a/nodes/n1", "workerIds": ["0"]}
    answer = lab.tpu.world.call("v2", "GetGuestAttributes", request)
    items = {item["key"]: item["value"] for item in answer["guestAttributes"][0]["queryValue"]["items"]}
    (worker,) = lab.tpu.workers["n1"]
    assert items["ssh-ed25519"] == worker.host_key
    assert items["hostname"] == worker.name
    if lab.tpu.workers.namespaces:
        assert lab.ssh(0, "hostname").stdout.strip() == worker.name
    before = worker.host_key
    (worker.home / "mine").write_text("x")
    worker.wipe()
    assert worker.host_key != before
    assert lab.ssh(0, "ls").stdout == ""


def test_files_come_and_go_by_sftp_and_scp(lab: Lab, tmp_path: Path):
    lab.create()
    ssh = lab.tpu.workers.ssh("n1", 0, lab.key)
    options, address = [word if word != "-p" else "-P" for word in ssh[1:-1]], ssh[-1]
    (tmp_path / "a").write_text("hello\n")
    for more in ([], ["-O"]):  # by sftp, and by the old protocol
        subprocess.run(["scp", "-q", *more, *options, tmp_path / "a", f"{address}:b"], check=True, timeout=30)
        subprocess.run(["scp", "-q", *more, *options, f"{address}:b", tmp_path / "c"], check=True, timeout=30)
        assert (tmp_path / "c").read_text() == "hello\n"
        (tmp_path / "c").unlink()
    assert (lab.tpu.workers["n1"][0].home / "b").read_text() == "hello\n"


def test_keys_are_those_of_the_nodes_and_the_projects_metadata(lab: Lab):
    lab.create(metadata={})
    assert lab.ssh(0, "true").returncode == 255
    lab.tpu.metadata(**{"ssh-keys": lab.ssh_keys})
    assert lab.ssh(0, "true").returncode == 0
    lab.tpu.metadata(**{"ssh-keys": None})
    assert lab.ssh(0, "true").returncode == 255
    name = "projects/demo-project/locations/us-central1-a/nodes/n1"
    node = {"name": name, "metadata": {"ssh-keys": lab.ssh_keys}}
    lab.tpu.world.call("v2", "UpdateNode", {"updateMask": "metadata", "node": node})
    lab.tpu.advance(1)
    assert lab.ssh(0, "true").returncode == 0


def test_keys_may_come_late(lab: Lab):
    lab.tpu.fault("CreateNode", keys_after_s=30)
    lab.create()
    assert lab.ssh(0, "true").returncode == 255
    lab.tpu.advance(30)
    assert lab.ssh(0, "true").returncode == 0


@pytest.mark.parametrize("end", ["preempt", "delete", "stop"])
def test_machines_go_when_their_node_does(lab: Lab, end: str):
    lab.create()
    running = lab.begin(0, "echo up; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    if end == "stop":
        lab.tpu.world.call("v2", "StopNode", {"name": "projects/demo-project/locations/us-central1-a/nodes/n1"})
    else:
        getattr(lab.tpu, end)("n1")
    assert running.wait(10) == 255
    running.stdout.close()
    told = lab.ssh(0, "true")
    assert (told.returncode, "refused" in told.stderr) == (255, True)
    if end == "stop":
        lab.tpu.advance(1)
        lab.tpu.world.call("v2", "StartNode", {"name": "projects/demo-project/locations/us-central1-a/nodes/n1"})
        lab.tpu.advance(1)
        assert lab.ssh(0, "true").returncode == 0


@pytest.mark.parametrize("seconds", [20, -20])
def test_machines_may_go_before_the_api_says_so_or_after(lab: Lab, seconds: int):
    lab.tpu.fault("CreateNode", preempt_after_s=60, preempt_workers_first_s=seconds)
    lab.create()
    lab.tpu.advance(59 if seconds > 0 else 60)
    assert lab.tpu.state("n1") == ("READY" if seconds > 0 else "PREEMPTED")
    assert lab.ssh(0, "true").returncode == (255 if seconds > 0 else 0)
    lab.tpu.advance(20)
    assert lab.ssh(0, "true").returncode == 255


def test_frozen_thawed_and_cut(lab: Lab):
    lab.create()
    running = lab.begin(0, "echo up; sleep 2; echo $$ > done")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    lab.tpu.worker("n1", 0, "cut")
    assert running.wait(10) == 255
    running.stdout.close()
    assert lab.ssh(0, "true").returncode == 0
    lab.tpu.worker("n1", 0, "freeze")
    argv = lab.tpu.workers.ssh("n1", 0, lab.key, "true")
    argv[argv.index("ConnectTimeout=5")] = "ConnectTimeout=1"
    told = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert told.returncode == 255
    lab.tpu.worker("n1", 0, "thaw")
    assert lab.ssh(0, "true").returncode == 0
    # What was cut off from its caller goes on.
    deadline = time.monotonic() + 10
    while not (lab.tpu.workers["n1"][0].home / "done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_down_and_up_again_by_another_process(lab: Lab):
    lab.create(type="v4-16")
    lab.tpu.steer("worker", {"name": "n1", "worker": 1, "do": "down"})
    assert [lab.ssh(worker, "true").returncode for worker in (0, 1)] == [0, 255]
    lab.tpu.steer("worker", {"name": "n1", "worker": 1, "do": "start"})
    assert lab.ssh(1, "true").returncode == 0
    with pytest.raises(LookupError, match="cannot explode"):
        lab.tpu.worker("n1", 0, "explode")


def test_two_emulators_take_different_ports(lab: Lab):
    with Emulator(workers=True, grpc=False) as other:
        assert other.workers.port != lab.tpu.workers.port
        lab.create()
        other.create("n1")
        assert lab.ssh(0, "true").returncode == 0


def test_a_full_home(lab: Lab):
    lab.create()
    (worker,) = lab.tpu.workers["n1"]
    if not lab.tpu.workers.namespaces:
        with pytest.raises(LookupError, match="needs root"):
            worker.full()
        return
    worker.full()
    told = lab.ssh(0, "head -c 1000000 /dev/zero > big")
    assert told.returncode != 0
    assert "No space left" in told.stderr

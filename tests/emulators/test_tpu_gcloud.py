"""A real gcloud says of this emulator what it said of an earlier one (tests/records/gcloud): words, exit codes and requests."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.tpu import GET_GCLOUD, Emulator
from tests.lab.sshd import require_sshd

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("gcloud"),
    pytest.mark.skipif(shutil.which("gcloud") is None, reason=GET_GCLOUD),
]

RECORDS = Path(__file__).parent.parent / "records" / "gcloud"
ZONES = ["us-central2-b", "us-central1-a"]
PARENT = "projects/demo-project/locations/us-central2-b"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gcloud")


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with Emulator(zones=ZONES) as made:
        yield made


@pytest.fixture
def tpu(served: Emulator) -> Emulator:
    served.reset()
    return served


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def run(tpu: Emulator, home: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    env = tpu.gcloud(home)
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)


def scrub(text: str, home: Path) -> str:
    """Without what differs from one run, and one emulator, to the next."""
    text = text.replace(str(home / "gcloud"), "$CLOUDSDK_CONFIG").replace(str(home), "$HOME")
    text = re.sub(r"operation-[0-9a-f-]+", "OPERATION", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z", "TIME", text)
    text = re.sub(r'"id": "\d+"', '"id": ID', text)
    text = re.sub(r"0x[0-9a-f]+", "EID", text)
    text = re.sub(r"\b\d+x\d+(x\d+)?\b", "TOPOLOGY", text)  # the earlier emulator knew only one
    text = re.sub(r"(?m)^\.+(done|failed)", r"...\1", text)
    text = re.sub(r"'tpu\.\d+-(\d+)-\w+'", r"'tpu.ID-\1-KEY'", text)
    text = text.replace('  "done": false,\n', "")  # a default, which the service leaves out
    return re.sub(r" +", " ", text)


def requests_of(tpu: Emulator) -> list[tuple[str, str]]:
    return [(one.method, one.code) for one in tpu.calls()]


def same(tpu: Emulator, home: Path, name: str) -> subprocess.CompletedProcess[str]:
    known = recorded(name)
    told = run(tpu, home, known["argv"])
    assert told.returncode == known["rc"], told
    assert scrub(told.stderr, home) == scrub(known["stderr"], home)
    assert scrub(told.stdout, home) == scrub(known["stdout"], home)
    assert len(tpu.calls()) == len(known["http"])
    return told


def node(tpu: Emulator, name: str = "n1", type: str = "v4-16", **more: Any) -> None:
    tpu.create(name, type=type, **more)


def a_queued_resource(tpu: Emulator, **fault: Any) -> None:
    if fault:
        tpu.fault("CreateQueuedResource", **fault)
    tpu.enqueue("qr1", type="v4-16", node="n1")
    tpu.advance(20)


def bare(tpu: Emulator, **fault: Any) -> None:
    """As the recorded ones were asked for: without a network."""
    a_queued_resource(tpu, **fault)
    del tpu.world.queue.all[f"{PARENT}/queuedResources/qr1"].json["tpu"]["nodeSpec"][0]["node"]["networkConfig"]


NOTHING: Callable[[Emulator], None] = lambda tpu: None  # noqa: E731
CASES: dict[str, Callable[[Emulator], Any]] = {
    "locations.list": NOTHING,
    "tpu-vm.create.all-flags-async": NOTHING,
    "tpu-vm.create.409-exists": node,
    "tpu-vm.describe.ready-json": node,
    "tpu-vm.describe.preempted-json": lambda tpu: (
        node(tpu, schedulingConfig={"spot": True}),
        tpu.preempt("n1"),
    ),
    "tpu-vm.describe.404": NOTHING,
    "tpu-vm.list.two-table": lambda tpu: (
        node(tpu),
        tpu.create("n2", type="v5litepod-16"),
    ),
    "tpu-vm.list.empty-json": NOTHING,
    "tpu-vm.list.page-size-filter": lambda tpu: (node(tpu), node(tpu, "n2", labels={"run": "r1"}), node(tpu, "n3")),
    "tpu-vm.delete.async": node,
    "tpu-vm.start.400-preempted": lambda tpu: (node(tpu), tpu.preempt("n1")),
    "queued.create.multislice-async": NOTHING,
    "queued.describe.suspended": lambda tpu: (bare(tpu), tpu.preempt("n1"), tpu.advance(5)),
    "queued.delete.active-no-force": a_queued_resource,
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_it_said(tpu: Emulator, home: Path, name: str):
    CASES[name](tpu)
    same(tpu, home, name)


@pytest.mark.parametrize(
    "name", ["tpu-vm.create.403-iam", "tpu-vm.create.401", "tpu-vm.create.429-quota", "tpu-vm.delete.409-aborted"]
)
def test_refusals_as_they_were_answered_then(tpu: Emulator, home: Path, name: str):
    error = recorded(name)["http"][0]["response"]["error"]
    method = "CreateNode" if ".create." in name else "DeleteNode"
    node(tpu)
    tpu.fault(method, times=None, status=error["status"], message=error["message"], details=error.get("details"))
    same(tpu, home, name)


def test_the_emulators_own_refusal_of_a_type_and_of_quota(home: Path):
    with Emulator(zones={"us-central2-b": ["v5litepod"]}, grpc=False) as tpu:
        same(tpu, home, "tpu-vm.create.400-accelerator")
    with Emulator(zones=ZONES, grpc=False, quota={"us-central2-b": {"v4": 8}}) as tpu:
        told = run(tpu, home, recorded("tpu-vm.create.429-quota")["argv"])
        assert told.returncode == 1
        assert (
            "RESOURCE_EXHAUSTED: Quota limit 'TPUV4sPodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 8"
            in told.stderr
        )
        assert "google.rpc.QuotaFailure" in told.stderr


def test_failed_says_why(tpu: Emulator, home: Path):
    known = json.loads(recorded("queued.describe.failed")["stdout"])
    bare(tpu, fail=known["state"]["failedData"]["error"])
    same(tpu, home, "queued.describe.failed")


def test_no_capacity_ends_a_create_that_waits(home: Path):
    error = recorded("tpu-vm.create.lro-8-no-capacity")["http"][-1]["response"]["error"]
    with Emulator(zones=ZONES, real_clock=True, provision_s=0.5) as tpu:
        tpu.fault("CreateNode", lro_error=error)
        known = recorded("tpu-vm.create.lro-8-no-capacity")
        told = run(tpu, home, known["argv"])
        assert (told.returncode, told.stdout) == (1, "")
        assert scrub(told.stderr, home) == scrub(known["stderr"], home)
        assert requests_of(tpu) == [("CreateNode", "OK"), ("GetOperation", "OK")]


def test_a_lost_answer_makes_gcloud_meet_its_own_node(tpu: Emulator, home: Path):
    tpu.fault("CreateNode", status="UNAVAILABLE", message="The service is currently unavailable.", after=True)
    same(tpu, home, "tpu-vm.create.503-once-after-commit")
    assert requests_of(tpu) == [("CreateNode", "UNAVAILABLE"), ("CreateNode", "ALREADY_EXISTS")]
    assert set(tpu.nodes()) == {"n1"}


def test_a_create_and_a_delete_that_wait(home: Path):
    with Emulator(zones=ZONES, real_clock=True, provision_s=0.5, delete_s=0.5) as tpu:
        argv = ["gcloud", "compute", "tpus", "tpu-vm"]
        more = [
            "--zone=us-central2-b",
            "--accelerator-type=v4-32",
            "--version=tpu-ubuntu2204-base",
            "--format=json",
            "--spot",
        ]
        made = run(tpu, home, [*argv, "create", "n1", *more])
        assert made.returncode == 0, made
        assert [one["ipAddress"] for one in json.loads(made.stdout)["networkEndpoints"]] == [
            f"127.1.0.{n}" for n in (1, 2, 3, 4)
        ]
        gone = run(tpu, home, [*argv, "delete", "n1", "--zone=us-central2-b", "--quiet"])
        assert (gone.returncode, gone.stderr.splitlines()[-1]) == (0, "Deleted tpu [n1].")
        assert tpu.nodes() == {}


def test_ssh_and_scp_to_all_workers(home: Path):
    """The one test that asks gcloud to reach machines: it makes its key, which the node's metadata then holds."""
    require_sshd()
    key = home / ".ssh" / "google_compute_engine"
    key.parent.mkdir(exist_ok=True)
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key)], check=True)
    public = Path(f"{key}.pub").read_text().split()
    with Emulator(zones=ZONES, workers=True) as tpu:
        user = getpass.getuser()
        node(tpu, metadata={"ssh-keys": f"{user}:{public[0]} {public[1]} {user}"})
        port = str(tpu.workers.port)

        def same_lines(name: str) -> None:
            known = recorded(name)
            argv = [word.replace("2222", port).replace("$HOME", str(home)) for word in known["argv"]]
            told = run(tpu, home, argv)
            assert told.returncode == known["rc"], told
            lines = lambda text: sorted(scrub(text.replace(port, "2222"), home).splitlines())  # noqa: E731
            assert lines(told.stdout) == lines(known["stdout"])
            # Which host is known by now depends on what ran before.
            added = re.compile("Warning: Permanently added")
            assert [line for line in lines(told.stderr) if not added.match(line)] == [
                line for line in lines(known["stderr"]) if not added.match(line)
            ]

        same_lines("ssh.port-2222")
        (home / "f1.txt").write_text("hello\n")
        same_lines("scp.port-2222")
        assert [(worker.home / "f2.txt").read_text() for worker in tpu.workers["n1"]] == ["hello\n"] * 2
        known_hosts = (home / ".ssh" / "google_compute_known_hosts").read_text()
        for worker in tpu.workers["n1"]:
            assert worker.host_key in known_hosts

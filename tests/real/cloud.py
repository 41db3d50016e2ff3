"""A group's repository whose jobs go to TPU VMs: the emulated service, with a real sshd for each worker, and its owner's hand."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.emulators.tpu import Emulator
from tests.lab.sshd import BASE
from tests.real.conftest import WAIT_S, Said, Site

ZONE, OTHER = "us-central2-b", "us-east5-a"
RUN = "reconciler-run"


class Cloud(Site):
    """`shared` is seen by the test and by all workers, as a mounted bucket is; `disk` is a path that each worker has of its
    own, where the machine can give it one."""

    tpu: Emulator
    shared: Path
    disk: str

    def inventory(self, *, name: str = "pod", private: bool = False, approve: str = "", **host: Any) -> dict[str, Any]:
        root = self.disk if private else str(self.shared)
        body = {
            "type": "tpu",
            "cluster": "cloud",
            "zone": ZONE,
            "project": self.tpu.world.project,
            "accelerator_type": "v4-32",
            "version": "tpu-ubuntu2204-base",
            "per_run": True,
            "control": "client",
            "endpoint": f"http://{self.tpu.grpc}",
            "ssh_key": str(self.root / "key"),
            "ssh_port": self.tpu.workers.port,
            "connect_timeout": "3s",
            "poll": 0,  # tests have no manners
            **host,
        }
        told = {"approve": approve} if approve else {}
        return {
            **told,
            "clusters": {"cloud": {"root": f"{root}/c", "work": f"{root}/w"}},
            "hosts": {name: {key: value for key, value in body.items() if value is not None}},
        }

    def make(self, inventory: dict[str, Any]) -> None:
        """One of the user's own: `endpoint` cannot be said among the manifests."""
        super().make(inventory)
        self.env["RECONCILER_INVENTORY"] = str(self.root / "inventory.yaml")
        (self.repo / "manifests" / "inventory.yaml").rename(self.root / "inventory.yaml")

    def train(self, name: str, command: list[str] | str, **spec: Any) -> None:
        """A manifest of a job for one v4-32."""
        self.job(name, command, **{"request": {"chip": "tpu-v4", "min_chips": 16}, "grace": "1s", **spec})

    def phase(self, name: str, *wanted: str, apply: bool = True) -> dict[str, Any]:
        """Pass after pass until the job is in one of these phases."""
        found: dict[str, Any] = self.until(lambda jobs: jobs[name]["phase"] in wanted, apply=apply)[name]
        return found

    def nodes(self) -> dict[str, Any]:
        return self.tpu.nodes()

    def node(self) -> str:
        (name,) = self.nodes()
        return name

    def creates(self) -> int:
        """VMs made so far, whatever became of them."""
        return sum(call.code == "OK" for call in self.tpu.calls("CreateNode"))

    def wait(self, holds: Callable[[], Any], what: str = "it") -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (value := holds()):
            assert time.monotonic() < deadline, f"{what} did not come true"
            time.sleep(0.02)
        return value

    def wrote(self, text: str = "*") -> list[str]:
        """What the workers left in `shared`."""
        return sorted(path.name for path in self.shared.glob(text))

    def machines(self) -> list[str]:
        """Files of worker machines; none once no VM is left."""
        root = self.tpu.workers.root / "hosts"
        return sorted(path.name for path in root.glob("*")) if root.exists() else []

    def gone(self) -> None:
        """Nothing is left: no VM, no machine of one."""
        assert self.nodes() == {}
        assert self.machines() == []


@contextmanager
def cloud(root: Path) -> Iterator[Cloud]:
    """Everything is quick, and at the end everything is gone."""
    (root / "home").mkdir(parents=True)
    made = Cloud(root)
    made.shared = Path(tempfile.mkdtemp(prefix="bucket", dir=BASE))
    made.shared.chmod(0o755)
    made.disk = f"/tmp/{made.shared.name}"  # each worker machine has a /tmp of its own
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(root / "key")]
    subprocess.run(keygen, check=True)
    made.env = {"XDG_CACHE_HOME": str(root / "cache")}
    try:
        with Emulator(
            zones=[ZONE, OTHER], workers=True, real_clock=True, provision_s=0.2, delete_s=0.2, op_s=0.1
        ) as made.tpu:
            yield made
    finally:
        shutil.rmtree(made.shared, ignore_errors=True)
        shutil.rmtree(made.disk, ignore_errors=True)


def ok(said: Said) -> Said:
    assert said.code == 0, said
    return said

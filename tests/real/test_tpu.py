"""A user's road over TPU VMs: made for a run, started on all workers, taken back, made again, deleted.

The service is emulated (docs/tpu-emulator.md); the client library, the command line, ssh and the workers' sshd are real.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.tpu.emulator import GET_LIBRARY, have_library
from tests.lab.sshd import require_sshd
from tests.real.cloud import OTHER, Cloud, cloud, ok

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("tpu"),
    pytest.mark.skipif(not have_library(), reason=GET_LIBRARY),
]
LONG = ["sleep", "600"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Cloud]:
    require_sshd()
    with cloud(tmp_path) as made:
        yield made


# --- launching and looking


def test_a_job_with_its_code_runs_on_four_workers_and_the_vm_is_gone(group: Cloud):
    group.make(group.inventory(private=True))
    script = 'echo "$RECONCILER_NODE_RANK $(cat data/x) $TPU_WORKER_ID" > %s/worker-$RECONCILER_NODE_RANK\n'
    (group.repo / "code.sh").write_text(script % group.shared)
    (group.repo / "data").mkdir()
    (group.repo / "data" / "x").write_text("payload\n")
    group.train("t", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    group.tpu.settings(provision_s=3600.0)
    ok(group("apply", "--yes"))
    assert group.status()["t"]["phase"] == "Provisioning"
    (node,) = group.nodes().values()
    assert (node["acceleratorType"], node["state"]) == ("v4-32", "CREATING")
    assert node["labels"]["reconciler-owner"]
    ok(group("apply", "--yes"))  # and again: it is still being made
    assert group.creates() == 1
    group.tpu.advance(3600)
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    told = [(group.shared / name).read_text() for name in group.wrote("worker-*")]
    assert told == [f"{rank} payload {rank}\n" for rank in range(4)]
    assert group.creates() == 1
    group.gone()
    assert group("plan").code == 0
    assert group.creates() == 1


@pytest.fixture
def plain_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The workers see all files of this machine: this very Python, which may lie in a HOME, among them."""
    require_sshd()
    monkeypatch.setenv("LAB_NAMESPACES", "0")
    with cloud(tmp_path) as made:
        yield made


def test_jax_on_four_workers_finds_itself(plain_group: Cloud):
    pytest.importorskip("jax")
    group = plain_group
    group.make(group.inventory())
    program = (
        "import os, jax; jax.distributed.initialize(os.environ['JAX_COORDINATOR_ADDRESS'], "
        "int(os.environ['JAX_NUM_PROCESSES']), int(os.environ['JAX_PROCESS_ID'])); import jax.numpy as jnp; "
        "from jax.experimental import multihost_utils as m; "
        "found = m.process_allgather(jnp.array([jax.process_index() + 1])); "
        f"print(jax.process_count(), found.ravel().tolist(), int(found.sum()), "
        f"file=open('{group.shared}/jax-%d' % jax.process_index(), 'w')); jax.distributed.shutdown()"
    )
    group.train("t", [sys.executable, "-c", program], env={"JAX_PLATFORMS": "cpu"}, restart={"failure": 0})
    group.commit()
    ok(group("apply", "--yes", "--wait", timeout_s=110))
    told = [(group.shared / name).read_text() for name in group.wrote("jax-*")]
    assert told == ["4 [1, 2, 3, 4] 10\n"] * 4
    group.gone()


def test_the_logs_of_each_worker(group: Cloud):
    group.make(group.inventory())
    group.train("t", 'echo "I am $RECONCILER_NODE_RANK"; exec sleep 600')
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    group.wait(lambda: ok(group("logs", "t")).out == "I am 0\n", "the log of worker 0")
    group.wait(lambda: ok(group("logs", "t", "--worker", "3")).out == "I am 3\n", "the log of worker 3")
    said = group("logs", "t", "--worker", "4")
    assert said.code == 1
    assert "has no worker 4: expected 0 to 3" in said.err

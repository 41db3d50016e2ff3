"""A user's road over TPU VMs: made for a run, started on all workers, taken back, made again, deleted.

The service is emulated (docs/tpu-emulator.md); the client library, the command line, ssh and the workers' sshd are real.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.backends.tpu_gcloud import GcloudControl, run_gcloud
from tests.emulators.tpu.emulator import GET_GCLOUD, GET_LIBRARY, have_library
from tests.lab.sshd import require_sshd
from tests.real.cloud import OTHER, Cloud, cloud, ok
from tests.real.gang import TRAIN

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
    group.wait(
        lambda: sorted(ok(group("logs", "t", "--all")).out.splitlines()) == [f"{n}: I am {n}" for n in range(4)],
        "the logs of all workers",
    )


# --- taken back, broken, unreachable


def test_preempted_in_the_middle_it_resumes_from_its_checkpoint_on_another_vm(group: Cloud):
    group.make(group.inventory(spot=True))
    group.train("t", ["python3", "-c", TRAIN], env={"SHARED": str(group.shared)})
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    group.wait(lambda: len(group.wrote("began-*")) == 4, "all workers")
    old = group.node()
    group.tpu.preempt(old)
    assert group.status()["t"]["phase"] == "Preempted"
    assert group.creates() == 1
    seen: list[set[str]] = []

    def again() -> bool:
        seen.append(set(group.nodes()))
        return len(group.wrote("resumed-*")) == 4

    deadline = time.monotonic() + 30
    while not again():
        group("apply", "--yes")
        assert time.monotonic() < deadline, group.status()
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    assert group.status()["t"]["attempt"] == 2
    assert {(group.shared / name).read_text() for name in group.wrote("resumed-*")} == {"5 in attempt 2"}
    assert all(len(one) <= 1 for one in seen), seen
    order = [
        (call.method, call.name.rpartition("/")[2] or call.request.get("nodeId"))
        for call in group.tpu.calls()
        if call.method in ("CreateNode", "DeleteNode") and call.code == "OK"
    ]
    assert [method for method, _ in order] == ["CreateNode", "DeleteNode", "CreateNode", "DeleteNode"]
    assert order[1][1] == old
    assert "preempted" in ok(group("history", "t")).out.lower()
    group.gone()


def test_a_frozen_or_dead_worker_of_a_ready_vm_is_said_and_ends_nothing(group: Cloud):
    group.make(group.inventory(connect_timeout="1s"))
    group.train("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    run_id = group.phase("t", "Running")["run_id"]
    node = group.node()
    for do, undo in (("freeze", "thaw"), ("down", "start")):
        group.tpu.worker(node, 2, do)
        said = group("apply", "--yes")
        assert said.code in (0, 4), said
        found = group.status()["t"]
        assert (found["phase"], found["run_id"]) == ("Running", run_id)
        assert "worker 2 cannot be asked" in found["message"]
        assert "worker 2 cannot be asked" in group("explain", "t").out
        assert group.node() == node
        group.tpu.worker(node, 2, undo)
    assert group.tpu.calls("DeleteNode") == []


def test_all_workers_dead_while_the_vm_says_ready_is_not_taken_for_an_end(group: Cloud):
    group.make(group.inventory(connect_timeout="1s"))
    group.train("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    node = group.node()
    for rank in range(4):
        group.tpu.worker(node, rank, "down")
    said = group("apply", "--yes")
    assert group.node() == node, said
    assert said.code == 4
    assert group.creates() == 1
    found = group.status()["t"]
    assert (found["phase"], found["reason"]) == ("Unknown", "WorkersSilent")
    assert "worker 3 cannot be asked" in found["message"]
    ok(group("cancel", "t"))  # a person who knows better need not wait
    group.until(lambda jobs: jobs["t"]["phase"] == "Cancelled" and not group.nodes(), apply=True)


@pytest.mark.parametrize("known", ["told by the service", "kept from the first time"])
def test_a_worker_with_another_host_key_gets_nothing(group: Cloud, known: str):
    group.make(group.inventory())
    if known == "kept from the first time":
        group.tpu.fault(
            "GetGuestAttributes", status="PERMISSION_DENIED", message="guest attributes are off", times=None
        )
    group.train("t", f"touch {group.shared}/began-$RECONCILER_NODE_RANK; sleep 600")
    group.commit()
    group.tpu.settings(provision_s=0.0)
    ok(group("apply", "--yes"))
    group("plan")  # looks at all workers, and learns their keys
    node = group.node()
    before = {rank: worker.host_key for rank, worker in enumerate(group.tpu.workers[node])}
    group.tpu.workers.host_key = lambda node, worker: before[worker]  # what Google tells stays
    group.tpu.worker(node, 3, "wipe")
    assert group.tpu.workers[node][3].host_key != before[3]
    said = group("apply", "--yes")
    assert "worker 3" in said.out + said.err, said
    assert "key" in (said.out + said.err).lower(), said
    group.wait(lambda: len(group.wrote("began-*")) == 3, "three workers")
    group("apply", "--yes")
    assert group.wrote("began-*") == ["began-0", "began-1", "began-2"]
    assert not list(group.tpu.workers[node][3].home.rglob("*"))


# --- ended by somebody


def test_cancel_ends_the_run_on_all_workers_and_deletes_the_vm(group: Cloud):
    group.make(group.inventory())
    shared = group.shared
    polite = (
        f"trap 'touch {shared}/told-$RECONCILER_NODE_RANK; exit 0' TERM; touch {shared}/began-$RECONCILER_NODE_RANK"
    )
    group.train("t", f"{polite}; sleep 600 & wait")
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    group.wait(lambda: len(group.wrote("began-*")) == 4, "all workers")
    ok(group("cancel", "t", "--why", "wrong data"))
    group.until(lambda jobs: jobs["t"]["phase"] == "Cancelled" and not group.nodes(), apply=True)
    assert len(group.wrote("told-*")) == 4
    group.gone()
    assert group.creates() == 1


def test_a_removed_manifest_ends_the_run_and_deletes_the_vm(group: Cloud):
    group.make(group.inventory())
    group.train("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    group.path("t").unlink()
    group.commit()
    refused = group("apply", "--yes")
    assert refused.code == 3
    assert group.node()
    ok(group("apply", "--yes", "--confirm-delete", "1", "--wait"))
    group.gone()


def test_a_removed_manifest_while_the_vm_is_being_made_deletes_it(group: Cloud):
    group.make(group.inventory())
    group.tpu.settings(provision_s=3600.0)
    group.train("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    assert group.node()
    group.path("t").unlink()
    group.commit()
    ok(group("apply", "--yes", "--confirm-delete", "1", "--wait"))
    group.gone()


# --- killed, and left alone


def test_killed_right_after_the_create_there_is_one_vm(group: Cloud):
    group.make(group.inventory())
    group.tpu.fault("CreateNode", delay_s=2.0, after=True)
    group.train("t", LONG)
    group.commit()
    process = group.start("apply", "--yes")
    group.wait(group.nodes, "the VM")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    group.phase("t", "Running")
    assert len(group.nodes()) == 1
    assert group.creates() == 1
    assert group.status()["t"]["attempt"] == 1
    assert len(group.tpu.calls("CreateNode")) <= 2


def test_watch_drives_a_job_to_its_end_where_money_is_approved(group: Cloud):
    group.make(group.inventory(approve="auto", price_per_chip_hour=3.22))
    group.train("t", f"touch {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    process = group.start("watch", "--interval", "0.2", "--idle", "60")
    try:
        group.wait(lambda: len(group.wrote("ran-*")) == 4, "four workers")
        group.wait(lambda: not group.nodes(), "the end of the VM")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, (out, err)
    assert group.status()["t"]["phase"] == "Succeeded"
    assert group.creates() == 1
    group.gone()


def test_watch_makes_nothing_that_costs_money_without_a_yes(group: Cloud):
    group.make(group.inventory(price_per_chip_hour=3.22))
    group.train("t", LONG)
    group.commit()
    process = group.start("watch", "--interval", "0.2", "--idle", "0.2")
    try:
        group.wait(lambda: len(group.tpu.calls("ListNodes")) >= 4, "some passes")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert "51.52 an hour" in out + err, (out, err)
    assert group.tpu.calls("CreateNode") == []


# --- the inventory as it was


def test_a_host_named_like_its_vm_takes_one_job_after_another(group: Cloud):
    """The original's form: the host is the VM, with zone, type and version, and no more of it than the emulator needs."""
    group.make(group.inventory(name="pod-32", per_run=None))
    for name in ("a", "b"):
        group.train(name, f"echo $RECONCILER_JOB >> {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    ok(group("apply", "--yes"))
    assert group.node() == "pod-32"
    ok(group("apply", "--yes", "--wait", timeout_s=90))
    assert {job["phase"] for job in group.status().values()} == {"Succeeded"}
    for rank in range(4):
        told = (group.shared / f"ran-{rank}").read_text().splitlines()
        assert sorted(told) == ["general/default/a", "general/default/b"]
    assert group.creates() == 2
    group.gone()


def test_without_capacity_the_next_zone_is_taken(group: Cloud):
    group.make(group.inventory(zone=None, zones=["us-central2-b", OTHER]))
    group.tpu.fault("CreateNode", lro_error={"code": 8, "message": "There is no more capacity in the zone"})
    group.train("t", ["true"])
    group.commit()
    ok(group("apply", "--yes", "--wait", timeout_s=60))
    asked = [call.request["parent"].rpartition("/")[2] for call in group.tpu.calls("CreateNode") if call.code == "OK"]
    assert asked == ["us-central2-b", OTHER]
    assert "no more capacity" in ok(group("history", "t")).out
    group.gone()


# --- by requests, and by gcloud


def test_by_a_queued_request_a_job_runs_on_four_workers_and_the_request_is_gone(group: Cloud):
    group.make(group.inventory(queued="6h", spot=True))
    group.tpu.settings(wait_s=3600.0)
    group.train("t", f"touch {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    ok(group("apply", "--yes"))
    found = group.status()["t"]
    assert found["phase"] == "Provisioning"
    assert "waits for capacity" in found["message"]
    assert (len(group.tpu.queued()), group.nodes()) == (1, {})
    ok(group("apply", "--yes"))
    assert len(group.tpu.queued()) == 1
    group.tpu.advance(3600)
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    assert group.wrote("ran-*") == [f"ran-{rank}" for rank in range(4)]
    assert group.tpu.queued() == {}
    asked = [call for call in group.tpu.calls("CreateQueuedResource") if call.code == "OK"]
    assert len(asked) == 1
    group.gone()


def test_a_queued_request_that_waits_is_withdrawn_by_a_cancel(group: Cloud):
    group.make(group.inventory(queued="6h", spot=True))
    group.tpu.settings(wait_s=36_000.0)
    group.train("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    assert len(group.tpu.queued()) == 1
    ok(group("cancel", "t"))
    group.until(lambda jobs: not group.tpu.queued(), apply=True)
    # For two minutes after it was asked for, that it is not listed proves nothing: then the job is Cancelled.
    assert group.status()["t"]["phase"] in ("Unknown", "Cancelled")
    group("apply", "--yes")
    assert group.tpu.queued() == {}
    assert len(group.tpu.calls("CreateQueuedResource")) == 1
    group.gone()


@pytest.fixture
def by_gcloud(group: Cloud) -> Cloud:
    """The same repository, whose command line finds gcloud pointed at the emulator, and no client library is asked."""
    if shutil.which("gcloud") is None:
        pytest.skip(GET_GCLOUD)
    variables = group.tpu.gcloud(group.root / "gcloud-home")
    group.env |= {name: value for name, value in variables.items() if name not in ("PATH", "HOME")}
    return group


@pytest.mark.parametrize("queued", [None, "6h"], ids=["directly", "by a request"])
def test_with_gcloud_alone_a_job_runs_and_its_vm_is_gone(by_gcloud: Cloud, queued: str | None):
    group = by_gcloud
    said = {"control": "gcloud", "endpoint": f"http://{group.tpu.rest}", "project": None, "queued": queued}
    group.make(group.inventory(**said))
    asked = GcloudControl("", run=run_gcloud(env=group.tpu.gcloud(group.root / "gcloud-home")))
    assert asked.default_project() == group.tpu.world.project
    group.train("t", f"touch {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    ok(group("apply", "--yes", "--wait", timeout_s=150))
    assert group.status()["t"]["phase"] == "Succeeded"
    assert group.wrote("ran-*") == [f"ran-{rank}" for rank in range(4)]
    assert group.tpu.queued() == {}
    method = "CreateQueuedResource" if queued else "CreateNode"
    made = [call for call in group.tpu.calls(method) if call.code == "OK"]
    assert len(made) == 1
    assert "gcloud" in made[0].agent, made[0].agent
    group.gone()

"""A user's road over Kubernetes with Volcano: gangs from git, code through a claim, preempted, requeued, deleted.

The cluster is simulated (docs/volcano-emulator.md): its pods are processes here. The command line, the `kubernetes` library, its
websockets and the runtime in the pods are real. test_kubernetes.py runs against a real cluster where KUBECONFIG names one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.gang import TRAIN
from tests.real.kube import NODE, KubeSite, kube_site, ok

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("volcano")]
LONG = ["sleep", "600"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[KubeSite]:
    with kube_site(tmp_path) as made:
        yield made


def test_a_gang_runs_code_from_the_claim(group: KubeSite):
    group.make(group.inventory())
    (group.repo / "code.sh").write_text('echo "$RECONCILER_NODE_RANK of $RECONCILER_NUM_NODES $(cat data/x)"\n')
    (group.repo / "data").mkdir()
    (group.repo / "data" / "x").write_text("payload\n")
    group.gang("t", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    for rank in range(2):
        said = ok(group("logs", "t", "--worker", str(rank)))
        assert f"{rank} of 2 payload" in said.out
    assert group.helpers() == []
    assert group.creates() == 1
    assert group("plan").code == 0


def began(group: KubeSite, count: int = 2) -> None:
    group.kube.wait(lambda: len(list(group.shared.glob("began-*"))) == count, 30)


def training(group: KubeSite, **spec: Any) -> None:
    group.gang("t", ["python3", "-c", TRAIN], env={"SHARED": str(group.shared)}, **spec)
    group.commit()
    ok(group("apply", "--yes"))
    began(group)


def resumed(group: KubeSite) -> None:
    group.phase("t", "Succeeded")
    told = {path.read_text() for path in group.shared.glob("resumed-*")}
    assert told == {"5 in attempt 2"}
    assert len(list(group.shared.glob("resumed-*"))) == 2
    assert group.status()["t"]["attempt"] == 2


# --- taken back, broken, unreachable


@pytest.mark.parametrize("how", ["evict", "preempt"])
def test_taken_away_in_the_middle_it_resumes_from_its_checkpoint(group: KubeSite, how: str):
    group.make(group.inventory())
    training(group)
    (job,) = group.jobs()
    getattr(group.kube, how)(f"{job}-worker-1")
    resumed(group)
    said = ok(group("history", "t")).out.lower()
    assert "evict" in said or "preempt" in said


def test_how_far_a_run_has_come_is_shown_while_it_runs(group: KubeSite):
    group.make(group.inventory())
    training(group)
    found = group.until(lambda jobs: bool(jobs["t"]["progress"]))["t"]
    assert found["phase"] == "Running"
    assert (found["progress"]["step"], found["progress"]["total"]) == (5, 10)
    assert found["handle"] == group.jobs()[0]


def test_a_failing_program_fails_the_gang_and_says_how(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", '[ "$RECONCILER_NODE_RANK" = 1 ] && { echo boom; exit 3; }; sleep 600', restart={"failure": 0})
    group.commit()
    ok(group("apply", "--yes"))
    found = group.phase("t", "Failed")
    assert found["exit_code"] == 3
    assert "boom" in found["message"]
    assert group.creates() == 1
    assert group("apply", "--yes").code in (0, 4)
    assert group.creates() == 1


def test_out_of_memory_is_told_from_a_failure(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", f"touch {group.shared}/began-$RECONCILER_NODE_RANK; sleep 600", restart={"out_of_memory": 0})
    group.commit()
    ok(group("apply", "--yes"))
    began(group)
    group.kube.oom(f"{group.jobs()[0]}-worker-1")
    assert "memory" in group.phase("t", "Failed")["message"]


def test_a_pod_that_somebody_deletes_ends_the_gang_which_runs_again(group: KubeSite):
    group.make(group.inventory())
    training(group)
    group.kube.delete_pod(f"{group.jobs()[0]}-worker-0")
    resumed(group)


def test_a_job_that_somebody_deletes_is_not_resurrected(group: KubeSite):
    group.make(group.inventory())
    training(group)
    group.kube.delete("jobs", group.jobs()[0])
    found = group.phase("t", "Cancelled")
    assert "deleted by somebody" in found["message"]
    group("apply", "--yes")
    assert group.creates() == 1


def test_an_api_server_that_is_away_proves_nothing(group: KubeSite):
    group.make(group.inventory())
    training(group)
    before = group.phase("t", "Running")["run_id"]
    group.kube.stop()
    said = group("apply", "--yes")
    assert said.code == 4, said
    found = group.status()["t"]
    assert (found["phase"], found["run_id"]) == ("Unknown", before)
    assert "kubeconfig" in found["message"] or "refused" in found["message"], found
    group.kube.start()
    found = group.phase("t", "Running")
    assert found["run_id"] == before
    assert group.creates() == 1


def test_a_run_that_ends_while_the_api_server_is_away_is_seen_afterwards(group: KubeSite):
    group.make(group.inventory())
    group.gang(
        "t", f"touch {group.shared}/began-$RECONCILER_NODE_RANK; while [ ! -e {group.shared}/go ]; do sleep 0.1; done"
    )
    group.commit()
    ok(group("apply", "--yes"))
    began(group)
    group.kube.stop()
    (group.shared / "go").touch()
    assert group("apply", "--yes").code == 4
    group.kube.start()
    group.phase("t", "Succeeded")
    assert group.creates() == 1


def test_a_lost_node_is_given_up_after_its_time_and_the_run_goes_on_elsewhere(group: KubeSite):
    group.make(group.inventory(lost_timeout="60s"))
    training(group)
    (job,) = group.jobs()
    node = group.kube.pods(job)[1]["spec"]["nodeName"]
    group.kube.lose_node(node)
    group.kube.wait(lambda: "does not answer" in group.status()["t"]["message"])
    found = group.status()["t"]
    assert (found["phase"], group.jobs()) == ("Running", [job])
    assert node in found["message"]
    ok(group("cancel", "t"))  # a person who knows better need not wait
    group.until(lambda jobs: jobs["t"]["phase"] == "Terminating", apply=True)
    assert group.creates() == 1


# --- waiting


def test_a_gang_that_finds_no_room_says_so_and_starts_when_there_is(group: KubeSite):
    group.make(group.inventory())
    group.gang("big", ["true"], chips=32)
    group.commit()
    ok(group("apply", "--yes"))
    found = group.until(lambda jobs: jobs["big"]["reason"] == "NoCapacity")["big"]
    assert found["phase"] == "Queued"
    assert "nvidia.com/gpu" in ok(group("explain", "big")).out
    group.kube.add_node("node-d", **NODE)
    group.phase("big", "Succeeded")


def test_an_image_that_cannot_be_pulled_is_named(group: KubeSite):
    group.make(group.inventory(helper_image="registry/helper:1"))
    group.kube.pull_fails("registry/train:1")
    group.gang("t", ["true"])
    group.commit()
    ok(group("apply", "--yes"))
    found = group.until(lambda jobs: jobs["t"]["reason"] == "ImagePull")["t"]
    assert "registry/train:1" in found["message"]
    group.kube.pull_works("registry/train:1")
    group.phase("t", "Succeeded")


def test_a_queue_with_a_cap_is_waited_for_and_one_that_never_fits_is_refused(group: KubeSite):
    group.kube.set_queue("small", {"nvidia.com/gpu": "8"})
    group.make(group.inventory(queue="small"))
    group.gang("never", ["true"], chips=16)
    group.gang("fits", ["true"], chips=8)
    group.commit()
    said = group("apply", "--yes", "--wait")
    assert said.code == 4, said
    assert "grants 8 accelerators in all, 16 are needed" in group.status()["never"]["message"]
    assert group.status()["fits"]["phase"] == "Succeeded"


# --- ended by somebody


def test_cancel_ends_the_pods_with_their_grace(group: KubeSite):
    group.make(group.inventory())
    shared = group.shared
    polite = (
        f"trap 'touch {shared}/told-$RECONCILER_NODE_RANK; exit 0' TERM; touch {shared}/began-$RECONCILER_NODE_RANK"
    )
    group.gang("t", f"{polite}; sleep 600 & wait")
    group.commit()
    ok(group("apply", "--yes"))
    began(group)
    ok(group("cancel", "t", "--why", "wrong data"))
    group.phase("t", "Cancelled")
    assert len(list(shared.glob("told-*"))) == 2
    assert group.jobs() == []
    record = json.loads(next(shared.glob("status/general/default/t/*/metadata.json")).read_text())
    assert (record["status"], record["cause"]) == ("cancelled", "cancelled")
    assert group.kube.list("secrets") == []


def test_a_removed_manifest_deletes_the_job_and_its_secret(group: KubeSite):
    group.make(group.inventory())
    training(group)
    group.path("t").unlink()
    group.commit()
    assert group("apply", "--yes").code == 3
    assert group.jobs()
    ok(group("apply", "--yes", "--confirm-delete", "1", "--wait"))
    assert (group.jobs(), group.kube.list("secrets"), group.kube.list("pods")) == ([], [], [])


def test_a_changed_manifest_replaces_the_job(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    first = group.jobs()
    group.gang("t", ["true"])
    group.commit()
    group.phase("t", "Succeeded")
    assert first[0] not in group.jobs()


def test_the_same_job_again_after_a_new_generation(group: KubeSite):
    group.make(group.inventory())
    for generation in (1, 2):
        group.gang("t", f"echo {generation} >> {group.shared}/ran-$RECONCILER_NODE_RANK", generation=generation)
        group.commit()
        ok(group("apply", "--yes", "--wait"))
    assert (group.shared / "ran-1").read_text() == "1\n2\n"
    assert group.status()["t"]["attempt"] == 2


# --- killed, and left alone


def test_killed_between_secret_and_job_nothing_is_left_or_doubled(group: KubeSite):
    group.make(group.inventory())
    ok(group("plan"))  # the claim has been looked at
    group.kube.fault("create", "jobs", "general-*", hang_s=3.0)
    group.gang("t", LONG)
    group.commit()
    process = group.start("apply", "--yes")
    group.kube.wait(lambda: group.kube.count("create", "secrets") or None, 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    group.kube.heal()
    group.phase("t", "Running")
    assert len(group.jobs()) == 1
    assert len(group.kube.list("secrets")) == 1


def test_killed_right_after_the_create_there_is_one_job(group: KubeSite):
    group.make(group.inventory())
    group.kube.fault("create", "jobs", "general-*", hang_s=2.0, after=True)
    group.gang("t", LONG)
    group.commit()
    process = group.start("apply", "--yes")
    group.kube.wait(group.jobs, 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    group.phase("t", "Running")
    assert len(group.jobs()) == 1
    assert group.status()["t"]["attempt"] == 1


def test_a_helper_of_a_killed_process_is_swept(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", ["true"])
    group.commit()
    group.kube.slow_start(3.0)
    process = group.start("apply", "--yes")
    group.kube.wait(group.helpers, 30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    (left,) = group.helpers()
    group.kube.slow_start(0.0)
    ok(group("apply", "--yes", "--wait"))
    assert left not in group.helpers()
    assert group.helpers() == []


def test_interrupted_while_shipping_no_helper_is_left(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", ["true"])
    group.commit()
    group.kube.slow_start(30.0)
    with group.start("apply", "--yes") as process:
        try:
            group.kube.wait(group.helpers, 30)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    group.kube.wait(lambda: not group.helpers(), 60)


def test_with_the_state_lost_a_finished_job_does_not_run_again(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", f"echo ran >> {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    shutil.rmtree(group.root / "state")
    group.kube.delete("jobs", group.jobs()[0])  # and the cluster has forgotten it, too
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    assert (group.shared / "ran-0").read_text() == "ran\n"


def test_with_the_state_lost_a_living_job_is_adopted(group: KubeSite):
    group.make(group.inventory())
    training(group)
    shutil.rmtree(group.root / "state")
    found = group.phase("t", "Running")
    assert found["attempt"] == 1
    assert group.creates() == 1


def test_a_quiet_world_costs_a_few_lists(group: KubeSite):
    group.make(group.inventory())
    for number in range(5):
        group.gang(f"t{number}", LONG, chips=0)
    group.commit()
    ok(group("apply", "--yes"))
    group.until(lambda jobs: all(job["phase"] == "Running" for job in jobs.values()), apply=True)
    before = len(group.kube.calls)
    ok(group("apply", "--yes"))
    calls = [(call.verb, call.kind) for call in group.kube.calls[before:]]
    assert len(calls) <= 5, calls
    assert all(verb in ("list", "get") or kind == "pods/exec" for verb, kind in calls), calls


def test_watch_drives_a_job_to_its_end(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", f"touch {group.shared}/ran-$RECONCILER_NODE_RANK")
    group.commit()
    process = group.start("watch", "--interval", "0.2", "--idle", "60")
    try:
        group.kube.wait(lambda: len(list(group.shared.glob("ran-*"))) == 2, 60)
        group.until(lambda jobs: jobs["t"]["phase"] == "Succeeded")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, (out, err)
    assert group.helpers() == []


# --- in the pod


def test_jax_on_two_pods_finds_itself(group: KubeSite):
    pytest.importorskip("jax")
    group.kube.loopback()
    group.make(group.inventory())
    program = (
        "import os, jax; jax.distributed.initialize(os.environ['JAX_COORDINATOR_ADDRESS'], "
        "int(os.environ['JAX_NUM_PROCESSES']), int(os.environ['JAX_PROCESS_ID'])); "
        "print('devices', jax.process_count(), len(jax.devices()))"
    )
    group.gang("t", [sys.executable, "-c", program], env={"JAX_PLATFORMS": "cpu"})
    group.commit()
    ok(group("apply", "--yes", "--wait", timeout_s=120))
    assert "devices 2 2" in ok(group("logs", "t")).out


def test_secrets_reach_the_program_and_nothing_else(group: KubeSite):
    group.env["TOKEN_HERE"] = "canary-51f0"
    group.make(group.inventory())
    group.kube.secret("theirs", {"key": "canary-from-the-cluster"})
    group.gang(
        "t",
        'printf %s "$A$B" | md5sum; sleep 600',
        secrets={"A": {"env": "TOKEN_HERE"}, "B": {"kubernetes": {"name": "theirs", "key": "key"}}},
    )
    group.commit()
    ok(group("apply", "--yes"))
    expected = hashlib.md5(b"canary-51f0canary-from-the-cluster").hexdigest()
    group.kube.wait(lambda: expected in group("logs", "t").out, 30)
    objects = [group.kube.list(kind) for kind in ("jobs", "pods", "events", "podgroups")]
    assert "canary" not in json.dumps(objects)
    shown = group("plan", "--show", "t").out + json.dumps(group.status()) + group("history", "t").out
    assert "canary" not in shown
    for folder in (group.root / "state", group.shared):
        for path in folder.rglob("*"):
            assert not path.is_file() or b"canary" not in path.read_bytes(), path


def test_the_log_of_one_pod_is_followed(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", 'for i in 1 2 3; do echo "$RECONCILER_NODE_RANK says $i"; sleep 0.3; done')
    group.commit()
    ok(group("apply", "--yes"))
    said = ok(group("logs", "-f", "t", "--worker", "1"))
    assert said.out == "1 says 1\n1 says 2\n1 says 3\n"


# --- said before anything is done


def test_plan_shows_the_job_and_how_to_submit_it_by_hand(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", ["true"])
    group.commit()
    said = group("plan", "--show", "t")
    assert "kubectl --kubeconfig" in said.out
    assert "minAvailable" in said.out
    assert group.creates() == 0


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda kube: kube.no_volcano(), "Volcano"),
        (lambda kube: kube.expire_token(), "expired"),
        (lambda kube: kube.deny("list", "jobs"), "auth can-i list jobs"),
        (lambda kube: kube.stop(), "refused"),
    ],
)
def test_what_is_missing_is_said_with_the_next_step(group: KubeSite, break_it: Any, words: str):
    group.make(group.inventory())
    group.gang("t", ["true"])
    group.commit()
    break_it(group.kube)
    said = group("apply", "--yes")
    assert said.code == 4, said
    assert words in said.out + said.err, said
    assert group.kube.count("create") == 0


@pytest.mark.parametrize(("field", "value"), [("namespace", "nowhere"), ("pvc_name", "nothing"), ("queue", "no-queue")])
def test_a_name_that_the_cluster_does_not_have_is_said_and_nothing_is_left(group: KubeSite, field: str, value: str):
    group.make(group.inventory(**{field: value, "stuck_timeout": "60s"}, helper_timeout="5s"))
    group.gang("t", ["true"])
    group.commit()
    said = group("apply", "--yes")
    assert said.code == 4, said
    assert value in said.out + said.err, said
    assert (group.jobs(), group.kube.list("secrets")) == ([], [])
    group.kube.wait(lambda: not group.helpers(), 20)


def test_watch_hears_of_a_preemption_at_once(group: KubeSite):
    """Looks are an hour apart: what happens in the cluster is told by the cluster."""
    group.make(group.inventory(poll="1h"))
    training(group)
    process = group.start("watch", "--interval", "3600", "--idle", "3600")
    try:
        group.until(lambda jobs: jobs["t"]["phase"] == "Running")
        group.kube.preempt(f"{group.jobs()[0]}-worker-1")
        group.kube.wait(lambda: len(list(group.shared.glob("resumed-*"))) == 2, 40)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, (out, err)
    assert "requeue" in out


def test_a_helper_that_was_lost_is_made_again(group: KubeSite):
    group.make(group.inventory())
    (group.repo / "code.sh").write_text("echo one\n")
    group.gang("one", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    process = group.start("watch", "--interval", "0.5", "--idle", "0.5")
    try:
        group.until(lambda jobs: jobs["one"]["phase"] == "Succeeded")
        (lost,) = group.helpers()
        group.kube.delete("jobs", lost)
        (group.repo / "code.sh").write_text("echo two\n")
        group.gang("two", ["sh", "code.sh"], source={"ref": "HEAD"})
        group.commit()
        group.until(lambda jobs: jobs.get("two", {}).get("phase") == "Succeeded")
        assert group.helpers() != [lost]
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, (out, err)
    assert group.helpers() == []


def test_a_look_beside_leaves_the_helper_that_is_in_use(group: KubeSite):
    group.make(group.inventory())
    ok(group("apply", "--yes"))  # the claim has been looked at
    group.gang("t", ["true"])
    group.commit()
    group.kube.slow_start(8.0)
    process = group.start("apply", "--yes", "--wait")
    group.kube.wait(group.helpers, 30)
    used = group.helpers()
    assert group("status").code == 0
    assert set(used) <= set(group.helpers())
    group.kube.slow_start(0.0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert group.helpers() == []

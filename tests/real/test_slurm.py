"""A user's road over a real Slurm cluster: launch, look, lose, requeue, cancel, and what schedulers do to people at night."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.slurm import Cluster, slurm, slurm_lab
from tests.real.conftest import Said, Site

__all__ = ["slurm"]

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("slurm")]
LONG = ["sleep", "600"]
# Ends by itself when it is told to, as a program that checkpoints does.
POLITE = "trap 'echo told; exit 0' TERM; echo began; sleep 600 & wait"


def inventory(cluster: Cluster, root: Path, **host: Any) -> dict[str, Any]:
    return {
        "clusters": {"hpc": {"root": f"{root}/c", "work": f"{root}/w", "share": f"{root}/s"}},
        "gres_mapping": {"h100": "gpu:h100"},
        "hosts": {
            "hpc": {
                "type": "slurm",
                "ssh": "login01",
                "cluster": "hpc",
                "partitions": [{"name": "gpu", "default": True}],
                "cpu_partitions": ["cpu"],
                "connect_timeout": "5s",
                "poll": 0,  # tests have no manners
                **host,
            }
        },
    }


class Group(Site):
    """A group's repository whose jobs go to the cluster, and the hand of somebody with a shell on it."""

    cluster: Cluster
    folder: Path
    before: int = 0
    """The newest job of earlier tests."""

    def queue_of(self, name: str) -> list[str]:
        """`id state` of every job of this test in the queue whose name is of this job, ended ones included."""
        text = self.cluster.slurm.out("squeue", "-h", "-r", "-t", "all", "-o", "%F %i %T %j")
        found = [line.split() for line in text.splitlines()]
        return [
            f"{ident} {word}"
            for base, ident, word, job in found
            if job.startswith(f"general-default-{name}-") and int(base) > self.before
        ]

    def ident(self, name: str) -> str:
        return str(self.status()[name]["handle"])

    def phase(self, name: str, *wanted: str, apply: bool = True) -> dict[str, Any]:
        """Pass after pass until the job is in one of these phases."""
        found: dict[str, Any] = self.until(lambda jobs: jobs[name]["phase"] in wanted, apply=apply)[name]
        return found

    def running(self, name: str) -> dict[str, Any]:
        return self.phase(name, "Running", apply=False)


@pytest.fixture
def group(tmp_path: Path, slurm: Cluster) -> Iterator[Group]:
    (tmp_path / "home").mkdir()
    made = Group(tmp_path)
    made.cluster = slurm
    made.env = {"RECONCILER_SSH_CONFIG": str(slurm.ssh.ssh_config)}
    made.folder = Path(str(slurm.slurm.shared)) / tmp_path.name
    made.make(inventory(slurm, made.folder))
    there = slurm.slurm.out("squeue", "-h", "-t", "all", "-o", "%F").split()
    made.before = max(map(int, there), default=0)
    yield made
    slurm.slurm.clear()
    shutil.rmtree(made.folder, ignore_errors=True)


def ok(said: Said) -> Said:
    assert said.code == 0, said
    return said


# --- launching and looking


def test_a_job_with_its_code_runs_and_its_log_comes_back(group: Group):
    (group.repo / "code.sh").write_text("echo from $(hostname); cat data/x\n")
    (group.repo / "data").mkdir()
    (group.repo / "data" / "x").write_text("payload\n")
    group.job("t", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    assert re.fullmatch(r"from cpu0\d\npayload\n", group("logs", "t").out)
    assert group("plan").code == 0


def test_plan_show_prints_the_very_script_that_slurm_gets(group: Group):
    group.job("t", LONG, request={"chip": "h100", "min_chips": 2, "time": "30m", "mem": "1G"}, slurm={"qos": "low"})
    group.commit()
    shown = ok(group("plan", "--show", "t")).out
    assert "#SBATCH --gres=gpu:h100:2\n" in shown
    assert "#SBATCH --time=0-00:30:00\n" in shown
    ok(group("apply", "--yes"))
    sent = group.cluster.slurm.out("scontrol", "write", "batch_script", group.ident("t"), "-")
    token = re.search(r"--comment=reconciler:(\w+)", sent)
    assert token
    assert sent.rstrip("\n\0") == shown.replace("made-at-launch", token[1]).rstrip("\n")


def test_two_machines_run_one_job_and_each_knows_its_place(group: Group):
    say = 'echo "$RECONCILER_NODE_RANK/$RECONCILER_NUM_NODES $(hostname) $CUDA_VISIBLE_DEVICES $MASTER_ADDR"'
    group.job("t", f"{say}; pwd", request={"chip": "h100", "min_chips": 16})
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    gpus = "0,1,2,3,4,5,6,7"
    first, second = group("logs", "t").out, group("logs", "t", "--worker", "1").out
    assert first.splitlines()[0] == f"0/2 gh01 {gpus} gh01"
    assert second.splitlines()[0] == f"1/2 gh02 {gpus} gh01"
    assert first.splitlines()[1] != second.splitlines()[1]  # each in a work directory of its own
    both = sorted(ok(group("logs", "t", "--all")).out.splitlines())
    assert both == sorted(
        [f"0: {line}" for line in first.splitlines()] + [f"1: {line}" for line in second.splitlines()]
    )


def test_jax_on_two_machines_finds_itself(group: Group):
    pytest.importorskip("jax")
    program = (
        "import faulthandler; faulthandler.enable(); import jax; jax.distributed.initialize(); import jax.numpy as jnp; "
        "from jax.experimental import multihost_utils as m; "
        "print(jax.process_count(), m.process_allgather(jnp.array([jax.process_index()])).tolist()); "
        "jax.distributed.shutdown()"
    )
    group.job(
        "t",
        [sys.executable, "-c", program],
        env={"JAX_PLATFORMS": "cpu"},
        request={"chip": "h100", "min_chips": 2, "mem": "4G"},
        slurm={"nodes": 2},
    )
    group.commit()
    ok(group("apply", "--yes", "--wait", timeout_s=110))
    assert "2 [[0], [1]]" in group("logs", "t").out


def test_one_failing_machine_ends_the_gang_and_is_named(group: Group):
    group.job(
        "t",
        "[ $RECONCILER_NODE_RANK = 0 ] || exit 7; sleep 600",
        request={"chip": "h100", "min_chips": 2},
        slurm={"nodes": 2},
        restart={"failure": 0},
    )
    group.commit()
    ok(group("apply", "--yes"))
    failed = group.phase("t", "Failed")
    assert "Worker 1 on gh02: It ended with exit code 7." in failed["message"]
    assert group.queue_of("t") != []


def test_a_sweep_of_200_is_one_array_and_every_member_has_its_own_end(group: Group):
    body = {
        "command": '[ "$N" != 7 ] || exit 3; echo "member $N"',
        "source": None,
        "restart": {"failure": 0},
        "sweep": {"grid": {"env.N": [str(number) for number in range(200)]}},
    }
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": "s"}, "spec": body}
    group.path("s").write_text(json.dumps(document))
    group.commit()
    ok(group("apply", "--yes"))
    arrays = {ident.partition("_")[0] for ident in (line.split()[0] for line in group.queue_of("s"))}
    assert len(arrays) == 1
    found = group.until(lambda jobs: all(job["phase"] in ("Succeeded", "Failed") for job in jobs.values()), apply=True)
    assert [name for name, job in found.items() if job["phase"] == "Failed"] == ["s-N-7"]
    assert len(found) == 200
    assert group("logs", "s-N-133").out == "member 133\n"


def test_a_member_of_an_array_is_requeued_by_itself(group: Group):
    mark = group.folder / "second"
    body = {
        "command": f'if [ "$N" = 1 ] && [ ! -e {mark} ]; then touch {mark}; exit 9; fi; echo "$N $RECONCILER_ATTEMPT"',
        "source": None,
        "restart": {"failure": 1, "backoff": {"initial": 0}},
        "sweep": {"grid": {"env.N": ["0", "1", "2"]}},
    }
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": "s"}, "spec": body}
    group.path("s").write_text(json.dumps(document))
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    assert [group("logs", f"s-N-{n}").out for n in range(3)] == ["0 1\n", "1 2\n", "2 1\n"]


# --- refused in the plan, or by Slurm


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"slurm": {"partition": "nope"}}, "there is no partition nope (the cluster has: cpu, gpu"),
        ({"request": {"chip": "h100", "min_chips": 64}}, "needs 8 machines with 8 h100, partition gpu has 2"),
        ({"request": {"time": "30d"}}, "30d asked, partition cpu allows 1d"),
        ({"request": {"chip": "b200", "min_chips": 1}}, "partition gpu has no b200 (it has:"),
    ],
)
def test_what_can_never_run_is_refused_in_the_plan(group: Group, spec, said):
    group.job("t", LONG, **spec)
    group.commit()
    plan = group("plan")
    assert plan.code == 4
    assert "! hold" in plan.out
    assert said in plan.out
    assert group("apply", "--yes").code == 4
    assert group.queue_of("t") == []


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"account": "nope"}, "Invalid account or account/partition combination specified"),
        ({"qos": "nope"}, "Invalid qos specification"),
        ({"constraint": "nope"}, "Invalid feature specification"),
    ],
)
def test_what_slurm_refuses_fails_with_its_words_and_is_not_tried_again(group: Group, over, said):
    group.job("t", LONG, slurm=over)
    group.commit()
    first = group("apply", "--yes")
    assert said in first.err
    assert "spec.slurm." in first.err
    assert group.status()["t"]["phase"] == "Failed"
    again = group("apply", "--yes")
    assert "Nothing to do" in again.out
    assert not list(group.folder.glob("c/status/general/default/t/*/claim"))
    group.job("t", LONG, slurm={"partition": "cpu"})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")


def test_a_root_that_the_machines_do_not_see_fails_once_with_the_reason(group: Group):
    """Every machine of the lab has a /tmp of its own, as most have."""
    listed = inventory(group.cluster, Path("/tmp/only-here"))
    (group.repo / "manifests" / "inventory.yaml").write_text(json.dumps(listed))
    group.job("t", LONG)
    group.commit()
    group("apply", "--yes")
    failed = group.phase("t", "Failed")
    assert "does not see the run's directory" in failed["message"]
    assert "reconciler doctor hpc" in failed["message"]
    assert failed["attempt"] == 1
    report = group("doctor", "hpc").out
    assert "BAD shared directories from cpu: not visible: /tmp/only-here/c" in report


# --- ends of all kinds


def test_a_preempted_run_goes_on_from_its_checkpoint(group: Group):
    """The low run really loses its GPUs to a higher partition, and resumes after it."""
    pytest.importorskip("numpy")
    program = Path(__file__).parents[2] / "examples" / "tiny-jax" / "train.py"
    pytest.importorskip("jax")
    config = {"steps": 60_000, "batch": 8, "width": 8, "depth": 1, "checkpoint_every": 50, "report_every": 10}
    group.job(
        "low",
        [sys.executable, str(program)],
        env={"JAX_PLATFORMS": "cpu"},
        config=config,
        request={"chip": "h100", "min_chips": 8, "mem": "4G"},
        slurm={"partition": "gpu-preempt"},
    )
    group.commit()
    ok(group("apply", "--yes"))
    group.until(lambda jobs: (jobs["low"]["checkpoint_step"] or 0) >= 50)
    group.job("high", ["sleep", "4"], request={"chip": "h100", "min_chips": 16})
    group.commit()
    ok(group("apply", "--yes"))
    group.until(lambda jobs: jobs["low"]["attempt"] == 2 and jobs["low"]["phase"] == "Running", apply=True)
    assert "preempted" in group("history", "low").out.lower()
    text = ""
    deadline = time.monotonic() + 40
    while "resuming from step" not in text and time.monotonic() < deadline:
        text = group("logs", "low").out
    assert "resuming from step" in text
    assert "checkpoint written" in group("logs", "low", "--attempt", "1").out  # one log per attempt


def test_a_partition_that_cancels_instead_of_requeueing_is_a_preemption_too(group: Group):
    group.job("low", LONG, request={"chip": "h100", "min_chips": 8}, slurm={"partition": "gpu-cancel"})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("low")
    group.job("high", ["sleep", "3"], request={"chip": "h100", "min_chips": 16})
    group.commit()
    ok(group("apply", "--yes"))
    group.until(lambda jobs: jobs["low"]["attempt"] == 2, apply=True)
    assert "Preempted (preemption)" in group("history", "low").out


def test_a_machine_that_is_lost_costs_an_attempt_of_the_infrastructure_budget(group: Group):
    group.job("t", LONG, slurm={"nodelist": ["cpu02"]})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")
    group.cluster.slurm.set_node("cpu02", "down")
    try:
        found = group.until(lambda jobs: jobs["t"]["attempt"] == 2, apply=True)["t"]
        assert found["phase"] in ("Pending", "Queued")
        told = group("explain", "t").out
        assert "NODE_FAIL" in told
        assert "infrastructure 1 of 10" in told
        group.phase("t", "Queued", apply=False)
        assert "not available" in group("explain", "t").out
    finally:
        group.cluster.slurm.set_node("cpu02", "resume")
    group.running("t")


def test_a_time_limit_is_an_end_of_its_own(group: Group):
    group.job("t", LONG, request={"time": "10m"})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")
    group.cluster.slurm.out("scontrol", "update", f"JobId={group.ident('t')}", "TimeLimit=1", "EndTime=now")
    deadline = time.monotonic() + 60
    while group("apply", "--yes") and group.status()["t"]["phase"] != "Failed":
        assert time.monotonic() < deadline, group.status()
        time.sleep(1)
    message = group.status()["t"]["message"]
    assert "TIMEOUT" in message
    assert "time" in message


def test_a_run_is_told_before_its_time_is_up_and_goes_on_in_the_next_attempt(group: Group):
    """Chaining over the time limit without a change to the program: `warn` before the end, TERM, checkpoint, again."""
    group.job(
        "t",
        POLITE,
        request={"time": "1m"},
        slurm={"warn": "55s"},
        restart={"timeout": "unlimited", "backoff": {"initial": 0}},
    )
    group.commit()
    ok(group("apply", "--yes"))
    deadline = time.monotonic() + 70
    while group("apply", "--yes") and not (found := group.status()["t"])["run_id"].endswith("-2"):
        assert time.monotonic() < deadline, found
        time.sleep(1)
    assert "told" in group("logs", "t", "--attempt", "1").out
    assert "Its time limit was near" in group("history", "t").out


def test_somebody_elses_scancel_is_respected(group: Group):
    group.job("t", POLITE)
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")
    group.cluster.slurm.out("scancel", group.ident("t"))
    found = group.phase("t", "Cancelled")
    assert "CANCELLED" in found["message"]
    assert "raise spec.generation" in found["message"]
    assert "Nothing to do" in group("apply", "--yes").out


def test_a_job_that_somebody_cancelled_while_it_waited_is_respected_too(group: Group):
    group.job("t", LONG, request={"chip": "h100", "min_chips": 8}, slurm={"directives": ["--begin=now+1hour"]})
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Queued", apply=False)
    group.cluster.slurm.out("scancel", group.ident("t"))
    assert "CANCELLED" in group.phase("t", "Cancelled")["message"]


def test_a_held_job_is_explained_with_the_command_that_releases_it(group: Group):
    group.job("t", LONG, request={"chip": "h100", "min_chips": 8}, slurm={"directives": ["--begin=now+1hour"]})
    group.commit()
    ok(group("apply", "--yes"))
    ident = group.ident("t")
    told = group("explain", "t").out
    assert "earliest start" in told
    assert re.search(r"expects to start it at \d{4}-", told)
    group.cluster.slurm.out("scontrol", "hold", ident)
    assert f"scontrol release {ident}" in group("explain", "t").out


def test_what_we_are_asked_to_end_ends_and_keeps_its_reason(group: Group):
    group.job("run", POLITE)
    group.job("wait", LONG, slurm={"directives": ["--begin=now+1hour"]})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("run")
    group("suspend", "run")
    group("cancel", "wait")
    found = group.until(
        lambda jobs: (jobs["run"]["phase"], jobs["wait"]["phase"]) == ("Suspended", "Cancelled"), apply=True
    )
    assert found["run"]["attempt"] == 1
    assert "told" in group("logs", "run").out
    group("resume", "run")
    group("apply", "--yes")
    assert group.running("run")["attempt"] == 2
    group.path("run").unlink()
    group.path("wait").unlink()
    group.commit()
    group("apply", "--yes", "--confirm-delete", "1")
    deadline = time.monotonic() + 20
    while any(line.split()[1] in ("RUNNING", "PENDING", "COMPLETING") for line in group.queue_of("run")):
        assert time.monotonic() < deadline, group.queue_of("run")
        time.sleep(0.1)


# --- who owns restarts


def test_slurm_may_own_restarts_then_we_only_wait_and_the_log_goes_on(group: Group):
    group.job("t", "echo began; sleep 600", restart={"owner": "slurm"}, slurm={"nodelist": ["cpu02"]})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")
    ident = group.ident("t")
    group.cluster.slurm.set_node("cpu02", "down")
    try:
        waits = group.phase("t", "Queued")
        assert (waits["attempt"], waits["handle"]) == (1, ident)
    finally:
        group.cluster.slurm.set_node("cpu02", "resume")
    assert group.running("t")["attempt"] == 1
    deadline = time.monotonic() + 20
    while group("logs", "t").out.count("began") < 2:
        assert time.monotonic() < deadline, group("logs", "t").out
    assert "anew (restart 1)" in group("logs", "t").out
    assert len(group.queue_of("t")) == 1


def test_a_requeue_by_an_administrator_is_the_same_attempt(group: Group):
    group.job("t", "echo began; sleep 600", restart={"owner": "slurm"})
    group.commit()
    ok(group("apply", "--yes"))
    group.running("t")
    ident = group.ident("t")
    group.cluster.slurm.out("scontrol", "requeue", ident)
    group.phase("t", "Queued")
    found = group.running("t")
    assert (found["attempt"], found["handle"]) == (1, ident)


def test_a_run_that_has_completed_is_not_started_again_by_anybody(group: Group):
    group.job("t", "echo ran", restart={"owner": "slurm"}, secrets={"KEY": {"env": "KEY"}})
    group.env["KEY"] = "hunter2-x"
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    [line] = group.queue_of("t")
    ident = line.split()[0]
    group.cluster.slurm.out("scontrol", "requeue", ident)
    deadline = time.monotonic() + 40
    while group.queue_of("t") != [f"{ident} FAILED"]:
        assert time.monotonic() < deadline, group.queue_of("t")
        time.sleep(0.2)
    assert group("logs", "t").out == "ran\n"
    assert group.status()["t"]["phase"] == "Succeeded"


# --- when Slurm itself is away


def test_a_controller_that_is_down_holds_everything_and_nothing_is_lost(group: Group):
    mark = group.folder / "go"
    group.job("ends", f"while [ ! -e {mark} ]; do sleep 0.1; done; echo done")
    group.job("stays", LONG)
    group.commit()
    ok(group("apply", "--yes"))
    group.running("ends")
    group.running("stays")
    group.cluster.slurm.stop_controller()
    try:
        mark.touch()
        group.job("new", LONG)
        group.commit()
        said = group("apply", "--yes")
        assert said.code == 4
        assert "Unable to contact slurm controller" in said.out
        found = group.status()
        assert {job["phase"] for job in found.values()} <= {"Unknown", "Pending"}
        assert [job["attempt"] for job in found.values()] == [1, 0, 1]
    finally:
        group.cluster.slurm.start_controller()
    found = group.until(
        lambda jobs: jobs["ends"]["phase"] == "Succeeded" and jobs["new"]["phase"] == "Running", apply=True
    )
    assert found["stays"]["phase"] == "Running"
    assert found["stays"]["attempt"] == 1


def test_without_the_accounting_what_it_alone_knows_is_not_guessed(group: Group, fresh_slurm_group: Group):
    """A run that was cancelled while nobody looked, after the queue has forgotten it: only the history can tell."""
    lonely = fresh_slurm_group
    lonely.job("t", POLITE)
    lonely.commit()
    ok(lonely("apply", "--yes"))
    lonely.running("t")
    ident = lonely.ident("t")
    lonely.cluster.slurm.out("scancel", ident)
    deadline = time.monotonic() + 40
    while lonely.queue_of("t"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    lonely.cluster.slurm.stop_dbd()
    try:
        said = lonely("apply", "--yes")
        assert said.code == 4
        assert "only slurm's history can say" in said.out
        assert lonely.status()["t"]["phase"] == "Unknown"
    finally:
        lonely.cluster.slurm.start_dbd()
    found = lonely.phase("t", "Cancelled")
    assert "CANCELLED" in found["message"]


@pytest.fixture
def fresh_slurm_group(tmp_path: Path) -> Iterator[Group]:
    """A cluster that forgets ended jobs within seconds, with accounting."""
    from tests.lab.slurm import login_node

    root = tmp_path / "fresh"
    (root / "home").mkdir(parents=True)
    with slurm_lab(min_job_age_s=2) as lab, login_node(lab) as ssh:
        made = Group(root)
        made.cluster = Cluster(lab, ssh)
        made.env = {"RECONCILER_SSH_CONFIG": str(ssh.ssh_config)}
        made.folder = Path(str(lab.shared)) / "g"
        made.make(inventory(made.cluster, made.folder))
        yield made


def test_a_run_that_ended_while_nobody_looked_is_known_from_the_history(fresh_slurm_group: Group):
    lonely = fresh_slurm_group
    lonely.job("ok", "sleep 1; echo fine")
    lonely.job("killed", LONG, restart={"infrastructure": 0}, slurm={"nodelist": ["cpu02"]})
    lonely.commit()
    ok(lonely("apply", "--yes"))
    lonely.running("killed")
    lonely.cluster.slurm.set_node("cpu02", "down")
    deadline = time.monotonic() + 40
    while lonely.queue_of("ok") or lonely.queue_of("killed"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    lonely("apply", "--yes")
    found = lonely.until(lambda jobs: {job["phase"] for job in jobs.values()} <= {"Succeeded", "Failed"}, apply=True)
    assert found["ok"]["phase"] == "Succeeded"
    assert "NODE_FAIL" in found["killed"]["message"]


def test_over_memory_is_its_own_cause(group: Group):
    """Here Slurm itself watches memory, and says so only beside the program's output."""
    greedy = "data = bytearray(600 << 20); data[::4096] = b'x' * len(data[::4096]); import time; time.sleep(30)"
    group.job("t", [sys.executable, "-c", greedy], request={"mem": "200M"})
    group.commit()
    ok(group("apply", "--yes"))
    found = group.phase("t", "Failed")
    assert "more memory than it had asked for" in found["message"]
    assert "this cause is not requeued" in found["message"]


def test_over_memory_by_cgroup_is_the_same_cause(tmp_path: Path):
    from tests.lab.slurm import login_node

    (tmp_path / "home").mkdir(parents=True)
    with slurm_lab(cgroup=True) as lab, login_node(lab) as ssh:
        made = Group(tmp_path)
        made.cluster = Cluster(lab, ssh)
        made.env = {"RECONCILER_SSH_CONFIG": str(ssh.ssh_config)}
        made.folder = Path(str(lab.shared)) / "g"
        made.make(inventory(made.cluster, made.folder))
        greedy = "data = bytearray(600 << 20); data[::4096] = b'x' * len(data[::4096]); import time; time.sleep(30)"
        made.job("t", [sys.executable, "-c", greedy], request={"mem": "200M"})
        made.commit()
        ok(made("apply", "--yes"))
        found = made.phase("t", "Failed")
        assert "memory" in found["message"].lower()
        assert "this cause is not requeued" in found["message"]


# --- tools


def test_discover_writes_an_inventory_entry_that_works(group: Group):
    found = ok(group("hosts", "--discover", "login01"))
    import yaml

    entry = yaml.safe_load(found.out)
    host = entry["hosts"]["login01"]
    assert host["type"] == "slurm"
    assert {"name": "gpu", "default": True} in host["partitions"]
    assert host["cpu_partitions"] == ["cpu"]
    assert host["chips"]["h100"] == 16
    whole = {**inventory(group.cluster, group.folder), **entry}
    whole["hosts"]["login01"]["cluster"] = "hpc"
    (group.repo / "manifests" / "inventory.yaml").write_text(yaml.safe_dump(whole))
    group.job("t", ["true"], request={"chip": "h100", "min_chips": 1})
    group.commit()
    ok(group("apply", "--yes", "--wait"))


def test_doctor_looks_behind_the_queue(group: Group):
    said = group("doctor", "hpc")
    assert "ok  shared directories from gpu: visible" in said.out
    assert "ok  accounting: answers" in said.out
    assert "ok  arrays: up to" in said.out
    assert "BAD" not in said.out.partition("hpc\n")[2]


def test_hosts_counts_what_is_free_on_machines_that_take_work(group: Group):
    group.cluster.slurm.set_node("gh02", "drain")
    try:
        assert "8 of 16 h100 free" in ok(group("hosts")).out
    finally:
        group.cluster.slurm.set_node("gh02", "resume")

"""The lab's Slurm cluster is a real one: what the tests of the Slurm backend stand on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import slurm as slurm_module
from tests.lab.slurm import Cluster, SlurmLab, login_node, require_slurm, slurm_lab
from tests.lab.slurm_conf import GPUS, NODES
from tests.lab.slurm_machines import hostname_is_local, until

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("slurm")]

Fresh = Callable[..., SlurmLab]
# Appends, for a job that is requeued starts its output anew.
LOOP = "echo run ${SLURM_RESTART_COUNT:-0}\nwhile :; do sleep 0.1; done"


@pytest.fixture
def site(slurm: Cluster) -> Iterator[SlurmLab]:
    yield slurm.slurm
    slurm.slurm.clear()


def over_ssh(cluster: Cluster, command: str, host: str = "login01") -> str:
    argv = ["ssh", "-F", str(cluster.ssh.ssh_config), host, command]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, done
    return done.stdout.strip()


class TestLoginNode:
    def test_a_job_submitted_over_ssh_runs_on_a_node_and_writes_into_shared(
        self, slurm: Cluster, site: SlurmLab
    ) -> None:
        command = f"cd {site.shared} && sbatch --parsable -p cpu -w cpu02 --wrap 'echo $SLURMD_NODENAME $(hostname)'"
        job = over_ssh(slurm, command)
        site.reach(job, "COMPLETED")
        assert site.output(job) == ("cpu02 cpu02\n" if site.namespaces else site.output(job))
        assert over_ssh(slurm, f"cat {site.shared}/slurm-{job}.out") == site.output(job).strip()

    def test_it_sees_the_queue_and_runs_steps(self, slurm: Cluster, site: SlurmLab) -> None:
        job = site.sbatch(LOOP, "-p", "cpu", "-J", "seen")
        site.reach(job, "RUNNING")
        assert over_ssh(slurm, "squeue -h -o '%i %j %T'") == f"{job} seen RUNNING"
        assert over_ssh(slurm, "srun -p cpu -w cpu02 sh -c 'echo $SLURMD_NODENAME'") == "cpu02"
        assert "sbatch:" not in over_ssh(slurm, "sbatch --version 2>&1")

    def test_home_is_shared_and_tmp_is_not(self, slurm: Cluster, site: SlurmLab) -> None:
        if not site.namespaces:
            pytest.skip("needs machines of their own: root and Linux namespaces")
        over_ssh(slurm, "echo login > ~/mine; echo login > /tmp/mine")
        job = site.sbatch(
            "cat ~/mine; cat /tmp/mine 2>/dev/null; hostname; cat /proc/sys/kernel/random/boot_id", "-w", "gh01"
        )
        site.reach(job, "COMPLETED")
        mine, hostname, boot = site.output(job).split()
        assert (mine, hostname) == ("login", "gh01")
        assert boot != over_ssh(slurm, "cat /proc/sys/kernel/random/boot_id")


class TestNodes:
    def test_a_step_of_two_tasks_sees_two_machines(self, site: SlurmLab) -> None:
        what = "hostname" if site.namespaces else "printenv SLURMD_NODENAME"
        assert sorted(site.out("srun", "-p", "cpu", "-N2", *what.split()).split()) == ["cpu01", "cpu02"]

    @pytest.mark.parametrize("node", GPUS)
    def test_a_typed_gpu_is_numbered(self, site: SlurmLab, node: str) -> None:
        model, _ = GPUS[node]
        job = site.sbatch("echo $CUDA_VISIBLE_DEVICES", "-w", node, f"--gres=gpu:{model}:2")
        site.reach(job, "COMPLETED")
        assert site.output(job) == "0,1\n"

    def test_no_more_gpus_than_there_are(self, site: SlurmLab) -> None:
        refused = site.run("sbatch", "--gres=gpu:a100-sxm4-80gb:5", "--wrap", "true")
        assert refused.returncode == 1
        assert "Requested node configuration is not available" in refused.stderr

    def test_down_by_hand_ends_its_job_and_stays_down(self, site: SlurmLab) -> None:
        job = site.sbatch(LOOP, "-p", "cpu", "-w", "cpu01", "--no-requeue")
        site.reach(job, "RUNNING")
        site.set_node("cpu01", "down", "power supply")
        assert site.node_state("cpu01").startswith("DOWN")
        site.reach(job, "NODE_FAIL")
        site.set_node("cpu01", "resume")
        until("it is back", lambda: site.node_state("cpu01") == "IDLE")

    def test_a_drained_one_takes_no_job(self, site: SlurmLab) -> None:
        site.set_node("cpu01", "drain")
        site.set_node("cpu02", "drain")
        job = site.sbatch("true", "-p", "cpu")
        assert site.job(job)["JobState"] == "PENDING"
        site.set_node("cpu01", "resume")
        site.reach(job, "COMPLETED")
        assert site.job(job)["NodeList"] == "cpu01"

    def test_slurmd_stopped_and_started_keeps_its_job(self, site: SlurmLab) -> None:
        job = site.sbatch(LOOP, "-p", "cpu", "-w", "cpu01")
        until("it runs", lambda: site.output(job))
        site.stop_node("cpu01")
        site.start_node("cpu01")
        assert site.job(job)["JobState"] == "RUNNING"

    def test_power_off_kills_what_ran_there_only(self, fresh_slurm: Fresh) -> None:
        own = fresh_slurm()
        jobs = {node: own.sbatch(f"setsid sh -c '{LOOP}'", "-p", "cpu", "-w", node) for node in ("cpu01", "cpu02")}
        for job in jobs.values():
            until("it runs", lambda job=job: own.output(job))
        before = set(own.processes())
        own.kill_node("cpu01")
        gone = before - set(own.processes())
        assert len(gone) >= 3  # slurmd, slurmstepd, sh
        assert own.job(jobs["cpu02"])["JobState"] == "RUNNING"
        own.set_node("cpu01", "down", "power supply")
        until("its job runs elsewhere", lambda: own.job(jobs["cpu01"])["Restarts"] == "1")
        own.start_node("cpu01")
        own.set_node("cpu01", "resume")
        until("it is back", lambda: own.node_state("cpu01") == "IDLE")


class TestPreemption:
    ALL = ("-N2", "--gres=gpu:h100:8", "--open-mode=append")

    def test_a_high_job_requeues_a_low_one(self, site: SlurmLab) -> None:
        low = site.sbatch(LOOP, "-p", "gpu-preempt", *self.ALL)
        until("it runs", lambda: site.output(low))
        high = site.sbatch("exit 0", "-p", "gpu", *self.ALL)
        site.reach(high, "COMPLETED")
        assert site.job(low)["Restarts"] == "1"
        until("it runs again", lambda: "run 1" in site.output(low))

        def rows() -> list[str]:
            return site.out("sacct", "-nPXD", "-j", low, "-o", "State").split()

        until("accounting has both runs", lambda: rows() == ["PREEMPTED", "RUNNING"])

    def test_a_high_job_cancels_a_low_one(self, site: SlurmLab) -> None:
        low = site.sbatch(LOOP, "-p", "gpu-cancel", *self.ALL)
        until("it runs", lambda: site.output(low))
        high = site.sbatch("exit 0", "-p", "gpu", *self.ALL)
        site.reach(high, "COMPLETED")
        assert site.reach(low, "PREEMPTED") == "PREEMPTED"

    def test_a_high_job_waits_for_a_high_one(self, site: SlurmLab) -> None:
        first = site.sbatch(LOOP, *self.ALL)
        site.reach(first, "RUNNING")
        second = site.sbatch("true", *self.ALL)
        until("it is considered", lambda: site.job(second)["Reason"] in {"Resources", "Priority"})
        assert site.job(first)["JobState"] == "RUNNING"


class TestQueue:
    def test_an_array_runs_task_by_task(self, site: SlurmLab) -> None:
        job = site.sbatch("echo $SLURM_ARRAY_TASK_ID", "-p", "cpu", "-a", "1-3", "-J", "many", "-o", "a-%a.out")

        def done() -> bool:
            return {row.state for row in site.squeue() if row.name == "many"} == {"COMPLETED"}

        until("all tasks are done", done)
        assert sorted(site.jobs_of("many")) == [f"{job}_1", f"{job}_2", f"{job}_3"]
        assert [(site.shared / f"a-{n}.out").read_text() for n in (1, 2, 3)] == ["1\n", "2\n", "3\n"]

    def test_accounting_knows_what_ran_and_for_whom(self, site: SlurmLab) -> None:
        job = site.sbatch("exit 7", "-p", "cpu", "-A", "team-b", "-J", "it's", "--comment=token:8f1c")

        def record() -> str:
            return site.out("sacct", "-nPX", "-j", job, "-o", "State,ExitCode,Account,JobName,Comment")

        until(lambda: f"accounting has it: {record()}", lambda: record() == "FAILED|7:0|team-b|it's|token:8f1c")
        refused = site.run("sbatch", "-p", "cpu", "-A", "team-c", "--wrap", "true")
        assert refused.returncode == 1
        assert "Invalid account" in refused.stderr

    def test_options_are_heeded(self, fresh_slurm: Fresh) -> None:
        own = fresh_slurm(max_array_size=11, grace_s=7, more="MaxJobCount=3")
        assert own.run("sbatch", "-p", "cpu", "-a", "0-11", "--wrap", "true").returncode == 1
        assert "GraceTime=7" in own.out("scontrol", "show", "partition", "gpu-preempt")
        assert "MaxJobCount             = 3\n" in own.out("scontrol", "show", "config")


class TestOutages:
    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_jobs_outlive_the_controller(self, site: SlurmLab, how: str) -> None:
        job = site.sbatch(LOOP, "-p", "cpu")
        until("it runs", lambda: site.output(job))
        if how == "kill":
            # What was saved is known afterwards; it saves within some seconds, and when it stops.
            site.stop_controller()
            site.start_controller()
        (site.stop_controller if how == "stop" else site.kill_controller)()
        try:
            assert "is DOWN" in site.run("scontrol", "ping").stdout
            if how == "stop":
                assert site.run("squeue").returncode == 1
        finally:
            site.start_controller()
        assert site.job(job)["JobState"] == "RUNNING"

    def test_a_controller_that_hangs_answers_nobody(self, site: SlurmLab) -> None:
        site.freeze_controller()
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                site.run("squeue", timeout_s=0.5)
        finally:
            site.thaw_controller()
        assert site.squeue() is not None

    def test_accounting_down_and_up_again(self, site: SlurmLab) -> None:
        site.stop_dbd()
        try:
            job = site.sbatch("true", "-p", "cpu")
            site.reach(job, "COMPLETED")
            assert site.run("sacct", "-nPX", "-j", job).returncode == 1
        finally:
            site.start_dbd()
        until("it is told", lambda: site.out("sacct", "-nPX", "-j", job, "-o", "State") == "COMPLETED")


class TestMemory:
    HUNGRY = "python3 -c 'x = bytearray(300 << 20)' || exit 1"

    def test_a_job_over_its_memory_is_ended(self) -> None:
        with slurm_lab(accounting=False, cgroup=True) as own, slurm_lab(accounting=False, cgroup=True) as other:
            jobs = [(it, it.sbatch(self.HUNGRY, "-p", "cpu", "--mem=100M")) for it in (own, other)]
            for it, job in jobs:
                assert it.reach(job, "COMPLETED", "FAILED", "OUT_OF_MEMORY") == "OUT_OF_MEMORY"
                assert it.job(job)["ExitCode"] == "0:125"


class TestTheEnd:
    def test_nothing_is_left(self) -> None:
        with slurm_lab(accounting=False) as own, login_node(own) as ssh:
            # One that left its job, and one that keeps nothing of the environment by which it could be found.
            own.sbatch("setsid sh -c 'echo $$ > left; exec sleep 1000' & exec sleep 1000", "-p", "cpu", "--export=NONE")
            own.sbatch("exec env -i sh -c 'trap : TERM; echo $$ > bare; while :; do sleep 0.1; done'", "-p", "cpu")
            over_ssh(Cluster(own, ssh), f"cd {own.shared} && sbatch -p cpu --wrap 'echo $$ > far; exec sleep 1000'")
            for name in ("left", "bare", "far"):
                file = own.shared / name
                pid = until(f"{name} runs", lambda file=file: file.exists() and file.read_text().strip())
                assert int(pid) in own.processes()
            assert len(own.processes()) >= 3 + 2 + len(NODES)
            began = time.monotonic()
        assert time.monotonic() - began < 10
        assert own.processes() == []
        assert not own.root.exists()

    def test_two_at_once_are_two(self, fresh_slurm: Fresh) -> None:
        one, two = fresh_slurm(), fresh_slurm()
        job = one.sbatch("true", "-p", "cpu", "-J", "only-here")
        one.reach(job, "COMPLETED")
        assert (one.jobs_of("only-here"), two.jobs_of("only-here")) == ([job], [])

    def test_without_namespaces_too(self, fresh_slurm: Fresh) -> None:
        if not hostname_is_local():
            pytest.skip("the daemons listen at the address of the hostname, which is not 127.0.0.1 here")
        own = fresh_slurm(namespaces=False)
        with login_node(own) as ssh:
            job = over_ssh(Cluster(own, ssh), f"cd {own.shared} && sbatch --parsable -p cpu --wrap 'exec sleep 1000'")
            own.reach(job, "RUNNING")


class TestWhereThereIsNone:
    def test_it_skips_and_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(slurm_module, "SBIN", "")
        with pytest.raises(pytest.skip.Exception, match=r"apt-get install .*slurmctld"):
            require_slurm()

    def test_ci_does_not_skip(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(slurm_module, "SBIN", "")
        with pytest.raises(pytest.fail.Exception, match="apt-get install"):
            require_slurm()

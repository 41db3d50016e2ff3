"""The first process of a container, run as Kubernetes would: its place in the environment, signals, a termination message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import pod, process
from tests.runtime.host import Host, wait_for


class Container:
    """One process `bootstrap.sh pod DIRECTORY`, and what the kubelet would keep of it."""

    def __init__(self, host: Host, run: dict[str, Any], rank: int, count: int, secrets: dict[str, str]) -> None:
        self.run = run
        self.folder = host.base / f"pod-{run['attempt']}-{rank}-{os.urandom(3).hex()}"
        self.folder.mkdir()
        (self.folder / "record.json").write_text(json.dumps({**run, "queue": {"system": "volcano"}}))
        (self.folder / "secrets.json").write_text(json.dumps(secrets))
        place = {
            "VC_TASK_INDEX": str(rank),
            "VC_WORKER_NUM": str(count),
            "VC_WORKER_HOSTS": ",".join(f"job-worker-{one}.job" for one in range(count)),
        }
        environ = {**host.environ, **place, "RECONCILER_TERMINATION_LOG": str(self.folder / "termination")}
        self.output = (self.folder / "output").open("wb")
        self.process = subprocess.Popen(
            ["sh", str(host.bundle / "bootstrap.sh"), "pod", str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )

    def wait(self) -> int:
        return self.process.wait(30)

    @property
    def said(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def message(self) -> dict[str, Any]:
        """The termination message; a file that is not whole JSON fails."""
        data = (self.folder / "termination").read_bytes()
        assert len(data) <= 4096
        told: dict[str, Any] = json.loads(data)
        return told

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()


Start = Callable[..., Container]


@pytest.fixture
def start(host: Host) -> Iterator[Start]:
    made: list[Container] = []

    def call(run: dict[str, Any], rank: int = 0, count: int = 1, secrets: dict[str, str] | None = None) -> Container:
        made.append(Container(host, run, rank, count, secrets or {}))
        return made[-1]

    yield call
    for one in made:
        one.end()


def worker(run: dict[str, Any], rank: int) -> Path:
    return Path(run["status_dir"]) / "workers" / str(rank)


def test_a_run_is_claimed_supervised_shown_and_told(host, start):
    run = host.run(shell="echo out; echo err >&2; echo $RECONCILER_RUN_ID $THESEUS", env={"THESEUS": "yes"})
    container = start(run)
    assert container.wait() == 0
    assert container.said == host.log(run) == f"out\nerr\n{run['run_id']} yes\n"
    told = container.message
    assert (told["status"], told["exit_code"], told["run_id"]) == ("completed", 0, run["run_id"])
    record = host.metadata(run)
    assert record["status"] == "completed"
    assert record["slurm_job_id"] is None
    assert not Path(run["work_dir"]).exists()
    assert not (host.status / ".live" / run["run_id"]).exists()


def test_a_program_that_fails_is_told_with_its_last_words(host, start):
    run = host.run(shell="echo boom; exit 3")
    container = start(run)
    assert container.wait() == 3
    assert (container.message["status"], container.message["cause"], container.message["exit_code"]) == (
        "failed",
        "failure",
        3,
    )
    assert "boom" in container.message["message"]


def test_programs_of_a_gang_start_when_all_pods_are_ready(host, start):
    shell = 'ls "$RECONCILER_STATUS_DIR"/workers/*/ready | wc -l; echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES'
    run = host.run(shell=shell)
    first = start(run, 0, 2)
    wait_for((worker(run, 0) / "ready").exists)
    wait_for(lambda: host.metadata(run)["phase_detail"] == "1 of 2 pods are ready")
    assert first.said == ""
    second = start(run, 1, 2)
    assert (first.wait(), second.wait()) == (0, 0)
    assert first.said.split("\n")[:2] == ["2", "0 of 2"]
    assert second.said.split("\n")[:2] == ["2", "1 of 2"]
    record = host.metadata(run)
    assert record["status"] == "completed"
    assert [(one["rank"], one["status"]) for one in record["workers"]] == [(0, "completed"), (1, "completed")]
    assert (worker(run, 1) / "output.log").read_text() == second.said


def test_the_second_pod_may_come_first(host, start):
    run = host.run(shell="echo $RECONCILER_NODE_RANK $RECONCILER_COORDINATOR")
    second = start(run, 1, 2)
    first = start(run, 0, 2)
    assert (first.wait(), second.wait()) == (0, 0)
    places = [one.said.split() for one in (first, second)]
    assert [rank for rank, _ in places] == ["0", "1"]
    assert places[0][1] == places[1][1]
    assert places[0][1].startswith("job-worker-0.job:")


def test_the_first_pod_tells_of_a_failure_elsewhere(host, start):
    """As Volcano does it: a pod failed, so the job is terminated, which sends TERM to the other."""
    shell = '[ "$RECONCILER_NODE_RANK" = 1 ] && exit 7; trap "exit 0" TERM; sleep 60 & wait'
    run = host.run(shell=shell)
    first, second = start(run, 0, 2), start(run, 1, 2)
    assert second.wait() == 7
    first.process.terminate()
    assert first.wait() == 7
    record = host.metadata(run)
    assert (record["status"], record["cause"], record["exit_code"]) == ("failed", "failure", 7)
    assert record["message"].startswith("Worker 1 on ")
    assert first.message["message"] == record["message"]
    assert (second.message["rank"], second.message["cause"]) == (1, "failure")


def test_the_first_pod_waits_for_the_end_of_the_others(host, start):
    run = host.run(
        shell='[ "$RECONCILER_NODE_RANK" = 0 ] || while [ ! -e "$RECONCILER_RESULTS_DIR/go" ]; do sleep 0.05; done'
    )
    first, second = start(run, 0, 2), start(run, 1, 2)
    wait_for(lambda: Path(run["status_dir"], "metadata.json").exists())
    wait_for(lambda: "waiting for workers [1]" in host.metadata(run)["phase_detail"])
    before = host.metadata(run)["seq"]
    wait_for(lambda: host.metadata(run)["seq"] > before)  # it is still alive
    (Path(run["results_dir"]) / "go").touch()
    assert (first.wait(), second.wait()) == (0, 0)
    assert host.metadata(run)["status"] == "completed"


def test_term_lets_the_program_checkpoint(host, start):
    run = host.run(shell='trap "echo saved; exit 0" TERM; echo up; sleep 60 & wait')
    container = start(run)
    wait_for(lambda: "up" in container.said)
    container.process.terminate()
    assert container.wait() != 0
    assert container.said == "up\nsaved\n"
    assert (container.message["status"], container.message["cause"]) == ("preempted", "preemption")


def test_a_reason_that_was_written_down_is_told(host, start):
    run = host.run(shell='trap "exit 0" TERM; echo up; sleep 60 & wait')
    container = start(run)
    wait_for(lambda: "up" in container.said)
    (Path(run["status_dir"]) / "request").write_text(json.dumps({"reason": "deleted", "grace_s": 5}))
    container.process.terminate()
    container.wait()
    assert (container.message["status"], container.message["cause"]) == ("cancelled", "deleted")


def test_a_supervisor_that_is_killed_leaves_a_record_all_the_same(host, start):
    run = host.run(shell="echo up; sleep 60")
    container = start(run)
    wait_for(lambda: "up" in container.said)
    os.kill(host.metadata(run)["pid"], signal.SIGKILL)
    assert container.wait() != 0
    assert (container.message["cause"], host.metadata(run)["status"]) == ("infrastructure", "failed")
    assert "killed by signal 9" in container.message["message"]


def test_an_older_attempt_starts_nothing(host, start):
    newer = start(host.run(attempt=2))
    assert newer.wait() == 0
    run = host.run(attempt=1, shell="echo never")
    older = start(run)
    assert older.wait() == 79
    assert older.message["cause"] == "fenced"
    assert "never" not in older.said
    assert not Path(run["status_dir"]).exists()


def test_a_newer_attempt_ends_an_older_one(host, start):
    run = host.run(attempt=1, shell="echo up; sleep 60")
    older = start(run)
    wait_for(lambda: "up" in older.said)
    assert start(host.run(attempt=2)).wait() == 0
    assert older.wait() != 0
    assert older.message["cause"] == "fenced"


def test_the_same_pod_again_starts_nothing(host, start):
    run = host.run(shell='echo once >> "$RECONCILER_RESULTS_DIR/times"')
    assert start(run).wait() == 0
    again = start(run)
    assert again.wait() == 79
    assert (Path(run["results_dir"]) / "times").read_text() == "once\n"
    assert host.metadata(run)["status"] == "completed"


def test_a_job_of_somebody_else_is_not_touched(host, start):
    other = host.run(claim={"host": "here", "owner": "them"}, owners=["them"])
    assert start(other).wait() == 0
    mine = start(host.run(attempt=2, owners=["me"], claim={"host": "here", "owner": "me"}))
    assert mine.wait() == 79
    assert mine.message["cause"] == "refused"
    assert "them" in mine.message["message"]


def test_code_that_is_not_on_the_volume_is_told(host, start):
    tree = {"object": str(host.base / "nowhere.tar.gz"), "sha256": "0" * 64}
    container = start(host.run(tree=tree))
    assert container.wait() == 79
    assert container.message["cause"] == "infrastructure"
    assert "is not there" in container.message["message"]


def test_secrets_reach_the_program_and_no_file(host, start):
    run = host.run(shell='echo "key is $KEY"; exit 1')
    container = start(run, secrets={"KEY": "canary-7f3a"})
    assert container.wait() == 1
    assert "key is canary-7f3a" in container.said  # what the program prints is its own affair
    assert "canary-7f3a" not in json.dumps(container.message)
    written = [path for path in host.root.rglob("*") if path.is_file() and b"canary-7f3a" in path.read_bytes()]
    assert [path.name for path in written] == ["output.log"]


def test_a_record_that_is_not_there_is_told(host, start, tmp_path):
    run = host.run()
    container = start(run)
    container.end()
    (container.folder / "record.json").unlink()
    done = subprocess.run(
        ["sh", str(host.bundle / "bootstrap.sh"), "pod", str(container.folder)],
        capture_output=True,
        env={**host.environ, "RECONCILER_TERMINATION_LOG": str(tmp_path / "t")},
        timeout=30,
    )
    assert done.returncode == 79
    assert json.loads((tmp_path / "t").read_text())["cause"] == "refused"


@pytest.mark.parametrize(
    "environ",
    [
        {"VC_TASK_INDEX": "0", "VC_WORKER_NUM": "2"},
        {"VC_TASK_INDEX": "2", "VC_WORKER_NUM": "2", "VC_WORKER_HOSTS": "a,b"},
        {"VC_TASK_INDEX": "x"},
    ],
)
def test_a_place_that_makes_no_sense_is_refused(environ):
    with pytest.raises(ValueError, match=r"VC_|literal"):
        pod.place_of(environ)


def test_a_pod_without_plugins_is_alone():
    place = pod.place_of({})
    assert (place.rank, place.count, place.hosts) == (0, 1, [os.uname().nodename])


def test_output_survives_the_cut_of_the_log(host, start):
    shell = 'i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "line $i $(head -c 200 /dev/zero | tr "\\0" x)"; sleep 0.05; done'
    run = host.run(shell=shell, log_bytes_max=4000, log_files=9)
    container = start(run)
    assert container.wait() == 0
    assert Path(run["status_dir"], "output.log.1").exists()
    numbers = [line.split()[1] for line in container.said.splitlines() if line.startswith("line ")]
    assert numbers == [str(number) for number in range(1, 61)]


def test_a_long_message_stays_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("RECONCILER_TERMINATION_LOG", str(tmp_path / "t"))
    metrics = {f"metric{number}": number for number in range(1000)}
    pod._tell({"status": "failed", "message": "ä" * 9000, "progress": {"step": 1, "metrics": metrics}, "other": 1})
    data = (tmp_path / "t").read_bytes()
    told = json.loads(data)
    assert len(data) <= 4096
    assert told["status"] == "failed"
    assert "other" not in told


def test_nothing_of_a_pod_is_left(host, start):
    run = host.run(shell="setsid sleep 300 & echo up")
    container = start(run)
    assert container.wait() == 0
    mark = f"RECONCILER_STATUS_DIR={run['status_dir']}".encode()
    assert not [one for one in process.table().values() if mark in process.environment_of(one.pid)]

"""The emulator says what a real Slurm 22.05 said in the same situations (tests/records/slurm-22.05), byte for byte."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends.dialect import Answer, Order
from reconciler.backends.slurm import SlurmDialect
from reconciler.backends.slurm_answers import BEGIN, END, FIELD
from tests.backends.slurm_records import recorded
from tests.emulators.slurm import Emulator
from tests.emulators.slurm_cluster import CONFIG

pytestmark = pytest.mark.real

D = SlurmDialect()
# As in records/slurm-22.05/record.py: what a user's environment may hold, from which the dialect's commands have to be safe.
HOSTILE = {"SQUEUE_PARTITION": "nope", "SLURM_TIME_FORMAT": "relative", "SBATCH_PARTITION": "gpu-preempt",
           "SBATCH_JOB_NAME": "x", "SCANCEL_STATE": "SUSPENDED", "SACCT_FORMAT": "JobID"}  # fmt: skip
# The cluster that was recorded.
NODES = {
    **CONFIG["nodes"],
    "ga01": {"cpus": 32, "memory": 16000, "features": ["a100"], "gpus": 4, "gpu_type": "a100"},
}
GPU, CPU = CONFIG["partitions"]
PARTITIONS = [
    {**GPU, "nodes": "ga01,gh[01-02]"},
    {**GPU, "nodes": "ga01,gh[01-02]", "name": "gpu-preempt", "default": False, "tier": 1, "preempt": "REQUEUE"},
    CPU,
]
LOOP = "trap '' TERM; for i in $(seq 300); do sleep 0.2; done"


class Lab:
    def __init__(self, root: Path, **config: Any) -> None:
        nodes = {name: NODES[name] for name in sorted(NODES)}
        self.slurm = Emulator(root / "slurm", nodes=nodes, partitions=PARTITIONS, **config)
        self.jobs = root / "jobs"
        self.jobs.mkdir()

    def say(self, argv: Sequence[str]) -> Answer:
        environ = {**os.environ, **HOSTILE, "PATH": self.slurm.path}
        done = subprocess.run(argv, env=environ, cwd=self.jobs, capture_output=True, text=True)
        scrub = str(self.jobs.parent)
        return Answer(done.returncode, done.stdout, done.stderr.replace(scrub, "/lab"))

    def batch(self, name: str, *directives: str, body: str = LOOP) -> str:
        lines = ["#!/bin/sh", *(f"#SBATCH {one}" for one in (f"--job-name={name}", *directives)), body]
        path = self.jobs / f"{name}.sh"
        path.write_text("\n".join(lines) + "\n")
        answer = self.say(D.submit(str(path)))
        assert answer.returncode == 0, answer
        return answer.stdout.strip()

    def until(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, self.slurm.jobs()

    def is_a(self, word: str, *idents: str) -> bool:
        words = {job["ident"]: job["word"] for job in self.slurm.jobs()}
        return all(words[ident] == word for ident in idents)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, kill_wait_s=0.3)
    yield made
    made.slurm.clear()


def scrub(text: str) -> str:
    """Without times and what else differs from one machine to the next."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"\b(CPULoad|FreeMem|Port|NEXT_JOB_ID)( *=)\S+", r"\1\2?", text)
    return re.sub(r"(KillWait +=).*", r"\1 ?", text)


def rows(answer: Answer, name_at: int, end: str) -> dict[str, list[str]]:
    """Fields by the job's name and index, ids by what they stand for, times scrubbed."""
    found = {}
    for line in answer.stdout.split(end)[1:-1]:
        fields = scrub(line.removeprefix(BEGIN)).split(FIELD)
        if len(fields) <= name_at:
            continue  # the job whose comment holds our separators
        member = fields[0].partition("_")[2]
        found[fields[name_at] + (f"_{member}" if member else "")] = [
            re.sub(r"\A\d+", "ID", field) if at in (0, 1) else field for at, field in enumerate(fields)
        ]
    return found


def queue(answer: Answer) -> dict[str, list[str]]:
    return rows(answer, 10, END + "\n")


def history(answer: Answer) -> dict[str, list[str]]:
    return rows(answer, 9, FIELD + "\n")


def test_an_empty_cluster_answers_as_recorded(lab: Lab):
    assert lab.say(D.queue()) == recorded("queue-empty")
    assert lab.say(D.accounting([], ["no-such-name"])[0]) == recorded("history-empty")
    assert lab.say([word.replace("{}", "no-such-name") for word in D.find().argv]) == recorded("find-none")
    assert lab.say([word.replace("{}", "99999") for word in D.alive().argv]) == recorded("alive-unknown")
    assert lab.say(D.cancel("99999", "cancelled", "m", ask=False)) == recorded("cancel-no-such")
    for part, argv in D.capacity().items():
        told, known = lab.say(argv), recorded(f"capacity-idle-{part}")
        assert (told.returncode, told.stderr) == (known.returncode, known.stderr)
        assert scrub(told.stdout) == scrub(known.stdout), part


def test_without_a_controller_or_a_database_it_answers_as_recorded(lab: Lab):
    lab.slurm.set(accounting="down")
    assert lab.say(D.accounting(["1"], [])[0]) == recorded("history-dbd-down")
    lab.slurm.fault("controller", "down", count=None)
    (lab.jobs / "s.sh").write_text("#!/bin/sh\n")
    argvs = {
        "queue": D.queue(),
        "submit": D.submit(str(lab.jobs / "s.sh")),
        "find": D.find().argv,
        "alive": D.alive().argv,
        "cancel": D.cancel("1", "done", "m", ask=False),
        "cancel-member": D.cancel("1_2", "done", "m", ask=False),
    }
    for name, argv in argvs.items():
        assert lab.say(argv) == recorded(f"{name}-controller-down"), name
    assert lab.say(D.capacity()["nodes"]) == recorded("capacity-controller-down-nodes")
    lab.slurm.heal()
    assert lab.slurm.jobs() == []


def test_submissions_are_taken_and_refused_as_recorded(lab: Lab):
    plain = {"name": "sub", "mark": "m", "output": f"{lab.jobs}/%j.log", "body": "true", "partition": "cpu"}
    for name, more in {
        "taken": {}, "partition": {"partition": "nope"}, "account": {"account": "nope"}, "qos": {"qos": "nope"},
        "gres": {"partition": "gpu", "gpus_per_node": 1, "gpu_type": "b200"}, "nodelist": {"nodelist": ("nope",)},
        "too-many-gpus": {"partition": "gpu", "gpus_per_node": 9, "gpu_type": "h100"}, "constraint": {"constraint": "nope"},
        "memory": {"memory": "900G"}, "memory-word": {"memory": "much"}, "time-over-limit": {"time_s": 9 * 86400},
        "array": {"array": 10_002}, "taken-array": {"array": 3}, "option": {"extra": ("--nonsense",)},
        "qos-limit": {"qos": "short", "time_s": 7200}, "licenses": {"extra": ("--licenses=nope",)},
        "reservation": {"extra": ("--reservation=nope",)}, "nodes": {"nodes": 99},
        "everything": {"nodes": 2, "partition": "gpu", "gpus_per_node": 3, "gpu_type": "h100", "cpus_per_node": 4,
                       "memory": "1G", "time_s": 5400, "account": "team-a", "exclude": ("ga01",), "warn_s": 120,
                       "requeue": True, "exclusive": True, "nodelist": ("gh01", "gh02"), "constraint": "h100",
                       "extra": ("--nice=5",)},
    }.items():  # fmt: skip
        path = lab.jobs / f"{name}.sh"
        path.write_text(D.script(Order(**{**plain, **more})))
        told, known = lab.say(D.submit(str(path))), recorded(f"submit-{name}")
        assert (told.returncode, told.stderr) == (known.returncode, known.stderr), name
        assert bool(re.fullmatch(r"\d+\n", told.stdout)) == bool(known.stdout), name
    (lab.jobs / "bare.sh").write_text("true\n")
    assert lab.say(D.submit(str(lab.jobs / "bare.sh"))) == recorded("submit-no-shebang")
    assert lab.say(D.submit(str(lab.jobs / "none.sh"))) == recorded("submit-no-file")


def test_why_jobs_wait_is_listed_as_recorded(lab: Lab):
    big = lab.batch("big", "--partition=gpu", "--nodes=2", "--gres=gpu:h100:8", "--requeue")
    lab.batch("Resources", "--partition=gpu", "--gres=gpu:h100:8")
    lab.batch("Priority", "--partition=gpu", "--gres=gpu:h100:1")
    lab.batch("BeginTime", "--partition=cpu", "--begin=now+1hour")
    lab.batch("JobHeldUser", "--partition=cpu", "--hold")
    lab.batch("PartitionTimeLimit", "--partition=cpu", "--time=9-0")
    lab.batch("JobArrayTaskLimit", "--partition=cpu", "--array=0-3%2", "--nodelist=cpu01")
    held = lab.batch("JobHeldAdmin", "--partition=cpu", "--begin=now+1hour")
    assert lab.say(["scontrol", "hold", held]).returncode == 0
    lab.slurm.node("cpu02", "drain", reason="test: State=IDLE is no state")
    lab.batch("ReqNodeNotAvail", "--partition=cpu", "--nodelist=cpu02")
    told, known = queue(lab.say(D.queue())), queue(recorded("queue-waiting"))
    assert set(told) <= set(known)
    assert len(told) == 12
    for name, row in told.items():
        # When a job that waits for machines is expected to start, only a real scheduler computes.
        expected = known[name] if name not in ("Resources", "Priority") else [*known[name][:5], "N/A", *known[name][6:]]
        assert row == expected, name
    waiting = [job["ident"] for job in lab.slurm.jobs() if job["name"] in ("Resources", "Priority", "BeginTime")]
    told, known = history(lab.say(D.accounting(waiting, [])[0])), history(recorded("history-waiting"))
    assert set(told) == {"Resources", "Priority", "BeginTime"}
    for name, row in told.items():
        assert row == known[name]
    drained = [line for line in lab.say(D.capacity()["nodes"]).stdout.split("\n") if "NodeName=cpu02" in line]
    assert scrub(drained[0]) in scrub(recorded("capacity-drained-nodes").stdout)
    assert lab.is_a("RUNNING", big)


def test_how_jobs_end_is_listed_as_recorded(lab: Lab):
    lab.slurm.set(minute_s=0.2, requeue_delay_s=0)
    done = lab.batch("done", "--partition=cpu", "--comment=reconciler:done", "--nodelist=cpu02", body="true")
    failed = lab.batch("failed", "--partition=cpu", "--nodelist=cpu01", body="exit 7")
    late = lab.batch("late", "--partition=cpu", "--time=1", "--nodelist=cpu02")
    lab.until(lambda: lab.is_a("TIMEOUT", late))
    lab.slurm.set(minute_s=60)
    ended = lab.batch("cancelled", "--partition=cpu", "--nodelist=cpu02")
    pended = lab.batch("cancelled-waiting", "--partition=cpu", "--hold")
    held = lab.batch("put-back-held", "--partition=cpu", "--requeue", "--open-mode=append", "--nodelist=cpu02")
    back = lab.batch("put-back", "--partition=cpu", "--requeue", "--open-mode=append", "--nodelist=cpu02")
    killed = lab.batch("signal", "--partition=cpu", "--nodelist=cpu02", body="kill -SEGV $$")
    nowhere = lab.batch("no-output", "--partition=cpu", "--nodelist=cpu02", "--output=/nonexistent/x", body="true")
    preempt = ("--partition=gpu-preempt", "--gres=gpu:h100:8")
    victim = lab.batch("victim", *preempt, "--nodelist=gh01", "--no-requeue", body="sleep 60")
    other = lab.batch("victim-back", *preempt, "--nodelist=gh02", "--requeue", body="sleep 60")
    lost = lab.batch("lost", "--partition=gpu", "--gres=gpu:a100:2", "--nodelist=ga01", "--no-requeue")
    array = lab.batch("members", "--partition=cpu", "--array=0-5%2", "--nodelist=cpu02", "--comment=reconciler:a")
    lab.until(lambda: lab.is_a("COMPLETED", done) and lab.is_a("FAILED", failed, killed, nowhere))
    running = queue(lab.say(D.queue()))
    known = queue(recorded("queue-running"))
    for name in ("cancelled-waiting", "cancelled", "put-back", "victim", "members_1", "members_5"):
        expected = known[name] if name != "members_1" else queue(recorded("queue-ending"))[name]
        assert running.get(name) == expected if name in known else True, name
    alive = lab.say([word.replace("{}", array) for word in D.alive().argv])
    waits = [f"job=ID_{index} state=PENDING" for index in (2, 3, 4, 5)]
    runs = ["job=ID_0 state=RUNNING", "job=ID_1 state=RUNNING"]
    said = alive.stdout.replace(f"job={array}", "job=ID")
    assert said.splitlines() == ["job=JOBID state=STATE", *waits, *runs, "reconciler: whole"]
    assert sorted(said) == sorted(recorded("alive-array").stdout.replace("job=33", "job=ID"))
    unknown = lab.say([word.replace("{}", f"{array}_77") for word in D.alive().argv])
    assert unknown == recorded("alive-member-unknown")
    nodes = scrub(lab.say(D.capacity()["nodes"]).stdout)
    for name in ("ga01", "gh01"):
        line = next(
            line for line in scrub(recorded("capacity-running-nodes").stdout).split("\n") if f"={name} " in line
        )
        assert line in nodes
    # 22.05: a filter, and a waiting member: then the bare id, by which only that one goes, without a trace
    assert lab.say(D.cancel(f"{array}_5", "other", "reconciler:a", ask=False)) == recorded("cancel-wrong-name")
    assert lab.say(D.cancel(f"{array}_5", "members", "reconciler:a", ask=False)) == recorded("cancel-member")
    assert lab.say(D.cancel(f"{array}_4", "members", "reconciler:a", ask=True)) == recorded("cancel-ask-waiting")
    left = [name for name in queue(lab.say(D.queue())) if name.startswith("members")]
    assert left == ["members_2", "members_3", "members_4", "members_0", "members_1"]
    for ident, name in ((ended, "cancelled"), (pended, "cancelled-waiting"), (array, "members")):
        assert lab.say(D.cancel(ident, name, "reconciler:a", ask=False)) == recorded("cancel-array")
    assert queue(lab.say(D.queue()))["cancelled"] == queue(recorded("queue-ending"))["cancelled"]
    assert lab.say(["scontrol", "requeuehold", held]).returncode == 0
    lab.slurm.requeue(back)
    lab.slurm.preempt(victim)
    lab.slurm.preempt(other)
    lab.slurm.node("ga01", "down", reason="test: State=IDLE is no state")
    lab.until(
        lambda: lab.is_a("CANCELLED", ended, array) and lab.is_a("PREEMPTED", victim) and lab.is_a("NODE_FAIL", lost)
    )
    lab.until(lambda: lab.is_a("PENDING", held) and lab.is_a("RUNNING", other, back))
    assert lab.say(D.cancel(ended, "cancelled", "m", ask=False)) == Answer(
        1, "", recorded("cancel-gone").stderr.replace("id 1:", f"id {ended}:")
    )
    told, known = queue(lab.say(D.queue())), queue(recorded("queue-ended"))
    known["done"][-1] = "reconciler:done"  # no blank can stand in a directive
    assert len(told) == 15
    for name, row in told.items():
        # Whether the waiting rest had been looked at is the real scheduler's chance.
        assert row == known[name], name
    idents = [done, late, ended, pended, held, back, killed, nowhere, victim, other, lost, array]
    told, known = history(lab.say(D.accounting(idents, [])[0])), history(recorded("history-ended"))
    known["done"][-1] = "reconciler:done"
    for name, row in told.items():
        if name in ("victim-back", "put-back"):  # the reason for which it waited is kept; it began at once here
            row[8] = known[name][8]
        assert row == known[name], name
    assert len(told) == 14
    words = [line.split(FIELD)[1] for line in lab.say(D.accounting([back], [])[0]).stdout.split("\n")[1:3]]
    assert words == ["REQUEUED", "RUNNING"]
    by_name = history(lab.say(D.accounting([], ["done", "members"])[0]))
    assert set(by_name) == set(history(recorded("history-by-name")))


def test_jobs_of_one_name_are_told_with_their_marks_as_recorded(lab: Lab):
    for mark in ("one", "two"):
        lab.batch("twins", "--partition=cpu", "--hold", f"--comment=reconciler:{mark}")
    lab.batch("late", "--partition=cpu", "--hold")
    told = lab.say([word.replace("{}", "twins") for word in D.find().argv])
    assert sorted(told.stdout.replace("job=1 ", "job=17 ").replace("job=2 ", "job=18 ")) == sorted(
        recorded("find-marks").stdout
    )
    told = lab.say([word.replace("{}", "late") for word in D.find().argv])
    assert told.stdout.replace("job=3", "job=15") == recorded("find-one").stdout


def test_what_the_emulator_does_not_know_is_a_loud_error(lab: Lab):
    for argv in (
        ["squeue", "--json"],
        ["squeue", "-a", "-t", "all", "-o", "%u"],
        ["sacct", "-X"],
        ["scancel", "--full", "1"],
        ["scontrol", "ping"],
        ["sbatch", "x.sh"],
    ):
        answer = lab.say(argv)
        assert answer.returncode == 64, argv
        assert "does not know" in answer.stderr

#!/usr/bin/env python3
"""Records what a throw-away Slurm cluster says to the dialect's own commands: one JSON file {name: answer}.

record.py LAB WORK OUT: LAB is the slurmlab script, WORK the directory of a new cluster that it has brought up. Not a test.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from reconciler.backends.dialect import Order
from reconciler.backends.slurm import SlurmDialect

LAB, WORK, OUT = sys.argv[1:4]
os.environ["SLURM_CONF"] = f"{WORK}/etc/slurm.conf"
os.chdir(f"{WORK}/jobs")
D = SlurmDialect()
ANSWERS = {}
# What a user's environment may hold, from which the dialect's commands have to be safe.
HOSTILE = {"SQUEUE_PARTITION": "nope", "SLURM_TIME_FORMAT": "relative", "SBATCH_PARTITION": "gpu-preempt",
           "SBATCH_JOB_NAME": "x", "SCANCEL_STATE": "SUSPENDED", "SACCT_FORMAT": "JobID"}  # fmt: skip
LOOP = "trap '' TERM; for i in $(seq 300); do sleep 0.2; done"


def run(argv, **more):
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", **more)


def keep(name, argv):
    done = run(argv, env={**os.environ, **HOSTILE})
    ANSWERS[name] = {"returncode": done.returncode, "stdout": scrub(done.stdout), "stderr": scrub(done.stderr)}
    return done


def scrub(text):
    text = text.replace(WORK, "/lab")
    text = re.sub(r"OS=Linux .*?(?= +RealMemory=)", "OS=Linux 6.1.0 ", text)
    text = re.sub(r"(?m)^(BOOT_TIME|Slurmctld\(.*|SlurmctldHost\S*) +=.*\n", "", text)
    return re.sub(r"root\(0\)", "alice(1001)", text).replace("root@", "alice@").replace("by 0", "by 1001")


def batch(*opts, body=LOOP):
    done = subprocess.run(["sbatch", "--parsable", *opts], input=f"#!/bin/sh\n{body}\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sh(*argv):
    done = run(argv)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def reach(ident, word):
    for _ in range(900):
        if run(["squeue", "-h", "-t", "all", "-j", ident, "-o", "%T"]).stdout.split()[:1] == [word]:
            return
        time.sleep(0.1)
    raise AssertionError((ident, word))


def probe(name, probe, value):
    keep(name, [word.replace("{}", value) for word in probe.argv])


def capacity(name):
    for part, argv in D.capacity().items():
        if part != "config" or name == "idle":
            keep(f"capacity-{name}-{part}", argv)


def nodes(state, *names):
    for name in names:
        sh("scontrol", "update", f"nodename={name}", f"state={state}", "reason=test: State=IDLE is no state")


def main():
    keep("queue-empty", D.queue())
    keep("history-empty", D.accounting([], ["no-such-name"])[0])
    probe("find-none", D.find(), "no-such-name")
    probe("alive-unknown", D.alive(), "99999")
    capacity("idle")

    # why jobs wait
    big = batch("-p", "gpu", "-N2", "--gres=gpu:h100:8", "-J", "big", "--requeue")
    reach(big, "RUNNING")
    for words in (
        "add account tiny Organization=lab GrpTRES=gres/gpu=1", "add user root account=tiny",
        "add qos one MaxJobsPerUser=1", "add qos short MaxWall=1 Flags=DenyOnLimit", "modify user root set qos+=one,short",
    ):  # fmt: skip
        run(["sacctmgr", "-i", *words.split()])
    running = batch("-p", "cpu", "--qos=one", "-w", "cpu01")
    reach(running, "RUNNING")
    failed = batch("-p", "cpu", "-w", "cpu01", "-J", "failed", body="exit 7")
    reach(failed, "FAILED")
    waiting = [
        batch("-p", "gpu", "--gres=gpu:h100:8", "-J", "Resources"),
        batch("-p", "gpu", "--gres=gpu:h100:1", "--nice=100", "-J", "Priority"),
        batch("-p", "cpu", f"--dependency=afterok:{big}", "-J", "Dependency"),
        batch("-p", "cpu", f"--dependency=afterok:{failed}", "-J", "DependencyNeverSatisfied"),
        batch("-p", "cpu", "--begin=now+1hour", "-J", "BeginTime"),
        batch("-p", "cpu", "--hold", "-J", "JobHeldUser"),
        batch("-p", "cpu", "--qos=one", "-J", "QOSMaxJobsPerUserLimit"),
        batch("-p", "gpu", "-A", "tiny", "--gres=gpu:a100:2", "-J", "AssocGrpGRES"),
        batch("-p", "cpu", "-t", "9-0", "-J", "PartitionTimeLimit"),
        batch("-p", "cpu", "-a", "0-3%2", "-J", "JobArrayTaskLimit", "-w", "cpu01"),
    ]
    held = batch("-p", "cpu", "--begin=now+1hour", "-J", "JobHeldAdmin")
    sh("scontrol", "hold", held)
    nodes("drain", "cpu02")
    waiting += [held, batch("-p", "cpu", "-w", "cpu02", "-J", "ReqNodeNotAvail")]
    time.sleep(3)
    sh("scontrol", "update", "partitionname=gpu-preempt", "state=down")
    waiting.append(batch("-p", "gpu-preempt", "--gres=gpu:a100:1", "-J", "PartitionDown"))
    time.sleep(3)
    keep("queue-waiting", D.queue())
    capacity("drained")
    keep("history-waiting", D.accounting(waiting[:6], [])[0])
    sh("scontrol", "update", "partitionname=gpu-preempt", "state=up")
    nodes("resume", "cpu02")
    run(["scancel", *waiting, running, big])
    time.sleep(4)

    # how jobs run and end
    odd = batch("-p", "cpu", "-J", "two\nlines, and \x1f", "--comment", "a\nb\x1d\n\tc")
    done = batch("-p", "cpu", "-J", "done", "--comment", "reconciler:done 1", body="true")
    late = batch("-p", "cpu", "-J", "late", "-t", "1")
    ended = batch("-p", "cpu", "-J", "cancelled")
    pended = batch("-p", "cpu", "-J", "cancelled-waiting", "--hold")
    held = batch("-p", "cpu", "-J", "put-back-held", "--requeue", "--open-mode=append")
    back = batch("-p", "cpu", "-J", "put-back", "--requeue", "--open-mode=append")
    slept = batch("-p", "cpu", "-J", "suspended")
    killed = batch("-p", "cpu", "-J", "signal", body="kill -SEGV $$")
    nowhere = batch("-p", "cpu", "-J", "no-output", "-o", "/nonexistent/x", body="true")
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 62))
    dead = batch("-p", "cpu", "-J", "deadline", "--time=1", f"--deadline={soon}", "--hold")
    victim = batch(
        "-p", "gpu-preempt", "-J", "victim", "-w", "gh01", "--gres=gpu:h100:8", "--no-requeue", body="sleep 60"
    )
    other = batch(
        "-p", "gpu-preempt", "-J", "victim-back", "-w", "gh02", "--gres=gpu:h100:8", "--requeue", body="sleep 60"
    )
    lost = batch("-p", "gpu", "-J", "lost", "-w", "ga01", "--gres=gpu:a100:2", "--no-requeue")
    array = batch("-p", "cpu", "-J", "members", "-a", "0-5%2", "--comment", "reconciler:a")
    for ident in (late, ended, held, back, slept, victim, other, lost):
        reach(ident, "RUNNING")
    time.sleep(1)
    keep("queue-running", D.queue())
    capacity("running")
    probe("find-one", D.find(), "late")
    probe("find-array", D.find(), "members")
    twins = [batch("-p", "cpu", "--hold", "-J", "twins", "--comment", f"reconciler:{mark}") for mark in ("one", "two")]
    probe("find-marks", D.find(), "twins")
    run(["scancel", *twins])
    probe("alive-running", D.alive(), late)
    probe("alive-array", D.alive(), array)
    probe("alive-member-waiting", D.alive(), f"{array}_5")
    probe("alive-member-unknown", D.alive(), f"{array}_77")
    sh("scontrol", "suspend", slept)
    sh("scontrol", "requeuehold", held)
    sh("scontrol", "requeue", back)
    sh("scancel", pended)
    sh("scancel", ended)
    sh("scontrol", "update", f"jobid={late}", "endtime=now")
    high = batch("-p", "gpu", "-J", "high", "-N2", "--gres=gpu:h100:8", body="sleep 20")
    time.sleep(1)
    keep("queue-ending", D.queue())
    nodes("down", "ga01")
    reach(lost, "NODE_FAIL")
    capacity("down")
    nodes("resume", "ga01")
    reach(victim, "PREEMPTED")
    # any filter, and a waiting member: 22.05 ends the whole waiting rest
    keep("cancel-wrong-name", D.cancel(f"{array}_5", "other", "reconciler:a", ask=False))
    keep("cancel-member", D.cancel(f"{array}_5", "members", "reconciler:a", ask=False))
    keep("cancel-ask-waiting", D.cancel(f"{array}_4", "members", "reconciler:a", ask=True))
    time.sleep(1)
    keep("queue-member-cancelled", D.queue())
    keep("cancel-array", D.cancel(array, "members", "reconciler:a", ask=False))
    keep("cancel-gone", D.cancel(ended, "cancelled", "m", ask=False))
    keep("cancel-no-such", D.cancel("99999", "cancelled", "m", ask=False))
    reach(late, "TIMEOUT")
    time.sleep(6)
    keep("queue-ended", D.queue())
    probe("alive-ended", D.alive(), done)
    probe("alive-cancelled-array", D.alive(), array)
    probe("alive-put-back-held", D.alive(), held)
    idents = [odd, done, late, ended, pended, held, back, slept, killed, nowhere, victim, other, lost, array]
    keep("history-ended", D.accounting(idents, [])[0])
    keep("history-by-name", D.accounting([], ["done", "members"])[0])
    run(["scancel", odd, slept, held, back, other, high, dead])

    # machines
    run(
        [
            "scontrol",
            "create",
            "reservation",
            "reservationname=r1",
            "starttime=now",
            "duration=60",
            "users=root",
            "nodes=gh02",
        ]
    )
    run(["scontrol", "create", "reservation", "reservationname=m1", "starttime=now", "duration=60", "users=root",
         "flags=maint", "nodes=ga01"])  # fmt: skip
    run(["scontrol", "update", "nodename=cpu02", "state=power_down_force"])
    time.sleep(2)
    capacity("reserved")
    for name in ("r1", "m1"):
        run(["scontrol", "delete", f"reservationname={name}"])

    # submissions
    plain = {"name": "sub", "mark": "m", "output": f"{WORK}/jobs/%j.log", "body": "true", "partition": "cpu"}
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
        path = Path(f"{WORK}/jobs/{name}.sh")
        path.write_text(D.script(Order(**{**plain, **more})), encoding="utf-8")
        done = keep(f"submit-{name}", D.submit(str(path)))
        if name == "everything":
            ANSWERS["job-everything"] = {"stdout": scrub(sh("scontrol", "show", "job", done.stdout.strip()))}
        if done.returncode == 0:
            run(["scancel", done.stdout.strip()])
    Path(f"{WORK}/jobs/bare.sh").write_text("true\n", encoding="utf-8")
    keep("submit-no-shebang", D.submit(f"{WORK}/jobs/bare.sh"))
    keep("submit-no-file", D.submit(f"{WORK}/jobs/none.sh"))

    # nobody answers
    sh(LAB, "dbd-stop", WORK)
    keep("history-dbd-down", D.accounting(idents, [])[0])
    sh(LAB, "dbd-start", WORK)
    sh(LAB, "ctld-stop", WORK)
    keep("queue-controller-down", D.queue())
    keep("submit-controller-down", D.submit(f"{WORK}/jobs/taken.sh"))
    probe("find-controller-down", D.find(), "done")
    probe("alive-controller-down", D.alive(), done.stdout or "1")
    keep("capacity-controller-down-nodes", D.capacity()["nodes"])
    keep("cancel-controller-down", D.cancel("1", "done", "m", ask=False))
    keep("cancel-member-controller-down", D.cancel("1_2", "done", "m", ask=False))
    sh(LAB, "ctld-start", WORK)


try:
    main()
finally:
    Path(OUT).write_text(json.dumps(ANSWERS, indent=1, sort_keys=True) + "\n", encoding="utf-8")

"""This simulates Slurm: no part of Slurm runs here, only programs that answer as its commands do.

`sbatch`, `squeue`, `scancel`, `sacct`, `scontrol` and `srun` for the argvs that the dialect uses
(reconciler/backends/slurm*.py), in the words of the 22.05 that is recorded in tests/records/slurm-22.05; anything else is
a loud error, so that drift is noticed. `Emulator` installs them into a directory and hurts them: see FAULTS.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import stat
import sys
import time

from tests.emulators.slurm_cluster import (
    CONFIG,
    MEMORY_PER_CPU,
    UID,
    Cluster,
    _write,
    adopt_orphans,
    could_hold,
    descendants,
    end_descendants,
    environment,
    ident_of,
    is_alive,
    send,
    spawn,
    start_of,
    word_of,
)
from tests.emulators.slurm_text import (
    compress,
    config_text,
    expand,
    limit,
    minutes_of,
    moment,
    node_line,
    partition_line,
)

TYPE_CHECKING = False  # `typing` costs a tenth of a command's time
if TYPE_CHECKING:
    from typing import Any

    from tests.emulators.slurm_cluster import Job

# What can go wrong with one command, by `how`:
FAULTS = {
    "down": "exit 1 at once, nothing done: the controller cannot be reached",
    "timed-out": "done, then exit 1: the answer of the controller was late",
    "hang": "done, then silence until the caller gives up",
    "hang-before": "not done, silence until the caller gives up",
    "kill-caller": "done, then the program that called is killed",
    "kill-caller-before": "not done, the program that called is killed",
    "late": "sbatch: silence until the caller gives up; the job arrives `late_s` after it was sent",
    "cut": "done; the output ends after `keep` characters (of half of it), exit 0",
    "records": "done; the output ends after `keep` records, and the command dies",
    "empty": "done; no output, exit 0",
    "banner": "done; a greeting of the login node stands before the output",
    "twice": "sbatch: submitted twice, the second id is told",
}
BANNER = "*** Welcome to lab. Maintenance on Tuesday; your quota is 93% used. ***\n\n"
TOOLS = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "srun")
NO_CONTACT = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
NO_DATABASE = (
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:17001: "
    "Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused\n"
)


class Said(Exception):
    """The command is over: with this code and these words."""

    def __init__(self, code: int, out: str = "", err: str = "") -> None:
        super().__init__(code, out, err)
        self.code, self.out, self.err = code, out, err


def unknown(command: str, what: str) -> Said:
    return Said(64, "", f"{command}: the emulator of Slurm does not know {what}: teach it, or is it a mistake?\n")


def options(command: str, argv: list[str], known: dict[str, bool]) -> tuple[dict[str, str], list[str]]:
    """`known`: option to whether it takes a value. Gives options and the rest."""
    found: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if not word.startswith("-"):
            rest.append(word)
            if command == "srun":
                return found, [*rest, *words]
        elif name not in known:
            raise unknown(command, f"the option {word}")
        elif known[name] and not equals:
            found[name] = next(words)
        elif bool(equals) != known[name]:
            raise unknown(command, f"{word} in this form")
        else:
            found[name] = value
    return found, rest


# --- sbatch

_DIRECTIVES = {
    "account", "array", "begin", "comment", "constraint", "cpus-per-task", "error", "exclude", "exclusive", "gres", "hold",
    "job-name", "licenses", "mem", "nice", "nodelist", "nodes", "no-requeue", "ntasks-per-node", "open-mode", "output",
    "partition", "qos", "requeue", "reservation", "signal", "time",
}  # fmt: skip
_SHORT = {"A": "account", "C": "constraint", "H": "hold", "N": "nodes", "p": "partition", "q": "qos", "t": "time"}
_SECONDS = {"": 1, "second": 1, "minute": 60, "hour": 3600, "day": 86400}


def sbatch(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    found, rest = options("sbatch", argv, {"--parsable": False})
    if "--parsable" not in found or len(rest) != 1:
        raise unknown("sbatch", f"a call without --parsable or without one script: {argv}")
    try:
        with open(rest[0], encoding="utf-8") as file:
            script = file.read()
    except OSError:
        raise _no(f"Unable to open file {rest[0]}", bare=True) from None
    if not script.startswith("#!"):
        raise Said(
            1,
            "",
            "sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh\n",
        )
    asked = _directives(script)
    job = _job(cluster, asked)
    members = None
    if "array" in asked:
        matched = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", asked["array"])
        if matched is None:
            raise unknown("sbatch", f"--array={asked['array']}")
        first, last = int(matched[1]), int(matched[2])
        if last >= cluster.config["array_max"]:
            raise _no("Invalid job array specification")
        members = list(range(first, last + 1))
        job.update(span=[first, last, len(members)], parallel=int(matched[3]) if matched[3] else None)
    if fault.get("how") == "late":
        job["arrives_at"] = cluster.now + fault["late_s"]
    name = f"{cluster.state['serial'] + 1}.sh"
    path = os.path.join(cluster.root, "scripts", name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(script)
    os.chmod(path, 0o700)
    job["script"] = name
    ident = cluster.add(job, members=members)
    if fault.get("how") == "twice":
        ident = cluster.add(job, members=members)
    return Said(0, f"{ident}\n")


def _no(words: str, *, bare: bool = False, before: str = "") -> Said:
    return Said(1, "", f"{before}sbatch: error: {'' if bare else 'Batch job submission failed: '}{words}\n")


def _directives(script: str) -> dict[str, str]:
    asked: dict[str, str] = {}
    for line in script.split("\n"):
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#SBATCH "):
            continue
        word = line.removeprefix("#SBATCH ").split()[0]
        matched = re.fullmatch(r"--([a-z-]+)(?:=(.*))?|-([A-Za-z])(.*)", word)
        name = (matched[1] or _SHORT.get(matched[3], "")) if matched else ""
        if matched is None or name not in _DIRECTIVES:
            words = f"sbatch: unrecognized option '{word}'\nTry \"sbatch --help\" for more information\n"
            raise Said(255, "", words)
        asked[name] = matched[2] or matched[4] or ""
    return asked


def _job(cluster: Cluster, asked: dict[str, str]) -> Job:
    """What is asked for, or the refusal."""
    config = cluster.config
    memory = re.fullmatch(r"(\d+)([KMGT]?)", asked.get("mem", "0"))
    if memory is None:
        raise Said(255, "", "sbatch: error: Invalid --mem specification\n")
    default = next(part["name"] for part in config["partitions"] if part.get("default"))
    part = cluster.partition(asked.get("partition", default))
    if part is None:
        raise _no(
            "Invalid partition name specified",
            before=f"sbatch: error: invalid partition specified: {asked['partition']}\n",
        )
    nodelist, exclude = expand(asked.get("nodelist", "")), expand(asked.get("exclude", ""))
    minutes = minutes_of(asked["time"]) if "time" in asked else part["minutes_default"]
    cpus = int(asked.get("cpus-per-task", 1))
    gres = asked.get("gres", "gpu:0").split(":")
    mib = int(memory[1]) * {"K": 1, "": 1024, "M": 1024, "G": 1 << 20, "T": 1 << 30}[memory[2]] // 1024
    begin = re.fullmatch(r"now\+(\d+)([a-z]*?)s?", asked.get("begin", "now+0"))
    job: Job = {
        "name": asked.get("job-name", "sbatch"),
        "comment": "" if config["drop_comments"] else asked.get("comment", ""),
        "partition": part["name"],
        "count": int(asked.get("nodes", 1)),
        "cpus": cpus,
        "memory": mib or MEMORY_PER_CPU * cpus,
        "gpus": int(gres[-1]),
        "gpu_type": gres[1] if len(gres) == 3 else "",
        "minutes": minutes,
        "output": asked.get("output", "slurm-%j.out"),
        "append": asked.get("open-mode") == "append",
        "requeue": "requeue" in asked,
        "warn": None,
        "account": asked.get("account", "lab"),
        "qos": asked.get("qos", "normal"),
        "constraint": asked.get("constraint"),
        "nodelist": nodelist,
        "exclude": exclude,
        "exclusive": "exclusive" in asked,
        "hold": "hold" in asked,
        "begin": cluster.now + int(begin[1]) * _SECONDS[begin[2]] if begin and "begin" in asked else None,
        "parallel": None,
        "user": "alice",
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
    }
    if asked.get("error", job["output"]) != job["output"]:
        raise unknown("sbatch", "an --error that is not --output")
    if "signal" in asked:
        word, _, seconds = asked["signal"].partition("@")
        job["warn"] = [word, int(seconds or 60)]
    _refuse(cluster, asked, job, part)
    return job


def _refuse(cluster: Cluster, asked: dict[str, str], job: Job, part: dict[str, Any]) -> None:
    nodes = cluster.config["nodes"]
    if job["account"] not in cluster.config["accounts"]:
        raise _no("Invalid account or account/partition combination specified")
    if job["qos"] not in cluster.config["qos"]:
        raise _no("Invalid qos specification")
    longest = cluster.config["qos"][job["qos"]]
    if longest is not None and job["minutes"] > longest:
        words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        raise _no(words, before="sbatch: error: QOSMaxWallDurationPerJobLimit\n")
    if not {*job["nodelist"], *job["exclude"]} <= set(nodes):
        raise _no("Invalid node name specified")
    if job["constraint"] and not any(job["constraint"] in node["features"] for node in nodes.values()):
        raise _no("Invalid feature specification")
    if "licenses" in asked:
        raise _no("Invalid license specification")
    if "reservation" in asked:
        raise _no("Requested reservation is invalid")
    mine = [nodes[name] for name in expand(part["nodes"])]
    if not any(could_hold(job, node) for node in mine):
        memory = all(job["memory"] > node["memory"] for node in mine)
        before = "sbatch: error: Memory specification can not be satisfied\n" if memory else ""
        raise _no("Requested node configuration is not available", before=before)


# --- squeue

_COLUMNS = {
    "i": ("JOBID", ident_of),
    "F": ("ARRAY_JOB_ID", lambda job: str(job["array"] or job["id"])),
    "K": ("ARRAY_TASK_ID", lambda job: "N/A" if job["index"] is None else str(job["index"])),
    "T": ("STATE", word_of),
    "r": ("REASON", lambda job: job["reason"]),
    "S": ("START_TIME", lambda job: moment(_starts_at(job))),
    "V": ("SUBMIT_TIME", lambda job: moment(job["submit_at"])),
    "N": ("NODELIST", lambda job: compress(job["nodes"])),
    "P": ("PARTITION", lambda job: job["partition"]),
    "l": ("TIME_LIMIT", lambda job: limit(job["minutes"])),
    "j": ("NAME", lambda job: job["name"]),
    "k": ("COMMENT", lambda job: job["comment"] or "(null)"),
}


def _starts_at(job: Job) -> float | None:
    if job["state"] == "PENDING":
        return job["begin"]  # type: ignore[no-any-return]
    going_back = (job.get("ending") or {}).get("requeue")
    return None if going_back else job["start_at"]  # type: ignore[no-any-return]


def squeue(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    known = {"--me": False, "-a": False, "-r": False, "-h": False, "-t": True, "-o": True, "-j": True, "--name": True}
    found, rest = options("squeue", argv, known)
    if rest or found.get("-t") != "all" or "-o" not in found or ("-a" not in found and "-h" not in found):
        raise unknown("squeue", f"{argv}")
    jobs = cluster.visible()
    if "-j" in found:
        named = cluster.named(found["-j"])
        if named is None:
            raise Said(1, "", "slurm_load_jobs error: Invalid job id specified\n")
        jobs = named
    if "--me" in found:
        jobs = [job for job in jobs if job["user"] == "alice"]
    if "--name" in found:
        jobs = [job for job in jobs if job["name"] in found["--name"].split(",")]
    if "-r" not in found:  # the waiting rest of an array is one record
        rests: set[int] = set()
        jobs = [job for job in jobs if job["id"] is not None or not (job["array"] in rests or rests.add(job["array"]))]

    def line(job: Job | None) -> str:
        def column(matched: re.Match[str]) -> str:
            if matched[1] not in _COLUMNS:
                raise unknown("squeue", f"the column %{matched[1]}")
            title, value = _COLUMNS[matched[1]]
            return title if job is None else value(job)

        return re.sub(r"%(.)", column, found["-o"]) + "\n"

    return Said(0, "".join([*([] if "-h" in found else [line(None)]), *map(line, jobs)]))


# --- scancel


def scancel(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    found, rest = options("scancel", argv, {"--signal": True, "--state": True, "--name": True})
    if len(rest) != 1 or found.get("--signal", "TERM") != "TERM" or found.get("--state", "RUNNING") != "RUNNING":
        raise unknown("scancel", f"{argv}")
    ident = rest[0]
    jobs = cluster.named(ident) or []
    gone = Said(1, "", f"scancel: error: Kill job error on job id {ident}: Invalid job id specified\n")
    if not jobs:
        raise gone
    jobs = [job for job in jobs if found.get("--name", job["name"]) == job["name"]]
    if jobs and all(job["end_at"] is not None for job in jobs):
        raise gone
    jobs = [job for job in jobs if job["end_at"] is None]
    if any(job["user"] != "alice" for job in jobs):
        raise Said(210, "", f"scancel: error: Kill job error on job id {ident}: Access/permission denied\n")
    if "--state" in found:
        jobs = [job for job in jobs if job["state"] == "RUNNING"]
    for job in jobs:
        if "--signal" in found:
            cluster.signal_steps(job, signal.SIGTERM)
        elif job["id"] is not None:
            cluster.end(job, "CANCELLED", by=UID)
        elif "--name" in found or "_" not in ident:
            # 22.05: with any filter, one waiting member that is named stands for the whole waiting rest.
            cluster.cancel_rest(job["array"], UID)
        else:
            cluster.jobs.remove(job)  # neither its queue nor its history shows it any more
    return Said(0)


# --- sacct

_HISTORY = {
    "JobID": "ident", "State": "word", "ExitCode": "code", "Submit": "submit", "Start": "start", "End": "end",
    "NodeList": "nodes", "Partition": "partition", "Reason": "reason", "JobName": "name", "Comment": "comment",
}  # fmt: skip


def sacct(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    known = {
        "-X": False,
        "-D": False,
        "-p": False,
        "--delimiter": True,
        "-o": True,
        "-j": True,
        "-S": True,
        "--name": True,
    }
    found, rest = options("sacct", argv, known)
    if rest or not {"-X", "-D", "-p", "--delimiter", "-o"} <= set(found) or ("-j" in found) == ("--name" in found):
        raise unknown("sacct", f"{argv}")
    if cluster.config["accounting"] == "off":
        raise Said(1, "", "Slurm accounting storage is disabled\n")
    if cluster.config["accounting"] == "down":
        raise Said(1, "", NO_DATABASE)
    columns = found["-o"].split(",")
    if not set(columns) <= set(_HISTORY):
        raise unknown("sacct", f"the fields {found['-o']}")
    wanted = set(found.get("-j", found.get("--name", "")).split(","))
    lines = ["".join(column + found["--delimiter"] for column in columns) + "\n"]
    for row in cluster.rows():
        rest_of_array = row["array"] is not None and "_" not in row["ident"]
        if "-j" in found:
            hit = row["ident"] in wanted or str(row["array"]) in wanted
            hit = hit or (rest_of_array and any(one.startswith(f"{row['array']}_") for one in wanted))
        else:
            hit = row["name"] in wanted and not rest_of_array
        if not hit or row["user"] != "alice":
            continue
        # As the daemon writes it before it knows the job.
        unknown_yet = {"name": "allocation", "submit": "Unknown", "partition": "", "comment": ""} if row["half"] else {}
        told = {**row, **unknown_yet}
        lines.append("".join(told[_HISTORY[column]] + found["--delimiter"] for column in columns) + "\n")
    return Said(0, "".join(lines))


# --- scontrol


def scontrol(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    match argv:
        case ["show", "node", "-a", "-d", "-o"]:
            return Said(0, "".join(node_line(cluster, name) for name in cluster.config["nodes"]))
        case ["show", "partition", "-a", "-o"]:
            return Said(0, "".join(partition_line(cluster, part) for part in cluster.config["partitions"]))
        case ["show", "config"]:
            return Said(0, config_text(cluster))
        case ["hold" | "release" | "requeue" | "requeuehold" as verb, ident]:
            job = cluster.one(ident)
            if verb in ("hold", "release"):
                job.update(
                    hold="JobHeldAdmin" if verb == "hold" else False, begin=job["begin"] if verb == "hold" else None
                )
            elif not job["requeue"]:
                raise Said(1, "", f"Requested operation is presently disabled for job {ident}\n")
            else:
                cluster.end(job, "CANCELLED", requeue=True, hold=verb == "requeuehold")
            cluster.advance()
            return Said(0)
    raise unknown("scontrol", f"{argv}")


# --- srun


def srun(root: str, argv: list[str]) -> int:
    """One task on each machine of the job; TERM to this process is passed on to them."""
    known = {
        "--export": True,
        "--kill-on-bad-exit": True,
        "--wait": True,
        "--nodes": True,
        "--ntasks-per-node": True,
        "--cpus-per-task": True,
    }
    found, program = options("srun", argv, known)
    if found.get("--ntasks-per-node") != "1" or found.get("--export") != "ALL" or not program:
        raise unknown("srun", f"{argv}")
    directory = os.path.join(root, "runs", os.environ["SLURM_EMULATED_RUN"])
    with open(os.path.join(directory, "job.json"), encoding="utf-8") as file:
        job = json.load(file)
    if int(found["--nodes"]) != len(job["nodes"]):
        raise Said(
            1, "", f"srun: error: Unable to create step for job {job['id']}: More processors requested than permitted\n"
        )
    adopt_orphans()
    step = len([name for name in os.listdir(directory) if name.startswith("step-")])
    running: dict[int, int] = {}
    for rank, node in enumerate(job["nodes"]):
        environ = {
            **environment({**job, "environ": dict(os.environ)}, node, rank),
            "SLURM_JOB_NAME": os.path.basename(program[0]),
            "SLURM_STEPID": str(step),
            "SLURM_STEP_ID": str(step),
            "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
            "SLURM_STEP_NUM_NODES": str(len(job["nodes"])),
            "SLURM_STEP_NUM_TASKS": str(len(job["nodes"])),
        }
        running[spawn(program, environ)] = rank
    _write(directory, f"step-{step}", json.dumps([os.getpid(), start_of(os.getpid())]))

    def everybody(number: int) -> None:
        send(descendants(os.getpid()), number)

    def terminate(*_: Any) -> None:
        everybody(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, job["kill_wait_s"])

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, terminate)
    signal.signal(signal.SIGALRM, lambda *_: everybody(signal.SIGKILL))
    worst = 0
    while running:
        pid, status = os.wait()
        if pid not in running:
            continue
        rank = running.pop(pid)
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        worst = max(worst, code)
        if code:
            how = "Killed" if code == 137 else "Terminated" if code == 143 else f"Exited with exit code {code}"
            sys.stderr.write(f"srun: error: {job['nodes'][rank]}: task {rank}: {how}\n")
            if found.get("--kill-on-bad-exit") == "1" and running:
                sys.stderr.write(f"srun: launch/slurm: _step_signal: Terminating StepId={job['id']}.{step}\n")
                terminate()
    end_descendants()
    return worst


# --- what people and accidents do: for tests


def admin(cluster: Cluster, argv: list[str], fault: dict[str, Any]) -> Said:
    verb, more = argv[0], json.loads(argv[1])
    match verb:
        case "jobs":
            kept = (
                "id",
                "array",
                "index",
                "name",
                "comment",
                "state",
                "reason",
                "restarts",
                "exit",
                "nodes",
                "user",
                "gpus",
            )
            rows = [
                {**{key: job[key] for key in kept}, "ident": ident_of(job), "word": word_of(job)}
                for job in cluster.jobs
            ]
            return Said(0, json.dumps(rows))
        case "set":
            cluster.config.update(more)
        case "preempt":
            job = cluster.one(more["ident"])
            cluster.end(job, "PREEMPTED", requeue=more["mode"] == "REQUEUE" and job["requeue"])
        case "cancel":
            cluster.end(cluster.one(more["ident"]), "CANCELLED", by=more["by"])
        case "requeue":
            cluster.end(cluster.one(more["ident"]), "CANCELLED", requeue=True)
        case "show_as":
            cluster.one(more["ident"])["shown"] = more["word"]
        case "half":
            for row in cluster.state["rows"]:
                if not more["ident"] or row["versions"][-1][1]["ident"] == more["ident"]:
                    row["half"] = more["half"]
        case "node":
            cluster.state["nodes"][more["name"]] = {"state": more["state"], "reason": more["reason"], "at": cluster.now}
            for job in cluster.held_on(more["name"]) if more["state"] == "down" else ():
                if more["unseen"]:
                    cluster.lose_touch(job)
                else:
                    cluster.end(job, "NODE_FAIL", reason="NodeDown", requeue=job["requeue"])
        case "forget":
            for job in cluster.named(more["ident"]) or ():
                if job.get("keeper"):
                    send([*descendants(job["keeper"][0]), job["keeper"][0]], signal.SIGKILL)
                cluster.jobs.remove(job)
                if more["history"]:
                    continue
                cluster.state["rows"] = [row for row in cluster.state["rows"] if row["key"][0] != job["serial"]]
            if more["reuse"]:
                cluster.state["next_id"] = int(more["ident"])
        case "foreign":
            script = f"#!/bin/sh\n#SBATCH --partition={more['partition']}\nsleep 600\n"
            job = {**_job(cluster, _directives(script)), "environ": {"PATH": os.environ["PATH"]}, "cwd": "/"}
            job.update(
                name=more["name"], comment=more["comment"], user=more["user"], output="/dev/null", script="foreign.sh"
            )
            path = os.path.join(cluster.root, "scripts", "foreign.sh")
            with open(path, "w", encoding="utf-8") as file:
                file.write(script)
            os.chmod(path, 0o700)
            return Said(0, json.dumps(str(cluster.add(job))))
        case _:
            raise unknown("admin", verb)
    cluster.advance()
    return Said(0, "null")


# --- the program

_COMMANDS = {
    "sbatch": sbatch,
    "squeue": squeue,
    "scancel": scancel,
    "sacct": sacct,
    "scontrol": scontrol,
    "admin": admin,
}


def main(root: str, command: str, argv: list[str]) -> int:
    try:
        if command == "srun":
            return srun(root, argv)
        fault = _fault(root, command)
        how = fault.get("how", "")
        if how == "down":
            time.sleep(fault.get("after_s", 0))
            raise Said(1, "", _failed(command, argv, NO_CONTACT))
        if how == "hang-before":
            _hang(root)
        if how == "kill-caller-before":
            os.kill(os.getppid(), signal.SIGKILL)
            return 1
        try:
            with Cluster(root) as cluster:
                said = _COMMANDS[command](cluster, argv, fault)
        except Said as refused:
            said = refused
        if how in ("hang", "late"):
            _hang(root)
        if how == "kill-caller":
            os.kill(os.getppid(), signal.SIGKILL)
            return 1
        if how == "timed-out":
            raise Said(1, "", _failed(command, argv, TIMED_OUT))
        if how == "records":
            end = "\x1d\n" if "\x1d\n" in said.out else "\n"
            sys.stdout.write("".join(part + end for part in said.out.split(end)[: fault.get("keep", 1) + 1]))
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "cut":
            said.out = said.out[: fault.get("keep", len(said.out) // 2)]
        if how == "empty":
            said = Said(0)
        if how == "banner":
            said.out = BANNER + said.out
        raise said
    except Said as said:
        sys.stdout.write(said.out)
        sys.stdout.flush()
        sys.stderr.write(said.err)
        return said.code


def _failed(command: str, argv: list[str], words: str) -> str:
    if command == "sbatch":
        return f"sbatch: error: Batch job submission failed: {words}\n"
    what = {"node": "slurm_load_node", "partition": "slurm_load_partitions", "config": "slurm_load_ctl_conf"}
    asked = what.get(argv[1], "slurm_load_jobs") if command == "scontrol" else "slurm_load_jobs"
    return f"sacct: error: {words}\n" if command == "sacct" else f"{asked} error: {words}\n"


def _fault(root: str, command: str) -> dict[str, Any]:
    """The first fault that is laid for this command, used up by one."""
    path = os.path.join(root, "faults.json")
    with open(path, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        if text in ("", "[]"):
            return {}
        faults: list[dict[str, Any]] = json.loads(text)
        for fault in faults:
            # Everything but the accounting is the controller's.
            if command not in ("admin", "srun") and (
                fault["command"] == command or (fault["command"] == "controller" and command != "sacct")
            ):
                if fault["count"] is not None:
                    fault["count"] -= 1
                    faults = [one for one in faults if one["count"] != 0]
                    file.seek(0)
                    file.truncate()
                    file.write(json.dumps(faults))
                return fault
        return {}


def _hang(root: str) -> None:
    """Until whoever waits for the answer is gone."""
    parent = os.getppid()
    _write(root, f"hangs-{os.getpid()}", start_of(os.getpid()))
    while os.getppid() == parent:
        time.sleep(0.02)
    os._exit(1)


class Emulator:
    """A cluster below `root`, for tests. `bin` goes to the front of PATH. `config` is over slurm_cluster.CONFIG."""

    def __init__(self, root: Any, **config: Any) -> None:
        self.root = str(root)
        self.bin = os.path.join(self.root, "bin")
        for name in ("bin", "runs", "scripts"):
            os.makedirs(os.path.join(self.root, name))
        merged = {**CONFIG, **config}
        nodes = {name: {"state": "up", "reason": "", "at": 0} for name in merged["nodes"]}
        state = {
            "config": merged,
            "began": time.time(),
            "next_id": 1,
            "serial": 0,
            "jobs": [],
            "nodes": nodes,
            "rows": [],
        }
        _write(self.root, "state.json", json.dumps(state))
        _write(self.root, "faults.json", "[]")
        repository = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        for name in (*TOOLS, "admin"):
            # A script of Python's own, so that what it imports is compiled once.
            text = (
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {repository!r})\n"
                f"from tests.emulators.slurm import main\nsys.exit(main({self.root!r}, {name!r}, sys.argv[1:]))\n"
            )
            path = os.path.join(self.bin if name in TOOLS else self.root, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, stat.S_IRWXU)

    @property
    def path(self) -> str:
        return f"{self.bin}:{os.environ.get('PATH', os.defpath)}"

    def _admin(self, verb: str, **more: Any) -> Any:
        import subprocess

        argv = [os.path.join(self.root, "admin"), verb, json.dumps(more)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    # --- faults of commands

    def fault(self, command: str, how: str, *, count: int | None = 1, **more: Any) -> None:
        """Lay a fault for the next `count` calls (None: for all) of a command, or of all that ask the `controller`."""
        assert how in FAULTS, how
        with open(os.path.join(self.root, "faults.json"), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            faults = [*json.loads(file.read() or "[]"), {"command": command, "how": how, "count": count, **more}]
            file.seek(0)
            file.truncate()
            file.write(json.dumps(faults))

    def heal(self) -> None:
        with open(os.path.join(self.root, "faults.json"), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate()

    def laid(self) -> list[dict[str, Any]]:
        """Faults that nobody met yet."""
        with open(os.path.join(self.root, "faults.json"), encoding="utf-8") as file:
            return json.loads(file.read() or "[]")  # type: ignore[no-any-return]

    def let_go(self) -> None:
        """End the commands that hang."""
        for name in os.listdir(self.root):
            if name.startswith("hangs-") and not name.endswith(".new"):
                with open(os.path.join(self.root, name), encoding="utf-8") as file:
                    hung = [int(name.removeprefix("hangs-")), file.read()]
                if is_alive(hung):
                    send([hung[0]], signal.SIGKILL)

    # --- the site

    def set(self, **config: Any) -> None:
        """Change what slurm_cluster.CONFIG lists."""
        assert set(config) <= set(CONFIG), config
        self._admin("set", **config)

    def node(self, name: str, state: str, *, reason: str = "test", unseen: bool = False) -> None:
        """up, drain or down. `unseen`: it is cut off; what runs on it lives on."""
        self._admin("node", name=name, state=state, reason=reason, unseen=unseen)

    # --- jobs

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        return [job for job in self._admin("jobs") if name in (None, job["name"])]

    def foreign(self, *, name: str = "theirs", comment: str = "", user: str = "bob", partition: str = "cpu") -> str:
        """Somebody else's job (or one of ours by hand: user alice); gives its id."""
        return str(self._admin("foreign", name=name, comment=comment, user=user, partition=partition))

    def preempt(self, ident: str, mode: str = "REQUEUE") -> None:
        self._admin("preempt", ident=ident, mode=mode)

    def cancel(self, ident: str, *, by: int = UID) -> None:
        self._admin("cancel", ident=ident, by=by)

    def requeue(self, ident: str) -> None:
        self._admin("requeue", ident=ident)

    def show_as(self, ident: str, word: str | None) -> None:
        """Its state in squeue, whatever it is in truth."""
        self._admin("show_as", ident=ident, word=word)

    def half(self, ident: str = "", *, half: bool = True) -> None:
        """The accounting's rows of a job (of all) are not complete yet."""
        self._admin("half", ident=ident, half=half)

    def forget(self, ident: str, *, reuse: bool = False, history: bool = True) -> None:
        """The controller crashed and lost this job; `reuse`: the next one gets its id."""
        self._admin("forget", ident=ident, reuse=reuse, history=history)

    def clear(self) -> None:
        """End every process of every job."""
        runs = os.path.join(self.root, "runs")
        self.let_go()
        self._admin("set", paused=True)
        keepers = []
        for name in os.listdir(runs):
            with contextlib.suppress(OSError), open(os.path.join(runs, name, "keeper"), encoding="utf-8") as file:
                keepers.append(json.loads(file.read()))
        while keepers := [keeper for keeper in keepers if is_alive(keeper)]:
            for keeper in keepers:
                send(descendants(keeper[0]), signal.SIGKILL)
            time.sleep(0.005)

"""The emulated cluster: what jobs there are, which may start, what has ended. It simulates; its jobs are real processes.

There is no daemon. Whoever opens the state brings it to the present first. A job's script runs below a keeper (as below a
slurmstepd), which adopts what the script leaves behind and writes how the script ended into a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time

from tests.emulators.slurm_text import compress, expand, moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Job = dict[str, Any]

CONFIG: dict[str, Any] = {
    "minute_s": 60.0,
    "kill_wait_s": 2.0,
    "min_job_age_s": 300.0,
    "requeue_delay_s": 0.2,
    "history_lag_s": 0.0,
    "accounting": "up",  # "down": its daemon does not answer; "off": the site has none
    "drop_comments": False,
    "paused": False,  # nothing starts
    "held_arrays": [],  # nothing of these starts
    "array_max": 10001,
    "accounts": ["lab", "team-a"],
    "qos": {"normal": None, "low": None, "high": None, "short": 1},  # minutes that a job may ask for
    "nodes": {
        "cpu01": {"cpus": 32, "memory": 16000, "features": ["cpu"]},
        "cpu02": {"cpus": 32, "memory": 16000, "features": ["cpu"]},
        "gh01": {"cpus": 32, "memory": 16000, "features": ["h100"], "gpus": 8, "gpu_type": "h100"},
        "gh02": {"cpus": 32, "memory": 16000, "features": ["h100"], "gpus": 8, "gpu_type": "h100"},
    },
    "partitions": [
        {
            "name": "gpu",
            "nodes": "gh[01-02]",
            "default": True,
            "tier": 10,
            "minutes_default": 60,
            "minutes_max": 2880,
        },
        {"name": "cpu", "nodes": "cpu[01-02]", "tier": 5, "minutes_default": 30, "minutes_max": 1440},
    ],
}
MEMORY_PER_CPU = 100
UID = 1001
HELD_BACK = "job requeued in held state"


class Cluster:
    """The state, held by a lock and at the present. Saved on leaving."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._path = os.path.join(root, "state.json")

    def __enter__(self) -> Cluster:
        self._lock = os.open(os.path.join(self.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with open(self._path, encoding="utf-8") as file:
            self._text = file.read()
        self.state = json.loads(self._text)
        self.config = self.state["config"]
        self.now = time.time()
        self.advance()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        text = json.dumps(self.state)
        if kind is None and text != self._text:
            with open(self._path + ".new", "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(self._path + ".new", self._path)
        # In words: a keeper that was forked meanwhile may still hold a copy of the descriptor.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)

    @property
    def jobs(self) -> list[Job]:
        return self.state["jobs"]

    # --- looking

    def visible(self) -> list[Job]:
        """What has arrived, in the order in which squeue lists it."""
        arrived = [job for job in self.jobs if job.get("arrives_at", 0) <= self.now]
        return sorted(arrived, key=lambda job: (job["partition"], word_of(job), job["serial"]))

    def named(self, ident: str) -> list[Job] | None:
        """The jobs of an id as people type it; None where there is no such job."""
        base, under, index = ident.partition("_")
        found = [job for job in self.visible() if base in (str(job["id"]), str(job["array"]))]
        if not found or not base.isdigit():
            return None
        return [job for job in found if not under or str(job["index"]) == index]

    def one(self, ident: str) -> Job:
        found = self.named(ident) or []
        exact = [job for job in found if ident_of(job) == ident] or found
        if len(exact) != 1:
            raise SystemExit(f"there are {len(exact)} jobs {ident}")
        return exact[0]

    def held_on(self, node: str) -> list[Job]:
        """Jobs that hold something on this machine."""
        return [job for job in self.jobs if node in job["nodes"] and job["state"] == "RUNNING"]

    def partition(self, name: str) -> dict[str, Any] | None:
        return next((part for part in self.config["partitions"] if part["name"] == name), None)

    # --- submitting

    def add(self, fields: Job, *, members: list[int] | None = None) -> int:
        """Put a job, or an array, into the queue; gives its id."""
        ident = self.state["next_id"]
        self.state["next_id"] += 1
        for index in members or [None]:  # type: ignore[list-item]
            self.state["serial"] += 1
            job: Job = {
                **fields,
                "serial": self.state["serial"],
                "id": ident if index is None else None,
                "array": None if index is None else ident,
                "index": index,
                "state": "PENDING",
                "reason": "None",
                "submit_at": self.now,
                "start_at": None,
                "end_at": None,
                "nodes": [],
                "indexes": {},
                "restarts": 0,
                "exit": [0, 0],
            }
            self.jobs.append(job)
        self._start_what_fits()
        return int(ident)

    # --- time

    def advance(self) -> None:
        for job in list(self.jobs):
            if job["state"] == "RUNNING":
                self._look_at(job)
        age = self.config["min_job_age_s"]
        self.state["jobs"] = [job for job in self.jobs if job["end_at"] is None or job["end_at"] + age > self.now]
        self._start_what_fits()

    def _look_at(self, job: Job) -> None:
        ended = _read(self.run_dir(job), "exit")
        if ended is None and not is_alive(job["keeper"]):
            ended = _read(self.run_dir(job), "exit") or "0 9"  # it may have written while we looked
        if ended is not None:
            self._over(job, *(int(part) for part in ended.split()))
            return
        if job.get("ending"):
            if self.now >= job["ending"]["kill_at"]:
                send(descendants(job["keeper"][0]), signal.SIGKILL)
            return
        if job["minutes"] is None:
            return
        left_s = job["start_at"] + job["minutes"] * self.config["minute_s"] - self.now
        if left_s <= 0:
            self.end(job, "TIMEOUT", reason="TimeLimit")
        elif job["warn"] and not job.get("warned") and left_s <= job["warn"][1] * self.config["minute_s"] / 60:
            job["warned"] = True
            self.signal_steps(job, getattr(signal, f"SIG{job['warn'][0]}"))

    def _over(self, job: Job, code: int, number: int) -> None:
        """Its processes are gone."""
        ending = job.pop("ending", None)
        if ending is None:
            job["exit"] = [code, number]
            job["state"] = "COMPLETED" if not code and not number else "FAILED"
            job["reason"] = (
                "None" if job["state"] == "COMPLETED" else "JobLaunchFailure" if number else "NonZeroExitCode"
            )
        else:
            job["state"], job["reason"] = ending["word"], ending["reason"]
        job["by"] = (ending or {}).get("by")
        job["end_at"] = self.now
        self.note(job, "REQUEUED" if ending and ending["requeue"] and job["state"] == "CANCELLED" else None)
        if ending and ending["requeue"]:
            self._put_back(job, hold=ending["hold"])

    def _put_back(self, job: Job, *, hold: bool) -> None:
        begin = None if hold else self.now + self.config["requeue_delay_s"]
        reason = HELD_BACK if hold else "BeginTime"
        job.update(state="PENDING", reason=reason, hold=hold, begin=begin, submit_at=self.now)
        job.update(
            start_at=None, end_at=None, nodes=[], indexes={}, restarts=job["restarts"] + 1, exit=[0, 0], warned=False
        )
        self.note(job)

    # --- starting

    def _start_what_fits(self) -> None:
        waiting = [job for job in self.jobs if job["state"] == "PENDING" and job.get("arrives_at", 0) <= self.now]
        behind: set[str] = set()
        for job in waiting:
            why = self._why_not(job)
            nodes = None if why else self._places(job)
            if nodes is not None:
                self._start(job, nodes)
                continue
            if not why:
                why = "Priority" if job["partition"] in behind else "Resources"
                behind.add(job["partition"])
            if job["hold"] and job["reason"] == HELD_BACK:
                continue
            if job["reason"] != why or not job["restarts"]:
                job["reason"] = why
                if job["index"] is None:
                    self.note(job)

    def _why_not(self, job: Job) -> str:
        part = self.partition(job["partition"])
        assert part is not None
        if job["hold"]:
            return job["hold"] if isinstance(job["hold"], str) else "JobHeldUser"
        if job["begin"] is not None and job["begin"] > self.now:
            return "BeginTime"
        if self.config["paused"] or job["array"] in self.config["held_arrays"]:
            return "Priority"
        if part.get("down"):
            return "PartitionDown"
        if job["minutes"] is None or job["minutes"] > part["minutes_max"]:
            return "PartitionTimeLimit"
        if job["count"] > len(expand(part["nodes"])):
            return "PartitionNodeLimit"
        if job["parallel"] is not None:
            mates = [one for one in self.jobs if one["array"] == job["array"] and one["state"] == "RUNNING"]
            if len(mates) >= job["parallel"]:
                return "JobArrayTaskLimit"
        away = [name for name in job["nodelist"] if self.state["nodes"][name]["state"] != "up"]
        return f"ReqNodeNotAvail, UnavailableNodes:{compress(away)}" if away else ""

    def _places(self, job: Job) -> list[str] | None:
        part = self.partition(job["partition"])
        assert part is not None
        hosts = [name for name in expand(part["nodes"]) if self._has_room(job, name)]
        if not set(job["nodelist"]) <= set(hosts):
            return None
        ordered = [*job["nodelist"], *(name for name in hosts if name not in job["nodelist"])]
        return sorted(ordered[: job["count"]]) if len(ordered) >= job["count"] else None

    def _has_room(self, job: Job, name: str) -> bool:
        node, held = self.config["nodes"][name], self.held_on(name)
        if self.state["nodes"][name]["state"] != "up" or name in job["exclude"] or not could_hold(job, node):
            return False
        if held and (job["exclusive"] or any(one["exclusive"] for one in held)):
            return False
        cpus, memory = sum(one["cpus"] for one in held), sum(one["memory"] for one in held)
        gpus = sum(len(one["indexes"].get(name, [])) for one in held)
        return (
            cpus + job["cpus"] <= node["cpus"]
            and memory + job["memory"] <= node["memory"]
            and gpus + job["gpus"] <= node.get("gpus", 0)
        )

    def _start(self, job: Job, nodes: list[str]) -> None:
        if job["id"] is None:  # a member of an array gets a number of its own; the last one keeps that of the array
            if any(one["array"] == job["array"] and one["id"] is None and one is not job for one in self.jobs):
                job["id"] = self.state["next_id"]
                self.state["next_id"] += 1
            else:
                job["id"] = job["array"]
        for name in nodes:
            taken = {index for one in self.held_on(name) for index in one["indexes"].get(name, [])}
            free = [index for index in range(self.config["nodes"][name].get("gpus", 0)) if index not in taken]
            job["indexes"][name] = free[: job["gpus"]]
        job.update(state="RUNNING", reason="None", start_at=self.now, nodes=nodes)
        directory = self.run_dir(job)
        os.makedirs(directory)
        with open(os.path.join(directory, "job.json"), "w", encoding="utf-8") as file:
            json.dump({**job, "kill_wait_s": self.config["kill_wait_s"]}, file)
        job["keeper"] = keep(job, directory, os.path.join(self.root, "scripts", job["script"]))
        self.note(job)

    def run_dir(self, job: Job) -> str:
        return os.path.join(self.root, "runs", f"{job['serial']}.{job['restarts']}")

    # --- ending

    def end(
        self,
        job: Job,
        word: str,
        *,
        reason: str = "None",
        by: int | None = None,
        requeue: bool = False,
        hold: bool = False,
    ) -> None:
        """TERM to all its processes, KILL after KillWait; its state is `word` once they are gone."""
        if job["end_at"] is not None or job.get("ending"):
            return
        if job["state"] == "PENDING":
            job.update(state=word, start_at=self.now, end_at=self.now, by=by)
            self.note(job)
            return
        kill_at = self.now + self.config["kill_wait_s"]
        job["ending"] = {"word": word, "reason": reason, "by": by, "requeue": requeue, "hold": hold, "kill_at": kill_at}
        if hold:
            job["reason"] = job["ending"]["reason"] = HELD_BACK
        due = {"TIMEOUT": " DUE TO TIME LIMIT", "PREEMPTED": " DUE TO PREEMPTION", "NODE_FAIL": " DUE TO NODE FAILURE"}
        told = " DUE TO JOB REQUEUE" if requeue and word == "CANCELLED" else due.get(word, "")
        where = f"slurmstepd-{job['nodes'][0]}: error: *** JOB {job['id']} ON {job['nodes'][0]} CANCELLED AT "
        with contextlib.suppress(OSError), open(output_of(job), "a", encoding="utf-8") as file:
            file.write(f"{where}{moment(self.now)}{told} ***\n")
        send(descendants(job["keeper"][0]), signal.SIGTERM)

    def lose_touch(self, job: Job) -> None:
        """Its machine is given up while its processes live on, unseen."""
        job["ending"] = {
            "word": "NODE_FAIL",
            "reason": "NodeDown",
            "by": None,
            "requeue": job["requeue"],
            "hold": False,
        }
        self._over(job, 0, 0)

    def cancel_rest(self, array: int, by: int | None) -> None:
        """The waiting rest of an array becomes one ended job without an index."""
        rest = [job for job in self.jobs if job["array"] == array and job["state"] == "PENDING"]
        if rest:
            first = rest[0]
            self.state["jobs"] = [job for job in self.jobs if job not in rest[1:]]
            first.update(id=array, index=None)
            self.end(first, "CANCELLED", by=by)

    def signal_steps(self, job: Job, number: int) -> None:
        """To every process of its steps, not to the script."""
        for name in os.listdir(self.run_dir(job)):
            if name.startswith("step-") and not name.endswith(".new"):
                launcher = json.loads(_read(self.run_dir(job), name) or "[0, '']")
                if is_alive(launcher):
                    send(descendants(launcher[0]), number)

    # --- accounting

    def note(self, job: Job, word: str | None = None) -> None:
        """What the accounting gets to know of this run of the job, once its lag is over."""
        by = f" by {job['by']}" if job["state"] == "CANCELLED" and job.get("by") and word is None else ""
        ended = job["end_at"] is not None
        row = {
            "ident": ident_of(job),
            "array": job["array"],
            "word": (word or job["state"]) + by,
            "code": "{}:{}".format(*job["exit"]),
            "submit": moment(job["submit_at"]),
            "start": "None" if word == "REQUEUED" else moment(job["start_at"], "Unknown"),
            "end": moment(job["end_at"], "Unknown") if ended else "Unknown",
            "nodes": compress(job["nodes"]) or "None assigned",
            "partition": job["partition"],
            "reason": self._reason_kept(job),
            "name": job["name"],
            "comment": job["comment"],
            "user": job["user"],
        }
        key = [job["serial"], job["restarts"]]
        known = next((one for one in self.state["rows"] if one["key"] == key), None)
        if known is None:
            known = {"key": key, "versions": []}
            self.state["rows"].append(known)
        if not known["versions"] or known["versions"][-1][1] != row:
            known["versions"].append([self.now, row])

    @staticmethod
    def _reason_kept(job: Job) -> str:
        if job["reason"] == HELD_BACK:
            return "JobHeldUser"
        return "None" if job["nodes"] or job["reason"] in ("Resources", "Priority") else str(job["reason"])

    def rows(self) -> list[dict[str, Any]]:
        """The newest that the accounting knows by now of each run."""
        lag_s = self.config["history_lag_s"]
        found = []
        for one in self.state["rows"]:
            known = [row for at, row in one["versions"] if at + lag_s <= self.now]
            if known:
                found.append({**known[-1], "half": one.get("half", False)})
        return found


def word_of(job: Job) -> str:
    return str(job.get("shown") or ("COMPLETING" if job.get("ending") else job["state"]))


def ident_of(job: Job) -> str:
    return f"{job['array']}_{job['index']}" if job["index"] is not None else str(job["id"])


def could_hold(job: Job, node: dict[str, Any]) -> bool:
    """Could this machine ever hold the job's share?"""
    return (
        job["cpus"] <= node["cpus"]
        and job["memory"] <= node["memory"]
        and job["gpus"] <= node.get("gpus", 0)
        and (not job["gpu_type"] or job["gpu_type"] == node.get("gpu_type"))
        and (not job["constraint"] or job["constraint"] in node["features"])
    )


def output_of(job: Job) -> str:
    fill = {"%": "%", "j": job["id"], "A": job["array"] or job["id"], "a": job["index"], "x": job["name"]}
    path = re.sub(r"%(.)", lambda found: str(fill.get(found[1], found[0])), job["output"])
    return os.path.join(job["cwd"], path)


# --- processes


def keep(job: Job, directory: str, script: str) -> list[Any]:
    """Start the keeper, detached; gives its pid and start time."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _keeper(job, directory, script, writer)
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(first, 0)
    with os.fdopen(reader) as file:
        keeper = json.loads(file.read())
    return list(keeper)


def _keeper(job: Job, directory: str, script: str, writer: int) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    mine = [os.getpid(), start_of(os.getpid())]
    _write(directory, "keeper", json.dumps(mine))
    os.write(writer, json.dumps(mine).encode())
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, 256)
    how = os.O_APPEND if job["append"] else os.O_TRUNC
    try:
        output = os.open(output_of(job), os.O_WRONLY | os.O_CREAT | how, 0o644)
        os.chdir(job["cwd"])
    except OSError:
        _write(directory, "exit", "0 53")
        return
    environ = environment(job, job["nodes"][0], 0)
    pid = spawn([script], environ, output)
    os.close(output)
    status = 0
    while True:
        ended, code = os.waitpid(-1, 0)
        if ended == pid:
            status = code
            break
    end_descendants()
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    _write(directory, "exit", f"{0 if number else os.WEXITSTATUS(status)} {number}")


def spawn(argv: list[str], environ: dict[str, str], output: int | None = None) -> int:
    """A child in a process group of its own, with default signals."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def end_descendants() -> None:
    """KILL and collect whatever is left below this process."""
    while True:
        send(descendants(os.getpid()), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def adopt_orphans() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def environment(job: Job, node: str, rank: int) -> dict[str, str]:
    """SLURM_* as in the samples; what a step adds is srun's to add."""
    count, nodes = len(job["nodes"]), compress(job["nodes"])
    each = f"(x{count})" if count > 1 else ""
    environ = {
        **job["environ"],
        "SLURMD_NODENAME": node,
        "SLURM_CLUSTER_NAME": "lab",
        "SLURM_CPUS_ON_NODE": str(job["cpus"]),
        "SLURM_GTIDS": str(rank),
        "SLURM_JOBID": str(job["id"]),
        "SLURM_JOB_ACCOUNT": job["account"],
        "SLURM_JOB_CPUS_PER_NODE": f"{job['cpus']}{each}",
        "SLURM_JOB_ID": str(job["id"]),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": str(count),
        "SLURM_JOB_PARTITION": job["partition"],
        "SLURM_JOB_QOS": job["qos"],
        "SLURM_JOB_USER": job["user"],
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": str(count),
        "SLURM_NODEID": str(rank),
        "SLURM_NODELIST": nodes,
        "SLURM_PROCID": str(rank),
        "SLURM_SUBMIT_DIR": job["cwd"],
        "SLURM_SUBMIT_HOST": "login01",
        "SLURM_TASKS_PER_NODE": f"1{each}",
        "SLURM_TASK_PID": str(os.getpid()),
        "SLURM_EMULATED_RUN": f"{job['serial']}.{job['restarts']}",
    }
    if job["gpus"]:
        indexes = ",".join(map(str, job["indexes"][node]))
        environ.update(CUDA_VISIBLE_DEVICES=indexes, SLURM_JOB_GPUS=indexes, SLURM_GPUS_ON_NODE=str(job["gpus"]))
    if job["restarts"]:
        environ["SLURM_RESTART_COUNT"] = str(job["restarts"])
    if job["index"] is not None:
        first, last, size = job["span"]
        environ.update(
            SLURM_ARRAY_JOB_ID=str(job["array"]),
            SLURM_ARRAY_TASK_COUNT=str(size),
            SLURM_ARRAY_TASK_ID=str(job["index"]),
            SLURM_ARRAY_TASK_MAX=str(last),
            SLURM_ARRAY_TASK_MIN=str(first),
            SLURM_ARRAY_TASK_STEP="1",
        )
    return environ


def table() -> dict[int, tuple[int, str]]:
    """(parent, start time) of every process that is not a zombie."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in b"ZX":
                found[int(name)] = (int(fields[1]), fields[19].decode())
    return found


def start_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in b"ZX" else fields[19].decode()


def is_alive(process: list[Any]) -> bool:
    return bool(process[0]) and start_of(process[0]) == process[1]


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for one, (parent, _) in table().items():
        children.setdefault(parent, []).append(one)
    found, todo = [], [pid]
    while todo:
        todo += (below := children.get(todo.pop(), []))
        found += below
    return found


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)


def _read(directory: str, name: str) -> str | None:
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(directory: str, name: str, text: str) -> None:
    path = os.path.join(directory, name)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(path + ".new", path)

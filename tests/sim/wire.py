"""Fake machines at the far end of the real adapters: what the runtime on a node, and a login node of Slurm, answer on the wire.

Simulated: the machine (backends/fake.FakeMachine) and its queue (fake_queue.FakeCluster). Real: everything from NodeBackend and
BatchBackend inwards, with the dialect's commands and parsers. An answer is bytes, and may be cut, mixed with noise, or late.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, BinaryIO

from reconciler.backends.batch import BatchBackend
from reconciler.backends.dialect import Site
from reconciler.backends.fake import FakeMachine, Fault, Process
from reconciler.backends.fake_queue import ENDED, GPU_TYPE, PARTITION, RUNNING, FakeCluster, Job
from reconciler.backends.node import NodeBackend
from reconciler.backends.node_answers import MARKER
from reconciler.backends.node_call import BUNDLE_MISSING, NodePaths, NodeSettings
from reconciler.backends.slurm import SlurmDialect
from reconciler.backends.slurm_answers import BEGIN, END, FIELD, HISTORY_HEADER, QUEUE_HEADER, WHOLE
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.observation import Report
from reconciler.core.protocols import Accepted, Backend, Declined, Known, Submission
from reconciler.core.run import Handle, Run, run_from_json
from reconciler.core.transport import Command, Completed
from reconciler.transports.shell import Progress
from tests.emulators.slurm_text import config_text, moment, node_line, partition_line

PATHS = NodePaths(*(f"/root/{name}" for name in ("status", "work", "checkpoints", "results")), bundle="/root/runtime/0")
MIN_JOB_AGE_S = 300.0
UNREACHED = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
TOO_MANY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)
NO_DATABASE = "sacct: error: Problem talking to the database: Connection refused"
NO_HISTORY = "Slurm accounting storage is disabled"
_VERBS = {"launch": "submit", "enqueue": "submit", "dequeue": "cancel"}  # as the fake machine counts them

Json = dict[str, Any]


@dataclass(slots=True)
class NodeEndpoint:
    """A machine as a Transport: each command of the runtime is carried out on it, and answered as docs/node-protocol.md says.
    `installed`: it has the bundle."""

    machine: FakeMachine
    rng: random.Random
    installed: bool = False

    def backend(self) -> Backend:
        return NodeBackend(NodeSettings(self.machine.name, PATHS), self, self.install)

    def install(self) -> None:
        self._reach("install")
        self.installed = True

    # --- a Transport

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        verb = command.argv[-1]
        fault = self._reach(_VERBS.get(verb, verb))
        if not self.installed:
            return Completed(BUNDLE_MISSING, b"", b"")
        document = json.loads(command.stdin)
        if fault is Fault.LOST or (fault in (Fault.LATE, Fault.CLAIMED) and verb not in ("launch", "enqueue")):
            raise self._cut(verb)
        lines = getattr(self, f"_{verb}")(document, fault)
        if fault in (Fault.AFTER, Fault.LATE, Fault.CLAIMED):
            raise self._cut(verb)
        return Completed(0, self._spoiled(self._told(lines), fault), b"")

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o644,
        deadline_s: float,
        progress: Progress | None = None,
    ) -> None:
        raise AssertionError("nothing is sent in the simulated world")

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        raise AssertionError("nothing is fetched in the simulated world")

    def close(self) -> None:
        """Nothing is held open."""

    # --- what goes wrong

    def _reach(self, verb: str) -> Fault | None:
        machine = self.machine
        machine.settle()
        if not machine.reachable:
            raise Unreachable(f"{machine.name}: no connection")
        fault = machine.disturb(verb, machine)
        if fault is Fault.BEFORE:
            if self.rng.random() < 0.3:
                raise AccessRefused(f"{machine.name}: login was refused", hint="Sign in again.")
            raise Unreachable(f"{machine.name}: no connection")
        machine.calls.append(verb)
        return fault

    def _cut(self, verb: str) -> OutcomeUnknown:
        self.machine.hangs()
        return OutcomeUnknown(f"{self.machine.name}: the connection was cut during {verb!r}")

    @staticmethod
    def _told(lines: Iterable[Json]) -> bytes:
        return b"Welcome.\n" + b"".join(MARKER + json.dumps(line).encode() + b"\n" for line in lines)

    def _spoiled(self, answer: bytes, fault: Fault | None) -> bytes:
        if fault is Fault.PARTIAL:
            return answer[: self.rng.randrange(len(answer))].rpartition(b"\n")[0]
        if fault is not Fault.GARBLED:
            return answer
        cut = self.rng.randrange(len(answer) - 2)
        return self.rng.choice(
            [answer[:cut], b"", answer.replace(b'"done": true', b'"do\x00'), b"\xff\xfe" + answer[cut:][:20]]
        )

    # --- the verbs of the runtime

    def _launch(self, document: Json, fault: Fault | None) -> list[Json]:
        lines = []
        for record in document["runs"]:
            item = submission_of(record)
            if fault is Fault.LATE:
                self.machine.late.append((self.machine.now() + self.machine.late_s, item))
                continue
            starts_in_s = self.machine.late_s if fault is Fault.CLAIMED else 0.0
            answer = self.machine.claim(item, starts_in_s=starts_in_s)
            line: Json = {"run_id": item.run.run_id, "result": "already", "reason": "", "handle": None}
            if isinstance(answer, Declined):
                line |= {"result": "refused", "reason": answer.reason}
            elif isinstance(answer, Accepted):
                process = self.machine.processes[item.run.run_id]
                line |= {"result": "already" if answer.repeated else "started", "handle": handle_json(process)}
            lines.append(line)
        return [*lines, {"done": True}]

    def _observe(self, document: Json, fault: Fault | None) -> list[Json]:
        machine = self.machine
        wanted = machine.listed() | {known["run_id"] for known in document["known"]}
        if document["scan"]:
            wanted |= {fence.run_id for fence in machine.fences.values()}
        seen: list[Json] = [{"sighting": self._sighting(run_id)} for run_id in sorted(wanted)]
        gpus = None
        if document.get("probe") and machine.gpus is not None:
            gpus = [
                {
                    "index": gpu.index,
                    "uuid": gpu.ident,
                    "name": gpu.name,
                    "memory_total_mib": gpu.memory_total_mib,
                    "used_mib": gpu.used_mib,
                }
                for gpu in machine.gpus
            ]
        last = {"boot_id": machine.boot_id, "cpus": machine.cpus, "gpus": gpus, "gpu_error": None}
        return [*seen, {**last, "roots": {PATHS.status: None}, "done": True}]

    def _sighting(self, run_id: str) -> Json:
        process = self.machine.processes.get(run_id)
        if process is None:
            return {"run_id": run_id, "state": "absent", "alive": False, "error": None}
        started = process.started_at is not None
        record = process.final or self.machine._report(process)
        return {
            "run_id": run_id,
            "status_dir": PATHS.status_dir(process.run),
            "state": "present",
            "alive": process.alive,
            "supervised": started,
            "started": handle_json(process) if started else None,
            "claim": claim_json(process),
            "metadata": metadata_json(record),
            "progress": None,
            "request": {"reason": process.request} if process.request else None,
            "error": "metadata.json cannot be read" if run_id in self.machine.unreadable else None,
        }

    def _cancel(self, document: Json, fault: Fault | None) -> list[Json]:
        return [*(self._stopped(wanted) for wanted in document["runs"]), {"done": True}]

    def _stopped(self, wanted: Json) -> Json:
        process = self.machine.processes.get(wanted["run_id"])
        if process is None:
            return {"run_id": wanted["run_id"], "result": "gone", "reason": "there is no such run here"}
        named = Handle(
            wanted["run_id"], wanted["token"], {"job": wanted.get("ident", ""), "twin": wanted.get("twin", False)}
        )
        known = Known(replace(process.run, token=wanted["token"]), named)
        try:
            said = self.machine.stop(known, reason=wanted["reason"], grace_s=wanted["grace_s"], force=wanted["force"])
        except Rejected as error:
            return {"run_id": wanted["run_id"], "result": "refused", "reason": error.message}
        return {"run_id": wanted["run_id"], "result": "gone" if said == "already gone" else "signalled", "reason": ""}

    def _logs(self, document: Json, fault: Fault | None) -> list[Json]:
        return [{"offset": 0, "end": 0, "size": 0, "rotated": False, "done": True}]


def submission_of(record: Mapping[str, Any]) -> Submission:
    """A launch record as the fake machine takes it."""
    return Submission(run_from_json(record["claim"]["run"]), {"owners": record["owners"], "tree": record["tree"]}, {})


def handle_json(process: Process) -> Json:
    run = process.run
    told: Json = {"run_id": run.run_id, "token": run.token, "status_dir": PATHS.status_dir(run), "pid": process.pid}
    return {**told, "start": str(process.claimed_at), "boot_id": process.boot_id, "sid": process.pid}


def claim_json(process: Process) -> Json:
    run = process.run
    told: Json = {
        "run_id": run.run_id,
        "token": run.token,
        "attempt": run.attempt,
        "owner": run.owner,
        "host": run.host,
    }
    return {**told, "run": run.to_json(), "boot_id": process.boot_id, "hostname": run.host}


def metadata_json(record: Report) -> Json:
    progress = None if record.progress is None else {"step": record.progress.step, "total": record.progress.total}
    told: Json = {"status": record.status.value, "seq": record.seq, "exit_code": record.exit_code, "progress": progress}
    return {
        **told,
        "cause": record.cause.value if record.cause else None,
        "message": record.message,
        "phase_detail": record.detail,
    }


# --- Slurm ------------------------------------------------------------------------------------------------------------


class History(enum.Enum):
    """What the site's accounting does."""

    KEPT = "answers"
    SILENT = "does not answer"
    NONE = "there is none"


@dataclass(slots=True)
class LoginEndpoint(NodeEndpoint):
    """The login node of a FakeCluster. `lag_s`: how far its accounting is behind.

    What ended is purged from the queue after MinJobAge; the accounting goes on knowing, and goes on believing in a job that the
    controller lost."""

    lag_s: float = 0.0
    history: History = History.KEPT
    answers: dict[str, Json] = field(default_factory=dict)
    rows: dict[str, list[tuple[float, list[str]]]] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    written: dict[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def cluster(self) -> FakeCluster:
        assert isinstance(self.machine, FakeCluster)
        return self.machine

    def backend(self) -> Backend:
        return BatchBackend(NodeSettings(self.machine.name, PATHS), Site(), SlurmDialect(), self, self.install)

    def _reach(self, verb: str) -> Fault | None:
        fault = NodeEndpoint._reach(self, verb)
        self._note()
        return fault

    def _enqueue(self, document: Json, fault: Fault | None) -> list[Json]:
        lines: list[Json] = []
        for parcel in document["submissions"]:
            for index, record in enumerate(parcel["runs"]):
                item = submission_of(record)
                if fault is Fault.LATE:
                    self.machine.late.append((self.machine.now() + self.machine.late_s, item))
                    continue
                lines.append(self._submitted(item, parcel, index, fault))
        self._note()
        return [*lines, {"done": True}]

    def _submitted(self, item: Submission, parcel: Json, index: int, fault: Fault | None) -> Json:
        run, cluster = item.run, self.cluster
        assert not parcel["members"], "arrays are not simulated"
        before = cluster.fences.get(run.job)
        known = cluster.processes.get(run.run_id)
        answer = cluster.claim(item, starts_in_s=cluster.late_s if fault is Fault.CLAIMED else 0.0)
        if isinstance(answer, Declined):
            return {"run_id": run.run_id, "result": "refused", "reason": answer.reason}
        if answer is None:
            return {"run_id": run.run_id, "result": "unknown"}
        ident = str(answer.handle.native["job"])
        if answer.repeated:
            assert known is not None
            queued = {**self._queued(known), "ident": ident}
            return {"run_id": run.run_id, "result": "already", "queued": queued, "started": self._started_json(known)}
        said: Json = {"rc": 0, "stdout": f"{ident}\n", "stderr": ""}
        if fault is Fault.GARBLED:
            said = {"rc": 1, "stdout": "", "stderr": TIMED_OUT}
        elif known is None and fault is Fault.PARTIAL:
            cluster.jobs = [job for job in cluster.jobs if job.ident != ident]
            del cluster.processes[run.run_id]  # withdrawn, as the answer makes its reader ask for
            cluster.fences.pop(run.job)
            if before is not None:
                cluster.fences[run.job] = before
            return {"run_id": run.run_id, "result": "submitted", "answer": {"rc": 1, "stdout": "", "stderr": TOO_MANY}}
        self.answers[run.run_id] = said
        return {"run_id": run.run_id, "result": "submitted", "answer": said, "index": None}

    def _withdraw(self, document: Json, fault: Fault | None) -> list[Json]:
        return [*({"run_id": run["run_id"], "result": "withdrawn"} for run in document["runs"]), {"done": True}]

    def _dequeue(self, document: Json, fault: Fault | None) -> list[Json]:
        return self._cancel(document, fault)

    def _spoiled(self, answer: bytes, fault: Fault | None) -> bytes:
        # In a submission these two are sbatch's own answers.
        return answer if b'"result": "submitted"' in answer else NodeEndpoint._spoiled(self, answer, fault)

    # --- looking

    def _observe(self, document: Json, fault: Fault | None) -> list[Json]:
        cluster = self.cluster
        lines: list[Json] = []
        down = fault in (Fault.GARBLED, Fault.PARTIAL) and self.rng.random() < 0.5
        for name, command in document["commands"].items():
            answer = {"rc": 1, "stdout": "", "stderr": UNREACHED} if down else self._command(command["argv"])
            if fault is Fault.PARTIAL and self.rng.random() < 0.5:
                answer["stdout"] = answer["stdout"][: self.rng.randrange(len(answer["stdout"]) + 1)]
            lines.append({"command": {"name": name, **answer}})
        roots = dict.fromkeys(document["status_roots"])
        wanted = {known["run_id"] for known in document["known"]}
        if roots:
            wanted |= cluster.listed()
        if document["scan"]:
            wanted |= {fence.run_id for fence in cluster.fences.values()}
        for run_id in sorted(wanted):
            seen = self._sighting(run_id)
            if document["ages"]:
                seen["quiet_s"] = None if run_id not in self.written else cluster.now() - self.written[run_id][1]
            lines.append({"sighting": seen})
        return [
            *lines,
            {"boot_id": "", "cpus": cluster.cpus, "gpus": None, "roots": roots or {"/": None}, "done": True},
        ]

    def _sighting(self, run_id: str) -> Json:
        process = self.cluster.processes.get(run_id)
        seen = NodeEndpoint._sighting(self, run_id)
        if process is not None:
            del seen["alive"], seen["supervised"]  # only the queue knows
            seen["claim"] |= {"queue": {"system": "slurm", "requeue": _requeues(process.run)}}
            seen["started"] = self._started_json(process)
            seen["queued"] = self._queued(process)
        return seen

    def _queued(self, process: Process) -> Json:
        run = process.run
        return {
            "name": run.run_id,
            "mark": f"reconciler:{run.token}",
            "index": None,
            "answer": self.answers.get(run.run_id),
            "ident": None,
        }

    def _started_json(self, process: Process) -> Json | None:
        run_id = process.run.run_id
        if process.abandoned:
            return {"abandoned_by": run_id}
        ident = self.cluster.begun.get(run_id)
        if process.started_at is None or ident is None:
            return None
        return {"job": ident, "ident": ident, "name": run_id, "mark": f"reconciler:{process.run.token}", "restart": 0}

    def _note(self) -> None:
        """Time passes for the accounting, for the purge of what ended, and for what the runs write."""
        cluster, now = self.cluster, self.cluster.now()
        for job in cluster.jobs:
            if job.arrives_at > now:
                continue
            row = self._row(job)
            rows = self.rows.setdefault(job.ident, [])
            if not rows or rows[-1][1] != row:
                rows.append((now, row))
            if job.over:
                self.ended_at.setdefault(job.ident, now)
            else:
                self.ended_at.pop(job.ident, None)
        for run_id, process in cluster.processes.items():
            record = process.final or cluster._report(process)
            mark = f"{record.status} {record.seq if process.alive else 'over'} {process.request} {process.abandoned}"
            if self.written.get(run_id, ("", 0.0))[0] != mark:
                self.written[run_id] = (mark, now)

    def _row(self, job: Job) -> list[str]:
        run = self.cluster.processes[job.run_id].run
        code = f"{job.exit_code or 0}:{15 if job.word == 'CANCELLED' else 0}"
        nodes = ",".join(job.nodes) or "None assigned"
        begun = moment(job.starts_at) if job.state is not ENDED or job.nodes else "Unknown"
        submit = moment(job.arrives_at)
        return [
            job.ident,
            job.word,
            code,
            submit,
            begun,
            "Unknown",
            nodes,
            PARTITION,
            "None",
            job.run_id,
            f"reconciler:{run.token}",
        ]

    # --- Slurm's programs

    def _command(self, argv: list[str]) -> Json:
        """As `sh -c LISTING squeue ...` on the login node."""
        words = argv[argv.index("-c") + 2 :]
        match words[0]:
            case "squeue":
                text = self._squeue()
            case "sacct":
                if self.history is not History.KEPT:
                    said = NO_DATABASE if self.history is History.SILENT else NO_HISTORY
                    return {"rc": 1, "stdout": "", "stderr": said}
                text = self._sacct(words)
            case "scontrol":
                text = self._scontrol(words)
            case _:
                raise AssertionError(f"nobody simulates {words}")
        return {"rc": 0, "stdout": f"{text}{WHOLE}\n", "stderr": ""}

    def _squeue(self) -> str:
        now = self.cluster.now()
        listed = [
            job
            for job in self.cluster.jobs
            if job.arrives_at <= now and now - self.ended_at.get(job.ident, now) < MIN_JOB_AGE_S
        ]
        records = []
        for job in listed:
            run = self.cluster.processes[job.run_id].run
            reason = "Priority" if job.word == "PENDING" else "None"
            begun = "N/A" if job.word == "PENDING" else moment(job.starts_at)
            fields = [job.ident, job.ident, "N/A", job.word, reason, begun, moment(job.arrives_at), ",".join(job.nodes)]
            records.append(
                BEGIN + FIELD.join([*fields, PARTITION, "UNLIMITED", job.run_id, f"reconciler:{run.token}"]) + END
            )
        return "".join(f"{record}\n" for record in (QUEUE_HEADER, *records))

    def _sacct(self, words: list[str]) -> str:
        names = next((word.removeprefix("--name=").split(",") for word in words if word.startswith("--name=")), None)
        idents = words[words.index("-j") + 1].split(",") if "-j" in words else None
        text = HISTORY_HEADER + FIELD + "\n"
        for ident, rows in sorted(self.rows.items()):
            seen = [row for at, row in rows if at <= self.cluster.now() - self.lag_s]
            if seen and (idents is None or ident in idents) and (names is None or seen[-1][9] in names):
                text += FIELD.join(seen[-1]) + FIELD + "\n"
        return text

    def _scontrol(self, words: list[str]) -> str:
        cluster, now = self.cluster, self.cluster.now()
        nodes = {
            name: {"cpus": 32, "memory": 64000, "features": ["x"], "gpus": count, "gpu_type": GPU_TYPE if count else ""}
            for name, count in cluster.machines.items()
        }
        part = {
            "name": PARTITION,
            "nodes": ",".join(nodes),
            "default": True,
            "minutes_default": None,
            "minutes_max": None,
        }

        def held_on(name: str) -> list[Json]:
            running = [job for job in cluster.jobs if job.state is RUNNING and name in job.nodes]
            each = [int(str(cluster.processes[job.run_id].run.place.get("gpus_per_node", 0))) for job in running]
            return [{"cpus": 1, "memory": 100, "indexes": {name: list(range(count))}} for count in each]

        view = SimpleNamespace(
            config={
                "nodes": nodes,
                "partitions": [part],
                "accounting": "up",
                "kill_wait_s": 30.0,
                "array_max": 1001,
                "min_job_age_s": MIN_JOB_AGE_S,
            },
            state={"nodes": {name: {"state": "up"} for name in nodes}, "began": now, "next_id": 1},
            held_on=held_on,
            now=now,
        )
        match words[2]:
            case "node":
                return "".join(node_line(view, name) for name in nodes)
            case "partition":
                return partition_line(view, part)
            case _:
                return config_text(view)


def _requeues(run: Run) -> bool:
    spec = run.normal.get("spec")
    restart = spec.get("restart") if isinstance(spec, dict) else None
    return isinstance(restart, dict) and restart.get("owner") == "slurm"

"""A machine in memory that behaves as docs/node-protocol.md says a node does: for tests, simulated worlds and embedding.

It takes no wall time: its clock is given, and runs come to their end by looking at it. What goes wrong is said by `disturb`,
asked once per call. It passes tests/contract/backend_contract.py, like every backend.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from reconciler.core.cause import Cause
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, Unparsable, Unreachable, on_the_way
from reconciler.core.job import Json
from reconciler.core.names import JobKey
from reconciler.core.observation import Capacity, Census, Gpu, Presence, Progress, Report, ReportStatus, Sighting
from reconciler.core.protocols import (
    Accepted,
    Capabilities,
    Declined,
    Facts,
    Known,
    LogChunk,
    LogCursor,
    Look,
    Submission,
)
from reconciler.core.run import Handle, Run

# What a node takes as a reason to stop a run, and the cause it then writes (docs/node-protocol.md, The supervisor).
REASONS = {
    "cancelled": Cause.CANCELLED,
    "suspended": Cause.SUSPENDED,
    "replaced": Cause.REPLACED,
    "deleted": Cause.DELETED,
}
HEARTBEAT_S = 30.0

T = TypeVar("T")


class Fault(enum.Enum):
    """What goes wrong with one call."""

    BEFORE = "no connection: nothing was done"
    LOST = "cut before the machine did anything: the caller cannot know"
    AFTER = "the machine did it, the answer was lost"
    LATE = "cut on its way: the machine does it later"
    CLAIMED = "cut on its way: the machine claims now and starts later"
    GARBLED = "the machine did it, the answer cannot be read"
    PARTIAL = "the machine did it, half of the answer arrived"


@dataclass(frozen=True, slots=True)
class Course:
    """How a run goes if nobody interferes: it exits with `exit_code` after `lasts_s`. Asked to stop, it takes `stops_s`, but no
    longer than its grace; `stuck`: its supervisor hangs, and only force ends it."""

    lasts_s: float = math.inf
    exit_code: int = 0
    stops_s: float = 1.0
    stuck: bool = False
    output: bytes = b"started\n"


@dataclass(slots=True)
class Process:
    """A claimed run directory and what lives in it. Without `started` only its launcher lives."""

    run: Run
    course: Course
    boot_id: str
    pid: int
    claimed_at: float
    started_at: float | None = None
    starts_at: float = 0.0
    abandoned: bool = False
    ends_at: float = math.inf
    request: str = ""
    final: Report | None = None
    gone: bool = False
    log: bytes = b""

    @property
    def alive(self) -> bool:
        return not self.gone and not self.abandoned and self.final is None


@dataclass(slots=True)
class FakeMachine:
    """One machine. Everything may be changed between calls; `calls` records the verbs that reached it.

    `disturb` is asked for a fault per call (verb, machine); `course` says how a run will go; `on_start` is told of each run
    that begins, `on_stop` of each that is asked to stop, at the moment of the effect.
    """

    name: str
    now: Callable[[], float]
    cpus: int = 4
    gpus: tuple[Gpu, ...] | None = None
    course: Callable[[Run], Course] = lambda run: Course()  # noqa: ARG005
    disturb: Callable[[str, FakeMachine], Fault | None] = lambda verb, machine: None  # noqa: ARG005
    on_start: Callable[[FakeMachine, Process], None] = lambda machine, process: None  # noqa: ARG005
    on_stop: Callable[[FakeMachine, Process], None] = lambda machine, process: None  # noqa: ARG005
    reachable: bool = True
    late_s: float = 20.0
    hangs: Callable[[], None] = lambda: None
    unreadable: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    processes: dict[str, Process] = field(default_factory=dict)
    fences: dict[JobKey, Run] = field(default_factory=dict)
    late: list[tuple[float, Submission]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    boots: int = 1
    _pids: int = 1000

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boots}"

    # --- time and mishaps

    def settle(self) -> None:
        """Bring everything to the present: late launches, starts and ends that were due."""
        now = self.now()
        due = [item for item in self.late if item[0] <= now]
        self.late = [item for item in self.late if item[0] > now]
        for _, submission in due:
            self.claim(submission)
        for process in list(self.processes.values()):
            if process.alive and process.started_at is None and process.starts_at <= now:
                self._start(process)
            if process.alive and process.ends_at <= now:
                self._finish(process)

    def end(self, run_id: str, status: ReportStatus, cause: Cause | None = None, exit_code: int | None = None) -> None:
        """The run ends now with this final record."""
        process = self.processes[run_id]
        process.final = replace(self._report(process), status=status, cause=cause, exit_code=exit_code)

    def preempt(self, run_id: str) -> None:
        """Somebody outside sends TERM."""
        self.end(run_id, ReportStatus.PREEMPTED, Cause.PREEMPTION, 143)

    def lose(self, run_id: str) -> None:
        """Everything of the run is killed, the supervisor too: no final record."""
        self.processes[run_id].gone = True

    def reboot(self) -> None:
        """Power off and on: nothing of this boot lives on."""
        self.settle()
        self.boots += 1
        self.late.clear()
        for process in self.processes.values():
            if process.alive:
                process.gone = True

    def unmount(self) -> None:
        """Another root lies where this one was: what was claimed so far goes on, and no look or launch sees anything of it."""
        self.settle()
        self.hidden |= self.processes.keys()

    def living(self) -> list[Process]:
        """What lives now, launchers included."""
        self.settle()
        return [process for process in self.processes.values() if process.alive]

    def listed(self) -> set[str]:
        """Runs that a look shows unasked."""
        return {process.run.run_id for process in self.living()} - self.hidden

    def capacity(self, *, probe: bool) -> Capacity | None:
        """What it has, as a look tells."""
        return Capacity(self.cpus, self.gpus if probe else None)

    # --- what the verbs do

    def claim(self, submission: Submission, *, starts_in_s: float = 0.0) -> Accepted | Declined | None:
        """Claim and start one run, as `launch` on a node does. None: claimed before and not yet started, nothing is known."""
        run = submission.run
        known = self.processes.get(run.run_id)
        if known is not None:
            if known.run.token != run.token:
                return Declined("claimed", f"{run.run_id} is claimed on {self.name} by somebody else")
            return self.claimed_again(known)
        tree = submission.body.get("tree")
        if isinstance(tree, dict) and tree.get("object") and tree["object"] not in self.objects:
            return Declined("missing", f"its code is not on {self.name}, or is damaged there")
        fence, owners = self.fences.get(run.job), submission.body.get("owners")
        fence = None if fence is not None and fence.run_id in self.hidden else fence
        if fence is not None and isinstance(owners, list) and fence.owner not in owners:
            return Declined(
                "owned", f"a job of this name that another repository of manifests started lies on {self.name}"
            )
        if fence is not None and fence.token != run.token and fence.attempt >= run.attempt:
            return Declined("fenced", f"a newer attempt of this job has claimed {self.name}")
        there = (process for run_id, process in self.processes.items() if run_id not in self.hidden)
        older = [process for process in there if process.run.job == run.job]
        for process in older:
            if process.alive and process.started_at is None:
                process.abandoned = True
            elif process.alive:
                return Declined("alive", f"an older attempt of this job is still alive on {self.name}")
        self.fences[run.job] = run
        self._pids += 1
        now = self.now()
        process = Process(run, self.course(run), self.boot_id, self._pids, now, starts_at=now + starts_in_s)
        self.processes[run.run_id] = process
        return self.launch(process, starts_in_s)

    def claimed_again(self, process: Process) -> Accepted | Declined | None:
        """The answer to a run that was claimed before with the same token."""
        return Accepted(self._handle(process), repeated=True) if process.started_at is not None else None

    def launch(self, process: Process, starts_in_s: float) -> Accepted | None:
        """Start what was just claimed. None: its launcher is cut off and starts it later."""
        if starts_in_s > 0:
            return None
        self._start(process)
        return Accepted(self._handle(process))

    def stop(self, known: Known, *, reason: str, grace_s: float, force: bool) -> str:
        """Ask one run to end, as `cancel` on a node does. Raises Rejected."""
        process = self.processes.get(known.run.run_id)
        if process is None:
            return "already gone"
        if process.run.token != known.run.token:
            raise Rejected(f"{self.name} refuses to stop {known.run.run_id}: the claim carries another token")
        if reason not in REASONS:
            raise Rejected(f"{self.name} refuses to stop {known.run.run_id}: {reason!r} is no reason")
        if not process.alive:
            return "already gone"
        self.on_stop(self, process)
        if process.started_at is None:
            process.abandoned = True
            process.final = Report(ReportStatus.CANCELLED, seq=0, cause=REASONS[reason])
            return "already gone"
        process.request = reason
        ends_in_s = min(process.course.stops_s, math.inf if process.course.stuck else grace_s)
        process.ends_at = min(process.ends_at, self.now() + (0.0 if force else ends_in_s))
        return "signalled"

    def sight(self, run_id: str) -> Sighting:
        """What is true of one run now."""
        process = self.processes.get(run_id)
        if process is None or run_id in self.hidden:
            return Sighting(run_id, Presence.ABSENT, boot_id=self.boot_id)
        if run_id in self.unreadable:
            return Sighting(run_id, Presence.UNKNOWN, boot_id=self.boot_id, error="metadata.json cannot be read")
        return Sighting(
            run_id,
            Presence.PRESENT,
            alive=process.alive,
            supervised=process.started_at is not None,
            stopping=process.request,
            handle=self._handle(process),
            run=process.run,
            report=process.final or self._report(process),
            boot_id=self.boot_id,
        )

    def _start(self, process: Process) -> None:
        now = self.now()
        process.started_at = now
        process.ends_at = now + process.course.lasts_s
        process.log = process.course.output
        self.on_start(self, process)

    def _finish(self, process: Process) -> None:
        if process.request:
            status, cause, code = ReportStatus.CANCELLED, REASONS[process.request], 143
        elif process.course.exit_code == 0:
            status, cause, code = ReportStatus.COMPLETED, None, 0
        else:
            status, cause, code = ReportStatus.FAILED, Cause.FAILURE, process.course.exit_code
        self.end(process.run.run_id, status, cause, code)

    def _report(self, process: Process) -> Report:
        if process.started_at is None:
            return Report(ReportStatus.PREPARING, seq=0, detail="claimed")
        beats = int((self.now() - process.started_at) / HEARTBEAT_S)
        return Report(ReportStatus.RUNNING, seq=1 + beats, progress=Progress(beats))

    def _handle(self, process: Process) -> Handle:
        return Handle(process.run.run_id, process.run.token, {"pid": process.pid, "boot_id": process.boot_id})


class FakeBackend:
    """One connection to a FakeMachine. Another one sees the same machine, as after a restart of the reconciler."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    def render(self, run: Run, facts: Facts) -> Submission:
        tree: Json = None
        if facts.tree is not None:
            tree = {"object": facts.tree.object, "sha256": facts.tree.sha256, "directory": facts.tree.directory}
        owners: list[Json] = [run.owner, *([facts.heir_of] if facts.heir_of else [])]
        body: dict[str, Json] = {"claim": run.to_json(), "tree": tree, "chip": facts.chip, "owners": owners}
        return Submission(run, body, facts.secrets)

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        machine = self.machine
        fault = self._reach("submit")
        if fault in (Fault.LATE, Fault.CLAIMED):
            for item in submissions:
                if fault is Fault.LATE:
                    machine.late.append((machine.now() + machine.late_s, item))
                else:
                    machine.claim(item, starts_in_s=machine.late_s)
        if fault in (Fault.LOST, Fault.LATE, Fault.CLAIMED):
            raise self._cut("submit")
        answers = {item.run.run_id: machine.claim(item) for item in submissions}
        if fault is Fault.AFTER:
            raise self._cut("submit")
        if fault is Fault.GARBLED:
            raise Unparsable(f"{machine.name} broke off its answer to 'launch'")
        known = {run_id: answer for run_id, answer in answers.items() if answer is not None}
        return dict(_half(known.items())) if fault is Fault.PARTIAL else known

    def observe(self, look: Look) -> Census:
        machine = self.machine
        try:
            fault = self._reach("observe")
            if fault in (Fault.LOST, Fault.AFTER, Fault.LATE, Fault.CLAIMED):
                raise self._cut("observe")
            if fault is Fault.GARBLED:
                raise Unparsable(f"{machine.name} broke off its answer to 'observe'")
        except ReconcilerError as error:
            return Census(machine.name, complete=False, error=error.message, away=on_the_way(error))
        wanted = machine.listed() | {item.run.run_id for item in look.known}
        if look.scan:
            wanted |= {fence.run_id for fence in machine.fences.values()}
        sightings = {run_id: machine.sight(run_id) for run_id in sorted(wanted)}
        if fault is Fault.PARTIAL:
            some = dict(_half(sightings.items()))
            return Census(machine.name, complete=False, sightings=some, error="the answer was broken off")
        return Census(
            machine.name,
            complete=True,
            sightings=sightings,
            capacity=machine.capacity(probe=look.probe),
            scanned=look.scan,
            boot_id=machine.boot_id,
        )

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        fault = self._reach("cancel")
        if fault in (Fault.LOST, Fault.LATE, Fault.CLAIMED):
            raise self._cut("cancel")
        said = self.machine.stop(known, reason=reason, grace_s=grace_s, force=force)
        if fault is not None:
            raise self._cut("cancel")
        return said

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        if self._reach("logs") is not None:
            raise self._cut("logs")
        process = self.machine.processes.get(known.run.run_id)
        if process is None:
            return LogChunk(b"", 0, 0)
        self.machine.settle()
        size = len(process.log)
        start = min(size, since.offset) if since.offset >= 0 else max(0, size + since.offset)
        if since.offset > size:  # the log was cut since
            return LogChunk(process.log[: since.size_max], 0, min(size, since.size_max), rotated=True)
        data = process.log[start : start + since.size_max]
        return LogChunk(data, start, start + len(data))

    def close(self) -> None:
        """Nothing is held open."""

    def _reach(self, verb: str) -> Fault | None:
        machine = self.machine
        machine.settle()
        if not machine.reachable:
            raise Unreachable(f"{machine.name}: no connection")
        fault = machine.disturb(verb, machine)
        if fault is Fault.BEFORE:
            raise Unreachable(f"{machine.name}: no connection")
        machine.calls.append(verb)
        return fault

    def _cut(self, verb: str) -> OutcomeUnknown:
        self.machine.hangs()
        return OutcomeUnknown(f"{self.machine.name}: the connection was cut during {verb!r}")


def _half(items: Collection[T]) -> list[T]:
    return list(items)[: len(items) // 2]

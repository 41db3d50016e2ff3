"""A login node in memory, behind which a scheduler decides: a FakeMachine on which accepted is not yet begun.

It behaves as the batch backend sees a real one: a run waits, may be in the queue twice, is cancelled by somebody, loses its
machine, is started anew by the scheduler where that owns restarts, and may be forgotten without a word. FakeBackend serves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.backends.batch_judge import HISTORY_LAG_S, UNSENT_S
from reconciler.backends.batch_sight import EXIT_NOT_OURS, ended_report, lives
from reconciler.backends.fake import REASONS, FakeMachine, Process
from reconciler.core.cause import Cause
from reconciler.core.errors import Rejected
from reconciler.core.observation import Capacity, Presence, Report, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Declined, Known
from reconciler.core.queue import QueueCapacity, QueueJob, QueueNode, QueuePartition, QueueState
from reconciler.core.run import Handle, Run

WAITING, RUNNING, ENDED = QueueState.WAITING, QueueState.RUNNING, QueueState.ENDED
PARTITION, GPU_TYPE = "batch", "h100"
# How long a run that the scheduler starts anew is shown as ended before it waits again.
REVIVAL_S = 15.0


@dataclass(slots=True)
class Job:
    """One job in the queue. A run has two when its submission arrived twice."""

    ident: str
    run_id: str
    arrives_at: float
    starts_at: float
    state: QueueState = WAITING
    word: str = "PENDING"
    cause: Cause | None = None
    exit_code: int | None = None
    revives_at: float = math.inf
    nodes: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Not even the scheduler will start it again."""
        return self.state is ENDED and self.revives_at == math.inf

    def finish(self, word: str, cause: Cause | None = None, exit_code: int | None = None) -> None:
        self.state, self.word, self.cause, self.exit_code = ENDED, word, cause, exit_code
        self.revives_at, self.nodes = math.inf, ()


@dataclass(slots=True)
class FakeCluster(FakeMachine):
    """`machines` are the accelerators of each machine behind the queue, `cpus` how many CPU jobs run at once. `waits` is how long
    a job of the run waits at least, by the job's id."""

    machines: dict[str, int] = field(default_factory=dict)
    waits: Callable[[Run, str], float] = lambda run, ident: 10.0  # noqa: ARG005
    jobs: list[Job] = field(default_factory=list)
    begun: dict[str, str] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    _idents: int = 100

    # --- time and mishaps

    def settle(self) -> None:
        FakeMachine.settle(self)  # not super(): a dataclass with slots is made twice
        now = self.now()
        for run_id, since in self.lost.items():
            if since == math.inf and not self.processes[run_id].alive:
                self.lost[run_id] = now
        for job in self.jobs:
            self._close(job)
            if job.state is ENDED and job.revives_at <= now:
                job.state, job.word, job.cause, job.revives_at = WAITING, "PENDING", None, math.inf
                job.starts_at = now + self.waits(self.processes[job.run_id].run, job.ident)
        for job in self.jobs:
            if job.state is WAITING and max(job.arrives_at, job.starts_at) <= now:
                self._try(job)

    def preempt(self, run_id: str) -> None:
        job = self._running(run_id)
        if job is not None:
            self._interrupt(job, "PREEMPTED", Cause.PREEMPTION, ReportStatus.PREEMPTED)

    def fail_node(self, run_id: str) -> None:
        """The machine that it runs on is gone."""
        job = self._running(run_id)
        if job is not None:
            self._interrupt(job, "NODE_FAIL", Cause.INFRASTRUCTURE, None)

    def lose(self, run_id: str) -> None:
        """The controller forgets every job of the run, and nobody writes anything any more."""
        self.jobs = [job for job in self.jobs if job.run_id != run_id]
        self.lost[run_id] = self.now()
        self.processes[run_id].gone = True

    def forget(self, run_id: str) -> None:
        """The controller forgets every job of the run, which goes on as if nothing had happened."""
        self.lose(run_id)
        process = self.processes[run_id]
        if process.started_at is not None and process.ends_at < math.inf:
            process.gone, self.lost[run_id] = False, math.inf

    def scancel(self, run_id: str) -> None:
        """Somebody ends the job by hand, whether it waits or runs."""
        self.settle()
        process, job = self.processes[run_id], self._minded(run_id)
        if job is None or job.over:
            return
        was = job.state
        job.finish("CANCELLED", Cause.CANCELLED)
        if was is RUNNING:
            self.end(run_id, ReportStatus.PREEMPTED, Cause.PREEMPTION, 143)  # all that a supervisor can tell
        elif not self._living(run_id):
            process.gone = True

    def submit_twice(self, run_id: str) -> None:
        """A submission that was sent again arrives after all."""
        if run_id in self.processes:
            self._queue(run_id)

    def reboot(self) -> None:
        """The machines restart; what waits goes on waiting."""
        self.settle()
        self.boots += 1
        self.late.clear()
        for job in [job for job in self.jobs if job.state is RUNNING]:
            self._interrupt(job, "NODE_FAIL", Cause.INFRASTRUCTURE, None)

    # --- what the verbs do

    def claimed_again(self, process: Process) -> Accepted | Declined | None:
        run_id = process.run.run_id
        if process.started_at is None and not process.alive:
            return Declined("fenced", "it was abandoned before it started")
        if process.started_at is not None or self._arrived(run_id):
            return Accepted(self._handle(process), repeated=True)
        self._queue(run_id)
        return Accepted(self._handle(process))

    def launch(self, process: Process, starts_in_s: float) -> Accepted | None:
        process.starts_at = math.inf  # the scheduler's to decide
        self._queue(process.run.run_id, starts_in_s)
        return None if starts_in_s > 0 else Accepted(self._handle(process))

    def stop(self, known: Known, *, reason: str, grace_s: float, force: bool) -> str:
        run_id = known.run.run_id
        process = self.processes.get(run_id)
        named = str(known.handle.native.get("job") or "") if known.handle else ""
        if process is not None and process.run.token == known.run.token and reason in REASONS:
            if known.handle is not None and known.handle.native.get("twin"):
                return self._stop_twin(run_id, named)
            if process.started_at is None:
                return self._stop_waiting(process, reason, named)
            job = self._minded(run_id)
            if job is None:
                return "already gone"  # nobody can reach it
            if job.state is not RUNNING:
                return self._stop_revived(process, job, reason, force=force)
        elif process is not None and process.run.token == known.run.token:
            raise Rejected(f"{self.name} refuses to stop {run_id}: {reason!r} is no reason")
        return FakeMachine.stop(self, known, reason=reason, grace_s=grace_s, force=force)

    def sight(self, run_id: str) -> Sighting:
        process = self.processes.get(run_id)
        if process is None:
            return Sighting(run_id, Presence.ABSENT)
        if run_id in self.unreadable:
            return Sighting(run_id, Presence.UNKNOWN, error="metadata.json cannot be read")
        job = self._minded(run_id)
        now, record = self.now(), process.final or self._report(process)
        if job is None and process.final is None:
            if run_id in self.lost:
                if now - self.lost[run_id] < HISTORY_LAG_S:
                    return Sighting(run_id, Presence.UNKNOWN, error="it is not listed any more, but wrote a moment ago")
            elif now - process.claimed_at < UNSENT_S:
                return Sighting(run_id, Presence.UNKNOWN, error="its submission was cut short a moment ago")
            else:
                return Sighting(run_id, Presence.ABSENT)
        said = self._said(job, process.run) if job is not None else None
        alive = lives(said, theirs=_revives(process.run))
        return Sighting(
            run_id,
            Presence.PRESENT,
            alive=alive,
            stopping=process.request,
            handle=self._handle(process),
            run=process.run,
            report=record if alive else ended_report(process.run, record, said, "slurm"),
            queue=said,
            twins=tuple(one.ident for one in self._living(run_id) if one is not job) if alive else (),
        )

    def listed(self) -> set[str]:
        return FakeMachine.listed(self) | {
            job.run_id for job in self.jobs if not job.over and self._arrived(job.run_id)
        }

    def capacity(self, *, probe: bool) -> Capacity | None:
        if not probe:
            return None
        nodes = {
            name: QueueNode(name, True, "IDLE", {GPU_TYPE: count}, {GPU_TYPE: count - self.free(name)}, cpus=self.cpus)
            for name, count in self.machines.items()
        }
        partition = QueuePartition(PARTITION, up=True, nodes=tuple(nodes), default=True)
        return Capacity(self.cpus * len(nodes), queue=QueueCapacity({PARTITION: partition}, nodes))

    def free(self, machine: str) -> int:
        """Accelerators of this machine that no running job holds."""
        held = (
            _number(self.processes[job.run_id].run, "gpus_per_node")
            for job in self.jobs
            if job.state is RUNNING and machine in job.nodes
        )
        return self.machines[machine] - sum(held)

    # ---

    def _queue(self, run_id: str, arrives_in_s: float = 0.0) -> None:
        self._idents += 1
        ident, arrives_at = str(self._idents), self.now() + arrives_in_s
        waits_s = self.waits(self.processes[run_id].run, ident)
        self.jobs.append(Job(ident, run_id, arrives_at, arrives_at + waits_s))

    def _try(self, job: Job) -> None:
        process = self.processes[job.run_id]
        winner = self.begun.get(job.run_id, job.ident)
        if not process.alive or winner != job.ident:
            job.finish("FAILED", None, EXIT_NOT_OURS)
            return
        nodes = self._room(process.run)
        if nodes is None:
            return
        self.begun[job.run_id] = job.ident
        job.state, job.word, job.nodes = RUNNING, "RUNNING", nodes
        self._start(process)
        if process.request:  # asked to end while it waited for its second life
            process.ends_at = self.now()

    def _room(self, run: Run) -> tuple[str, ...] | None:
        each = _number(run, "gpus_per_node")
        if each:
            free = [name for name in self.machines if self.free(name) >= each]
            return tuple(free[: _number(run, "nodes")]) if len(free) >= _number(run, "nodes") else None
        running = [job for job in self.jobs if job.state is RUNNING]
        busy = sum(not _number(self.processes[job.run_id].run, "gpus_per_node") for job in running)
        return ("login",) if busy < self.cpus else None

    def _close(self, job: Job) -> None:
        """What its own end makes of a running job."""
        process = self.processes[job.run_id]
        if job.state is not RUNNING or process.alive:
            return
        final = process.final
        if final is not None and final.status is ReportStatus.COMPLETED:
            job.finish("COMPLETED", None, 0)
        else:
            job.finish("FAILED", None, (final.exit_code if final else None) or 1)

    def _interrupt(self, job: Job, word: str, cause: Cause, status: ReportStatus | None) -> None:
        process = self.processes[job.run_id]
        job.finish(word, cause)
        if _revives(process.run):
            job.revives_at, process.ends_at = self.now() + REVIVAL_S, math.inf
        elif status is not None:
            self.end(job.run_id, status, Cause.PREEMPTION, 143)
        else:
            process.gone = True

    def _stop_twin(self, run_id: str, ident: str) -> str:
        job = next((job for job in self._living(run_id) if job.ident == ident), None)
        if job is None or self.begun.get(run_id) == ident:
            return "already gone"  # or it is the one that began: then it is no twin any more
        job.finish("CANCELLED", Cause.CANCELLED)
        return "signalled"

    def _stop_waiting(self, process: Process, reason: str, named: str) -> str:
        if process.alive:
            self.on_stop(self, process)
            process.abandoned = True
            process.final = Report(ReportStatus.CANCELLED, seq=0, cause=REASONS[reason])
        living = self._living(process.run.run_id)
        job = next((job for job in living if job.ident == named), living[0] if living else None)
        if job is not None:
            job.finish("CANCELLED", Cause.CANCELLED)
        return "already gone"

    def _stop_revived(self, process: Process, job: Job, reason: str, *, force: bool) -> str:
        """Its second life has not begun: the scheduler's signal reaches running jobs only, and a waiting one has to be ended."""
        if job.state is ENDED:
            return "already gone"
        self.on_stop(self, process)
        process.request = reason
        if force:
            job.finish("CANCELLED", Cause.CANCELLED)
            self.end(process.run.run_id, ReportStatus.CANCELLED, REASONS[reason], 143)
        return "signalled"

    def _arrived(self, run_id: str) -> list[Job]:
        return [job for job in self.jobs if job.run_id == run_id and job.arrives_at <= self.now()]

    def _living(self, run_id: str) -> list[Job]:
        return [job for job in self._arrived(run_id) if job.state is not ENDED]

    def _running(self, run_id: str) -> Job | None:
        self.settle()
        return next((job for job in self._arrived(run_id) if job.state is RUNNING), None)

    def _minded(self, run_id: str) -> Job | None:
        """The run's job, as the batch backend picks it: the one that began, whatever else came in its name."""
        order = {RUNNING: 2, WAITING: 1, ENDED: 0}
        begun = self.begun.get(run_id)
        jobs = [job for job in self._arrived(run_id) if begun in (None, job.ident)]
        return max(jobs, key=lambda job: (order[job.state], -int(job.ident)), default=None)

    def _said(self, job: Job, run: Run) -> QueueJob:
        return QueueJob(
            job.ident,
            job.run_id,
            f"reconciler:{run.token}",
            job.state,
            job.word,
            job.cause,
            exit_code=job.exit_code,
            revivable=job.state is ENDED and job.cause in (Cause.PREEMPTION, Cause.INFRASTRUCTURE),
            partition=PARTITION,
            nodes=",".join(job.nodes),
            reason="Priority" if job.state is WAITING else "",
            sentence="jobs of higher priority are ahead of it" if job.state is WAITING else "",
        )

    def _handle(self, process: Process) -> Handle:
        job = self._minded(process.run.run_id)
        return Handle(process.run.run_id, process.run.token, {"job": job.ident if job is not None else ""})


def _revives(run: Run) -> bool:
    """Does the scheduler own restarts of this run?"""
    spec = run.normal.get("spec")
    restart = spec.get("restart") if isinstance(spec, dict) else None
    return isinstance(restart, dict) and restart.get("owner") == "slurm"


def _number(run: Run, name: str) -> int:
    value = run.place.get(name, 0)
    return value if isinstance(value, int) else 0

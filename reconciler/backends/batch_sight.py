"""What became of a run, from three witnesses: the queue, the history (accounting), and what the run itself wrote. Pure.

The queue says what lives. The history says how something that left the queue ended. The record says what the run did. None of
them alone proves that a run is gone: the queue forgets, the history lags, and a record may never have been written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reconciler.backends.batch_order import MARK
from reconciler.core.cause import IN_WORDS, Cause
from reconciler.core.observation import Report, ReportStatus
from reconciler.core.queue import QueueJob, QueueState
from reconciler.core.run import Run

EXIT_NO_SHARE, EXIT_NOT_OURS = 78, 79
# Causes that the scheduler knows better than a supervisor, which only learns that somebody asked it to end, or killed it.
_ASKED_OR_KILLED = frozenset({Cause.PREEMPTION, Cause.INFRASTRUCTURE})
_ORDER = {QueueState.RUNNING: 3, QueueState.WAITING: 2, QueueState.UNKNOWN: 1, QueueState.ENDED: 0}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a run's job is known in the queue: as it was submitted, and, once one began, as the job that did."""

    name: str
    mark: str
    index: int | None = None
    began: str = ""
    began_name: str = ""


def wanted_of(run_id: str, token: str, queued: Mapping[str, Any], started: Mapping[str, Any]) -> Wanted:
    """From what was written down at the submission and at the start; before that, from the run itself."""
    index = queued.get("index")
    return Wanted(
        str(queued.get("name") or run_id),
        str(queued.get("mark") or f"{MARK}{token}"),
        index if isinstance(index, int) else None,
        str(started.get("ident") or ""),
        str(started.get("name") or ""),
    )


class Jobs:
    """A listing, by what jobs are known by: (name, place in the array) and (id, name), so that a look-up costs the same however
    many there are."""

    def __init__(self, jobs: Iterable[QueueJob]) -> None:
        self._placed: dict[tuple[str, int | None], list[QueueJob]] = {}
        self._idents: dict[tuple[str, str], QueueJob] = {}
        self._names: set[tuple[str, str]] = set()
        for job in jobs:
            self._placed.setdefault((job.name, job.index), []).append(job)
            self._idents[job.ident, job.name] = job
            self._names.add((job.name, job.mark))

    def of(self, wanted: Wanted) -> QueueJob | None:
        """The run's job. The one that began, whatever else carries its name; before any began, one that lives before one that
        has ended, and of those the oldest."""
        if wanted.began:
            return self._idents.get((wanted.began, wanted.began_name))
        return max(self._all(wanted), key=lambda job: (_ORDER[job.state], -_number(job)), default=None)

    def living(self, wanted: Wanted) -> list[QueueJob]:
        """Every job of the run that is not about to be over: more than one when a submission was doubled."""
        states = (QueueState.RUNNING, QueueState.WAITING)
        return [job for job in self._all(wanted) if job.state in states and not job.word.startswith("COMPLETING")]

    def knows_array(self, wanted: Wanted) -> bool:
        """Is anything of the run's array listed?"""
        return wanted.index is not None and not self._names.isdisjoint({(wanted.name, wanted.mark), (wanted.name, "")})

    def _all(self, wanted: Wanted) -> list[QueueJob]:
        """A job that carries another mark is somebody else's; a site may drop comments, then the name has to do."""
        found = [job for job in self._placed.get((wanted.name, wanted.index), ()) if job.mark in (wanted.mark, "")]
        if found or wanted.index is None:
            return found
        # One ended record without an index stands for all members that are not listed: the waiting rest was cancelled.
        rest = self._placed.get((wanted.name, None), ())
        return [job for job in rest if job.mark in (wanted.mark, "") and job.state is QueueState.ENDED]


def _number(job: QueueJob) -> int:
    digits = job.ident.partition("_")[0]
    return int(digits) if digits.isdigit() else 0


def lives(job: QueueJob | None, *, theirs: bool) -> bool:
    """Is it, or may it be, alive? `theirs`: the scheduler owns restarts, so what it may start again is not over."""
    if job is None:
        return False
    return job.state is not QueueState.ENDED or (theirs and job.revivable)


def ended_report(run: Run | None, record: Report | None, job: QueueJob | None, system: str) -> Report | None:
    """How the run ended: its own final record, where the scheduler does not know better; else the scheduler's word."""
    if record is not None and record.status.final:
        if job is None or record.status in (ReportStatus.COMPLETED, ReportStatus.CANCELLED):
            return record
        if job.cause is None or record.cause not in _ASKED_OR_KILLED:
            return record
        _, _, output = record.message.partition("\n")
        status = ReportStatus.PREEMPTED if job.cause is Cause.PREEMPTION else ReportStatus.FAILED
        message = "\n".join(filter(None, (_word(job, system), output)))
        return replace(record, status=status, cause=job.cause, message=message)
    if job is None:
        return record
    seq = record.seq if record is not None else 0
    base = record if record is not None else Report(ReportStatus.PREPARING, seq=0)
    if job.cause is not None:
        status = ReportStatus.PREEMPTED if job.cause is Cause.PREEMPTION else ReportStatus.FAILED
        return replace(
            base, status=status, cause=job.cause, exit_code=job.exit_code or None, message=_word(job, system)
        )
    return _by_itself(base, job, system, run, began=seq > 0)


def vanished_member(record: Report | None, ident: str, system: str) -> Report:
    """A member of an array that never began and is listed nowhere, while its array is: a waiting member that is cancelled by
    itself leaves no trace (seen on 22.05)."""
    base = record if record is not None else Report(ReportStatus.PREPARING, seq=0)
    message = (
        f"{system.capitalize()} job {ident} is gone although it never began, as when somebody cancels a waiting member"
    )
    return replace(base, status=ReportStatus.FAILED, cause=Cause.CANCELLED, message=message)


def unexplained(job: QueueJob | None) -> bool:
    """Ended by itself, and the queue does not say with which exit code: the history does."""
    return (
        job is not None
        and job.state is QueueState.ENDED
        and job.cause is None
        and job.exit_code is None
        and not job.word.startswith("COMPLETED")
    )


def _by_itself(base: Report, job: QueueJob, system: str, run: Run | None, *, began: bool) -> Report:
    """The script ended, and the run has no final record."""
    host = run.host if run is not None else "the host"
    if job.word.startswith("COMPLETED"):
        return replace(base, status=ReportStatus.COMPLETED, cause=None, exit_code=0, message="")
    if job.exit_code == EXIT_NOT_OURS:
        message = "Its job found that the run was not its to start (a newer attempt, or a second submission)."
        return replace(base, status=ReportStatus.FAILED, cause=Cause.FENCED, exit_code=job.exit_code, message=message)
    if job.exit_code is not None and (job.exit_code == EXIT_NO_SHARE or not began):
        message = (
            f"{_word(job, system)}, before the run could begin: most likely the machine that it was given does not see the run's "
            f"directory or the runtime. Set the cluster's root and share to directories that the login node and all machines of "
            f"the partition share; `reconciler doctor {host}` tells which do not, and `reconciler logs` what the script said"
        )
        return replace(base, status=ReportStatus.FAILED, cause=Cause.REFUSED, exit_code=job.exit_code, message=message)
    message = f"{_word(job, system)}, and it left no final record"
    return replace(
        base, status=ReportStatus.FAILED, cause=Cause.INFRASTRUCTURE, exit_code=job.exit_code, message=message
    )


def _word(job: QueueJob, system: str) -> str:
    """The scheduler's own word for an end, as a sentence without its full stop."""
    where = f" on {job.nodes}" if job.nodes and job.nodes not in ("(null)", "None assigned") else ""
    how = job.sentence or (IN_WORDS[job.cause] if job.cause is not None else "it ended")
    code = f", exit {job.exit_code}:{job.signal or 0}" if job.exit_code or job.signal else ""
    return f"{system.capitalize()} job {job.ident}{where} is {job.word}: {how.rstrip('.')}{code}"

"""The same failure again and again, without a step of progress: a loop, which no budget should have to pay for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.cause import Cause
from reconciler.core.names import JobKey
from reconciler.core.observation import Report
from reconciler.core.run import Run

# An attempt of a program that reports neither steps nor checkpoints has made progress when it ran this long. What fails by itself
# (a wrong path, a missing module, too large a batch) has failed by then, set-up and compilation included, and starting one such
# attempt each ten minutes costs little; a program that works for hours between failures must never be taken for a loop.
SILENT_PROGRESS_S = 600.0

# Ends that may be the program's own doing. Preemption, want of capacity or quota, and other people's cancels never are.
COUNTED = frozenset({Cause.FAILURE, Cause.OUT_OF_MEMORY, Cause.TIMEOUT, Cause.INFRASTRUCTURE})

# Ends that a limit or a machine sets to work that was going on. Its program may count its steps from each attempt's start, so
# that the same step again proves nothing: long work is progress there, whatever is reported.
_FROM_OUTSIDE = frozenset({Cause.TIMEOUT, Cause.INFRASTRUCTURE})

_NAME_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Series:
    """`count` ends in a row with the same `failure`, none of which got beyond `step` and `checkpoint`: the furthest that any
    attempt at this work has come, None where none said. `stalled`: it was given up for that."""

    failure: str
    count: int
    step: int | None = None
    checkpoint: int | None = None
    stalled: bool = False


def follow(
    before: Series | None,
    run: Run,
    cause: Cause,
    exit_code: int | None,
    message: str,
    report: Report | None,
    lived_s: float,
) -> Series | None:
    """The series after one more end that nobody asked for. `lived_s`: how long the attempt ran.

    An end that does not count leaves the series as it is, unless its attempt made progress: then nothing is left of it but how
    far the work has come.
    """
    step = report.progress.step if report is not None and report.progress is not None else None
    checkpoint = report.checkpoint_step if report is not None else None
    known = before or Series("", 0)
    moved = _beyond(step, known.step) or _beyond(checkpoint, known.checkpoint)
    if (step is None and checkpoint is None) or cause in _FROM_OUTSIDE:
        moved = moved or lived_s >= SILENT_PROGRESS_S
    furthest = Series("", 0, _further(step, known.step), _further(checkpoint, known.checkpoint))
    if cause not in COUNTED:
        rest = furthest if moved else Series(known.failure, known.count, furthest.step, furthest.checkpoint)
        return None if rest == Series("", 0) else rest
    failure = _name(run, cause, exit_code, message)
    goes_on = not moved and failure == known.failure
    return Series(failure, known.count + 1 if goes_on else 1, furthest.step, furthest.checkpoint)


def lived_s(report: Report | None, launched_at: float, now: float) -> float:
    """How long an attempt ran: between two times of its own record, which one clock wrote; without them, from its launch until
    its end was seen, by ours."""
    if report is not None and report.start_time:
        try:
            begin, end = (_time(text) for text in (report.start_time, report.end_time or report.last_heartbeat))
            return max(0.0, (end - begin).total_seconds())
        except (TypeError, ValueError):
            pass  # no times that we understand, or one of them without its zone
    return max(0.0, now - launched_at)


def sentence(series: Series, job: JobKey, why: str) -> str:
    """Why a job is not tried again: the reason first, in one line; below it what `why` tells more, the end of its log."""
    first, _, rest = why.partition("\n")
    said = (
        f"the same failure {series.count} times in a row without a step of progress, so it is not tried again: "
        f"{first.rstrip('.')}. Mend the cause, then `reconciler resume {job}` or raise spec.generation"
    )
    return f"{said}\n{rest}" if rest else said


def _beyond(reached: int | None, best: int | None) -> bool:
    """The first that is heard of is where later attempts have to get beyond, no progress by itself."""
    return reached is not None and best is not None and reached > best


def _further(reached: int | None, best: int | None) -> int | None:
    known = [step for step in (reached, best) if step is not None]
    return max(known) if known else None


def _name(run: Run, cause: Cause, exit_code: int | None, message: str) -> str:
    """What makes two failures the same: cause and exit code; where there is none, the words, but for hosts and numbers."""
    if exit_code is not None:
        return f"{cause} {exit_code}"
    words = message.partition("\n")[0].replace(run.run_id, "").replace(run.host, "")
    return f"{cause} {re.sub('[0-9]+', '#', words)}"[:_NAME_CHARS_MAX]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

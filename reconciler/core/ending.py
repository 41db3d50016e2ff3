"""A run has ended: why, and does another attempt follow?"""

from __future__ import annotations

from dataclasses import replace

from reconciler.core import loops
from reconciler.core.backoff import delay_s
from reconciler.core.cause import ASKED_FOR, IN_WORDS, Cause, budget
from reconciler.core.cooling import blames_host
from reconciler.core.job import Restart
from reconciler.core.memory import Ended, Memory
from reconciler.core.observation import Report, ReportStatus, Sighting
from reconciler.core.phase import Phase
from reconciler.core.run import Run

# A run that wrote this many heartbeats, or reported a step, has done some work: its successor starts without the delay that
# unlucky tries in a row have piled up.
_SEQ_OF_A_LASTING_RUN = 5


def judge(run: Run, memory: Memory, seen: Sighting, restart: Restart, now: float) -> Ended:
    """What the end of `run` means for its job. `seen` is a sighting without living processes, or a proved absence.

    An end that we asked for follows our reason, except that a run which finished first has finished. Everything else is paid
    from the budget of its cause; a spent budget is Failed, with the cause in the sentence. So is a job that fails alike again and
    again without progress, whatever its budgets still hold.
    """
    report = seen.report
    if report is not None and report.status is ReportStatus.COMPLETED:
        return _end(run, Phase.SUCCEEDED, None, 0, "finished")
    asked = memory.stop or (report.cause if report is not None and report.status is ReportStatus.CANCELLED else None)
    if asked is not None and (asked in ASKED_FOR or memory.stop is None):
        return _asked(run, memory, asked, report)
    cause, message = _accident(run, memory, seen)
    exit_code = report.exit_code if report else None
    lasted = report is not None and (
        report.seq >= _SEQ_OF_A_LASTING_RUN or bool(report.progress and report.progress.step)
    )
    lived_s = loops.lived_s(report, memory.run_at, now)
    series = loops.follow(memory.series, run, cause, exit_code, message, report, lived_s)
    blamed = blames_host(run, cause, seen.report, lasted=lasted)
    limit, spent = budget(restart, cause), memory.spent.get(cause, 0)
    if limit is not None and spent >= limit:
        tail = f"; {spent} of {limit} requeues for this cause are spent" if limit else "; this cause is not requeued"
        phase = Phase.CANCELLED if cause is Cause.CANCELLED else Phase.FAILED
        return _end(run, phase, cause, exit_code, message + tail, series, blamed=blamed)
    if series is not None and restart.same_failure is not None and series.count >= restart.same_failure:
        given_up = replace(series, stalled=True)
        return _end(
            run, Phase.FAILED, cause, exit_code, loops.sentence(series, run.job, message), given_up, blamed=blamed
        )
    tries = (0 if lasted else memory.unlucky) + 1
    phase = {Cause.PREEMPTION: Phase.PREEMPTED, Cause.INFRASTRUCTURE: Phase.LOST}.get(cause, Phase.PENDING)
    return Ended(
        run.run_id,
        phase,
        cause,
        exit_code,
        message,
        requeue=True,
        lasted=lasted,
        not_before=now + delay_s(restart.backoff, tries),
        series=series,
        blamed=blamed,
    )


def _asked(run: Run, memory: Memory, asked: Cause, report: Report | None) -> Ended:
    exit_code = report.exit_code if report else None
    phase = {Cause.SUSPENDED: Phase.SUSPENDED, Cause.CANCELLED: Phase.CANCELLED, Cause.DELETED: Phase.CANCELLED}.get(
        asked, Phase.PENDING
    )
    return _end(run, phase, asked, exit_code, f"{IN_WORDS[asked]} on request", memory.series)


def _accident(run: Run, memory: Memory, seen: Sighting) -> tuple[Cause, str]:
    report = seen.report
    given_up = memory.stop  # for this cause, by us: nobody wished it to end
    told = report is not None and report.seq > 0 and report.status is ReportStatus.FAILED  # by the run itself
    if given_up is not None and not told:
        return given_up, f"{IN_WORDS[given_up]} on {run.host}: ended for that by us"
    if report is not None and report.status.final:
        cause = report.cause or (Cause.PREEMPTION if report.status is ReportStatus.PREEMPTED else Cause.FAILURE)
        return cause, report.message or f"{IN_WORDS[cause]} on {run.host}"
    known = memory.handle.native.get("boot_id") if memory.handle else None
    if isinstance(known, str) and seen.boot_id and known != seen.boot_id:
        return Cause.INFRASTRUCTURE, f"{run.host} was restarted while the run was on it"
    if report is None:
        return Cause.INFRASTRUCTURE, f"its run directory on {run.host} is gone and no process is left"
    return Cause.INFRASTRUCTURE, f"its processes on {run.host} are gone and left no final report"


def _end(
    run: Run,
    phase: Phase,
    cause: Cause | None,
    exit_code: int | None,
    message: str,
    series: loops.Series | None = None,
    *,
    blamed: bool = False,
) -> Ended:
    return Ended(
        run.run_id,
        phase,
        cause,
        exit_code,
        message,
        requeue=False,
        lasted=True,
        not_before=0.0,
        series=series,
        blamed=blamed,
    )

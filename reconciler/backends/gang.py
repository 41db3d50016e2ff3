"""Several machines that run one attempt together, each with a record of its own: one sighting of all of them. Pure.

The attempt lives while any part lives, has begun once every part has, and is over when none lives. A part that ended for good
while others live leaves the rest without a chance: then the sighting is `broken`, with that part's end as the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, Report, ReportStatus, Sighting

# Ends that are the consequence of another part's end, or of our asking, rather than their reason.
_CONSEQUENCES = frozenset({Cause.PREEMPTION, Cause.CANCELLED, Cause.REPLACED, Cause.SUSPENDED, Cause.DELETED})


@dataclass(frozen=True, slots=True)
class Gang:
    """What the parts' own sightings come to. `error` names parts that could not be asked."""

    begun: int
    count: int
    alive: bool
    broken: bool
    report: Report | None
    stopping: str
    error: str


def gang_of(parts: Sequence[Sighting]) -> Gang:
    """Of the parts by rank; one that could not be asked is UNKNOWN."""
    unknown = {rank: seen for rank, seen in enumerate(parts) if seen.presence is Presence.UNKNOWN}
    present = {rank: seen for rank, seen in enumerate(parts) if seen.presence is Presence.PRESENT}
    ended = {rank: seen for rank, seen in present.items() if not seen.alive}
    failed = {rank: seen for rank, seen in ended.items() if not _completed(seen)}
    alive = len(ended) < len(present) or bool(present and unknown)
    error = "; ".join(f"worker {rank} cannot be asked: {seen.error}" for rank, seen in unknown.items())
    report = _verdict(failed, len(parts)) if failed else _progress(present)
    if report is not None and error and not report.status.final:
        report = replace(report, detail="; ".join(filter(None, (report.detail, error))))
    return Gang(
        begun=len(present),
        count=len(parts),
        alive=alive,
        broken=alive and bool(failed),
        report=report,
        stopping=next((seen.stopping for seen in present.values() if seen.stopping), ""),
        error=error,
    )


def _completed(seen: Sighting) -> bool:
    return seen.report is not None and seen.report.status is ReportStatus.COMPLETED


def _progress(present: Mapping[int, Sighting]) -> Report | None:
    """The first part's, as far as all parts have come: running once all are, complete once all are. Its heartbeat is the oldest
    of those that go on: each is its machine's own text, compared for people only.
    """
    reports = {rank: seen.report for rank, seen in present.items()}
    first = reports.get(0)
    if first is None:
        return None
    beats = [one.last_heartbeat for one in reports.values() if one and not one.status.final and one.last_heartbeat]
    first = replace(first, last_heartbeat=min(beats, default=first.last_heartbeat))
    for rank, report in reports.items():
        if first.status is ReportStatus.COMPLETED and (report is None or not report.status.final):
            return replace(
                first, status=ReportStatus.RUNNING, detail=f"worker {rank} has not ended yet", exit_code=None
            )
    return first


def _verdict(failed: Mapping[int, Sighting], count: int) -> Report:
    """How the attempt ended: by the first part, in time, that ended for a reason of its own."""

    def weight(rank: int) -> tuple[bool, bool, str, int]:
        report = failed[rank].report
        silent = report is None or not report.status.final
        consequence = report is not None and report.cause in _CONSEQUENCES
        return (silent, consequence, report.end_time if report else "", rank)

    rank = min(failed, key=weight)
    report = failed[rank].report
    if report is None or not report.status.final:
        seq = report.seq if report else 0
        message = f"the processes on worker {rank} of {count} are gone and left no final report"
        return Report(ReportStatus.FAILED, seq=seq, cause=Cause.INFRASTRUCTURE, message=message)
    where = f"worker {rank} of {count}: " if count > 1 else ""
    return replace(report, message=f"{where}{report.message}")

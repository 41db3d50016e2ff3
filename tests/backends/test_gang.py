"""One sighting of an attempt that runs on several machines."""

from __future__ import annotations

from reconciler.backends.gang import gang_of
from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, Progress, Report, ReportStatus, Sighting


def part(status: ReportStatus | None = None, *, alive: bool = False, **more) -> Sighting:
    report = None if status is None else Report(status, seq=more.pop("seq", 1), **more)
    return Sighting("r", Presence.PRESENT, alive=alive, report=report)


ABSENT = Sighting("r", Presence.ABSENT)
SILENT = Sighting("r", Presence.UNKNOWN, error="no route")
RUNNING = part(ReportStatus.RUNNING, alive=True)
DONE = part(ReportStatus.COMPLETED, exit_code=0)


def test_it_lives_while_a_part_lives_and_has_begun_when_all_have():
    gang = gang_of([RUNNING, RUNNING, ABSENT])
    assert (gang.alive, gang.begun, gang.count, gang.broken) == (True, 2, 3, False)
    assert gang_of([DONE, RUNNING]).report.status is ReportStatus.RUNNING
    assert "worker 1" in gang_of([DONE, RUNNING]).report.detail
    over = gang_of([DONE, DONE])
    assert (over.alive, over.report.status) == (False, ReportStatus.COMPLETED)


def test_its_heartbeat_is_the_oldest_of_those_that_go_on_and_its_progress_the_firsts():
    def at(second: int, **more):
        status = more.pop("status", ReportStatus.RUNNING)
        return part(status, alive=not status.final, last_heartbeat=f"2026-01-01T00:00:{second:02}.000Z", **more)

    report = gang_of([at(9, progress=Progress(7)), at(3, progress=Progress(1)), at(5), SILENT]).report
    assert (report.last_heartbeat, report.progress) == ("2026-01-01T00:00:03.000Z", Progress(7))
    report = gang_of([at(9), at(1, status=ReportStatus.COMPLETED), at(5)]).report
    assert report.last_heartbeat == "2026-01-01T00:00:05.000Z"
    over = gang_of([at(9, status=ReportStatus.COMPLETED), at(1, status=ReportStatus.COMPLETED)]).report
    assert over.last_heartbeat == "2026-01-01T00:00:09.000Z"


def test_a_part_that_failed_breaks_it_and_is_its_reason():
    failed = part(ReportStatus.FAILED, cause=Cause.FAILURE, exit_code=3, end_time="2026-01-01T00:00:02Z")
    gang = gang_of([RUNNING, failed])
    assert (gang.alive, gang.broken, gang.report.exit_code) == (True, True, 3)
    assert gang.report.message.startswith("worker 1 of 2")


def test_of_several_ends_the_first_that_had_a_reason_of_its_own_counts():
    asked = part(ReportStatus.CANCELLED, cause=Cause.REPLACED, end_time="2026-01-01T00:00:00Z")
    late = part(ReportStatus.FAILED, cause=Cause.FAILURE, exit_code=1, end_time="2026-01-01T00:00:09Z")
    first = part(ReportStatus.FAILED, cause=Cause.OUT_OF_MEMORY, exit_code=9, end_time="2026-01-01T00:00:05Z")
    assert gang_of([asked, late, first]).report.cause is Cause.OUT_OF_MEMORY
    assert gang_of([late, part()]).report.cause is Cause.FAILURE


def test_a_part_that_died_without_a_word_is_a_loss():
    dead = part(ReportStatus.RUNNING, seq=9)
    gang = gang_of([DONE, dead])
    assert (gang.alive, gang.report.status, gang.report.cause) == (False, ReportStatus.FAILED, Cause.INFRASTRUCTURE)
    assert gang.report.seq == 9


def test_a_part_that_cannot_be_asked_may_live():
    gang = gang_of([DONE, SILENT])
    assert gang.alive
    assert not gang.broken
    assert "worker 1 cannot be asked: no route" in gang.error
    nobody = gang_of([SILENT, SILENT])
    assert (nobody.begun, nobody.alive) == (0, False)

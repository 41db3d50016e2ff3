"""`status`: how every job stands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit, Jobs, Json, find_jobs, session

if TYPE_CHECKING:
    from reconciler.app.converge import Pass


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    jobs: Jobs = None,
    live: Annotated[
        bool, typer.Option("-w", "--watch", help="Redraw until interrupted, or until nothing moves.")
    ] = False,
    interval_s: Annotated[float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="With -w.")] = 1.0,
    as_json: Json = False,
) -> int:
    """Show how every job stands, asking the hosts now. Changes nothing.

    Examples: reconciler status; reconciler status -w; reconciler status --json lm/ablations/small
    """
    from reconciler.cli.live import Live, table
    from reconciler.cli.out import emit, say
    from reconciler.cli.show import alarm_line

    with session() as reconciler:
        reconciler.select(find_jobs(reconciler, jobs))
        seen = reconciler.look()
        if as_json or GLOBALS.as_json:
            emit(document(seen, reconciler.ports.clock.now()))
            return int(Exit.DONE)
        if live:
            with Live(quiet=False) as shown:
                shown.show(seen)
                while seen.moving:
                    reconciler.ports.clock.sleep(interval_s)
                    seen = reconciler.look()
                    shown.show(seen)
            return int(Exit.DONE)
        for problem in seen.state.problems:
            say(f"! frozen  {problem}")
        for alarm in seen.plan.alarms:
            say(alarm_line(alarm))
        if not seen.plan.views:
            say("No jobs. Write a manifest (reconciler init shows one) and commit it.")
        elif sys.stdout.isatty():
            from rich.console import Console

            Console().print(table(seen.plan.views))
        else:
            for line in plain(seen):
                say(line)
    return int(Exit.DONE)


def plain(seen: Pass) -> list[str]:
    """The table without colour or width limit, for pipes."""
    from reconciler.cli.live import bar
    from reconciler.cli.out import first_line

    rows = [("JOB", "PHASE", "ATTEMPT", "HOST", "PROGRESS", "MESSAGE")]
    for view in seen.plan.views:
        rows.append(
            (str(view.job), view.phase.value, str(view.attempt or ""), view.host, bar(view), first_line(view.message))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in rows
    ]


def document(seen: Pass, now: float) -> dict[str, object]:
    """The document of `status --json` (DESIGN section 8)."""
    hosts = []
    kinds = {view.name: view.kind for view in seen.world.hosts}
    for view in seen.world.hosts:
        census = seen.world.observation.censuses.get(view.name)
        at = seen.observed_at.get(view.name)
        hosts.append(
            {
                "name": view.name,
                "reachable": None if census is None else census.complete,
                "observed_age_s": None if at is None else round(now - at, 1),
                "error": census.error if census else "",
            }
        )
    return {
        "version": 1,
        "exit_code": 0,
        "jobs": [
            {
                "job": str(view.job),
                "phase": view.phase.value,
                "reason": view.reason,
                "message": view.message,
                "host": view.host,
                "backend": kinds.get(view.host, ""),
                "attempt": view.attempt,
                "run_id": view.run_id,
                "handle": view.handle,
                "progress": None
                if view.progress is None
                else {"step": view.progress.step, "total": view.progress.total, "metrics": dict(view.progress.metrics)},
                "checkpoint_step": view.checkpoint_step,
                "last_heartbeat": view.last_heartbeat,
                "exit_code": view.exit_code,
                "frozen": view.frozen,
            }
            for view in seen.plan.views
        ],
        "hosts": hosts,
        "alarms": [alarm.to_json() for alarm in seen.plan.alarms],
        "errors": [{"file": p.file, "line": p.line, "message": p.message} for p in seen.state.problems],
    }

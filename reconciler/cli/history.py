"""`history`: who did what to a job, when, for which commit, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit, Json, find_job, session


def register(app: typer.Typer) -> None:
    app.command()(history)


def history(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Only this job.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="The newest N lines.")] = 200,
    as_json: Json = False,
) -> int:
    """Show the journal, oldest line first.

    Example: reconciler history lm/ablations/small
    """
    from reconciler.cli.out import emit, say, styled
    from reconciler.store.codec import dump_line

    with session() as reconciler:
        key = find_job(reconciler, job) if job else None
        entries = reconciler.ports.store.history(key, limit=limit)
    if as_json or GLOBALS.as_json:
        import json

        lines = []
        for entry in entries:
            kind, body = dump_line(entry.line)
            lines.append(
                {
                    "number": entry.number,
                    "at": datetime.fromtimestamp(entry.at, UTC).isoformat(),
                    "job": str(entry.job),
                    "event": kind,
                    "detail": json.loads(body),
                    "actor": entry.actor,
                    "commit": entry.commit,
                    "why": entry.why,
                }
            )
        emit({"version": 1, "exit_code": 0, "entries": lines})
        return int(Exit.DONE)
    for entry in entries:
        at = datetime.fromtimestamp(entry.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        commit = entry.commit[:9] or "no commit"
        tail = styled(f"({entry.actor}, {commit}, {entry.why})", "faint")
        say(f"{at}  {entry.job}  {in_words(entry.line)}  {tail}")
    if not entries:
        say("The journal has no such lines.")
    return int(Exit.DONE)


def in_words(line: object) -> str:
    """One journal line as a sentence."""
    from reconciler.core import memory as m

    match line:
        case m.Launching(run, requeue):
            code = f", code {run.commit[:9]}" if run.commit else ""
            return f"{'requeue' if requeue else 'launch'} attempt {run.attempt} on {run.host}{code} (intent)"
        case m.Launched(run_id, handle, adopted):
            pid = handle.native.get("pid")
            return f"{'found running' if adopted else 'started'}: {run_id}" + (f", pid {pid}" if pid else "")
        case m.Refused(run_id, message, _):
            return f"not started: {run_id}: {message}"
        case m.Deferred(message, _):
            return f"not launched: {message}"
        case m.Unsettled(run_id, message):
            return f"outcome unknown: {run_id}: {message}"
        case m.Stopping(run_id, cause, forced):
            return f"stop {run_id}, {cause.value}{', without grace' if forced else ''} (intent)"
        case m.Stopped(run_id, message):
            return f"stop of {run_id}: {message}"
        case m.Ended():
            what = f"{line.phase}" + (f" ({line.cause.value})" if line.cause else "")
            return f"ended: {line.run_id}: {what}: {line.message.partition(chr(10))[0]}" + (
                "; requeued" if line.requeue else ""
            )
        case m.Adopted(run, _):
            return f"adopted attempt {run.attempt} on {run.host}"
        case m.Edited(run_id, _):
            return f"spec edited in place: {run_id}"
        case m.Requested(what, why, _):
            return f"{what} requested: {why}"
        case m.Releasing(_, machine, why):
            return f"delete {machine}: {why} (intent)"
        case m.Noticed(_, reason):
            return f"from here on it waits for, or suffers from: {reason}" if reason else "what it waited for has come"
        case m.Billed(_, machine, cost):
            return f"deleted {machine}" + (f", which cost {cost:.2f}" if cost else "")
        case m.Forgotten(why, _):
            return f"forgotten: {why}"
    return repr(line)

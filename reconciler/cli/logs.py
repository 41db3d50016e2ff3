"""`logs`: a run's output, from whichever host it is on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import Exit, JobArgument, find_job, session

if TYPE_CHECKING:
    from reconciler.app.converge import Reconciler
    from reconciler.core.names import JobKey
    from reconciler.core.protocols import Known


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", help="An earlier attempt (default: the newest).")
    ] = None,
    worker: Annotated[
        int,
        typer.Option("--worker", metavar="RANK", min=0, help="The machine of a run on several (default: the first)."),
    ] = 0,
    tail_bytes: Annotated[
        int | None, typer.Option("--tail", metavar="BYTES", help="Only the last BYTES (default: everything).")
    ] = None,
) -> int:
    """Print a run's standard output and error.

    Examples: reconciler logs -f lm/ablations/small; reconciler logs small --attempt 1
    """
    from reconciler.core.protocols import LogCursor

    with session() as reconciler:
        key = find_job(reconciler, job)
        known = find_run(reconciler, key, attempt)
        backend = reconciler.ports.backends(known.run.host)
        offset = 0 if tail_bytes is None else -tail_bytes
        quiet_since = None
        while True:
            chunk = backend.logs(known, LogCursor(offset, worker=worker))
            if chunk.rotated and sys.stderr.isatty():
                sys.stderr.write("(the log was rotated; older parts lie beside it on the host)\n")
            sys.stdout.buffer.write(chunk.data)
            sys.stdout.buffer.flush()
            offset = chunk.end
            if chunk.data:
                quiet_since = None
                continue
            if not follow:
                return int(Exit.DONE)
            if quiet_since is not None and _over(reconciler, known):
                return int(Exit.DONE)
            quiet_since = offset
            reconciler.ports.clock.sleep(0.5)


def find_run(reconciler: Reconciler, key: JobKey, attempt: int | None) -> Known:
    """The run meant: the open one, the newest that the journal names, or attempt N of it. Raises ReconcilerError."""
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.memory import Adopted, Launching
    from reconciler.core.protocols import Known

    memory = reconciler.ports.store.memories().get(key)
    if memory is not None and memory.run is not None and attempt in (None, memory.run.attempt):
        return Known(memory.run, memory.handle)
    runs = {
        entry.line.run.attempt: entry.line.run
        for entry in reconciler.ports.store.history(key, limit=100_000)
        if isinstance(entry.line, (Launching, Adopted))
    }
    if attempt is None and runs:
        return Known(runs[max(runs)])
    if attempt in runs:
        return Known(runs[attempt])
    there = ", ".join(map(str, sorted(runs))) or "none"
    raise ReconcilerError(f"{key} has no attempt {attempt or ''} in the journal (there: {there})".replace("  ", " "))


def _over(reconciler: Reconciler, known: Known) -> bool:
    from reconciler.core.protocols import Look

    census = reconciler.ports.backends(known.run.host).observe(Look((known,)))
    return census.complete and not census.look(known.run.run_id).alive

"""`logs`: a run's output, from whichever host it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import Exit, JobArgument, find_job, session

if TYPE_CHECKING:
    from reconciler.app.converge import Reconciler
    from reconciler.core.names import JobKey
    from reconciler.core.protocols import Backend, Known

_RANKS_MAX = 4096


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", help="An earlier attempt (default: the newest).")
    ] = None,
    worker: Annotated[
        int | None,
        typer.Option("--worker", metavar="RANK", min=0, help="The machine of a run on several (default: the first)."),
    ] = None,
    all_workers: Annotated[
        bool, typer.Option("--all", help="All machines of the run; each line begins with its machine's rank.")
    ] = False,
    tail_bytes: Annotated[
        int | None,
        typer.Option("--tail", metavar="BYTES", help="Only the last BYTES, with --all of each (default: everything)."),
    ] = None,
) -> int:
    """Print a run's standard output and error.

    Examples: reconciler logs -f lm/ablations/small; reconciler logs small --attempt 1; reconciler logs -f big --all
    """
    from reconciler.cli.tail import Tail
    from reconciler.core.errors import ReconcilerError

    if all_workers and worker is not None:
        raise ReconcilerError("--all and --worker ask for two things: give one of them")
    with session() as reconciler:
        key = find_job(reconciler, job)
        known = find_run(reconciler, key, attempt)
        backend = reconciler.ports.backends(known.run.host)
        offset = 0 if tail_bytes is None else -tail_bytes
        ranks = _ranks(reconciler, known, backend) if all_workers else [worker or 0]
        tails = [Tail(rank, offset, prefix=f"{rank}: " if all_workers else "") for rank in ranks]
        quiet = False
        while True:
            moved = [tail.read(backend, known, follow=follow) for tail in tails if tail.open]
            if any(moved):
                quiet = False
                continue
            if not follow or (quiet and _over(reconciler, known)):
                break
            quiet = True
            reconciler.ports.clock.sleep(0.5)
        for tail in tails:
            tail.end()
        return int(Exit.PARTIAL if any(tail.trouble for tail in tails) else Exit.DONE)


def _ranks(reconciler: Reconciler, known: Known, backend: Backend) -> Sequence[int]:
    """Of all machines of the run. Raises ReconcilerError when the first has no output to ask for."""
    from reconciler.core.errors import ReconcilerError, Rejected
    from reconciler.core.protocols import LogCursor

    nodes = known.run.place.get("nodes")
    if isinstance(nodes, int):
        return range(max(nodes, 1))
    view = next((one for one in reconciler.ports.hosts if one.name == known.run.host), None)
    if view is None or view.rented is None:
        return range(1)
    # How many machines a VM has, it says itself.
    backend.logs(known, LogCursor(0, size_max=1))
    for rank in range(1, _RANKS_MAX):
        try:
            backend.logs(known, LogCursor(0, size_max=1, worker=rank))
        except Rejected:
            return range(rank)
        except ReconcilerError:
            continue  # it is there, and does not answer
    return range(_RANKS_MAX)


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

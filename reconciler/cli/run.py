"""`run`: one job in the foreground, here, without a reconciler around it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.common import JobArgument, session


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    job: JobArgument,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Checkpoints, results and status go here.")
    ] = Path(".reconciler"),
) -> int:
    """Run a job's command here, in the working tree as it is, and exit with its exit code.

    For trying a manifest before it is committed: no host, no journal, no requeue; it resumes from checkpoints in --root.
    Example: reconciler --working-tree run small
    """
    from reconciler.app.foreground import run_here
    from reconciler.cli.common import find_job, settings
    from reconciler.core.errors import ReconcilerError

    with session() as reconciler:
        key = find_job(reconciler, job)
        state = reconciler.ports.source.read()
        wanted = state.desired.get(key)
        if wanted is None:
            problem = state.frozen.get(key)
            raise ReconcilerError(
                f"The manifest of {key} cannot be used: {problem}" if problem else f"{key} has no manifest"
            )
        spec = reconciler.ports.decode(wanted.normal)
        secrets = reconciler.ports.secrets(spec, "")
        return run_here(spec, secrets, directory=settings().directory, root=root)

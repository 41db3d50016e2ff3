"""`init`: a repository of manifests to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit


def register(app: typer.Typer) -> None:
    app.command()(init)


def init(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where (default: -C, or here).")] = None,
) -> int:
    """Make a repository of manifests: a first job, an inventory to fill in, editor support. Overwrites nothing.

    Example: reconciler init my-jobs && cd my-jobs && git add -A && git commit -m "First job" && reconciler apply
    """
    from reconciler.app.scaffold import scaffold
    from reconciler.cli.out import say

    where = directory or GLOBALS.directory
    made = scaffold(where)
    for path in made.written:
        say(f"+ {path}")
    for path in made.kept:
        say(f"  {path} (kept as it was)")
    say(f"Next: cd {where}; git add -A; git commit -m 'First job'; reconciler apply")
    return int(Exit.DONE)

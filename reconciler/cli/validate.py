"""`validate`: are all manifests, and the inventory, in order?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit, Json


def register(app: typer.Typer) -> None:
    app.command()(validate)


def validate(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Only these files; else every manifest on disk.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Check manifests as they lie on disk, committed or not, and the inventory. Contacts nobody.

    Examples: reconciler validate; reconciler validate manifests/new.yaml
    """
    from reconciler.app.check import check_all, check_files
    from reconciler.cli.common import settings
    from reconciler.cli.out import emit, say, styled, warn

    checked = check_files(files) if files else check_all(settings())
    code = Exit.ERROR if checked.problems else Exit.DONE
    if as_json or GLOBALS.as_json:
        emit(
            {
                "version": 1,
                "exit_code": int(code),
                "jobs": checked.jobs,
                "errors": [{"file": p.file, "line": p.line, "message": p.message} for p in checked.problems],
                "notes": list(checked.notes),
            }
        )
        return int(code)
    for problem in checked.problems:
        warn(f"{styled('error:', 'remove')} {problem}")
    for note in checked.notes:
        warn(f"note: {note}")
    many = len(checked.problems)
    jobs = f"{checked.jobs} job{'s' * (checked.jobs != 1)}"
    if many:
        warn(f"{many} problem{'s' * (many > 1)}; {jobs} in order.")
    else:
        where = f"{checked.files} file{'s' * (checked.files != 1)}"
        say(f"{jobs} in {where}: all in order{checked.tail}.")
    return int(code)

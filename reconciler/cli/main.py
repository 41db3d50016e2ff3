"""The command line: options before the verb, the verbs, and the one place where an error becomes text and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from reconciler.cli import (
    apply,
    doctor,
    explain,
    history,
    init,
    logs,
    mind,
    plan,
    run,
    status,
    submit,
    sweep,
    validate,
    watch,
)
from reconciler.cli.common import GLOBALS, Exit
from reconciler.cli.out import emit, styled, warn

app = typer.Typer(
    name="reconciler",
    help="Commit a job manifest; the reconciler makes every machine you have match it.",
    epilog="Start with: reconciler init, then reconciler apply. Exit codes: 0 done, 1 error, 2 plan has changes, "
    "3 refused by a safety guard, 4 partial, 5 another reconciler holds the lock, 6 the plan is stale.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as version_of

        typer.echo(version_of("reconciler"))
        raise typer.Exit


@app.callback()
def options(
    directory: Annotated[
        Path, typer.Option("-C", metavar="DIR", help="The repository of manifests (or its manifests/ folder).")
    ] = Path(),
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-d", metavar="PATH", help="The machines you have.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", envvar="RECONCILER_STATE", help="Where journal and memory lie."),
    ] = None,
    ref: Annotated[str, typer.Option("--ref", metavar="REF", help="The commit whose manifests are wanted.")] = "HEAD",
    working_tree: Annotated[
        bool, typer.Option("--working-tree", help="Take manifests as they lie on disk, committed or not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
    version: Annotated[  # noqa: ARG001  eager: its callback prints and leaves
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    GLOBALS.directory, GLOBALS.inventory, GLOBALS.state = directory, inventory, state
    GLOBALS.ref, GLOBALS.working_tree, GLOBALS.as_json = ref, working_tree, as_json


for module in (init, validate, plan, apply, watch, status, explain, logs, history, mind, run, submit, doctor, sweep):
    module.register(app)


# A pass makes and drops some hundred thousand values at once, in no cycles; with Python's default of 700 the collector
# looks for some a thousand times, which took a third of a pass over 10,000 manifests.
COLLECT_AFTER = 100_000


def main() -> None:
    """Entry point. Every error of ours is one message and its exit code; a bug shows its traceback."""
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = app(args=arguments, prog_name="reconciler", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return int(Exit.ERROR)
    except (click.exceptions.Abort, KeyboardInterrupt):
        warn("Interrupted. Nothing is lost: the next apply looks at what was under way and goes on.")
        return 130
    except BrokenPipeError:
        # The reader (head, less) left. Nothing more can be said; keep the interpreter from trying at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.DONE)
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        return code
    return int(result) if isinstance(result, int) else int(Exit.DONE)


def _explain(error: Exception) -> int | None:
    """Say an error of ours; None for anything else, which is a bug and keeps its traceback."""
    from reconciler.core.errors import LockHeld, ManifestError, ReconcilerError

    if not isinstance(error, ReconcilerError):
        return None
    code = Exit.LOCKED if isinstance(error, LockHeld) else Exit.ERROR
    if GLOBALS.as_json or "--json" in sys.argv:
        problems = error.problems if isinstance(error, ManifestError) else []
        emit(
            {
                "version": 1,
                "exit_code": int(code),
                "errors": [{"file": p.file, "line": p.line, "message": p.message} for p in problems]
                or [{"file": "", "line": 0, "message": error.message, "hint": error.hint}],
            }
        )
    else:
        warn(f"{styled('error:', 'remove')} {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
    return int(code)


if __name__ == "__main__":
    main()

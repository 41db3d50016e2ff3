"""`plan`: what apply would do, and why. Changes nothing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import (
    GLOBALS,
    AssumeEmpty,
    ConfirmDelete,
    ConfirmLost,
    Exit,
    Jobs,
    Json,
    TrustHost,
    find_job,
    find_jobs,
    session,
)

if TYPE_CHECKING:
    from reconciler.app.converge import Options, Pass


def register(app: typer.Typer) -> None:
    app.command()(plan)


def plan(
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Save the plan for `apply FILE`.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            "--show", metavar="JOB", help="Print exactly what would be sent to JOB's host: for Slurm, the script."
        ),
    ] = None,
    assume_empty: AssumeEmpty = None,
    confirm_delete: ConfirmDelete = None,
    confirm_lost: ConfirmLost = None,
    trust_host: TrustHost = None,
    as_json: Json = False,
) -> int:
    """Show what apply would do, with the reason of each line. Changes nothing.

    Example: reconciler plan -o plan.json && reconciler apply plan.json
    """
    from reconciler.app.converge import Options
    from reconciler.app.preview import preview
    from reconciler.cli.out import emit, say
    from reconciler.cli.saved import save_plan
    from reconciler.cli.show import show_plan

    options = Options(
        frozenset(assume_empty or ()),
        confirm_delete,
        approved=True,
        lost=frozenset(confirm_lost or ()),
        trusted=frozenset(trust_host or ()),
    )
    with session(options) as reconciler:
        reconciler.select(find_jobs(reconciler, jobs))
        seen = reconciler.look()
        if show is not None:
            body = preview(reconciler, seen, find_job(reconciler, show))
            if isinstance(body.get("script"), str) and not (as_json or GLOBALS.as_json):
                say(str(body["script"]).rstrip("\n"))
            else:
                emit(body)
            return int(Exit.DONE)
        code = exit_code_of(seen)
        if out is not None:
            save_plan(out, seen, code)
        if as_json or GLOBALS.as_json:
            emit(document(seen, code))
        else:
            show_plan(seen, next_step=next_step(out, options))
    return int(code)


def next_step(out: Path | None, options: Options) -> str:
    """The command that applies a plan: with what was said for it, without which it would be another plan."""
    words = ["reconciler", "apply", *([str(out)] if out else [])]
    for flag, hosts in (
        ("--assume-empty", options.assume_empty),
        ("--confirm-lost", options.lost),
        ("--trust-host", options.trusted),
    ):
        words += [word for host in sorted(hosts) for word in (flag, host)]
    if options.delete_allowed is not None:
        words += ["--confirm-delete", str(options.delete_allowed)]
    return shlex.join(words)


def exit_code_of(seen: Pass) -> Exit:
    """What `plan` exits with: refused before changes before partial."""
    if seen.plan.refusal is not None or seen.plan.alarms:
        return Exit.REFUSED
    if seen.plan.effects:
        return Exit.CHANGES
    return Exit.PARTIAL if seen.partial else Exit.DONE


def document(seen: Pass, code: Exit) -> dict[str, object]:
    """The document of schemas/plan.schema.json."""
    from reconciler.core.plan import plan_to_json

    state = seen.state
    return dict(
        plan_to_json(
            seen.plan,
            exit_code=int(code),
            complete=state.complete,
            commit=state.commit,
            dirty=state.dirty,
            problems=state.problems,
        )
    )

"""`sweep`: the rented machines that carry our mark, and the deletion of those that nothing needs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit, Json, session

if TYPE_CHECKING:
    from reconciler.app.sweep import Found


def register(app: typer.Typer) -> None:
    app.command()(sweep)


def sweep(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete what nothing needs, without asking.")] = False,
    as_json: Json = False,
) -> int:
    """List every rented machine of ours, in any zone, and delete those that nothing needs: kept ones too.

    `apply` and `watch` delete what is not kept by themselves. Without --yes and without a terminal this only lists.
    Exit codes: 0 nothing is left over; 2 something is; 4 a host could not be asked, or a deletion did not work.
    """
    from reconciler.app.sweep import machines_of
    from reconciler.app.sweep import sweep as delete
    from reconciler.cli.out import emit, say, warn
    from reconciler.cli.show import show_done

    as_json = as_json or GLOBALS.as_json
    with session() as reconciler:
        seen = reconciler.look()
        found, unseen = machines_of(seen)
        over = [item for item in found if item.fate is not None]
        if not as_json:
            for item in found:
                say(_line(item))
            for host, error in unseen.items():
                warn(f"! {host} cannot be asked: {error}")
            cost = sum(item.machine.price_per_hour or 0.0 for item in over)
            count = f"{len(found)} machine{'s' * (len(found) != 1)} of ours"
            say(f"{count}; {len(over)} that nothing needs, {cost:.2f} an hour.")
        done = []
        if over and (yes or (not as_json and sys.stdin.isatty() and typer.confirm("Delete them?"))):
            done = delete(reconciler, seen, found, why="sweep", report=None if as_json else show_done)
    bad = bool(unseen) or any(not item.ok for item in done)
    code = Exit.PARTIAL if bad else Exit.CHANGES if over and not done else Exit.DONE
    if as_json:
        machines = [
            {
                "name": item.machine.name,
                "zone": item.machine.zone,
                "host": item.host,
                "job": str(item.machine.job),
                "run_id": item.machine.run_id,
                "state": item.machine.words,
                "price_per_hour": item.machine.price_per_hour,
                "needed": item.fate is None,
                "why": item.fate.why if item.fate else "",
            }
            for item in found
        ]
        results = [{"machine": item.action.run_id, "ok": item.ok, "message": item.message} for item in done]
        emit({"version": 1, "exit_code": int(code), "machines": machines, "unseen": dict(unseen), "results": results})
    return int(code)


def _line(item: Found) -> str:
    from reconciler.cli.out import styled

    machine = item.machine
    price = f"{machine.price_per_hour:.2f} an hour" if machine.price_per_hour else "price not known"
    if machine.going:
        what, colour = "on its way out", "faint"
    elif item.fate is None:
        what, colour = f"needed by {machine.job}", "info"
    else:
        what, colour = ("kept: " if not item.fate.delete else "") + item.fate.why, "change"
    return f"{styled(f'{machine.name}', 'bold')}  {machine.zone}  {machine.words}  {price}  {styled(what, colour)}"

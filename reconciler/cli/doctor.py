"""`doctor` and `hosts`: are the machines usable, and what is free on them."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli.common import GLOBALS, Exit, Json, session


def register(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(hosts)


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="[HOST]...", help="Only these hosts.")] = None,
    as_json: Json = False,
) -> int:
    """Check this machine, the manifests and every host of the inventory, and say what to fix.

    Example: reconciler doctor workstation
    """
    from reconciler.app.doctor import examine
    from reconciler.cli.common import settings
    from reconciler.cli.out import emit, say, styled

    findings = examine(settings(), names)
    bad = sum(not finding.ok for finding in findings)
    code = Exit.PARTIAL if bad else Exit.DONE
    if as_json or GLOBALS.as_json:
        emit(
            {
                "version": 1,
                "exit_code": int(code),
                "findings": [
                    {"where": f.where, "what": f.what, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings
                ],
            }
        )
        return int(code)
    where = ""
    for finding in findings:
        if finding.where != where:
            where = finding.where
            say(styled(where, "bold"))
        mark = styled("ok ", "add") if finding.ok else styled("BAD", "remove")
        say(f"  {mark} {finding.what}: {finding.detail}")
        if finding.fix:
            say(f"      {finding.fix}")
    say(f"{bad} thing{'s' * (bad != 1)} to fix." if bad else "All is well.")
    return int(code)


def hosts(
    alias: Annotated[
        str | None,
        typer.Option(
            "--discover",
            metavar="ALIAS",
            help="Look at this machine, or kube:CONTEXT, and print an inventory entry for it.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what each host has and what is free there now.

    Examples: reconciler hosts; reconciler hosts --discover login01; reconciler hosts --discover kube:lab
    """
    from reconciler.app.capacity import survey
    from reconciler.cli.out import emit, say

    if alias is not None:
        return _discover(alias, as_json)
    with session() as reconciler:
        rows = survey(reconciler)
    if as_json or GLOBALS.as_json:
        emit(
            {
                "version": 1,
                "exit_code": 0,
                "hosts": [
                    {
                        "name": row.name,
                        "type": row.kind,
                        "cluster": row.cluster,
                        "reachable": row.reachable,
                        "chips": dict(row.chips),
                        "free": dict(row.free),
                        "slots": row.slots,
                        "slots_free": row.slots_free,
                        "note": row.note,
                    }
                    for row in rows
                ],
            }
        )
        return int(Exit.DONE)
    width = max([len(row.name) for row in rows] + [4])
    say(f"{'HOST':<{width}}  TYPE     CPU JOBS  ACCELERATORS")
    for row in rows:
        chips = row.words or (
            ", ".join(f"{row.free.get(chip, 0)} of {count} {chip} free" for chip, count in row.chips.items()) or "none"
        )
        slots = "" if row.slots is None else f"{row.slots_free}/{row.slots} free"
        say(f"{row.name:<{width}}  {row.kind:<8} {slots:<9} {chips}" + (f"  ({row.note})" if row.note else ""))
    return int(Exit.DONE)


def _discover(alias: str, as_json: bool) -> int:
    from reconciler.app.discover import discover
    from reconciler.cli.common import settings
    from reconciler.cli.out import emit, say, warn

    found = discover(settings(), alias)
    if as_json or GLOBALS.as_json:
        emit({"version": 1, "exit_code": 0, "type": found.kind, "yaml": found.text, "notes": list(found.notes)})
        return int(Exit.DONE)
    for note in found.notes:
        warn(f"note: {note}")
    say(found.text.rstrip("\n"))
    return int(Exit.DONE)

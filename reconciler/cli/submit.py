"""`submit`: write a manifest from the command line, commit it, apply it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from reconciler.cli.common import Exit


def register(app: typer.Typer) -> None:
    app.command(context_settings={"allow_interspersed_args": False})(submit)


def submit(
    name: Annotated[str, typer.Argument(help="project/group/name, or just a name.")],
    command: Annotated[
        list[str], typer.Argument(help="The command and its arguments; options of submit stand before NAME.")
    ],
    chip: Annotated[
        str | None, typer.Option("--chip", help="h100, a100-sxm4-80gb, …; any accelerator when left out.")
    ] = None,
    n_chips: Annotated[
        int | None, typer.Option("-n", "--n-chips", "--n_chips", min=0, help="How many; 0 is CPU.")
    ] = None,
    cluster: Annotated[list[str] | None, typer.Option("--cluster", help="Only these clusters.")] = None,
    exclude_cluster: Annotated[list[str] | None, typer.Option("--exclude-cluster", help="Not these clusters.")] = None,
    host: Annotated[list[str] | None, typer.Option("--host", help="Only these hosts.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE")] = None,
    dirty: Annotated[bool, typer.Option("--dirty", help="Ship uncommitted changes of the code, too.")] = False,
    no_source: Annotated[bool, typer.Option("--no-source", help="Ship no code: the command is all.")] = False,
    commit: Annotated[bool, typer.Option("--commit/--no-commit", help="Commit the manifest, and apply it.")] = True,
    again: Annotated[
        bool, typer.Option("--again", help="The manifest exists: raise its generation, so that it runs again.")
    ] = False,
) -> int:
    """Write manifests/PROJECT/GROUP/NAME.yaml, commit it alone, and apply it.

    Example: reconciler submit --chip h100 -n 2 lm/ablations/small python train.py --lr 0.1
    """
    from reconciler.app.writing import Wanted, write_manifest
    from reconciler.cli.apply import Applying
    from reconciler.cli.common import session, settings
    from reconciler.cli.out import say

    if command[:1] == ["--"]:
        command = command[1:]
    wanted = Wanted(
        name=name,
        command=tuple(command),
        chip=chip,
        n_chips=n_chips,
        clusters=tuple(cluster or ()),
        exclude_clusters=tuple(exclude_cluster or ()),
        hosts=tuple(host or ()),
        env=tuple(env or ()),
        dirty=dirty,
        no_source=no_source,
    )
    written = write_manifest(settings(), wanted, commit=commit, again=again)
    say(f"{'Committed' if written.commit else 'Wrote'} {written.path}: {shlex.join(command)}")
    if not commit:
        say(f"Commit it, or try it now: reconciler --working-tree run {written.key}")
        return int(Exit.DONE)
    with session() as reconciler:
        reconciler.select(frozenset({written.key}))
        return Applying(reconciler, "submit", quiet=False).run(None, ask=False, wait=False, timeout_s=None)

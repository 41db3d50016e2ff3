"""What every verb shares: options, the opened session, exit codes."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reconciler.app.converge import Options, Reconciler
    from reconciler.app.wiring import Settings
    from reconciler.core.names import JobKey


class Exit(enum.IntEnum):
    """DESIGN's exit codes; `--json` output carries the same number."""

    DONE = 0
    ERROR = 1
    CHANGES = 2
    REFUSED = 3
    PARTIAL = 4
    LOCKED = 5
    STALE = 6


@dataclass(slots=True)
class Globals:
    """Options given before the verb."""

    directory: Path = Path()
    inventory: Path | None = None
    state: Path | None = None
    working_tree: bool = False
    ref: str = "HEAD"
    as_json: bool = False


GLOBALS = Globals()

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
AssumeEmpty = Annotated[
    list[str] | None,
    typer.Option(
        "--assume-empty", metavar="HOST", help="Take it that no job of ours runs on HOST, which cannot be asked."
    ),
]
ConfirmDelete = Annotated[
    int | None,
    typer.Option(
        "--confirm-delete", metavar="N", help="Yes, remove N live jobs (the message of a refused pass names N)."
    ),
]

ConfirmLost = Annotated[
    list[str] | None,
    typer.Option(
        "--confirm-lost", metavar="HOST", help="Yes, the runs that are missing on HOST are lost (an alarm names it)."
    ),
]
TrustHost = Annotated[
    list[str] | None,
    typer.Option("--trust-host", metavar="HOST", help="Start jobs on HOST although it cools down."),
]


def complete_job(incomplete: str) -> list[str]:
    """Shell completion of job names. Silent about every error: a completion has nowhere to say it."""
    from reconciler.core.errors import ReconcilerError

    try:
        with session() as reconciler:
            keys = known_jobs(reconciler)
            names = [str(key) for key in keys] + [key.name for key in keys]
            return sorted(name for name in set(names) if name.startswith(incomplete))
    except (ReconcilerError, OSError):
        return []


JobArgument = Annotated[
    str,
    typer.Argument(metavar="JOB", help="project/group/name; the start may be left out.", autocompletion=complete_job),
]
Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB]...", help="Only these jobs (all when none is named).", autocompletion=complete_job),
]


def settings() -> Settings:
    """The global options, as the wiring wants them."""
    from reconciler.app.wiring import Settings

    return Settings(
        directory=GLOBALS.directory,
        inventory=GLOBALS.inventory,
        state=GLOBALS.state,
        working_tree=GLOBALS.working_tree,
        ref=GLOBALS.ref,
    )


@contextmanager
def session(options: Options | None = None) -> Iterator[Reconciler]:
    """A reconciler over the real ports, closed at the end."""
    from reconciler.app.converge import Reconciler
    from reconciler.app.wiring import open_ports
    from reconciler.core.errors import ReconcilerError

    with open_ports(settings()) as ports:
        known = {view.name for view in ports.hosts}
        for flag, named in (("--confirm-lost", options.lost), ("--trust-host", options.trusted)) if options else ():
            for host in sorted(named - known):
                there = ", ".join(sorted(known)) or "none"
                raise ReconcilerError(f"{flag} {host}: the inventory has no host {host}", hint=f"It has: {there}")
        reconciler = Reconciler(ports, options)
        try:
            yield reconciler
        finally:
            reconciler.close()


def find_jobs(reconciler: Reconciler, words: list[str] | None) -> frozenset[JobKey] | None:
    """The jobs meant by what the user typed: full keys, or a tail that is unique. None when nothing was typed."""
    if not words:
        return None
    keys = known_jobs(reconciler)
    return frozenset(_match(word, keys) for word in words)


def find_job(reconciler: Reconciler, word: str) -> JobKey:
    return _match(word, known_jobs(reconciler))


def known_jobs(reconciler: Reconciler) -> list[JobKey]:
    """Every job that has a manifest or a memory."""
    from reconciler.core.errors import SourceError

    found = set(reconciler.ports.store.memories())
    try:
        state = reconciler.ports.source.read()
        found |= set(state.desired) | set(state.frozen)
    except SourceError:
        pass  # a job may be cancelled, or its log read, while the manifests cannot be
    return sorted(found)


def _match(word: str, keys: list[JobKey]) -> JobKey:
    from difflib import get_close_matches

    from reconciler.core.errors import ReconcilerError

    tail = tuple(word.strip("/").split("/"))
    hits = [key for key in keys if tuple(key)[-len(tail) :] == tail]
    if len(hits) == 1:
        return hits[0]
    names = [str(key) for key in keys]
    if hits:
        raise ReconcilerError(f"{word!r} could be {', '.join(map(str, hits[:5]))}", hint="Name the job in full.")
    close = get_close_matches(word, names, n=3, cutoff=0.5) or get_close_matches(
        tail[-1], [key.name for key in keys], n=3, cutoff=0.6
    )
    hint = f"Did you mean {' or '.join(close)}?" if close else "`reconciler status` lists all jobs."
    raise ReconcilerError(f"No job is called {word!r}", hint=hint)

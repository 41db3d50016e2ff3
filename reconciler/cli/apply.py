"""`apply`: make reality match the manifests, once or until nothing moves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import (
    GLOBALS,
    AssumeEmpty,
    ConfirmDelete,
    ConfirmLost,
    Exit,
    Json,
    TrustHost,
    find_jobs,
    session,
)

if TYPE_CHECKING:
    from reconciler.app.act import Done
    from reconciler.app.converge import Pass, Reconciler
    from reconciler.core.errors import StoreError


# How often a pass starts over because another reconciler acted between its look and its lock.
TRIES_MAX = 5


def register(app: typer.Typer) -> None:
    app.command()(apply)


def apply(
    plan_or_jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[PLAN | JOB...]", help="A saved plan, or only these jobs.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Go on until nothing moves any more: every job finished, held or suspended.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="With --wait: stop waiting after this long (exit 4)."),
    ] = None,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the journal.")] = "apply",
    assume_empty: AssumeEmpty = None,
    confirm_delete: ConfirmDelete = None,
    confirm_lost: ConfirmLost = None,
    trust_host: TrustHost = None,
    as_json: Json = False,
) -> int:
    """Make reality match the committed manifests.

    Examples: reconciler apply --yes; reconciler apply plan.json; reconciler apply lm/ablations/small --yes --wait
    """
    from reconciler.app.converge import Options
    from reconciler.cli.saved import load_plan

    as_json = as_json or GLOBALS.as_json
    saved = None
    words = plan_or_jobs or []
    if len(words) == 1 and (words[0].endswith(".json")):
        saved, words = load_plan(Path(words[0])), []
    options = Options(
        frozenset(assume_empty or ()),
        confirm_delete,
        approved=True,
        lost=frozenset(confirm_lost or ()),
        trusted=frozenset(trust_host or ()),
    )
    with session(options) as reconciler:
        reconciler.select(find_jobs(reconciler, words))
        applying = Applying(reconciler, why, quiet=as_json)
        return applying.run(saved, ask=not yes and saved is None, wait=wait, timeout_s=timeout_s)


class Applying:
    """One `apply`, from the first look to the exit code."""

    def __init__(self, reconciler: Reconciler, why: str, *, quiet: bool) -> None:
        self._reconciler = reconciler
        self._why = why
        self._quiet = quiet
        self._done: list[Done] = []

    def run(self, saved: dict[str, object] | None, *, ask: bool, wait: bool, timeout_s: float | None) -> int:
        """Look, show, ask, act, wait; returns the exit code."""
        from reconciler.app.converge import Moved
        from reconciler.cli.out import say, warn
        from reconciler.cli.saved import stale
        from reconciler.cli.show import show_plan
        from reconciler.core.errors import StoreError

        agreed: str | None = None
        for _ in range(TRIES_MAX):
            seen = self._reconciler.look()
            if saved is not None and (why := stale(saved, seen)) is not None:
                message = f"The plan is stale: {why}. Nothing was done. Make a new one: reconciler plan -o FILE"
                return self._end(seen, Exit.STALE, message)
            if seen.plan.refusal is not None:
                if not self._quiet:
                    show_plan(seen, next_step=None)
                return self._end(seen, Exit.REFUSED, seen.plan.refusal.message if self._quiet else "")
            if not self._quiet and agreed is None:
                show_plan(seen, next_step=None)
            if ask and seen.plan.effects and agreed != seen.plan.digest:
                if agreed is not None:
                    return self._end(
                        seen, Exit.STALE, "The world moved while you were reading. Nothing was done; apply again."
                    )
                if not sys.stdin.isatty() or self._quiet:
                    message = "Nothing was done: without a terminal to ask on, say --yes or give a saved plan"
                    return self._end(seen, Exit.ERROR, message)
                if not typer.confirm("Do this?"):
                    say("Nothing was done.")
                    return int(Exit.DONE)
                agreed = seen.plan.digest
                continue
            try:
                self._act(seen)
            except Moved:
                continue
            except StoreError as error:
                return self._end_of(seen, error)
            break
        else:
            return self._end(seen, Exit.LOCKED, "Another reconciler keeps acting on this repository; try again later.")
        failed = any(not item.ok for item in self._done)
        if wait:
            try:
                seen, timed_out = self._wait(seen, timeout_s)
            except StoreError as error:
                return self._end_of(seen, error)
            if timed_out:
                warn("Stopped waiting; the jobs go on.")
                return self._end(seen, Exit.PARTIAL)
            return self._end(seen, _code(seen))
        return self._end(seen, _code(seen, failed=failed))

    def _act(self, seen: Pass) -> None:
        from reconciler.cli.progress import Transfers
        from reconciler.cli.show import show_done

        with Transfers(quiet=self._quiet) as transfers:

            def report(item: Done) -> None:
                self._done.append(item)
                if not self._quiet:
                    show_done(item)

            self._reconciler.apply(seen, why=self._why, progress=transfers.advance, report=report)

    def _wait(self, seen: Pass, timeout_s: float | None) -> tuple[Pass, bool]:
        """Passes until nothing moves. The pause grows from a blink to a second: short jobs end soon, long ones late."""
        from reconciler.app.converge import Moved
        from reconciler.cli.live import Live
        from reconciler.core.errors import LockHeld

        clock = self._reconciler.ports.clock
        deadline = None if timeout_s is None else clock.now() + timeout_s
        pause_s = 0.02
        with Live(quiet=self._quiet, told=[alarm.host for alarm in seen.plan.alarms]) as live:

            def report(item: Done) -> None:
                self._done.append(item)
                live.note(item)

            # What was just started has not been looked at: one more look decides whether anything moves.
            while seen.moving or seen.plan.effects:
                if deadline is not None and clock.now() > deadline:
                    return seen, True
                clock.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 1.0)
                seen = self._reconciler.look()
                live.show(seen)
                if seen.plan.refusal is not None:
                    return seen, False
                try:
                    self._reconciler.apply(seen, why=self._why, report=report)
                except (Moved, LockHeld):
                    continue  # another reconciler is at it: look again at what it came to
        return seen, False

    def _end_of(self, seen: Pass, error: StoreError) -> int:
        """What was done before the error is on the screen already; a document has to hold both."""
        from reconciler.core.errors import LockHeld

        if isinstance(error, LockHeld) or not self._quiet or not self._done:
            raise error
        return self._end(seen, Exit.ERROR, str(error))

    def _end(self, seen: Pass, code: Exit, message: str = "") -> int:
        from reconciler.cli.out import emit, say, warn
        from reconciler.cli.plan import document
        from reconciler.cli.show import closing, results_to_json

        if self._quiet:
            emit({**document(seen, code), "results": results_to_json(self._done), "message": message})
        elif message:
            warn(message)
        elif code in (Exit.DONE, Exit.PARTIAL) or (code is Exit.REFUSED and seen.plan.refusal is None):
            say(closing(seen, self._done))
        return int(code)


def _code(seen: Pass, *, failed: bool = False) -> Exit:
    """Of a pass that was carried out: a guard that held a host back comes before what merely did not work."""
    if seen.plan.alarms:
        return Exit.REFUSED
    return Exit.PARTIAL if failed or seen.partial else Exit.DONE

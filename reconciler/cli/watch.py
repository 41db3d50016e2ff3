"""`watch`: leave it running; commits are picked up, preempted runs go on, finished ones are noticed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import AssumeEmpty, ConfirmDelete, ConfirmLost, Exit, session

if TYPE_CHECKING:
    from reconciler.app.converge import Pass
    from reconciler.core.errors import ReconcilerError


def register(app: typer.Typer) -> None:
    app.command()(watch)


def watch(
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between looks while something runs.")
    ] = 5.0,
    idle_s: Annotated[
        float, typer.Option("--idle", metavar="SECONDS", min=0.1, help="Between looks while nothing does.")
    ] = 60.0,
    assume_empty: AssumeEmpty = None,
    confirm_delete: ConfirmDelete = None,
    confirm_lost: ConfirmLost = None,
) -> int:
    """Reconcile until interrupted. A commit is picked up within a second. Running jobs outlive this process.

    Example: reconciler -C my-jobs watch
    """
    import threading

    from reconciler.app.converge import Options
    from reconciler.app.watch import Pace, Stop
    from reconciler.app.watch import watch as loop
    from reconciler.app.wiring import open_wakes
    from reconciler.cli.common import settings
    from reconciler.cli.live import Live
    from reconciler.cli.out import say, warn
    from reconciler.cli.show import show_done

    stop = Stop(threading.Event())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.ask())
    options = Options(frozenset(assume_empty or ()), confirm_delete, lost=frozenset(confirm_lost or ()))
    with session(options) as reconciler:
        wakes = open_wakes(settings(), reconciler.ports, stop.event)
        said: dict[str, str] = {}
        live = Live(quiet=False, lines_only=True)

        def on_error(error: ReconcilerError) -> None:
            # The same error at every pass is said once, until another one or a good pass comes.
            if said.get("error") != error.message:
                said["error"] = error.message
                warn(f"error: {error}")

        def on_pass(seen: Pass) -> None:
            if seen.plan.refusal is None:
                said.pop("error", None)
            problems = "\n".join(f"! frozen   {problem}" for problem in seen.state.problems)
            if said.get("problems") != problems:
                said["problems"] = problems
                if problems:
                    warn(problems)
            live.show(seen)

        say("Watching; Ctrl-C ends this, not the jobs.")
        try:
            loop(
                reconciler,
                Pace(interval_s, idle_s),
                stop,
                fingerprint=wakes.fingerprint,
                woken=wakes.woken,
                news=wakes.news,
                on_pass=on_pass,
                on_done=show_done,
                on_error=on_error,
            )
        finally:
            wakes.close()
    say("Stopped watching. Jobs that run go on; `reconciler watch` or `apply` finds them again.")
    return int(Exit.DONE)

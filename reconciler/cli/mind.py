"""`cancel`, `suspend`, `resume`, `adopt`, `forget`: a person's word about one job, kept in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.common import Exit, JobArgument, find_job, session

if TYPE_CHECKING:
    from reconciler.app.converge import Reconciler
    from reconciler.core.memory import Line
    from reconciler.core.names import JobKey

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the journal.")]


def register(app: typer.Typer) -> None:
    for verb in (cancel, suspend, resume, adopt, forget):
        app.command()(verb)


def cancel(job: JobArgument, why: Why = "by hand") -> int:
    """End a job's run and do not run it again until its generation or spec changes, or `resume`.

    Example: reconciler cancel lm/ablations/small --why "wrong data"
    """
    return _request("cancel", job, why)


def suspend(job: JobArgument, why: Why = "by hand") -> int:
    """Stop a job's run after a checkpoint, and start nothing until `resume`. The manifest may say it too (spec.suspend).

    Example: reconciler suspend lm/ablations/small
    """
    return _request("suspend", job, why)


def resume(job: JobArgument, why: Why = "by hand") -> int:
    """Undo `suspend` or `cancel`, try a waiting job at once, and a Stalled one again.

    Example: reconciler resume lm/ablations/small
    """
    return _request("resume", job, why)


def adopt(
    job: JobArgument,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Also a run that another repository of manifests started: it is ours from now on."
        ),
    ] = False,
) -> int:
    """Look on every host for a run of this job that carries our mark, and mind it from now on.

    A pass does this by itself; this is for after `forget`, a state that was lost, or a repository made anew (--take-over).
    Example: reconciler adopt small
    """
    from reconciler.cli.out import say, warn
    from reconciler.core.memory import Adopted

    with session() as reconciler:
        key = find_job(reconciler, job)
        memory = reconciler.ports.store.memories().get(key)
        if memory is not None and memory.run is not None:
            say(f"{key}: attempt {memory.run.attempt} on {memory.run.host} is minded already.")
            return int(Exit.DONE)
        found = reconciler.find_runs(key, any_owner=take_over)
        if not found.runs:
            for host, why in found.unseen.items():
                warn(f"{host} cannot be asked: {why}")
            hint = "" if take_over else " (--take-over looks for other repositories' runs, too)"
            warn(f"No run of {key} with our mark was found{hint}.")
            return int(Exit.PARTIAL if found.unseen else Exit.ERROR)
        best = found.runs[0]
        assert best.run is not None
        _write(reconciler, key, Adopted(best.run, best.handle), "adopt by hand")
        say(f"{key}: attempt {best.run.attempt} on {best.run.host} is minded from now on.")
    return int(Exit.DONE)


def forget(
    job: JobArgument,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept in the journal.")] = "by hand",
    force: Annotated[
        bool, typer.Option("--force", help="Also when a run of it may be alive: it then goes on, unminded.")
    ] = False,
) -> int:
    """Stop minding a job: its history of attempts and its finished state are let go.

    With a manifest it starts anew; a run that --force left alive is then found again by its mark.

    Example: reconciler forget lm/ablations/small --why "host was sold"
    """
    from reconciler.cli.out import say
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.memory import Forgotten

    with session() as reconciler:
        key = find_job(reconciler, job)
        memory = reconciler.ports.store.memories().get(key)
        if memory is None or memory.blank:
            say(f"{key}: nothing is remembered.")
            return int(Exit.DONE)
        if memory.run is not None and not force:
            raise ReconcilerError(
                f"Attempt {memory.run.attempt} of {key} may be alive on {memory.run.host}",
                hint=f"`reconciler cancel {key}` ends it; `--force` forgets it and lets it go on unminded.",
            )
        _write(reconciler, key, Forgotten(why, released=True), "forget by hand")
        say(f"{key}: forgotten.")
    return int(Exit.DONE)


def _request(what: str, job: str, why: str) -> int:
    """Write the request, then make one pass over this job so that it takes effect at once."""
    from reconciler.app.converge import Moved
    from reconciler.cli.out import say, warn
    from reconciler.cli.show import show_done
    from reconciler.core.memory import Requested
    from reconciler.core.phase import FINAL

    with session() as reconciler:
        key = find_job(reconciler, job)
        reconciler.select(frozenset({key}))
        seen = reconciler.look()
        wanted = seen.world.desired.get(key)
        view = next((view for view in seen.plan.views if view.job == key), None)
        if what != "resume" and view is not None and view.phase in FINAL:
            say(f"{key} is {view.phase} already: {view.message}. There is nothing to {what}.")
            return int(Exit.DONE)
        about = None if wanted is None else (wanted.digest, wanted.generation)
        _write(reconciler, key, Requested(what, why, about), f"{what}: {why}")
        done = []
        for _ in range(3):
            try:
                seen = reconciler.look()
                if seen.plan.refusal is not None:
                    warn(seen.plan.refusal.message)
                    return int(Exit.REFUSED)
                done = reconciler.apply(seen, why=f"{what}: {why}", report=show_done)
                break
            except Moved:
                continue
        seen = reconciler.look()
        for view in seen.plan.views:
            if view.job == key:
                say(f"{key} is {view.phase}: {view.message}")
    return int(Exit.PARTIAL if any(not item.ok for item in done) else Exit.DONE)


def _write(reconciler: Reconciler, key: JobKey, line: Line, why: str) -> None:
    store = reconciler.ports.store
    store.lock()
    try:
        store.append([(key, line)], commit="", why=why)
    finally:
        store.unlock()

"""The loop of `watch`: a pass when the manifests move, when a try is due, and every so often. A timer alone suffices; file
events only shorten the wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.app.act import Done
from reconciler.app.converge import Moved, Pass, Reconciler
from reconciler.core.errors import LockHeld, ReconcilerError

# How often the repository is asked for its commit when no file event comes: a commit is picked up within this.
COMMIT_POLL_S = 0.5
# After an error (git, the store, a lock held elsewhere) the loop goes on, at this pace.
ERROR_PAUSE_S = 5.0
# News come in bursts (a gang starts, pod by pod): between two looks for their sake passes at least this.
NEWS_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between passes: while something runs or waits, and while nothing does."""

    busy_s: float = 5.0
    idle_s: float = 60.0


@dataclass(slots=True)
class Stop:
    """Set from a signal handler; ends the loop between two effects, never inside one."""

    event: threading.Event

    def ask(self) -> None:
        self.event.set()


def watch(
    reconciler: Reconciler,
    pace: Pace,
    stop: Stop,
    *,
    fingerprint: Callable[[], object],
    woken: Callable[[float], bool],
    news: Callable[[], frozenset[str]] = frozenset,
    on_pass: Callable[[Pass], None],
    on_done: Callable[[Done], None],
    on_error: Callable[[ReconcilerError], None],
) -> None:
    """Pass after pass until `stop`. `fingerprint` names the state of the source cheaply (no git process); `woken` waits at
    most that many seconds and tells whether an event came; `news` names hosts on which something happened since it was last
    asked. Errors are reported and the loop goes on."""
    clock = reconciler.ports.clock
    seen_at: object = None
    due = looked = 0.0
    refused: str | None = None
    while not stop.event.is_set():
        now = clock.now()
        print_of = fingerprint()
        changed = news()
        if changed:
            reconciler.distrust(changed)
            due = min(due, looked + NEWS_PAUSE_S)
        if now < due and print_of == seen_at:
            woken(min(COMMIT_POLL_S, due - now))
            continue
        seen_at, looked = print_of, now
        try:
            seen = reconciler.look()
            on_pass(seen)
            done: list[Done] = []
            if seen.plan.refusal is None:
                refused = None
                done = reconciler.apply(seen, why="watch", report=on_done)
            elif refused != seen.plan.refusal.message:
                refused = seen.plan.refusal.message
                on_error(
                    ReconcilerError(refused, hint="Run `reconciler apply` with that flag; watch goes on with nothing.")
                )
            due = clock.now() + _pause(seen, done, pace, clock.now())
        except Moved:
            due = clock.now()
        except LockHeld as error:
            on_error(error)
            due = clock.now() + ERROR_PAUSE_S
        except ReconcilerError as error:
            on_error(error)
            due = clock.now() + ERROR_PAUSE_S


def _pause(seen: Pass, done: Iterable[Done], pace: Pace, now: float) -> float:
    """Seconds until the next pass is due: soon after an effect, at the next back-off's end, else at the pace."""
    if any(item.ok for item in done):
        return min(1.0, pace.busy_s)
    tries = [view.next_try - now for view in seen.plan.views if view.next_try > now]
    usual = pace.busy_s if seen.moving else pace.idle_s
    return max(0.05, min([usual, *tries]))


def git_fingerprint(git_dir: Path, root: Path | None) -> Callable[[], object]:
    """Modification times of what a commit touches; with `root` (working tree), of the manifest directories as well.

    Source: gitrepository-layout(5): HEAD, refs/heads and packed-refs name the commits; every commit moves logs/HEAD when
    reflogs are on.
    """
    watched = [git_dir / name for name in ("HEAD", "logs/HEAD", "packed-refs", "refs/heads", "FETCH_HEAD", "reftable")]

    def look() -> object:
        head = _text(git_dir / "HEAD")
        name = head.removeprefix("ref: ").strip()
        extra = [git_dir / name] if head.startswith("ref: ") else []
        stamps = [_stamp(path) for path in (*watched, *extra)]
        if root is not None:
            stamps += [_stamp(path) for path in sorted(root.rglob("*")) if ".git" not in path.parts]
        return head, tuple(stamps)

    return look


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""

"""Waiting for a signal or a moment, whichever comes first, in one thread and without handlers that run in between."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

WATCHED = frozenset((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG))
STOPPING = WATCHED - {signal.SIGCHLD, signal.SIGURG}
# "Your time is nearly up": a signal that programs ignore unless they ask for it, so that it can be sent to all of them.
WARNING = signal.SIGURG


def block() -> None:
    """Keep the watched signals pending, also over fork, until somebody waits for them: none is lost in between."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


def is_stop_pending() -> bool:
    """Has one of the stopping signals arrived that nobody has waited for yet?"""
    return bool(signal.sigpending() & STOPPING)


def waiter(portable: bool = False) -> Callable[[float], Optional[int]]:
    """A function of seconds that returns the number of a watched signal, or None when the time is up.

    sigtimedwait takes them straight from the pending set. macOS has none: there (and with `portable`) handlers write
    numbers into a pipe, and the signals are unblocked.
    """
    if hasattr(signal, "sigtimedwait") and not portable:
        return _by_sigtimedwait
    return _by_pipe()


def _by_sigtimedwait(timeout_s: float) -> Optional[int]:
    found = signal.sigtimedwait(WATCHED, max(timeout_s, 0.0))
    return found.si_signo if found else None


def _by_pipe() -> Callable[[float], Optional[int]]:
    import select  # noqa: PLC0415 - only this way of waiting needs it

    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in WATCHED:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)

    def wait(timeout_s: float) -> Optional[int]:
        if not select.select([reader], [], [], max(timeout_s, 0.0))[0]:
            return None
        try:
            return os.read(reader, 1)[0]
        except BlockingIOError:
            return None

    return wait

"""One thread per host, and the only place that has threads. Results come back as values to a single-threaded pass.

A lane owns its host's connection, so a host that hangs delays nobody else, and no backend needs to be thread-safe. Every call a
lane makes has a deadline of its own; a lane adds none.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from reconciler.core.errors import ReconcilerError, Retry

# How often a waiting pass wakes to renew its lock: a fraction of the lock's term (store.sqlite.LOCK_TERM_S).
TICK_S = 10.0
# Connections made at once from one lane.
ABREAST_MAX = 32


T = TypeVar("T")


class Crashed(ReconcilerError):
    """A bug in this program, kept from taking the other hosts with it. What it was doing may have happened."""

    retry = Retry.AFTER_LOOKING


class Lanes:
    """The threads of this process, one per host, made when first needed."""

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def each(
        self, work: Mapping[str, Callable[[], T]], *, tick: Callable[[], None] | None = None
    ) -> Iterator[tuple[str, T | ReconcilerError]]:
        """Run one piece of work per host; yield (host, result or error) as they finish.

        `tick` is called in the caller's thread at least every TICK_S seconds while some work is under way; what it raises ends
        the iteration, and that work is left to its own deadlines.
        """
        if not work:
            return
        pending: dict[Future[T | ReconcilerError], str] = {
            self._thread(host).submit(_guarded, host, call): host for host, call in work.items()
        }
        while pending:
            done, _ = wait(pending, timeout=TICK_S, return_when=FIRST_COMPLETED)
            if tick is not None and pending.keys() - done:
                tick()
            for future in done:
                yield pending.pop(future), future.result()

    def close(self) -> None:
        """Let idle threads go; does not wait for a host that hangs."""
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
        self._threads.clear()

    def _thread(self, host: str) -> ThreadPoolExecutor:
        if host not in self._threads:
            self._threads[host] = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"lane-{host}")
        return self._threads[host]


def abreast(calls: Mapping[int, Callable[[], object]]) -> dict[int, object]:
    """Calls side by side, within one lane: to the workers of one machine. What one raises of ReconcilerError is its result."""
    if len(calls) <= 1:
        return {key: _guarded(str(key), call) for key, call in calls.items()}
    with ThreadPoolExecutor(max_workers=min(len(calls), ABREAST_MAX), thread_name_prefix="worker") as pool:
        futures = {key: pool.submit(_guarded, str(key), call) for key, call in calls.items()}
        return {key: future.result() for key, future in futures.items()}


def _guarded(host: str, call: Callable[[], T]) -> T | ReconcilerError:
    try:
        return call()
    except ReconcilerError as error:
        return error
    except Exception as error:  # noqa: BLE001  the edge of a lane: one host's bug must not end the pass for the others
        return Crashed(
            f"A bug stopped the work on {host}: {type(error).__name__}: {error}", hint=traceback.format_exc().rstrip()
        )

"""File events, so that a commit is picked up at once. Where there are none, the timer of `watch` alone suffices."""

from __future__ import annotations

import threading
import time
from pathlib import Path


class FileEvents:
    """Wakes the loop when something below the watched folders changes; where that cannot be had, waits the time out."""

    def __init__(self, folders: list[Path], stop: threading.Event) -> None:
        self._stop = stop
        self._moved = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folders,), name="file-events", daemon=True)
        if folders:
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """True when a file event came within that time. Returns early when told to stop, within a quarter of a second."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._moved.wait(min(left, 0.25)):
                self._moved.clear()
                return True
        return False

    def close(self) -> None:
        self._ended.set()

    def _run(self, folders: list[Path]) -> None:
        from watchfiles import watch  # noqa: PLC0415  only `watch` pays for it

        try:
            for _ in watch(*folders, stop_event=self._ended, debounce=50, step=20, raise_interrupt=False):
                self._moved.set()
        except (OSError, RuntimeError):
            return  # no inotify watches left, or a file system without events: the timer alone suffices

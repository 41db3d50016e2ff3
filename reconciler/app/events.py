"""What wakes `watch` before its timer does: changes of files (a commit), and news from hosts that can tell. The timer alone
suffices."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from reconciler.core.protocols import Announces

# After a failure to listen to a host; its lane looks at its own pace meanwhile.
LISTEN_PAUSE_S = 10.0


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

    def wake(self) -> None:
        """As if a file had changed."""
        self._moved.set()

    def close(self) -> None:
        self._ended.set()

    def _run(self, folders: list[Path]) -> None:
        from watchfiles import watch  # noqa: PLC0415  only `watch` pays for it

        try:
            for _ in watch(*folders, stop_event=self._ended, debounce=50, step=20, raise_interrupt=False):
                self._moved.set()
        except (OSError, RuntimeError):
            return  # no inotify watches left, or a file system without events: the timer alone suffices


class HostNews:
    """Which hosts had something happen to runs of ours. A thread for each, which ends soon after `close`, or with the process."""

    def __init__(self, hosts: Mapping[str, Announces], events: FileEvents) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._ended = threading.Event()
        for name, host in hosts.items():
            threading.Thread(target=self._listen, args=(name, host), name=f"news-{name}", daemon=True).start()

    def take(self) -> frozenset[str]:
        """The hosts with news since this was last asked."""
        with self._lock:
            found = frozenset(self._changed)
            self._changed.clear()
        return found

    def close(self) -> None:
        self._ended.set()

    def _listen(self, name: str, host: Announces) -> None:
        def changed() -> None:
            with self._lock:
                self._changed.add(name)
            self._events.wake()

        def pause() -> None:
            self._ended.wait(LISTEN_PAUSE_S)

        host.listen(changed=changed, going=lambda: not self._ended.is_set(), pause=pause)

"""Since when a shared ref has been at one commit, by this machine's clock alone.

Kept in a small file beside the clone, so that commands which run for a moment know it, too. A file that is gone or damaged means
that the time begins anew: it can only make the answer shorter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from reconciler.transports.private import make_private, write_private


class Unmoved:
    """`file` says where to remember; it is asked once, when there is something to remember."""

    def __init__(self, file: Callable[[], Path]) -> None:
        self._file = file
        self._path: Path | None = None
        self._known: tuple[str, float] = ("", 0.0)

    def since(self, commit: str, now: float) -> float:
        """When this commit was first seen here, not after `now`; `now` when it is new."""
        if self._known[0] != commit:
            self._known = self._remembered()
        seen, at = self._known
        # A clock that was put back proves nothing, nor does a time that is no number.
        if seen != commit or not at <= now:
            self._known = (commit, now)
            self._remember()
        return self._known[1]

    def _remembered(self) -> tuple[str, float]:
        if self._path is None:
            self._path = self._file()
        try:
            commit, at = json.loads(self._path.read_bytes())
            return str(commit), float(at)
        except (OSError, TypeError, ValueError):
            return "", 0.0

    def _remember(self) -> None:
        if self._path is None:
            self._path = self._file()
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            make_private(beside.parent)
            write_private(beside, json.dumps(self._known))
            beside.replace(self._path)
        except OSError:
            return  # this process remembers; the next one begins anew

"""What time it is in the emulated clusters of this process: the machine's own, unless somebody simulates that, too."""

from __future__ import annotations

import time
from collections.abc import Callable

_sources: list[Callable[[], float]] = []


def use(source: Callable[[], float] | None) -> None:
    """From now on, seconds since 1970 come from there; None: from this machine."""
    _sources[:] = [] if source is None else [source]


def now() -> float:
    """Seconds since 1970."""
    return _sources[0]() if _sources else time.time()


def monotonic() -> float:
    """For durations."""
    return _sources[0]() if _sources else time.monotonic()

"""What time it is in the emulated clusters of this process: the machine's own, unless somebody simulates that, too."""

from __future__ import annotations

import time
from collections.abc import Callable

_source: Callable[[], float] | None = None


def use(source: Callable[[], float] | None) -> None:
    """From now on, seconds since 1970 come from there; None: from this machine."""
    global _source
    _source = source


def now() -> float:
    """Seconds since 1970."""
    return time.time() if _source is None else _source()


def monotonic() -> float:
    """For durations."""
    return time.monotonic() if _source is None else _source()

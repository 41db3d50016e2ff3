"""What time it is in the emulated service, and what is due. No thread waits: whoever calls runs what is due first."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime

START = 1_798_000_000.0


class Clock:
    """Stands still unless `advance` moves it. With `real` (as time.monotonic) it runs too, `speed` times as fast."""

    def __init__(self, real: Callable[[], float] | None = None, *, start: float = START, speed: float = 1.0) -> None:
        self._real, self._speed = real, speed
        self._start = start - (real() * speed if real else 0.0)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._acting_at: float | None = None

    def now(self) -> float:
        """In a due act: the time it was due, however late it runs."""
        if self._acting_at is not None:
            return self._acting_at
        return self._start + (self._real() * self._speed if self._real else 0.0)

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now() + delay, next(self._serial), act))

    def run_due(self) -> None:
        if self._acting_at is not None:
            return
        now = self.now()
        while self._due and self._due[0][0] <= now:
            when, _, act = heapq.heappop(self._due)
            self._acting_at = when
            try:
                act()
            finally:
                self._acting_at = None

    def advance(self, seconds: float) -> None:
        self._start += seconds
        self.run_due()

    def clear(self) -> None:
        self._due.clear()


def stamp(when: float) -> str:
    """As protocol buffers write a Timestamp in JSON: as many digits as are needed, in threes."""
    micros = round(when * 1_000_000)
    seconds, micros = divmod(micros, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{micros:06d}".removesuffix("000")
    return f"{text}Z" if micros == 0 else f"{text}.{digits}Z"


def moment(text: str) -> float:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00")).timestamp()


def seconds(duration: str) -> float:
    """A Duration in JSON: `21600s`."""
    return float(duration.removesuffix("s"))

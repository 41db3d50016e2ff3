"""When may a job be tried again."""

from __future__ import annotations

from reconciler.core.job import Backoff

# 2**20 initial delays is years: a bound that keeps the exponent from overflowing a float, never reached in use.
_EXPONENT_MAX = 20


def delay_s(backoff: Backoff, tries: int) -> float:
    """Seconds to wait before the next try after `tries` unlucky ones in a row: initial, doubled each time, capped."""
    if tries <= 0:
        return 0.0
    return min(backoff.max_s, backoff.initial_s * 2.0 ** min(tries - 1, _EXPONENT_MAX))

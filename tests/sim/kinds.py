"""The kinds of worlds that a seed makes, and those that once broke a promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.sim.campaign import storm
from tests.sim.differential import from_nothing, squashed, there_and_back
from tests.sim.world import SimWorld

KINDS: dict[str, Callable[[int, Path], SimWorld]] = {
    "storm": storm,
    "squashed": squashed,
    "there-and-back": there_and_back,
    "from-nothing": from_nothing,
}
# One world a line: its kind, its seed, and what it found.
REGRESSIONS = Path(__file__).parent / "regressions"


def regressions() -> list[tuple[str, int, str]]:
    """(kind, seed, what it found)."""
    found = []
    for line in REGRESSIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, seed, note = line.split(maxsplit=2)
            found.append((kind, int(seed), note))
    return found

"""`reconciler --help`, a fresh process each time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, Site, expect


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    site = Site(scratch)
    expect(site("--help"))
    return [Row("`reconciler --help`", [expect(site("--help")).wall_s for _ in range(4 * rounds)], target=0.15)]

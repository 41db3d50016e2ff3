"""What `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` says what to do when it is not ok."""

    where: str
    what: str
    ok: bool
    detail: str
    fix: str = ""

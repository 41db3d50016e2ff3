"""How each planted bug is known to be found: the storm or the workload that shows it, and the promise that it breaks.

`python -m tests.sim --prove` looks for all of them anew and prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Storm:
    """Within so many seeds, counted from 0. `known` is tried first."""

    known: int


@dataclass(frozen=True, slots=True)
class Script:
    """This workload; `how` and `at`: interrupted so, at this boundary or one nearby."""

    workload: str
    how: str = ""
    at: int | None = None


Proof = Storm | Script


PROOFS: dict[str, Proof] = {}

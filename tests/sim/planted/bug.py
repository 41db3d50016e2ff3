"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.planted.patch import Edit


@dataclass(frozen=True, slots=True)
class Bug:
    """`what` is wrong with the product once `edits` are made to `module`."""

    what: str
    module: str
    edits: tuple[Edit, ...]

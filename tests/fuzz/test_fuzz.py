"""A short, repeatable walk of every target. The long, coverage-guided one is `python -m tests.fuzz` (docs/testing.md)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, corpus

ROUNDS = 400
KEPT = Path(__file__).parent / "found"


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_real_is_read(name: str) -> None:
    assert corpus(name)
    for data in corpus(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_almost_real_raises_nothing_untyped(name: str) -> None:
    for number in range(ROUNDS):
        data = mutated(random.Random(f"{name} {number}"), corpus(name))
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name}, number {number}: {data[:2000]!r}") from error


@pytest.mark.parametrize("path", sorted(KEPT.glob("*/*")) or [None], ids=str)
def test_what_was_found_once_stays_mended(path: Path | None) -> None:
    if path is None:
        return  # nothing was kept so far
    TARGETS[path.parent.name](path.read_bytes())

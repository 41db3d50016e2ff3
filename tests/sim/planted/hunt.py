"""Looking for a planted bug: in storms by seed, or in one workload at its boundaries."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sim.campaign import storm
from tests.sim.interruptions import INTERRUPTIONS, run, run_interrupted
from tests.sim.lives import ALL
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.patch import planted
from tests.sim.world import SimWorld

BY_NAME = {workload.name: workload for workload in ALL}


@dataclass(frozen=True, slots=True)
class Found:
    """`tried` worlds were needed; the last of them is `where`. `by` is the promise that was broken."""

    tried: int
    where: str
    by: str


@dataclass(frozen=True, slots=True)
class Reference:
    """How a workload goes when nothing is wrong."""

    outcome: dict[str, Any]
    boundaries: tuple[str, ...]


@contextmanager
def folder() -> Iterator[Path]:
    """Memory, where the machine has some to put files into."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="sim-", dir=memory if memory.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@functools.lru_cache(maxsize=128)
def reference(workload: str) -> Reference:
    with folder() as directory:
        world = run(BY_NAME[workload], directory)
    return Reference(world.outcome(), tuple(world.boundaries))


def by_storm(bug: str, seeds: Iterable[int]) -> Found | None:
    """The first of these storms that breaks a promise."""
    tried = 0
    with planted([(BUGS[bug].module, BUGS[bug].edits)]):
        for tried, seed in enumerate(seeds, 1):
            with folder() as directory:
                try:
                    storm(seed, directory)
                except AssertionError as error:
                    return Found(tried, f"seed {seed}", promise(error))
    return None


def by_script(bug: str, workload: str, how: str = "", at: Iterable[int] | None = None) -> Found | None:
    """The workload, uninterrupted or interrupted at these boundaries (all), ends as it should, or breaks a promise."""
    right = reference(workload)
    numbers: Iterable[int | None] = [None] if not how else range(len(right.boundaries)) if at is None else at
    with planted([(BUGS[bug].module, BUGS[bug].edits)]):
        for tried, number in enumerate(numbers, 1):
            where = workload if number is None else f"{workload}, {how} at boundary {number}"
            with folder() as directory:
                try:
                    world = _play(workload, directory, how, number)
                except AssertionError as error:
                    return Found(tried, where, promise(error))
            if world.outcome() != right.outcome:
                return Found(tried, where, "the end is another one")
    return None


def _play(workload: str, directory: Path, how: str, number: int | None) -> SimWorld:
    if number is None:
        return run(BY_NAME[workload], directory)
    return run_interrupted(BY_NAME[workload], directory, INTERRUPTIONS[how], number)


def promise(error: AssertionError) -> str:
    """What was broken first, in the first line of its message: more may break while a pass is left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AssertionError):
            error = seen
        seen = seen.__cause__ or seen.__context__
    return str(error).partition("\n")[0]

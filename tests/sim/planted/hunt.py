"""Looking for a planted bug: in storms by seed, or in one workload at its boundaries."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sim.folder import folder
from tests.sim.interruptions import INTERRUPTIONS, run, run_interrupted
from tests.sim.kinds import KINDS
from tests.sim.lives import ALL
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.patch import planted
from tests.sim.planted.proofs import PROOFS, Script, Storm
from tests.sim.stale import replay, swaps
from tests.sim.sweeps import DELICATE
from tests.sim.world import SimWorld

BY_NAME = {workload.name: workload for workload in ALL}
# A bug that storms are to find is found by one of so many.
WITHIN = 60


@dataclass(frozen=True, slots=True)
class Found:
    """`tried` worlds were needed; the last is that of `seed`, or `workload`, interrupted or not. `by` is the promise it broke."""

    tried: int
    by: str
    seed: int | None = None
    workload: str = ""
    how: str = ""
    at: int | None = None
    kind: str = "storm"

    @property
    def where(self) -> str:
        if self.seed is not None:
            return f"{self.kind} {self.seed}"
        if self.how == "stale":
            return f"{self.workload}, answer {self.at} exchanged"
        return self.workload + (f", {self.how} at boundary {self.at}" if self.how else "")


@dataclass(frozen=True, slots=True)
class Reference:
    """How a workload goes when nothing is wrong."""

    outcome: dict[str, Any]
    boundaries: tuple[str, ...]


@functools.lru_cache(maxsize=128)
def reference(workload: str) -> Reference:
    """Of the product as it is: not to be asked while a bug is planted."""
    with folder() as directory:
        world = run(BY_NAME[workload], directory)
    return Reference(world.outcome(), tuple(world.boundaries))


def by_storm(bug: str, seeds: Iterable[int], kind: str = "storm") -> Found | None:
    """The first of these storms that breaks a promise."""
    with planted([(BUGS[bug].module, BUGS[bug].edits)]):
        for tried, seed in enumerate(seeds, 1):
            with folder() as directory:
                try:
                    KINDS[kind].make(seed, directory)
                except AssertionError as error:
                    return Found(tried, broken(error), seed, kind=kind)
    return None


def by_script(bug: str, workload: str, how: str = "", at: Iterable[int] | None = None) -> Found | None:
    """The workload, uninterrupted or interrupted at these boundaries (all), breaks a promise or has another end."""
    right = reference(workload)
    numbers: Iterable[int | None] = [None] if not how else range(len(right.boundaries)) if at is None else at
    with planted([(BUGS[bug].module, BUGS[bug].edits)]):
        for tried, number in enumerate(numbers, 1):
            with folder() as directory:
                try:
                    world = play(workload, directory, how, number)
                except AssertionError as error:
                    return Found(tried, broken(error), None, workload, how, number)
            if not ends_right(world, workload, how):
                return Found(tried, "the end is another one", None, workload, how, number)
    return None


def by_stale(bug: str, workload: str) -> Found | None:
    """The workload, with one answer before an end or a repeated launch that is old or lost."""
    right = reference(workload)
    with folder() as directory:
        whole = run(BY_NAME[workload], directory)
    with planted([(BUGS[bug].module, BUGS[bug].edits)]):
        for tried, swap in enumerate(swaps(whole), 1):
            with folder() as directory:
                try:
                    world = replay(BY_NAME[workload], directory, whole, swap)
                except AssertionError as error:
                    return Found(tried, broken(error), None, workload, "stale", tried - 1)
            if world.outcome() != right.outcome:
                return Found(tried, "the end is another one", None, workload, "stale", tried - 1)
    return None


def ends_right(world: SimWorld, workload: str, how: str) -> bool:
    """Like the run nobody interrupted, where that can be asked for."""
    return (bool(how) and workload in DELICATE) or world.outcome() == reference(workload).outcome


def play(workload: str, directory: Path, how: str, number: int | None) -> SimWorld:
    if number is None:
        return run(BY_NAME[workload], directory)
    if how == "stale":
        whole = run(BY_NAME[workload], directory)
        return replay(BY_NAME[workload], directory, whole, list(swaps(whole))[number])
    return run_interrupted(BY_NAME[workload], directory, INTERRUPTIONS[how], number)


def broken(error: AssertionError) -> str:
    """What was broken first, in the first line of its message: more may break while a pass is left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AssertionError):
            error = seen
        seen = seen.__cause__ or seen.__context__
    return str(error).partition("\n")[0]


def proved(bug: str) -> Found | None:
    """The bug, by the world that is known to find it; else by the first storms, or all boundaries of its workload."""
    match PROOFS[bug]:
        case Storm(known, kind):
            return by_storm(bug, [known], kind) or by_storm(bug, range(WITHIN // KINDS[kind].share), kind)
        case Script(workload, "stale"):
            return by_stale(bug, workload)
        case Script(workload, how, at):
            return by_script(bug, workload, how, at=None if at is None else [at]) or by_script(bug, workload, how)

"""Old and lost answers, at the moments where they matter most: just before a run is ended, and before one is sent again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.observation import Census
from tests.sim.interruptions import run
from tests.sim.workloads import Workload
from tests.sim.world import SimWorld

CRITICAL = frozenset({"cancel", "resubmit"})


@dataclass(frozen=True, slots=True)
class Swap:
    """At this look at `host` another answer is given: that of an earlier look, or (None) none."""

    look: int
    earlier: int | None
    host: str
    verb: str

    def __str__(self) -> str:
        what = "is lost" if self.earlier is None else f"is that of look {self.earlier}"
        return f"before a {self.verb} the answer of look {self.look}, at {self.host}, {what}"


def swaps(world: SimWorld) -> Iterator[Swap]:
    """All that could be exchanged in what this world did. An answer that tells what another tells is tried once, and one that
    tells what was true is not tried."""
    done: set[int] = set()
    for deed in world.deeds:
        look = deed.look
        if deed.verb not in CRITICAL or look is None or look in done:
            continue
        done.add(look)
        yield Swap(look, None, deed.host, deed.verb)
        told = {gist(world.censuses[look])}
        for earlier in range(look - 1, -1, -1):
            one = world.censuses[earlier]
            if one.host == deed.host and one.complete and gist(one) not in told:
                told.add(gist(one))
                yield Swap(look, earlier, deed.host, deed.verb)


def gist(census: Census) -> Hashable:
    """What a census tells a pass, without how far its runs have come."""
    return (
        census.complete,
        census.boot_id,
        census.capacity is not None,
        frozenset(
            (
                one.run_id,
                one.presence,
                one.alive,
                one.stopping,
                one.report and one.report.status,
                one.queue and one.queue.word,
            )
            for one in census.sightings.values()
        ),
    )


def lens(world: SimWorld, swap: Swap) -> Callable[[Census], Census]:
    if swap.earlier is None:
        return lambda census: Census(census.host, complete=False, error="the answer was lost")
    old = world.censuses[swap.earlier]  # the same in this world, up to here

    def stale(census: Census) -> Census:
        return replace(old, scanned=old.scanned and census.scanned, capacity=old.capacity or census.capacity)

    return stale


def replay(workload: Workload, directory: Path, whole: SimWorld, swap: Swap) -> SimWorld:
    """The workload, with this answer exchanged."""
    return run(workload, directory, lambda world: world.lenses.__setitem__(swap.look, lens(whole, swap)))

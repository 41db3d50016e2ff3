"""Many worlds at once, over processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.sim.campaign import EXPECTED
from tests.sim.folder import folder
from tests.sim.interruptions import INTERRUPTIONS, run, run_interrupted
from tests.sim.kinds import KINDS, regressions
from tests.sim.lives import ALL
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.hunt import (
    BY_NAME,
    WITHIN,
    Found,
    broken,
    by_script,
    by_stale,
    by_storm,
    proved,
    reference,
)
from tests.sim.planted.proofs import PROOFS, Storm
from tests.sim.stale import replay as replay_stale
from tests.sim.stale import swaps
from tests.sim.sweeps import PLACES
from tests.sim.world import SimWorld

# What has to come up in a whole campaign besides what the storms alone have to meet.
SELDOM = frozenset(
    {
        "Adopted",
        "CancelRequested",
        "ChangeHeld",
        "DependencyFailed",
        "DependencyMissing",
        "DependencyWaiting",
        "Edited",
        "FoundByMark",
        "Frozen",
        "HostNeverSeen",
        "LaunchUnsettled",
        "Orphaned",
        "OwnershipConflict",
        "Requested",
    }
)
# A hunt from scratch begins at seeds that lie so far apart.
APART = 10_000


@dataclass(slots=True)
class Tally:
    """What some worlds came to."""

    worlds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    virtual_s: float = 0.0
    passes: int = 0
    effects: int = 0
    met: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    found: dict[str, Found | None] = field(default_factory=dict)
    """By the world that is known for it."""
    hunted: dict[str, list[Found | None]] = field(default_factory=dict)
    """From scratch, by storms."""

    def add(self, other: Tally) -> None:
        self.worlds.update(other.worlds)
        self.failures += other.failures
        self.virtual_s += other.virtual_s
        self.passes += other.passes
        self.effects += other.effects
        self.met.update(other.met)
        self.phases.update(other.phases)
        self.found |= other.found
        for bug, found in other.hunted.items():
            self.hunted.setdefault(bug, []).extend(found)

    def count(self, kind: str, world: SimWorld) -> None:
        self.worlds[kind] += 1
        self.virtual_s += world.clock.at - world.began
        self.passes += world.passes
        self.effects += world.effects()
        self.met.update(type(line).__name__ for line in world.lines)
        self.met.update(world.reasons)
        self.phases.update(world.phases)

    def attempt(self, kind: str, what: str, make: Callable[[], SimWorld]) -> None:
        """One world; `what` replays it."""
        try:
            self.count(kind, make())
        except AssertionError as error:
            self.worlds[kind] += 1
            self.failures.append((what, broken(error)))
        except Exception as error:  # noqa: BLE001  a world that fell over is as bad as a broken promise, and told like one
            self.worlds[kind] += 1
            self.failures.append((what, f"{type(error).__name__}: {error}"))


@dataclass(slots=True)
class Result:
    """A whole campaign. `unmet` never came up, `unfound` are planted bugs that nothing found."""

    tally: Tally
    seconds: float
    jobs: int
    rounds: int
    interrupted: bool = False

    @property
    def unmet(self) -> list[str]:
        return sorted((EXPECTED | SELDOM) - self.tally.met.keys())

    @property
    def unfound(self) -> list[str]:
        return sorted(bug for bug in BUGS if not KINDS[_kind(bug)].missing and self.tally.found.get(bug) is None)

    @property
    def good(self) -> bool:
        return not (self.interrupted or self.tally.failures or self.unmet or self.unfound)


Task = tuple[str, ...]


def tasks(first: int, seeds: int, rounds: int) -> Iterator[Task]:
    """The longest first, so that no process is left with one at the end."""
    for number in range(1, rounds + 1):
        for bug, proof in PROOFS.items():
            if isinstance(proof, Storm) and not KINDS[proof.kind].missing:
                yield "hunt", bug, str(first + number * APART)
    for how, workloads in PLACES.items():
        for workload in workloads:
            yield "crash", how, workload
    for workload in ALL:
        yield "stale", workload.name
    for bug in BUGS:
        if not KINDS[_kind(bug)].missing:
            yield "proof", bug
    for name, seed, _ in regressions():
        yield "world", name, str(seed), "1"
    for name, kind in sorted(KINDS.items(), key=lambda item: -item[1].share):
        count = 0 if kind.missing else seeds // kind.share
        step = max(1, 10 // kind.share)
        for start in range(first, first + count, step):
            yield "world", name, str(start), str(min(step, first + count - start))


def work(task: Task) -> Tally:
    """In a process of its own: whatever goes wrong is told."""
    tally = Tally()
    try:
        _work(task, tally)
    except Exception as error:  # noqa: BLE001  a piece that fell over, an outdated patch among them, fails the campaign
        tally.failures.append((":".join(task), f"{type(error).__name__}: {error}"))
    return tally


def _work(task: Task, tally: Tally) -> None:
    match task:
        case ("world", kind, start, count):
            for seed in range(int(start), int(start) + int(count)):
                with folder() as directory:
                    tally.attempt(kind, f"{kind}:{seed}", lambda: KINDS[kind].make(seed, directory))  # noqa: B023
        case ("crash", how, workload):
            right = reference(workload)
            for number in range(len(right.boundaries)):
                what = f"crash:{workload}:{how}:{number}"
                with folder() as directory:
                    tally.attempt(
                        f"interrupted: {how}",
                        what,
                        lambda: _like(
                            run_interrupted(BY_NAME[workload], directory, INTERRUPTIONS[how], number),  # noqa: B023
                            workload,
                        ),
                    )
        case ("stale", workload):
            with folder() as directory:
                whole = run(BY_NAME[workload], directory)
            for number, swap in enumerate(swaps(whole)):
                kind = "an answer lost" if swap.earlier is None else "an old answer"
                with folder() as directory:
                    tally.attempt(
                        kind,
                        f"stale:{workload}:{number}",
                        lambda: _like(replay_stale(BY_NAME[workload], directory, whole, swap), workload),  # noqa: B023
                    )
        case ("proof", bug):
            tally.found[bug] = proved(bug)
        case ("hunt", bug, start):
            kind = _kind(bug)
            within = max(1, WITHIN // KINDS[kind].share)
            tally.hunted[bug] = [by_storm(bug, range(int(start), int(start) + within), kind)]
        case _:
            raise ValueError(task)


def _like(world: SimWorld, workload: str) -> SimWorld:
    assert world.outcome() == reference(workload).outcome, f"{workload} has another end: {world.outcome()}"
    return world


def campaign(first: int, seeds: int, jobs: int, rounds: int) -> Result:
    todo, total, began = list(tasks(first, seeds, rounds)), Tally(), time.monotonic()
    result = Result(total, 0.0, jobs, rounds)
    pool = multiprocessing.Pool(jobs, initializer=_alone)
    shown = began
    try:
        for number, tally in enumerate(pool.imap_unordered(work, todo), 1):
            total.add(tally)
            for what, why in tally.failures:
                print(f"{what}: {why}\n  {command(what)}", file=sys.stderr, flush=True)
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                print(f"{number} of {len(todo)} pieces, {shown - began:.0f} s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        pool.terminate()
        pool.join()
    result.seconds = time.monotonic() - began
    return result


def _alone() -> None:
    """A worker: an interrupt from the terminal is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def command(what: str) -> str:
    """What replays this world."""
    return f'python -m tests.sim --replay "{what}"'


def replay(what: str) -> list[str]:
    """One world again; AssertionError with all that happened when it breaks a promise. Returns what happened."""
    kind, _, rest = what.partition(":")
    with folder() as directory:
        if kind in KINDS:
            return KINDS[kind].make(int(rest), directory).notes
        workload, *more = rest.split(":")
        if kind == "crash":
            how, number = more
            world = run_interrupted(BY_NAME[workload], directory, INTERRUPTIONS[how], int(number))
        elif kind == "stale":
            whole = run(BY_NAME[workload], directory)
            world = replay_stale(BY_NAME[workload], directory, whole, list(swaps(whole))[int(more[0])])
        else:
            raise SystemExit(f"{what!r} is no world: {', '.join(KINDS)}, crash and stale are known")
        return _like(world, workload).notes


def _kind(bug: str) -> str:
    """Of worlds that are to find it."""
    proof = PROOFS[bug]
    return proof.kind if isinstance(proof, Storm) else "storm"


def prove() -> int:
    """A table of where each planted bug is found, from scratch, as tests/sim/planted/proofs.py keeps it."""
    missing = 0
    for bug in BUGS:
        found = by_storm(bug, range(WITHIN), _kind(bug))
        if found is None:
            found = next(filter(None, (by_script(bug, name) for name in BY_NAME)), None)
        if found is None:
            places = ((how, name) for how, names in PLACES.items() for name in names)
            found = next(filter(None, (by_script(bug, name, how) for how, name in places)), None)
        if found is None:
            found = next(filter(None, (by_stale(bug, name) for name in BY_NAME)), None)
        missing += found is None
        print(f"{bug}: " + ("NOT FOUND" if found is None else f"{found.where}: {found.by}"), flush=True)
    return 1 if missing else 0

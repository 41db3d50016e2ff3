"""Two ways to the same manifests have to end alike: at once and one after another, there and back, in any order, by one that
has lived through all of it and by one that remembers nothing."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reconciler.backends.fake import Course
from reconciler.core.run import Run
from tests.sim.workloads import build
from tests.sim.world import SimWorld, manifest

NAMES = tuple("abcde")
FIRST = "a"
LIMIT_S = 4 * 3600.0
Commit = Callable[[SimWorld], None]


def cluster(seed: int, directory: Path) -> SimWorld:
    """Room for everything; how a run goes depends on its work alone, never on which attempt it is."""

    def course(run: Run) -> Course:
        lot = random.Random(f"{seed} {run.job.name} {run.digest} {run.generation}")
        if run.job.name == FIRST:
            return Course(lot.choice([20.0, 90.0]))
        return Course(lot.choice([20.0, 90.0, 400.0, math.inf]), lot.choice([0, 0, 0, 7]), lot.choice([1.0, 40.0]))

    return build(
        directory,
        local=6,
        queue=(8, {"n1": 4, "n2": 4}),
        plain=(("ws", 6, 0),),
        courses=dict.fromkeys(NAMES, course),
        seed=seed,
    )


def edits(rng: random.Random, count: int) -> list[tuple[str, Commit]]:
    """Commits, each of one job. Others may wait for the first one, which always succeeds: that somebody began when it had, and
    it fails later, depends on the way and not on its end."""
    made = []
    waiting = rng.sample(NAMES[1:], 2)
    for number in range(count):
        name = FIRST if number == 0 else rng.choice(NAMES)
        spec: dict[str, Any] = {
            "command": ["python", "train.py", str(rng.randint(0, 3))],
            "request": rng.choice([{}, {"hosts": ["ws"]}, {"hosts": ["hpc"]}]),
            "restart": {"failure": rng.choice([0, 1]), "backoff": {"initial": "5s"}},
        }
        if name in waiting:
            spec["depends_on"] = [f"general/default/{FIRST}"]
        made.append((name, _commit(name, None if name != FIRST and rng.random() < 0.2 else spec)))
    return made


def _commit(name: str, spec: dict[str, Any] | None) -> Commit:
    def do(world: SimWorld) -> None:
        if spec is None:
            world.manifests.pop(name, None)
        else:
            world.manifests[name] = manifest(name, **spec)

    return do


def live_through(world: SimWorld, commits: Iterable[Commit], pause: Callable[[], list[float]]) -> None:
    """Each commit is followed by passes at these pauses; then everything comes to rest."""
    world.step()
    for commit in commits:
        commit(world)
        for seconds in pause():
            world.step()
            world.clock.sleep(seconds)
    world.until_rest(limit_s=LIMIT_S)


def canonical(world: SimWorld) -> dict[str, tuple[str, str]]:
    """Per job that is wanted: how it stands, and what became of the work that is wanted. Nothing else lives."""
    assert world.last is not None
    views = {view.job.name: f"{view.phase} {view.reason}" for view in world.last.plan.views}
    found = {}
    for name, wanted in sorted(world.manifests.items()):
        ends = [
            "alive" if process.alive else process.final.status.value if process.final else "lost"
            for process in world.runs(name)
            if (process.run.digest, process.run.generation) == (wanted.digest, wanted.generation)
        ]
        found[name] = (views[name], ends[-1] if ends else "never ran")
    alive = {p.run.job.name for m in world.machines.values() for p in m.living() if p not in world.foreign}
    assert alive <= found.keys(), f"nobody wants {alive - found.keys()}, and it lives"
    return found


def _ended(world: SimWorld) -> dict[str, tuple[str, str]]:
    try:
        return canonical(world)
    finally:
        world.close()


def squashed(seed: int, directory: Path) -> SimWorld:
    """One commit after another, in whatever order leaves each job's own in turn, against all of them at once."""
    rng = random.Random(seed)
    made = edits(rng, rng.randint(2, 7))
    at_once = cluster(seed, directory / "at once")
    live_through(at_once, [lambda world: [do(world) for _, do in made] and None], list)
    wanted = _ended(at_once)
    world = at_once
    for number in range(2):
        queues = {name: [do for other, do in made if other == name] for name, _ in made}
        order = [name for name, _ in made]
        rng.shuffle(order)
        world = cluster(seed, directory / f"order {number}")
        live_through(world, [queues[name].pop(0) for name in order], lambda: _pauses(rng))
        found = _ended(world)
        assert found == wanted, f"in the order {order}: {found}, at once: {wanted}"
    return world


def there_and_back(seed: int, directory: Path) -> SimWorld:
    """A, then B for a while, then A again, against A alone."""
    rng = random.Random(seed)
    first, second = edits(rng, rng.randint(2, 5)), edits(rng, rng.randint(1, 4))
    alone = cluster(seed, directory / "alone")
    live_through(alone, [do for _, do in first], list)
    wanted, kept = _ended(alone), dict(alone.manifests)
    world = cluster(seed, directory / "back")
    back: Commit = lambda world: setattr(world, "manifests", dict(kept))  # noqa: E731
    live_through(
        world, [*(do for _, do in first), *itertools.chain(do for _, do in second), back], lambda: _pauses(rng)
    )
    found = _ended(world)
    assert found == wanted, f"after the way back: {found}, without it: {wanted}"
    return world


def from_nothing(seed: int, directory: Path) -> SimWorld:
    """One that has lived through every commit, against one that begins with the last of them, on the same hosts and without a
    state: it finds what there is."""
    rng = random.Random(seed)
    made = edits(rng, rng.randint(2, 6))
    world = cluster(seed, directory)
    try:
        live_through(world, [do for _, do in made], lambda: _pauses(rng))
        wanted, started = canonical(world), len(world.started)
        world.lose_state()
        world.until_rest(limit_s=LIMIT_S)
        found = canonical(world)
        assert found == wanted, f"from nothing: {found}, with its memory: {wanted}"
        assert len(world.started) == started, "what had run was run again"
    finally:
        world.close()
    return world


def _pauses(rng: random.Random) -> list[float]:
    return [rng.choice([1.0, 5.0, 30.0]) for _ in range(rng.randint(0, 4))]

"""What may befall the reconciler at a boundary. Each makes, for a world, what its `interrupt` calls there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.sim.workloads import Workload
from tests.sim.world import Incarnation, SimWorld, play

Interruption = Callable[[SimWorld], Callable[[Incarnation], None]]


def kill(world: SimWorld) -> Callable[[Incarnation], None]:
    """Its process ends, and another one starts on the same machine."""
    return world.kill


def kill_elsewhere(world: SimWorld) -> Callable[[Incarnation], None]:
    """Another machine takes over: it cannot see that the holder is dead, and waits for the lock's term."""

    def kill_elsewhere(incarnation: Incarnation) -> None:
        world.actor = "somebody elsewhere"
        world.kill(incarnation)

    return kill_elsewhere


def lose_state(world: SimWorld) -> Callable[[Incarnation], None]:
    """Its process ends, and the state with it."""
    return world.kill_and_lose_state


def stall(world: SimWorld) -> Callable[[Incarnation], None]:
    """It stops in its tracks (a laptop's lid), a second one waits for the lock and goes on, then the first wakes up."""

    def stall(incarnation: Incarnation) -> None:
        second = world.born("the second")
        for _ in range(4):
            world.clock.sleep(30.0)
            world.one_pass(second)
        second.end()

    return stall


def glance(world: SimWorld) -> Callable[[Incarnation], None]:
    """A second one makes a pass at this very moment: where the first holds the lock, it has to leave things alone."""

    def glance(incarnation: Incarnation) -> None:
        second = world.born("the second")
        world.one_pass(second)
        second.end()

    return glance


INTERRUPTIONS: dict[str, Interruption] = {
    one.__name__.replace("_", " "): one for one in (kill, kill_elsewhere, lose_state, stall, glance)
}


def run(workload: Workload, directory: Path, prepare: Callable[[SimWorld], object] = lambda world: None) -> SimWorld:
    """The workload from its beginning to its rest. AssertionError for a broken promise, with what happened before."""
    shutil.rmtree(directory, ignore_errors=True)
    world = workload.make(directory)
    try:
        prepare(world)
        play(world, workload.steps)
    except AssertionError as error:
        raise AssertionError(f"{workload.name}: {error}\n" + "\n".join(world.notes)) from error
    finally:
        world.close()
    return world


def run_interrupted(workload: Workload, directory: Path, what: Interruption, number: int) -> SimWorld:
    """The workload, with this interruption at this boundary."""
    return run(workload, directory, lambda world: world.interrupt.__setitem__(number, what(world)))

"""More scripted lives: budgets, wishes of a person, runs that are let go of, a state that is lost on the way."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.backends.fake import Course
from reconciler.core.errors import LockHeld
from reconciler.core.memory import Requested
from tests.sim.workloads import (
    FOREVER,
    WORKLOADS,
    Workload,
    at_once,
    build,
    by_attempt,
    commit,
    completed,
    each,
    ended,
    lasting,
    preempt,
    ran,
    remove,
)
from tests.sim.world import SimWorld, Step
from tests.worlds import key

BACKOFF = {"backoff": {"initial": "5s"}}


def request(what: str, name: str) -> Callable[[SimWorld], None]:
    """A person asks, as the verbs of the command line do: one line, under the lock, by a process of his own."""

    def do(world: SimWorld) -> None:
        wanted, person = world.manifests.get(name), world.born("a person")
        about = (wanted.digest, wanted.generation) if wanted is not None else None
        batch = [(key(name), Requested(what, "by hand", about))]
        try:
            person.store.lock()
            person.store.append(batch, commit="", why=what)
            world.recorded(batch, person)
            person.store.unlock()
        except LockHeld:
            now = world.clock.now()
            world.steps.insert(0, Step(lambda world: world.clock.now() > now, do))  # he tries again
        finally:
            person.end()

    return do


def let_go(name: str) -> Callable[[SimWorld], bool]:
    """The reconciler minds it no more, and its run goes on."""

    def holds(world: SimWorld) -> bool:
        memory = world.folded.get(key(name))
        return memory is not None and memory.released

    return holds


def lose_state(world: SimWorld) -> None:
    world.kill_and_lose_state(world.now)


def reach(name: str, reachable: bool) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        world.machines[name].reachable = reachable

    return do


def attempts(name: str, count: int) -> Callable[[SimWorld], bool]:
    """So many attempts have begun, and the newest is minded."""
    return lambda world: len(world.runs(name)) >= count and world.minds(name)


def later(seconds: float) -> Callable[[SimWorld], bool]:
    """So much later than the first time that this is asked."""
    since: dict[int, float] = {}
    return lambda world: world.clock.now() - since.setdefault(id(world), world.clock.now()) >= seconds


LIVES = (
    Workload(
        "fails until its budget is spent",
        lambda directory: build(directory, courses={"a": lasting(20.0, 7)}),
        (Step(at_once, commit("a", restart={"failure": 2, **BACKOFF})),),
    ),
    Workload(
        "each cause has a budget of its own",
        lambda directory: build(
            directory, courses={"a": by_attempt(Course(), Course(), Course(20.0, 7), Course(lasts_s=40.0))}
        ),
        (
            Step(at_once, commit("a", restart={"failure": 1, "preemption": 2, **BACKOFF})),
            Step(ran("a", 20.0), preempt("a")),
            Step(lambda world: len(world.runs("a")) == 2 and world.ran("a", 20.0), preempt("a")),
        ),
    ),
    Workload(
        "let go of",
        lambda directory: build(directory, plain=(("ws", 2, 0),), courses={"a": FOREVER, "b": lasting(200.0)}),
        (
            Step(at_once, each(commit("a", deletion="orphan"), commit("b", request={"hosts": ["here"]}))),
            Step(ran("a", 20.0), remove("a")),
            Step(let_go("a"), commit("c")),
        ),
    ),
    Workload(
        "removed and committed again",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0)), "b": FOREVER}),
        (
            Step(at_once, commit("a", "b")),
            Step(ran("a", 20.0), remove("a")),
            Step(ended("a"), commit("a")),
        ),
    ),
    Workload(
        "finished, removed and committed again",
        lambda directory: build(directory, courses={"b": FOREVER}),
        (
            Step(at_once, commit("a", "b")),
            Step(completed("a"), remove("a")),
            Step(ended("a"), commit("c")),
            Step(completed("c"), commit("a")),
        ),
    ),
    Workload(
        "run again while it runs",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0))}),
        (Step(at_once, commit("a")), Step(ran("a", 20.0), commit("a", generation=2))),
    ),
    Workload(
        "an edit that the run need not notice",
        lambda directory: build(directory, courses={"a": lasting(100.0)}),
        (Step(at_once, commit("a")), Step(ran("a", 20.0), commit("a", restart={"failure": 1}))),
    ),
    Workload(
        "an edit that is held",
        lambda directory: build(directory, courses={"a": lasting(100.0)}),
        (
            Step(at_once, commit("a", on_change="hold")),
            Step(ran("a", 20.0), commit("a", on_change="hold", command=["false"])),
        ),
    ),
    Workload(
        "cancelled by request and resumed",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0))}),
        (
            Step(at_once, commit("a")),
            Step(ran("a", 20.0), request("cancel", "a")),
            Step(ended("a"), request("resume", "a")),
        ),
    ),
    Workload(
        "the manifest is broken while it runs",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0)), "b": lasting(60.0)}),
        (
            Step(at_once, commit("a", "b")),
            Step(ran("a", 20.0), lambda world: world.broken.add("a")),
            Step(completed("b"), each(lambda world: world.broken.clear(), commit("a", command=["false"]))),
        ),
    ),
    Workload(
        "the manifests cannot all be read",
        lambda directory: build(directory, courses={"a": lasting(300.0), "b": lasting(60.0)}),
        (
            Step(at_once, commit("a", "b")),
            Step(ran("a", 20.0), each(lambda world: setattr(world, "complete", False), remove("a"))),
            Step(completed("b"), each(commit("a"), lambda world: setattr(world, "complete", True))),
        ),
    ),
    Workload(
        "the state is lost while a host is away",
        lambda directory: build(
            directory, local=None, plain=(("gpu1", 2, 0), ("gpu2", 2, 0)), courses={"a": lasting(4000.0)}
        ),
        (
            Step(at_once, commit("a")),
            Step(ran("a", 20.0), each(reach("gpu1", False), lose_state)),
            Step(later(300.0), reach("gpu1", True)),
        ),
    ),
    Workload(
        "the state is lost after all was done",
        lambda directory: build(directory),
        (Step(at_once, commit("a")), Step(completed("a"), lose_state), Step(at_once, commit("b"))),
    ),
    Workload(
        "the state is lost between two failures",
        lambda directory: build(directory, courses={"a": lasting(60.0, 7)}),
        (
            Step(at_once, commit("a", restart={"failure": 2, **BACKOFF})),
            Step(attempts("a", 2), lose_state),
        ),
    ),
)

ALL = (*WORKLOADS, *LIVES)

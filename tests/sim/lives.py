"""More scripted lives: budgets, wishes of a person, runs that are let go of, a state that is lost on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reconciler.backends.fake import Course, FakeMachine, Fault
from reconciler.core.errors import LockHeld
from reconciler.core.memory import Forgotten, Line, Requested
from reconciler.core.protocols import Submission
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


def by_hand(name: str, line_of: Callable[[SimWorld], Line]) -> Callable[[SimWorld], None]:
    """A person writes a line, as the verbs of the command line do: under the lock, in a process of his own."""

    def do(world: SimWorld) -> None:
        person = world.born("a person")
        batch = [(key(name), line_of(world))]
        try:
            person.store.lock()
            person.store.append(batch, commit="", why="by hand")
            world.recorded(batch, person)
            person.store.unlock()
        except LockHeld:
            now = world.clock.now()
            world.steps.insert(0, Step(lambda world: world.clock.now() > now, do))  # he tries again
        finally:
            person.end()

    return do


def request(what: str, name: str) -> Callable[[SimWorld], None]:
    def line(world: SimWorld) -> Line:
        wanted = world.manifests.get(name)
        return Requested(what, "by hand", (wanted.digest, wanted.generation) if wanted is not None else None)

    return by_hand(name, line)


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
        lambda directory: build(
            directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0)), "b": lasting(60.0)}
        ),
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
        build,
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


def cut(verb: str, *faults: Fault, late_s: float = 20.0) -> Callable[[SimWorld], None]:
    """The next calls of this verb, to whatever host, go wrong in these ways."""

    def do(world: SimWorld) -> None:
        waiting = list(faults)

        def disturb(called: str, machine: FakeMachine) -> Fault | None:
            machine.late_s = late_s
            return waiting.pop(0) if called == verb and waiting else None

        for machine in world.machines.values():
            machine.disturb = disturb

    return do


def sent(count: int) -> Callable[[SimWorld], bool]:
    """So many launches are on their way, or arrived."""
    return lambda world: sum(deed.verb in ("submit", "resubmit") for deed in world.deeds) >= count


def two_machines(directory: Path) -> SimWorld:
    return build(directory, local=None, plain=(("h1", 2, 0), ("h2", 2, 0)), courses={"a": FOREVER})


def two_machines_and_a_stranger(directory: Path) -> SimWorld:
    world = two_machines(directory)
    world.punctual = False
    return world


def inventory(*names: str) -> Callable[[SimWorld], None]:
    """The inventory has these hosts from now on; who reads it is a new process."""

    def do(world: SimWorld) -> None:
        world.hosts = tuple(view for view in world.every_host if view.name in names)
        world.kill(world.now)

    return do


def save_state(world: SimWorld) -> None:
    world.saved = (world.now.store._db.serialize(), dict(world.folded))


def restore_state(world: SimWorld) -> None:
    assert world.saved is not None
    body, folded = world.saved
    try:
        world.kill_and_lose_state(world.now)
    finally:
        world.path.write_bytes(body)
        world.folded.update(folded)


def taken_by_another(world: SimWorld) -> None:
    """Somebody claims the run's directory before us."""
    memory = world.folded[key("a")]
    assert memory.run is not None
    run = replace(memory.run, token="theirs", owner="somebody else")
    machine = world.machines[run.host]
    if run.run_id not in machine.processes:
        machine.claim(Submission(run, {}, {}))
        process = machine.processes[run.run_id]
        process.course, process.ends_at = Course(), math.inf
        world.foreign.append(process)


def forget(name: str) -> Callable[[SimWorld], None]:
    """A person lets go of a job by hand."""
    return by_hand(name, lambda world: Forgotten("by hand", released=True))


RARE = (
    Workload(
        "a launch arrives late",
        two_machines,
        (
            Step(at_once, each(cut("submit", Fault.LATE, late_s=70.0), commit("a", request={"hosts": ["h1"]}))),
            Step(sent(1), commit("a", request={"hosts": ["h2"]})),
        ),
    ),
    Workload(
        "a launch arrives later",
        two_machines,
        (
            Step(at_once, each(cut("submit", Fault.LATE, late_s=110.0), commit("a", request={"hosts": ["h1"]}))),
            Step(sent(1), commit("a", request={"hosts": ["h2"]})),
        ),
    ),
    Workload(
        "a launch arrives late, and was sent again in vain",
        two_machines,
        (
            Step(
                at_once,
                each(
                    cut("submit", Fault.LATE, Fault.BEFORE, late_s=110.0),
                    commit("a", request={"hosts": ["h1"]}, restart=BACKOFF),
                ),
            ),
            Step(sent(2), commit("a", request={"hosts": ["h2"]}, restart=BACKOFF)),
        ),
    ),
    Workload(
        "a launch arrives after it was given up",
        two_machines_and_a_stranger,
        (
            Step(at_once, each(cut("submit", Fault.LATE, late_s=200.0), commit("a", request={"hosts": ["h1"]}))),
            Step(sent(1), commit("a", request={"hosts": ["h2"]})),
            Step(later(300.0), commit("b")),  # somebody has to look there
        ),
    ),
    Workload(
        "a host leaves the inventory for a while",
        lambda directory: build(directory, plain=(("ws", 2, 0),), courses={"a": lasting(600.0)}),
        (
            Step(at_once, commit("a", request={"hosts": ["ws"]})),
            Step(ran("a", 20.0), inventory("here")),
            Step(later(60.0), inventory("here", "ws")),
        ),
    ),
    Workload(
        "an old state is restored",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0))}),
        (
            Step(at_once, commit("a", restart=BACKOFF)),
            Step(ran("a", 20.0), each(save_state, preempt("a"))),
            Step(completed("a"), restore_state),
        ),
    ),
    Workload(
        "its manifest is broken while its run is ended",
        lambda directory: build(
            directory, courses={"a": by_attempt(Course(stuck=True, stops_s=math.inf), Course(lasts_s=40.0))}
        ),
        (
            Step(at_once, commit("a")),
            Step(ran("a", 20.0), commit("a", command=["false"])),
            Step(lambda world: bool(world.stopping), lambda world: world.broken.add("a")),
            Step(later(300.0), lambda world: world.broken.clear()),
        ),
    ),
    Workload(
        "removed, and wanted again before it has ended",
        lambda directory: build(
            directory, courses={"a": by_attempt(Course(stops_s=20.0), Course(lasts_s=40.0)), "b": FOREVER}
        ),
        (
            Step(at_once, commit("a", "b")),
            Step(ran("a", 20.0), remove("a")),
            Step(lambda world: bool(world.stopping), commit("a")),
        ),
    ),
    Workload(
        "a dependency is to run again",
        lambda directory: build(directory, courses={"a": by_attempt(Course(lasts_s=20.0), Course(lasts_s=200.0))}),
        (
            Step(at_once, commit("a")),
            Step(completed("a"), each(commit("a", generation=2), commit("b", depends_on=["general/default/a"]))),
        ),
    ),
    Workload(
        "its run id is taken",
        two_machines,
        (
            Step(at_once, each(cut("submit", Fault.LOST), commit("a", request={"hosts": ["h1"]}))),
            Step(sent(1), taken_by_another),
            Step(later(60.0), each(remove("a"), forget("a"))),
            Step(at_once, commit("b")),
        ),
    ),
    Workload(
        "it has finished before its end is asked for",
        build,
        (
            Step(at_once, commit("a")),
            Step(ran("a", 40.0), each(cut("cancel", Fault.LOST), commit("a", suspend=True))),
        ),
    ),
    Workload(
        "an accelerator is kept for a launch on its way",
        lambda directory: build(directory, local=None, plain=(("gpu1", 4, 2),)),
        (
            Step(
                at_once,
                each(cut("submit", Fault.LATE, late_s=70.0), commit("a", request={"chip": "h100", "min_chips": 1})),
            ),
            Step(sent(1), commit("b", request={"chip": "h100", "min_chips": 1})),
        ),
    ),
)

ALL = (*WORKLOADS, *LIVES, *RARE)

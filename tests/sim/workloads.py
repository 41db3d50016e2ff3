"""Scripted lives of jobs: what the crash tests interrupt everywhere. Steps wait for what is true of the world itself, not for
what the reconciler believes, and so mean the same in an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.backends.fake import Course, FakeMachine
from reconciler.backends.fake_queue import FakeCluster
from reconciler.core.observation import ReportStatus
from reconciler.core.run import Run
from tests.sim.world import SimWorld, Site, Step, VirtualClock, claim_foreign, manifest
from tests.worlds import gpus, key

CourseOf = Callable[[Run], Course]


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    make: Callable[[Path], SimWorld]
    steps: tuple[Step, ...]


def build(
    directory: Path,
    *,
    local: int | None = 4,
    plain: tuple[tuple[str, int, int], ...] = (),
    queue: tuple[int, Mapping[str, int]] | None = None,
    waits: Callable[[Run, str], float] = lambda run, ident: 10.0,
    courses: Mapping[str, CourseOf] | None = None,
    seed: int = 0,
    wire: bool = False,
    sites: Callable[[VirtualClock, CourseOf], Iterable[Site]] = lambda clock, course: (),
    began: float = 1_000_000.0,
) -> SimWorld:
    """`local`: CPU slots of this machine, None without it; `plain`: (name, slots, accelerators); `queue`: CPU jobs at once and
    accelerators per machine behind `hpc`."""
    clock = VirtualClock(began)
    courses = courses or {}

    def course(run: Run) -> Course:
        made = courses.get(run.job.name)
        return made(run) if made else Course(lasts_s=60.0)

    machines = [] if local is None else [FakeMachine("here", clock.now, cpus=local, course=course)]
    if queue is not None:
        slots, behind = queue
        machines.append(FakeCluster("hpc", clock.now, slots, course=course, machines=dict(behind), waits=waits))
    for name, slots, count in plain:
        machines.append(FakeMachine(name, clock.now, cpus=slots, gpus=gpus(count) if count else None, course=course))
    world = SimWorld(
        directory, machines, clock, seed=seed, kinds={"here": "local"}, wire=wire, sites=sites(clock, course)
    )
    for machine in machines:
        if machine is machines[-1] or isinstance(machine, FakeCluster):
            claim_foreign(world, machine, "theirs")
    return world


def lasting(seconds: float, exit_code: int = 0, stops_s: float = 1.0) -> CourseOf:
    return lambda run: Course(seconds, exit_code, stops_s)


def commit(*names: str, **spec: object) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        for name in names:
            world.manifests[name] = manifest(name, **spec)

    return do


def remove(*names: str) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        for name in names:
            del world.manifests[name]

    return do


def preempt(name: str) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        process = world.live(name)
        assert process is not None
        world.machine_of(process).preempt(process.run.run_id)

    return do


def behind_the_queue(what: Callable[[FakeCluster, str], None], name: str) -> Callable[[SimWorld], None]:
    """Something happens to the job's newest run there."""

    def do(world: SimWorld) -> None:
        machine = world.machines["hpc"]
        assert isinstance(machine, FakeCluster)
        runs = [process.run for process in machine.processes.values() if process.run.job == key(name)]
        what(machine, max(runs, key=lambda run: run.attempt).run_id)

    return do


def waiting(name: str) -> Callable[[SimWorld], bool]:
    return lambda world: world.waits(name)


def each(*deeds: Callable[[SimWorld], None]) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        for deed in deeds:
            deed(world)

    return do


def at_once(world: SimWorld) -> bool:
    return True


def ran(name: str, seconds: float) -> Callable[[SimWorld], bool]:
    return lambda world: world.ran(name, seconds)


def completed(name: str) -> Callable[[SimWorld], bool]:
    def holds(world: SimWorld) -> bool:
        wanted = world.manifests[name]
        return any(
            process.final is not None
            and process.final.status is ReportStatus.COMPLETED
            and (process.run.digest, process.run.generation) == (wanted.digest, wanted.generation)
            for process in world.runs(name)
        )

    return holds


def ended(name: str, *, for_s: float = 0.0) -> Callable[[SimWorld], bool]:
    """No run of the job lives, and the reconciler has understood so."""

    def holds(world: SimWorld) -> bool:
        memory = world.folded.get(key(name))
        return world.live(name) is None and (memory is None or memory.run is None)

    return holds


def away(name: str, gone: bool) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        world.machines[name].reachable = not gone
        world.pace_s = 60.0 if gone else 5.0
        world.clock.sleep(3600.0 if gone else 0.0)

    return do


def reboot(name: str) -> Callable[[SimWorld], None]:
    return lambda world: world.machines[name].reboot()


def by_attempt(*courses: Course) -> CourseOf:
    return lambda run: courses[min(run.attempt, len(courses)) - 1]


FOREVER = lasting(math.inf)
SHORT_BACKOFF = {"restart": {"backoff": {"initial": "5s"}}}
BY_SLURM = {"restart": {"owner": "slurm", "backoff": {"initial": "5s"}}}


def first_waits_long(run: Run, ident: str) -> float:
    return math.inf if run.attempt == 1 else 10.0


WORKLOADS = (
    Workload("launch and finish", build, (Step(at_once, commit("a", "b")),)),
    Workload(
        "preempt and requeue",
        lambda directory: build(directory, courses={"a": lasting(300.0)}),
        (Step(at_once, commit("a", **SHORT_BACKOFF)), Step(ran("a", 30.0), preempt("a"))),
    ),
    Workload(
        "edit and replace",
        lambda directory: build(
            directory, plain=(("ws", 2, 0),), courses={"a": by_attempt(Course(), Course(lasts_s=40.0))}
        ),
        (Step(at_once, commit("a")), Step(ran("a", 20.0), commit("a", command=["false"]))),
    ),
    Workload(
        "delete",
        lambda directory: build(directory, local=8, courses=dict.fromkeys("abcde", FOREVER)),
        (Step(at_once, commit(*"abcde")), Step(ran("e", 10.0), remove("a"))),
    ),
    Workload(
        "delete everything",
        lambda directory: build(directory, courses={"a": lasting(math.inf, stops_s=math.inf)}),
        (Step(at_once, commit("a")), Step(ran("a", 10.0), remove("a"))),
    ),
    Workload(
        "suspend and resume",
        lambda directory: build(directory, courses={"a": by_attempt(Course(), Course(lasts_s=40.0))}),
        (
            Step(at_once, commit("a")),
            Step(ran("a", 20.0), commit("a", suspend=True)),
            Step(ended("a"), commit("a")),
        ),
    ),
    Workload(
        "dependency chain",
        lambda directory: build(directory, local=1, plain=(("ws", 1, 0),)),
        (
            Step(
                at_once,
                each(
                    commit("a"),
                    commit("b", depends_on=["general/default/a"]),
                    commit("c", depends_on=["general/default/b"]),
                ),
            ),
        ),
    ),
    Workload(
        "many jobs over two hosts with accelerators",
        lambda directory: build(directory, local=None, plain=(("gpu1", 2, 4), ("gpu2", 2, 2))),
        (
            Step(
                at_once,
                each(
                    commit(*(f"one{n}" for n in range(5)), request={"chip": "h100", "min_chips": 1}),
                    commit("two", request={"chip": "h100", "min_chips": 2}, priority=3),
                    commit("four", request={"chip": "h100", "min_chips": 4}, priority=5),
                    commit(*(f"cpu{n}" for n in range(5))),
                ),
            ),
        ),
    ),
    Workload(
        "host restarts",
        lambda directory: build(
            directory, local=None, plain=(("ws", 4, 0),), courses={"a": lasting(300.0), "b": lasting(300.0)}
        ),
        (Step(at_once, commit("a", "b", **SHORT_BACKOFF)), Step(ran("a", 30.0), reboot("ws"))),
    ),
    Workload(
        "host away for an hour",
        lambda directory: build(directory, local=1, plain=(("ws", 4, 0),), courses={"b": lasting(3700.0)}),
        (
            Step(at_once, commit("a", "b", request={"hosts": ["ws"]})),
            Step(ran("b", 10.0), away("ws", True)),
            Step(at_once, commit("c")),
            Step(completed("c"), away("ws", False)),
        ),
    ),
    Workload(
        "fail, fail, succeed, run again",
        lambda directory: build(
            directory, courses={"a": by_attempt(Course(20.0, 7), Course(20.0, 7), Course(20.0), Course(20.0))}
        ),
        (Step(at_once, commit("a", **SHORT_BACKOFF)), Step(completed("a"), commit("a", generation=2, **SHORT_BACKOFF))),
    ),
    Workload(
        "behind a queue, preempted and requeued",
        lambda directory: build(directory, local=None, queue=(2, {"n1": 2, "n2": 2}), courses={"a": lasting(300.0)}),
        (
            Step(
                at_once,
                each(
                    commit("a", request={"chip": "h100", "min_chips": 2}, **SHORT_BACKOFF),
                    commit("b", "c", request={"chip": "h100", "min_chips": 4}),
                    commit("d", "e"),
                ),
            ),
            Step(ran("a", 30.0), preempt("a")),
        ),
    ),
    Workload(
        "replaced while it waits",
        lambda directory: build(
            directory, local=None, queue=(2, {"n1": 2}), waits=first_waits_long, plain=(("ws", 0, 0),)
        ),
        (Step(at_once, commit("a")), Step(waiting("a"), commit("a", command=["false"]))),
    ),
    Workload(
        "removed while it waits",
        lambda directory: build(
            directory, local=2, queue=(2, {"n1": 2}), waits=first_waits_long, courses={"b": FOREVER}
        ),
        (
            Step(at_once, each(commit("a", request={"hosts": ["hpc"]}), commit("b", request={"hosts": ["here"]}))),
            Step(waiting("a"), remove("a")),
        ),
    ),
    Workload(
        "cancelled by somebody while it waits",
        lambda directory: build(directory, local=None, queue=(2, {"n1": 2}), waits=first_waits_long),
        (Step(at_once, commit("a")), Step(waiting("a"), behind_the_queue(FakeCluster.scancel, "a"))),
    ),
    Workload(
        "forgotten by the scheduler while it runs",
        lambda directory: build(
            directory, local=1, queue=(2, {"n1": 2}), courses={"a": lasting(300.0), "b": lasting(300.0)}
        ),
        (
            Step(at_once, commit("a", "b", request={"clusters": ["hpc"], "min_chips": 1}, **SHORT_BACKOFF)),
            Step(ran("a", 30.0), behind_the_queue(FakeCluster.forget, "a")),
            Step(ran("b", 40.0), behind_the_queue(FakeCluster.lose, "b")),
        ),
    ),
    Workload(
        "in the queue twice",
        lambda directory: build(
            directory,
            local=None,
            queue=(2, {"n1": 2}),
            waits=lambda run, ident: 200.0 if int(ident) % 2 else 100.0,
            courses={"a": FOREVER},
        ),
        (Step(at_once, commit("a")), Step(waiting("a"), behind_the_queue(FakeCluster.submit_twice, "a"))),
    ),
    Workload(
        "started anew by the scheduler",
        lambda directory: build(directory, local=None, queue=(2, {"n1": 2}), courses={"a": lasting(300.0)}),
        (Step(at_once, commit("a", **BY_SLURM)), Step(ran("a", 30.0), preempt("a"))),
    ),
)

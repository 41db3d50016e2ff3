"""A random life of a small cluster: users edit, machines fail, calls are cut, the reconciler is killed; all from one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.backends.fake import Course
from reconciler.backends.fake_queue import FakeCluster
from reconciler.core.observation import ReportStatus
from reconciler.core.run import Run
from tests.sim.wire import History, LoginEndpoint
from tests.sim.workloads import CourseOf, build
from tests.sim.world import SimWorld, Site, VirtualClock, calm, faults, manifest

Deed = Callable[[SimWorld, random.Random, str], None]
NAMES = tuple("abcdef")
STORM_S = 1800.0
CALM_S = 4 * 3600.0
# What a campaign has to meet to be worth anything. (Adoptions come with a lost state: test_crash.)
EXPECTED = frozenset(
    {
        "Ended",
        "Forgotten",
        "Launched",
        "Launching",
        "Refused",
        "Stopped",
        "Stopping",
        "Unsettled",
        "AttemptEnded",
        "BackingOff",
        "Cancelled",
        "HostCoolingDown",
        "HostUnknown",
        "LaunchUnsettled",
        "ManifestRemoved",
        "Priority",
        "SourceIncomplete",
        "SpecChanged",
        "StopAgain",
        "StopUnsettled",
        "StrayAttempt",
        "Suspended",
        "Unplaceable",
    }
)
COMMANDS = (["true"], ["python", "train.py"], ["python", "train.py", "--lr", "1"])


@dataclass(frozen=True, slots=True)
class Climate:
    """A kind of world. `wire`: with the real adapters in front of the machines. `sites`: a host whose machines come and go, if
    any; `deeds` and `requests`: what happens there, and how jobs ask for it."""

    name: str
    wire: bool = False
    sites: Callable[[VirtualClock, CourseOf, random.Random], Iterable[Site]] = lambda clock, course, rng: ()
    deeds: tuple[Deed, ...] = ()
    requests: tuple[Mapping[str, object], ...] = ()
    began: float = 1_000_000.0
    waits_s: tuple[float, ...] = (0.0, 10.0, 60.0, 300.0)


def storm(seed: int, directory: Path, climate: Climate | None = None) -> SimWorld:
    """Half an hour of everything, then calm until nothing changes any more. Raises AssertionError for a broken promise."""
    climate = climate or MEMORY
    rng = random.Random(seed)

    def course(run: Run) -> Course:
        lot = random.Random(f"{seed} {run.run_id}")
        return Course(
            lot.choice([20.0, 60.0, 200.0, 900.0]),
            lot.choice([0, 0, 0, 0, 7]),
            lot.choice([1.0, 5.0, math.inf]),
            stuck=lot.random() < 0.3,
        )

    world = build(
        directory,
        local=rng.choice([None, 2]),
        queue=rng.choice([None, (rng.randint(2, 3), {"n1": 2, "n2": 2})]),
        waits=lambda run, ident: random.Random(f"{seed} {ident}").choice(climate.waits_s),
        plain=(("gpu1", rng.randint(1, 3), 4), ("gpu2", rng.randint(1, 3), rng.choice([0, 2]))),
        courses=dict.fromkeys(NAMES, course),
        seed=seed,
        wire=climate.wire,
        sites=lambda clock, chosen: climate.sites(clock, chosen, random.Random(f"{seed} sites")),
        began=climate.began,
    )
    world.trusting = seed % 2 == 0  # else the storm is mostly spent waiting for hosts to cool down
    world.now.allow(None)
    world.requests = climate.requests
    for endpoint in world.endpoints.values():
        if isinstance(endpoint, LoginEndpoint):
            endpoint.lag_s = rng.choice([0.0, 0.0, 20.0, 200.0])
            endpoint.history = rng.choice([History.KEPT, History.KEPT, History.SILENT, History.NONE])
    world.takeover_s = rng.choice([0.0, 5.0, 70.0])
    if rng.random() < 0.3:
        world.others = [world.now, world.born("the second")]
    if rng.random() < 0.8:
        world.step()  # every host was seen once, else nothing starts
    faults(world, rng.choice([0.0, 0.1, 0.3]))
    offered = (*DEEDS, *climate.deeds)
    deeds = rng.sample(offered, rng.randint(4, len(offered)))  # a subset per world: rare meetings become likely in some
    for name in rng.sample(NAMES, rng.randint(1, len(NAMES))):
        edit(world, rng, name)
    try:
        end = world.clock.now() + STORM_S
        while world.clock.now() < end:
            if rng.random() < 0.25:
                deed = rng.choice(deeds)
                name = rng.choice(NAMES)
                world.notes.append(f"{world.clock.at - world.began:.0f} s: {deed.__name__} {name}")
                deed(world, rng, name)
            world.step()
            world.clock.sleep(rng.choice([1.0, 5.0, 20.0]))
        calm(world)
        for login in logins(world):
            login.history = History.KEPT
        world.interrupt.clear()
        world.others.clear()
        for name, item in list(world.manifests.items()):
            if item.suspend:
                world.manifests[name] = manifest(name)
        world.until_rest(limit_s=CALM_S)
        settled(world)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *world.notes[-40:]])) from error
    finally:
        world.close()
    return world


def settled(world: SimWorld) -> None:
    """In a calm world every job has come to its end, and nothing unwanted lives."""
    assert world.last is not None
    for view in world.last.plan.views:
        settled_in = (
            ("Succeeded", "Failed") if view.job.name not in world.scancelled else ("Succeeded", "Failed", "Cancelled")
        )
        assert view.phase in settled_in or view.reason in ("DependencyFailed", "DependencyMissing"), view
        wanted = world.manifests[view.job.name]
        ends = [
            process.final.status
            for process in world.runs(view.job.name)
            if process.final is not None
            and (process.run.digest, process.run.generation) == (wanted.digest, wanted.generation)
        ]
        assert view.phase != "Succeeded" or ReportStatus.COMPLETED in ends, (
            f"{view.job} succeeded, and its work was not done"
        )
        # A rented machine takes its records with it, also that of a success which nobody has read yet.
        rented = any(process.run.host in world.sites and process.final for process in world.runs(view.job.name))
        assert view.phase != "Failed" or rented or ends[-1:] != [ReportStatus.COMPLETED], (
            f"{view.job} failed, and its work was done"
        )
    living = [p.run.run_id for m in world.everywhere() for p in m.living() if p not in world.foreign]
    for cluster in clusters(world):
        theirs = {process.run.run_id for process in world.foreign}
        living += [
            f"job {job.ident} of {job.run_id}" for job in cluster.jobs if not job.over and job.run_id not in theirs
        ]
    assert not living, f"still alive: {living}"


def edit(world: SimWorld, rng: random.Random, name: str) -> None:
    request = rng.choice(
        [
            {},
            {},
            {"chip": "h100", "min_chips": 1},
            {"min_chips": 2},
            {"hosts": ["gpu1"]},
            *([{"hosts": ["hpc"]}, {"hosts": ["hpc"], "min_chips": 3}] * bool(clusters(world))),
            *world.requests,
        ]
    )
    spec: dict[str, object] = {"command": rng.choice(COMMANDS), "request": request}
    if rng.random() < 0.2 and name != "a":
        spec["depends_on"] = ["general/default/a"]
    if rng.random() < 0.2:
        spec["priority"] = rng.randint(0, 3)
    spec["restart"] = {
        "failure": rng.choice([0, 3]),
        "infrastructure": "unlimited",
        "cancelled": rng.choice([0, 0, 2]),
        "owner": rng.choice(["reconciler", "reconciler", "slurm"]),
        "backoff": {"initial": "5s"},
    }
    world.manifests[name] = manifest(name, **spec)


def again(world: SimWorld, rng: random.Random, name: str) -> None:
    if name in world.manifests:
        item = world.manifests[name]
        spec = dict(item.normal["spec"]["request"])  # type: ignore[index, arg-type, call-overload]
        kept = spec if spec["hosts"] in (["pod"], ["k8s"]) else {"hosts": spec["hosts"]}
        kept = {key: value for key, value in kept.items() if value is not None}
        world.manifests[name] = manifest(name, generation=item.generation + 1, request=kept)


def remove(world: SimWorld, rng: random.Random, name: str) -> None:
    world.manifests.pop(name, None)


def suspend(world: SimWorld, rng: random.Random, name: str) -> None:
    if name in world.manifests:
        world.manifests[name] = manifest(name, suspend=True)


def break_manifest(world: SimWorld, rng: random.Random, name: str) -> None:
    world.broken ^= {name}


def break_source(world: SimWorld, rng: random.Random, name: str) -> None:
    world.complete = not world.complete


def preempt(world: SimWorld, rng: random.Random, name: str) -> None:
    process = world.live(name)
    if process is not None and process.started_at is not None:
        world.machine_of(process).preempt(process.run.run_id)


def clusters(world: SimWorld) -> list[FakeCluster]:
    return [machine for machine in world.machines.values() if isinstance(machine, FakeCluster)]


def queued(world: SimWorld, name: str) -> tuple[FakeCluster, str] | None:
    """A run of the job that waits or runs behind a queue."""
    for cluster in clusters(world):
        for process in cluster.living():
            if process.run.job.name == name and process not in world.foreign:
                return cluster, process.run.run_id
    return None


def scancel(world: SimWorld, rng: random.Random, name: str) -> None:
    found = queued(world, name)
    if found is not None:
        found[0].scancel(found[1])
        world.scancelled.add(name)


def fail_node(world: SimWorld, rng: random.Random, name: str) -> None:
    found = queued(world, name)
    if found is not None:
        found[0].fail_node(found[1])


def submit_twice(world: SimWorld, rng: random.Random, name: str) -> None:
    found = queued(world, name)
    if found is not None:
        found[0].submit_twice(found[1])


def forget(world: SimWorld, rng: random.Random, name: str) -> None:
    found = queued(world, name)
    if found is not None:
        rng.choice([found[0].lose, found[0].forget])(found[1])


def lose(world: SimWorld, rng: random.Random, name: str) -> None:
    process = world.live(name)
    if process is not None:
        world.machine_of(process).lose(process.run.run_id)


def reboot(world: SimWorld, rng: random.Random, name: str) -> None:
    rng.choice(list(world.machines.values())).reboot()


def cut_off(world: SimWorld, rng: random.Random, name: str) -> None:
    machine = rng.choice(list(world.machines.values()))
    machine.reachable = not machine.reachable


def garble(world: SimWorld, rng: random.Random, name: str) -> None:
    process = world.live(name)
    if process is not None:
        machine = world.machine_of(process)
        machine.unreadable ^= {process.run.run_id}


def kill_soon(world: SimWorld, rng: random.Random, name: str) -> None:
    world.interrupt[len(world.boundaries) + rng.randint(0, 6)] = world.kill


def stall_soon(world: SimWorld, rng: random.Random, name: str) -> None:
    def stall(incarnation: object) -> None:
        second = world.born("the third")
        for _ in range(4):
            world.clock.sleep(30.0)
            world.guarded(second)
        if not second.dead:
            second.end()

    world.interrupt[len(world.boundaries) + rng.randint(0, 6)] = stall


def logins(world: SimWorld) -> list[LoginEndpoint]:
    return [endpoint for endpoint in world.endpoints.values() if isinstance(endpoint, LoginEndpoint)]


def silence_history(world: SimWorld, rng: random.Random, name: str) -> None:
    """Slurm's accounting does not answer, or answers again."""
    for login in logins(world):
        login.history = rng.choice([History.KEPT, History.SILENT, History.NONE])


def forget_bundle(world: SimWorld, rng: random.Random, name: str) -> None:
    """Somebody has cleaned up: the runtime is gone from a host."""
    for endpoint in world.endpoints.values():
        endpoint.installed = False


def clock_jump(world: SimWorld, rng: random.Random, name: str) -> None:
    """The machine's clock is set, forward or back."""
    world.clock.at += rng.choice([-1800.0, -300.0, -20.0, 600.0, 7200.0])


def lid(world: SimWorld, rng: random.Random, name: str) -> None:
    """Nobody looks for longer than a scheduler remembers."""
    world.clock.sleep(rng.choice([200.0, 400.0, 1000.0]))


DEEDS: tuple[Deed, ...] = (
    edit,
    edit,
    again,
    remove,
    suspend,
    break_manifest,
    break_source,
    preempt,
    lose,
    reboot,
    cut_off,
    garble,
    kill_soon,
    kill_soon,
    stall_soon,
    scancel,
    fail_node,
    submit_twice,
    submit_twice,
    forget,
)
WIRE_DEEDS: tuple[Deed, ...] = (silence_history, silence_history, forget_bundle, lid, forget)
MEMORY = Climate("memory")
WIRE = Climate("wire", wire=True, deeds=WIRE_DEEDS, waits_s=(0.0, 10.0, 300.0, 900.0))
CLOCK = Climate("clock", deeds=(clock_jump, clock_jump, clock_jump))

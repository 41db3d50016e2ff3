"""Scripted lives of jobs on hosts that the real adapters drive: Slurm's login node, TPU VMs, gangs on Kubernetes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

from reconciler.backends.fake import Course
from tests.emulators.tpu.clock import START
from tests.sim.cloud import NAME as POD
from tests.sim.cloud import Cloud, clouds
from tests.sim.gangs import BEGAN, Gangs, sites_of
from tests.sim.gangs import NAME as K8S
from tests.sim.workloads import (
    FOREVER,
    SHORT_BACKOFF,
    CourseOf,
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
from tests.sim.world import SimWorld, Step, VirtualClock

VM = {"request": {"hosts": [POD], "chip": "tpu-v4", "min_chips": 4}}
GANG = {"request": {"hosts": [K8S], "chip": "h100", "min_chips": 8}}
_NUMBERS = itertools.count()


def on_vms(
    courses: dict[str, CourseOf] | None = None, *, kind: str = "v4-8", most: int = 2
) -> Callable[[Path], SimWorld]:
    def make(directory: Path) -> SimWorld:
        def sites(clock: VirtualClock, course: CourseOf) -> list[Cloud]:
            return [Cloud(clock.now, random.Random(1), course, machines_max=most, kind=kind)]

        return build(directory, local=2, courses=courses, wire=True, sites=sites, began=START)

    return make


def on_gangs(courses: dict[str, CourseOf] | None = None) -> Callable[[Path], SimWorld]:
    def make(directory: Path) -> SimWorld:
        def sites(clock: VirtualClock, course: CourseOf) -> list[Gangs]:
            folder = directory / f"kube-{next(_NUMBERS)}"
            return [Gangs(clock.now, clock.sleep, random.Random(1), course, folder)]

        return build(directory, local=2, courses=courses, wire=True, sites=sites, began=BEGAN)

    return make


def behind_slurm(courses: dict[str, CourseOf] | None = None) -> Callable[[Path], SimWorld]:
    return lambda directory: build(directory, local=None, queue=(2, {"n1": 4, "n2": 4}), courses=courses, wire=True)


def vm_lost(name: str, how: str) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        process = world.live(name)
        assert process is not None
        for cloud in clouds(world):
            cloud.lose(process, how)

    return do


def evicted(name: str) -> Callable[[SimWorld], None]:
    def do(world: SimWorld) -> None:
        for site in sites_of(world):
            site.cluster.evict(site.pods_of(name)[0])

    return do


def vm_asked(world: SimWorld) -> bool:
    """A VM of ours is being made."""
    return any(cloud.ours() for cloud in clouds(world))


TWICE = {"a": by_attempt(Course(300.0), Course(40.0))}

ADAPTED = (
    Workload(
        "slurm: preempted and requeued",
        behind_slurm({"a": lasting(300.0)}),
        (
            Step(at_once, commit("a", request={"hosts": ["hpc"], "min_chips": 2}, **SHORT_BACKOFF)),
            Step(ran("a", 30.0), preempt("a")),
        ),
    ),
    Workload(
        "slurm: edited and replaced",
        behind_slurm(TWICE),
        (
            Step(at_once, commit("a", request={"hosts": ["hpc"], "min_chips": 2})),
            Step(ran("a", 20.0), commit("a", command=["false"], request={"hosts": ["hpc"], "min_chips": 2})),
        ),
    ),
    Workload("vm: launched and finished", on_vms(), (Step(at_once, each(commit("a", **VM), commit("b"))),)),
    Workload(
        "vm: two workers, preempted",
        on_vms(TWICE, kind="v4-16"),
        (
            Step(at_once, commit("a", **VM, **SHORT_BACKOFF)),
            Step(ran("a", 30.0), vm_lost("a", "preempt")),
        ),
    ),
    Workload(
        "vm: removed while it runs",
        on_vms({"a": FOREVER, "b": FOREVER}),
        (
            Step(at_once, each(commit("a", **VM), commit("b"))),
            Step(ran("a", 20.0), remove("a")),
        ),
    ),
    Workload(
        "vm: removed while it is made",
        on_vms({"b": FOREVER}),
        (
            Step(at_once, each(commit("a", **VM), commit("b"))),
            Step(vm_asked, remove("a")),
        ),
    ),
    Workload(
        "vm: one at a time, edited",
        on_vms(TWICE, most=1),
        (
            Step(at_once, commit("a", **VM)),
            Step(ran("a", 20.0), commit("a", command=["false"], **VM)),
        ),
    ),
    Workload(
        "vm: suspended and resumed",
        on_vms(TWICE),
        (
            Step(at_once, commit("a", **VM)),
            Step(ran("a", 20.0), commit("a", suspend=True, **VM)),
            Step(ended("a"), commit("a", **VM)),
        ),
    ),
    Workload(
        "gang: evicted and requeued",
        on_gangs(TWICE),
        (
            Step(at_once, commit("a", **GANG, **SHORT_BACKOFF)),
            Step(ran("a", 30.0), evicted("a")),
        ),
    ),
    Workload(
        "gang: removed while it runs",
        on_gangs({"a": FOREVER, "b": FOREVER}),
        (
            Step(at_once, each(commit("a", **GANG), commit("b"))),
            Step(ran("a", 20.0), remove("a")),
        ),
    ),
    Workload(
        "gang: fails, then run again",
        on_gangs({"a": by_attempt(Course(20.0, 7), Course(20.0), Course(20.0))}),
        (
            Step(at_once, commit("a", **GANG, **SHORT_BACKOFF)),
            Step(completed("a"), commit("a", generation=2, **GANG, **SHORT_BACKOFF)),
        ),
    ),
)

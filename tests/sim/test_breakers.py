"""Worlds that mislead: a root that is not the one it was, a program that fails for ever, a machine that does not stay up."""

from __future__ import annotations

import math

import pytest

from reconciler.backends.fake import Course
from reconciler.core.loops import SILENT_PROGRESS_S
from reconciler.core.memory import Ended, Requested
from reconciler.core.phase import Phase
from tests.sim.workloads import FOREVER, build, commit, lasting
from tests.sim.world import SimWorld
from tests.worlds import key

HERE = {"request": {"hosts": ["h1"]}}
JOBS = ("a", "b", "c", "d")
QUICK = {"infrastructure": "unlimited", "failure": "unlimited", "backoff": {"initial": "5s", "max": "10s"}}


def passes(world: SimWorld, seconds: float) -> None:
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        world.step()
        world.clock.sleep(world.pace_s)


def stands(world: SimWorld) -> dict[str, str]:
    assert world.last is not None
    return {view.job.name: f"{view.phase} {view.reason}" for view in world.last.plan.views}


def two_machines(tmp_path, **courses) -> SimWorld:
    world = build(tmp_path, local=None, plain=(("h1", 8, 0), ("h2", 8, 0)), courses=courses)
    world.step()
    return world


@pytest.mark.parametrize("killed", [False, True], ids=["one process", "a process a minute"])
def test_when_a_root_vanishes_no_run_is_started_twice_and_all_go_on_when_it_is_back(tmp_path, killed):
    world = two_machines(tmp_path, **dict.fromkeys(JOBS, FOREVER))
    commit(*JOBS, **HERE)(world)
    passes(world, 60)
    world.machines["h1"].unmount()
    commit("other")(world)
    commit("new", **HERE)(world)
    for _ in range(60):
        passes(world, 60)
        if killed:
            world.restart()
    assert stands(world) == {
        **dict.fromkeys(JOBS, "Held MassDisappearance"),
        "other": "Succeeded Finished",
        "new": "Pending Unplaceable",
    }
    assert [process.run.host for process in world.runs("other")] == ["h2"]
    assert not world.runs("new")
    world.machines["h1"].hidden.clear()
    passes(world, 120)
    assert {name: stands(world)[name] for name in JOBS} == dict.fromkeys(JOBS, "Running Running")
    assert [len(world.runs(name)) for name in (*JOBS, "new")] == [1] * 5
    assert not any(isinstance(line, Ended) and line.phase is Phase.LOST for line in world.lines)
    world.close()


def test_when_a_root_that_machines_share_vanishes_no_run_is_started_twice_though_each_has_only_two(tmp_path):
    names = ("h1", "h2", "h3")
    jobs = [f"{name}-{one}" for name in names for one in "ab"]
    machines = tuple((name, 8, 0) for name in names)
    world = build(tmp_path, local=None, plain=machines, courses=dict.fromkeys(jobs, FOREVER))
    world.step()
    for name in names:
        commit(f"{name}-a", f"{name}-b", request={"hosts": [name]})(world)
    passes(world, 120)
    for name in names:
        world.machines[name].unmount()
    passes(world, 1800)
    assert stands(world) == dict.fromkeys(jobs, "Held MassDisappearance")
    for name in names:
        world.machines[name].hidden.clear()
    passes(world, 120)
    assert stands(world) == dict.fromkeys(jobs, "Running Running")
    assert [len(world.runs(name)) for name in jobs] == [1] * 6
    world.close()


def test_what_finished_while_it_could_not_be_seen_is_not_run_again(tmp_path):
    world = two_machines(tmp_path, **dict.fromkeys(JOBS, lasting(300.0)))
    commit(*JOBS, **HERE)(world)
    passes(world, 60)
    world.machines["h1"].unmount()
    passes(world, 3600)
    assert set(stands(world).values()) == {"Held MassDisappearance"}
    world.machines["h1"].hidden.clear()
    world.until_rest(limit_s=600.0)
    assert set(stands(world).values()) == {"Succeeded Finished"}
    assert [len(world.runs(name)) for name in JOBS] == [1] * 4
    world.close()


def test_what_was_cancelled_while_it_could_not_be_seen_is_ended_when_it_is_seen_again(tmp_path):
    world = two_machines(tmp_path, **dict.fromkeys(JOBS, FOREVER))
    commit(*JOBS, **HERE)(world)
    passes(world, 60)
    world.machines["h1"].unmount()
    passes(world, 60)
    store = world.now.reconciler.ports.store
    store.lock()
    wanted = world.manifests["a"]
    store.append([(key("a"), Requested("cancel", "by hand", (wanted.digest, wanted.generation)))], commit="")
    store.unlock()
    del world.manifests["b"]
    passes(world, 600)
    assert set(stands(world).values()) == {"Held MassDisappearance"}
    assert all(world.live(name) for name in JOBS)
    world.machines["h1"].hidden.clear()
    passes(world, 600)
    assert stands(world) == {"a": "Cancelled Cancelled", **dict.fromkeys("cd", "Running Running")}
    assert not world.live("a")
    assert not world.live("b")
    world.close()


@pytest.mark.parametrize("lasts_s", [1.0, 20.0, SILENT_PROGRESS_S])
def test_a_job_that_fails_alike_for_ever_comes_to_rest(tmp_path, lasts_s):
    """Its attempts report the same last step each time: a long life alone is no progress."""
    world = two_machines(tmp_path, a=lasting(lasts_s, 7))
    commit("a", restart=QUICK)(world)
    world.until_rest(limit_s=4 * 3600.0)
    assert stands(world) == {"a": "Failed Stalled"}
    assert len(world.runs("a")) == 5
    ended = [line for line in world.lines if isinstance(line, Ended)]
    assert ended[-1].message.endswith("The last lines of its output:\nstarted")
    world.close()


def test_a_job_that_gets_further_each_time_is_left_to_fail(tmp_path):
    world = two_machines(tmp_path, a=lambda run: Course(60.0 * run.attempt, 7 if run.attempt < 12 else 0))
    commit("a", restart=QUICK)(world)
    world.until_rest(limit_s=4 * 3600.0)
    assert stands(world) == {"a": "Succeeded Finished"}
    world.close()


def test_a_machine_that_does_not_stay_up_is_left_for_another(tmp_path):
    world = two_machines(tmp_path, a=lasting(1500.0))
    commit("a", restart=QUICK)(world)
    for _ in range(5):
        passes(world, 300)
        world.machines["h1"].reboot()
    world.until_rest(limit_s=4 * 3600.0)
    hosts = [process.run.host for process in world.runs("a")]
    assert hosts == ["h1", "h1", "h1", "h2"]
    assert stands(world) == {"a": "Succeeded Finished"}
    world.close()


def test_a_job_that_can_go_nowhere_else_waits_until_the_machine_has_cooled_down(tmp_path):
    world = two_machines(tmp_path, a=lasting(900.0))
    commit("a", restart=QUICK, **HERE)(world)
    for _ in range(3):
        passes(world, 300)
        world.machines["h1"].reboot()
    passes(world, 60)
    assert world.last is not None
    [view] = world.last.plan.views
    assert view.reason == "HostCoolingDown"
    wait_s = view.next_try - world.clock.now()
    assert 480 < wait_s < 600
    world.restart()
    passes(world, wait_s - 30)
    assert len(world.runs("a")) == 3
    world.until_rest(limit_s=3600.0)
    assert stands(world) == {"a": "Succeeded Finished"}
    assert len(world.runs("a")) == 4
    world.close()


def test_a_clock_that_is_set_back_freezes_no_machine(tmp_path):
    world = two_machines(tmp_path, a=lasting(math.inf))
    commit("a", restart=QUICK, **HERE)(world)
    for _ in range(3):
        passes(world, 300)
        world.machines["h1"].reboot()
    passes(world, 60)
    assert stands(world) == {"a": "Lost HostCoolingDown"}
    world.clock.at -= 86_400.0
    world.restart()
    commit("b", **HERE)(world)
    passes(world, 60)
    assert [process.run.host for process in world.runs("b")] == ["h1"]
    world.close()

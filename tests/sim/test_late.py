"""Launches that were cut off on their way and arrive late."""

from __future__ import annotations

import pytest

from reconciler.backends.fake import Fault
from tests.sim.workloads import FOREVER, at_once, build, commit, each
from tests.sim.world import SimWorld, Step, manifest, play


def cut_first_launch(late_s: float, fault: Fault = Fault.LATE):
    """The first submit is given up after a minute; the machine carries it out `late_s` after it was sent."""

    def do(world: SimWorld) -> None:
        waiting = [fault]

        def disturb(verb, machine):
            machine.late_s = late_s
            return waiting.pop() if verb == "submit" and waiting else None

        for machine in world.machines.values():
            machine.disturb = disturb

    return do


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.CLAIMED])
@pytest.mark.parametrize("late_s", [10.0, 59.0, 70.0, 100.0, 115.0])
def test_a_launch_that_arrives_late_does_not_live_beside_its_successor(tmp_path, late_s, fault):
    world = build(tmp_path, local=None, plain=(("h1", 2, 0), ("h2", 2, 0)), courses={"a": FOREVER})
    world.step()
    steps = (
        Step(at_once, each(cut_first_launch(late_s, fault), commit("a", request={"hosts": ["h1"]}))),
        Step(lambda world: bool(world.intents), commit("a", request={"hosts": ["h2"]})),
    )
    play(world, steps)
    assert [
        process.run.host for m in world.machines.values() for process in m.living() if process not in world.foreign
    ] == ["h2"]
    world.close()


@pytest.mark.parametrize("late_s", [10.0, 70.0, 115.0])
def test_a_launch_that_arrives_late_after_its_manifest_was_removed_is_ended(tmp_path, late_s):
    world = build(tmp_path, local=None, plain=(("h1", 2, 0),), courses={"a": FOREVER})
    world.step()
    steps = (
        Step(at_once, each(cut_first_launch(late_s), commit("a"))),
        Step(lambda world: bool(world.intents), lambda world: world.manifests.clear()),
    )
    play(world, steps)
    world.clock.sleep(300.0)
    world.until_rest(limit_s=3600.0)
    assert [process for process in world.machines["h1"].living() if process not in world.foreign] == []
    world.close()


def test_a_launch_that_arrives_after_its_job_was_forgotten_is_ended(tmp_path):
    world = build(tmp_path, local=None, plain=(("h1", 2, 0),), courses={"a": FOREVER})
    world.step()
    steps = (
        Step(at_once, each(cut_first_launch(200.0), commit("a"))),
        Step(lambda world: bool(world.intents), lambda world: world.manifests.clear()),
    )
    play(world, steps)
    world.clock.sleep(300.0)
    world.manifests["b"] = manifest("b")  # somebody has to look there
    world.until_rest(limit_s=3600.0)
    world.close()
    assert [process for process in world.machines["h1"].living() if process not in world.foreign] == []

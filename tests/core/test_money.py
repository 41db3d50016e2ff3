"""A launch that was cut short costs what a new one costs: the same yes, the same limits. And zones that had no room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.app.wiring import chip_of
from reconciler.core.actions import Start, Verb
from reconciler.core.cause import Cause
from reconciler.core.inventory import Limits
from reconciler.core.job import Desired
from reconciler.core.machine import Machine
from reconciler.core.memory import Launching, Memory, Refused, fold
from reconciler.core.observation import Census, Observation
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan, World, plan
from reconciler.core.solve import HostView, Rented
from reconciler.load.normal import decode
from tests.worlds import NOW, OWNER, job, run_of


def rent(price: float, *, chips: int = 4, cooldown_s: float = 0.0) -> HostView:
    """A host whose machines cost `price` per chip and hour."""
    return HostView("pod", "tpu", "lab", {}, rented=Rented("tpu-v4", chips, chips, ("z",), 4, price, cooldown_s))


def on_tpu(name: str = "a", **spec: object) -> Desired:
    return job(name, spec={"request": {"chip": "tpu-v4", "min_chips": 4}, **spec})


def cut_short(wanted: Desired, agreed: float) -> Memory:
    """Somebody said yes to `agreed` an hour, and nothing is known of the launch that followed."""
    run = run_of(wanted, host="pod")
    return fold(Memory(run.job), Launching(run, False, agreed), NOW - 100)


def planned(
    wanted: list[Desired],
    memories: list[Memory],
    host: HostView,
    *,
    machines: tuple[Machine, ...] = (),
    approved: bool = False,
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> Plan:
    return plan(
        World(
            desired={one.key: one for one in wanted},
            frozen={},
            complete=True,
            memories={memory.job: memory for memory in memories},
            observation=Observation({"pod": Census("pod", True, {}, scanned=True, machines=machines)}),
            hosts=(host,),
            owner=OWNER,
            now=NOW,
            decode=decode,
            chip_of=chip_of,
            approved=approved,
            limits=limits,
        )
    )


def starts(made: Plan) -> list[str]:
    return [action.job.name for action in made.actions if isinstance(action.effect, Start)]


@pytest.mark.parametrize("agreed", [10.0, 399.0])
def test_a_launch_that_was_cut_short_is_not_sent_again_at_a_price_nobody_agreed_to(agreed: float) -> None:
    wanted = on_tpu()
    memory = cut_short(wanted, agreed)
    made = planned([wanted], [memory], rent(100.0))
    (view,), (hold,) = made.views, made.actions
    assert (view.phase, view.reason) == (Phase.HELD, "NeedsApproval")
    assert (hold.verb, hold.reason, hold.run_id) == (Verb.HOLD, "NeedsApproval", run_of(wanted).run_id)
    assert f"pod costs 400.00 an hour and the yes that was said is for {agreed:.2f}" in view.message
    assert made.lines == ()  # its run stays open: it may have happened, and each pass looks


def test_it_is_sent_again_at_a_price_that_was_agreed_to_or_with_a_new_yes_which_is_remembered() -> None:
    wanted = on_tpu()
    assert starts(planned([wanted], [cut_short(wanted, 400.0)], rent(100.0))) == ["a"]
    made = planned([wanted], [cut_short(wanted, 10.0)], rent(100.0), approved=True)
    (action,) = made.actions
    assert "400.00 an hour" in action.message
    assert isinstance(action.effect, Start)
    assert action.effect.placement is not None
    assert (action.effect.placement.price_per_hour, action.effect.placement.chips) == (400.0, 4)


def test_a_launch_that_was_cut_short_keeps_the_limits() -> None:
    wanted = on_tpu()
    memory = cut_short(wanted, 40.0)
    dear = planned([wanted], [memory], rent(10.0), limits=Limits(max_cost_per_hour=1.0))
    assert [(view.phase, view.reason) for view in dear.views] == [(Phase.HELD, "OverLimit")]
    big = planned([wanted], [memory], rent(0.1, chips=64), approved=True, limits=Limits(max_chips=32))
    assert [(view.phase, view.reason) for view in big.views] == [(Phase.HELD, "OverLimit")]
    assert "max_chips is 32" in big.views[0].message


def test_a_launch_that_was_cut_short_counts_for_the_limits_of_others() -> None:
    again, new = on_tpu("b"), on_tpu("a")
    memory = cut_short(again, 40.0)
    made = planned([new, again], [memory], rent(10.0), approved=True, limits=Limits(max_cost_per_hour=50.0))
    assert starts(made) == ["b"]


def test_of_several_that_were_cut_short_the_most_urgent_is_paid_for() -> None:
    first, second = on_tpu("a"), on_tpu("b", priority=9)
    memories = [cut_short(first, 40.0), cut_short(second, 40.0)]
    made = planned([first, second], memories, rent(10.0), limits=Limits(max_cost_per_hour=50.0))
    assert starts(made) == ["b"]
    (waits,) = [view for view in made.views if view.job == first.key]
    assert (waits.phase, waits.reason) == (Phase.PENDING, "OverLimit")  # that may change by waiting


def test_a_launch_whose_machine_is_seen_is_not_paid_for_twice() -> None:
    wanted = on_tpu()
    run = run_of(wanted, host="pod")
    machine = Machine("vm", "z", "1", run.job, run.run_id, OWNER, "READY", ready=True)
    made = planned([wanted], [cut_short(wanted, 10.0)], rent(100.0), machines=(machine,))
    assert starts(made) == ["a"]


@pytest.mark.parametrize(("ahead_s", "asked"), [(-599.0, False), (-601.0, True), (86_400.0, True)])
def test_a_zone_that_was_dry_by_a_clock_ahead_of_ours_is_asked(ahead_s: float, asked: bool) -> None:
    wanted = on_tpu()
    run = replace(run_of(wanted, host="pod"), place={"zone": "z"})
    memory = fold(Memory(run.job), Launching(run, False, 40.0), NOW - 700)
    refused = Refused(run.run_id, "no capacity", 0.0, Cause.CAPACITY)
    memory = fold(memory, refused, NOW + ahead_s)
    assert bool(starts(planned([wanted], [memory], rent(10.0, cooldown_s=600.0)))) == asked

"""When a rented machine is deleted, and what it may cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.cause import Cause
from reconciler.core.cost import Spending, cost_of, over, was_approved
from reconciler.core.inventory import Limits
from reconciler.core.machine import DeleteOn, Disposal, Machine
from reconciler.core.memory import Billed, Ended, Forgotten, Launching, Memory, Requested, Tombstone, fold
from reconciler.core.names import JobKey
from reconciler.core.phase import Phase
from reconciler.core.release import fate
from reconciler.core.solve import Placement
from tests.worlds import job, run_of

NOW = 1_000_000.0
KEY = JobKey("general", "default", "train")
MACHINE = Machine(
    "vm", "zone", "7", KEY, "train-1", "owner", "READY", ready=True, created_at=NOW - 3600, price_per_hour=10.0
)


def ended(phase: Phase, *, ago_s: float = 0.0, run_id: str = "train-1") -> Memory:
    stone = Tombstone(phase, "d", 1, run_id, "pod", None, 0, "over", NOW - ago_s)
    return Memory(KEY, attempt=1, tombstone=stone)


def test_what_an_open_run_needs_is_never_deleted_not_even_dead():
    run = replace(run_of(job("train")), run_id="train-1")
    assert fate(replace(MACHINE, dead=True), Memory(KEY, attempt=1, run=run), NOW) is None


def test_what_is_on_its_way_out_needs_nothing_more():
    assert fate(replace(MACHINE, going=True), ended(Phase.SUCCEEDED), NOW) is None


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
@pytest.mark.parametrize("delete", list(DeleteOn))
def test_the_disposal_decides_by_how_the_run_ended(phase: Phase, delete: DeleteOn):
    kept = {
        DeleteOn.ALWAYS: set(),
        DeleteOn.SUCCESS: {Phase.FAILED},
        DeleteOn.FAILURE: {Phase.SUCCEEDED},
        DeleteOn.NEVER: {Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED},
    }
    machine = replace(MACHINE, disposal=Disposal(delete))
    found = fate(machine, ended(phase), NOW)
    assert found is not None
    assert found.delete == (phase not in kept[delete])
    assert found.why


def test_it_is_kept_for_a_while_and_then_deleted():
    machine = replace(MACHINE, disposal=Disposal(keep_s=600.0))
    kept = fate(machine, ended(Phase.FAILED, ago_s=599), NOW)
    assert kept is not None
    assert (kept.delete, kept.until) == (False, NOW + 1)
    over_it = fate(machine, ended(Phase.FAILED, ago_s=601), NOW)
    assert over_it is not None
    assert over_it.delete


def test_what_an_older_attempt_left_is_deleted():
    memory = replace(ended(Phase.SUCCEEDED, run_id="train-2"), attempt=2)
    found = fate(replace(MACHINE, disposal=Disposal(DeleteOn.NEVER)), memory, NOW)
    assert found is not None
    assert found.delete


@pytest.mark.parametrize("delete", list(DeleteOn))
def test_what_nobody_remembers_is_deleted_unless_its_disposal_may_keep_it(delete: DeleteOn):
    found = fate(replace(MACHINE, disposal=Disposal(delete)), Memory(KEY), NOW)
    assert found is not None
    assert found.delete == (delete is DeleteOn.ALWAYS)


@pytest.mark.parametrize("changes", [{"dead": True}, {"disposal": Disposal(DeleteOn.NEVER, 0.0, 3600.0)}])
def test_nothing_keeps_a_dead_one_or_one_past_its_ttl(changes):
    found = fate(replace(MACHINE, **changes), ended(Phase.SUCCEEDED), NOW)
    assert found is not None
    assert found.delete


def test_a_cost_is_by_the_hour_and_outlives_the_job():
    assert cost_of(MACHINE, NOW) == 10.0
    assert cost_of(replace(MACHINE, price_per_hour=None), NOW) == 0.0
    memory = fold(Memory(KEY), Billed("train-1", "vm", 10.0), NOW)
    memory = fold(memory, Billed("train-2", "vm2", 2.5), NOW)
    memory = fold(memory, Billed("train-2", "vm2", 3.0), NOW)  # its deletion was asked for again
    assert memory.cost == 13.0
    memory = fold(memory, Billed("train-2", "vm2", 2.5), NOW)
    memory = fold(memory, Forgotten("gone"), NOW)
    assert memory.cost == 12.5
    assert memory.blank


PLACEMENT = Placement("pod", None, "tpu-v4", price_per_hour=10.0, chips=4)


@pytest.mark.parametrize(
    ("limits", "before", "refused", "for_good"),
    [
        (Limits(), Spending(chips=1000, per_hour=1e6), False, False),
        (Limits(max_chips=8), Spending(chips=4), False, False),
        (Limits(max_chips=8), Spending(chips=5), True, False),
        (Limits(max_chips=3), Spending(), True, True),
        (Limits(max_cost_per_hour=20.0), Spending(per_hour=10.0), False, False),
        (Limits(max_cost_per_hour=20.0), Spending(per_hour=10.1), True, False),
        (Limits(max_cost_per_hour=9.0), Spending(), True, True),
        (Limits(max_cost_total=100.0), Spending(total=99.0), False, False),
        (Limits(max_cost_total=100.0), Spending(total=100.0), True, True),
        (Limits(max_chips=1000), Spending(blind=("pod2",)), True, False),
    ],
)
def test_a_limit_refuses_what_would_go_over_it(limits: Limits, before: Spending, refused: bool, for_good: bool):
    found = over(limits, before, PLACEMENT)
    assert (found is not None) == refused
    if found is not None:
        assert found[1] == for_good


def test_a_cost_limit_lets_nothing_through_whose_price_is_not_known():
    found = over(Limits(max_cost_per_hour=1e9), Spending(), replace(PLACEMENT, price_per_hour=0.0))
    assert found is not None
    assert "price_per_chip_hour" in found[0]


@pytest.mark.parametrize(
    ("said", "asked", "covered"),
    [
        (10.0, 10.0, True),
        (10.0, 9.0, True),
        (10.0, 10.01, False),
        (10.0, 0.0, False),
        (0.0, 0.0, False),
        (None, 10.0, False),
    ],
)
def test_a_yes_holds_for_the_same_work_on_the_same_host_at_no_higher_price(
    said: float | None, asked: float, covered: bool
):
    wanted = job("train")
    run = run_of(wanted, host="pod")
    memory = fold(Memory(KEY), Launching(run, False, said), NOW)
    memory = fold(memory, Launching(run, False), NOW)  # the second step of the same launch
    memory = fold(memory, Ended(run.run_id, Phase.PREEMPTED, Cause.PREEMPTION, None, "", True, True, 0.0), NOW)
    placement = replace(PLACEMENT, price_per_hour=asked)
    assert was_approved(memory, wanted, placement) == covered
    assert not was_approved(memory, wanted, replace(placement, host="pod2"))
    assert not was_approved(memory, replace(wanted, generation=wanted.generation + 1), placement)
    assert not was_approved(memory, replace(wanted, digest="other"), placement)


def test_a_cheaper_attempt_does_not_lower_what_was_said_yes_to_and_a_cancel_takes_it_back():
    wanted = job("train")
    run = run_of(wanted, host="pod")
    memory = fold(Memory(KEY), Launching(run, False, 10.0), NOW)
    memory = fold(memory, Launching(replace(run, attempt=2), True, 8.0), NOW)
    assert was_approved(memory, wanted, PLACEMENT)
    assert not was_approved(fold(memory, Requested("cancel", "too dear"), NOW), wanted, PLACEMENT)
    assert not was_approved(fold(memory, Launching(replace(run, digest="new"), False), NOW), wanted, PLACEMENT)

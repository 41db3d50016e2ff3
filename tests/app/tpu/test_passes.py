"""Whole passes over a TPU host: the real driver and client on an emulated control plane, the worker is this machine.

What must hold in every case: nothing of ours lives that nobody wants, or it is said; nothing is made twice; nothing foreign is
touched.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.app.sweep import machines_of, sweep
from reconciler.core.inventory import Limits
from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.phase import Phase
from tests.app.tpu.desks import FOR_EVER, MARKS, Lost, TpuDesk, finish, two_jobs
from tests.backends.test_tpu import OTHER, ZONE
from tests.worlds import job

pytestmark = MARKS


def test_a_job_gets_a_vm_runs_succeeds_and_the_vm_is_gone(desk: TpuDesk):
    desk.want(["true"])
    desk.settle(lambda: desk.is_over(Phase.SUCCEEDED))
    assert desk.creates() == 1
    before = desk.desk.store.newest()
    for _ in range(3):  # a quiet world
        desk.one_pass()
    assert desk.desk.store.newest() == before
    assert desk.creates() == 1


def test_while_its_vm_goes_a_finished_job_stays_finished(desk: TpuDesk):
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.tpu.fault("DeleteNode", stuck="DELETING", times=None)
    for _ in range(5):
        desk.one_pass()
        assert desk.phase() is Phase.SUCCEEDED
        desk.tpu.advance(60)
    assert desk.creates() == 1


def test_a_preempted_run_goes_on_in_another_vm_after_the_old_one_is_gone(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (name,) = desk.tpu.nodes()
    desk.lose(name)
    names: list[set[str]] = []

    def again() -> bool:
        names.append(set(desk.tpu.nodes()))
        return desk.phase() is Phase.RUNNING

    desk.settle(again)
    assert all(len(one) <= 1 for one in names), names
    assert desk.creates() == 2
    (view,) = desk.reconciler.look().plan.views
    assert view.attempt == 2


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("state", ["kept", "lost"])
def test_killed_between_the_create_and_its_record(desk: TpuDesk, wanted: bool, state: str):
    desk.want(FOR_EVER)
    create = desk.world.backend._control.create

    def killed(wish: Any) -> Any:
        create(wish)
        raise Lost

    desk.world.backend._control.create = killed  # type: ignore[method-assign]
    seen = desk.reconciler.look()
    desk.reconciler.apply(seen, why="test")  # the lane takes the bug for a crash of its own; nothing is settled
    assert len(desk.tpu.nodes()) == 1
    if state == "lost":
        desk.forget_all()
    else:
        desk.killed()
    if wanted:
        desk.settle(lambda: desk.phase() is Phase.RUNNING)
        assert len(desk.tpu.nodes()) == 1
        assert desk.creates() == 1
    else:
        desk.drop()
        desk.settle(lambda: not desk.tpu.nodes())


def test_a_create_that_is_given_up_and_comes_an_hour_later_is_deleted(desk: TpuDesk):
    desk.tpu.fault("CreateNode", provision_s=3600.0)
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.fault("DeleteNode", status="UNAVAILABLE", message="try later", times=40)
    desk.drop()
    for _ in range(20):
        desk.one_pass()
        desk.tpu.advance(60)
    assert desk.tpu.nodes()
    desk.settle(lambda: not desk.tpu.nodes(), step_s=600)


def test_a_removed_manifest_ends_the_run_and_its_vm(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.drop()
    seen = desk.reconciler.look()
    assert [action.reason for action in seen.plan.actions] == ["ManifestRemoved"]
    desk.settle(lambda: not desk.tpu.nodes())
    assert desk.phase() is None


def test_a_delete_that_fails_for_an_hour_is_said_each_time_and_then_done(desk: TpuDesk):
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.tpu.fault("DeleteNode", status="UNAVAILABLE", message="try later", times=None)
    for _ in range(3):
        desk.one_pass()
        (said,) = desk.done
        assert not said.ok
        assert "goes on costing" in said.message
        desk.tpu.advance(1200)
    desk.tpu.heal()
    desk.settle(lambda: desk.is_over(Phase.SUCCEEDED))


def test_a_control_plane_that_says_403_holds_everything(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.tpu.fault("ListNodes", status="PERMISSION_DENIED", message="denied", times=None)
    desk.drop()
    for _ in range(3):
        desk.one_pass()
        desk.tpu.advance(60)
    assert len(desk.tpu.nodes()) == 1
    assert desk.creates() == 1
    (view,) = desk.reconciler.look().plan.views
    assert view.phase is Phase.UNKNOWN
    assert "denied" in view.message


def test_without_capacity_the_next_zone_is_tried(desk: TpuDesk):
    desk.tpu.fault("CreateNode", lro_error={"code": 8, "message": "There is no more capacity in the zone"})
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    assert list(desk.tpu.nodes(OTHER))
    assert not desk.tpu.nodes(ZONE)
    assert desk.creates() == 2


def test_a_zone_without_capacity_is_passed_over_by_every_job_and_by_the_next_process(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu)
    desk.machines_max, desk.cooldown_s = 2, 3600.0
    desk.killed()
    desk.tpu.fault("CreateNode", lro_error={"code": 8, "message": "There is no more capacity in the zone"})
    desk.want(FOR_EVER, "first")
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.killed()
    two_jobs(desk)
    desk.desk.manifests.pop(job("two").key)
    desk.settle(lambda: desk.creates() == 3)
    assert len(desk.tpu.nodes(OTHER)) == 2  # the other job never asked the first zone
    assert not desk.tpu.nodes(ZONE)
    desk.desk.manifests.pop(job("one").key)
    desk.reconciler = desk.another(delete_allowed=1)
    desk.settle(lambda: len(desk.tpu.nodes()) == 1)
    finish(desk)


def test_while_no_zone_has_capacity_a_job_waits_and_says_until_when(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu)
    desk.cooldown_s = 1800.0
    desk.killed()
    desk.tpu.fault("CreateNode", status="RESOURCE_EXHAUSTED", message="There is no more capacity in the zone", times=2)
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.PENDING and len(desk.tpu.calls("CreateNode")) == 2)
    first = len(desk.tpu.calls("CreateNode"))
    desk.tpu.advance(900)
    desk.one_pass()
    (view,) = desk.reconciler.look().plan.views
    assert view.reason == "Unplaceable"
    until = datetime.fromtimestamp(view.next_try, UTC).strftime("%H:%M:%S UTC")
    assert f"had no capacity: {ZONE} until {until}, {OTHER} until " in view.message
    assert desk.tpu.now < view.next_try < desk.tpu.now + 1800
    assert len(desk.tpu.calls("CreateNode")) == first == 2
    desk.tpu.advance(view.next_try - desk.tpu.now)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    finish(desk)


def test_a_vm_that_never_comes_is_given_up_and_deleted(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, capacity_s=600.0, boot_s=60.0)
    desk.tpu.fault("CreateNode", stuck="CREATING")
    desk.want(FOR_EVER)
    desk.one_pass()
    (stuck,) = desk.tpu.nodes()
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    assert stuck not in desk.tpu.nodes()
    lines = [str(entry.line) for entry in desk.desk.store.history()]
    assert any("capacity" in line for line in lines)
    finish(desk)


def test_nothing_that_costs_is_made_without_a_yes(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.reconciler = desk.another(approved=False)
    desk.one_pass()
    assert desk.creates() == 0
    (view,) = desk.reconciler.look().plan.views
    assert (view.phase, view.reason) == (Phase.HELD, "NeedsApproval")
    assert "12.88 an hour" in view.message


def test_what_was_said_yes_to_once_goes_on_after_a_preemption_without_another_yes(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (name,) = desk.tpu.nodes()
    desk.world.backend = desk.world.open()
    desk.reconciler = desk.another(approved=False)  # `watch`, in another process
    desk.lose(name)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    assert desk.creates() == 2
    assert {"attempt-2"} == {f"attempt-{view.attempt}" for view in desk.reconciler.look().plan.views}


@pytest.mark.parametrize("change", ["price", "generation", "digest", "state"])
def test_anything_else_than_what_was_said_yes_to_asks_again(desk: TpuDesk, change: str):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (name,) = desk.tpu.nodes()
    if change == "state":
        desk.forget_all()
    options: dict[str, Any] = {"approved": False}
    if change == "price":
        desk.price_per_chip_hour = 3.3
    desk.reconciler = desk.another(**options)
    if change in ("generation", "digest"):
        desk.want(FOR_EVER, **({"generation": 2} if change == "generation" else {"env": {"A": "b"}}))
    else:
        desk.lose(name)
    desk.settle(lambda: [view.reason for view in desk.reconciler.look().plan.views] == ["NeedsApproval"])
    assert not desk.tpu.nodes()
    assert desk.creates() == 1


@pytest.mark.parametrize(
    ("delete", "keep_s"), [(DeleteOn.FAILURE, 0.0), (DeleteOn.NEVER, 0.0), (DeleteOn.ALWAYS, 3600.0)]
)
def test_a_vm_is_kept_as_long_as_it_was_asked_for(tmp_path, bundle, tpu, delete: DeleteOn, keep_s: float):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(delete, keep_s, 7200.0))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    for _ in range(3):
        desk.one_pass()
        desk.tpu.advance(60)
    assert len(desk.tpu.nodes()) == 1
    ((machine, fate),) = desk.reconciler.look().plan.kept
    assert machine.ready
    assert fate.why
    desk.tpu.advance(3600 if keep_s else 7200)  # keep_for is over, or the ttl
    desk.settle(lambda: desk.is_over(Phase.SUCCEEDED))
    finish(desk)


def test_foreign_vms_stay_whatever_happens(desk: TpuDesk):
    desk.tpu.create("somebodys", accelerator_type="v4-8")
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED and set(desk.tpu.nodes()) == {"somebodys"})
    desk.drop()
    for _ in range(3):
        desk.one_pass()
    assert set(desk.tpu.nodes()) == {"somebodys"}


def test_a_failed_run_is_tried_again_in_a_new_vm_and_then_fails(desk: TpuDesk):
    desk.want(["sh", "-c", "exit 3"], restart={"failure": 1, "backoff": {"initial": 0}})
    desk.settle(lambda: desk.is_over(Phase.FAILED))
    assert desk.creates() == 2


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_chips=6), "limits.max_chips is 6: 0 in use, 4 more asked"),
        (Limits(max_cost_per_hour=20.0), "limits.max_cost_per_hour is 20: 0 in use, 12.88 more asked"),
    ],
)
def test_a_limit_lets_one_in_and_the_next_wait(desk: TpuDesk, limits: Limits, words: str):
    desk.machines_max, desk.limits = 2, limits
    desk.reconciler = desk.another()
    two_jobs(desk)
    desk.one_pass()
    assert desk.creates() == 1
    seen = desk.reconciler.look()
    (waiting,) = [view for view in seen.plan.views if view.reason == "OverLimit"]
    assert words.partition(":")[0] in waiting.message
    assert "12.88" in waiting.message or "4 in use" in waiting.message
    assert seen.plan.spending.per_hour == 12.88
    desk.tpu.advance(120)
    desk.one_pass()
    assert desk.creates() == 1


def test_a_launch_above_the_limit_is_held(desk: TpuDesk):
    desk.limits = Limits(max_cost_per_hour=10.0)
    desk.reconciler = desk.another()
    desk.want(FOR_EVER)
    desk.one_pass()
    (view,) = desk.reconciler.look().plan.views
    assert (view.phase, view.reason) == (Phase.HELD, "OverLimit")
    assert desk.creates() == 0


def test_what_was_spent_is_remembered_and_ends_at_the_limit(desk: TpuDesk):
    desk.limits = Limits(max_cost_total=1.0)
    desk.reconciler = desk.another()
    desk.want(["true"])
    desk.settle(lambda: desk.is_over(Phase.SUCCEEDED), step_s=600)
    total = desk.reconciler.look().plan.spending.total
    assert 1.0 < total < 12.88
    desk.want(["true"], name="second")
    desk.one_pass()
    views = {view.job.name: view for view in desk.reconciler.look().plan.views}
    assert views["second"].reason == "OverLimit"
    assert f"{total:.2f} are spent" in views["second"].message
    desk.killed()
    assert desk.reconciler.look().plan.spending.total == total


def test_a_limit_cannot_be_kept_while_a_host_cannot_be_asked(desk: TpuDesk):
    desk.limits = Limits(max_chips=100)
    desk.reconciler = desk.another()
    desk.tpu.fault("ListNodes", status="UNAVAILABLE", message="away", times=None)
    desk.want(FOR_EVER)
    desk.one_pass()
    assert desk.creates() == 0
    desk.tpu.heal()


def test_sweep_names_what_is_needed_and_deletes_the_rest_kept_ones_too(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    desk.machines_max = 2
    desk.reconciler = desk.another()
    tpu.create("somebodys", accelerator_type="v4-8")
    desk.want(["true"], name="over")
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.desk.want(job("alive", spec={"command": FOR_EVER, "request": {"chip": "tpu-v4", "min_chips": 4}}))
    desk.one_pass()
    seen = desk.reconciler.look()
    found, unseen = machines_of(seen)
    assert unseen == {}
    assert {item.machine.job.name: item.fate is None for item in found} == {"over": False, "alive": True}
    (done,) = sweep(desk.reconciler, seen, found, why="test", report=None)
    assert done.ok
    desk.tpu.advance(600)
    left = {item.machine.job.name for item in machines_of(desk.reconciler.look())[0]}
    assert left == {"alive"}
    assert "somebodys" in tpu.nodes()
    finish(desk)


def test_an_edit_of_how_long_it_is_kept_reaches_a_vm_that_is_there(desk: TpuDesk):
    desk.want(["true"], tpu={"delete_on_exit": "never"})
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.one_pass()
    assert len(desk.tpu.nodes()) == 1
    desk.want(["true"], tpu={"delete_on_exit": "always"})
    desk.settle(lambda: desk.is_over(Phase.SUCCEEDED))
    assert desk.creates() == 1


def test_a_vm_of_a_host_that_the_inventory_has_no_longer_is_minded_by_another(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.world.site = replace(desk.world.site, heirs_of=lambda name: name == "pod")
    desk.world.backend = desk.world.open("renamed")
    (machine,) = desk.world.machines()
    assert machine.job.name == "train"
    desk.world.site = replace(desk.world.site, heirs_of=lambda name: False)
    desk.world.backend = desk.world.open("renamed")
    assert desk.world.machines() == []
    desk.world.backend = desk.world.open()


@pytest.mark.parametrize(("times", "phase"), [(0, Phase.FAILED), (1, Phase.RUNNING)])
def test_a_run_that_outlives_the_ttl_of_its_vm_ends_or_goes_on_in_another(desk: TpuDesk, times: int, phase: Phase):
    desk.want(FOR_EVER, tpu={"ttl": "2h"}, restart={"timeout": times, "backoff": {"initial": 0}})
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (first,) = desk.tpu.nodes()
    desk.tpu.advance(7200)
    desk.settle(lambda: desk.phase() is phase and first not in desk.tpu.nodes())
    assert desk.creates() == 1 + times


def test_a_finished_job_whose_kept_vm_lost_its_disk_is_not_run_again(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.one_pass()
    shutil.rmtree(tmp_path / "status")
    for _ in range(3):
        desk.one_pass()
        assert desk.phase() is Phase.SUCCEEDED
        desk.tpu.advance(60)
    finish(desk)


def test_a_finished_job_whose_kept_vm_does_not_answer_is_not_run_again(tmp_path, bundle, tpu):
    from tests.backends.sites import Hurt

    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.one_pass()
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    for _ in range(3):
        desk.one_pass()
        assert desk.phase() is Phase.SUCCEEDED
        desk.tpu.advance(60)
    assert len(desk.tpu.nodes()) == 1
    desk.world.switches[0].hurt = Hurt.NOTHING
    finish(desk)


def test_with_room_for_two_the_next_attempt_waits_for_the_vm_of_the_last(desk: TpuDesk):
    desk.machines_max = 2
    desk.reconciler = desk.another()
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.want(["sleep", "601"])
    seen: list[int] = []

    def replaced() -> bool:
        seen.append(len(desk.tpu.nodes()))
        views = desk.reconciler.look().plan.views
        return views[0].phase is Phase.RUNNING and views[0].attempt == 2

    desk.settle(replaced)
    assert max(seen) == 1


def test_an_orphan_runs_on_is_said_and_its_vm_goes_when_it_has_ended(desk: TpuDesk):
    desk.want(["sh", "-c", f"until [ -e {desk.root}/go ]; do sleep 0.05; done"], deletion="orphan")
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.drop()
    desk.one_pass()
    desk.one_pass()
    ((_, fate),) = desk.reconciler.look().plan.kept
    assert "let go of" in fate.why
    (desk.root / "go").touch()
    desk.settle(lambda: not desk.tpu.nodes())


def test_sweep_finds_what_lies_in_a_zone_that_the_inventory_names_no_longer(desk: TpuDesk):
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.desk.manifests.clear()
    desk.forget_all()
    desk.world.site = replace(desk.world.site, zones=(OTHER,))
    desk.world.backend = desk.world.open()
    desk.reconciler = desk.another(delete_allowed=1)
    found, _ = machines_of(desk.reconciler.look())
    assert [item.machine.zone for item in found] == [ZONE]

"""A machine goes on being minded, and is not counted twice, while inventory, manifest, state or marks change under it."""

from __future__ import annotations

import json
from dataclasses import replace

from reconciler.app.converge import Options, Reconciler
from reconciler.core.errors import Problem
from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.memory import Forgotten
from reconciler.core.phase import Phase
from reconciler.core.solve import HostView, Rented
from tests.app.tpu.desks import FOR_EVER, MARKS, TpuDesk
from tests.app.tpu.test_leaks import kinds
from tests.backends.sites import Hurt
from tests.backends.test_tpu import OTHER, ZONE

pytestmark = MARKS


def running(desk, **spec):
    desk.want(FOR_EVER, **spec)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.tpu.advance(7200)
    desk.one_pass()
    (name,) = desk.tpu.nodes()
    return name


def test_inventory_wants_more_machines(desk):
    name = running(desk)
    desk.world.site = replace(
        desk.world.site,
    )  # accelerator_type of the inventory edited
    desk.killed()
    desk.one_pass()
    desk.tpu.advance(60)
    assert name in desk.tpu.nodes()
    assert desk.tpu.nodes()[name]["state"] == "READY"


def test_orphan_repair(desk):
    name = running(desk)
    (k,) = desk.desk.manifests
    desk.desk.manifests.clear()
    desk.desk.store.lock()
    desk.desk.store.append([(k, Forgotten("by request", released=True))], commit="")
    desk.desk.store.unlock()
    desk.one_pass()
    assert desk.tpu.nodes()[name]["state"] == "READY"
    desk.tpu.set_state(name, "REPAIRING")
    desk.one_pass()
    desk.tpu.advance(60)
    assert name in desk.tpu.nodes()


def test_frozen_silent(desk):
    name = running(desk, tpu={"ttl": "3h"})
    (k,) = desk.desk.manifests
    desk.desk.manifests.clear()
    desk.desk.frozen[k] = Problem("a.yaml", 1, "broken")
    desk.tpu.advance(3600)
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    desk.world.switches[0].hurt = Hurt.NOTHING
    desk.desk.frozen.clear()
    desk.world.power_off()
    assert name not in desk.tpu.nodes()


def test_heir_and_back(desk):
    running(desk)
    old = desk.world.site
    desk.world.site = replace(old, heirs_of=lambda n: n == "pod")
    renamed = desk.world.open("renamed")
    rented = Rented("tpu-v4", 4, 8, (ZONE, OTHER), 1, 3.22)
    view = HostView("renamed", "tpu", "lab", {}, rented=rented)
    desk.reconciler = Reconciler(desk.desk.ports(hosts=(view,), backends=lambda n: renamed), Options(approved=True))
    desk.one_pass()
    desk.tpu.advance(60)
    desk.one_pass()
    # both again
    desk.world.site = old
    back = {"pod": desk.world.open("pod"), "renamed": desk.world.open("renamed")}
    views = (HostView("pod", "tpu", "lab", {}, rented=rented), view)
    desk.reconciler = Reconciler(desk.desk.ports(hosts=views, backends=lambda n: back[n]), Options(approved=True))
    for _ in range(5):
        desk.one_pass()
        desk.tpu.advance(600)
    ph = desk.phase()
    desk.desk.store.lock()
    (k,) = desk.desk.manifests
    desk.desk.store.append([(k, Forgotten("x", released=False))], commit="")
    desk.desk.store.unlock()
    desk.world.backend = back["pod"]
    assert ph is Phase.RUNNING


def test_crash_before_stop_then_an_hour(desk):
    running(desk)
    desk.want(["sleep", "700"])
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    inner = desk.world.backend.cancel
    from reconciler.core.errors import Unreachable

    def away(*a, **k):
        raise Unreachable("no network for a moment")

    desk.world.switches[0].hurt = Hurt.NOTHING
    desk.world.backend.cancel = away
    desk.one_pass()
    desk.world.backend.cancel = inner
    desk.tpu.advance(3600)
    s = desk.one_pass()
    assert not s.plan.actions[0].effect.forced


def test_bad_normal(desk):
    name = running(desk)
    md = dict(desk.tpu.nodes()[name]["metadata"])
    good = dict(md)
    r = json.loads(md["reconciler-run"])
    r["normal"] = {}
    desk.tpu.patch(name, metadata={**md, "reconciler-run": json.dumps(r)})
    desk.one_pass()
    desk.forget_all()
    try:
        desk.one_pass()
        desk.one_pass()
    finally:
        desk.tpu.patch(name, metadata=good)
        desk.forget_all()


def test_quiet(desk):
    running(desk)
    n = len(kinds(desk))
    for _ in range(4):
        desk.one_pass()
        desk.tpu.advance(100)
    assert len(kinds(desk)) == n


def test_bad_normal_dropped(desk):
    name = running(desk)
    md = dict(desk.tpu.nodes()[name]["metadata"])
    r = json.loads(md["reconciler-run"])
    r["normal"] = {}
    desk.tpu.patch(name, metadata={**md, "reconciler-run": json.dumps(r)})
    desk.forget_all()
    try:
        desk.drop()
        desk.one_pass()
        desk.one_pass()
    finally:
        desk.tpu.patch(name, metadata=md)
        desk.forget_all()


def test_cancel_of_edited(desk):
    """labels gone"""
    name = running(desk)
    n = desk.tpu.nodes()[name]
    desk.tpu.patch(name, labels={})
    for _ in range(3):
        desk.one_pass()
        desk.tpu.advance(600)
    desk.tpu.patch(name, labels=n["labels"])


def test_kept_counts_once(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    running(desk)
    from reconciler.core.memory import Requested

    (k,) = desk.desk.manifests
    desk.desk.store.lock()
    desk.desk.store.append([(k, Requested("cancel", "x", None))], commit="")
    desk.desk.store.unlock()
    for _ in range(6):
        s = desk.one_pass()
        desk.tpu.advance(30)
    from reconciler.core.cost import cost_of

    s = desk.reconciler.look()
    ms = [m for c in s.world.observation.censuses.values() for m in c.machines]
    assert abs(s.plan.spending.total - sum(cost_of(m, s.world.now) for m in ms)) < 1


def test_released_while_heirless_queue(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault("CreateQueuedResource", wait_s=2 * 3600, times=None)
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(60)
    desk.one_pass()
    (k,) = desk.desk.manifests
    desk.desk.manifests.clear()
    desk.desk.store.lock()
    desk.desk.store.append([(k, Forgotten("x", released=True))], commit="")
    desk.desk.store.unlock()
    for _ in range(5):
        desk.one_pass()
        desk.tpu.advance(600)
    assert not desk.tpu.queued()
    assert not desk.tpu.nodes()


def test_adopted_waiting_then_lost_record(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault("CreateQueuedResource", wait_s=1800, times=None)
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(60)
    desk.one_pass()
    desk.forget_all()
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (m,) = desk.desk.store.memories().values()
    assert m.handle is not None
    assert m.handle.native.get("begun")
    n = len(kinds(desk))
    for _ in range(4):
        desk.one_pass()
        desk.tpu.advance(60)
    assert len(kinds(desk)) == n

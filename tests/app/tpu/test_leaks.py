"""Ways in which a VM could be left over, made twice, or taken for another: each was found by reading, and shown by a test."""

from __future__ import annotations

import json
from dataclasses import replace

from reconciler.app.converge import Options
from reconciler.app.sweep import machines_of, sweep
from reconciler.backends.fake import FakeMachine
from reconciler.core.errors import Problem, ShipError, Unreachable
from reconciler.core.inventory import Limits
from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.memory import Ended, Refused
from reconciler.core.phase import Phase
from reconciler.core.protocols import Tree
from reconciler.core.solve import HostView, Rented
from tests.app.tpu.desks import FOR_EVER, MARKS, Lost, TpuDesk, two_jobs
from tests.backends.sites import Hurt
from tests.backends.test_tpu import OTHER, ZONE

pytestmark = MARKS


def kinds(d):
    """Kind, cause and message of each journal line."""
    return [
        (
            type(e.line).__name__,
            getattr(e.line, "cause", None) and e.line.cause.value,
            getattr(e.line, "message", "")[:90],
        )
        for e in d.desk.store.history()
    ]


def done_on_disk(desk):
    desk.want(["true"])
    for _ in range(200):
        seen = desk.reconciler.look()
        if any(isinstance(line, Ended) for _, line in seen.plan.lines):
            return seen
        desk.reconciler.apply(seen, why="t")
        desk.tpu.advance(30)
    raise AssertionError


def test_sweep_before_the_end_is_journaled(desk):
    seen = done_on_disk(desk)  # the run has finished; nobody has applied since
    found, _ = machines_of(seen)
    sweep(desk.reconciler, seen, found, why="sweep", report=None)
    for _ in range(20):
        desk.one_pass()
        desk.tpu.advance(60)
    assert desk.creates() == 1


def test_zone_of_spec_tpu_that_the_host_does_not_name(desk):
    desk.world.site = replace(desk.world.site, zones=(ZONE,))
    desk.killed()
    desk.want(["true"], tpu={"zones": [OTHER]})
    desk.tpu.fault("DeleteNode", status="UNAVAILABLE", message="try later", times=1)
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    for _ in range(30):
        desk.one_pass()
        desk.tpu.advance(600)
    assert not desk.tpu.nodes(OTHER)


def test_kept_in_that_zone(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.ALWAYS, 3600.0))
    desk.world.site = replace(desk.world.site, zones=(ZONE,))
    desk.killed()
    desk.want(["true"], tpu={"zones": [OTHER]})
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    for _ in range(30):
        desk.one_pass()
        desk.tpu.advance(600)
    assert not desk.tpu.nodes(OTHER)


def test_queued_longer_than_capacity_timeout(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault("CreateQueuedResource", wait_s=2 * 3600, times=None)
    desk.want(FOR_EVER)
    ph = []
    for _ in range(150):
        desk.one_pass()
        desk.tpu.advance(300)
        ph.append(desk.phase())
        if ph[-1] is Phase.RUNNING:
            break
    n = sum(c.code == "OK" for c in desk.tpu.calls("CreateQueuedResource"))
    assert ph[-1] is Phase.RUNNING
    assert n == 1


def test_one_unreachable_pass_after_adoption(desk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.forget_all()
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    for _ in range(3):
        desk.one_pass()
        desk.tpu.advance(3600)
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    desk.one_pass()
    desk.world.switches[0].hurt = Hurt.NOTHING
    desk.tpu.advance(60)
    desk.one_pass()
    assert desk.phase() is Phase.RUNNING


def test_same_after_a_lost_launch_answer(desk):
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(600)
    submit = desk.world.backend.submit

    def lost(items):
        submit(items)
        raise Lost

    desk.world.backend.submit = lost
    desk.one_pass()
    desk.killed()
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    for _ in range(3):
        desk.one_pass()
        desk.tpu.advance(3600)
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    desk.one_pass()
    desk.world.switches[0].hurt = Hurt.NOTHING
    desk.tpu.advance(60)
    desk.one_pass()
    assert desk.phase() is Phase.RUNNING


def test_a_worker_that_cannot_be_opened_blinds_the_host(desk):
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(600)
    (name,) = desk.tpu.nodes()

    def bad(node, rank):
        raise Unreachable("10.0.0.1: no ssh server answers on port 22 yet")

    desk.world.backend._workers._open = bad
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    assert name not in desk.tpu.nodes()


def test_on_change_hold_while_provisioning(desk):
    desk.want(FOR_EVER, on_change="hold")
    desk.one_pass()
    (name,) = desk.tpu.nodes()
    desk.want(["sleep", "700"], on_change="hold")
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    assert desk.phase() is Phase.RUNNING or name not in desk.tpu.nodes()


def test_frozen_while_provisioning(desk):
    desk.want(FOR_EVER, tpu={"ttl": "2h"})
    desk.one_pass()
    (name,) = desk.tpu.nodes()
    (k,) = desk.desk.manifests
    desk.desk.manifests.clear()
    desk.desk.frozen[k] = Problem("a.yaml", 1, "broken")
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    desk.desk.frozen.clear()
    assert name not in desk.tpu.nodes()


def test_code_that_cannot_be_delivered(desk):
    desk.want(FOR_EVER)
    desk.one_pass()
    (name,) = desk.tpu.nodes()
    desk.desk.failing["deliver"] = ShipError("no space left on device")
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    desk.desk.failing.clear()
    assert name not in desk.tpu.nodes()


def test_code_that_is_missing_right_after_it_was_brought(desk, tmp_path):
    """Such a VM is given back, and the next one waits out a back-off that grows: it is not tried at every pass."""
    desk.desk.machines["pod"] = FakeMachine("pod", desk.clock.now)
    desk.desk.tree = Tree(object=str(tmp_path / "nowhere.tar.gz"), sha256="0" * 64)
    desk.want(FOR_EVER)
    for _ in range(240):
        desk.one_pass()
        desk.tpu.advance(15)
    refused = [one for one in desk.desk.store.history() if isinstance(one.line, Refused)]
    assert "nowhere.tar.gz" in str(refused[0].line.message) or "missing" in str(refused[0].line.message)
    assert len(refused) == len(desk.desk.sent)  # once a VM
    assert 3 < len(refused) < 12, refused
    assert refused[-1].at - refused[-2].at > refused[1].at - refused[0].at + 120


def test_another_project(desk):
    desk.world.site = replace(desk.world.site, project="here")
    desk.killed()
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.tpu.advance(600)
    desk.world.site = replace(desk.world.site, project="there")
    # the shell's default project is another one now: its listings are complete and empty, its get says 404
    from reconciler.core.tpu import Listing

    desk.killed()
    desk.world.backend._control.list = Listing
    desk.world.backend._control.get = lambda zone, name: None
    s = desk.reconciler.look()
    assert not any(isinstance(line, Ended) for _, line in s.plan.lines)


def test_fixed_and_queued_waiting_is_cancelled(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 86400.0, "spot": True})
    desk.world.site = replace(desk.world.site, fixed=True)
    desk.killed()
    desk.tpu.fault("CreateQueuedResource", wait_s=5 * 3600, times=None)
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(60)
    desk.drop()
    for _ in range(15):
        desk.one_pass()
        desk.tpu.advance(600)
    assert desk.tpu.queued() == {}


def test_foreign_vm_of_the_same_run_id_in_another_zone(desk):
    desk.machines_max = 4
    desk.killed()
    desk.want(FOR_EVER, tpu={"zones": [OTHER]})
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    ((name, node),) = desk.tpu.nodes(OTHER).items()
    md = dict(node["metadata"])
    r = json.loads(md["reconciler-run"])
    r["owner"] = "another"
    r["token"] = "other"
    r["place"] = {"zone": ZONE}
    md["reconciler-run"] = json.dumps(r)
    desk.tpu.create(name, type="v4-8", zone=ZONE, labels={**node["labels"], "reconciler-owner": "another"}, metadata=md)
    desk.tpu.preempt(f"projects/demo-project/locations/{ZONE}/nodes/{name}")
    for _ in range(4):
        desk.one_pass()
        desk.tpu.advance(120)
    assert desk.phase() is Phase.RUNNING
    assert desk.creates() == 1


def test_preempted_queued_spot_is_a_preemption(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault("CreateQueuedResource", suspend_after_s=4000)
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(200)
        e = [k for k in kinds(desk) if k[0] == "Ended"]
        if e:
            break
    desk.world.power_off()
    assert e[0][1] == "preemption"


def test_given_up_for_capacity_pays_from_capacity(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, capacity_s=600.0, boot_s=60.0)
    desk.tpu.fault("CreateNode", stuck="CREATING", times=None)
    desk.want(FOR_EVER, restart={"infrastructure": 1, "backoff": {"initial": 0}})
    for _ in range(150):
        desk.one_pass()
        desk.tpu.advance(60)
    e = [k for k in kinds(desk) if k[0] == "Ended"]
    assert {x[1] for x in e} == {"capacity"}


def test_a_delete_whose_operation_fails_is_billed_once(desk):
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.tpu.fault("DeleteNode", lro_error={"code": 13, "message": "internal"}, times=10)
    for _ in range(60):
        desk.one_pass()
        desk.tpu.advance(60)
        if not desk.tpu.nodes():
            break
    said = [e.line.cost for e in desk.desk.store.history() if type(e.line).__name__ == "Billed"]
    (memory,) = desk.desk.store.memories().values()
    assert len(said) > 1
    assert memory.cost == said[-1]


def test_a_vm_that_cancel_deletes_is_billed(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu)
    desk.tpu.fault("CreateNode", stuck="CREATING", times=None)
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(3000)
    desk.drop()
    for _ in range(10):
        desk.one_pass()
        desk.tpu.advance(60)
    assert not desk.tpu.nodes()
    t = desk.reconciler.look().plan.spending.total
    assert t > 0


def test_per_run_switched_off_with_a_live_vm(desk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.world.site = replace(desk.world.site, fixed=True)
    desk.killed()
    desk.drop()
    for _ in range(15):
        desk.one_pass()
        desk.tpu.advance(600)
    assert not desk.tpu.nodes()


def test_per_run_switched_off_while_it_is_made(desk):
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(600)
    desk.world.site = replace(desk.world.site, fixed=True)
    desk.killed()
    for _ in range(4):
        desk.one_pass()
        desk.tpu.advance(600)
    assert desk.creates() == 1


def test_edit_while_ssh_is_away_for_a_moment(desk):
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.want(["sleep", "700"])
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    desk.one_pass()
    desk.world.switches[0].hurt = Hurt.NOTHING
    assert all(v["state"] == "READY" for v in desk.tpu.nodes().values())


def test_blind_host_with_nothing_open_is_said(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.one_pass()
    desk.one_pass()
    desk.tpu.fault("ListNodes", status="PERMISSION_DENIED", message="denied", times=None)
    s = desk.reconciler.look()

    assert s.partial


def test_ready_without_all_endpoints(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu)
    desk.world.site = replace(
        desk.world.site,
        wish=replace(desk.world.site.wish, accelerator_type="v4-32"),
        chips=16,
    )
    desk.killed()
    desk.tpu.fault("CreateNode", endpoints="partial")
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(600)
    desk.one_pass()
    assert not any("started on 3 of 3" in d.message for d in desk.done)


def test_waiting_requests_count_in_max_cost_per_hour(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault("CreateQueuedResource", wait_s=3000, times=None)
    desk.machines_max, desk.limits = 4, Limits(max_cost_per_hour=20.0)
    desk.killed()
    two_jobs(desk)
    for _ in range(10):
        desk.one_pass()
        desk.tpu.advance(60)
    assert len(desk.tpu.queued()) == 1


def test_hold_of_the_open_attempt_blocks_release():
    from reconciler.core.actions import Verb
    from reconciler.core.machine import Machine
    from reconciler.core.memory import Memory
    from reconciler.core.observation import Census, Observation
    from reconciler.core.plan import World, plan
    from reconciler.load.normal import decode
    from tests.worlds import job, run_of

    w = job("a")
    old = run_of(w, attempt=1, host="pod")
    new = run_of(w, attempt=2, host="cluster")
    m = Machine("vm", ZONE, "1", w.key, old.run_id, "owner", "PREEMPTED", dead=True, price_per_hour=10.0)
    world = World(
        {w.key: w},
        {},
        True,
        {w.key: Memory(w.key, attempt=2, run=new, submitted=True)},
        Observation({"pod": Census("pod", True, machines=(m,)), "cluster": Census("cluster", False, error="no route")}),
        (),
        "owner",
        1e6,
        decode,
        lambda g: None,
    )
    p = plan(world)
    assert any(a.verb is Verb.DELETE for a in p.actions)


def test_disposal_never_with_broken_manifest_and_lost_state(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.NEVER))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    (k,) = desk.desk.manifests
    desk.desk.manifests.clear()
    desk.desk.frozen[k] = Problem("a.yaml", 1, "broken")
    desk.forget_all()
    desk.one_pass()
    assert all(v["state"] == "READY" for v in desk.tpu.nodes().values())


def test_forget_with_manifest_deadlocks(desk):
    from reconciler.core.memory import Forgotten

    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    (k,) = desk.desk.manifests
    desk.desk.store.lock()
    desk.desk.store.append([(k, Forgotten("by request", released=True))], commit="")
    desk.desk.store.unlock()
    for _ in range(20):
        desk.one_pass()
        desk.tpu.advance(900)
    assert desk.phase() is Phase.RUNNING


def test_orphaned_before_it_began(desk):
    desk.want(FOR_EVER, deletion="orphan", tpu={"ttl": "2h"})
    desk.one_pass()
    desk.drop()
    for _ in range(40):
        desk.one_pass()
        desk.tpu.advance(900)
    assert not desk.tpu.nodes()


def test_leftover_in_a_zone_removed_from_the_inventory(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.ALWAYS, 3600.0))
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    desk.one_pass()
    desk.world.site = replace(desk.world.site, zones=(OTHER,))
    desk.killed()
    for _ in range(30):
        desk.one_pass()
        desk.tpu.advance(600)
    assert not desk.tpu.nodes(ZONE)


def test_queued_without_quota_ends(tmp_path, bundle, tpu):
    desk = TpuDesk(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    desk.tpu.fault(
        "CreateQueuedResource",
        fail={"code": 8, "message": "Quota limit 'TPUV4' has been exceeded. Limit: 0 in region us-central2"},
        times=None,
    )
    desk.want(FOR_EVER, restart={"backoff": {"initial": 0}})
    for _ in range(60):
        desk.one_pass()
        desk.tpu.advance(120)
    n = sum(c.code == "OK" for c in desk.tpu.calls("CreateQueuedResource"))
    assert n <= 2


def test_open_run_on_renamed_host(desk):
    desk.want(["true"])
    desk.one_pass()
    desk.world.site = replace(desk.world.site, heirs_of=lambda name: name == "pod")
    desk.world.backend = desk.world.open("renamed")
    view = HostView("renamed", "tpu", "lab", {}, rented=Rented("tpu-v4", 4, 8, (ZONE, OTHER), 1, 3.22))
    from reconciler.app.converge import Reconciler

    desk.reconciler = Reconciler(
        desk.desk.ports(hosts=(view,), backends=lambda n: desk.world.backend), Options(approved=True)
    )
    for _ in range(60):
        desk.one_pass()
        desk.tpu.advance(600)
    desk.world.backend = desk.world.open()
    assert not desk.tpu.nodes()


def test_fixed_renamed_host_after_lost_state_makes_a_second_vm(desk):
    desk.world.site = replace(desk.world.site, fixed=True)
    desk.killed()
    desk.want(FOR_EVER)
    desk.one_pass()
    desk.tpu.advance(600)
    desk.forget_all()
    desk.world.site = replace(desk.world.site, heirs_of=lambda name: name == "pod")
    desk.world.backend = desk.world.open("renamed")
    view = HostView("renamed", "tpu", "lab", {}, rented=Rented("tpu-v4", 4, 8, (ZONE, OTHER), 1, 3.22))
    from reconciler.app.converge import Reconciler

    desk.reconciler = Reconciler(
        desk.desk.ports(hosts=(view,), backends=lambda n: desk.world.backend), Options(approved=True)
    )
    for _ in range(4):
        desk.one_pass()
        desk.tpu.advance(600)
    assert desk.creates() == 1


def test_ttl_with_silent_workers_pays_timeout(desk):
    desk.want(FOR_EVER, tpu={"ttl": "2h"}, restart={"timeout": 0, "backoff": {"initial": 0}})
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    desk.tpu.advance(7300)
    desk.world.switches[0].hurt = Hurt.UNREACHABLE
    for _ in range(6):
        desk.one_pass()
        desk.tpu.advance(120)
    desk.world.power_off()
    desk.world.switches[0].hurt = Hurt.NOTHING
    e = [k for k in kinds(desk) if k[0] == "Ended"]
    assert e[0][1] == "timeout"


def test_endpoints_change_after_a_repair(desk, tmp_path):
    """the driver keeps one transport per (name, ident, rank)"""
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    opened = []
    inner = desk.world.backend._workers._open
    desk.world.backend._workers._open = lambda node, rank: (
        opened.append(node.endpoints[rank].external),
        inner(node, rank),
    )[1]
    (name,) = desk.tpu.nodes()
    with desk.tpu.world.lock:
        node = desk.tpu._node(name) if hasattr(desk.tpu, "_node") else None
        if node:
            node.json["networkEndpoints"][0]["accessConfig"] = {"externalIp": "203.0.113.77"}
            node.json["networkEndpoints"][0]["ipAddress"] = "10.9.9.9"
    desk.one_pass()
    assert opened

"""The TPU driver against an emulated control plane (real google-cloud-tpu over gRPC); workers are processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.tpu import TpuBackend, TpuSite
from reconciler.backends.tpu_client import Patience, TpuClientControl
from reconciler.core.cause import Cause
from reconciler.core.errors import ReconcilerError, Rejected
from reconciler.core.machine import Disposal
from reconciler.core.observation import Presence, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Declined, Facts, Known, LogCursor, Look
from reconciler.core.run import Run
from reconciler.core.secret import Secret
from reconciler.core.tpu import NodeWish, TpuNode
from reconciler.core.transport import Transport
from reconciler.load.normal import decode
from reconciler.source.deliver import deliver_runtime, runtime_path
from reconciler.transports.local import LocalTransport
from tests.backends.sites import Switch
from tests.emulators.tpu.emulator import GET_LIBRARY, Emulator, have_library
from tests.worlds import OWNER, job, run_of

pytestmark = [pytest.mark.real, pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)]

ZONE, OTHER = "us-central2-b", "us-east5-a"
FOR_EVER = ["sleep", "600"]


def one_after_another(calls: Mapping[int, Any]) -> dict[int, Any]:
    results = {}
    for key, call in calls.items():
        try:
            results[key] = call()
        except ReconcilerError as error:
            results[key] = error
    return results


class World:
    """One host of v4-32 (4 workers), emulated; each worker is this machine, with directories of its own."""

    def __init__(self, root: Path, bundle: Any, tpu: Emulator, **site: Any) -> None:
        self.root, self.tpu, self._bundle = root, tpu, bundle
        self.switches: dict[int, Switch] = {}
        wish = NodeWish("", "", "v4-32", "tpu-ubuntu2204-base", **site.pop("wish", {}))
        self.site = TpuSite(wish, (ZONE,), fixed=False, chip="tpu-v4", chips=16, **site)
        self.backend = self.open()

    def open(self, name: str = "pod") -> TpuBackend:
        share = f"{self.root}/share"
        paths = NodePaths(
            status=f"{self.root}/status",
            work=f"{self.root}/work",
            checkpoints=f"{self.root}/checkpoints",
            results=f"{self.root}/results",
            bundle=runtime_path(share, self._bundle.sha256),
        )

        def open_worker(node: TpuNode, rank: int) -> Transport:
            return self.switches.setdefault(rank, Switch(LocalTransport(f"{node.name}-{rank}")))

        return TpuBackend(
            NodeSettings(name, paths, heartbeat_s=0.2, python=sys.executable),
            self.site,
            TpuClientControl(
                self.tpu.world.project, endpoint=f"http://{self.tpu.grpc}", patience=Patience(5.0, 5.0, 0.2, 0.05)
            ),
            open_worker=open_worker,
            install=lambda transport: deliver_runtime(transport, share, self._bundle.data, deadline_s=60.0) and None,
            abreast=one_after_another,
            owner=OWNER,
            now=lambda: self.tpu.now,
        )

    def run(self, name: str = "train", command: Any = FOR_EVER, *, attempt: int = 1, **spec: Any) -> Run:
        wanted = job(name, spec={"command": command, "grace": "1s", **spec})
        made = run_of(wanted, attempt=attempt, host="pod")
        return replace(made, token=f"token-{made.run_id}-{id(self):x}", place={"zone": ZONE}, gpus=None)

    def submit(self, run: Run, **facts: Any) -> Accepted | Declined | None:
        item = self.backend.render(run, Facts(decode(run.normal), None, **{"secrets": {}, **facts}))
        return self.backend.submit([item]).get(run.run_id)

    def see(self, run: Run | Known) -> Sighting:
        known = run if isinstance(run, Known) else Known(run)
        return self.backend.observe(Look((known,))).look(known.run.run_id)

    def until(self, holds: Any) -> Any:
        import time

        end = time.monotonic() + 30
        while True:
            value = holds()
            if value:
                return value
            assert time.monotonic() < end, "did not come true within 30 s"
            time.sleep(0.02)

    def start(self, run: Run) -> Known:
        """Its VM made and ready, and the run begun on all workers."""
        first = self.submit(run)
        assert isinstance(first, Accepted), first
        self.tpu.advance(600)
        second = self.submit(run)
        assert isinstance(second, Accepted), second
        assert second.handle.native.get("begun"), second
        known = Known(run, second.handle)
        self.until(lambda: (seen := self.see(known)).report and seen.report.status is not ReportStatus.PREPARING)
        return known

    def power_off(self) -> None:
        """What a VM that is gone takes with it: here nothing goes by itself."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"RECONCILER_STATUS_DIR={self.root}/".encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)

    def machines(self) -> list[Any]:
        return list(self.backend.observe(Look()).machines)


@pytest.fixture
def tpu() -> Iterator[Emulator]:
    with Emulator(zones=[ZONE, OTHER]) as made:
        yield made


@pytest.fixture
def world(tmp_path, bundle, tpu) -> Iterator[World]:
    made = World(tmp_path, bundle, tpu)
    yield made
    for seen in made.backend.observe(Look()).sightings.values():
        if seen.alive and seen.run is not None:
            made.backend.cancel(Known(seen.run), reason="cancelled", grace_s=0.0)

            def over(run: Run = seen.run) -> bool:
                tpu.advance(60)
                return not made.see(run).alive

            made.until(over)
    made.backend.close()


def test_a_vm_is_made_with_our_mark_and_the_run_waits_for_it(world: World):
    run = world.run()
    answer = world.submit(run)
    assert isinstance(answer, Accepted)
    assert "is being made" in answer.words
    (node,) = world.tpu.nodes().values()
    assert node["labels"]["reconciler-owner"] == run.owner
    seen = world.see(Known(run, answer.handle))
    assert seen.alive
    assert not seen.machine.ready
    assert seen.run == run  # rebuilt from the VM alone
    assert not seen.unfinished


def test_the_same_run_asked_for_twice_is_one_vm(world: World):
    run = world.run()
    assert isinstance(world.submit(run), Accepted)
    again = world.submit(run)
    assert isinstance(again, Accepted)
    assert again.repeated
    assert len(world.tpu.nodes()) == 1


def test_a_ready_vm_gets_its_run_on_all_workers_with_ranks(world: World, tmp_path):
    out = tmp_path / "ranks"
    script = f'echo "$RECONCILER_NODE_RANK/$RECONCILER_NUM_NODES $JAX_COORDINATOR_ADDRESS" >> {out}'
    run = world.run(command=["sh", "-c", script])
    first = world.submit(run)
    assert isinstance(first, Accepted)
    world.tpu.advance(600)
    seen = world.see(Known(run, first.handle))
    assert seen.machine.ready
    assert "4 of 4 workers" in seen.unfinished
    second = world.submit(run)
    assert isinstance(second, Accepted)
    assert "4 of 4 workers" in second.words
    known = Known(run, second.handle)
    seen = world.until(lambda: (one := world.see(known)) and not one.alive and one)
    assert seen.report.status is ReportStatus.COMPLETED
    lines = sorted(out.read_text().splitlines())
    assert [line.split()[0] for line in lines] == ["0/4", "1/4", "2/4", "3/4"]
    assert len({line.split()[1] for line in lines}) == 1


def test_a_preempted_vm_ends_its_run_as_preempted(world: World):
    known = world.start(world.run())
    name = known.handle.native["node"]
    world.tpu.preempt(name)
    seen = world.see(known)
    assert not seen.alive
    assert (seen.report.status, seen.report.cause) == (ReportStatus.PREEMPTED, Cause.PREEMPTION)
    (machine,) = world.machines()
    assert machine.dead
    assert "is being deleted" in world.backend.release(machine)
    world.tpu.advance(600)
    assert world.machines() == []


def test_a_vm_that_vanished_is_a_loss(world: World):
    known = world.start(world.run())
    world.tpu.vanish(known.handle.native["node"])
    world.tpu.advance(300)
    seen = world.see(known)
    assert not seen.alive
    assert seen.report.cause is Cause.INFRASTRUCTURE


def test_no_capacity_ends_the_attempt_with_its_cause(world: World):
    world.tpu.fault("CreateNode", lro_error={"code": 8, "message": "There is no more capacity in the zone"})
    run = world.run()
    answer = world.submit(run)
    assert isinstance(answer, Accepted)
    world.tpu.advance(600)
    seen = world.see(Known(run, answer.handle))
    assert not seen.alive
    assert seen.report.cause is Cause.CAPACITY
    assert "no more capacity" in seen.report.message


def test_quota_is_told_at_once(world: World):
    world.tpu.quota(ZONE, v4=0)
    answer = world.submit(world.run())
    assert isinstance(answer, Declined)
    assert answer.reason in ("quota", "no-quota")
    assert world.tpu.nodes() == {}


def test_a_create_whose_answer_is_lost_is_found_again(world: World):
    world.tpu.fault("CreateNode", status="UNAVAILABLE", message="backend error", after=True)
    run = world.run()
    assert world.submit(run) is None
    assert world.see(run).alive
    assert isinstance(world.submit(run), Accepted)
    assert len(world.tpu.nodes()) == 1


def test_one_failed_worker_of_four_breaks_the_gang(world: World):
    script = 'if [ "$RECONCILER_NODE_RANK" = 2 ]; then exit 7; fi; exec sleep 600'
    known = world.start(world.run(command=["sh", "-c", script]))
    seen = world.until(lambda: (one := world.see(known)) and one.broken and one)
    assert seen.alive
    assert seen.report.exit_code == 7
    assert "worker 2 of 4" in seen.report.message
    assert world.backend.cancel(known, reason="infrastructure", grace_s=0.5) == "signalled"
    ended = world.until(lambda: (one := world.see(known)) and not one.alive and one)
    assert (ended.report.cause, ended.report.exit_code) == (Cause.FAILURE, 7)


def test_a_worker_that_cannot_be_reached_is_said_and_ends_nothing(world: World):
    from tests.backends.sites import Hurt

    known = world.start(world.run())
    world.switches[3].hurt = Hurt.UNREACHABLE
    seen = world.see(known)
    assert seen.alive
    assert "worker 3 cannot be asked" in seen.report.detail
    world.switches[3].hurt = Hurt.NOTHING


def test_cancel_ends_all_workers_and_then_the_vm_is_left_over(world: World):
    known = world.start(world.run())
    assert world.backend.cancel(known, reason="cancelled", grace_s=0.5) == "signalled"
    seen = world.until(lambda: (one := world.see(known)) and not one.alive and one)
    assert seen.report.status is ReportStatus.CANCELLED
    (machine,) = world.machines()
    assert machine.ready


def test_cancel_of_a_vm_that_never_came_deletes_it(world: World):
    run = world.run()
    answer = world.submit(run)
    assert "is being deleted" in world.backend.cancel(Known(run, answer.handle), reason="cancelled", grace_s=1.0)
    world.tpu.advance(600)
    assert world.tpu.nodes() == {}


def test_a_listing_that_fails_proves_nothing(world: World):
    known = world.start(world.run())
    world.tpu.fault("ListNodes", status="PERMISSION_DENIED", message="denied", times=None)
    census = world.backend.observe(Look((known,)))
    assert not census.complete
    assert census.machines == ()
    assert census.look(known.run.run_id).presence is Presence.UNKNOWN
    world.tpu.heal()


def test_foreign_vms_are_not_seen_and_never_deleted(world: World, tpu: Emulator):
    run = world.run()
    tpu.create("somebodys", accelerator_type="v4-8")
    assert isinstance(world.submit(run), Accepted)
    (machine,) = world.machines()
    assert machine.run_id == run.run_id
    tpu.vanish(machine.name)
    tpu.create(machine.name, accelerator_type="v4-8")
    with pytest.raises(Rejected, match="another VM"):
        world.backend.release(machine)
    assert set(tpu.nodes()) == {"somebodys", machine.name}
    answer = world.submit(run)
    assert isinstance(answer, Declined)
    assert "was not made for this run" in answer.message


def test_the_disposal_travels_with_the_vm(tmp_path, bundle, tpu):
    from reconciler.core.machine import DeleteOn

    world = World(tmp_path, bundle, tpu, disposal=Disposal(DeleteOn.SUCCESS, 60.0, 3600.0), price_per_hour=51.52)
    world.submit(world.run())
    (machine,) = world.machines()
    assert machine.disposal == Disposal(DeleteOn.SUCCESS, 60.0, 3600.0)
    assert machine.price_per_hour == 51.52


def test_the_log_of_each_worker(world: World):
    script = 'echo "I am $RECONCILER_NODE_RANK"; exec sleep 600'
    known = world.start(world.run(command=["sh", "-c", script]))
    for rank in range(4):
        text = world.until(lambda rank=rank: world.backend.logs(known, LogCursor(worker=rank)).data.decode())
        assert f"I am {rank}" in text


def test_a_ready_vm_whose_workers_refuse_the_run_stays_the_runs(world: World):
    """Until its time is up: to drop the run would leave a VM that is found, minded and refused again, for ever."""
    run = world.run()
    assert isinstance(world.submit(run), Accepted)
    world.tpu.advance(600)
    (world.root / "status").mkdir()
    (world.root / "status" / "general").write_text("in the way")
    answer = world.submit(run)
    assert isinstance(answer, Accepted)
    assert "3 of 4 workers" in answer.words
    assert "cannot write" in answer.words
    assert "1 of 4 workers" in world.see(run).unfinished
    (world.root / "status" / "general").unlink()
    assert "4 of 4 workers" in world.submit(run).words


def test_a_worker_that_stays_silent_breaks_the_gang_after_a_while(world: World):
    from tests.backends.sites import Hurt

    known = world.start(world.run())
    world.switches[3].hurt = Hurt.UNREACHABLE
    assert not world.see(known).broken
    world.tpu.advance(world.site.boot_s + 1)
    seen = world.see(known)
    assert seen.broken
    assert "worker 3 of" in seen.report.message
    world.switches[3].hurt = Hurt.NOTHING
    assert not world.see(known).broken


def test_a_worker_without_a_heartbeat_is_named_and_ends_nothing(world: World):
    known = world.start(world.run())
    (started,) = (world.root / "status/.workers/2").glob("*/*/*/*/started")
    supervisor = json.loads(started.read_text())["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        assert "heartbeat" not in world.see(known).error
        before = world.see(known).report.last_heartbeat
        world.tpu.advance(30)
        world.until(lambda: (world.see(known), world.tpu.advance(31)) and "heartbeat" in world.see(known).error)
        seen = world.see(known)
        assert seen.error.startswith("worker 2 has written no heartbeat for ")
        assert "worker 1" not in seen.error
        assert (seen.alive, seen.broken) == (True, False)
        assert seen.report.last_heartbeat >= before
        again = world.until(lambda: (one := world.see(known).report) and one.seq > seen.report.seq and one)
        assert again.last_heartbeat == seen.report.last_heartbeat  # the oldest of all, while the first goes on
    finally:
        os.kill(supervisor, signal.SIGCONT)
    world.until(lambda: "heartbeat" not in world.see(known).error)


def test_a_repair_is_waited_for_and_then_given_up(world: World):
    known = world.start(world.run())
    world.tpu.set_state(known.handle.native["node"], "REPAIRING")
    seen = world.see(known)
    assert seen.alive
    assert not seen.broken
    world.tpu.set_state(known.handle.native["node"], "REPAIRING")
    world.tpu.advance(world.site.boot_s + 1)
    world.tpu.set_state(known.handle.native["node"], "REPAIRING")
    assert world.see(known).broken
    assert "is being deleted" in world.backend.cancel(known, reason="infrastructure", grace_s=1.0)
    world.power_off()


def test_a_maintenance_is_said_and_ends_nothing(world: World):
    known = world.start(world.run())
    world.tpu.maintenance(known.handle.native["node"])
    seen = world.see(known)
    assert seen.alive
    assert "maintenance" in seen.machine.words


def test_a_queued_request_waits_makes_its_vm_and_goes_with_it(tmp_path, bundle, tpu):
    world = World(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    tpu.settings(wait_s=1000.0)
    run = world.run(command=["true"])
    answer = world.submit(run)
    assert isinstance(answer, Accepted)
    assert "queued request" in answer.words
    tpu.advance(60)
    seen = world.see(Known(run, answer.handle))
    assert seen.alive
    assert "waits for capacity" in seen.machine.words
    assert isinstance(world.submit(run), Accepted)
    assert len(tpu.queued()) == 1
    tpu.advance(3000)
    known = Known(run, world.submit(run).handle)
    world.until(lambda: not world.see(known).alive)
    (machine,) = world.machines()
    world.backend.release(machine)
    tpu.advance(3000)
    assert world.machines() == []
    assert tpu.queued() == {}
    world.backend.close()


def test_a_queued_request_that_fails_is_told_and_deleted(tmp_path, bundle, tpu):
    world = World(tmp_path, bundle, tpu, wish={"queued_s": 600.0, "spot": True})
    tpu.settings(wait_s=100000.0)
    run = world.run()
    answer = world.submit(run)
    tpu.advance(2000)
    seen = world.see(Known(run, answer.handle))
    assert not seen.alive
    assert seen.report.cause is Cause.CAPACITY
    (machine,) = world.machines()
    assert machine.dead
    world.backend.release(machine)
    tpu.advance(600)
    assert tpu.queued() == {}
    world.backend.close()


def test_a_secret_reaches_the_program_and_nothing_that_google_is_told(world: World, tmp_path):
    out = tmp_path / "told"
    run = world.run(command=["sh", "-c", f'echo "$TOKEN" >> {out}'])
    secrets = {"TOKEN": Secret("canary-7f3a")}
    assert isinstance(world.submit(run, secrets=secrets), Accepted)
    world.tpu.advance(600)
    known = Known(run, world.submit(run, secrets=secrets).handle)
    world.until(lambda: not world.see(known).alive)
    assert out.read_text().split() == ["canary-7f3a"] * 4
    assert "canary" not in repr([(call.request, call.answer) for call in world.tpu.calls()])
    assert "canary" not in repr(world.backend.render(run, Facts(decode(run.normal), None, secrets)).body)


def test_zones_that_do_not_offer_the_type_are_named(tmp_path, bundle):
    with Emulator(zones={ZONE: ["v4"], OTHER: ["v5p"]}) as tpu:
        world = World(tmp_path, bundle, tpu)
        world.site = replace(world.site, zones=(ZONE, OTHER))
        assert world.open().not_offered() == (OTHER,)
        world.backend.close()


def test_a_waiting_request_is_withdrawn_after_the_inventory_stopped_asking_by_requests(tmp_path, bundle, tpu):
    world = World(tmp_path, bundle, tpu, wish={"queued_s": 21600.0, "spot": True})
    tpu.settings(wait_s=100000.0)
    run = world.run()
    answer = world.submit(run)
    world.site = replace(world.site, wish=replace(world.site.wish, queued_s=None), fixed=True)
    world.backend = world.open("pod")
    seen = world.see(Known(run))
    assert seen.alive
    said = world.backend.cancel(Known(run), reason="deleted", grace_s=1.0)
    assert "is being deleted" in said, answer
    tpu.advance(600)
    assert tpu.queued() == {}
    world.backend.close()

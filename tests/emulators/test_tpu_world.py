"""The emulated Cloud TPU service by itself: no sockets, a clock that stands still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulators.tpu import catalogue
from tests.emulators.tpu.clock import Clock, moment, stamp
from tests.emulators.tpu.control import VERBS, Control
from tests.emulators.tpu.errors import Dropped, Garbled, Refused
from tests.emulators.tpu.faults import ANSWER, BY_METHOD
from tests.emulators.tpu.nodes import HEALTHS, STATES
from tests.emulators.tpu.world import World

ZONE = "projects/demo-project/locations/us-central2-b"
BODY = {
    "acceleratorType": "v4-16",
    "runtimeVersion": "tpu-ubuntu2204-base",
    "networkConfig": {"enableExternalIps": True},
}
NO_CAPACITY = {"code": 8, "message": 'There is no more capacity in the zone "us-central2-b"'}


class Lab(Control):
    """Calls of the API in few words, in us-central2-b."""

    def __init__(self, **more: Any) -> None:
        super().__init__(World(**{"zones": ["us-central2-b", "us-central1-a"], **more}))

    def call(self, method: str, name: str = "", **request: Any) -> Any:
        kind = "queuedResources" if "Queued" in method else "nodes"
        if method.startswith("Create"):
            ident = "queuedResourceId" if "Queued" in method else "nodeId"
            request = {"parent": ZONE, ident: name, **request}
        elif method.startswith("List"):
            request = {"parent": ZONE, **request}
        elif name:
            request = {"name": name if "/" in name else f"{ZONE}/{kind}/{name}", **request}
        return self.world.call("v2", method, request)

    def make(self, name: str = "n1", **node: Any) -> Any:
        return self.call("CreateNode", name, node={**BODY, **node})

    def ask(self, name: str = "qr1", *, many: int = 0, type: str = "v4-16", **more: Any) -> Any:
        spec: dict[str, Any] = {"parent": ZONE, "node": {**BODY, "acceleratorType": type}}
        spec.update({"multisliceParams": {"nodeCount": many, "nodeIdPrefix": "s"}} if many else {"nodeId": "n1"})
        return self.call("CreateQueuedResource", name, queuedResource={"spot": {}, "tpu": {"nodeSpec": [spec]}, **more})

    def operation(self, begun: Any) -> Any:
        return self.call("GetOperation", begun["name"])

    def listed(self) -> dict[str, Any]:
        found = self.call("ListNodes").get("nodes", [])
        return {node["name"].rpartition("/")[2]: node["state"] for node in found}


@pytest.fixture
def tpu() -> Lab:
    return Lab()


def refused(status: str, words: str = "") -> Any:
    return pytest.raises(Refused, match=f"^{status}: .*{words}")


class TestCatalogue:
    @pytest.mark.parametrize(
        ("name", "chips", "hosts"),
        [
            ("v2-8", 4, 1), ("v2-32", 16, 4), ("v3-8", 4, 1), ("v3-64", 32, 8), ("v4-8", 4, 1), ("v4-16", 8, 2), ("v4-32", 16, 4),
            ("v4-128", 64, 16), ("v5litepod-1", 1, 1), ("v5litepod-4", 4, 1), ("v5litepod-8", 8, 1), ("v5litepod-16", 16, 4),
            ("v5litepod-256", 256, 64), ("v5p-8", 4, 1), ("v5p-32", 16, 4), ("v5p-12288", 6144, 1536), ("v6e-8", 8, 1),
            ("v6e-16", 16, 4),
        ],
    )  # fmt: skip
    def test_chips_and_hosts_of_a_type(self, name: str, chips: int, hosts: int):
        found = catalogue.accelerator(name)
        assert found is not None
        assert (found.chips, found.hosts) == (chips, hosts)

    def test_every_topology_has_the_chips_of_its_type(self):
        for one in catalogue.types(tuple(catalogue.FAMILIES)):
            product = 1
            for side in one.topology.split("x"):
                product *= int(side)
            assert product == one.chips, one
            assert catalogue.by_config(one.config) == one

    @pytest.mark.parametrize("name", ["v4-3", "v4-7", "v4", "v9-8", "", "v5litepod-2", "v4-x", "tpu7x-8"])
    def test_what_is_no_type(self, name: str):
        assert catalogue.accelerator(name) is None


class TestClock:
    def test_what_is_due_happens_in_order_and_each_at_its_time(self):
        clock, seen = Clock(start=1000), []
        clock.at(5, lambda: (seen.append(clock.now()), clock.at(1, lambda: seen.append(clock.now()))))
        clock.at(2, lambda: seen.append(clock.now()))
        clock.advance(1.9)
        assert seen == []
        clock.advance(100)
        assert seen == [1002, 1005, 1006]
        assert clock.now() == pytest.approx(1101.9)

    def test_with_a_real_clock_nothing_happens_until_somebody_asks(self):
        real = [0.0]
        clock, seen = Clock(lambda: real[0], start=1000, speed=10), []
        clock.at(20, lambda: seen.append(clock.now()))
        real[0] = 3.0
        assert (clock.now(), seen) == (1030, [])
        clock.run_due()
        assert seen == [1020]

    @pytest.mark.parametrize("when", [1_798_000_000.0, 1_798_000_000.5, 1_798_000_000.123456])
    def test_stamps_have_as_many_digits_as_they_need(self, when: float):
        assert moment(stamp(when)) == pytest.approx(when, abs=1e-6)
        assert len(stamp(when).partition(".")[2]) in (0, 4, 7)


class TestNodes:
    def test_from_creating_over_ready_to_gone(self, tpu: Lab):
        begun = tpu.make()
        assert begun["metadata"]["verb"] == "create"
        assert "done" not in begun
        node = tpu.call("GetNode", "n1")
        assert node["state"] == "CREATING"
        assert not {"networkEndpoints", "health", "acceleratorConfig"} & set(node)
        tpu.advance(2.9)
        assert tpu.state("n1") == "CREATING"
        tpu.advance(0.1)
        node = tpu.call("GetNode", "n1")
        assert (node["state"], node["health"]) == ("READY", "HEALTHY")
        assert node["acceleratorConfig"] == {"type": "V4", "topology": "2x2x2"}
        assert node["networkEndpoints"] == [
            {"ipAddress": f"127.1.0.{n}", "port": 8470, "accessConfig": {"externalIp": f"127.1.0.{n}"}} for n in (1, 2)
        ]
        done = tpu.operation(begun)
        assert done["done"]
        assert done["response"]["@type"] == "type.googleapis.com/google.cloud.tpu.v2.Node"
        assert done["response"]["state"] == "READY"
        ended = tpu.call("DeleteNode", "n1")
        assert tpu.listed() == {"n1": "DELETING"}
        tpu.advance(2)
        assert tpu.listed() == {}
        assert tpu.operation(ended)["response"] == {"@type": "type.googleapis.com/google.protobuf.Empty"}
        with refused("NOT_FOUND", "nodes/n1' was not found"):
            tpu.call("GetNode", "n1")

    def test_without_external_addresses(self, tpu: Lab):
        tpu.make(networkConfig={})
        tpu.advance(3)
        assert tpu.nodes()["n1"]["networkEndpoints"][0] == {"ipAddress": "127.1.0.1", "port": 8470}

    def test_a_topology_instead_of_a_type(self, tpu: Lab):
        body = {key: value for key, value in BODY.items() if key != "acceleratorType"}
        config = {"type": "V4", "topology": "2x2x4"}
        tpu.call("CreateNode", "n1", node={**body, "acceleratorConfig": config})
        tpu.advance(3)
        assert tpu.nodes()["n1"]["acceleratorType"] == "v4-32"
        assert len(tpu.nodes()["n1"]["networkEndpoints"]) == 4

    def test_two_nodes_of_one_name_in_turn_differ_by_id(self, tpu: Lab):
        tpu.make()
        tpu.advance(3)
        first = tpu.nodes()["n1"]["id"]
        with refused("ALREADY_EXISTS", "already exists"):
            tpu.make()
        tpu.call("DeleteNode", "n1")
        with refused("ALREADY_EXISTS"):  # the name is taken until it is gone
            tpu.make()
        tpu.advance(2)
        tpu.make()
        assert tpu.nodes()["n1"]["id"] != first

    @pytest.mark.parametrize(
        ("node", "status", "words"),
        [
            ({"acceleratorType": "v4-7"}, "INVALID_ARGUMENT", "accelerator v4-7 was not found in zone us-central2-b"),
            ({"runtimeVersion": "v2-alpha-tpuv7"}, "NOT_FOUND", "runtimeVersions/v2-alpha-tpuv7"),
            ({"runtimeVersion": ""}, "INVALID_ARGUMENT", "Runtime version must be specified"),
            ({"labels": {"Run": "x"}}, "INVALID_ARGUMENT", "Invalid label"),
            ({"labels": {"run": "A b"}}, "INVALID_ARGUMENT", "Invalid label"),
        ],
    )
    def test_what_cannot_be_created(self, tpu: Lab, node: Any, status: str, words: str):
        with refused(status, words):
            tpu.make(**node)
        assert tpu.nodes() == {}

    @pytest.mark.parametrize("name", ["N1", "1n", "n_1", "n" * 64, "n-"])
    def test_names_that_are_none(self, tpu: Lab, name: str):
        with refused("INVALID_ARGUMENT", "Invalid node id"):
            tpu.make(name)

    def test_what_is_not_ours_is_forbidden_not_absent(self, tpu: Lab):
        with refused("PERMISSION_DENIED", "Location mars is not found or access is unauthorized"):
            tpu.call("GetNode", "projects/demo-project/locations/mars/nodes/n1")
        with refused("PERMISSION_DENIED", "or it may not exist"):
            tpu.world.call("v2", "ListNodes", {"parent": "projects/theirs/locations/us-central2-b"})

    def test_a_zone_offers_what_it_is_told_to(self):
        tpu = Lab(zones={"us-central2-b": ["v4"]})
        with refused("INVALID_ARGUMENT", "could not be found in the zonal accelerator configurations"):
            tpu.make(acceleratorType="v6e-8")
        types = tpu.call("ListAcceleratorTypes")["acceleratorTypes"]
        assert {one["type"].split("-")[0] for one in types} == {"v4"}
        assert tpu.world.call("v2", "ListRuntimeVersions", {"parent": ZONE})["runtimeVersions"]

    def test_a_preempted_node_stays_until_it_is_deleted(self, tpu: Lab):
        tpu.fault("CreateNode", preempt_after_s=60)
        tpu.make(schedulingConfig={"spot": True})
        tpu.advance(62.9)
        assert tpu.listed() == {"n1": "READY"}
        tpu.advance(0.1)
        assert tpu.listed() == {"n1": "PREEMPTED"}
        tpu.advance(10 * 86400)
        assert tpu.listed() == {"n1": "PREEMPTED"}
        for method, request in (
            ("StartNode", {}),
            ("StopNode", {}),
            ("UpdateNode", {"updateMask": "labels", "node": {"name": f"{ZONE}/nodes/n1", "labels": {"a": "b"}}}),
        ):
            with refused("INVALID_ARGUMENT", "is not supported while in state PREEMPTED"):
                tpu.call(method, *(() if request else ("n1",)), **request)
        tpu.call("DeleteNode", "n1")
        tpu.advance(2)
        assert tpu.listed() == {}

    def test_preempted_while_it_is_created(self, tpu: Lab):
        begun = tpu.make()
        tpu.preempt("n1")
        tpu.advance(3)
        assert tpu.operation(begun)["error"]["code"] == 3
        assert tpu.state("n1") == "PREEMPTED"

    def test_stop_and_start_are_for_one_host(self, tpu: Lab):
        tpu.create("one", type="v4-8")
        tpu.create("two", type="v4-16")
        tpu.call("StopNode", "one")
        assert tpu.state("one") == "STOPPING"
        with refused("ABORTED", "unable to queue the operation"):
            tpu.call("StartNode", "one")
        tpu.advance(1)
        assert tpu.state("one") == "STOPPED"
        tpu.call("StartNode", "one")
        assert tpu.state("one") == "STARTING"
        tpu.advance(1)
        assert tpu.state("one") == "READY"
        with refused("INVALID_ARGUMENT", "more than one host"):
            tpu.call("StopNode", "two")

    def test_update_changes_what_may_be_changed(self, tpu: Lab):
        tpu.create("n1", labels={"a": "b"})
        node = {"name": f"{ZONE}/nodes/n1", "labels": {"run": "r2"}, "acceleratorType": "v4-512"}
        begun = tpu.call("UpdateNode", updateMask="labels", node=node)
        assert tpu.nodes()["n1"]["labels"] == {"a": "b"}
        tpu.advance(1)
        assert tpu.nodes()["n1"]["labels"] == {"run": "r2"}
        assert tpu.nodes()["n1"]["acceleratorType"] == "v4-8"
        assert tpu.operation(begun)["response"]["labels"] == {"run": "r2"}
        with refused("INVALID_ARGUMENT", "acceleratorType cannot be updated"):
            tpu.call("UpdateNode", updateMask="acceleratorType", node=node)

    def test_deleting_while_creating_ends_the_create(self, tpu: Lab):
        begun = tpu.make()
        tpu.call("DeleteNode", "n1")
        assert tpu.operation(begun)["error"]["code"] == 10
        with refused("ABORTED", "unable to queue"):
            tpu.call("DeleteNode", "n1")
        tpu.advance(10)
        assert tpu.listed() == {}

    @pytest.mark.parametrize("state", [*STATES, 99, "SOMETHING_NEW"])
    def test_every_state_can_be_had(self, tpu: Lab, state: Any):
        tpu.create("n1")
        tpu.set_state("n1", state)
        assert tpu.call("GetNode", "n1")["state"] == state

    @pytest.mark.parametrize("health", HEALTHS)
    def test_every_health_can_be_had(self, tpu: Lab, health: str):
        tpu.fault("CreateNode", health=health)
        tpu.make()
        tpu.advance(3)
        assert tpu.nodes()["n1"]["health"] == health

    def test_maintenance_is_announced_by_the_health(self, tpu: Lab):
        tpu.fault("CreateNode", maintenance_after_s=100)
        tpu.make()
        tpu.advance(103)
        node = tpu.call("GetNode", "n1")
        assert (node["state"], node["health"]) == ("READY", "UNHEALTHY_MAINTENANCE")

    def test_repairing_and_back_with_other_addresses(self, tpu: Lab):
        tpu.fault("CreateNode", repair_after_s=10, repair_s=60, endpoints="swapped_after_repair")
        tpu.make()
        tpu.advance(3)
        before = [one["ipAddress"] for one in tpu.nodes()["n1"]["networkEndpoints"]]
        tpu.advance(10)
        assert tpu.state("n1") == "REPAIRING"
        tpu.advance(60)
        after = [one["ipAddress"] for one in tpu.nodes()["n1"]["networkEndpoints"]]
        assert tpu.state("n1") == "READY"
        assert not set(before) & set(after)

    def test_lists_by_zone_over_all_zones_and_in_pages(self, tpu: Lab):
        for name in ("n1", "n2", "n3"):
            tpu.create(name, zone="us-central2-b")
        tpu.create("other", zone="us-central1-a")
        first = tpu.call("ListNodes", pageSize=2)
        assert [node["name"][-2:] for node in first["nodes"]] == ["n1", "n2"]
        second = tpu.call("ListNodes", pageSize=2, pageToken=first["nextPageToken"])
        assert [node["name"][-2:] for node in second["nodes"]] == ["n3"]
        assert "nextPageToken" not in second
        everywhere = tpu.world.call("v2", "ListNodes", {"parent": "projects/demo-project/locations/-"})
        assert len(everywhere["nodes"]) == 4
        assert tpu.call("ListNodes", parent="projects/demo-project/locations/us-central1-a")["nodes"][0][
            "name"
        ].endswith("other")

    def test_guest_attributes_name_each_worker_and_its_host_key(self, tpu: Lab):
        tpu.create("n1", type="v4-32")
        asked = lambda *ids: tpu.call("GetGuestAttributes", "n1", workerIds=list(ids))["guestAttributes"]  # noqa: E731
        assert len(asked()) == len(asked("")) == 4
        (one,) = asked("2")
        items = {item["key"]: item["value"] for item in one["queryValue"]["items"]}
        assert items["hostname"].endswith("-w-2")
        assert items["ssh-ed25519"].endswith("000002")
        with refused("INVALID_ARGUMENT"):
            asked("4")


class TestOperations:
    def test_kept_for_a_time_and_then_forgotten(self, tpu: Lab):
        tpu.settings(op_keep_s=100)
        begun = tpu.make()
        tpu.advance(102)
        assert tpu.operation(begun)["done"]
        tpu.advance(1)
        with refused("NOT_FOUND", "operations/operation-"):
            tpu.operation(begun)

    def test_listed_and_deleted(self, tpu: Lab):
        begun = tpu.make()
        listed = tpu.world.call("v2", "ListOperations", {"name": ZONE})["operations"]
        assert [one["name"] for one in listed] == [begun["name"]]
        tpu.call("DeleteOperation", begun["name"])
        with refused("NOT_FOUND"):
            tpu.operation(begun)

    def test_a_create_that_is_cancelled_leaves_nothing(self, tpu: Lab):
        begun = tpu.make()
        tpu.call("CancelOperation", begun["name"])
        assert tpu.operation(begun)["error"]["code"] == 1
        tpu.advance(10)
        assert tpu.nodes() == {}

    def test_each_api_version_names_its_own_types(self, tpu: Lab):
        begun = tpu.world.call("v2alpha1", "CreateNode", {"parent": ZONE, "nodeId": "n1", "node": BODY})
        assert begun["metadata"]["@type"].endswith("google.cloud.tpu.v2alpha1.OperationMetadata")
        assert tpu.nodes()["n1"]["apiVersion"] == "V2_ALPHA1"


class TestFaults:
    def test_no_capacity_comes_after_the_create_was_taken(self, tpu: Lab):
        tpu.fault("CreateNode", lro_error=NO_CAPACITY, provision_s=20)
        begun = tpu.make()
        assert tpu.listed() == {"n1": "CREATING"}
        tpu.advance(19)
        assert "done" not in tpu.operation(begun)
        tpu.advance(1)
        assert tpu.operation(begun)["error"] == NO_CAPACITY
        assert tpu.listed() == {}

    def test_a_failed_create_may_leave_its_node(self, tpu: Lab):
        tpu.fault("CreateNode", lro_error=NO_CAPACITY, node_stays="TERMINATED")
        tpu.make()
        tpu.advance(3)
        assert tpu.listed() == {"n1": "TERMINATED"}

    def test_stuck_creating(self, tpu: Lab):
        tpu.fault("CreateNode", stuck="CREATING")
        begun = tpu.make()
        tpu.advance(1e6)
        assert tpu.listed() == {"n1": "CREATING"}
        assert "done" not in tpu.operation(begun)

    def test_ready_long_before_the_operation_is_done(self, tpu: Lab):
        tpu.fault("CreateNode", lro_extra_s=600)
        begun = tpu.make()
        tpu.advance(602)
        assert tpu.state("n1") == "READY"
        assert "done" not in tpu.operation(begun)
        tpu.advance(1)
        assert tpu.operation(begun)["done"]

    def test_a_refusal_does_nothing_and_a_lost_answer_does_it(self, tpu: Lab):
        tpu.fault("CreateNode", status="UNAVAILABLE", message="The service is currently unavailable.")
        with refused("UNAVAILABLE", "currently unavailable"):
            tpu.make()
        assert tpu.nodes() == {}
        tpu.fault("CreateNode", status="UNAVAILABLE", after=True)
        with refused("UNAVAILABLE"):
            tpu.make()
        assert set(tpu.nodes()) == {"n1"}
        with refused("ALREADY_EXISTS"):
            tpu.make()

    @pytest.mark.parametrize("after", [False, True])
    def test_cut_or_garbled_before_or_after_acting(self, tpu: Lab, after: bool):
        tpu.fault("CreateNode", drop=True, after=after)
        tpu.fault("CreateNode", raw={"code": 502, "body": "<html>"}, after=after)
        with pytest.raises(Dropped):
            tpu.make("n1")
        with pytest.raises(Garbled):
            tpu.make("n2")
        assert set(tpu.nodes()) == ({"n1", "n2"} if after else set())
        assert [one.code for one in tpu.calls("CreateNode")] == ["DROPPED", "GARBLED"]

    def test_by_method_by_name_so_many_times_and_later(self, tpu: Lab):
        tpu.create("n1")
        tpu.create("n2")
        fault = tpu.fault("Get*", name="n2", times=2, after_n=1, status="INTERNAL")
        tpu.call("GetNode", "n1")
        tpu.call("GetNode", "n2")
        for _ in range(2):
            with refused("INTERNAL"):
                tpu.call("GetNode", "n2")
        tpu.call("GetNode", "n2")
        assert (fault.met, tpu.laid()) == (2, [])
        tpu.fault("*", times=None, status="UNAUTHENTICATED")
        for _ in range(3):
            with refused("UNAUTHENTICATED"):
                tpu.call("ListNodes")
        tpu.heal()
        assert set(tpu.listed()) == {"n1", "n2"}

    def test_a_knob_that_the_method_does_not_have_is_an_error(self, tpu: Lab):
        with pytest.raises(ValueError, match="has no knob preempt_after_s"):
            tpu.fault("GetNode", preempt_after_s=3)
        with pytest.raises(ValueError, match="OOPS is no status"):
            tpu.fault("GetNode", status="OOPS")

    def test_invisible_after_a_create(self, tpu: Lab):
        tpu.fault("CreateNode", invisible_s=30)
        tpu.make()
        tpu.advance(29)
        assert tpu.listed() == {}
        with refused("NOT_FOUND"):
            tpu.call("GetNode", "n1")
        with refused("ALREADY_EXISTS"):
            tpu.make()
        tpu.advance(1)
        assert tpu.listed() == {"n1": "READY"}

    def test_stale_answers_are_those_of_when_the_fault_was_laid(self, tpu: Lab):
        tpu.create("n1")
        tpu.fault("ListNodes", stale=True)
        tpu.fault("GetNode", stale=True, times=2)
        tpu.preempt("n1")
        tpu.create("n2")
        assert tpu.listed() == {"n1": "READY"}
        assert tpu.call("GetNode", "n1")["state"] == "READY"
        with refused("NOT_FOUND"):
            tpu.call("GetNode", "n2")
        assert tpu.listed() == {"n1": "PREEMPTED", "n2": "READY"}

    def test_an_unreachable_zone_is_named_and_left_out(self, tpu: Lab):
        tpu.create("n1", zone="us-central2-b")
        tpu.create("n2", zone="us-central1-a")
        tpu.fault("ListNodes", unreachable=["us-central2-b"])
        answer = tpu.world.call("v2", "ListNodes", {"parent": "projects/demo-project/locations/-"})
        assert [node["name"][-2:] for node in answer["nodes"]] == ["n2"]
        assert answer["unreachable"] == [ZONE]

    @pytest.mark.parametrize(("knob", "shown"), [("missing", 0), ("partial", 3)])
    def test_ready_without_all_addresses(self, tpu: Lab, knob: str, shown: int):
        tpu.fault("CreateNode", endpoints=knob)
        tpu.make(acceleratorType="v4-32")
        tpu.advance(3)
        assert tpu.state("n1") == "READY"
        assert len(tpu.nodes()["n1"].get("networkEndpoints", [])) == shown

    def test_deletes_that_fail_or_never_end(self, tpu: Lab):
        tpu.create("n1")
        tpu.fault("DeleteNode", lro_error={"code": 13, "message": "an internal error has occurred"})
        begun = tpu.call("DeleteNode", "n1")
        tpu.advance(2)
        assert tpu.operation(begun)["error"]["code"] == 13
        assert tpu.state("n1") == "READY"
        tpu.fault("DeleteNode", status="ABORTED", message="unable to queue the operation")
        with refused("ABORTED"):
            tpu.call("DeleteNode", "n1")
        tpu.fault("DeleteNode", stuck="DELETING")
        begun = tpu.call("DeleteNode", "n1")
        tpu.advance(1e6)
        assert tpu.state("n1") == "DELETING"
        assert "done" not in tpu.operation(begun)

    def test_a_slow_delete(self, tpu: Lab):
        tpu.create("n1")
        tpu.fault("DeleteNode", delete_s=600)
        tpu.call("DeleteNode", "n1")
        tpu.advance(599)
        assert tpu.listed() == {"n1": "DELETING"}
        tpu.advance(1)
        assert tpu.listed() == {}


class TestQuota:
    def test_a_limit_of_zero_and_a_limit_that_is_reached(self):
        tpu = Lab(quota={"us-central2-b": {"v4": 32, "v4-preemptible": 0}})
        with refused(
            "RESOURCE_EXHAUSTED", "Quota limit 'TPUV4sPreemptiblePod.*' has been exceeded. Limit: 0 in zone"
        ) as caught:
            tpu.make(schedulingConfig={"spot": True})
        kinds = {detail["@type"].rpartition(".")[2] for detail in caught.value.details}
        assert kinds == {"QuotaFailure", "ErrorInfo"}
        tpu.make("n1")
        tpu.make("n2")
        with refused("RESOURCE_EXHAUSTED", "Limit: 32"):
            tpu.make("n3", acceleratorType="v4-8")
        tpu.advance(3)
        tpu.preempt("n1")
        with refused("RESOURCE_EXHAUSTED"):  # a preempted node still counts
            tpu.make("n3", acceleratorType="v4-8")
        tpu.call("DeleteNode", "n1")
        tpu.advance(2)
        tpu.make("n3", acceleratorType="v4-16")

    def test_other_families_and_zones_are_not_counted(self):
        tpu = Lab(quota={"us-central2-b": {"v4": 16}})
        tpu.make("n1")
        tpu.create("n2", type="v5litepod-16", zone="us-central2-b")
        tpu.create("n3", type="v4-16", zone="us-central1-a")
        assert tpu.quota("us-central2-b", v4=32) == {"v4": 32}
        tpu.make("n4")

    def test_a_suspended_queued_resource_counts_until_it_is_deleted(self):
        tpu = Lab(quota={"us-central2-b": {"v4-preemptible": 16}})
        tpu.ask()
        tpu.advance(10)
        tpu.preempt("n1")
        tpu.advance(1)
        assert tpu.queued_state("qr1") == "SUSPENDED"
        with refused("RESOURCE_EXHAUSTED"):
            tpu.ask("qr2")
        tpu.call("DeleteQueuedResource", "qr1")
        tpu.advance(2)
        tpu.ask("qr2")

    def test_so_many_creates_a_minute(self, tpu: Lab):
        tpu.settings(creates_per_minute=2)
        tpu.make("n1")
        tpu.make("n2")
        with refused("RESOURCE_EXHAUSTED", "Create requests per minute"):
            tpu.make("n3")
        tpu.advance(60)
        tpu.make("n3")


class TestQueue:
    def states(self, tpu: Lab, seconds: float, step: float = 0.5) -> list[str]:
        seen = [tpu.queued_state("qr1")]
        for _ in range(int(seconds / step)):
            tpu.advance(step)
            if tpu.queued_state("qr1") != seen[-1]:
                seen.append(tpu.queued_state("qr1"))
        return [state or "gone" for state in seen]

    def test_its_way_to_active(self, tpu: Lab):
        begun = tpu.ask()
        assert self.states(tpu, 10) == ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
        assert tpu.operation(begun)["metadata"]["endTime"] == stamp(moment(begun["metadata"]["createTime"]) + 0.5)
        assert tpu.operation(begun)["response"]["state"]["state"] == "ACCEPTED"
        node = tpu.nodes()["n1"]
        assert node["queuedResource"] == f"{ZONE}/queuedResources/qr1"
        assert node["schedulingConfig"] == {"spot": True}
        assert tpu.call("GetQueuedResource", "qr1")["state"] == {
            "state": "ACTIVE", "activeData": {}, "stateInitiator": "SERVICE",
        }  # fmt: skip

    def test_slices(self, tpu: Lab):
        tpu.ask(many=3)
        tpu.advance(3)
        assert {name: node["state"] for name, node in tpu.nodes().items()} == dict.fromkeys(
            ("s-0", "s-1", "s-2"), "CREATING"
        )
        tpu.advance(3)
        assert tpu.queued_state("qr1") == "ACTIVE"
        assert all(node["multisliceNode"] for node in tpu.nodes().values())
        tpu.preempt("s-1")
        assert tpu.queued_state("qr1") == "SUSPENDING"
        tpu.advance(1)
        assert (tpu.queued_state("qr1"), tpu.nodes()) == ("SUSPENDED", {})

    def test_preempted_is_suspended_by_the_service_and_its_node_is_gone(self, tpu: Lab):
        tpu.fault("CreateQueuedResource", preempt_after_s=100)
        tpu.ask()
        assert self.states(tpu, 120)[-2:] == ["SUSPENDING", "SUSPENDED"]
        assert tpu.queued()["qr1"]["state"]["stateInitiator"] == "SERVICE"
        assert tpu.nodes() == {}

    def test_a_suspended_one_may_keep_its_node(self, tpu: Lab):
        tpu.fault("CreateQueuedResource", suspend_after_s=50, keep_node=True)
        tpu.ask()
        tpu.advance(100)
        assert (tpu.queued_state("qr1"), tpu.state("n1")) == ("SUSPENDED", "PREEMPTED")

    def test_a_deleted_node_is_suspended_by_the_user(self, tpu: Lab):
        tpu.ask()
        tpu.advance(10)
        tpu.call("DeleteNode", "n1")
        tpu.advance(2)
        assert tpu.queued()["qr1"]["state"] == {"state": "SUSPENDED", "suspendedData": {}, "stateInitiator": "USER"}

    @pytest.mark.parametrize("state", ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"])
    def test_stuck_and_expired(self, tpu: Lab, state: str):
        tpu.fault("CreateQueuedResource", stuck=state)
        tpu.ask(queueingPolicy={"validUntilDuration": "21600s"})
        tpu.advance(21599)
        assert tpu.queued_state("qr1") == state
        tpu.advance(2)
        assert tpu.queued_state("qr1") == (state if state == "PROVISIONING" else "FAILED")

    def test_not_before_its_interval(self, tpu: Lab):
        tpu.ask(
            queueingPolicy={"validInterval": {"startTime": stamp(tpu.now + 3600), "endTime": stamp(tpu.now + 7200)}}
        )
        tpu.advance(3599)
        assert tpu.queued_state("qr1") == "WAITING_FOR_RESOURCES"
        tpu.advance(1)
        assert tpu.queued_state("qr1") == "PROVISIONING"

    def test_failed_with_its_error(self, tpu: Lab):
        tpu.fault("CreateQueuedResource", fail=NO_CAPACITY)
        tpu.ask()
        tpu.advance(10)
        assert tpu.queued()["qr1"]["state"]["failedData"] == {"error": NO_CAPACITY}

    def test_four_hours_in_the_queue(self, tpu: Lab):
        tpu.fault("CreateQueuedResource", wait_s=4 * 3600)
        tpu.ask()
        tpu.advance(4 * 3600)
        assert tpu.queued_state("qr1") == "WAITING_FOR_RESOURCES"
        tpu.advance(10)
        assert tpu.queued_state("qr1") == "ACTIVE"

    def test_delete_without_force_only_where_nothing_runs(self, tpu: Lab):
        tpu.ask()
        tpu.advance(10)
        with refused("FAILED_PRECONDITION", "is in state ACTIVE"):
            tpu.call("DeleteQueuedResource", "qr1")
        tpu.call("DeleteQueuedResource", "qr1", force=True)
        assert (tpu.queued_state("qr1"), tpu.state("n1")) == ("DELETING", "DELETING")
        tpu.advance(2)
        assert (tpu.queued(), tpu.nodes()) == ({}, {})

    def test_reset_waits_again(self, tpu: Lab):
        tpu.ask()
        tpu.advance(10)
        tpu.call("ResetQueuedResource", "qr1")
        assert (tpu.queued_state("qr1"), tpu.nodes()) == ("WAITING_FOR_RESOURCES", {})
        tpu.advance(10)
        assert (tpu.queued_state("qr1"), tpu.state("n1")) == ("ACTIVE", "READY")

    def test_a_request_id_is_taken_once(self, tpu: Lab):
        spec = {"parent": ZONE, "nodeId": "n1", "node": BODY}
        body = {"tpu": {"nodeSpec": [spec]}}
        first = tpu.call("CreateQueuedResource", "qr1", queuedResource=body, requestId="r-1")
        assert tpu.call("CreateQueuedResource", "qr1", queuedResource=body, requestId="r-1")["name"] == first["name"]
        with refused("ALREADY_EXISTS"):
            tpu.call("CreateQueuedResource", "qr1", queuedResource=body, requestId="r-2")


class TestControl:
    def test_two_worlds_of_one_seed_are_the_same(self):
        def told(seed: int) -> Any:
            tpu = Lab(seed=seed)
            begun = tpu.make()
            tpu.advance(3)
            return begun, tpu.nodes(), tpu.operations()

        assert told(1) == told(1)
        assert told(1) != told(2)

    def test_a_node_that_is_made_behind_the_scenes_meets_the_faults_of_its_creation(self, tpu: Lab):
        tpu.fault("CreateNode", preempt_after_s=60)
        tpu.fault("CreateNode", stuck="CREATING")
        tpu.fault("CreateNode", lro_error=NO_CAPACITY)
        assert [tpu.create(name)["state"] for name in ("n1", "n2", "n3", "n4")] == [
            "READY",
            "CREATING",
            "CREATING",
            "READY",
        ]
        tpu.advance(60)
        assert {name: node["state"] for name, node in tpu.nodes().items()} == {
            "n1": "PREEMPTED", "n2": "CREATING", "n4": "READY",
        }  # fmt: skip
        assert tpu.calls("CreateNode") == []

    def test_names_are_short_where_that_is_plain(self, tpu: Lab):
        tpu.create("n1", zone="us-central2-b")
        tpu.create("n1", zone="us-central1-a")
        with pytest.raises(LookupError, match="in several zones"):
            tpu.preempt("n1")
        tpu.preempt(f"{ZONE}/nodes/n1")
        assert {zone: tpu.nodes(zone)["n1"]["state"] for zone in tpu.world.zones} == {
            "us-central2-b": "PREEMPTED", "us-central1-a": "READY",
        }  # fmt: skip
        with pytest.raises(LookupError, match="there is no node n9"):
            tpu.preempt("n9")

    def test_reset_is_a_new_beginning(self, tpu: Lab):
        tpu.create("n2")
        tpu.ask("qr1")
        tpu.fault("GetNode", status="INTERNAL")
        tpu.reset()
        assert (tpu.nodes(), tpu.queued(), tpu.laid(), tpu.operations()) == ({}, {}, [], {})
        tpu.advance(100)
        assert tpu.nodes() == {}

    def test_every_verb_and_every_knob_is_documented(self):
        page = (Path(__file__).parent.parent.parent / "docs" / "tpu-emulator.md").read_text(encoding="utf-8")
        knobs = {*ANSWER, *(knob for known in BY_METHOD.values() for knob in known)}
        assert [word for word in sorted(VERBS | knobs) if f"`{word}`" not in page] == []

    def test_calls_are_recorded(self, tpu: Lab):
        tpu.make()
        tpu.listed()
        assert [(one.method, one.code) for one in tpu.calls()] == [("CreateNode", "OK"), ("ListNodes", "OK")]
        assert tpu.calls("CreateNode")[0].request["node"]["acceleratorType"] == "v4-16"


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the core must need no socket")

    monkeypatch.setattr("socket.socket.bind", refuse)

"""The real google-cloud-tpu against the emulated service, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.emulators.tpu import GET_LIBRARY, Emulator, have_library

if not have_library():
    pytest.skip(GET_LIBRARY, allow_module_level=True)

import grpc
from google.api_core import exceptions
from google.cloud import tpu_v2, tpu_v2alpha1
from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcAsyncIOTransport
from google.cloud.tpu_v2.services.tpu.transports.rest_base import _BaseTpuRestTransport
from google.protobuf import json_format
from google.rpc import error_details_pb2

from tests.emulators.tpu import protos, routes
from tests.emulators.tpu.errors import CODES
from tests.emulators.tpu.nodes import HEALTHS, STATES
from tests.emulators.tpu.queued import DATA

ZONE = "projects/demo-project/locations/us-central2-b"
NODE = {"accelerator_type": "v4-16", "runtime_version": "tpu-ubuntu2204-base", "labels": {"run": "r1"}}
NO_CAPACITY = {"code": 8, "message": 'There is no more capacity in the zone "us-central2-b"'}


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with Emulator(zones=["us-central2-b", "us-central1-a"]) as made:
        yield made


@pytest.fixture(params=["grpc", "rest"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tpu(served: Emulator) -> Emulator:
    served.reset()
    return served


@pytest.fixture(scope="module")
def clients(served: Emulator) -> dict[str, Any]:
    return {"grpc": served.client(), "rest": served.client(transport="rest"), "v2alpha1": served.client("v2alpha1")}


@pytest.fixture
def client(clients: dict[str, Any], wire: str, tpu: Emulator) -> Any:
    return clients[wire]


def create(client: Any, name: str = "n1", **node: Any) -> Any:
    return client.create_node(parent=ZONE, node_id=name, node={**NODE, **node}, timeout=10)


def get(client: Any, name: str = "n1") -> Any:
    return client.get_node(name=f"{ZONE}/nodes/{name}", timeout=10)


def queued(name: str = "n1", **more: Any) -> dict[str, Any]:
    return {"spot": {}, "tpu": {"node_spec": [{"parent": ZONE, "node_id": name, "node": NODE}]}, **more}


class TestAgainstTheClientsOwnRules:
    def test_every_route_is_the_clients(self):
        bases = {name[5:]: base for name, base in vars(_BaseTpuRestTransport).items() if name.startswith("_Base")}
        theirs = {
            (name, option["method"].upper(), option["uri"], option.get("body", ""))
            for name, base in bases.items()
            for option in base._get_http_options()
        }
        ours = {(route.method, route.verb, f"/v2/{route.path}", route.body) for route in routes.ROUTES}
        assert ours == theirs

    @pytest.mark.parametrize("version", routes.VERSIONS)
    def test_every_method_of_the_service_is_served_or_known_not_to_be(self, version: str):
        theirs = {name.removesuffix("Request") for name in dir(protos.API[version]) if name.endswith("Request")}
        # v2alpha1 has some that are not emulated; a call of one is an error, and recorded.
        beyond = {
            "ListReservations",
            "PerformMaintenance",
            "PerformMaintenanceQueuedResource",
            "SimulateMaintenanceEvent",
        }
        assert theirs - set(routes.METHODS) == (beyond if version == "v2alpha1" else set())

    def test_the_words_for_states_are_the_clients(self):
        assert set(STATES) == {state.name for state in tpu_v2.Node.State} - {"STATE_UNSPECIFIED"}
        assert set(HEALTHS) == {health.name for health in tpu_v2.Node.Health} - {"HEALTH_UNSPECIFIED"}
        assert set(DATA) == {state.name for state in tpu_v2.QueuedResourceState.State} - {"STATE_UNSPECIFIED"}
        assert {name: number for name, (number, _) in CODES.items()} == {
            code.name: code.value[0] for code in grpc.StatusCode if code.name != "OK"
        }

    def test_an_answer_is_as_the_types_write_it(self, tpu: Emulator):
        """So that what is answered without the library is the same."""
        tpu.create("n1", type="v4-32", labels={"a": "b"})
        tpu.enqueue("qr1", type="v4-16", slices=2)
        tpu.advance(10)
        call = lambda method, **request: tpu.world.call("v2", method, request)  # noqa: E731
        answers = {
            "ListNodes": call("ListNodes", parent=ZONE),
            "ListQueuedResources": call("ListQueuedResources", parent=ZONE),
            "ListOperations": call("ListOperations", name=ZONE),
            "ListAcceleratorTypes": call("ListAcceleratorTypes", parent=ZONE),
            "ListRuntimeVersions": call("ListRuntimeVersions", parent=ZONE),
            "ListLocations": call("ListLocations", name="projects/demo-project"),
            "GetGuestAttributes": call("GetGuestAttributes", name=f"{ZONE}/nodes/n1", workerIds=[""]),
        }
        for method, answer in answers.items():
            assert answer
            assert protos.canonical_answer("v2", method, answer) == answer, method


class TestNodes:
    def test_create_get_list_delete(self, tpu: Emulator, client: Any):
        begun = create(client)
        assert not begun.done()
        assert get(client).state == tpu_v2.Node.State.CREATING
        tpu.advance(3)
        node = get(client)
        assert (node.state.name, node.health.name, dict(node.labels)) == ("READY", "HEALTHY", {"run": "r1"})
        assert [end.ip_address for end in node.network_endpoints] == ["127.1.0.1", "127.1.0.2"]
        assert node.accelerator_config.type_ == tpu_v2.AcceleratorConfig.Type.V4
        assert begun.result(timeout=10).name == node.name
        assert [one.name for one in client.list_nodes(parent=ZONE)] == [node.name]
        assert [one.name for one in client.list_nodes(parent="projects/demo-project/locations/-")] == [node.name]
        ended = client.delete_node(name=node.name, timeout=10)
        tpu.advance(2)
        ended.result(timeout=10)
        with pytest.raises(exceptions.NotFound):
            get(client)

    def test_an_operation_is_found_again_by_its_name(self, tpu: Emulator, client: Any):
        name = create(client).operation.name
        assert not client.get_operation({"name": name}).done
        tpu.advance(3)
        found = client.get_operation({"name": name})
        assert found.done
        assert found.WhichOneof("result") == "response"
        assert found.response.type_url.endswith("google.cloud.tpu.v2.Node")
        listed = client.list_operations({"name": ZONE}).operations
        assert [one.name for one in listed] == [name]
        client.delete_operation({"name": name})
        with pytest.raises(exceptions.NotFound):
            client.get_operation({"name": name})

    def test_update_stop_start(self, tpu: Emulator, client: Any):
        tpu.create("n1", labels={"a": "b"})
        name = f"{ZONE}/nodes/n1"
        client.update_node(node={"name": name, "labels": {"run": "r2"}}, update_mask={"paths": ["labels"]}, timeout=10)
        tpu.advance(1)
        assert dict(get(client).labels) == {"run": "r2"}
        client.stop_node({"name": name}, timeout=10)
        tpu.advance(1)
        assert get(client).state.name == "STOPPED"
        client.start_node({"name": name}, timeout=10)
        tpu.advance(1)
        assert get(client).state.name == "READY"

    def test_pages(self, tpu: Emulator, client: Any):
        for number in range(5):
            tpu.create(f"n{number}", zone="us-central2-b")
        pager = client.list_nodes(request={"parent": ZONE, "page_size": 2}, timeout=10)
        assert [len(page.nodes) for page in pager.pages] == [2, 2, 1]

    def test_catalogues_and_locations(self, tpu: Emulator, client: Any):
        types = {one.type_: one for one in client.list_accelerator_types(parent=ZONE)}
        assert types["v4-32"].accelerator_configs[0].topology == "2x2x4"
        assert client.get_accelerator_type(name=types["v4-32"].name) == types["v4-32"]
        assert "v2-alpha-tpuv6e" in {one.version for one in client.list_runtime_versions(parent=ZONE)}
        locations = client.list_locations({"name": "projects/demo-project"}).locations
        assert {one.location_id for one in locations} == {"us-central2-b", "us-central1-a"}

    def test_guest_attributes(self, tpu: Emulator, client: Any):
        tpu.create("n1", type="v4-16")
        answer = client.get_guest_attributes({"name": f"{ZONE}/nodes/n1", "worker_ids": ["1"]}, timeout=10)
        items = {item.key: item.value for item in answer.guest_attributes[0].query_value.items}
        assert items["hostname"].endswith("-w-1")

    def test_a_state_that_the_client_does_not_know(self, tpu: Emulator, client: Any):
        tpu.create("n1")
        tpu.set_state("n1", 99)
        with pytest.warns(UserWarning, match="Unrecognized State enum value: 99"):
            assert int(get(client).state) == 99

    def test_both_versions_and_both_wires_see_one_state(self, tpu: Emulator, clients: dict[str, Any]):
        create(clients["v2alpha1"], "n1")
        tpu.advance(3)
        for name in ("grpc", "rest", "v2alpha1"):
            assert get(clients[name]).state.name == "READY"
        begun = next(iter(tpu.operations().values()))
        assert begun["response"]["@type"].endswith("v2alpha1.Node")


class TestQueuedResources:
    def test_create_get_list_delete(self, tpu: Emulator, client: Any, wire: str):
        begun = client.create_queued_resource(
            parent=ZONE, queued_resource_id="qr1", queued_resource=queued(), timeout=10
        )
        tpu.advance(0.5)
        assert begun.result(timeout=10).state.state.name == "ACCEPTED"
        tpu.advance(10)
        name = f"{ZONE}/queuedResources/qr1"
        found = client.get_queued_resource(name=name, timeout=10)
        assert found.state.state.name == "ACTIVE"
        assert get(client).queued_resource == name
        assert [one.name for one in client.list_queued_resources(parent=ZONE)] == [name]
        refusal = exceptions.FailedPrecondition if wire == "grpc" else exceptions.BadRequest
        with pytest.raises(refusal, match="delete its nodes first or use force"):
            client.delete_queued_resource(name=name, timeout=10)
        client.delete_queued_resource({"name": name, "force": True}, timeout=10)
        tpu.advance(2)
        assert list(client.list_queued_resources(parent=ZONE)) == []
        assert list(client.list_nodes(parent=ZONE)) == []

    def test_failed_says_why(self, tpu: Emulator, client: Any):
        tpu.fault("CreateQueuedResource", fail=NO_CAPACITY)
        client.create_queued_resource(parent=ZONE, queued_resource_id="qr1", queued_resource=queued(), timeout=10)
        tpu.advance(10)
        found = client.get_queued_resource(name=f"{ZONE}/queuedResources/qr1", timeout=10)
        assert (found.state.state.name, found.state.failed_data.error.code) == ("FAILED", 8)
        assert "no more capacity" in found.state.failed_data.error.message


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "over_grpc", "over_rest"),
        [
            ("INVALID_ARGUMENT", exceptions.InvalidArgument, exceptions.BadRequest),
            ("FAILED_PRECONDITION", exceptions.FailedPrecondition, exceptions.BadRequest),
            ("PERMISSION_DENIED", exceptions.PermissionDenied, exceptions.Forbidden),
            ("NOT_FOUND", exceptions.NotFound, exceptions.NotFound),
            ("ALREADY_EXISTS", exceptions.AlreadyExists, exceptions.Conflict),
            ("ABORTED", exceptions.Aborted, exceptions.Conflict),
            ("RESOURCE_EXHAUSTED", exceptions.ResourceExhausted, exceptions.TooManyRequests),
            ("INTERNAL", exceptions.InternalServerError, exceptions.InternalServerError),
            ("UNAVAILABLE", exceptions.ServiceUnavailable, exceptions.ServiceUnavailable),
        ],
    )
    def test_each_status_is_its_exception(
        self, tpu: Emulator, client: Any, wire: str, status: str, over_grpc: Any, over_rest: Any
    ):
        tpu.fault("GetNode", status=status, message="so it is")
        with pytest.raises(over_grpc if wire == "grpc" else over_rest, match="so it is") as caught:
            get(client)
        assert type(caught.value) is (over_grpc if wire == "grpc" else over_rest)

    def test_unauthenticated_over_grpc(self, tpu: Emulator, clients: dict[str, Any]):
        tpu.fault("*", times=None, status="UNAUTHENTICATED", message="who are you")
        with pytest.raises(exceptions.Unauthenticated):
            get(clients["grpc"])

    def test_quota_carries_its_details(self, tpu: Emulator, clients: dict[str, Any]):
        tpu.quota("us-central2-b", v4=8)
        with pytest.raises(exceptions.ResourceExhausted, match=r"has been exceeded\. Limit: 8 in zone") as caught:
            create(clients["grpc"])
        kinds = {type(detail) for detail in caught.value.details}
        assert kinds == {error_details_pb2.QuotaFailure, error_details_pb2.ErrorInfo}

    def test_no_capacity_is_in_the_operation(self, tpu: Emulator, client: Any):
        tpu.fault("CreateNode", lro_error=NO_CAPACITY)
        begun = create(client)
        tpu.advance(3)
        with pytest.raises(exceptions.ResourceExhausted, match="no more capacity"):
            begun.result(timeout=10)

    def test_a_slow_answer_runs_into_the_callers_limit(self, tpu: Emulator, clients: dict[str, Any]):
        tpu.create("n1")
        tpu.fault("GetNode", delay_s=0.5)
        with pytest.raises(exceptions.DeadlineExceeded):
            clients["grpc"].get_node(name=f"{ZONE}/nodes/n1", timeout=0.1)
        assert get(clients["grpc"]).state.name == "READY"

    def test_a_lost_answer_is_met_as_already_exists(self, tpu: Emulator, clients: dict[str, Any]):
        tpu.fault("CreateNode", drop=True, after=True)
        with pytest.raises(exceptions.ServiceUnavailable, match="reset by peer"):
            create(clients["grpc"])
        with pytest.raises(exceptions.AlreadyExists):
            create(clients["grpc"])

    def test_a_cut_connection_over_http(self, tpu: Emulator, clients: dict[str, Any]):
        import requests

        tpu.fault("GetNode", drop=True)
        with pytest.raises(requests.exceptions.ConnectionError):
            get(clients["rest"])

    def test_garbage(self, tpu: Emulator, clients: dict[str, Any]):
        tpu.create("n1")
        tpu.fault("GetNode", raw={"body": "<html>no message</html>"}, times=2)
        with pytest.raises(exceptions.GoogleAPICallError) as caught:
            get(clients["grpc"])
        assert caught.value.grpc_status_code is grpc.StatusCode.INTERNAL
        with pytest.raises(json_format.ParseError):
            get(clients["rest"])

    def test_what_is_not_emulated_is_an_error_and_recorded(self, tpu: Emulator, clients: dict[str, Any]):
        request = tpu_v2alpha1.SimulateMaintenanceEventRequest(name=f"{ZONE}/nodes/n1")
        with pytest.raises(exceptions.MethodNotImplemented, match="emulator: no route"):
            clients["v2alpha1"].simulate_maintenance_event(request, timeout=10)
        assert tpu.unrouted == ["/google.cloud.tpu.v2alpha1.Tpu/SimulateMaintenanceEvent"]
        tpu.unrouted.clear()


def test_asyncio_and_many_at_once(tpu: Emulator):
    tpu.create("n1")

    async def ask() -> int:
        async with grpc.aio.insecure_channel(tpu.grpc) as channel:
            client = tpu_v2.TpuAsyncClient(transport=TpuGrpcAsyncIOTransport(channel=channel, host=tpu.grpc))
            name = f"{ZONE}/nodes/n1"
            nodes = await asyncio.gather(*(client.get_node(name=name, timeout=20) for _ in range(100)))
            return sum(node.state.name == "READY" for node in nodes)

    assert asyncio.run(ask()) == 100


def test_an_emulator_of_calls_that_nobody_emulates_fails_at_its_end():
    import urllib.request

    def ask() -> None:
        with Emulator(grpc=False) as tpu:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://{tpu.rest}/v2/nothing")
            with caught.value as answer:
                assert "emulator: no route for GET /v2/nothing" in json.load(answer)["error"]["message"]

    with pytest.raises(AssertionError, match="asked for, and not emulated: GET /v2/nothing"):
        ask()

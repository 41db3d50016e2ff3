"""Every control keeps the contract: the fake that driver tests use, google-cloud-tpu over real gRPC, and a real gcloud.

The last two ask the emulated service.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.backends.dialect import Answer
from reconciler.backends.tpu_client import Patience, TpuClientControl
from reconciler.backends.tpu_control import Control
from reconciler.backends.tpu_gcloud import GcloudControl, run_gcloud
from reconciler.backends.tpu_refusals import hint_for_permission
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Unreachable
from reconciler.core.tpu import Begun, Denied, Exists, TpuState
from tests.backends.tpu_fake import FakeControl
from tests.contract.tpu_control_contract import LONG, OTHER, WISH, ZONE, ControlContract
from tests.emulators.tpu.emulator import GET_GCLOUD, GET_LIBRARY, Emulator, have_library

needs_library = pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)
NO_CAPACITY = {
    "code": 8,
    "message": f'There is no more capacity in the zone "{ZONE}"; you can try in another zone where Cloud TPU Nodes are offered',
}
RECORDS = Path(__file__).parent.parent / "records" / "gcloud"
READS = ("GetNode", "ListNodes", "ListQueuedResources")
PERMISSION = "Permission 'tpu.nodes.list' denied on resource '//tpu.googleapis.com/projects/demo-project'"


@dataclass
class FakeBench:
    control: FakeControl

    def advance(self, seconds: float) -> None:
        self.control.advance(seconds)

    def preempt(self, name: str) -> None:
        self.control.preempt(name)

    def no_capacity(self) -> None:
        self.control.later[ZONE] = Denied("capacity", "no more capacity")

    def quota(self, limit: int) -> None:
        self.control.denials[ZONE] = Denied("quota" if limit else "no-quota", f"Limit: {limit}", final=not limit)

    def lose_next_create(self) -> None:
        self.control.lost = 1

    def forbid(self) -> None:
        self.control.refused = AccessRefused("Permission denied", hint="Run `gcloud auth login`.")

    def cut(self) -> None:
        self.control.away = {ZONE, OTHER}


class TestFake(ControlContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        control = FakeControl()
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmulated"
        control.keys["run-1"] = {0: key, 1: key}
        return FakeBench(control)


@dataclass
class EmulatedBench:
    tpu: Emulator
    control: Control
    silent: Control
    """The same, of a service that does not answer."""

    def advance(self, seconds: float) -> None:
        self.tpu.advance(seconds)

    def preempt(self, name: str) -> None:
        self.tpu.preempt(name)

    def no_capacity(self) -> None:
        self.tpu.fault("CreateNode", lro_error=NO_CAPACITY)

    def quota(self, limit: int) -> None:
        self.tpu.quota(ZONE, **{"v4-preemptible": limit, "v4": limit})

    def lose_next_create(self) -> None:
        self.tpu.fault("CreateNode", status="UNAVAILABLE", message="The service is currently unavailable.", after=True)

    def forbid(self) -> None:
        for method in READS:
            self.tpu.fault(method, times=None, status="PERMISSION_DENIED", message=PERMISSION)

    def cut(self) -> None:
        self.control = self.silent


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with Emulator(zones=[ZONE, OTHER]) as tpu:
        yield tpu


@pytest.fixture
def tpu(served: Emulator) -> Emulator:
    served.reset()
    served.heal()
    return served


QUICK = Patience(read_s=5.0, effect_s=5.0, tries_s=1.0, pause_s=0.02)
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gcloud's: it keeps caches there."""
    return tmp_path_factory.mktemp("gcloud")


@needs_library
class TestClient(ControlContract):
    @pytest.fixture
    def bench(self, tpu: Emulator) -> EmulatedBench:
        silent = TpuClientControl("demo-project", endpoint=NOBODY, patience=replace(QUICK, tries_s=0.1))
        return EmulatedBench(tpu, client(tpu), silent)


def client(tpu: Emulator, patience: Patience = QUICK) -> TpuClientControl:
    return TpuClientControl("demo-project", endpoint=f"http://{tpu.grpc}", patience=patience)


@pytest.mark.real
@pytest.mark.xdist_group("gcloud")
@pytest.mark.skipif(shutil.which("gcloud") is None, reason=GET_GCLOUD)
class TestGcloud(ControlContract):
    """A call takes most of a second. What the records of test_tpu_gcloud show as well is left to them."""

    test_where_nothing_is_a_complete_listing_is_empty = None
    test_no_capacity_shows_in_the_operation = None
    test_a_create_that_went_well_has_no_failure = None
    test_a_quota_that_is_used_up_is_not_one_that_there_is_not = None
    test_a_preempted_node_stays_until_it_is_deleted = None
    test_a_queued_resource_whose_node_was_taken_is_suspended_until_it_is_deleted = None

    @pytest.fixture
    def bench(self, tpu: Emulator, home: Path) -> EmulatedBench:
        control = GcloudControl("demo-project", run=run_gcloud(f"http://{tpu.rest}", tpu.gcloud(home)))
        # gcloud tries for half a minute by itself; its answer then is recorded (tpu-vm.describe.refused).
        refused = json.loads((RECORDS / "tpu-vm.describe.refused.json").read_text())

        def away(argv: tuple[str, ...], timeout_s: float) -> Answer:
            return Answer(refused["rc"], refused["stdout"], refused["stderr"])

        return EmulatedBench(tpu, control, GcloudControl("demo-project", run=away))


# ---- the client alone: what the wire does --------------------------------------------------------------------


@needs_library
def test_reads_are_tried_again_and_effects_are_not(tpu: Emulator) -> None:
    control = client(tpu)
    away = tpu.fault("GetNode", times=2, status="UNAVAILABLE", message="The service is currently unavailable.")
    assert control.get(ZONE, "n") is None
    assert away.met == 2
    for method, call in (
        ("CreateNode", lambda: control.create(WISH)),
        ("CreateQueuedResource", lambda: control.create(replace(WISH, queued_s=60.0))),
        ("DeleteNode", lambda: control.delete(ZONE, "n")),
        ("DeleteQueuedResource", lambda: control.delete_request(ZONE, "n")),
    ):
        fault = tpu.fault(method, times=9, status="UNAVAILABLE", message="The service is currently unavailable.")
        with pytest.raises(OutcomeUnknown):
            call()
        assert fault.met == 1


@needs_library
def test_a_read_is_not_tried_for_ever(tpu: Emulator) -> None:
    away = tpu.fault("GetNode", times=None, status="UNAVAILABLE", message="The service is currently unavailable.")
    with pytest.raises(Unreachable, match="currently unavailable"):
        client(tpu).get(ZONE, "n")
    assert 2 <= away.met < 100


@needs_library
@pytest.mark.parametrize("times", [1, None])
def test_a_silent_service_costs_the_deadline_and_no_more(tpu: Emulator, times: int | None) -> None:
    hasty = client(tpu, Patience(read_s=0.2, effect_s=0.2, tries_s=0.3, pause_s=0.01))
    tpu.fault("*Node", times=times, delay_s=1.0, after=True)
    with pytest.raises(OutcomeUnknown):
        hasty.create(WISH)
    if times is None:
        with pytest.raises(Unreachable):
            hasty.get(ZONE, "run-1")


@needs_library
def test_all_pages_are_read_and_one_that_fails_makes_the_listing_incomplete(tpu: Emulator) -> None:
    for number in range(502):
        tpu.create(f"n{number}", zone=ZONE, state="CREATING")
    listing = client(tpu).list(ZONE)
    assert len({node.name for node in listing.nodes}) == 502
    assert listing.complete
    tpu.fault("ListNodes", after_n=1, times=None, status="INVALID_ARGUMENT", message="the page is gone")
    listing = client(tpu).list(ZONE)
    assert not listing.complete
    assert "the page is gone" in listing.error


@needs_library
@pytest.mark.parametrize("method", ["ListNodes", "ListQueuedResources"])
def test_a_location_that_google_could_not_reach_makes_the_listing_incomplete(tpu: Emulator, method: str) -> None:
    tpu.create("n", zone=ZONE)
    tpu.fault(method, unreachable=[ZONE])
    listing = client(tpu).list(ZONE)
    assert not listing.complete
    assert ZONE in listing.error


@needs_library
def test_a_state_that_the_library_does_not_know_is_unknown(tpu: Emulator) -> None:
    tpu.create("n", zone=ZONE)
    tpu.set_state("n", 99)
    node = client(tpu).get(ZONE, "n")
    assert node is not None
    assert (node.word, node.state) == ("99", TpuState.UNKNOWN)


@needs_library
@pytest.mark.parametrize(
    ("code", "message", "kind", "final"),
    [
        (
            9,
            "Insufficient reserved capacity. Contact customer support to increase your reservation.",
            "reservation",
            False,
        ),
        (10, "aborted [EID: 0x1]", "not-now", False),
        (13, "an internal error has occurred", "not-now", False),
        (3, "Cloud TPU received a bad request. update is not supported while in state PREEMPTED", "capacity", False),
        (3, "the runtime version does not fit", "invalid", True),
        (8, "Quota limit 'TPUV4' has been exceeded. Limit: 32 in zone us-central2-b.", "quota", False),
    ],
)
def test_an_operation_tells_why(tpu: Emulator, code: int, message: str, kind: str, final: bool) -> None:
    tpu.fault("CreateNode", lro_error={"code": code, "message": message}, node_stays="CREATING")
    control = client(tpu)
    begun = control.create(WISH)
    assert isinstance(begun, Begun)
    tpu.advance(LONG)
    failure = control.failure_of(ZONE, begun.operation)
    assert failure is not None
    assert (failure.kind, failure.final) == (kind, final)
    assert message.split(" [", maxsplit=1)[0] in failure.message


@needs_library
def test_an_operation_may_stay_open_long_after_its_node_is_ready(tpu: Emulator) -> None:
    tpu.fault("CreateNode", lro_extra_s=LONG)
    control = client(tpu)
    begun = control.create(WISH)
    assert isinstance(begun, Begun)
    tpu.advance(60)
    node = control.get(ZONE, "run-1")
    assert node is not None
    assert node.state is TpuState.READY
    assert control.failure_of(ZONE, begun.operation) is None


@needs_library
@pytest.mark.parametrize(
    ("status", "message", "kind", "final"),
    [
        ("RESOURCE_EXHAUSTED", "Quota exceeded for limit 'Create requests per minute' of tpu.googleapis.com", "not-now", False),
        ("RESOURCE_EXHAUSTED", "There is no more capacity in the zone", "capacity", False),
        ("PERMISSION_DENIED", "Permission 'tpu.nodes.create' denied", "permission", True),
        ("NOT_FOUND", "Runtime version x was not found", "invalid", True),
        ("INVALID_ARGUMENT", "Cloud TPU received a bad request. The runtime", "invalid", True),
        ("ABORTED", "unable to queue the operation", "not-now", False),
        ("FAILED_PRECONDITION", "no reservation matches", "reservation", False),
    ],
)  # fmt: skip
def test_a_create_is_denied_in_the_apis_own_words(
    tpu: Emulator, status: str, message: str, kind: str, final: bool
) -> None:
    tpu.fault("CreateNode", status=status, message=message)
    denied = client(tpu).create(WISH)
    assert isinstance(denied, Denied)
    assert (denied.kind, denied.final) == (kind, final)
    assert message in denied.message
    assert client(tpu).get(ZONE, "run-1") is None


@needs_library
@pytest.mark.parametrize("status", ["INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_what_may_have_happened_is_no_refusal(tpu: Emulator, status: str) -> None:
    tpu.fault("CreateNode", status=status, message="?", after=True)
    with pytest.raises(OutcomeUnknown):
        client(tpu).create(WISH)
    assert tpu.state("run-1") == "CREATING"


@needs_library
def test_a_taken_name_that_is_not_to_be_seen_yet_is_an_open_outcome(tpu: Emulator) -> None:
    tpu.fault("CreateNode", invisible_s=60.0)
    control = client(tpu)
    assert isinstance(control.create(WISH), Begun)
    with pytest.raises(OutcomeUnknown, match="not to be seen yet"):
        control.create(WISH)
    tpu.advance(120)
    assert isinstance(control.create(WISH), Exists)


@needs_library
def test_stale_credentials_are_told_with_the_command(tpu: Emulator) -> None:
    tpu.fault("*", times=None, status="UNAUTHENTICATED", message="Request had invalid authentication credentials.")
    control = client(tpu)
    for call in (lambda: control.get(ZONE, "n"), lambda: control.create(WISH), lambda: control.delete(ZONE, "n")):
        with pytest.raises(AccessRefused) as refused:
            call()
        assert "`gcloud auth application-default login`" in refused.value.hint


@needs_library
def test_a_repeated_request_is_one_and_another_run_is_another(tpu: Emulator) -> None:
    control = client(tpu)
    first = control.create(replace(WISH, queued_s=60.0))
    assert control.create(replace(WISH, queued_s=60.0)) == first
    other = control.create(replace(WISH, queued_s=60.0, labels={"reconciler-run": "b-1"}))
    assert isinstance(other, Exists)
    assert other.labels["reconciler-run"] == "a-1"
    assert len(tpu.queued(ZONE)) == 1


@needs_library
def test_what_is_asked_for_reaches_the_service_field_by_field(tpu: Emulator) -> None:
    control = client(tpu)
    wish = replace(
        WISH,
        spot=False,
        preemptible=True,
        network="net",
        subnetwork="sub",
        service_account="sa@p.iam.gserviceaccount.com",
        internal_ip=True,
    )
    assert isinstance(control.create(wish), Begun)
    node = tpu.nodes(ZONE)["run-1"]
    assert node["networkConfig"] == {"network": "net", "subnetwork": "sub"}
    assert node["schedulingConfig"] == {"preemptible": True}
    assert node["serviceAccount"] == {"email": "sa@p.iam.gserviceaccount.com"}
    assert node["tags"] == ["ssh-in"]
    assert isinstance(control.create(replace(wish, name="shaped", accelerator_type="v5e-2x4")), Begun)
    assert tpu.nodes(ZONE)["shaped"]["acceleratorConfig"] == {"type": "V5LITE_POD", "topology": "2x4"}
    assert isinstance(control.create(replace(WISH, name="q", spot=False, reserved=True, queued_s=90.5)), Begun)
    asked = tpu.queued(ZONE)["q"]
    assert asked["reservationName"] == f"projects/demo-project/locations/{ZONE}/reservations/-"
    assert asked["queueingPolicy"] == {"validUntilDuration": "90s"}
    assert "spot" not in asked


def test_hints_name_the_command() -> None:
    assert "services enable tpu.googleapis.com" in hint_for_permission(
        "Cloud TPU API has not been used in project 1 before or it is disabled."
    )
    assert "tpus locations list" in hint_for_permission("Permission denied on 'locations/us-x' (or it may not exist).")
    assert "set-quota-project" in hint_for_permission("The tpu.googleapis.com API requires a quota project")
    assert "roles/tpu.admin" in hint_for_permission(PERMISSION)

"""gcloud's lines and what they mean, on what a real gcloud said (tests/records/gcloud). No gcloud is run here."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends import tpu_gcloud
from reconciler.backends.dialect import Answer
from reconciler.backends.tpu_gcloud import GcloudControl, failure, node_of, request_of, run_gcloud
from reconciler.backends.tpu_keys import host_key
from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Rejected, Unparsable, Unreachable
from reconciler.core.tpu import Begun, Denied, Endpoint, Exists, NodeWish, RequestState, TpuState

RECORDS = Path(__file__).parent.parent / "records" / "gcloud"
ZONE = "us-central2-b"
WISH = NodeWish("n1", ZONE, "v4-16", "tpu-ubuntu2204-base")


def record(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def answer(name: str) -> Answer:
    found = record(name)
    return Answer(found["rc"], found["stdout"], found["stderr"])


def control(*names: str) -> GcloudControl:
    """One that is answered with these records, in order."""
    answers = [answer(name) for name in names]
    return GcloudControl("", run=lambda argv, timeout_s: answers.pop(0))


# ---- the lines -----------------------------------------------------------------------------------------------


def flags(argv: tuple[str, ...] | list[str]) -> set[str]:
    return set(argv) - {"--quiet"}


@pytest.mark.parametrize(
    ("name", "wish"),
    [
        (
            "tpu-vm.create.all-flags-async",
            NodeWish(
                "n1",
                ZONE,
                "v5litepod-16",
                "v2-alpha-tpuv5-lite",
                spot=True,
                network="net1",
                subnetwork="sub1",
                service_account="sa@demo-project.iam.gserviceaccount.com",
                internal_ip=True,
                labels={"owner": "me", "run": "r1"},
                metadata={"startup-script": "echo hi", "owner": "me"},
                tags=("tag1",),
            ),
        ),
        ("tpu-vm.create.preemptible-async", NodeWish("n1", ZONE, "v4-16", "tpu-ubuntu2204-base", preemptible=True)),
        ("tpu-vm.create.topology-async", NodeWish("n1", ZONE, "v4-2x2x2", "tpu-ubuntu2204-base")),
        ("queued.create.spot-async", NodeWish("n1", ZONE, "v4-16", "tpu-ubuntu2204-base", spot=True, queued_s=21_600)),
    ],
)
def test_a_create_is_the_recorded_line(name: str, wish: NodeWish) -> None:
    recorded = record(name)["argv"]
    ours = tpu_gcloud.create_argv(wish, "")
    said = {
        flag.replace("=6h", "=21600s") for flag in flags(recorded) if not flag.startswith(("--description", "--scopes"))
    }
    assert flags(ours) - {"n1"} == (said | {"--format=json"}) - {"qr1", "n1"}
    assert ours[:5] == tuple(recorded[:5])
    assert ours[5] == "n1"
    assert "--quiet" in ours


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("tpu-vm.describe.ready-json", tpu_gcloud.describe_argv(ZONE, "n1", "")),
        ("tpu-vm.delete.async", tpu_gcloud.delete_argv(ZONE, "n1", "")),
        ("tpu-vm.list.two-json", tpu_gcloud.list_argv(ZONE, "")),
        ("queued.list.json", tpu_gcloud.list_requests_argv(ZONE, "")),
        ("queued.describe.active", tpu_gcloud.describe_request_argv(ZONE, "qr1", "")),
        ("queued.delete.force", tpu_gcloud.delete_request_argv(ZONE, "qr1", "")),
        ("tpu-vm.get-guest-attributes", tpu_gcloud.host_keys_argv(ZONE, "n1", "")),
        ("tpu-vm.accelerator-types.list", tpu_gcloud.types_argv(ZONE, "")),
    ],
)
def test_the_other_lines_are_the_recorded_ones(name: str, ours: tuple[str, ...]) -> None:
    recorded = record(name)["argv"]
    assert flags(ours) - {"--async", "--format=json"} == flags(recorded) - {"--async", "--format=json"}
    assert {"--format=json", "--quiet"} <= set(ours)
    assert ("--async" in ours) == ("delete" in ours)


def test_the_project_is_named_where_it_is_known() -> None:
    assert "--project=p" in tpu_gcloud.create_argv(WISH, "p")
    assert not any("--project" in word for word in tpu_gcloud.list_argv(ZONE, ""))


def test_lines_for_people_survive_a_shell() -> None:
    line = tpu_gcloud.ssh_argv(ZONE, "n1", "p", user="me", worker="all", command="echo '$HOME'; ls", internal_ip=True)
    assert tuple(shlex.split(shlex.join(line))) == line
    assert line[:6] == ("gcloud", "compute", "tpus", "tpu-vm", "ssh", "me@n1")
    assert {"--worker=all", "--internal-ip", "--command=echo '$HOME'; ls"} <= set(line)


@given(
    st.dictionaries(st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True), st.text(max_size=40), min_size=1, max_size=6)
)
def test_any_metadata_is_read_back_as_gcloud_reads_it(metadata: dict[str, str]) -> None:
    """`gcloud topic escaping`: ^MARK^ at the beginning says what parts the items."""
    wish = NodeWish("n1", ZONE, "v4-16", "v", metadata=metadata)
    (flag,) = [word for word in tpu_gcloud.create_argv(wish, "") if word.startswith("--metadata=")]
    text, mark = flag.removeprefix("--metadata="), ","
    if text.startswith("^"):
        mark, text = text[1:].split("^", 1)
    assert dict(item.split("=", 1) for item in text.split(mark)) == metadata


# ---- what it said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("tpu-vm.describe.404", "NOT_FOUND", "was not found"),
        ("tpu-vm.describe.404-no-credentials", "NOT_FOUND", "was not found"),
        ("tpu-vm.describe.403", "PERMISSION_DENIED", "Permission 'tpu.nodes.get' denied"),
        ("tpu-vm.describe.429-always", "RESOURCE_EXHAUSTED", "Quota exceeded"),
        ("tpu-vm.describe.503-always", "UNAVAILABLE", "The service is currently unavailable."),
        ("tpu-vm.describe.http-timeout", "DEADLINE_EXCEEDED", "ReadTimeout"),
        ("tpu-vm.describe.refused", "UNAVAILABLE", "Connection refused"),
        ("tpu-vm.list.403-json", "PERMISSION_DENIED", "tpu.nodes.list"),
        ("tpu-vm.create.400-accelerator", "INVALID_ARGUMENT", "bad request"),
        ("tpu-vm.create.401", "UNAUTHENTICATED", "invalid authentication credentials"),
        ("tpu-vm.create.403-api-disabled", "PERMISSION_DENIED", "has not been used in project"),
        ("tpu-vm.create.409-exists", "ALREADY_EXISTS", "already exists"),
        ("tpu-vm.create.429-quota", "RESOURCE_EXHAUSTED", "Limit: 32"),
        ("tpu-vm.create.500-always", "INTERNAL", ""),
        ("tpu-vm.create.503-always", "UNAVAILABLE", "currently unavailable"),
        ("tpu-vm.create.503-once-after-commit", "ALREADY_EXISTS", "already exists"),
        ("tpu-vm.create.lro-8-no-capacity", "RESOURCE_EXHAUSTED", "no more capacity"),
        ("tpu-vm.create.lro-9-reservation", "FAILED_PRECONDITION", "reserved capacity"),
        ("tpu-vm.create.lro-10-aborted", "ABORTED", ""),
        ("tpu-vm.create.lro-13-internal", "INTERNAL", ""),
        ("tpu-vm.create.lro-3-preempted", "INVALID_ARGUMENT", "PREEMPTED"),
        ("tpu-vm.create.poll-403", "PERMISSION_DENIED", "tpu.operations.get"),
        ("tpu-vm.create.poll-404", "NOT_FOUND", ""),
        ("tpu-vm.create.no-such-flag", "USAGE", "unrecognized arguments"),
        ("tpu-vm.create.version-missing", "USAGE", "Must be specified"),
        ("tpu-vm.delete.409-aborted", "ABORTED", "unable to queue the operation"),
        ("tpu-vm.delete.lro-fails", "INTERNAL", ""),
        ("queued.create.409-exists", "ALREADY_EXISTS", "already exists"),
        ("queued.create.429-quota", "RESOURCE_EXHAUSTED", "Quota limit"),
        ("queued.delete.404", "NOT_FOUND", ""),
        ("queued.delete.active-no-force", "FAILED_PRECONDITION", "is in state ACTIVE"),
        ("queued.list.403-json", "PERMISSION_DENIED", ""),
    ],
)
def test_a_failure_is_told_by_its_prefix(name: str, status: str, words: str) -> None:
    found, text = failure(answer(name))
    assert found == status
    assert words in text
    assert "This command is authenticated" not in text
    assert "@type" not in text


def test_every_recorded_failure_has_a_class_and_every_success_is_read() -> None:
    names = sorted(path.stem for path in RECORDS.glob("*.json"))
    assert len(names) > 50
    control_names = [name for name in names if not name.startswith(("ssh.", "scp.", "queued.ssh"))]
    for name in control_names:
        found = answer(name)
        if found.returncode not in (0, None) and found.returncode > 0:
            assert failure(found)[0] != "UNKNOWN", name


@pytest.mark.parametrize(
    ("name", "hint"), [("no-login", "`gcloud auth login`"), ("no-project", "`gcloud config set project PROJECT`")]
)
def test_without_a_login_or_a_project_the_command_is_told(name: str, hint: str) -> None:
    with pytest.raises(AccessRefused) as raised:
        control(f"tpu-vm.create.{name}").create(WISH)
    assert hint in raised.value.hint
    listing = control(f"tpu-vm.list.{name}").list(ZONE)
    assert not listing.complete
    assert hint in listing.error


def test_what_gcloud_itself_refuses_was_never_sent() -> None:
    said = Answer(
        1, "", "ERROR: (gcloud.compute.tpus.tpu-vm.create) Error parsing [tpu].\nThe [tpu] resource is not ...\n"
    )
    denied = GcloudControl("", run=lambda argv, timeout_s: said).create(WISH)
    assert isinstance(denied, Denied)
    assert (denied.kind, denied.final) == ("invalid", True)


def test_nodes_are_read_whole() -> None:
    node = control("tpu-vm.describe.ready-json").get(ZONE, "n1")
    assert node is not None
    assert (node.name, node.zone, node.word, node.state, node.health) == (
        "n1",
        ZONE,
        "READY",
        TpuState.READY,
        "HEALTHY",
    )
    assert node.endpoints == (Endpoint("127.1.0.1", "127.1.0.1"), Endpoint("127.1.0.2", "127.1.0.2"))
    assert (node.ident.isdigit(), node.accelerator_type) == (True, "v4-16")
    preempted = control("tpu-vm.describe.preempted-json").get(ZONE, "n1")
    assert preempted is not None
    assert preempted.state is TpuState.LOST
    creating = control("tpu-vm.describe.creating-json").get(ZONE, "n1")
    assert creating is not None
    assert (creating.state, creating.endpoints) == (TpuState.COMING, ())


def test_listings_are_whole_or_say_that_they_are_not() -> None:
    listing = control("queued.list.json", "tpu-vm.list.two-json").list(ZONE)
    assert listing.complete
    assert len(listing.nodes) == 2
    assert len(listing.requests) >= 1
    assert control("queued.list.json", "tpu-vm.list.empty-json").list(ZONE).nodes == ()
    # The exit code comes before the JSON: what failed prints an empty list.
    assert answer("queued.list.403-json").stdout.strip() == "[]"
    denied = control("queued.list.403-json", "tpu-vm.list.empty-json").list(ZONE)
    assert (denied.complete, denied.requests) == (False, ())
    assert "gcloud" in denied.error
    for name in ("tpu-vm.list.403-json", "tpu-vm.list.two-table"):
        half = control("queued.list.json", name).list(ZONE)
        assert (half.complete, half.nodes) == (False, ())
        assert half.requests


@pytest.mark.parametrize(
    ("name", "state", "error"),
    [
        ("waiting", RequestState.WAITING, ""),
        ("provisioning", RequestState.PROVISIONING, ""),
        ("active", RequestState.ACTIVE, ""),
        ("suspended", RequestState.SUSPENDED, ""),
        ("node-deleted", RequestState.SUSPENDED, ""),
        ("failed", RequestState.FAILED, "Quota 'TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI' exhausted"),
    ],
)
def test_queued_resources_are_read_whole(name: str, state: RequestState, error: str) -> None:
    request = request_of(json.loads(answer(f"queued.describe.{name}").stdout))
    assert (request.name, request.zone, request.state) == ("qr1", ZONE, state)
    assert error in request.error
    assert bool(request.error) == bool(error)
    assert request.nodes == ("n1",)


def test_slices_of_a_request_are_its_nodes() -> None:
    asked = record("queued.create.multislice-async")["http"][0]["body"]
    spec = asked["tpu"]["nodeSpec"][0]["multisliceParams"]
    request = request_of({"name": f"projects/p/locations/{ZONE}/queuedResources/q", **asked})
    assert request.nodes == tuple(f"{spec['nodeIdPrefix']}-{index}" for index in range(int(spec["nodeCount"])))


@pytest.mark.parametrize(
    ("names", "made"),
    [
        (["tpu-vm.create.all-flags-async"], Begun),
        (["queued.create.spot-async"], Begun),
        (["tpu-vm.create.409-exists", "tpu-vm.describe.ready-json"], Exists),
        (["tpu-vm.create.503-once-after-commit", "tpu-vm.describe.creating-json"], Exists),
        (["tpu-vm.create.429-quota"], ("quota", False)),
        (["tpu-vm.create.429-rate-then-ok"], ("not-now", False)),
        (["tpu-vm.create.400-accelerator"], ("invalid", True)),
        (["tpu-vm.create.no-such-flag"], ("invalid", True)),
        (["tpu-vm.create.403-iam"], ("permission", True)),
        (["tpu-vm.create.403-api-disabled"], ("permission", True)),
    ],
)
def test_what_a_create_said(names: list[str], made: Any) -> None:
    found = control(*names).create(WISH)
    if isinstance(made, tuple):
        assert isinstance(found, Denied)
        assert (found.kind, found.final) == made
    else:
        assert isinstance(found, made)
    if isinstance(found, Begun):
        assert found.operation.startswith(f"projects/demo-project/locations/{ZONE}/operations/")


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["tpu-vm.create.503-always"], OutcomeUnknown),
        (["tpu-vm.create.500-always"], OutcomeUnknown),
        (["tpu-vm.describe.http-timeout"], OutcomeUnknown),
        (["tpu-vm.describe.refused"], Unreachable),
        (["tpu-vm.create.401"], AccessRefused),
        (["tpu-vm.create.409-exists", "tpu-vm.describe.404"], OutcomeUnknown),
        (["tpu-vm.create.409-exists", "tpu-vm.describe.503-always"], OutcomeUnknown),
    ],
)
def test_a_create_whose_answer_is_lost_is_open(names: list[str], error: type[ReconcilerError]) -> None:
    with pytest.raises(error) as raised:
        control(*names).create(WISH)
    assert type(raised.value) is error


def test_a_deadline_is_an_open_outcome_and_no_program_is_a_sentence() -> None:
    late = GcloudControl("", run=lambda argv, timeout_s: Answer(None, "", "gcloud did not answer within 120 s"))
    with pytest.raises(OutcomeUnknown):
        late.create(WISH)
    with pytest.raises(OutcomeUnknown):
        late.delete(ZONE, "n1")
    with pytest.raises(Unreachable):
        late.get(ZONE, "n1")
    absent = GcloudControl("", run=lambda argv, timeout_s: run_gcloud()(("no-such-gcloud", "x"), timeout_s))
    with pytest.raises(AccessRefused, match="gcloud is not installed") as refused:
        absent.create(WISH)
    assert "reconciler[tpu]" in refused.value.hint


@pytest.mark.parametrize(
    "names",
    [
        ["tpu-vm.delete.async"],
        ["tpu-vm.delete.404"],
        ["tpu-vm.delete.409-aborted", "tpu-vm.describe.404"],
    ],
)
def test_a_delete_of_what_is_gone_is_done(names: list[str]) -> None:
    control(*names).delete(ZONE, "n1")


def test_a_delete_that_something_is_in_the_way_of_is_safe_to_repeat() -> None:
    with pytest.raises(Unreachable, match="unable to queue"):
        control("tpu-vm.delete.409-aborted", "tpu-vm.describe.ready-json").delete(ZONE, "n1")
    with pytest.raises(OutcomeUnknown):
        control("tpu-vm.delete.lro-fails").delete(ZONE, "n1")
    control("queued.delete.404").delete_request(ZONE, "qr1")
    with pytest.raises(Rejected):
        control("queued.delete.active-no-force", "queued.describe.active").delete_request(ZONE, "qr1")


def test_host_keys_by_worker() -> None:
    assert control("tpu-vm.get-guest-attributes").host_keys(ZONE, "n1") == {
        0: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmuWorker000000",
        1: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmuWorker000001",
    }
    assert control("tpu-vm.describe.403").host_keys(ZONE, "n1") == {}
    assert "v4-8" in control("tpu-vm.accelerator-types.list").types(ZONE)


@pytest.mark.parametrize(
    "value", ["", "AAAA", "AAAAB3 x", "AAAA" + "A" * 40 + "\n* ssh-rsa AAAA", "-----BEGIN", "AAAA" + "A" * 9000]
)
def test_what_is_no_key_never_reaches_known_hosts(value: str) -> None:
    assert host_key([("hostkeys", "ssh-ed25519", value)]) == ""


def test_the_best_kind_of_key_is_taken() -> None:
    rsa, ecdsa = "AAAAB3NzaC1yc2EAAAADAQABAAABgQ", "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY"
    given_keys = [
        ("hostkeys", "ssh-rsa", rsa),
        ("hostkeys", "ecdsa-sha2-nistp256", ecdsa),
        ("other", "ssh-ed25519", rsa),
    ]
    assert host_key(given_keys) == f"ecdsa-sha2-nistp256 {ecdsa}"


KEYS = ["name", "state", "tpu", "nodeSpec", "labels", "networkEndpoints", "schedulingConfig", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS), below, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for parse in (node_of, request_of):
        read: Callable[[Any], Any] = parse
        if isinstance(value, dict):
            try:
                read(value)
            except Unparsable:
                pass
    listing = GcloudControl("", run=lambda argv, timeout_s: Answer(0, json.dumps(value), "")).list(ZONE)
    assert listing.complete in (True, False)


@given(st.text(), st.sampled_from([1, 2, 255, -9, None]))
def test_any_failure_is_classified(text: str, code: int | None) -> None:
    status, _ = failure(Answer(code, "", text))
    assert status


# ---- running it ----------------------------------------------------------------------------------------------


def test_a_program_is_run_with_a_deadline_and_what_it_started_ends_with_it(tmp_path: Path) -> None:
    run = run_gcloud()
    said = run((sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 30.0)
    assert (said.returncode, said.stdout, said.stderr) == (3, "out\n", "err\n")
    pipe = tmp_path / "pid"
    script = "import subprocess, pathlib; "
    script += f"p = subprocess.Popen(['sleep', '600']); pathlib.Path({str(pipe)!r}).write_text(str(p.pid)); p.wait()"
    late = run((sys.executable, "-c", script), 2.0)
    assert late.returncode is None
    assert "2 s" in late.stderr
    if pipe.exists():  # a machine so busy that the program had not begun proves nothing
        deadline = time.monotonic() + 30.0  # KILL was sent; the kernel carries it out when it comes to it
        while running(int(pipe.read_text())):
            assert time.monotonic() < deadline, "what it started lives on"
            time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_program_never_asks_and_never_waits_long() -> None:
    show = (
        sys.executable,
        "-c",
        "import os; print(dict((k, v) for k, v in os.environ.items() if k.startswith('CLOUDSDK')))",
    )
    said = run_gcloud("http://127.0.0.1:9/", {}).__call__(show, 30.0).stdout
    for part in (
        "'CLOUDSDK_CORE_DISABLE_PROMPTS': '1'",
        "CLOUDSDK_CORE_HTTP_TIMEOUT",
        "'http://127.0.0.1:9/'",
        "DISABLE_CREDENTIALS': 'true'",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("given", "said", "project"),
    [
        ("p", None, "p"),
        ("", Answer(0, "demo-project\n", "Your active configuration is: [default]\n"), "demo-project"),
        ("", Answer(0, "\n", "(unset)\n"), ""),
        ("", Answer(1, "", "ERROR: (gcloud.config.get-value) denied"), ""),
        ("", Answer(None, "", "gcloud was not found: No such file or directory"), ""),
    ],
)
def test_the_project_is_the_given_one_else_gclouds_own(given: str, said: Answer | None, project: str) -> None:
    asked: list[tuple[str, ...]] = []

    def run(argv: Any, timeout_s: float) -> Answer:
        asked.append(tuple(argv))
        assert said is not None
        return said

    assert GcloudControl(given, run=run).default_project() == project
    assert asked == ([] if given else [("gcloud", "config", "get-value", "core/project", "--quiet")])

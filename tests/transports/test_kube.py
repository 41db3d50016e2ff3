"""Commands in a pod keep the transport's contract, through an emulated API server; and what only a pod can do."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.backends.kube_client import KubeClient, Patience
from reconciler.backends.kube_control import JOB
from reconciler.backends.volcano_helper import CONTAINER, HELPER, OWNER, Helper, HelperTransport, HelperWish
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Unreachable
from reconciler.transports.kube import KubeTransport, exit_code
from tests.contract.kube_contract import job
from tests.contract.transport_contract import AMPLE_S, SLACK_S, Site, TransportContract, put, run, soon
from tests.emulators.kube import Cluster
from tests.transports.sites import DirectorySite

pytestmark = pytest.mark.real

KILLED = [{"reason": "ExitCode", "message": "137"}]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("kube")) as kube:
        yield kube


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[KubeClient]:
    opened = KubeClient(
        namespace=cluster.namespace, kubeconfig=str(cluster.kubeconfig), patience=Patience(connect_s=2.0)
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def box(cluster: Cluster, client: KubeClient) -> str:
    """A pod that sleeps."""
    return made(cluster, client, "box")


def made(cluster: Cluster, client: KubeClient, name: str) -> str:
    body = job(name)
    body["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["command"] = ["sleep", "600"]
    client.create(JOB, body)
    cluster.wait(lambda: cluster.phase(name) == "Running")
    return f"{name}-worker-0"


@pytest.fixture
def transport(client: KubeClient, box: str) -> KubeTransport:
    return KubeTransport(client, box, connect_timeout_s=2.0)


class TestKube(TransportContract):
    @pytest.fixture
    def site(self, client: KubeClient, box: str, tmp_path: Path) -> Site:
        return DirectorySite(tmp_path, str(tmp_path), lambda: KubeTransport(client, box, connect_timeout_s=2.0))


def test_a_missed_deadline_ends_what_ran(transport: KubeTransport, tmp_path: Path) -> None:
    with pytest.raises(OutcomeUnknown):
        run(transport, "sh", "-c", 'echo $$ > "$1"; exec sleep 30', "sh", str(tmp_path / "pid"), deadline_s=0.7)
    child = int((tmp_path / "pid").read_text())
    assert soon(lambda: not alive(child))


def test_a_source_that_ends_early_leaves_no_process_that_waits_for_the_rest(
    transport: KubeTransport, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="5 of 9 bytes"):
        transport.put(io.BytesIO(b"short"), str(tmp_path / "f"), size=9, deadline_s=AMPLE_S)
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_a_command_whose_input_is_left_unread_keeps_its_exit_status(transport: KubeTransport) -> None:
    assert run(transport, "sh", "-c", "exit 3", stdin=b"x" * 500_000)[0] == 3
    assert run(transport, "sh", "-c", "head -c 1; exit 4", stdin=b"xyz")[:2] == (4, b"x")


def test_a_pod_that_is_not_there_is_unreachable(client: KubeClient, cluster: Cluster) -> None:
    with pytest.raises(Unreachable, match='pods "nobody" not found'):
        run(KubeTransport(client, "nobody"), "true")


def test_a_missing_right_to_run_commands_names_it(cluster: Cluster, transport: KubeTransport) -> None:
    cluster.deny("*", "pods/exec")
    try:
        with pytest.raises(AccessRefused, match=r"(?s)cannot .*can-i create pods --subresource exec -n team-a"):
            run(transport, "true")
    finally:
        cluster.allow()
    assert run(transport, "true")[0] == 0


def test_a_token_that_was_renewed_on_disk_is_used_at_once(cluster: Cluster, transport: KubeTransport) -> None:
    assert run(transport, "true")[0] == 0
    cluster.expire_token()
    cluster.renew_token()
    assert run(transport, "true")[0] == 0
    cluster.expire_token()
    with pytest.raises(AccessRefused, match="does not accept the credentials"):
        run(transport, "true")
    cluster.renew_token()
    assert run(transport, "true")[0] == 0


def test_a_pod_that_is_deleted_under_a_command_leaves_the_outcome_unknown(
    cluster: Cluster, client: KubeClient, tmp_path: Path
) -> None:
    pod = made(cluster, client, "doomed")
    transport = KubeTransport(client, pod)
    with cut_once(lambda: cluster.delete_pod(pod, grace_s=0), (tmp_path / "mark").exists):  # noqa: SIM117
        with pytest.raises(OutcomeUnknown, match="the container was stopped"):
            run(transport, "sh", "-c", 'echo > "$1"; sleep 30', "sh", str(tmp_path / "mark"))


def test_a_server_that_dies_under_a_command_leaves_the_outcome_unknown_and_is_reached_again(
    cluster: Cluster, transport: KubeTransport, tmp_path: Path
) -> None:
    with cut_once(cluster.stop, (tmp_path / "mark").exists), pytest.raises(OutcomeUnknown, match="was cut"):
        run(transport, "sh", "-c", 'echo > "$1"; sleep 30', "sh", str(tmp_path / "mark"))
    with pytest.raises(Unreachable, match="refused"):
        run(transport, "true")
    cluster.start()
    assert run(transport, "true")[0] == 0


def test_a_transfer_that_is_cut_leaves_the_old_file(cluster: Cluster, transport: KubeTransport, tmp_path: Path) -> None:
    put(transport, str(tmp_path / "f"), b"old")
    seen = 0

    def progress(count: int) -> None:
        nonlocal seen
        if seen < 4_000_000 <= seen + count:
            cluster.stop()
        seen += count

    with pytest.raises(OutcomeUnknown):
        put(transport, str(tmp_path / "f"), b"x" * 30_000_000, progress=progress)
    cluster.start()
    assert seen < 30_000_000
    assert soon(lambda: os.listdir(tmp_path) == ["f"]), os.listdir(tmp_path)
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_silent_server_costs_the_time_to_connect(cluster: Cluster, transport: KubeTransport) -> None:
    cluster.fault(kind="pods/exec", hang_s=20.0)
    began = time.monotonic()
    try:
        with pytest.raises(Unreachable, match="no connection within 2 s"):
            run(transport, "true")
        assert time.monotonic() - began < 2.0 + SLACK_S
    finally:
        cluster.heal()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "Success"}, 0),
        ({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": KILLED}}, 137),
        ({"status": "Failure", "reason": "InternalError", "message": "x"}, None),
        ({"status": "Failure", "reason": "NonZeroExitCode"}, None),
        ([], None),
    ],
)  # fmt: skip
def test_the_exit_code_is_read_from_the_status(status: object, code: int | None) -> None:
    assert exit_code(json.dumps(status).encode()) == code
    assert exit_code(b"\xff") is None


def cut_once(act, when):  # type: ignore[no-untyped-def]
    """Do it from another thread as soon as `when` holds."""
    import contextlib
    import threading

    @contextlib.contextmanager
    def inside() -> Iterator[None]:
        thread = threading.Thread(target=lambda: act() if soon(when) else None)
        thread.start()
        yield
        thread.join()

    return inside()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_helper_reaches_a_claim_and_is_gone_afterwards(cluster: Cluster, client: KubeClient) -> None:
    folder = cluster.claim("data")
    wish = HelperWish(owner="jo", host="lab", maker="jo at ws1", image="python:3.11", claim="data", path=str(folder))
    helper = Helper(client, wish, transport=lambda pod: KubeTransport(client, pod, container=CONTAINER), ready_s=30.0)
    transport = HelperTransport(helper)
    put(transport, str(folder / "tree" / "a.txt"), b"hello")
    assert (folder / "tree" / "a.txt").read_bytes() == b"hello"
    name = helper.name
    assert cluster.phase(name) == "Running"
    # A process that died left one as well.
    left = Helper(client, wish, transport=lambda pod: KubeTransport(client, pod), ready_s=30.0)
    left.open()
    found = client.list(JOB, labels={HELPER: "lab", OWNER: "jo"}).objects
    assert sorted(each["metadata"]["name"] for each in found) == sorted([name, left.name])
    assert helper.sweep(found) == [left.name]
    transport.close()
    cluster.wait(lambda: not [job for job in cluster.list("jobs") if HELPER in job["metadata"].get("labels", {})])
    cluster.wait(lambda: not cluster.pods(name) and not cluster.pods(left.name))


def test_a_helper_whose_image_cannot_be_pulled_is_told_and_leaves_nothing(cluster: Cluster, client: KubeClient) -> None:
    folder = cluster.claim("data")
    cluster.pull_fails("no/such:1")
    wish = HelperWish(owner="jo", host="lab", maker="jo at ws1", image="no/such:1", claim="data", path=str(folder))
    helper = Helper(client, wish, transport=lambda pod: KubeTransport(client, pod), why=lambda: "no image", ready_s=1.0)
    with pytest.raises(Unreachable, match=r"(?s)is not there after 1 s: no image.*the image no/such:1"):
        helper.open()
    cluster.wait(lambda: not [job for job in cluster.list("jobs") if HELPER in job["metadata"].get("labels", {})])

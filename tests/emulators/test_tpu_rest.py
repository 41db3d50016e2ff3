"""The emulated Cloud TPU service over plain HTTP, as a program and under the control of another process. No library needed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.tpu import GET_LIBRARY, Emulator, have_library

ROOT = Path(__file__).parent.parent.parent
ZONE = "projects/demo-project/locations/us-central2-b"
BODY = {
    "acceleratorType": "v4-16", "runtimeVersion": "tpu-ubuntu2204-base", "labels": {},
    "networkConfig": {"enableExternalIps": True},
    "schedulingConfig": {"spot": False, "preemptible": False},
}  # fmt: skip


def say(address: str, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{address}/{path}", data, {"Content-Type": "application/json"}, method=verb
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)), False])
def tpu(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """With the library's check of every request and without."""
    with Emulator(grpc=request.param, zones=["us-central2-b", "us-central1-a"], strict=False) as made:
        yield made


def test_a_node_is_created_listed_and_deleted(tpu: Emulator):
    status, begun = say(tpu.rest, "POST", f"v2/{ZONE}/nodes?nodeId=n1&alt=json", BODY)
    assert (status, begun["metadata"]["verb"]) == (200, "create")
    assert "done" not in begun
    tpu.advance(3)
    status, node = say(tpu.rest, "GET", f"v2/{ZONE}/nodes/n1?alt=json")
    assert status == 200
    assert node["schedulingConfig"] == {}  # what is false is not told
    assert "labels" not in node
    assert say(tpu.rest, "GET", f"v2/{begun['name']}")[1]["response"]["state"] == "READY"
    assert say(tpu.rest, "GET", f"v2alpha1/{ZONE}/nodes")[1]["nodes"][0]["name"] == f"{ZONE}/nodes/n1"
    assert say(tpu.rest, "DELETE", f"v2/{ZONE}/nodes/n1")[0] == 200
    tpu.advance(2)
    status, answer = say(tpu.rest, "GET", f"v2/{ZONE}/nodes/n1")
    assert (status, answer["error"]["status"]) == (404, "NOT_FOUND")
    assert answer["error"]["details"][0]["resourceName"] == f"{ZONE}/nodes/n1"


def test_force_is_read_as_gcloud_writes_it(tpu: Emulator):
    tpu.enqueue("qr1", zone="us-central2-b")
    tpu.advance(10)
    path = f"v2/{ZONE}/queuedResources/qr1"
    assert say(tpu.rest, "DELETE", path)[1]["error"]["status"] == "FAILED_PRECONDITION"
    assert say(tpu.rest, "DELETE", f"{path}?force=True")[0] == 200
    assert tpu.queued_state("qr1") == "DELETING"


def test_locations_under_v1_and_the_project_of_compute(tpu: Emulator):
    status, answer = say(tpu.rest, "GET", "v1/projects/demo-project/locations?alt=json")
    assert (status, [one["locationId"] for one in answer["locations"]]) == (200, ["us-central1-a", "us-central2-b"])
    tpu.metadata(**{"ssh-keys": "me:ssh-ed25519 AAAA me"})
    _, project = say(tpu.rest, "GET", "compute/v1/projects/demo-project")
    assert project["commonInstanceMetadata"]["items"] == [{"key": "ssh-keys", "value": "me:ssh-ed25519 AAAA me"}]
    assert say(tpu.rest, "GET", "oslogin/v1/users/me@example.com/loginProfile")[0] == 404
    assert tpu.unrouted == []


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "v1/projects/demo-project/x"), ("POST", f"v2/{ZONE}/nodes/n1:explode"), ("GET", "v3/x"), ("PUT", f"v2/{ZONE}")],
)  # fmt: skip
def test_any_other_route_is_404_and_recorded(tpu: Emulator, verb: str, path: str):
    status, answer = say(tpu.rest, verb, path)
    assert (status, answer["error"]["message"]) == (404, f"emulator: no route for {verb} /{path}")
    assert tpu.unrouted == [f"{verb} /{path}"]


def test_what_is_no_json_is_refused(tpu: Emulator):
    connection = http.client.HTTPConnection(tpu.rest)
    connection.request("POST", f"/v2/{ZONE}/nodes?nodeId=n1", "{broken")
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]["status"]) == (400, "INVALID_ARGUMENT")
    connection.close()


@pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)
def test_v2_refuses_an_unknown_field_and_v2alpha1_does_not():
    with Emulator() as tpu:
        body = {**BODY, "provisioningModel": "SPOT"}
        status, answer = say(tpu.rest, "POST", f"v2/{ZONE}/nodes?nodeId=n1", body)
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert "provisioningModel" in answer["error"]["message"]
        assert [(one.method, one.code) for one in tpu.calls()] == [("CreateNode", "INVALID_ARGUMENT")]
        assert say(tpu.rest, "POST", f"v2alpha1/{ZONE}/nodes?nodeId=n1", body)[0] == 200


def test_garbage_and_a_cut_connection(tpu: Emulator):
    tpu.fault("ListNodes", raw={"code": 502, "body": "<html>Bad Gateway</html>"})
    tpu.fault("ListNodes", raw={"code": 200, "body": '{"nodes": [', "type": "application/json"})
    tpu.fault("ListNodes", drop=True)
    connection = http.client.HTTPConnection(tpu.rest, timeout=10)
    got = []
    for _ in range(2):
        connection.request("GET", f"/v2/{ZONE}/nodes")
        answer = connection.getresponse()
        got.append((answer.status, answer.read(), answer.headers["Content-Type"]))
    assert got == [
        (502, b"<html>Bad Gateway</html>", "text/html; charset=UTF-8"),
        (200, b'{"nodes": [', "application/json"),
    ]
    connection.request("GET", f"/v2/{ZONE}/nodes")
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()


def test_an_answer_takes_no_40_milliseconds(tpu: Emulator):
    """Header and body in two pieces, or Nagle's algorithm, would cost that much each."""
    connection = http.client.HTTPConnection(tpu.rest, timeout=10)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        connection.request("GET", f"/v2/{ZONE}/nodes")
        connection.getresponse().read()
        took.append(time.perf_counter() - begin)
    connection.close()
    assert sorted(took)[10] < 0.03


class TestControl:
    def steer(self, tpu: Emulator, verb: str, **arguments: Any) -> Any:
        status, answer = say(tpu.rest, "POST", f"_emu/{verb}", arguments)
        assert status == 200, answer
        return answer

    def test_another_process_does_what_a_test_can_do(self, tpu: Emulator):
        self.steer(tpu, "create", name="n1", type="v4-32", zone="us-central2-b")
        laid = self.steer(tpu, "fault", method="CreateNode", name="n2", lro_error={"code": 8, "message": "no more"})
        assert laid["knobs"] == {"lro_error": {"code": 8, "message": "no more"}}
        assert len(self.steer(tpu, "faults")) == 1
        self.steer(tpu, "advance", seconds=5)
        self.steer(tpu, "preempt", name="n1")
        assert self.steer(tpu, "nodes")["n1"]["state"] == "PREEMPTED"
        assert self.steer(tpu, "state", name="n1") == "PREEMPTED"
        assert self.steer(tpu, "settings", provision_s=60)["provision_s"] == 60
        assert self.steer(tpu, "quota", zone="us-central2-b", v4=64) == {"v4": 64}
        say(tpu.rest, "GET", f"v2/{ZONE}/nodes")
        assert [one["method"] for one in self.steer(tpu, "calls")] == ["ListNodes"]
        self.steer(tpu, "reset")
        assert self.steer(tpu, "nodes") == {}

    @pytest.mark.parametrize(
        ("verb", "arguments", "words"),
        [
            ("explode", {}, "no such verb; there are advance,"),
            ("preempt", {"name": "n9"}, "there is no node n9"),
            ("advance", {"minutes": 3}, "minutes"),
            ("fault", {"method": "GetNode", "colour": "red"}, "has no knob colour; it has status,"),
            ("worker", {"name": "n1"}, "started without workers"),
        ],
    )
    def test_what_it_cannot_do_it_says(self, tpu: Emulator, verb: str, arguments: Any, words: str):
        status, answer = say(tpu.rest, "POST", f"_emu/{verb}", arguments)
        assert status == 400
        assert words in answer["error"]["message"]


class TestProgram:
    @contextmanager
    def run(self, *argv: str, stdin: int = subprocess.PIPE) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        command = [sys.executable, "-m", "tests.emulators.tpu", *argv]
        with subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            try:
                yield program, json.loads(program.stdout.readline())
            finally:
                program.kill()

    def test_it_says_where_it_serves_and_ends_with_its_input(self, tmp_path: Path):
        log = tmp_path / "log.jsonl"
        with self.run("--no-grpc", "--log", str(log), "--still", "--zone", "us-central2-b=v4", "--set", "provision_s=7",
                      "--quota", "us-central2-b:v4=16") as (program, ready):  # fmt: skip
            assert (ready["grpc"], ready["zones"], ready["ssh_port"]) == (None, ["us-central2-b"], None)
            assert ready["gcloud"]["CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU"] == f"http://{ready['rest']}/"
            assert say(ready["rest"], "POST", f"v2/{ZONE}/nodes?nodeId=n1", BODY)[0] == 200
            assert say(ready["rest"], "POST", f"v2/{ZONE}/nodes?nodeId=n2", BODY)[0] == 429
            say(ready["rest"], "POST", "_emu/advance", {"seconds": 6.5})
            assert say(ready["rest"], "POST", "_emu/state", {"name": "n1"})[1] == "CREATING"
            assert program.stdin is not None
            program.stdin.close()
            assert program.wait(10) == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(one["method"], one["code"]) for one in lines] == [
            ("CreateNode", "OK"),
            ("CreateNode", "RESOURCE_EXHAUSTED"),
        ]
        assert lines[0]["agent"].startswith("Python-urllib")

    def test_it_ends_on_sigterm_and_not_before_when_detached(self):
        with self.run("--no-grpc", "--detached", stdin=subprocess.DEVNULL) as (program, ready):
            assert say(ready["rest"], "GET", f"v2/{ZONE}/nodes") == (200, {})
            assert program.poll() is None
            program.send_signal(signal.SIGTERM)
            assert program.wait(10) == 0

    @pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)
    def test_time_runs_and_may_run_faster(self):
        from google.cloud import tpu_v2
        from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport
        from grpc import insecure_channel

        with self.run("--speed", "1000") as (_, ready), insecure_channel(ready["grpc"]) as channel:
            client = tpu_v2.TpuClient(transport=TpuGrpcTransport(channel=channel, host=ready["grpc"]))
            node = {"accelerator_type": "v4-8", "runtime_version": "tpu-ubuntu2204-base"}
            client.create_node(parent=ZONE, node_id="n1", node=node, timeout=10)
            deadline = time.monotonic() + 10
            while client.get_node(name=f"{ZONE}/nodes/n1", timeout=10).state.name != "READY":
                assert time.monotonic() < deadline

    def test_it_listens_on_loopback_only(self):
        with self.run("--no-grpc") as (_, ready):
            port = int(ready["rest"].rpartition(":")[2])
            with socket.socket() as other, pytest.raises(ConnectionRefusedError):
                other.connect(("127.0.0.2", port))

    def test_help_and_a_wrong_argument(self):
        def told(*argv: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "tests.emulators.tpu", *argv]
            return subprocess.run(
                command, cwd=ROOT, env={**os.environ, "COLUMNS": "120"}, capture_output=True, text=True
            )

        text = told("--help").stdout
        for word in (
            "--rest-port",
            "--grpc-port",
            "--speed",
            "--workers",
            "_emu/fault",
            "never compared with the real service",
        ):
            assert word in text
        assert "no such family: v9" in told("--zone", "z=v9").stderr
        assert "no such setting" in told("--set", "colour=3").stderr

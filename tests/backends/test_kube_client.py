"""The client keeps the contract of every Kube, against an emulated API server over HTTP, and its own promises."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends import kube_client
from reconciler.backends.kube_client import KubeClient, Patience
from reconciler.backends.kube_control import JOB, POD, SECRET, Kube
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unparsable, Unreachable
from tests.contract.kube_contract import LABELS, KubeContract, job, secret
from tests.emulators.kube import Cluster

pytestmark = pytest.mark.real

QUICK = Patience(connect_s=2.0, read_s=3.0, effect_s=3.0, tries_s=5.0, pause_s=0.01)


class ServerBench:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kube = KubeClient(namespace=cluster.namespace, kubeconfig=str(cluster.kubeconfig), patience=QUICK)
        self._others: list[KubeClient] = []

    def elsewhere(self, namespace: str) -> Kube:
        self._others.append(KubeClient(namespace=namespace, kubeconfig=str(self.cluster.kubeconfig), patience=QUICK))
        return self._others[-1]

    def lose_next(self, verb: str) -> None:
        self.cluster.fault(verb=verb, drop=True, after=True)

    def forbid(self, verb: str, plural: str) -> None:
        self.cluster.deny(verb, plural)

    def no_volcano(self) -> None:
        self.cluster.no_volcano()

    def cut(self) -> None:
        self.cluster.stop()

    def close(self) -> None:
        for kube in (self.kube, *self._others):
            kube.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ServerBench]:
    with Cluster(tmp_path / "kube") as cluster:
        opened = ServerBench(cluster)
        yield opened
        opened.close()


class TestKubeClient(KubeContract):
    pass


# --- lists


def test_a_list_of_many_pages_is_whole(bench: ServerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_client, "PAGE", 3)
    for index in range(8):
        bench.kube.create(SECRET, secret(f"s{index}"))
    before = bench.cluster.count("list", "secrets")
    found = bench.kube.list(SECRET, labels=LABELS)
    assert sorted(each["metadata"]["name"] for each in found.objects) == [f"s{index}" for index in range(8)]
    assert bench.cluster.count("list", "secrets") - before == 3


def test_a_list_whose_pages_grew_old_starts_anew(bench: ServerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_client, "PAGE", 3)
    for index in range(8):
        bench.kube.create(SECRET, secret(f"s{index}"))
    asked: list[bool] = []
    read = bench.kube._read

    def old_at_first(ask: Any, path: str, query: Any = None, **how: Any) -> Any:
        if query and "continue" in query and not asked:
            asked.append(True)
            bench.cluster.compact()
        return read(ask, path, query, **how)

    monkeypatch.setattr(bench.kube, "_read", old_at_first)
    assert len(bench.kube.list(SECRET, labels=LABELS).objects) == 8
    assert asked


@pytest.mark.parametrize(
    "raw", ["<html>sign in</html>", "[]", "{}", '{"items": [1], "metadata": {}}', '{"metadata": {}, "items": {}}']
)
def test_an_answer_that_is_no_list_is_no_absence(bench: ServerBench, raw: str) -> None:
    bench.cluster.fault("list", "jobs", raw=raw)
    with pytest.raises(Unparsable, match="what is no Job"):
        bench.kube.list(JOB)


@pytest.mark.parametrize(
    "raw",
    [
        "<html>sign in</html>",
        "null",
        '{"kind": "Job", "metadata": {"name": "other"}}',
        '{"kind": "Pod", "metadata": {"name": "a"}}',
    ],
)
def test_an_answer_that_is_another_object_is_not_taken(bench: ServerBench, raw: str) -> None:
    bench.cluster.fault("get", "jobs", raw=raw)
    with pytest.raises(Unparsable):
        bench.kube.get(JOB, "a")


# --- retries


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_read_is_repeated_while_the_server_is_in_trouble(bench: ServerBench, status: int) -> None:
    bench.kube.create(JOB, job("a"))
    bench.cluster.fault("get", "jobs", status=status, times=2)
    before = bench.cluster.count("get", "jobs")
    assert bench.kube.get(JOB, "a") is not None
    assert bench.cluster.count("get", "jobs") - before == 3


def test_a_server_that_stays_in_trouble_is_unreachable_and_the_tries_are_few(bench: ServerBench) -> None:
    bench.cluster.fault("list", "jobs", status=503, times=None)
    with pytest.raises(Unreachable, match="unable to handle the request"):
        bench.kube.list(JOB)
    assert bench.cluster.count("list", "jobs") == QUICK.tries


@pytest.mark.parametrize(("status", "error"), [(429, Unreachable), (500, OutcomeUnknown), (503, Unreachable)])
def test_an_effect_is_never_repeated(bench: ServerBench, status: int, error: type[Exception]) -> None:
    bench.cluster.fault("create", "secrets", status=status)
    with pytest.raises(error):
        bench.kube.create(SECRET, secret("s"))
    assert bench.cluster.count("create", "secrets") == 1


def test_a_silent_server_costs_the_timeout_and_leaves_an_effect_open(bench: ServerBench) -> None:
    kube = KubeClient(
        namespace=bench.cluster.namespace,
        kubeconfig=str(bench.cluster.kubeconfig),
        patience=Patience(connect_s=1.0, read_s=0.4, effect_s=0.4, tries_s=1.0, pause_s=0.01),
    )
    bench.cluster.fault(hang_s=20.0, times=None)
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match=r"it said nothing for 0\.4 s"):
        kube.create(SECRET, secret("s"))
    with pytest.raises(Unreachable, match="it said nothing"):
        kube.list(JOB)
    assert time.monotonic() - began < 4.0
    bench.cluster.heal()
    kube.close()


def test_a_connection_that_is_cut_leaves_a_create_open_but_not_a_read(bench: ServerBench) -> None:
    bench.cluster.fault("create", "secrets", drop=True)
    with pytest.raises(OutcomeUnknown, match="Whether it was done is not known"):
        bench.kube.create(SECRET, secret("s"))
    assert bench.kube.get(SECRET, "s") is None
    bench.cluster.fault("get", "secrets", drop=True)
    assert bench.kube.get(SECRET, "s") is None  # the second try


# --- output


def test_output_is_read_from_its_beginning_and_cut(bench: ServerBench) -> None:
    body = job("a")
    body["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "echo 0123456789; sleep 60"]
    bench.kube.create(JOB, body)
    bench.cluster.wait(lambda: bench.cluster.phase("a") == "Running" and bench.cluster.log("a-worker-0"))
    assert bench.kube.logs("a-worker-0", size_max=100) == b"0123456789\n"
    assert bench.kube.logs("a-worker-0", size_max=4) == b"0123"
    bench.cluster.fault("get", "pods/log", raw=b"more than was asked for")
    assert bench.kube.logs("a-worker-0", size_max=4) == b"more"
    with pytest.raises(Rejected, match="nope"):
        bench.kube.logs("a-worker-0", container="nope", size_max=4)


def test_output_of_a_container_that_has_not_started_is_none(bench: ServerBench) -> None:
    bench.cluster.slow_start(60.0)
    bench.kube.create(JOB, job("a"))
    bench.cluster.wait(lambda: bench.cluster.pods("a") and bench.cluster.pods("a")[0]["spec"].get("nodeName"))
    assert bench.kube.logs("a-worker-0", size_max=100) is None


def test_what_a_pod_list_is_chosen_by(bench: ServerBench) -> None:
    bench.kube.create(JOB, job("a"))
    bench.cluster.wait(lambda: bench.cluster.phase("a") == "Running")
    found = bench.kube.list(POD, labels={"reconciler/owner": ""}, fields="status.phase=Running").objects
    assert [each["metadata"]["name"] for each in found] == ["a-worker-0"]
    assert list(bench.kube.list(POD, fields="status.phase=Failed").objects) == []


# --- signing in


def test_a_token_that_was_renewed_on_disk_is_used_within_the_same_call(bench: ServerBench) -> None:
    bench.kube.list(JOB)
    bench.cluster.expire_token()
    bench.cluster.renew_token()
    assert not bench.kube.create(SECRET, secret("s")).repeated


def test_an_expired_token_is_refused_and_says_whose_it_is(bench: ServerBench) -> None:
    bench.cluster.expire_token()
    with pytest.raises(
        AccessRefused, match=r"(?s)context emulator of .*kubeconfig: they are wrong, or have expired.*auth whoami"
    ):
        bench.kube.list(JOB)


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessRefused, match=r"(?s)no kubeconfig .*none\.yaml.*`kubeconfig` in the host's entry"):
        KubeClient(namespace="x", kubeconfig=str(tmp_path / "none.yaml")).list(JOB)


@pytest.mark.parametrize("text", ["", "a: [", "[]", "contexts: 3", "contexts: [{}]", "contexts: []", "\x00"])
def test_a_kubeconfig_that_is_broken_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(AccessRefused, match=r"config\.yaml"):
        KubeClient(namespace="x", kubeconfig=str(path)).list(JOB)


def test_a_context_that_is_not_there_is_told_with_those_that_are(bench: ServerBench) -> None:
    kube = KubeClient(namespace="x", kubeconfig=str(bench.cluster.kubeconfig), context="prod")
    with pytest.raises(AccessRefused, match="has no context prod; it has emulator"):
        kube.list(JOB)


def test_without_any_kubeconfig_and_outside_a_pod_the_ways_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessRefused, match=r"neither \$KUBECONFIG nor ~/\.kube/config"):
        KubeClient(namespace="x").list(JOB)


def test_the_default_kubeconfig_is_the_environments(bench: ServerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(bench.cluster.kubeconfig))
    kube = KubeClient(namespace=bench.cluster.namespace)
    assert list(kube.list(JOB).objects) == []
    kube.close()


def with_program(
    bench: ServerBench, tmp_path: Path, script: str, patience: Patience = QUICK, server: str = ""
) -> KubeClient:
    """A kubeconfig whose user signs in by a program."""
    program = tmp_path / "sign-in"
    if script:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    config = {
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": server or bench.cluster.url}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [
            {
                "name": "u",
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": str(program),
                        "interactiveMode": "Never",
                    }
                },
            }
        ],
    }
    path = tmp_path / "program.yaml"
    path.write_text(json.dumps(config))
    return KubeClient(namespace=bench.cluster.namespace, kubeconfig=str(path), patience=patience)


def credential(token: str) -> str:
    told = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    return f"cat <<'E'\n{json.dumps(told)}\nE"


def test_a_sign_in_program_brings_the_token(bench: ServerBench, tmp_path: Path) -> None:
    kube = with_program(bench, tmp_path, credential(bench.cluster.token))
    assert list(kube.list(JOB).objects) == []
    kube.close()


def test_a_sign_in_program_that_is_missing_is_named(bench: ServerBench, tmp_path: Path) -> None:
    with pytest.raises(
        AccessRefused, match=r"(?s)sign-in program .*sign-in of context c.*is not installed.*on the PATH"
    ):
        with_program(bench, tmp_path, "").list(JOB)


@pytest.mark.parametrize("script", ["echo token expired, please sign in >&2; exit 1", "echo nonsense", "echo '{}'"])
def test_a_sign_in_program_that_fails_is_named_with_its_words(
    bench: ServerBench, tmp_path: Path, script: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        AccessRefused,
        match=r"(?s)sign-in of context c .* gave no credentials: (exit status 1|what it printed is no cred).*Run `kubectl",
    ) as refused:
        with_program(bench, tmp_path, script).list(JOB)
    assert ("please sign in" in refused.value.message) is ("please" in script)
    assert capfd.readouterr().err == ""


def test_a_sign_in_program_that_never_ends_costs_its_deadline(bench: ServerBench, tmp_path: Path) -> None:
    kube = with_program(bench, tmp_path, "exec sleep 60", Patience(sign_in_s=0.3))
    began = time.monotonic()
    with pytest.raises(AccessRefused, match=r"did not end within 0\.3 s"):
        kube.list(JOB)
    assert time.monotonic() - began < 3


def test_a_sign_in_program_that_asks_has_nobody_to_ask(bench: ServerBench, tmp_path: Path) -> None:
    kube = with_program(bench, tmp_path, "read answer || { echo nobody answers >&2; exit 1; }")
    with pytest.raises(AccessRefused, match="nobody answers"):
        kube.list(JOB)


def test_a_sign_in_program_is_asked_again_when_its_token_has_expired(bench: ServerBench, tmp_path: Path) -> None:
    kube = with_program(bench, tmp_path, 'cat "$(dirname "$0")/credential"')
    (tmp_path / "credential").write_text(credential(bench.cluster.token).split("\n")[1])
    before = (tmp_path / "program.yaml").read_text()
    assert list(kube.list(JOB).objects) == []
    bench.cluster.expire_token()
    bench.cluster.renew_token()
    (tmp_path / "credential").write_text(credential(bench.cluster.token).split("\n")[1])
    assert list(kube.list(JOB).objects) == []
    assert (tmp_path / "program.yaml").read_text() == before  # no token is written down
    kube.close()


def test_a_sign_in_program_may_bring_a_certificate(bench: ServerBench, tmp_path: Path) -> None:
    pair = {"clientCertificateData": "CERT", "clientKeyData": "KEY"}
    told = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": pair}
    kube = with_program(bench, tmp_path, f"echo '{json.dumps(told)}'", server="https://127.0.0.1:1")
    tls = kube.door().tls
    assert Path(tls["certfile"]).read_text() == "CERT"
    assert Path(tls["keyfile"]).read_text() == "KEY"


# --- other servers


class Strange(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:1/login")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


def to(tmp_path: Path, server: str, **cluster: object) -> KubeClient:
    config = {
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "not-to-be-shown"}}],
    }
    path = tmp_path / "to.yaml"
    path.write_text(json.dumps(config))
    return KubeClient(namespace="x", kubeconfig=str(path), patience=QUICK)


def test_a_login_page_is_not_followed(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Strange)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    kube = to(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
    try:
        with pytest.raises(Rejected, match=r"(?s)sends us elsewhere.*login page"):
            kube.list(JOB)
        assert len(server.seen) == 1  # type: ignore[attr-defined]
    finally:
        kube.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        kube = to(tmp_path, f"https://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(Unreachable, match="refused") as error:
            kube.create(SECRET, secret("s"))
        assert "not-to-be-shown" not in str(error.value)


@pytest.mark.parametrize("server", ["", "nonsense", "https://", "ftp://x"])
def test_a_server_that_is_no_address(tmp_path: Path, server: str) -> None:
    with pytest.raises(AccessRefused, match="server of context c is no address"):
        to(tmp_path, server).list(JOB)


def test_a_server_whose_certificate_nobody_vouches_for_is_refused(tmp_path: Path, tls_port: int) -> None:
    with pytest.raises(AccessRefused, match=r"(?s)certificate verify failed.*listening in"):
        to(tmp_path, f"https://127.0.0.1:{tls_port}").create(SECRET, secret("s"))


def test_a_certificate_authority_that_cannot_be_read_is_told(tmp_path: Path, tls_port: int) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises((AccessRefused, Unreachable), match=r"(?i)certificate|pem|x509") as error:
        to(tmp_path, f"https://127.0.0.1:{tls_port}", **{"certificate-authority": str(tmp_path / "ca.crt")}).list(JOB)
    assert "kubeconfig" in str(error.value)
    missing = {"certificate-authority": str(tmp_path / "none.crt")}
    with pytest.raises(AccessRefused, match=r"none\.crt"):
        to(tmp_path, f"https://127.0.0.1:{tls_port}", **missing).list(JOB)


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A server with a certificate that it signed itself."""
    import ssl
    import subprocess

    folder = tmp_path / "tls"
    folder.mkdir()
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    try:
        subprocess.run([*made, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    listener = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def serve() -> None:
        while True:
            peer, _ = listener.accept()
            if ending.is_set():
                peer.close()
                return
            try:
                with context.wrap_socket(peer, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    yield port
    ending.set()
    socket.create_connection(("127.0.0.1", port)).close()
    thread.join()
    listener.close()

"""Calls and commands over TLS, by a terminator in front of the emulated API server: records are cut where frames are not."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.backends.kube_client import KubeClient, Patience
from reconciler.backends.kube_control import JOB
from reconciler.core.errors import AccessRefused
from reconciler.transports.kube import KubeTransport
from tests.contract.kube_contract import job
from tests.contract.transport_contract import put, run
from tests.emulators.kube import Cluster

pytestmark = pytest.mark.real


class Terminator:
    """Listens with TLS and passes everything on to a port in clear text."""

    def __init__(self, folder: Path, port: int) -> None:
        subject = ["-subj", "/CN=emulator", "-addext", "subjectAltName=IP:127.0.0.1"]
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        self.certificate = folder / "ca.crt"
        subprocess.run([*made, "-keyout", folder / "key", "-out", self.certificate], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, folder / "key")
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            if self._ending.is_set():
                peer.close()
                return
            threading.Thread(target=self._pass, args=(peer,), daemon=True).start()

    def _pass(self, peer: socket.socket) -> None:
        try:
            secure = self._context.wrap_socket(peer, server_side=True)
        except OSError:
            peer.close()
            return
        with secure, socket.create_connection(("127.0.0.1", self._to)) as inner, contextlib.suppress(OSError):
            relay(secure, inner)


def relay(secure: ssl.SSLSocket, inner: socket.socket) -> None:
    """Both directions by one thread: OpenSSL lets no two read and write one connection at once."""
    blocked = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    kept: dict[socket.socket, bytearray] = {inner: bytearray(), secure: bytearray()}
    for each in kept:
        each.setblocking(False)
    ended = False
    while not ended or kept[secure]:
        moved = False
        for source, target in ((secure, inner), (inner, secure)):
            with contextlib.suppress(*blocked):
                data = source.recv(1 << 16)
                ended, moved = ended or not data, True
                kept[target] += data
            with contextlib.suppress(*blocked):
                while kept[target]:
                    del kept[target][: target.send(bytes(kept[target][: 1 << 16]))]
                    moved = True
        if not moved:
            select.select([secure, inner], [each for each, data in kept.items() if data], [])


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path, Terminator]]:
    """The cluster, a kubeconfig that reaches it over TLS, and what stands between."""
    folder = tmp_path_factory.mktemp("tls")
    with Cluster(folder / "kube") as cluster:
        try:
            between = Terminator(folder, cluster.port)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")
        told = {"server": f"https://127.0.0.1:{between.port}", "certificate-authority": str(between.certificate)}
        config = {
            "current-context": "c",
            "clusters": [{"name": "k", "cluster": told}, {"name": "blind", "cluster": {"server": told["server"]}}],
            "contexts": [
                {"name": "c", "context": {"cluster": "k", "user": "u"}},
                {"name": "blind", "context": {"cluster": "blind", "user": "u"}},
            ],
            "users": [{"name": "u", "user": {"token": cluster.token}}],
        }
        path = folder / "config"
        path.write_text(json.dumps(config))
        yield cluster, path, between
        between.close()


def test_calls_commands_and_files_pass_over_tls(secure: tuple[Cluster, Path, Terminator], tmp_path: Path) -> None:
    cluster, path, _ = secure
    client = KubeClient(namespace=cluster.namespace, kubeconfig=str(path), patience=Patience(connect_s=5.0))
    client.create(JOB, job("box"))
    cluster.wait(lambda: cluster.phase("box") == "Running")
    transport = KubeTransport(client, "box-worker-0")
    data = bytes(range(251)) * 20_000
    assert run(transport, "cat", stdin=data) == (0, data, b"")
    put(transport, str(tmp_path / "f"), data)
    assert (tmp_path / "f").read_bytes() == data
    assert transport.get(str(tmp_path / "f"), size_max=len(data), deadline_s=30.0) == data
    client.close()


def test_a_command_is_not_sent_to_a_server_that_nobody_vouches_for(secure: tuple[Cluster, Path, Terminator]) -> None:
    cluster, path, _ = secure
    client = KubeClient(namespace=cluster.namespace, kubeconfig=str(path), context="blind")
    before = cluster.count()
    with pytest.raises(AccessRefused, match=r"(?s)certificate verify failed.*listening in"):
        run(KubeTransport(client, "box-worker-0"), "true")
    assert cluster.count() == before
    client.close()

"""SSH through fabric keeps the contract, and its own promises."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import AccessRefused, OutcomeUnknown
from reconciler.core.transport import Transport
from reconciler.transports.registry import TransportSettings, open_transport
from tests.contract.transport_contract import SLACK_S, run
from tests.lab.sshd import Lab
from tests.transports.remote import Opener, SshContract
from tests.transports.sites import LabSite

pytestmark = pytest.mark.real


def opened(alias: str, config: Path) -> Transport:
    return open_transport(TransportSettings("fabric", alias, connect_timeout_s=2.0, ssh_config=config))


class TestFabric(SshContract):
    @pytest.fixture
    def opener(self) -> Opener:
        return opened

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, ssh_lab: Lab) -> Iterator[Transport]:
        transport = opened("node1", ssh_lab.ssh_config)
        yield transport
        transport.close()

    def test_one_connection_serves_many_commands(self, site: LabSite, transport: Transport) -> None:
        before = site.host.log.count("Accepted publickey")
        for _ in range(5):
            run(transport, "true")
        assert site.host.log.count("Accepted publickey") == before + 1

    def test_a_request_that_is_never_answered_costs_the_deadline(self, site: LabSite, transport: Transport) -> None:
        run(transport, "true")
        session = transport._session  # type: ignore[attr-defined]

        def freezing(deadline: float) -> object:
            opened = session(deadline)
            site.host.freeze()  # between the session and the request that starts the command
            return opened

        transport._session = freezing  # type: ignore[attr-defined]
        try:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                run(transport, "true", deadline_s=0.5)
            assert time.monotonic() - began < 0.5 + SLACK_S
        finally:
            site.host.thaw()

    def test_a_dead_connection_that_nobody_noticed_is_replaced(self, site: LabSite, transport: Transport) -> None:
        run(transport, "true")
        old = transport._chain[-1].transport  # type: ignore[attr-defined]

        def dead(**options: object) -> object:
            raise EOFError

        old.open_session = dead
        assert run(transport, "printf", "again")[1] == b"again"
        assert transport._chain[-1].transport is not old  # type: ignore[attr-defined]

    def test_small_packets_are_sent_at_once(self, transport: Transport) -> None:
        run(transport, "true")
        # With Nagle's algorithm on, every command waits 40 ms for a delayed acknowledgement.
        sock = transport._chain[0].transport.sock  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_refused_login_names_the_keys_that_were_tried(ssh_lab: Lab) -> None:
    ssh_lab["node2"].lock()
    try:
        transport = open_transport(TransportSettings("fabric", "node2", ssh_config=ssh_lab.ssh_config))
        with pytest.raises(AccessRefused, match="client_key"):
            run(transport, "true")
    finally:
        ssh_lab["node2"].unlock()


def test_the_configuration_file_can_be_named_in_the_environment(ssh_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_SSH_CONFIG", str(ssh_lab.ssh_config))
    transport = open_transport(TransportSettings("fabric", "node2"))
    assert run(transport, "sh", "-c", "echo $LAB_HOST")[1] == b"node2\n"
    transport.close()


def test_fabric_is_imported_for_fabric_hosts_only() -> None:
    code = (
        "import sys; from reconciler.transports.registry import *; open_transport(TransportSettings('openssh', 'h'));"
        "open_transport(TransportSettings('local', 'h'));"
        "sys.exit('fabric' in sys.modules or 'paramiko' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

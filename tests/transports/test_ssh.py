"""SSH through fabric keeps the contract, and its own promises."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import AccessRefused
from reconciler.core.transport import Transport
from reconciler.transports.registry import TransportSettings, open_transport
from tests.contract.transport_contract import run
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

    def test_a_command_does_not_wait_for_a_delayed_acknowledgement(self, site: LabSite, transport: Transport) -> None:
        run(transport, "true")
        times = []
        for _ in range(15):
            began = time.perf_counter()
            run(transport, "true")
            times.append(time.perf_counter() - began)
        # 4 ms on a quiet machine; 44 ms and more when Nagle's algorithm is on. The best of many says which.
        assert min(times) < 0.03


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

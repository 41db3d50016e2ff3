"""The system's ssh keeps the contract, and its own promises about master connections."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import AccessRefused, Rejected
from reconciler.core.transport import Transport
from reconciler.transports import openssh
from reconciler.transports.openssh import OpenSshTransport
from tests.contract.transport_contract import run
from tests.lab.sshd import Lab
from tests.transports.remote import Opener, SshContract
from tests.transports.sites import LabSite

pytestmark = pytest.mark.real


class TestOpenSsh(SshContract):
    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, ssh_lab: Lab) -> Iterator[Transport]:
        directory = Path(tempfile.mkdtemp(prefix="cm"))
        transport = OpenSshTransport("node1", config=ssh_lab.ssh_config, control_dir=directory)
        yield transport
        transport.end_master()
        shutil.rmtree(directory)

    @pytest.fixture
    def control_dir(self) -> Iterator[Path]:
        # pytest's own directories are too long for a control socket.
        directory = Path(tempfile.mkdtemp(prefix="cm"))
        yield directory
        shutil.rmtree(directory)

    @pytest.fixture
    def opener(self, control_dir: Path) -> Iterator[Opener]:
        made: list[OpenSshTransport] = []

        def opened(alias: str, config: Path) -> Transport:
            made.append(OpenSshTransport(alias, connect_timeout_s=2.0, config=config, control_dir=control_dir))
            return made[-1]

        yield opened
        for transport in made:
            transport.end_master()

    def test_one_connection_serves_many_commands_and_the_next_process(
        self, site: LabSite, transport: Transport, opener: Opener
    ) -> None:
        before = site.host.log.count("Accepted publickey")
        for _ in range(3):
            run(transport, "true")
        transport.close()
        run(opener("node1", site.lab.ssh_config), "true")
        assert site.host.log.count("Accepted publickey") == before + 1

    def test_the_command_that_the_error_names_makes_the_master_that_is_used(
        self, site: LabSite, opener: Opener
    ) -> None:
        transport = opener("node1", site.lab.ssh_config)
        with site.locked():
            with pytest.raises(AccessRefused) as refused:
                run(transport, "true")
            command = refused.value.hint.split("`")[1]
        # The person logs in by hand; then the key is withdrawn again, as with a second factor.
        subprocess.run(shlex.split(command), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            with site.locked():
                assert run(transport, "printf", "in")[1] == b"in"
        finally:
            subprocess.run([*shlex.split(command)[:-2], "-O", "exit", "node1"], check=True, capture_output=True)

    def test_a_master_of_the_users_own_configuration_is_used(
        self, site: LabSite, opener: Opener, control_dir: Path
    ) -> None:
        site.lab.configure(f"ControlPath {control_dir}/own-%C\n")
        ssh = ["ssh", "-F", str(site.lab.ssh_config)]
        subprocess.run([*ssh, "-M", "-fN", "node1"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            before = site.host.log.count("Accepted publickey")
            assert run(opener("node1", site.lab.ssh_config), "printf", "in")[1] == b"in"
            assert site.host.log.count("Accepted publickey") == before
        finally:
            subprocess.run([*ssh, "-O", "exit", "node1"], check=True, capture_output=True)

    def test_a_master_that_ended_is_replaced_without_an_error(
        self, site: LabSite, transport: OpenSshTransport, opener: Opener
    ) -> None:
        run(transport, "true")
        opener("node1", site.lab.ssh_config).end_master()  # type: ignore[attr-defined]
        assert run(transport, "printf", "again")[1] == b"again"

    def test_a_socket_that_nobody_listens_at_is_replaced(
        self, site: LabSite, control_dir: Path, opener: Opener
    ) -> None:
        transport = opener("node1", site.lab.ssh_config)
        run(transport, "true")
        opener("node1", site.lab.ssh_config).end_master()  # type: ignore[attr-defined]
        path = transport._ours()  # type: ignore[attr-defined]
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        assert run(transport, "printf", "again")[1] == b"again"


def test_control_sockets_lie_in_a_private_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = Path(tempfile.mkdtemp(prefix="r"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    try:
        directory = openssh.control_directory()
        assert directory == short / "reconciler"
        assert directory.stat().st_mode & 0o777 == 0o700
        directory.chmod(0o755)
        with pytest.raises(Rejected, match="not a private directory"):
            openssh.control_directory()
        directory.rmdir()
        os.symlink(tmp_path, directory)
        with pytest.raises(Rejected, match="not a private directory"):
            openssh.control_directory()
    finally:
        shutil.rmtree(short)


def test_a_control_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    with pytest.raises(Rejected, match="too long"):
        OpenSshTransport("host", control_dir=deep).master_command()

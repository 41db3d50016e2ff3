"""What both kinds of ssh transport promise, against real sshd processes."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Transport
from tests.contract.transport_contract import AMPLE_S, ConnectedContract, put, run, soon
from tests.lab.sshd import Lab, lab
from tests.transports.sites import LabSite

Opener = Callable[[str, Path], Transport]


class SshContract(ConnectedContract):
    """A subclass provides `opener`: from alias and ssh_config to a transport, with a connect timeout of 2 s or less."""

    @pytest.fixture
    def opener(self) -> Opener:
        raise NotImplementedError

    @pytest.fixture
    def site(self, ssh_lab: Lab, opener: Opener) -> Iterator[LabSite]:
        site = LabSite(ssh_lab, ssh_lab["node1"], lambda: opener("node1", ssh_lab.ssh_config))
        yield site
        site.restore()

    def test_it_runs_on_the_host_and_not_here(self, site: LabSite, transport: Transport) -> None:
        if not site.lab.namespaces:
            pytest.skip("needs hosts with names of their own: root and Linux namespaces")
        assert run(transport, "hostname") == (0, b"node1\n", b"")

    def test_noise_of_start_up_files_is_not_part_of_the_answer(self, site: LabSite, transport: Transport) -> None:
        noise = "echo 'Welcome to node1'; echo 'quota: 93% used' >&2\n"
        (site.host.home / ".bashrc").write_text(noise)
        try:
            assert run(transport, "printf", "clean") == (0, b"clean", b"")
        finally:
            (site.host.home / ".bashrc").unlink()

    def test_a_banner_of_the_server_is_not_part_of_the_answer(self, site: LabSite, opener: Opener) -> None:
        with lab("bannered") as own:
            host = own["bannered"]
            host.stop()
            (own.root / "banner").write_text("AUTHORISED USE ONLY\n")
            host.more = f"Banner {own.root}/banner"
            host.start()
            transport = opener("bannered", own.ssh_config)
            assert run(transport, "printf", "clean") == (0, b"clean", b"")
            transport.close()

    def test_a_missed_deadline_ends_the_command_on_the_host(self, site: LabSite, transport: Transport) -> None:
        script = 'echo $$ > "$1/pid"; exec sleep 86399'
        with pytest.raises(OutcomeUnknown):
            run(transport, "sh", "-c", script, "sh", site.directory, deadline_s=1.0)
        pid = site.read(f"{site.directory}/pid").decode().strip()
        assert soon(lambda: run(transport, "kill", "-0", pid)[0] != 0)

    def test_a_child_in_the_background_does_not_hold_the_call(self, transport: Transport) -> None:
        run(transport, "true")
        began = time.monotonic()
        assert run(transport, "sh", "-c", "sleep 20 & echo done")[:2] == (0, b"done\n")
        assert time.monotonic() - began < 5

    def test_a_child_in_a_session_of_its_own_survives_the_connection(self, site: LabSite, transport: Transport) -> None:
        script = 'setsid sh -c "sleep 1; echo alive > $1/late" </dev/null >/dev/null 2>&1 &'
        assert run(transport, "sh", "-c", script, "sh", site.directory)[0] == 0
        transport.close()
        site.cut()
        assert soon(lambda: site.names() == ["late"])

    def test_a_program_killed_by_a_signal_answers_128_and_its_number(self, transport: Transport) -> None:
        assert run(transport, "sh", "-c", "kill -KILL $$")[0] == 137

    def test_a_full_disk_is_refused_with_the_hosts_words_and_leaves_nothing(self, opener: Opener) -> None:
        with lab("small") as own:
            if not own.namespaces:
                pytest.skip("needs a small file system: root and Linux namespaces")
            host = own["small"]
            host.stop()
            host.home_size = "1m"
            host.start()
            transport = opener("small", own.ssh_config)
            put(transport, "f", b"old")
            with pytest.raises(Rejected, match="No space left on device"):
                put(transport, "f", b"x" * 20_000_000)
            assert transport.get("f", size_max=3, deadline_s=AMPLE_S) == b"old"
            assert run(transport, "ls", "-A")[1] == b"f\n"
            transport.close()

    def test_jump_hosts_are_used(self, site: LabSite, opener: Opener) -> None:
        # Three hops, the middle one with a jump of its own: as ssh does, both ways of naming them.
        site.lab.configure(
            "Host far\n    HostName 127.0.0.13\n    ProxyJump node2\nHost node2\n    ProxyJump node1\n"
            "Host far2\n    HostName 127.0.0.13\n    ProxyJump node1,node2\n"
            f"Host far far2\n    Port {site.lab.port}\n"
        )
        for alias in ("far", "far2"):
            transport = opener(alias, site.lab.ssh_config)
            assert run(transport, "sh", "-c", "echo $SSH_CONNECTION; echo $LAB_HOST")[1].endswith(b"node3\n")
            transport.close()
        assert "127.0.0.12" in site.lab["node2"].log

    def test_user_host_and_port_are_a_destination_too(self, site: LabSite, opener: Opener) -> None:
        here = pwd.getpwuid(os.getuid()).pw_name
        site.lab.configure(f"Host far\n    HostName 127.0.0.13\n    ProxyJump {here}@127.0.0.11:{site.lab.port}\n")
        for alias in (f"{here}@127.0.0.13:{site.lab.port}", f"{here}@far:{site.lab.port}"):
            transport = opener(alias, site.lab.ssh_config)
            assert run(transport, "sh", "-c", "echo $LAB_HOST")[1] == b"node3\n"
            transport.close()

    def test_the_key_of_a_jump_host_is_checked_too(self, site: LabSite, opener: Opener) -> None:
        site.lab.configure(f"Host far\n    HostName 127.0.0.13\n    Port {site.lab.port}\n    ProxyJump node1\n")
        with site.stranger():
            transport = opener("far", site.lab.ssh_config)
            # ssh's own jump is a process whose words we see; its refusal may show as a closed connection.
            with pytest.raises((AccessRefused, Unreachable), match=r"(?i)host key|jump host"):
                run(transport, "true")
            transport.close()

    def test_a_proxy_command_is_used(self, site: LabSite, opener: Opener) -> None:
        if shutil.which("python3") is None:
            pytest.skip("needs python3 in PATH")
        relay = site.lab.root / "relay.py"
        relay.write_text(RELAY)
        site.lab.configure(
            f"Host far\n    HostName 127.0.0.13\n    Port {site.lab.port}\n    ProxyCommand python3 {relay} %h %p\n"
        )
        transport = opener("far", site.lab.ssh_config)
        assert run(transport, "sh", "-c", "echo $LAB_HOST")[1] == b"node3\n"
        data = b"x" * 3_000_000
        assert run(transport, "cat", stdin=data)[1] == data
        transport.close()

    def test_an_included_configuration_file_counts(self, site: LabSite, opener: Opener) -> None:
        more = site.lab.root / "more_config"
        more.write_text(f"Host mine\n    HostName 127.0.0.12\n    Port {site.lab.port}\n")
        site.lab.configure(f"Include {more}\n")
        transport = opener("mine", site.lab.ssh_config)
        assert run(transport, "sh", "-c", "echo $LAB_HOST")[1] == b"node2\n"
        transport.close()

    def test_a_hashed_known_hosts_file_is_understood(self, site: LabSite, opener: Opener) -> None:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(site.lab.known_hosts)], check=True, capture_output=True)
        assert site.lab.known_hosts.read_text().startswith("|1|")
        transport = opener("node1", site.lab.ssh_config)
        assert run(transport, "true")[0] == 0
        transport.close()

    def test_a_login_shell_that_runs_nothing_is_told_apart_from_a_failing_command(self, opener: Opener) -> None:
        with lab("closed") as own:
            if not own.namespaces:
                pytest.skip("needs a login shell of its own: root and Linux namespaces")
            host = own["closed"]
            host.stop()
            shell = own.root / "nologin"
            shell.write_text("#!/bin/sh\necho This account is currently not available.\nexit 1\n")
            shell.chmod(0o755)
            host.login_shell = str(shell)
            host.start()
            transport = opener("closed", own.ssh_config)
            with pytest.raises(AccessRefused, match="currently not available"):
                run(transport, "true")
            transport.close()

    @pytest.mark.parametrize("shell", ["csh", "tcsh", "fish", "zsh", "dash", "bash"])
    def test_any_login_shell_will_do(self, opener: Opener, shell: str) -> None:
        found = shutil.which(shell)
        if found is None:
            pytest.skip(f"no {shell} here; get it with `apt-get install {shell}`")
        with lab("shelled") as own:
            if not own.namespaces:
                pytest.skip("needs a login shell of its own: root and Linux namespaces")
            own["shelled"].stop()
            own["shelled"].login_shell = found
            own["shelled"].start()
            transport = opener("shelled", own.ssh_config)
            hostile = "a'b\"c\\d$HOME!e\n`f`\\\\"
            assert run(transport, "printf", "%s", hostile) == (0, hostile.encode(), b"")
            assert run(transport, "sh", "-c", "cat; exit 7", stdin=b"in") == (7, b"in", b"")
            transport.close()

    @pytest.mark.parametrize("alias", ["-oProxyCommand=touch pwned", "two words", ""])
    def test_an_alias_that_ssh_would_take_for_an_option_is_refused(
        self, site: LabSite, opener: Opener, alias: str
    ) -> None:
        with pytest.raises(Rejected, match="not an ssh destination"):
            run(opener(alias, site.lab.ssh_config), "true")

    def test_an_unknown_name_is_unreachable(self, site: LabSite, opener: Opener) -> None:
        with pytest.raises(Unreachable, match=r"host\.invalid"):
            run(opener("host.invalid", site.lab.ssh_config), "true")

    def test_a_configuration_that_ssh_refuses_is_said(self, site: LabSite, opener: Opener) -> None:
        site.lab.configure("NoSuchOption yes\n")
        with pytest.raises(Rejected, match=r"(?i)nosuchoption"):
            run(opener("node1", site.lab.ssh_config), "true")


RELAY = """\
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
"""

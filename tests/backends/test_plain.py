"""A host behind a real sshd keeps the contract, over both ways of reaching it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.observation import Presence
from reconciler.core.protocols import Known, Look
from reconciler.transports.openssh import OpenSshTransport
from reconciler.transports.registry import TransportSettings, open_transport
from tests.backends.sites import NodeSite
from tests.contract.backend_contract import BackendContract
from tests.lab.sshd import Lab

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("sshd")]


class PlainContract(BackendContract):
    def test_a_host_that_is_off_proves_nothing_and_a_reboot_ends_its_runs(self, site, backend, ssh_lab):
        run = self.run(site, "endless")
        known = self.start(backend, run)
        ssh_lab[site.host].stop()
        census = backend.observe(Look((known,)))
        assert not census.complete
        assert census.away
        assert census.look(run.run_id).presence is Presence.UNKNOWN
        ssh_lab[site.host].start()
        seen = site.until(lambda: self._answered(backend.observe(Look((Known(run),))), run))
        assert (seen.presence, seen.alive) == (Presence.PRESENT, False)
        if ssh_lab.namespaces:
            assert seen.boot_id != known.handle.native["boot_id"]

    @staticmethod
    def _answered(census, run):
        return census.look(run.run_id) if census.complete else None


def rooted(lab: Lab, name: str) -> str:
    """A directory of its own, which the test and the host see under one path."""
    return tempfile.mkdtemp(prefix="site", dir=lab[name].root)


class TestOverFabric(PlainContract):
    @pytest.fixture
    def site(self, ssh_lab: Lab, bundle) -> Iterator[NodeSite]:
        settings = TransportSettings("fabric", "node1", connect_timeout_s=5.0, ssh_config=ssh_lab.ssh_config)
        made = NodeSite("node1", rooted(ssh_lab, "node1"), lambda: open_transport(settings), bundle)
        yield made
        made.clear()


class TestOverOpenSsh(PlainContract):
    @pytest.fixture
    def site(self, ssh_lab: Lab, bundle) -> Iterator[NodeSite]:
        # pytest's own directories are too long for a control socket.
        control = Path(tempfile.mkdtemp(prefix="cm"))
        opened: list[OpenSshTransport] = []

        def opener() -> OpenSshTransport:
            opened.append(
                OpenSshTransport("node2", connect_timeout_s=5.0, config=ssh_lab.ssh_config, control_dir=control)
            )
            return opened[-1]

        made = NodeSite("node2", rooted(ssh_lab, "node2"), opener, bundle)
        yield made
        made.clear()
        opened[-1].end_master()
        shutil.rmtree(control)

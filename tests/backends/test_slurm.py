"""A real Slurm cluster behind a real sshd keeps the contract of backends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from reconciler.app.shipping import HostShipping
from reconciler.backends.batch import BatchBackend
from reconciler.backends.dialect import Site
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.slurm import SlurmDialect
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Backend, Known
from reconciler.transports.registry import TransportSettings, open_transport
from tests.backends.sites import NodeSite, Switch
from tests.contract.backend_contract import BackendContract
from tests.lab.slurm import Cluster

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("slurm")]


class SlurmSite(NodeSite):
    """Everything lies below `root`, which login node and machines share. CPU jobs, in the partition for them."""

    def open(self) -> Backend:
        switch = Switch(self._opener())
        self.switches.append(switch)
        settings = TransportSettings("fabric", self.host)
        shipping = HostShipping(self.host, switch, settings, f"{self.root}/share", self._bundle)
        paths = NodePaths(
            status=f"{self.root}/status",
            work=f"{self.root}/work",
            checkpoints=f"{self.root}/checkpoints",
            results=f"{self.root}/results",
            bundle=shipping.bundle_dir,
        )
        shipping.install_bundle()
        node = NodeSettings(self.host, paths, heartbeat_s=0.2)
        site = Site(directives=("--partition=cpu",))
        return BatchBackend(node, site, SlurmDialect(), switch, shipping.install_bundle)


class TestSlurm(BackendContract):
    @pytest.fixture
    def site(self, slurm: Cluster, bundle) -> Iterator[SlurmSite]:
        settings = TransportSettings("fabric", "login01", connect_timeout_s=5.0, ssh_config=slurm.ssh.ssh_config)
        root = tempfile.mkdtemp(prefix="site", dir=slurm.slurm.shared)
        made = SlurmSite("login01", root, lambda: open_transport(settings), bundle)
        yield made
        made.clear()

    def start(self, backend: Backend, run) -> Known:
        """Accepted is not yet begun: what the contract says of running things holds once the scheduler has started it."""
        known = super().start(backend, run)
        self._site.until(lambda: self._began(backend, run))
        return known

    def _began(self, backend: Backend, run) -> bool:
        seen = self.see(backend, run)
        if seen.presence is not Presence.PRESENT:
            return False
        return not seen.alive or (seen.report is not None and seen.report.status is not ReportStatus.PREPARING)

    @pytest.fixture(autouse=True)
    def _remember(self, site: SlurmSite) -> None:
        self._site = site

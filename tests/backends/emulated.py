"""A host whose queue is the emulator of Slurm (tests/emulators/slurm.py), over real processes on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from reconciler.app.shipping import Bundle, HostShipping
from reconciler.backends.batch import BatchBackend
from reconciler.backends.dialect import Site
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.slurm import SlurmDialect
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.run import Run
from reconciler.core.transport import Command, Completed
from reconciler.transports.local import LocalTransport
from reconciler.transports.registry import TransportSettings
from tests.backends.sites import NodeSite, Switch
from tests.emulators.slurm import Emulator

HEARTBEAT_S = 0.2


class LoginNode(LocalTransport):
    """This machine, with the emulated commands in its PATH."""

    def __init__(self, path: str) -> None:
        super().__init__("login01")
        self._path = path

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        argv = ("env", f"PATH={self._path}", *command.argv)
        return super().run(Command(argv, command.stdin), deadline_s=deadline_s)


class EmulatedSite(NodeSite):
    def __init__(self, root: Path, bundle: Bundle, **config: Any) -> None:
        self.slurm = Emulator(root / "slurm", **config)
        super().__init__("login01", str(root), lambda: LoginNode(self.slurm.path), bundle)

    def open(self) -> BatchBackend:
        switch = Switch(self._opener())
        self.switches.append(switch)
        settings = TransportSettings("local", self.host)
        shipping = HostShipping(self.host, switch, settings, f"{self.root}/share", self._bundle)
        paths = NodePaths(
            status=f"{self.root}/status",
            work=f"{self.root}/work",
            checkpoints=f"{self.root}/checkpoints",
            results=f"{self.root}/results",
            bundle=shipping.bundle_dir,
        )
        shipping.install_bundle()
        node = NodeSettings(self.host, paths, heartbeat_s=HEARTBEAT_S, python=sys.executable)
        return BatchBackend(node, Site(), SlurmDialect(), switch, shipping.install_bundle)

    def began(self, backend: BatchBackend, look: Any) -> bool:
        """Has the scheduler started it, and has it come to running its program?"""
        seen = look()
        if seen.presence is not Presence.PRESENT:
            return False
        return not seen.alive or (seen.report is not None and seen.report.status is not ReportStatus.PREPARING)

    def run_dir(self, run: Run) -> Path:
        return Path(self.root) / "status" / str(run.job) / run.run_id

    def clear(self) -> None:
        self.slurm.clear()

"""Code on its way: from a repository on this side to a host, once per content."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from reconciler.app.ports import Package, Progress
from reconciler.core.errors import Rejected, ShipError
from reconciler.core.job import JobSpec
from reconciler.core.protocols import Tree
from reconciler.core.transport import Command, Transport
from reconciler.transports.registry import TransportSettings
from runtime.bundle import bundle_tar


class HostShipping:
    """One host's end. Used by that host's lane only."""

    def __init__(self, name: str, transport: Transport, settings: TransportSettings, share: str, bundle: str) -> None:
        self._name = name
        self._transport = transport
        self._settings = settings
        self._share = share
        self._bundle = bundle

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def bundle_dir(self) -> str:
        return f"{self._share}/runtime/{self._bundle}"

    def install_bundle(self) -> None:
        data = bundle_tar()
        path = f"{self._share}/runtime/{self._bundle}.tar.gz"
        self._transport.put(io.BytesIO(data), path, size=len(data), deadline_s=120.0)
        script = (
            'set -e; t="$1.$$"; mkdir -p "$t"; tar -xzf "$2" -C "$t"; rm -f "$2"; '
            'mv "$t" "$1" 2>/dev/null || rm -rf "$t"; [ -f "$1/bootstrap.sh" ]'
        )
        done = self._transport.run(Command(("sh", "-c", script, "sh", self.bundle_dir, path)), deadline_s=60.0)
        if done.returncode != 0:
            raise Rejected(
                f"{self._name} cannot unpack the runtime into {self.bundle_dir}: {done.stderr.decode(errors='replace')}"
            )


class RepositoryShipper:
    def __init__(self, root: Path, cache_dir: Path, hosts: Callable[[str], HostShipping]) -> None:
        self._root = root
        self._cache = cache_dir
        self._hosts = hosts

    def prepare(self, spec: JobSpec, pin: str | None) -> Package:
        if spec.source is None:
            return Package(None, False, None)
        raise ShipError("not yet")

    def deliver(self, host: str, package: Package, progress: Progress | None) -> Tree | None:
        return None

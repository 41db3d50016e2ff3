"""The places that the transport contract is tested at."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from reconciler.core.transport import Transport
from tests.lab.sshd import Host, Lab


class DirectorySite:
    """A directory that the test sees at `here` and the host at `directory`."""

    def __init__(self, here: Path, directory: str, opener: Callable[[], Transport]) -> None:
        self._here, self.directory, self._opener = here, directory, opener

    def open(self) -> Transport:
        return self._opener()

    def names(self) -> list[str]:
        return sorted(os.listdir(self._here))

    def _at(self, path: str) -> Path:
        return self._here / os.path.relpath(path, self.directory)

    def read(self, path: str) -> bytes:
        return self._at(path).read_bytes()

    def mode(self, path: str) -> int:
        return self._at(path).stat().st_mode & 0o777


class LabSite(DirectorySite):
    """A host of the lab, put back as it was by `restore`."""

    def __init__(self, lab: Lab, host: Host, opener: Callable[[], Transport]) -> None:
        self.lab, self.host = lab, host
        here = host.tmp / "site"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        # With namespaces the host sees its own /tmp; without, the same path as we do.
        super().__init__(here, "/tmp/site" if lab.namespaces else str(here), opener)

    def cut(self) -> None:
        self.host.cut()

    def restart(self) -> None:
        self.host.stop()
        self.host.start()

    def power_off(self) -> None:
        self.host.stop()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.host.freeze()
        try:
            yield
        finally:
            self.host.thaw()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self.host.lock()
        try:
            yield
        finally:
            self.host.unlock()

    @contextlib.contextmanager
    def stranger(self) -> Iterator[None]:
        self.host.rekey()
        yield

    def forget(self) -> None:
        self.lab.known_hosts.write_text("")

    def restore(self) -> None:
        self.host.unlock()
        self.host.start()
        self.lab.trust()
        self.lab.configure()

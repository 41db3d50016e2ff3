"""A host in memory, for unit tests and simulated worlds: files, programs that are functions, faults on demand.

It keeps the promises of the real transports (tests/contract/transport_contract.py) and takes no wall time.
"""

from __future__ import annotations

import enum
import posixpath
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Command, Completed
from reconciler.transports.shell import CHUNK_BYTES, Progress, quoted


class Fault(enum.Enum):
    """What goes wrong with one call."""

    BEFORE = "no connection; nothing was done"
    LOST = "the connection was cut before the host did anything; the caller cannot know"
    AFTER = "the host did it, the answer was lost"


class Access(enum.Enum):
    """What the host says to who connects."""

    OPEN = "open"
    OFF = "off"
    FROZEN = "frozen"
    LOCKED = "locked"
    UNKNOWN_KEY = "unknown key"


@dataclass(frozen=True, slots=True)
class FakeFile:
    data: bytes
    mode: int


class Hangs(Exception):
    """Raised by a program that does not end. What it changed before stays changed."""


Program = Callable[["FakeHost", Command], Completed]


@dataclass(slots=True)
class FakeHost:
    """One machine. `programs` are found by the last part of argv[0]; without one the answer is 127, as in a shell.

    `faults` are used up one per call, in order; None lets a call pass. `disk_bytes` limits the sum of all files.
    `commands` records every command that the host carried out. Simulated worlds change all of it between calls.
    """

    name: str
    programs: dict[str, Program] = field(default_factory=dict)
    files: dict[str, FakeFile] = field(default_factory=dict)
    faults: deque[Fault | None] = field(default_factory=deque)
    access: Access = Access.OPEN
    disk_bytes: int | None = None
    commands: list[Command] = field(default_factory=list)
    puts: list[str] = field(default_factory=list)
    cuts: int = 0

    def cut(self) -> None:
        """End what is being transferred now; see FakeTransport.put."""
        self.cuts += 1

    def directories(self) -> set[str]:
        """Every directory that holds a file, directly or deeper."""
        found: set[str] = set()
        for path in self.files:
            while (path := posixpath.dirname(path)) not in ("", "/"):
                found.add(path)
        return found


class FakeTransport:
    """A Transport to a FakeHost. Like the real ones, an open connection outlives a change of keys and rights."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._connected = False

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        """See Transport.run. Takes no time; a program that raises Hangs is past every deadline."""
        quoted(command.argv)  # the same refusals as everywhere
        fault = self._reach()
        if fault is Fault.LOST:
            raise OutcomeUnknown(f"{self._host.name}: the connection was cut while {command.argv[0]} ran")
        self._host.commands.append(command)
        program = self._host.programs.get(posixpath.basename(command.argv[0]))
        try:
            done = (
                Completed(127, b"", f"{command.argv[0]}: not found\n".encode("utf-8", "surrogateescape"))
                if program is None
                else program(self._host, command)
            )
        except Hangs:
            raise OutcomeUnknown(f"{self._host.name}: {command.argv[0]} did not end within {deadline_s:g} s") from None
        if fault is Fault.AFTER:
            raise OutcomeUnknown(f"{self._host.name}: the connection was cut while {command.argv[0]} ran")
        return done

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o640,
        deadline_s: float,  # noqa: ARG002 - takes no time
        progress: Progress | None = None,
    ) -> None:
        """See Transport.put. A `cut` of the host during the call, for instance from `progress`, ends the transfer."""
        fault = self._reach()
        cuts, data = self._host.cuts, bytearray()
        while len(data) < size and (piece := source.read(min(CHUNK_BYTES, size - len(data)))):
            data += piece
            if progress is not None:
                progress(len(piece))
            if self._host.cuts != cuts:
                self._connected = False
                raise OutcomeUnknown(f"{self._host.name}: {path} was not written whole: the connection was cut")
        if fault is Fault.LOST:
            raise OutcomeUnknown(f"{self._host.name}: {path} was not written whole: the connection was cut")
        if path in self._host.directories():
            raise Rejected(f"{self._host.name}: {path} cannot be written: it is a directory")
        if any(parent in self._host.files for parent in _parents(path)):
            raise Rejected(f"{self._host.name}: {path} cannot be written: Not a directory")
        used = sum(len(file.data) for file in self._host.files.values())
        if self._host.disk_bytes is not None and used + len(data) > self._host.disk_bytes:
            raise Rejected(f"{self._host.name}: {path} cannot be written: No space left on device")
        if len(data) != size:
            raise OutcomeUnknown(
                f"{self._host.name}: {path} was not written whole: {len(data)} of {size} bytes arrived"
            )
        self._host.files[path] = FakeFile(bytes(data), mode)
        self._host.puts.append(path)
        if fault is Fault.AFTER:
            raise OutcomeUnknown(f"{self._host.name}: the connection was cut after {path} was written")

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:  # noqa: ARG002 - takes no time
        """See Transport.get."""
        fault = self._reach()
        if fault is not None:
            raise OutcomeUnknown(f"{self._host.name}: the connection was cut while {path} was read")
        file = self._host.files.get(path)
        if file is None:
            what = "it is not a regular file" if path in self._host.directories() else "there is no such file"
            raise Rejected(f"{self._host.name}: {path} cannot be read: {what}")
        if len(file.data) > size_max:
            raise Rejected(
                f"{self._host.name}: {path} cannot be read: it has {len(file.data)} bytes, "
                f"more than the {size_max} expected at most"
            )
        return file.data

    def close(self) -> None:
        """See Transport.close."""
        self._connected = False

    def _reach(self) -> Fault | None:
        host = self._host
        fault = host.faults.popleft() if host.faults else None
        if fault is Fault.BEFORE or host.access in (Access.OFF, Access.FROZEN):
            was, self._connected = self._connected, False
            if was and host.access is Access.FROZEN:
                raise OutcomeUnknown(f"{host.name}: no answer within the deadline")
            raise Unreachable(f"{host.name}: no connection")
        if not self._connected and host.access is Access.LOCKED:
            raise AccessRefused(f"{host.name}: login was refused", hint=f"Run `ssh {host.name}`.")
        if not self._connected and host.access is Access.UNKNOWN_KEY:
            raise AccessRefused(f"{host.name}: the host key is not known", hint=f"Run `ssh {host.name}` once.")
        self._connected = True
        return fault


def _parents(path: str) -> list[str]:
    found = []
    while (path := posixpath.dirname(path)) not in ("", "/"):
        found.append(path)
    return found

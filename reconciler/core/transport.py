"""The seam between a backend and a machine: run one command, put a file, get a file, close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Command:
    """One program with its arguments, and what it reads. A transport quotes; nobody pastes text together."""

    argv: tuple[str, ...]
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. A non-zero exit is a value, not an error."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """How commands and files reach one host. Not thread-safe: a host's lane owns it.

    All methods raise Unreachable (nothing was done), OutcomeUnknown (cut or past the deadline; the command may have
    run) or AccessRefused (host key, credentials, missing master connection). Deadlines are seconds and are always
    kept; ending what still runs may take half a second more.
    """

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        """Run to the end in a plain `sh`, feed stdin, return both outputs whole."""
        ...

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o640,
        deadline_s: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write `size` bytes to `path`: under a temporary name in the same directory, checked, then renamed.

        Missing parent directories are made; a `mode` that is closed to other accounts closes them, too. `progress` gets the
        number of bytes sent since its last call. Raises OutcomeUnknown when fewer bytes arrived; `path` then does not exist or
        is what it was. A full disk is Rejected.
        """
        ...

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        """The whole file. Raises Rejected when it is missing, unreadable or larger than `size_max`."""
        ...

    def close(self) -> None:
        """End the connection. Safe to call twice; a later call of another method opens a new one."""
        ...

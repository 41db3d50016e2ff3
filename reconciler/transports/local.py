"""This machine: a subprocess in a session of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

from reconciler.core.errors import OutcomeUnknown
from reconciler.core.transport import Command, Completed
from reconciler.transports import shell
from reconciler.transports.pump import pump
from reconciler.transports.shell import Feed, Progress, Upload


class LocalTransport:
    """Commands and files on the machine we run on. Commands start in the home directory, as they do over ssh."""

    def __init__(self, name: str = "local") -> None:
        self._name = name

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        """See Transport.run. A program that cannot be started answers 126 or 127, as a shell would."""
        return self._execute(command.argv, command.stdin, deadline_s=deadline_s)

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o640,
        deadline_s: float,
        progress: Progress | None = None,
    ) -> None:
        """See Transport.put."""
        shell.put(self._execute, self._name, Upload(source, size, progress), path, mode=mode, deadline_s=deadline_s)

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        """See Transport.get."""
        return shell.get(self._execute, self._name, path, size_max=size_max, deadline_s=deadline_s)

    def close(self) -> None:
        """Nothing is held."""

    def _execute(
        self,
        argv: tuple[str, ...],
        feed: bytes | Upload,
        *,
        deadline_s: float,
        output_max: int = shell.OUTPUT_BYTES_MAX,
    ) -> Completed:
        shell.quoted(argv)  # the same refusals as everywhere: an empty command, a NUL
        out, err = _Kept(output_max), _Kept(output_max)
        home = Path.home()
        try:
            ended = pump(
                argv,
                Feed(b"", feed),
                stdout=out.add,
                stderr=err.add,
                deadline=time.monotonic() + deadline_s,
                cwd=home if home.is_dir() else Path("/"),
            )
        except FileNotFoundError:
            return Completed(127, b"", f"{argv[0]}: not found\n".encode("utf-8", "surrogateescape"))
        except (PermissionError, NotADirectoryError) as error:
            return Completed(126, b"", f"{argv[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
        if ended.timed_out or ended.returncode is None:
            raise OutcomeUnknown(f"{self._name}: {argv[0]} did not end within {deadline_s:g} s; it was killed")
        status = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
        return Completed(status, bytes(out.data), bytes(err.data))


class _Kept:
    """One output, up to a limit."""

    def __init__(self, size_max: int) -> None:
        self.data = bytearray()
        self._max = size_max

    def add(self, piece: bytes) -> None:
        self.data += piece
        if len(self.data) > self._max:
            raise OutcomeUnknown(f"A command printed more than {self._max} bytes; it was cut off")

"""What `logs` shows of one machine's output."""

from __future__ import annotations

import sys

from reconciler.cli.out import warn
from reconciler.core.errors import ReconcilerError
from reconciler.core.protocols import Backend, Known, LogCursor


class Tail:
    """The output of one machine, as far as it was read. With a `prefix`, whole lines are shown, each behind it, and a machine
    that cannot be asked does not end the others."""

    def __init__(self, rank: int, offset: int, *, prefix: str) -> None:
        self.open = True
        self.trouble = ""
        self._rank, self._offset = rank, offset
        self._prefix = prefix.encode()
        self._line = b""

    def read(self, backend: Backend, known: Known, *, follow: bool) -> bool:
        """Show what came since. Was there anything?"""
        try:
            chunk = backend.logs(known, LogCursor(self._offset, worker=self._rank))
        except ReconcilerError as error:
            if not self._prefix:
                raise
            if error.message != self.trouble:
                warn(f"worker {self._rank}: {error.message}")
            self.trouble = error.message
            self.open = follow
            return False
        self.trouble = ""
        if chunk.rotated and sys.stderr.isatty():
            sys.stderr.write("(the log was rotated; older parts lie beside it on the host)\n")
        self._show(chunk.data)
        self._offset = chunk.end
        return bool(chunk.data)

    def end(self) -> None:
        """Show a last line that has no end."""
        if self._line:
            self._write(self._prefix + self._line + b"\n")
            self._line = b""

    def _show(self, data: bytes) -> None:
        if not self._prefix:
            self._write(data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._write(b"".join(self._prefix + line + b"\n" for line in lines))

    @staticmethod
    def _write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

"""The run's own record, metadata.json: heartbeats, and one final word that nothing overwrites."""

from __future__ import annotations

import errno
import os
import re

from runtime import checkpoints, contract, files, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Optional

MESSAGE_CHARS_MAX = 4000
MESSAGE_CHARS_SHORT = 400
TAIL_BYTES, TAIL_LINES = 4096, 12
RESERVE_BYTES = 8192
SECRET_CHARS_MIN = 4  # shorter values are ordinary words; masking them would garble messages
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Ending:
    """How a run ended: what the final record says."""

    __slots__ = ("cause", "exit_code", "message", "signal", "status")

    def __init__(
        self,
        status: str,
        cause: Optional[str],
        message: str,
        *,
        exit_code: Optional[int] = None,
        signal: Optional[int] = None,
    ) -> None:
        self.status = status
        self.cause = cause
        self.message = message
        self.exit_code = exit_code
        self.signal = signal


class Record:
    """Owner of one metadata.json. Its one writer is the supervisor, or who found the supervisor dead."""

    def __init__(
        self,
        status_dir: str,
        fields: Dict[str, Any],
        *,
        checkpoint_dir: Optional[str] = None,
        secrets: Iterable[str] = (),
    ) -> None:
        self.fields = fields
        self._path = os.path.join(status_dir, contract.METADATA)
        self._reserve = os.path.join(status_dir, ".metadata.json.reserve")
        self._progress = os.path.join(status_dir, contract.PROGRESS)
        self._checkpoint_dir = checkpoint_dir
        self._disowned = False
        self._secrets = sorted((value for value in secrets if len(value) >= SECRET_CHARS_MIN), key=len, reverse=True)

    def beat(self) -> None:
        """Write the record with the next `seq`. One that fails is left to the next beat: the old file stays valid."""
        try:
            self._write(durable=False)
        except OSError:
            pass

    def finish(self, ending: Ending) -> None:
        """Write the final record and wait for the disk. Raises OSError when even the space kept back is not there."""
        self.fields.update(
            status=ending.status,
            cause=ending.cause,
            exit_code=ending.exit_code,
            signal=ending.signal,
            message=self.masked(ending.message)[:MESSAGE_CHARS_MAX],
            end_time=status.utc_now(),
            phase_detail="",
        )
        try:
            self._write(durable=True)
        except OSError as error:
            if error.errno not in NO_SPACE or not os.path.exists(self._reserve):
                raise
            self._write_reserve()
        status.remove_file(self._reserve)

    def disown(self) -> None:
        """Write no more, not even the end: another life of the run is the one writer now."""
        self._disowned = True

    @property
    def is_disowned(self) -> bool:
        """Does another life of the run write this record?"""
        return self._disowned

    def keep_space(self) -> None:
        """Set blocks aside for the final record, so that a run which fills the disk can still say so."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, files.FILE)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, 2 * len(status.encode(self.fields)) + RESERVE_BYTES)
        except OSError:
            status.remove_file(self._reserve)  # not offered here, or no space already
        finally:
            os.close(descriptor)

    def masked(self, text: str) -> str:
        """`text` without the values of secrets that the run's own output may have printed."""
        for value in self._secrets:
            text = text.replace(value, "***")
        return text

    def _write(self, *, durable: bool) -> None:
        if self._disowned:
            return
        self._advance()
        status.replace_json(self._path, self.fields, durable=durable)

    def _advance(self) -> None:
        self.fields["seq"] += 1
        self.fields["last_heartbeat"] = status.utc_now()
        try:
            progress = status.read_json(self._progress)
            self.fields["progress"] = {name: progress.get(name) for name in ("step", "total", "metrics")}
        except (OSError, ValueError):
            pass  # none yet, or not made by runtime.api
        if self._checkpoint_dir:
            self.fields["checkpoint"] = checkpoints.latest(self._checkpoint_dir)

    def _write_reserve(self) -> None:
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CLOEXEC)
        try:
            data = status.encode(self.fields)
            if len(data) > os.fstat(descriptor).st_size:
                self.fields["message"] = self.fields["message"][:MESSAGE_CHARS_SHORT]
                data = status.encode(self.fields)
            status.write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(self._reserve, self._path)


def tail(log: str) -> str:
    """The last lines of a log as plain text, without colours and control characters; empty when it cannot be read."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = COLOUR.sub("", text).splitlines()[-TAIL_LINES:]
    return "\n".join("".join(one if one.isprintable() else " " for one in line).rstrip() for line in lines)

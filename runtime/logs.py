"""The output of a run: read from an offset, rotated by size without losing a byte."""

from __future__ import annotations

import os
import signal
import time

from runtime import files, process, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List

    from runtime.process import Process

COPY_BYTES = 1 << 20
BYTES_MAX = 1 << 62
STOP_WAIT_S = 1.0  # until every writer stands still; a write of one in uninterruptible sleep is let finish first


def rotate(log: str, size_max: int, count: int, writers: Callable[[], List[Process]]) -> bool:
    """Move a log of more than `size_max` bytes to `log`.1, older ones up to `log`.{count}. False when nothing was done.

    The writers hold the file open and cannot be asked to open another, so it is copied and cut. What they write between
    the last copied byte and the cut would be lost: they stand still (SIGSTOP) for that moment, which copies only what
    came since the bulk. Who was stopped already stays so. When one cannot be stopped in time, nothing is cut.
    """
    try:
        if count < 1 or size_max <= 0 or os.stat(log).st_size <= size_max:
            return False
        return _rotate(log, count, writers)
    except OSError:  # no space for the copy: the log stays as it is, whole
        status.remove_file(log + ".new")
        return False


def _rotate(log: str, count: int, writers: Callable[[], List[Process]]) -> bool:
    aside = log + ".new"
    with open(log, "r+b", buffering=0) as source, open(aside, "wb", buffering=0, opener=_made) as target:
        _copy(source.fileno(), target.fileno(), os.fstat(source.fileno()).st_size)
        stopped: List[int] = []
        try:
            if not _stand_still(writers, stopped):
                status.remove_file(aside)
                return False
            _copy(source.fileno(), target.fileno(), BYTES_MAX)
            os.fsync(target.fileno())
            for number in range(count - 1, 0, -1):
                _rename_if_there("%s.%d" % (log, number), "%s.%d" % (log, number + 1))
            os.rename(aside, log + ".1")
            os.ftruncate(source.fileno(), 0)
        finally:
            process.send(stopped, signal.SIGCONT)
    return True


def _made(path: str, flags: int) -> int:
    return os.open(path, flags, files.FILE)


def _stand_still(writers: Callable[[], List[Process]], stopped: List[int]) -> bool:
    deadline = time.monotonic() + STOP_WAIT_S
    while True:
        moving = [one.pid for one in writers() if not process.stands_still(one)]
        if not moving:
            return True
        if time.monotonic() > deadline:
            return False
        fresh = [pid for pid in moving if pid not in stopped]
        stopped.extend(fresh)
        process.send(fresh, signal.SIGSTOP)
        time.sleep(0.001)


def _copy(source: int, target: int, size: int) -> None:
    """Copy up to `size` bytes from where the last copy ended: a fast writer must not keep it busy for ever."""
    while size > 0:
        data = os.read(source, min(size, COPY_BYTES))
        if not data:
            return
        size -= len(data)
        status.write_all(target, data)


def _rename_if_there(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        pass

"""The verb `logs`: a piece of output.log, as raw bytes after one answer line."""

from __future__ import annotations

import os

from runtime import contract, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

COPY_BYTES = 1 << 20


def _log(status_dir: str, worker: int) -> str:
    """The worker's own output. As long as a queued run has none, what the scheduler and its script said in its place."""
    path = log_of(status_dir, worker)
    try:
        if worker == 0 and os.stat(path).st_size == 0:
            output = status.read_json(os.path.join(status_dir, contract.QUEUED)).get("output")
            return output if output and os.path.exists(output) else path
    except (OSError, ValueError):
        pass
    return path


def log_of(status_dir: str, worker: int) -> str:
    """Where a worker of a run writes its output; worker 0 is the run's own."""
    return os.path.join(status_dir, *((contract.WORKERS, str(worker)) if worker else ()), contract.LOG)


def read_log(document: Dict[str, Any], out: int) -> None:
    """Answer, then the bytes from START to END. A missing log is empty; other troubles are told in `error`."""
    log = _log(document["status_dir"], int(document.get("worker") or 0))
    answer: Dict[str, Any] = {"offset": 0, "end": 0, "size": 0, "rotated": False, "done": True}
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        status.write_all(out, contract.MARK.encode() + status.encode(answer))
        return
    except OSError as error:
        answer["error"] = "%s: %s" % (log, error.strerror)
        status.write_all(out, contract.MARK.encode() + status.encode(answer))
        return
    size = os.fstat(descriptor).st_size
    offset = int(document.get("offset", 0))
    rotated = offset > size
    start = 0 if rotated else max(0, size + offset) if offset < 0 else offset
    end = min(size, start + int(document.get("size_max", 1 << 20)))
    answer.update(offset=start, end=end, size=size, rotated=rotated)
    try:
        status.write_all(out, contract.MARK.encode() + status.encode(answer))
        while start < end:
            data = os.pread(descriptor, min(COPY_BYTES, end - start), start)
            if not data:
                break  # rotated at this moment; the reader sees fewer bytes than promised and asks again
            status.write_all(out, data)
            start += len(data)
    finally:
        os.close(descriptor)

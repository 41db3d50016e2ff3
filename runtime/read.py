"""The verb `logs`: a piece of output.log, as raw bytes after one answer line."""

from __future__ import annotations

import os

from runtime import contract, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

COPY_BYTES = 1 << 20


def read_log(document: Dict[str, Any], out: int) -> None:
    """Answer, then the bytes from START to END. A missing log is empty; other troubles are told in `error`."""
    log = os.path.join(document["status_dir"], contract.LOG)
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

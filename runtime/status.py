"""Small JSON files that are valid at every instant: written aside, flushed, renamed into place."""

from __future__ import annotations

import errno
import json
import os
import time

from runtime import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

JSON_BYTES_MAX = 16 << 20  # a metadata file holds a config; beyond this it is not one of ours


def utc_now() -> str:
    """UTC, ISO 8601, milliseconds, `Z`."""
    now = time.time()
    return "%s.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)), int(now % 1 * 1000))


def encode(value: Any) -> bytes:
    """One line of ASCII JSON."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def read_json(path: str) -> Dict[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError, other OSErrors, or ValueError naming the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = _read_all(descriptor)
    finally:
        os.close(descriptor)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError("%s is not JSON (%s)" % (path, error)) from None
    if not isinstance(value, dict):
        raise ValueError("%s holds no JSON object" % path)
    return value


def _read_all(descriptor: int) -> bytes:
    data = os.read(descriptor, 65536)
    if len(data) < 65536:  # a regular file gives all it has
        return data
    parts, size = [data], len(data)
    while data and size <= JSON_BYTES_MAX:
        data = os.read(descriptor, 1 << 20)
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def write_file(path: str, data: bytes, *, flush: bool) -> None:
    """Create or empty `path` and write all of `data`; `flush` waits for the disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, files.FILE)
    try:
        write_all(descriptor, data)
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, in as many calls as it takes: a disk that fills up takes a part first. Raises OSError."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            view = view[os.write(descriptor, view) :]


def replace_file(path: str, data: bytes, *, durable: bool = False) -> None:
    """Put `data` at `path` so that every reader sees the old or the new whole, also after a power cut.

    The file is always flushed before the rename: a rename may reach the disk before the data it names. `durable` also
    waits for the rename itself, for records that must not be forgotten once somebody was told. Raises OSError and
    leaves the old file as it was.
    """
    directory, name = os.path.split(path)
    aside = "%s/.%s.%d" % (directory, name, os.getpid())
    try:
        write_file(aside, data, flush=True)
        os.rename(aside, path)
    except OSError:
        remove_file(aside)
        raise
    if durable:
        flush_file(directory)


def replace_json(path: str, value: Any, *, durable: bool = False) -> None:
    """`replace_file` of one JSON value."""
    replace_file(path, encode(value), durable=durable)


def flush_file(path: str) -> None:
    """Wait until a file's content, or a directory's names, are on disk.

    File systems that cannot say so for directories are taken at their word.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def first_to_write(path: str, value: Any) -> bool:
    """Create `path` whole; False when somebody else's is there already. Exactly one caller ever gets True.

    A hard link appears with its content. Where a file system has no hard links, O_EXCL gives the same exclusion, and
    readers may meet an empty file for a moment.
    """
    data = encode(value)
    aside = "%s.%d" % (os.path.join(os.path.dirname(path), "." + os.path.basename(path)), os.getpid())
    try:
        write_file(aside, data, flush=False)
        try:
            os.link(aside, path)
        except FileExistsError:
            # NFS: the answer to a link that succeeded may get lost, and its repetition says EEXIST (open(2), O_EXCL).
            return os.stat(aside).st_nlink == 2
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                raise
            return _create_exclusively(path, data)
        return True
    finally:
        remove_file(aside)


def _create_exclusively(path: str, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE)
    except FileExistsError:
        return False
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)
    return True


def remove_file(path: str) -> None:
    """Remove a file that may not be there."""
    try:
        os.unlink(path)
    except OSError:
        pass

"""Deterministic archives: the same files give the same bytes, whenever and wherever they are packed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import heapq
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from reconciler.core.errors import ShipError
from reconciler.transports.private import make_private

# 1980-01-02: one fixed time for all files. Not 0: zip files, and so Python wheels built from the tree, begin in 1980.
FIXED_TIME_S = 315_619_200
# Uncompressed. Code is a few megabytes; a tree beyond this holds data or checkpoints that were meant to be ignored.
SIZE_BYTES_MAX = 512 * 1024 * 1024
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES_MAX = 1024
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Packed:
    """One archive in the cache: its name is its checksum."""

    path: Path
    sha256: str
    size: int


class Packer:
    """Collects files into one tar.gz; counts them, and notices Git LFS pointers."""

    def __init__(self, sink: IO[bytes], *, size_max: int = SIZE_BYTES_MAX) -> None:
        self._sink = _Hashing(sink)
        self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=cast("IO[bytes]", self._sink), mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._size_max = size_max
        self._largest: list[tuple[int, str]] = []
        self.total = 0
        self.lfs_pointers: list[str] = []

    def add_tar(self, stream: IO[bytes], prefix: str = "") -> None:
        """Take over every entry of a tar stream, below `prefix`. Raises ShipError past the size limit."""
        with tarfile.open(fileobj=stream, mode="r|") as source:
            for member in source:
                content = source.extractfile(member) if member.isreg() else None
                self._add(prefix + member.name, member, content)

    def add_path(self, path: Path, name: str) -> None:
        """Take one file, link or empty directory from disk."""
        member = self._tar.gettarinfo(str(path), arcname=name)
        # Another name of a file already packed would become a hard link; the reader is to get two files.
        member.type = tarfile.REGTYPE if member.islnk() else member.type
        member.linkname = member.linkname if member.issym() else ""
        if member.isreg():
            member.size = path.lstat().st_size
            with path.open("rb") as content:
                self._add(name, member, content)
        elif member.issym() or member.isdir():
            self._add(name, member, None)
        else:
            raise ShipError(f"{path} is neither a file, a link nor a directory; it cannot be shipped")

    def close(self) -> tuple[str, int]:
        """Finish; SHA-256 and size of what was written."""
        self._tar.close()
        self._gzip.close()
        return self._sink.sha256.hexdigest(), self._sink.size

    def abandon(self) -> None:
        """Write nothing more: a tar stream that is let go writes its end, into a file that may be closed by then."""
        self._sink.sink = io.BytesIO()
        with contextlib.suppress(OSError, ValueError):
            self._tar.close()
            self._gzip.close()

    def _add(self, name: str, found: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mtime = found.type, found.linkname, FIXED_TIME_S
        # Two modes, as git knows them; the umask of whoever packs must not matter.
        member.mode = 0o755 if found.isdir() or (found.isreg() and found.mode & 0o100) else 0o644
        if content is None:
            self._tar.addfile(member)
            return
        member.size = found.size
        self._count(name, found.size)
        if found.size <= _LFS_POINTER_BYTES_MAX:
            data = content.read()
            if data.startswith(_LFS_POINTER):
                self.lfs_pointers.append(name)
            content = io.BytesIO(data)
        try:
            self._tar.addfile(member, content)
        except OSError as error:
            raise ShipError(f"{name} changed or could not be read while it was packed: {error}") from error

    def _count(self, name: str, size: int) -> None:
        self.total += size
        heapq.heappush(self._largest, (size, name))
        if len(self._largest) > 5:
            heapq.heappop(self._largest)
        if self.total > self._size_max:
            listed = ", ".join(f"{each} ({mib(size)})" for size, each in sorted(self._largest, reverse=True))
            raise ShipError(
                f"The tree is larger than {mib(self._size_max)}; the largest files up to there: {listed}",
                hint="Keep data out of it: list them in .gitignore, or mark them `export-ignore` in .gitattributes.",
            )


@contextlib.contextmanager
def packing(cache: Path, *, size_max: int = SIZE_BYTES_MAX) -> Iterator[tuple[Packer, list[Packed]]]:
    """A Packer that writes into the cache; when the block ends well, the list holds the finished archive.

    Raises ShipError when the cache cannot be written. Parallel packers of the same tree do not disturb each other.
    """
    objects = cache / "objects"
    done: list[Packed] = []
    try:
        make_private(objects)
        handle, name = tempfile.mkstemp(prefix=".packing-", dir=objects)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as sink:
                packer = Packer(sink, size_max=size_max)
                try:
                    yield packer, done
                    sha256, size = packer.close()
                except BaseException:
                    packer.abandon()
                    raise
            final = objects / f"{sha256}.tar.gz"
            temporary.replace(final)
            done.append(Packed(final, sha256, size))
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ShipError(f"{objects} cannot be written: {error.strerror or error}") from error


def mib(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"


class _Hashing:
    """Counts and hashes what passes."""

    def __init__(self, sink: IO[bytes]) -> None:
        self.sink = sink
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.sink.write(data)

    def flush(self) -> None:
        self.sink.flush()

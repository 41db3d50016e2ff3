"""Files on this machine that no other account may read, whatever the umask."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make a directory, and what is missing above it, for the owner alone; one that is there stays as it is. Raises OSError."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise
    except FileNotFoundError:
        make_private(directory.parent)
        make_private(directory)


def write_private(path: Path, text: str) -> None:
    """Write a text file for the owner alone, from its first byte. One that is there is replaced, and so is a link: whoever
    made it may have meant another file. A device or a pipe, also behind a link, is written as it is. Raises OSError."""
    if _is_stream(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_stream(path: Path) -> bool:
    """Is it written to, never replaced? /dev/stdout is, whatever the shell has put behind it."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    parent = path.parent.resolve()
    return not stat.S_ISREG(about.st_mode) or any(Path(top) in (parent, *parent.parents) for top in ("/dev", "/proc"))


def touch_private(path: Path) -> None:
    """Make an empty file for the owner alone where there is none. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

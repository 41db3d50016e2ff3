"""Files on this machine that no other account may read, whatever the umask."""

from __future__ import annotations

import os
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
    """Write a text file for the owner alone, from its first byte. One that is there is written anew, and closed to others: a
    device, a pipe or what a link leads to is written as it is. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if path.is_file() and not path.is_symlink():
            os.fchmod(descriptor, 0o600)
        file.write(text)


def touch_private(path: Path) -> None:
    """Make an empty file for the owner alone where there is none. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

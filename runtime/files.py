"""Directories made and removed, without the weight of shutil (its import costs more than a whole launch)."""

from __future__ import annotations

import os

SHARED = "RECONCILER_SHARED"
# Other accounts of the host may neither list nor read what is made here, whatever the umask; it decides for the group.
FILE, DIRECTORY = 0o640, 0o750

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List


def make_directories(path: str) -> None:
    """Make `path` and what is missing above it. The usual case, only the last part missing, is one call."""
    try:
        os.mkdir(path, DIRECTORY)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        above = os.path.dirname(path.rstrip("/"))
        if above in ("", path):
            raise
        make_directories(above)
        make_directories(path)


def open_to_others() -> None:
    """For a volume that is mounted by nobody but the runs' own pods: their images may have users who are not each other's."""
    global FILE, DIRECTORY
    FILE, DIRECTORY = 0o644, 0o755


def remove_tree(path: str) -> List[str]:
    """Remove a directory and all below it, never following a link. Gives what could not be removed, with the reason.

    Directories without write permission (read-only caches of package managers) are opened up first.
    """
    left: List[str] = []
    _remove_below(path, left)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append("%s: %s" % (path, error.strerror))
    return left


def _remove_below(path: str, left: List[str]) -> None:
    try:
        if os.path.islink(path):
            os.unlink(path)
            return
        with os.scandir(path) as found:
            entries = list(found)
    except FileNotFoundError:
        return
    except PermissionError as error:
        if not _open_up(path):
            left.append("%s: %s" % (path, error.strerror))
            return
        with os.scandir(path) as found:
            entries = list(found)
    except OSError as error:
        left.append("%s: %s" % (path, error.strerror))
        return
    for entry in entries:
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_directory:
            _remove_below(entry.path, left)
        try:
            _remove_one(entry.path, is_directory)
        except PermissionError:
            _open_up(path)
            try:
                _remove_one(entry.path, is_directory)
            except OSError as error:
                left.append("%s: %s" % (entry.path, error.strerror))
        except OSError as error:
            left.append("%s: %s" % (entry.path, error.strerror))


def _remove_one(path: str, is_directory: bool) -> None:
    try:
        os.rmdir(path) if is_directory else os.unlink(path)
    except FileNotFoundError:
        pass


def _open_up(path: str) -> bool:
    try:
        os.chmod(path, 0o700)
    except OSError:
        return False
    return True

"""Directories made and removed, without the weight of shutil (its import costs more than a whole launch)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List


def make_directories(path: str) -> None:
    """Make `path` and what is missing above it. The usual case, only the last part missing, is one call."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)


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
        try:
            if entry.is_dir(follow_symlinks=False):
                _remove_below(entry.path, left)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
        except PermissionError:
            _remove_after_opening(path, entry, left)
        except FileNotFoundError:
            pass
        except OSError as error:
            left.append("%s: %s" % (entry.path, error.strerror))


def _remove_after_opening(parent: str, entry: os.DirEntry[str], left: List[str]) -> None:
    try:
        _open_up(parent)
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    except OSError as error:
        left.append("%s: %s" % (entry.path, error.strerror))


def _open_up(path: str) -> bool:
    try:
        os.chmod(path, 0o700)
    except OSError:
        return False
    return True

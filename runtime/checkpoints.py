"""Complete checkpoints: step-{n:012d}/ with a COMMIT file that names every other file and its size.

A checkpoint is written in a directory with another name, flushed, marked, then renamed. What has no valid COMMIT, or
lacks a file or a part of one (a copy that was cut), is never resumed from.
"""

from __future__ import annotations

import os

from runtime import contract, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

PREFIX = "step-"


class Complete:
    """A checkpoint that may be resumed."""

    __slots__ = ("commit", "path", "step")

    def __init__(self, path: str, step: int, commit: Dict[str, Any]) -> None:
        self.path = path
        self.step = step
        self.commit = commit


def directory_name(step: int) -> str:
    """`step-000000001200`: names sort as steps do."""
    return "%s%012d" % (PREFIX, step)


def newest(directory: str) -> Optional[Complete]:
    """The complete checkpoint with the highest step, None when there is none."""
    for step, path in reversed(by_step(directory)):
        complete = check(path, step)
        if complete:
            return complete
    return None


def by_step(directory: str) -> List[Tuple[int, str]]:
    """What is named like a checkpoint, complete or not, in the order of steps."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = []
    for name in names:
        digits = name[len(PREFIX) :]
        if name.startswith(PREFIX) and digits.isdigit():
            found.append((int(digits), os.path.join(directory, name)))
    return sorted(found)


def check(path: str, step: int) -> Optional[Complete]:
    """The checkpoint in `path` when it is complete and of this step."""
    try:
        commit = status.read_json(os.path.join(path, contract.COMMIT))
        if commit.get("step") != step:
            return None
        for name, size in dict(commit.get("files") or {}).items():
            if os.stat(os.path.join(path, name)).st_size != size:
                return None
    except (OSError, ValueError, TypeError):
        return None
    return Complete(path, step, commit)


def latest(directory: str) -> Dict[str, Any]:
    """{step, path} of what `latest` names: one read, for the status record."""
    try:
        with open(os.path.join(directory, contract.LATEST), encoding="utf-8") as file:
            name = file.readline().strip()
    except (OSError, ValueError):
        return {"step": None, "path": None}
    digits = name[len(PREFIX) :]
    return {"step": int(digits) if digits.isdigit() else None, "path": os.path.join(directory, name) if name else None}

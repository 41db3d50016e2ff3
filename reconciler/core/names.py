"""Who is who: job keys, run ids, digests. Pure text, no I/O."""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple

# One path component of a job's identity. It becomes a directory name, part of a scheduler's job name and of a label,
# so the set is the one that all of them take; values that need other characters have `labels` and `env`.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")


class JobKey(NamedTuple):
    """A job's identity, `project/group/name`: never the path of the file that describes it."""

    project: str
    group: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}/{self.group}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> JobKey:
        """Read `project/group/name`, `group/name` (project general) or `name` (group default).

        Raises ValueError naming the part that is not a name.
        """
        parts = text.split("/")
        if len(parts) > 3:
            raise ValueError(f"{text!r} is not a job: expected project/group/name")
        full = ["general", "default"][: 3 - len(parts)] if len(parts) > 1 else ["general", "default"]
        if len(parts) == 2:
            full = ["general"]
        key = cls(*full, *parts)
        for part in key:
            if not is_name(part):
                raise ValueError(
                    f"{part!r} is not a name: expected 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit"
                )
        return key


def is_name(text: str) -> bool:
    """True for text that may stand as project, group or name."""
    return bool(_NAME.match(text))


def canonical(value: object) -> bytes:
    """One byte string per value: JSON with sorted keys, no blanks, ASCII. Raises TypeError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: object) -> str:
    """SHA-256 of the canonical form, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def run_id(job: JobKey, digest: str, attempt: int, *, length_max: int = 200) -> str:
    """Name of one attempt: `<project>-<group>-<name>-<digest8>-<attempt>`.

    The digest covers the job's key, so two jobs whose joined names agree still differ. Where a backend allows fewer than
    `length_max` characters the readable part is cut and eight hex digits of its hash keep it unique.
    """
    head, tail = f"{job.project}-{job.group}-{job.name}", f"-{digest[:8]}-{attempt}"
    if len(head) + len(tail) <= length_max:
        return head + tail
    short = hashlib.sha256(head.encode()).hexdigest()[:8]
    return f"{head[: length_max - len(tail) - 9]}-{short}{tail}"

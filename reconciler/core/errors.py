"""Every error a user may meet, as one tree.

    ReconcilerError          .retry says whether the effect may have happened; .hint says what to do next
    ├ ManifestError          a file of the user's: file, line, field, what was expected          NEVER
    ├ SourceError            git or the manifest directory cannot be read completely             NEVER
    ├ ShipError              code could not be packed or delivered                               NEVER
    ├ SecretError            a reference that cannot be resolved                                 NEVER
    ├ Unreachable            no connection; nothing was done                                     SAFE
    ├ OutcomeUnknown         cut or timed out after the command may have started                 AFTER_LOOKING
    ├ AccessRefused          host key, key, login, master connection gone                        NEVER
    ├ Rejected               the other side said no; its own words are kept                      NEVER
    ├ Unparsable             an answer we do not understand; a piece of it is kept               AFTER_LOOKING
    └ StoreError             the state cannot be read or written                                 NEVER
      └ LockHeld             another reconciler is acting                                        NEVER

Not placeable, nothing to do and waiting are values, not errors. Bugs stay plain exceptions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Retry(enum.Enum):
    """May the same call be made again?"""

    NEVER = "never"
    SAFE = "safe"
    AFTER_LOOKING = "after looking"


class ReconcilerError(Exception):
    """Base of the tree. `str()` is the whole sentence for people; `hint` is the next step."""

    retry: Retry = Retry.NEVER

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one of the user's files. `line` counts from 1; 0 where a file has no lines to name."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class ManifestError(ReconcilerError):
    """One or more problems in files of the user's."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class SourceError(ReconcilerError):
    """The source of manifests cannot be read completely; nothing may be pruned."""


class ShipError(ReconcilerError):
    """Code could not be packed or delivered."""


class SecretError(ReconcilerError):
    """A secret reference cannot be resolved; the value never appears here."""


class Unreachable(ReconcilerError):
    """No connection was made; nothing was done."""

    retry = Retry.SAFE


class OutcomeUnknown(ReconcilerError):
    """The connection was cut, or time ran out, after the command may have started."""

    retry = Retry.AFTER_LOOKING


def on_the_way(error: ReconcilerError) -> bool:
    """Did the way to the other side fail: no connection, or one that was cut or silent?"""
    return isinstance(error, (Unreachable, OutcomeUnknown))


class AccessRefused(ReconcilerError):
    """The host answered and did not let us in, or is not the host we know."""


class Rejected(ReconcilerError):
    """The other side understood and said no."""


class NotNow(Rejected):
    """The other side said no because of how things are there at the moment: the same may be taken later."""


class Unparsable(ReconcilerError):
    """The answer is not what the protocol promises."""

    retry = Retry.AFTER_LOOKING


class StoreError(ReconcilerError):
    """The reconciler's own state cannot be read or written."""


class LockHeld(StoreError):
    """Another reconciler holds the lock."""

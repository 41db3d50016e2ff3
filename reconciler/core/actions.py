"""The words of a plan: what would be done to which job, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from reconciler.core.cause import Cause
from reconciler.core.diff import Change
from reconciler.core.machine import Machine
from reconciler.core.memory import Line
from reconciler.core.names import JobKey
from reconciler.core.observation import Progress
from reconciler.core.phase import Phase
from reconciler.core.run import Handle, Run
from reconciler.core.solve import Placement


class Verb(enum.StrEnum):
    LAUNCH = "launch"
    ADOPT = "adopt"
    REQUEUE = "requeue"
    REPLACE = "replace"
    CANCEL = "cancel"
    DELETE = "delete"
    HOLD = "hold"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Start:
    """Submit an attempt. `again` is the very run of an unsettled submit: same id, same token, so twice is once. `placement`
    is then None, or what is to be rented anew for it. `machine` is the one rented for it, where that is there already."""

    placement: Placement | None
    attempt: int
    pin: str | None
    again: Run | None = None
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End a run, or one of its stray attempts. `forced` skips the grace: it was given before and passed. `machine` is the one
    rented for it."""

    run: Run
    handle: Handle
    cause: Cause
    grace_s: float
    forced: bool = False
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Delete a machine whose run is over."""

    machine: Machine


@dataclass(frozen=True, slots=True)
class Action:
    """One line of a plan. `effect` None changes only our memory (`adopt`, `forget`) or nothing at all (`hold`).

    `reason` is a stable CamelCase word, `message` the sentence for people. `destructive` lines end a run nobody will resume.
    """

    verb: Verb
    job: JobKey
    reason: str
    message: str
    run_id: str = ""
    host: str = ""
    destructive: bool = False
    effect: Start | Stop | Release | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A job as `status` shows it. `next_try` is our clock's time, 0 when no try is due; `passed_over` says why not, per host."""

    job: JobKey
    phase: Phase
    reason: str
    message: str
    host: str = ""
    attempt: int = 0
    run_id: str = ""
    handle: str = ""
    progress: Progress | None = None
    checkpoint_step: int | None = None
    last_heartbeat: str = ""
    next_try: float = 0.0
    passed_over: tuple[tuple[str, str], ...] = ()
    frozen: bool = False
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that one pass decides about one job: how it stands, what memory learns, and at most one action."""

    view: View | None
    lines: tuple[Line, ...] = ()
    action: Action | None = None

"""The phases of a job as one table. The diagram in docs/architecture.md is drawn from TRANSITIONS."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    PENDING = "Pending"
    HELD = "Held"
    PROVISIONING = "Provisioning"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    RUNNING = "Running"
    PREEMPTED = "Preempted"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    LOST = "Lost"
    UNKNOWN = "Unknown"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"


FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})
"""Remembered by a tombstone: only a new generation or another spec digest leaves them."""

BETWEEN = frozenset({Phase.PENDING, Phase.HELD, Phase.PREEMPTED, Phase.LOST, Phase.SUSPENDED})
"""No attempt is alive and one may start when its time comes."""

LIVE = frozenset({Phase.PROVISIONING, Phase.QUEUED, Phase.PREPARING, Phase.RUNNING, Phase.TERMINATING, Phase.UNKNOWN})
"""An attempt is alive, or we cannot prove that it is not."""

_P = Phase
TRANSITIONS: dict[Phase, dict[Phase, str]] = {
    _P.PENDING: {
        _P.PROVISIONING: "a machine is being made",
        _P.QUEUED: "accepted by a queue",
        _P.PREPARING: "claimed on its host",
        _P.HELD: "a person has to decide",
        _P.SUSPENDED: "suspend",
    },
    _P.HELD: {
        _P.PENDING: "the obstacle is gone",
        _P.SUSPENDED: "suspend",
        _P.QUEUED: "seen again",
        _P.PREPARING: "seen again",
        _P.RUNNING: "seen again",
        _P.SUCCEEDED: "had finished",
        _P.LOST: "a person says that it is lost",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.PROVISIONING: {
        _P.PREPARING: "the machine is ready",
        _P.PENDING: "no capacity",
        _P.TERMINATING: "no longer wanted",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.QUEUED: {
        _P.PREPARING: "the scheduler started it",
        _P.TERMINATING: "no longer wanted",
        _P.LOST: "gone without a trace",
        _P.HELD: "gone without a trace, with many others of its host",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.PREPARING: {
        _P.RUNNING: "set-up done",
        _P.FAILED: "set-up failed, budget spent",
        _P.LOST: "died before it could report",
        _P.HELD: "gone without a trace, with many others of its host",
        _P.PREEMPTED: "asked to stop by somebody else",
        _P.TERMINATING: "no longer wanted, replaced or suspended",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.RUNNING: {
        _P.SUCCEEDED: "exit 0",
        _P.FAILED: "budget spent, or the same failure again and again",
        _P.PENDING: "failed with budget left, waiting for its next try",
        _P.PREEMPTED: "asked to stop by somebody else",
        _P.LOST: "gone without a final report",
        _P.HELD: "gone without a trace, with many others of its host",
        _P.TERMINATING: "no longer wanted, replaced or suspended",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.PREEMPTED: {_P.PENDING: "waiting for its next try", _P.FAILED: "budget spent"},
    _P.LOST: {_P.PENDING: "waiting for its next try", _P.FAILED: "budget spent"},
    _P.UNKNOWN: {
        _P.QUEUED: "seen again",
        _P.PREPARING: "seen again",
        _P.RUNNING: "seen again",
        _P.TERMINATING: "seen again, stopping",
        _P.SUCCEEDED: "had finished",
        _P.FAILED: "had failed",
        _P.PREEMPTED: "had been preempted",
        _P.LOST: "looked, and it is gone",
        _P.HELD: "looked, and it is gone with many others of its host",
    },
    _P.TERMINATING: {
        _P.PENDING: "replaced: the new spec waits for its start",
        _P.CANCELLED: "cancel confirmed",
        _P.SUSPENDED: "suspend confirmed",
        _P.SUCCEEDED: "finished before it could be stopped",
        _P.UNKNOWN: "the host does not answer",
    },
    _P.SUSPENDED: {_P.PENDING: "resume"},
    _P.SUCCEEDED: {_P.PENDING: "new generation or spec"},
    _P.FAILED: {_P.PENDING: "new generation or spec, or a stalled job is resumed"},
    _P.CANCELLED: {_P.PENDING: "new generation or spec"},
}
"""From each phase, what may come next and why. A pass may see several steps at once: short jobs skip phases."""


def may_follow(before: Phase, after: Phase) -> bool:
    """True when `after` can be reached from `before` without leaving a final phase on the way.

    A final phase is left only by its own row: a job that succeeded is never seen running again in the same generation.
    """
    if before is after:
        return True
    seen, open_ = {before}, [before]
    while open_:
        phase = open_.pop()
        if phase in FINAL and phase is not before:
            continue
        for following in TRANSITIONS[phase]:
            if following is after:
                return True
            if following not in seen:
                seen.add(following)
                open_.append(following)
    return False

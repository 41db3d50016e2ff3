"""Why a run ended, and how often each cause may start it again."""

from __future__ import annotations

import enum

from reconciler.core.job import Restart


class Cause(enum.StrEnum):
    """One cause per ended attempt; each has a budget of its own, so preemptions never use up the budget of failures."""

    PREEMPTION = "preemption"
    INFRASTRUCTURE = "infrastructure"
    CAPACITY = "capacity"
    QUOTA = "quota"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    REPLACED = "replaced"
    DELETED = "deleted"
    FENCED = "fenced"
    REFUSED = "refused"


# Ends that we or somebody else asked for: they are answers, not accidents. No budget retries them, but for a run that somebody
# else cancelled (restart.cancelled).
ASKED_FOR = frozenset({Cause.CANCELLED, Cause.SUSPENDED, Cause.REPLACED, Cause.DELETED, Cause.FENCED})


def budget(restart: Restart, cause: Cause) -> int | None:
    """How often `cause` may requeue a job; None is unlimited."""
    match cause:
        case Cause.PREEMPTION | Cause.CAPACITY | Cause.QUOTA:
            return restart.preemption
        case Cause.INFRASTRUCTURE:
            return restart.infrastructure
        case Cause.FAILURE:
            return restart.failure
        case Cause.TIMEOUT:
            return restart.timeout
        case Cause.OUT_OF_MEMORY:
            return restart.out_of_memory
        case Cause.CANCELLED:
            return restart.cancelled
        case _:
            return 0


IN_WORDS = {
    Cause.PREEMPTION: "preempted",
    Cause.INFRASTRUCTURE: "lost to the infrastructure",
    Cause.CAPACITY: "out of capacity",
    Cause.QUOTA: "over quota",
    Cause.TIMEOUT: "past its time limit",
    Cause.OUT_OF_MEMORY: "out of memory",
    Cause.FAILURE: "failed",
    Cause.CANCELLED: "cancelled",
    Cause.SUSPENDED: "suspended",
    Cause.REPLACED: "replaced",
    Cause.DELETED: "deleted",
    Cause.FENCED: "fenced off by a newer attempt",
    Cause.REFUSED: "refused by the scheduler",
}

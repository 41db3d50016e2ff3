"""What a queue system (Slurm, PBS, ...) says, as typed values: jobs in its queue, and the machines behind it. Pure.

A dialect (backends/slurm) turns the system's text into these; the batch backend and the solver read nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.cause import Cause


class QueueState(enum.Enum):
    """All that matters of a scheduler's state words. A word that is not in the dialect's table is UNKNOWN, never final."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class QueueJob:
    """One job, or one member of an array, as the queue or the accounting shows it.

    `ident` is what a person types (`123`, `123_4`); `array` and `index` are set for members of an array (`123`, 4). `mark` is
    the comment, "" where the site drops it. `word` is the scheduler's own state, flags included; `cause` why an ended job
    ended, None when it ended by itself: then `exit_code` and `signal` tell how (both 0: well). `revivable`: the scheduler
    itself may start this ended job again. `reason` is the scheduler's word for why it waits, `sentence` the same for people,
    with the next step where a person has to do something (`held`). `starts_at` is the expected start as the scheduler writes
    it, "" when it does not know.
    """

    ident: str
    name: str
    mark: str
    state: QueueState
    word: str
    cause: Cause | None = None
    exit_code: int | None = None
    signal: int | None = None
    revivable: bool = False
    array: str = ""
    index: int | None = None
    partition: str = ""
    nodes: str = ""
    reason: str = ""
    sentence: str = ""
    held: bool = False
    starts_at: str = ""
    started_at: str = ""
    submitted_at: str = ""


@dataclass(frozen=True, slots=True)
class QueueNode:
    """One machine behind the queue. `usable`: takes new work now. `gpus` and `used` count accelerators per type as the
    scheduler names it ("" where it gives no type). Memory is MiB."""

    name: str
    usable: bool
    state: str
    gpus: Mapping[str, int] = field(default_factory=dict, hash=False)
    used: Mapping[str, int] = field(default_factory=dict, hash=False)
    cpus: int = 0
    cpus_used: int = 0
    memory_mib: int = 0
    features: frozenset[str] = frozenset()

    def free(self, gpu_type: str) -> int:
        """Accelerators of this type that a job could have now; 0 on a machine that takes no work."""
        return max(0, self.gpus.get(gpu_type, 0) - self.used.get(gpu_type, 0)) if self.usable else 0


@dataclass(frozen=True, slots=True)
class QueuePartition:
    """One partition (queue, class). Times are seconds; None is no limit. `up`: starts jobs now."""

    name: str
    up: bool
    nodes: tuple[str, ...]
    default: bool = False
    time_max_s: int | None = None
    time_default_s: int | None = None
    nodes_max: int | None = None
    accounts: frozenset[str] | None = None
    """Accounts that may use it; None: all."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the scheduler is set to, as far as it told. `array_max`: largest number of members in one array.
    `remembered_s`: how long an ended job stays in the queue's listing. `accounting`: is there a history to ask?"""

    version: str = ""
    cluster: str = ""
    array_max: int | None = None
    remembered_s: int | None = None
    kill_wait_s: int | None = None
    accounting: bool | None = None


@dataclass(frozen=True, slots=True)
class QueueCapacity:
    """The machines behind one queue at one moment."""

    partitions: Mapping[str, QueuePartition] = field(hash=False)
    nodes: Mapping[str, QueueNode] = field(hash=False)
    limits: QueueLimits = QueueLimits()

    def of(self, partition: str) -> tuple[QueueNode, ...]:
        """The machines of a partition, in its own order. Raises KeyError for a partition that does not exist."""
        return tuple(self.nodes[name] for name in self.partitions[partition].nodes if name in self.nodes)

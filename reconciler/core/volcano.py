"""Volcano jobs, their pods, and what says why they wait, as typed values. Pure.

`backends/volcano_answers` makes these of the API's JSON, `backends/volcano_words` judges them. Times are seconds since
the epoch by the cluster's clocks: good to order what happened there, never to be compared with ours. None: not told.

Sources: volcano.sh/docs/vcjob, the types batch/v1alpha1 and scheduling/v1beta1, Kubernetes' Pod, Event and Quantity;
what a real cluster answers is in tests/records/kubernetes.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


class VcPhase(enum.Enum):
    """A job's phase in Volcano's word. A word that is not in the table is UNKNOWN, never an end."""

    NOT_SEEN = ""
    """Volcano's controller has not looked at the job yet: it has no status."""
    PENDING = "Pending"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    COMPLETING = "Completing"
    COMPLETED = "Completed"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    """Suspended: its pods were killed, and a command may resume it."""
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @property
    def final(self) -> bool:
        """Volcano will never start a pod of it again."""
        return self in (VcPhase.COMPLETED, VcPhase.TERMINATED, VcPhase.FAILED)


class VcQueueState(enum.Enum):
    """May jobs go into the queue? MISSING is said by the caller, who was told that there is no such queue."""

    OPEN = "Open"
    CLOSED = "Closed"
    CLOSING = "Closing"
    MISSING = "Missing"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class VcJob:
    """One Volcano job. The counts of its pods are not here: Volcano 1.12.4 forgets them at the end.

    `word` is the phase as it was written, `reason` and `message` what Volcano adds to it; `changed` is when the phase began.
    `terminating` pods are still ending. `replicas` sums all tasks. `deleting`: it is asked to go, and is there until it
    is gone.
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    phase: VcPhase = VcPhase.NOT_SEEN
    word: str = ""
    reason: str = ""
    message: str = ""
    created: float | None = None
    changed: float | None = None
    deleting: bool = False
    queue: str = ""
    tasks: tuple[str, ...] = ()
    replicas: int = 0
    min_available: int = 0
    retry_count: int = 0
    terminating: int = 0
    version: str = ""

    @property
    def finished(self) -> bool:
        """It is over for good. A suspended (Aborted) job is not: see `suspended`."""
        return self.phase.final

    @property
    def suspended(self) -> bool:
        """Its pods were killed on somebody's command; whoever lets it lie must expect that somebody resumes it."""
        return self.phase is VcPhase.ABORTED


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. `signal` is told, or derived from a code above 128 as shells do. `message` is its
    termination message: our final record, the program's text, or why it could not be started."""

    code: int | None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    started: float | None = None
    finished: float | None = None
    container: str = ""


@dataclass(frozen=True, slots=True)
class Disruption:
    """The cluster ends, or ended, the pod for reasons of its own: the reason and message of the condition, and since when."""

    reason: str
    message: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that is not started, in the kubelet's words; `image` is what it is to be started from."""

    reason: str
    message: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `index` is its place in its task, None where it has none. `ready` None: nobody says.

    `node_lost`: its node stopped answering (`lost_at`), so that phase and containers are the last that was heard.
    `deleting`: it is asked to go and may run until it is gone. `began`: a container of it was started. `unschedulable`
    is the scheduler's text.
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    job: str = ""
    owner_uid: str = ""
    index: int | None = None
    phase: str = ""
    reason: str = ""
    message: str = ""
    created: float | None = None
    ready: bool | None = None
    deleting: bool = False
    node: str = ""
    node_lost: bool = False
    lost_at: float | None = None
    began: bool = False
    waiting: Waiting | None = None
    exit: Exit | None = None
    disruption: Disruption | None = None
    unschedulable: str = ""

    @property
    def over(self) -> bool:
        """None of its processes can run: it ended, by its kubelet's word or its garbage collector's."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodGroup:
    """What the scheduler sees of a job. `phase` Pending: not let into the queue; Inqueue: let in, pods may be made;
    Running, Unknown (some pods run), Completed. `reason` and `message` are of the newest true Unschedulable condition,
    "" where the newest condition says that it is scheduled. `wanted` is what all its pods ask for."""

    name: str
    uid: str
    owner_uid: str = ""
    phase: str = ""
    queue: str = ""
    reason: str = ""
    message: str = ""
    wanted: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was said about an object, `count` times from `since` to `at`. `uid` is "" where the speaker knew
    only a name."""

    reason: str
    message: str
    kind: str
    name: str
    uid: str
    warning: bool = False
    count: int = 1
    since: float | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class VcQueue:
    """A queue. Amounts are CPUs, bytes and counts. `capability` is its upper limit, None where it has none; `allocated`
    what its jobs hold, None where it is not told."""

    name: str
    state: VcQueueState
    word: str = ""
    capability: Mapping[str, float] | None = field(default=None, hash=False)
    allocated: Mapping[str, float] | None = field(default=None, hash=False)


_QUANTITY = re.compile(
    r"([+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}))(?:([eE][+-]?\d{1,2})|([KMGTPE]i|[numkMGTPE]))?\Z", re.ASCII
)
_SUFFIXES: dict[str, tuple[int, int]] = {
    "n": (10, -9), "u": (10, -6), "m": (10, -3),
    "k": (10, 3), "M": (10, 6), "G": (10, 9), "T": (10, 12), "P": (10, 15), "E": (10, 18),
    "Ki": (2, 10), "Mi": (2, 20), "Gi": (2, 30), "Ti": (2, 40), "Pi": (2, 50), "Ei": (2, 60),
}  # fmt: skip
QUANTITY_EXPECTED = 'a quantity of Kubernetes such as "4", "500m", "64Gi" or "1e3"'


def quantity(value: str | int | float) -> float:
    """The number that a quantity of Kubernetes stands for: "500m" -> 0.5, "64Gi" -> bytes. Raises ValueError saying what
    was expected."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not {QUANTITY_EXPECTED}")
    matched = _QUANTITY.match(value) if isinstance(value, str) else None
    if matched is not None:
        number, exponent, suffix = matched.groups()
        if suffix is None:
            return float(number + (exponent or ""))
        base, power = _SUFFIXES[suffix]
        # A division by 1000 is exact where a product with 0.001 is not.
        return float(number) / float(base**-power) if power < 0 else float(number) * float(base**power)
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:80]!r} is not {QUANTITY_EXPECTED}")
    return float(value)

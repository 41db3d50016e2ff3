"""What was seen, and how sure we are. Absence needs proof; silence is UNKNOWN."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.cause import Cause
from reconciler.core.gangs import QueueRoom
from reconciler.core.machine import Machine
from reconciler.core.queue import QueueCapacity, QueueJob
from reconciler.core.run import Handle, Run


class Presence(enum.Enum):
    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class ReportStatus(enum.StrEnum):
    """The words of metadata.json's `status`."""

    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (ReportStatus.PREPARING, ReportStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `total` (None: unknown), and the numbers the job reports beside them."""

    step: int
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What the node's metadata.json says of one run. Times are the node's own text and are never compared with ours."""

    status: ReportStatus
    seq: int
    cause: Cause | None = None
    exit_code: int | None = None
    message: str = ""
    detail: str = ""
    progress: Progress | None = None
    checkpoint_step: int | None = None
    start_time: str = ""
    last_heartbeat: str = ""
    end_time: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run may stay as it is, in seconds since `reason` was first seen to be the reason, before it is ended for
    `cause`; `why` for people."""

    reason: str
    wait_s: float
    cause: Cause
    why: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """One run on one host. `alive` is about processes, `report` about what they wrote; the two may disagree.

    `run` is rebuilt from the claim file, None where it could not be read. UNKNOWN carries the reason in `error`; PRESENT names
    parts there that could not be asked. `queue` is what a scheduler says of it, where one does; `twins` are further jobs of the
    same run that its queue holds. `machine` is the one rented for it. `unfinished` says what is left to do of its launch, now
    that it can be done; empty: nothing. `broken`: a part of it has ended for good (`report` says how) while others still live.
    `patience`: it has not begun, and is not waited for without end. `rootless`: UNKNOWN, because the directory of all records is
    not there.
    """

    run_id: str
    presence: Presence
    alive: bool = False
    supervised: bool = True
    stopping: str = ""
    handle: Handle | None = None
    run: Run | None = None
    report: Report | None = None
    boot_id: str = ""
    error: str = ""
    queue: QueueJob | None = None
    twins: tuple[str, ...] = ()
    machine: Machine | None = None
    unfinished: str = ""
    broken: bool = False
    patience: Patience | None = None
    rootless: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator as the driver names it. `ident` is the uuid (index where there is none)."""

    ident: str
    index: int
    name: str
    memory_total_mib: int | None
    used_mib: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a host has, right now. `gpus` None: the host has no driver to ask; `error`: it was asked and failed. `queue` is
    what lies behind a login node; its own processors are nobody's to use. `rooms` are the queues of a cluster that schedules
    gangs, by name."""

    cpus: int
    gpus: tuple[Gpu, ...] | None = None
    error: str = ""
    queue: QueueCapacity | None = None
    rooms: Mapping[str, QueueRoom] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Census:
    """All sightings of one host. Only a `complete` census proves absence; `scanned` says it looked at every run ever
    claimed there, not only at those that may be alive. `machines` are all that carry our mark, whatever became of their runs.
    `away`: the host could not be reached."""

    host: str
    complete: bool
    sightings: Mapping[str, Sighting] = field(default_factory=dict, hash=False)
    capacity: Capacity | None = None
    scanned: bool = False
    boot_id: str = ""
    error: str = ""
    machines: tuple[Machine, ...] = ()
    away: bool = False

    def look(self, run_id: str) -> Sighting:
        """This run, in three values: seen, proved absent, or unknown with the reason."""
        seen = self.sightings.get(run_id)
        if seen is not None:
            return seen
        if self.complete:
            return Sighting(run_id, Presence.ABSENT, boot_id=self.boot_id)
        return Sighting(run_id, Presence.UNKNOWN, error=self.error or "the answer was not complete")


@dataclass(frozen=True, slots=True)
class Observation:
    """One census per host that was asked. A host that was not asked proves nothing."""

    censuses: Mapping[str, Census] = field(hash=False)

    def look(self, host: str, run_id: str) -> Sighting:
        census = self.censuses.get(host)
        if census is None:
            return Sighting(run_id, Presence.UNKNOWN, error=f"host {host} is not in the inventory")
        return census.look(run_id)

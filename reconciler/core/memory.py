"""What we remember of one job, and how each journal line changes it. Memory is the fold of the journal: replaying the
lines gives the same value, which is how it is tested and how it is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from reconciler.core.cause import Cause
from reconciler.core.cooling import strike
from reconciler.core.loops import Series
from reconciler.core.names import JobKey
from reconciler.core.phase import Phase
from reconciler.core.run import Handle, Run

# That a zone had no machine is of use to nobody after so long: a bound of what is kept, far above any `cooldown` in use.
DRY_KEPT_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """How a generation of a job ended. It stays until the generation or the digest changes."""

    phase: Phase
    digest: str
    generation: int
    run_id: str
    host: str
    cause: Cause | None
    exit_code: int | None
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """`run` is the attempt that may be alive: from its intent until its end was seen. `submitted` tells whether the submit
    was settled; between intent and settling only looking helps. `run_at` is when it was last sent, or given up without an
    answer. `stop` is why we asked it to end, `stop_at` when (our clock),
    `stop_since` when first. `spent` counts requeues per cause in this generation
    and digest; `unlucky` counts tries in a row without a lasting run. `heir_of` is the mark of a run that was
    adopted, which may be another repository's, until a launch of ours follows it. `released`: a person, or spec.deletion, let its
    run go on unminded. `cancelled_for` is the (digest, generation) that a cancel by request is about. `cost`: of all
    machines that were rented for it and are deleted. `billed` is the newest of them, and what of `cost` is its.
    `approved`: the highest price per hour that somebody said yes to for this digest and generation, by host.
    `dry`: (host, zone, when) of the zones that had no machine for it, the last time that each was asked.
    `strikes`: (host, when) of its attempts that a host lost or refused. `series`: how often in a row this work failed alike.
    """

    job: JobKey
    attempt: int = 0
    run: Run | None = None
    run_at: float = 0.0
    handle: Handle | None = None
    submitted: bool = False
    stop: Cause | None = None
    stop_at: float = 0.0
    stop_forced: bool = False
    stop_since: float = 0.0
    spent: Mapping[Cause, int] = field(default_factory=dict, hash=False)
    unlucky: int = 0
    not_before: float = 0.0
    tombstone: Tombstone | None = None
    last_end: str = ""
    last_phase: Phase | None = None
    last_host: str = ""
    suspended: bool = False
    cancelled: bool = False
    pin: str | None = None
    pin_for: tuple[str, int] | None = None
    heir_of: str = ""
    released: bool = False
    cancelled_for: tuple[str, int] | None = None
    cost: float = 0.0
    billed: tuple[str, float] | None = None
    approved: Mapping[str, float] = field(default_factory=dict, hash=False)
    dry: tuple[tuple[str, str, float], ...] = ()
    strikes: tuple[tuple[str, float], ...] = ()
    series: Series | None = None
    concern: tuple[str, float] | None = None
    """Of the open run: why it is not waited for without end, and since when that is seen."""
    given_up: bool = False
    """Whoever sent the open run has said when he gave up waiting for an answer: `run_at` is that time."""
    refused: str = ""
    """The token of the newest attempt, where that never began: what bears its number on a host with another token is another
    one, that this state does not know."""

    @property
    def known(self) -> int:
        """The newest attempt that was."""
        return self.attempt - bool(self.refused)

    @property
    def blank(self) -> bool:
        """Nothing worth keeping is known."""
        return _worth_keeping(self) == _NOTHING

    @property
    def stalled(self) -> bool:
        """Given up because it failed alike again and again, until a person says otherwise."""
        failed = self.tombstone is not None and self.tombstone.phase is Phase.FAILED
        return failed and self.series is not None and self.series.stalled


# What a forgotten job may still have: its number, what it cost, and what its hosts did to it. Of all else, what is not as in a
# new memory is worth keeping. By one getter, because over years most memories are of forgotten jobs, and each pass asks.
_KEPT_ANYWAY = frozenset({"job", "attempt", "refused", "cost", "billed", "dry", "strikes"})
_worth_keeping = attrgetter(*(item.name for item in fields(Memory) if item.name not in _KEPT_ANYWAY))
_NOTHING = _worth_keeping(Memory(JobKey("", "", "")))


# --- journal lines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launching:
    """Intent to submit `run`. Written and durable before the submit. `price_per_hour`: of the machine that is rented for it,
    which somebody has said yes to, 0 where it is not known; None where none is rented anew."""

    run: Run
    requeue: bool
    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Launched:
    """The submit was answered, or its result was seen: the run exists."""

    run_id: str
    handle: Handle
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The submit definitely did not happen. `not_before` spaces out the next try. `cause` where it is known. `blamed`: for
    reasons that lie with the host."""

    run_id: str
    message: str
    not_before: float
    cause: Cause | None = None
    blamed: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """No attempt was made: its code or a secret could not be had. `not_before` spaces out the next try."""

    message: str
    not_before: float


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The submit, or the stop, may or may not have happened: the next pass looks."""

    run_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """Intent to stop the run. Written and durable before the signal."""

    run_id: str
    cause: Cause
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The host took the request to stop; the end itself is seen by a later census."""

    run_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over. `phase` is what the job is now; a tombstone is kept for final phases. `requeue` with `not_before`
    when another attempt follows and its cause is paid from the budget. `series`: how often in a row this work has failed alike by
    now. `blamed`: for reasons that lie with the host."""

    run_id: str
    phase: Phase
    cause: Cause | None
    exit_code: int | None
    message: str
    requeue: bool
    lasted: bool
    not_before: float
    series: Series | None = None
    blamed: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """A run that carries our mark was found and is ours to mind from now on."""

    run: Run
    handle: Handle | None


@dataclass(frozen=True, slots=True)
class Edited:
    """The spec changed in place; the run goes on."""

    run_id: str
    run: Run


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the run waits for, or suffers from, is another thing than before (`reason`; "": nothing any more). From now on its
    time is counted, whichever process looks."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Requested:
    """A person asked: cancel, suspend or resume. `about` is the (digest, generation) that was wanted then."""

    what: str
    why: str
    about: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Releasing:
    """Intent to delete a machine that was rented for the run. Written and durable before the call."""

    run_id: str
    machine: str
    why: str


@dataclass(frozen=True, slots=True)
class Billed:
    """A machine that was rented for the run is deleted. `cost` is what it came to; said again, it stands in place of what was
    said of this machine before."""

    run_id: str
    machine: str
    cost: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """We stop minding the job. `released`: although a run of it may be alive, which is then left alone for good."""

    why: str
    released: bool = False


Line = (
    Launching
    | Launched
    | Refused
    | Deferred
    | Unsettled
    | Stopping
    | Stopped
    | Ended
    | Adopted
    | Edited
    | Noticed
    | Requested
    | Releasing
    | Billed
    | Forgotten
)


def fold(memory: Memory, line: Line, at: float) -> Memory:
    """Memory after one journal line. Total: a line about a run that is no longer the job's open one changes nothing."""
    match line:
        case Launching(run=run):
            fresh = not _same_work(memory, run)
            # The rest of a launch that has begun: how long it may take counts from its beginning.
            goes_on = memory.submitted and memory.run is not None and memory.run.token == run.token
            return replace(
                memory,
                attempt=max(memory.attempt, run.attempt),
                run=run,
                run_at=memory.run_at if goes_on else at,
                handle=memory.handle if goes_on else None,
                submitted=goes_on,
                given_up=False,
                stop=None,
                stop_at=0.0,
                stop_forced=False,
                stop_since=0.0,
                concern=memory.concern if goes_on else None,
                spent={} if fresh else memory.spent,
                unlucky=0 if fresh else memory.unlucky,
                series=None if fresh else memory.series,
                tombstone=None,
                refused="",
                cancelled=False,
                pin=run.commit,
                pin_for=(run.digest, run.generation),
                released=False,
                approved=_approved(memory, run, line.price_per_hour),
            )
        case Adopted(run=run, handle=handle):
            return replace(
                memory,
                attempt=max(memory.attempt, run.attempt),
                run=run,
                run_at=at,
                handle=handle,
                submitted=True,
                given_up=False,
                stop=None,
                stop_at=0.0,
                stop_forced=False,
                stop_since=0.0,
                concern=None,
                spent={Cause(cause): count for cause, count in run.spent.items()},
                series=memory.series if _same_work(memory, run) else None,
                tombstone=None,
                refused="",
                pin=run.commit,
                pin_for=(run.digest, run.generation),
                heir_of=run.owner,
                released=False,
                approved=_approved(memory, run, None),
            )
        case Requested(what=what):
            return replace(
                memory,
                suspended=what == "suspend" or (memory.suspended and what != "resume"),
                cancelled=what == "cancel" or (memory.cancelled and what != "resume"),
                cancelled_for=line.about if what == "cancel" else memory.cancelled_for,
                not_before=0.0 if what == "resume" else memory.not_before,
                unlucky=0 if what == "resume" else memory.unlucky,
                # A person who has mended the cause: what was counted is about what was before.
                series=None if what == "resume" else memory.series,
                tombstone=None if what == "resume" and _may_resume(memory) else memory.tombstone,
                approved={} if what == "cancel" else memory.approved,
            )
        case Deferred(message=message, not_before=not_before):
            return replace(memory, unlucky=memory.unlucky + 1, not_before=not_before, last_end=message)
        case Forgotten():
            # The attempt number survives, so that a job which comes back never reuses a run id.
            return Memory(
                memory.job,
                attempt=memory.attempt,
                refused=memory.refused,
                released=line.released,
                cost=memory.cost,
                billed=memory.billed,
                dry=memory.dry,
                strikes=memory.strikes,
            )
        case Releasing():
            return memory
        case Billed(machine=machine, cost=cost):
            # Its deletion may be asked for more than once.
            before = memory.billed[1] if memory.billed is not None and memory.billed[0] == machine else 0.0
            return replace(memory, cost=memory.cost - before + cost, billed=(machine, cost))
    if memory.run is None or line.run_id != memory.run.run_id:
        return memory
    match line:
        case Launched(handle=handle):
            # From here on the newest attempt on the host carries our own mark.
            return replace(memory, handle=handle, submitted=True, given_up=False, heir_of="")
        case Refused(message=message):
            return replace(
                _without_run(memory),
                unlucky=memory.unlucky + 1,
                not_before=line.not_before,
                last_end=message,
                last_phase=Phase.PENDING,
                last_host=memory.run.host,
                refused=memory.run.token,
                dry=_dry(memory, memory.run, line.cause, at),
                strikes=strike(memory.strikes, memory.run.host, at) if line.blamed else memory.strikes,
            )
        case Unsettled():
            # From now on nobody is at it any more: how long it may still start late counts from here.
            return memory if memory.submitted else replace(memory, run_at=at, given_up=True)
        case Stopped():
            return memory
        case Stopping(cause=cause):
            since = memory.stop_since if memory.stop is not None else at
            return replace(memory, stop=cause, stop_at=at, stop_forced=line.forced, stop_since=since)
        case Edited(run=run):
            return replace(memory, run=run)
        case Noticed(reason=reason):
            return replace(memory, concern=(reason, at) if reason else None)
        case Ended():
            return _ended(memory, memory.run, line, at)


def _ended(memory: Memory, run: Run, line: Ended, at: float) -> Memory:
    spent = dict(memory.spent)
    if line.requeue and line.cause is not None:
        spent[line.cause] = spent.get(line.cause, 0) + 1
    tombstone = None
    if line.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED):
        tombstone = Tombstone(
            line.phase, run.digest, run.generation, run.run_id, run.host, line.cause, line.exit_code, line.message, at
        )
    return replace(
        _without_run(memory),
        spent=spent,
        unlucky=(0 if line.lasted else memory.unlucky) + 1 if line.requeue else 0,
        not_before=line.not_before,
        tombstone=tombstone,
        last_end=line.message,
        last_phase=line.phase,
        last_host=run.host,
        dry=_dry(memory, run, line.cause, at),
        strikes=strike(memory.strikes, run.host, at) if line.blamed else memory.strikes,
        series=line.series,
        cancelled=False if tombstone else memory.cancelled,
    )


def _without_run(memory: Memory) -> Memory:
    """The same, with nothing left of the attempt: a store need not keep the rest of what is over."""
    return replace(
        memory,
        run=None,
        run_at=0.0,
        handle=None,
        submitted=False,
        given_up=False,
        stop=None,
        stop_at=0.0,
        stop_forced=False,
        stop_since=0.0,
        concern=None,
    )


def _same_work(memory: Memory, run: Run) -> bool:
    return memory.pin_for == (run.digest, run.generation)


def _approved(memory: Memory, run: Run, price_per_hour: float | None) -> Mapping[str, float]:
    """The prices that are said yes to, with one more. Other work starts without any."""
    had = memory.approved if _same_work(memory, run) else {}
    if price_per_hour is None:
        return had
    return {**had, run.host: max(had.get(run.host, 0.0), price_per_hour)}


def _dry(memory: Memory, run: Run, cause: Cause | None, at: float) -> tuple[tuple[str, str, float], ...]:
    """With the zone that had no machine for this run, where that is why it ended."""
    zone = run.place.get("zone")
    if cause is not Cause.CAPACITY or not isinstance(zone, str):
        return memory.dry
    others = (one for one in memory.dry if one[:2] != (run.host, zone) and at - one[2] < DRY_KEPT_S)
    return (*others, (run.host, zone, at))


def _may_resume(memory: Memory) -> bool:
    return memory.stalled or (memory.tombstone is not None and memory.tombstone.phase is Phase.CANCELLED)

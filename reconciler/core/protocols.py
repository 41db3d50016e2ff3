"""The seams of the reconciler on one page: Backend, Store, and the small ports (clock, ids)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from reconciler.core.cause import Cause
from reconciler.core.job import JobSpec, Json
from reconciler.core.machine import Machine
from reconciler.core.memory import Line, Memory
from reconciler.core.names import JobKey
from reconciler.core.observation import Census
from reconciler.core.run import Handle, Run
from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do beyond the required verbs. `batch_max`: runs in one submit."""

    accelerators: bool = True
    interactive: bool = True
    batch_max: int = 1000


@dataclass(frozen=True, slots=True)
class Tree:
    """Code on the host, ready to be unpacked: a checked archive (`object`, `sha256`), or a directory kept by rsync."""

    object: str = ""
    sha256: str = ""
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What rendering needs beside the run: resolved at acting time, never remembered. `secrets` stay wrapped to the last.

    `heir_of` is the mark of another repository whose job this one has taken over (`adopt --take-over`). `sweep` is the sweep
    that the job is a member of: members may go to a queue as one array, `parallel` of them at a time.
    """

    spec: JobSpec
    tree: Tree | None
    secrets: Mapping[str, Secret] = field(hash=False)
    chip: str | None = None
    heir_of: str = ""
    sweep: str = ""
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt as the backend will be told it. `body` is what `plan --show` prints: it holds no secret value. `order` is the
    backend's own typed form of it, where it has one."""

    run: Run
    body: Mapping[str, Json] = field(hash=False)
    secrets: Mapping[str, Secret] = field(hash=False)
    order: object = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run exists. `repeated`: it existed before this call. `words` say what there is so far, where that is no
    running job."""

    handle: Handle
    repeated: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class Declined:
    """The run was definitely not started. `reason` is a stable word, `message` the sentence. `final`: asking again would bring
    the same answer until somebody changes something, so it is not asked again. `cause` where it is known."""

    reason: str
    message: str
    final: bool = False
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class LogCursor:
    """A position in a run's log in bytes; negative counts from the end. `size_max` bounds the answer. `worker` is the rank of
    the machine whose output is meant; 0 is the run's own."""

    offset: int = 0
    size_max: int = 1 << 20
    worker: int = 0


@dataclass(frozen=True, slots=True)
class LogChunk:
    """`data` starts at `start`; `end` is the next cursor's offset; `rotated` tells that the log began anew."""

    data: bytes
    start: int
    end: int
    rotated: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """A run we remember. `handle` is None between intent and settling, or when it was adopted from a bare claim. `since` is when
    it was launched or found, by our clock (0: not told). `stopping`: we have asked for its end."""

    run: Run
    handle: Handle | None = None
    since: float = 0.0
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What one observation asks: the runs we know of, whether to walk every run ever claimed, whether to ask what is free."""

    known: Collection[Known] = ()
    scan: bool = False
    probe: bool = False


class Backend(Protocol):
    """One host as a place where runs live. Owned by the host's lane: never called by two threads.

    Raises the errors of core.errors. `observe` and `probe` never raise for an unreachable host: they return a census that is
    not complete, with the reason.
    """

    capabilities: ClassVar[Capabilities]

    def render(self, run: Run, facts: Facts) -> Submission:
        """Pure: the same arguments give the same submission."""
        ...

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        """Start runs, by run id, in one call. The same run twice is the same job. A run missing from the answer, and any
        exception but Unreachable, leave the outcome unknown: only looking settles it."""
        ...

    def observe(self, look: Look) -> Census:
        """All sightings of this host, in one query."""
        ...

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        """Ask a run to end, and return what happened in words. Already gone is success. Does not wait for the end."""
        ...

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        """A piece of the run's output; empty when it has written none. Raises what the connection raises."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@runtime_checkable
class Announces(Protocol):
    """A backend that can tell at once when something of ours changes, so that `watch` need not wait for its next look."""

    def listen(self, *, changed: Callable[[], None], going: Callable[[], bool], pause: Callable[[], None]) -> None:
        """Call `changed` whenever something may have changed, until `going` says no. Runs on a thread of its own beside the
        host's lane and shares no connection with it. Calls `pause` after a failure; raises nothing."""
        ...


@runtime_checkable
class Rents(Protocol):
    """A backend that makes a machine for a run, and deletes it."""

    def release(self, machine: Machine) -> str:
        """Ask for the deletion of exactly this machine, and return what happened in words. Already gone is success. Does not
        wait: a later census shows that it is gone. Raises Rejected when what bears its name now is not it."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal line as `history` shows it: when (our clock), who, for which commit of the manifests, in which pass."""

    number: int
    at: float
    job: JobKey
    line: Line
    actor: str
    commit: str
    why: str


class Store(Protocol):
    """Journal and memory. Everything is durable when a method returns. Raises StoreError."""

    def memories(self) -> Mapping[JobKey, Memory]:
        """Every job known, as the fold of its lines."""
        ...

    def append(self, lines: Iterable[tuple[JobKey, Line]], *, commit: str, why: str = "") -> None:
        """Write journal lines and fold them into memory, all in one transaction. Needs the lock; raises LockHeld without."""
        ...

    def newest(self) -> int:
        """Number of the newest journal line, 0 for an empty journal. A plan holds while this has not moved."""
        ...

    def history(self, job: JobKey | None = None, *, limit: int = 1000) -> Sequence[Entry]:
        """Journal lines, oldest first."""
        ...

    def scanned(self) -> frozenset[str]:
        """Hosts that were looked at completely since this store was created."""
        ...

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        """Remember complete looks."""
        ...

    def unmark_scanned(self, host: str) -> None:
        """Look at everything on this host again: it has shown a claim that this store does not know."""
        ...

    def lock(self) -> None:
        """Become the one writer, or raise LockHeld naming who is and until when."""
        ...

    def renew(self) -> None:
        """Keep the lock for another term. Raises LockHeld when it was lost meanwhile: then no effect may follow."""
        ...

    def holds(self) -> bool:
        """Is the lock ours, as far as this process can tell without asking anybody? From any thread; costs nothing."""
        ...

    def unlock(self) -> None:
        """Give the lock back. Never raises for a lock that is not ours any more."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    """Time as a port. `now` is seconds since the epoch on this machine; `sleep` returns early when told to stop."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

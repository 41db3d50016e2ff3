"""The state in the manifests' own git remote: whoever can push there shares placements, budgets and tombstones, without a server.

One ref (store/gitref) with the memory of each job as a file, the journal as a page per pass (store/pages), and `head.json`
(store/head): newest line, hosts that were looked at, lock. Every write is a compare and swap of the whole ref, so of two
writers one loses and knows it. What one holder of the lock writes becomes one commit: it is amended until the lock is given back,
and gone if nothing was written.

Intents are pushed before they are acted upon. What came of them is kept until the next push; should this process die first, the
next reconciler finds the intents and looks. What a machine cost is pushed at once: when it is gone, nobody can look.

Two machines' clocks are never compared: the lock of another machine is dead when the ref has not moved for LOCK_TERM_S + SKEW_S
by our clock, counted from when we first saw it there (store/unmoved).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Ended, Launched, Line, Memory, Refused, Stopped, Unsettled, fold
from reconciler.core.names import JobKey, is_name
from reconciler.core.protocols import Entry
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from reconciler.store.gitref import NOTHING, GitRef
from reconciler.store.head import VERSION, Head, Lock, dump_head, load_head
from reconciler.store.holder import default_actor, is_dead, myself, shares_machine
from reconciler.store.pages import first_line, newest_first, page_of, to_fold
from reconciler.store.unmoved import Unmoved

LOCK_TERM_S = 60.0
# A holder elsewhere renews within its term. It is given this much longer: for its pushes, and for its machine to stall.
SKEW_S = 120.0
HEAD = "head.json"
# What came of an effect: it can wait for the next push, because looking tells it, too.
_RESULTS = (Launched, Stopped, Refused, Unsettled, Ended)
_PAGES_AT_ONCE = 32


class GitStore:
    """Implements Store. Used by one thread."""

    def __init__(self, ref: GitRef, *, now: Callable[[], float] = time.time, actor: str | None = None) -> None:
        self._ref = ref
        self._now = now
        self._holder = myself(actor or default_actor())
        self._at = ""
        """The commit that was read or written last; "" before the first look."""
        self._base = ""
        """What the ref was at when we took the lock."""
        self._head = self._head_at_base = Head()
        self._memories: dict[JobKey, Memory] = {}
        self._pages: frozenset[str] = frozenset()
        """The pages of the journal in `_pages_at`; they are read when somebody asks for the history."""
        self._pages_at = NOTHING
        self._mine: dict[str, bytes | None] = {}
        """Files that this holder has changed since `_base`."""
        self._lines: list[dict[str, Any]] = []
        self._unsaved = 0
        """How many of `_lines` are not on the remote yet."""
        self._epoch: int | None = None
        self._unmoved = Unmoved(ref.beside)

    @property
    def actor(self) -> str:
        return self._holder.actor

    # --- reading

    def memories(self) -> Mapping[JobKey, Memory]:
        """Every job known, as of the last look (`newest`)."""
        self._once()
        return self._memories

    def newest(self) -> int:
        """Number of the newest journal line; asks the remote."""
        if self._epoch is None:
            self._read(self._ref.fetch())
        return self._head.newest

    def history(self, job: JobKey | None = None, *, limit: int = 1000) -> Sequence[Entry]:
        """The newest `limit` lines, oldest first."""
        self._once()
        found: list[Entry] = []
        for name, text in self._newest_lines():
            entry = _entry(text, name)
            if job is None or entry.job == job:
                found.append(entry)
            if len(found) >= limit:
                break
        return found[::-1]

    def _newest_lines(self) -> Iterator[tuple[str, str]]:
        """(page, line), newest first; pages are read only as far as the caller goes."""
        for text in reversed(self._encoded().decode().splitlines()):
            yield "the lines of this pass", text
        pages = newest_first(self._pages)
        for at in range(0, len(pages), _PAGES_AT_ONCE):
            for name, data in self._read_pages(pages[at : at + _PAGES_AT_ONCE]).items():
                for text in reversed(data.decode("utf-8", "replace").splitlines()):
                    yield name, text

    def _read_pages(self, names: Iterable[str]) -> dict[str, bytes]:
        return self._ref.contents({name: f"{self._pages_at}:{name}" for name in names})

    def scanned(self) -> frozenset[str]:
        self._once()
        return frozenset(self._head.scanned)

    # --- writing

    def append(self, lines: Iterable[tuple[JobKey, Line]], *, commit: str, why: str = "") -> None:
        """Write lines and their effect on memory. Intents are on the remote when this returns."""
        batch = list(lines)
        if not batch:
            return
        epoch, at = self._check_epoch(), self._now()
        number = self._head.newest
        known, records = dict(self._memories), []
        changed: dict[JobKey, Memory] = {}
        for job, line in batch:
            known[job] = changed[job] = fold(known.get(job) or Memory(job), line, at)
            kind, body = dump_line(line)
            number += 1
            about: dict[str, Any] = {"number": number, "at": at, "job": str(job), "kind": kind, "body": body}
            records.append({**about, "actor": self.actor, "source": commit, "why": why, "epoch": epoch})
        files: dict[str, bytes | None] = {
            _file_of(job): dump_memory(memory).encode() for job, memory in changed.items()
        }
        if not self._lines:
            files |= self._folded(page_of(records[0]["number"]))
        self._memories, self._head = known, replace(self._head, newest=number)
        self._lines += records
        self._unsaved += len(records)
        self._mine |= files
        if not all(isinstance(line, _RESULTS) for _, line in batch):
            self._push(why)

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        new = sorted(set(hosts) - self.scanned())
        if new:
            self._check_epoch()
            self._head = replace(self._head, scanned={**self._head.scanned, **dict.fromkeys(new, self._now())})

    def unmark_scanned(self, host: str) -> None:
        self._check_epoch()
        scanned = {name: at for name, at in self._head.scanned.items() if name != host}
        self._head = replace(self._head, scanned=scanned)

    # --- the lock

    def lock(self) -> None:
        """Become the one writer for LOCK_TERM_S, or raise LockHeld naming who is."""
        at = self._ref.fetch()
        self._read(at)
        if self._head.lock is not None:
            self._check_free(self._head.lock, at)
        self._base, self._pages_at = at, at
        self._epoch = self._head.epoch + 1
        self._head = replace(self._head, epoch=self._epoch)
        self._push("lock")

    def _check_free(self, lock: Lock, at: str) -> None:
        """Raises LockHeld where the holder of this lock, seen at this commit, may be alive."""
        holder, now = lock.holder, self._now()
        who = f"{holder.actor} (pid {holder.pid} on {holder.host}) is reconciling this repository; its lock in {self._ref.told}"
        if shares_machine(holder, self._holder):
            if holder == self._holder or is_dead(holder, self._holder) or now >= lock.expires:
                return
            raise LockHeld(
                f"{who} expires in {lock.expires - now:.0f} s unless it goes on",
                hint="Wait for it, or end that process; a lock that is not renewed expires by itself.",
            )
        stood, needed = now - self._unmoved.since(at, now), LOCK_TERM_S + SKEW_S
        if stood < needed:
            raise LockHeld(
                f"{who} is given up only when it has not changed for {needed:.0f} s by the clock here; so far: {stood:.0f} s",
                hint=f"Wait for it, or end that process. If it is dead, the same command takes over in {needed - stood:.0f} s.",
            )

    def renew(self) -> None:
        """Keep the lock for another term, and push what came of effects so far: when half the term is over, not each time."""
        self._check_epoch()
        if self._head.lock is None or self._head.lock.expires - self._now() < LOCK_TERM_S / 2:
            self._push("at work")

    def holds(self) -> bool:
        lock = self._head.lock
        return self._epoch is not None and lock is not None and self._now() <= lock.expires

    def unlock(self) -> None:
        """Give the lock back, with what came of effects. Where nothing was written, nothing is left of having held it. Raises
        StoreError when that cannot be written, tried twice; then the lock stays until it expires."""
        if self._epoch is None:
            return
        lines, unsaved = len(self._lines), self._unsaved
        try:
            # Not asked whether the term is over: if the ref is where we left it, nobody has taken the lock meanwhile.
            if lines or self._head.scanned != self._head_at_base.scanned:
                self._push(self._lines[-1]["why"] if lines else "looked", locked=False, tries=2)
            elif self._head_at_base.lock is not None:
                self._push("lock given back", locked=False, tries=2)
            else:
                self._swap(self._base, tries=2)
                self._head = self._head_at_base
        except LockHeld:
            # Somebody else's by now: they find the intents, and look.
            self._lose()
            return
        except StoreError as error:
            self._lose()
            told = f"What came of {unsaved} effects is not written" if unsaved else "The lock was not given back"
            raise StoreError(
                f"{told}: {error.message}",
                hint="The lock expires by itself; the next pass finds the intents and looks at the hosts what came of them."
                if unsaved
                else "Everything is written. The lock expires by itself.",
            ) from error
        self._pages -= {path for path, data in self._mine.items() if data is None}
        self._pages |= {path for path, data in self._mine.items() if data is not None and first_line(path) is not None}
        if lines:
            self._pages |= {self._page}
        self._pages_at, self._head_at_base = self._at, self._head
        self._epoch, self._base = None, ""
        self._mine, self._lines, self._unsaved = {}, [], 0

    def close(self) -> None:
        self._lose()
        self._ref.close()

    # --- how it lies in git

    def _once(self) -> None:
        if not self._at:
            self._read(self._ref.fetch())

    def _read(self, commit: str) -> None:
        """Take over what the commit says: what has changed since the last one."""
        if commit == self._at:
            return
        try:
            files, whole = self._ref.changed(self._at, commit), False
        except LookupError:
            files, whole = dict(self._ref.tree(commit)), True
        wanted = {path: one for path, one in files.items() if one is not None and first_line(path) is None}
        try:
            # The head first: of another version nothing else is understood.
            if HEAD in wanted:
                head = load_head(self._ref.contents({HEAD: wanted.pop(HEAD)})[HEAD])
            else:
                head = Head() if whole or HEAD in files else self._head
            if head.version != VERSION:
                raise StoreError(
                    f"The state in {self._ref.told} has version {head.version}, this program reads version {VERSION}",
                    hint="Use the program that wrote it.",
                )
            pages, jobs = self._sorted(path for path in files if path != HEAD)
            memories = {} if whole else {job: one for job, one in self._memories.items() if job not in jobs}
            for path, data in self._ref.contents(wanted).items():
                key = _job_of(path)
                assert key is not None  # _sorted has seen it
                memories[key] = load_memory(key, data.decode())
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"The state in {self._ref.told} holds a record that cannot be read ({type(error).__name__}: {error})",
                hint="Delete the ref: running jobs are found again by their marks on the hosts, only the history is lost.",
            ) from error
        gone = {path for path, one in files.items() if one is None}
        self._pages = frozenset(pages - gone) if whole else (self._pages | pages) - gone
        self._at, self._pages_at, self._memories = commit, commit, memories
        self._head = self._head_at_base = head
        if head.lock is not None and not shares_machine(head.lock.holder, self._holder):
            self._unmoved.since(commit, self._now())

    def _sorted(self, paths: Iterable[str]) -> tuple[set[str], set[JobKey]]:
        """The pages and the jobs among these files. Raises StoreError naming what is neither."""
        pages, jobs = set(), set()
        for path in paths:
            key = _job_of(path)
            if key is not None:
                jobs.add(key)
            elif first_line(path) is not None:
                pages.add(path)
            else:
                raise StoreError(
                    f"The state in {self._ref.told} holds {path!r}, which is neither a job's memory nor a page of the journal",
                    hint="Somebody else writes to this ref: see who may push there. Deleting it loses only the history.",
                )
        return pages, jobs

    def _folded(self, page: str) -> dict[str, bytes | None]:
        """What to change so that the directories before that of a new page are one page each."""
        files: dict[str, bytes | None] = {}
        for whole, pages in to_fold(self._pages, page):
            files |= dict.fromkeys(pages)
            files[whole] = b"".join(self._read_pages(pages).values())
        return files

    def _push(self, why: str, *, locked: bool = True, tries: int = 1) -> None:
        """Everything since we took the lock as one commit, in place of the one before. Raises LockHeld when the ref is not where
        we left it: then another reconciler has the lock. After any error it counts as lost."""
        lock = Lock(self._holder, self._now() + LOCK_TERM_S) if locked else None
        head = replace(self._head, lock=lock)
        files: dict[str, bytes | None] = {**self._mine, HEAD: dump_head(head)}
        if self._lines:
            files[self._page] = self._encoded()
        try:
            commit = self._ref.commit(self._base, files, f"{why or 'state'} by {self.actor}, {len(self._lines)} lines")
            self._swap(commit, tries=tries)
        except StoreError:  # LockHeld is one
            self._lose()
            raise
        self._head, self._unsaved = head, 0

    def _swap(self, commit: str, *, tries: int) -> None:
        for left in reversed(range(tries)):
            try:
                self._ref.swap(self._at, commit)
            except LockHeld:
                raise
            except StoreError:
                if not left:
                    raise
            else:
                self._at = commit
                return

    @property
    def _page(self) -> str:
        """The journal of this holder."""
        return page_of(self._lines[0]["number"])

    def _encoded(self) -> bytes:
        return b"".join(_encode(line) for line in self._lines)

    def _check_epoch(self) -> int:
        if self._epoch is None:
            raise LockHeld("The lock of this repository's state was taken over by another reconciler; this one stops")
        if self._head.lock is None or self._now() > self._head.lock.expires:
            self._lose()
            raise LockHeld("The lock of this repository's state expired while this process was not running; it stops")
        return self._epoch

    def _lose(self) -> None:
        """Not ours (any more): the next look reads everything anew."""
        self._epoch, self._at, self._base = None, "", ""
        self._memories, self._pages, self._pages_at = {}, frozenset(), NOTHING
        self._mine, self._lines, self._unsaved = {}, [], 0
        self._head = self._head_at_base = Head()


def _file_of(job: JobKey) -> str:
    return f"memory/{job}.json"


def _job_of(path: str) -> JobKey | None:
    """The job whose memory lies at this path; None for every other path."""
    first, *parts = path.removesuffix(".json").split("/")
    if first != "memory" or len(parts) != 3 or not path.endswith(".json") or not all(map(is_name, parts)):
        return None
    return JobKey(*parts)


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _entry(text: str, name: str) -> Entry:
    try:
        record = json.loads(text)
        line = load_line(record["kind"], record["body"])
        job = JobKey(*record["job"].split("/"))
        return Entry(record["number"], record["at"], job, line, record["actor"], record["source"], record["why"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"A line of the journal in {name} cannot be read ({type(error).__name__}: {error})",
            hint="It was written by a newer version, or is damaged; passes need no more than the memory beside it.",
        ) from error

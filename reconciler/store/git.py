"""The state in the manifests' own git remote: whoever can push there shares placements, budgets and tombstones, without a server.

One ref (store/gitref) with the memory of each job as a file, the journal as a file per pass, and `head.json`: newest line, hosts
that were looked at, lock. Every write is a compare and swap of the whole ref, so of two writers one loses and knows it. What one
holder of the lock writes becomes one commit: it is amended until the lock is given back, and gone if nothing was written.

Intents are pushed before they are acted upon. What came of them is kept until the next push; should this process die first, the
next reconciler finds the intents and looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Billed, Ended, Launched, Line, Memory, Refused, Stopped, Unsettled, fold
from reconciler.core.names import JobKey
from reconciler.core.protocols import Entry
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from reconciler.store.gitref import GitRef
from reconciler.store.holder import Holder, default_actor, is_dead, myself

VERSION = 1
LOCK_TERM_S = 60.0
# Two machines' clocks differ. A lock of another machine is taken over this long after it has expired by ours.
SKEW_S = 120.0
HEAD = "head.json"
# What came of an effect: it can wait for the next push, because looking tells it, too.
_RESULTS = (Launched, Stopped, Refused, Unsettled, Ended, Billed)


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
        self._head: dict[str, Any] = _empty()
        self._head_at_base = self._head
        self._memories: dict[JobKey, Memory] = {}
        self._journal: dict[str, bytes] = {}
        self._mine: dict[str, bytes | None] = {}
        """Files that this holder has changed since `_base`."""
        self._lines: list[dict[str, Any]] = []
        self._epoch: int | None = None

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
        return int(self._head["newest"])

    def history(self, job: JobKey | None = None, *, limit: int = 1000) -> Sequence[Entry]:
        """The newest `limit` lines, oldest first."""
        self._once()
        found: list[Entry] = []
        own = [("", self._encoded())] if self._lines else []
        for name, data in [*own, *sorted(self._journal.items(), reverse=True)]:
            for text in reversed(data.decode().splitlines()):
                entry = _entry(text, name or "the lines of this pass")
                if job is None or entry.job == job:
                    found.append(entry)
                if len(found) == limit:
                    return found[::-1]
        return found[::-1]

    def scanned(self) -> frozenset[str]:
        self._once()
        return frozenset(self._head["scanned"])

    # --- writing

    def append(self, lines: Iterable[tuple[JobKey, Line]], *, commit: str, why: str = "") -> None:
        """Write lines and their effect on memory. Intents are on the remote when this returns."""
        batch = list(lines)
        if not batch:
            return
        epoch, at = self._check_epoch(), self._now()
        number = int(self._head["newest"])
        known, records = dict(self._memories), []
        changed: dict[JobKey, Memory] = {}
        for job, line in batch:
            known[job] = changed[job] = fold(known.get(job) or Memory(job), line, at)
            kind, body = dump_line(line)
            number += 1
            about = {"number": number, "at": at, "job": str(job), "kind": kind, "body": body}
            records.append({**about, "actor": self.actor, "source": commit, "why": why, "epoch": epoch})
        files = {f"memory/{job}.json": dump_memory(memory).encode() for job, memory in changed.items()}
        self._memories, self._head = known, {**self._head, "newest": number}
        self._lines += records
        self._mine |= files
        if not all(isinstance(line, _RESULTS) for _, line in batch):
            self._push(why)

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        new = sorted(set(hosts) - self.scanned())
        if new:
            self._check_epoch()
            self._head = {**self._head, "scanned": {**self._head["scanned"], **dict.fromkeys(new, self._now())}}

    def unmark_scanned(self, host: str) -> None:
        self._check_epoch()
        self._head = {**self._head, "scanned": {name: at for name, at in self._head["scanned"].items() if name != host}}

    # --- the lock

    def lock(self) -> None:
        """Become the one writer for LOCK_TERM_S, or raise LockHeld naming who is."""
        at = self._ref.fetch()
        self._read(at)
        held, now = self._head["lock"], self._now()
        if held is not None:
            holder, expires = Holder(**held["holder"]), float(held["expires"])
            here = (holder.boot, holder.host) == (self._holder.boot, self._holder.host)
            free = holder == self._holder or is_dead(holder, self._holder) or now >= expires + (0.0 if here else SKEW_S)
            if not free:
                left = expires + (0.0 if here else SKEW_S) - now
                raise LockHeld(
                    f"{holder.actor} (pid {holder.pid} on {holder.host}) is reconciling this repository; its lock in "
                    f"{self._ref.told} expires in {left:.0f} s unless it goes on",
                    hint="Wait for it, or end that process; a lock that is not renewed expires by itself.",
                )
        self._base = at
        self._epoch = int(self._head["epoch"]) + 1
        self._head = {**self._head, "epoch": self._epoch}
        self._push("lock")

    def renew(self) -> None:
        """Keep the lock for another term, and push what came of effects so far: when half the term is over, not each time."""
        self._check_epoch()
        if self._head["lock"]["expires"] - self._now() < LOCK_TERM_S / 2:
            self._push("at work")

    def holds(self) -> bool:
        lock = self._head["lock"]
        return self._epoch is not None and lock is not None and self._now() <= float(lock["expires"])

    def unlock(self) -> None:
        """Give the lock back, with what came of effects. Where nothing was written, nothing is left of having held it."""
        if self._epoch is None:
            return
        try:
            self._check_epoch()
            if self._lines or self._head["scanned"] != self._head_at_base["scanned"]:
                self._push(self._lines[-1]["why"] if self._lines else "looked", locked=False)
                if self._lines:
                    self._journal[self._page] = self._encoded()
                self._head_at_base = self._head
            else:
                self._ref.swap(self._at, self._base)
                self._at, self._head = self._base, self._head_at_base
        except StoreError:
            # Somebody else's by now, or not to be reached: the next reconciler finds the intents, and looks.
            self._lose()
        self._epoch, self._base = None, ""
        self._mine, self._lines = {}, []

    def close(self) -> None:
        self._lose()

    # --- how it lies in git

    def _once(self) -> None:
        if not self._at:
            self._read(self._ref.fetch())

    def _read(self, commit: str) -> None:
        """Take over what the commit says: what has changed since the last one."""
        if commit == self._at:
            return
        try:
            files = self._ref.changed(self._at, commit)
            memories, journal = dict(self._memories), dict(self._journal)
        except LookupError:
            files, memories, journal = dict(self._ref.files(commit)), {}, {}
        try:
            head = {**_empty(), **(json.loads(files[HEAD] or b"") if HEAD in files else {})}
            if head["version"] != VERSION:
                raise StoreError(
                    f"The state in {self._ref.told} has version {head['version']}, this program reads version {VERSION}",
                    hint="Use the program that wrote it.",
                )
            for path, data in files.items():
                if path.startswith("memory/"):
                    key = JobKey(*path.removeprefix("memory/").removesuffix(".json").split("/"))
                    if data is None:
                        memories.pop(key, None)
                    else:
                        memories[key] = load_memory(key, data.decode())
                elif path.startswith("journal/"):
                    journal.pop(path, None)
                    if data is not None:
                        journal[path] = data
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"The state in {self._ref.told} holds a record that cannot be read ({type(error).__name__}: {error})",
                hint="Delete the ref: running jobs are found again by their marks on the hosts, only the history is lost.",
            ) from error
        self._at, self._memories, self._journal = commit, memories, journal
        self._head = self._head_at_base = head

    def _push(self, why: str, *, locked: bool = True) -> None:
        """Everything since we took the lock as one commit, in place of the one before. Raises LockHeld when the ref is not where
        we left it: then another reconciler has the lock."""
        expires = self._now() + LOCK_TERM_S
        lock = {"holder": asdict(self._holder), "expires": expires} if locked else None
        head = {**self._head, "lock": lock}
        files: dict[str, bytes | None] = {**self._mine, HEAD: _encode(head)}
        if self._lines:
            files[self._page] = self._encoded()
        commit = self._ref.commit(self._base, files, f"{why or 'state'} by {self.actor}, {len(self._lines)} lines")
        try:
            self._ref.swap(self._at, commit)
        except StoreError:  # LockHeld is one
            self._lose()
            raise
        self._at, self._head = commit, head

    @property
    def _page(self) -> str:
        """The journal of this holder."""
        return f"journal/{self._lines[0]['number']:010}.jsonl"

    def _encoded(self) -> bytes:
        return b"".join(_encode(line) for line in self._lines)

    def _check_epoch(self) -> int:
        if self._epoch is None:
            raise LockHeld("The lock of this repository's state was taken over by another reconciler; this one stops")
        if self._now() > self._head["lock"]["expires"]:
            self._lose()
            raise LockHeld("The lock of this repository's state expired while this process was not running; it stops")
        return self._epoch

    def _lose(self) -> None:
        """Not ours (any more): the next look reads everything anew."""
        self._epoch, self._at, self._base = None, "", ""
        self._memories, self._journal, self._mine, self._lines = {}, {}, {}, []
        self._head = self._head_at_base = _empty()


def _empty() -> dict[str, Any]:
    return {"version": VERSION, "newest": 0, "epoch": 0, "scanned": {}, "lock": None}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _entry(text: str, name: str) -> Entry:
    try:
        record = json.loads(text)
        line = load_line(record["kind"], record["body"])
        job = JobKey(*record["job"].split("/"))
        return Entry(record["number"], record["at"], job, line, record["actor"], record["source"], record["why"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"A line of the journal in {name} cannot be read ({type(error).__name__}: {error})",
            hint="It was written by a newer version, or is damaged; passes need no more than the memory beside it.",
        ) from error

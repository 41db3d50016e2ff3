"""The journal and the memory in one SQLite file: WAL, full fsync, one writer by a lock that expires.

The journal is the truth, the memory table is its fold and is written in the same transaction. Deleting the file loses history,
not jobs: the hosts' claims and status files bring the runs back (`Adopted`).
Source: sqlite.org, "Write-Ahead Logging" and "PRAGMA synchronous" (FULL fsyncs the WAL at each commit).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Line, Memory, fold
from reconciler.core.names import JobKey
from reconciler.core.protocols import Entry
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from reconciler.store.holder import default_actor, holder_from, is_dead, myself
from reconciler.transports.private import make_private, touch_private

SCHEMA_VERSION = 1

# How long a lock is believed without being renewed. Long enough for a stalled laptop, short enough that a dead CI runner on
# another machine does not block the night. A dead holder on this machine is noticed at once.
LOCK_TERM_S = 60.0

_SCHEMA = """
CREATE TABLE journal (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL, job TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    actor TEXT NOT NULL, source TEXT NOT NULL, why TEXT NOT NULL, epoch INTEGER NOT NULL
);
CREATE INDEX journal_job ON journal (job, number);
CREATE TABLE memory (job TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE host (name TEXT PRIMARY KEY, scanned_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE lock (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, holder TEXT, expires REAL NOT NULL);
INSERT INTO lock VALUES (1, 0, NULL, 0);
"""


class SqliteStore:
    """Store of one manifests repository. Opened lazily, used by one thread."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time, actor: str | None = None) -> None:
        self._path = path
        self._now = now
        self._holder = myself(actor or default_actor())
        self._epoch: int | None = None
        self._expires = 0.0
        self._cache: tuple[int, dict[JobKey, Memory]] | None = None
        try:
            make_private(path.parent)
            touch_private(path)  # the files that SQLite puts beside it get its mode
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The state in {path} cannot be opened: {error}",
                hint="Give another place with --state DIR. If the file is damaged, move it away: running jobs are found "
                "again by their marks on the hosts, only the history is lost.",
            ) from error

    @property
    def path(self) -> Path:
        return self._path

    @property
    def actor(self) -> str:
        return self._holder.actor

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._transaction(exclusive=True):
                (again,) = self._db.execute("PRAGMA user_version").fetchone()
                if again == 0:
                    for statement in _SCHEMA.split(";"):
                        if statement.strip():
                            self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"The state in {self._path} has version {version}, this program writes version {SCHEMA_VERSION}",
                hint="Use the program that wrote it, or move the file away: running jobs are found again on the hosts.",
            )

    @contextmanager
    def _transaction(self, *, exclusive: bool = False) -> Iterator[None]:
        try:
            self._db.execute("BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"The state in {self._path} cannot be written: {error}") from error

    # --- memory and journal

    def memories(self) -> Mapping[JobKey, Memory]:
        """Every job known. Cached while this process is the only writer (SQLite's data_version tells)."""
        try:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if self._cache is not None and self._cache[0] == version:
                return self._cache[1]
            found: dict[JobKey, Memory] = {}
            for job, body in self._db.execute("SELECT job, body FROM memory"):
                key = JobKey(*job.split("/"))
                found[key] = load_memory(key, body)
        except sqlite3.Error as error:
            raise StoreError(f"The state in {self._path} cannot be read: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"The state in {self._path} holds a record that cannot be read ({type(error).__name__}: {error})",
                hint="Move the file away: running jobs are found again by their marks on the hosts, only the history is lost.",
            ) from error
        self._cache = (version, found)
        return found

    def append(self, lines: Iterable[tuple[JobKey, Line]], *, commit: str, why: str = "") -> None:
        """Write lines and their effect on memory in one durable transaction. Nothing to write costs nothing."""
        batch = list(lines)
        if not batch:
            return
        at = self._now()
        known = dict(self.memories())
        changed: dict[JobKey, Memory] = {}
        with self._transaction():
            epoch = self._check_epoch()
            for job, line in batch:
                known[job] = changed[job] = fold(known.get(job) or Memory(job), line, at)
                kind, body = dump_line(line)
                self._db.execute(
                    "INSERT INTO journal (at, job, kind, body, actor, source, why, epoch)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (at, str(job), kind, body, self._holder.actor, commit, why, epoch),
                )
            self._db.executemany(
                "INSERT OR REPLACE INTO memory (job, body) VALUES (?, ?)",
                [(str(job), dump_memory(memory)) for job, memory in changed.items()],
            )
        if self._cache is not None:
            self._cache = (self._cache[0], known)

    def newest(self) -> int:
        """Number of the newest journal line, 0 for an empty journal."""
        try:
            (number,) = self._db.execute("SELECT coalesce(max(number), 0) FROM journal").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"The state in {self._path} cannot be read: {error}") from error
        return int(number)

    def history(self, job: JobKey | None = None, *, limit: int = 1000) -> Sequence[Entry]:
        """The newest `limit` lines, oldest first."""
        where, values = ("WHERE job = ?", (str(job), limit)) if job else ("", (limit,))
        query = (
            f"SELECT number, at, job, kind, body, actor, source, why FROM journal {where} ORDER BY number DESC LIMIT ?"  # noqa: S608  both texts are ours
        )
        try:
            rows = self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"The state in {self._path} cannot be read: {error}") from error
        found: list[Entry] = []
        for number, at, name, kind, body, actor, source, why in reversed(rows):
            try:
                line = load_line(kind, body)
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(
                    f"Line {number} of the journal in {self._path}, of {name}, cannot be read ({type(error).__name__}: {error})",
                    hint="It was written by a newer version, or is damaged; passes need no more than the memory beside it.",
                ) from error
            found.append(Entry(number, at, JobKey(*name.split("/")), line, actor, source, why))
        return found

    # --- hosts

    def scanned(self) -> frozenset[str]:
        return frozenset(name for (name,) in self._db.execute("SELECT name FROM host"))

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        new = sorted(set(hosts) - self.scanned())
        if not new:
            return
        with self._transaction():
            self._check_epoch()
            self._db.executemany("INSERT OR REPLACE INTO host VALUES (?, ?)", [(name, self._now()) for name in new])

    def unmark_scanned(self, host: str) -> None:
        """Look at everything on this host again: it has shown a claim that this store does not know."""
        with self._transaction():
            self._check_epoch()
            self._db.execute("DELETE FROM host WHERE name = ?", (host,))

    # --- the lock

    def lock(self) -> None:
        """Become the one writer for LOCK_TERM_S; each holder gets a higher epoch, so a late one is noticed."""
        with self._transaction():
            epoch, text, expires = self._db.execute("SELECT epoch, holder, expires FROM lock").fetchone()
            try:
                holder = holder_from(json.loads(text)) if text else None
            except (TypeError, ValueError) as error:
                raise StoreError(
                    f"The lock in {self._path} cannot be read ({type(error).__name__}: {error})",
                    hint="Move the file away: running jobs are found again by their marks on the hosts.",
                ) from error
            now = self._now()
            if holder is not None and holder != self._holder and now < expires and not is_dead(holder, self._holder):
                raise LockHeld(
                    f"{holder.actor} (pid {holder.pid} on {holder.host}) is reconciling this repository; "
                    f"its lock expires in {expires - now:.0f} s unless it goes on",
                    hint="Wait for it, or end that process; a lock that is not renewed expires by itself.",
                )
            self._epoch = epoch + 1
            self._db.execute(
                "UPDATE lock SET epoch = ?, holder = ?, expires = ?",
                (self._epoch, json.dumps(asdict(self._holder)), now + LOCK_TERM_S),
            )
            self._expires = now + LOCK_TERM_S

    def renew(self) -> None:
        with self._transaction():
            self._check_epoch()
            expires = self._now() + LOCK_TERM_S
            self._db.execute("UPDATE lock SET expires = ?", (expires,))
        self._expires = expires

    def holds(self) -> bool:
        return self._epoch is not None and self._now() <= self._expires

    def unlock(self) -> None:
        if self._epoch is None:
            return
        with self._transaction():
            self._db.execute("UPDATE lock SET holder = NULL, expires = 0 WHERE epoch = ?", (self._epoch,))
        self._epoch = None

    def _check_epoch(self) -> int:
        epoch, expires = self._db.execute("SELECT epoch, expires FROM lock").fetchone()
        if self._epoch is None or epoch != self._epoch:
            raise LockHeld("The lock of this repository's state was taken over by another reconciler; this one stops")
        if self._now() > expires:
            raise LockHeld("The lock of this repository's state expired while this process was not running; it stops")
        return self._epoch

    def close(self) -> None:
        self._db.close()

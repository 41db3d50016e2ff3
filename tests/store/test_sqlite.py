"""The SQLite store keeps the contract, notices a dead holder, and survives what happens to files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Requested
from reconciler.core.names import JobKey
from reconciler.store.sqlite import SqliteStore
from tests.contract.store_contract import StoreContract
from tests.worlds import key


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def pass_s(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock():
    return Clock()


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path, clock):
        opened = []

        def make(actor="somebody"):
            store = SqliteStore(tmp_path / "state" / "state.sqlite", now=clock.now, actor=actor)
            opened.append(store)
            return store

        yield make
        for store in opened:
            store.close()


HOLDER = """
import sys, time
from pathlib import Path
from reconciler.core.memory import Requested
from reconciler.core.names import JobKey
from reconciler.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), actor="holder")
store.lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    path = tmp_path / "state.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        store = SqliteStore(path, actor="me")
        with pytest.raises(LockHeld, match="holder"):
            store.lock()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        store.lock()
        store.close()


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path, clock):
    """One boot id, one host name, one file; its pid is nobody, or another process, in our table."""
    path = tmp_path / "state.sqlite"
    far, here = (SqliteStore(path, actor=actor, now=clock.now) for actor in ("ci", "jo"))
    far._holder = replace(far._holder, pid=7, start="123456", pids="pid:[1]")
    far.lock()
    with pytest.raises(LockHeld, match="ci"):
        here.lock()
    clock.pass_s(61)
    here.lock()
    far.close()
    here.close()


@pytest.mark.parametrize("holder", ["[]", '{"actor": "a"}', '{"actor": 1, "pid": 1}', "{"])
def test_a_damaged_lock_is_an_error_that_names_the_file(tmp_path, holder):
    store = SqliteStore(tmp_path / "state.sqlite")
    store._db.execute("UPDATE lock SET holder = ?, expires = 1e12", (holder,))
    with pytest.raises(StoreError, match=r"The lock in .*state\.sqlite cannot be read"):
        store.lock()
    store.close()


def test_a_damaged_file_is_an_error_that_says_what_is_lost(tmp_path):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match="history is lost"):
        SqliteStore(path)


def test_a_record_of_another_version_is_named_not_guessed(tmp_path):
    store = SqliteStore(tmp_path / "state.sqlite")
    store._db.execute("INSERT INTO memory VALUES (?, ?)", (str(key()), '{"attempt": 1, "run": {"job": 5}}'))
    with pytest.raises(StoreError, match="cannot be read"):
        store.memories()
    store.close()


def test_a_journal_line_that_cannot_be_read_is_named(tmp_path):
    store = SqliteStore(tmp_path / "s.sqlite")
    store.lock()
    store.append([(JobKey("p", "g", "n"), Requested("cancel", "why"))], commit="c")
    store.close()
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("UPDATE journal SET body = '[1]'")
    db.close()
    store = SqliteStore(tmp_path / "s.sqlite")
    with pytest.raises(StoreError, match=r"Line 1 of the journal .* of p/g/n, cannot be read"):
        store.history()
    store.close()


def test_state_is_readable_by_its_user_alone(tmp_path):
    store = SqliteStore(tmp_path / "state" / "state.sqlite")
    assert (tmp_path / "state" / "state.sqlite").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    store.close()


def test_a_newer_files_version_is_refused(tmp_path):
    store = SqliteStore(tmp_path / "state.sqlite")
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="version 99"):
        SqliteStore(tmp_path / "state.sqlite")

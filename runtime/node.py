"""What one verb knows about this machine, read once per batch."""

from __future__ import annotations

import os
import time

from runtime import memory, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from runtime.process import Process


class Node:
    """This boot of this machine, and its process table as of the last look."""

    def __init__(self) -> None:
        self.boot_id = process.boot_id()
        self.hostname = os.uname().nodename
        self.kill_counter = memory.counter()
        self._table: Optional[Dict[int, Process]] = None
        self._marks: Optional[Dict[int, bytes]] = None
        self._seen_ticks = 0

    def table(self, started: Optional[str] = None) -> Dict[int, Process]:
        """All live processes. An earlier table is reused when it was made after `started` and so covers that process.

        Sound because a session without members never gets new ones: who was not there then is not there now.
        """
        if self._table is None or not (started or "").isdigit() or int(started or 0) >= self._seen_ticks:
            self._seen_ticks = (
                int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) if process.HAVE_PROC else 0
            )
            self._table, self._marks = process.table(), None
        return self._table

    def members(self, started: Any, token: str, *, deep: bool) -> List[Process]:
        """Live processes of a run that started in this boot: its session; with `deep` also those who left it.

        `deep` reads the environment of every process, once per look: for runs whose supervisor, the parent of all,
        is gone.
        """
        if not started or started.get("boot_id") != self.boot_id or "pid" not in started:
            return []
        table = self.table(started["start"])
        found = {member.pid: member for member in process.session(started["sid"], started["start"], table)}
        if deep and token:
            if self._marks is None:
                self._marks = process.marks(table.values())
            found.update((pid, table[pid]) for pid, mark in self._marks.items() if mark == token.encode())
        return list(found.values())

    def forget(self) -> None:
        """Look anew at the next question."""
        self._table = None

    def is_alive(self, identity: Any) -> bool:
        """Does exactly this process live, in this boot? Looked up afresh."""
        return process.is_alive(identity, self.boot_id)

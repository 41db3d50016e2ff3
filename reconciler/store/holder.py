"""Who holds a lock: named for people, and known for dead by whoever shares its machine."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock: enough to tell a person, and to see on the same machine that it is dead."""

    actor: str
    host: str
    pid: int
    start: str
    boot: str


def default_actor() -> str:
    """`user@host`, for journal and lock."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry and no variable: containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def myself(actor: str) -> Holder:
    """This process."""
    return Holder(actor, socket.gethostname(), os.getpid(), _start_of(os.getpid()), _boot_id())


def is_dead(holder: Holder, me: Holder) -> bool:
    """True when the holder ran on this machine, in this boot, and its process is gone. Elsewhere: only time tells."""
    if not holder.boot or (holder.boot, holder.host) != (me.boot, me.host) or not holder.start:
        return False  # another machine, or another container on this one, whose processes we cannot see
    return _start_of(holder.pid) != holder.start


def _start_of(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)): with the pid, the identity of a process. "" without /proc or process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""

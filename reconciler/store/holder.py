"""Who holds a lock: named for people, and known for dead by whoever shares its machine."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock: enough to tell a person, and to see on the same machine that it is dead."""

    actor: str
    host: str
    pid: int
    start: str
    boot: str
    pids: str = ""
    """The table of processes in which `pid` counts: containers on one machine share its boot, and not these."""


def default_actor() -> str:
    """`user@host`, for journal and lock."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry and no variable: containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def myself(actor: str) -> Holder:
    """This process."""
    return Holder(actor, socket.gethostname(), os.getpid(), _start_of(os.getpid()), _boot_id(), _pid_table())


def holder_from(body: object) -> Holder:
    """A holder as it was written, by any version. Raises TypeError for what is none."""
    if not isinstance(body, dict):
        raise TypeError(f"holder is {body!r}, expected an object")
    known = {one.name: body[one.name] for one in fields(Holder) if one.name in body}
    for name, value in known.items():
        if type(value) is not (int if name == "pid" else str):
            raise TypeError(f"{name} of the holder is {value!r}")
    return Holder(**known)


def shares_machine(holder: Holder, me: Holder) -> bool:
    """True when the holder's processes and clock are ours. Not known (no boot id) means no."""
    return bool(me.boot) and (holder.boot, holder.host, holder.pids) == (me.boot, me.host, me.pids)


def is_dead(holder: Holder, me: Holder) -> bool:
    """True when the holder ran on this machine, in this boot, and its process is gone. Elsewhere: only time tells."""
    if not shares_machine(holder, me) or not holder.start:
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


def _pid_table() -> str:
    """The pid namespace, as pid_namespaces(7) names it: `pid:[4026531836]`. "" where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""

"""Which processes live: identity by pid + start time + boot id, sessions, descendants.

/proc is read where there is one, `ps` otherwise (macOS). A zombie is gone: it runs nothing and holds nothing.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

HAVE_PROC = os.path.exists("/proc/self/stat")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Process:
    """One row of the process table. `start` is text that, with the pid, names a process within one boot."""

    __slots__ = ("gone", "pgid", "pid", "ppid", "sid", "start", "stopped")

    def __init__(self, pid: int, ppid: int, pgid: int, sid: int, state: str, threads: int, start: str) -> None:
        self.pid = pid
        self.ppid = ppid
        self.pgid = pgid
        self.sid = sid
        self.gone = state[0] in "ZX" and threads <= 1  # a first thread that ended is shown as Z while others run on
        self.stopped = state[0] in "Tt"
        self.start = start


def boot_id() -> str:
    """Text that changes with every boot of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return _capture(["sysctl", "-n", "kern.bootsessionuuid"])[1].strip() or "unknown"


def look(pid: int) -> Optional[Process]:
    """The process with this pid, None when there is none (a zombie is given, marked `gone`)."""
    if not HAVE_PROC:
        return _ps(["-p", str(pid)]).get(pid)
    try:
        descriptor = os.open("/proc/%d/stat" % pid, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(descriptor, 1024)
    except OSError:  # ESRCH: ended between the two calls
        return None
    finally:
        os.close(descriptor)
    # The name in parentheses may hold blanks and parentheses: what follows the last one is regular (proc(5)).
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    ppid, pgid, sid, threads = int(fields[1]), int(fields[2]), int(fields[3]), int(fields[17])
    return Process(pid, ppid, pgid, sid, fields[0].decode(), threads, fields[19].decode())


def start_of(pid: int) -> str:
    """Start of a live process, empty when it is gone."""
    process = look(pid)
    return process.start if process and not process.gone else ""


def is_alive(identity: Any, boot: str) -> bool:
    """Does exactly this process {pid, start, boot_id} live? False for an identity that lacks a part."""
    if not identity or identity.get("boot_id") != boot or not identity.get("pid"):
        return False
    return start_of(identity["pid"]) == str(identity.get("start"))


def table() -> Dict[int, Process]:
    """All processes, by pid, zombies left out. Raises OSError when they cannot be listed."""
    if not HAVE_PROC:
        rows = _ps(["-A"])
        if not rows:
            raise OSError(errno.EIO, "ps lists no process")  # never taken for a machine without any
        return {pid: process for pid, process in rows.items() if not process.gone}
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = look(int(name))
            if process and not process.gone:
                processes[process.pid] = process
    return processes


def stands_still(process: Process) -> bool:
    """Are all threads of a process stopped? The first one may be while another still finishes its write."""
    if not process.stopped or not HAVE_PROC:
        return process.stopped
    base = "/proc/%d/task/" % process.pid
    try:
        for name in os.listdir(base):
            with open(base + name + "/stat", "rb") as file:
                text = file.read(1024)
            if text[text.rfind(b")") + 2 : text.rfind(b")") + 3] not in (b"T", b"t", b"Z", b"X"):
                return False
    except OSError:
        return False  # a thread ended between the two looks; look again
    return True


def session(sid: int, start: str, processes: Dict[int, Process]) -> List[Process]:
    """Live members of the session whose leader was pid `sid`, started at `start`.

    A pid stays reserved while it names a session with members (pid_namespaces(7), kernel/pid.c), so a leader with
    another start means that every member of ours is gone and the number was given out again.
    """
    leader = processes.get(sid)
    if leader and leader.start != start:
        return []
    return [process for process in processes.values() if process.sid == sid and not _older(process.start, start)]


def _older(start: str, than: str) -> bool:
    return start.isdigit() and than.isdigit() and int(start) < int(than)


def descendants(root: int, processes: Dict[int, Process]) -> List[Process]:
    """Live children of `root` and theirs, in no order, `root` left out."""
    children: Dict[int, List[Process]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process)
    found, todo = [], [root]
    while todo:
        for process in children.pop(todo.pop(), ()):
            found.append(process)
            todo.append(process.pid)
    return found


def marked(token: str, processes: Iterable[Process]) -> Set[int]:
    """Pids of those whose environment carries RECONCILER_TOKEN=`token`: the mark of our run, whatever their session."""
    return {pid for pid, mark in marks(processes).items() if mark == token.encode()}


def marks(processes: Iterable[Process]) -> Dict[int, bytes]:
    """Pid -> RECONCILER_TOKEN of those that carry one and let us read it."""
    found = {}
    for process in processes:
        _, name, rest = (b"\0" + environment_of(process.pid)).partition(b"\0RECONCILER_TOKEN=")
        if name:
            found[process.pid] = rest.partition(b"\0")[0]
    return found


def environment_of(pid: int) -> bytes:
    """The environment a process was started with, empty when it may not be read (other user, no /proc, gone)."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read()
    except OSError:
        return b""


def is_ours(process: Process, token: str, log: str, work_dir: str) -> bool:
    """Evidence that a process belongs to our run: its environment, where its output goes, or where it works."""
    if marked(token, (process,)):
        return True
    base = "/proc/%d/" % process.pid
    for link in ("fd/1", "fd/2", "cwd"):
        try:
            target = os.readlink(base + link)
        except OSError:
            continue
        if target == log or (work_dir and (target + "/").startswith(work_dir + "/")):
            return True
    return False


def send(pids: Iterable[int], number: int) -> None:
    """Signal each; those that are gone, or belong to another user, are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def subreaper() -> Callable[[], bool]:
    """A function after which orphaned descendants become children of its caller, so that none can hide (prctl(2)).

    It gives False where the system offers no such thing. Made once per batch: loading ctypes costs more than the call.
    """
    if sys.platform.startswith("linux"):
        try:
            import ctypes  # noqa: PLC0415 - some interpreters are built without it

            prctl = ctypes.CDLL(None).prctl
            return lambda: bool(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
        except (ImportError, OSError, AttributeError):
            pass
    return lambda: False


def _ps(which: List[str]) -> Dict[int, Process]:
    found = {}
    own, text = _capture(["ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart="])
    for line in text.splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5 and fields[0].isdigit() and int(fields[0]) != own:
            pid = int(fields[0])
            try:
                sid = os.getsid(pid)  # macOS prints 0 for `sess`
            except OSError:
                sid = -1
            found[pid] = Process(pid, int(fields[1]), int(fields[2]), sid, fields[3], 1, fields[4].strip())
    return found


def _capture(argv: List[str]) -> Tuple[int, str]:
    """The pid of the program, which sees itself in what it lists, and its output; empty when it cannot be had."""
    import subprocess  # noqa: PLC0415 - only where there is no /proc

    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return 0, ""
    # No time limit, as for /proc: to take "no answer" for "no process" would be the worse end.
    return child.pid, child.communicate()[0].decode("utf-8", "replace")

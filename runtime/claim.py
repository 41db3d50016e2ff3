"""Claiming an attempt: exactly one launcher makes its directory, and no older attempt lives on.

Order within the job's lock, and why: checks first, so that a refusal leaves nothing; then the fence, because an older
attempt must be shut out before the new one exists; then the `.live` entry, so that no run can exist unlisted; then the
directory, complete, by one rename. A launcher killed in between leaves a raised fence and an entry that leads nowhere,
and the same claim may be made again.
"""

from __future__ import annotations

import errno
import os
import time

from runtime import contract, files, status
from runtime.contract import Refused

try:
    import fcntl
except ImportError:  # not a POSIX system; bootstrap.sh does not run there either
    raise SystemExit("The runtime needs a POSIX system.") from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from runtime.contract import Run, Started
    from runtime.node import Node

    Asked = Callable[[str], Optional[bool]]

LOCK_WAIT_S = 10.0  # a claim takes milliseconds; whoever holds the lock this long is stopped or hangs on a dead disk


class Claimed:
    """The run is ours to start: its first record is on disk, its log is open (-1 where a queue system starts it)."""

    def __init__(self, run: Run, record: Dict[str, Any], log: int) -> None:
        self.run = run
        self.record = record
        self.log = log


class Already(Exception):
    """This very run was claimed before, with the same token."""

    def __init__(self, started: Optional[Started]) -> None:
        super().__init__()
        self.started = started


def take(run: Run, node: Node, launcher: Dict[str, Any], ask: Optional[Asked] = None) -> Claimed:
    """Make the run's directory, or raise Refused or Already having left nothing behind.

    `ask` tells whether an older attempt, by its directory, still lives in its queue: None is "nobody knows".
    """
    job_dir = os.path.dirname(run["status_dir"])
    try:
        files.make_directories(job_dir)
        lock, exclusive = _lock(job_dir)
    except OSError as error:
        raise Refused("unwritable", "%s cannot be written: %s" % (job_dir, error.strerror)) from None
    try:
        _refuse_foreign(run, job_dir)
        _refuse_known(run)
        _refuse_fenced(run, job_dir)
        if exclusive:
            _sweep(job_dir)
        _end_older(run, node, job_dir, ask)
        return _make(run, node, launcher, job_dir)
    except OSError as error:
        reason = "%s: %s" % (error.filename or run["status_dir"], error.strerror)
        raise Refused("unwritable", "the status directory cannot be written: %s" % reason) from None
    except ValueError as error:
        raise Refused("other", "%s; look at it, then remove it" % error) from None
    finally:
        os.close(lock)


def undo(run: Run) -> bool:
    """Take back a claim whose maker ended before `started`. False when the run has started after all.

    One rename away, which needs no space on the disk: a supervisor that has not won `started` by then finds no
    directory to win it in. The fence stays: it names this very claim, which may be made again.
    """
    job_dir, run_id = os.path.split(run["status_dir"])
    aside = os.path.join(job_dir, ".%s.undone.%d" % (run_id[-80:], os.getpid()))
    if os.path.exists(os.path.join(run["status_dir"], contract.STARTED)):
        return False
    try:
        os.rename(run["status_dir"], aside)
    except FileNotFoundError:
        pass
    if os.path.exists(os.path.join(aside, contract.STARTED)):
        os.rename(aside, run["status_dir"])
        return False
    files.remove_tree(aside)
    drop_live(run["status_root"], run_id)
    return True


def drop_live(status_root: str, run_id: str) -> None:
    """The run no longer needs looking after."""
    status.remove_file(os.path.join(status_root, contract.LIVE, run_id))


def status_root(claim: Dict[str, Any]) -> str:
    """The status root that holds the run of this claim: four levels up, status/project/group/name/run_id."""
    return os.path.normpath(os.path.join(claim["status_dir"], "..", "..", "..", ".."))


def read_fence(job_dir: str) -> Dict[str, Any]:
    """The newest claim of the job, {} when there was none. Raises ValueError for one that cannot be understood."""
    try:
        return status.read_json(os.path.join(job_dir, contract.FENCE))
    except FileNotFoundError:
        return {}


def is_fenced(run_id: str, attempt: int, fence: Dict[str, Any]) -> bool:
    """Does the fence name another attempt, as new or newer?"""
    return bool(fence) and fence.get("run_id") != run_id and int(fence.get("attempt", 0)) >= attempt


def read_started(status_dir: str) -> Optional[Dict[str, Any]]:
    """Who started the run, None when nobody has. Raises ValueError for a file that a power cut left empty."""
    try:
        return status.read_json(os.path.join(status_dir, contract.STARTED))
    except FileNotFoundError:
        return None


def abandon(status_dir: str, by: str) -> bool:
    """Make sure that a run which has not started never will. False when it has started."""
    return status.first_to_write(os.path.join(status_dir, contract.STARTED), {"abandoned_by": by})


def start(status_dir: str, started: Dict[str, Any]) -> bool:
    """The supervisor's move: from here on the run may do things. False when a later attempt abandoned it before.

    The claim and the first record are on disk before; supervisors wait for that side by side, the launcher for none.
    A power cut before this may leave them empty, in a run which then certainly never did anything.
    """
    for name in (contract.CLAIM, contract.METADATA):
        status.flush_file(os.path.join(status_dir, name))
    return status.first_to_write(os.path.join(status_dir, contract.STARTED), started)


def _lock(job_dir: str) -> Tuple[int, bool]:
    descriptor = os.open(os.path.join(job_dir, contract.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor, True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                # No locks on this file system. The supervisor looks at the fence again after it wrote `started`, and
                # a later claim reads `started` after it raised the fence: one of the two always sees the other.
                return descriptor, False
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise Refused("other", "another launcher has held %s/.lock for %.0f s" % (job_dir, LOCK_WAIT_S))
        time.sleep(0.01)


def _refuse_known(run: Run) -> None:
    try:
        claim = status.read_json(os.path.join(run["status_dir"], contract.CLAIM))
    except FileNotFoundError:
        return
    except ValueError:
        if not undo(run):  # emptied by a power cut before it started, see `start`
            raise
        return
    if claim.get("token") != run["token"]:
        raise Refused("claimed", "%s is claimed with another token, by %s" % (run["run_id"], claim.get("host")))
    started = read_started(run["status_dir"])
    raise Already(started if started and "abandoned_by" not in started else None)  # type: ignore[arg-type]


def _refuse_foreign(run: Run, job_dir: str) -> None:
    """A job of this name that somebody else started here has its own checkpoints: ours must not mix with them."""
    fence = read_fence(job_dir)
    owner = fence.get("owner")
    if owner and run["owners"] and owner not in run["owners"]:
        raise Refused("owned", "its newest attempt here, %s, carries the mark %s" % (fence.get("run_id"), owner))


def _refuse_fenced(run: Run, job_dir: str) -> None:
    fence = read_fence(job_dir)
    same = fence.get("run_id") == run["run_id"] and fence.get("token") == run["token"]
    if fence and not same and int(fence.get("attempt", 0)) >= run["attempt"]:
        raise Refused(
            "fenced", "attempt %s holds the fence of this job (%s)" % (fence.get("attempt"), fence.get("run_id"))
        )


def _sweep(job_dir: str) -> None:
    """Remove what a launcher that was killed while it held this lock left behind."""
    for name in os.listdir(job_dir):
        if name.startswith(".") and name != contract.LOCK:
            path = os.path.join(job_dir, name)
            if os.path.isdir(path):
                files.remove_tree(path)
            else:
                status.remove_file(path)


def _end_older(run: Run, node: Node, job_dir: str, ask: Optional[Asked]) -> None:
    fence_run = read_fence(job_dir).get("run_id")
    for name in os.listdir(job_dir):
        path = os.path.join(job_dir, name)
        if name == run["run_id"] or name == contract.FENCE or name.startswith(".") or not os.path.isdir(path):
            continue
        live = os.path.join(run["status_root"], contract.LIVE, name)
        if not os.path.exists(os.path.join(path, contract.STARTED)) and abandon(path, run["run_id"]):
            status.remove_file(live)
            status.remove_file(os.path.join(path, contract.SECRETS))
        elif name == fence_run or os.path.lexists(live):
            _refuse_alive(run, node, path, ask)
            status.remove_file(live)
            status.remove_file(os.path.join(path, contract.SECRETS))


def _refuse_alive(run: Run, node: Node, older: str, ask: Optional[Asked]) -> None:
    try:
        claim = status.read_json(os.path.join(older, contract.CLAIM))
    except FileNotFoundError:
        return  # removed meanwhile
    if int(claim.get("attempt", 0)) >= run["attempt"]:
        raise Refused("fenced", "attempt %s of this job exists (%s)" % (claim["attempt"], claim.get("run_id")))
    if claim.get("queue"):
        _refuse_queued(claim, older, ask)
        return
    if claim.get("boot_id") != node.boot_id:
        return  # it ran before this boot, or on another machine that shares the directory
    started = read_started(older)
    if node.is_alive(started) or node.members(started, str(claim.get("token", "")), deep=not _is_final(older)):
        raise Refused("alive", "attempt %s (%s) still has processes here" % (claim.get("attempt"), claim.get("run_id")))


def _refuse_queued(claim: Dict[str, Any], older: str, ask: Optional[Asked]) -> None:
    """Only its queue knows whether it lives; without a way to ask, the fence has to do (it ends at its next beat)."""
    if ask is None or _is_final(older):
        return
    lives = ask(older)
    if lives is None:
        raise Refused("unsure", "nobody can tell whether attempt %s still runs" % claim.get("attempt"))
    if lives:
        raise Refused("alive", "attempt %s (%s) is still in the queue" % (claim.get("attempt"), claim.get("run_id")))


def _is_final(status_dir: str) -> bool:
    return status.read_json(os.path.join(status_dir, contract.METADATA)).get("status") in contract.FINAL


def _make(run: Run, node: Node, launcher: Dict[str, Any], job_dir: str) -> Claimed:
    run_id, created = run["run_id"], status.utc_now()
    claim = {
        **run["claim"],
        "run_id": run_id,
        "token": run["token"],
        "attempt": run["attempt"],
        "job": run["job"],
        "digest": run["digest"],
        "generation": run["generation"],
        "host": run["claim"].get("host"),
        "boot_id": node.boot_id,
        "hostname": node.hostname,
        "launcher": launcher,
        "created": created,
        "status_dir": run["status_dir"],
        "work_dir": run["work_dir"],
    }
    if run["queue"]:
        claim["queue"] = run["queue"]
    record = first_record(run, node, created)
    aside = os.path.join(job_dir, ".%s.%d" % (run_id[-80:], os.getpid()))
    log = -1
    try:
        os.mkdir(aside, files.DIRECTORY)
        if not run["queue"]:  # else another machine opens it when the job begins
            log = os.open(
                os.path.join(aside, contract.LOG),
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY,
                files.FILE,
            )
        status.write_file(os.path.join(aside, contract.CLAIM), status.encode(claim), flush=False)
        status.write_file(os.path.join(aside, contract.METADATA), status.encode(record), flush=False)
        status.write_file(os.path.join(aside, contract.CONFIG), status.encode(run["config"]), flush=False)
        _raise_fence(job_dir, aside, claim)
        list_live(run)
        os.rename(aside, run["status_dir"])
    except OSError as error:
        if log >= 0:
            os.close(log)
        files.remove_tree(aside)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Refused("claimed", "%s was claimed by somebody else at this moment" % run_id) from None
        raise
    return Claimed(run, record, log)


def _raise_fence(job_dir: str, aside: str, claim: Dict[str, Any]) -> None:
    """The fence is a second name of the claim: no file of its own to write and flush."""
    fence, new = os.path.join(job_dir, contract.FENCE), os.path.join(job_dir, ".fence.%d" % os.getpid())
    try:
        os.link(os.path.join(aside, contract.CLAIM), new)
        os.rename(new, fence)
    except OSError:  # no hard links here
        kept = ("attempt", "token", "run_id", "owner")
        status.replace_json(fence, {name: claim[name] for name in kept if name in claim})


def list_live(run: Run) -> None:
    """The run may be alive: it is looked at until it is dropped."""
    path = os.path.join(run["status_root"], contract.LIVE, run["run_id"])
    data = os.path.relpath(run["status_dir"], run["status_root"]).encode() + b"\n"
    try:
        status.write_file(path, data, flush=False)
    except FileNotFoundError:
        files.make_directories(os.path.dirname(path))
        status.write_file(path, data, flush=False)


def first_record(run: Run, node: Node, created: str) -> Dict[str, Any]:
    """metadata.json as it is from the first instant of a run."""
    job = run["job"]
    return {
        "name": job["name"],
        "project": job["project"],
        "group": job["group"],
        "job_key": run["job_key"],
        "run_id": run["run_id"],
        "start_time": created,
        "last_heartbeat": created,
        "status": contract.PREPARING,
        "slurm_job_id": None,
        "hardware": run["hardware"],
        "config": run["config"],
        "schema_version": contract.SCHEMA_VERSION,
        "seq": 0,
        "attempt": run["attempt"],
        "token": run["token"],
        "digest": run["digest"],
        "generation": run["generation"],
        "cause": None,
        "exit_code": None,
        "signal": None,
        "message": "",
        "host": run["claim"].get("host") or node.hostname,
        "pid": None,
        "boot_id": node.boot_id,
        "progress": {"step": None, "total": None, "metrics": {}},
        "checkpoint": {"step": None, "path": None},
        "source": run["source"],
        "workers": [],
        "end_time": None,
        "phase_detail": "claimed",
    }

"""The verb `cancel`: write down why, and tell the supervisor. Where that is gone, end its processes ourselves."""

from __future__ import annotations

import os
import signal
import time

from runtime import claim, contract, process, signals, status
from runtime.contract import Refused
from runtime.node import Node
from runtime.observe import liveness
from runtime.record import Ending, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    Say = Callable[[Dict[str, Any]], None]

KILL_WAIT_S = 30.0  # how long the helper repeats KILL; what outlives that is stuck in the kernel
POLL_S, POLL_S_MAX = 0.05, 1.0


def cancel(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Answer one line per run without waiting for its end."""
    node, orphans = Node(), []  # type: Node, List[Orphan]
    for wanted in document["runs"]:
        try:
            result, reason = ask(wanted, node, orphans)
        except Refused as refused:
            result, reason = "refused", "%s: %s" % (refused.reason, refused.message)
        except OSError as error:
            result, reason = "refused", "%s: %s" % (error.filename or wanted["status_dir"], error.strerror)
        except ValueError as error:
            result, reason = "refused", str(error)
        say({"run_id": wanted["run_id"], "result": result, "reason": reason})
    _end_unsupervised(orphans, node)
    return {}


class Orphan:
    """A run whose processes live without their supervisor, and when they are to be killed."""

    __slots__ = ("kill_at", "made", "started", "wanted")

    def __init__(self, wanted: Dict[str, Any], made: Dict[str, Any], started: Dict[str, Any]) -> None:
        self.wanted = wanted
        self.made = made
        self.started = started
        self.kill_at = time.monotonic() + (0.0 if wanted.get("force") else float(wanted["grace_s"]))


def ask(wanted: Dict[str, Any], node: Node, orphans: List[Orphan]) -> Tuple[str, str]:
    """Ask one run to end; what must be watched after that is added to `orphans`.

    Raises Refused, OSError or ValueError with nothing done.
    """
    status_dir = wanted["status_dir"]
    if wanted["reason"] not in contract.REQUESTS:
        raise Refused(
            "other", "%r is no reason; known are %s" % (wanted["reason"], ", ".join(sorted(contract.REQUESTS)))
        )
    try:
        made = owned(wanted)
    except FileNotFoundError:
        return "gone", "there is no such run here"
    if made.get("queue"):
        raise Refused("elsewhere", "the run belongs to the queue of %s" % made.get("host"))
    if made.get("boot_id") != node.boot_id:
        if made.get("hostname") != node.hostname:
            raise Refused("elsewhere", "the run was started on %s; this is %s" % (made.get("hostname"), node.hostname))
        return "gone", "the machine has been started anew since"
    if claim.abandon(status_dir, wanted["run_id"]):
        finish(status_dir, wanted, "It was stopped before it started.")
        return "gone", "it had not started, and will not"
    started = claim.read_started(status_dir) or {}
    metadata = status.read_json(os.path.join(status_dir, contract.METADATA))
    alive, supervised = liveness(made, started, metadata, node)
    if not alive:
        claim.drop_live(claim.status_root(made), wanted["run_id"])
        return "gone", "it had ended"
    write_request(status_dir, wanted)
    if supervised:
        process.send((started["pid"],), signal.SIGTERM)
        process.send((started["pid"],), signal.SIGCONT)
        if wanted.get("force"):
            members = [one.pid for one in _members(started, made, node) if one.pid != started["pid"]]
            process.send(members, signal.SIGKILL)
        return "signalled", "its supervisor was told"
    members = [one.pid for one in _members(started, made, node)]
    if not members:
        raise Refused("other", "the session of this run has processes, and nothing shows that they are its own")
    if not wanted.get("force"):
        process.send(members, signal.SIGTERM)
        process.send(members, signal.SIGCONT)
    orphans.append(Orphan(wanted, made, started))
    return "signalled", "its supervisor is gone; its processes were told, and are killed after the grace"


def owned(wanted: Dict[str, Any]) -> Dict[str, Any]:
    """The claim of the run, which must carry the caller's token. Raises FileNotFoundError, ValueError, Refused."""
    made = status.read_json(os.path.join(wanted["status_dir"], contract.CLAIM))
    if made.get("token") != wanted["token"] or made.get("run_id") != wanted["run_id"]:
        raise Refused("token", "the claim in %s carries another token" % wanted["status_dir"])
    return made


def _members(started: Dict[str, Any], made: Dict[str, Any], node: Node) -> List[process.Process]:
    """Processes of the run, only where something shows that they are its own: a session is one run's or none's."""
    found = node.members(started, str(made["token"]), deep=True)
    log = os.path.join(made["status_dir"], contract.LOG)
    supervisor = node.is_alive(started)
    if supervisor or any(process.is_ours(one, str(made["token"]), log, made.get("work_dir", "")) for one in found):
        return found
    return []


def write_request(status_dir: str, wanted: Dict[str, Any]) -> None:
    """Leave word of why, where the supervisor looks for it."""
    force = bool(wanted.get("force"))
    request = {
        "reason": wanted["reason"],
        "grace_s": 0 if force else wanted["grace_s"],
        "at": status.utc_now(),
        "force": force,
    }
    status.replace_json(os.path.join(status_dir, contract.REQUEST), request)


def _end_unsupervised(orphans: List[Orphan], node: Node) -> None:
    """One detached process for all: kills after each grace and, the supervisors being gone, writes their records."""
    if not orphans or os.fork():
        return
    try:
        signals.block()
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        pause_s = POLL_S
        while orphans:
            node.forget()
            orphans = [one for one in orphans if not _ended(one, node)]
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, POLL_S_MAX)
    finally:
        os._exit(0)


def _ended(orphan: Orphan, node: Node) -> bool:
    members = [one.pid for one in _members(orphan.started, orphan.made, node)]
    if not members:
        try:
            finish(orphan.made["status_dir"], orphan.wanted, "Its supervisor was gone; it was stopped as requested.")
        except (OSError, ValueError):
            pass  # the directory is gone or cannot be written: the observer sees a run without processes
        return True
    now = time.monotonic()
    if now >= orphan.kill_at:
        process.send(members, signal.SIGKILL)
    return now >= orphan.kill_at + KILL_WAIT_S


def finish(status_dir: str, wanted: Dict[str, Any], message: str) -> None:
    """The final record of a run that has no supervisor to write it."""
    fields = status.read_json(os.path.join(status_dir, contract.METADATA))
    made = status.read_json(os.path.join(status_dir, contract.CLAIM))
    if fields.get("status") not in contract.FINAL:
        end, cause = contract.REQUESTS[wanted["reason"]]
        Record(status_dir, fields).finish(Ending(end, cause, message))
    claim.drop_live(claim.status_root(made), wanted["run_id"])

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
POLL_S = 0.05


def cancel(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Answer one line per run without waiting for its end."""
    node = Node()
    for wanted in document["runs"]:
        try:
            result, reason = ask(wanted, node)
        except Refused as refused:
            result, reason = "refused", "%s: %s" % (refused.reason, refused.message)
        except OSError as error:
            result, reason = "refused", "%s: %s" % (error.filename or wanted["status_dir"], error.strerror)
        except ValueError as error:
            result, reason = "refused", str(error)
        say({"run_id": wanted["run_id"], "result": result, "reason": reason})
    return {}


def ask(wanted: Dict[str, Any], node: Node) -> Tuple[str, str]:
    """Ask one run to end. Raises Refused, OSError or ValueError with nothing done."""
    status_dir = wanted["status_dir"]
    if wanted["reason"] not in contract.REQUESTS:
        raise Refused(
            "other", "%r is no reason; known are %s" % (wanted["reason"], ", ".join(sorted(contract.REQUESTS)))
        )
    try:
        made = owned(wanted)
    except FileNotFoundError:
        return "gone", "there is no such run here"
    if made.get("boot_id") != node.boot_id:
        if made.get("hostname") != node.hostname:
            raise Refused("elsewhere", "the run was started on %s; this is %s" % (made.get("hostname"), node.hostname))
        return "gone", "the machine has been started anew since"
    if claim.abandon(status_dir, wanted["run_id"]):
        _finish(status_dir, wanted, "It was stopped before it started.")
        return "gone", "it had not started, and will not"
    started = claim.read_started(status_dir) or {}
    metadata = status.read_json(os.path.join(status_dir, contract.METADATA))
    alive, supervised = liveness(made, started, metadata, node)
    if not alive:
        claim.drop_live(claim.status_root(made), wanted["run_id"])
        return "gone", "it had ended"
    _write_request(status_dir, wanted)
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
    _helper(wanted, made, started)
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


def _write_request(status_dir: str, wanted: Dict[str, Any]) -> None:
    force = bool(wanted.get("force"))
    request = {
        "reason": wanted["reason"],
        "grace_s": 0 if force else wanted["grace_s"],
        "at": status.utc_now(),
        "force": force,
    }
    status.replace_json(os.path.join(status_dir, contract.REQUEST), request)


def _helper(wanted: Dict[str, Any], made: Dict[str, Any], started: Dict[str, Any]) -> None:
    """A detached process that kills after the grace and, the supervisor being gone, writes the final record."""
    if os.fork():
        return
    try:
        signals.block()
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        kill_at = time.monotonic() + (0.0 if wanted.get("force") else float(wanted["grace_s"]))
        while True:
            members = [one.pid for one in _members(started, made, Node())]
            if not members:
                _finish(made["status_dir"], wanted, "Its supervisor was gone; it was stopped as requested.")
                break
            now = time.monotonic()
            if now >= kill_at:
                process.send(members, signal.SIGKILL)
            if now >= kill_at + KILL_WAIT_S:
                break
            time.sleep(POLL_S)
    finally:
        os._exit(0)


def _finish(status_dir: str, wanted: Dict[str, Any], message: str) -> None:
    """The final record of a run that has no supervisor to write it."""
    fields = status.read_json(os.path.join(status_dir, contract.METADATA))
    made = status.read_json(os.path.join(status_dir, contract.CLAIM))
    if fields.get("status") not in contract.FINAL:
        end, cause = contract.REQUESTS[wanted["reason"]]
        Record(status_dir, fields).finish(Ending(end, cause, message))
    claim.drop_live(claim.status_root(made), wanted["run_id"])

"""The verb `dequeue`: end runs that a queue system holds, whether they wait or run, and write down why.

A run that has not started is abandoned first, by the same exclusive file that its start would make: from then on it cannot
begin, whatever the scheduler does with its job. Only then is the scheduler told.
"""

from __future__ import annotations

import os
import re

from runtime import claim, commands, contract, status
from runtime.cancel import finish, owned, write_request
from runtime.contract import Refused
from runtime.enqueue import begun, member_of, read_queued

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

    Say = Callable[[Dict[str, Any]], None]


def dequeue(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Answer one line per run without waiting for its end."""
    timeout_s = float(document.get("timeout_s", 60.0))
    for wanted in document["runs"]:
        try:
            result, reason = _end(wanted, document, timeout_s)
        except Refused as refused:
            result, reason = refused.reason, refused.message
        except OSError as error:
            result, reason = "refused", "%s: %s" % (error.filename or wanted["status_dir"], error.strerror)
        except ValueError as error:
            result, reason = "refused", str(error)
        say({"run_id": wanted["run_id"], "result": result, "reason": reason})
    return {}


def _end(wanted: Dict[str, Any], document: Dict[str, Any], timeout_s: float) -> Tuple[str, str]:
    status_dir = wanted["status_dir"]
    if wanted["reason"] not in contract.REQUESTS:
        raise Refused("refused", "%r is no reason" % wanted["reason"])
    try:
        owned(wanted)
    except FileNotFoundError:
        return _end_unclaimed(wanted, document, timeout_s)
    except Refused as refused:
        raise Refused("refused", "%s: %s" % (refused.reason, refused.message)) from None
    queued = read_queued(status_dir)
    began = begun(status_dir)
    if wanted.get("twin"):
        if began.get("ident") == wanted["ident"]:
            return "gone", "it began meanwhile: it is the run itself, and the other job is the one too many"
        named = queued or {"name": wanted["run_id"], "mark": wanted["mark"]}
        _tell(document, "end", wanted["ident"], named, timeout_s)
        return "signalled", "the second job of this run was cancelled"
    if queued is None:
        if claim.abandon(status_dir, wanted["run_id"]):
            _over(wanted, "It was stopped before it was submitted.")
        return "gone", "it had not been submitted, and will not start"
    ident = wanted.get("ident") or queued.get("ident")
    if not ident:
        base = _find(document, queued["name"], queued["mark"], timeout_s)
        ident = member_of(base, queued["index"]) if base else ""
    if claim.abandon(status_dir, wanted["run_id"]) or not began:
        # Not started, and it will not: abandoned just now, or before, when the scheduler could not be told.
        _over(wanted, "It was stopped before it started.")
        if ident:
            _tell(document, "end", ident, queued, timeout_s)
        return "gone", "it had not started, and will not"
    return _end_begun(wanted, began, document, timeout_s)


def _end_begun(
    wanted: Dict[str, Any], began: Dict[str, Any], document: Dict[str, Any], timeout_s: float
) -> Tuple[str, str]:
    ident = began["ident"]
    there, _, said = commands.probe(document["alive"], ident, timeout_s)
    if there is None:
        raise Refused("unknown", "the queue cannot be asked for job %s: %s" % (ident, commands.words(said)))
    if not there:
        return "gone", "it had ended"
    write_request(wanted["status_dir"], wanted)
    state = re.search(document["alive"]["found"], said["stdout"], re.MULTILINE)
    # A job that the scheduler put back into its queue has nobody to ask.
    waits = state is not None and state.group(2) in document["waiting"]
    if _tell(document, "end" if waits or wanted.get("force") else "ask", ident, began, timeout_s):
        return "signalled", "its queue was told"
    return "gone", "it ended by itself"


def _end_unclaimed(wanted: Dict[str, Any], document: Dict[str, Any], timeout_s: float) -> Tuple[str, str]:
    """Its directory is gone. A job of its name may still be in the queue: the name is its mark."""
    ident = _find(document, wanted["run_id"], wanted["mark"], timeout_s)
    if not ident:
        return "gone", "there is no such run here"
    _tell(document, "end", ident, {"name": wanted["run_id"], "mark": wanted["mark"]}, timeout_s)
    return "signalled", "its directory is gone; its job %s was cancelled" % ident


def _find(document: Dict[str, Any], name: str, mark: str, timeout_s: float) -> str:
    there, ident, said = commands.find(document["find"], name, mark, timeout_s)
    if there is None:
        raise Refused("unknown", "the queue cannot be asked for %s: %s" % (name, commands.words(said)))
    return ident


def _tell(document: Dict[str, Any], how: str, ident: str, named: Dict[str, Any], timeout_s: float) -> bool:
    """Tell the scheduler. False when the job turns out to have ended meanwhile, or its id to be another's by now; Refused when
    nobody can tell."""
    known = {"{ident}": ident, "{name}": named["name"], "{mark}": named["mark"]}
    answer = commands.run([known.get(part, part) for part in document[how]], timeout_s)
    if answer["rc"] == 0:
        return True
    if answer["rc"] == document["foreign"] or commands.probe(document["alive"], ident, timeout_s)[0] is False:
        return False
    raise Refused("unknown", "job %s could not be told to end: %s" % (ident, commands.words(answer)))


def _over(wanted: Dict[str, Any], message: str) -> None:
    status.remove_file(os.path.join(wanted["status_dir"], contract.SECRETS))
    finish(wanted["status_dir"], wanted, message)

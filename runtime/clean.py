"""The verb `clean`: remove what an ended run left, after its token and its death were checked."""

from __future__ import annotations

import os

from runtime import claim, contract, files, status
from runtime.cancel import owned
from runtime.contract import Refused
from runtime.node import Node
from runtime.observe import liveness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

    Say = Callable[[Dict[str, Any]], None]


def clean(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Answer one line per run."""
    node = Node()
    for wanted in document["runs"]:
        try:
            result, reason = _clean(wanted, node)
        except Refused as refused:
            result, reason = "refused", "%s: %s" % (refused.reason, refused.message)
        except OSError as error:
            result, reason = "refused", "%s: %s" % (error.filename or wanted["status_dir"], error.strerror)
        except ValueError as error:
            result, reason = "refused", str(error)
        say({"run_id": wanted["run_id"], "result": result, "reason": reason})
    return {}


def _clean(wanted: Dict[str, Any], node: Node) -> Tuple[str, str]:
    status_dir = wanted["status_dir"]
    try:
        made = owned(wanted)
    except FileNotFoundError:
        return "gone", "there is no such run here"
    if made.get("status_dir") != status_dir or (wanted.get("work") and made.get("work_dir") != wanted["work_dir"]):
        raise Refused("other", "the claim names other directories: %s, %s" % (made["status_dir"], made["work_dir"]))
    metadata = status.read_json(os.path.join(status_dir, contract.METADATA))
    claim.abandon(status_dir, wanted["run_id"])
    alive, _ = liveness(made, claim.read_started(status_dir), metadata, node)
    if alive:
        raise Refused("alive", "the run still has processes here")
    if made.get("hostname") != node.hostname and metadata.get("status") not in contract.FINAL:
        raise Refused("elsewhere", "the run was started on %s and has no final record" % made.get("hostname"))
    left = files.remove_tree(wanted["work_dir"]) if wanted.get("work") else []
    if wanted.get("status"):
        aside = os.path.join(os.path.dirname(status_dir), ".%s.removed.%d" % (wanted["run_id"][-80:], os.getpid()))
        os.rename(status_dir, aside)  # from one moment to the next no run's directory: never half of one
        left += files.remove_tree(aside)
    claim.drop_live(claim.status_root(made), wanted["run_id"])
    if left:
        raise Refused("other", "could not be removed: %s" % "; ".join(left[:5]))
    return "removed", ""

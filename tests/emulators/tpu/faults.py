"""What can go wrong, with which call.

A fault is a pattern for calls, and some knobs. A call meets the first fault that matches it, and uses it up by one.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.tpu.errors import CODES

# Any method.
ANSWER = {
    "status": "the error that is answered instead of acting: a name of google.rpc.Code",
    "message": "its text",
    "details": "its details, JSON of the types in google.rpc",
    "after": "true: act, then answer the error (or cut, or send garbage, or be slow): the lost answer",
    "drop": "true: cut the connection without an answer (over gRPC: UNAVAILABLE, as the client sees it)",
    "raw": "{code, body, type}: this instead of the answer (over gRPC: the body's bytes as the message)",
    "delay_s": "real seconds of silence before acting; with `after`: between acting and the answer",
}
# CreateNode, and CreateQueuedResource for the nodes it leads to.
NODE = {
    "lro_error": "{code, message}: the operation fails (8 no capacity, 9 reservation, 10 aborted, 3 preempted, 13 internal)",
    "node_stays": "with lro_error: the state in which the node remains; without, it is gone when the operation fails",
    "provision_s": "seconds from the call to READY, or to the operation's error",
    "stuck": "CREATING: never READY, operation never done",
    "lro_extra_s": "seconds that the operation goes on after READY",
    "health": "the health at READY",
    "preempt_after_s": "seconds from READY to PREEMPTED",
    "preempt_as": "another state than PREEMPTED, as TERMINATED",
    "preempt_workers_first_s": "seconds that the machines are gone before the API says so (negative: after)",
    "maintenance_after_s": "seconds from READY to health UNHEALTHY_MAINTENANCE",
    "repair_after_s": "seconds from READY to REPAIRING",
    "repair_s": "seconds from REPAIRING to READY",
    "invisible_s": "seconds after the call in which get answers 404 and lists leave it out",
    "endpoints": "missing: READY without addresses; partial: all but the last worker's; swapped_after_repair: new after repair",
    "keys_after_s": "seconds from READY until the ssh keys of the metadata let anybody in",
}
QUEUE = {
    "wait_s": "seconds in WAITING_FOR_RESOURCES",
    "stuck": "ACCEPTED, WAITING_FOR_RESOURCES or PROVISIONING: goes no further",
    "fail": "{code, message}: FAILED with it instead of PROVISIONING",
    "suspend_after_s": "seconds from ACTIVE to SUSPENDED, all its nodes preempted",
    "keep_node": "true: a suspended one keeps its preempted nodes",
}
DELETE = {
    "lro_error": "{code, message}: the operation fails with it, and what was to be deleted is as before",
    "stuck": "DELETING: stays so, operation never done",
    "delete_s": "seconds until it is gone",
    "lro_extra_s": "seconds that the operation goes on after it is gone",
}
CHANGE = {
    "lro_error": "{code, message}: the operation fails with it",
    "op_s": "seconds that it takes",
    "lro_extra_s": "seconds that the operation goes on after that",
}
LIST = {
    "stale": "true: the answer is what it was when the fault was laid",
    "unreachable": "zones left out, and named as unreachable",
}
BY_METHOD: dict[str, dict[str, str]] = {
    "CreateNode": NODE,
    "CreateQueuedResource": {**NODE, **QUEUE},
    "DeleteNode": DELETE,
    "DeleteQueuedResource": DELETE,
    "StartNode": CHANGE,
    "StopNode": CHANGE,
    "UpdateNode": CHANGE,
    "ResetQueuedResource": CHANGE,
    "ListNodes": LIST,
    "ListQueuedResources": LIST,
    "GetNode": {"stale": LIST["stale"]},
    "GetQueuedResource": {"stale": LIST["stale"]},
}


@dataclass
class Fault:
    """`method` and `name` are globs; `name` is matched with the full resource name and with its last part.

    Meets the `times` calls that match (None: all) after the first `after_n` of them.
    """

    method: str
    name: str = "*"
    times: int | None = 1
    after_n: int = 0
    knobs: dict[str, Any] = field(default_factory=dict)
    met: int = 0  # how many calls it met
    seen: dict[str, Any] = field(default_factory=dict, repr=False)  # the world when it was laid, for `stale`

    def __post_init__(self) -> None:
        known = dict(ANSWER)
        methods = [name for name in BY_METHOD if fnmatch.fnmatchcase(name, self.method)]
        for name in methods:
            known.update(BY_METHOD[name])
        if unknown := set(self.knobs) - set(known):
            raise ValueError(
                f"a fault of {self.method} has no knob {', '.join(sorted(unknown))}; it has {', '.join(known)}"
            )
        if self.knobs.get("status", "OK") not in (*CODES, "OK"):
            raise ValueError(f"{self.knobs['status']} is no status: {', '.join(CODES)}")

    @property
    def spent(self) -> bool:
        return self.times == 0

    def meets(self, method: str, name: str) -> bool:
        """Whether this call is hit; counts it."""
        if self.spent or not fnmatch.fnmatchcase(method, self.method):
            return False
        if not any(fnmatch.fnmatchcase(part, self.name) for part in (name, name.rpartition("/")[2])):
            return False
        if self.after_n:
            self.after_n -= 1
            return False
        self.met += 1
        if self.times is not None:
            self.times -= 1
        return True

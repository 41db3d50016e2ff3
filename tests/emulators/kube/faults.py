"""Faults that a test lays for calls to come, and the record of the calls that came."""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass, field
from typing import Any

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
MESSAGES = {
    429: "too many requests, please try again later",
    500: "Internal error occurred: emulated fault",
    503: "the server is currently unable to handle the request",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `verb` as authorisation names it (get, list, watch, create, update, patch, delete); `kind` is the plural, with
    the subresource (`pods/exec`); `code` is that of the answer, 0 where there was none."""

    verb: str
    kind: str
    name: str
    namespace: str = ""
    code: int = 0
    query: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Fault:
    """One of: `status` (an error; `after`: though it was done), `drop` (the connection is cut; `after`: when it is done),
    `hang_s` (silence), `raw` (any text for an answer, with `code`)."""

    verb: str = "*"
    kind: str = "*"
    name: str = "*"
    times: int | None = 1
    status: int = 0
    message: str = ""
    after: bool = False
    drop: bool = False
    hang_s: float = 0.0
    raw: str | bytes | None = None
    code: int = 200
    retry_after_s: int | None = None
    released: threading.Event = field(default_factory=threading.Event)

    def matches(self, call: Call) -> bool:
        pairs = ((call.verb, self.verb), (call.kind, self.kind), (call.name, self.name))
        return all(fnmatch.fnmatchcase(told, wanted) for told, wanted in pairs)


class Faults:
    def __init__(self) -> None:
        self._laid: list[Fault] = []
        self._lock = threading.Lock()

    def lay(self, **knobs: Any) -> Fault:
        fault = Fault(**knobs)
        if not (fault.status or fault.drop or fault.hang_s or fault.raw is not None):
            raise ValueError("emulator: a fault needs status, drop, hang_s or raw")
        with self._lock:
            self._laid.append(fault)
        return fault

    def heal(self) -> None:
        """No more faults; what hangs goes on."""
        with self._lock:
            laid, self._laid = self._laid, []
        for fault in laid:
            fault.released.set()

    def meet(self, call: Call) -> Fault | None:
        with self._lock:
            for fault in self._laid:
                if fault.times != 0 and fault.matches(call):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

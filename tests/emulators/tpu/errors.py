"""How the emulated service refuses, and how an answer can fail to arrive."""

from __future__ import annotations

from typing import Any

# google.rpc.Code: number, and the HTTP status that it is answered with.
CODES = {
    "CANCELLED": (1, 499),
    "UNKNOWN": (2, 500),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "OUT_OF_RANGE": (11, 400),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "DATA_LOSS": (15, 500),
    "UNAUTHENTICATED": (16, 401),
}
RESOURCE_INFO = "type.googleapis.com/google.rpc.ResourceInfo"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"


class Refused(Exception):
    """The service answers an error. `status` is a key of CODES, `details` are JSON of the types in google.rpc."""

    def __init__(self, status: str, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.details = status, message, details or []

    @property
    def http(self) -> int:
        return CODES[self.status][1]

    @property
    def number(self) -> int:
        return CODES[self.status][0]

    def json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.http, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}


class Dropped(Exception):
    """No answer: the connection is cut."""


class Garbled(Exception):
    """An answer that is not one of the service's: `body` as it is."""

    def __init__(self, code: int, body: str, kind: str) -> None:
        super().__init__(code, body, kind)
        self.code, self.body, self.kind = code, body, kind


def not_found(name: str) -> Refused:
    return Refused("NOT_FOUND", f"Resource '{name}' was not found", [{"@type": RESOURCE_INFO, "resourceName": name}])


def already_exists(name: str) -> Refused:
    details = [{"@type": RESOURCE_INFO, "resourceName": name}]
    return Refused("ALREADY_EXISTS", f"Resource '{name}' already exists", details)


def bad_request(words: str) -> Refused:
    return Refused("INVALID_ARGUMENT", f"Cloud TPU received a bad request. {words} [EID: 0x5be9ca996f9773a4]")


def busy() -> Refused:
    """Another operation holds the resource."""
    return Refused("ABORTED", "unable to queue the operation")


def no_route(what: str) -> Refused:
    return Refused("NOT_FOUND", f"emulator: no route for {what}")

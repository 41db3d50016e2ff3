"""Answers of a real Kubernetes API with a real Volcano (records/kubernetes), as the client gets to see them.

`python/*` are bodies as they came over the line. kubectl shows of a body its reason and its message; here these
are put back into a Status, with the code that goes with the reason: words and reasons are recorded, the JSON around them is not.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reconciler.backends.kube_refusals import Status, status_of

RECORDS = Path(__file__).parent.parent / "records" / "kubernetes"
CODES = {
    "": 400,
    "BadRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Expired": 410,
    "RequestEntityTooLarge": 413,
    "Invalid": 422,
    "InternalError": 500,
}
_SERVER = re.compile(r'Error from server(?: \((\w+)\))?: (?:error when \w+ "STDIN": )?(.*)', re.S | re.I)
_INVALID = re.compile(r'The (\w+) "([^"]*)" is invalid: (.*)', re.S)
_OBJECT = re.compile(r'^\S+ "([^"]+)" (?:not found|already exists)')


def record(name: str) -> dict[str, Any]:
    told = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(told, dict)
    return told


def body_of(name: str) -> tuple[int, bytes]:
    """The HTTP status and the body of an answer that was no success."""
    told = record(name)
    if "body" in told:
        return int(told["status"]), str(told["body"]).encode()
    if isinstance(told.get("stdout"), dict) and told["stdout"].get("type") == "ERROR":
        status = told["stdout"]["object"]
        return int(status["code"]), json.dumps(status).encode()
    words = str(told["stderr"]).strip()
    invalid = _INVALID.search(words)
    server = _SERVER.search(words)
    if invalid:
        reason, message = (
            "Invalid",
            f'{invalid.group(1)}.batch.volcano.sh "{invalid.group(2)}" is invalid: {invalid.group(3)}',
        )
    elif server:
        reason, message = server.group(1) or "", server.group(2)
    elif "(Unauthorized)" in words:
        reason, message = "Unauthorized", "Unauthorized"
    else:
        assert "Internal error occurred" in words or "completed pod" in words, words
        reason, message = "InternalError", words.removeprefix("error: ")
    about = _OBJECT.search(message)
    status = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": CODES[reason]}
    if about:
        status["details"] = {"name": about.group(1)}
    return CODES[reason], json.dumps(status).encode()


def status(name: str) -> Status:
    return status_of(*body_of(name))

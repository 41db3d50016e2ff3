"""Refusals, as the API server words them. The texts are those of recorded answers; where one is not recorded, it says so."""

from __future__ import annotations

from typing import Any

from tests.emulators.kube.kinds import Resource


class Refused(Exception):
    """A call that is answered with a Status of failure. `headers` go with the answer."""

    def __init__(self, code: int, message: str, reason: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.headers: dict[str, str] = {}
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = message
        if reason:
            status["reason"] = reason
        if details is not None:
            status["details"] = details
        self.status = {**status, "code": code}


def of(resource: Resource, name: str = "") -> dict[str, Any]:
    details = {"name": name} if name else {}
    return {**details, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}


def not_found(resource: Resource, name: str) -> Refused:
    return Refused(404, f'{resource.qualified} "{name}" not found', "NotFound", of(resource, name))


def already_exists(resource: Resource, name: str) -> Refused:
    return Refused(409, f'{resource.qualified} "{name}" already exists', "AlreadyExists", of(resource, name))


def modified(resource: Resource, name: str) -> Refused:
    return conflict(
        resource, name, "the object has been modified; please apply your changes to the latest version and try again"
    )


def conflict(resource: Resource, name: str, why: str) -> Refused:
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refused(409, message, "Conflict", of(resource, name))


def other_uid(resource: Resource, name: str, asked: str, found: str) -> Refused:
    """A delete with a precondition that is not met. Not recorded: the words of the API server's source."""
    why = f"the UID in the precondition ({asked}) does not match the UID in record ({found})"
    return conflict(resource, name, f"{why}. The object might have been deleted and then recreated")


def forbidden(resource: Resource, name: str, why: str) -> Refused:
    quoted = f' "{name}"' if name else ""
    return Refused(403, f"{resource.qualified}{quoted} is forbidden: {why}", "Forbidden", of(resource, name))


def not_allowed(resource: Resource, name: str, user: str, verb: str, sub: str, namespace: str) -> Refused:
    what = f"{resource.plural}/{sub}" if sub else resource.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    group = resource.group
    return forbidden(resource, name, f'User "{user}" cannot {verb} resource "{what}" in API group "{group}" {where}')


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def denied(webhook: str, why: str) -> Refused:
    """An admission webhook said no: 400 without a reason."""
    return Refused(400, f'admission webhook "{webhook}.volcano.sh" denied the request: {why}')


def bad_request(message: str) -> Refused:
    return Refused(400, message, "BadRequest")


def internal(message: str) -> Refused:
    details = {"causes": [{"message": message}]}
    return Refused(500, f"Internal error occurred: {message}", "InternalError", details)


def invalid(resource: Resource, name: str, field: str, why: str, reason: str = "FieldValueInvalid") -> Refused:
    details = {
        "name": name,
        "group": resource.group,
        "kind": resource.kind,
        "causes": [{"reason": reason, "message": why, "field": field}],
    }
    return Refused(422, f'{resource.kind}.{resource.group} "{name}" is invalid: {field}: {why}', "Invalid", details)


def expired(message: str) -> Refused:
    return Refused(410, message, "Expired")


class NoPage(Exception):
    """A path that the server does not serve at all: 404 as plain text, as for a group without its CRDs."""

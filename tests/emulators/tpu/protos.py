"""The API's own types, from google-cloud-tpu: they know its fields, its defaults and how JSON becomes a message."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.cloud import tpu_v2, tpu_v2alpha1
from google.cloud.location import locations_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

from tests.emulators.tpu.errors import Refused

# error_details_pb2: a Status finds the types of its details only where they were imported.
__all__ = [
    "answer_message",
    "canonical_answer",
    "canonical_request",
    "error_details_pb2",
    "request_json",
    "status",
    "types",
]

API = {"v2": tpu_v2, "v2alpha1": tpu_v2alpha1}
LONG = {
    "CreateNode", "DeleteNode", "StopNode", "StartNode", "UpdateNode",
    "CreateQueuedResource", "DeleteQueuedResource", "ResetQueuedResource",
}  # fmt: skip
OPERATIONS = {
    "GetOperation": operations_pb2.Operation,
    "ListOperations": operations_pb2.ListOperationsResponse,
    "CancelOperation": empty_pb2.Empty,
    "DeleteOperation": empty_pb2.Empty,
}
LOCATIONS = {"GetLocation": locations_pb2.Location, "ListLocations": locations_pb2.ListLocationsResponse}


@cache
def types(version: str, method: str) -> tuple[str, Any, Any]:
    """Service, request and answer."""
    if method in OPERATIONS:
        return "google.longrunning.Operations", getattr(operations_pb2, f"{method}Request"), OPERATIONS[method]
    if method in LOCATIONS:
        return "google.cloud.location.Locations", getattr(locations_pb2, f"{method}Request"), LOCATIONS[method]
    module = API[version]
    request = getattr(module, f"{method}Request").pb()
    service = f"google.cloud.tpu.{version}.Tpu"
    if method in LONG:
        return service, request, operations_pb2.Operation
    answer = f"{method}Response" if not method.startswith("Get") or method == "GetGuestAttributes" else method[3:]
    return service, request, getattr(module, answer).pb()


def canonical_request(version: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """Without defaults, as the service sees it. v2 refuses an unknown field; v2alpha1 does not, as gcloud sends newer ones."""
    try:
        message = json_format.ParseDict(
            request, types(version, method)[1](), ignore_unknown_fields=version == "v2alpha1"
        )
    except json_format.ParseError as error:
        raise Refused("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from None
    return request_json(message)


def request_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message)  # type: ignore[no-any-return]


def answer_message(version: str, method: str, answer: dict[str, Any]) -> Any:
    """What this version does not know is left out, as where another version made it."""
    return json_format.ParseDict(answer, types(version, method)[2](), ignore_unknown_fields=True)


def canonical_answer(version: str, method: str, answer: dict[str, Any], *, numbers: bool = False) -> dict[str, Any]:
    return json_format.MessageToDict(answer_message(version, method, answer), use_integers_for_enums=numbers)  # type: ignore[no-any-return]


def status(refused: Refused) -> bytes:
    """google.rpc.Status, as gRPC carries it beside the error."""
    made = {"code": refused.number, "message": refused.message, "details": refused.details}
    return json_format.ParseDict(made, status_pb2.Status()).SerializeToString()  # type: ignore[no-any-return]

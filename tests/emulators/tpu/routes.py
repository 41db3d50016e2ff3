"""Which HTTP request is which call.

Written by hand, so that REST needs no library; a test compares it with the client's own rules.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

VERSIONS = ("v2", "v2alpha1")
ZONE = "projects/*/locations/*"


class Route(NamedTuple):
    verb: str
    path: str  # below /v2/, as in google.api.http
    method: str
    body: str = ""  # the request's field that the body is; *: all that the path does not say


ROUTES = (
    Route("GET", "{parent=projects/*/locations/*}/nodes", "ListNodes"),
    Route("GET", "{name=projects/*/locations/*/nodes/*}", "GetNode"),
    Route("POST", "{parent=projects/*/locations/*}/nodes", "CreateNode", "node"),
    Route("DELETE", "{name=projects/*/locations/*/nodes/*}", "DeleteNode"),
    Route("PATCH", "{node.name=projects/*/locations/*/nodes/*}", "UpdateNode", "node"),
    Route("POST", "{name=projects/*/locations/*/nodes/*}:start", "StartNode", "*"),
    Route("POST", "{name=projects/*/locations/*/nodes/*}:stop", "StopNode", "*"),
    Route("POST", "{name=projects/*/locations/*/nodes/*}:getGuestAttributes", "GetGuestAttributes", "*"),
    Route("GET", "{parent=projects/*/locations/*}/queuedResources", "ListQueuedResources"),
    Route("GET", "{name=projects/*/locations/*/queuedResources/*}", "GetQueuedResource"),
    Route("POST", "{parent=projects/*/locations/*}/queuedResources", "CreateQueuedResource", "queued_resource"),
    Route("DELETE", "{name=projects/*/locations/*/queuedResources/*}", "DeleteQueuedResource"),
    Route("POST", "{name=projects/*/locations/*/queuedResources/*}:reset", "ResetQueuedResource", "*"),
    Route("GET", "{parent=projects/*/locations/*}/acceleratorTypes", "ListAcceleratorTypes"),
    Route("GET", "{name=projects/*/locations/*/acceleratorTypes/*}", "GetAcceleratorType"),
    Route("GET", "{parent=projects/*/locations/*}/runtimeVersions", "ListRuntimeVersions"),
    Route("GET", "{name=projects/*/locations/*/runtimeVersions/*}", "GetRuntimeVersion"),
    Route("POST", "{parent=projects/*/locations/*}:generateServiceIdentity", "GenerateServiceIdentity", "*"),
    Route("GET", "{name=projects/*/locations/*}/operations", "ListOperations"),
    Route("GET", "{name=projects/*/locations/*/operations/*}", "GetOperation"),
    Route("POST", "{name=projects/*/locations/*/operations/*}:cancel", "CancelOperation"),
    Route("DELETE", "{name=projects/*/locations/*/operations/*}", "DeleteOperation"),
    Route("GET", "{name=projects/*}/locations", "ListLocations"),
    Route("GET", "{name=projects/*/locations/*}", "GetLocation"),
)
METHODS = tuple(route.method for route in ROUTES)
_INTEGERS = {"pageSize"}
_BOOLEANS = {"force", "returnPartialSuccess"}
# Of every Google API, about the form of the answer.
_COMMON = {"alt", "$alt", "prettyPrint", "$prettyPrint", "key", "$.xgafv", "quotaUser", "fields"}


def _compiled(route: Route) -> tuple[str, re.Pattern[str]]:
    matched = re.match(r"\{([\w.]+)=([^}]+)\}(.*)\Z", route.path)
    assert matched is not None, route
    inside = re.escape(matched[2]).replace(r"\*", "[^/:]+")
    return matched[1], re.compile(f"({inside}){re.escape(matched[3])}\\Z")


_COMPILED = [(route, *_compiled(route)) for route in ROUTES]


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def find(
    verb: str, path: str, query: dict[str, str], body: dict[str, Any] | None
) -> tuple[str, str, dict[str, Any]] | None:
    """Version, method and request of a call, or None where there is no such route."""
    version, _, rest = path.strip("/").partition("/")
    # `gcloud compute tpus locations list` still asks v1.
    if version == "v1" and re.fullmatch(r"projects/[^/]+/locations", rest):
        version = "v2"
    if version not in VERSIONS:
        return None
    for route, field, pattern in _COMPILED:
        if route.verb == verb and (matched := pattern.match(rest)):
            request: dict[str, Any] = {}
            for key, value in query.items():
                if key not in _COMMON:
                    request[camel(key)] = _typed(camel(key), value)
            if route.body == "*":
                request.update(body or {})
            elif route.body:
                request[camel(route.body)] = body or {}
            if field == "node.name":
                request["node"] = {**request["node"], "name": matched[1]}
            else:
                request[field] = matched[1]
            return version, route.method, request
    return None


def _typed(key: str, value: str) -> Any:
    if key in _BOOLEANS:
        return value.lower() == "true"  # gcloud writes True
    return int(value) if key in _INTEGERS and value.isdigit() else value

"""The emulated project: what there is, and what a call of the API does to it. Pure state, on JSON as protocol buffers write it.

One state answers every version of the API and both ways to reach it. A call first runs what is due, so that no thread is needed.
What the service would answer is modelled on its documentation and on published reports; nothing here was compared with it.
"""

from __future__ import annotations

import copy
import fnmatch
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from tests.emulators.tpu import catalogue
from tests.emulators.tpu.clock import Clock, stamp
from tests.emulators.tpu.errors import ERROR_INFO, QUOTA_FAILURE, Dropped, Garbled, Refused, bad_request, not_found
from tests.emulators.tpu.faults import Fault

Json = dict[str, Any]
Handler = Callable[[str, Json, Json], Json]

ZONES = ("us-central1-a", "us-central2-b")
SETTINGS: dict[str, float | None] = {
    "provision_s": 3.0,  # from the call to READY
    "delete_s": 2.0,
    "op_s": 1.0,  # update, start, stop, reset, and suspending a queued resource
    "repair_s": 300.0,
    "accept_s": 0.5,  # a queued resource's CREATING, and again its ACCEPTED
    "wait_s": 1.0,  # its WAITING_FOR_RESOURCES
    "op_keep_s": 86400.0,  # a finished operation is remembered for so long
    "creates_per_minute": None,  # in the whole project; None: no limit
}
TYPE = "type.googleapis.com/google.cloud.tpu."
EMPTY = {"@type": "type.googleapis.com/google.protobuf.Empty"}


class Payer(Protocol):
    """What counts in a quota."""

    @property
    def number(self) -> int: ...
    def pays(self, zone: str, family: str, *, spot: bool) -> bool: ...


class Machines(Protocol):
    """The workers of nodes as machines, where there are any (workers.py)."""

    def up(self, node: Any) -> None: ...
    def down(self, node: Any) -> None: ...
    def admit(self, node: Any) -> None: ...
    def remove(self, node: Any) -> None: ...
    def host_key(self, node: Any, worker: int) -> str: ...


@dataclass
class Operation:
    json: Json
    node: Any = None  # the node that is held while it is not done
    abort: Callable[[Refused], None] | None = None

    @property
    def done(self) -> bool:
        return bool(self.json.get("done"))


@dataclass(frozen=True)
class Exchange:
    """One call and its answer. `code` is a name of google.rpc.Code, OK, DROPPED or GARBLED."""

    at: float
    wire: str
    version: str
    method: str
    name: str
    request: Json
    code: str
    answer: Any
    agent: str = ""


class World:
    def __init__(
        self,
        *,
        clock: Clock | None = None,
        zones: Iterable[str] | Mapping[str, Iterable[str]] = ZONES,
        project: str = "demo-project",
        quota: Mapping[str, Mapping[str, int]] | None = None,
        settings: Mapping[str, float | None] | None = None,
        seed: int = 0,
    ) -> None:
        from tests.emulators.tpu.nodes import Nodes
        from tests.emulators.tpu.queued import Queue

        self.lock = threading.RLock()
        self.clock = clock or Clock()
        self.project = project
        offered = zones if isinstance(zones, Mapping) else dict.fromkeys(zones, tuple(catalogue.FAMILIES))
        self.zones = {zone: tuple(families) for zone, families in offered.items()}
        for families in self.zones.values():
            if unknown := set(families) - set(catalogue.FAMILIES):
                raise ValueError(f"no such family: {', '.join(unknown)}; there are {', '.join(catalogue.FAMILIES)}")
        self._first: Json = {"quota": copy.deepcopy(dict(quota or {})), "settings": dict(settings or {}), "seed": seed}
        self.machines: Machines | None = None
        self.watch: Callable[[Exchange], None] | None = None
        self.exchanges: deque[Exchange] = deque(maxlen=20_000)
        self.unrouted: list[str] = []
        self.nodes = Nodes(self)
        self.queue = Queue(self)
        self._handlers: dict[str, Handler] = {
            **self.nodes.handlers,
            **self.queue.handlers,
            "GetOperation": self._get_operation,
            "ListOperations": self._list_operations,
            "CancelOperation": self._cancel_operation,
            "DeleteOperation": self._delete_operation,
            "GetAcceleratorType": self._get_accelerator_type,
            "ListAcceleratorTypes": self._list_accelerator_types,
            "GetRuntimeVersion": self._get_runtime_version,
            "ListRuntimeVersions": self._list_runtime_versions,
            "GetLocation": self._get_location,
            "ListLocations": self._list_locations,
            "GenerateServiceIdentity": self._generate_service_identity,
        }
        self.reset()

    def reset(self) -> None:
        """As at the beginning, but for the clock."""
        with self.lock:
            self.clock.clear()
            self.nodes.clear()
            self.queue.clear()
            self.operations: dict[str, Operation] = {}
            self.faults: list[Fault] = []
            self.metadata: dict[str, str] = {}
            self.vm_token = "vm-token"  # what a VM gets for its service account; "" for none
            self.quota: dict[str, dict[str, int]] = copy.deepcopy(self._first["quota"])
            self.settings = dict(SETTINGS)
            self.set(**self._first["settings"])
            self.random = random.Random(self._first["seed"])
            self._creates: deque[float] = deque()
            self.exchanges.clear()
            self.unrouted.clear()

    def set(self, **settings: float | None) -> None:
        if unknown := set(settings) - set(SETTINGS):
            raise ValueError(f"no such setting: {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
        self.settings.update(settings)

    def seconds(self, knobs: Json, name: str) -> float:
        found = knobs.get(name, self.settings[name])
        assert found is not None
        return float(found)

    # --- calls

    def call(
        self,
        version: str,
        method: str,
        request: Json,
        *,
        wire: str = "direct",
        agent: str = "",
        name: str | None = None,
    ) -> Json:
        """What the service answers; raises Refused, Dropped or Garbled. `version` is v2 or v2alpha1."""
        name = subject(method, request) if name is None else name
        code, answer = "OK", cast("Any", None)
        try:
            answer = self._call(version, method, name, request)
            return answer
        except Refused as refused:
            code, answer = refused.status, refused.json()
            raise
        except Dropped:
            code = "DROPPED"
            raise
        except Garbled as garbled:
            code, answer = "GARBLED", garbled.body
            raise
        finally:
            self.record(Exchange(self.clock.now(), wire, version, method, name, request, code, answer, agent))

    def record(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        if self.watch:
            self.watch(exchange)

    def no_route(self, what: str) -> None:
        """Somebody asked for what is not emulated."""
        self.unrouted.append(what)

    def _call(self, version: str, method: str, name: str, request: Json) -> Json:
        with self.lock:
            self.clock.run_due()
            knobs = self._knobs(method, name)
        after = bool(knobs.get("after"))
        if not after:
            _interfere(knobs)
        with self.lock:
            self.clock.run_due()
            if method not in self._handlers:
                raise Refused("UNIMPLEMENTED", f"emulator: {method} is not emulated")
            answer: Json = copy.deepcopy(self._handlers[method](version, request, knobs))
        if after:
            _interfere(knobs)
        return answer

    def _knobs(self, method: str, name: str) -> Json:
        for fault in self.faults:
            if fault.meets(method, name):
                return {**fault.knobs, "seen": fault.seen}
        return {}

    def lay(self, fault: Fault) -> Fault:
        with self.lock:
            self.clock.run_due()
            fault.seen = {
                "nodes": copy.deepcopy(self.nodes.visible()),
                "queuedResources": copy.deepcopy(self.queue.visible()),
            }
            self.faults.append(fault)
            return fault

    # --- names

    def zone_of(self, name: str) -> str:
        """The zone of a resource's name; refuses what is not ours, as the service refuses what it does not show."""
        matched = re.match(r"projects/([^/]+)/locations/([^/]+)(?:/|\Z)", name)
        if matched is None:
            raise Refused("INVALID_ARGUMENT", f"Invalid resource name: '{name}'")
        if matched[1] != self.project:
            resource = f"//tpu.googleapis.com/{name}"
            raise Refused("PERMISSION_DENIED", f"Permission denied on resource '{resource}' (or it may not exist).")
        if matched[2] not in self.zones and matched[2] != "-":
            raise Refused("PERMISSION_DENIED", f"Location {matched[2]} is not found or access is unauthorized.")
        return matched[2]

    def parent(self, zone: str) -> str:
        return f"projects/{self.project}/locations/{zone}"

    def page(self, key: str, found: Mapping[str, Json], request: Json, knobs: Json) -> Json:
        """The items below `parent`, by name, as many as were asked for."""
        self.zone_of(request["parent"])
        if knobs.get("stale"):
            found = knobs["seen"][key]
        lost = knobs.get("unreachable", ())
        pattern = request["parent"].replace("/locations/-", "/locations/*") + "/*"
        items = [
            found[name]
            for name in sorted(found)
            if fnmatch.fnmatchcase(name, pattern) and name.split("/")[3] not in lost
        ]
        answer = paged(key, items, request)
        if lost:
            answer["unreachable"] = [self.parent(zone) for zone in lost]
        return answer

    # --- long-running operations

    def operation(
        self,
        version: str,
        target: str,
        verb: str,
        seconds: float | None,
        result: Callable[[], Json],
        *,
        node: Any = None,
        error: Json | None = None,
        abort: Callable[[Refused], None] | None = None,
    ) -> Json:
        """Begin one that is done after `seconds` (None: never), with `result`, with what that raises, or with `error`."""
        zone = "/".join(target.split("/")[:4])
        tail = "-".join(f"{self.random.getrandbits(4 * digits):0{digits}x}" for digits in (13, 8, 8))
        metadata = {
            "@type": f"{TYPE}{version}.OperationMetadata",
            "createTime": stamp(self.clock.now()),
            "target": target,
            "verb": verb,
            "apiVersion": version,
        }
        name = f"{zone}/operations/operation-{round(self.clock.now() * 1000)}-{tail}"
        operation = Operation({"name": name, "metadata": metadata}, node, abort)
        self.operations[name] = operation
        if node is not None:
            node.operation = operation

        def finish() -> None:
            if operation.done:
                return
            try:
                if error is not None:
                    self.finish(operation, error=error)
                else:
                    self.finish(operation, response=result())
            except Refused as refused:
                self.finish(operation, error={"code": refused.number, "message": refused.message})

        if seconds is not None:
            self.clock.at(seconds, finish)
        return operation.json

    def finish(self, operation: Operation, *, response: Json | None = None, error: Json | None = None) -> None:
        if operation.done:
            return
        operation.json["done"] = True
        operation.json["metadata"]["endTime"] = stamp(self.clock.now())
        operation.json.update({"response": response} if error is None else {"error": error})
        if operation.node is not None and operation.node.operation is operation:
            operation.node.operation = None
        keep = self.settings["op_keep_s"]
        if keep is not None:
            self.clock.at(keep, lambda: self._forget(operation))

    def _forget(self, operation: Operation) -> None:
        self.operations.pop(operation.json["name"], None)

    def _operation(self, request: Json) -> Operation:
        if request["name"] not in self.operations:
            raise not_found(request["name"])
        return self.operations[request["name"]]

    def _get_operation(self, _version: str, request: Json, _knobs: Json) -> Json:
        self.zone_of(request["name"])
        return self._operation(request).json

    def _list_operations(self, _version: str, request: Json, _knobs: Json) -> Json:
        self.zone_of(request["name"])
        pattern = request["name"].replace("/locations/-", "/locations/*") + "/operations/*"
        found = [self.operations[name].json for name in sorted(self.operations) if fnmatch.fnmatchcase(name, pattern)]
        return paged("operations", found, request)

    def _cancel_operation(self, _version: str, request: Json, _knobs: Json) -> Json:
        """A create that is cancelled leaves nothing; any other operation goes on. What the service does is not known."""
        operation = self._operation(request)
        if not operation.done:
            operation.json["metadata"]["cancelRequested"] = True
            if operation.abort is not None:
                operation.abort(Refused("CANCELLED", "The operation was cancelled."))
        return {}

    def _delete_operation(self, _version: str, request: Json, _knobs: Json) -> Json:
        self._operation(request)
        del self.operations[request["name"]]
        return {}

    # --- what may be created

    def accelerator(self, zone: str, node: Json) -> catalogue.Accelerator:
        config = node.get("acceleratorConfig")
        name = node.get("acceleratorType") or ("" if config else "v2-8")
        found = catalogue.accelerator(name) if name else catalogue.by_config(config or {})
        if found is None or found.family not in self.zones[zone]:
            what = name or f"{(config or {}).get('type')} {(config or {}).get('topology')}"
            raise bad_request(
                f'The requested accelerator configuration for accelerator type, "{what}", could not be found in the zonal '
                f'accelerator configurations for "{zone}".; the accelerator {what} was not found in zone {zone}'
            )
        return found

    def runtime_version(self, zone: str, node: Json) -> None:
        version = node.get("runtimeVersion", "")
        if not version:
            raise bad_request("Runtime version must be specified.")
        if version not in catalogue.versions(self.zones[zone]):
            raise not_found(f"{self.parent(zone)}/runtimeVersions/{version}")

    def count_create(self) -> None:
        limit = self.settings["creates_per_minute"]
        now = self.clock.now()
        while self._creates and self._creates[0] <= now - 60:
            self._creates.popleft()
        if limit is not None and len(self._creates) >= limit:
            name = "Create requests per minute"
            raise Refused(
                "RESOURCE_EXHAUSTED",
                f"Quota exceeded for quota metric 'Create requests' and limit '{name}' of service 'tpu.googleapis.com' "
                "for consumer 'project_number:123456789012'.",
                [self._quota_info("CreateRequestsPerMinutePerProject", limit, "global")],
            )
        self._creates.append(now)

    def used(self, zone: str, family: str, *, spot: bool) -> int:
        """Of a quota: nodes in every state, and queued resources from their creation until they are deleted."""
        owners: list[Payer] = [*self.nodes.owners(), *self.queue.owners()]
        return sum(owner.number for owner in owners if owner.pays(zone, family, spot=spot))

    def charge(self, zone: str, accelerator: catalogue.Accelerator, count: int, *, spot: bool) -> None:
        """Refuse what goes over the quota of its family (`v4`, `v4-preemptible`) in its zone."""
        key = accelerator.family + ("-preemptible" if spot else "")
        limit = self.quota.get(zone, {}).get(key)
        if limit is None:
            return
        if self.used(zone, accelerator.family, spot=spot) + count * accelerator.number > limit:
            name = catalogue.quota_limit(accelerator.family, spot=spot)
            message = f"Quota limit '{name}' has been exceeded. Limit: {limit} in zone {zone}."
            violation = {"subject": f"project:{self.project}", "description": message}
            raise Refused(
                "RESOURCE_EXHAUSTED",
                message,
                [{"@type": QUOTA_FAILURE, "violations": [violation]}, self._quota_info(name, limit, zone)],
            )

    def _quota_info(self, limit: str, value: float, location: str) -> Json:
        metadata = {
            "service": "tpu.googleapis.com",
            "consumer": f"projects/{self.project}",
            "quota_limit": limit,
            "quota_limit_value": f"{value:g}",
            "quota_location": location,
        }
        info = {"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com", "metadata": metadata}
        return {"@type": ERROR_INFO, **info}

    # --- catalogues

    def _offered(self, request: Json, key: str) -> tuple[str, tuple[str, ...]]:
        zone = self.zone_of(request[key])
        if zone not in self.zones:
            raise Refused("INVALID_ARGUMENT", f"Invalid resource name: '{request[key]}'")
        return self.parent(zone), self.zones[zone]

    def _list_accelerator_types(self, _version: str, request: Json, _knobs: Json) -> Json:
        parent, families = self._offered(request, "parent")
        return paged("acceleratorTypes", [_accelerator_type(parent, one) for one in catalogue.types(families)], request)

    def _get_accelerator_type(self, _version: str, request: Json, _knobs: Json) -> Json:
        parent, families = self._offered(request, "name")
        found = catalogue.accelerator(request["name"].rpartition("/")[2])
        if found is None or found.family not in families:
            raise not_found(request["name"])
        return _accelerator_type(parent, found)

    def _list_runtime_versions(self, _version: str, request: Json, _knobs: Json) -> Json:
        parent, families = self._offered(request, "parent")
        found = [{"name": f"{parent}/runtimeVersions/{one}", "version": one} for one in catalogue.versions(families)]
        return paged("runtimeVersions", found, request)

    def _get_runtime_version(self, _version: str, request: Json, _knobs: Json) -> Json:
        _, families = self._offered(request, "name")
        version = request["name"].rpartition("/")[2]
        if version not in catalogue.versions(families):
            raise not_found(request["name"])
        return {"name": request["name"], "version": version}

    def _get_location(self, _version: str, request: Json, _knobs: Json) -> Json:
        zone = self.zone_of(request["name"])
        return {"name": request["name"], "locationId": zone}

    def _list_locations(self, _version: str, request: Json, _knobs: Json) -> Json:
        self.zone_of(f"{request['name']}/locations/-")
        return paged(
            "locations", [{"name": self.parent(zone), "locationId": zone} for zone in sorted(self.zones)], request
        )

    def _generate_service_identity(self, _version: str, request: Json, _knobs: Json) -> Json:
        self.zone_of(request["parent"])
        return {"identity": {"email": "service-123456789012@cloud-tpu.iam.gserviceaccount.com"}}


def subject(method: str, request: Json) -> str:
    """The resource that a call is about: what faults and the log go by."""
    if method == "CreateNode":
        return f"{request.get('parent', '')}/nodes/{request.get('nodeId', '')}"
    if method == "CreateQueuedResource":
        return f"{request.get('parent', '')}/queuedResources/{request.get('queuedResourceId', '')}"
    return str(request.get("name") or (request.get("node") or {}).get("name") or request.get("parent", ""))


def paged(key: str, items: list[Json], request: Json) -> Json:
    token = str(request.get("pageToken") or "0")
    if not token.isdigit():
        raise Refused("INVALID_ARGUMENT", "Invalid page token.")
    begin = int(token)
    end = begin + int(request.get("pageSize") or 500)
    answer: Json = {key: items[begin:end]} if items[begin:end] else {}
    if end < len(items):
        answer["nextPageToken"] = str(end)
    return answer


def _accelerator_type(parent: str, one: catalogue.Accelerator) -> Json:
    return {"name": f"{parent}/acceleratorTypes/{one.type}", "type": one.type, "acceleratorConfigs": [one.config]}


def _interfere(knobs: Json) -> None:
    if knobs.get("delay_s"):
        time.sleep(knobs["delay_s"])
    if knobs.get("drop"):
        raise Dropped
    if "raw" in knobs:
        raw = knobs["raw"]
        raise Garbled(raw.get("code", 200), raw.get("body", ""), raw.get("type", "text/html; charset=UTF-8"))
    if "status" in knobs:
        raise Refused(knobs["status"], str(knobs.get("message", knobs["status"])), knobs.get("details"))

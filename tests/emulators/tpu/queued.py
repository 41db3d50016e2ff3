"""Queued resources: a request that waits for capacity, and the nodes that come of it, one or several slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.emulators.tpu.catalogue import Accelerator
from tests.emulators.tpu.clock import moment, seconds, stamp
from tests.emulators.tpu.errors import Refused, already_exists, bad_request, busy, not_found
from tests.emulators.tpu.world import EMPTY, TYPE, Handler, Json

if TYPE_CHECKING:
    from tests.emulators.tpu.nodes import Node
    from tests.emulators.tpu.world import World

# State to the field of the oneof that goes with it.
DATA = {
    "CREATING": "creatingData",
    "ACCEPTED": "acceptedData",
    "WAITING_FOR_RESOURCES": "",
    "PROVISIONING": "provisioningData",
    "ACTIVE": "activeData",
    "SUSPENDING": "suspendingData",
    "SUSPENDED": "suspendedData",
    "FAILED": "failedData",
    "DELETING": "deletingData",
}
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES")
DELETABLE = ("ACCEPTED", "WAITING_FOR_RESOURCES", "FAILED", "SUSPENDED")


@dataclass(eq=False)
class Queued:
    json: Json
    accelerator: Accelerator
    count: int
    spot: bool
    version: str
    visible_at: float
    knobs: Json
    names: list[str]
    nodes: list[Node] = field(default_factory=list)
    gone: bool = False

    @property
    def name(self) -> str:
        return str(self.json["name"])

    @property
    def state(self) -> str:
        return str(self.json["state"]["state"])

    @property
    def number(self) -> int:
        return self.accelerator.number * self.count

    def pays(self, zone: str, family: str, *, spot: bool) -> bool:
        return (self.name.split("/")[3], self.accelerator.family, self.spot) == (zone, family, spot)


class Queue:
    def __init__(self, world: World) -> None:
        self._world = world
        self.handlers: dict[str, Handler] = {
            "CreateQueuedResource": self._create,
            "GetQueuedResource": self._get,
            "ListQueuedResources": self._list,
            "DeleteQueuedResource": self._delete,
            "ResetQueuedResource": self._reset,
        }
        self.clear()

    def clear(self) -> None:
        self.all: dict[str, Queued] = {}
        self._requests: dict[tuple[str, str], str] = {}  # method and request id to the operation

    def owners(self) -> list[Queued]:
        return list(self.all.values())

    def visible(self) -> dict[str, Json]:
        now = self._world.clock.now()
        return {name: one.json for name, one in self.all.items() if one.visible_at <= now}

    def find(self, name: str) -> Queued:
        self._world.zone_of(name)
        found = self.all.get(name)
        if found is None or found.visible_at > self._world.clock.now():
            raise not_found(name)
        return found

    def set_state(self, one: Queued, state: str, *, by: str = "SERVICE", **data: Any) -> None:
        key = DATA.get(state, "")
        one.json["state"] = {"state": state, **({key: data} if key else {}), "stateInitiator": by}

    # --- create

    def _create(self, version: str, request: Json, knobs: Json) -> Json:
        world = self._world
        if repeated := self._repeated("create", request):
            return repeated
        zone = world.zone_of(request["parent"])
        ident = request.get("queuedResourceId") or f"qr-{world.random.getrandbits(32):08x}"
        name = f"{request['parent']}/queuedResources/{ident}"
        wanted = request.get("queuedResource") or {}
        names, node, slices = self._asked(wanted, zone, ident)
        if name in self.all:
            raise already_exists(name)
        for taken in names:
            if taken in world.nodes.all:
                raise already_exists(taken)
        world.count_create()
        spot = "spot" in wanted or bool((node.get("schedulingConfig") or {}).get("spot"))
        accelerator = world.accelerator(zone, node)
        world.charge(zone, accelerator, len(names), spot=spot)
        now = world.clock.now()
        json = {**wanted, "name": name, "createTime": stamp(now)}
        one = Queued(json, accelerator, len(names), spot, version, now + knobs.get("invisible_s", 0), knobs, names)
        self.set_state(one, "CREATING")
        self.all[name] = one
        accept = world.seconds({}, "accept_s")
        expires = self._interval(wanted, now)[1]
        world.clock.at(accept, lambda: self._go(one, "CREATING", "ACCEPTED"))
        if knobs.get("stuck") != "ACCEPTED":
            world.clock.at(2 * accept, lambda: self._go(one, "ACCEPTED", "WAITING_FOR_RESOURCES"))
            begins = max(2 * accept + world.seconds(knobs, "wait_s"), self._interval(wanted, now)[0] - now)
            if knobs.get("stuck") != "WAITING_FOR_RESOURCES":
                world.clock.at(begins, lambda: self._provision(one, node, slices=slices))
        if expires is not None:
            world.clock.at(expires - now, lambda: self._expire(one))
        answer = world.operation(version, name, "create", accept, lambda: self._typed(version, one))
        self._remember("create", request, answer)
        return answer

    def _asked(self, wanted: Json, zone: str, ident: str) -> tuple[list[str], Json, bool]:
        """The nodes' names, what each is to be, and whether they are slices of one."""
        specs = (wanted.get("tpu") or {}).get("nodeSpec") or []
        if len(specs) != 1:
            raise bad_request("A queued resource has exactly one node spec.")
        spec, node = specs[0], specs[0].get("node") or {}
        parent = spec.get("parent") or self._world.parent(zone)
        many = spec.get("multisliceParams") or {}
        if many:
            prefix = many.get("nodeIdPrefix") or ident
            idents = [f"{prefix}-{index}" for index in range(int(many.get("nodeCount", 0)))]
        else:
            idents = [spec.get("nodeId") or ident]
        if not idents or (many and len(idents) < 2):
            raise bad_request("A multislice has at least two nodes.")
        for one in idents:
            self._world.nodes.check(zone, one, node)
        return [f"{parent}/nodes/{one}" for one in idents], node, bool(many)

    def _interval(self, wanted: Json, now: float) -> tuple[float, float | None]:
        """From when, and until when it may begin."""
        policy = wanted.get("queueingPolicy") or {}
        after, until = now, None
        if "validAfterDuration" in policy:
            after = now + seconds(policy["validAfterDuration"])
        if "validAfterTime" in policy:
            after = moment(policy["validAfterTime"])
        if "validUntilDuration" in policy:
            until = now + seconds(policy["validUntilDuration"])
        if "validUntilTime" in policy:
            until = moment(policy["validUntilTime"])
        if interval := policy.get("validInterval"):
            after = moment(interval["startTime"]) if "startTime" in interval else after
            until = moment(interval["endTime"]) if "endTime" in interval else until
        return after, until

    # --- its way

    def _go(self, one: Queued, begin: str, end: str) -> None:
        if not one.gone and one.state == begin:
            self.set_state(one, end)

    def _provision(self, one: Queued, node: Json, *, slices: bool) -> None:
        world = self._world
        if one.gone or one.state not in WAITING:
            return
        if "fail" in one.knobs:
            self.set_state(one, "FAILED", error=one.knobs["fail"])
            return
        if taken := [name for name in one.names if name in world.nodes.all]:
            self.set_state(one, "FAILED", error={"code": 6, "message": already_exists(taken[0]).message})
            return
        self.set_state(one, "PROVISIONING")
        wanted = (
            {**node, "schedulingConfig": {**(node.get("schedulingConfig") or {}), "spot": True}} if one.spot else node
        )
        knobs = {key: value for key, value in one.knobs.items() if key != "invisible_s"}
        for name in one.names:
            one.nodes.append(world.nodes.add(one.version, name, wanted, knobs, queued=one.name, slices=slices))
        if one.knobs.get("stuck") in ("PROVISIONING", "CREATING"):
            return
        world.clock.at(world.seconds(one.knobs, "provision_s"), lambda: self._settle(one))

    def _settle(self, one: Queued) -> None:
        """The nodes are there, or are not to be had."""
        if one.gone or one.state != "PROVISIONING":
            return
        if "lro_error" in one.knobs:
            self.set_state(one, "FAILED", error=one.knobs["lro_error"])
            return
        self.set_state(one, "ACTIVE")
        if "suspend_after_s" in one.knobs:
            self._world.clock.at(one.knobs["suspend_after_s"], lambda: self.suspend(one))

    def _expire(self, one: Queued) -> None:
        if not one.gone and one.state in WAITING:
            message = "The queued resource was not provisioned within its valid interval."
            self.set_state(one, "FAILED", error={"code": 4, "message": message})

    def suspend(self, one: Queued) -> None:
        """The service takes the nodes back."""
        for node in list(one.nodes):
            self._world.nodes.preempt(node)

    def lost_a_node(self, node: Node) -> None:
        one = self.all.get(node.queued)
        if one is None or one.gone or one.state in ("SUSPENDING", "SUSPENDED", "DELETING"):
            return
        self.set_state(one, "SUSPENDING")

        def suspended() -> None:
            if one.gone or one.state != "SUSPENDING":
                return
            self.set_state(one, "SUSPENDED")
            if not one.knobs.get("keep_node"):
                self._drop_nodes(one)

        self._world.clock.at(self._world.seconds({}, "op_s"), suspended)

    def node_was_deleted(self, node: Node) -> None:
        """By its user. Suspended when the last of them is gone."""
        one = self.all.get(node.queued)
        if one is None or one.gone:
            return
        one.nodes = [other for other in one.nodes if not other.gone]
        if not one.nodes and one.state in ("PROVISIONING", "ACTIVE"):
            self.set_state(one, "SUSPENDED", by="USER")

    def _drop_nodes(self, one: Queued) -> None:
        for node in one.nodes:
            self._world.nodes.remove(node)
        one.nodes = []

    # --- calls

    def _get(self, _version: str, request: Json, knobs: Json) -> Json:
        if knobs.get("stale"):
            found = knobs["seen"]["queuedResources"]
            if request["name"] not in found:
                raise not_found(request["name"])
            return found[request["name"]]  # type: ignore[no-any-return]
        return self.find(request["name"]).json

    def _list(self, _version: str, request: Json, knobs: Json) -> Json:
        return self._world.page("queuedResources", self.visible(), request, knobs)

    def _delete(self, version: str, request: Json, knobs: Json) -> Json:
        if repeated := self._repeated("delete", request):
            return repeated
        one = self.find(request["name"])
        if one.state == "DELETING":
            raise busy()
        nodes = [node for node in one.nodes if not node.gone]
        if not request.get("force") and one.state not in DELETABLE and (nodes or one.state == "CREATING"):
            words = f"Queued resource '{one.name}' is in state {one.state}: delete its nodes first or use force."
            raise Refused("FAILED_PRECONDITION", words)
        wait = self._world.seconds(knobs, "delete_s")
        never = bool(knobs.get("stuck"))
        if "lro_error" not in knobs:
            self.set_state(one, "DELETING", by="USER")
            for node in nodes:
                if node.state != "DELETING":
                    self._world.nodes.begin_delete(node, knobs, wait)
            if not never:
                self._world.clock.at(wait, lambda: self._remove(one))
        done = None if never else wait + float(knobs.get("lro_extra_s", 0))
        answer = self._world.operation(version, one.name, "delete", done, lambda: EMPTY, error=knobs.get("lro_error"))
        self._remember("delete", request, answer)
        return answer

    def _remove(self, one: Queued) -> None:
        self._drop_nodes(one)
        one.gone = True
        if self.all.get(one.name) is one:
            del self.all[one.name]

    def _reset(self, version: str, request: Json, knobs: Json) -> Json:
        """Its nodes are deleted and it waits again, as at the beginning."""
        one = self.find(request["name"])
        if one.state not in ("ACTIVE", "SUSPENDED", "FAILED"):
            raise Refused("FAILED_PRECONDITION", f"Queued resource '{one.name}' is in state {one.state}.")
        wait = self._world.seconds(knobs, "op_s")
        if "lro_error" not in knobs:
            self._drop_nodes(one)
            self.set_state(one, "WAITING_FOR_RESOURCES", by="USER")
            spec = one.json["tpu"]["nodeSpec"][0]
            again = wait + self._world.seconds(one.knobs, "wait_s")
            slices = "multisliceParams" in spec
            self._world.clock.at(again, lambda: self._provision(one, spec.get("node") or {}, slices=slices))
        result = lambda: self._typed(version, one)  # noqa: E731
        return self._world.operation(version, one.name, "reset", wait, result, error=knobs.get("lro_error"))

    def _typed(self, version: str, one: Queued) -> Json:
        return {"@type": f"{TYPE}{version}.QueuedResource", **one.json}

    def _repeated(self, verb: str, request: Json) -> Json | None:
        """The answer that the same request id got before."""
        name = self._requests.get((verb, request.get("requestId") or ""))
        operation = self._world.operations.get(name or "")
        return operation.json if operation else None

    def _remember(self, verb: str, request: Json, answer: Json) -> None:
        if request.get("requestId"):
            self._requests[verb, request["requestId"]] = answer["name"]

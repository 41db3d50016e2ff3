"""Nodes: from CREATING over READY to gone, and what each call and each misfortune does to them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.emulators.tpu.catalogue import Accelerator
from tests.emulators.tpu.clock import stamp
from tests.emulators.tpu.errors import Refused, already_exists, bad_request, busy, not_found
from tests.emulators.tpu.world import EMPTY, TYPE, Handler, Json, Operation

if TYPE_CHECKING:
    from tests.emulators.tpu.world import World

STATES = (
    "CREATING", "READY", "RESTARTING", "REIMAGING", "DELETING", "REPAIRING", "STOPPED", "STOPPING", "STARTING", "PREEMPTED",
    "TERMINATED", "HIDING", "HIDDEN", "UNHIDING", "UNKNOWN",
)  # fmt: skip
# In which its machines are not there. In the others, but for READY, they are as they were before.
DOWN = {"RESTARTING", "REIMAGING", "DELETING", "REPAIRING", "STOPPED", "STOPPING", "PREEMPTED", "TERMINATED", "HIDDEN"}
HEALTHS = ("HEALTHY", "TIMEOUT", "UNHEALTHY_TENSORFLOW", "UNHEALTHY_MAINTENANCE")
UPDATABLE = {"description", "tags", "labels", "metadata", "networkConfig", "network_config.enable_external_ips",
             "networkConfig.enableExternalIps", "network_config"}  # fmt: skip
PORT = 8470
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}\Z")


@dataclass(eq=False)
class Node:
    """`json` is what the API shows; the rest is what the service knows besides."""

    json: Json
    accelerator: Accelerator
    spot: bool
    version: str
    visible_at: float
    knobs: Json
    queued: str = ""
    addresses: list[str] = field(default_factory=list)  # in the order of workers
    operation: Operation | None = None
    gone: bool = False

    @property
    def name(self) -> str:
        return str(self.json["name"])

    @property
    def state(self) -> Any:
        return self.json["state"]

    @property
    def number(self) -> int:
        return self.accelerator.number

    def hostname(self, worker: int) -> str:
        return f"t1v-n-{self.json['id'][:8]}-w-{worker}"

    def pays(self, zone: str, family: str, *, spot: bool) -> bool:
        """Whether it counts in this quota. A queued resource counts for its nodes."""
        mine = (self.name.split("/")[3], self.accelerator.family, self.spot)
        return not self.queued and mine == (zone, family, spot)


def is_spot(node: Json) -> bool:
    scheduling = node.get("schedulingConfig") or {}
    return bool(scheduling.get("spot") or scheduling.get("preemptible"))


class Nodes:
    def __init__(self, world: World) -> None:
        self._world = world
        self.handlers: dict[str, Handler] = {
            "CreateNode": self._create,
            "GetNode": self._get,
            "ListNodes": self._list,
            "DeleteNode": self._delete,
            "UpdateNode": self._update,
            "StartNode": self._start,
            "StopNode": self._stop,
            "GetGuestAttributes": self._guest_attributes,
        }
        self.all: dict[str, Node] = {}
        self.clear()

    def clear(self) -> None:
        for node in list(self.all.values()):
            self.remove(node)
        self._addresses: Iterator[str] = (
            f"127.1.{high}.{low}" for high, low in itertools.product(range(255), range(1, 255))
        )
        self._free: list[str] = []

    def owners(self) -> list[Node]:
        return list(self.all.values())

    def visible(self) -> dict[str, Json]:
        now = self._world.clock.now()
        return {name: node.json for name, node in self.all.items() if node.visible_at <= now}

    def find(self, name: str) -> Node:
        self._world.zone_of(name)
        node = self.all.get(name)
        if node is None or node.visible_at > self._world.clock.now():
            raise not_found(name)
        return node

    # --- create

    def _create(self, version: str, request: Json, knobs: Json) -> Json:
        world = self._world
        zone = world.zone_of(request["parent"])
        ident = request.get("nodeId") or f"tpu-{world.random.getrandbits(32):08x}"
        name = f"{request['parent']}/nodes/{ident}"
        wanted = request.get("node") or {}
        self.check(zone, ident, wanted)
        if name in self.all:
            raise already_exists(name)
        world.count_create()
        accelerator = world.accelerator(zone, wanted)
        world.charge(zone, accelerator, 1, spot=is_spot(wanted))
        node = self.add(version, name, wanted, knobs)
        return self._create_operation(version, node)

    def check(self, zone: str, ident: str, wanted: Json) -> None:
        if zone == "-":
            raise Refused("INVALID_ARGUMENT", "A node is created in one location, not in '-'.")
        if not _NAME.match(ident):
            raise bad_request(
                f"Invalid node id '{ident}': lower case letters, digits and hyphens, at most 63, first a letter."
            )
        check_labels(wanted.get("labels") or {})
        self._world.accelerator(zone, wanted)
        self._world.runtime_version(zone, wanted)

    def add(
        self, version: str, name: str, wanted: Json, knobs: Json, *, queued: str = "", slices: bool = False
    ) -> Node:
        """A node that begins to be made; what it becomes is settled by `knobs`."""
        world = self._world
        now = world.clock.now()
        accelerator = world.accelerator(name.split("/")[3], wanted)
        json = {
            **{key: value for key, value in wanted.items() if key not in ("state", "id", "health", "networkEndpoints")},
            "name": name,
            "acceleratorType": accelerator.type,
            "state": "CREATING",
            "apiVersion": "V2_ALPHA1" if version == "v2alpha1" else "V2",
            "createTime": stamp(now),
            "id": str(world.random.getrandbits(62)),
        }
        if queued:
            json["queuedResource"] = queued
        if slices:
            json["multisliceNode"] = True
        node = Node(json, accelerator, is_spot(wanted), version, now + knobs.get("invisible_s", 0), knobs, queued)
        self.all[name] = node
        if knobs.get("stuck") == "CREATING":
            return node
        seconds = world.seconds(knobs, "provision_s")
        world.clock.at(seconds, lambda: self._fail(node) if "lro_error" in knobs else self._come_up(node))
        return node

    def _create_operation(self, version: str, node: Node) -> Json:
        knobs, world = node.knobs, self._world
        seconds = world.seconds(knobs, "provision_s") + (0 if "lro_error" in knobs else knobs.get("lro_extra_s", 0))

        def result() -> Json:
            if node.state == "PREEMPTED":
                raise bad_request("update is not supported while in state PREEMPTED")
            return self._typed(version, node)

        def abort(why: Refused) -> None:
            assert node.operation is not None
            world.finish(node.operation, error={"code": why.number, "message": why.message})
            self.remove(node)

        return world.operation(
            version,
            node.name,
            "create",
            None if knobs.get("stuck") == "CREATING" else seconds,
            result,
            node=node,
            error=knobs.get("lro_error"),
            abort=abort,
        )

    def _fail(self, node: Node) -> None:
        if node.gone:
            return
        if "node_stays" in node.knobs:
            self.set_state(node, node.knobs["node_stays"])
        else:
            self.remove(node)

    def _come_up(self, node: Node) -> None:
        if node.gone or node.state != "CREATING":
            return
        knobs, clock = node.knobs, self._world.clock
        node.addresses = self._take(node.accelerator.hosts)
        self._show_endpoints(node)
        node.json["acceleratorConfig"] = node.accelerator.config
        node.json["health"] = knobs.get("health", "HEALTHY")
        self.set_state(node, "READY")
        if "preempt_after_s" in knobs:
            first = float(knobs.get("preempt_workers_first_s", 0))
            if first > 0:
                clock.at(knobs["preempt_after_s"] - first, lambda: self._machines_off(node))
            clock.at(knobs["preempt_after_s"], lambda: self.preempt(node, knobs.get("preempt_as", "PREEMPTED")))
        if "maintenance_after_s" in knobs:
            clock.at(knobs["maintenance_after_s"], lambda: self.announce_maintenance(node))
        if "repair_after_s" in knobs:
            clock.at(knobs["repair_after_s"], lambda: self.repair(node))

    def _show_endpoints(self, node: Node) -> None:
        shown = {"missing": 0, "partial": len(node.addresses) - 1}.get(
            node.knobs.get("endpoints", ""), len(node.addresses)
        )
        external = (node.json.get("networkConfig") or {}).get("enableExternalIps")
        node.json["networkEndpoints"] = [
            {"ipAddress": address, "port": PORT, **({"accessConfig": {"externalIp": address}} if external else {})}
            for address in node.addresses[:shown]
        ]
        if not shown:
            del node.json["networkEndpoints"]

    def _take(self, count: int) -> list[str]:
        return [self._free.pop(0) if self._free else next(self._addresses) for _ in range(count)]

    # --- what happens to them

    def set_state(self, node: Node, state: Any) -> None:
        """`state` may also be what the client does not know: a number, or another word."""
        node.json["state"] = state
        if state == "READY":
            self._machines_on(node)
        elif state in DOWN:
            late = -float(node.knobs.get("preempt_workers_first_s", 0)) if state == "PREEMPTED" else 0.0
            if late > 0:
                self._world.clock.at(late, lambda: self._machines_off(node))
            else:
                self._machines_off(node)

    def preempt(self, node: Node, state: str = "PREEMPTED") -> None:
        if node.gone or node.state == "DELETING":
            return
        self.set_state(node, state)
        self._world.queue.lost_a_node(node)

    def announce_maintenance(self, node: Node) -> None:
        if not node.gone:
            node.json["health"] = "UNHEALTHY_MAINTENANCE"
            node.json["healthDescription"] = "The TPU is about to undergo maintenance."

    def repair(self, node: Node) -> None:
        """REPAIRING, and READY again `repair_s` later."""
        if node.gone or node.state != "READY":
            return
        self.set_state(node, "REPAIRING")

        def repaired() -> None:
            if node.gone or node.state != "REPAIRING":
                return
            if node.knobs.get("endpoints") == "swapped_after_repair":
                if self._world.machines:
                    self._world.machines.remove(node)
                old, node.addresses = node.addresses, self._take(len(node.addresses))
                self._free += old
                self._show_endpoints(node)
            self.set_state(node, "READY")

        self._world.clock.at(self._world.seconds(node.knobs, "repair_s"), repaired)

    def remove(self, node: Node) -> None:
        """Gone, without a trace."""
        if node.gone:
            return
        node.gone = True
        if self._world.machines:
            self._world.machines.remove(node)
        self._free += node.addresses
        if self.all.get(node.name) is node:
            del self.all[node.name]

    def _machines_on(self, node: Node) -> None:
        machines = self._world.machines
        if machines is None or not node.addresses:
            return
        machines.up(node)
        late = node.knobs.get("keys_after_s", 0)
        if late:
            self._world.clock.at(late, lambda: self.admit(node))
        else:
            machines.admit(node)

    def _machines_off(self, node: Node) -> None:
        if self._world.machines and not node.gone:
            self._world.machines.down(node)

    def admit(self, node: Node) -> None:
        """What the agent on each machine does: let in the keys of the metadata."""
        if self._world.machines and node.addresses and not node.gone:
            self._world.machines.admit(node)

    # --- calls

    def _get(self, _version: str, request: Json, knobs: Json) -> Json:
        if knobs.get("stale"):
            return _seen(knobs["seen"]["nodes"], request["name"])
        return self.find(request["name"]).json

    def _list(self, _version: str, request: Json, knobs: Json) -> Json:
        return self._world.page("nodes", self.visible(), request, knobs)

    def _delete(self, version: str, request: Json, knobs: Json) -> Json:
        node = self.find(request["name"])
        if node.state == "DELETING":
            raise busy()
        seconds = self._world.seconds(knobs, "delete_s")
        return self._world.operation(
            version,
            node.name,
            "delete",
            self.begin_delete(node, knobs, seconds),
            lambda: EMPTY,
            error=knobs.get("lro_error"),
        )

    def begin_delete(self, node: Node, knobs: Json, seconds: float) -> float | None:
        """DELETING; gives the seconds until an operation of it is done, None for never."""
        if "lro_error" in knobs:
            return seconds
        if node.operation is not None:
            error = {"code": 10, "message": "The operation was aborted: the node is being deleted."}
            self._world.finish(node.operation, error=error)
        self.set_state(node, "DELETING")
        if knobs.get("stuck"):
            return None

        def deleted() -> None:
            if not node.gone:
                self.remove(node)
                self._world.queue.node_was_deleted(node)

        self._world.clock.at(seconds, deleted)
        return seconds + float(knobs.get("lro_extra_s", 0))

    def _free_for(self, node: Node, verb: str) -> None:
        if node.state in ("PREEMPTED", "TERMINATED"):
            raise bad_request(f"{verb} is not supported while in state {node.state}")
        if node.operation is not None:
            raise busy()

    def _update(self, version: str, request: Json, knobs: Json) -> Json:
        wanted = request.get("node") or {}
        node = self.find(wanted.get("name", ""))
        self._free_for(node, "update")
        mask = [part for part in (request.get("updateMask") or "").split(",") if part]
        if not mask:
            raise Refused("INVALID_ARGUMENT", "The update mask must not be empty.")
        if wrong := set(mask) - UPDATABLE:
            raise bad_request(f"The field {', '.join(sorted(wrong))} cannot be updated.")
        check_labels(wanted.get("labels") or {})
        seconds = self._world.seconds(knobs, "op_s")

        def apply() -> None:
            if node.gone or "lro_error" in knobs:
                return
            for part in mask:
                key = "networkConfig" if part.startswith("network") else part
                if wanted.get(key):
                    node.json[key] = wanted[key]
                else:
                    node.json.pop(key, None)
            if any(part.startswith("network") for part in mask) and node.addresses:
                self._show_endpoints(node)
            if node.state == "READY":
                self.admit(node)

        self._world.clock.at(seconds, apply)
        return self._change_operation(version, node, "update", seconds, knobs)

    def _start(self, version: str, request: Json, knobs: Json) -> Json:
        return self._power(version, request, knobs, ("start", "STOPPED", "STARTING", "READY"))

    def _stop(self, version: str, request: Json, knobs: Json) -> Json:
        return self._power(version, request, knobs, ("stop", "READY", "STOPPING", "STOPPED"))

    def _power(self, version: str, request: Json, knobs: Json, way: tuple[str, str, str, str]) -> Json:
        verb, begin, between, end = way
        node = self.find(request["name"])
        self._free_for(node, verb)
        if node.state != begin:
            raise bad_request(f"{verb} is not supported while in state {node.state}")
        if node.accelerator.hosts > 1:
            raise bad_request(f"{verb} is not supported for a TPU with more than one host.")
        self.set_state(node, between)
        seconds = self._world.seconds(knobs, "op_s")

        def arrive() -> None:
            if not node.gone and node.state == between:
                self.set_state(node, begin if "lro_error" in knobs else end)

        self._world.clock.at(seconds, arrive)
        return self._change_operation(version, node, verb, seconds, knobs)

    def _change_operation(self, version: str, node: Node, verb: str, seconds: float, knobs: Json) -> Json:
        return self._world.operation(
            version,
            node.name,
            verb,
            seconds + float(knobs.get("lro_extra_s", 0)),
            lambda: self._typed(version, node),
            node=node,
            error=knobs.get("lro_error"),
        )

    def _typed(self, version: str, node: Node) -> Json:
        return {"@type": f"{TYPE}{version}.Node", **node.json}

    def _guest_attributes(self, _version: str, request: Json, _knobs: Json) -> Json:
        """The host key and the name of each worker. An empty id stands for all."""
        node = self.find(request["name"])
        asked = [ident for ident in request.get("workerIds", []) if ident]
        workers = [int(ident) for ident in asked if ident.isdigit()] if asked else range(len(node.addresses))
        if len(workers) != (len(asked) or len(node.addresses)) or any(one >= len(node.addresses) for one in workers):
            raise bad_request(f"There is no worker {', '.join(asked)}.")
        return {"guestAttributes": [self._attributes(node, worker) for worker in workers]} if workers else {}

    def _attributes(self, node: Node, worker: int) -> Json:
        machines = self._world.machines
        key = machines.host_key(node, worker) if machines else f"AAAAC3NzaC1lZDI1NTE5AAAAIEmulatedWorker{worker:06d}"
        items = [
            {"namespace": "hostkeys", "key": "ssh-ed25519", "value": key},
            {"namespace": "guestInventory", "key": "hostname", "value": node.hostname(worker)},
        ]
        return {"queryValue": {"items": items}}


def check_labels(labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
            raise bad_request(f"Invalid label '{key}: {value}': lower case letters, digits, - and _, at most 63.")


def _seen(found: Mapping[str, Json], name: str) -> Json:
    if name not in found:
        raise not_found(name)
    return found[name]

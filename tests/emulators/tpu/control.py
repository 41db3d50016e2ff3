"""What a test does behind the backs of the service's users: the same verbs from Python and, as /_emu/VERB, from elsewhere."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

from tests.emulators.tpu.faults import Fault
from tests.emulators.tpu.nodes import Node
from tests.emulators.tpu.queued import Queued
from tests.emulators.tpu.world import Json, World, subject


class Control:
    """Names are full (`projects/...`) or the last part, where only one has it. What is given is a copy."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def _zone(self) -> str:
        return str(next(iter(self.world.zones)))

    # --- time

    def advance(self, seconds: float) -> None:
        """Everything that is due within these seconds happens, each at its time."""
        with self.world.lock:
            self.world.clock.advance(seconds)

    @property
    def now(self) -> float:
        return self.world.clock.now()

    # --- faults

    def fault(self, method: str, *, name: str = "*", times: int | None = 1, after_n: int = 0, **knobs: Any) -> Fault:
        """Lay one: see faults.py for the knobs. `times=None`: for all calls that match. `.met` counts."""
        return self.world.lay(Fault(method, name, times, after_n, knobs))

    def heal(self) -> None:
        with self.world.lock:
            self.world.faults.clear()

    def laid(self) -> list[Fault]:
        """Faults that are not used up."""
        return [fault for fault in self.world.faults if not fault.spent]

    # --- what there is

    def nodes(self, zone: str | None = None) -> dict[str, Json]:
        """By id, those too that lists do not show yet."""
        with self.world.lock:
            self.world.clock.run_due()
            return {
                name.rpartition("/")[2]: copy.deepcopy(node.json)
                for name, node in self.world.nodes.all.items()
                if zone in (None, name.split("/")[3])
            }

    def queued(self, zone: str | None = None) -> dict[str, Json]:
        with self.world.lock:
            self.world.clock.run_due()
            return {
                name.rpartition("/")[2]: copy.deepcopy(one.json)
                for name, one in self.world.queue.all.items()
                if zone in (None, name.split("/")[3])
            }

    def operations(self) -> dict[str, Json]:
        with self.world.lock:
            self.world.clock.run_due()
            return {name: copy.deepcopy(one.json) for name, one in self.world.operations.items()}

    def state(self, name: str) -> Any:
        """Of a node; None where there is none."""
        with self.world.lock:
            self.world.clock.run_due()
            found = self._found(self.world.nodes.all, name)
            return found.state if found else None

    def queued_state(self, name: str) -> str | None:
        with self.world.lock:
            self.world.clock.run_due()
            found = self._found(self.world.queue.all, name)
            return found.state if found else None

    def calls(self, method: str = "*", *, name: str = "*") -> list[Any]:
        """The calls that were made, in order (world.Exchange)."""
        pattern = Fault(method, name, None)
        return [one for one in list(self.world.exchanges) if pattern.meets(one.method, one.name)]

    @property
    def unrouted(self) -> list[str]:
        """What was asked for and is not emulated."""
        return self.world.unrouted

    # --- making and ending things

    def create(
        self, name: str, *, type: str = "v4-8", zone: str | None = None, state: str = "READY", external: bool = True,
        version: str = "v2", **node: Any,
    ) -> Json:  # fmt: skip
        """A node that is there. Faults laid for CreateNode apply. `node`: more of its fields, as the API writes them."""
        wanted = {"acceleratorType": type, **node}
        parent = self.world.parent(zone or self._zone)
        with self.world.lock:
            self.world.clock.run_due()
            family = self.world.accelerator(zone or self._zone, wanted).family
            wanted.setdefault("runtimeVersion", _version_for(family))
            wanted.setdefault(
                "networkConfig", {"network": "default", **({"enableExternalIps": True} if external else {})}
            )
            request = {"parent": parent, "nodeId": name, "node": wanted}
            knobs = self.world._knobs("CreateNode", subject("CreateNode", request))
            self.world.nodes.handlers["CreateNode"](version, request, knobs)
            made = self._node(f"{parent}/nodes/{name}")
            if state != "CREATING" and not {"lro_error", "stuck"} & set(knobs):
                self.world.nodes._come_up(made)
                if made.operation:
                    self.world.finish(made.operation, response=self.world.nodes._typed(version, made))
                if state != "READY":
                    self.set_state(made.name, state)
            return copy.deepcopy(made.json)

    def enqueue(
        self, name: str, *, type: str = "v4-8", zone: str | None = None, node: str = "", slices: int = 0, spot: bool = True,
        version: str = "v2", **more: Any,
    ) -> Json:  # fmt: skip
        """A queued resource for one node, or for some slices; faults laid for CreateQueuedResource apply."""
        parent = self.world.parent(zone or self._zone)
        with self.world.lock:
            self.world.clock.run_due()
            family = self.world.accelerator(zone or self._zone, {"acceleratorType": type}).family
            wanted = {
                "acceleratorType": type,
                "runtimeVersion": _version_for(family),
                "networkConfig": {"network": "default", "enableExternalIps": True},
            }
            spec: Json = {"parent": parent, "node": wanted}
            if slices:
                spec["multisliceParams"] = {"nodeCount": slices, "nodeIdPrefix": node or name}
            else:
                spec["nodeId"] = node or f"{name}-node"
            body = {"tpu": {"nodeSpec": [spec]}, **({"spot": {}} if spot else {"guaranteed": {}}), **more}
            request = {"parent": parent, "queuedResourceId": name, "queuedResource": body}
            knobs = self.world._knobs("CreateQueuedResource", subject("CreateQueuedResource", request))
            self.world.queue.handlers["CreateQueuedResource"](version, request, knobs)
            return copy.deepcopy(self._queued(f"{parent}/queuedResources/{name}").json)

    def delete(self, name: str) -> None:
        """A person deletes a node elsewhere: DELETING, and gone when that is due."""
        with self.world.lock:
            node = self._node(name)
            self.world.nodes.begin_delete(node, {}, self.world.seconds({}, "delete_s"))

    def vanish(self, name: str) -> None:
        """Gone at once, as if it had never been."""
        with self.world.lock:
            self.world.nodes.remove(self._node(name))

    # --- what happens to them

    def preempt(self, name: str, *, state: str = "PREEMPTED") -> None:
        with self.world.lock:
            self.world.nodes.preempt(self._node(name), state)

    def maintenance(self, name: str) -> None:
        with self.world.lock:
            self.world.nodes.announce_maintenance(self._node(name))

    def repair(self, name: str) -> None:
        with self.world.lock:
            self.world.nodes.repair(self._node(name))

    def set_state(self, name: str, state: Any) -> None:
        """Any state, also a number or a word that no client knows. PREEMPTED and TERMINATED: see `preempt`."""
        with self.world.lock:
            if state in ("PREEMPTED", "TERMINATED"):
                self.world.nodes.preempt(self._node(name), state)
            else:
                self.world.nodes.set_state(self._node(name), state)

    def patch(self, name: str, **fields: Any) -> None:
        """Fields of a node as the API shows them, as health='TIMEOUT'. None takes one away."""
        with self.world.lock:
            node = self._node(name)
            for key, value in fields.items():
                node.json.pop(key, None)
                if value is not None:
                    node.json[key] = value
            if "metadata" in fields:
                self.world.nodes.admit(node)

    def set_queued_state(self, name: str, state: str, *, by: str = "SERVICE", **data: Any) -> None:
        """`data`: what goes with the state, as error={...} with FAILED."""
        with self.world.lock:
            self.world.queue.set_state(self._queued(name), state, by=by, **data)

    def suspend(self, name: str) -> None:
        """The service takes a queued resource's nodes back."""
        with self.world.lock:
            self.world.queue.suspend(self._queued(name))

    # --- the project

    def settings(self, **settings: float | None) -> Json:
        """world.SETTINGS: how long things take, how long operations are kept, how many creates a minute may have."""
        with self.world.lock:
            self.world.set(**settings)
            return dict(self.world.settings)

    def quota(self, zone: str | None = None, **limits: int | None) -> Json:
        """`quota(v4=32)`, `quota(**{"v4-preemptible": 0})`; None: no limit. It counts the numbers of types, not chips."""
        with self.world.lock:
            table = self.world.quota.setdefault(zone or self._zone, {})
            for family, limit in limits.items():
                table.pop(family, None)
                if limit is not None:
                    table[family] = limit
            return dict(table)

    def metadata(self, **items: str | None) -> Json:
        """Of the project: what every machine sees, as `ssh-keys` or `enable-oslogin`. None takes one away."""
        with self.world.lock:
            for key, value in items.items():
                self.world.metadata.pop(key, None)
                if value is not None:
                    self.world.metadata[key] = value
            for node in self.world.nodes.owners():
                if node.state == "READY":
                    self.world.nodes.admit(node)
            return dict(self.world.metadata)

    def reset(self) -> None:
        self.world.reset()

    # --- from elsewhere

    def steer(self, verb: str, arguments: Json) -> Any:
        """One verb with JSON arguments. `fault` also takes {"faults": [...]}, `state` and `nodes` and the like answer."""
        if verb not in VERBS:
            raise LookupError(f"no such verb; there are {', '.join(sorted(VERBS))}")
        if verb == "faults":
            return [_shown(fault) for fault in self.laid()]
        if verb in ("unrouted", "now"):
            return getattr(self, verb)
        return _shown(getattr(self, verb)(**arguments))

    def _found(self, there: Any, name: str) -> Any:
        found = [one for full, one in there.items() if name in (full, full.rpartition("/")[2])]
        if len(found) > 1:
            raise LookupError(f"{name} is in several zones: give the whole name")
        return found[0] if found else None

    def _node(self, name: str) -> Node:
        self.world.clock.run_due()
        found = self._found(self.world.nodes.all, name)
        if found is None:
            raise LookupError(f"there is no node {name}; there are {', '.join(self.world.nodes.all) or 'none'}")
        assert isinstance(found, Node)
        return found

    def _queued(self, name: str) -> Queued:
        self.world.clock.run_due()
        found = self._found(self.world.queue.all, name)
        if found is None:
            raise LookupError(
                f"there is no queued resource {name}; there are {', '.join(self.world.queue.all) or 'none'}"
            )
        assert isinstance(found, Queued)
        return found


VERBS = {
    "advance", "now", "fault", "faults", "heal", "nodes", "queued", "operations", "state", "queued_state", "calls", "unrouted",
    "create", "enqueue", "delete", "vanish", "preempt", "maintenance", "repair", "set_state", "patch", "set_queued_state",
    "suspend", "settings", "quota", "metadata", "reset", "worker",
}  # fmt: skip


def _version_for(family: str) -> str:
    from tests.emulators.tpu.catalogue import FAMILIES

    return FAMILIES[family].versions[0]


def _shown(value: Any) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, str | dict):
        return [_shown(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: inner for key, inner in dataclasses.asdict(value).items() if key != "seen"}
    return value

"""Google's control plane in memory: a Control with a clock that tests move, and knobs for what goes wrong.

It keeps the contract of tests/contract/tpu_control_contract.py.
"""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.chips import ACCELERATOR_TYPES, parse_accelerator_type
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Unreachable
from reconciler.core.tpu import (
    Begun,
    Denied,
    Endpoint,
    Exists,
    Listing,
    Made,
    NodeWish,
    TpuNode,
    TpuRequest,
    request_state_of,
    state_of,
)


@dataclass
class _Node:
    node: TpuNode
    ready_at: float
    gone_at: float | None = None
    failure: Denied | None = None
    fails_at: float = 0.0


@dataclass
class _Request:
    request: TpuRequest
    wish: NodeWish
    serves_at: float
    gone_at: float | None = None


@dataclass
class FakeControl:
    """`now` counts seconds; `advance` moves it. A node is READY `boot_s` after its create, and gone `delete_s` after its delete.

    Knobs, each to be set at any time:
    denials       zone -> what creates there are denied with
    later         zone -> what the operation of the next creates there fails with, `fails_after_s` later; the node is gone then
    lost          so many creates act, and their answer is lost (OutcomeUnknown)
    away          zones that do not answer: incomplete listings, Unreachable
    refused       raised by every call (listings: incomplete), such as an AccessRefused
    addresses     the addresses of the machines of the next nodes, in worker order; else 127.0.0.1 for all
    keys          name -> host key by worker
    queue_s       how long a queued resource waits before it makes its node
    stuck         names that never become READY
    calls         (verb, zone, name) of all calls, in order
    """

    boot_s: float = 60.0
    delete_s: float = 30.0
    fails_after_s: float = 20.0
    queue_s: float = 0.0
    now: float = 0.0
    denials: dict[str, Denied] = field(default_factory=dict)
    later: dict[str, Denied] = field(default_factory=dict)
    lost: int = 0
    away: set[str] = field(default_factory=set)
    refused: ReconcilerError | None = None
    addresses: list[str] = field(default_factory=list)
    keys: dict[str, dict[int, str]] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    calls: builtins.list[tuple[str, str, str]] = field(default_factory=list)
    sees_operations: bool = True
    _nodes: dict[tuple[str, str], _Node] = field(default_factory=dict)
    _requests: dict[tuple[str, str], _Request] = field(default_factory=dict)
    _operations: dict[str, _Node] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # --- what happens behind the driver's back

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._settle()

    def node(self, name: str) -> TpuNode | None:
        """The node of this name in any zone, without counting a call."""
        self._settle()
        return next((each.node for (_, other), each in self._nodes.items() if other == name), None)

    def names(self) -> set[str]:
        """Every node that exists: what costs money."""
        self._settle()
        return {name for _, name in self._nodes}

    def change(self, name: str, **fields: object) -> None:
        """Set fields of a node: `change("n", word="REPAIRING")`, `change("n", health="TIMEOUT")`."""
        zone, kept = self._find(name)
        node = replace(kept.node, **fields)  # type: ignore[arg-type]
        kept.node = replace(node, state=state_of(node.word))
        self._nodes[zone, name] = kept

    def preempt(self, name: str, word: str = "PREEMPTED") -> None:
        """Google takes the machines. A queued resource is suspended, and its node is gone."""
        zone, kept = self._find(name)
        self.change(name, word=word)
        if kept.node.request:
            self._set_request(zone, kept.node.request, "SUSPENDED")
            del self._nodes[zone, name]

    def vanish(self, name: str) -> None:
        zone, _ = self._find(name)
        del self._nodes[zone, name]

    def put(self, wish: NodeWish, word: str = "READY") -> TpuNode:
        """A node that somebody else made."""
        self._make(wish, "")
        self.change(wish.name, word=word)
        return self._nodes[wish.zone, wish.name].node

    def set_request(self, name: str, word: str, error: str = "") -> None:
        zone = next(zone for zone, other in self._requests if other == name)
        self._set_request(zone, name, word, error)

    # --- Control

    def list(self, zone: str) -> Listing:
        self.calls.append(("list", zone, ""))
        self._settle()
        if self.refused is not None:
            return Listing(zone, complete=False, error=str(self.refused))
        if zone in self.away:
            return Listing(zone, complete=False, error=f"{zone} does not answer")
        return Listing(
            zone,
            tuple(each.node for (where, _), each in sorted(self._nodes.items()) if where == zone),
            tuple(each.request for (where, _), each in sorted(self._requests.items()) if where == zone),
        )

    def get(self, zone: str, name: str) -> TpuNode | None:
        self._called("get", zone, name)
        kept = self._nodes.get((zone, name))
        return kept.node if kept else None

    def create(self, wish: NodeWish) -> Made:
        self._called("create", wish.zone, wish.name)
        if wish.zone in self.denials:
            return self.denials[wish.zone]
        key = (wish.zone, wish.name)
        if wish.queued_s is not None and key in self._requests:
            asked = self._requests[key]
            if dict(asked.wish.labels) == dict(wish.labels):
                return Begun(f"operations/{wish.name}")
            return Exists(self.get(*key), asked.request)
        if wish.queued_s is None and key in self._nodes:
            return Exists(self._nodes[key].node)
        if wish.queued_s is not None:
            request = TpuRequest(
                wish.name,
                wish.zone,
                "ACCEPTED",
                request_state_of("ACCEPTED"),
                (wish.name,),
                "",
                dict(wish.labels),
                dict(wish.metadata),
            )
            self._requests[key] = _Request(request, wish, self.now + self.queue_s)
            operation = f"operations/{wish.name}"
        else:
            operation = self._make(wish, "")
        if self.lost:
            self.lost -= 1
            raise OutcomeUnknown(f"No answer to the request to create {wish.name}")
        return Begun(operation)

    def failure_of(self, zone: str, operation: str) -> Denied | None:
        self._called("failure_of", zone, operation)
        kept = self._operations.get(operation) if self.sees_operations else None
        return kept.failure if kept is not None and kept.failure is not None and self.now >= kept.fails_at else None

    def delete(self, zone: str, name: str) -> None:
        self._called("delete", zone, name)
        kept = self._nodes.get((zone, name))
        if kept is not None and kept.gone_at is None:
            kept.gone_at = self.now + self.delete_s
            self.change(name, word="DELETING")

    def delete_request(self, zone: str, name: str) -> None:
        self._called("delete_request", zone, name)
        asked = self._requests.get((zone, name))
        if asked is not None and asked.gone_at is None:
            asked.gone_at = self.now + self.delete_s
            self._set_request(zone, name, "DELETING")
            for node in asked.request.nodes:
                if (zone, node) in self._nodes:
                    self.delete(zone, node)

    def host_keys(self, zone: str, name: str) -> Mapping[int, str]:
        self._called("host_keys", zone, name)
        return self.keys.get(name, {}) if (zone, name) in self._nodes else {}

    def types(self, zone: str) -> frozenset[str]:
        self._called("types", zone, "")
        return frozenset(ACCELERATOR_TYPES)

    # --- inside

    def _called(self, verb: str, zone: str, name: str) -> None:
        self.calls.append((verb, zone, name))
        if self.refused is not None:
            raise self.refused
        if zone in self.away:
            raise Unreachable(f"{zone} does not answer")
        self._settle()

    def _find(self, name: str) -> tuple[str, _Node]:
        self._settle()
        return next((zone, kept) for (zone, other), kept in self._nodes.items() if other == name)

    def _make(self, wish: NodeWish, request: str) -> str:
        number = next(self._numbers)
        node = TpuNode(
            name=wish.name,
            zone=wish.zone,
            ident=str(number),
            word="CREATING",
            state=state_of("CREATING"),
            labels=dict(wish.labels),
            metadata=dict(wish.metadata),
            accelerator_type=wish.accelerator_type,
            created=f"2026-01-01T00:00:{number % 60:02d}Z",
            spot=wish.spot,
            preemptible=wish.preemptible,
            request=request,
        )
        kept = _Node(node, self.now + self.boot_s)
        if wish.zone in self.later:
            kept.failure, kept.fails_at = self.later[wish.zone], self.now + self.fails_after_s
        self._nodes[wish.zone, wish.name] = kept
        operation = f"operations/{number}"
        self._operations[operation] = kept
        return operation

    def _settle(self) -> None:
        """All that is due by now."""
        for (zone, name), asked in list(self._requests.items()):
            if asked.gone_at is not None and asked.gone_at <= self.now:
                del self._requests[zone, name]
            elif asked.request.word == "ACCEPTED" and asked.serves_at < self.now:
                self._make(asked.wish, name)
                self._nodes[zone, name].ready_at = asked.serves_at + self.boot_s
                self._set_request(zone, name, "PROVISIONING")
        for (zone, name), kept in list(self._nodes.items()):
            failed = kept.failure is not None and kept.fails_at <= self.now
            if failed or (kept.gone_at is not None and kept.gone_at <= self.now):
                del self._nodes[zone, name]
                asked = self._requests.get((zone, kept.node.request))
                if asked is not None and asked.gone_at is None and kept.gone_at is not None:
                    self._set_request(zone, kept.node.request, "SUSPENDED")
            elif kept.node.word == "CREATING" and kept.ready_at <= self.now and name not in self.stuck:
                self._ready(zone, name, kept)

    def _ready(self, zone: str, name: str, kept: _Node) -> None:
        hosts = parse_accelerator_type(kept.node.accelerator_type).hosts
        addresses = (self.addresses or ["127.0.0.1"] * hosts)[:hosts]
        kept.node = replace(
            kept.node,
            word="READY",
            state=state_of("READY"),
            health="HEALTHY",
            endpoints=tuple(Endpoint(address, address) for address in addresses),
        )
        self.keys.setdefault(name, {})
        if kept.node.request:
            self._set_request(zone, kept.node.request, "ACTIVE")

    def _set_request(self, zone: str, name: str, word: str, error: str = "") -> None:
        asked = self._requests[zone, name]
        asked.request = replace(asked.request, word=word, state=request_state_of(word), error=error)

"""`head.json` of a state in git: version, newest line, hosts that were looked at, lock. Read with every type checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reconciler.store.holder import Holder, holder_from

VERSION = 1


@dataclass(frozen=True, slots=True)
class Lock:
    holder: Holder
    expires: float
    """Seconds since the epoch by the holder's clock: for the holder, and for whoever shares its machine."""


@dataclass(frozen=True, slots=True)
class Head:
    version: int = VERSION
    newest: int = 0
    """Number of the newest journal line."""
    epoch: int = 0
    """How often the lock was taken."""
    scanned: Mapping[str, float] = field(default_factory=dict)
    """Hosts that were looked at completely, and when."""
    lock: Lock | None = None


def load_head(data: bytes) -> Head:
    """Raises TypeError or ValueError for what is not a head. Of another version only the version is read."""
    body = json.loads(data)
    if not isinstance(body, dict):
        raise TypeError(f"expected a JSON object, found {data[:80]!r}")
    version = _count(body, "version", VERSION)
    if version != VERSION:
        return Head(version)
    scanned = body.get("scanned", {})
    if not isinstance(scanned, dict):
        raise TypeError(f"scanned is {scanned!r}, expected an object")
    return Head(
        version,
        _count(body, "newest", 0),
        _count(body, "epoch", 0),
        {name: _time(f"scanned {name}", at) for name, at in scanned.items()},
        _lock(body.get("lock")),
    )


def dump_head(head: Head) -> bytes:
    return json.dumps(asdict(head), separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _lock(body: object) -> Lock | None:
    if body is None:
        return None
    if not isinstance(body, dict):
        raise TypeError(f"lock is {body!r}, expected an object")
    return Lock(holder_from(body.get("holder")), _time("lock expires", body.get("expires")))


def _count(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name, default)
    if type(value) is not int or value < 0:
        raise TypeError(f"{name} is {value!r}, expected a number of 0 or more")
    return value


def _time(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}, expected a time in seconds")
    return float(value)

"""Bytes that are almost right: a few changes to something real, of the kinds that networks, disks and other versions make."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

PIECES = (
    b"", b"\0", b"\n", b"\xff\xfe", b"\xed\xa0\x80", b"null", b"{}", b"[]", b'"', b"\\u0000", b"-1", b"1e999", b"9" * 400,
    b"NaN", b"true", b"@r1 ", b"|", b"=", b":", b"&a *a", b"!!python/object/apply:os.system [x]", b"<<: *x", b"---", b"\t",
    b"# ", b"{{", b"$(x)", b"'",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    "",
    "x",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    {"": None},
    "9" * 50,
    "Running",
)


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus with one to four changes; now and then two spliced, or a JSON value changed as a value."""
    data = rng.choice(corpus)
    if rng.random() < 0.5:
        changed = _as_json(rng, data)
        if changed is not None:
            return changed
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, at + rng.choice([0, 1, 4, 64, len(data)]))
        match rng.randrange(6):
            case 0:
                data = data[:at] + data[end:]
            case 1:
                data = data[:at] + rng.choice(PIECES) + data[end:]
            case 2:
                data = data[:at] + data[at:end] * rng.randint(2, 5) + data[end:]
            case 3:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 4:
                data = data[:at]
            case _:
                other = rng.choice(corpus)
                data = data[:at] + other[rng.randint(0, len(other)) :]
    return data


def _as_json(rng: random.Random, data: bytes) -> bytes | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    for _ in range(rng.randint(1, 4)):
        value = _changed(rng, value)
    return json.dumps(value).encode()


def _changed(rng: random.Random, value: Any) -> Any:
    """One place anywhere in it: another value, gone, or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(VALUES)

"""Names of a sweep's members: made of their values alone. Pure text.

Adding, removing and reordering values, or the keys of a grid, leaves the name of every other member what it is. Another
axis changes them all. Where a name cannot tell two values apart, or they do not fit, eight hex digits of the digest of
the values end it.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from reconciler.core.job import Json
from reconciler.core.names import canonical, digest_of

NAME_MAX: Final = 63
_DIGEST_LENGTH: Final = 8
# Longest name of a sweep: every member's starts with it and a dash, and the shortest of them goes on with the digest.
SWEEP_NAME_MAX: Final = NAME_MAX - 1 - _DIGEST_LENGTH

# `("config", "training", "lr")` or `("env", "SEED")`.
Axis = tuple[str, ...]
Values = tuple[tuple[Axis, Json], ...]

_LEGAL = re.compile(r"[A-Za-z0-9._-]+\Z")
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]+")
# Text that a number, a boolean or null would be written as.
_LITERAL = re.compile(r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)\Z")
_EXPONENT = re.compile(r"e\+?(-?)0*([1-9])")


def _by_axis(pair: tuple[Axis, Json]) -> Axis:
    return pair[0]


def member_name(sweep: str, values: Values) -> str:
    """`sweep-lr-0.1_SEED-1`: made of the values alone, by path, so that the order of keys does not matter either."""
    ordered = sorted(values, key=_by_axis)
    labels = _labels(tuple(axis for axis, _ in ordered))
    exact = True
    parts: list[str] = []
    for (axis, value), label in zip(ordered, labels, strict=True):
        text, plain = _spelled(value, text_only=axis[0] == "env")
        exact = exact and plain and bool(_LEGAL.match(label))
        # A value that reads like the next axis would make two combinations one name.
        exact = exact and not ("_" in text and any(f"_{other}-" in text for other in labels))
        parts.append(f"{_legal(label)}-{text}")
    readable = "_".join(parts)
    if exact and len(sweep) + 1 + len(readable) <= NAME_MAX:
        return f"{sweep}-{readable}"
    tail = digest_of([[list(axis), value] for axis, value in ordered])[:_DIGEST_LENGTH]
    readable = readable[: max(0, SWEEP_NAME_MAX - 1 - len(sweep))].rstrip("._-")
    return f"{sweep}-{readable}-{tail}" if readable else f"{sweep}-{tail}"


@functools.lru_cache(maxsize=64)
def _labels(axes: tuple[Axis, ...]) -> tuple[str, ...]:
    """For each axis the shortest end of its path that no other one has."""
    ends = [{".".join(axis[start:]) for start in range(len(axis))} for axis in axes]
    return tuple(
        next(
            (
                end
                for end in (".".join(axis[start:]) for start in range(len(axis) - 1, -1, -1))
                if not any(end in other for other in ends[:index] + ends[index + 1 :])
            ),
            ".".join(axis),
        )
        for index, axis in enumerate(axes)
    )


def _spelled(value: Json, *, text_only: bool) -> tuple[str, bool]:
    """A value as part of a name, and whether no other value is spelled like that."""
    if isinstance(value, str):
        plain = bool(_LEGAL.match(value)) and (text_only or not _LITERAL.match(value))
        return (value if plain else _legal(value)), plain
    if isinstance(value, float):
        return _EXPONENT.sub(r"e\1\2", repr(value)), True
    text = canonical(value).decode()
    return (text, True) if value is None or isinstance(value, bool | int) else (_legal(text), False)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("-", text[: 2 * NAME_MAX]).strip("._-")

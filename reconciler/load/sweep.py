"""`spec.sweep`: one document -> the members that it stands for, each with a name and the values that make it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from reconciler.core.job import Json
from reconciler.core.names import canonical
from reconciler.load.normal import Wrong
from reconciler.load.sweep_names import NAME_MAX, SWEEP_NAME_MAX, Axis, Values, member_name
from reconciler.load.words import bad_name, did_you_mean, dotted, show

MEMBERS_MAX: Final = 10_000

Place = tuple[str | int, ...]
_GRID: Final = ("spec", "sweep", "grid")
_LIST: Final = ("spec", "sweep", "list")


@dataclass(frozen=True, slots=True)
class Member:
    """One job of a sweep: its name, what the sweep sets for it, and where that stands in the document."""

    name: str
    values: Values
    place: Place
    # Where each axis is written; the same mapping for all members of a grid.
    places: Mapping[Axis, Place] = field(repr=False)

    @property
    def shown(self) -> tuple[tuple[str, Json], ...]:
        """The values by their dotted paths, in the order in which they are written."""
        return tuple((".".join(axis), value) for axis, value in self.values)


def members(name: str, sweep: Mapping[str, Any], wrong: list[Wrong]) -> tuple[Member, ...]:
    """All members of the sweep called `name`, in the order of the file; the last axis of a grid changes fastest.

    `sweep` has passed the schema. What is wrong about it is appended to `wrong`, and the answer is then worth nothing.
    """
    if len(name) > SWEEP_NAME_MAX:
        wrong.append((("metadata", "name"), f"metadata.name: {_too_long(name)}"))
        return ()
    found = tuple(_of_grid(name, sweep["grid"], wrong) if "grid" in sweep else _of_list(name, sweep["list"], wrong))
    taken: dict[str, Member] = {}
    for member in found:
        first = taken.setdefault(member.name, member)
        if first is not member:
            told = f"{_told(member)} would be called {member.name}, as would {_told(first)}"
            advice = "" if "grid" in sweep else ": give one of them a name of its own"
            wrong.append((member.place, told + advice))
    return found


def _too_long(name: str) -> str:
    return (
        f"{show(name)} leaves no room for the names of the sweep's jobs, which start with it: "
        f"expected at most {SWEEP_NAME_MAX} characters"
    )


def _told(member: Member) -> str:
    """`spec.sweep.list[3]`, or the grid and the values of its member."""
    if member.place[:3] == _LIST:
        return dotted(member.place)
    return f"{dotted(member.place)}: " + ", ".join(f"{path}={show(value)}" for path, value in member.shown)


# ---- the two forms ---------------------------------------------------------------------------------------------


def _of_grid(name: str, grid: Mapping[str, list[Json]], wrong: list[Wrong]) -> Iterator[Member]:
    count = math.prod(len(values) for values in grid.values())
    if count > MEMBERS_MAX:
        wrong.append((_GRID, f"spec.sweep.grid: {count} combinations are too many: expected at most {MEMBERS_MAX}"))
        return
    axes: list[Axis] = []
    for path, values in grid.items():
        axis = _axis(path, (*_GRID, path), wrong)
        if axis is not None:
            axes.append(axis)
        seen: dict[bytes, int] = {}
        for index, value in enumerate(values):
            first = seen.setdefault(canonical(value), index)
            if first != index:
                label = dotted((*_GRID, path))
                told = f"{label}[{index}]: {show(value)} stands there already, as {label}[{first}]"
                wrong.append(((*_GRID, path, index), told))
    if wrong:
        return
    places: dict[Axis, Place] = {axis: (*_GRID, path) for axis, path in zip(axes, grid, strict=True)}
    _apart(places, wrong)
    for combination in itertools.product(*grid.values()):
        chosen = tuple(zip(axes, combination, strict=True))
        yield Member(member_name(name, chosen), chosen, _GRID, places)


def _of_list(name: str, entries: list[dict[str, Any]], wrong: list[Wrong]) -> Iterator[Member]:
    seen: dict[bytes, Place] = {}
    for index, entry in enumerate(entries):
        place = (*_LIST, index)
        chosen: dict[Axis, Json] = {}
        places: dict[Axis, Place] = {}
        for axis, value, where in _assignments(entry, place, wrong):
            if axis in chosen:
                wrong.append((where, f"{dotted(place)}: {'.'.join(axis)} is set twice"))
            chosen[axis], places[axis] = value, where
        _apart(places, wrong)
        values = tuple(chosen.items())
        first = seen.setdefault(canonical(sorted((list(axis), value) for axis, value in values)), place)
        if first != place:
            wrong.append((place, f"{dotted(place)} sets the same as {dotted(first)}: keep one of them"))
            continue
        given = entry.get("name")
        if given is None:
            yield Member(member_name(name, values), values, place, places)
            continue
        full = f"{name}-{given}"
        if len(full) > NAME_MAX:
            told = f"{dotted(place)}.name: {show(full)} is too long for a job's name: expected at most {NAME_MAX}"
            wrong.append(((*place, "name"), told))
        yield Member(full, values, place, places)


def _assignments(entry: Mapping[str, Any], place: Place, wrong: list[Wrong]) -> Iterator[tuple[Axis, Json, Place]]:
    for path, value in entry.items():
        where = (*place, path)
        if path == "name":
            continue
        if path in ("config", "env"):
            yield from _leaves((path,), value, where)
        else:
            axis = _axis(path, where, wrong)
            if axis is not None:
                yield axis, value, where


def _leaves(axis: Axis, value: Json, where: Place) -> Iterator[tuple[Axis, Json, Place]]:
    """Nested values go over spec.config mapping by mapping; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _leaves((*axis, name), below, (*where, name))
    else:
        yield axis, value, where


_VARIABLE_PATTERN = "^(?!RECONCILER_)[A-Za-z_][A-Za-z0-9_]*$"
_VARIABLE = re.compile(_VARIABLE_PATTERN.removesuffix("$") + r"\Z")


def _axis(path: str, where: Place, wrong: list[Wrong]) -> Axis | None:
    """The steps of `config.training.lr`; a name of env may hold no dot."""
    root, _, rest = path.partition(".")
    told = ""
    if root == "env" and not _VARIABLE.match(rest):
        told = bad_name(rest, "pattern", _VARIABLE_PATTERN)
    elif root == "config" and not all(rest.split(".")):
        told = f"{path!r} is no path: a part between its dots is empty"
    if told:
        wrong.append((where, f"{dotted(where[:-1])}: {told}"))
        return None
    return ("env", rest) if root == "env" else ("config", *rest.split("."))


def _apart(places: Mapping[Axis, Place], wrong: list[Wrong]) -> None:
    """No axis may lie inside another one: which of the two would win?"""
    for axis, where in places.items():
        for length in range(2, len(axis)):
            if axis[:length] in places:
                told = f"{'.'.join(axis)} lies inside {'.'.join(axis[:length])}, which is set too"
                wrong.append((where, f"{dotted(where[:-1])}: {told}: keep one of them"))


# ---- values over the spec --------------------------------------------------------------------------------------


def members_over(
    name: str, sweep: Mapping[str, Any], spec: Mapping[str, Any], wrong: list[Wrong], *, whole: bool
) -> tuple[Member, ...]:
    """`members`, checked against the normalised spec that they go over. `whole` False: a part of it is not known, because
    the defaults are broken."""
    slips: list[Wrong] = []
    found = members(name, sweep, slips)
    if not slips:
        _check_axes(found, spec, slips, whole=whole)
    wrong.extend(slips)
    return found


def _check_axes(found: Iterable[Member], spec: Mapping[str, Any], wrong: list[Wrong], *, whole: bool) -> None:
    """Would every value reach the job? A path must lead to something that spec.config already holds: a typo would
    otherwise start a sweep that varies nothing. In an empty config there is nothing to compare with."""
    config: dict[str, Any] = spec["config"]
    checked: set[Axis] = set()
    paths: frozenset[Axis] | None = None
    for member in found:
        axes = frozenset(axis for axis, _ in member.values if axis[0] == "config")
        if paths is None:
            paths = axes
        elif not config and whole and axes != paths:
            told = "spec.config is empty, so that a typo cannot be told from a new value"
            advice = "set the same paths in every entry, or write the usual values into spec.config"
            wrong.append((member.place, f"{dotted(member.place)}: {told}: {advice}"))
            return
        for axis in (axis for axis, _ in member.values if axis not in checked):
            checked.add(axis)
            told = _unreachable(axis, config) if axis[0] == "config" and config and whole else ""
            if axis[0] == "env" and axis[1] in spec["secrets"]:
                told = f"{axis[1]} is also in spec.secrets: keep one of them"
            if told:
                wrong.append((member.places[axis], f"{dotted(member.place)}: {told}"))


def _unreachable(axis: Axis, config: Mapping[str, Any]) -> str:
    below: Any = config
    for depth, step in enumerate(axis[1:], 1):
        if not isinstance(below, dict):
            return f"{'.'.join(axis)} goes through spec.{'.'.join(axis[:depth])}, which is {show(below)} and no mapping"
        if step not in below:
            near = did_you_mean(".".join(axis[1:]), (".".join(known) for known in _paths((), config)))
            tail = near.replace("'", "'config.", 1) or ": write its usual value there"
            return f"{'.'.join(axis)} is not in spec.config{tail}"
        below = below[step]
    return ""


def _paths(axis: Axis, value: Any) -> Iterator[Axis]:
    for name, below in value.items():
        yield (*axis, name)
        if isinstance(below, dict):
            yield from _paths((*axis, name), below)


def applied(member: Member, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The normalised spec with the member's values over it. `spec` is not changed."""
    changed: dict[str, Any] = {"config": spec["config"], "env": spec["env"]}
    for axis, value in member.values:
        below = changed
        for step in axis[:-1]:
            inner = below.get(step)
            below[step] = dict(inner) if isinstance(inner, dict) else {}
            below = below[step]
        below[axis[-1]] = value
    return {**spec, **changed}

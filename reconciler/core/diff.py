"""What changed between two specs, field by field, with the effect of each change. The only home of deepdiff."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.fields import Effect, effect_of, filled
from reconciler.core.job import Json


@dataclass(frozen=True, slots=True)
class Change:
    """One field: `path` in the manifest's own words, both values (None: not set), and what applying it does."""

    path: str
    old: Json
    new: Json
    effect: Effect

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.old)} -> {_short(self.new)} ({self.effect.value})"


def changes(old: Mapping[str, Json], new: Mapping[str, Json]) -> tuple[Change, ...]:
    """All differences between two normalised documents, sorted by path. Key order never matters; `1` and `1.0` differ.

    `old` may be of an older version: fields that it did not know count as their defaults.
    """
    from deepdiff import DeepDiff  # noqa: PLC0415  0.4 s of import, needed only when something changed

    # The threshold options are pinned: by default deepdiff reports a whole parent once two maps share few keys, and pairs
    # list items by distance, so that the same edit reads differently from one spec to the next.
    spec = old.get("spec")
    found: Any = DeepDiff(
        {**old, "spec": filled(spec)} if isinstance(spec, dict) else dict(old),
        dict(new),
        threshold_to_diff_deeper=0,
        ignore_order=False,
        verbose_level=2,
        view="tree",
        ignore_numeric_type_changes=False,
        iterable_compare_func=None,
    )
    result: dict[str, Change] = {}
    for items in found.values():
        for item in items:
            parts = item.path(output_format="list")
            field = ".".join(part for part in parts if isinstance(part, str))
            path = _path(parts)
            result[path] = Change(path, _value(item.t1), _value(item.t2), effect_of(field))
    return tuple(result[path] for path in sorted(result))


def _path(parts: list[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _value(value: Any) -> Json:
    # deepdiff marks "nothing here" by an object of its own; anything JSON cannot hold is that mark.
    return value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else None


def _short(value: Json, *, length_max: int = 60) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= length_max else text[: length_max - 1] + "…"

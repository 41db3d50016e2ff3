"""What an edit of each manifest field does to a job: nothing, a change in place, or another run. One table. Pure.

The digest of a job is made of exactly the fields marked REPLACE here (and its key), so the table is also the answer
to "what counts as a different job". A field whose value is its default adds nothing to a digest: a new field with a
default therefore replaces nobody's runs, and writing a default out changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from reconciler.core.job import Json


class Effect(enum.Enum):
    """What happens to a live run when the field changes."""

    NONE = "none"
    IN_PLACE = "in place"
    REPLACE = "replace"


# Path in the normalised document -> effect. A path covers everything below it. `spec.generation` is handled apart: a
# bump asks for a new run, whatever the digests say. `spec.sweep` is in no normalised document: its members are.
FIELDS: dict[str, Effect] = {
    "metadata.labels": Effect.NONE,
    "spec.generation": Effect.IN_PLACE,
    "spec.stages": Effect.REPLACE,
    "spec.job": Effect.REPLACE,
    "spec.config": Effect.REPLACE,
    "spec.source": Effect.REPLACE,
    "spec.request": Effect.REPLACE,
    "spec.env": Effect.REPLACE,
    "spec.secrets": Effect.REPLACE,
    "spec.python": Effect.REPLACE,
    "spec.setup": Effect.REPLACE,
    "spec.modules": Effect.REPLACE,
    "spec.checkpoint.dir": Effect.REPLACE,
    "spec.checkpoint.keep_on_delete": Effect.IN_PLACE,
    "spec.restart": Effect.IN_PLACE,
    "spec.on_change": Effect.IN_PLACE,
    "spec.suspend": Effect.IN_PLACE,
    "spec.deletion": Effect.IN_PLACE,
    "spec.priority": Effect.IN_PLACE,
    "spec.depends_on": Effect.IN_PLACE,
    "spec.ttl": Effect.IN_PLACE,
    "spec.grace": Effect.IN_PLACE,
    "spec.slurm": Effect.REPLACE,
    "spec.tpu": Effect.REPLACE,
    "spec.tpu.delete_on_exit": Effect.IN_PLACE,
    "spec.tpu.keep_for": Effect.IN_PLACE,
    "spec.tpu.ttl": Effect.IN_PLACE,
    "spec.volcano": Effect.REPLACE,
    "spec.sweep": Effect.IN_PLACE,
}

# Written in the file, gone in the normalised document, where `stages` stands for both.
WRITTEN_AS: dict[str, str] = {"spec.command": "spec.stages"}

# The whole spec of a job that says nothing: what a normalised document holds where the file is silent. Durations are
# seconds, memory is bytes, null in `restart` is "unlimited".
DEFAULTS: dict[str, Json] = {
    "generation": 1,
    "stages": [],
    "job": None,
    "config": {},
    "source": {"repo": ".", "ref": "HEAD", "dirty": False, "mode": "archive", "files": [], "submodules": False},
    "request": {
        "chip": None,
        "min_chips": 0,
        "n_shards": 1,
        "clusters": [],
        "exclude_clusters": [],
        "hosts": [],
        "time": None,
        "mem": None,
    },
    "env": {},
    "secrets": {},
    "python": None,
    "setup": [],
    "modules": [],
    "checkpoint": {"dir": None, "keep_on_delete": True},
    "restart": {
        "preemption": None,
        "infrastructure": 10,
        "failure": 3,
        "timeout": 0,
        "out_of_memory": 0,
        "cancelled": 0,
        "owner": "reconciler",
        "same_failure": 5,
        "backoff": {"initial": 10, "max": 600},
    },
    "on_change": "replace",
    "suspend": False,
    "deletion": "cancel",
    "priority": 0,
    "depends_on": [],
    "ttl": None,
    "grace": 30,
    "slurm": {},
    "tpu": {},
    "volcano": {},
}

# Fields of `restart` that came later. At their defaults they are in no digest: those of running jobs must not move.
_LATER = ("cancelled", "owner", "same_failure")

PYTHON_DEFAULTS: dict[str, Json] = {"groups": [], "version": None}


def effect_of(path: str) -> Effect:
    """Effect of a change at `path` of a normalised document (`spec.request.chip`): that of the longest path in the
    table.

    Raises KeyError for a path that is not below any entry.
    """
    path = WRITTEN_AS.get(path, path)
    while path:
        if path in FIELDS:
            return FIELDS[path]
        path = path.rpartition(".")[0]
    raise KeyError(path)


_REPLACE_WHOLE = tuple(path[5:] for path, effect in FIELDS.items() if effect is Effect.REPLACE and path.count(".") == 1)
# Fields of theirs that do not count, though the others do.
_PARTLY: dict[str, frozenset[str]] = {
    "tpu": frozenset(
        path[9:] for path, effect in FIELDS.items() if path.startswith("spec.tpu.") and effect is Effect.IN_PLACE
    )
}
_OBJECTS: dict[str, dict[str, Json]] = {
    **{name: default for name in ("source", "request") if isinstance(default := DEFAULTS[name], dict)},
    "python": PYTHON_DEFAULTS,
}


def replace_part(spec: Mapping[str, Json]) -> dict[str, Json]:
    """The part of a normalised spec whose change means another run, without what equals its default."""
    part: dict[str, Json] = {}
    for name in _REPLACE_WHOLE:
        value = spec[name]
        if value == DEFAULTS[name]:
            continue
        if name in _PARTLY and isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in _PARTLY[name]}
            if not value:
                continue
        below = _OBJECTS.get(name)
        if below is not None and isinstance(value, dict):
            value = {key: item for key, item in value.items() if item != below[key]}
        part[name] = value
    checkpoint = spec["checkpoint"]
    if isinstance(checkpoint, dict) and checkpoint["dir"] is not None:
        part["checkpoint.dir"] = checkpoint["dir"]
    return part


def whole_part(spec: Mapping[str, Json]) -> dict[str, Json]:
    """Every field of a normalised spec without what equals its default, for the digest that notices any edit."""
    part = {name: value for name, value in spec.items() if value != DEFAULTS[name]}
    if "restart" in part:
        part["restart"] = {name: value for name, value in _restart(spec).items() if not _later_default(name, value)}
    return part


def filled(spec: Mapping[str, Json]) -> dict[str, Json]:
    """A normalised spec that an older version wrote, with the defaults of the fields that it did not know."""
    return {**DEFAULTS, **spec, "restart": _restart(spec)}


def _restart(spec: Mapping[str, Json]) -> dict[str, Json]:
    default, own = DEFAULTS["restart"], spec.get("restart")
    assert isinstance(default, dict)
    return {**default, **own} if isinstance(own, dict) else default


def _later_default(name: str, value: Json) -> bool:
    default = DEFAULTS["restart"]
    return name in _LATER and isinstance(default, dict) and value == default[name]

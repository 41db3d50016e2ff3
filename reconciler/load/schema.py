"""The schema files: found, compiled, and their refusals put into words.

A document that is right passes through code compiled from the schema (fastjsonschema, microseconds). Only one that is
refused is looked at again by jsonschema, which tells every error with its place. Both read the same files; a property
test holds them to the same answer.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reconciler.core.job import Json

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

# A value is quoted in a message up to this many characters; the line number says where the rest stands.
SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing a schema refuses: where in the value, and the sentence for people, without the path."""

    path: tuple[str | int, ...]
    message: str
    # The field's own name when the problem is that it should not be there: its line is more telling than its parent's.
    key: str | None = None


def schema_text(name: str) -> str:
    """Text of `schemas/{name}.schema.json`.

    From the installed package, else from the checkout. Raises FileNotFoundError.
    """
    packed = importlib.resources.files("reconciler") / "_schemas" / f"{name}.schema.json"
    if packed.is_file():
        return packed.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The parsed schema. `defaults` is derived from `job`: nothing is required, and there is no name."""
    if name == "defaults":
        return _defaults_of(schema("job"))
    document: dict[str, Any] = json.loads(schema_text(name))
    return document


def _defaults_of(job: dict[str, Any]) -> dict[str, Any]:
    """What may stand in a `_defaults.yaml`: the shape of a job with everything optional and without `metadata.name`."""
    document: dict[str, Any] = json.loads(json.dumps(job))
    document |= {
        "$id": "urn:reconciler:schema:defaults:v1",
        "title": "Defaults of a directory",
        "description": "Values for every job of this directory and the ones below it; a job's own go over them.",
        "required": [],
        "examples": [{"metadata": {"project": "lm"}, "spec": {"env": {"NCCL_DEBUG": "WARN"}}}],
    }
    metadata, spec = document["properties"]["metadata"], document["properties"]["spec"]
    metadata["required"] = []
    del metadata["properties"]["name"]
    metadata["examples"] = [{"project": "lm"}]
    del spec["oneOf"]
    del document["properties"]["apiVersion"], document["properties"]["kind"]
    return document


@functools.cache
def schemas_digest() -> str:
    """Changes whenever a schema does: part of the key of everything cached from a manifest."""
    return hashlib.sha256(b"\0".join(schema_text(name).encode() for name in ("job", "inventory"))).hexdigest()


@functools.cache
def _compiled(name: str) -> Callable[[Json], Json]:
    import fastjsonschema  # noqa: PLC0415  (20 ms, paid by those who load files, not by every command)

    validator: Callable[[Json], Json] = fastjsonschema.compile(
        schema(name), use_default=False, detailed_exceptions=False
    )
    return validator


@functools.cache
def _refused() -> type[Exception]:
    from fastjsonschema import JsonSchemaValueException  # noqa: PLC0415

    error: type[Exception] = JsonSchemaValueException
    return error


def accepts(name: str, value: Json) -> bool:
    """Does the schema take the value? The fast path."""
    try:
        _compiled(name)(value)
    except _refused():
        return False
    return True


def refusals(
    name: str, value: Json, written: Callable[[tuple[str | int, ...]], str | None] = lambda _path: None
) -> list[Refusal]:
    """Everything the schema refuses about the value, in the order of the file's fields; empty when it takes it.

    `written` gives a scalar as it stands in the file, to tell `3.10` from 3.1.
    """
    if accepts(name, value):
        return []
    validator = _exact(name)
    found: list[Refusal] = []
    for error in validator.iter_errors(value):
        found.extend(_words(name, error, written))
    if not found:  # the fast path refuses what the exact one takes: a bug here, and no reason to launch anything
        found.append(Refusal((), "The schema refuses this document and cannot say why; please report it"))
    unique = {(refusal.path, refusal.message): refusal for refusal in found}
    return list(unique.values())


@functools.cache
def _exact(name: str) -> Any:
    import jsonschema  # noqa: PLC0415  (120 ms, and only for a document that is refused)
    from jsonschema.validators import extend  # noqa: PLC0415

    def pattern(_validator: object, regex: str, instance: object, _schema: object) -> Iterator[ValidationError]:
        # Python's `$` also matches before a last newline; ECMA's, and the compiled code's, does not.
        if isinstance(instance, str) and not re.search(regex.replace("$", r"\Z"), instance):
            yield jsonschema.ValidationError(f"{instance!r} does not match")

    strict: Any = extend(jsonschema.Draft202012Validator, {"pattern": pattern})  # type: ignore[no-untyped-call]
    return strict(schema(name))


# ---- words -------------------------------------------------------------------------------------------------

_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def show(value: object) -> str:
    """A value as it may be quoted in a message: JSON, on one line, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, else empty."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(words: Iterable[str]) -> str:
    """`a, b or c`."""
    listed = list(words)
    return listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + f" or {listed[-1]}"


@functools.cache
def places(name: str) -> Mapping[str, tuple[str, ...]]:
    """Field name -> the paths at which the schema knows it, for hints about a field at the wrong level."""
    found: dict[str, list[str]] = {}

    def walk(node: dict[str, Any], path: str) -> None:
        for field, below in node.get("properties", {}).items():
            found.setdefault(field, []).append(f"{path}{field}")
            walk(below, f"{path}{field}.")

    walk(schema(name), "")
    return {field: tuple(paths) for field, paths in found.items()}


# Fields that people bring from other tools, and what they are called here.
_FOREIGN = {
    "image": "spec.volcano.image",
    "partition": "spec.slurm.partition",
    "account": "spec.slurm.account",
    "gpus": "spec.request.min_chips",
    "n_gpus": "spec.request.min_chips",
    "n_chips": "spec.request.min_chips",
    "gpu": "spec.request.chip",
    "walltime": "spec.request.time",
    "memory": "spec.request.mem",
    "args": "spec.command",
    "script": "spec.command",
    "cmd": "spec.command",
    "environment": "spec.env",
    "needs": "spec.depends_on",
    "namespace": "spec.volcano.namespace",
}


def _words(
    name: str, error: ValidationError, written: Callable[[tuple[str | int, ...]], str | None]
) -> Iterator[Refusal]:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    rule, limit = str(error.validator), cast(Any, error.validator_value)
    here = cast(dict[str, Any], error.schema)
    label = dotted(path) or "the document"
    if rule == "additionalProperties":
        known = here.get("properties", {})
        for key in value:
            if key not in known:
                yield Refusal((*path, key), _unknown(name, path, str(key), known), key=str(key))
    elif rule == "required":
        for key in limit:
            if key not in value:
                yield Refusal(
                    path,
                    f"{label} needs {key}: {here.get('properties', {}).get(key, {}).get('description', '')}".rstrip(
                        ": "
                    ),
                )
    elif rule == "oneOf" and not isinstance(value, dict):
        pass  # told by the rule for the type
    elif rule == "oneOf":
        choices = [choice["required"][0] for choice in limit]
        given = [choice for choice in choices if choice in value]
        has = f"it has {' and '.join(given)}" if given else "it has none of them"
        yield Refusal(path, f"{label} needs exactly one of {one_of(choices).replace(' or ', ' and ')}: {has}")
    elif error.schema_path and "propertyNames" in error.absolute_schema_path:
        yield Refusal((*path, value), f"{label}: {_bad_name(str(value), rule, limit)}", key=str(value))
    elif rule == "type":
        yield Refusal(path, f"{label}: {_bad_type(path, value, here, written)}")
    elif rule == "enum":
        words = [str(word) for word in limit]
        yield Refusal(
            path, f"{label}: {show(value)} is not known: expected {one_of(words)}{did_you_mean(str(value), words)}"
        )
    else:
        yield Refusal(path, f"{label}: {_bad_value(rule, value, error, here)}")


def dotted(path: Iterable[str | int]) -> str:
    """`spec.command[3]` for a path."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _unknown(name: str, path: tuple[str | int, ...], key: str, known: Mapping[str, Any]) -> str:
    parent = dotted(path)
    where = f"{parent} has no field {key!r}" if parent else f"There is no field {key!r} at the top"
    elsewhere = [place for place in places(name).get(key, ()) if place != f"{parent}.{key}"]
    near = did_you_mean(key, known)
    if elsewhere and name in ("job", "defaults"):
        parents = one_of(place.rpartition(".")[0] or "the top" for place in elsewhere)
        return f"{where}; it belongs under {parents}: write {elsewhere[0]}"
    if near:
        return where + near
    if name in ("job", "defaults") and key in _FOREIGN:
        return f"{where}; here it is called {_FOREIGN[key]}"
    return f"{where}: expected {one_of(sorted(known))}" if known else where


def _bad_name(key: str, rule: str, limit: Any) -> str:
    if rule == "enum":
        words = [str(word) for word in limit]
        return f"{key!r} is not known: expected {one_of(words)}{did_you_mean(key, words)}"
    if key.startswith("RECONCILER_"):
        return f"{key!r} is reserved: names starting with RECONCILER_ are set by the reconciler"
    if "A-Za-z_" in str(limit):
        return f"{key!r} is not the name of a variable: expected letters, digits and '_', not starting with a digit"
    return f"{key!r} is not a name: expected 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit"


def _bad_type(
    path: tuple[str | int, ...],
    value: object,
    here: Mapping[str, Any],
    written: Callable[[tuple[str | int, ...]], str | None],
) -> str:
    kinds = [here["type"]] if isinstance(here["type"], str) else list(here["type"])
    expected = here.get("patternErrorMessage") or one_of(_KINDS[kind] for kind in kinds)
    raw = written(path)
    if value is None:
        return f"nothing is written here: expected {expected}"
    if "string" in kinds and isinstance(value, bool | int | float):
        kind = "a boolean" if isinstance(value, bool) else "a number"
        return f'{raw or show(value)} is {kind} and text is expected here: write "{raw or show(value)}"'
    if isinstance(value, str) and "array" in kinds:
        return f"{show(value)} is text: expected {expected}, such as [{show(value)}]"
    if isinstance(value, str) and {"integer", "number", "boolean"} & set(kinds) and "string" not in kinds:
        return f"{show(value)} is text: expected {expected}, without quotes"
    return f"{show(value)} is not {expected}"


_PATTERN_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[0-9]+:[0-9]{2}\Z"), 'write "0:{0}" for minutes and seconds, or "{0}:00" for hours and minutes'),
    (
        re.compile(r"[0-9]+ ?(?:[kmgt]b|[KMGT]i?B|[kmgt]i?)\Z", re.IGNORECASE),
        "write a capital letter alone, such as 128G",
    ),
    (re.compile(r"[0-9]+ ?(?:sec|min|hour|day|hr)s?\Z"), "write the unit as one letter: w, d, h, m or s"),
)


def _bad_value(rule: str, value: object, error: ValidationError, here: Mapping[str, Any]) -> str:
    limit: Any = error.validator_value
    if rule == "pattern":
        hint = next((f"; {text.format(value)}" for regex, text in _PATTERN_HINTS if regex.match(str(value))), "")
        return f"{show(value)} is not {here.get('patternErrorMessage', f'text like {limit}')}{hint}"
    if rule == "minimum":
        return f"{show(value)} is too small: expected at least {limit}"
    if rule == "maximum":
        return f"{show(value)} is too large: expected at most {limit}"
    if rule in ("minItems", "minLength", "minProperties"):
        return f"it is empty: {here.get('description', 'expected at least one')}"
    if rule == "maxProperties":
        assert isinstance(value, dict)
        return f"it has {' and '.join(map(str, value))}: expected exactly one of them"
    if rule in ("maxItems", "maxLength"):
        return f"it is too long: expected at most {limit}"
    if rule == "uniqueItems":
        return "an entry stands there twice"
    return error.message

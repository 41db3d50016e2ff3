"""The schema files: found, compiled, and their refusals put into words.

A document that is right passes through code compiled from the schema (fastjsonschema, microseconds). Only one that is
refused is looked at again by jsonschema, which tells every error with its place. Both read the same files; a property
test holds them to the same answer.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.job import Json
from reconciler.load.words import Refusal, words

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError


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
    """The parsed schema. `defaults` is derived from `job`: nothing is required, and there is no name. `allow` is that field of
    `inventory`."""
    if name == "defaults":
        return _defaults_of(schema("job"))
    if name == "allow":
        permitted: dict[str, Any] = schema("inventory")["properties"]["allow"]
        return permitted
    document: dict[str, Any] = json.loads(schema_text(name))
    return document


def _defaults_of(job: dict[str, Any]) -> dict[str, Any]:
    """What may stand in a `_defaults.yaml`: the shape of a job with everything optional, without `metadata.name` and
    without `spec.sweep`, which would turn every job below into many."""
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
    del spec["oneOf"], spec["properties"]["sweep"]
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
        found.extend(words(name, places(name), error, written))
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

"""What a schema refuses, in words: where, what was expected, and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

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
    "matrix": "spec.sweep.grid",
    "array": "spec.sweep",
}


def words(
    name: str,
    known_at: Mapping[str, tuple[str, ...]],
    error: ValidationError,
    written: Callable[[tuple[str | int, ...]], str | None],
) -> Iterator[Refusal]:
    path = tuple(error.absolute_path)
    value: Any = error.instance
    rule, limit = str(error.validator), cast(Any, error.validator_value)
    here = cast(dict[str, Any], error.schema)
    label = dotted(path) or "the document"
    if rule == "additionalProperties":
        known = here.get("properties", {})
        patterns = here.get("patternProperties", {})
        for key in value:
            if any(re.search(pattern, key) for pattern in patterns):
                continue
            if key not in known and patterns:
                yield Refusal((*path, key), f"{label}: {key!r} is not {here['patternErrorMessage']}", key=str(key))
            elif key not in known:
                yield Refusal((*path, key), _unknown(name, path, str(key), known, known_at), key=str(key))
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
        yield Refusal((*path, value), f"{label}: {bad_name(str(value), rule, limit)}", key=str(value))
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


def _unknown(
    name: str, path: tuple[str | int, ...], key: str, known: Mapping[str, Any], known_at: Mapping[str, tuple[str, ...]]
) -> str:
    parent = dotted(path)
    where = f"{parent} has no field {key!r}" if parent else f"There is no field {key!r} at the top"
    if (name, path, key) == ("defaults", ("spec",), "sweep"):
        return f"{where}: a sweep is one document's, write it there"
    elsewhere = [place for place in known_at.get(key, ()) if place != f"{parent}.{key}"]
    near = did_you_mean(key, known)
    if elsewhere and name in ("job", "defaults"):
        parents = one_of(place.rpartition(".")[0] or "the top" for place in elsewhere)
        return f"{where}; it belongs under {parents}: write {elsewhere[0]}"
    if near:
        return where + near
    if name in ("job", "defaults") and key in _FOREIGN:
        return f"{where}; here it is called {_FOREIGN[key]}"
    return f"{where}: expected {one_of(sorted(known))}" if known else where


def bad_name(key: str, rule: str, limit: Any) -> str:
    """What is wrong with a key that the rule of a schema refuses."""
    if rule == "enum":
        words = [str(word) for word in limit]
        return f"{key!r} is not known: expected {one_of(words)}{did_you_mean(key, words)}"
    if rule == "not":
        if key.startswith("reconciler/"):
            return f"{key!r} is ours: keys that start with reconciler/ say whose an object is"
        return f"{key!r} is decided here, or has a field of its own: it cannot be given"
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

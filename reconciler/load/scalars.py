"""Plain scalars: which text means the same to every YAML reader, and what to write in place of the rest. Pure.

Sources: yaml.org/type (YAML 1.1), YAML 1.2.2 section 10.3, PyYAML's resolver.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from reconciler.core.job import Json

# Integers that other readers of our JSON (jq, JavaScript, SQLite) keep exactly or refuse loudly.
INT_BITS_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class Surprise:
    """A plain scalar that does not mean the same to everybody: how it is read, and what to write."""

    message: str


_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_BASE60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}.*)?\Z")
_OTHER_BASE = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?\Z")
_LOOSE_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|nan)\Z", re.IGNORECASE)
_WORDS: dict[str, bool | None] = {
    "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "~": None
}  # fmt: skip
_JSON_WORDS: dict[str, Json] = {"": None, "null": None, "true": True, "false": False}
_MAYBE_NUMBER = frozenset("-+.0123456789")


def scalar(text: str) -> Json | Surprise:
    """The value of a plain scalar, or how it would surprise."""
    if text in _JSON_WORDS:
        return _JSON_WORDS[text]
    if text[0] in _MAYBE_NUMBER:
        return _number(text)
    word = text.lower()
    if word in _WORDS:
        meant = _WORDS[word]
        json_word = {True: "true", False: "false", None: "null"}[meant]
        kind = "nothing (null)" if meant is None else "a boolean"
        return Surprise(f"{text} is read by YAML as {kind}: write {json_word}, or {quote(text)} for text")
    if text in ("<<", "="):
        return Surprise(f"{text} has a meaning of its own in YAML: write {quote(text)} for text")
    return text


def _number(text: str) -> Json | Surprise:
    found = _JSON_NUMBER.match(text)
    if found:
        if found[1] or found[2]:
            number = float(text)
            if math.isinf(number):
                return Surprise(
                    f"{cut(text)} is larger than any number a computer keeps: write {quote(cut(text))} for text"
                )
            return number
        if len(text) > 20 or (whole := int(text)).bit_length() > INT_BITS_MAX:
            return Surprise(f"{cut(text)} does not fit into 64 bits: write {quote(cut(text))} for text")
        return whole
    quoted = quote(cut(text))
    if _BASE60.match(text):
        return Surprise(f"{cut(text)} is read by YAML as a number in base 60: write {quoted}")
    if _DATE.match(text):
        return Surprise(f"{cut(text)} is read by YAML as a date: write {quoted}")
    if _NOT_FINITE.match(text):
        return Surprise(f"{text} is read by YAML as a number that JSON cannot hold: write {quoted} for text")
    if _OTHER_BASE.match(text):
        return Surprise(
            f"{cut(text)} is a number to some YAML readers and text to others: write the decimal number, or {quoted}"
        )
    if _LEADING_ZERO.match(text):
        plain = text.lstrip("+-").lstrip("0").replace("_", "") or "0"
        return Surprise(
            f"{cut(text)} is octal to some YAML readers, decimal to others: write {cut(plain)}, or {quoted} for text"
        )
    if _LOOSE_NUMBER.match(text):
        return Surprise(
            f"{cut(text)} is a number to some YAML readers, text to others: write a number as JSON does, or {quoted}"
        )
    return text


def quote(text: str) -> str:
    return f'"{text}"'


def cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

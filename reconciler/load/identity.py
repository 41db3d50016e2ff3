"""Which job a broken document is about: read with certainty, or not at all.

A wrong guess would freeze somebody else's job and leave the right one to be pruned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.core.names import JobKey, is_name
from reconciler.load.defaults import Defaults
from reconciler.load.normal import Wrong
from reconciler.load.schema import accepts
from reconciler.load.strict_yaml import Document
from reconciler.load.sweep import members


def keys_of(document: Document, under: Defaults) -> frozenset[JobKey]:
    """Keys of the jobs that a broken document is about; empty when that cannot be told with certainty."""
    if document.parsed:
        key = _key_of_value(document, under)
        return frozenset() if key is None else frozenset((key,))
    keys = [_key_of_text(part, under) for part in re.split(r"(?m)^---(?=\s|$)", document.text) if part.strip()]
    return frozenset(key for key in keys if key is not None) if None not in keys else frozenset()


# What shows that a document is, or was meant to be, a sweep: its fields, paths of values, and "sweep" with a slip of the pen.
_WORDS = r"(?<![A-Za-z])(?:s[wep]{2,6}s?(?![A-Za-z])|(?:grid|list|parallel)(?![A-Za-z])|(?:config|env)\.)"
_SWEEPISH = re.compile(_WORDS, re.IGNORECASE)
_SWEEPISH_TEXT = re.compile(rf"""{_WORDS}[^\s:]*["']?[ ]*:""", re.IGNORECASE)
_FREE = (("metadata", "labels"), ("spec", "config"))


def may_be_sweep(document: Document) -> bool:
    """May a broken document be one of a sweep, so that more jobs than the one of its name hang on it?"""
    if not document.parsed:
        return bool(_SWEEPISH_TEXT.search(document.text))
    return any(_SWEEPISH.search(key) for key in document.keys(but_below=_FREE))


def members_of(document: Document, keys: frozenset[JobKey]) -> frozenset[JobKey]:
    """The members of the sweep that a document is, as far as its own part about the sweep is in order; else empty."""
    value = document.value
    spec = value.get("spec") if document.parsed and isinstance(value, dict) else None
    sweep = spec.get("sweep") if isinstance(spec, dict) else None
    if sweep is None or len(keys) != 1 or any(path.startswith("spec.sweep") for path in document.touched):
        return frozenset()
    (key,) = keys
    alone: dict[str, Any] = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": key.name}}
    if not accepts("job", {**alone, "spec": {"command": ["true"], "sweep": sweep}}):
        return frozenset()
    assert isinstance(sweep, dict)
    wrong: list[Wrong] = []
    found = members(key.name, sweep, wrong)
    return frozenset() if wrong else frozenset(JobKey(key.project, key.group, member.name) for member in found)


_IDENTITY = ("name", "project", "group")


def _key_of_value(document: Document, under: Defaults) -> JobKey | None:
    value = document.value
    if not isinstance(value, dict) or any(
        path in ("", "metadata") or path.split(".")[0:2] in (["metadata", name] for name in _IDENTITY)
        for path in document.touched
    ):
        return None
    metadata, spec = value.get("metadata"), value.get("spec")
    if not isinstance(metadata, dict) or set(metadata) - {*_IDENTITY, "labels"}:
        return None  # `projct: lm` would otherwise freeze the wrong job and leave the right one to be pruned
    if any(name in value or (isinstance(spec, dict) and name in spec) for name in _IDENTITY):
        return None
    return _key(metadata, under)


_METADATA = re.compile(r"^metadata[ ]*:(.*(?:\n(?:[ \t].*|\r?))*)", re.MULTILINE)
_FIELD = re.compile(
    r"""(?:^|[\s{,])(name|project|group)[ ]*:[ ]+(["']?)([A-Za-z0-9][A-Za-z0-9._-]*)\2[ ]*(?=[,}\r\n]|\s\#|\Z)"""
)
_WORD = re.compile(r"\b(?:name|project|group)\b")


def _key_of_text(text: str, under: Defaults) -> JobKey | None:
    """The key in text that is no YAML: only where there is one `metadata`, and each field in it is plain to see."""
    sections = _METADATA.findall(text)
    if len(sections) != 1:
        return None
    section = re.sub(r"(?m)(?:^|\s)#.*$", "", re.split(r"\n[ \t]+labels[ ]*:", sections[0])[0])
    section = re.sub(r"labels[ ]*:[ ]*\{[^{}]*\}", "", section)
    fields = {name: value for name, _, value in _FIELD.findall(section)}
    if len(_WORD.findall(section)) != len(fields):
        return None
    return _key(fields, under)


def _key(metadata: Mapping[str, Any], under: Defaults) -> JobKey | None:
    if not under.identity_known and not ("project" in metadata and "group" in metadata):
        return None
    project = metadata.get("project", under.metadata.get("project", "general"))
    group = metadata.get("group", under.metadata.get("group", "default"))
    name = metadata.get("name")
    if not all(isinstance(part, str) and is_name(part) for part in (project, group, name)):
        return None
    return JobKey(project, group, str(name))

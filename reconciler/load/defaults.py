"""`_defaults.yaml`: values for every job of a directory and of those below it; the deeper file goes over the
shallower one.

Mappings are merged, everything else is replaced, with two things taken whole: what the job runs (command, job or
stages: a job that gives one of them drops the others of the defaults) and each secret.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.errors import Problem
from reconciler.core.job import Json
from reconciler.core.names import digest_of, is_name
from reconciler.load.schema import refusals
from reconciler.load.strict_yaml import Document, read

DEFAULTS_NAME = "_defaults.yaml"
ENTRY_FIELDS = ("command", "job", "stages")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for one directory: the merged values of its chain of files.

    `broken` is the path of the first file of the chain that cannot be read; jobs below are then frozen. `project` and
    `group` are what the chain gives them, and `identity_known` says whether that can be trusted although a file is
    broken.
    """

    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]
    broken: str | None = None
    identity_known: bool = True

    @property
    def empty(self) -> bool:
        return not self.metadata and not self.spec


@dataclass(frozen=True, slots=True)
class DefaultsTree:
    """All `_defaults.yaml` of a source, by directory ("" is its root), and what is wrong with them."""

    files: Mapping[str, Defaults]
    problems: tuple[Problem, ...] = ()

    def of(self, directory: str) -> Defaults:
        """The defaults of the nearest directory at or above this one that has any."""
        while directory:
            found = self.files.get(directory)
            if found is not None:
                return found
            above = posixpath.dirname(directory)
            directory = "" if above == directory else above  # "/" is its own parent
        return self.files.get("", NO_DEFAULTS)

    def digest(self, directory: str) -> str:
        """Changes whenever the defaults of a directory do.

        Part of the key of everything cached from a manifest in it.
        """
        own = self.of(directory)
        return "" if own is NO_DEFAULTS else digest_of([own.metadata, own.spec, own.broken])


NO_DEFAULTS = Defaults({}, {})
NO_TREE = DefaultsTree({})


def load_defaults(files: Iterable[tuple[str, bytes]]) -> DefaultsTree:
    """Read every `_defaults.yaml` among the files; the other files are passed over. Never raises."""
    own: dict[str, Defaults] = {}
    problems: list[Problem] = []
    for path, data in files:
        directory, name = posixpath.split(path)
        if name == DEFAULTS_NAME:
            own[directory] = _read(path, data, problems)
    merged: dict[str, Defaults] = {}
    for directory in sorted(own, key=lambda text: (text.count("/") if text else -1, text)):
        here = own[directory]
        above = DefaultsTree(merged).of(posixpath.dirname(directory)) if directory else NO_DEFAULTS
        merged[directory] = Defaults(
            merge(above.metadata, here.metadata),
            merge_spec(above.spec, here.spec),
            above.broken or here.broken,
            above.identity_known and here.identity_known,
        )
    return DefaultsTree(merged, tuple(problems))


def _read(path: str, data: bytes, problems: list[Problem]) -> Defaults:
    documents = read(data, path)
    if not documents:
        return NO_DEFAULTS
    found: list[Problem] = [problem for document in documents for problem in document.problems]
    document = documents[0]
    if len(documents) > 1:
        found.append(Problem(path, documents[1].line, f"{DEFAULTS_NAME} holds one document: remove the others"))
    if not found:
        found.extend(
            Problem(path, document.line_of(refusal.path), refusal.message)
            for refusal in refusals("defaults", document.value, document.written)
        )
    if not found:
        assert isinstance(document.value, dict)
        return Defaults(_mapping(document.value, "metadata"), _mapping(document.value, "spec"))
    problems.extend(found)
    identity = _identity(document) if len(documents) == 1 else None
    return Defaults(identity or {}, {}, broken=path, identity_known=identity is not None)


def _identity(document: Document) -> dict[str, Any] | None:
    """Project and group of a file that is otherwise broken; None when they may not be what was meant."""
    value = document.value
    if not isinstance(value, dict) or "" in document.touched or set(value) - {"metadata", "spec"}:
        return None
    metadata = value.get("metadata", {})
    if not isinstance(metadata, dict) or set(metadata) - {"project", "group", "labels"}:
        return None
    if any(path.startswith("metadata") for path in document.touched):
        return None
    identity: dict[str, Any] = {name: metadata[name] for name in ("project", "group") if name in metadata}
    return identity if all(isinstance(text, str) and is_name(text) for text in identity.values()) else None


def _mapping(document: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = document.get(name, {})
    assert isinstance(value, dict)
    return value


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both together: mappings merged at every level, anything else taken from `over`. Neither is changed."""
    both = dict(under)
    for name, value in over.items():
        below = both.get(name)
        both[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def merge_spec(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`merge` for two specs, with the entry and each secret taken whole."""
    if any(name in over for name in ENTRY_FIELDS):
        under = {name: value for name, value in under.items() if name not in ENTRY_FIELDS}
    both = merge(under, over)
    secrets = over.get("secrets")
    if isinstance(secrets, dict) and isinstance(under.get("secrets"), dict):
        both["secrets"] = {**under["secrets"], **secrets}
    return both

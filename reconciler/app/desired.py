"""The manifests as desired state, parsed once per version of a file: git names the content, so the cache cannot be wrong."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.app.ports import DesiredState
from reconciler.core.errors import Problem
from reconciler.core.names import JobKey
from reconciler.load.defaults import load_defaults
from reconciler.load.documents import (
    INVENTORY_NAMES,
    FileLoad,
    Loaded,
    cache_tag,
    combine,
    from_row,
    is_manifest,
    load_file,
    to_row,
)
from reconciler.source.manifests import SourceTree, StatCache, blobs, read, read_working_tree
from reconciler.store.cache import FileCache

_DEFAULTS = "_defaults.yaml"
_DIRTY_NAMED_MAX = 3


class ManifestSource:
    """Reads one directory of manifests, at a commit or as it lies on disk. Raises SourceError when it cannot, completely.

    `notes` are said with whatever is read.
    """

    def __init__(
        self, root: Path, subdir: str, ref: str, *, working_tree: bool, cache: FileCache, notes: tuple[str, ...] = ()
    ) -> None:
        self._notes = notes
        self._root = root
        self._subdir = subdir
        self._ref = ref
        self._working_tree = working_tree
        self._cache = cache
        self._tree: SourceTree | None = None
        self._stats: StatCache = {}
        self._state: tuple[tuple[str, str | None], DesiredState] | None = None

    def read(self) -> DesiredState:
        if self._working_tree:
            tree = read_working_tree(self._root, self._subdir, self._stats)
        else:
            tree = read(self._root, self._subdir, self._ref, self._tree)
        if self._state is not None and self._tree is tree:
            return self._state[1]
        self._tree = tree
        state = _state(tree, self._load(tree), self._working_tree)
        state = replace(state, notes=(*state.notes, *self._notes))
        self._state = ((tree.tree, tree.commit), state)
        return state

    def _load(self, tree: SourceTree) -> Loaded:
        inventories = {posixpath.normpath(f"{self._subdir}/{name}") for name in INVENTORY_NAMES}
        files = [(path, blob) for path, blob in tree.files if path not in inventories]
        of_defaults = [(path, blob) for path, blob in files if posixpath.basename(path) == _DEFAULTS]
        texts = blobs(tree, [blob for _, blob in of_defaults])
        defaults = load_defaults((path, texts[blob]) for path, blob in of_defaults)
        tag = cache_tag()
        below: dict[str, str] = {}
        wanted: list[tuple[str, str, str]] = []
        for path, blob in files:
            if is_manifest(path):
                directory = posixpath.dirname(path)
                if directory not in below:
                    below[directory] = defaults.digest(directory)
                wanted.append((path, blob, f"{blob} {below[directory]}"))
        known = self._cache.load(tag)
        missing = [(path, blob) for path, blob, key in wanted if key not in known]
        texts = blobs(tree, [blob for _, blob in missing])
        fresh: dict[str, Any] = {}
        loads: list[FileLoad] = []
        for path, blob, key in wanted:
            cached = known.get(key)
            if cached is not None and cached["file"] == path:
                loads.append(_thaw(cached, path))
                fresh[key] = cached
                continue
            # A file that moved is loaded again when it had problems: their text names the path.
            if cached is not None and not cached["problems"]:
                loads.append(_thaw(cached, path))
                fresh[key] = {**cached, "file": path}
                continue
            data = texts[blob] if blob in texts else blobs(tree, [blob])[blob]
            load = load_file(path, data, defaults)
            loads.append(load)
            fresh[key] = _freeze(load)
        if fresh.keys() != known.keys() or missing:
            self._cache.save(tag, fresh)
        return combine(loads, defaults, [path for path, _ in files])


def _freeze(load: FileLoad) -> dict[str, Any]:
    return {
        "file": load.file,
        "rows": [to_row(job) for job in load.desired],
        "problems": [[p.file, p.line, p.message] for p in load.problems],
        "frozen": [list(key) for key in load.frozen],
        "complete": load.complete,
        "held": [load.held_by, load.held],
    }


def _thaw(data: Mapping[str, Any], path: str) -> FileLoad:
    return FileLoad(
        path,
        tuple(from_row(row, file=path) for row in data["rows"]),
        tuple(Problem(*problem) for problem in data["problems"]),
        frozenset(JobKey(*key) for key in data["frozen"]),
        data["complete"],
        *data["held"],
    )


def _state(tree: SourceTree, loaded: Loaded, working_tree: bool) -> DesiredState:
    problems = (*tree.problems, *loaded.problems)
    return DesiredState(
        desired={job.key: job for job in loaded.desired},
        frozen={key: _problem_of(key, loaded.problems) for key in loaded.frozen},
        problems=tuple(sorted(problems)),
        complete=loaded.complete and not tree.problems,
        commit=tree.commit,
        dirty=bool(tree.dirty) and not working_tree,
        notes=_notes(tree, working_tree),
    )


def _problem_of(key: JobKey, problems: Iterable[Problem]) -> Problem:
    """The problem that freezes a job: the first that names it, or its sweep, else the first there is."""
    first = None
    for problem in problems:
        stem = posixpath.splitext(posixpath.basename(problem.file))[0]
        if str(key) in problem.message or key.name == stem or key.name.startswith(f"{stem}-"):
            return problem
        first = first or problem
    return first or Problem("", 0, "its manifest cannot be used")


def _notes(tree: SourceTree, working_tree: bool) -> tuple[str, ...]:
    if working_tree or not tree.dirty:
        return ()
    names = ", ".join(tree.dirty[:_DIRTY_NAMED_MAX]) + (", …" if len(tree.dirty) > _DIRTY_NAMED_MAX else "")
    many = len(tree.dirty)
    return (f"{many} changed file{'s are' if many > 1 else ' is'} not committed and not applied: {names}",)

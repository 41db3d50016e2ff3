"""Manifest files -> desired state. One broken document never hides the others, and never looks like a removed one.

A document that cannot be used is told as problems, and its job is *frozen*: it is neither desired nor gone. Where not
even the job's key can be read with certainty the load is not `complete`, and the caller prunes nothing.
"""

from __future__ import annotations

import itertools
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.errors import Problem
from reconciler.core.fields import replace_part, whole_part
from reconciler.core.job import Desired, Json
from reconciler.core.names import JobKey, digest_of
from reconciler.load.defaults import DEFAULTS_NAME, Defaults, DefaultsTree, load_defaults, merge, merge_spec
from reconciler.load.identity import keys_of, may_be_sweep, members_of
from reconciler.load.normal import Wrong, normalise
from reconciler.load.schema import accepts, refusals, schemas_digest
from reconciler.load.strict_yaml import PROBLEMS_MAX, Document, read
from reconciler.load.sweep import applied, members_over
from reconciler.load.sweeps import Sweeps
from reconciler.load.words import dotted

# Raised whenever the same text would give another row: rows of an older format are thrown away, not converted.
ROW_FORMAT = 2
INVENTORY_NAMES = ("inventory.yaml", "inventory.yml")


@dataclass(frozen=True, slots=True)
class FileLoad:
    """What one file holds. Depends on nothing but its bytes, its directory's defaults and `cache_tag()`."""

    file: str
    desired: tuple[Desired, ...] = ()
    problems: tuple[Problem, ...] = ()
    frozen: frozenset[JobKey] = frozenset()
    complete: bool = True
    # The `_defaults.yaml` above it that is broken, and how many jobs that holds.
    held_by: str | None = None
    held: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """The desired state of a source.

    `frozen`: jobs that are described, but not so that they could be used; they keep what they have. `complete` False:
    there may be more of them than could be named, so that nothing may be pruned. `broken`: files with a problem; a
    job that was last seen in one of them is not gone either.
    """

    desired: tuple[Desired, ...]
    problems: tuple[Problem, ...]
    frozen: frozenset[JobKey]
    complete: bool
    broken: frozenset[str]


def is_manifest(path: str) -> bool:
    """Is this a file of jobs? `path` is relative to the manifests' root, with '/'.

    *.yaml and *.yml are; not those whose name starts with '_' or '.', nor those in hidden directories, nor the root's
    inventory.
    """
    name = posixpath.basename(path)
    if not name.endswith((".yaml", ".yml")) or name[0] in "_." or path in INVENTORY_NAMES:
        return False
    return not any(part.startswith(".") for part in path.split("/"))


def cache_tag() -> str:
    """Part of the key of cached rows: changes with the schemas and with the code that makes rows."""
    return f"{ROW_FORMAT}-{schemas_digest()[:16]}"


def load_documents(files: Iterable[tuple[str, bytes]], *, defaults: DefaultsTree | None = None) -> Loaded:
    """Load every manifest among the files, `_defaults.yaml` included, and check them against each other. Never raises.

    `defaults` is given by a caller that passes only some of the files.
    """
    given = list(files)
    tree = load_defaults(given) if defaults is None else defaults
    return combine(
        (load_file(path, data, tree) for path, data in given if is_manifest(path)), tree, [path for path, _ in given]
    )


def load_file(path: str, data: bytes, tree: DefaultsTree) -> FileLoad:
    """Load the documents of one manifest file. Never raises."""
    under = tree.of(posixpath.dirname(path))
    desired: list[Desired] = []
    problems: list[Problem] = []
    frozen: set[JobKey] = set()
    held: set[JobKey] = set()
    complete = True
    for document in read(data, path):
        jobs = _jobs(document, under, problems)
        if jobs and under.broken is None:
            desired.extend(jobs)
            continue
        keys = keys_of(document, under)
        below = members_of(document, keys)
        frozen |= keys | below
        held |= below or keys
        # Members that stood there before this edit cannot be named, and a typo may hide that this is a sweep at all.
        complete = complete and bool(keys) and (bool(jobs) or not may_be_sweep(document))
    problems.sort(key=lambda problem: problem.line)
    return FileLoad(
        path,
        tuple(desired),
        tuple(problems),
        frozenset(frozen),
        complete,
        under.broken,
        len(held) if under.broken else 0,
    )


def _jobs(document: Document, under: Defaults, problems: list[Problem]) -> tuple[Desired, ...]:
    """The job of a document, or all of a sweep; empty with what is wrong appended to `problems`."""
    value = document.value
    problems.extend(document.problems)
    if not document.parsed or "" in document.touched:
        return ()
    if under.empty or not isinstance(value, dict):
        merged: Any = value
    else:
        merged = _over(under, value)
    if not accepts("job", merged):
        problems.extend(
            Problem(document.file, document.line_of(refusal.path), refusal.message)
            for refusal in refusals("job", merged, document.written)
            if dotted(refusal.path) not in document.touched  # told already, and better
        )
        return ()
    if document.problems:
        return ()
    wrong: list[Wrong] = []
    key, normal = normalise(merged, wrong)
    sweep = merged["spec"].get("sweep")
    found = () if sweep is None else members_over(key.name, sweep, normal["spec"], wrong, whole=under.broken is None)
    if wrong:
        told = itertools.islice(wrong, PROBLEMS_MAX)
        problems.extend(Problem(document.file, document.line_of(path), message) for path, message in told)
        return ()
    if sweep is None:
        return (_desired(key, normal, document.file, document.line),)
    metadata, spec, parallel = normal["metadata"], normal["spec"], sweep.get("parallel")
    return tuple(
        replace(
            _desired(
                JobKey(key.project, key.group, member.name),
                {"metadata": {**metadata, "name": member.name}, "spec": applied(member, spec)},
                document.file,
                document.line,
            ),
            sweep=str(key),
            sweep_values=member.shown,
            parallel=None if parallel is None else int(parallel),
        )
        for member in found
    )


def _over(under: Defaults, value: Mapping[str, Json]) -> dict[str, Any]:
    merged: dict[str, Any] = dict(value)
    metadata, spec = value.get("metadata"), value.get("spec", {})
    if isinstance(metadata, dict):
        merged["metadata"] = merge(under.metadata, metadata)
    if isinstance(spec, dict):
        merged["spec"] = merge_spec(under.spec, spec)
    return merged


def _desired(key: JobKey, normal: dict[str, Any], file: str, line: int) -> Desired:
    spec: dict[str, Any] = normal["spec"]
    name = list(key)
    return Desired(
        key=key,
        digest=digest_of([name, replace_part(spec)]),
        spec_digest=digest_of([name, normal["metadata"]["labels"], whole_part(spec)]),
        generation=spec["generation"],
        suspend=spec["suspend"],
        priority=spec["priority"],
        depends_on=tuple(JobKey(*text.split("/")) for text in spec["depends_on"]),
        file=file,
        line=line,
        normal_json=_dump(normal),
    )


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode


# ---- all files together ------------------------------------------------------------------------------------


def combine(loads: Iterable[FileLoad], tree: DefaultsTree, paths: Sequence[str] = ()) -> Loaded:
    """Put files together: the same job twice, and jobs that wait for each other, are problems of all of them. A job that
    waits for a sweep waits for every member of it."""
    jobs: dict[JobKey, Desired] = {}
    problems: list[Problem] = list(tree.problems)
    frozen: set[JobKey] = set()
    doubles: dict[JobKey, list[Desired]] = {}
    sweeps = Sweeps()
    held: Counter[str] = Counter()
    complete = True
    for load in loads:
        problems.extend(load.problems)
        if load.held_by is not None:
            held[load.held_by] += load.held
        frozen |= load.frozen
        complete = complete and load.complete
        for job in load.desired:
            first = jobs.setdefault(job.key, job)
            if first is not job:
                doubles.setdefault(job.key, [first]).append(job)
            if job.sweep:
                sweeps.add(job)
    problems.extend(
        Problem(path, 0, f"This file is not read: name it {DEFAULTS_NAME}")
        for path in paths
        if posixpath.basename(path) == "_defaults.yml"
    )
    problems.extend(
        Problem(path, 0, f"{count} job{'s' * (count != 1)} below this file keep what they have until it is right")
        for path, count in held.items()
        if count
    )
    sweeps.judge(jobs, frozen, problems)
    for key, same in doubles.items():
        frozen.add(key)
        if sweeps.told(same):
            continue
        for job in same:
            others = ", ".join(f"{other.file}:{other.line}" for other in same if other is not job)
            problems.append(
                Problem(job.file, job.line, f"Job {key} is described twice: also in {others}. Keep one of them")
            )
    for key in sorted(frozen & jobs.keys() - doubles.keys()):
        job = jobs[key]
        if not sweeps.told([job]):
            problems.append(
                Problem(job.file, job.line, f"Job {key} is described twice: also in a document that is broken")
            )
    for key, job in _cycles(jobs, sweeps):
        names = ", ".join(map(str, job.depends_on))
        what = "Sweep" if job.sweep else "Job"
        problems.append(
            Problem(job.file, job.line, f"{what} {key} waits for a job that waits for it (depends_on: {names})")
        )
        frozen.add(key)
        frozen.update(sweeps.members.get(key, ()))
    sound = [job for key, job in jobs.items() if key not in frozen] if frozen else list(jobs.values())
    return Loaded(
        tuple(sweeps.expanded(sound, frozen)),
        tuple(problems),
        frozenset(frozen),
        complete,
        frozenset(problem.file for problem in problems),
    )


def _cycles(jobs: Mapping[JobKey, Desired], sweeps: Sweeps) -> list[tuple[JobKey, Desired]]:
    """Jobs that wait, directly or not, for themselves. A sweep counts as one: its members all wait for the same."""
    holders: dict[JobKey, Desired] = {}
    for key, job in jobs.items():
        if job.depends_on:
            holders.setdefault(sweeps.holder(key, jobs), job)
    waiting = {
        key: {sweeps.holder(other, jobs) for other in job.depends_on if other in jobs or other in sweeps.members}
        for key, job in holders.items()
    }
    # From both ends: what waits for nothing that waits is in no cycle, nor is what nobody that is left waits for.
    while True:
        ready = {key for key, others in waiting.items() if not others & waiting.keys()}
        wanted = {other for key, others in waiting.items() if key not in ready for other in others}
        ready |= waiting.keys() - wanted
        if not ready:
            return [(key, holders[key]) for key in waiting]
        for key in ready:
            del waiting[key]


# ---- rows for a cache --------------------------------------------------------------------------------------


def to_row(job: Desired) -> list[Json]:
    """The job as a list of JSON values, for a cache by blob id, `DefaultsTree.digest(directory)` and `cache_tag()`."""
    return [
        *job.key,
        job.digest,
        job.spec_digest,
        job.generation,
        job.suspend,
        job.priority,
        [str(other) for other in job.depends_on],
        job.file,
        job.line,
        job.normal_json,
        job.sweep,
        [list(pair) for pair in job.sweep_values],
        job.parallel,
    ]


def from_row(row: Sequence[Any], *, file: str | None = None) -> Desired:
    """The job of a row that `to_row` made. `file` replaces the path, which may have changed while the blob has not."""
    project, group, name, digest, spec_digest, generation, suspend, priority, depends_on, where, line, *rest = row
    normal_json, sweep, values, parallel = rest
    return Desired(
        JobKey(project, group, name),
        digest,
        spec_digest,
        generation,
        suspend,
        priority,
        tuple(JobKey(*text.split("/")) for text in depends_on) if depends_on else (),
        where if file is None else file,
        line,
        normal_json,
        sweep,
        tuple((path, value) for path, value in values) if values else (),
        parallel,
    )

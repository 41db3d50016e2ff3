"""Writing manifests for people: `submit` and `init`. What is written passes validation first, or is not written."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reconciler.app.wiring import Settings, find_place, trust_in
from reconciler.core.errors import ManifestError, ReconcilerError, SourceError
from reconciler.core.names import JobKey
from reconciler.load.documents import load_documents

_GIT_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job in the words of the command line."""

    name: str
    command: tuple[str, ...]
    chip: str | None = None
    n_chips: int | None = None
    clusters: tuple[str, ...] = ()
    exclude_clusters: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    dirty: bool = False
    no_source: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    key: JobKey
    path: Path
    commit: bool


def write_manifest(settings: Settings, wanted: Wanted, *, commit: bool, again: bool) -> Written:
    """Write one job's file, checked, and commit that file alone. Raises ReconcilerError; nothing is written then."""
    try:
        key = JobKey.parse(wanted.name)
    except ValueError as error:
        raise ReconcilerError(str(error)) from error
    place = find_place(settings)
    relative = Path(place.subdir) / key.project / key.group / f"{key.name}.yaml"
    path = place.root / relative
    if not trust_in(place).contains(path):
        raise ReconcilerError(f"{path} lies behind a link that leads out of the repository's files; nothing is written")
    generation = 1
    if path.exists():
        if not again:
            raise ReconcilerError(
                f"{path} exists",
                hint="Edit it and commit; or say --again to replace it and run the job once more.",
            )
        generation = _generation(path) + 1
    text = render(key, wanted, generation)
    loaded = load_documents([(str(relative), text.encode())])
    if loaded.problems:
        raise ManifestError(list(loaded.problems))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror}") from error
    if commit:
        _git(place.root, "add", "--", str(relative))
        _git(place.root, "commit", "-q", "-m", f"Submit {key}", "--", str(relative))
    return Written(key, path, commit)


def render(key: JobKey, wanted: Wanted, generation: int) -> str:
    """The manifest's text: only what was asked for, so that defaults stay defaults."""
    request: dict[str, Any] = {}
    for name, value in (
        ("chip", wanted.chip),
        ("min_chips", wanted.n_chips),
        ("clusters", list(wanted.clusters)),
        ("exclude_clusters", list(wanted.exclude_clusters)),
        ("hosts", list(wanted.hosts)),
    ):
        if value not in (None, []):
            request[name] = value
    spec: dict[str, Any] = {"command": list(wanted.command)}
    if generation > 1:
        spec["generation"] = generation
    if request:
        spec["request"] = request
    if wanted.env:
        spec["env"] = dict(_pair(text) for text in wanted.env)
    if wanted.no_source:
        spec["source"] = None
    elif wanted.dirty:
        spec["source"] = {"dirty": True}
    metadata = {"name": key.name, "project": key.project, "group": key.group}
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ReconcilerError(f"--env {text!r}: expected NAME=VALUE")
    return name, value


def _generation(path: Path) -> int:
    loaded = load_documents([(path.name, path.read_bytes())])
    return max((job.generation for job in loaded.desired), default=1)


def _git(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["git", "-c", "safe.bareRepository=explicit", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=_GIT_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise SourceError(
            f"git {arguments[0]} failed in {root}: {(done.stderr or done.stdout).strip()}",
            hint="The manifest is written; commit it by hand, or use --no-commit.",
        )

"""Checking files without acting on them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.app.wiring import Settings, find_place, read_inventory, remarks_on, trust_of
from reconciler.core.errors import ManifestError, Problem, SourceError
from reconciler.load.documents import INVENTORY_NAMES, is_manifest, load_documents
from reconciler.load.references import check_references
from reconciler.load.trust import check_trust
from reconciler.source.manifests import blobs, read_working_tree


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: `jobs` in order, in `files` files; `tail` is the rest of a good sentence. `notes`: nothing is wrong, but a
    person should know."""

    jobs: int
    files: int
    problems: tuple[Problem, ...]
    tail: str = ""
    notes: tuple[str, ...] = ()


def check_all(settings: Settings) -> Checked:
    """Every manifest below the place that `apply` would read, and the inventory it would use."""
    place = find_place(settings)
    tree = read_working_tree(place.root, place.subdir)
    inventories = {posixpath.normpath(f"{place.subdir}/{name}") for name in INVENTORY_NAMES}
    files = [(path, blob) for path, blob in tree.files if path not in inventories]
    texts = blobs(tree, [blob for _, blob in files])
    loaded = load_documents((path, texts[blob]) for path, blob in files)
    problems = [*tree.problems, *loaded.problems]
    tail = ""
    notes: tuple[str, ...] = ()
    try:
        inventory = read_inventory(settings, place)
        problems.extend(check_references(loaded.desired, inventory))
        problems.extend(check_trust(loaded.desired, trust_of(inventory, place)))
        notes = remarks_on(inventory)
        names = ", ".join(inventory.order[:5]) + (", …" if len(inventory.order) > 5 else "")
        tail = f"; inventory {inventory.file or '(built in)'}: {names}"
    except ManifestError as error:
        problems.extend(error.problems)
    return Checked(
        len(loaded.desired), sum(is_manifest(path) for path, _ in files), tuple(sorted(problems)), tail, notes
    )


def check_files(files: Iterable[Path]) -> Checked:
    """Just these files. Raises SourceError for one that cannot be read."""
    given: list[tuple[str, bytes]] = []
    for path in files:
        try:
            given.append((str(path), path.read_bytes()))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    loaded = load_documents(given)
    return Checked(len(loaded.desired), len(given), loaded.problems)

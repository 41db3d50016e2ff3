"""What the repository itself holds is right: manifests, inventory, and the pages made from schemas."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from reconciler.load.documents import load_documents
from reconciler.load.inventory import load_inventory
from reconciler.load.references import check_references

ROOT = Path(__file__).parents[2]
FOLDERS = [
    ROOT / "manifests",
    *sorted(path.parent for path in (ROOT / "examples").glob("*/*.yaml") if path.name[0] != "_"),
]


@pytest.mark.parametrize("folder", sorted(set(FOLDERS)), ids=lambda folder: folder.name)
def test_manifests_in_the_repository_are_valid(folder: Path) -> None:
    files = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.yaml"))]
    loaded = load_documents(files)
    assert loaded.problems == ()
    assert loaded.desired


@pytest.mark.parametrize("folder", ["first-job", "sweep", "gpu", "depends-on", "volcano"])
def test_each_story_has_a_page(folder: str) -> None:
    assert (ROOT / "examples" / folder / "README.md").is_file()


@pytest.mark.parametrize("place", ["manifests", "examples/volcano"])
def test_the_example_inventory_is_valid_and_holds_what_the_manifests_name(tmp_path: Path, place: str) -> None:
    inventory = load_inventory(ROOT / place / "inventory.yaml", home=tmp_path, state_dir=tmp_path)
    folder = ROOT / place
    files = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in folder.rglob("*.yaml")]
    assert check_references(load_documents(files).desired, inventory) == ()


@pytest.mark.parametrize("page", ["manifest.md", "inventory.md"])
def test_the_reference_pages_are_current(page: str) -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == generate.PAGES[page](), "run python docs/generate.py"

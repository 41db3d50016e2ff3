"""The pages say what the program does: generated parts are current, links lead somewhere, manifests in them are valid."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reconciler.load.documents import load_documents
from reconciler.load.inventory import load_inventory

# typer uses names that newer versions of click warn about; that is typer's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:typer", "ignore::DeprecationWarning:click")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Written by `make bench`; a checkout that has never measured lacks it.
FIGURES = ROOT / "docs" / "benchmarks.md"
HEAD = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: example}\n"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["manifest.md", "inventory.md", "command-line.md", "architecture.md", "status.svg"])
def test_a_generated_page_is_current(page: str) -> None:
    made = generate()
    assert page in made.PAGES
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made.PAGES[page](), "run: make docs"


def test_every_generated_page_is_held_current() -> None:
    marks = test_a_generated_page_is_current.pytestmark  # type: ignore[attr-defined]
    assert set(marks[0].args[1]) == set(generate().PAGES)


def test_the_terminal_picture_fetches_nothing() -> None:
    text = (ROOT / "docs" / "status.svg").read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http" not in text
    assert "url(" not in text.replace("url(#", "")
    assert "lm/ablations/pretrain" in text


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as hosting sites make them: lower case, punctuation gone, blanks to dashes."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if goal == FIGURES and not goal.exists():
            continue
        assert goal.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors(goal), f"{name_of(page)} links to {link}: no such heading"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language == "yaml"]
        found += [(f"{name_of(page)}[{index}]", block) for index, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("where", "text"), examples(), ids=[where for where, _ in examples()])
def test_yaml_in_the_pages_is_valid(where: str, text: str, tmp_path: Path) -> None:
    """Whole manifests, inventories, `_defaults.yaml`, and pieces that begin with `spec:`. Other YAML is fenced as `yml`."""
    if "hosts:\n" in text:
        file = tmp_path / "inventory.yaml"
        file.write_text(text)
        load_inventory(file, home=tmp_path, state_dir=tmp_path)
        return
    if text.startswith("# _defaults.yaml"):
        files = [("_defaults.yaml", text.encode()), ("a.yaml", (HEAD + "spec: {command: [sh]}\n").encode())]
    elif text.startswith("spec:"):
        whole = HEAD + text
        if not re.search(r"^  (command|job|stages):", text, re.MULTILINE):
            whole += "  command: [python, train.py]\n"
        files = [("a.yaml", whole.encode())]
    else:
        files = [("a.yaml", text.encode())]
    loaded = load_documents(files)
    assert loaded.problems == ()
    assert loaded.desired


def verbs() -> dict[str, Any]:
    import typer.main

    from reconciler.cli.main import app

    return typer.main.get_command(app).commands  # type: ignore[attr-defined,no-any-return]


OPTIONS = r"(?: +(?:(?:-C|-d|--ref|--state|--inventory) +\S+|-[^\s`]+))*"
COMMAND = re.compile(rf"(?:^\$? ?|`|; |&& )reconciler{OPTIONS} +([a-z]+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_verb_that_is_mentioned_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for verb in COMMAND.findall(text):
        assert verb in verbs(), f"{name_of(page)} mentions `reconciler {verb}`"


def test_every_verb_has_its_help_in_the_command_line_page() -> None:
    assert set(verbs()) <= anchors(ROOT / "docs" / "command-line.md")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_linked_from_the_readme_or_is_a_decision(page: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    name = name_of(page)
    assert name == "README.md" or f"({name})" in readme or f"({name.removeprefix('docs/')})" in index


def texts(root: Path) -> list[str]:
    """Every text in the source, f-strings with `…` for what is filled in."""
    found = []
    for file in (path for folder in ("reconciler", "runtime") for path in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(?:[-.\d]*[sdg])", "…", node.value))
    return found


def test_every_message_of_the_troubleshooting_page_is_in_the_source() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    source = texts(ROOT)
    assert len(messages) > 50
    for message in messages:
        pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
        assert any(pattern.search(text) for text in source), f"no such message in the source: {message}"

"""Who may read what the runtime makes: other accounts nothing, except on a volume that only pods of ours have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAKE = """
import os, sys
from runtime import files, status
os.umask(int(sys.argv[2], 8))
if len(sys.argv) > 3:
    files.open_to_others()
files.make_directories(sys.argv[1] + "/a/b")
status.replace_json(sys.argv[1] + "/a/b/c", {})
status.first_to_write(sys.argv[1] + "/a/b/d", {})
"""


@pytest.mark.parametrize(
    ("umask", "shared", "folder", "file"),
    [
        ("000", False, "750", "640"),
        ("022", False, "750", "640"),
        ("077", False, "700", "600"),
        ("022", True, "755", "644"),
        ("077", True, "700", "600"),
    ],
)
def test_modes_of_directories_and_files(tmp_path: Path, umask: str, shared: bool, folder: str, file: str) -> None:
    arguments = [sys.executable, "-c", MAKE, str(tmp_path / "top"), umask, *(["shared"] if shared else [])]
    subprocess.run(arguments, check=True, cwd=REPOSITORY)
    found = [
        f"{(tmp_path / name).stat().st_mode & 0o777:o}"
        for name in ("top", "top/a", "top/a/b", "top/a/b/c", "top/a/b/d")
    ]
    assert found == [folder] * 3 + [file] * 2


@pytest.mark.parametrize(("shared", "modes"), [("", ["750", "640"]), ("1", ["755", "644"])])
def test_the_environment_of_a_verb_says_what_kind_of_volume_it_works_on(
    tmp_path: Path, shared: str, modes: list[str]
) -> None:
    verb = "from runtime.__main__ import _serve\n_serve('clean', {'version': 1, 'runs': []})\n"
    environ = {"PYTHONPATH": str(REPOSITORY), "RECONCILER_SHARED": shared}
    arguments = [sys.executable, "-c", verb + MAKE, str(tmp_path / "top"), "000"]
    subprocess.run(arguments, check=True, env=environ, stdout=subprocess.DEVNULL)
    assert [f"{(tmp_path / name).stat().st_mode & 0o777:o}" for name in ("top", "top/a/b/c")] == modes

"""The files that `init` writes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from reconciler.core.errors import SourceError
from reconciler.load.schema import schema_text

_FIRST_JOB = """\
# yaml-language-server: $schema=../.schemas/job.schema.json
apiVersion: reconciler/v1
kind: Job
metadata:
  name: hello
spec:
  command: [sh, -c, 'echo "hello from $(hostname)"']
  source: null            # ships no code; leave the line out to ship this repository's HEAD
"""

_INVENTORY = """\
# yaml-language-server: $schema=../.schemas/inventory.schema.json
# The machines you have. Without this file jobs run on this one. `reconciler doctor` checks every host.
clusters:
  here:
    root: {root}
    work: {root}/work

hosts:
  local:
    type: local
    cluster: here
  # workstation:
  #   type: plain
  #   ssh: ws               # an alias of your ~/.ssh/config
  #   cluster: lab          # define it above: root and work are absolute paths on the workstation
  #   chips: {{h100: 8}}

priority: [local]
"""

_README = """\
# Jobs

One YAML file per job (or several documents per file); `_defaults.yaml` sets what a directory shares.

    reconciler plan       what would be done, and why
    reconciler apply      do it
    reconciler status -w  how every job stands
"""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Files written, and files that were there and were left alone."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def scaffold(directory: Path) -> Scaffold:
    """Make the repository. Raises SourceError when it cannot be written."""
    root = directory.resolve()
    files = {
        "manifests/hello.yaml": _FIRST_JOB,
        "manifests/inventory.yaml": _INVENTORY.format(root=_quoted(_place_of_runs(root))),
        "manifests/README.md": _README,
        ".schemas/job.schema.json": schema_text("job"),
        ".schemas/inventory.schema.json": schema_text("inventory"),
        ".gitignore": ".reconciler/\n",
    }
    written: list[Path] = []
    kept: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (root / ".git").exists():
            subprocess.run(["git", "init", "-q", str(root)], check=True, capture_output=True, timeout=30)
        for name, text in files.items():
            path = root / name
            if path.exists():
                kept.append(directory / name)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.append(directory / name)
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"{root} cannot be made a repository of manifests: {error}") from error
    return Scaffold(tuple(written), tuple(kept))


def _place_of_runs(root: Path) -> Path:
    """Not in the repository: files that were committed there would be taken for ours."""
    usual = (Path.home() / "reconciler").resolve()
    if root == usual or root in usual.parents:
        return Path(platformdirs.user_data_dir("reconciler"))
    return usual


def _quoted(path: Path) -> str:
    text = str(path)
    return text if text.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum() else f'"{text}"'

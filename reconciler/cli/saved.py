"""Plans in files: saved by `plan -o`, executed exactly or refused by `apply FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.errors import ReconcilerError

if TYPE_CHECKING:
    from reconciler.app.converge import Pass
    from reconciler.cli.common import Exit


def save_plan(path: Path, seen: Pass, code: Exit) -> None:
    """Write the plan, for the owner alone. Raises ReconcilerError when the file cannot be written."""
    from reconciler.cli.plan import document
    from reconciler.transports.private import write_private

    try:
        write_private(path, json.dumps(document(seen, code), indent=2) + "\n")
    except OSError as error:
        raise ReconcilerError(f"The plan cannot be written to {path}: {error}") from error


def load_plan(path: Path) -> dict[str, Any]:
    """Read a saved plan. Raises ReconcilerError for anything else."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReconcilerError(
            f"{path} cannot be read as a plan: {error}", hint="Make one with: reconciler plan -o FILE"
        ) from error
    if not isinstance(saved, dict) or saved.get("version") != 1 or not isinstance(saved.get("digest"), str):
        raise ReconcilerError(f"{path} is not a plan of this version", hint="Make one with: reconciler plan -o FILE")
    return saved


def stale(saved: dict[str, Any], seen: Pass) -> str | None:
    """Why the saved plan no longer holds, or None. What would be done, and for which commit, must be the very same."""
    commit = saved.get("source", {}).get("commit")
    if commit != seen.state.commit:
        return f"it was made for commit {str(commit)[:12]}, the manifests are at {str(seen.state.commit)[:12]}"
    if saved["digest"] != seen.plan.digest:
        return "what would be done now is not what it says"
    return None

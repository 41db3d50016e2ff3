"""A cache in one file: JSON, replaced by rename. Losing it costs time, never truth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.transports.private import make_private, write_private


class FileCache:
    """Values by key, all of one `tag`; another tag (a new version of what makes the values) finds it empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: tuple[str, dict[str, Any]] | None = None

    def load(self, tag: str) -> Mapping[str, Any]:
        """What was saved under `tag`; empty when there is nothing, or nothing that can be read."""
        if self._held is None or self._held[0] != tag:
            try:
                data = json.loads(self._path.read_bytes())
                values = data["values"] if data["tag"] == tag else {}
            except (OSError, ValueError, KeyError, TypeError):
                values = {}
            self._held = (tag, values if isinstance(values, dict) else {})
        return self._held[1]

    def save(self, tag: str, values: Mapping[str, Any]) -> None:
        """Replace everything. A cache that cannot be written (full or read-only disk) is done without."""
        self._held = (tag, dict(values))
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            make_private(self._path.parent)
            write_private(temporary, json.dumps({"tag": tag, "values": values}, separators=(",", ":")))
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)

"""Plain text for people and JSON for programs. Colour only on a terminal and never against NO_COLOR (no-color.org)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_CODES = {"add": "32", "change": "33", "remove": "31", "faint": "2", "bold": "1", "info": "36"}
_OURS = frozenset(f"\x1b[{code}m" for code in ("0", *_CODES.values()))


def coloured() -> bool:
    """True when standard output is a terminal that wants colour."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, kind: str) -> str:
    """`text` in the colour of its meaning, or as it is."""
    return f"\x1b[{_CODES[kind]}m{text}\x1b[0m" if coloured() else text


def say(text: str = "") -> None:
    """One line to standard output. Control characters in names or messages from elsewhere cannot steer the terminal."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def emit(document: Any) -> None:
    """One JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text with control characters shown, except our own colour codes where there are any, tabs and newlines."""
    if text.isprintable():
        return text
    kept = []
    ours = _OURS if coloured() else frozenset[str]()
    index = 0
    while index < len(text):
        char = text[index]
        end = text.find("m", index) if char == "\x1b" else -1
        if end > 0 and text[index : end + 1] in ours:
            kept.append(text[index : end + 1])
            index = end
        elif char in "\n\t" or char.isprintable():
            kept.append(char)
        else:
            kept.append(f"\\x{ord(char):02x}")
        index += 1
    return "".join(kept)


def first_line(text: str) -> str:
    """The sentence of a message; what follows it (the end of a log) is for `explain` and `logs`."""
    return text.partition("\n")[0]


def ago(seconds: float) -> str:
    """A duration a person reads at a glance: 12s, 3m, 2h05m, 4d."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f}s"
    if seconds < 5400:
        return f"{seconds / 60:.0f}m"
    if seconds < 172800:
        return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"
    return f"{seconds / 86400:.0f}d"

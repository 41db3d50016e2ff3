"""Text that is no YAML of ours, in words: size, encoding, control characters, and what the parser stumbled over."""

from __future__ import annotations

import re
from typing import Final

import yaml
from yaml.reader import ReaderError

from reconciler.core.errors import Problem

# One file of manifests. Larger ones are data by mistake, and the parser's memory is many times the text.
FILE_MAX_BYTES: Final = 1 << 20

_BAD_BYTES = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
# C1 controls, the byte order mark, and the line separators that YAML folds away inside quoted text.
_BAD_CHARACTERS = re.compile("[\x80-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def bad_text(data: bytes, file: str) -> Problem | None:
    """What makes the bytes no text of ours: size, encoding, control characters."""
    if len(data) > FILE_MAX_BYTES:
        return Problem(
            file, 0, f"{len(data)} bytes are too many for a file of this kind: expected at most {FILE_MAX_BYTES}"
        )
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return Problem(file, 1, "The file is UTF-16: save it as UTF-8")
    if data[:3] == b"\xef\xbb\xbf":
        return Problem(file, 1, "The file starts with a byte order mark: save it as UTF-8 without BOM")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(file, line, f"The byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8")
    found = _BAD_BYTES.search(data)
    if found:
        name = (
            "A carriage return without a line feed"
            if found[0] == b"\r"
            else f"The control character 0x{found[0][0]:02x}"
        )
        line = data.count(b"\n", 0, found.start()) + 1
        return Problem(
            file, line, f'{name} is not allowed: write it as an escape in double quotes ("\\x{found[0][0]:02x}")'
        )
    if len(text) != len(data):
        bad = _BAD_CHARACTERS.search(text)
        if bad:
            line = text.count("\n", 0, bad.start()) + 1
            return Problem(
                file,
                line,
                f'The character U+{ord(bad[0]):04X} is not allowed: write "\\u{ord(bad[0]):04x}" in double quotes',
            )
    return None


_HINTS: tuple[tuple[str, str], ...] = (
    (r"'\t'", "a tab cannot indent: use spaces"),
    ("cannot start", "put the text into double quotes"),
    ("mapping values are not allowed", "the indentation is off, or text that holds ': ' needs double quotes"),
    ("could not find expected ':'", "a ':' is missing, or text over several lines needs quotes or '|'"),
    ("found unexpected end of stream", "a quote is opened and never closed"),
    ("found undefined alias", "text that starts with '*' needs double quotes"),
    ("did not find expected", "the indentation is off, or a bracket or quote is not closed"),
    ("escape", "a backslash in double quotes starts an escape: write \\\\ or use single quotes"),
)


def syntax_problem(data: bytes, file: str, offset: int, error: yaml.YAMLError) -> Problem:
    """A parser's error in words, on its line of the file. `offset` counts the lines before `data`."""
    text = data.decode("utf-8", "replace")
    line, what = 1, "the text cannot be read"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        what = error.problem or error.context or what
        if "cannot start any token" in what and mark is not None:
            row = text.splitlines()[mark.line : mark.line + 1]
            what = (
                f"found the character {row[0][mark.column : mark.column + 1]!r}, which cannot start a value"
                if row
                else what
            )
    elif isinstance(error, ReaderError):
        line = data.count(b"\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        what = error.reason
    hint = next((f": {hint}" for key, hint in _HINTS if key in what), "")
    # An error at the end of the text is told on its last line, not on the one behind it.
    line = min(line, text.rstrip("\n").count("\n") + 1)
    return Problem(file, line + offset, f"Not YAML, {what}{hint}")

"""Where the lines of the journal lie in the state's tree: a page for each pass, in a directory for each thousand lines.

A page is named after its first line: `journal/0000012/0000012345.jsonl`. When a new directory begins, the pages of each older one
become one page, so that the tree stays small however long a repository lives. Pages of the first layout lie beside the
directories (`journal/0000012345.jsonl`) and are folded like the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LINES_A_DIRECTORY = 1000
_PAGE = re.compile(r"journal/(?:[0-9]{7,}/)?([0-9]{10,})\.jsonl\Z")


def page_of(number: int) -> str:
    """The page whose first line has this number."""
    return f"journal/{number // LINES_A_DIRECTORY:07}/{number:010}.jsonl"


def first_line(path: str) -> int | None:
    """Number of a page's first line; None for what is not a page."""
    found = _PAGE.match(path)
    return int(found[1]) if found else None


def newest_first(pages: Iterable[str]) -> list[str]:
    return sorted(pages, key=_number, reverse=True)


def to_fold(pages: Iterable[str], new: str) -> Sequence[tuple[str, list[str]]]:
    """(page, the pages that become it, in order) for each directory older than that of `new` that is not one page yet."""
    directories: dict[int, list[str]] = {}
    for page in sorted(pages, key=_number):
        directories.setdefault(_number(page) // LINES_A_DIRECTORY, []).append(page)
    current = _number(new) // LINES_A_DIRECTORY
    folded = [(page_of(_number(old[0])), old) for directory, old in directories.items() if directory < current]
    return [(page, old) for page, old in folded if old != [page]]


def _number(page: str) -> int:
    number = first_line(page)
    if number is None:
        raise ValueError(f"{page!r} is not a page of the journal")
    return number

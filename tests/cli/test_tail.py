"""`logs --all`: many outputs read in turns, shown line by line."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.cli.tail import Tail
from reconciler.core.errors import Unreachable
from reconciler.core.protocols import LogChunk, LogCursor


class Pieces:
    """A backend whose logs come in the given pieces; an error is raised once."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = list(pieces)

    def logs(self, known: Any, since: LogCursor) -> LogChunk:
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return LogChunk(piece, since.offset, since.offset + len(piece))


def shown(backend: Any, tail: Tail, *, follow: bool, turns: int) -> list[bool]:
    moved = [tail.read(backend, None, follow=follow) for _ in range(turns) if tail.open]  # type: ignore[arg-type]
    tail.end()
    return moved


def test_lines_that_come_in_pieces_are_shown_whole(capsysbinary: pytest.CaptureFixture[bytes]):
    backend = Pieces(b"on", b"e\ntw", b"o\n\nno end")
    assert shown(backend, Tail(3, 0, prefix="3: "), follow=True, turns=4) == [True, True, True, False]
    assert capsysbinary.readouterr().out == b"3: one\n3: two\n3: \n3: no end\n"


def test_one_output_alone_is_shown_byte_for_byte(capsysbinary: pytest.CaptureFixture[bytes]):
    shown(Pieces(b"\xff\x00on", b"e"), Tail(0, 0, prefix=""), follow=True, turns=3)
    assert capsysbinary.readouterr().out == b"\xff\x00one"


def test_a_machine_that_does_not_answer_is_named_once_and_asked_again(capsysbinary: pytest.CaptureFixture[bytes]):
    away = Unreachable("no connection")
    tail = Tail(1, 0, prefix="1: ")
    assert shown(Pieces(away, away, b"back\n"), tail, follow=True, turns=3) == [False, False, True]
    said = capsysbinary.readouterr()
    assert said.out == b"1: back\n"
    assert said.err.count(b"worker 1: no connection") == 1
    assert tail.trouble == ""


def test_without_follow_it_is_left_out_and_that_is_remembered(capsysbinary: pytest.CaptureFixture[bytes]):
    tail = Tail(1, 0, prefix="1: ")
    shown(Pieces(Unreachable("no connection"), b"late\n"), tail, follow=False, turns=2)
    assert capsysbinary.readouterr().out == b""
    assert (tail.trouble, tail.open) == ("no connection", False)


def test_a_single_machine_that_does_not_answer_is_an_error():
    with pytest.raises(Unreachable):
        shown(Pieces(Unreachable("no connection")), Tail(0, 0, prefix=""), follow=True, turns=1)

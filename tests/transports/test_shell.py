"""What goes to a shell means the same in every shell there is, and a cut answer is never taken for a whole one."""

from __future__ import annotations

import io
import shutil
import subprocess

import pytest

from reconciler.core.errors import OutcomeUnknown
from reconciler.core.transport import Completed
from reconciler.transports.shell import LOGIN_COMMAND, Feed, Frame, Upload
from tests.contract.transport_contract import HOSTILE

SHELLS = [("sh",), ("dash",), ("bash",), ("busybox", "sh"), ("mksh",), ("zsh", "--emulate", "sh"), ("ksh",)]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_posix_shell_runs_exactly_the_words_given(shell: tuple[str, ...]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]} here; get it with `apt-get install {shell[0]}`")
    script = LOGIN_COMMAND.removeprefix("exec sh -c ").strip("'")
    for text in HOSTILE:
        frame = Frame(("printf", "[%s]", text))
        done = subprocess.run([*shell, "-c", script], input=frame.head, capture_output=True)
        frame.stdout.add(done.stdout)
        frame.stderr.add(done.stderr)
        assert frame.finished, (text[:20], done.stderr)
        assert frame.completed() == Completed(0, b"[" + text.encode("utf-8", "surrogateescape") + b"]", b"")


def answer(frame: Frame, out: bytes, *, status: int = 0) -> bytes:
    nonce = frame.head.split(b"'%s%s.' ")[1][:24]
    return nonce + b"+77." + out + nonce + b"-%d." % status


def test_an_answer_in_single_bytes_is_the_same_answer() -> None:
    frame = Frame(("true",))
    whole = b"noise\r\n" + answer(frame, b"out\0put", status=255) + b"from the background"
    for index in range(len(whole)):
        frame.stdout.add(whole[index : index + 1])
        frame.stderr.add(whole[index : index + 1])
    assert frame.completed() == Completed(255, b"out\0put", b"out\0put")
    assert frame.pid == 77


def test_an_answer_without_its_end_is_not_finished() -> None:
    frame = Frame(("true",))
    whole = answer(frame, b"output")
    frame.stdout.add(whole[:-1])
    frame.stderr.add(whole)
    assert not frame.finished


def test_output_beyond_the_limit_is_cut_off_before_it_fills_the_memory() -> None:
    frame = Frame(("yes",), output_max=1000)
    with pytest.raises(OutcomeUnknown, match="more than 1000 bytes"):
        frame.stdout.add(answer(frame, b"y" * 2000)[:1500])


def test_the_line_that_starts_a_command_is_printable_ascii() -> None:
    for text in HOSTILE:
        head = Frame(("printf", "%s", text)).head
        assert head.endswith(b"\n")
        assert head[:-1].decode("ascii").isprintable()


def test_progress_counts_the_file_and_not_the_line_before_it() -> None:
    counted: list[int] = []
    feed = Feed(b"head\n", Upload(io.BytesIO(b"0123456789"), 10, counted.append))
    sent = b""
    while piece := feed.peek():
        step = bytes(piece[:7])
        sent += step
        feed.sent(len(step))
    assert sent == b"head\n0123456789"
    assert sum(counted) == 10

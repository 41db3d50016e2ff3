"""Rotation with writers that never pause: each line once, in some file, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import logs, process, status
from tests.runtime.host import wait_for

WRITER = """
import os, sys
n = 0
while not os.path.exists(sys.argv[1]):
    os.write(1, b"%s %09d\\n" % (sys.argv[2].encode(), n))
    n += 1
"""


def writers(tmp_path: Path, count: int) -> list[subprocess.Popen[bytes]]:
    log = os.open(tmp_path / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    arguments = [sys.executable, "-S", "-c", WRITER, str(tmp_path / "stop")]
    found = [subprocess.Popen([*arguments, f"w{number}"], stdout=log) for number in range(count)]
    os.close(log)
    return found


def table(children: list[subprocess.Popen[bytes]]) -> list[process.Process]:
    return [one for one in (process.look(child.pid) for child in children) if one and not one.gone]


def test_no_line_is_lost_however_long_the_moment_of_the_cut_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.05))
    log = tmp_path / "output.log"
    children = writers(tmp_path, 2)
    try:
        for _ in range(5):
            wait_for(lambda: log.stat().st_size > 20_000)
            assert logs.rotate(str(log), 20_000, 50, lambda: table(children))
    finally:
        (tmp_path / "stop").touch()
        for child in children:
            assert child.wait(30) == 0
    files = [*(tmp_path / f"output.log.{number}" for number in range(5, 0, -1)), log]
    lines = "".join(path.read_text() for path in files).splitlines()
    for name in ("w0", "w1"):
        own = [line for line in lines if line.startswith(name)]
        assert own == [f"{name} {number:09d}" for number in range(len(own))]
    assert all(len(line) == 12 for line in lines)


def test_log_that_cannot_be_copied_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "output.log"
    log.write_text("x" * 1000)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status, "write_all", full)
    assert not logs.rotate(str(log), 10, 3, list)
    assert [path.name for path in tmp_path.iterdir()] == ["output.log"]
    assert log.stat().st_size == 1000


def test_writer_that_does_not_stand_still_in_time_keeps_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "STOP_WAIT_S", 0.1)
    monkeypatch.setattr(process, "stands_still", lambda _: False)
    log = tmp_path / "output.log"
    [child] = writers(tmp_path, 1)
    try:
        wait_for(lambda: log.exists() and log.stat().st_size > 1000)
        assert not logs.rotate(str(log), 10, 3, lambda: table([child]))
        assert not (tmp_path / "output.log.1").exists()
        size = log.stat().st_size
        wait_for(lambda: log.stat().st_size > size)  # it was set going again
    finally:
        child.kill()
        child.wait()


def test_process_that_was_stopped_before_stays_stopped(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    [child] = writers(tmp_path, 1)
    try:
        wait_for(lambda: log.exists() and log.stat().st_size > 1000)
        child.send_signal(signal.SIGSTOP)
        wait_for(lambda: table([child])[0].stopped)
        assert logs.rotate(str(log), 10, 3, lambda: table([child]))
        assert table([child])[0].stopped
    finally:
        child.kill()
        child.wait()

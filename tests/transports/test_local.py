"""The local transport keeps the contract, and its own promises."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reconciler.core.errors import OutcomeUnknown
from reconciler.core.transport import Command
from reconciler.transports.local import LocalTransport
from reconciler.transports.registry import TransportSettings, open_transport
from tests.contract.transport_contract import AMPLE_S, Site, TransportContract, run, soon
from tests.transports.sites import DirectorySite


class TestLocal(TransportContract):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        return DirectorySite(tmp_path, str(tmp_path), lambda: open_transport(TransportSettings("local", "here")))


def test_a_missed_deadline_kills_the_whole_process_group(tmp_path: Path) -> None:
    script = 'sleep 30 & echo $! > "$1"; wait'
    with pytest.raises(OutcomeUnknown):
        run(LocalTransport(), "sh", "-c", script, "sh", str(tmp_path / "pid"), deadline_s=0.5)
    child = int((tmp_path / "pid").read_text())
    assert soon(lambda: not alive(child))


def test_a_child_in_the_background_does_not_hold_the_call() -> None:
    began = time.monotonic()
    assert run(LocalTransport(), "sh", "-c", "sleep 5 & echo done")[:2] == (0, b"done\n")
    assert time.monotonic() - began < 3


def test_a_program_killed_by_a_signal_answers_128_and_its_number() -> None:
    assert run(LocalTransport(), "sh", "-c", "kill -KILL $$")[0] == 137


def test_a_file_that_is_no_program_answers_126(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    assert LocalTransport().run(Command((str(tmp_path / "data"),)), deadline_s=AMPLE_S).returncode == 126


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False

"""How long a commit has stood is counted by one clock, and never counted too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.store.unmoved import Unmoved


def test_another_commit_begins_anew_and_another_process_remembers(tmp_path: Path) -> None:
    file = tmp_path / "reconciler" / "x.unmoved"
    one, other = Unmoved(lambda: file), Unmoved(lambda: file)
    assert one.since("a", 100.0) == 100.0
    assert one.since("a", 150.0) == 100.0
    assert other.since("a", 160.0) == 100.0
    assert other.since("b", 170.0) == 170.0
    assert Unmoved(lambda: file).since("b", 180.0) == 170.0


def test_a_clock_that_was_put_back_begins_anew(tmp_path: Path) -> None:
    one = Unmoved(lambda: tmp_path / "x")
    one.since("a", 1000.0)
    assert one.since("a", 500.0) == 500.0
    assert one.since("a", 1100.0) == 500.0


@pytest.mark.parametrize("damage", [b"", b"[", b"{}", b'["a"]', b'["a", null]', b'["a", NaN]', b"\xff"])
def test_a_damaged_file_begins_anew(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(damage)
    assert Unmoved(lambda: file).since("a", 100.0) == 100.0
    assert Unmoved(lambda: file).since("a", 200.0) == 100.0


def test_a_place_that_cannot_be_written_is_remembered_by_the_process_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Unmoved(lambda: tmp_path / "file" / "x")
    assert one.since("a", 100.0) == 100.0
    assert one.since("a", 200.0) == 100.0

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.transports.private import make_private, touch_private, write_private


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directories_that_are_made_are_the_owners_and_those_that_are_there_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    make_private(tmp_path / "there" / "a" / "b")
    make_private(tmp_path / "there" / "a" / "b")
    modes = [mode(tmp_path / name) for name in ("there", "there/a", "there/a/b")]
    assert modes == [0o755, 0o700, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")


def test_a_file_is_the_owners_also_when_it_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a longer text")
    (tmp_path / "old").chmod(0o644)
    for name in ("new", "old"):
        write_private(tmp_path / name, "tëxt")
        assert mode(tmp_path / name) == 0o600
        assert (tmp_path / name).read_text(encoding="utf-8") == "tëxt"
    touch_private(tmp_path / "old")
    touch_private(tmp_path / "touched")
    assert (tmp_path / "old").read_text(encoding="utf-8") == "tëxt"
    assert mode(tmp_path / "touched") == 0o600


@pytest.mark.parametrize("name", ["target", "not there"])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / name)
    write_private(tmp_path / "link", "x")
    assert not (tmp_path / "link").is_symlink()
    assert (mode(tmp_path / "link"), (tmp_path / "link").read_text()) == (0o600, "x")
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link"}
    assert (tmp_path / "target").read_text() == "theirs"


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_private(tmp_path, "x")


def test_a_stream_behind_a_link_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_private(tmp_path / "link", "x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    with (tmp_path / "out").open("w") as file:
        write_private(Path(f"/dev/fd/{file.fileno()}"), "y")
    assert (tmp_path / "out").read_text() == "y"


def test_what_is_no_file_keeps_its_mode() -> None:
    before = mode(Path(os.devnull))
    write_private(Path(os.devnull), "x")
    assert mode(Path(os.devnull)) == before

"""Snapshots hold exactly the files that they should, and the repository is left as it was."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from reconciler.core.errors import ShipError, SourceError
from reconciler.source.snapshot import Snapshot, Submodules, archive, dirty, listed, prune
from tests.source.repos import commit, git, repository, write

NAMES = ["-n", "a b", "q'\"", "new\nline", "Grüße", "$(id)", "back\\slash", "x" * 200, "deep/" * 30 + "file"]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = repository(tmp_path / "repo")
    write(made, "train.py", "print('hello')")
    write(made, "run.sh", "#!/bin/sh").chmod(0o755)
    (made / "link").symlink_to("run.sh")
    (made / "dangling").symlink_to("nowhere")
    commit(made, **{".gitignore": "ignored\n"})
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def with_submodule(repo: Path, tmp_path: Path) -> Path:
    inner, outer = repository(tmp_path / "inner"), repository(tmp_path / "outer")
    commit(inner, **{"core.py": "core"})
    commit(outer, **{"lib.py": "lib"})
    git(outer, "submodule", "add", "-q", str(inner), "vendor/inner")
    commit(outer)
    git(repo, "submodule", "add", "-q", str(outer), "lib")
    git(repo, "submodule", "update", "-q", "--init", "--recursive")
    commit(repo)
    return repo


def head(repo: Path) -> str:
    return git(repo, "rev-parse", "HEAD")


def members(snapshot: Snapshot) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(snapshot.path) as tar:
        return {member.name: member for member in tar}


def names(snapshot: Snapshot) -> set[str]:
    return {name for name, member in members(snapshot).items() if not member.isdir()}


def text(snapshot: Snapshot, name: str) -> str:
    with tarfile.open(snapshot.path) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read().decode()


def test_a_commit_is_packed_as_it_is(repo: Path, cache: Path) -> None:
    write(repo, "train.py", "edited later")
    snapshot = archive(repo, head(repo), cache=cache)
    found = members(snapshot)
    assert set(found) == {".gitignore", "train.py", "run.sh", "link", "dangling"}
    assert text(snapshot, "train.py") == "print('hello')"
    assert found["run.sh"].mode == 0o755
    assert found["train.py"].mode == 0o644
    assert (found["link"].issym(), found["link"].linkname) == (True, "run.sh")
    assert found["dangling"].linkname == "nowhere"
    assert (snapshot.commit, snapshot.dirty, snapshot.warnings) == (head(repo), False, ())
    assert snapshot.size == snapshot.path.stat().st_size


def test_the_same_tree_gives_the_same_bytes_at_another_time_and_umask(repo: Path, cache: Path, tmp_path: Path) -> None:
    first = archive(repo, head(repo), cache=cache)
    commit(repo)  # another commit of the same tree
    git(repo, "config", "tar.umask", "0077")
    git(repo, "config", "core.autocrlf", "false")
    second = archive(repo, head(repo), cache=tmp_path / "another cache")
    assert second.sha256 == first.sha256
    assert second.path.read_bytes() == first.path.read_bytes()


def test_the_second_snapshot_of_a_commit_runs_no_process(
    repo: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = archive(repo, head(repo), cache=cache)
    at = head(repo)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert archive(repo, at, cache=cache) == first


def test_a_damaged_cache_is_packed_again(repo: Path, cache: Path) -> None:
    first = archive(repo, head(repo), cache=cache)
    whole = first.path.read_bytes()
    first.path.write_bytes(b"cut")
    assert archive(repo, head(repo), cache=cache).path.read_bytes() == whole
    for key in (cache / "keys").iterdir():
        key.write_text("{")
    assert archive(repo, head(repo), cache=cache) == first


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_arrives_byte_for_byte(repo: Path, cache: Path, name: str) -> None:
    write(repo, name, "hostile")
    assert text(dirty(repo, cache=cache), name) == "hostile"
    commit(repo)
    assert text(archive(repo, head(repo), cache=cache), name) == "hostile"
    assert text(listed(repo, ["*"], cache=cache), name) == "hostile"


def test_what_git_is_told_to_leave_out_is_left_out(repo: Path, cache: Path) -> None:
    commit(repo, **{".gitattributes": "secret export-ignore\n", "secret": "x"})
    assert "secret" not in names(archive(repo, head(repo), cache=cache))


def test_a_commit_that_is_not_there_is_an_error(repo: Path, cache: Path) -> None:
    with pytest.raises(SourceError):
        archive(repo, "0" * 40, cache=cache)
    with pytest.raises(SourceError, match="not an object id"):
        archive(repo, "--output=/tmp/x", cache=cache)


def test_a_missing_blob_is_an_error_and_leaves_nothing_in_the_cache(repo: Path, cache: Path) -> None:
    blob = git(repo, "rev-parse", "HEAD:train.py")
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SourceError, match=r"git archive.*failed"):
        archive(repo, head(repo), cache=cache)
    assert list((cache / "objects").iterdir()) == []


def test_a_tree_that_is_too_large_names_its_largest_files(repo: Path, cache: Path) -> None:
    write(repo, "big.bin", "x" * 3_000_000)
    commit(repo)
    with pytest.raises(ShipError, match=r"(?s)big\.bin \(2\.9 MiB\).*\.gitignore"):
        archive(repo, head(repo), cache=cache, size_max=2_000_000)
    assert list((cache / "objects").iterdir()) == []


def test_git_lfs_pointers_are_said(repo: Path, cache: Path) -> None:
    commit(repo, **{"model.bin": POINTER, "story.txt": "about git-lfs"})
    snapshot = archive(repo, head(repo), cache=cache)
    assert len(snapshot.warnings) == 1
    assert "model.bin" in snapshot.warnings[0]
    assert "story" not in snapshot.warnings[0]
    assert archive(repo, head(repo), cache=cache).warnings == snapshot.warnings


def test_submodules_are_said_or_included(with_submodule: Path, cache: Path) -> None:
    without = archive(with_submodule, head(with_submodule), cache=cache)
    assert "lib/lib.py" not in names(without)
    assert "lib: submodules" in without.warnings[0]
    whole = archive(with_submodule, head(with_submodule), cache=cache, submodules=Submodules.INCLUDE)
    assert {"lib/lib.py", "lib/vendor/inner/core.py"} <= names(whole)
    assert whole.warnings == ()


def test_a_submodule_is_taken_at_its_pinned_commit(with_submodule: Path, cache: Path) -> None:
    commit(with_submodule / "lib", **{"lib.py": "newer, not pinned"})
    whole = archive(with_submodule, head(with_submodule), cache=cache, submodules=Submodules.INCLUDE)
    assert text(whole, "lib/lib.py") == "lib"
    as_it_lies = dirty(with_submodule, cache=cache, submodules=Submodules.INCLUDE)
    assert text(as_it_lies, "lib/lib.py") == "newer, not pinned"


def test_a_submodule_that_is_not_checked_out_is_an_error_that_says_what_to_do(
    with_submodule: Path, cache: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", str(with_submodule), "clone")
    with pytest.raises(ShipError, match=r"(?s)lib is not checked out.*submodule update"):
        archive(tmp_path / "clone", head(with_submodule), cache=cache, submodules=Submodules.INCLUDE)


def test_a_bare_repository_can_be_shipped(repo: Path, cache: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    bare = archive(tmp_path / "bare.git", head(repo), cache=cache)
    assert bare.sha256 == archive(repo, head(repo), cache=tmp_path / "another").sha256


def test_a_subdirectory_stands_for_its_repository(repo: Path, cache: Path) -> None:
    commit(repo, **{"sub/x.py": "x"})
    assert archive(repo / "sub", head(repo), cache=cache) == archive(repo, head(repo), cache=cache)
    write(repo, "new.py")
    assert "new.py" in names(dirty(repo / "sub", cache=cache))


# --- the working tree -------------------------------------------------------------------------------------------------


def state(repo: Path) -> list[object]:
    """All that a snapshot must not change."""
    objects = sorted(path for path in (repo / ".git").rglob("*") if path.is_file())
    return [objects, (repo / ".git/index").read_bytes(), git(repo, "status", "--porcelain"), git(repo, "stash", "list")]


def test_a_dirty_snapshot_has_what_lies_there(repo: Path, cache: Path) -> None:
    write(repo, "train.py", "edited")
    write(repo, "new/file.py", "untracked")
    write(repo, "staged.py", "staged")
    git(repo, "add", "staged.py")
    write(repo, "ignored", "secret")
    (repo / "run.sh").unlink()
    (repo / "link").unlink()
    (repo / "link").symlink_to("train.py")
    before = state(repo)
    snapshot = dirty(repo, cache=cache)
    assert state(repo) == before
    assert names(snapshot) == {".gitignore", "train.py", "new/file.py", "staged.py", "link", "dangling"}
    assert text(snapshot, "train.py") == "edited"
    assert members(snapshot)["link"].linkname == "train.py"
    assert (snapshot.commit, snapshot.dirty) == (head(repo), True)


def test_a_clean_working_tree_is_its_commit(repo: Path, cache: Path) -> None:
    snapshot = dirty(repo, cache=cache)
    assert not snapshot.dirty
    assert snapshot == archive(repo, head(repo), cache=cache)


def test_an_edit_within_the_tick_of_the_index_is_noticed(repo: Path, cache: Path) -> None:
    git(repo, "config", "core.trustctime", "false")
    tick = (1_000_000_000, 1_000_000_000)
    os.utime(repo / "train.py", tick)
    git(repo, "update-index", "--refresh")
    os.utime(repo / ".git/index", tick)
    write(repo, "train.py", "print('HELLO')")
    os.utime(repo / "train.py", tick)
    assert text(dirty(repo, cache=cache), "train.py") == "print('HELLO')"


def test_a_repository_without_a_commit_can_be_shipped_as_it_lies(tmp_path: Path, cache: Path) -> None:
    fresh = repository(tmp_path / "fresh")
    write(fresh, "a.py")
    snapshot = dirty(fresh, cache=cache)
    assert names(snapshot) == {"a.py"}
    assert (snapshot.commit, snapshot.dirty) == (None, True)


def test_a_worktree_and_a_path_with_colons_can_be_shipped(repo: Path, cache: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "other:tree"), "-b", "other")
    write(tmp_path / "other:tree", "new.py")
    assert {"new.py", "train.py"} <= names(dirty(tmp_path / "other:tree", cache=cache))
    git(tmp_path, "clone", "-q", str(repo), "clone:colon")
    write(tmp_path / "clone:colon", "new.py")
    assert {"new.py", "train.py"} <= names(dirty(tmp_path / "clone:colon", cache=cache))


def test_a_repository_inside_that_is_no_submodule_is_said(repo: Path, cache: Path) -> None:
    commit(repository(repo / "nested"), **{"x.py": "x"})
    snapshot = dirty(repo, cache=cache)
    assert "nested" in snapshot.warnings[0]
    assert "nested/x.py" in names(dirty(repo, cache=cache, submodules=Submodules.INCLUDE))


def test_a_directory_without_git_is_said(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(SourceError, match="not a git repository"):
        dirty(tmp_path / "plain", cache=cache)


# --- listed files -----------------------------------------------------------------------------------------------------


def test_listed_files_may_be_ignored_ones_but_never_git_itself(repo: Path, cache: Path) -> None:
    write(repo, "ignored", "wanted")
    write(repo, "data/deep/x.bin")
    assert names(listed(repo, ["ignored", "data"], cache=cache)) == {"ignored", "data/deep/x.bin"}
    for pattern in (".", "**/*"):
        everything = names(listed(repo, [pattern], cache=cache))
        assert {"train.py", "data/deep/x.bin", "link", "dangling"} <= everything
        assert not any(name.startswith(".git/") for name in everything)


def test_listed_links_and_modes_are_kept_and_the_bytes_are_the_same_again(repo: Path, cache: Path) -> None:
    first = listed(repo, ["*"], cache=cache)
    found = members(first)
    assert found["link"].issym()
    assert found["run.sh"].mode == 0o755
    os.utime(repo / "train.py", (1, 1))
    (repo / "train.py").chmod(0o600)
    assert listed(repo, ["*"], cache=cache).sha256 == first.sha256


@pytest.mark.parametrize("pattern", ["none", "*.none", "empty"])
def test_a_pattern_without_a_file_is_an_error(repo: Path, cache: Path, pattern: str) -> None:
    (repo / "empty").mkdir()
    with pytest.raises(ShipError, match="matches no file"):
        listed(repo, ["train.py", pattern], cache=cache)


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_pattern_that_leaves_the_directory_is_refused(repo: Path, cache: Path, pattern: str) -> None:
    with pytest.raises(ShipError, match="inside"):
        listed(repo, [pattern], cache=cache)


def test_a_fifo_is_refused(repo: Path, cache: Path) -> None:
    os.mkfifo(repo / "pipe")
    with pytest.raises(ShipError, match="neither a file"):
        listed(repo, ["pipe"], cache=cache)


def test_the_cache_keeps_what_was_used_last(repo: Path, cache: Path) -> None:
    old = archive(repo, head(repo), cache=cache)
    os.utime(old.path, (1, 1))
    commit(repo, **{"new.py": "x"})
    new = archive(repo, head(repo), cache=cache)
    assert prune(cache, size_max=new.size) == old.size
    assert not old.path.exists()
    assert new.path.exists()


def test_a_cache_that_cannot_be_written_is_said(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShipError, match="cannot be written"):
        archive(repo, head(repo), cache=tmp_path / "file" / "cache")

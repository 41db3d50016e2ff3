"""Manifests are read completely or not at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import SourceError
from reconciler.source import manifests
from reconciler.source.manifests import StatCache, blobs, descends, read, read_working_tree
from tests.source.repos import commit, git, repository, write

HOSTILE = ["-rf", "a b", "q'\"", "Grüße", "$(id)", "back\\s", ":(top)", "*"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = repository(tmp_path / "repo")
    write(made, "jobs/a.yaml", "a")
    write(made, "jobs/deep/b.yaml", "b")
    write(made, "code.py", "print()")
    commit(made)
    return made


def test_every_file_of_the_directory_is_listed_with_its_blob(repo: Path) -> None:
    source = read(repo, "jobs", "HEAD")
    assert [path for path, _ in source.files] == ["jobs/a.yaml", "jobs/deep/b.yaml"]
    assert source.commit == git(repo, "rev-parse", "HEAD")
    assert blobs(source, [blob for _, blob in source.files]) == {
        git(repo, "rev-parse", "HEAD:jobs/a.yaml"): b"a",
        git(repo, "rev-parse", "HEAD:jobs/deep/b.yaml"): b"b",
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_name_arrives_byte_for_byte(repo: Path, name: str) -> None:
    write(repo, f"jobs/{name}.yaml", "hostile")
    commit(repo)
    for source in (read(repo, "jobs", "HEAD"), read_working_tree(repo, "jobs")):
        blob = dict(source.files)[f"jobs/{name}.yaml"]
        assert blobs(source, [blob])[blob] == b"hostile"


@pytest.mark.parametrize("directory", ["-jobs", "a b", "Grüße", "*", ":(exclude)x"])
def test_a_directory_name_arrives_byte_for_byte(repo: Path, directory: str) -> None:
    write(repo, f"{directory}/m.yaml", "m")
    commit(repo)
    write(repo, f"{directory}/edited.yaml", "m")
    source = read(repo, directory, "HEAD")
    assert [path for path, _ in source.files] == [f"{directory}/m.yaml"]
    assert source.dirty == (f"{directory}/edited.yaml",)


def test_the_whole_repository_can_be_the_directory(repo: Path) -> None:
    assert [path for path, _ in read(repo, ".", "HEAD").files] == ["code.py", "jobs/a.yaml", "jobs/deep/b.yaml"]


def test_paths_are_relative_to_the_root_inside_a_repository(repo: Path) -> None:
    assert [path for path, _ in read(repo / "jobs", "deep", "HEAD").files] == ["deep/b.yaml"]


def test_the_same_files_at_another_commit_are_the_same_tree(repo: Path) -> None:
    before = read(repo, "jobs", "HEAD")
    commit(repo, **{"code.py": "changed"})
    after = read(repo, "jobs", "HEAD")
    assert after.commit != before.commit
    assert after.tree == before.tree
    commit(repo, **{"jobs/a.yaml": "changed"})
    assert read(repo, "jobs", "HEAD").tree != before.tree


def test_edits_that_are_not_committed_are_reported_and_not_read(repo: Path) -> None:
    write(repo, "jobs/a.yaml", "edited")
    write(repo, "jobs/new.yaml", "untracked")
    write(repo, "code.py", "elsewhere")
    (repo / "jobs/deep/b.yaml").unlink()
    source = read(repo, "jobs", "HEAD")
    assert sorted(source.dirty) == ["jobs/a.yaml", "jobs/deep/b.yaml", "jobs/new.yaml"]
    assert [path for path, _ in source.files] == ["jobs/a.yaml", "jobs/deep/b.yaml"]


def test_an_unmoved_ref_costs_two_processes_and_no_listing(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = read(repo, "jobs", "HEAD")
    started: list[list[str]] = []
    popen = subprocess.Popen

    def counting(argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        started.append(argv)
        return popen(argv, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", counting)
    assert read(repo, "jobs", "HEAD", known) is known
    assert len(started) == 2
    write(repo, "jobs/a.yaml", "edited")
    assert read(repo, "jobs", "HEAD", known).dirty == ("jobs/a.yaml",)


@pytest.mark.parametrize("ref", ["nothing", "--all", "-n1", "HEAD..HEAD", "^HEAD", "", "HEAD\nmain", "HEAD:jobs"])
def test_what_is_no_commit_is_an_error(repo: Path, ref: str) -> None:
    with pytest.raises(SourceError, match="commit"):
        read(repo, "jobs", ref)


@pytest.mark.parametrize("ref", ["main", "v1", "release/é"])
def test_branches_and_tags_name_commits(repo: Path, ref: str) -> None:
    if ref == "v1":
        git(repo, "tag", "-a", "v1", "-m", "annotated")
    elif ref != "main":
        git(repo, "branch", ref)
    assert read(repo, "jobs", ref).commit == git(repo, "rev-parse", "HEAD")


@pytest.mark.parametrize("directory", ["none", "code.py", "jobs/a.yaml/below"])
def test_a_missing_directory_is_an_error_and_not_an_empty_list(repo: Path, directory: str) -> None:
    with pytest.raises(SourceError, match="no manifest directory"):
        read(repo, directory, "HEAD")


def test_a_directory_whose_last_file_was_removed_is_an_error(repo: Path) -> None:
    git(repo, "rm", "-r", "-q", "jobs")
    commit(repo)
    with pytest.raises(SourceError, match=r"(?s)nothing is concluded.*\.gitkeep"):
        read(repo, "jobs", "HEAD")
    write(repo, "jobs/.gitkeep", "")
    commit(repo)
    assert [path for path, _ in read(repo, "jobs", "HEAD").files] == ["jobs/.gitkeep"]


@pytest.mark.parametrize("directory", ["..", "../repo/jobs", "/etc", "jobs/../..", "a\0b"])
def test_a_directory_outside_the_repository_is_refused(repo: Path, directory: str) -> None:
    with pytest.raises(SourceError, match="inside the repository"):
        read(repo, directory, "HEAD")
    with pytest.raises(SourceError, match="inside the repository"):
        read_working_tree(repo, directory)


def test_a_directory_without_git_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a git repository"):
        read(tmp_path, ".", "HEAD")
    with pytest.raises(SourceError, match="not a directory"):
        read(tmp_path / "none", ".", "HEAD")


def test_links_and_submodules_are_problems_and_hide_nothing_else(repo: Path, tmp_path: Path) -> None:
    other = repository(tmp_path / "other")
    commit(other, **{"x.yaml": "x"})
    (repo / "jobs/link.yaml").symlink_to("a.yaml")
    git(repo, "submodule", "add", "-q", str(other), "jobs/sub")
    commit(repo)
    source = read(repo, "jobs", "HEAD")
    assert [(problem.file, problem.message.split(" cannot")[0]) for problem in source.problems] == [
        ("jobs/link.yaml", "a symbolic link"),
        ("jobs/sub", "a submodule"),
    ]
    assert [path for path, _ in source.files] == ["jobs/a.yaml", "jobs/deep/b.yaml"]


def test_a_name_that_is_not_utf8_is_a_problem(repo: Path) -> None:
    with open(os.fsencode(repo / "jobs") + b"/\xff.yaml", "w") as file:
        file.write("x")
    commit(repo)
    assert [problem.file for problem in read(repo, "jobs", "HEAD").problems] == ["'jobs/\\udcff.yaml'"]
    assert [problem.file for problem in read_working_tree(repo, "jobs").problems] == ["'jobs/\\udcff.yaml'"]


@pytest.mark.parametrize("name", ["new\nline", "tab\t", "\x1b[31mred", "\u202eback"])
def test_a_name_that_does_not_print_is_a_problem(repo: Path, name: str) -> None:
    write(repo, f"jobs/{name}.yaml", "x")
    commit(repo)
    write(repo, f"jobs/{name}.new", "x")
    source = read(repo, "jobs", "HEAD")
    assert [problem.file for problem in source.problems] == [ascii(f"jobs/{name}.yaml")]
    assert source.dirty == (ascii(f"jobs/{name}.new"),)
    assert len(read_working_tree(repo, "jobs").problems) == 2


def test_a_bare_repository_can_be_the_source(repo: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    source = read(tmp_path / "bare.git", "jobs", "main")
    assert len(source.files) == 2
    assert source.dirty == ()


def test_the_callers_git_variables_change_nothing(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_GLOB_PATHSPECS", "1")
    assert len(read(repo, "jobs", "HEAD").files) == 2


def test_a_missing_object_is_an_error(repo: Path) -> None:
    source = read(repo, "jobs", "HEAD")
    blob = source.files[0][1]
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SourceError, match=blob):
        blobs(source, [blob])


def test_a_missing_tree_is_an_error_and_not_an_empty_list(repo: Path) -> None:
    tree = git(repo, "rev-parse", "HEAD:jobs")
    (repo / ".git/objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(SourceError):
        read(repo, "jobs", "HEAD")


def test_ids_that_are_no_ids_never_reach_git(repo: Path) -> None:
    source = read(repo, "jobs", "HEAD")
    for text in ("--all-objects", "HEAD", "abc", "a" * 41):
        with pytest.raises(SourceError, match="not an object id"):
            blobs(source, [text])


def test_many_blobs_come_from_one_process(repo: Path) -> None:
    for index in range(500):
        write(repo, f"jobs/{index}.yaml", f"{index}\n" * 50)
    commit(repo)
    source = read(repo, "jobs", "HEAD")
    contents = blobs(source, [blob for _, blob in source.files])
    assert all(contents[blob] == (repo / path).read_bytes() for path, blob in source.files)


def test_history_that_was_rewritten_does_not_descend(repo: Path) -> None:
    old = git(repo, "rev-parse", "HEAD")
    new = commit(repo, **{"jobs/a.yaml": "2"})
    assert descends(repo, old, new)
    assert descends(repo, new, new)
    assert not descends(repo, new, old)
    git(repo, "reset", "-q", "--hard", old)
    forced = commit(repo, **{"jobs/a.yaml": "3"})
    assert not descends(repo, new, forced)
    assert not descends(repo, "0" * 40, forced)


# --- the working tree -------------------------------------------------------------------------------------------------


def test_a_working_tree_has_the_ids_of_git(repo: Path) -> None:
    committed, working = read(repo, "jobs", "HEAD"), read_working_tree(repo, "jobs")
    assert working.files == committed.files
    assert working.commit is None


def test_a_working_tree_without_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "jobs/empty").mkdir(parents=True)
    with pytest.raises(SourceError, match="holds no file"):
        read_working_tree(tmp_path, "jobs")
    with pytest.raises(SourceError, match="no manifest directory"):
        read_working_tree(tmp_path, "none")


def test_a_working_tree_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "jobs/a.yaml")
    locked = write(tmp_path, "jobs/locked/b.yaml").parent
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(SourceError, match="cannot be read completely"):
            read_working_tree(tmp_path, "jobs")
    finally:
        locked.chmod(0o755)


def test_a_link_in_a_working_tree_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "jobs/a.yaml")
    (tmp_path / "jobs/loop").symlink_to(tmp_path)
    source = read_working_tree(tmp_path, "jobs")
    assert [problem.file for problem in source.problems] == ["jobs/loop"]


def test_a_file_edited_between_listing_and_reading_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "jobs/a.yaml", "one")
    source = read_working_tree(tmp_path, "jobs")
    path.write_text("two")
    with pytest.raises(SourceError, match="changed while"):
        blobs(source, [source.files[0][1]])


def test_an_edit_is_noticed_in_spite_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_RACY_S", -60.0)  # so that a file of this very moment is kept in the cache
    cache: StatCache = {}
    path = write(tmp_path, "jobs/a.yaml", "one")
    os.utime(path, (1, 1))
    before = read_working_tree(tmp_path, "jobs", cache)
    assert list(cache) == ["jobs/a.yaml"]
    path.write_text("two")
    os.utime(path, (1, 1))
    assert read_working_tree(tmp_path, "jobs", cache).tree != before.tree

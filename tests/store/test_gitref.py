"""One ref of a remote in the clones that people have: their settings, partial clones, other processes, `git gc`, deadlines."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.memory import Deferred, Requested
from reconciler.core.names import JobKey
from reconciler.store import gitref
from reconciler.store.git import GitStore
from reconciler.store.gitref import NOTHING, REF, SEEN, GitRef
from tests.store.test_git import Remote, git
from tests.worlds import key


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


def open_store(where: Path) -> GitStore:
    return GitStore(GitRef(where), actor="somebody")


def fill(where: Path, *names: str) -> None:
    store = open_store(where)
    store.lock()
    # Times that differ: memories that are equal would be one object.
    store.append([(key(name), Deferred("x", float(at))) for at, name in enumerate(names, 1)], commit="c")
    store.unlock()
    store.close()


def counted(ref: GitRef, calls: list[str]) -> None:
    """Note git's subcommands of this ref; after fifty it is taken for endless."""
    real = ref._git

    def git_and_note(*arguments: str, **more):
        calls.append(arguments[0])
        assert len(calls) < 50, calls
        return real(*arguments, **more)

    ref._git = git_and_note


# --- the ref and its neighbours


def test_the_documented_fetch_and_the_store_do_not_meet(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    store = open_store(second)
    for number, prefix in enumerate(("refs/reconciler-log/*", "refs/reconciler/seen/*")):
        fill(first, f"a{number}")
        git(second, "fetch", "-q", "origin", f"+refs/reconciler/*:{prefix}")
        fill(first, f"b{number}")
        assert store.newest() == 2 * number + 2
        git(second, "fetch", "-q", "origin", f"+refs/reconciler/*:{prefix}")


def test_a_branch_with_the_name_of_the_ref_is_not_taken_for_it(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    branch = f"refs/heads/{REF}"
    git(first, "push", "-q", "origin", f"HEAD:{branch}")
    before = git(remote.bare, "rev-parse", branch)
    assert open_store(second).newest() == 0
    fill(second, "a")
    fill(first, "b")
    assert open_store(second).newest() == 2
    assert git(remote.bare, "rev-parse", branch) == before


def test_a_ref_that_moves_on_all_the_time_is_an_error_and_not_asked_for_ever(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    fill(first, "a")
    ref, calls = GitRef(second), []
    ref._lacking = lambda commit: {commit}
    counted(ref, calls)
    with pytest.raises(StoreError, match="in 3 tries"):
        ref.fetch()
    assert calls.count("ls-remote") == 3


def test_a_ref_that_was_deleted_or_put_back_is_read_as_it_is(remote: Remote) -> None:
    first, store = remote.clone("first"), open_store(remote.clone("second"))
    fill(first, "a")
    assert store.newest() == 1
    fill(first, "b")
    assert store.newest() == 2
    git(remote.bare, "update-ref", REF, git(remote.bare, "rev-parse", f"{REF}^"))
    assert (store.newest(), set(store.memories())) == (1, {key("a")})
    git(remote.bare, "update-ref", "-d", REF)
    assert (store.newest(), dict(store.memories())) == (0, {})


@pytest.mark.parametrize("path", ["a\nb", "a b", "../a", "/a", "a//b", '"a"', "ä", ".git/config", ""])
def test_only_plain_names_are_written(remote: Remote, path: str) -> None:
    with pytest.raises(StoreError, match="cannot be a file of the state"):
        GitRef(remote.clone("first")).commit(NOTHING, {path: b"x"}, "x")


def test_names_that_git_may_find_strange_are_kept(remote: Remote) -> None:
    keys = [JobKey("a.lock", "x..y", "c.json"), JobKey("0", "A", "git-1"), JobKey("HEAD", "a.git", "x.lock")]
    store = open_store(remote.clone("first"))
    store.lock()
    store.append([(one, Requested("cancel", "x")) for one in keys], commit="c", why='q"\n\\ü')
    store.unlock()
    assert set(open_store(remote.clone("second")).memories()) == set(keys)


# --- what is kept in the clone


def test_a_gc_takes_nothing_away_that_is_in_use(remote: Remote) -> None:
    clone = remote.clone("second")
    fill(remote.clone("first"), "a")
    holder, reader = open_store(clone), open_store(clone)
    assert reader.newest() == 1
    holder.lock()
    for name in "bc":
        git(clone, "gc", "-q", "--prune=now")
        holder.append([(key(name), Requested("cancel", "x"))], commit="c")
    git(clone, "gc", "-q", "--prune=now")
    assert len(reader.history()) == 1
    holder.unlock()
    assert reader.newest() == 3


def test_a_gc_takes_nothing_away_that_was_here_before_it_was_read(remote: Remote) -> None:
    """Objects of a process that was killed, and whose ref is gone: no fetch brings them, and nothing else names them."""
    clone = remote.clone("first")
    killed, reader = open_store(clone), open_store(clone)
    killed.lock()
    killed.append([(key("a"), Requested("cancel", "x"))], commit="c")
    git(clone, "update-ref", "-d", killed._ref._seen)
    assert reader.newest() == 1
    git(clone, "gc", "-q", "--prune=now")
    assert len(reader.history()) == 1


def test_no_ref_of_the_clone_moves_with_the_state(remote: Remote) -> None:
    clone = remote.clone("second")
    fill(remote.clone("first"), "a")
    git(clone, "config", "remote.origin.fetch", "+refs/*:refs/mirror/*")
    assert open_store(clone).newest() == 1
    assert git(clone, "for-each-ref", "refs/mirror") == ""


def test_a_closed_store_leaves_one_ref_from_which_only_news_is_fetched(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    fill(first, *(f"n{number}" for number in range(60)))
    store = open_store(second)
    store.newest()
    store.close()
    assert git(second, "for-each-ref", "--format=%(refname)", SEEN, "refs/reconciler") == f"{SEEN}/last/state"
    git(second, "gc", "-q", "--prune=now")
    fill(first, "new")
    again = open_store(second)
    assert again.newest() == 61
    loose = int(git(second, "count-objects").split()[0])
    assert 0 < loose < 30, loose  # the sixty were not sent again


def test_what_a_killed_process_kept_goes_with_the_next_that_closes(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    fill(first, "a")
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    at = git(second, "commit-tree", "-m", "x", git(second, "write-tree"))
    git(second, "update-ref", f"{SEEN}/{gone.pid}-00000000/state", at)
    git(second, "update-ref", f"{SEEN}/{os.getppid()}-00000000/state", at)
    store = open_store(second)
    store.newest()
    store.close()
    left = git(second, "for-each-ref", "--format=%(refname)", SEEN).split()
    assert sorted(left) == sorted([f"{SEEN}/last/state", f"{SEEN}/{os.getppid()}-00000000/state"])


def test_an_object_that_is_lost_here_is_fetched_again(remote: Remote) -> None:
    clone = remote.clone("second")
    fill(remote.clone("first"), "a")
    store = open_store(clone)
    store.newest()
    git(clone, "update-ref", "-d", store._ref._seen)
    blob = git(clone, "rev-parse", f"{remote.at}:head.json")
    (clone / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert open_store(clone).newest() == 1


def test_processes_of_one_clone_look_at_once(remote: Remote) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    failed: list[Exception] = []

    def look() -> None:
        try:
            store = open_store(second)
            store.newest()
            store.close()
        except (StoreError, ValueError, OSError) as error:
            failed.append(error)

    for number in range(3):
        fill(first, f"n{number}")
        threads = [threading.Thread(target=look) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert not failed, failed[:2]


# --- clones of all kinds


@pytest.mark.parametrize("left_out", ["blob:none", "tree:0"])
def test_a_partial_clone_gets_the_whole_state_in_one_fetch(remote: Remote, left_out: str) -> None:
    git(remote.bare, "config", "uploadpack.allowFilter", "true")
    fill(remote.clone("first"), *(f"n{number}" for number in range(20)))
    partial = remote.root / "partial"
    url = f"file://{remote.bare}"
    subprocess.run(["git", "clone", "-q", f"--filter={left_out}", "-b", "main", url, str(partial)], check=True)
    ref, calls = GitRef(partial), []
    counted(ref, calls)
    store = GitStore(ref, actor="x")
    assert (store.newest(), len(store.memories()), len(store.history())) == (20, 20, 20)
    assert calls.count("fetch") == 1
    assert not ref._lacking(remote.at)
    fill(partial, "more")
    assert open_store(remote.clone("second")).newest() == 21


def test_a_partial_clone_into_which_somebody_fetched_the_ref_without_its_files(remote: Remote) -> None:
    git(remote.bare, "config", "uploadpack.allowFilter", "true")
    fill(remote.clone("first"), *(f"n{number}" for number in range(20)))
    partial = remote.root / "partial"
    url = f"file://{remote.bare}"
    subprocess.run(["git", "clone", "-q", "--filter=blob:none", "-b", "main", url, str(partial)], check=True)
    git(partial, "fetch", "-q", "origin", "+refs/reconciler/*:refs/reconciler-log/*")
    ref, calls = GitRef(partial), []
    counted(ref, calls)
    assert len(ref._lacking(remote.at)) > 20
    assert len(GitStore(ref, actor="x").memories()) == 20
    assert calls.count("fetch") <= 2
    assert not ref._lacking(remote.at)


def test_a_shallow_clone(remote: Remote) -> None:
    first, where = remote.clone("first"), remote.root / "shallow"
    fill(first, "a")
    subprocess.run(["git", "clone", "-q", "--depth=1", "-b", "main", f"file://{remote.bare}", str(where)], check=True)
    fill(where, "b")
    fill(first, "c")
    assert open_store(where).newest() == 3


def test_worktrees_and_sha256(tmp_path: Path) -> None:
    bare, first = tmp_path / "r.git", tmp_path / "first"
    subprocess.run(["git", "init", "-q", "--bare", "--object-format=sha256", str(bare)], check=True)
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(first)], check=True)
    git(first, "remote", "add", "origin", str(bare))
    git(first, "commit", "-q", "--allow-empty", "-m", "start")
    git(first, "worktree", "add", "-q", str(tmp_path / "tree"))
    store = open_store(first)
    store.lock()
    store.unlock()
    fill(first, "a")
    fill(tmp_path / "tree", "b")
    assert open_store(first).newest() == 2
    assert GitRef(first).beside().parent.resolve() == GitRef(tmp_path / "tree").beside().parent.resolve()


# --- settings


@pytest.mark.parametrize(
    "setting",
    [
        ("push.gpgSign", "true"),
        ("push.pushOption", "ci.skip"),
        ("push.followTags", "true"),
        ("push.default", "nothing"),
        ("push.negotiate", "true"),
        ("push.recurseSubmodules", "check"),
        ("remote.pushDefault", "elsewhere"),
        ("remote.origin.mirror", "true"),
        ("remote.origin.push", "refs/heads/*:refs/heads/x/*"),
        ("remote.origin.fetch", "+refs/*:refs/*"),
        ("remote.origin.prune", "true"),
        ("fetch.prune", "true"),
        ("fetch.recurseSubmodules", "true"),
        ("transfer.fsckObjects", "true"),
        ("core.hooksPath", "/nowhere"),
        ("core.quotePath", "true"),
        ("commit.gpgSign", "true"),
        ("fastimport.unpackLimit", "1"),
        ("diff.renames", "copies"),
        ("log.showSignature", "true"),
        ("gc.auto", "1"),
    ],
)
def test_a_users_settings_do_not_matter(remote: Remote, setting: tuple[str, str]) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    fill(first, "a")
    for clone in (first, second):
        git(clone, "config", *setting)
    fill(second, "b")
    assert open_store(first).newest() == 2
    assert set(git(remote.bare, "for-each-ref", "--format=%(refname)").split()) == {"refs/heads/main", REF}


@pytest.mark.parametrize(
    "setting",
    [
        ("receive.denyNonFastForwards", "true"),
        ("receive.denyDeletes", "true"),
        ("receive.fsckObjects", "true"),
        ("core.logAllRefUpdates", "always"),
    ],
)
def test_a_servers_settings_do_not_matter(remote: Remote, setting: tuple[str, str]) -> None:
    git(remote.bare, "config", *setting)
    store = open_store(remote.clone("first"))
    store.lock()
    store.unlock()
    fill(remote.clone("first"), "a")
    fill(remote.clone("second"), "b")
    assert open_store(remote.clone("first")).newest() == 2


def test_an_url_that_git_rewrites(remote: Remote) -> None:
    clone = remote.clone("second")
    git(clone, "remote", "set-url", "origin", "alias:x")
    git(clone, "config", f"url.{remote.bare}.insteadOf", "alias:x")
    fill(clone, "a")
    assert open_store(remote.clone("first")).newest() == 1


def test_no_hook_of_the_clone_runs(remote: Remote) -> None:
    first = remote.clone("first")
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        hook = first / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {remote.root}/hooked\nexit 1\n")
        hook.chmod(0o755)
    fill(first, "a")
    assert not (remote.root / "hooked").exists()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("GIT_ASKPASS", True),
        ("GIT_SSH", True),
        ("GIT_SSH_COMMAND", True),
        ("GIT_SSL_CAINFO", True),
        ("GIT_SSL_CAPATH", True),
        ("GIT_PROXY_COMMAND", True),
        ("GIT_CONFIG_VALUE_0", True),
        ("GIT_DIR", False),
        ("GIT_INDEX_FILE", False),
        ("GIT_OBJECT_DIRECTORY", False),
        ("GIT_CONFIG_PARAMETERS", False),
    ],
)
def test_what_makes_git_work_here_reaches_git_and_nothing_else(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    monkeypatch.setenv(name, "/nowhere")
    seen: list[Mapping[str, str]] = []
    real = subprocess.Popen

    def spy(argv: list[str], **more):
        seen.append(more["env"])
        return real(argv, **more)

    ref = GitRef(remote.root / "first")
    monkeypatch.setattr(gitref.subprocess, "Popen", spy)
    ref.fetch()
    assert seen
    assert all((name in environ) is kept for environ in seen)


def test_settings_by_environment_count(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = remote.clone("first")
    git(clone, "remote", "set-url", "origin", "alias:x")
    for name, value in (("COUNT", "1"), ("KEY_0", f"url.{remote.bare}.insteadOf"), ("VALUE_0", "alias:x")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert GitRef(clone).fetch() == NOTHING


# --- deadlines


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_deadline_ends_what_git_started(remote: Remote, monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    script, said = remote.root / "ssh", remote.root / "pid"
    trap = "trap '' TERM; " if stubborn else ""
    script.write_text(f"#!/bin/sh\n{trap}echo $$ > {said}.new && mv {said}.new {said}\nexec sleep 60\n")
    script.chmod(0o755)
    first = remote.clone("first")
    git(first, "remote", "set-url", "origin", "ssh://nowhere.invalid/x")
    monkeypatch.setenv("GIT_SSH_COMMAND", str(script))
    monkeypatch.setattr(gitref, "REMOTE_S", 1.0)
    with pytest.raises(StoreError, match="did not answer within 1 s"):
        GitRef(first).fetch()
    deadline = time.monotonic() + 5
    pid = int(said.read_text())
    while runs(pid):
        assert time.monotonic() < deadline, "ssh outlives its git"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """False also for what has ended and whose parent has not asked for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

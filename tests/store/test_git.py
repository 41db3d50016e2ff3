"""The state in a git remote keeps the contract of stores; of two writers one loses and knows it; silence proves nothing."""

from __future__ import annotations

import os
import subprocess
from itertools import cycle
from pathlib import Path

import pytest

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Launched, Launching, Requested
from reconciler.store.git import HEAD, LOCK_TERM_S, SKEW_S, GitStore
from reconciler.store.gitref import NOTHING, REF, GitRef
from tests.contract.store_contract import StoreContract
from tests.store.test_sqlite import Clock
from tests.worlds import handle_of, job, key, run_of


def git(at: Path, *arguments: str) -> str:
    said = subprocess.run(
        ["git", "-C", str(at), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.strip()


class Remote:
    """A bare repository, and clones of it as several machines have them."""

    def __init__(self, root: Path) -> None:
        self.root, self.bare = root, root / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", str(self.bare)], check=True)
        first = self.clone("first")
        git(first, "commit", "-q", "--allow-empty", "-m", "start")
        git(first, "push", "-q", "origin", "HEAD:main")

    def clone(self, name: str) -> Path:
        where = self.root / name
        if not where.exists():
            subprocess.run(["git", "clone", "-q", str(self.bare), str(where)], check=True, capture_output=True)
        return where

    @property
    def at(self) -> str:
        found = git(self.root / "first", "ls-remote", "origin", REF)
        return found.split()[0] if found else NOTHING

    def commits(self) -> int:
        return int(git(self.bare, "rev-list", "--count", REF)) if self.at != NOTHING else 0

    def hook(self, name: str, script: str) -> None:
        path = self.bare / "hooks" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def open_store(remote: Remote, clock: Clock):
    clones = cycle(("first", "second"))

    def make(actor: str = "somebody", clone: str = "") -> GitStore:
        return GitStore(GitRef(remote.clone(clone or next(clones))), now=clock.now, actor=actor)

    return make


class TestGitStore(StoreContract):
    """Each store that is opened is another machine's clone."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def open_store(self, tmp_path: Path, clock: Clock):
        made = Remote(tmp_path)
        clones = cycle(("first", "second"))
        return lambda actor="somebody": GitStore(GitRef(made.clone(next(clones))), now=clock.now, actor=actor)


RUN = run_of(job())
INTENT = [(RUN.job, Launching(RUN, False))]
RESULT = [(RUN.job, Launched(RUN.run_id, handle_of(RUN)))]


def test_one_holder_makes_one_commit_and_none_when_it_wrote_nothing(remote: Remote, open_store) -> None:
    store = open_store()
    store.lock()
    store.append(INTENT, commit="c", why="apply")
    store.append(RESULT, commit="c", why="apply")
    store.unlock()
    assert remote.commits() == 1
    before = remote.at
    store.lock()
    assert remote.at != before
    store.unlock()
    assert (remote.at, remote.commits()) == (before, 1)
    store.lock()
    store.append([(key(), Requested("cancel", "x"))], commit="c", why="cancel")
    store.unlock()
    assert remote.commits() == 2
    assert "cancel by somebody" in git(remote.bare, "log", "-1", "--format=%s", REF)


def test_a_first_lock_that_wrote_nothing_leaves_no_ref(remote: Remote, open_store) -> None:
    store = open_store()
    store.lock()
    store.unlock()
    assert remote.at == NOTHING


def test_an_intent_is_on_the_remote_before_the_effect_and_a_result_may_wait(open_store) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append(INTENT, commit="c")
    assert second.newest() == 1
    assert second.memories()[RUN.job].run == RUN
    first.append(RESULT, commit="c")
    assert second.newest() == 1
    first.unlock()
    assert second.newest() == 2
    assert second.memories() == first.memories()


def test_results_are_pushed_with_the_renewed_lock(open_store, clock: Clock) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append(INTENT, commit="c")
    first.append(RESULT, commit="c")
    first.renew()
    assert second.newest() == 1
    clock.pass_s(40)
    first.renew()
    assert second.newest() == 2


def test_the_loser_of_a_race_for_the_lock_writes_nothing(remote: Remote, open_store) -> None:
    """Both saw the state unlocked; the second push meets a ref that has moved."""
    first, second = open_store(actor="jo"), open_store(actor="ci")
    swap = second._ref.swap

    def late(old: str, new: str) -> None:
        first.lock()
        swap(old, new)

    second._ref.swap = late
    with pytest.raises(LockHeld, match="changed by another reconciler"):
        second.lock()
    with pytest.raises(LockHeld):
        second.append(INTENT, commit="c")
    first.append(INTENT, commit="c")


def test_a_holder_that_slept_through_its_term_loses_the_ref_and_knows_it(open_store, clock: Clock) -> None:
    sleeper, other = open_store(actor="jo"), open_store(actor="ci")
    sleeper.lock()
    sleeper.append(INTENT, commit="c")
    sleeper._holder = sleeper._holder  # it sleeps; on another machine its lock counts as expired only later
    clock.pass_s(61 + SKEW_S)
    other.lock()
    other.append([(key("b"), Requested("cancel", "x"))], commit="c")
    other.unlock()
    with pytest.raises(LockHeld):
        sleeper.append(RESULT, commit="c")
    sleeper.unlock()
    assert sleeper.newest() == 2
    assert set(sleeper.memories()) == {RUN.job, key("b")}


def test_a_lock_of_another_machine_is_believed_until_it_has_stood_still_by_our_clock(open_store, clock: Clock) -> None:
    from dataclasses import replace

    far, here = open_store(actor="jo"), open_store(actor="ci")
    far._holder = replace(far._holder, host="elsewhere", boot="other")
    far.lock()
    clock.pass_s(3600)
    with pytest.raises(LockHeld, match=r"jo .* on elsewhere.* 180 s .* so far: 0 s"):
        here.lock()
    clock.pass_s(LOCK_TERM_S + SKEW_S - 1)
    with pytest.raises(LockHeld, match=r"so far: 179 s\n.*takes over in 1 s"):
        here.lock()
    clock.pass_s(1)
    here.lock()


def test_the_lock_of_a_dead_process_of_this_machine_is_free_at_once(open_store) -> None:
    from dataclasses import replace

    dead, here = open_store(actor="jo"), open_store(actor="ci")
    dead._holder = replace(dead._holder, pid=os.getpid(), start="1")
    dead.lock()
    here.lock()


def test_a_remote_that_cannot_be_reached_stops_everything(remote: Remote, open_store) -> None:
    store, other = open_store(), open_store()
    store.lock()
    store.unlock()
    remote.bare.rename(remote.root / "away")
    for call in (store.newest, store.lock, other.memories):
        with pytest.raises(StoreError, match="cannot be read"):
            call()


def test_a_push_that_is_refused_is_told_and_nothing_was_written(remote: Remote, open_store) -> None:
    remote.hook("pre-receive", 'echo "no state here" >&2; exit 1')
    with pytest.raises(StoreError, match="could not be written") as refused:
        open_store().lock()
    assert "no state here" in str(refused.value)
    assert remote.at == NOTHING


def test_a_push_that_arrived_and_whose_answer_was_lost_counts(remote: Remote, open_store) -> None:
    store = open_store()
    store.lock()
    ref = store._ref
    real = ref._git

    def cut(*arguments: str, **more):
        code, out, said = real(*arguments, **more)
        return (128, b"", "fatal: the remote end hung up") if arguments[0] == "push" else (code, out, said)

    ref._git = cut
    store.append(INTENT, commit="c")
    ref._git = real
    assert open_store().newest() == 1


def test_a_push_whose_fate_is_unknown_loses_the_lock_and_the_next_look_tells(open_store) -> None:
    store = open_store()
    store.lock()
    ref = store._ref
    real = ref._git

    def silent(*arguments: str, **more):
        return (128, b"", "no route") if arguments[0] in ("push", "ls-remote") else real(*arguments, **more)

    ref._git = silent
    with pytest.raises(StoreError, match="is not known"):
        store.append(INTENT, commit="c")
    ref._git = real
    with pytest.raises(LockHeld):
        store.append(INTENT, commit="c")
    assert store.newest() == 0


def test_only_what_changed_is_read_again(open_store) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append([(key(name), Requested("cancel", "x")) for name in "abc"], commit="c")
    first.unlock()
    assert second.newest() == 3
    known = dict(second.memories())
    second._ref.tree = lambda commit: pytest.fail("everything was read")
    first.lock()
    first.append([(key("a"), Requested("resume", "x"))], commit="c")
    first.unlock()
    assert second.newest() == 4
    assert second.memories()[key("b")] is known[key("b")]
    assert second.memories()[key("a")] != known[key("a")]
    assert [entry.number for entry in second.history()] == [1, 2, 3, 4]


def test_a_state_of_another_version_or_damaged_is_told(remote: Remote, open_store) -> None:
    ref = GitRef(remote.clone("first"))
    for data, words in ((b'{"version": 9}', "has version 9"), (b"[1]", "cannot be read"), (b"\xff", "cannot be read")):
        old = remote.at
        ref.swap(old, ref.commit(NOTHING, {HEAD: data}, "x"))
        with pytest.raises(StoreError, match=words):
            open_store().memories()


def test_a_repository_without_that_remote_says_so(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(StoreError, match="git remote origin"):
        GitStore(GitRef(tmp_path)).newest()


def test_a_commit_made_here_is_named_by_no_branch_and_no_ref(remote: Remote, open_store) -> None:
    store = open_store(clone="first")
    store.lock()
    store.append(INTENT, commit="c")
    store.unlock()
    refs = git(remote.clone("first"), "for-each-ref", "--format=%(refname)")
    assert "refs/reconciler/work" not in refs
    assert git(remote.clone("first"), "status", "--porcelain") == ""

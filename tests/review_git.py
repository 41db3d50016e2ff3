"""Review of the state in git: each test says what should hold; those that fail are findings."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.errors import LockHeld, ReconcilerError, StoreError
from reconciler.core.memory import Billed, Ended, Launched, Launching, Requested, Forgotten
from reconciler.core.phase import Phase
from reconciler.source.owner import state_name
from reconciler.store import gitref
from reconciler.store.git import HEAD, LOCK_TERM_S, SKEW_S, GitStore
from reconciler.store.gitref import NOTHING, REF, GitRef
from tests.store.test_git import INTENT, RESULT, RUN, Remote, git
from tests.store.test_sqlite import Clock
from tests.worlds import handle_of, job, key, run_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def store_of(remote: Remote, clock: Clock):
    def make(clone: str = "first", actor: str = "somebody", now=None) -> GitStore:
        return GitStore(GitRef(remote.clone(clone)), now=now or clock.now, actor=actor)

    return make


def fill(store: GitStore, name: str = "a", what: str = "cancel") -> None:
    store.lock()
    store.append([(key(name), Requested(what, "x"))], commit="c")
    store.unlock()


def raw_commit(repo: Path, entries: list[tuple[str, str, bytes, str]]) -> str:
    """A commit whose tree is written by hand: (mode, kind, path, object)."""
    data = b"".join(f"{m} {k} {o}\t".encode() + p + b"\0" for m, k, p, o in entries)
    tree = subprocess.run(
        ["git", "-C", str(repo), "mktree", "-z", "--missing"], input=data, capture_output=True, check=True
    )
    return git(repo, "commit-tree", "-m", "x", tree.stdout.decode().strip())


def blob(repo: Path, data: bytes) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), "hash-object", "-w", "--stdin"], input=data, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def put(repo: Path, commit: str) -> None:
    git(repo, "push", "-q", "--force", "origin", f"{commit}:{REF}")


# --- G1
def test_the_documented_fetch_does_not_break_the_store(remote, store_of) -> None:
    fill(store_of("first"))
    other = remote.clone("second")
    git(other, "fetch", "-q", "origin", "+refs/reconciler/*:refs/reconciler/seen/*")  # docs/state.md
    fill(store_of("first"), "b")
    assert store_of("second").newest() == 2


def test_the_documented_fetch_works_where_the_reconciler_runs(remote, store_of) -> None:
    store = store_of("second")
    fill(store_of("first"))
    assert store.newest() == 1
    git(remote.clone("second"), "fetch", "-q", "origin", "+refs/reconciler/*:refs/reconciler/seen/*")


# --- G2
def test_a_branch_with_the_name_of_the_ref_is_not_taken_for_it(remote, store_of) -> None:
    fill(store_of("first"))
    first = remote.clone("first")
    git(first, "push", "-q", "origin", f"HEAD:refs/heads/{REF}")
    assert store_of("second").newest() == 1


def test_a_branch_alone_is_not_the_state(remote, store_of) -> None:
    git(remote.clone("first"), "push", "-q", "origin", f"HEAD:refs/heads/{REF}")
    assert store_of("second").newest() == 0
    fill(store_of("second"))


def test_a_branch_of_that_name_that_is_not_here_ends_in_an_error_not_in_endless_asking(remote, store_of) -> None:
    second = remote.clone("second")
    fill(store_of("first"))
    first = remote.clone("first")
    git(first, "commit", "-q", "--allow-empty", "-m", "new")
    git(first, "push", "-q", "origin", f"HEAD:refs/heads/{REF}")
    ref = GitRef(second)
    asked = []
    real = ref._git

    def counting(*arguments, **more):
        asked.append(arguments[0])
        assert len(asked) < 50, "fetch asks for ever"
        return real(*arguments, **more)

    ref._git = counting
    assert ref.fetch() == remote.at


# --- G3
@pytest.mark.parametrize("kind", ["gitlink", "name"])
def test_a_strange_tree_is_a_typed_error(remote, store_of, kind) -> None:
    first = remote.clone("first")
    entries = {
        "gitlink": [("160000", "commit", b"memory", "1" * 40)],
        "name": [("100644", "blob", b"\xff\xfe", blob(first, b"{}"))],
    }[kind]
    put(first, raw_commit(first, entries))
    with pytest.raises(ReconcilerError):
        store_of("second").memories()


# --- G4
@pytest.mark.parametrize(
    "head",
    [
        b'{"lock":{"holder":{},"expires":1}}',
        b'{"lock":{"holder":null,"expires":1}}',
        b'{"lock":{"expires":1}}',
        b'{"lock":[1]}',
        b'{"newest":"x"}',
        b'{"epoch":null}',
        b'{"scanned":[[1]]}',
    ],
)
def test_a_damaged_head_is_a_typed_error(remote, store_of, head) -> None:
    first = remote.clone("first")
    put(first, raw_commit(first, [("100644", "blob", b"head.json", blob(first, head))]))
    store = store_of("second")
    with pytest.raises(ReconcilerError):
        store.newest()
        store.scanned()
        store.lock()
        store.mark_scanned(["ws"])
        store.append(INTENT, commit="c")


# --- G5
def nested(repo: Path, path: list[bytes], body: str) -> str:
    made = ("100644", "blob", path[-1], body)
    for at in reversed(path[:-1]):
        data = f"{made[0]} {made[1]} {made[3]}\t".encode() + made[2] + b"\0"
        tree = subprocess.run(["git", "-C", str(repo), "mktree", "-z"], input=data, capture_output=True, check=True)
        made = ("040000", "tree", at, tree.stdout.decode().strip())
    return raw_commit(repo, [made])


def test_a_name_in_the_remote_cannot_write_refs_here(remote, store_of) -> None:
    """Somebody who may push the state ref, and nothing else, moves a branch of the reconciler's own clone."""
    first, second = remote.clone("first"), remote.clone("second")
    evil = git(first, "rev-parse", "HEAD")  # any commit: it comes along with the ref
    body = blob(first, b'{"attempt":1,"last_end":"x"}')
    tail = f"pwned\nfrom {evil}\n\ncommit y\ncommitter x <x> now\ndata 0\nM 100644 inline y.json".encode()
    put(first, nested(first, [b"memory", b"x\ndata 0\n\nreset refs", b"heads", tail], body))
    store = store_of("second")
    try:
        (victim,) = store.memories()
        store.lock()
        store.append([(victim, Forgotten("its manifest is gone"))], commit="c")  # what any pass does about it
    except StoreError as error:
        print(error)
    assert "refs/heads/pwned" not in git(second, "for-each-ref")


def test_a_newline_in_a_job_name_of_the_remote_is_refused(remote, store_of) -> None:
    first, second = remote.clone("first"), remote.clone("second")
    evil = git(first, "commit-tree", "-m", "evil", git(first, "rev-parse", "HEAD^{tree}"))
    body = blob(first, b'{"attempt":1,"last_end":"x"}')
    # three levels, no slash within a name: "from" needs none, "M inline" needs none; `commit` of ours goes elsewhere by `from`
    name = b"x\ndata 0\n\nM 040000 " + git(first, "rev-parse", "HEAD^{tree}").encode() + b" injected\nM 100644 inline y"
    made = ("100644", "blob", name + b".json", body)
    for at in (b"g", b"p", b"memory"):
        data = f"{made[0]} {made[1]} {made[3]}\t".encode() + made[2] + b"\0"
        tree = subprocess.run(["git", "-C", str(first), "mktree", "-z"], input=data, capture_output=True, check=True)
        made = ("040000", "tree", at, tree.stdout.decode().strip())
    put(first, raw_commit(first, [made]))
    store = store_of("second")
    try:
        known = store.memories()
    except StoreError:
        return
    (victim,) = known
    store.lock()
    store.append([(victim, Forgotten("its manifest is gone"))], commit="c")  # what a pass does about it
    store.unlock()
    names = git(remote.bare, "ls-tree", "--name-only", REF)
    print(known, names, git(remote.bare, "ls-tree", "-r", REF))
    assert "y.json" not in names, names


# --- G6
def test_another_container_with_our_hostname_is_not_dead(store_of, monkeypatch) -> None:
    """`docker run --network host`: one boot id, one host name, another process table. Its pid is not there or another's here."""
    far, here = store_of("first", "ci"), store_of("second", "jo")
    far._holder = replace(far._holder, pid=7, start="123456", pids="pid:[1]")  # pid 7 of its own namespace
    far.lock()
    with pytest.raises(LockHeld):
        here.lock()


# --- G8
def test_what_a_deleted_machine_cost_survives_a_crash(store_of) -> None:
    first, second = store_of("first"), store_of("second")
    first.lock()
    first.append(INTENT, commit="c")
    first.append([(RUN.job, Billed(RUN.run_id, "vm", 500.0))], commit="c")
    # killed here: the VM is gone, nobody can look at it any more
    assert second.memories()[RUN.job].cost == 500.0


def test_a_failed_unlock_is_told(remote, store_of) -> None:
    """The tombstone is not written, the lock stays; the pass says that all went well."""
    store = store_of("first")
    store.lock()
    store.append(INTENT, commit="c")
    ended = Ended(RUN.run_id, Phase.SUCCEEDED, None, 0, "ok", requeue=False, lasted=True, not_before=0.0)
    store.append([(RUN.job, ended)], commit="c")
    remote.hook("pre-receive", "exit 1")
    with pytest.raises(StoreError):
        store.unlock()


# --- G10
@pytest.mark.parametrize("name", ["GIT_ASKPASS", "GIT_SSH", "GIT_SSL_CAINFO", "GIT_CONFIG_COUNT"])
def test_what_makes_git_work_here_reaches_git(remote, store_of, monkeypatch, name) -> None:
    store = store_of("first")
    monkeypatch.setenv(name, "1" if name != "GIT_CONFIG_COUNT" else "0")
    seen = {}
    real = subprocess.Popen

    def spy(argv, **more):
        seen.update(more.get("env") or {})
        return real(argv, **more)

    monkeypatch.setattr(gitref.subprocess, "Popen", spy)
    store.newest()
    assert name in seen


# --- G11
@pytest.mark.parametrize(
    "setting",
    [
        ("push.gpgSign", "true"),
        ("push.pushOption", "ci.skip"),
        ("push.followTags", "true"),
        ("push.default", "nothing"),
        ("remote.pushDefault", "elsewhere"),
        ("remote.origin.mirror", "true"),
        ("remote.origin.push", "refs/heads/*:refs/heads/x/*"),
        ("remote.origin.prune", "true"),
        ("fetch.prune", "true"),
        ("transfer.fsckObjects", "true"),
        ("fetch.recurseSubmodules", "true"),
        ("push.recurseSubmodules", "check"),
        ("push.negotiate", "true"),
        ("core.hooksPath", "/nowhere"),
        ("commit.gpgSign", "true"),
        ("fastimport.unpackLimit", "1"),
        ("core.quotePath", "true"),
        ("diff.renames", "copies"),
        ("log.showSignature", "true"),
        ("gc.auto", "1"),
    ],
)
def test_a_users_settings_do_not_matter(remote, store_of, setting) -> None:
    fill(store_of("first"))
    for name in ("first", "second"):
        git(remote.clone(name), "config", *setting)
    fill(store_of("second"), "b")
    assert store_of("first").newest() == 2


@pytest.mark.parametrize(
    "setting",
    [
        ("receive.denyNonFastForwards", "true"),
        ("receive.denyDeletes", "true"),
        ("transfer.fsckObjects", "true"),
        ("receive.fsckObjects", "true"),
        ("core.logAllRefUpdates", "always"),
    ],
)
def test_a_servers_settings_do_not_matter(remote, store_of, setting) -> None:
    git(remote.bare, "config", *setting)
    store = store_of("first")
    store.lock()
    store.unlock()
    fill(store)
    fill(store_of("second"), "b")
    assert store_of("first").newest() == 2


def test_a_push_that_triggers_hooks_here_runs_none(remote, store_of) -> None:
    first = remote.clone("first")
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        hook = first / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {remote.root}/hooked\nexit 1\n")
        hook.chmod(0o755)
    fill(store_of("first"))
    assert not (remote.root / "hooked").exists()


# --- G12
def test_a_deadline_ends_what_git_started(remote, tmp_path, monkeypatch) -> None:
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    script.chmod(0o755)
    first = remote.clone("first")
    git(first, "remote", "set-url", "origin", "ssh://nowhere.invalid/x")
    monkeypatch.setenv("GIT_SSH_COMMAND", str(script))
    monkeypatch.setattr(gitref, "REMOTE_S", 1.0)
    began = time.monotonic()
    with pytest.raises(StoreError):
        GitRef(first).fetch()
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text())
    time.sleep(0.3)
    alive = Path(f"/proc/{pid}").exists()
    if alive:
        os.kill(pid, 9)
    assert not alive


# --- G13
def test_a_clock_that_is_minutes_ahead_does_not_take_a_living_lock(store_of, clock) -> None:
    far, here = store_of("first", "jo"), store_of("second", "ci", now=lambda: clock.now() + 240)
    far._holder = replace(far._holder, host="elsewhere", boot="other")
    far.lock()
    far.append(INTENT, commit="c")
    with pytest.raises(LockHeld):
        here.lock()


def test_the_lock_of_a_dead_machine_whose_clock_was_ahead_is_free_after_a_while(store_of, clock) -> None:
    far, here = store_of("first", "jo", now=lambda: clock.now() + 3600), store_of("second", "ci")
    far._holder = replace(far._holder, host="elsewhere", boot="other")
    far.lock()
    here_sees = here
    for _ in range(12):
        try:
            here_sees.lock()
        except LockHeld:
            clock.pass_s(30)
        else:
            return
    pytest.fail("held after six minutes of silence")


# --- G15
def test_two_processes_of_one_clone_look_at_once(remote, store_of) -> None:
    fill(store_of("first"))
    failed: list[Exception] = []
    remote.clone("second")
    for number in range(6):
        fill(store_of("first"), f"n{number}")

        def look() -> None:
            try:
                store_of("second").newest()
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=look) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert not failed, failed[:2]


# --- G18
def test_giving_back_a_lock_that_was_taken_over_leaves_no_lock(store_of, clock) -> None:
    dead, here, third = store_of("first", "jo"), store_of("second", "ci"), store_of("first", "third")
    for one in (dead, third):
        one._holder = replace(one._holder, host=one.actor, boot=one.actor)
    dead.lock()
    dead.append(INTENT, commit="c")
    here.newest()
    clock.pass_s(LOCK_TERM_S + SKEW_S + 1)
    here.lock()
    here.unlock()
    assert third._ref.fetch()
    third.newest()
    assert third._head.lock is None


# --- sound?
def test_worktrees_bare_and_sha256(tmp_path) -> None:
    bare = tmp_path / "r.git"
    subprocess.run(["git", "init", "-q", "--bare", "--object-format=sha256", str(bare)], check=True)
    first = tmp_path / "first"
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(first)], check=True, capture_output=True)
    git(first, "remote", "add", "origin", str(bare))
    git(first, "commit", "-q", "--allow-empty", "-m", "start")
    git(first, "worktree", "add", "-q", str(tmp_path / "tree"))
    store = GitStore(GitRef(first), actor="a")
    store.lock()
    store.unlock()
    fill(store)
    fill(GitStore(GitRef(tmp_path / "tree"), actor="b"), "b")
    assert GitStore(GitRef(bare.parent / "first"), actor="c").newest() == 2


def test_awkward_names(store_of) -> None:
    from reconciler.core.names import JobKey

    keys = [
        JobKey("a.lock", "x..y", "c.json"),
        JobKey("0", "A", "git~1".replace("~", "-")),
        JobKey("HEAD", "a.git", "x.lock"),
    ]
    store = store_of("first")
    store.lock()
    store.append([(one, Requested("cancel", "x")) for one in keys], commit="c", why='q"\n\\ü')
    store.unlock()
    assert set(store_of("second").memories()) == set(keys)


def test_deleted_and_rewound_ref(remote, store_of) -> None:
    first, second = store_of("first"), store_of("second")
    fill(first)
    assert second.newest() == 1
    fill(first, "b")
    assert second.newest() == 2
    git(remote.bare, "update-ref", REF, git(remote.bare, "rev-parse", f"{REF}^"))
    assert second.newest() == 1
    assert set(second.memories()) == {key("a")}
    git(remote.bare, "update-ref", "-d", REF)
    assert second.newest() == 0
    assert not second.memories()


def test_shallow_clone(remote, store_of) -> None:
    fill(store_of("first"))
    where = remote.root / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", "-b", "main", f"file://{remote.bare}", str(where)], check=True)
    fill(GitStore(GitRef(where), actor="x"), "b")
    fill(store_of("first"), "c")
    assert GitStore(GitRef(where), actor="x").newest() == 3


def test_insteadof(remote, store_of) -> None:
    fill(store_of("first"))
    clone = remote.clone("second")
    git(clone, "remote", "set-url", "origin", "alias:x")
    git(clone, "config", f"url.{remote.bare}.insteadOf", "alias:x")
    fill(store_of("second"), "b")
    assert store_of("first").newest() == 2


@pytest.mark.parametrize(
    "owners", [("my-organisation-speech", "my-organisation-vision"), ("team a", "x"), ("x.lock", "y")]
)
def test_owners_by_name_have_states_of_their_own(remote, clock, owners, tmp_path) -> None:
    """$RECONCILER_OWNER is any text; wiring._store cuts it to 16 characters and puts it into the name of a ref."""
    stores = [
        GitStore(GitRef(remote.clone("first"), ref=f"refs/reconciler/{state_name(one)}"), now=clock.now, actor="a")
        for one in owners
    ]
    fill(stores[0])
    assert stores[1].newest() == 0

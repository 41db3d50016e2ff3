"""The state in a git remote keeps the contract of stores; of two writers one loses and knows it; silence proves nothing."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.memory import Billed, Ended, Launched, Launching, Requested
from reconciler.core.phase import Phase
from reconciler.store.git import HEAD, LOCK_TERM_S, SKEW_S, GitStore
from reconciler.store.gitref import NOTHING, REF, SEEN, GitRef
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
        found = git(self.bare, "for-each-ref", "--format=%(objectname)", REF)
        return found or NOTHING

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
END = [(RUN.job, Ended(RUN.run_id, Phase.SUCCEEDED, None, 0, "ok", requeue=False, lasted=True, not_before=0.0))]


def elsewhere(store: GitStore, host: str = "elsewhere") -> GitStore:
    """As if it ran on another machine."""
    store._holder = replace(store._holder, host=host, boot=host)
    return store


def fill(store: GitStore, *names: str) -> None:
    store.lock()
    store.append([(key(name), Requested("cancel", "x")) for name in names], commit="c")
    store.unlock()


def blob(repo: Path, data: bytes) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), "hash-object", "-w", "--stdin"], input=data, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def put(repo: Path, path: list[bytes], mode: str, kind: str, one: str) -> None:
    """Somebody pushes a state by hand: one entry, whose name git itself would not make."""
    for name in reversed(path):
        data = f"{mode} {kind} {one}\t".encode() + name + b"\0"
        made = subprocess.run(
            ["git", "-C", str(repo), "mktree", "-z", "--missing"], input=data, capture_output=True, check=True
        )
        mode, kind, one = "040000", "tree", made.stdout.decode().strip()
    git(repo, "push", "-q", "--force", "origin", f"{git(repo, 'commit-tree', '-m', 'x', one)}:{REF}")


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
    far, here = open_store(actor="jo"), open_store(actor="ci")
    elsewhere(far).lock()
    clock.pass_s(3600)
    with pytest.raises(LockHeld, match=r"jo .* on elsewhere.* 180 s .* so far: 0 s"):
        here.lock()
    clock.pass_s(LOCK_TERM_S + SKEW_S - 1)
    with pytest.raises(LockHeld, match=r"so far: 179 s\n.*takes over in 1 s"):
        here.lock()
    clock.pass_s(1)
    here.lock()


def test_the_lock_of_a_dead_process_of_this_machine_is_free_at_once(open_store) -> None:
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


def test_a_commit_made_here_is_named_by_no_branch(remote: Remote, open_store) -> None:
    store = open_store(clone="first")
    store.lock()
    store.append(INTENT, commit="c")
    store.unlock()
    refs = git(remote.clone("first"), "for-each-ref", "--format=%(refname)", "--contains", remote.at)
    assert [name for name in refs.split() if not name.startswith(SEEN)] == []
    assert git(remote.clone("first"), "status", "--porcelain") == ""


# --- locks and clocks


def test_a_process_table_of_its_own_is_another_machine(open_store) -> None:
    """Containers with the machine's network: one boot id, one host name, and our pid is another process there."""
    far, here = open_store(actor="ci"), open_store(actor="jo")
    far._holder = replace(far._holder, pid=7, start="123456", pids="pid:[1]")
    far.lock()
    with pytest.raises(LockHeld, match="so far: 0 s"):
        here.lock()


def test_without_a_boot_id_nobody_shares_our_machine(open_store) -> None:
    far, here = open_store(actor="ci"), open_store(actor="jo")
    for one in (far, here):
        one._holder = replace(one._holder, boot="", pid=one._holder.pid, start="")
    far.lock()
    with pytest.raises(LockHeld, match="so far: 0 s"):
        here.lock()


@pytest.mark.parametrize("ahead_s", [240.0, -3600.0])
def test_a_clock_that_goes_wrong_takes_no_living_lock(open_store, clock: Clock, ahead_s: float) -> None:
    far, here = elsewhere(open_store(actor="jo")), open_store(actor="ci")
    here._now = lambda: clock.now() + ahead_s
    far.lock()
    for _ in range(20):
        with pytest.raises(LockHeld):
            here.lock()
        clock.pass_s(31)
        far.renew()
    far.append(INTENT, commit="c")


def test_the_lock_of_a_dead_machine_whose_clock_was_ahead_is_free_after_a_while(open_store, clock: Clock) -> None:
    far, here = elsewhere(open_store(actor="jo")), open_store(actor="ci")
    far._now = lambda: clock.now() + 3600
    far.lock()
    with pytest.raises(LockHeld):
        here.lock()
    clock.pass_s(LOCK_TERM_S + SKEW_S)
    here.lock()


def test_a_command_knows_what_the_one_before_has_seen(open_store, clock: Clock) -> None:
    """Each command is a process; the clone remembers since when the lock has not moved. A look counts as well."""
    elsewhere(open_store(actor="jo", clone="first")).lock()
    open_store(clone="second").newest()
    clock.pass_s(LOCK_TERM_S + SKEW_S - 10)
    with pytest.raises(LockHeld, match="takes over in 10 s"):
        open_store(clone="second").lock()
    clock.pass_s(10)
    open_store(clone="second").lock()


def test_giving_back_a_lock_that_was_taken_over_leaves_no_lock(remote: Remote, open_store, clock: Clock) -> None:
    dead, here, third = (elsewhere(open_store(actor=name), name) for name in ("jo", "ci", "third"))
    dead.lock()
    dead.append(INTENT, commit="c")
    here.newest()
    clock.pass_s(LOCK_TERM_S + SKEW_S)
    here.lock()
    here.unlock()
    third.lock()
    third.unlock()
    assert json.loads(git(remote.bare, "show", f"{REF}:{HEAD}"))["lock"] is None
    assert set(third.memories()) == {RUN.job}


# --- the end of a pass


def test_what_a_deleted_machine_cost_is_on_the_remote_at_once(open_store) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append(INTENT, commit="c")
    first.append([(RUN.job, Billed(RUN.run_id, "vm", 500.0))], commit="c")
    assert second.memories()[RUN.job].cost == 500.0


def test_results_that_cannot_be_written_at_the_end_are_told(remote: Remote, open_store) -> None:
    store = open_store()
    store.lock()
    store.append(INTENT, commit="c")
    store.append(RESULT, commit="c")
    store.append(END, commit="c")
    remote.hook("pre-receive", "exit 1")
    with pytest.raises(StoreError, match=r"What came of 2 effects is not written: .*could not be written") as told:
        store.unlock()
    assert not isinstance(told.value, LockHeld)
    store.unlock()  # nothing is held any more


def test_a_lock_that_cannot_be_given_back_is_told_and_that_nothing_is_lost(remote: Remote, open_store) -> None:
    store = open_store()
    store.lock()
    store.append(INTENT, commit="c")
    remote.hook("pre-receive", "exit 1")
    with pytest.raises(StoreError, match=r"The lock was not given back: .*\n.*Everything is written"):
        store.unlock()


def test_the_end_of_a_pass_is_tried_twice(remote: Remote, open_store) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append(INTENT, commit="c")
    first.append(END, commit="c")
    remote.hook("pre-receive", f"test -e {remote.root}/again && exit 0; touch {remote.root}/again; exit 1")
    first.unlock()
    assert second.newest() == 2
    second.lock()


def test_results_of_a_holder_that_was_late_are_written_if_nobody_took_the_lock(open_store, clock: Clock) -> None:
    first, second = open_store(), open_store()
    first.lock()
    first.append(INTENT, commit="c")
    first.append(END, commit="c")
    clock.pass_s(LOCK_TERM_S + 1)
    first.unlock()
    assert second.newest() == 2


# --- what somebody else put there


def test_a_name_in_the_remote_cannot_write_refs_here(remote: Remote, open_store) -> None:
    """Who may push the state's ref, and nothing else, must not move a branch of the reconciler's own clone."""
    first, second = remote.clone("first"), remote.clone("second")
    tail = f"pwned\nfrom {git(first, 'rev-parse', 'HEAD')}\n\ncommit y\ncommitter x <x> now\ndata 0\nM 100644 inline y.json"
    body = blob(first, b'{"attempt":1,"last_end":"x"}')
    put(first, [b"memory", b"x\ndata 0\n\nreset refs", b"heads", tail.encode()], "100644", "blob", body)
    store = open_store(clone="second")
    with pytest.raises(StoreError, match="not written by a reconciler"):
        store.memories()
    assert "pwned" not in git(second, "for-each-ref")


@pytest.mark.parametrize(
    "path",
    [
        [b"memory", b"a", b"b.json"],
        [b"memory", b"a", b"b", b"c", b"d.json"],
        [b"memory", b"a", b"b", b"c.txt"],
        [b"memory", b"a", b"b", b"x\ny.json"],
        [b"memory", b"a", b"b", b"x" * 64 + b".json"],
        [b"journal", b"1.jsonl"],
        [b"journal", b"0000000001.json"],
        [b"journal", b"0000000", b"0", b"0000000001.jsonl"],
        [b"README"],
        [b"\xff\xfe"],
    ],
)
def test_a_file_that_no_reconciler_writes_is_named(remote: Remote, open_store, path: list[bytes]) -> None:
    first = remote.clone("first")
    put(first, path, "100644", "blob", blob(first, b'{"attempt":1}'))
    with pytest.raises(StoreError) as told:
        open_store(clone="second").memories()
    assert ascii(b"/".join(path))[2:-1] in told.value.message.replace("\\\\", "\\")


@pytest.mark.parametrize(("mode", "kind"), [("160000", "commit"), ("120000", "blob"), ("100755", "blob")])
def test_what_is_not_a_plain_file_is_a_typed_error(remote: Remote, open_store, mode: str, kind: str) -> None:
    first = remote.clone("first")
    one = blob(first, b"{}") if kind == "blob" else "1" * 40
    put(first, [b"head.json"], mode, kind, one)
    with pytest.raises(StoreError, match=rf"head.json.*mode {mode}"):
        open_store(clone="second").memories()


@pytest.mark.parametrize(
    "head",
    [
        b'{"lock":{"holder":{},"expires":1}}',
        b'{"lock":{"holder":null,"expires":1}}',
        b'{"lock":{"holder":{"actor":1,"host":"h","pid":1,"start":"","boot":""},"expires":1}}',
        b'{"lock":{"holder":{"actor":"a","host":"h","pid":true,"start":"","boot":""},"expires":1}}',
        b'{"lock":{"holder":{"actor":"a","host":"h","pid":1,"start":"","boot":""},"expires":NaN}}',
        b'{"lock":{"expires":1}}',
        b'{"lock":[1]}',
        b'{"newest":"x"}',
        b'{"newest":true}',
        b'{"newest":-1}',
        b'{"epoch":null}',
        b'{"scanned":[[1]]}',
        b'{"scanned":{"ws":"x"}}',
        b'{"version":"1"}',
        b"[" * 100_000,
        b"",
    ],
)
def test_a_damaged_head_is_a_typed_error(remote: Remote, open_store, head: bytes) -> None:
    first = remote.clone("first")
    put(first, [b"head.json"], "100644", "blob", blob(first, head))
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(clone="second").newest()


def test_a_lock_of_an_older_or_newer_program_is_read(remote: Remote, open_store, clock: Clock) -> None:
    first = remote.clone("first")
    holder = {"actor": "jo", "host": "h", "pid": 1, "start": "", "boot": "b", "new": 1}
    put(
        first,
        [b"head.json"],
        "100644",
        "blob",
        blob(first, json.dumps({"lock": {"holder": holder, "expires": 1}}).encode()),
    )
    with pytest.raises(LockHeld, match=r"jo \(pid 1 on h\)"):
        open_store(clone="second").lock()


# --- the journal


def test_a_look_reads_no_journal_and_the_history_only_what_is_asked_for(open_store) -> None:
    store = open_store()
    for number in range(70):
        fill(store, f"n{number}")
    again = open_store()
    read: list[str] = []
    real = again._ref.contents
    again._ref.contents = lambda objects: (read.extend(objects), real(objects))[1]
    assert again.newest() == 70
    assert not [name for name in read if name.startswith("journal/")]
    assert [entry.number for entry in again.history(limit=3)] == [68, 69, 70]
    assert len([name for name in read if name.startswith("journal/")]) == 32
    assert [entry.number for entry in again.history()] == list(range(1, 71))


def test_the_pages_of_a_full_directory_become_one_in_the_commit_that_begins_the_next(
    remote: Remote, open_store
) -> None:
    store, other = open_store(), open_store()
    fill(store, "a")
    fill(store, *(f"n{number}" for number in range(997)))
    assert other.newest() == 998
    fill(store, "b")
    assert pages(remote) == [f"journal/0000000/{number:010}.jsonl" for number in (1, 2, 999)]
    before = remote.commits()
    fill(store, "c", "d")
    fill(other, "e")
    assert pages(remote) == [
        "journal/0000000/0000000001.jsonl",
        "journal/0000001/0000001000.jsonl",
        "journal/0000001/0000001002.jsonl",
    ]
    assert remote.commits() == before + 2
    for one in (store, other, open_store()):
        one.newest()
        assert [entry.number for entry in one.history(limit=2000)] == list(range(1, 1003))
        assert [entry.number for entry in one.history(key("a"))] == [1]


def test_pages_of_the_first_layout_are_read_and_folded(remote: Remote, open_store) -> None:
    store = open_store()
    fill(store, "a")
    fill(store, *(f"n{number}" for number in range(999)))
    ref = GitRef(remote.clone("first"))
    at = ref.fetch()
    moved: dict[str, bytes | None] = {}
    for path, data in ref.contents({path: one for path, one in ref.tree(at).items() if "journal/" in path}).items():
        moved |= {path: None, f"journal/{path.rpartition('/')[2]}": data}
    ref.swap(at, ref.commit(at, moved, "the first layout"))
    assert pages(remote) == ["journal/0000000001.jsonl", "journal/0000000002.jsonl"]
    assert store.newest() == 1000
    assert len(store.history(limit=2000)) == 1000
    fill(store, "b")
    assert pages(remote) == ["journal/0000000/0000000001.jsonl", "journal/0000001/0000001001.jsonl"]
    assert [entry.number for entry in open_store().history(limit=2000)] == list(range(1, 1002))


def pages(remote: Remote) -> list[str]:
    return git(remote.bare, "ls-tree", "-r", "--name-only", REF, "journal").split()

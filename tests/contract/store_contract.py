"""What every store promises. A store's test module subclasses this and provides `open_store`."""

from __future__ import annotations

import pytest

from reconciler.core.cause import Cause
from reconciler.core.errors import LockHeld
from reconciler.core.memory import Ended, Launched, Launching, Requested, fold
from reconciler.core.phase import Phase
from tests.worlds import handle_of, job, key, run_of


class StoreContract:
    """`open_store(actor=..., clock=...)` opens the same store each time, as another process would."""

    @pytest.fixture
    def open_store(self):
        raise NotImplementedError

    @staticmethod
    def lines():
        run = run_of(job())
        ended = Ended(run.run_id, Phase.SUCCEEDED, None, 0, "finished", requeue=False, lasted=True, not_before=0.0)
        return [(run.job, Launching(run, False)), (run.job, Launched(run.run_id, handle_of(run))), (run.job, ended)]

    def test_memory_is_the_fold_of_the_journal(self, open_store):
        store = open_store()
        store.lock()
        for line in self.lines():
            store.append([line], commit="c1")
        memory = None
        for entry in store.history(key()):
            from reconciler.core.memory import Memory

            memory = fold(memory or Memory(key()), entry.line, entry.at)
        assert store.memories()[key()] == memory

    def test_what_was_appended_is_there_for_the_next_process(self, open_store):
        store = open_store()
        store.lock()
        store.append(self.lines(), commit="c1", why="apply")
        store.unlock()
        again = open_store()
        assert again.memories()[key()].tombstone.phase is Phase.SUCCEEDED
        assert [entry.line for entry in again.history()] == [line for _, line in self.lines()]
        assert {(entry.commit, entry.why) for entry in again.history()} == {("c1", "apply")}

    def test_lines_of_one_call_are_all_there_or_none(self, open_store):
        store = open_store()
        store.lock()
        with pytest.raises(Exception, match=r".*"):
            store.append([*self.lines(), (key(), object())], commit="c1")
        assert not store.history()
        assert not open_store().memories()

    def test_appending_nothing_needs_no_lock_and_writes_nothing(self, open_store):
        store = open_store()
        store.append([], commit="c1")
        assert store.newest() == 0

    def test_without_the_lock_nothing_can_be_written(self, open_store):
        with pytest.raises(LockHeld):
            open_store().append(self.lines(), commit="c1")

    def test_the_second_reconciler_is_refused_and_told_who_holds_the_lock(self, open_store):
        open_store(actor="jo@desk").lock()
        with pytest.raises(LockHeld, match="jo@desk"):
            open_store(actor="ci").lock()

    def test_the_lock_is_free_after_unlock(self, open_store):
        first = open_store(actor="jo")
        first.lock()
        first.unlock()
        open_store(actor="ci").lock()

    def test_a_lock_that_is_not_renewed_expires_and_its_holder_is_fenced_off(self, open_store, clock):
        first, second = open_store(actor="jo"), open_store(actor="ci")
        first.lock()
        clock.pass_s(61)
        second.lock()
        with pytest.raises(LockHeld):
            first.append(self.lines(), commit="c1")
        with pytest.raises(LockHeld):
            first.renew()
        second.append(self.lines(), commit="c1")

    def test_a_renewed_lock_is_kept(self, open_store, clock):
        first, second = open_store(actor="jo"), open_store(actor="ci")
        first.lock()
        for _ in range(5):
            clock.pass_s(40)
            first.renew()
        with pytest.raises(LockHeld):
            second.lock()

    def test_an_expired_lock_writes_nothing_even_when_nobody_took_it(self, open_store, clock):
        store = open_store()
        store.lock()
        clock.pass_s(61)
        with pytest.raises(LockHeld):
            store.append(self.lines(), commit="c1")

    def test_history_is_per_job_and_limited_to_the_newest(self, open_store):
        store = open_store()
        store.lock()
        store.append(self.lines(), commit="c1")
        store.append([(key("b"), Requested("cancel", "by hand"))], commit="c2")
        assert len(store.history(key())) == 3
        assert [entry.commit for entry in store.history(limit=1)] == ["c2"]
        assert store.newest() == 4

    def test_complete_looks_are_remembered_and_can_be_taken_back(self, open_store):
        store = open_store()
        store.lock()
        store.mark_scanned(["ws", "gpu1"])
        store.unmark_scanned("ws")
        store.unlock()
        assert open_store().scanned() == {"gpu1"}

    def test_every_kind_of_line_comes_back_as_it_was(self, open_store):
        from reconciler.core import memory as m

        run = run_of(job(env={"A": "\u00e4 '\"\\ $(x)\n"}), gpus=("GPU-1",))
        kinds = [
            m.Launching(run, True, 12.5),
            m.Launched(run.run_id, handle_of(run), adopted=True),
            m.Edited(run.run_id, run),
            m.Unsettled(run.run_id, "cut"),
            m.Stopping(run.run_id, Cause.REPLACED, forced=True),
            m.Stopped(run.run_id, "signalled"),
            m.Ended(
                run.run_id, Phase.LOST, Cause.INFRASTRUCTURE, 137, "gone", requeue=True, lasted=False, not_before=5.5
            ),
            m.Refused(run.run_id, "no", 3.0, Cause.CAPACITY),
            m.Deferred("no archive", 4.0),
            m.Adopted(run, None),
            m.Requested("suspend", "weekend"),
            m.Noticed(run.run_id, "NodeLost"),
            m.Releasing(run.run_id, "vm in zone", "its run succeeded"),
            m.Billed(run.run_id, "vm in zone", 12.5),
            m.Forgotten("sold"),
        ]
        assert {type(line) for line in kinds} == set(m.Line.__args__)
        store = open_store()
        store.lock()
        for line in kinds:
            store.append([(run.job, line)], commit="c")
        assert [entry.line for entry in open_store().history()] == kinds
        assert open_store().memories() == store.memories()

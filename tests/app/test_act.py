"""Intent, effect, settling: what is durable when, and what each answer of a host means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.app.act import act
from reconciler.app.converge import Moved
from reconciler.backends.fake import Fault
from reconciler.backends.fake_queue import FakeCluster
from reconciler.core.cause import Cause
from reconciler.core.errors import (
    AccessRefused,
    LockHeld,
    OutcomeUnknown,
    Rejected,
    SecretError,
    ShipError,
    StoreError,
    Unparsable,
    Unreachable,
)
from reconciler.core.memory import Requested
from reconciler.core.protocols import Declined, Submission, Tree
from tests.app.worlds import Desk, VirtualClock
from tests.worlds import job, key, run_of


def raising(error):
    def answer(*arguments, **more):
        raise error

    return answer


def memory_of(desk, name="a"):
    return desk.store.memories()[key(name)]


def test_every_intent_of_a_pass_is_durable_before_the_first_effect(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.want(*(job(name, request={"hosts": [host]}) for name, host in (("a", "h1"), ("b", "h2"))))
    durable = []
    for backend in desk.backends.values():
        backend.answers["submit"] = lambda submissions, backend=backend: (
            durable.append(_open_runs(tmp_path)),
            type(backend).__mro__[1].submit(backend, submissions),
        )[1]
    desk.one_pass()
    assert durable == [{"a", "b"}] * 2
    desk.close()


def _open_runs(directory):
    from reconciler.store.sqlite import SqliteStore

    other = SqliteStore(directory / "state.sqlite", actor="looks in from outside")
    found = {job_key.name for job_key, memory in other.memories().items() if memory.run is not None}
    other.close()
    return found


def test_the_intent_to_stop_is_durable_before_the_stop(desk):
    desk.want(job())
    desk.one_pass()
    desk.want(job(command=["false"]))
    desk.log.clear()
    desk.one_pass()
    assert desk.log == ["lock", "Stopping a", "cancel a", "Stopped a"]


def test_the_end_of_a_stray_is_journaled_before_it_is_asked_for(tmp_path):
    desk = Desk(tmp_path, names=("ws", "other"))
    desk.want(job())
    desk.one_pass()
    stray = replace(run_of(job(), host="other"), token="woke up late")
    desk.machines["other"].claim(Submission(stray, {}, {}))
    desk.want(job("b", request={"hosts": ["other"]}))  # somebody has to look there
    desk.log.clear()
    desk.one_pass()
    assert [line for line in desk.log if line.endswith(" a")] == ["Unsettled a", "cancel a", "Stopped a"]
    assert memory_of(desk).stop is None
    desk.close()


@pytest.mark.parametrize(
    ("answer", "line", "still_open"),
    [
        (lambda runs: {runs[0].run.run_id: Declined("other", "no")}, "Refused", False),
        (raising(Unreachable("no connection")), "Refused", False),
        (raising(Rejected("the host said no")), "Refused", False),
        (raising(AccessRefused("key refused")), "Refused", False),
        (raising(OutcomeUnknown("cut")), "Unsettled", True),
        (raising(Unparsable("what?")), "Unsettled", True),
        (raising(ZeroDivisionError("a bug of ours")), "Unsettled", True),
        (lambda runs: {}, "Unsettled", True),
    ],
    ids=["declined", "unreachable", "rejected", "access", "unknown", "unparsable", "crashed lane", "missing answer"],
)
def test_only_a_definite_no_lets_go_of_a_launch(desk, answer, line, still_open):
    desk.want(job())
    desk.backends["ws"].answers["submit"] = answer
    [done] = desk.one_pass()
    assert not done.ok
    assert desk.lines() == ["Launching", line]
    assert (memory_of(desk).run is not None) == still_open
    assert not memory_of(desk).submitted


def test_an_accepted_launch_is_settled_with_its_handle(desk):
    desk.want(job())
    [done] = desk.one_pass()
    assert done.ok
    assert desk.lines() == ["Launching", "Launched"]
    assert memory_of(desk).handle is not None


def test_a_refused_launch_waits_out_its_backoff_and_gets_a_new_number(desk):
    desk.want(job())
    desk.backends["ws"].answers["submit"] = raising(Rejected("not now"))
    desk.one_pass()
    assert memory_of(desk).not_before == desk.clock.now() + 10
    del desk.backends["ws"].answers["submit"]
    assert not desk.one_pass()
    desk.clock.sleep(10)
    desk.one_pass()
    [process] = desk.machines["ws"].living()
    assert process.run.attempt == 2


def test_a_launch_whose_answer_was_lost_is_settled_by_looking(desk):
    desk.want(job())
    desk.machines["ws"].disturb = lambda verb, machine: Fault.AFTER if verb == "submit" else None
    desk.one_pass()
    desk.machines["ws"].disturb = lambda verb, machine: None
    desk.one_pass()
    assert desk.lines() == ["Launching", "Unsettled", "Launched"]
    assert desk.machines["ws"].calls.count("submit") == 1


def test_one_hosts_bug_leaves_the_other_hosts_settled(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.want(*(job(name, request={"hosts": [host]}) for name, host in (("a", "h1"), ("b", "h2"))))
    desk.backends["h1"].answers["submit"] = raising(KeyError("a bug of ours"))
    done = {item.action.job.name: item for item in desk.one_pass()}
    assert done["b"].ok
    assert "KeyError" in done["a"].message
    desk.close()


@pytest.mark.parametrize(
    ("answer", "line", "ok"),
    [
        (raising(Unreachable("no connection")), "Unsettled", False),
        (raising(OutcomeUnknown("cut")), "Unsettled", False),
        (raising(Rejected("wrong token")), "Unsettled", False),
        (raising(ZeroDivisionError("a bug of ours")), "Unsettled", False),
        (lambda *a, **k: "already gone", "Stopped", True),
    ],
    ids=["unreachable", "unknown", "rejected", "crashed lane", "gone"],
)
def test_a_stop_is_never_an_end_whatever_the_host_says(desk, answer, line, ok):
    desk.want(job())
    desk.one_pass()
    desk.want(job(suspend=True))
    desk.backends["ws"].answers["cancel"] = answer
    [done] = desk.one_pass()
    assert done.ok == ok
    assert desk.lines()[2:] == ["Stopping", line]
    assert memory_of(desk).run is not None


@pytest.mark.parametrize(
    ("what", "error"), [("prepare", ShipError("no such commit")), ("secrets", SecretError("no such variable"))]
)
def test_what_fails_on_this_side_defers_before_any_intent(desk, what, error):
    desk.want(job(), job("b"))
    desk.failing[what] = error
    assert [item.ok for item in desk.one_pass()] == [False, False]
    assert desk.lines() == ["Deferred", "Deferred"]
    assert memory_of(desk).not_before == desk.clock.now() + 10
    assert "submit a" not in desk.log


def test_code_that_cannot_be_delivered_is_a_definite_no(desk):
    desk.want(job())
    desk.failing["deliver"] = ShipError("disk full")
    [done] = desk.one_pass()
    assert "disk full" in done.message
    assert desk.lines() == ["Launching", "Refused"]


def test_code_is_sent_only_when_the_host_says_that_it_lacks_it(desk):
    desk.want(job())
    desk.tree = Tree(object="/share/objects/x.tar.gz", sha256="x")
    desk.one_pass()
    assert desk.sent == ["ws"]
    assert desk.lines() == ["Launching", "Launched"]
    desk.want(job("b"))
    desk.one_pass()
    assert desk.sent == ["ws"]


@pytest.mark.parametrize("reason", ["fenced", "claimed", "alive"])
def test_a_host_that_knows_more_than_we_do_is_looked_at_again(desk, reason):
    desk.want(job())
    desk.backends["ws"].answers["submit"] = lambda runs: {runs[0].run.run_id: Declined(reason, "no")}
    desk.one_pass()
    assert desk.store.scanned() == frozenset()
    assert desk.log.index("scanned ws") < desk.log.index("submit a")
    desk.one_pass()
    assert [look.scan for look in desk.backends["ws"].looks] == [True, True]


def test_nothing_is_done_when_another_reconciler_has_written_since_the_look(desk):
    desk.want(job())
    seen = desk.reconciler.look()
    other = desk.another("ci")
    other.apply(other.look(), why="ci")
    with pytest.raises(Moved):
        desk.reconciler.apply(seen, why="late")
    assert desk.machines["ws"].calls.count("submit") == 1
    other.close()
    other.ports.store.close()


def test_nothing_is_done_without_the_lock(desk):
    desk.want(job())
    other = desk.another("ci")
    other.ports.store.lock()
    with pytest.raises(LockHeld, match="ci"):
        desk.one_pass()
    assert "submit" not in desk.machines["ws"].calls
    other.ports.store.close()


def test_an_intent_that_cannot_be_written_stops_the_pass_before_any_effect(desk):
    desk.want(job())
    seen = desk.reconciler.look()
    with pytest.raises(LockHeld):
        act(
            seen.plan,
            seen.world.desired,
            seen.world.memories,
            desk.ports(),
            desk.reconciler._lanes,
            commit="c1",
            why="without the lock",
        )
    assert "submit" not in desk.machines["ws"].calls


def test_the_lock_is_given_back_after_an_error(desk):
    desk.want(job())
    desk.store.append = raising(LockHeld("lost"))
    with pytest.raises(LockHeld):
        desk.one_pass()
    other = desk.another("ci")
    other.ports.store.lock()
    other.ports.store.close()


def test_what_was_done_is_reported_before_an_end_that_cannot_be_written(desk):
    desk.want(job())
    desk.store.unlock = raising(StoreError("What came of 1 effects is not written"))
    seen, reported = desk.reconciler.look(), []
    with pytest.raises(StoreError, match="What came of 1 effects"):
        desk.reconciler.apply(seen, why="apply", report=reported.append)
    assert [item.ok for item in reported] == [True]


def test_the_first_error_is_told_when_the_lock_cannot_be_given_back_either(desk):
    desk.want(job())
    desk.store.append = raising(StoreError("the intent is not written"))
    desk.store.unlock = raising(StoreError("the lock was not given back"))
    with pytest.raises(StoreError, match="the intent is not written"):
        desk.one_pass()


def test_a_quiet_pass_takes_no_lock_and_writes_nothing(desk):
    desk.want(job())
    desk.one_pass()
    desk.log.clear()
    for _ in range(3):
        desk.clock.sleep(5)
        assert desk.one_pass() == []
    assert desk.log == []


def test_a_request_by_hand_is_carried_out_by_the_next_pass(desk):
    desk.want(job())
    desk.one_pass()
    desk.store.lock()
    desk.store.append([(key(), Requested("cancel", "by hand"))], commit="")
    desk.store.unlock()
    desk.one_pass()
    desk.clock.sleep(2)
    desk.one_pass()
    assert desk.lines()[2:] == ["Requested", "Stopping", "Stopped", "Ended"]
    assert str(memory_of(desk).tombstone.phase) == "Cancelled"


@pytest.mark.parametrize("error", [Unreachable("no connection"), Rejected("no"), AccessRefused("no")])
def test_a_launch_of_unknown_outcome_is_not_let_go_because_sending_it_again_failed(desk, error):
    desk.want(job())
    desk.machines["ws"].disturb = lambda verb, machine: Fault.LATE if verb == "submit" else None
    desk.one_pass()
    desk.backends["ws"].answers["submit"] = raising(error)
    desk.one_pass()
    assert desk.lines() == ["Launching", "Unsettled", "Launching", "Unsettled"]
    desk.clock.sleep(30)  # now the first one arrives
    desk.one_pass()
    assert desk.lines()[4:] == ["Launched"]
    assert len(desk.machines["ws"].living()) == 1


def test_a_launch_of_unknown_outcome_is_not_let_go_because_its_code_cannot_be_sent(desk):
    desk.want(job())
    desk.machines["ws"].disturb = lambda verb, machine: Fault.LATE if verb == "submit" else None
    desk.one_pass()
    desk.failing["deliver"] = ShipError("disk full")
    desk.one_pass()
    assert memory_of(desk).run is not None


def test_a_launch_of_unknown_outcome_is_let_go_when_the_host_itself_declines_it(desk):
    desk.want(job())
    desk.backends["ws"].answers["submit"] = raising(OutcomeUnknown("cut"))
    desk.one_pass()
    desk.backends["ws"].answers["submit"] = lambda runs: {runs[0].run.run_id: Declined("fenced", "a newer attempt")}
    desk.one_pass()
    assert desk.lines()[-1] == "Refused"


def test_a_launch_that_is_refused_for_good_has_failed_and_is_tried_again_only_for_a_new_generation(desk):
    desk.want(job(), job("b", depends_on=["general/default/a"]))
    final = Declined("refused", "slurm refused it: Invalid qos", final=True)
    desk.backends["ws"].answers["submit"] = lambda runs: {runs[0].run.run_id: final}
    [done] = desk.one_pass()
    assert not done.ok
    assert "not tried again until spec.generation is raised" in done.message
    assert desk.lines() == ["Launching", "Ended"]
    stone = memory_of(desk).tombstone
    assert (str(stone.phase), stone.cause, memory_of(desk).spent) == ("Failed", Cause.REFUSED, {})
    del desk.backends["ws"].answers["submit"]
    for _ in range(3):
        desk.clock.sleep(3600)
        desk.one_pass()
    views = {view.job.name: view for view in desk.reconciler.look().plan.views}
    assert (views["a"].phase, views["b"].reason) == ("Failed", "DependencyFailed")
    assert "Invalid qos" in views["a"].message
    assert desk.machines["ws"].calls.count("submit") == 0
    desk.want(job(generation=2))
    desk.one_pass()
    [process] = desk.machines["ws"].living()
    assert process.run.attempt == 2


def test_a_launch_that_is_refused_for_now_is_tried_again(desk):
    desk.want(job())
    no = Declined("refused", "slurm refused it: you have too many jobs")
    desk.backends["ws"].answers["submit"] = lambda runs: {runs[0].run.run_id: no}
    desk.one_pass()
    del desk.backends["ws"].answers["submit"]
    desk.clock.sleep(10)
    desk.one_pass()
    assert desk.lines() == ["Launching", "Refused", "Launching", "Launched"]


def test_the_end_of_a_twin_is_journaled_as_that_of_a_stray_and_the_run_is_minded_on(tmp_path):
    clock = VirtualClock()
    cluster = FakeCluster("ws", clock.now, machines={"n1": 2}, waits=lambda run, ident: 100.0)
    desk = Desk(tmp_path, clock=clock, machines={"ws": cluster})
    desk.want(job())
    desk.one_pass()
    [process] = cluster.living()
    cluster.submit_twice(process.run.run_id)
    desk.one_pass()
    assert desk.lines()[2:] == ["Unsettled", "Stopped"]
    assert (memory_of(desk).run, memory_of(desk).stop) == (process.run, None)
    assert [job.word for job in cluster.jobs] == ["PENDING", "CANCELLED"]
    clock.sleep(100)
    assert desk.one_pass() == []
    assert cluster.begun == {process.run.run_id: "101"}
    desk.close()

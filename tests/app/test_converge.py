"""One pass: who is asked what, what is remembered between passes, what is let be."""

from __future__ import annotations

import pytest

from reconciler.app.converge import COOL_DOWN_S, Reconciler
from reconciler.backends.fake import FakeBackend, Fault
from reconciler.core.errors import ReconcilerError, SourceError
from reconciler.core.protocols import Look
from reconciler.core.solve import HostView
from tests.app.worlds import Desk
from tests.worlds import gpus, job, key, run_of


def reasons(seen):
    return {view.job.name: view.reason for view in seen.plan.views}


def test_a_world_in_which_everything_has_finished_asks_nobody(desk):
    desk.want(job())
    desk.one_pass()
    [process] = desk.machines["ws"].living()
    from reconciler.core.observation import ReportStatus

    desk.machines["ws"].end(process.run.run_id, ReportStatus.COMPLETED)
    desk.one_pass()
    looks = len(desk.backends["ws"].looks)
    assert reasons(desk.reconciler.look()) == {"a": "Finished"}
    assert len(desk.backends["ws"].looks) == looks


def test_many_jobs_on_a_host_cost_one_question(desk):
    desk.machines["ws"].cpus = 99
    desk.reconciler = Reconciler(desk.ports(hosts=(HostView("ws", "plain", "lab", {}),)))
    desk.want(*(job(f"j{n}") for n in range(40)))
    desk.one_pass()
    desk.machines["ws"].calls.clear()
    desk.one_pass()
    assert desk.machines["ws"].calls == ["observe"]


def test_only_hosts_that_a_start_could_go_to_are_asked_what_is_free(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.one_pass()
    desk.want(job(request={"hosts": ["h2"]}))
    desk.one_pass()
    assert [look.probe for look in desk.backends["h1"].looks] == [False]
    assert [look.probe for look in desk.backends["h2"].looks] == [False, True]
    desk.close()


def test_an_accelerator_job_that_is_replaced_starts_in_the_pass_that_sees_the_end(desk):
    desk.machines["ws"].gpus = gpus(1)
    desk.reconciler = Reconciler(desk.ports(hosts=(HostView("ws", "plain", "lab", None),)))
    desk.want(job(request={"min_chips": 1}))
    desk.one_pass()
    desk.want(job(request={"min_chips": 1}, command=["false"]))
    desk.one_pass()
    desk.clock.sleep(2)
    [done] = desk.one_pass()
    assert (done.action.verb.value, done.ok) == ("launch", True)


def test_a_host_that_did_not_answer_is_left_alone_for_a_while(desk):
    desk.want(job())
    desk.one_pass()
    desk.machines["ws"].reachable = False
    assert reasons(desk.reconciler.look()) == {"a": "HostUnknown"}
    asked = len(desk.backends["ws"].looks)
    desk.machines["ws"].reachable = True
    desk.clock.sleep(COOL_DOWN_S - 1)
    assert reasons(desk.reconciler.look()) == {"a": "HostUnknown"}
    assert len(desk.backends["ws"].looks) == asked
    desk.clock.sleep(1)
    assert reasons(desk.reconciler.look()) == {"a": "Running"}


def test_an_answer_that_was_broken_off_is_asked_for_again_at_once(desk):
    desk.want(job(), job("b"))
    desk.one_pass()
    desk.machines["ws"].disturb = lambda verb, machine: Fault.PARTIAL
    assert "HostUnknown" in reasons(desk.reconciler.look()).values()
    desk.machines["ws"].disturb = lambda verb, machine: None
    assert set(reasons(desk.reconciler.look()).values()) == {"Running"}


def test_a_backend_that_cannot_be_opened_is_an_unknown_host_not_an_end(desk):
    desk.want(job())
    desk.one_pass()

    def closed(name):
        raise ReconcilerError("no such transport")

    again = Reconciler(desk.ports(backends=closed))
    seen = again.look()
    assert reasons(seen) == {"a": "HostUnknown"}
    assert "no such transport" in seen.plan.views[0].message
    again.close()


def test_a_bug_while_looking_is_an_unknown_host_not_an_end(desk):
    desk.want(job())
    desk.one_pass()

    def broken(look):
        raise IndexError("a bug of ours")

    desk.backends["ws"].answers["observe"] = broken
    assert reasons(desk.reconciler.look()) == {"a": "HostUnknown"}


def test_a_source_that_cannot_be_read_stops_the_pass_before_anything(desk):
    desk.failing["read"] = SourceError("not a repository")
    with pytest.raises(SourceError):
        desk.reconciler.look()
    assert desk.backends["ws"].looks == []


def test_a_job_that_names_what_the_inventory_lacks_is_frozen_alone(desk):
    from reconciler.core.errors import Problem

    bad = job("bad", request={"hosts": ["nowhere"]})
    desk.want(job(), bad)
    desk.problems = (Problem(bad.file, bad.line, "no such host"),)
    seen = desk.reconciler.look()
    assert [action.job.name for action in seen.plan.actions] == ["a"]
    assert seen.partial
    assert key("bad") in seen.world.frozen


def test_a_new_state_looks_at_every_claim_once(desk, tmp_path):
    desk.want(job())
    desk.one_pass()
    desk.one_pass()
    assert [look.scan for look in desk.backends["ws"].looks] == [True, False]


def test_a_host_that_was_never_seen_holds_new_jobs_unless_told_that_it_is_empty(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.machines["h2"].reachable = False
    desk.want(job())
    seen = desk.reconciler.look()
    assert reasons(seen) == {"a": "HostNeverSeen"}
    assert "h2: no connection" in seen.plan.views[0].message
    trusting = desk.another("jo", assume_empty=frozenset({"h2"}))
    assert [action.verb.value for action in trusting.look().plan.actions] == ["launch"]
    trusting.close()
    trusting.ports.store.close()
    desk.close()


def test_runs_of_a_job_are_found_on_every_host_by_their_mark(tmp_path):
    from reconciler.core.protocols import Submission

    desk = Desk(tmp_path, names=("h1", "h2", "h3"))
    for attempt, host, owner in ((1, "h1", "owner"), (2, "h2", "owner"), (3, "h2", "somebody else")):
        wanted = job() if owner == "owner" else job("a", command=["other"])
        desk.machines[host].claim(Submission(run_of(wanted, attempt=attempt, host=host, owner=owner), {}, {}))
    desk.machines["h3"].reachable = False
    found = desk.reconciler.find_runs(key())
    assert [run.run.attempt for run in found.runs] == [2, 1]
    assert found.unseen == {"h3": "h3: no connection"}
    desk.close()


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.PARTIAL, Fault.GARBLED])
def test_a_look_that_was_not_complete_is_not_remembered_as_one(tmp_path, fault):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.machines["h2"].disturb = lambda verb, machine: fault
    desk.want(job())
    desk.one_pass()
    assert desk.store.scanned() == {"h1"}
    assert desk.machines["h1"].living() == []
    desk.machines["h2"].disturb = lambda verb, machine: None
    desk.clock.sleep(COOL_DOWN_S)
    desk.one_pass()
    assert desk.store.scanned() == {"h1", "h2"}
    assert len(desk.machines["h1"].living()) == 1
    desk.close()


def test_a_queue_is_not_asked_again_before_its_time_unless_we_changed_something(desk: Desk):
    view = HostView("ws", "plain", "lab", {}, slots=8, poll_s=15.0)
    reconciler = Reconciler(desk.ports(hosts=(view,)))
    desk.want(job("a", spec={"command": ["sleep", "600"]}))
    looks = desk.backends["ws"].looks

    def asked() -> int:
        before = len(looks)
        reconciler.apply(reconciler.look(), why="test")
        return len(looks) - before

    assert [asked(), asked(), asked()] == [1, 1, 0]  # the second: something was started
    desk.clock.sleep(15.0)
    assert asked() == 1
    desk.want(job("b", spec={"command": ["sleep", "600"]}))
    assert asked() == 1  # what is free is a question that was not asked


def test_an_old_answer_that_knows_nothing_of_a_run_is_not_believed(desk: Desk):
    before = desk.backends["ws"].observe(Look(probe=True))
    desk.want(job("a", spec={"command": ["sleep", "600"]}))
    desk.one_pass()
    answers = [before]
    backend = desk.backends["ws"]
    backend.answers["observe"] = lambda look: answers.pop() if answers else FakeBackend.observe(backend, look)
    assert reasons(desk.reconciler.look()) == {"a": "Running"}
    assert answers == []


def test_an_old_answer_that_shows_an_ended_run_alive_is_not_believed(desk: Desk):
    desk.want(job("a", spec={"command": ["sleep", "600"]}))
    desk.one_pass()
    run_id = next(iter(desk.machines["ws"].processes))
    alive = desk.backends["ws"].observe(Look(probe=True))
    desk.machines["ws"].preempt(run_id)
    desk.one_pass()  # its end is known, and its next attempt waits out the back-off
    answers = [alive]
    backend = desk.backends["ws"]
    backend.answers["observe"] = lambda look: answers.pop() if answers else FakeBackend.observe(backend, look)
    assert reasons(desk.reconciler.look()) == {"a": "BackingOff"}
    assert answers == []


def test_a_run_that_is_gone_is_believed_when_it_is_said_twice(desk: Desk):
    desk.want(job("a", spec={"command": ["sleep", "600"]}))
    desk.one_pass()
    looks = len(desk.backends["ws"].looks)
    desk.machines["ws"].processes.clear()
    assert reasons(desk.reconciler.look()) == {"a": "BackingOff"}
    assert len(desk.backends["ws"].looks) == looks + 2


def living(desk):
    return sorted(process.run.job.name for process in desk.machines["ws"].living())


def test_an_old_answer_to_the_question_what_is_free_is_not_believed_either(desk):
    """Asked again in the same pass, as something that has just ended needs an accelerator, a host tells what was before."""
    desk.machines["ws"].gpus = gpus(2)
    desk.reconciler = Reconciler(desk.ports(hosts=(HostView("ws", "plain", "lab", None),)))
    before = desk.backends["ws"].observe(Look((), False, probe=True))
    asked = {"request": {"min_chips": 1}}
    desk.want(job("x", **asked), job("y", **asked))
    desk.one_pass()
    assert living(desk) == ["x", "y"]
    desk.want(job("y", command=["false"], **asked))
    desk.one_pass()  # y is asked to end
    old, backend = [before], desk.backends["ws"]
    backend.answers["observe"] = lambda look: old.pop() if look.probe and old else FakeBackend.observe(backend, look)
    desk.clock.sleep(2)
    desk.one_pass()
    assert not old, "nobody asked what is free"
    assert [type(entry.line).__name__ for entry in desk.store.history(key("x"))] == ["Launching", "Launched"]


def test_what_contradicts_memory_and_was_said_twice_is_not_asked_again_at_every_pass(desk):
    """A stray that may not be ended yet, or runs that an alarm holds: the host is asked once a pass, as any other."""
    desk.want(*(job(f"j{number}") for number in range(4)))
    desk.machines["ws"].cpus = 8
    desk.one_pass()
    desk.one_pass()
    desk.machines["ws"].processes.clear()
    desk.machines["ws"].fences.clear()
    desk.one_pass()  # four of four vanish: an alarm, and what is there is asked twice
    desk.machines["ws"].calls.clear()
    desk.one_pass()
    assert reasons(desk.reconciler.look())["j0"] == "MassDisappearance"
    assert desk.machines["ws"].calls == ["observe"] * 2  # of this pass, and of the look above

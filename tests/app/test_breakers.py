"""What the breakers need of the use cases: whole looks, words that are heeded once, the end of a log, who refused a launch."""

from __future__ import annotations

import pytest

from reconciler.app.converge import COOL_DOWN_S, Options, Reconciler
from reconciler.core.cause import Cause
from reconciler.core.errors import OutcomeUnknown, Rejected, SourceError, StoreError, Unreachable
from reconciler.core.memory import Ended, Refused
from reconciler.core.observation import Census, ReportStatus
from reconciler.core.protocols import Declined, LogChunk
from reconciler.core.secret import Secret
from reconciler.core.solve import HostView
from tests.app.worlds import Desk
from tests.worlds import job, key

JOBS = tuple("abcd")
FOREVER = {"restart": {"failure": "unlimited", "infrastructure": "unlimited", "backoff": {"initial": "0s"}}}


def launched(desk: Desk, **spec) -> None:
    """Four jobs that run, and were seen to."""
    desk.want(*(job(name, **{**FOREVER, **spec}) for name in JOBS))
    desk.one_pass()
    desk.one_pass()


def reasons(seen) -> dict[str, str]:
    return {view.job.name: view.reason for view in seen.plan.views}


def lines(desk: Desk, kind: type) -> list:
    return [entry.line for entry in desk.store.history() if isinstance(entry.line, kind)]


# --- many runs vanish


def test_a_held_host_costs_no_write_and_is_no_reason_to_wait(desk):
    launched(desk)
    desk.machines["ws"].unmount()
    before = desk.store.newest()
    for _ in range(3):
        seen = desk.reconciler.look()
        assert desk.reconciler.apply(seen, why="test") == []
    assert set(reasons(seen).values()) == {"MassDisappearance"}
    assert desk.store.newest() == before
    assert seen.partial
    assert not seen.moving


def test_a_pass_over_one_job_sees_that_all_of_its_host_are_missing(desk):
    launched(desk)
    desk.machines["ws"].unmount()
    desk.reconciler.select(frozenset({key("a")}))
    seen = desk.reconciler.look()
    assert reasons(seen) == {"a": "MassDisappearance"}
    assert [(alarm.host, len(alarm.missing)) for alarm in seen.plan.alarms] == [("ws", 4)]
    assert not seen.plan.lines


def test_a_selection_does_not_take_others_that_have_ended_for_missing(desk):
    """They have not been seen to end yet, and they are not what this pass is about."""
    launched(desk)
    for process in desk.machines["ws"].living():
        desk.machines["ws"].end(process.run.run_id, ReportStatus.COMPLETED, None, 0)
    desk.reconciler.select(frozenset({key("a")}))
    seen = desk.reconciler.look()
    assert seen.plan.alarms == ()
    assert [job_key.name for job_key, _ in seen.plan.lines] == ["a"]


def test_a_selection_asks_no_host_that_only_others_have_runs_on(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    views = (HostView("h1", "plain", "lab", {}, slots=8), HostView("h2", "plain", "elsewhere", {}, slots=8))
    desk.reconciler = Reconciler(desk.ports(hosts=views))
    desk.want(job("a", request={"hosts": ["h1"]}), job("b", request={"hosts": ["h2"]}))
    desk.one_pass()
    desk.backends["h2"].looks.clear()
    desk.reconciler.select(frozenset({key("a")}))
    assert reasons(desk.reconciler.look()) == {"a": "Running"}
    assert desk.backends["h2"].looks == []
    desk.close()


def test_a_pass_over_one_job_sees_that_its_whole_cluster_is_missing(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2", "h3"))
    desk.want(*(job(f"on-{name}", request={"hosts": [name]}) for name in desk.names))
    desk.one_pass()
    desk.one_pass()
    for machine in desk.machines.values():
        machine.unmount()
    desk.reconciler.select(frozenset({key("on-h1")}))
    seen = desk.reconciler.look()
    assert reasons(seen) == {"on-h1": "MassDisappearance"}
    assert [alarm.host for alarm in seen.plan.alarms] == ["h1"]
    desk.close()


def test_the_word_that_they_are_lost_is_about_what_is_missing_now(desk):
    launched(desk)
    desk.machines["ws"].unmount()
    desk.reconciler = Reconciler(desk.ports(), Options(lost=frozenset({"ws"})))
    done = desk.one_pass("they are lost")
    assert sorted(item.action.job.name for item in done) == list(JOBS)
    assert len(lines(desk, Ended)) == 4
    desk.one_pass()
    assert {view.phase.value for view in desk.reconciler.look().plan.views} == {"Running"}
    desk.machines["ws"].unmount()
    assert set(reasons(desk.reconciler.look()).values()) == {"MassDisappearance"}


def test_a_word_that_found_nothing_missing_is_used_up_as_well(desk):
    launched(desk)
    desk.reconciler = Reconciler(desk.ports(), Options(lost=frozenset({"ws"})))
    assert desk.one_pass() == []
    desk.machines["ws"].unmount()
    assert set(reasons(desk.reconciler.look()).values()) == {"MassDisappearance"}


def test_a_word_that_could_not_be_followed_is_kept(desk):
    launched(desk)
    desk.machines["ws"].unmount()
    desk.machines["ws"].reachable = False
    desk.reconciler = Reconciler(desk.ports(), Options(lost=frozenset({"ws"})))
    assert desk.one_pass() == []
    desk.machines["ws"].reachable = True
    desk.clock.sleep(COOL_DOWN_S + 1)
    assert len(desk.one_pass()) == 4


# --- the same failure again and again


def fail(desk: Desk, times: int, code: int = 7) -> None:
    for _ in range(times):
        desk.one_pass()
        for process in desk.machines["ws"].living():
            desk.machines["ws"].end(process.run.run_id, ReportStatus.FAILED, Cause.FAILURE, code)
    desk.one_pass()


def test_a_stalled_job_carries_the_end_of_its_output_and_only_that_one_is_read(desk):
    desk.want(job("a", **FOREVER))
    asked = []
    backend = desk.backends["ws"]
    backend.logs = lambda known, since: (
        asked.append(known.run.attempt) or LogChunk(b"one\n\x1b[31mTraceback\x1b[0m\rno such file\x07\n", 0, 10)
    )
    fail(desk, 5)
    assert asked == [5]
    message = lines(desk, Ended)[-1].message
    assert message.endswith("\nThe last lines of its output:\none\nTraceback\nno such file")
    assert reasons(desk.reconciler.look()) == {"a": "Stalled"}


def test_no_secret_of_the_job_stands_in_the_excerpt(desk):
    """Its output is read raw: what the node masks in its own record is masked here, or nothing is told."""
    desk.want(job("a", secrets={"TOKEN": {"env": "TOKEN"}, "KEY": {"env": "KEY"}}, **FOREVER))
    values = {"TOKEN": Secret("hunter2"), "KEY": Secret("-----BEGIN\nabcdef\n-----END")}
    desk.reconciler = Reconciler(desk.ports(secrets=lambda spec, host: values))
    output = b"nter2 half of it\nuses hunter2 and\n  abcdef\nfailed\n"
    desk.backends["ws"].logs = lambda known, since: LogChunk(output, 5, 50)
    fail(desk, 5)
    message = lines(desk, Ended)[-1].message
    assert message.endswith("\nThe last lines of its output:\nuses *** and\n  ***\nfailed")


def test_an_excerpt_is_left_out_when_a_secret_cannot_be_had(desk):
    desk.want(job("a", secrets={"TOKEN": {"env": "TOKEN"}}, **FOREVER))
    desk.backends["ws"].logs = lambda known, since: LogChunk(b"hunter2\n", 0, 8)
    desk.reconciler = Reconciler(desk.ports(secrets=lambda spec, host: {}))
    fail(desk, 5)
    assert "\n" not in lines(desk, Ended)[-1].message


@pytest.mark.parametrize("error", [Unreachable("gone"), Rejected("no such file")])
def test_an_output_that_cannot_be_read_is_left_out(desk, error):
    desk.want(job("a", **FOREVER))

    def logs(known, since):
        raise error

    desk.backends["ws"].logs = logs
    fail(desk, 5)
    assert reasons(desk.reconciler.look()) == {"a": "Stalled"}
    assert "\n" not in lines(desk, Ended)[-1].message


def test_a_long_output_is_cut_to_its_last_lines(desk):
    desk.want(job("a", **FOREVER))
    text = "".join(f"line {number} {'x' * 400}\n" for number in range(100)).encode()
    desk.backends["ws"].logs = lambda known, since: LogChunk(text[since.offset :], 0, 0)
    fail(desk, 5)
    message = lines(desk, Ended)[-1].message
    assert len(message) < 2000
    assert message.endswith(f"line 99 {'x' * 400}")


# --- who refused a launch


@pytest.mark.parametrize(
    ("answer", "blamed"),
    [
        (Unreachable("no connection"), True),
        (Rejected("no python there"), True),
        (Declined("unwritable", "no room"), True),
        (Declined("busy", "slurmctld does not answer"), True),
        (Declined("not-now", "too many requests per minute"), False),
        (Declined("owned", "somebody else's"), False),
        (Declined("fenced", "a newer attempt"), False),
        (Declined("refused", "sbatch: invalid option", cause=Cause.QUOTA), False),
    ],
)
def test_a_refusal_that_lies_with_the_host_is_held_against_it(desk, answer, blamed):
    def submit(submissions):
        if isinstance(answer, Exception):
            raise answer
        return {item.run.run_id: answer for item in submissions}

    desk.backends["ws"].answers["submit"] = submit
    desk.want(job())
    desk.one_pass()
    assert [line.blamed for line in lines(desk, Refused)] == [blamed]
    assert bool(desk.store.memories()[key()].strikes) == blamed


@pytest.mark.parametrize("error", [SourceError("no such ref"), StoreError("full"), OutcomeUnknown("cut")])
def test_what_went_wrong_on_our_side_or_may_have_happened_is_held_against_nobody(desk, error):
    def submit(submissions):
        raise error

    desk.backends["ws"].answers["submit"] = submit
    desk.want(job())
    desk.one_pass()
    assert desk.store.memories()[key()].strikes == ()


def test_a_host_that_refuses_again_and_again_is_left_for_another_over_processes(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))

    def submit(submissions):
        raise Unreachable("h1: no connection")

    desk.backends["h1"].answers["submit"] = submit
    desk.want(job(**FOREVER))
    for _ in range(3):
        desk.one_pass()
        desk.clock.sleep(70)
    another = desk.another("next", approved=True)
    [action] = another.look().plan.actions
    assert action.host == "h2"
    trusting = desk.another("jo", approved=True, trusted=frozenset({"h1"}))
    [action] = trusting.look().plan.actions
    assert action.host == "h1"
    for one in (another, trusting):
        one.close()
        one.ports.store.close()
    desk.close()


# --- a way that breaks off


def test_a_host_that_comes_and_goes_while_we_watch_is_left_for_another(tmp_path):
    desk = Desk(tmp_path, names=("h1", "h2"))
    desk.one_pass()
    machine = desk.machines["h1"]
    desk.want(job("a", request={"hosts": ["h1"]}))
    desk.one_pass()
    for _ in range(3):
        machine.reachable = False
        desk.clock.sleep(5)
        desk.one_pass()
        machine.reachable = True
        desk.clock.sleep(COOL_DOWN_S + 1)
        desk.one_pass()
    desk.want(job("b"))
    seen = desk.reconciler.look()
    assert [action.host for action in seen.plan.actions] == ["h2"]
    fresh = desk.another("another process")
    assert [action.host for action in fresh.look().plan.actions] == ["h1"]
    fresh.close()
    fresh.ports.store.close()
    desk.close()


def test_one_long_absence_is_no_flapping(tmp_path):
    desk = Desk(tmp_path, names=("h1",))
    desk.want(job("a"))
    desk.one_pass()
    desk.machines["h1"].reachable = False
    for _ in range(10):
        desk.clock.sleep(COOL_DOWN_S + 1)
        desk.one_pass()
    desk.machines["h1"].reachable = True
    desk.clock.sleep(COOL_DOWN_S + 1)
    desk.want(job("b"))
    assert [action.job.name for action in desk.reconciler.look().plan.actions] == ["b"]
    desk.close()


def test_a_host_whose_answer_is_of_no_use_was_reached_all_the_same(tmp_path):
    """One root of it cannot be read, say: its connection does not break off."""
    desk = Desk(tmp_path, names=("h1",))
    desk.want(job("a"))
    desk.one_pass()
    backend = desk.backends["h1"]
    for _ in range(4):
        backend.answers["observe"] = lambda look: Census("h1", complete=False, error="/status: Permission denied")
        desk.clock.sleep(5)
        desk.one_pass()
        del backend.answers["observe"]
        desk.clock.sleep(COOL_DOWN_S + 1)
        desk.one_pass()
    desk.want(job("b"))
    assert [action.job.name for action in desk.reconciler.look().plan.actions] == ["b"]
    desk.close()

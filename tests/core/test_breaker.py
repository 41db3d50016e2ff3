"""Many runs that vanish in one look: nothing of their host is touched, and the others go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.actions import Stop
from reconciler.core.cause import Cause
from reconciler.core.memory import Ended, Forgotten, Memory, Requested, Stopping, fold
from reconciler.core.observation import Capacity, Census, Presence, ReportStatus, Sighting
from reconciler.core.partitions import QueueView
from reconciler.core.plan import Plan, plan_to_json
from reconciler.core.run import Handle, Run
from reconciler.core.solve import HostView
from tests.worlds import (
    HOST,
    NOW,
    census,
    job,
    key,
    live_memory,
    phase_of,
    planned,
    run_of,
    seen,
    unsettled_memory,
    words,
)

OTHER = HostView("other", "plain", "lab", {}, slots=9)
MISSING = "MassDisappearance"


def party(count: int, host: str = "ws") -> tuple[list, list[Run], list[Memory]]:
    """`count` jobs, their runs on a host, and what is remembered of them."""
    wanted = [job(f"j{number}") for number in range(count)]
    runs = [run_of(item, host=host) for item in wanted]
    return wanted, runs, [live_memory(run) for run in runs]


def lost(made: Plan) -> list[str]:
    return [job_key.name for job_key, line in made.lines if isinstance(line, Ended)]


@pytest.mark.parametrize(
    ("minded", "gone", "trips"),
    [(2, 2, False), (3, 2, False), (3, 3, True), (8, 3, True), (9, 3, False), (9, 4, True), (12, 4, False)],
)
def test_three_or_more_and_more_than_a_third_are_held(minded, gone, trips):
    wanted, runs, memories = party(minded)
    made = planned(wanted, memories, [census(*map(seen, runs[gone:]))])
    assert [(alarm.host, len(alarm.missing), alarm.minded) for alarm in made.alarms] == [("ws", gone, minded)] * trips
    assert len(lost(made)) == (0 if trips else gone)
    if trips:
        assert made.effects == ()
        assert made.lines == ()
        assert [phase_of(made, f"j{number}") for number in range(gone)] == [f"Held {MISSING}"] * gone
        assert [phase_of(made, f"j{number}") for number in range(gone, minded)] == ["Running Running"] * (minded - gone)


# --- machines that share a root


def workstations(count: int, each: int = 2) -> tuple[list, list[Run], list[Memory], tuple[HostView, ...]]:
    """`count` hosts of one cluster with `each` runs."""
    wanted, runs, memories = [], [], []
    for number in range(count):
        items = [job(f"j{number}-{one}") for one in range(each)]
        wanted += items
        runs += [run_of(item, host=f"w{number}") for item in items]
    memories = [live_memory(run) for run in runs]
    return wanted, runs, memories, tuple(HostView(f"w{number}", "plain", "lab", {}, slots=9) for number in range(count))


def looks(hosts, runs, **more) -> list[Census]:
    return [census(*(seen(run) for run in runs if run.host == view.name), host=view.name, **more) for view in hosts]


def test_runs_that_vanish_from_a_whole_cluster_are_held_though_few_are_on_each_host():
    wanted, _, memories, hosts = workstations(6)
    made = planned(wanted, memories, looks(hosts, []), hosts=hosts)
    assert [(alarm.host, len(alarm.missing), alarm.minded) for alarm in made.alarms] == [
        (view.name, 2, 2) for view in hosts
    ]
    assert (made.effects, made.lines) == ((), ())
    assert {f"{view.phase} {view.reason}" for view in made.views} == {f"Held {MISSING}"}
    said = made.alarms[0].message
    assert said.startswith("2 of 2 runs on w0, and 12 of 12 in its cluster lab, are gone in one look")
    assert said.endswith(f"reconciler apply {' '.join(f'--confirm-lost {view.name}' for view in hosts)}")
    assert "12 of 12 runs in cluster lab" in made.views[0].message


@pytest.mark.parametrize(("gone", "trips"), [(2, False), (3, False), (4, False), (5, True)])
def test_a_cluster_is_counted_as_a_host_is(gone, trips):
    wanted, runs, memories, hosts = workstations(6)
    kept = [run for index, run in enumerate(runs) if index % 2 or index // 2 >= gone]
    made = planned(wanted, memories, looks(hosts, kept), hosts=hosts)
    assert [alarm.host for alarm in made.alarms] == [f"w{number}" for number in range(gone)] * trips
    assert len(lost(made)) == (0 if trips else gone)


def test_only_hosts_that_were_seen_whole_are_counted_and_other_clusters_are_not():
    wanted, _, memories, hosts = workstations(3, each=1)
    elsewhere = (*hosts[:2], replace(hosts[2], cluster="other"))
    assert planned(wanted, memories, looks(hosts, []), hosts=elsewhere).alarms == ()
    blind = [*looks(hosts[:2], []), census(host="w2", complete=False)]
    assert planned(wanted, memories, blind, hosts=hosts).alarms == ()
    assert planned(wanted, memories, looks(hosts[:2], []), hosts=hosts).alarms == ()
    assert len(planned(wanted, memories, looks(hosts, []), hosts=hosts).alarms) == 3


def test_what_is_missing_from_a_cluster_is_lost_when_a_person_says_so_of_all_its_hosts():
    """Else what is left after the first word would be too little to be held, and lost without a word."""
    wanted, _, memories, hosts = workstations(3)
    arguments = (wanted, memories, looks(hosts, []))
    one = planned(*arguments, hosts=hosts, lost=frozenset({"w0"}))
    assert [alarm.host for alarm in one.alarms] == ["w0", "w1", "w2"]
    assert lost(one) == []
    every = planned(*arguments, hosts=hosts, lost=frozenset({"w0", "w1", "w2"}))
    assert every.alarms == ()
    assert len(lost(every)) == 6


def test_the_alarm_says_which_host_how_many_what_to_look_at_and_the_next_step():
    wanted, _, memories = party(7)
    [alarm] = planned(wanted, memories, [census()]).alarms
    for words_of_it in (
        "7 of 7 runs on ws",
        "general/default/j0",
        "mounted",
        "inventory",
        "scheduler",
        "clean up",
        ", …",
    ):
        assert words_of_it in alarm.message
    assert alarm.message.endswith("reconciler apply --confirm-lost ws")
    assert "j5" not in alarm.message


@pytest.mark.parametrize("how", ["report", "reboot", "claim"])
def test_runs_that_say_themselves_how_they_ended_are_requeued_as_always(how):
    wanted, runs, memories = party(4)
    if how == "reboot":
        look = census(boot="boot-2")
    elif how == "claim":
        look = census(*(seen(run, alive=False) for run in runs))  # its processes are gone, and no reboot
    else:
        look = census(*(seen(run, ReportStatus.PREEMPTED, alive=False, cause=Cause.PREEMPTION) for run in runs))
    made = planned(wanted, memories, [look])
    assert made.alarms == ()
    assert len(lost(made)) == 4


def test_runs_that_were_asked_to_end_or_never_surely_began_do_not_count():
    wanted, runs, memories = party(6)
    stopped = [fold(memory, Stopping(memory.run.run_id, Cause.REPLACED), NOW - 5) for memory in memories[:2]]
    begun = [unsettled_memory(run) for run in runs[2:4]]
    made = planned(wanted, [*stopped, *begun, *memories[4:]], [census()])
    assert made.alarms == ()
    assert sorted(lost(made)) == ["j0", "j1", "j4", "j5"]


def test_once_it_is_held_neither_a_stopped_nor_an_unsettled_run_of_that_host_is_believed_to_be_gone():
    wanted, runs, memories = party(5)
    memories[0] = fold(memories[0], Stopping(runs[0].run_id, Cause.REPLACED), NOW - 5)
    memories[1] = unsettled_memory(runs[1])
    made = planned(wanted, memories, [census()])
    assert [(len(alarm.missing), alarm.minded) for alarm in made.alarms] == [(3, 3)]
    assert (words(made), made.lines) == ([], ())
    assert phase_of(made, "j0") == phase_of(made, "j1") == f"Held {MISSING}"


def test_nothing_is_launched_there_and_other_hosts_go_on():
    wanted, _, memories = party(3)
    elsewhere = job("elsewhere")
    gone = run_of(elsewhere, host="other")
    new, bound = job("new"), job("bound", request={"hosts": ["ws"]})
    made = planned(
        [*wanted, elsewhere, new, bound],
        [*memories, live_memory(gone)],
        [census(), census(host="other")],
        hosts=(HOST, replace(OTHER, cluster="elsewhere")),
    )
    assert words(made) == ["launch new New"]
    assert made.actions[0].host == "other"
    assert lost(made) == ["elsewhere"]
    assert phase_of(made, "bound") == "Pending Unplaceable"
    [view] = [view for view in made.views if view.job.name == "bound"]
    assert "3 of 3 runs there are gone" in view.message


def test_what_is_seen_there_is_neither_replaced_nor_removed_meanwhile():
    wanted, runs, memories = party(7)
    edited = job("j6", command=["python", "train.py"])
    made = planned([*wanted[:5], edited], memories, [census(*map(seen, runs[4:]))])
    assert len(made.alarms[0].missing) == 4
    assert words(made) == []
    for name in ("j5", "j6"):
        assert phase_of(made, name) == f"Running {MISSING}"
    [view] = [view for view in made.views if view.job.name == "j6"]
    assert view.message.startswith("replace waits (")
    assert made.refusal is None


@pytest.mark.parametrize("what", ["cancel", "suspend"])
def test_what_a_person_asks_for_by_name_is_done_to_a_run_that_is_seen(what):
    wanted, runs, memories = party(4)
    memories[3] = fold(memories[3], Requested(what, "by hand"), NOW - 1)
    made = planned(wanted, memories, [census(seen(runs[3]))])
    assert [(action.job.name, type(action.effect)) for action in made.actions] == [("j3", Stop)]


@pytest.mark.parametrize(
    ("wish", "words_of_it"),
    [("cancel", "It was cancelled"), ("suspend", "It was suspended"), ("remove", "Its manifest was removed")],
)
def test_a_vanished_job_stays_held_whatever_is_wished_of_it_and_says_that_the_wish_is_kept(wish, words_of_it):
    wanted, _, memories = party(3)
    if wish == "remove":
        wanted = wanted[1:]
    else:
        memories[0] = fold(memories[0], Requested(wish, "by hand"), NOW - 1)
    made = planned(wanted, memories, [census()])
    assert (made.actions, made.lines) == ((), ())
    [view] = [view for view in made.views if view.job == key("j0")]
    assert (view.phase.value, view.reason) == ("Held", MISSING)
    assert f"{words_of_it} meanwhile, which is kept" in view.message
    confirmed = planned(wanted, memories, [census()], lost=frozenset({"ws"}), now=NOW + 1)
    assert "j0" in lost(confirmed)
    assert not [action for action in confirmed.actions if action.job == key("j0")]


def test_a_persons_word_that_they_are_lost_ends_it_for_that_host_alone():
    wanted, _, memories = party(3)
    theirs = [job(f"k{number}") for number in range(3)]
    others = [live_memory(run_of(item, host="other")) for item in theirs]
    arguments = ([*wanted, *theirs], [*memories, *others], [census(), census(host="other")])
    apart = (HOST, replace(OTHER, cluster="elsewhere"))
    made = planned(*arguments, hosts=apart, lost=frozenset({"ws"}))
    assert [alarm.host for alarm in made.alarms] == ["other"]
    assert sorted(lost(made)) == ["j0", "j1", "j2"]
    assert not any(line.requeue is False for _, line in made.lines)


def test_it_is_over_when_fewer_than_that_are_missing():
    wanted, runs, memories = party(4)
    made = planned(wanted, memories, [census(*map(seen, runs[2:]))])
    assert made.alarms == ()
    assert sorted(lost(made)) == ["j0", "j1"]


def test_a_host_that_cannot_be_asked_raises_no_alarm():
    wanted, _, memories = party(4)
    made = planned(wanted, memories, [census(complete=False)])
    assert made.alarms == ()
    assert {view.reason for view in made.views} == {"HostUnknown"}


def test_a_later_attempt_that_is_seen_elsewhere_is_word_enough_of_the_one_before():
    """A state that was restored from a backup: the world has gone on without it."""
    wanted, _, memories = party(3)
    later = [run_of(item, attempt=2, host="other") for item in wanted]
    made = planned(wanted, memories, [census(), census(*map(seen, later), host="other")], hosts=(HOST, OTHER))
    assert made.alarms == ()
    assert sorted(words(made)) == [f"adopt j{number} FoundByMark" for number in range(3)]


def test_a_job_whose_later_attempt_is_seen_elsewhere_goes_on_while_the_others_are_held():
    wanted, _, memories = party(4)
    later = run_of(wanted[0], attempt=2, host="other")
    made = planned(wanted, memories, [census(), census(seen(later), host="other")], hosts=(HOST, OTHER))
    assert len(made.alarms[0].missing) == 3
    assert words(made) == ["adopt j0 FoundByMark"]
    assert lost(made) == ["j0"]
    assert phase_of(made, "j0") == "Running Running"


def test_a_selection_counts_all_runs_of_the_host_and_shows_the_alarm_where_it_matters():
    wanted, _, memories = party(4)
    only = frozenset({key("j1")})
    made = planned(wanted, memories, [census()], only=only)
    assert [len(alarm.missing) for alarm in made.alarms] == [4]
    assert [view.job.name for view in made.views] == ["j1"]
    assert made.lines == ()
    free = job("free")
    elsewhere = planned(
        [*wanted, free], memories, [census(), census(host="other")], hosts=(OTHER,), only=frozenset({free.key})
    )
    assert elsewhere.alarms == ()


QUEUE = HostView("hpc", "slurm", "hpc", None, queue=QueueView())


def test_behind_a_scheduler_a_run_that_it_does_not_list_any_more_has_vanished():
    wanted, runs, memories = party(3, host="hpc")
    unlisted = [
        Sighting(
            run.run_id,
            Presence.PRESENT,
            handle=Handle(run.run_id, run.token, {"job": "7"}),
            run=run,
            report=seen(run).report,
        )
        for run in runs
    ]
    look = Census("hpc", True, {one.run_id: one for one in unlisted}, Capacity(8))
    assert len(planned(wanted, memories, [look], hosts=(QUEUE,)).alarms) == 1
    finished = [
        replace(one, report=seen(run, ReportStatus.COMPLETED).report) for one, run in zip(unlisted, runs, strict=True)
    ]
    look = Census("hpc", True, {one.run_id: one for one in finished}, Capacity(8))
    assert planned(wanted, memories, [look], hosts=(QUEUE,)).alarms == ()


def test_an_unwanted_launch_that_may_come_late_is_not_forgotten_there():
    wanted, runs, memories = party(4)
    memories[0] = unsettled_memory(runs[0], at=NOW - 1000)
    made = planned(wanted[1:], memories, [census()])
    assert not any(isinstance(line, Forgotten) for _, line in made.lines)


def test_the_document_carries_one_alarm_per_host():
    wanted, _, memories = party(3)
    made = planned(wanted, memories, [census()])
    document = plan_to_json(made, exit_code=3, complete=True, commit="c", dirty=False, problems=())
    [alarm] = document["alarms"]
    assert {name: alarm[name] for name in ("host", "reason", "missing", "minded", "flag")} == {
        "host": "ws",
        "reason": MISSING,
        "missing": 3,
        "minded": 3,
        "flag": "--confirm-lost ws",
    }
    assert alarm["jobs"] == [f"general/default/j{number}" for number in range(3)]


def test_no_job_is_started_where_the_directory_of_all_records_is_gone():
    """It would make the directory anew, and what cannot be told now would look gone at the next look."""
    item = job("old")
    run = run_of(item)
    away = Sighting(run.run_id, Presence.UNKNOWN, error="is a file system not mounted?", rootless=True)
    arguments = ([item, job("new")], [live_memory(run)], [census(away), census(host="other")])
    made = planned(*arguments, hosts=(HOST, OTHER))
    assert [(action.job.name, action.host) for action in made.effects] == [("new", "other")]
    made = planned(*arguments)
    assert made.effects == ()
    [view] = [view for view in made.views if view.job.name == "new"]
    assert "its status root is gone" in view.message
    unreadable = replace(away, rootless=False)
    made = planned([item, job("new")], [live_memory(run)], [census(unreadable)])
    assert [action.job.name for action in made.effects] == ["new"]

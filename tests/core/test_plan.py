"""One pass, decided: each rule of DESIGN section 2 that plan() is responsible for, by example."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.actions import Start, Stop
from reconciler.core.cause import Cause
from reconciler.core.machine import Machine
from reconciler.core.memory import (
    Adopted,
    Ended,
    Forgotten,
    Launched,
    Refused,
    Requested,
    Stopping,
    Unsettled,
    fold,
)
from reconciler.core.observation import Capacity, Census, Presence, ReportStatus, Sighting
from reconciler.core.partitions import QueueView
from reconciler.core.phase import Phase
from reconciler.core.queue import QueueCapacity, QueueJob, QueueNode, QueuePartition, QueueState
from reconciler.core.run import Handle
from reconciler.core.solve import HostView, Rented
from tests.worlds import (
    NOW,
    OWNER,
    census,
    finished_memory,
    job,
    key,
    live_memory,
    phase_of,
    planned,
    remember,
    run_of,
    seen,
    unsettled_memory,
    words,
)


def test_a_new_job_is_launched():
    made = planned([job()])
    assert words(made) == ["launch a New"]
    effect = made.actions[0].effect
    assert isinstance(effect, Start)
    assert effect.attempt == 1


def test_a_running_job_needs_nothing():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [live_memory(run)], [census(seen(run, step=10))])
    assert words(made) == []
    assert made.lines == ()
    assert phase_of(made) == "Running Running"


def test_a_finished_job_is_remembered_and_not_run_again():
    wanted = job()
    made = planned([wanted], [finished_memory(run_of(wanted))])
    assert words(made) == []
    assert phase_of(made) == "Succeeded Finished"


@pytest.mark.parametrize("change", [{"generation": 2}, {"command": ["false"]}])
def test_a_new_generation_or_digest_runs_a_finished_job_again(change):
    made = planned([job(**change)], [finished_memory(run_of(job()))])
    assert words(made) == ["launch a NewSpec"]
    assert made.actions[0].effect.attempt == 2


@pytest.mark.parametrize("change", [{"priority": 7}, {"restart": {"failure": 9}}])
def test_an_edit_in_place_runs_nothing_again(change):
    made = planned([job(**change)], [finished_memory(run_of(job()))])
    assert words(made) == []


def test_an_unreachable_host_holds_its_job_and_replaces_nothing():
    wanted = job()
    other = census(host="other")
    made = planned([wanted], [live_memory(run_of(wanted))], [census(complete=False), other])
    assert words(made) == ["hold a HostUnknown"]
    assert phase_of(made) == "Unknown HostUnknown"
    assert made.lines == ()


def test_an_unreachable_host_holds_a_removed_job_too():
    made = planned([], [live_memory(run_of(job()))], [census(complete=False)])
    assert words(made) == ["hold a HostUnknown"]


def test_a_sighting_that_cannot_be_read_is_unknown_even_in_a_complete_census():
    wanted = job()
    run = run_of(wanted)
    garbled = Sighting(run.run_id, Presence.UNKNOWN, error="metadata.json cannot be read")
    made = planned([wanted], [live_memory(run)], [census(garbled)])
    assert words(made) == ["hold a HostUnknown"]


def test_a_run_that_succeeded_is_remembered_in_one_line():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [live_memory(run)], [census(seen(run, ReportStatus.COMPLETED, alive=False))])
    assert words(made) == []
    assert [type(line).__name__ for _, line in made.lines] == ["Ended"]
    assert phase_of(made) == "Succeeded Finished"


def test_a_preempted_run_waits_out_its_backoff_and_is_requeued_without_limit():
    wanted = job()
    run = run_of(wanted)
    end = seen(run, ReportStatus.PREEMPTED, alive=False, cause=Cause.PREEMPTION)
    memory = replace(live_memory(run), spent={Cause.PREEMPTION: 1000})
    first = planned([wanted], [memory], [census(end)])
    assert phase_of(first) == "Preempted BackingOff"
    for _, line in first.lines:
        memory = fold(memory, line, NOW)
    later = planned([wanted], [memory], [census()], now=NOW + 11)
    assert words(later) == ["requeue a AttemptEnded"]
    assert later.actions[0].effect.attempt == 2


def test_a_failure_is_retried_until_its_own_budget_is_spent():
    wanted = job(restart={"failure": 2})
    run = run_of(wanted)
    failed = seen(run, ReportStatus.FAILED, alive=False, cause=Cause.FAILURE, exit_code=7, message="exit 7")
    with_budget = replace(live_memory(run), spent={Cause.FAILURE: 1, Cause.PREEMPTION: 50})
    spent = replace(live_memory(run), spent={Cause.FAILURE: 2})
    assert phase_of(planned([wanted], [with_budget], [census(failed)])) == "Pending BackingOff"
    made = planned([wanted], [spent], [census(failed)])
    assert phase_of(made) == "Failed BudgetSpent"
    assert "exit 7" in made.views[0].message
    assert "2 of 2" in made.views[0].message


def test_a_run_gone_without_a_report_is_lost_and_paid_by_infrastructure():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [live_memory(run)], [census(seen(run, alive=False))])
    [(_, line)] = made.lines
    assert isinstance(line, Ended)
    assert (line.phase, line.cause, line.requeue) == (Phase.LOST, Cause.INFRASTRUCTURE, True)


def test_a_reboot_is_named_as_the_reason():
    wanted = job()
    run = run_of(wanted)
    after = replace(seen(run, alive=False), boot_id="boot-2")
    [(_, line)] = planned([wanted], [live_memory(run)], [census(after, boot="boot-2")]).lines
    assert "restarted" in line.message


def test_a_launch_that_was_cut_off_and_is_seen_running_is_settled_not_repeated():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [unsettled_memory(run)], [census(seen(run))])
    assert words(made) == []
    assert [type(line) for _, line in made.lines] == [Launched]


def test_a_launch_that_was_cut_off_and_left_nothing_is_sent_again_as_the_same_run():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [unsettled_memory(run)], [census()])
    assert words(made) == ["launch a LaunchUnsettled"]
    assert made.actions[0].effect.again == run


def test_a_launch_that_was_cut_off_is_not_let_go_before_it_could_have_started_late():
    run = run_of(job())
    given_up = Unsettled(run.run_id, "no answer")
    soon = planned([], [fold(unsettled_memory(run, at=NOW - 65), given_up, NOW - 5)], [census()])
    assert words(soon) == []
    assert soon.lines == ()
    late = planned([], [fold(unsettled_memory(run, at=NOW - 180), given_up, NOW - 120)], [census()])
    assert [type(line) for _, line in late.lines] == [Forgotten]


def test_a_launch_whose_sender_died_is_given_up_when_that_is_seen():
    run = run_of(job())
    memory = unsettled_memory(run, at=NOW - 3600)
    made = planned([], [memory], [census()])
    assert words(made) == []
    [(_, line)] = made.lines
    assert isinstance(line, Unsettled)
    later = planned([], [fold(memory, line, NOW - 120)], [census()])
    assert [type(line) for _, line in later.lines] == [Forgotten]


def test_a_run_that_another_state_of_ours_has_launched_is_minded_in_place_of_the_launch_that_it_forestalled():
    wanted = job()
    ours, theirs = run_of(wanted, attempt=2), replace(run_of(wanted, attempt=2), token="of another state")
    living = planned([wanted], [unsettled_memory(ours)], [census(seen(theirs))])
    assert words(living) == ["adopt a FoundByMark"]
    assert [type(line) for _, line in living.lines] == [Refused, Adopted]
    done = planned([wanted], [unsettled_memory(ours)], [census(seen(theirs, ReportStatus.COMPLETED, alive=False))])
    assert words(done) == []
    assert phase_of(done) == "Succeeded Finished"


def test_what_bears_the_number_of_a_refused_attempt_is_another_one():
    wanted = job()
    refused = fold(unsettled_memory(run_of(wanted)), Refused(run_of(wanted).run_id, "claimed", 0.0), NOW - 50)
    found = replace(run_of(wanted), token="of another state")
    made = planned([wanted], [refused], [census(seen(found, ReportStatus.COMPLETED, alive=False))])
    assert words(made) == []
    assert phase_of(made) == "Succeeded Finished"


@pytest.mark.parametrize("alive", [True, False])
def test_the_rented_machine_of_another_attempt_with_a_refused_number_is_left_to_its_run(alive):
    """Two states of one repository (CI runners) make the same run: the one that was refused must not delete the other's VM."""
    wanted = job(spec={"request": {"hosts": ["pod"], "chip": "tpu-v4", "min_chips": 4}})
    mine = run_of(wanted, host="pod")
    refused = fold(unsettled_memory(mine), Refused(mine.run_id, "claimed", 0.0), NOW - 50)
    theirs = replace(mine, token="of another state")
    vm = Machine("vm", "z", "7", mine.job, mine.run_id, OWNER, "READY", ready=True)
    shown = replace(seen(theirs, None if alive else ReportStatus.COMPLETED, alive=alive), machine=vm)
    asked = replace(census(shown, host="pod"), machines=(vm,))
    rented = HostView("pod", "tpu", "lab", {}, rented=Rented("tpu-v4", 4, 8, ("z",)))
    made = planned([wanted], [refused], [asked], hosts=(rented,))
    if alive:
        assert words(made) == ["adopt a FoundByMark"]
    else:
        assert phase_of(made) == "Succeeded Finished"
    own = replace(shown, run=mine, alive=True)
    made = planned([wanted], [refused], [replace(asked, sightings={mine.run_id: own})], hosts=(rented,))
    assert words(made) == ["delete a MachineReleased"]  # what our own refused call left behind is a leftover


def test_a_refused_number_is_remembered_when_the_manifest_is_gone():
    wanted = job()
    memory = fold(unsettled_memory(run_of(wanted)), Refused(run_of(wanted).run_id, "claimed", 0.0), NOW - 50)
    memory = fold(memory, Forgotten("gone"), NOW)
    assert (memory.attempt, memory.known) == (1, 0)
    assert memory.blank


def test_a_removed_manifest_deletes_the_run_last_and_marks_it_destructive():
    wanted = [job(f"j{n}") for n in range(9)]
    runs = [run_of(item) for item in wanted]
    made = planned([*wanted[1:], job("new")], [live_memory(run) for run in runs], [census(*map(seen, runs), cpus=99)])
    assert (
        words(made) == ["launch new New", "delete j0 ManifestRemoved"] or words(made)[-1] == "delete j0 ManifestRemoved"
    )
    assert made.actions[-1].destructive
    assert made.refusal is None


def test_nothing_is_deleted_while_the_source_is_incomplete():
    run = run_of(job())
    made = planned([], [live_memory(run)], [census(seen(run))], complete=False)
    assert words(made) == ["hold a SourceIncomplete"]


def test_a_broken_manifest_freezes_its_own_job_and_no_other():
    broken = run_of(job("broken"))
    made = planned([job("fine")], [live_memory(broken)], [census(seen(broken))], frozen=[key("broken")])
    assert words(made) == ["launch fine New"]
    assert phase_of(made, "broken") == "Running Frozen"


def test_a_frozen_job_that_ends_is_not_started_again():
    run = run_of(job())
    failed = seen(run, ReportStatus.FAILED, alive=False, cause=Cause.FAILURE)
    made = planned([], [live_memory(run)], [census(failed)], frozen=[key()])
    assert words(made) == []
    assert [type(line) for _, line in made.lines] == [Ended]


@pytest.mark.parametrize(
    ("live", "removed", "refused"),
    [
        (8, 2, False),
        (7, 2, True),
        (8, 3, True),
        (2, 2, True),
        (5, 1, False),
        (1, 1, True),
        (100, 25, False),
        (100, 26, True),
    ],
)
def test_the_guard_refuses_to_remove_more_than_a_quarter_or_everything(live, removed, refused):
    wanted = [job(f"j{n}") for n in range(live)]
    runs = [run_of(item) for item in wanted]
    arguments = (wanted[removed:], [live_memory(run) for run in runs], [census(*map(seen, runs))])
    made = planned(*arguments)
    assert (made.refusal is not None) == refused
    if refused:
        assert made.refusal.flag == f"--confirm-delete {removed}"
        assert made.refusal.flag in made.refusal.message
    assert planned(*arguments, delete_allowed=removed).refusal is None


def test_a_confirmation_of_another_number_confirms_nothing():
    runs = [run_of(job(f"j{n}")) for n in range(4)]
    made = planned([], [live_memory(run) for run in runs], [census(*map(seen, runs))], delete_allowed=3)
    assert made.refusal is not None


def test_an_edited_spec_cancels_first_and_launches_only_when_the_run_is_seen_gone():
    old, new = job(), job(command=["python", "train.py"])
    run = run_of(old)
    first = planned([new], [live_memory(run)], [census(seen(run))])
    assert words(first) == ["replace a SpecChanged"]
    assert isinstance(first.actions[0].effect, Stop)
    assert "stages" in first.actions[0].message
    memory = fold(live_memory(run), Stopping(run.run_id, Cause.REPLACED), NOW)
    between = planned([new], [memory], [census(seen(run, stopping="replaced"))])
    assert words(between) == []
    assert phase_of(between) == "Terminating Stopping"
    gone = seen(run, ReportStatus.CANCELLED, alive=False, cause=Cause.REPLACED)
    after = planned([new], [memory], [census(gone)])
    assert words(after) == ["launch a NewSpec"]


def test_on_change_hold_lets_the_run_go_on():
    run = run_of(job())
    made = planned([job(command=["false"], on_change="hold")], [live_memory(run)], [census(seen(run))])
    assert words(made) == []
    assert phase_of(made) == "Running ChangeHeld"


def test_a_run_that_finished_before_it_could_be_replaced_has_finished():
    run = run_of(job())
    memory = fold(live_memory(run), Stopping(run.run_id, Cause.SUSPENDED), NOW)
    made = planned([job(suspend=True)], [memory], [census(seen(run, ReportStatus.COMPLETED, alive=False))])
    assert phase_of(made) == "Succeeded Finished"


def test_suspend_stops_a_run_and_resume_requeues_it():
    run = run_of(job())
    made = planned([job(suspend=True)], [live_memory(run)], [census(seen(run))])
    assert words(made) == ["cancel a Suspended"]
    assert not made.actions[0].destructive
    memory = fold(live_memory(run), Stopping(run.run_id, Cause.SUSPENDED), NOW)
    gone = census(seen(run, ReportStatus.CANCELLED, alive=False, cause=Cause.SUSPENDED))
    assert phase_of(planned([job(suspend=True)], [memory], [gone])) == "Suspended Suspended"
    assert words(planned([job()], [memory], [gone])) == ["requeue a AttemptEnded"]


def test_a_cancel_by_hand_stays_until_a_new_generation():
    run = run_of(job())
    asked = fold(live_memory(run), Requested("cancel", "by hand"), NOW)
    assert words(planned([job()], [asked], [census(seen(run))])) == ["cancel a CancelRequested"]
    stopped = fold(asked, Stopping(run.run_id, Cause.CANCELLED), NOW)
    gone = census(seen(run, ReportStatus.CANCELLED, alive=False, cause=Cause.CANCELLED))
    made = planned([job()], [stopped], [gone])
    assert phase_of(made) == "Cancelled Cancelled"
    memory = stopped
    for _, line in made.lines:
        memory = fold(memory, line, NOW)
    assert words(planned([job()], [memory])) == []
    assert words(planned([job(generation=2)], [memory])) == ["launch a NewSpec"]
    resumed = fold(memory, Requested("resume", ""), NOW)
    assert words(planned([job()], [resumed])) == ["requeue a AttemptEnded"]


def test_a_stop_that_never_arrived_is_asked_again_and_an_overdue_one_is_forced():
    run = run_of(job())
    memory = fold(live_memory(run), Stopping(run.run_id, Cause.DELETED), NOW)
    again = planned([], [memory], [census(seen(run))])
    assert words(again) == ["cancel a StopUnsettled"]
    assert not again.actions[0].effect.forced
    overdue = planned([], [memory], [census(seen(run, stopping="deleted"))], now=NOW + 61)
    assert words(overdue) == ["cancel a StopAgain"]
    assert overdue.actions[0].effect.forced


def test_a_deleted_job_is_forgotten_only_when_it_is_seen_gone():
    run = run_of(job())
    memory = fold(live_memory(run), Stopping(run.run_id, Cause.DELETED), NOW)
    still = planned([], [memory], [census(seen(run, stopping="deleted"))])
    assert not any(isinstance(line, Forgotten) for _, line in still.lines)
    gone = planned([], [memory], [census(seen(run, ReportStatus.CANCELLED, alive=False, cause=Cause.DELETED))])
    assert [type(line) for _, line in gone.lines] == [Ended, Forgotten]


def test_orphan_lets_the_run_go_on_unminded():
    run = run_of(job(deletion="orphan"))
    made = planned([], [live_memory(run)], [census(seen(run))], delete_allowed=1)
    assert words(made) == ["forget a Orphaned"]
    assert made.actions[0].effect is None


def test_with_an_empty_store_a_living_run_is_adopted_by_its_mark():
    wanted = job()
    run = run_of(wanted, attempt=3)
    made = planned([wanted], [], [census(seen(run))])
    assert words(made) == ["adopt a FoundByMark"]
    assert phase_of(made) == "Running Running"


def test_with_an_empty_store_a_finished_run_is_remembered_not_repeated():
    wanted = job()
    run = run_of(wanted, attempt=3)
    made = planned([wanted], [], [census(seen(run, ReportStatus.COMPLETED, alive=False))])
    assert words(made) == []
    assert phase_of(made) == "Succeeded Finished"


def test_somebody_elses_run_of_the_same_name_is_never_touched():
    wanted = job()
    run = run_of(wanted, owner="somebody else")
    made = planned([], [], [census(seen(run))])
    assert words(made) == []
    assert made.views == ()


def test_an_older_attempt_that_wakes_up_beside_the_newer_one_is_ended():
    wanted = job()
    old, new = run_of(wanted, attempt=1, host="other"), run_of(wanted, attempt=2)
    made = planned([wanted], [live_memory(new)], [census(seen(new)), census(seen(old), host="other")])
    assert words(made) == ["cancel a StrayAttempt"]
    assert made.actions[0].run_id == old.run_id


def test_a_forgotten_run_stays_let_go():
    run = run_of(job())
    memory = remember(Forgotten("by hand", released=True), job=key())
    memory = replace(memory, attempt=1)
    made = planned([], [memory], [census(seen(run))])
    assert words(made) == []
    assert made.lines == ()  # a second Forgotten would lose that it was let go of: the next look would end it


def test_a_job_waits_for_hosts_this_store_never_looked_at():
    made = planned([job()], [], [census(), census(host="down", complete=False)], unscanned=("down",))
    assert words(made) == ["hold a HostNeverSeen"]
    assert "--assume-empty down" in made.actions[0].message


def test_a_dependency_seen_to_finish_lets_its_dependant_start_in_the_same_pass():
    first, second = job("a"), job("b", depends_on=["general/default/a"])
    run = run_of(first)
    assert (
        phase_of(planned([first, second], [live_memory(run)], [census(seen(run))]), "b") == "Pending DependencyWaiting"
    )
    made = planned([first, second], [live_memory(run)], [census(seen(run, ReportStatus.COMPLETED, alive=False))])
    assert words(made) == ["launch b New"]


def test_a_failed_or_missing_dependency_holds_its_dependant():
    first, second = job("a"), job("b", depends_on=["general/default/a"])
    failed = finished_memory(run_of(first), Phase.FAILED, Cause.FAILURE)
    assert phase_of(planned([first, second], [failed]), "b") == "Held DependencyFailed"
    assert phase_of(planned([second]), "b") == "Held DependencyMissing"


def test_slots_bound_what_starts_and_priority_says_who():
    wanted = [job(f"j{n}", priority=n) for n in range(6)]
    made = planned(wanted)
    assert [action.job.name for action in made.actions] == ["j5", "j4", "j3", "j2"]
    assert phase_of(made, "j0") == "Pending Unplaceable"
    assert "slots" in made.views[0].message


def test_a_quiet_world_writes_no_line():
    wanted = [job(f"j{n}") for n in range(3)]
    runs = [run_of(item) for item in wanted]
    memories = [live_memory(runs[0]), finished_memory(runs[1]), finished_memory(runs[2], Phase.FAILED, Cause.FAILURE)]
    made = planned(wanted, memories, [census(seen(runs[0]))])
    assert made.lines == ()
    assert made.actions == ()


def test_an_edit_in_place_of_a_live_run_is_one_line_and_no_effect():
    run = run_of(job())
    made = planned([job(priority=5)], [live_memory(run)], [census(seen(run))])
    assert words(made) == []
    assert [type(line).__name__ for _, line in made.lines] == ["Edited"]


def test_a_finished_job_whose_manifest_is_removed_and_restored_does_not_run_again():
    wanted = job()
    memory = finished_memory(run_of(wanted))
    removed = planned([], [memory])
    assert (removed.lines, removed.views, removed.actions) == ((), (), ())
    assert words(planned([wanted], [memory])) == []


def test_the_same_run_id_on_another_host_is_a_stray_and_ended_there():
    wanted = job()
    run, twin = run_of(wanted), replace(run_of(wanted, host="other"), token="of-a-lost-state")
    made = planned([wanted], [live_memory(run)], [census(seen(run)), census(seen(twin), host="other")])
    assert words(made) == ["cancel a StrayAttempt"]
    assert (made.actions[0].host, made.actions[0].effect.run.token) == ("other", "of-a-lost-state")


def test_a_stray_is_ended_where_it_was_seen_whatever_its_claim_calls_the_host():
    wanted = job()
    new, old = run_of(wanted, attempt=2), run_of(wanted, attempt=1, host="old-name")
    made = planned([wanted], [live_memory(new)], [census(seen(new)), census(seen(old), host="other")])
    assert made.actions[0].effect.run.host == "other"


def test_an_unsettled_launch_is_not_sent_again_beside_a_living_older_attempt():
    wanted = job()
    old, new = run_of(wanted, attempt=1, host="other"), run_of(wanted, attempt=2)
    made = planned([wanted], [unsettled_memory(new)], [census(), census(seen(old), host="other")])
    assert words(made) == ["cancel a StrayAttempt"]


def test_a_stray_is_ended_for_a_reason_that_nodes_know():
    from runtime.contract import REQUESTS

    wanted = job()
    old, new = run_of(wanted, attempt=1, host="other"), run_of(wanted, attempt=2)
    made = planned([wanted], [live_memory(new)], [census(seen(new)), census(seen(old), host="other")])
    assert made.actions[0].effect.cause.value in REQUESTS


@pytest.mark.parametrize("alive", [True, False])
def test_a_state_older_than_the_world_takes_over_the_later_attempt(alive):
    wanted = job()
    known, later = run_of(wanted, attempt=1), run_of(wanted, attempt=4, host="other")
    status = ReportStatus.RUNNING if alive else ReportStatus.COMPLETED
    made = planned(
        [wanted],
        [live_memory(known)],
        [census(seen(known, alive=False)), census(seen(later, status, alive=alive), host="other")],
    )
    assert words(made) == (["adopt a FoundByMark"] if alive else [])
    assert phase_of(made) == ("Running Running" if alive else "Succeeded Finished")


def test_nothing_of_a_selection_reaches_other_jobs():
    run = run_of(job("b"))
    made = planned([job("a")], [live_memory(run)], [census(seen(run))], only=frozenset({key("a")}))
    assert words(made) == ["launch a New"]
    assert [view.job.name for view in made.views] == ["a"]


def test_a_run_that_somebody_else_cancelled_is_not_brought_back_unless_the_manifest_says_so():
    for budget, phase, verbs in ((0, "Cancelled Cancelled", []), (1, "Pending AttemptEnded", ["requeue"])):
        wanted = job(restart={"cancelled": budget, "backoff": {"initial": 0}})
        run = run_of(wanted)
        cancelled = seen(run, ReportStatus.FAILED, alive=False, cause=Cause.CANCELLED, message="cancelled by hand")
        made = planned([wanted], [live_memory(run)], [census(cancelled)])
        assert phase_of(made) == phase
        assert [action.verb.value for action in made.actions] == verbs


# --- behind a queue


def queued(run, state=QueueState.WAITING, word="PENDING", *, alive=True, status=None, twins=(), **more):
    """A sighting of job 77 as the batch backend makes it."""
    job = QueueJob("77", run.run_id, f"reconciler:{run.token}", state, word, partition="gpu", **more)
    handle = Handle(run.run_id, run.token, {"job": "77"})
    return replace(seen(run, status, alive=alive), handle=handle, queue=job, twins=twins, boot_id="")


def test_a_run_that_waits_in_its_queue_says_why_and_until_when():
    wanted = job()
    run = run_of(wanted)
    there = queued(
        run,
        reason="Resources",
        sentence="it is next, as soon as enough machines are free",
        starts_at="2026-11-26T09:00:00",
    )
    made = planned([wanted], [live_memory(run)], [census(there)])
    assert (words(made), made.lines) == ([], ())
    assert phase_of(made) == "Queued Resources"
    assert made.views[0].message == (
        "job 77 in gpu: it is next, as soon as enough machines are free; the scheduler expects to start it at 2026-11-26T09:00:00"
    )


def test_a_run_that_waits_in_its_queue_is_still_queued_while_it_is_asked_to_stop():
    run = run_of(job())
    made = planned([job(suspend=True)], [live_memory(run)], [census(queued(run))])
    assert words(made) == ["cancel a Suspended"]
    assert phase_of(made) == "Queued Suspended"


def test_a_state_word_that_nobody_knows_is_neither_an_end_nor_a_start():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [live_memory(run)], [census(queued(run, QueueState.UNKNOWN, "NEWWORD"))])
    assert (words(made), made.lines) == ([], ())
    assert phase_of(made) == "Queued Queued"
    assert made.views[0].message == "job 77 in gpu: the scheduler says NEWWORD"


def test_what_the_scheduler_starts_anew_by_itself_is_waited_for():
    wanted = job(restart={"owner": "slurm"})
    run = run_of(wanted)
    ended = queued(run, QueueState.ENDED, "PREEMPTED", cause=Cause.PREEMPTION, revivable=True, sentence="was preempted")
    made = planned([wanted], [live_memory(run)], [census(ended)])
    assert (words(made), made.lines) == ([], ())
    assert phase_of(made) == "Queued Queued"


def test_a_run_says_where_it_runs_and_what_is_not_simply_running():
    wanted = job()
    run = run_of(wanted)
    there = queued(
        run, QueueState.RUNNING, "SUSPENDED", status=ReportStatus.RUNNING, nodes="n1", sentence="is suspended"
    )
    made = planned([wanted], [live_memory(run)], [census(there)])
    assert made.views[0].message == "running on ws, n1; is suspended"


def test_a_job_that_left_the_queue_a_moment_ago_is_held():
    wanted = job()
    run = run_of(wanted)
    gone = Sighting(run.run_id, Presence.UNKNOWN, error="slurm does not list it any more, but it wrote 20 s ago")
    made = planned([wanted], [live_memory(run)], [census(gone)])
    assert words(made) == ["hold a HostUnknown"]
    assert "wrote 20 s ago" in made.views[0].message


def test_of_two_jobs_of_one_run_the_one_that_is_not_minded_is_ended_and_memory_goes_on():
    wanted = job()
    run = run_of(wanted)
    made = planned([wanted], [live_memory(run)], [census(queued(run, twins=("78", "79")))])
    assert words(made) == ["cancel a StrayAttempt"]
    effect = made.actions[0].effect
    assert isinstance(effect, Stop)
    assert effect.handle.native == {"job": "78", "twin": True}
    assert "as jobs 77 and 78; job 78 is ended" in made.actions[0].message
    assert made.lines == ()
    assert phase_of(made) == "Queued Queued"


def behind(*nodes: QueueNode, **more) -> tuple[HostView, Census]:
    """A host with one partition of these machines, and what it says."""
    partition = QueuePartition("gpu", up=True, nodes=tuple(node.name for node in nodes), **more)
    capacity = QueueCapacity({"gpu": partition}, {node.name: node for node in nodes})
    return HostView("hpc", "slurm", "hpc", None, queue=QueueView()), Census(
        "hpc", True, capacity=Capacity(8, queue=capacity), scanned=True
    )


def test_jobs_of_one_pass_share_out_what_is_free_and_the_rest_waits():
    host, there = behind(QueueNode("n1", True, "IDLE", {"h100": 4}))
    made = planned([job(name, request={"min_chips": 3}) for name in "ab"], [], [there], hosts=(host,))
    assert [action.message for action in made.actions] == [
        "on hpc, partition gpu, 3 h100",
        "on hpc, partition gpu, 3 h100; it waits in the queue (1 of 4 free, 0 of 1 machines ready)",
    ]


def test_what_no_load_can_mend_is_held_for_a_person():
    host, there = behind(QueueNode("n1", True, "IDLE", {"h100": 4}), time_max_s=3600)
    wanted = [job("a", request={"min_chips": 8}), job("b", request={"time": "2h"})]
    made = planned(wanted, [], [there], hosts=(host,))
    assert words(made) == ["hold a Unplaceable", "hold b Unplaceable"]
    assert "needs 2 machines with 4 h100" in made.views[0].message
    assert "partition gpu allows 1h" in made.views[1].message

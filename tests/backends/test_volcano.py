"""The Volcano driver on an API in memory: what it does, and what it leaves alone, when answers are lost, lists fail or are
old, and objects are somebody else's. test_volcano_emulated.py has what only a cluster that runs shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends.kube_control import JOB, POD, SECRET
from reconciler.backends.volcano import LISTED_S, ORPHAN_S
from reconciler.backends.volcano_answers import job_of
from reconciler.backends.volcano_marks import OWNER as OWNER_LABEL
from reconciler.backends.volcano_marks import annotations_of, labels_of, object_name
from reconciler.backends.volcano_sight import Limits, Scene, sight
from reconciler.backends.volcano_words import Why
from reconciler.core.cause import Cause
from reconciler.core.errors import AccessRefused, NotNow, OutcomeUnknown, Rejected, Unparsable, Unreachable
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Accepted, Declined, Known, Look
from reconciler.core.secret import Secret
from tests.backends.kube_fake import lost
from tests.backends.volcano_bench import Bench

WEBHOOK = 'admission webhook "validatejob.volcano.sh" denied the request: '


@pytest.fixture
def bench(tmp_path, bundle) -> Bench:
    made = Bench(tmp_path, bundle)
    made.submit(made.run("first"))  # the runtime is on the claim
    made.backend.home().helper.close()
    made.kube.finish(JOB, object_name(made.run("first").run_id))
    made.kube.finish(SECRET, object_name(made.run("first").run_id))
    made.kube.finish(POD, made.names(POD)[0]) if made.names(POD) else None
    made.forget()
    return made


def refused(verb: str, error: Any) -> tuple[str, Any, bool]:
    """A failure for `failures`: the next such call does nothing."""
    return verb, error, False


# --- submitting


def test_a_run_is_a_job_and_a_secret_that_goes_with_it(bench: Bench):
    run = bench.run(secrets={"A": {"env": "B"}})
    answer = bench.submit(run, secrets={"A": Secret("canary")})
    assert isinstance(answer, Accepted)
    name, made = object_name(run.run_id), bench.job(run)
    assert (bench.names(JOB), bench.names(SECRET)) == ([name], [name])
    (owner,) = bench.kube.there(SECRET, name)["metadata"]["ownerReferences"]
    assert owner["uid"] == made["metadata"]["uid"] == answer.handle.native["uid"]
    assert not answer.repeated
    assert "canary" not in json.dumps(made)


def test_submitted_twice_it_is_one(bench: Bench):
    run = bench.run()
    first, second = bench.submit(run), bench.submit(run)
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert second.repeated
    assert second.handle.native["uid"] == first.handle.native["uid"]
    assert len(bench.names(JOB)) == len(bench.names(SECRET)) == 1


def test_a_secret_of_another_reconcilers_attempt_is_left_alone(bench: Bench):
    run = bench.run()
    other = replace(run, token="theirs")
    metadata = {"name": object_name(run.run_id), "labels": labels_of(other), "annotations": annotations_of(other)}
    before = bench.kube.put(SECRET, {"metadata": metadata, "data": {"record.json": "eA=="}})
    answer = bench.submit(run)
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == ("claimed", False)
    assert bench.kube.there(SECRET, object_name(run.run_id)) == before
    assert bench.names(JOB) == []


def test_a_job_of_another_reconcilers_attempt_is_left_alone_and_our_secret_goes(bench: Bench):
    run = bench.run()
    other = replace(run, token="theirs")
    metadata = {"name": object_name(run.run_id), "labels": labels_of(other), "annotations": annotations_of(other)}
    before = json.dumps(bench.kube.put(JOB, {"metadata": metadata, "spec": {}}))
    answer = bench.submit(run)
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == ("claimed", False)
    assert json.dumps(bench.kube.there(JOB, object_name(run.run_id))) == before
    assert bench.names(SECRET) == []


@pytest.mark.parametrize("acts", [True, False], ids=["done", "not done"])
def test_a_create_whose_answer_is_lost_is_settled_by_a_look(bench: Bench, acts: bool):
    run = bench.run()
    create = bench.kube.create

    def losing(kind: Any, body: Any) -> Any:
        if kind == JOB and not body["metadata"]["name"].startswith("reconciler-helper"):
            bench.kube.failures = [lost("create") if acts else ("create", OutcomeUnknown("no answer"), False)]
        return create(kind, body)

    bench.kube.create = losing  # type: ignore[method-assign]
    assert bench.submit(run) is None
    bench.kube.create = create  # type: ignore[method-assign]
    assert bench.see(run).presence is (Presence.PRESENT if acts else Presence.ABSENT)
    again = bench.submit(run)
    assert isinstance(again, Accepted)
    assert again.repeated is acts
    assert len(bench.names(JOB)) == len(bench.names(SECRET)) == 1


def creates_job_with(bench: Bench, error: Any) -> None:
    create = bench.kube.create

    def failing(kind: Any, body: Any) -> Any:
        if kind == JOB and not body["metadata"]["name"].startswith("reconciler-helper"):
            raise error
        return create(kind, body)

    bench.kube.create = failing  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("error", "reason", "final"),
    [
        (Rejected(f"Could not create Volcano job x: {WEBHOOK}no task"), "refused", True),
        (Rejected("Could not create Volcano job x: is invalid: metadata.labels"), "refused", True),
        (NotNow("Could not create Volcano job x: exceeded quota: q, requested: count/jobs=1"), "refused", False),
        (NotNow("Could not create x: namespace team-a because it is being terminated"), "refused", False),
        (AccessRefused("jobs is forbidden"), "unreachable", False),
        (Unreachable("connection refused"), "unreachable", False),
    ],
    ids=["webhook", "invalid", "quota", "namespace ends", "forbidden", "unreachable"],
)
def test_a_refused_create_leaves_no_secret_and_only_the_jobs_own_faults_are_final(bench, error, reason, final):
    creates_job_with(bench, error)
    answer = bench.submit(bench.run())
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == (reason, final)
    assert error.message in answer.message
    assert bench.names(SECRET) == []


@pytest.mark.parametrize(
    "error", [Unreachable("refused"), AccessRefused("forbidden"), Rejected(f"{WEBHOOK}queue is Closed")]
)
def test_what_keeps_the_helper_away_is_no_fault_of_the_run(bench: Bench, error: Any):
    bench.backend = bench.open()
    bench.kube.failures = [refused("create", error)]
    answer = bench.submit(bench.run())
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == ("unreachable", False)
    assert error.message in answer.message
    assert (bench.names(JOB), bench.names(SECRET), bench.helpers()) == ([], [], [])


def test_a_helper_that_does_not_come_up_leaves_nothing(bench: Bench):
    bench.comes_up, bench.backend = False, bench.open()
    answer = bench.submit(bench.run())
    assert isinstance(answer, Declined)
    assert not answer.final
    assert "helper" in answer.message
    assert (bench.names(JOB), bench.names(SECRET), bench.helpers()) == ([], [], [])


def test_one_run_that_fails_takes_no_other_along(bench: Bench):
    runs = [bench.run(name) for name in ("a", "b", "c")]
    create = bench.kube.create

    def failing(kind: Any, body: Any) -> Any:
        if kind == JOB and body["metadata"]["name"] == object_name(runs[1].run_id):
            raise Unparsable("answered nonsense")
        return create(kind, body)

    bench.kube.create = failing  # type: ignore[method-assign]
    from reconciler.core.protocols import Facts
    from reconciler.load.normal import decode

    items = [bench.backend.render(run, Facts(decode(run.normal), None, {})) for run in runs]
    answers = bench.backend.submit(items)
    assert {run_id: type(answer) for run_id, answer in answers.items()} == {
        runs[0].run_id: Accepted,
        runs[2].run_id: Accepted,
    }


def test_what_is_there_already_is_found_though_the_server_would_refuse_it_now(bench: Bench):
    """Admission comes before the name: a queue that was closed since refuses what it took before."""
    run = bench.run()
    first = bench.submit(run)
    creates_job_with(bench, Rejected(f"{WEBHOOK}can only submit job to queue with state `Open`"))
    second = bench.submit(run)
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert second.repeated
    assert second.handle.native["uid"] == first.handle.native["uid"]
    assert bench.names(SECRET) == [object_name(run.run_id)]


def test_a_secret_that_a_killed_process_left_goes_when_the_job_is_refused_now(bench: Bench):
    run = bench.run()
    bench.submit(run)
    bench.kube.finish(JOB, object_name(run.run_id))
    creates_job_with(bench, Rejected(f"{WEBHOOK}no"))
    answer = bench.submit(run)
    assert isinstance(answer, Declined)
    assert bench.names(SECRET) == []


def test_a_tree_that_is_not_on_the_claim_is_named_and_the_way_to_bring_it_is_given(bench: Bench):
    from reconciler.core.protocols import Tree

    run = bench.run()
    answer = bench.submit(run, tree=Tree(object=f"{bench.root}/share/objects/abc", sha256="abc"))
    assert isinstance(answer, Declined)
    assert answer.reason == "missing"
    assert "objects/abc" in answer.message
    assert len(bench.backend.lacking()) == 1
    assert (bench.names(JOB), bench.names(SECRET)) == ([], [])
    bench.backend.observe(Look())
    assert bench.backend.lacking() == []


def test_a_host_without_an_image_says_so_before_anything_is_made(bench: Bench):
    bench.pods = replace(bench.pods, image="")
    bench.backend = bench.open()
    answer = bench.submit(bench.run())
    assert isinstance(answer, Declined)
    assert answer.final
    assert "image" in answer.message
    assert bench.kube.changed == []


def test_a_runtime_of_another_version_on_the_claim_is_left_and_ours_is_brought(tmp_path, bundle):
    bench = Bench(tmp_path, bundle)
    other = Path(bench.paths.bundle).parent / ("0" * 64)
    other.mkdir(parents=True)
    (other / "bootstrap.sh").write_text("exit 1\n")
    assert isinstance(bench.submit(bench.run()), Accepted)
    assert (Path(bench.paths.bundle) / "bootstrap.sh").exists()
    assert (other / "bootstrap.sh").read_text() == "exit 1\n"


# --- looking


@pytest.mark.parametrize("plural", ["jobs", "pods"])
@pytest.mark.parametrize("error", [Unreachable("away"), Unparsable("<html>"), AccessRefused("forbidden")])
def test_a_list_that_fails_proves_nothing(bench: Bench, plural: str, error: Any):
    known = bench.start(bench.run())
    never = bench.run("never")
    bench.kube.unlistable[plural] = error
    census = bench.backend.observe(Look((known, Known(never)), scan=True))
    assert (census.complete, census.scanned) == (False, False)
    assert error.message in census.error
    assert {census.look(run.run_id).presence for run in (known.run, never)} == {Presence.UNKNOWN}
    assert bench.kube.changed == []


@pytest.mark.parametrize("what", ["jobs", "pods"])
def test_one_object_that_is_nonsense_proves_nothing_of_the_others(bench: Bench, what: str):
    known = bench.start(bench.run())
    found = bench.job(known.run) if what == "jobs" else bench.pod(known.run)
    found["status"] = "garbage"
    assert bench.see(known).presence is Presence.UNKNOWN
    assert bench.see(bench.run("never")).presence is Presence.UNKNOWN


def test_what_a_user_may_not_see_explains_less_and_hides_nothing(bench: Bench):
    known = bench.start(bench.run(), phase="Pending", pods="")
    for kind in ("events", "podgroups", "queues"):
        bench.kube.forbidden.add(("list", kind))
    seen = bench.see(known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, True)
    assert bench.see(bench.run("never")).presence is Presence.ABSENT


def test_two_namespaces_are_looked_at_and_one_that_fails_says_nothing_of_the_other(bench: Bench):
    here = bench.start(bench.run("here"))
    there = bench.start(bench.run("there", volcano={"namespace": "team-b"}))
    assert there.handle.native["namespace"] == "team-b"
    assert object_name(there.run.run_id) in bench.of("team-b").names(JOB)
    census = bench.backend.observe(Look((here, Known(there.run))))
    assert all(census.look(one.run.run_id).alive for one in (here, there))
    bench.of("team-b").unlistable["jobs"] = Unreachable("away")
    census = bench.backend.observe(Look((here, there)))
    assert not census.complete
    assert not census.away
    assert census.look(here.run.run_id).alive
    assert census.look(there.run.run_id).presence is Presence.UNKNOWN


def test_a_copy_of_a_job_under_another_name_is_not_the_run(bench: Bench):
    """As `kubectl get -o yaml | sed | kubectl create` makes it, marks and all."""
    known = bench.start(bench.run())
    copied = json.loads(json.dumps(bench.job(known.run)))
    copied["metadata"] = {key: copied["metadata"][key] for key in ("labels", "annotations")} | {"name": "zz-copy"}
    bench.kube.put(JOB, copied)
    assert bench.see(known).handle.native["job"] == object_name(known.run.run_id)
    bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert "zz-copy" in bench.names(JOB)
    assert bench.see(bench.run("never")).presence is Presence.ABSENT


# --- a list may be older than a create


def test_a_job_that_lists_do_not_show_yet_is_not_gone(bench: Bench):
    known = bench.start(bench.run(), phase="Pending", pods="")
    bench.kube.hidden.add(object_name(known.run.run_id))
    bench.clock += 2 * LISTED_S
    seen = bench.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "does not list it yet" in seen.error
    bench.kube.hidden.clear()
    assert bench.see(known).alive


def test_a_moment_after_the_create_even_the_name_proves_nothing(bench: Bench):
    known = bench.start(bench.run(), phase="Pending", pods="")
    bench.lose(known.run)
    seen = bench.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "a moment ago" in seen.error
    bench.clock += LISTED_S
    seen = bench.see(known)
    assert (seen.presence, seen.report.status, seen.report.cause) == (
        Presence.PRESENT,
        ReportStatus.FAILED,
        Cause.CANCELLED,
    )


def test_what_we_deleted_ourselves_is_gone_at_once(bench: Bench):
    known = bench.start(bench.run(), phase="Pending", pods="")
    bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    bench.lose(known.run)
    assert bench.see(known).presence is Presence.ABSENT


# --- jobs that vanished


def test_a_vanished_job_ended_as_it_wrote(bench: Bench):
    known = bench.start(bench.run())
    bench.wrote(known.run, status="completed", exit_code=0)
    bench.lose(known.run)
    seen = bench.see(known)
    assert (seen.presence, seen.alive, seen.report.status) == (Presence.PRESENT, False, ReportStatus.COMPLETED)


@pytest.mark.parametrize("wrote", [None, {"status": "running"}, {"status": "preempted", "cause": "preemption"}])
def test_a_vanished_job_that_had_not_ended_was_deleted_by_somebody(bench: Bench, wrote: Any):
    """What its pods write when they are told to end is no more than that."""
    known = bench.start(bench.run())
    if wrote is not None:
        bench.wrote(known.run, **wrote)
    bench.lose(known.run)
    bench.clock += LISTED_S
    seen = bench.see(known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, False)
    assert (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)
    assert "deleted by somebody" in seen.report.message


def test_a_run_that_was_claimed_and_never_wrote_a_record_was_deleted_by_somebody(bench: Bench):
    known = bench.start(bench.run())
    Path(bench.paths.status_dir(known.run)).mkdir(parents=True)
    bench.lose(known.run)
    bench.clock += LISTED_S
    assert bench.see(known).report.cause is Cause.CANCELLED


@pytest.mark.parametrize("text", ["{", "", '"x"', '{"status": "nonsense"}', '{"status": 3}', "[]"])
def test_of_a_vanished_job_whose_record_is_garbage_nothing_is_known(bench: Bench, text: str):
    known = bench.start(bench.run())
    bench.wrote(known.run)
    (Path(bench.paths.status_dir(known.run)) / "metadata.json").write_text(text)
    bench.lose(known.run)
    bench.clock += LISTED_S
    seen = bench.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "cannot be read" in seen.error


def test_of_a_vanished_job_whose_claim_is_out_of_reach_nothing_is_known(bench: Bench):
    known = bench.start(bench.run())
    bench.lose(known.run)
    bench.comes_up, bench.backend = False, bench.open()
    bench.clock += LISTED_S
    seen = bench.see(known)
    assert seen.presence is Presence.UNKNOWN
    assert "cannot be read from the claim" in seen.error
    assert bench.helpers() == []


def test_while_pods_are_there_the_run_lives_whatever_became_of_its_job(bench: Bench):
    known = bench.start(bench.run(nodes=2))
    bench.pod(known.run)["metadata"]["deletionTimestamp"] = bench.kube.clock
    bench.kube.finish(POD, f"{object_name(known.run.run_id)}-worker-1")
    bench.lose(known.run, pods=False)
    bench.clock += LISTED_S
    seen = bench.see(known)
    assert (seen.presence, seen.alive, seen.stopping) == (Presence.PRESENT, True, "deleted")
    assert "worker-0" in seen.queue.sentence


def test_pods_of_another_owners_run_of_the_same_name_are_not_ours(bench: Bench):
    known = bench.start(bench.run())
    bench.pod(known.run)["metadata"]["labels"][OWNER_LABEL] = "theirs"
    bench.lose(known.run, pods=False)
    bench.clock += LISTED_S
    assert not bench.see(known, scan=True).alive
    bench.backend.cancel(known, reason="cancelled", grace_s=0.0, force=True)
    assert bench.pod(known.run)


# --- scans


def test_a_scan_that_meets_garbage_says_what_and_is_none(bench: Bench):
    known = bench.start(bench.run())
    other = bench.run("other")
    bench.wrote(other, status="running")
    (Path(bench.paths.status_dir(other)) / "claim").write_text("{")
    census = bench.backend.observe(Look((known,), scan=True))
    assert (census.complete, census.scanned) == (True, False)
    assert other.run_id in census.error
    assert census.look(known.run.run_id).alive


def test_a_scan_without_a_way_to_the_claim_is_none(bench: Bench):
    bench.comes_up, bench.backend = False, bench.open()
    census = bench.backend.observe(Look(scan=True))
    assert (census.complete, census.scanned) == (True, False)
    assert "claim" in census.error


# --- what killed processes left behind


def put_secret(bench: Bench, name: str, made: str = "2026-11-18T11:06:40Z", owner: str = "owner") -> None:
    labels = {"reconciler/owner": owner, "reconciler/run": "r", "reconciler/host": "k8s"}
    bench.kube.put(SECRET, {"metadata": {"name": name, "labels": labels, "creationTimestamp": made}})


def test_old_secrets_without_a_job_are_deleted_and_nobody_elses(bench: Bench):
    put_secret(bench, "orphan")
    put_secret(bench, "young", made="2026-11-18T11:16:30Z")
    put_secret(bench, "theirs", owner="theirs")
    bench.kube.put(SECRET, {"metadata": {"name": "nobodys"}})
    bench.clock += ORPHAN_S
    bench.backend.observe(Look())
    assert bench.names(SECRET) == ["nobodys", "theirs", "young"]
    bench.clock += ORPHAN_S
    bench.backend.observe(Look())
    assert bench.names(SECRET) == ["nobodys", "theirs"]
    uids = [uid for verb, kind, _, uid, _ in bench.kube.changed if (verb, kind) == ("delete", "Secret")]
    assert len(uids) == 2
    assert all(uids)


def test_a_secret_that_was_not_given_to_its_job_is_given_to_it(bench: Bench):
    known = bench.start(bench.run())
    name = object_name(known.run.run_id)
    del bench.kube.there(SECRET, name)["metadata"]["ownerReferences"]
    bench.clock += 2 * ORPHAN_S
    bench.see(known, bench.open())
    (owner,) = bench.kube.there(SECRET, name)["metadata"]["ownerReferences"]
    assert owner["uid"] == bench.job(known.run)["metadata"]["uid"]


def test_without_the_right_to_secrets_a_look_is_whole_all_the_same(bench: Bench):
    known = bench.start(bench.run())
    bench.kube.forbidden.add(("list", "secrets"))
    assert bench.see(known, bench.open()).alive


# --- stopping


def test_a_job_with_another_token_is_not_cancelled(bench: Bench):
    known = bench.start(bench.run())
    other = Known(replace(known.run, token="ours"), known.handle)
    for force in (False, True):
        with pytest.raises(Rejected, match="left alone"):
            bench.backend.cancel(other, reason="cancelled", grace_s=0.0, force=force)
    assert bench.kube.changed == []


def test_a_job_is_deleted_by_its_uid_alone(bench: Bench):
    """Between our look and our delete, somebody may have made another one of that name."""
    known = bench.start(bench.run())
    uid = bench.job(known.run)["metadata"]["uid"]
    bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert bench.kube.changed == [("delete", "Job", object_name(known.run.run_id), uid, None)]


def test_force_removes_the_pods_without_grace(bench: Bench):
    known = bench.start(bench.run(nodes=2))
    bench.kube.lingering = {"Job", "Pod"}
    uids = {bench.pod(known.run, index)["metadata"]["uid"] for index in (0, 1)}
    said = bench.backend.cancel(known, reason="cancelled", grace_s=0.0, force=True)
    assert "2 pods" in said
    deleted = [one for one in bench.kube.changed if one[1] == "Pod"]
    assert {(verb, uid, grace) for verb, _, _, uid, grace in deleted} == {("delete", uid, 0) for uid in uids}


def test_force_ends_pods_whose_job_is_gone(bench: Bench):
    known = bench.start(bench.run())
    bench.lose(known.run, pods=False)
    bench.backend.cancel(known, reason="cancelled", grace_s=0.0, force=True)
    assert bench.names(POD) == []


@pytest.mark.parametrize("phase", ["Completed", "Failed", "Terminated"])
def test_what_has_ended_is_not_ended_again(bench: Bench, phase: str):
    known = bench.start(bench.run(), phase=phase, pods="Succeeded")
    assert bench.backend.cancel(known, reason="cancelled", grace_s=1.0) == "already gone"
    assert bench.kube.changed == []
    assert bench.backend.cancel(Known(bench.run("never")), reason="cancelled", grace_s=1.0) == "already gone"


def test_a_job_that_is_being_deleted_is_not_deleted_again(bench: Bench):
    known = bench.start(bench.run())
    bench.kube.lingering = {"Job"}
    bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert bench.see(known).stopping == "deleted"
    bench.forget()
    assert "already" in bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert bench.kube.changed == []


def test_a_delete_whose_answer_is_lost_is_asked_again(bench: Bench):
    known = bench.start(bench.run())
    bench.kube.failures = [lost("delete")]
    with pytest.raises(OutcomeUnknown):
        bench.backend.cancel(known, reason="cancelled", grace_s=1.0)
    assert bench.names(JOB) == []


# --- jobs that somebody suspended


def test_a_suspended_job_has_ended_and_goes_once_nobody_minds_its_run(bench: Bench):
    known = bench.start(bench.run(), phase="Aborted", pods="")
    seen = bench.see(known)
    assert (seen.alive, seen.report.status, seen.report.cause) == (False, ReportStatus.FAILED, Cause.CANCELLED)
    assert "suspended" in seen.report.message
    bench.backend.observe(Look(scan=True))  # whose reader may have lost its state, and has yet to hear of it
    assert bench.deleted() == []
    uid = bench.job(known.run)["metadata"]["uid"]
    bench.backend.observe(Look())
    assert bench.deleted() == [("delete", "Job", object_name(known.run.run_id), uid, None)]


def test_a_suspended_job_of_others_or_with_pods_is_left(bench: Bench):
    known = bench.start(bench.run(), phase="Aborted", pods="Running")
    assert bench.see(known).alive
    bench.backend.observe(Look())
    assert bench.deleted() == []
    bench.lose(known.run)
    theirs = bench.run("theirs", changes={"owner": "theirs"})
    bench.submit(theirs)
    elsewhere = bench.run("elsewhere", changes={"host": "other"})
    bench.submit(elsewhere)
    for run in (theirs, elsewhere):
        bench.phase(run, "Aborted")
    bench.forget()
    for backend in (bench.backend, bench.open(owner="")):
        backend.observe(Look())
    assert bench.deleted() == []


# --- nodes that do not answer


def silence(bench: Bench, run: Any, index: int = 0) -> None:
    """As the node controller does: Ready turns to False without a reason, all else stays."""
    pod = bench.pod(run, index)
    pod["spec"]["nodeName"] = "node-a"
    contained = {"type": "ContainersReady", "status": "True", "lastTransitionTime": bench.kube.clock}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": bench.kube.clock}
    pod["status"]["conditions"] = [contained, ready]


def test_a_lost_node_is_borne_as_long_as_the_host_says(bench: Bench):
    known = bench.start(bench.run())
    silence(bench, known.run)
    seen = bench.see(known)
    assert (seen.alive, seen.broken) == (True, False)
    assert "node-a does not answer" in seen.error
    assert (seen.patience.reason, seen.patience.wait_s, seen.patience.cause) == (
        "NodeLost",
        600.0,
        Cause.INFRASTRUCTURE,
    )
    assert "node-a" in seen.patience.why
    bench.pod(known.run)["status"]["conditions"] = []
    seen = bench.see(known)
    assert (seen.error, seen.patience) == ("", None)


def test_a_rest_that_runs_on_after_a_part_ended_is_borne_for_a_while(bench: Bench):
    """What Volcano's policies say, and its controller does not do."""
    known = bench.start(bench.run(nodes=2))
    bench.pod(known.run, 1)["status"] = FAILED_POD
    seen = bench.see(known)
    assert (seen.alive, seen.report.exit_code) == (True, 3)
    assert (seen.patience.reason, seen.patience.wait_s, seen.patience.cause) == ("GangBroken", 120.0, Cause.FAILURE)


def test_pods_that_are_all_over_are_the_end_when_they_completed_and_borne_for_a_while_when_not(bench: Bench):
    """Volcano's controller is away: its job says Running."""
    known = bench.start(bench.run(nodes=2))
    for index in range(2):
        bench.pod(known.run, index)["status"] = FAILED_POD
    seen = bench.see(known)
    assert (seen.alive, seen.patience.reason, seen.patience.cause) == (True, "GangBroken", Cause.FAILURE)
    for index in range(2):
        bench.pod(known.run, index)["status"] = {
            "phase": "Succeeded",
            "containerStatuses": [{"name": "worker", "state": {"terminated": {"exitCode": 0}}}],
        }
    seen = bench.see(known)
    assert (seen.alive, seen.report.status) == (False, ReportStatus.COMPLETED)


FAILED_POD = {
    "phase": "Failed",
    "containerStatuses": [{"name": "worker", "state": {"terminated": {"exitCode": 3}}}],
}


# --- how long what is borne


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        *(
            (reason, Cause.REFUSED)
            for reason in ("ImagePull", "ClaimMissing", "PodSecurity", "QueueMissing", "GangTooLarge")
        ),
        *((reason, Cause.INFRASTRUCTURE) for reason in ("NoPods", "NotYetSeen", "VolumeMount", "OldPodsTerminating")),
        *(
            (reason, Cause.CAPACITY)
            for reason in ("NoCapacity", "NoMatchingNode", "Scheduling", "QueueClosed", "ClaimUnbound")
        ),
    ],
)
def test_patience_is_of_three_kinds(bench: Bench, reason: str, cause: Cause, monkeypatch: pytest.MonkeyPatch):
    run = bench.run()
    bench.submit(run)
    bench.phase(run, "Pending")
    why = Why(reason, "the sentence")
    monkeypatch.setattr("reconciler.backends.volcano_sight.pending", lambda *_, **__: why)
    found = {}
    for pending_s in (None, 60.0):
        limits = Limits(pending_s, 1800.0)
        scene = Scene([], [])
        seen = sight(run, job_of(bench.job(run)), scene, None, limits, namespace="team-a", waited_s=1.0)
        found[pending_s] = seen.patience
    assert found[60.0].cause is cause
    assert found[60.0].wait_s == (60.0 if cause is Cause.CAPACITY else 1800.0)
    assert found[60.0].why == "the sentence"
    # For room one may wait for ever; for what never mends, nobody does.
    assert (found[None] is None) is (cause is Cause.CAPACITY)


# --- nothing of others


def test_of_what_is_not_ours_nothing_is_ever_changed(bench: Bench):
    """Looks, scans, submits and ends, in a namespace full of others' objects: every change names one of ours."""
    theirs = bench.run("theirs", changes={"owner": "theirs", "token": "theirs"})
    marks = {"labels": labels_of(theirs), "annotations": annotations_of(theirs)}
    foreign = [
        bench.kube.put(
            JOB,
            {
                "metadata": {"name": object_name(theirs.run_id), **marks},
                "spec": {},
                "status": {"state": {"phase": "Aborted"}},
            },
        ),
        bench.kube.put(JOB, {"metadata": {"name": "plain"}, "spec": {}}),
        bench.kube.put(
            JOB, {"metadata": {"name": "garbage", "labels": labels_of(theirs) | {OWNER_LABEL: "owner"}}, "spec": {}}
        ),
        bench.kube.put(POD, {"metadata": {"name": "plain-0"}, "spec": {}, "status": {"phase": "Running"}}),
        bench.kube.put(SECRET, {"metadata": {"name": object_name(theirs.run_id), **marks}}),
        bench.kube.put(SECRET, {"metadata": {"name": "plain"}}),
        bench.theirs(JOB, "reconciler-helper-theirs", spec={}),
    ]
    foreign[-1]["metadata"]["labels"]["reconciler/helper"] = "k8s"
    before = json.dumps(foreign)
    bench.clock += 10 * ORPHAN_S
    known = bench.start(bench.run())
    for look in (Look(), Look((known,), scan=True, probe=True), Look((Known(theirs), known))):
        bench.backend.observe(look)
    mine = bench.run("theirs", changes={"token": "mine"})
    with pytest.raises(Rejected):
        bench.backend.cancel(Known(mine), reason="deleted", grace_s=0.0, force=True)
    bench.backend.cancel(known, reason="deleted", grace_s=0.0, force=True)
    bench.backend.observe(Look((known,), scan=True))
    bench.backend.close()
    assert json.dumps(foreign) == before
    assert all(
        bench.kube.there(kind, one["metadata"]["name"]) is one
        for kind, one in zip([JOB, JOB, JOB, POD, SECRET, SECRET, JOB], foreign, strict=True)
    )
    uids = {one["metadata"]["uid"] for one in foreign}
    assert not uids & {uid for _, _, _, uid, _ in bench.kube.changed}
    assert all(uid for verb, _, _, uid, _ in bench.kube.changed if verb == "delete")

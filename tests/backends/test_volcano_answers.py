"""What a real Kubernetes with Volcano answered, through the parsers; hand-made objects where that is said."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.backends.volcano_answers import (
    event_of,
    events_of,
    group_of,
    job_of,
    missing_queue,
    pod_of,
    pods_of,
    queue_of,
)
from reconciler.backends.volcano_ends import end_of, part_of
from reconciler.core.errors import Unparsable
from reconciler.core.observation import Presence, Sighting
from reconciler.core.volcano import Event, VcPhase, VcQueueState, quantity
from tests.backends.volcano_records import (
    PARSERS,
    answer,
    every_event,
    objects,
    stream,
    the_events,
    the_group,
    the_job,
    the_pods,
    the_queue,
    with_condition,
    with_exit,
)

OBJECTS = [(name, item) for name, item in objects() if item.get("kind") in PARSERS]


def test_every_recorded_object_is_read():
    kinds = {}
    for name, item in OBJECTS:
        read = PARSERS[item["kind"]](item)
        assert read.name == (item["involvedObject"] if item["kind"] == "Event" else item["metadata"])["name"], name
        kinds[item["kind"]] = kinds.get(item["kind"], 0) + 1
    assert kinds.keys() == PARSERS.keys()
    assert min(kinds.values()) >= 3


def test_a_job_says_what_it_is_and_stands_in_its_phase():
    job = the_job("vcjob/running")
    assert (job.name, job.uid, job.queue) == ("running", "5d1817f1-6e25-4756-9a96-b04a47fbcc0c", "default")
    assert (job.phase, job.word, job.replicas, job.min_available, job.tasks) == (
        VcPhase.RUNNING,
        "Running",
        2,
        2,
        ("worker",),
    )
    assert job.created == 1795241867
    assert job.changed == job.created + 5
    assert (job.deleting, job.retry_count, job.finished) == (False, 0, False)
    assert the_job("vcjob/failed-after-retries").retry_count == 2
    assert the_job("recreate/early").terminating == 2
    assert job_of(answer("outage/no-webhook.minavailable.later")).min_available == 9


@pytest.mark.parametrize(
    ("name", "phase", "finished"),
    [
        ("just-created", VcPhase.PENDING, False),
        ("running", VcPhase.RUNNING, False),
        ("pod-deleted-early", VcPhase.PENDING, False),
        ("aborted-by-command", VcPhase.ABORTED, False),
        ("completed", VcPhase.COMPLETED, True),
        ("completed-by-policy", VcPhase.COMPLETED, True),
        ("failed", VcPhase.FAILED, True),
        ("failed-after-retries", VcPhase.FAILED, True),
        ("terminated-by-policy", VcPhase.TERMINATED, True),
    ],
)
def test_phases(name, phase, finished):
    job = the_job(f"vcjob/{name}")
    assert (job.phase, job.finished, job.suspended) == (phase, finished, phase is VcPhase.ABORTED)


def test_a_job_that_nobody_looked_at_has_no_phase_and_a_new_word_is_no_end():
    for name in ("missing-queue", "no-queue"):
        job = job_of(answer(f"outage/no-webhook.{name}.later"))
        assert (job.phase, job.finished) == (VcPhase.NOT_SEEN, False)
    odd = the_job("vcjob/completed", state={"phase": "Perfected"})
    assert (odd.phase, odd.word, odd.finished) == (VcPhase.UNKNOWN, "Perfected", False)
    assert the_job("vcjob/completed", state=None).phase is VcPhase.UNKNOWN


ORDER = {
    "done": "  Pending Running Completed",
    "running": "  Pending Running Aborting Aborted Restarting Pending Running Pending Running",
    "failed": "  Pending Running Failed",
    "partial": "  Pending Running Completed",
    "restartfail": "  Pending Restarting Pending Running Restarting Failed",
    "abortfail": "  Pending Running Aborting Aborted",
    "termfail": "  Pending Running Terminating Terminated",
    "exitcode": "  Pending Terminating Terminated",
    "taskcomplete": "  Pending Running Completing Completed",
    "nosuchcmd": "  Pending Running Failed",
    "oom": "  Pending Running Failed",
    "ttl": "  Pending Running Completed",
    **dict.fromkeys(("nospace", "nonode", "toobig", "noimage", "neverpull", "nopvc"), "  Pending"),
}


def test_the_watched_jobs_go_through_their_phases_and_end_once():
    seen: dict[str, list[VcPhase]] = {}
    for name, status in stream():
        job = job_of({"metadata": {"name": name, "uid": name}, "status": status})
        phases = seen.setdefault(name, [])
        if not phases or phases[-1] is not job.phase:
            phases.append(job.phase)
        # Volcano 1.12.4 tells the counts once and then forgets them; the end stays.
        assert any(phase.final for phase in phases) == job.finished
    assert seen == {name: [VcPhase(word) for word in words[1:].split(" ")] for name, words in ORDER.items()}


def test_what_is_no_such_object_is_unparsable():
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "code": 404}
    for garbage in (None, "", [], 7, {}, status, {"metadata": {"name": "a"}}, {"metadata": {"name": 1, "uid": "u"}}):
        for parse in PARSERS.values():
            with pytest.raises(Unparsable):
                parse(garbage)
    with pytest.raises(Unparsable, match="Pod"):
        job_of(answer("vcjob/running.pods")["items"][0])


@pytest.mark.parametrize(
    "change",
    [
        {"status": "Running"},
        {"status": {"state": ["Running"]}},
        {"status": {"state": {"phase": 3}}},
        {"status": {"state": {"phase": "Failed", "lastTransitionTime": "yesterday"}}},
        {"status": {"retryCount": "2"}},
        {"spec": {"tasks": {"worker": 2}}},
        {"spec": {"minAvailable": True}},
    ],
)
def test_a_field_of_the_wrong_type_is_unparsable(change):
    with pytest.raises(Unparsable, match="Job running"):
        job_of({**answer("vcjob/running.vcjob"), **change})


def test_pods_belong_to_a_job_by_the_owners_uid():
    early, settled = the_job("recreate/early"), the_pods("recreate/settled")
    old = the_pods("recreate/early")
    assert {pod.job for pod in old} == {early.name}
    assert pods_of(early, old) == ()
    assert [pod.index for pod in pods_of(early, [*reversed(settled), *old])] == [0, 1]


def test_a_running_pod_and_one_whose_node_is_lost():
    pod = the_pods("vcjob/running")[0]
    assert (pod.index, pod.phase, pod.ready, pod.node, pod.began) == (0, "Running", True, "lab-node", True)
    assert (pod.node_lost, pod.deleting, pod.over, pod.exit, pod.waiting, pod.disruption) == (
        False,
        False,
        False,
        None,
        None,
        None,
    )
    for name in ("orphan", "pod-deleted", "deleted-job"):
        for pod in the_pods(f"node-lost/{name}"):
            assert (pod.node_lost, pod.ready, pod.over) == (True, False, False)
            assert pod.lost_at == 1795242536
    assert [pod.deleting for pod in the_pods("node-lost/pod-deleted")] == [True, False]
    # A pod that says itself that it is not ready has a node that answers.
    item = answer("vcjob/running.pods")["items"][0]
    assert not pod_of(with_condition(item, "Ready", "ReadinessGatesNotReady", status="False")).node_lost


def test_how_containers_ended():
    def ends(name):
        return {(pod.exit.code, pod.exit.signal, pod.exit.reason) for pod in the_pods(f"vcjob/{name}")}

    assert ends("failed") == {(7, None, "Error")}
    assert ends("failed-oom") == {(137, 9, "OOMKilled")}
    assert ends("completed") == {(0, None, "Completed")}
    ended = the_pods("vcjob/failed-nosuchcmd")[0].exit
    assert (ended.code, ended.reason, ended.started) == (128, "StartError", None)
    assert "no such file" in ended.message
    assert ended.finished == 1795241874


def test_a_sidecar_ends_nothing_and_a_failed_container_before_ours_is_the_end():
    item = copy.deepcopy(answer("vcjob/failed.pods")["items"][0])
    sidecar = copy.deepcopy(item["status"]["containerStatuses"][0])
    sidecar.update(name="a-proxy", state={"terminated": {"exitCode": 99, "reason": "Error"}})
    item["status"]["containerStatuses"].insert(0, sidecar)
    assert pod_of(item).exit.code == 7
    item["status"]["containerStatuses"] = [
        {**sidecar, "name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
    ]
    item["status"]["initContainerStatuses"] = [
        {"name": "one", "state": {"terminated": {"exitCode": 0}}},
        {"name": "two", "state": {"terminated": {"exitCode": 3}}},
    ]
    assert (pod_of(item).exit.code, pod_of(item).exit.container) == (3, "two")


def test_why_a_pod_waits():
    waiting = the_pods("vcjob/pending-noimage")[0].waiting
    assert (waiting.reason, waiting.image) == ("ErrImagePull", "127.0.0.1:1/none:1")
    assert "connection refused" in waiting.message
    pod = the_pods("vcjob/pending-nopvc")[0]
    assert 'persistentvolumeclaim "missing" not found' in pod.unschedulable
    assert (pod.node, pod.began, pod.waiting) == ("", False, None)
    assert pod_of(answer("no-volcano/no-node.pod-json")).unschedulable == "no nodes available to schedule pods"


def test_disruptions_in_the_words_of_kubernetes_and_of_volcano():
    item = with_exit("vcjob/failed", exitCode=143, reason="Error", finishedAt="2026-11-21T06:17:52Z")
    pod = pod_of(with_condition(item, "DisruptionTarget", "PreemptionByScheduler", "preempted by x"))
    assert (pod.disruption.reason, pod.disruption.message, pod.disruption.at) == (
        "PreemptionByScheduler",
        "preempted by x",
        1795241872,
    )
    assert pod_of(with_condition(item, "DisruptionTarget", "PreemptionByScheduler", status="False")).disruption is None
    assert pod_of(with_condition(item, "Ready", "Evict", "Pod is evicted", status="False")).disruption.reason == "Evict"


def test_pod_groups_and_queues():
    group = the_group("vcjob/pending-nonode")
    assert (group.phase, group.queue, group.reason) == ("Inqueue", "default", "NotEnoughResources")
    assert "node affinity" in group.message
    assert the_group("vcjob/running").message == ""
    assert the_group("queue/over-capability").wanted["cpu"] == 1.4
    # Placed once and unplaced since: what was true last counts.
    assert "1 Releasing" in the_group("node-lost/pod-deleted").message
    queue = the_queue("tpu")
    assert (queue.state, queue.capability, queue.allocated["cpu"]) == (
        VcQueueState.OPEN,
        {"cpu": 1.0, "memory": 4 * 2.0**30},
        0.05,
    )
    assert (the_queue("shut").state, the_queue("default").capability) == (VcQueueState.CLOSED, None)
    assert queue_of({"metadata": {"name": "q", "uid": "u"}}).state is VcQueueState.UNKNOWN
    assert missing_queue("nope").state is VcQueueState.MISSING


def test_a_quantity_that_is_none_is_unparsable():
    item = copy.deepcopy(answer("queue/one"))
    item["spec"]["capability"]["cpu"] = "many"
    with pytest.raises(Unparsable, match="many"):
        queue_of(item)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4), ("500m", 0.5), ("64Gi", 64 * 2**30), ("1e3", 1000), ("12k", 12_000), ("0", 0), ("1E", 1e18),
        ("1.5Gi", 1.5 * 2**30),
        ("1E2", 100), ("100u", 1e-4), ("250n", 2.5e-7), (".5", 0.5), ("5.", 5), ("-1", -1), ("+2Ki", 2048), (3, 3),
        ("24581684Ki", 24581684 * 1024), (0.25, 0.25), ("1e-3", 0.001), ("700m", 0.7),
    ],
)  # fmt: skip
def test_quantities(text, number):
    assert quantity(text) == number


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1GiB", "1g", "one", "1e999", "0x10", "1_000", "٣", True, None, float("nan"), "1m\n"]
)
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


def test_events_of_both_styles():
    event = the_events("vcjob/pending-nonode.events")[0]
    assert (event.reason, event.kind, event.name, event.warning, event.count) == (
        "PodGroupPending",
        "Job",
        "nonode",
        True,
        2,
    )
    assert event.since == event.at == 1795241868
    new = {"metadata": {"name": "e", "uid": "u"}, "eventTime": "2026-11-21T06:17:48.250000Z", "reason": "Preempted"}
    new["series"] = {"count": 4, "lastObservedTime": "2026-11-21T06:18:48.000000Z"}
    event = event_of(new)
    assert (event.since, event.at, event.count) == (1795241868.25, 1795241928, 4)


def test_events_of_others_are_not_the_jobs():
    job, pods = the_job("vcjob/running"), the_pods("vcjob/running")
    said = events_of(job, pods, every_event())
    assert {event.name for event in said} == {"running", f"running-{job.uid}", "running-worker-0", "running-worker-1"}
    assert [event.at for event in said] == sorted(event.at for event in said)
    other = replace(job, uid="another", created=job.created + 3600)
    assert events_of(other, [], every_event()) == ()


def test_events_of_pods_that_are_gone():
    job, old = the_job("recreate/early"), the_pods("recreate/early")
    at = job.created
    killed = Event("Killing", "Stopping container main", "Pod", "again-worker-0", old[0].uid, since=at + 12, at=at + 12)
    started = replace(killed, reason="Started", since=at - 1, at=at - 1)
    # While the old pod is there, its owner tells; once it is gone, what was said before the job was made.
    assert events_of(job, old, [killed]) == ()
    assert events_of(job, [], [killed, started]) == ()
    ours = replace(killed, uid="nobody-knows")
    assert events_of(job, old, [killed, started, ours]) == (ours,)
    nameless = replace(ours, reason="TaintManagerEviction", uid="")
    assert events_of(job, old, [nameless]) == (nameless,)
    assert events_of(job, old, [replace(nameless, since=at - 1)]) == ()
    assert events_of(job, old, [replace(ours, name="again-worker-2")]) == ()


def _dropped(item, data):
    """The object without any of its fields, at any depth."""
    if isinstance(item, dict):
        keys = sorted(item)
        gone = set(data.draw(st.lists(st.sampled_from(keys), max_size=2))) if keys else set()
        return {
            key: _dropped(value, data) if data.draw(st.integers(0, 3)) == 0 else value
            for key, value in item.items()
            if key not in gone
        }
    if isinstance(item, list):
        return [_dropped(value, data) for value in item if data.draw(st.integers(0, 7))]
    return item


def _alive(item):
    """Said by hand from the JSON: is this job, or this pod, not over?"""
    word = (
        (item.get("status") or {}).get("state", {}).get("phase")
        if item["kind"] == "Job"
        else item["status"].get("phase")
    )
    return word not in ("Completed", "Failed", "Terminated", "Aborted", "Succeeded")


LIVING = [item for _, item in OBJECTS if item["kind"] in ("Job", "Pod") and _alive(item)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_an_object_that_lost_fields_is_unparsable_or_read(data):
    _, item = data.draw(st.sampled_from(OBJECTS))
    try:
        PARSERS[item["kind"]](_dropped(item, data))
    except Unparsable:
        pass


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_that_lives_looks_finished_for_want_of_fields(data):
    item = data.draw(st.sampled_from(LIVING))
    cut = _dropped(item, data)
    try:
        read = PARSERS[item["kind"]](cut)
    except Unparsable:
        return
    if item["kind"] == "Job":
        assert not read.finished
        assert not read.suspended
        assert end_of(read, [], [], [Sighting("r", Presence.ABSENT)] * 2) is None
    else:
        assert not read.over
        assert part_of(read, "r").report is None
        began = any("running" in one.get("state", {}) for one in item["status"].get("containerStatuses", ()))
        if began:
            assert part_of(read, "r").presence is not Presence.ABSENT


def test_group_of_a_list_item_needs_no_kind():
    item = {key: value for key, value in answer("vcjob/running.podgroup").items() if key not in ("kind", "apiVersion")}
    assert group_of(item).phase == "Running"

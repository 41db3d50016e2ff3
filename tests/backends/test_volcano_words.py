"""Why recorded jobs of a real Volcano waited, and how they ended. What the lab never showed is hand-made, and says so."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from reconciler.backends.gang import gang_of
from reconciler.backends.volcano_answers import group_of, job_of, missing_queue, pod_of, pods_of
from reconciler.backends.volcano_ends import end_of, part_of, report_of_pod
from reconciler.backends.volcano_words import node_lost, pending
from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, Report, ReportStatus, Sighting
from reconciler.core.volcano import Event, VcQueue, VcQueueState, Waiting
from tests.backends.volcano_records import (
    answer,
    every_event,
    the_events,
    the_group,
    the_job,
    the_pods,
    the_queue,
    with_condition,
    with_exit,
)

ABSENT = Sighting("r", Presence.ABSENT)


def why(name, *, events=(), pods=None, group=None, queue=None, waited_s=60.0, **job):
    pods = the_pods(name) if pods is None else pods
    group = the_group(name) if group is None else group
    return pending(replace(the_job(name), **job), pods, group, events, queue, waited_s=waited_s)


@pytest.mark.parametrize("events", [(), "all"], ids=["without events", "with all events of the namespace"])
@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("vcjob/pending-nospace", "NoCapacity", ["cpu 128", "memory 32Mi", "pods 2", "ask for less"]),
        ("vcjob/pending-toobig", "NoCapacity", ["cpu 2.7", "pods 3"]),
        (
            "vcjob/pending-nonode",
            "NoMatchingNode",
            ["didn't match Pod's node affinity/selector", "0/1 nodes", "selector"],
        ),
        ("vcjob/pending-nopvc", "ClaimMissing", ["'missing'", "kubectl get pvc"]),
        ("vcjob/pending-noimage", "ImagePull", ["'127.0.0.1:1/none:1'", "lab-node", "connection refused", "registry"]),
        ("vcjob/pending-neverpull", "ImagePull", ["'lab/none:1'", "Never", "imagePullPolicy"]),
        ("recreate/early", "OldPodsTerminating", ["2 pods", "again-worker-0, again-worker-1", "lab-node", "--force"]),
        ("vcjob/pod-deleted-early", "Starting", ["running-worker-0"]),
        ("vcjob/running", "", []),
        ("vcjob/pod-deleted-later", "", []),
        ("vcjob/running-after-resume", "", []),
        ("recreate/settled", "", []),
        (
            "node-lost/orphan",
            "NodeLost",
            ["node lab-node", "since 2026-11-21T06:28:56Z", "orphan-worker-0, orphan-worker-1", "may"],
        ),
        ("node-lost/pod-deleted", "NodeLost", ["orphan-worker-0", "kubectl describe node lab-node"]),
    ],
)
def test_why_a_recorded_job_does_not_run(name, reason, words, events):
    found = why(name, events=every_event() if events else ())
    assert found.reason == reason
    assert (found.sentence == "") == (reason == "")
    for word in words:
        assert word in found.sentence


def test_what_the_scheduler_says_of_a_full_cluster_is_told():
    assert why("vcjob/pending-nospace", events=every_event()).sentence.startswith("the cluster is full")
    # Nobody said anything: the sentence does not claim more.
    silent = why("vcjob/pending-nospace")
    assert silent.sentence.startswith("the scheduler has not let it into the queue 'default' for 1m")
    assert "kubectl describe podgroup nospace-6265bd77" in silent.sentence
    assert why("vcjob/pending-nospace", waited_s=2).reason == "Scheduling"


def test_over_its_queues_capability():
    found = why("queue/over-capability", queue=the_queue("tpu"))
    assert found.reason == "NoCapacity"
    assert "cpu 1.4, more than the 1" in found.sentence
    assert "'tpu'" in found.sentence
    assert "memory" not in found.sentence
    assert "the queue 'tpu' has no room" in why("queue/over-capability", events=every_event()).sentence
    # Hand-made: it would fit if others ended.
    held = replace(the_queue("tpu"), capability={"cpu": 2.0}, allocated={"cpu": 1.0})
    found = why("queue/over-capability", queue=held)
    assert "cpu 1.4, and of 2 1 is free" in found.sentence
    assert "Wait until others" in found.sentence


def test_a_full_cluster_is_not_blamed_on_the_queue():
    """Hand-made: the queue is full as well."""
    full = VcQueue("default", VcQueueState.OPEN, "Open", {"cpu": 1.0}, {"cpu": 1.0})
    assert why("vcjob/pending-nospace", events=every_event(), queue=full).sentence.startswith("the cluster is full")


def test_newer_schedulers_name_what_is_short():
    """Hand-made after Volcano's newer text."""
    job = the_job("queue/over-capability")
    group = the_group("queue/over-capability")
    text = "queue resource quota insufficient: insufficient nvidia.com/gpu"
    event = Event("Unschedulable", text, "PodGroup", group.name, group.uid, since=job.created, at=job.created)
    assert "not enough nvidia.com/gpu" in pending(job, [], group, [event], None, waited_s=60).sentence


def test_closed_and_missing_queues():
    found = why("queue/over-capability", queue=the_queue("shut"))
    assert (found.reason, "'shut' is closed" in found.sentence) == ("QueueClosed", True)
    job = job_of(answer("outage/no-webhook.missing-queue.later"))
    found = pending(job, [], None, [], missing_queue(job.queue), waited_s=60)
    assert (found.reason, repr(job.queue) in found.sentence) == ("QueueMissing", True)
    none = job_of(answer("outage/no-webhook.no-queue.later"))
    assert pending(none, [], None, [], None, waited_s=60).reason == "QueueMissing"


def test_a_silent_controller():
    job = job_of(answer("outage/no-webhook.missing-queue.later"))
    found = pending(job, [], None, [], None, waited_s=125)
    assert (found.reason, "for 2m5s" in found.sentence) == ("NotYetSeen", True)
    stuck = json.loads(json.dumps(answer_lists("outage/after-restart.stuck-pending")))
    jobs, groups = [job_of(one) for one in stuck[0]], [group_of(one) for one in stuck[1]]
    for job in jobs:
        group = next(one for one in groups if one.owner_uid == job.uid)
        found = pending(job, [], group, every_event(), None, waited_s=90)
        assert found.reason == "NoPods"
        assert "1m30s" in found.sentence
        assert "rollout restart deployment volcano-controllers" in found.sentence
        assert pending(job, [], group, [], None, waited_s=3).reason == "Scheduling"


def answer_lists(name):
    from tests.backends.volcano_records import RECORDS

    data = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return data["vcjob"]["items"], data["podgroup"]["items"]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("tight", "QuotaExceeded", ["exceeded quota: q, requested: pods=1, used: pods=1", "kubectl describe quota q"]),
        ("strict", "PodSecurity", ['violates PodSecurity "restricted:latest"', "runAsNonRoot"]),
    ],
)
def test_pods_that_the_cluster_refuses(name, reason, words):
    found = why(f"errors/refused.{name}", pods=[], events=the_events(f"errors/refused.{name}.events"))
    assert found.reason == reason
    for word in words:
        assert word in found.sentence
    assert "StatusError" not in found.sentence


def test_what_a_cluster_without_webhooks_took():
    assert (
        pending(job_of(answer("outage/no-webhook.minavailable.later")), [], None, [], None, waited_s=60).reason
        == "GangTooLarge"
    )
    image = job_of(answer("outage/no-webhook.no-image.later"))
    found = pending(image, [], None, every_event(), None, waited_s=60)
    assert (found.reason, "spec.containers[0].image: Required value" in found.sentence) == ("PodsRefused", True)
    plugin = job_of(answer("outage/no-webhook.plugin.later"))
    found = pending(plugin, [], None, every_event(), None, waited_s=60)
    assert (found.reason, "failed to get plugin nope" in found.sentence) == ("PluginError", True)


def test_events_about_another_of_the_same_name_explain_nothing():
    events = the_events("errors/refused.tight.events")
    assert why("errors/refused.tight", pods=[], events=events, uid="another").reason != "QuotaExceeded"
    # Nor do refusals of pods that were made since.
    pods = [replace(pod, owner_uid=the_job("errors/refused.tight").uid) for pod in the_pods("vcjob/running")]
    assert why("errors/refused.tight", pods=pods, events=events).reason == "Starting"


def test_old_pods_explain_nothing_once_the_jobs_own_are_there():
    old = [replace(pod, job="nonode") for pod in the_pods("recreate/early")]
    assert why("vcjob/pending-nonode", pods=[*the_pods("vcjob/pending-nonode"), *old]).reason == "NoMatchingNode"
    assert why("vcjob/pending-nonode", pods=old).reason == "OldPodsTerminating"


def waits(message, name="vcjob/pending-nonode"):
    """Hand-made: the pods of a job that the scheduler cannot place, in other words of its."""
    return [replace(pod, unschedulable=message) for pod in the_pods(name)]


@pytest.mark.parametrize(
    ("message", "reason", "word"),
    [
        (
            "0/5 nodes are unavailable: 3 Insufficient cpu, 2 node(s) had untolerated taint {tpu: yes}.",
            "NoCapacity",
            "not enough cpu",
        ),
        ("0/2 nodes are unavailable: 2 Insufficient nvidia.com/gpu.", "NoCapacity", "not enough nvidia.com/gpu ("),
        ("0/2 nodes are unavailable: 2 Too many pods.", "NoCapacity", "not enough pods"),
        ("0/2 nodes are unavailable: 2 node(s) had untolerated taint {a: b}.", "NoMatchingNode", "untolerated taint"),
        ("no nodes available to schedule pods", "NoMatchingNode", "no node at all"),
        (
            "0/1 nodes are unavailable: pod has unbound immediate PersistentVolumeClaims.",
            "ClaimUnbound",
            "describe pvc",
        ),
        ("pod group is not ready, 1 Pending, 2 minAvailable", "Scheduling", "1 Pending, 2 minAvailable"),
    ],
)
def test_other_words_of_the_scheduler(message, reason, word):
    group = replace(the_group("vcjob/pending-nonode"), message="")
    found = why("vcjob/pending-nonode", pods=waits(message), group=group)
    assert found.reason == reason
    assert word in found.sentence


def test_other_words_of_a_kubelet():
    """Hand-made after the kubelet's texts."""
    pods = the_pods("vcjob/pending-noimage")
    waiting = Waiting("ImagePullBackOff", 'Back-off pulling image "127.0.0.1:1/none:1"', "127.0.0.1:1/none:1")
    back = [replace(pod, waiting=waiting) for pod in pods]
    found = why("vcjob/pending-noimage", pods=back, events=every_event())
    assert (found.reason, "connection refused" in found.sentence) == ("ImagePull", True)
    config = [replace(pod, waiting=Waiting("CreateContainerConfigError", 'secret "x" not found')) for pod in pods]
    found = why("vcjob/pending-noimage", pods=config)
    assert (found.reason, 'secret "x" not found' in found.sentence) == ("ContainerWaits", True)
    patient = [replace(pod, waiting=Waiting("ContainerCreating")) for pod in pods]
    assert why("vcjob/pending-noimage", pods=patient).reason == "Starting"
    mount = Event(
        "FailedMount", 'MountVolume.SetUp failed for volume "v": no', "Pod", pods[0].name, pods[0].uid, at=1.0
    )
    found = why("vcjob/pending-noimage", pods=patient, events=[mount])
    assert (found.reason, "MountVolume.SetUp" in found.sentence) == ("VolumeMount", True)


def test_phases_that_are_no_waiting():
    assert why("vcjob/running", deleting=True).reason == "Deleting"
    assert pending(the_job("vcjob/aborted-by-command"), [], None, [], None, waited_s=1).reason == "Suspended"
    assert pending(the_job("vcjob/completed"), [], None, [], None, waited_s=1) == ("", "")
    for word, reason in (
        ("Aborting", "Ending"),
        ("Terminating", "Ending"),
        ("Restarting", "Restarting"),
        ("Musing", "UnknownPhase"),
    ):
        found = pending(the_job("vcjob/running", state={"phase": word}), [], None, [], None, waited_s=1)
        assert found.reason == reason
    assert "'Musing'" in found.sentence


def test_parts_of_living_pods():
    assert [part_of(pod, "r").presence for pod in the_pods("vcjob/pending-nonode")] == [Presence.ABSENT] * 2
    assert [part_of(pod, "r").presence for pod in the_pods("vcjob/pending-noimage")] == [Presence.ABSENT] * 2
    for name in ("vcjob/running", "recreate/early"):
        for pod in the_pods(name):
            seen = part_of(pod, "r")
            assert (seen.presence, seen.alive, seen.report, seen.error) == (Presence.PRESENT, True, None, "")
    for name in ("orphan", "deleted-job"):
        for pod in the_pods(f"node-lost/{name}"):
            seen = part_of(pod, "r")
            assert (seen.presence, seen.alive) == (Presence.PRESENT, True)
            assert "lab-node does not answer" in seen.error
    odd = part_of(replace(the_pods("vcjob/pending-nonode")[0], phase="Dreaming"), "r")
    assert (odd.presence, "Dreaming" in odd.error) == (Presence.UNKNOWN, True)
    assert node_lost(the_pods("vcjob/running")) == ""


RECORD = {
    "status": "completed",
    "cause": None,
    "exit_code": 0,
    "signal": None,
    "message": "Every command ended with exit code 0.",
}
RECORD |= {
    "seq": 12,
    "progress": {"step": 40, "total": 40},
    "checkpoint": {"step": 40},
    "end_time": "2026-11-21T06:17:52.100Z",
}
TERM = {
    **RECORD,
    "status": "preempted",
    "cause": "preemption",
    "exit_code": 143,
    "signal": 15,
    "message": "Asked.\nlast words",
}
KILL = {**RECORD, "status": "failed", "cause": "infrastructure", "exit_code": 137, "signal": 9, "message": "Killed."}
FAIL = {**RECORD, "status": "failed", "cause": "failure", "exit_code": 3, "message": "It ended with exit code 3."}


def ended(record=None, *, code=1, how="Error", index=0, taken="", words="", name="vcjob/failed", **status):
    """Hand-made: a recorded pod that ended with this record as its termination message."""
    message = record if isinstance(record, str) else json.dumps(record, separators=(",", ":")) if record else ""
    at = "2026-11-21T06:17:52Z"
    item = with_exit(name, index, exitCode=code, reason=how, message=message, finishedAt=at, startedAt=at)
    item["status"].update(status)
    return pod_of(with_condition(item, "DisruptionTarget", taken, words) if taken else item)


def test_a_pods_own_record_is_its_report():
    report = report_of_pod(ended(RECORD, code=0, phase="Succeeded"))
    assert (report.status, report.seq, report.exit_code, report.checkpoint_step) == (ReportStatus.COMPLETED, 12, 0, 40)
    assert (report.progress.step, report.end_time) == (40, "2026-11-21T06:17:52.100Z")
    report = report_of_pod(ended(FAIL, code=3))
    assert (report.status, report.cause, report.exit_code) == (ReportStatus.FAILED, Cause.FAILURE, 3)
    assert report_of_pod(ended({**RECORD, "status": "cancelled", "cause": "replaced"})).cause is Cause.REPLACED


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        '{"status":"running","seq":3}',
        '{"status":"sleeping"}',
        '{"status":"completed","seq":"x"}',
        "{" * 5000,
        '{"a":1}',
    ],
)
def test_a_message_that_is_no_final_record_is_none(message):
    report = report_of_pod(ended(message, code=5))
    assert (report.cause, report.exit_code, report.seq) == (Cause.FAILURE, 5, 0)


@pytest.mark.parametrize(
    ("record", "reason", "words", "cause"),
    [
        (TERM, "PreemptionByScheduler", "", Cause.PREEMPTION),
        (TERM, "DeletionByTaintManager", "", Cause.INFRASTRUCTURE),
        (
            TERM,
            "TerminationByKubelet",
            "Pod was terminated in response to imminent node shutdown.",
            Cause.INFRASTRUCTURE,
        ),
        (TERM, "TerminationByKubelet", "The node was low on resource: memory.", Cause.PREEMPTION),
        (KILL, "PreemptionByScheduler", "", Cause.PREEMPTION),
        (KILL, "EvictionByEvictionAPI", "", Cause.PREEMPTION),
        (KILL, "DeletionByPodGC", "", Cause.INFRASTRUCTURE),
        (KILL, "SomethingNew", "", Cause.PREEMPTION),
        (KILL, "", "", Cause.INFRASTRUCTURE),
        (TERM, "", "", Cause.PREEMPTION),
        # What is not the signal's doing stays.
        (FAIL, "PreemptionByScheduler", "", Cause.FAILURE),
        (RECORD, "PreemptionByScheduler", "", None),
        ({**KILL, "cause": "out_of_memory"}, "PreemptionByScheduler", "", Cause.OUT_OF_MEMORY),
        ({**TERM, "status": "failed", "cause": "timeout"}, "PreemptionByScheduler", "", Cause.TIMEOUT),
        ({**TERM, "status": "cancelled", "cause": "deleted"}, "PreemptionByScheduler", "", Cause.DELETED),
    ],
)
def test_a_disruption_outweighs_a_record_of_a_signal(record, reason, words, cause):
    report = report_of_pod(ended(record, taken=reason, words=words))
    assert report.cause is cause
    assert report.seq == 12
    assert words in report.message
    if cause is Cause.PREEMPTION:
        assert report.status is ReportStatus.PREEMPTED
    if record is TERM and reason:
        assert report.message.endswith("\nlast words")


def test_killed_for_memory_outweighs_a_record_of_a_kill():
    assert report_of_pod(ended(KILL, code=137, how="OOMKilled")).cause is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("code", "reason", "taken", "status", "cause"),
    [
        (5, "Error", "", {}, Cause.FAILURE),
        (139, "Error", "", {}, Cause.FAILURE),
        (137, "OOMKilled", "PreemptionByScheduler", {}, Cause.OUT_OF_MEMORY),
        (137, "Error", "", {}, Cause.INFRASTRUCTURE),
        (143, "Error", "", {}, Cause.PREEMPTION),
        (143, "Error", "DeletionByTaintManager", {}, Cause.INFRASTRUCTURE),
        (1, "Error", "PreemptionByScheduler", {}, Cause.PREEMPTION),
        (
            137,
            "Error",
            "",
            {"reason": "DeadlineExceeded", "message": "Pod was active on the node too long"},
            Cause.TIMEOUT,
        ),
        (137, "Error", "", {"reason": "Evicted", "message": "The node was low on resource: memory."}, Cause.PREEMPTION),
        (
            137,
            "Error",
            "",
            {"reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit"},
            Cause.FAILURE,
        ),
        (137, "Error", "", {"reason": "NodeShutdown", "message": "Pod was terminated"}, Cause.INFRASTRUCTURE),
        (137, "ContainerStatusUnknown", "", {}, Cause.INFRASTRUCTURE),
        (0, "Completed", "", {"phase": "Failed"}, Cause.INFRASTRUCTURE),
    ],
)
def test_pods_without_a_record(code, reason, taken, status, cause):
    report = report_of_pod(ended(code=code, how=reason, taken=taken, **status))
    assert (report.cause, report.exit_code, report.seq) == (cause, code, 0)
    assert status.get("message", "") in report.message
    assert report.end_time == "2026-11-21T06:17:52Z"


def test_a_pod_that_its_node_would_not_take():
    item = copy.deepcopy(answer("vcjob/failed.pods")["items"][0])
    item["status"] = {"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: node has too few cpu"}
    report = report_of_pod(pod_of(item))
    assert (report.cause, report.exit_code) == (Cause.INFRASTRUCTURE, None)
    assert "OutOfcpu" in report.message


def parts_of(job, pods):
    found = [ABSENT] * job.replicas
    for pod in pods_of(job, pods):
        found[pod.index] = part_of(pod, "r")
    return found


def end(name, events=None):
    job, pods = the_job(name), the_pods(name)
    # The records' events go on after the moment of this record.
    said = [event for event in every_event() if event.at <= job.changed] if events is None else events
    return end_of(job, pods, said, parts_of(job, pods))


@pytest.mark.parametrize("events", [None, ()], ids=["with events", "without"])
@pytest.mark.parametrize(
    ("name", "cause", "code", "words"),
    [
        ("completed", None, 0, []),
        ("completed-by-policy", None, 0, []),
        ("completed-with-one-failed", Cause.FAILURE, 1, ["worker 1 of 2", "exit code 1"]),
        ("failed", Cause.FAILURE, 7, ["worker 0 of 2", "exit code 7"]),
        ("failed-after-retries", Cause.FAILURE, 9, ["exit code 9"]),
        ("failed-nosuchcmd", Cause.FAILURE, 128, ["could not be started", '"/no/such/program"', "no such file"]),
        ("failed-oom", Cause.OUT_OF_MEMORY, 137, ["memory", "lab-node"]),
        ("aborted-by-policy", Cause.FAILURE, 5, ["worker 0 of 2", "exit code 5"]),
        ("aborted-by-command", Cause.CANCELLED, None, ["somebody suspended it"]),
        ("terminated-by-exitcode", Cause.FAILURE, 42, ["worker 1 of 2", "exit code 42"]),
        ("terminated-by-policy", Cause.FAILURE, 4, ["exit code 4"]),
    ],
)
def test_how_recorded_jobs_ended(name, cause, code, words, events):
    report = end(f"vcjob/{name}", events)
    assert (report.cause, report.exit_code) == (cause, code)
    assert report.status is (ReportStatus.COMPLETED if cause is None else ReportStatus.FAILED)
    for word in words:
        assert word in report.message


def test_the_command_is_named_while_its_event_is_there():
    assert "AbortJob" in end("vcjob/aborted-by-command").message
    # A command that was taken back explains nothing.
    resumed = end("vcjob/aborted-by-command", every_event()).message
    assert "AbortJob" not in resumed


@pytest.mark.parametrize("name", ["running", "pod-deleted-early", "pending-nonode"])
def test_a_job_that_is_not_over_has_no_end(name):
    assert end(f"vcjob/{name}") is None


JOB = the_job("vcjob/terminated-by-policy")
AT = JOB.changed


def event(reason, name=f"{JOB.name}-worker-0", *, at=AT, kind="Pod", uid="gone", message="x"):
    return Event(reason, message, kind, name, uid, since=at, at=at)


def verdict(*events, pods=(), parts=None, phase="Terminated"):
    """Hand-made: a recorded job that ended, its pods gone but for these, and what was said."""
    job = the_job("vcjob/terminated-by-policy", state={"phase": phase, "lastTransitionTime": None})
    return end_of(job, pods, events, parts_of(job, pods) if parts is None else parts)


def test_pods_that_vanished_leave_events():
    killed = [event("Killing"), event("Killing", f"{JOB.name}-worker-1", uid="gone too")]
    evicted = verdict(*killed, event("Evict", message="Pod is evicted, because of preempt"))
    assert (evicted.status, evicted.cause) == (ReportStatus.PREEMPTED, Cause.PREEMPTION)
    assert "because of preempt" in evicted.message
    assert verdict(event("Preempted"), phase="Failed").cause is Cause.PREEMPTION
    lost = verdict(*killed, event("TaintManagerEviction", uid="", message="Marking for deletion Pod a/b"))
    assert (lost.status, lost.cause) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE)
    spared = event("TaintManagerEviction", uid="", message="Cancelling deletion of Pod a/b")
    deleted = verdict(*killed, event("TaintManagerEviction", uid="", message="Marking for deletion Pod a/b"), spared)
    # A drain leaves no more than that: the run goes on elsewhere.
    assert (deleted.status, deleted.cause) == (ReportStatus.PREEMPTED, Cause.PREEMPTION)
    assert f"{JOB.name}-worker-0 was deleted" in deleted.message
    assert "kubectl delete pod" in deleted.message


def test_a_pod_that_vanished_without_being_stopped_was_not_deleted_by_somebody():
    report = verdict(event("Killing"), event("NodeNotReady", f"{JOB.name}-worker-1", uid="gone too"))
    assert report.cause is Cause.INFRASTRUCTURE
    assert "stopped answering" in report.message


def test_nothing_known_is_infrastructure_with_what_was_seen():
    report = verdict()
    assert (report.status, report.cause) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE)
    assert "Terminated" in report.message
    assert "no event is left" in report.message
    said = verdict(
        event("ExecuteAction", JOB.name, kind="Job", uid=JOB.uid, message="Start to execute action TerminateJob")
    )
    assert "ExecuteAction" in said.message


def test_events_of_an_older_job_of_the_same_name_do_not_end_it():
    assert verdict(event("Evict", at=JOB.created - 5)).cause is Cause.INFRASTRUCTURE
    assert verdict(event("Evict"), event("Started", at=JOB.created - 5)).cause is Cause.INFRASTRUCTURE
    other = event(
        "CommandIssued", JOB.name, kind="Job", uid="older", message="Start to execute command TerminateJob, and"
    )
    assert verdict(other).cause is Cause.INFRASTRUCTURE


def test_somebodys_command():
    command = event(
        "CommandIssued", JOB.name, kind="Job", uid=JOB.uid, message="Start to execute command TerminateJob, and"
    )
    assert verdict(command).cause is Cause.CANCELLED
    asked = [
        Sighting("r", Presence.PRESENT, report=Report(ReportStatus.PREEMPTED, seq=7, cause=Cause.PREEMPTION)),
        ABSENT,
    ]
    told = verdict(command, parts=asked)
    assert (told.status, told.cause, told.seq) == (ReportStatus.FAILED, Cause.CANCELLED, 7)
    failed = replace(asked[0].report, status=ReportStatus.FAILED, cause=Cause.FAILURE, end_time="2026-11-21T06:17:00Z")
    assert verdict(command, parts=[replace(asked[0], report=failed), ABSENT]).cause is Cause.FAILURE
    untimed = replace(failed, end_time="")
    assert verdict(command, parts=[replace(asked[0], report=untimed), ABSENT]).cause is Cause.FAILURE
    complete = event(
        "CommandIssued", JOB.name, kind="Job", uid=JOB.uid, message="Start to execute command CompleteJob, and"
    )
    assert verdict(complete, phase="Completed").cause is Cause.CANCELLED


def test_of_a_failure_and_an_eviction_the_first_in_time_is_the_reason():
    failed = Report(ReportStatus.FAILED, seq=9, cause=Cause.FAILURE, exit_code=1, end_time="2026-11-21T06:17:55.500Z")
    parts = [ABSENT, Sighting("r", Presence.PRESENT, report=failed)]
    when = 1795241875
    assert verdict(event("Evict", at=when - 3), parts=parts).cause is Cause.PREEMPTION
    assert verdict(event("Evict", at=when + 3), parts=parts).cause is Cause.FAILURE
    # A peer that failed because another's place was taken.
    unknown = [ABSENT, replace(parts[1], report=replace(failed, end_time=""))]
    assert verdict(event("Evict"), parts=unknown).cause is Cause.PREEMPTION


def test_a_pod_that_was_through_before_it_was_taken_was_not_hurt():
    # It failed by itself, as it says, though the cluster took its place in the same second.
    item = ended(FAIL, code=3, taken="PreemptionByScheduler")
    job = replace(the_job("vcjob/failed"), replicas=2)
    assert end_of(job, [item], [], parts_of(job, [item])).cause is Cause.FAILURE
    done = the_pods("vcjob/completed")[0]
    job = the_job("vcjob/completed", state={"phase": "Terminated"})
    evicted = Event("Evict", "x", "Pod", done.name, done.uid, since=job.created + 9, at=job.created + 9)
    assert end_of(job, [done], [evicted], parts_of(job, [done])).cause is Cause.INFRASTRUCTURE
    gone = replace(evicted, name="done-worker-1", uid="gone")
    assert end_of(job, [done], [gone], parts_of(job, [done])).cause is Cause.PREEMPTION


def test_volcano_tells_an_eviction_of_the_pod_group_too():
    group = f"{JOB.name}-{JOB.uid}"
    assert verdict(event("Evict", group, kind="PodGroup", uid="g", message="reclaim")).cause is Cause.PREEMPTION


def test_what_asked_for_its_end_itself_stays():
    killed = [event("Killing"), event("Killing", f"{JOB.name}-worker-1", uid="gone too")]
    ours = Sighting("r", Presence.PRESENT, report=Report(ReportStatus.CANCELLED, seq=4, cause=Cause.SUSPENDED))
    assert verdict(*killed, parts=[ours, ABSENT]).cause is Cause.SUSPENDED
    term = Sighting("r", Presence.PRESENT, report=Report(ReportStatus.PREEMPTED, seq=4, cause=Cause.PREEMPTION))
    # Nobody tells who stopped it: its own word stays.
    assert verdict(parts=[term, ABSENT]).cause is Cause.PREEMPTION
    assert verdict(*killed, parts=[term, ABSENT]).cause is Cause.PREEMPTION


def test_a_silent_part_is_no_reason():
    running = Sighting("r", Presence.PRESENT, report=Report(ReportStatus.RUNNING, seq=30, checkpoint_step=8))
    report = verdict(event("Evict"), parts=[running, ABSENT])
    assert (report.cause, report.seq, report.checkpoint_step) == (Cause.PREEMPTION, 30, 8)
    report = verdict(parts=[running, ABSENT])
    assert (report.status, report.cause, report.seq) == (ReportStatus.FAILED, Cause.INFRASTRUCTURE, 30)


def test_completed_with_parts_missing():
    pods = the_pods("vcjob/completed")
    job = the_job("vcjob/completed")
    report = end_of(job, pods[:1], [], parts_of(job, pods[:1]))
    assert (report.status, "worker 1" in report.detail) == (ReportStatus.COMPLETED, True)
    report = end_of(job, [], [], [ABSENT, ABSENT])
    assert (report.status, "no pod is left" in report.message) == (ReportStatus.COMPLETED, True)


def test_parts_merge_to_a_verdict_of_the_gang():
    gang = gang_of(parts_of(the_job("vcjob/failed"), the_pods("vcjob/failed")))
    assert (gang.alive, gang.begun, gang.report.exit_code) == (False, 2, 7)
    gang = gang_of(parts_of(the_job("node-lost/orphan"), the_pods("node-lost/orphan")))
    assert (gang.alive, gang.broken) == (True, False)
    assert gang_of([part_of(pod, "r") for pod in the_pods("vcjob/pending-nonode")]).begun == 0


def test_a_closing_queue_starts_nothing_either():
    assert why("queue/over-capability", queue=VcQueue("q", VcQueueState.CLOSING, "Closing")).reason == "QueueClosed"

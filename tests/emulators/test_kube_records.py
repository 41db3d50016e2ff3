"""The simulated cluster answers as the recorded one did: phases of jobs in order, refusals word by word.

The records are of a real Kubernetes 1.32 with Volcano 1.12.4; times, uids and versions are left out of the comparison.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.emulators.kube import Cluster

RECORDS = Path(__file__).parents[1] / "records" / "kubernetes"
JOBS = ("batch.volcano.sh", "v1alpha1", "team-a", "jobs")
LAB_NODE = {"lab-node": {"cpu": "2", "memory": "24581684Ki"}}


def record(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "kube", nodes=LAB_NODE, user="limited") as cluster:
        yield cluster


def custom(kube: Cluster) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(config.new_client_from_config(str(kube.kubeconfig)))


# -- phases


def told(status: Any) -> Any:
    """A status without its times; and of what counts upwards or measures, only that it is there."""
    if status is None:
        return None
    shown = json.loads(json.dumps(status))
    shown["state"].pop("lastTransitionTime")
    shown["conditions"] = [condition["status"] for condition in shown["conditions"]]
    for key in ("version", "runningDuration"):
        if key in shown:
            shown[key] = "there"
    return shown


def stream(events: list[Any]) -> list[Any]:
    """Without repetitions: how often an ending job is looked at before its pods are gone is a matter of speed."""
    found: list[Any] = []
    for event in events:
        if not found or found[-1] != event:
            found.append(event)
    return found


def recorded_stream(name: str) -> list[Any]:
    lines = (RECORDS / "vcjob" / "watch.jsonl").read_text(encoding="utf-8").splitlines()
    return stream([(event["type"], told(event["status"])) for event in map(json.loads, lines) if event["name"] == name])


def emulated_stream(kube: Cluster, name: str) -> list[Any]:
    with kube.world.store.lock:
        changes = [
            change for change in kube.world.store.history if change.key[0].plural == "jobs" and change.key[2] == name
        ]
    return stream([(change.type, told(change.object.get("status"))) for change in changes])


ENDING = {
    "done": "completed",
    "partial": "completed-with-one-failed",
    "taskcomplete": "completed-by-policy",
    "abortfail": "aborted-by-policy",
    "termfail": "terminated-by-policy",
    "nosuchcmd": "failed-nosuchcmd",
}
WAITING = ("nospace", "nonode", "toobig", "nopvc", "noimage", "neverpull")


def create(kube: Cluster, name: str, **changes: Any) -> None:
    body = record(f"vcjob/{name}.vcjob")["stdout"]
    wanted = {"name": body["metadata"]["name"], "labels": body["metadata"]["labels"]}
    spec = {**body["spec"], **changes}
    custom(kube).create_namespaced_custom_object(*JOBS, {**body, "metadata": wanted, "spec": spec, "status": None})


@pytest.mark.parametrize("name", ENDING)
def test_a_job_that_ends_goes_through_the_recorded_phases(kube: Cluster, name: str) -> None:
    create(kube, ENDING[name], **({"tasks": failing_first()} if name == "partial" else {}))
    wanted = recorded_stream(name)
    kube.wait(lambda: len(emulated_stream(kube, name)) >= len(wanted))
    if name in UNSEEN:
        kube.wait(lambda: without_both_running(emulated_stream(kube, name))[-1:] == wanted[-1:], 5)
        assert without_both_running(emulated_stream(kube, name)) == wanted
    else:
        assert emulated_stream(kube, name) == wanted


def failing_first() -> list[Any]:
    """Both pods of this record slept for a second, and the one that fails happened to be the first that ended."""
    tasks: list[Any] = record("vcjob/completed-with-one-failed.vcjob")["stdout"]["spec"]["tasks"]
    tasks[0]["template"]["spec"]["containers"][0]["command"][2] = "test $VC_TASK_INDEX = 0 && sleep 0.5"
    return tasks


UNSEEN = ("partial", "taskcomplete")
"""In these records one pod's run was too short to be seen: it went from pending to its end. The emulator shows both running."""


def without_both_running(events: list[Any]) -> list[Any]:
    kept = []
    extra = False
    for type_, status in events:
        if status and status.get("running") == 2:
            extra = True
            continue
        if extra:
            status["conditions"].remove("Running")
        kept.append((type_, status))
    return kept


@pytest.mark.parametrize("name", WAITING)
def test_a_job_that_waits_shows_the_recorded_phases_and_reasons(kube: Cluster, name: str) -> None:
    for image in ("127.0.0.1:1/none:1", "lab/none:1"):
        waiting = record("vcjob/pending-noimage.pods")["stdout"]["items"][0]["status"]["containerStatuses"][0]["state"][
            "waiting"
        ]
        kube.pull_fails(image, waiting["message"])
    create(kube, f"pending-{name}")
    wanted = recorded_stream(name)
    pods = record(f"vcjob/pending-{name}.pods")["stdout"]["items"]
    kube.wait(lambda: len(emulated_stream(kube, name)) >= len(wanted))
    kube.wait(lambda: [reasons(pod) for pod in kube.pods(name)] == [reasons(pod) for pod in pods], 5)
    group = record(f"vcjob/pending-{name}.podgroup")["stdout"]
    kube.wait(lambda: bare_group(kube.list("podgroups")[0]) == bare_group(group), 5)
    assert emulated_stream(kube, name) == wanted


def reasons(pod: Any) -> Any:
    """What a pod's status says of why it does not run."""
    status = pod["status"]
    conditions = [
        (one["type"], one["status"], one.get("reason"), one.get("message")) for one in status.get("conditions", ())
    ]
    return status["phase"], conditions, [one["state"] for one in status.get("containerStatuses", ())]


def bare_group(group: Any) -> Any:
    shown = json.loads(json.dumps({"spec": group["spec"], "status": group["status"]}))
    for condition in shown["status"].get("conditions", ()):
        condition.pop("lastTransitionTime")
        condition.pop("transitionID")
    return shown


def test_a_gang_out_of_memory_goes_through_the_recorded_phases(kube: Cluster) -> None:
    body = record("vcjob/failed-oom.vcjob")["stdout"]
    body["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["command"] = ["sleep", "60"]
    create(kube, "failed-oom", tasks=body["spec"]["tasks"])
    kube.wait(lambda: kube.phase("oom") == "Running")
    kube.oom("oom-worker-0")
    kube.wait(lambda: kube.get("jobs", "oom")["status"].get("failed"))
    kube.oom("oom-worker-1")
    wanted = recorded_stream("oom")
    kube.wait(lambda: len(emulated_stream(kube, "oom")) >= len(wanted))
    assert emulated_stream(kube, "oom") == wanted
    recorded = record("vcjob/failed-oom.pods")["stdout"]["items"][0]
    assert ending(kube.pods("oom")[0]) == ending(recorded)


@pytest.mark.parametrize(
    ("job", "name"), [("completed", "done"), ("failed", "failed"), ("failed-nosuchcmd", "nosuchcmd")]
)
def test_an_ended_pod_tells_what_the_recorded_one_told(kube: Cluster, job: str, name: str) -> None:
    create(kube, job)
    kube.wait(lambda: [pod["status"]["phase"] in ("Succeeded", "Failed") for pod in kube.pods(name)] == [True, True])
    recorded = record(f"vcjob/{job}.pods")["stdout"]["items"]
    assert [ending(pod) for pod in kube.pods(name)] == [ending(pod) for pod in recorded]
    assert [marks(pod) for pod in kube.pods(name)] == [marks(pod) for pod in recorded]


def ending(pod: Any) -> Any:
    status = json.loads(json.dumps(pod["status"]))
    terminated = status["containerStatuses"][0]["state"]["terminated"]
    times = {key: bool(terminated.pop(key)) for key in ("startedAt", "finishedAt", "containerID")}
    conditions = [(one["type"], one["status"], one.get("reason")) for one in status["conditions"]]
    return status["phase"], conditions, terminated, times


def marks(pod: Any) -> Any:
    """Labels, annotations and owner, without the owner's uid."""
    meta = json.loads(json.dumps(pod["metadata"]))
    owner = meta["ownerReferences"][0]
    uid = owner.pop("uid")
    annotations = {key: value.replace(uid, "UID") for key, value in meta["annotations"].items()}
    return meta["name"], meta["labels"], annotations, owner


def test_the_same_name_again_waits_for_the_pods_of_the_last_one(kube: Cluster) -> None:
    body = record("recreate/early.vcjob")["stdout"]
    body["spec"]["tasks"][0]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    fresh = {"apiVersion": body["apiVersion"], "kind": "Job", "metadata": {"name": "again"}, "spec": body["spec"]}
    api = custom(kube)
    api.create_namespaced_custom_object(*JOBS, fresh)
    kube.wait(lambda: kube.phase("again") == "Running")
    old = {pod["metadata"]["uid"] for pod in kube.pods("again")}
    api.delete_namespaced_custom_object(*JOBS, "again")
    api.create_namespaced_custom_object(*JOBS, fresh)
    kube.wait(lambda: kube.get("jobs", "again").get("status", {}).get("terminating"))
    assert told(kube.get("jobs", "again")["status"]) == told(body["status"])
    assert {pod["metadata"]["uid"] for pod in kube.pods("again")} == old
    kube.wait(lambda: kube.phase("again") == "Running")
    assert not {pod["metadata"]["uid"] for pod in kube.pods("again")} & old


def test_on_a_lost_node_pods_stay_running_and_deletions_hang(kube: Cluster) -> None:
    create(kube, "running")
    kube.wait(lambda: kube.phase("running") == "Running")
    kube.lose_node("lab-node")
    lost = record("node-lost/orphan.pods")["stdout"]["items"]
    assert [reasons(pod)[:2] for pod in kube.pods("running")] == [reasons(pod)[:2] for pod in lost]
    kube.delete_pod("running-worker-0")
    wanted = told(record("node-lost/pod-deleted.vcjob")["stdout"]["status"])
    kube.wait(lambda: told(kube.get("jobs", "running")["status"]) == wanted, 5)
    custom(kube).delete_namespaced_custom_object(*JOBS, "running")
    assert kube.get("jobs", "running") is None
    until = time.monotonic() + 0.5  # its containers end at once when they are asked to: here nobody asks
    while time.monotonic() < until:
        assert [bool(pod["metadata"].get("deletionTimestamp")) for pod in kube.pods("running")] == [True, True]
        time.sleep(0.02)
    kube.return_node("lab-node")
    kube.wait(lambda: not kube.list("pods"))


def test_a_quota_leaves_a_job_pending_with_an_event(kube: Cluster) -> None:
    kube.set_quota(pods="1")
    body = record("errors/refused.tight.vcjob")["stdout"]
    fresh = {"apiVersion": body["apiVersion"], "kind": "Job", "metadata": {"name": "refused"}, "spec": body["spec"]}
    custom(kube).create_namespaced_custom_object(*JOBS, fresh)
    events = record("errors/refused.tight.events")["stdout"]["items"]
    wanted = next(event["message"] for event in events if event["reason"] == "FailedCreate")

    def messages() -> list[str]:
        return [bare_pointer(event["message"]) for event in kube.list("events") if event["reason"] == "FailedCreate"]

    assert kube.wait(messages) == [bare_pointer(wanted)]
    assert told(kube.get("jobs", "refused")["status"]) == told(body["status"])


def bare_pointer(text: str) -> str:
    return re.sub(r"0xc[0-9a-f]+", "0xc", text)


def test_a_stuck_controller_leaves_jobs_pending_without_pods(kube: Cluster) -> None:
    kube.stuck_controller()
    create(kube, "running")
    stuck = record("outage/after-restart.stuck-pending")
    wanted = told(stuck["vcjob"]["items"][0]["status"])
    kube.wait(lambda: kube.list("podgroups") and kube.list("podgroups")[0]["status"]["phase"] == "Inqueue")
    assert told(kube.get("jobs", "running")["status"]) == wanted
    assert stuck["podgroup"]["items"][0]["status"]["phase"] == "Inqueue"
    assert kube.pods("running") == []
    kube.stuck_controller(False)
    kube.wait(lambda: kube.phase("running") == "Running")


# -- refusals

BY_KUBECTL = ("api-version", "empty-stdin", "kind", "not-yaml")  # refused before anything is sent
TOO_LARGE = ("too-large", "far-too-large")  # not kept whole in the record
INVALID = [path.stem for path in sorted((RECORDS / "errors").glob("invalid.*.json"))]
SENT = [name for name in INVALID if name.removeprefix("invalid.") not in (*BY_KUBECTL, *TOO_LARGE)]


def test_the_records_of_invalid_specs_are_there() -> None:
    assert len(SENT) == 21


@pytest.mark.parametrize("name", SENT)
def test_an_invalid_job_is_refused_in_the_recorded_words(kube: Cluster, name: str) -> None:
    recorded = record(f"errors/{name}")
    body = json.loads(recorded["stdin"])
    if recorded["exit"] == 0:
        custom(kube).create_namespaced_custom_object(*JOBS, body, field_validation="Strict")
        return
    with pytest.raises(ApiException) as refused:
        custom(kube).create_namespaced_custom_object(*JOBS, body, field_validation="Strict")
    status = json.loads(refused.value.body)
    text = recorded["stderr"].removesuffix("\n")
    if found := re.match(r'The Job "[^"]*" is invalid: ', text):
        cause = status["details"]["causes"][0]
        assert (status["code"], status["reason"]) == (422, "Invalid")
        assert f"{cause['field']}: {cause['message']}" == text[found.end() :]
    else:
        assert status["message"] == re.sub(r'^Error from server(?: \(\w+\))?: error when creating "STDIN": ', "", text)
        assert (status["code"], refused.value.status) == (400, 400)


@pytest.mark.parametrize("name", ["closed", "missing"])
def test_a_queue_that_takes_nothing_is_told_of_in_the_recorded_words(kube: Cluster, name: str) -> None:
    kube.set_queue("shut", state="Closed")
    recorded = record(f"queue/submit.{name}")
    with pytest.raises(ApiException) as refused:
        custom(kube).create_namespaced_custom_object(*JOBS, json.loads(recorded["stdin"]))
    assert json.loads(refused.value.body)["message"] in recorded["stderr"]
    assert refused.value.status == 400


def test_a_queue_over_its_capability_keeps_the_pod_group_pending(kube: Cluster) -> None:
    kube.set_queue("tpu", {"cpu": "1", "memory": "4Gi"})
    body = record("queue/over-capability.vcjob")["stdout"]
    fresh = {"apiVersion": body["apiVersion"], "kind": "Job", "metadata": {"name": "overqueue"}, "spec": body["spec"]}
    custom(kube).create_namespaced_custom_object(*JOBS, fresh)
    kube.wait(lambda: kube.list("podgroups"))
    wanted = bare_group(record("queue/over-capability.podgroup")["stdout"])
    assert bare_group(kube.list("podgroups")[0]) == wanted
    kube.set_queue("tpu", {"cpu": "2", "memory": "4Gi"})
    kube.wait(lambda: kube.phase("overqueue") == "Running")


PYTHON = ("create-409", "create-422", "create-denied", "delete-404", "get-401", "get-403", "get-404", "no-such-crd")
PYTHON += ("stale-replace-409", "unknown-field-strict", "logs-404")


@pytest.mark.parametrize("name", PYTHON)
def test_the_python_client_gets_the_recorded_answer(kube: Cluster, name: str) -> None:
    recorded = record(f"python/{name}")
    api = custom(kube)
    body = record("vcjob/failed.vcjob")["stdout"]
    fresh = {"apiVersion": body["apiVersion"], "kind": "Job", "metadata": {"name": "failed"}, "spec": body["spec"]}
    api.create_namespaced_custom_object(*JOBS, fresh)

    def ask() -> None:
        if name == "create-409":
            api.create_namespaced_custom_object(*JOBS, fresh)
        elif name == "create-422":
            api.create_namespaced_custom_object(*JOBS, {**fresh, "spec": {**fresh["spec"], "minAvailable": "two"}})
        elif name == "create-denied":
            spec = {**fresh["spec"], "minAvailable": 9}
            api.create_namespaced_custom_object(*JOBS, {**fresh, "metadata": {"name": "denied"}, "spec": spec})
        elif name == "delete-404":
            api.delete_namespaced_custom_object(*JOBS, "nobody")
        elif name == "get-401":
            kube.expire_token()
            api.get_namespaced_custom_object(*JOBS, "failed")
        elif name == "get-403":
            kube.deny("get", "jobs")
            api.get_namespaced_custom_object(*JOBS, "failed")
        elif name == "get-404":
            api.get_namespaced_custom_object(*JOBS, "nobody")
        elif name == "no-such-crd":
            api.list_namespaced_custom_object("batch.nope.sh", "v1alpha1", "team-a", "jobs")
        elif name == "stale-replace-409":
            stale = {**fresh, "metadata": {"name": "failed", "resourceVersion": "1"}}
            api.replace_namespaced_custom_object(*JOBS, "failed", stale)
        elif name == "unknown-field-strict":
            spec = {**fresh["spec"], "minAvailble": 2}
            api.create_namespaced_custom_object(*JOBS, {**fresh, "spec": spec}, field_validation="Strict")
        else:
            client.CoreV1Api(api.api_client).read_namespaced_pod_log("nobody", "team-a")

    with pytest.raises(ApiException) as refused:
        ask()
    assert (refused.value.status, refused.value.reason) == (recorded["status"], recorded["reason"])
    assert as_read(refused.value.body) == as_read(recorded["body"])


def as_read(body: str) -> Any:
    return json.loads(body) if body.startswith("{") else body


def test_without_volcano_its_kinds_are_no_pages(kube: Cluster) -> None:
    kube.no_volcano()
    with pytest.raises(ApiException) as refused:
        custom(kube).get_namespaced_custom_object(*JOBS, "x")
    assert (refused.value.status, refused.value.body) == (404, record("python/no-such-crd")["body"])


def test_a_watch_from_too_long_ago_is_told_so(kube: Cluster) -> None:
    events = custom(kube).list_namespaced_custom_object(
        *JOBS, watch=True, resource_version="1", timeout_seconds=2, _preload_content=False
    )
    (line,) = events.data.splitlines()
    recorded = record("errors/stale-watch")["stdout"]
    oldest = kube.world.store.oldest
    recorded["object"]["message"] = recorded["object"]["message"].replace("(2821)", f"({oldest})")
    assert json.loads(line) == recorded

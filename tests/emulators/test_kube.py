"""The simulated Kubernetes API server through the real Python client: objects, streams, containers, and what can go wrong."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import WSClient

from tests.emulators.kube import Cluster
from tests.emulators.kube.containers import marked

JOBS = ("batch.volcano.sh", "v1alpha1", "team-a", "jobs")
HERE = Path(__file__).parents[2]


CLIENTS: list[client.ApiClient] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().rest_client.pool_manager.clear()


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "kube", claims=("work",)) as cluster:
        yield cluster


def connect(kube: Cluster) -> client.ApiClient:
    settings = client.Configuration()
    config.load_kube_config(str(kube.kubeconfig), client_configuration=settings)
    settings.retries = False
    CLIENTS.append(client.ApiClient(settings))
    return CLIENTS[-1]


def custom(kube: Cluster) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(connect(kube))


def core(kube: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(connect(kube))


def job(
    name: str, script: str, nodes: int = 1, *, pod: Any = None, container: Any = None, **spec: Any
) -> dict[str, Any]:
    main = {"name": "main", "image": "lab/busybox:1", "command": ["sh", "-c", script], **(container or {})}
    template = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main], **(pod or {})}
    task = {"name": "worker", "replicas": nodes, "template": {"spec": template}}
    body = {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": name}},
    }
    return {**body, "spec": {"minAvailable": nodes, "tasks": [task], **spec}}


def create(kube: Cluster, *args: Any, **knobs: Any) -> dict[str, Any]:
    made: dict[str, Any] = custom(kube).create_namespaced_custom_object(
        *JOBS, job(*args, **knobs), field_validation="Strict"
    )
    return made


def running(kube: Cluster, name: str, script: str = "sleep 600", **knobs: Any) -> None:
    create(kube, name, script, **knobs)
    kube.wait(lambda: kube.phase(name) == "Running")


def refusal(problem: ApiException) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(problem.body)
    return found


# -- objects


def test_a_list_is_given_page_by_page_and_by_labels_and_fields(kube: Cluster) -> None:
    api = core(kube)
    for number in range(5):
        labels = {"owner": "a" if number < 3 else "b"}
        api.create_namespaced_secret(
            "team-a", {"metadata": {"name": f"s{number}", "labels": labels}, "stringData": {"k": "v"}}
        )
    page = api.list_namespaced_secret("team-a", limit=2)
    names = [item.metadata.name for item in page.items]
    while page.metadata._continue:
        page = api.list_namespaced_secret("team-a", limit=2, _continue=page.metadata._continue)
        names += [item.metadata.name for item in page.items]
    assert names == ["s0", "s1", "s2", "s3", "s4"]

    def picked(**query: str) -> list[str]:
        return [item.metadata.name for item in api.list_namespaced_secret("team-a", **query).items]

    assert picked(label_selector="owner=a") == ["s0", "s1", "s2"]
    assert picked(label_selector="owner") == names
    assert picked(label_selector="owner!=a,owner in (b, c)") == ["s3", "s4"]
    assert picked(label_selector="nothing") == []
    assert picked(field_selector="metadata.name=s4") == ["s4"]
    assert base64.b64decode(api.read_namespaced_secret("s0", "team-a").data["k"]) == b"v"


def test_a_list_that_goes_on_after_a_compaction_is_refused(kube: Cluster) -> None:
    api = core(kube)
    for name in ("a", "b"):
        api.create_namespaced_config_map("team-a", {"metadata": {"name": name}})
    page = api.list_namespaced_config_map("team-a", limit=1)
    kube.compact()
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_config_map("team-a", limit=1, _continue=page.metadata._continue)
    assert (refused.value.status, refusal(refused.value)["reason"]) == (410, "Expired")


def test_a_patch_changes_labels_and_a_job_keeps_its_spec(kube: Cluster) -> None:
    running(kube, "one")
    patched = custom(kube).patch_namespaced_custom_object(
        *JOBS, "one", {"metadata": {"labels": {"new": "x", "app": None}}}
    )
    assert patched["metadata"]["labels"] == {"new": "x"}
    assert patched["status"]["state"]["phase"] == "Running"
    with pytest.raises(ApiException) as refused:
        custom(kube).patch_namespaced_custom_object(*JOBS, "one", {"spec": {"queue": "other"}})
    assert "job updates may not change fields" in refusal(refused.value)["message"]


def test_only_the_object_with_the_uid_is_deleted(kube: Cluster) -> None:
    made = create(kube, "one", "sleep 600")
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    with pytest.raises(ApiException) as refused:
        custom(kube).delete_namespaced_custom_object(*JOBS, "one", body=options)
    assert (refused.value.status, refusal(refused.value)["reason"]) == (409, "Conflict")
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=made["metadata"]["uid"]))
    told = custom(kube).delete_namespaced_custom_object(*JOBS, "one", body=options)
    assert (told["status"], told["details"]["uid"]) == ("Success", made["metadata"]["uid"])
    assert kube.get("jobs", "one") is None


def test_what_belongs_to_a_job_goes_with_it(kube: Cluster) -> None:
    made = create(kube, "one", "sleep 600")
    owner = {"apiVersion": made["apiVersion"], "kind": "Job", "name": "one", "uid": made["metadata"]["uid"]}
    core(kube).create_namespaced_secret("team-a", {"metadata": {"name": "one", "ownerReferences": [owner]}})
    kube.wait(lambda: kube.phase("one") == "Running")
    custom(kube).delete_namespaced_custom_object(*JOBS, "one")
    kube.wait(lambda: not (kube.list("pods") or kube.list("secrets") or kube.list("podgroups")))


def test_a_foreground_deletion_waits_for_the_pods(kube: Cluster) -> None:
    running(kube, "one", "trap '' TERM; sleep 600 & wait; sleep 600")
    custom(kube).delete_namespaced_custom_object(*JOBS, "one", propagation_policy="Foreground")
    found = kube.get("jobs", "one")
    assert found is not None
    assert found["metadata"]["finalizers"] == ["foregroundDeletion"]
    kube.wait(lambda: kube.get("jobs", "one") is None)
    assert kube.list("pods") == []


def test_a_watch_tells_every_change_in_order(kube: Cluster) -> None:
    version = custom(kube).list_namespaced_custom_object(*JOBS)["metadata"]["resourceVersion"]
    create(kube, "one", "true")
    kube.wait(lambda: kube.phase("one") == "Completed")
    answer = custom(kube).list_namespaced_custom_object(
        *JOBS, watch=True, resource_version=version, timeout_seconds=1, _preload_content=False
    )
    events = [json.loads(line) for line in answer.data.splitlines()]
    phases = [event["object"].get("status", {}).get("state", {}).get("phase") for event in events]
    assert events[0]["type"] == "ADDED"
    assert list(dict.fromkeys(phases)) == [None, "Pending", "Running", "Completed"]


def test_a_namespace_that_is_missing_or_ends_takes_nothing(kube: Cluster) -> None:
    api = core(kube)
    with pytest.raises(ApiException) as missing:
        api.create_namespaced_secret("nope", {"metadata": {"name": "s"}})
    assert refusal(missing.value)["message"] == 'namespaces "nope" not found'
    assert api.list_namespaced_secret("nope").items == []
    kube.end_namespace()
    with pytest.raises(ApiException) as ending:
        api.create_namespaced_secret("team-a", {"metadata": {"name": "s"}})
    assert ending.value.status == 403
    assert "because it is being terminated" in refusal(ending.value)["message"]


# -- containers


def test_a_container_has_its_claim_its_secret_and_its_environment(kube: Cluster, tmp_path: Path) -> None:
    data = {"record.json": json.dumps({"root": "/mnt/work/x"}), "secrets.json": '{"A": "/mnt/work"}'}
    core(kube).create_namespaced_secret("team-a", {"metadata": {"name": "one"}, "stringData": data})
    volumes = [
        {"name": "work", "persistentVolumeClaim": {"claimName": "work"}},
        {"name": "run", "secret": {"secretName": "one"}},
    ]
    container = {
        "volumeMounts": [{"name": "work", "mountPath": "/mnt/work"}, {"name": "run", "mountPath": "/mnt/work/run"}],
        "terminationMessagePath": "/mnt/end",
        "env": [
            {"name": "ROOT", "value": "/mnt/work/here:/mnt/workshop"},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "BOTH", "value": "$(POD)-$$(POD)"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "one", "key": "secrets.json"}}},
        ],
    }
    script = (
        "cat /mnt/work/run/record.json /mnt/work/run/secrets.json > /mnt/work/out; stat -c %a /mnt/work/run/secrets.json;"
        "env; printf ended > /mnt/end; exit 3"
    )
    create(kube, "one", script, 2, pod={"volumes": volumes}, container=container, plugins={"env": [], "svc": []})
    kube.wait(lambda: kube.phase("one") == "Failed")
    claim = kube.claim_directory("work")
    assert (claim / "out").read_text() == json.dumps({"root": f"{claim}/x"}) + '{"A": "/mnt/work"}'
    log = kube.log("one-worker-1").decode().splitlines()
    assert log[0] == "600"
    wanted = {
        f"ROOT={claim}/here:/mnt/workshop",
        "POD=one-worker-1",
        "BOTH=one-worker-1-$(POD)",
        'KEY={"A": "/mnt/work"}',
    }
    wanted |= {"VC_TASK_INDEX=1", "VC_WORKER_NUM=2", "VC_WORKER_HOSTS=one-worker-0.one,one-worker-1.one"}
    wanted |= {f"PATH={os.environ['PATH']}"}
    assert wanted <= set(log)
    terminated = kube.pods("one")[1]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (3, "Error", "ended")


def test_a_termination_message_is_cut_at_4096_bytes(kube: Cluster) -> None:
    create(kube, "one", "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log")
    kube.wait(lambda: kube.phase("one") == "Completed")
    assert kube.pods("one")[0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "x" * 4096


def test_a_deleted_pod_is_asked_then_killed_with_all_that_it_started(kube: Cluster) -> None:
    running(kube, "one", "trap 'echo asked' TERM; setsid sleep 600 & echo up; while :; do sleep 0.1; done")
    kube.wait(lambda: b"up" in kube.log("one-worker-0"))
    pod = kube.pods("one")[0]
    mark = f"{pod['metadata']['uid']}/main"
    assert len(marked(mark)) >= 2
    begun = time.monotonic()
    custom(kube).delete_namespaced_custom_object(*JOBS, "one")
    kube.wait(lambda: b"asked" in kube.log("one-worker-0") or not kube.list("pods"))
    assert kube.get("pods", "one-worker-0") is not None
    kube.wait(lambda: not kube.list("pods"))
    assert time.monotonic() - begun > 0.9
    kube.wait(lambda: not marked(mark), 5)


def test_what_a_container_leaves_behind_ends_with_it(kube: Cluster) -> None:
    create(kube, "one", "setsid sleep 600 & true")
    kube.wait(lambda: kube.phase("one") == "Completed")
    assert marked(f"{kube.pods('one')[0]['metadata']['uid']}/main") == []


def test_the_end_of_the_cluster_ends_its_containers(tmp_path: Path) -> None:
    with Cluster(tmp_path / "kube") as kube:
        running(kube, "one")
        mark = f"{kube.pods('one')[0]['metadata']['uid']}/main"
        assert marked(mark)
    assert marked(mark) == []


def test_a_missing_secret_keeps_the_container_from_its_start(kube: Cluster) -> None:
    pod = {"volumes": [{"name": "run", "secret": {"secretName": "later"}}]}
    create(kube, "one", "true", pod=pod)
    kube.wait(lambda: kube.pods("one") and kube.pods("one")[0]["status"].get("containerStatuses"))
    state = kube.wait(lambda: kube.pods("one")[0]["status"]["containerStatuses"][0]["state"]["waiting"].get("message"))
    assert state == 'secret "later" not found'
    core(kube).create_namespaced_secret("team-a", {"metadata": {"name": "later"}})
    kube.wait(lambda: kube.phase("one") == "Completed")


# -- logs and exec


def test_logs_are_followed_and_cut(kube: Cluster) -> None:
    go = kube.claim_directory("work") / "go"
    pod = {"volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]}
    mount = {"volumeMounts": [{"name": "work", "mountPath": "/w"}]}
    running(
        kube, "one", "echo a; echo b >&2; until test -e /w/go; do sleep 0.02; done; echo c", pod=pod, container=mount
    )
    kube.wait(lambda: kube.log("one-worker-0") == b"a\nb\n")
    api = core(kube)
    assert api.read_namespaced_pod_log("one-worker-0", "team-a", tail_lines=1) == "b\n"
    assert api.read_namespaced_pod_log("one-worker-0", "team-a", limit_bytes=3) == "a\nb"
    answer = api.read_namespaced_pod_log("one-worker-0", "team-a", follow=True, _preload_content=False)
    pieces = answer.stream(amt=None, decode_content=False)
    assert next(pieces) == b"a\nb\n"
    go.touch()
    assert b"".join(pieces) == b"c\n"


def execute(kube: Cluster, command: list[str], data: bytes = b"", pod: str = "one-worker-0") -> WSClient:
    socket = stream(
        core(kube).connect_get_namespaced_pod_exec,
        pod,
        "team-a",
        command=command,
        stdin=bool(data),
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
        binary=True,
    )
    if data:
        for at in range(0, len(data), 100_000):
            socket.write_stdin(data[at : at + 100_000])
        socket.close_channel(0)
    socket.run_forever(timeout=20)
    socket.sock.shutdown()  # close() leaves the connection open once the server has said that it closes
    return socket


def test_exec_has_streams_an_exit_code_and_an_end_of_input(kube: Cluster) -> None:
    running(kube, "one")
    told = execute(kube, ["sh", "-c", "cat; echo err >&2; exit 3"], b"in\0put")
    assert (told.read_stdout(), told.read_stderr(), told.returncode) == (b"in\0put", b"err\n", 3)
    assert execute(kube, ["sh", "-c", "kill -9 $$"]).returncode == 137
    assert execute(kube, ["true"]).returncode == 0


def test_a_large_archive_arrives_byte_for_byte(kube: Cluster) -> None:
    pod = {"volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "work"}}]}
    running(kube, "one", pod=pod, container={"volumeMounts": [{"name": "work", "mountPath": "/w"}]})
    content = os.urandom(3_000_000)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("big")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    assert execute(kube, ["tar", "-xf", "-", "-C", "/w"], packed.getvalue()).returncode == 0
    assert (kube.claim_directory("work") / "big").read_bytes() == content
    assert execute(kube, ["cat", "/w/big"]).read_stdout() == content


def test_exec_is_refused_where_there_is_no_container(kube: Cluster) -> None:
    create(kube, "one", "true")
    kube.wait(lambda: kube.phase("one") == "Completed")
    with pytest.raises(ApiException) as refused:
        execute(kube, ["true"])
    assert "current phase is Succeeded" in str(refused.value)
    with pytest.raises(ApiException) as refused:
        execute(kube, ["true"], pod="nobody")
    assert 'pods \\"nobody\\" not found' in str(refused.value)
    kube.slow_start(60)
    create(kube, "two", "true")
    kube.wait(
        lambda: kube.get("pods", "two-worker-0") and kube.get("pods", "two-worker-0")["status"].get("containerStatuses")
    )
    with pytest.raises(ApiException) as refused:
        execute(kube, ["true"], pod="two-worker-0")
    assert 'container not found (\\"main\\")' in str(refused.value)


def test_a_pod_deleted_under_an_exec_ends_it_with_137(kube: Cluster) -> None:
    running(kube, "one")
    threading.Timer(0.3, kube.delete_pod, ["one-worker-0"]).start()
    assert execute(kube, ["sleep", "30"]).returncode == 137


# -- the scheduler and what happens to pods


def test_a_gang_gets_all_of_its_nodes_or_none(tmp_path: Path) -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "4"}, "requests": {"nvidia.com/gpu": "4"}}}
    with Cluster(tmp_path / "kube", nodes={"a": {"nvidia.com/gpu": "4"}, "b": {"nvidia.com/gpu": "4"}}) as kube:
        running(kube, "first", container=gpu)
        create(kube, "second", "sleep 600", 2, container=gpu)
        kube.wait(lambda: kube.phase("second") == "Pending")
        kube.wait(lambda: len(kube.list("podgroups")) == 2)
        assert kube.pods("second") == []
        kube.delete("jobs", "first")
        kube.wait(lambda: kube.phase("second") == "Running")
        assert {pod["spec"]["nodeName"] for pod in kube.pods("second")} == {"a", "b"}


def test_a_claim_that_comes_later_lets_the_job_run(kube: Cluster) -> None:
    create(kube, "one", "true", pod={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "late"}}]})
    kube.wait(lambda: kube.list("podgroups") and kube.list("podgroups")[0]["status"].get("conditions"))
    assert 'persistentvolumeclaim "late" not found' in kube.list("podgroups")[0]["status"]["conditions"][0]["message"]
    kube.claim("late")
    kube.wait(lambda: kube.phase("one") == "Completed")


POLICIES = [
    {"event": "PodFailed", "action": "TerminateJob"},
    {"event": "PodEvicted", "action": "TerminateJob"},
    {"event": "TaskCompleted", "action": "CompleteJob"},
]


def test_a_preempted_pod_says_so_before_it_goes_and_its_job_is_terminated(kube: Cluster) -> None:
    running(kube, "one", "trap '' TERM; sleep 600 & wait; sleep 600", nodes=2, policies=POLICIES)
    kube.preempt("one-worker-0")
    pod = kube.pods("one")[0]
    conditions = {one["type"]: (one["status"], one.get("reason")) for one in pod["status"]["conditions"]}
    assert pod["metadata"]["deletionTimestamp"]
    assert conditions["DisruptionTarget"] == ("True", "PreemptionByScheduler")
    assert conditions["Ready"] == ("False", "Evict")
    assert [event["reason"] for event in kube.list("events") if event["reason"] == "Evict"] == ["Evict"]
    kube.wait(lambda: kube.phase("one") == "Terminated")
    assert kube.pods("one") == []


def test_a_pod_deleted_by_hand_is_made_again(kube: Cluster) -> None:
    running(kube, "one", nodes=2)
    old = kube.pods("one")[0]["metadata"]["uid"]
    core(kube).delete_namespaced_pod("one-worker-0", "team-a", grace_period_seconds=0)
    kube.wait(lambda: kube.pods("one")[0]["metadata"]["uid"] != old and kube.phase("one") == "Running")
    assert "retryCount" not in kube.get("jobs", "one")["status"]


def test_a_job_restarts_until_its_retries_are_used_up(kube: Cluster) -> None:
    create(kube, "one", "exit 9", maxRetry=2, policies=[{"event": "PodFailed", "action": "RestartJob"}])
    kube.wait(lambda: kube.phase("one") == "Failed")
    assert kube.get("jobs", "one")["status"]["retryCount"] == 2


def test_a_job_is_aborted_and_resumed(kube: Cluster) -> None:
    running(kube, "one", nodes=2)
    kube.command("one", "AbortJob")
    kube.wait(lambda: kube.phase("one") == "Aborted")
    assert kube.pods("one") == []
    kube.command("one", "ResumeJob")
    kube.wait(lambda: kube.phase("one") == "Running")


def test_an_ended_job_goes_after_its_time_to_live(kube: Cluster) -> None:
    create(kube, "one", "true", ttlSecondsAfterFinished=1)
    kube.wait(lambda: kube.phase("one") == "Completed")
    kube.wait(lambda: kube.get("jobs", "one") is None)
    kube.wait(lambda: not kube.list("pods"))


# -- what can go wrong


def test_an_error_comes_before_or_after_the_effect(kube: Cluster) -> None:
    api = core(kube)
    kube.fault("create", "secrets", status=503)
    with pytest.raises(ApiException) as refused:
        api.create_namespaced_secret("team-a", {"metadata": {"name": "one"}})
    assert refused.value.status == 503
    assert kube.get("secrets", "one") is None
    kube.fault("create", "secrets", drop=True, after=True)
    with pytest.raises(urllib3.exceptions.HTTPError):
        api.create_namespaced_secret("team-a", {"metadata": {"name": "one"}})
    assert kube.get("secrets", "one") is not None
    kube.fault("get", "secrets", status=429, retry_after_s=1)
    with pytest.raises(ApiException) as refused:
        api.read_namespaced_secret("one", "team-a")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    kube.fault("get", "secrets", drop=True)
    with pytest.raises(urllib3.exceptions.HTTPError):
        api.read_namespaced_secret("one", "team-a")
    assert api.read_namespaced_secret("one", "team-a").metadata.name == "one"
    codes = [(call.verb, call.code) for call in kube.calls if call.kind == "secrets"]
    assert codes == [("create", 503), ("create", 0), ("get", 429), ("get", 0), ("get", 200)]
    assert kube.count("create", "secrets") == 2


def test_an_answer_is_garbage_or_never_comes(kube: Cluster) -> None:
    kube.fault("list", "jobs", raw="<html>")
    assert custom(kube).list_namespaced_custom_object(*JOBS, _preload_content=False).data == b"<html>"
    kube.fault("list", "jobs", hang_s=60)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        custom(kube).list_namespaced_custom_object(*JOBS, _request_timeout=0.2)
    kube.heal()
    assert custom(kube).list_namespaced_custom_object(*JOBS)["items"] == []


def test_a_stopped_server_cuts_what_is_open_and_comes_back_on_its_port(kube: Cluster) -> None:
    running(kube, "one", "echo up; sleep 600")
    port = kube.port
    following = core(kube).read_namespaced_pod_log("one-worker-0", "team-a", follow=True, _preload_content=False)
    pieces = following.stream(amt=None, decode_content=False)
    next(pieces)
    kube.stop()
    with pytest.raises(urllib3.exceptions.HTTPError):
        list(pieces)
    with pytest.raises(urllib3.exceptions.HTTPError):
        custom(kube).list_namespaced_custom_object(*JOBS)
    kube.start()
    assert kube.port == port
    assert [item["metadata"]["name"] for item in custom(kube).list_namespaced_custom_object(*JOBS)["items"]] == ["one"]
    assert kube.phase("one") == "Running"


def test_a_token_expires_and_a_new_one_stands_in_the_kubeconfig(kube: Cluster) -> None:
    api = custom(kube)
    kube.expire_token()
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_custom_object(*JOBS)
    assert refused.value.status == 401
    kube.renew_token()
    assert custom(kube).list_namespaced_custom_object(*JOBS)["items"] == []


def test_what_is_denied_the_access_review_denies_too(kube: Cluster) -> None:
    api = client.AuthorizationV1Api(connect(kube))

    def may(verb: str, resource: str, sub: str = "", group: str = "") -> bool:
        attributes = {"namespace": "team-a", "verb": verb, "group": group, "resource": resource, "subresource": sub}
        review = api.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}, **REVIEW})
        return bool(review.status.allowed)

    kube.deny("create", "pods/exec")
    assert not may("create", "pods", "exec")
    assert may("create", "jobs", group="batch.volcano.sh")
    running(kube, "one")
    with pytest.raises(ApiException) as refused:
        execute(kube, ["true"])
    assert 'cannot create resource \\"pods/exec\\"' in str(refused.value)
    kube.allow()
    assert may("create", "pods", "exec")


REVIEW = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}


def test_the_emulator_runs_as_a_program(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.emulators.kube",
        str(tmp_path / "kube"),
        "--claim",
        "work",
        "--node",
        "n:cpu=1",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE, text=True) as program:
        try:
            assert program.stdout is not None
            told = json.loads(program.stdout.readline())
            api = client.CoreV1Api(config.new_client_from_config(told["kubeconfig"]))
            assert [node.metadata.name for node in api.list_node().items] == ["n"]
            program.send_signal(signal.SIGTERM)
            assert program.wait(timeout=20) == 0
        finally:
            program.kill()

"""The job and the Secret of a run as data: the strict admission of the simulated cluster takes it, and adds nothing."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends.node_call import NodePaths, NodeSettings, record_of
from reconciler.backends.volcano_job import (
    LAST_WORDS_S,
    RUN_MOUNT,
    Order,
    PodSite,
    order_of,
    owner_reference,
    with_secrets,
)
from reconciler.backends.volcano_marks import NAME_MAX, annotations_of, label_value, labels_of, object_name, run_of
from reconciler.core.errors import Rejected
from reconciler.core.protocols import Facts
from reconciler.core.run import Run
from reconciler.load.normal import decode
from tests.backends.volcano_records import RECORDS, answer
from tests.emulators.kube import admission
from tests.emulators.kube.store import Store
from tests.emulators.kube.world import World
from tests.worlds import job
from tests.worlds import run_of as run_for

BUNDLE = "/data/share/runtime/abc"
SITE = PodSite(namespace="team-a", image="registry/train:1", claim="data", mount="/data", cpu="16", memory="100Gi")
# As the API server judges them (see tests/records/kubernetes/errors/invalid.label.json).
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?\Z")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
texts = st.text(max_size=300)
ids = st.text("aZ09-_.ä ", min_size=1, max_size=120) | st.text(min_size=1, max_size=120)


def paths(root: str = "/data", bundle: str = BUNDLE) -> NodePaths:
    return NodePaths(f"{root}/status", f"{root}/work", f"{root}/checkpoints", f"{root}/results", bundle)


def run(place: dict[str, Any] | None = None, **spec: Any) -> Run:
    made = run_for(job("train", spec=spec), host="k8s")
    return replace(made, gpus=None, place=place or {})


def order(
    place: dict[str, Any] | None = None,
    *,
    site: PodSite = SITE,
    bundle: str = BUNDLE,
    made: Run | None = None,
    **spec: Any,
) -> Order:
    made = made or run(place, **spec)
    wanted = decode(made.normal)
    record = record_of(NodeSettings("k8s", paths(bundle=bundle)), made, Facts(wanted, None, {}))
    return order_of(made, wanted, site, record, bundle=bundle)


def pod(one: Order) -> dict[str, Any]:
    found: dict[str, Any] = one.job["spec"]["tasks"][0]["template"]["spec"]
    return found


def container(one: Order) -> dict[str, Any]:
    (found,) = pod(one)["containers"]
    return found


def record(one: Order) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(one.secret["data"]["record.json"]))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    made: Path = tmp_path_factory.mktemp("world")
    world = World(made, {}, ("default", "team-a"), ())
    with world.store.lock:
        world.add_queue("research")
        yield world.store


FULL_SITE = replace(
    SITE,
    service_account="runner",
    priority_class="low",
    node_selector={"pool": "h100", "zone": "a"},
    tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    shm_size="64Gi",
    rdma={"rdma/ib": 4},
    labels={"team": "a", "cost": "1"},
    annotations={"note": "host", "who": "host"},
    pull_secrets=["regcred", "other"],
    pull_policy="Always",
    keep_finished_s=3600.4,
    python="/opt/$(HOME)/python",
)
FULL_JOB: dict[str, Any] = {
    "image": "registry/mine:2",
    "namespace": "team-b",
    "queue": "research",
    "priority_class": "high",
    "service_account": "mine",
    "cpu": "3",
    "memory": "5Gi",
    "shm_size": "1Gi",
    "node_selector": {"zone": "b"},
    "labels": {"cost": "2"},
    "annotations": {"who": "job"},
}
VARIANTS: dict[str, Order] = {
    "plain": order(),
    "gang": order({"nodes": 3, "gpus_per_node": 8, "queue": "research"}),
    "everything of the host": order({"nodes": 2, "gpus_per_node": 8}, site=FULL_SITE),
    "everything of the job": order({"nodes": 2, "gpus_per_node": 4}, site=FULL_SITE, volcano=FULL_JOB),
    "secrets": order(secrets={"A": {"env": "B"}, "C": {"kubernetes": {"name": "s", "key": "k"}}}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_strict_server_takes_it_and_webhooks_have_nothing_to_add(name: str, store: Store):
    """What the webhook adds at the create only, the next `kubectl apply` would take away again, which is refused."""
    sent = json.loads(json.dumps(VARIANTS[name].job))
    assert admission.job(store, sent, strict=True) == sent
    admission.job_change(sent, copy.deepcopy(sent))


def test_a_field_that_volcano_does_not_know_would_be_refused(store: Store):
    sent = copy.deepcopy(dict(VARIANTS["plain"].job))
    sent["spec"]["tasks"][0]["template"]["spec"]["nodeselector"] = {}
    with pytest.raises(Exception, match="nodeselector"):
        admission.job(store, sent, strict=True)


def test_whatever_the_real_webhook_filled_in_is_given():
    """just-created: sent without maxRetry and a task's minAvailable, as the server gave it back."""
    spec = answer("vcjob/just-created.vcjob")["spec"]
    ours = VARIANTS["plain"].job["spec"]
    assert spec.keys() <= ours.keys()
    assert spec["tasks"][0].keys() <= ours["tasks"][0].keys()


def test_it_says_all_that_a_recorded_manifest_said_whose_second_apply_changed_nothing():
    """Recorded with kubectl on a real cluster: a manifest that says what the webhook would add is `unchanged`."""
    first, second = (
        json.loads((RECORDS / f"errors/apply-full.{name}.json").read_text()) for name in ("first", "unchanged")
    )
    assert first["stdin"] == second["stdin"]
    assert second["stdout"].endswith(" unchanged\n")
    spec = json.loads(second["stdin"])["spec"]
    ours = VARIANTS["plain"].job["spec"]
    assert spec.keys() <= ours.keys()
    assert spec["tasks"][0].keys() <= ours["tasks"][0].keys()


# --- what becomes of each option


def test_a_gang_starts_and_ends_as_one():
    spec = VARIANTS["gang"].job["spec"]
    (task,) = spec["tasks"]
    assert (spec["minAvailable"], task["replicas"], task["minAvailable"]) == (3, 3, 3)
    assert spec["queue"] == "research"
    actions = [policy["action"] for policy in (*spec["policies"], *task["policies"])]
    assert actions == ["TerminateJob", "TerminateJob", "CompleteJob"]
    assert pod(VARIANTS["gang"])["restartPolicy"] == "Never"
    assert spec["plugins"] == {"env": [], "svc": [], "ssh": []}


def test_the_host_says_what_pods_are_like():
    made = VARIANTS["everything of the host"]
    spec, task = pod(made), made.job["spec"]["tasks"][0]
    assert made.job["spec"]["ttlSecondsAfterFinished"] == 3601
    assert made.job["spec"]["priorityClassName"] == spec["priorityClassName"] == "low"
    assert spec["serviceAccountName"] == "runner"
    assert spec["nodeSelector"] == {"pool": "h100", "zone": "a"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["imagePullSecrets"] == [{"name": "regcred"}, {"name": "other"}]
    assert container(made)["imagePullPolicy"] == "Always"
    amounts = {"cpu": "16", "memory": "100Gi", "nvidia.com/gpu": "8", "rdma/ib": "4"}
    assert container(made)["resources"] == {"requests": amounts, "limits": amounts}
    for metadata in (made.job["metadata"], task["template"]["metadata"]):
        assert metadata["labels"].items() >= {"team": "a", "cost": "1"}.items()
        assert metadata["annotations"].items() >= {"note": "host", "who": "host"}.items()
    env = {one["name"]: one["value"] for one in container(made)["env"]}
    assert env["RECONCILER_PYTHON"] == "/opt/$$(HOME)/python"


def test_the_job_goes_over_its_host():
    made = VARIANTS["everything of the job"]
    spec = pod(made)
    assert (made.namespace, made.job["metadata"]["namespace"], made.secret["metadata"]["namespace"]) == ("team-b",) * 3
    assert (made.queue, made.job["spec"]["queue"]) == ("research",) * 2
    assert container(made)["image"] == "registry/mine:2"
    assert spec["priorityClassName"] == "high"
    assert spec["serviceAccountName"] == "mine"
    assert spec["nodeSelector"] == {"pool": "h100", "zone": "b"}
    assert made.job["metadata"]["labels"].items() >= {"team": "a", "cost": "2"}.items()
    assert made.job["metadata"]["annotations"].items() >= {"note": "host", "who": "job"}.items()
    limits = container(made)["resources"]["limits"]
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("3", "5Gi", "4")
    (shm,) = [one for one in spec["volumes"] if one["name"] == "dshm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_without_accelerators_there_is_no_shared_memory_no_rdma_and_less_of_the_rest():
    made = order({"nodes": 2, "gpus_per_node": 0}, site=replace(FULL_SITE, cpu_cpu="4", cpu_memory="8Gi"))
    assert container(made)["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}
    assert [one["name"] for one in pod(made)["volumes"]] == ["workspace", "run"]
    assert container(order())["resources"]["limits"] == {"cpu": "8", "memory": "64Gi"}  # as in the original


def test_a_gang_keeps_together_unless_the_inventory_says_otherwise():
    (term,) = pod(order({"nodes": 2}))["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    apart = {"podAntiAffinity": {}}
    assert pod(order({"nodes": 2}, site=replace(SITE, pod={"affinity": apart})))["affinity"] == apart


def test_further_fields_stand_beside_ours_and_never_over_them():
    extra = {"securityContext": {"fsGroup": 5}, "restartPolicy": "Always", "volumes": [{"name": "data"}]}
    inner = {
        "securityContext": {"privileged": False},
        "env": [{"name": "A", "value": "b"}],
        "volumeMounts": [{"name": "data"}],
    }
    made = order(site=replace(SITE, pod=extra, container=inner))
    assert (pod(made)["securityContext"], pod(made)["restartPolicy"]) == ({"fsGroup": 5}, "Never")
    assert [one["name"] for one in pod(made)["volumes"]] == ["workspace", "run", "data"]
    assert container(made)["securityContext"] == {"privileged": False}
    assert [one["name"] for one in container(made)["volumeMounts"]] == ["workspace", "run", "data"]
    assert "A" in [one["name"] for one in container(made)["env"]]


def test_part_of_a_machine_is_asked_for_as_it_is():
    made = order({"nodes": 1, "gpus_per_node": 3}, site=FULL_SITE)
    assert container(made)["resources"]["limits"]["nvidia.com/gpu"] == "3"
    assert "affinity" not in pod(made)  # alone, it has nobody to be near to


def test_memory_that_the_job_requests_goes_over_the_hosts_and_under_the_overrides():
    asked = {"mem": "3G"}
    limits = container(order({"gpus_per_node": 1}, request=asked))["resources"]["limits"]
    assert limits["memory"] == str(decode(run(request=asked).normal).request.mem_bytes)
    limits = container(order({"gpus_per_node": 1}, request=asked, volcano={"memory": "5Gi"}))["resources"]["limits"]
    assert limits["memory"] == "5Gi"


def test_pods_get_the_grace_of_the_job_and_time_for_last_words():
    assert pod(order(grace="90s"))["terminationGracePeriodSeconds"] == 90 + LAST_WORDS_S


def test_the_same_run_makes_the_same_objects():
    assert order({"nodes": 2}).job == order({"nodes": 2}).job
    assert order({"nodes": 2}).secret == order({"nodes": 2}).secret


# --- what is told to nobody, what is taken as it is


def test_secrets_are_in_no_object_but_the_secret():
    made = VARIANTS["secrets"]
    sent = with_secrets(made, {"A": "canary"})
    assert "canary" not in json.dumps(made.job)
    assert "canary" not in json.dumps(made.secret)
    assert json.loads(base64.b64decode(sent["data"]["secrets.json"])) == {"A": "canary"}
    env = {one["name"]: one for one in container(made)["env"]}
    assert env["C"] == {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert "A" not in env
    assert record(made)["handed_over"] == ["C"]
    (mounted,) = [one for one in pod(made)["volumes"] if one["name"] == "run"]
    assert mounted["secret"] == {"secretName": made.name, "defaultMode": 0o444}


def expanded(text: str) -> str:
    """What Kubernetes makes of a command's text where no variable has that name."""
    return re.sub(r"\$\$|\$\([^()]*\)", lambda found: "$" if found[0] == "$$" else found[0], text)


@given(st.text("$()aA{}", max_size=40))
def test_dollars_in_paths_arrive_as_they_are(text: str):
    made = order(site=replace(SITE, python=f"/opt/{text}"), bundle=f"/data/{text}")
    command = [expanded(one) for one in container(made)["command"]]
    assert command[4:] == [f"/data/{text}", "pod", RUN_MOUNT]
    env = {one["name"]: one["value"] for one in container(made)["env"]}
    assert expanded(env["RECONCILER_PYTHON"]) == f"/opt/{text}"
    assert not re.search(r"\$\([A-Z]", container(made)["command"][2])  # nor does our own script name a variable so


HOSTILE = [
    "$(HOME)",
    "$$",
    '"; rm -rf /; "',
    "a\nb",
    "\\",
    "`id`",
    "{{.}}",
    "ümläut ✓",
    "%s",
    "'",
    "- x: y",
    "\u2028",
    "$(cat /etc/passwd)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_arrives_as_it_was_written(text: str, store: Store):
    spec = {"command": ["echo", text], "env": {"X": text}, "setup": [text], "config": {"k": text}}
    made = order(**spec)
    told = record(made)
    assert told["stages"] == [{"argv": ["echo", text]}]
    assert (told["env"]["X"], told["setup"], told["config"]) == (text, [text], {"k": text})
    assert run_of(made.job["metadata"]["labels"], made.job["metadata"]["annotations"]) == run(**spec)
    values = with_secrets(made, {"A": text})
    assert json.loads(base64.b64decode(values["data"]["secrets.json"])) == {"A": text}
    # The user's text is where the record is, and nowhere else: nothing else can take it for its own.
    job_only = copy.deepcopy(dict(made.job))
    job_only["metadata"] = {**job_only["metadata"], "annotations": {}}
    assert json.dumps(text)[1:-1] not in json.dumps(job_only) or text in ("$$", "\\", "%s", "'")
    assert admission.job(store, json.loads(json.dumps(made.job)), strict=True)


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_marks_of_ours_are_not_given_away(where: str):
    """A job with the mark of a helper would be taken for one, and swept."""
    wanted = decode(run().normal)
    theirs = replace(wanted, volcano=replace(wanted.volcano, **{where: {"reconciler/helper": "x"}}))
    with pytest.raises(Rejected, match="reconciler/helper"):
        order_of(run(), theirs, SITE, {}, bundle=BUNDLE)
    with pytest.raises(Rejected, match="reconciler/run"):
        order(site=replace(SITE, **{where: {"reconciler/run": "x"}}))


def test_a_spec_that_no_annotation_can_hold_is_refused_with_the_next_step():
    with pytest.raises(Rejected, match="KiB") as refused:
        order(config={"k": "x" * (200 << 10)})
    assert "file" in refused.value.hint
    made = order(config={"k": "x" * (190 << 10)})
    assert sum(len(text) for text in made.job["metadata"]["annotations"].values()) < 256 << 10


def test_secrets_that_no_secret_can_hold_are_refused_with_the_next_step():
    made = order()
    with pytest.raises(Rejected, match="1 MiB"):
        with_secrets(made, {"A": "x" * (1 << 20)})
    assert with_secrets(made, {"A": "x" * (600 << 10)})


def test_a_secret_goes_with_its_job():
    owner = {"metadata": {"name": "n", "uid": "u"}}
    sent = with_secrets(order(), {}, owner)
    assert sent["metadata"]["ownerReferences"] == [owner_reference(owner)]
    assert owner_reference(owner)["apiVersion"] == "batch.volcano.sh/v1alpha1"


# --- names and marks


@given(ids)
def test_any_run_id_makes_a_name_for_job_service_and_pods(run_id: str):
    name = object_name(run_id)
    assert DNS_LABEL.match(name)
    assert len(name) <= NAME_MAX
    assert len(f"{name}-worker-99999") <= 63
    assert object_name(run_id) == name
    assert object_name(name) == name


@pytest.mark.parametrize(
    "run_id", ["a" * 200, "0-begins-with-a-digit", "Upper-Case", "ünicode", "-", "a--", "a.b", "a" * NAME_MAX + "b", ""]
)
def test_odd_run_ids_have_names_too(run_id: str):
    assert DNS_LABEL.match(object_name(run_id))
    assert len(object_name(run_id)) <= NAME_MAX
    assert object_name(run_id) != run_id


@given(st.lists(ids, min_size=2, max_size=20, unique=True))
def test_two_runs_never_share_a_name(run_ids: list[str]):
    assert len({object_name(one) for one in run_ids}) == len(run_ids)


@given(
    st.text("abc-", min_size=NAME_MAX, max_size=80),
    st.text("abc123", min_size=1, max_size=8),
    st.text("abc123", min_size=1, max_size=8),
)
def test_runs_that_differ_where_their_name_is_cut_have_two_names(start: str, one: str, other: str):
    names = {object_name(start + one), object_name(start + other)}
    assert len(names) == (1 if one == other else 2)


@given(texts)
def test_any_text_makes_a_label(text: str):
    value = label_value(text)
    assert LABEL.match(value)
    assert len(value) <= 63
    assert bool(value) == bool(text)


@given(st.lists(texts, min_size=2, max_size=10, unique=True))
def test_two_texts_never_share_a_label(given_texts: list[str]):
    assert len({label_value(one) for one in given_texts}) == len(given_texts)


@given(texts, texts, texts)
def test_a_run_is_found_again_by_its_marks(owner: str, host: str, token: str):
    made = replace(run(), owner=owner, host=host, token=token)
    labels, annotations = labels_of(made), json.loads(json.dumps(annotations_of(made)))
    assert run_of({**labels, "other": "x"}, annotations) == made
    assert run_of({**labels, "reconciler/run": "another"}, annotations) is None
    assert run_of(labels, {}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"run_id": 3}', "1", '"x"'])
def test_an_annotation_that_is_none_of_ours_is_no_run(text: str):
    assert run_of(labels_of(run()), {"reconciler/run": text}) is None

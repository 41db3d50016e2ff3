"""What a user of a Volcano host meets besides running jobs: doctor, hosts, discovery, all logs of a gang.

The cluster is simulated (docs/volcano-emulator.md), as in test_volcano.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.kube import NODE, KubeSite, kube_site, ok

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("volcano")]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[KubeSite]:
    with kube_site(tmp_path) as made:
        yield made


def findings(group: KubeSite, code: int = 0) -> dict[str, dict[str, Any]]:
    """The findings on the host by what they are about; the last of several."""
    said = group("doctor", "k8s", "--json")
    assert said.code == code, said
    return {each["what"]: each for each in said.json["findings"] if each["where"] == "k8s"}


# --- doctor


def test_doctor_is_content_with_a_cluster_on_which_jobs_run_and_leaves_nothing(group: KubeSite):
    group.make(group.inventory())
    found = findings(group)
    assert {"API", "namespace", "volcano", "queue", "claim", "permissions", "helper pod", "python", "path"} <= set(
        found
    )
    assert "ReadWriteMany" in found["claim"]["detail"]
    group.kube.wait(lambda: not group.helpers() and not group.kube.list("pods"), 20)


@pytest.mark.parametrize(
    ("verb", "kind", "asked"),
    [
        ("create", "jobs", "auth can-i create jobs.batch.volcano.sh -n team-a"),
        ("create", "pods/exec", "auth can-i create pods --subresource=exec -n team-a"),
        ("get", "pods/exec", "auth can-i get pods --subresource=exec -n team-a"),
        ("patch", "secrets", "auth can-i patch secrets -n team-a"),
        ("list", "queues", "auth can-i list queues.scheduling.volcano.sh`"),
    ],
)
def test_doctor_names_each_right_that_is_missing_and_makes_no_pod(group: KubeSite, verb: str, kind: str, asked: str):
    group.make(group.inventory())
    group.kube.deny(verb, kind)
    found = findings(group, code=4)
    assert asked in found["permission"]["fix"]
    assert "Role" in found["permission"]["fix"]
    assert "permissions" not in found
    assert group.kube.count("create", "jobs") == 0


@pytest.mark.parametrize(
    ("field", "value", "what", "words"),
    [
        ("namespace", "nowhere", "namespace", "there is no nowhere"),
        ("queue", "no-queue", "queue", "there is no no-queue"),
        ("pvc_name", "nothing", "claim", "team-a has no nothing"),
        ("image", None, "image", "none"),
        ("pvc_mount_path", "/elsewhere", "paths", "not on the claim"),
        ("kubeconfig", "~/.kube/none", "API", ".kube/none"),
        ("context", "other", "API", "other"),
    ],
)
def test_doctor_says_which_word_of_the_inventory_is_wrong(
    group: KubeSite, field: str, value: Any, what: str, words: str
):
    group.make(group.inventory(**{field: value}))
    bad = findings(group, code=4)[what]
    assert not bad["ok"]
    assert words in bad["detail"] + bad["fix"]
    assert bad["fix"]


def test_doctor_says_that_there_is_no_volcano(group: KubeSite):
    group.make(group.inventory())
    group.kube.no_volcano()
    found = findings(group, code=4)["volcano"]
    assert not found["ok"]
    assert "Volcano" in found["detail"] + found["fix"]


def test_doctor_says_that_the_queue_is_closed_and_what_a_queue_holds(group: KubeSite):
    group.kube.set_queue("small", {"nvidia.com/gpu": "8"})
    group.make(group.inventory(queue="small"))
    assert "0 of 8 nvidia.com/gpu in use" in findings(group)["queue"]["detail"]
    group.kube.set_queue("small", {"nvidia.com/gpu": "8"}, state="Closed")
    assert "takes no jobs" in findings(group, code=4)["queue"]["detail"]


def test_doctor_warns_of_a_claim_that_only_one_node_can_mount(group: KubeSite):
    group.make(group.inventory(pvc_name="narrow"))
    group.kube.claim("narrow", "ReadWriteOnce")
    found = findings(group, code=4)["claim"]
    assert "max_nodes: 1" in found["fix"]


def test_doctor_says_why_a_helper_does_not_come(group: KubeSite):
    group.make(group.inventory(helper_timeout="4s"))
    group.kube.pull_fails("registry/train:1")
    found = findings(group, code=4)["helper pod"]
    assert "registry/train:1" in found["detail"]
    group.kube.wait(lambda: not group.helpers(), 20)


def test_a_mount_of_the_cluster_is_ignored_and_that_is_said(group: KubeSite):
    inventory = group.inventory()
    inventory["clusters"]["k8s"]["mount"] = "redis://:canary-9@host/1"
    group.make(inventory)
    group.gang("t", ["true"])
    group.commit()
    for command in ("validate", "plan", "doctor"):
        said = group(command)
        assert "`mount` (JuiceFS)" in said.out + said.err, said
        assert "ignored" in said.out + said.err
        assert "canary" not in said.out + said.err


# --- hosts


def test_hosts_shows_the_queue_and_what_a_node_holds(group: KubeSite):
    group.kube.set_queue("small", {"nvidia.com/gpu": "16"})
    group.make(group.inventory(queue="small"))
    group.gang("t", ["sleep", "600"], chips=8)
    group.commit()
    ok(group("apply", "--yes"))
    group.phase("t", "Running")
    said = ok(group("hosts"))
    assert "8 h100 a node" in said.out
    assert "queue small: 8 of 16 accelerators in use" in said.out
    (row,) = ok(group("hosts", "--json")).json["hosts"]
    assert (row["chips"], row["free"]) == ({"h100": 16}, {"h100": 8})


def test_hosts_says_that_a_queue_has_no_limit_or_is_not_there(group: KubeSite):
    group.make(group.inventory())
    assert "queue default: 0 accelerators in use, no limit" in ok(group("hosts")).out
    (group.repo / "manifests" / "inventory.yaml").write_text(yaml.safe_dump(group.inventory(queue="x")))
    assert "the cluster has no queue x (it has: default, root)" in ok(group("hosts")).out


# --- discovery


def test_discover_writes_an_inventory_entry_that_works(group: KubeSite):
    group.kube.set_queue("small", {"nvidia.com/gpu": "16"})
    group.kube.claim("narrow", "ReadWriteOnce")
    group.kube.add_node("h", **{**NODE, "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}})
    group.make(group.inventory())
    group.env["KUBECONFIG"] = str(group.kube.kubeconfig)
    said = ok(group("hosts", "--discover", "kube:emulator"))
    assert "4 nodes, 4 with accelerators" in said.err
    assert "also 1 node with 8 NVIDIA-H100-80GB-HBM3" in said.err
    assert "small (0 of 16 nvidia.com/gpu in use) are open, too" in said.out
    assert "narrow (ReadWriteOnce, 1Gi, Bound)" in said.out
    entry = yaml.safe_load(said.out)["hosts"]["emulator"]
    assert (entry["namespace"], entry["queue"], entry["pvc_name"]) == ("team-a", "default", "data")
    assert entry["chips"] == {"gpu": 8}
    # With the two words filled in that nobody can know, and the claim where the emulator has it, it drives jobs.
    whole = group.inventory()
    mount = {"pvc_mount_path": str(group.shared), "cpu": "2", "memory": "4Gi", "cpu_cpu": "1", "cpu_memory": "1Gi"}
    whole["hosts"] = {"emulator": {**entry, "cluster": "k8s", "image": "registry/train:1", **mount}}
    (group.repo / "manifests" / "inventory.yaml").write_text(yaml.safe_dump(whole))
    group.job("t", ["true"], request={"chip": "gpu", "min_chips": 16})
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"


def test_discover_calls_chips_by_the_nodes_labels(tmp_path: Path):
    labels = {"labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}
    with kube_site(tmp_path, nodes={"a": {**NODE, **labels}, "b": {**NODE, **labels}}) as group:
        group.make(group.inventory())
        said = ok(group("hosts", "--discover", "k8s"))
        entry = yaml.safe_load(said.out)["hosts"]["k8s"]
        assert entry["chips"] == {"h100": 8}
        assert entry["cluster"] == "k8s"
        assert "node_selector" not in entry


def test_discover_says_what_it_may_not_list(group: KubeSite):
    for kind in ("nodes", "namespaces"):
        group.kube.deny("list", kind)
    group.make(group.inventory())
    group.env["KUBECONFIG"] = str(group.kube.kubeconfig)
    said = ok(group("hosts", "--discover", "kube:"))
    assert "nodes could not be listed" in said.err
    assert "namespaces could not be listed" in said.err
    entry = yaml.safe_load(said.out)["hosts"]["kubernetes"]
    assert entry["namespace"] == "team-a"  # as the context says
    assert "chips" not in entry


# --- logs


def test_logs_of_all_pods_are_followed_line_by_line(group: KubeSite):
    group.make(group.inventory())
    group.gang("t", 'for i in 1 2 3; do echo "says $i"; sleep 0.3; done; printf "no end"')
    group.commit()
    ok(group("apply", "--yes"))
    said = ok(group("logs", "-f", "t", "--all"))
    lines = said.out.splitlines()
    for rank in range(2):
        mine = [line for line in lines if line.startswith(f"{rank}: ")]
        assert mine == [f"{rank}: says {i}" for i in (1, 2, 3)] + [f"{rank}: no end"]
    assert len(lines) == 8
    again = ok(group("logs", "t", "--all", "--tail", "6"))
    assert sorted(again.out.splitlines()) == ["0: no end", "1: no end"]


def test_all_and_one_worker_exclude_each_other(group: KubeSite):
    group.make(group.inventory())
    said = group("logs", "t", "--all", "--worker", "1")
    assert said.code == 1
    assert "give one of them" in said.err

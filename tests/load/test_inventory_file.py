from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import ManifestError
from reconciler.core.inventory import (
    Inventory,
    LocalHost,
    Partition,
    PlainHost,
    SlurmHost,
    Toleration,
    TpuHost,
    VolcanoHost,
)
from reconciler.core.job import SecretRef
from reconciler.core.secret import Secret
from reconciler.load.documents import load_documents
from reconciler.load.inventory import builtin, find_inventory, load_inventory, parse_inventory
from reconciler.load.references import check_references

RECORDS = Path(__file__).parents[1] / "records" / "inventory"
HOME = Path("/home/user")
STATE = Path("/state")
CLUSTER = "clusters: {c: {root: /r, work: /w}}\n"


def parse(text: str) -> Inventory:
    return parse_inventory(text.encode(), "i.yaml", home=HOME, state_dir=STATE)


def told(text: str) -> str:
    with pytest.raises(ManifestError) as raised:
        parse(text)
    return str(raised.value)


def record(name: str) -> Inventory:
    return load_inventory(RECORDS / f"{name}.yaml", home=HOME, state_dir=STATE)


def host(inventory: Inventory, name: str) -> Any:
    return inventory.hosts[name]


def test_the_inventory_with_every_type_of_host_loads_unchanged() -> None:
    found = record("dispatch")
    assert found.order == ("login1", "workstation", "tpu-pod", "k8s-cluster")
    assert [type(each) for each in found.ordered()] == [SlurmHost, PlainHost, TpuHost, VolcanoHost]
    assert found.gres_mapping == {"h100": "h100", "a100-sxm4-80gb": "a100"}
    cluster = found.clusters["hpc"]
    assert (cluster.log, cluster.share, cluster.status) == (
        "/scratch/theseus/logs",
        "/scratch/theseus/.dispatch",
        "/mnt/data/theseus/status",
    )
    assert cluster.mount is not None
    assert cluster.mount.url == Secret("redis://:pw@redis.example.com:6379/0")
    assert cluster.mount.all_squash == "1000:1000"
    assert ":pw@" not in repr(found)
    login, tpu, volcano = host(found, "login1"), host(found, "tpu-pod"), host(found, "k8s-cluster")
    assert login.partitions == (Partition("gpu", default=True), Partition("gpu-preempt"))
    assert (login.account, login.qos, login.mem, login.exclude) == ("myproject", "normal", "128G", ("bad-node-01",))
    assert login.chips is None
    assert host(found, "workstation").chips == {"h100": 8}
    assert (tpu.accelerator_type, tpu.spot, tpu.metadata) == ("v4-32", True, {"startup-script": "echo hello"})
    assert volcano.tolerations == (Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),)
    assert (volcano.rdma, volcano.cpu, volcano.env) == (True, "32", {"NCCL_DEBUG": "INFO"})


def test_the_inventory_with_the_guides_fields_loads_unchanged() -> None:
    found = record("guide")
    assert found.gres_mapping == {"h100": "h100_80gb", "a100-sxm4-80gb": "a100_80g"}
    login = host(found, "login1")
    assert login.partitions[1] == Partition("gpu-preempt", default=True, constraint="a100|h100")
    assert (login.cpu_partitions, login.chips) == ((Partition("cpu"),), {"h100": 16})


def test_the_volcano_inventory_loads_unchanged() -> None:
    volcano = host(record("volcano"), "gpu-cluster")
    assert (volcano.num_nodes, volcano.gpus_per_node, volcano.chips, volcano.uv_groups) == (4, 8, {"h100": 8}, ("gpu",))
    assert (volcano.memory, volcano.shm_size, volcano.max_nodes) == ("256Gi", "64Gi", None)


def test_every_field_of_the_seeds_table_is_read() -> None:
    found = parse("""
clusters:
  c: {root: /r/, work: /w, data: /d, checkpoints: /k, results: /e, status: /s, uv_dir: /u, share: /h, log: /l,
      wandb: key, wandb_entity: lab, wandb_project: lm, hf_token: {env: HF}}
hosts:
  s: {type: slurm, ssh: s, cluster: c, partitions_cpu: [x], annotations: {a: b},
      transport: openssh, connect_timeout: 20s}
  v: {type: volcano, cluster: c, chips: {my-label: 4}, cpu: 8, helper_resources: {requests.cpu: 2, limits.memory: 2Gi},
      tolerations: [{key: a, operator: Equal, value: b, effect: NoExecute, tolerationSeconds: 3}],
      cpu_cpu: 4, labels: {a: b}}
  p: {ssh: me@p, cluster: c, env: {A: b}, slots: 4, busy_mib: 500, python: /opt/python3}
proxy: me@host:~/mail
""")
    cluster = found.clusters["c"]
    assert (cluster.root, cluster.data, cluster.checkpoints, cluster.results, cluster.status) == (
        "/r",
        "/d",
        "/k",
        "/e",
        "/s",
    )
    assert cluster.secrets == {"WANDB_API_KEY": Secret("key"), "HF_TOKEN": SecretRef("env", "HF")}
    assert cluster.env == {"WANDB_ENTITY": "lab", "WANDB_PROJECT": "lm", "UV_CACHE_DIR": "/u"}
    slurm, volcano, plain = host(found, "s"), host(found, "v"), host(found, "p")
    assert (slurm.cpu_partitions, slurm.transport, slurm.connect_timeout_s) == ((Partition("x"),), "openssh", 20.0)
    assert (volcano.cpu, volcano.cpu_cpu) == ("8", "4")
    assert volcano.helper_resources == {"requests.cpu": "2", "limits.memory": "2Gi"}
    assert volcano.tolerations[0].toleration_seconds == 3
    assert (plain.slots, plain.busy_mib, plain.python, plain.type) == (4, 500, "/opt/python3", "plain")
    assert found.proxy == "me@host:~/mail"
    assert found.order == ("s", "v", "p")


def test_cpu_among_the_chips_of_a_plain_host_is_its_slots() -> None:
    plain = host(parse(CLUSTER + "hosts: {p: {ssh: p, cluster: c, chips: {cpu: 6, h100: 2}}}"), "p")
    assert (plain.slots, plain.chips) == (6, {"h100": 2})


def test_a_local_host_needs_no_cluster() -> None:
    found = parse("hosts: {me: {type: local}}")
    local = host(found, "me")
    assert isinstance(local, LocalHost)
    assert local.slots >= 1
    assert local.chips is None
    assert found.cluster_of("me").root == "/state/local"


def test_a_home_directory_is_expanded_only_where_it_is_this_machine() -> None:
    found = parse("clusters: {c: {root: ~/runs, work: /w}}\nhosts: {me: {type: local, cluster: c}}")
    assert found.clusters["c"].root == "/home/user/runs"
    assert "write the absolute path" in told(
        "clusters: {c: {root: ~/runs, work: /w}}\nhosts: {p: {ssh: p, cluster: c}}"
    )


WRONG = {
    CLUSTER + "hosts: {p: {ssh: p, cluster: d}}": "i.yaml:2: hosts.p.cluster: no cluster is called 'd': expected c",
    "clusters: {hpc: {root: /r, work: /w}}\nhosts: {p: {ssh: p, cluster: hcp}}": "did you mean 'hpc'?",
    "hosts: {p: {ssh: p, cluster: d}}": "there are no clusters",
    "hosts: {p: {ssh: p, cluster: local}}": "no cluster is called 'local'",
    CLUSTER
    + "hosts: {desk: {ssh: p, cluster: c}}\npriority: [dsk]": "3: priority[0]: no host is called 'dsk'; did you mean",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c}}\npriority: [p, p]": "an entry stands there twice",
    CLUSTER + "hosts: {p: {type: slrum, ssh: p, cluster: c}}": "tpu, volcano or local; did you mean 'slurm'?",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c, chip: {h100: 8}}}": "hosts.p has no field 'chip'; did you mean 'chips'?",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c, partitions: [x]}}": "hosts.p has no field 'partitions'",
    CLUSTER + "hosts: {p: {cluster: c}}": "hosts.p needs ssh",
    CLUSTER + "hosts: {p: {ssh: -oProxyCommand=x, cluster: c}}": "hosts.p.ssh",
    CLUSTER
    + "hosts: {p: {ssh: p, cluster: c, chips: {h10: 8}}}": "2: hosts.p.chips.h10: no chip is called 'h10'; did you",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c, chips: {h100: -8}}}": "-8 is too small",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c, env: {RECONCILER_A: x}}}": "reserved",
    CLUSTER + "hosts: {p q: {ssh: p, cluster: c}}": "'p q' is not a name",
    CLUSTER + "hosts: {s: {type: slurm, ssh: p, cluster: c, cpu_partitions: [a], partitions_cpu: [a]}}": "older name",
    CLUSTER + "hosts: {s: {type: slurm, ssh: p, cluster: c, mem: 128GB}}": "Slurm's notation",
    CLUSTER + "hosts: {t: {type: tpu, cluster: c, accelerator_type: v99-8}}": "a TPU that is not known here",
    CLUSTER + "hosts: {t: {type: tpu, cluster: c, spot: true, preemptible: true}}": "either spot or preemptible",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c}}\ngres_mapping: {h10: x}": "i.yaml:3: gres_mapping.h10: no chip",
    CLUSTER + "hosts: {p: {ssh: p, cluster: c}}\nmount: /x\nproxy: a:/b": "two ways to the same mailbox",
    CLUSTER + "hosts:\n": "i.yaml:2: hosts: nothing is written here: expected a mapping",
    CLUSTER + "hosts: {}\n": "hosts: it is empty",
    CLUSTER: "needs hosts",
    "clusters: {c: {root: r, work: /w}}\nhosts: {p: {ssh: p, cluster: c}}": 'root: "r" is not an absolute path',
    "clusters: {c: {root: /r}}\nhosts: {p: {ssh: p, cluster: c}}": "clusters.c needs work",
    "": "empty",
    "hosts: [\n": "Not YAML",
    "hosts: {me: {type: local}}\n---\nhosts: {}\n": "one document",
    "clusters: {c: {root: /r, work: /w, all_squash: 1000}}\nhosts: {p: {ssh: p, cluster: c}}": 'write "1000"',
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_inventory_is_told_with_file_and_line(text: str) -> None:
    message = told(text)
    assert message.startswith("i.yaml:") or text == ""
    assert WRONG[text] in message


@pytest.mark.parametrize(
    "written",
    [
        "[hunter2]",
        "hunter2: 1",
        "{evn: hunter2}",
        "0123456",
        "{hunter2: 1, hunter2: 1}",
        "!!str hunter2",
        "{env: hunter 2}",
    ],
)
@pytest.mark.parametrize("field", ["wandb", "hf_token", "mount"])
def test_a_wrong_credential_is_told_without_its_value(field: str, written: str) -> None:
    written = f"\n      {written}" if written == "hunter2: 1" else written
    message = told(
        f"clusters:\n  c.d:\n    root: /r\n    work: /w\n    {field}: {written}\nhosts: {{p: {{ssh: p, cluster: c}}}}\n"
    )
    assert "hunter" not in message
    assert "0123456" not in message
    assert message.startswith("i.yaml:")


def test_the_digest_follows_everything_but_secrets_and_comments() -> None:
    text = (
        "clusters: {c: {root: /r, work: /w, wandb: one}}\nhosts: {a: {ssh: a, cluster: c}, b: {ssh: b, cluster: c}}\n"
    )
    first = parse(text).digest
    assert first == parse("# note\n" + text.replace("one", "two")).digest
    assert first != parse(text.replace("ssh: a", "ssh: z")).digest
    assert first != parse(text.replace("one", "{env: X}")).digest
    swapped = (
        "clusters: {c: {root: /r, work: /w, wandb: one}}\nhosts: {b: {ssh: b, cluster: c}, a: {ssh: a, cluster: c}}\n"
    )
    assert first != parse(swapped).digest


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_manifest_error(data: bytes) -> None:
    try:
        parse_inventory(data, "i.yaml", home=HOME, state_dir=STATE)
    except ManifestError as error:
        assert error.problems  # noqa: PT017


# ---- where it is looked for ------------------------------------------------------------------------------


def one(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"hosts: {{{name}: {{type: local}}}}")
    return path


def test_the_search_goes_from_the_flag_to_the_built_in_host(tmp_path: Path) -> None:
    home, manifests = tmp_path / "home", tmp_path / "manifests"

    def found(explicit: Path | None = None, env: dict[str, str] | None = None) -> str:
        inventory = find_inventory(explicit, env=env or {}, manifests_dir=manifests, home=home, state_dir=tmp_path)
        return inventory.order[0]

    assert found() == "local"
    one(home / ".theseus.yaml", "theseus")
    assert found() == "theseus"
    one(home / ".reconciler.yaml", "ours")
    assert found() == "ours"
    one(manifests / "inventory.yaml", "beside")
    assert found() == "beside"
    variable = {"RECONCILER_INVENTORY": str(one(tmp_path / "v.yaml", "variable"))}
    assert found(env=variable) == "variable"
    assert found(one(tmp_path / "e.yaml", "explicit"), variable) == "explicit"


def test_an_inventory_asked_for_by_name_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.yaml: The inventory cannot be read: No such file"):
        find_inventory(tmp_path / "gone.yaml", env={}, manifests_dir=tmp_path, home=tmp_path, state_dir=tmp_path)


def test_the_built_in_host_lies_under_the_state_directory(tmp_path: Path) -> None:
    found = builtin(tmp_path)
    assert found.cluster_of("local").status == f"{tmp_path}/local/status"
    assert found.digest == builtin(tmp_path).digest != builtin(tmp_path / "x").digest


def test_names_in_jobs_must_be_in_the_inventory() -> None:
    inventory = parse(
        CLUSTER + "hosts: {desk: {ssh: p, cluster: c}, v: {type: volcano, cluster: c, chips: {my-chip: 8}}}"
    )

    def problems(request: str) -> str:
        head = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\n"
        text = f"{head}spec: {{command: [x], request: {{{request}}}}}"
        return "\n".join(map(str, check_references(load_documents([("a.yaml", text.encode())]).desired, inventory)))

    assert problems("chip: my-chip, clusters: [c], hosts: [desk]") == ""
    assert problems("chip: h100") == ""
    assert "names the chip 'h10'" in problems("chip: h10")
    assert "did you mean 'h100'" in problems("chip: h10")
    assert problems("clusters: [d]").endswith("names the cluster 'd', which the inventory does not have: expected c")
    assert "names the host 'dsk'" in problems("hosts: [dsk]")

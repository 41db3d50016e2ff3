"""What manifests and inventories say about Cloud TPU: `spec.tpu`, tpu hosts, limits and approval."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import ManifestError
from reconciler.core.inventory import Inventory, Limits, TpuHost
from reconciler.core.job import JobSpec, TpuOverrides
from reconciler.load.documents import Loaded, load_documents
from reconciler.load.inventory import parse_inventory
from reconciler.load.normal import decode

HEAD = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\nspec:\n  command: [run]\n"
CLUSTER = "clusters: {c: {root: /r, work: /w}}\n"
SMALL = "type: tpu, cluster: c, zone: us-central2-b, accelerator_type: v4-32"


def load(spec: str) -> Loaded:
    return load_documents([("a.yaml", f"{HEAD}{spec}".encode())])


def spec_of(text: str) -> JobSpec:
    loaded = load(text)
    assert loaded.problems == ()
    return decode(loaded.desired[0].normal)


def inventory(text: str) -> Inventory:
    return parse_inventory(text.encode(), "i.yaml", home=Path("/h"), state_dir=Path("/s"))


def tpu(fields: str, name: str = "pod") -> TpuHost:
    host = inventory(f"{CLUSTER}hosts: {{{name}: {{{fields}}}}}\n").hosts[name]
    assert isinstance(host, TpuHost)
    return host


def refused(text: str) -> str:
    with pytest.raises(ManifestError) as error:
        inventory(text)
    return str(error.value)


# ---- the inventory -------------------------------------------------------------------------------------------


def test_the_short_form_has_our_defaults() -> None:
    assert tpu(SMALL) == TpuHost("pod", "c", zone="us-central2-b", zones=("us-central2-b",), accelerator_type="v4-32")
    host = tpu(SMALL)
    assert (host.per_run, host.max_nodes, host.delete_on_exit, host.keep_for_s, host.ttl_s) == (
        False,
        1,
        "always",
        0,
        None,
    )
    assert (host.capacity_timeout_s, host.boot_timeout_s, host.cooldown_s, host.poll_s) == (86_400, 900, 600, 15)
    assert (host.control, host.endpoint, host.ssh_key, host.ssh_port) == (
        "auto",
        "",
        "~/.ssh/google_compute_engine",
        22,
    )


def test_every_field_becomes_typed() -> None:
    host = tpu(
        "type: tpu, cluster: c, zones: [us-east5-a, europe-west4-a], accelerator_type: v6e-16, version: v2-alpha-tpuv6e, "
        "spot: true, queued: 6h, per_run: true, max_nodes: 4, price_per_chip_hour: 1.2, delete_on_exit: success, keep_for: 10m, "
        "ttl: 2d, capacity_timeout: 4h, boot_timeout: 30m, cooldown: 0, self_delete: true, "
        "labels: {team: lm}, tags: [ssh-in], ssh_user: me, "
        "ssh_key: ~/.ssh/id_ed25519, ssh_port: 2222, connect_timeout: 5, control: gcloud, "
        "endpoint: 'http://127.0.0.1:8080', poll: 30s, python: /opt/python3, metadata: {a: b}, project: p, internal_ip: true",
        name="Any_Name.1",
    )
    assert host == TpuHost(
        "Any_Name.1",
        "c",
        zone="us-east5-a",
        zones=("us-east5-a", "europe-west4-a"),
        project="p",
        accelerator_type="v6e-16",
        version="v2-alpha-tpuv6e",
        spot=True,
        queued_s=21_600.0,
        per_run=True,
        max_nodes=4,
        price_per_chip_hour=1.2,
        delete_on_exit="success",
        keep_for_s=600.0,
        ttl_s=172_800.0,
        capacity_timeout_s=14_400.0,
        boot_timeout_s=1800.0,
        cooldown_s=0.0,
        self_delete=True,
        internal_ip=True,
        ssh_user="me",
        ssh_key="~/.ssh/id_ed25519",
        ssh_port=2222,
        connect_timeout_s=5.0,
        metadata={"a": "b"},
        labels={"team": "lm"},
        tags=("ssh-in",),
        control="gcloud",
        endpoint="http://127.0.0.1:8080",
        poll_s=30.0,
        python="/opt/python3",
    )


def test_null_is_the_default() -> None:
    assert tpu(f"{SMALL}, queued: null, ttl: null, price_per_chip_hour: null, ssh_user: null") == tpu(SMALL)


def test_limits_and_approval() -> None:
    plain = inventory(f"{CLUSTER}hosts: {{pod: {{{SMALL}}}}}\n")
    assert (plain.limits, plain.approve) == (Limits(), "ask")
    text = (
        f"{CLUSTER}hosts: {{pod: {{{SMALL}, price_per_chip_hour: 0}}}}\napprove: auto\n"
        "limits: {max_chips: 64, max_cost_per_hour: 100, max_cost_total: 0.5}\n"
    )
    set_ = inventory(text)
    assert (set_.limits, set_.approve) == (Limits(64, 100.0, 0.5), "auto")
    assert set_.digest != plain.digest


WRONG = {
    "type: tpu, cluster: c, accelerator_type: v4-32": "i.yaml:2: hosts.pod: a TPU host needs a zone",
    "type: tpu, cluster: c, zone: us-central2-b": "hosts.pod: a TPU host needs an accelerator_type",
    f"{SMALL}, zones: [us-east5-a]": "hosts.pod.zone: this is the short form of zones",
    f"{SMALL.replace('v4-32', 'v4-48')}": "pod.accelerator_type: Cloud TPU makes no 'v4-48'; did you mean 'v4-64' or",
    f"{SMALL.replace('v4-32', 'tpu7x-2x2x1')}": "the Cloud TPU API does not offer it",
    f"{SMALL}, spot: true, preemptible: true": "hosts.pod.preemptible: a VM is either spot or preemptible",
    f"{SMALL}, spot: true, reserved: true": "hosts.pod.reserved: a VM is either spot or reserved",
    f"{SMALL}, queued: 6h, preemptible: true": "hosts.pod.queued: a queued resource makes spot VMs or ordinary ones",
    f"{SMALL}, queued: 0": "hosts.pod.queued: 0 is too small",
    f"{SMALL}, ttl: 0s": "hosts.pod.ttl: it is shorter than a minute",
    f"{SMALL}, max_nodes: 2": "hosts.pod.max_nodes: there is one VM, with the host's name",
    f"{SMALL}, max_nodes: 0": "hosts.pod.max_nodes: 0 is too small",
    f"{SMALL}, price_per_chip_hour: -1": "hosts.pod.price_per_chip_hour: -1 is too small",
    f"{SMALL}, labels: {{Team: lm}}": "hosts.pod.labels.Team: 'Team' is not a label's key",
    f"{SMALL}, labels: {{team: Big}}": "hosts.pod.labels.team: 'Big' is not a label's value",
    f"{SMALL}, labels: {{reconciler-run: x}}": "hosts.pod.labels.reconciler-run: labels that start with 'reconciler-' are ours",
    f"{SMALL}, metadata: {{ssh-keys: 'me:ssh-rsa A'}}": "hosts.pod.metadata.ssh-keys: metadata 'ssh-keys' is ours to set",
    f"{SMALL}, metadata: {{reconciler-run: x}}": "metadata 'reconciler-run' is ours to set: remove it",
    f"{SMALL}, metadata: {{'a b': x}}": "'a b' is not a key of metadata",
    f"{SMALL}, tags: [SSH]": "is not a network tag",
    f"{SMALL}, delete_on_exit: allways": "did you mean 'always'?",
    f"{SMALL}, keep_for: soon": "is not a duration",
    f"{SMALL}, control: rest": "hosts.pod.control",
    f"{SMALL}, endpoint: 'https://x'": "is not an address such as",
    f"{SMALL}, ssh_port: 0": "hosts.pod.ssh_port: 0 is too small",
    f"{SMALL}, ssh_user: 'a b'": "is not the name of a user",
    f"{SMALL}, zoness: [a]": "hosts.pod has no field 'zoness'; did you mean 'zones'?",
}


@pytest.mark.parametrize("fields", WRONG)
def test_what_google_would_refuse_is_told_where_it_is_written(fields: str) -> None:
    told = refused(f"{CLUSTER}hosts: {{pod: {{{fields}}}}}\n")
    assert WRONG[fields] in told
    assert told.startswith("i.yaml:2: ")


def test_zones_are_checked_one_by_one() -> None:
    assert "is not a zone such as" in refused(
        f"{CLUSTER}hosts: {{pod: {{type: tpu, cluster: c, zones: [us-east5-a, Mars], accelerator_type: v4-8}}}}\n"
    )


@pytest.mark.parametrize("name", ["Pod", "my_pod", "pod.1", "1pod", "pod-", "p" * 63])
def test_a_host_that_names_the_vm_has_a_name_that_google_takes(name: str) -> None:
    text = f"{CLUSTER}hosts: {{{name}: {{{SMALL}}}}}\n"
    if name == "p" * 63:
        inventory(text)
        return
    assert f"{name!r} cannot be the name of a VM" in refused(text)
    assert "per_run: true" in refused(text)
    assert inventory(f"{CLUSTER}hosts: {{{name}: {{{SMALL}, per_run: true}}}}\n").hosts[name].type == "tpu"


def test_a_limit_on_costs_needs_prices() -> None:
    for limit in ("max_cost_per_hour", "max_cost_total"):
        told = refused(f"{CLUSTER}hosts: {{pod: {{{SMALL}}}, me: {{type: local}}}}\nlimits: {{{limit}: 10}}\n")
        assert f"i.yaml:2: hosts.pod: limits.{limit} needs the price of this host" in told
        assert "hosts.me" not in told
    inventory(f"{CLUSTER}hosts: {{pod: {{{SMALL}}}}}\nlimits: {{max_chips: 10}}\n")
    assert "limits.max_chips: -1 is too small" in refused(
        f"{CLUSTER}hosts: {{pod: {{{SMALL}}}}}\nlimits: {{max_chips: -1}}\n"
    )


# ---- spec.tpu ------------------------------------------------------------------------------------------------


def test_overrides_become_typed() -> None:
    spec = spec_of(
        "  tpu: {version: v2-alpha-tpuv6e, spot: false, preemptible: true, zones: [us-east5-a], delete_on_exit: never, "
        "keep_for: 1h, ttl: 2d, metadata: {a: b}, labels: {team: lm}}\n"
    )
    assert spec.tpu == TpuOverrides(
        version="v2-alpha-tpuv6e",
        spot=False,
        preemptible=True,
        zones=("us-east5-a",),
        delete_on_exit="never",
        keep_for_s=3600.0,
        ttl_s=172_800.0,
        metadata={"a": "b"},
        labels={"team": "lm"},
    )
    assert spec_of("").tpu == TpuOverrides()


def test_a_default_that_is_written_out_is_silence_and_false_is_not() -> None:
    silent = load("").desired[0]
    written = load("  tpu: {version: null, zones: [], spot: null, metadata: {}, ttl: null}\n").desired[0]
    assert (written.digest, written.spec_digest) == (silent.digest, silent.spec_digest)
    assert load("  tpu: {spot: false}\n").desired[0].digest != silent.digest


def test_what_concerns_the_end_of_the_vm_is_changed_in_place() -> None:
    silent = load("").desired[0]
    for text in ("delete_on_exit: never", "keep_for: 1h", "ttl: 1d"):
        edited = load(f"  tpu: {{{text}}}\n").desired[0]
        assert edited.digest == silent.digest
        assert edited.spec_digest != silent.spec_digest
    spot = load("  tpu: {spot: true}\n").desired[0]
    assert spot.digest != silent.digest
    assert load("  tpu: {spot: true, keep_for: 1h}\n").desired[0].digest == spot.digest


def test_what_an_older_version_passed_on_is_read() -> None:
    normal = load("  tpu: {spot: true}\n").desired[0].normal
    normal["spec"]["tpu"] = {"spot": True, "zone": "us-central2-b", "a": [1]}  # type: ignore[index, call-overload]
    assert decode(normal).tpu == TpuOverrides(spot=True)


WRONG_SPEC = {
    "tpu: {zone: us-central2-b}": "a.yaml:6: spec.tpu has no field 'zone'; did you mean 'zones'?",
    "tpu: {spot: true, preemptible: true}": "a.yaml:6: spec.tpu.preemptible: a VM is either spot or preemptible",
    "tpu: {spot: yes}": "a.yaml:6: ",
    "tpu: {labels: {Team: x}}": "spec.tpu.labels.Team: 'Team' is not a label's key",
    "tpu: {metadata: {ssh-keys: x}}": "spec.tpu.metadata.ssh-keys: metadata 'ssh-keys' is ours to set",
    "tpu: {metadata: {a: 1}}": 'write "1"',
    "tpu: {delete_on_exit: no-never}": "spec.tpu.delete_on_exit",
    "tpu: {ttl: 1s}": "spec.tpu.ttl: it is shorter than a minute",
    "tpu: {version: 'a b'}": "is not a version such as",
}


@pytest.mark.parametrize("text", WRONG_SPEC)
def test_a_wrong_override_is_told_where_it_is_written(text: str) -> None:
    loaded = load(f"  {text}\n")
    assert not loaded.desired
    assert WRONG_SPEC[text] in "\n".join(map(str, loaded.problems))

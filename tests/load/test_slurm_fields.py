"""What manifests and inventories say about Slurm: `spec.slurm`, `spec.restart.owner` and `cancelled`, slurm hosts."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.cause import Cause, budget
from reconciler.core.errors import ManifestError
from reconciler.core.inventory import SlurmHost
from reconciler.core.job import JobSpec, Restart, SlurmOverrides, VolcanoOverrides
from reconciler.load.directives import refusal_of
from reconciler.load.documents import Loaded, load_documents
from reconciler.load.inventory import parse_inventory
from reconciler.load.normal import decode
from reconciler.load.schema import accepts

HEAD = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\nspec:\n  command: [run]\n"


def load(spec: str) -> Loaded:
    return load_documents([("a.yaml", f"{HEAD}{spec}".encode())])


def spec_of(text: str) -> JobSpec:
    loaded = load(text)
    assert loaded.problems == ()
    return decode(loaded.desired[0].normal)


def told(text: str) -> str:
    loaded = load(text)
    assert not loaded.desired
    return "\n".join(map(str, loaded.problems))


def test_every_override_becomes_typed() -> None:
    spec = spec_of(r"""
  slurm:
    partition: gpu,gpu-long
    account: lab
    qos: high
    constraint: "[rack1|rack2]&a100"
    exclude: ["node[01-04]", node9]
    nodelist: [node07]
    exclusive: true
    cpus_per_node: 16
    mem: "0"
    nodes: 2
    directives: [--reservation=maint, --contiguous, "--licenses=a:4,b"]
    warn: 5m
""")
    assert spec.slurm == SlurmOverrides(
        partition="gpu,gpu-long",
        account="lab",
        qos="high",
        constraint="[rack1|rack2]&a100",
        exclude=("node[01-04]", "node9"),
        nodelist=("node07",),
        exclusive=True,
        cpus_per_node=16,
        mem="0",
        nodes=2,
        directives=("--reservation=maint", "--contiguous", "--licenses=a:4,b"),
        warn_s=300,
    )
    assert spec.volcano == VolcanoOverrides()


def test_a_default_that_is_written_out_is_silence() -> None:
    text = "  slurm: {partition: null, exclude: [], exclusive: false, nodes: null, warn: null}\n"
    assert load(text).desired[0].digest == load("").desired[0].digest
    assert spec_of(text).slurm == SlurmOverrides()


def test_overrides_of_several_backends_stand_beside_each_other() -> None:
    spec = spec_of("  volcano: {image: a, cpu: 2}\n  slurm: {qos: x}\n")
    assert (spec.volcano, spec.slurm.qos) == (VolcanoOverrides(image="a", cpu="2"), "x")


def test_who_requeues_and_how_often_others_may_cancel() -> None:
    spec = spec_of("  restart: {owner: slurm, cancelled: unlimited}\n")
    assert (spec.restart.owner, spec.restart.cancelled) == ("slurm", None)
    assert budget(spec.restart, Cause.CANCELLED) is None
    assert budget(Restart(), Cause.CANCELLED) == 0
    assert budget(Restart(cancelled=2), Cause.CANCELLED) == 2
    assert budget(Restart(cancelled=2), Cause.FENCED) == 0


def test_who_requeues_is_changed_in_place() -> None:
    first, second = load("").desired[0], load("  restart: {owner: slurm, cancelled: 1}\n").desired[0]
    assert first.digest == second.digest
    assert first.spec_digest != second.spec_digest
    written_out = load("  restart: {owner: reconciler, cancelled: 0}\n").desired[0]
    assert written_out.spec_digest == first.spec_digest


WRONG = {
    "slurm: {partiton: gpu}": "a.yaml:6: spec.slurm has no field 'partiton'; did you mean 'partition'?",
    "slurm: {gres: gpu}": "a.yaml:6: spec.slurm has no field 'gres': expected account, constraint,",
    "slurm: {account: 17}": 'spec.slurm.account: 17 is a number and text is expected here: write "17"',
    "slurm: {mem: 64}": 'spec.slurm.mem: 64 is a number and text is expected here: write "64"',
    "slurm: {mem: 64GB}": "is not an amount in Slurm's notation",
    "slurm: {nodes: 0}": "spec.slurm.nodes: 0 is too small",
    "slurm: {cpus_per_node: 1.5}": "spec.slurm.cpus_per_node: 1.5 is not a whole number",
    "slurm: {exclusive: user}": "is text: expected true or false",
    "slurm: {exclude: node1}": 'expected a list, such as ["node1"]',
    "slurm: {nodelist: [a, a]}": "an entry stands there twice",
    "slurm: {nodelist: [a, b], exclude: [b]}": "node b is both asked for and excluded",
    "slurm: {directives: [-p gpu]}": "is not an option of sbatch, such as",
    "slurm: {directives: [--reservation maint]}": "is not an option of sbatch, such as",
    "slurm: {directives: [--mail-user=]}": "is not an option of sbatch, such as",
    "slurm: {directives: [--job-name=x]}": "spec.slurm.directives[0]: --job-name cannot be set here: use metadata.name",
    "slurm: {directives: [--contiguous, --array=0-3]}": "spec.slurm.directives[1]: --array cannot be set here: use spec.sw",
    "slurm: {directives: [--no-requeue]}": "use spec.restart instead",
    "slurm: {directives: [--out=x]}": "--out cannot be set here: use `reconciler logs` instead",
    "slurm: {directives: [--open-mode=append]}": "--open-mode cannot be set here: the reconciler sets it",
    "slurm: {directives: [--test-only]}": "use `reconciler plan` instead",
    "slurm: {warn: 1:30}": "1:30 is read by YAML as a number in base 60",
    "slurm: {warn: 0}": "spec.slurm.warn: 0 is too small",
    "slurm: {warn: 1h}\n  request: {time: 1h}": "spec.slurm.warn: the warning would come before the run has started",
    "restart: {owner: slrum}": "expected reconciler or slurm; did you mean 'slurm'?",
    "restart: {cancelled: -1}": "spec.restart.cancelled: -1 is too small",
    "restart: {cancelled: twice}": 'is not a whole number or "unlimited"',
}


@pytest.mark.parametrize("spec", WRONG)
def test_a_wrong_field_is_told_with_its_line(spec: str) -> None:
    message = told(f"  {spec}\n")
    assert message.startswith("a.yaml:6: ")
    assert WRONG[spec] in message


HOSTILE = ["a\nb", "a\r", 'a"b', "a'b", "a b", "a\tb", "a\\", "a#b", "a\x7f", "a\x85b", "a\u2028b", "a\x1b[31m", ""]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "exclude", "nodelist", "directives"])
def test_text_that_would_break_a_line_of_the_script_is_refused(field: str, text: str) -> None:
    value = f"--mail-user={text}" if field == "directives" else text
    written = json.dumps([value] if field in ("exclude", "nodelist", "directives") else value)
    message = told(f"  slurm:\n    {field}: {written}\n")
    assert message.startswith("a.yaml:7: spec.slurm.")


@given(st.text(max_size=20), st.sampled_from(["partition", "account", "qos", "constraint"]))
def test_no_text_that_is_taken_can_end_a_line_or_a_word(text: str, field: str) -> None:
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": "a"}}
    if accepts("job", {**document, "spec": {"command": ["x"], "slurm": {field: text}}}):
        assert text.split() == [text]
        assert not any(unicodedata.category(character) == "Cc" for character in text)
        assert not set(text) & set("\"'\\#\n\r\0")


@pytest.mark.parametrize(
    "option",
    [
        "mail-type=END",
        "reservation=x",
        "mem-per-cpu=1G",
        "export-file=x",
        "time-min=1",
        "nice",
        "no-kill",
        "begin=now+1h",
    ],
)
def test_other_options_of_sbatch_are_taken(option: str) -> None:
    assert refusal_of(f"--{option}", host=False) == refusal_of(f"--{option}", host=True) == ""


# ---- hosts -----------------------------------------------------------------------------------------------------


def host(fields: str) -> SlurmHost:
    text = (
        f"clusters: {{c: {{root: /r, work: /w}}}}\nhosts:\n  s:\n    type: slurm\n    ssh: s\n    cluster: c\n{fields}"
    )
    inventory = parse_inventory(text.encode(), "i.yaml", home=Path("/home"), state_dir=Path("/state"))
    found = inventory.hosts["s"]
    assert isinstance(found, SlurmHost)
    return found


def test_a_host_says_what_every_job_on_it_gets() -> None:
    found = host("""\
    directives: [--mail-type=END]
    cpus_per_node: 8
    time: 12h
    modules: [cuda/12.4, gcc]
    setup: [source /etc/site.sh, 'export X="a b"']
""")
    assert (found.directives, found.cpus_per_node, found.time_s) == (("--mail-type=END",), 8, 43_200)
    assert (found.modules, found.setup) == (("cuda/12.4", "gcc"), ("source /etc/site.sh", 'export X="a b"'))
    assert host("") == SlurmHost("s", "c", "s")
    assert host("    time: null\n    cpus_per_node: null\n") == SlurmHost("s", "c", "s")


WRONG_HOST = {
    "directives: [--partition=x]": "i.yaml:7: hosts.s.directives[0]: --partition cannot be set here: use partitions",
    "directives: [--signal=B:USR1@60]": "use spec.slurm.warn of the job instead",
    "directives: [contiguous]": "is not an option of sbatch",
    "time: 1:30": "base 60",
    "cpus_per_node: 0": "too small",
    "account: a b": "is not text without blanks",
    "partitions: ['a\"b']": "is not text without blanks",
    "partitions: [{name: 'a b'}]": "is not text without blanks",
    "exclude: ['a\\b']": "is not text without blanks",
    "setup: source x": "expected a list",
}


@pytest.mark.parametrize("fields", WRONG_HOST)
def test_a_wrong_host_is_told_with_its_line(fields: str) -> None:
    with pytest.raises(ManifestError) as raised:
        host(f"    {fields}\n")
    assert str(raised.value).startswith("i.yaml:7: ")
    assert WRONG_HOST[fields] in str(raised.value)

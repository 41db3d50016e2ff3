"""What scontrol says of machines, partitions and limits: recorded where the lab can produce it, hand-made lines for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.backends import slurm_capacity
from reconciler.backends.dialect import Answer
from reconciler.backends.slurm import SlurmDialect
from reconciler.backends.slurm_capacity import duration_s, expand_hostlist, gpus_of, is_usable
from reconciler.core.errors import Unparsable
from reconciler.core.queue import QueueCapacity, QueueLimits
from tests.backends.slurm_records import ANSWERS, RECORDS, recorded

SLURM = SlurmDialect()


def capacity(moment: str) -> QueueCapacity:
    """Recorded; the configuration was asked once."""
    answers = {part: recorded(f"capacity-{moment}-{part}") for part in ("nodes", "partitions")}
    return SLURM.parse_capacity({**answers, "config": recorded("capacity-idle-config")})


def node(**fields: str) -> str:
    """Hand-made: one line of `scontrol show node -d -o`."""
    defaults = {
        "NodeName": "n1",
        "CPUTot": "8",
        "Gres": "(null)",
        "GresUsed": "gpu:0",
        "RealMemory": "1",
        "State": "IDLE",
    }
    return " ".join(f"{key}={value}" for key, value in {**defaults, **fields}.items()) + "\n"


def partition(**fields: str) -> str:
    """Hand-made: one line of `scontrol show partition -o`."""
    defaults = {"PartitionName": "p", "MaxTime": "UNLIMITED", "Nodes": "n1", "State": "UP"}
    return " ".join(f"{key}={value}" for key, value in {**defaults, **fields}.items()) + "\n"


# --- recorded


def test_an_idle_cluster() -> None:
    seen = capacity("idle")
    assert set(seen.nodes) == {"cpu01", "cpu02", "ga01", "gh01", "gh02"}
    assert all(node.usable and not node.used for node in seen.nodes.values())
    gh01 = seen.nodes["gh01"]
    assert (gh01.gpus, gh01.free("h100"), gh01.cpus, gh01.memory_mib, gh01.features) == (
        {"h100": 8}, 8, 32, 16000, frozenset({"h100"}),
    )  # fmt: skip
    gpu = seen.partitions["gpu"]
    assert (gpu.up, gpu.default, gpu.nodes, gpu.time_max_s, gpu.time_default_s, gpu.nodes_max, gpu.accounts) == (
        True, True, ("ga01", "gh01", "gh02"), 2 * 86400, 3600, None, None,
    )  # fmt: skip
    assert not seen.partitions["cpu"].default
    assert [node.name for node in seen.of("cpu")] == ["cpu01", "cpu02"]


def test_limits() -> None:
    """MaxArraySize is 10001: 0-10000 was accepted by the real one and 0-10001 refused."""
    assert capacity("idle").limits == QueueLimits(
        version="22.05.8", cluster="lab", array_max=10001, remembered_s=300, kill_wait_s=3, accounting=True,
    )  # fmt: skip


def test_used_accelerators_are_counted_per_type() -> None:
    nodes = capacity("running").nodes
    assert (nodes["ga01"].free("a100"), nodes["ga01"].cpus_used, nodes["gh01"].free("h100")) == (2, 1, 0)


def test_a_drained_and_a_down_machine_take_nothing_whatever_their_reason_says() -> None:
    """The recorded reason is "test: State=IDLE is no state"."""
    assert [name for name, node in capacity("drained").nodes.items() if not node.usable] == ["cpu02"]
    assert not capacity("drained").partitions["gpu-preempt"].up
    lost = capacity("down").nodes["ga01"]
    assert (lost.state, lost.usable, lost.free("a100")) == ("DOWN", False, 0)


def test_reserved_machines() -> None:
    nodes = slurm_capacity.nodes_from((RECORDS / "nodes-reserved.txt").read_text(encoding="utf-8"))
    assert {name: node.state for name, node in nodes.items() if not node.usable} == {
        "ga01": "IDLE+MAINTENANCE+RESERVED",
        "gh02": "IDLE+RESERVED",
    }


@pytest.mark.parametrize("part", ["nodes", "partitions"])
@pytest.mark.parametrize("answer", [recorded("capacity-controller-down-nodes"), None, Answer(0, "", "")], ids=repr)
def test_machines_that_could_not_be_asked(part: str, answer: Answer | None) -> None:
    answers = {name: recorded(f"capacity-idle-{name}") for name in ("nodes", "partitions", "config") if name != part}
    with pytest.raises(Unparsable):
        SLURM.parse_capacity(answers if answer is None else {**answers, part: answer})


def test_limits_that_could_not_be_asked_stay_unknown() -> None:
    answers = {name: recorded(f"capacity-idle-{name}") for name in ("nodes", "partitions")}
    assert SLURM.parse_capacity(answers).limits == QueueLimits()
    failed = {**answers, "config": recorded("capacity-controller-down-nodes")}
    assert SLURM.parse_capacity(failed).limits == QueueLimits()


@pytest.mark.parametrize("part", ["nodes", "partitions"])
def test_no_strict_prefix_passes_for_a_smaller_cluster(part: str) -> None:
    whole = recorded(f"capacity-running-{part}")
    seen = capacity("running")
    answers = {name: recorded(f"capacity-running-{name}") for name in ("nodes", "partitions")}
    answers["config"] = recorded("capacity-idle-config")
    for end in range(len(whole.stdout)):
        try:
            assert SLURM.parse_capacity({**answers, part: replace(whole, stdout=whole.stdout[:end])}) == seen
        except Unparsable:
            continue


def test_every_recorded_moment_is_read() -> None:
    for name in ANSWERS:
        if name.startswith("capacity-") and name.endswith("-nodes") and "controller" not in name:
            assert len(capacity(name.split("-")[1]).nodes) == 5


# --- hand-made: machines


@pytest.mark.parametrize("state", [
    "IDLE", "MIXED", "IDLE+CLOUD", "IDLE+CLOUD+POWERED_DOWN", "IDLE+POWERED_DOWN", "IDLE~", "IDLE#", "MIXED+CLOUD",
    "IDLE+DYNAMIC_NORM", "IDLE+POWER",
])  # fmt: skip
def test_states_that_take_work(state: str) -> None:
    assert is_usable(state)


@pytest.mark.parametrize("state", [
    "ALLOCATED", "DOWN", "DOWN*", "DOWN+NOT_RESPONDING", "IDLE*", "IDLE+NOT_RESPONDING", "IDLE+DRAIN", "MIXED+DRAIN",
    "MIXED+PLANNED", "IDLE-", "IDLE+MAINTENANCE", "IDLE$", "IDLE+RESERVED", "IDLE+COMPLETING", "MIXED+COMPLETING",
    "IDLE+POWERING_DOWN", "IDLE%", "IDLE!", "IDLE@", "IDLE^", "IDLE+REBOOT_REQUESTED", "IDLE+FAIL", "UNKNOWN", "FUTURE",
    "ERROR", "IDLE+BLOCKED", "IDLE+SOMETHING_NEW", "IDLE*~", "idle", "", "IDLE?",
])  # fmt: skip
def test_states_that_take_none(state: str) -> None:
    assert not is_usable(state)


@pytest.mark.parametrize(("text", "counts"), [
    ("(null)", {}),
    ("", {}),
    ("gpu:8", {"": 8}),
    ("gpu", {"": 1}),
    ("gpu:h100", {"h100": 1}),
    ("gpu:h100:8", {"h100": 8}),
    ("gpu:h100:8(S:0-1)", {"h100": 8}),
    ("gres/gpu:h100:8", {"h100": 8}),
    ("gpu:a100-sxm4-80gb:4(S:0-1)", {"a100-sxm4-80gb": 4}),
    ("gpu:1g.5gb:7,gpu:2g.10gb:3", {"1g.5gb": 7, "2g.10gb": 3}),
    ("gpu:a100:2(IDX:0,2),gpu:h100:0(IDX:N/A),nic:mlx5:2(IDX:0-1)", {"a100": 2, "h100": 0}),
    ("gpu:h100:2(S:0),gpu:h100:2(S:1)", {"h100": 4}),
    ("shard:h100:32,mps:400,gpu:h100:8", {"h100": 8}),
    ("gpu:4090:2", {"4090": 2}),
    ("cpu=1,mem=1G,gres/gpu=2,gres/gpu:h100=2,gres/gpumem=3", {"": 2, "h100": 2}),
])  # fmt: skip
def test_gres(text: str, counts: dict[str, int]) -> None:
    assert gpus_of(text) == counts


@pytest.mark.parametrize(("fields", "free"), [
    ({"Gres": "gpu:a:4,gpu:b:4", "GresUsed": "gpu:a:1(IDX:0),gpu:b:0(IDX:N/A)"}, {"a": 3, "b": 4}),
    ({"Gres": "gpu:4", "GresUsed": "gpu:3(IDX:0,2-3)"}, {"": 1}),
    # Used ones without a type: rather too few free than too many.
    ({"Gres": "gpu:a:4,gpu:b:4", "GresUsed": "gpu:3"}, {"a": 1, "b": 1}),
    ({"Gres": "gpu:a:4", "State": "IDLE+DRAIN"}, {"a": 0}),
])  # fmt: skip
def test_free_accelerators(fields: dict[str, str], free: dict[str, int]) -> None:
    machine = slurm_capacity.nodes_from(node(**fields))["n1"]
    assert {kind: machine.free(kind) for kind in free} == free


def test_without_gres_used_the_allocated_resources_tell() -> None:
    line = node(Gres="gpu:h100:8", AllocTRES="cpu=1,gres/gpu=3,gres/gpu:h100=3").replace(" GresUsed=gpu:0", "")
    assert slurm_capacity.nodes_from(line)["n1"].free("h100") == 5
    line = node(Gres="gpu:h100:8", AllocTRES="cpu=1,gres/gpu=3").replace(" GresUsed=gpu:0", "")
    assert slurm_capacity.nodes_from(line)["n1"].free("h100") == 5


@pytest.mark.parametrize("prose", ["Reason", "Comment", "Extra"])
def test_prose_is_not_read_as_fields(prose: str) -> None:
    line = node(Gres="gpu:h100:8").replace(" GresUsed=gpu:0", "").rstrip("\n")
    assert slurm_capacity.nodes_from(f"{line} {prose}=see GresUsed=gpu:h100:8\n")["n1"].free("h100") == 8


def test_a_reason_of_several_lines_is_no_machine() -> None:
    nodes = slurm_capacity.nodes_from(node(State="DOWN", Reason="bad\nState=IDLE\n Gres=gpu:9") + node(NodeName="n2"))
    assert {name: machine.usable for name, machine in nodes.items()} == {"n1": False, "n2": True}


@pytest.mark.parametrize("text", ["NodeName=n1 State=IDLE\n", "NodeName=n1 Gres=(null)\n", "hello\n"])
def test_a_machine_without_its_state_or_gres_is_unparsable(text: str) -> None:
    with pytest.raises(Unparsable):
        slurm_capacity.nodes_from(text)


def test_a_cluster_without_machines() -> None:
    assert slurm_capacity.nodes_from("No nodes in the system\n") == {}
    assert slurm_capacity.partitions_from("No partitions in the system\n") == {}


# --- hand-made: partitions and limits


def test_partitions() -> None:
    seen = slurm_capacity.partitions_from(
        partition(PartitionName="a", Nodes="gh[01-03,07],ga01", AllowAccounts="x,y", MaxNodes="4", DefaultTime="30:00")
        + partition(PartitionName="b", Nodes="(null)", State="DRAIN", DefaultTime="NONE", MaxTime="12:00:00")
    )
    assert seen["a"].nodes == ("gh01", "gh02", "gh03", "gh07", "ga01")
    assert (seen["a"].accounts, seen["a"].nodes_max, seen["a"].time_default_s) == (frozenset({"x", "y"}), 4, 1800)
    assert (seen["a"].time_max_s, seen["b"].time_max_s, seen["b"].time_default_s) == (None, 43200, None)
    assert (seen["b"].up, seen["b"].nodes) == (False, ())


@pytest.mark.parametrize("fields", [{"Nodes": "gh[01-"}, {"MaxTime": "soon"}, {"DefaultTime": "1-"}])
def test_a_partition_that_cannot_be_read(fields: dict[str, str]) -> None:
    with pytest.raises(Unparsable):
        slurm_capacity.partitions_from(partition(**fields))


@pytest.mark.parametrize(("text", "seconds"), [
    ("2-00:00:00", 172800), ("1-12", 129600), ("1-02:30", 95400), ("30:00", 1800), ("30", 1800), ("01:00:00", 3600),
    ("UNLIMITED", None), ("INFINITE", None), ("NONE", None),
])  # fmt: skip
def test_times(text: str, seconds: int | None) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(("text", "limits"), [
    ("", QueueLimits()),
    ("AccountingStorageType = (null)\nJobRequeue = 0\n", QueueLimits(accounting=False)),
    ("AccountingStorageType=accounting_storage/none\n", QueueLimits(accounting=False)),
    ("MaxArraySize = 1001\nMaxJobCount = 500\n", QueueLimits(array_max=500)),
    ("MaxArraySize = 1001\nSchedulerParameters = a,max_array_tasks=100,b\n", QueueLimits(array_max=100)),
    ("MinJobAge = soon\nKillWait = 30 sec\n", QueueLimits(kill_wait_s=30)),
])  # fmt: skip
def test_limits_hand_made(text: str, limits: QueueLimits) -> None:
    assert slurm_capacity.limits_from(text) == limits


# --- lists of hosts


def test_as_slurm_expands_them() -> None:
    """Recorded: `scontrol show hostnames`."""
    command, *names = (RECORDS / "expand-hostlist.txt").read_text(encoding="utf-8").split("\n")[:4]
    assert expand_hostlist(command.split()[-1]) == tuple(names)


@pytest.mark.parametrize(("text", "names"), [
    ("", ""), ("a", "a"), ("a,b", "a b"), ("gh[01-03,07],ga01", "gh01 gh02 gh03 gh07 ga01"),
    ("n[8-11]", "n8 n9 n10 n11"), ("n[08-10]", "n08 n09 n10"), ("n[099-101]x", "n099x n100x n101x"),
    ("r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"), ("r[1-2]-n[3,5]-ib,x", "r1-n3-ib r1-n5-ib r2-n3-ib r2-n5-ib x"),
    ("[1-2]", "1 2"),
])  # fmt: skip
def test_lists(text: str, names: str) -> None:
    assert expand_hostlist(text) == tuple(names.split())


@pytest.mark.parametrize("text", [
    "a[1-2", "a]1-2[", "a[1-2]]", "a[[1]]", "a[]", "a[2-1]", "a[x]", "a,,b", ",a", "a,", "a b", "a[0-99999999]",
    "a[0-999]b[0-999]", "a[1-2,]", "a(b)",
])  # fmt: skip
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"not (a|the name)|more than"):
        expand_hostlist(text)


@given(st.text(st.sampled_from("ab01[],-"), max_size=14))
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    try:
        names = expand_hostlist(text)
    except ValueError:
        return
    assert all(name and not set("[],") & set(name) for name in names)


@given(st.lists(st.integers(0, 999), unique=True, min_size=1, max_size=20), st.integers(3, 5))
def test_numbers_keep_their_width(numbers: list[int], width: int) -> None:
    text = f"n[{','.join(f'{number:0{width}}' for number in numbers)}]"
    assert expand_hostlist(text) == tuple(f"n{number:0{width}}" for number in numbers)

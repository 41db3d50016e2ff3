"""Placement behind a queue: what must hold, what is free, and what is refused in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.job import Request, SlurmOverrides
from reconciler.core.observation import Capacity, Census
from reconciler.core.partitions import Cannot, Fit, PartitionWish, QueueView, fit
from reconciler.core.queue import QueueCapacity, QueueNode, QueuePartition
from reconciler.core.solve import HostView, Placement, Reservations, Unplaceable, place
from tests.worlds import HOST, census, gpus

DAY = 86_400


def node(name: str, count: int = 8, used: int = 0, *, kind: str = "h100", usable: bool = True) -> QueueNode:
    return QueueNode(name, usable, "IDLE", {kind: count}, {kind: used}, cpus=32)


def partition(name: str, *nodes: str, **more) -> QueuePartition:
    return QueuePartition(name, up=True, nodes=nodes, **{"time_max_s": 2 * DAY, **more})


def cluster(*nodes: QueueNode, partitions: tuple[QueuePartition, ...] = ()) -> QueueCapacity:
    found = partitions or (partition("gpu", *(one.name for one in nodes)),)
    return QueueCapacity({one.name: one for one in found}, {one.name: one for one in nodes})


def fitted(request: Request, capacity: QueueCapacity, view: QueueView | None = None, **slurm) -> Fit:
    found = fit(request, view or QueueView(), capacity, {}, SlurmOverrides(**slurm))
    assert isinstance(found, Fit), found
    return found


def refused(request: Request, capacity: QueueCapacity, view: QueueView | None = None, **slurm) -> Cannot:
    found = fit(request, view or QueueView(), capacity, {}, SlurmOverrides(**slurm))
    assert isinstance(found, Cannot), found
    return found


H100 = Request(chip="h100", min_chips=8)


def test_free_accelerators_are_counted_per_machine():
    scattered = cluster(*(node(f"n{number}", used=7) for number in range(8)))
    assert not fitted(H100, scattered).now
    assert fitted(H100, cluster(node("a"), node("b", used=8))).now


@pytest.mark.parametrize(
    ("chips", "shape"),
    [(16, (2, 8)), (8, (1, 8)), (1, (1, 1)), (12, (2, 6)), (9, (2, 5)), (11, (2, 6)), (24, (3, 8))],
)
def test_more_than_a_machine_has_goes_over_several_never_with_fewer_than_asked(chips, shape):
    found = fitted(Request(chip="h100", min_chips=chips), cluster(node("a"), node("b"), node("c")))
    assert (found.place["nodes"], found.place["gpus_per_node"]) == shape
    assert shape[0] * shape[1] >= chips


def test_more_machines_than_there_are_is_refused_for_good():
    found = refused(Request(chip="h100", min_chips=64), cluster(node("a"), node("b")))
    assert found.final
    assert "needs 8 machines with 8 h100" in found.why
    assert "has 2" in found.why


def test_the_number_of_machines_can_be_asked_for():
    found = fitted(Request(chip="h100", min_chips=2), cluster(node("a"), node("b")), nodes=2)
    assert (found.place["nodes"], found.place["gpus_per_node"]) == (2, 1)


def test_a_chip_goes_by_its_mapped_type_or_by_its_own_name():
    capacity = cluster(node("a", kind="h100_80gb"))
    view = QueueView(types={"h100": "h100_80gb"})
    assert fitted(H100, capacity, view).place["gpu_type"] == "h100_80gb"
    found = refused(H100, capacity)
    assert found.final
    assert "it has: h100_80gb" in found.why


def test_any_chip_takes_the_type_with_the_most_room_and_untyped_ones_stay_untyped():
    capacity = cluster(node("a", 8, 7), node("b", 4, 0, kind="a100"))
    assert fitted(Request(min_chips=2), capacity).place["gpu_type"] == "a100"
    assert fitted(Request(min_chips=2), cluster(node("a", kind=""))).place["gpu_type"] == ""


def test_a_drained_machine_has_nothing_free_and_still_counts_as_there():
    found = fitted(H100, cluster(node("a", usable=False), node("b", used=1)))
    assert not found.now
    assert found.free == 7


PARTITIONS = (
    partition("long", "a", "b", time_max_s=None),
    partition("short", "c", time_max_s=3600, nodes_max=1),
    partition("cpu", "d"),
)
CLUSTER = cluster(node("a"), node("b"), node("c"), QueueNode("d", True, "IDLE", cpus=64), partitions=PARTITIONS)


def test_the_inventorys_default_goes_first_then_the_most_free():
    wishes = (PartitionWish("long"), PartitionWish("short", default=True))
    assert fitted(H100, CLUSTER, QueueView(partitions=wishes)).place["partition"] == "short"
    plain = (PartitionWish("short"), PartitionWish("long"))
    assert fitted(H100, CLUSTER, QueueView(partitions=plain)).place["partition"] == "long"


def test_a_time_beyond_the_default_partition_goes_to_one_that_allows_it():
    wishes = (PartitionWish("short", default=True), PartitionWish("long"))
    found = fitted(replace(H100, time_s=2 * DAY), CLUSTER, QueueView(partitions=wishes))
    assert found.place["partition"] == "long"
    assert found.place["time_s"] == 2 * DAY


def test_a_time_that_no_partition_allows_is_refused_with_both_numbers():
    found = refused(replace(H100, time_s=2 * DAY), CLUSTER, QueueView(partitions=(PartitionWish("short"),)))
    assert found == Cannot("2d asked, partition short allows 1h", final=True)


def test_without_a_time_the_partitions_limit_is_asked_for():
    assert fitted(H100, CLUSTER, partition="short").place["time_s"] == 3600
    assert fitted(H100, CLUSTER, partition="long").place["time_s"] is None


def test_a_partition_that_does_not_exist_is_refused_with_those_that_do():
    found = refused(H100, CLUSTER, partition="gpus")
    assert found == Cannot("there is no partition gpus (the cluster has: cpu, long, short)", final=True)


def test_several_partitions_leave_the_choice_to_the_scheduler():
    capacity = cluster(
        node("a", used=8),
        node("b", used=8),
        partitions=(
            partition("gpu", "a"),
            partition("long", "b", time_max_s=9 * DAY),
            partition("short", "b", time_max_s=60),
            partition("cpu"),
        ),
    )
    found = fitted(Request(chip="h100", min_chips=8), capacity, partition="long,gpu,cpu")
    assert found.place["partition"] == "long,gpu"
    assert found.place["time_s"] == 2 * DAY
    assert found.words.startswith("partition long,gpu, 8 h100")
    asked = Request(chip="h100", min_chips=8, time_s=3 * DAY)
    assert fitted(asked, capacity, partition="gpu,long,short").place["partition"] == "long"
    assert "there is no partition nowhere" in refused(H100, capacity, partition="nowhere,cpu").why


def test_cpu_jobs_go_to_cpu_partitions_and_ask_for_no_accelerator():
    view = QueueView(partitions=(PartitionWish("long"),), cpu_partitions=(PartitionWish("cpu"),))
    found = fitted(Request(), CLUSTER, view)
    assert (found.place["partition"], found.place["gpus_per_node"]) == ("cpu", 0)
    assert fitted(Request(), CLUSTER, QueueView(partitions=(PartitionWish("long"),))).place["partition"] == "long"


def test_a_cpu_job_goes_to_a_partition_that_is_down_only_to_wait():
    down = cluster(node("a"), partitions=(partition("cpu", "a"),))
    closed = replace(down, partitions={"cpu": replace(down.partitions["cpu"], up=False)})
    assert fitted(Request(), down).now
    found = fitted(Request(), closed, QueueView(cpu_partitions=(PartitionWish("cpu"),)))
    assert not found.now
    assert "until the partition is up" in found.words


def test_an_account_that_the_partition_does_not_take_is_refused():
    closed = cluster(node("a"), partitions=(partition("gpu", "a", accounts=frozenset({"team-b"})),))
    found = refused(H100, closed, QueueView(account="team-a"))
    assert found == Cannot("partition gpu does not take account team-a (it takes: team-b)", final=True)
    assert fitted(H100, closed, QueueView(account="team-a"), account="team-b").now


def test_the_partitions_own_limit_of_machines_holds():
    found = refused(Request(chip="h100", min_chips=16), CLUSTER, partition="short")
    assert "needs 2 machines, partition short allows 1 a job" in found.why


def test_a_partition_that_is_down_lets_the_job_wait():
    down = cluster(node("a"), partitions=(replace(partition("gpu", "a"), up=False),))
    assert not fitted(H100, down, partition="gpu").now


# --- among hosts ------------------------------------------------------------------------------------------------------


def queue_host(name: str, capacity: QueueCapacity | None, *, error: str = "", **view) -> tuple[HostView, Census]:
    host = HostView(name, "slurm", "hpc", view.pop("chips", None), queue=QueueView(**view))
    return host, Census(name, True, capacity=Capacity(0, error=error, queue=capacity))


def among(request: Request, *hosts: tuple[HostView, Census], taken: Reservations | None = None):
    return place(
        request,
        [host for host, _ in hosts],
        {seen.host: seen for _, seen in hosts},
        taken or Reservations(),
        lambda gpu: "h100",
    )


BUSY = cluster(node("a", used=8), node("b", used=2))
FREE = cluster(node("c"))


def test_a_host_with_room_comes_before_a_queue_to_wait_in():
    found = among(H100, queue_host("busy", BUSY), queue_host("free", FREE))
    assert isinstance(found, Placement)
    assert found.host == "free"
    workstation = (replace(HOST, chips={"h100": 8}), census(gpus=gpus(8)))
    assert among(H100, queue_host("busy", BUSY), workstation).host == "ws"


def test_without_room_the_job_waits_where_most_is_free():
    found = among(H100, queue_host("full", cluster(node("z", used=8))), queue_host("busy", BUSY))
    assert isinstance(found, Placement)
    assert found.host == "busy"
    assert "waits in the queue (6 of 16 free, 0 of 1 machines ready)" in found.words


def test_what_one_job_of_the_pass_was_placed_for_is_not_free_for_the_next():
    taken = Reservations()
    host = queue_host("one", FREE)
    first = among(H100, host, taken=taken)
    assert first.machines == (("c", 8),)
    taken.promise("one", first.machines)
    assert "waits in the queue" in among(H100, host, taken=taken).words


def test_a_queue_that_could_not_be_asked_is_unknown_not_none():
    found = among(H100, queue_host("dark", None, error="slurm_load_partitions: Unable to contact slurm controller"))
    assert isinstance(found, Unplaceable)
    assert not found.final
    assert "Unable to contact" in found.sentence


def test_the_inventorys_cap_is_never_undercut_silently():
    found = among(Request(chip="h100", min_chips=16), queue_host("one", FREE, chips={"h100": 8}))
    assert isinstance(found, Unplaceable)
    assert found.sentence == "one: has 8 h100, 16 asked"
    odd = cluster(node("a", 5), node("b", 5))
    found = among(Request(chip="h100", min_chips=9), queue_host("one", odd, chips={"h100": 9}))
    assert isinstance(found, Unplaceable)
    assert "10 h100 are needed, the inventory grants 9 a job" in found.sentence


def test_what_no_load_can_mend_is_final_only_when_every_host_says_so():
    impossible = Request(chip="h100", min_chips=64)
    assert among(impossible, queue_host("one", FREE)).final
    assert not among(impossible, queue_host("one", FREE), queue_host("dark", None, error="down")).final


def test_unequal_machines_are_combined_as_they_are():
    nodes = [node(f"a{number}", 4) for number in range(4)]
    found = fitted(Request(chip="h100", min_chips=12), cluster(*nodes, node("b", 8)))
    assert (found.place["nodes"], found.place["gpus_per_node"]) == (3, 4)


def test_excluded_and_unnamed_machines_have_nothing_free_for_the_job():
    capacity = cluster(node("a"), node("b", used=8))
    assert fitted(H100, capacity).now
    assert not fitted(H100, capacity, exclude=("a",)).now
    assert not fitted(H100, capacity, QueueView(exclude=("a",))).now
    assert not fitted(H100, capacity, nodelist=("b",)).now


def test_a_cpu_job_prefers_a_host_whose_partition_is_up():
    down = cluster(node("a"), partitions=(replace(partition("cpu", "a"), up=False),))
    view = (PartitionWish("cpu"),)
    found = among(Request(), queue_host("dark", down, cpu_partitions=view), queue_host("lit", FREE))
    assert found.host == "lit"

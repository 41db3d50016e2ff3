"""How many pods of what shape, and whether their queue takes them."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.gangs import GangView, QueueRoom, fit
from reconciler.core.job import Request, VolcanoOverrides
from reconciler.core.observation import Capacity, Census
from reconciler.core.partitions import Cannot, Fit
from reconciler.core.solve import HostView, Placement, Reservations, Unplaceable, place

VIEW = GangView({"h100": 8, "a100": 4})
OPEN = {"default": QueueRoom("default", "Open", None)}


def fitted(request: Request, view: GangView = VIEW, rooms: Any = OPEN, **given: Any) -> Fit:
    found = fit(request, view, rooms, {}, VolcanoOverrides(**given))
    assert isinstance(found, Fit), found
    return found


def why(request: Request, view: GangView = VIEW, rooms: Any = OPEN, **given: Any) -> Cannot:
    found = fit(request, view, rooms, {}, VolcanoOverrides(**given))
    assert isinstance(found, Cannot), found
    return found


@pytest.mark.parametrize(
    ("chips", "nodes", "each"),
    [(1, 1, 1), (4, 1, 4), (8, 1, 8), (9, 2, 5), (12, 2, 6), (16, 2, 8), (17, 3, 6), (100, 13, 8)],
)
def test_as_few_nodes_as_hold_what_is_asked_and_never_less(chips: int, nodes: int, each: int) -> None:
    found = fitted(Request(chip="h100", min_chips=chips))
    assert (found.place["nodes"], found.place["gpus_per_node"]) == (nodes, each)
    assert nodes * each >= chips > (nodes - 1) * 8
    assert found.now


def test_no_chips_are_one_pod_without_any() -> None:
    found = fitted(Request())
    assert (found.place["nodes"], found.place["gpus_per_node"], found.place["gpu_type"]) == (1, 0, "")


def test_any_chip_is_one_whose_single_node_holds_all_else_the_largest() -> None:
    small_first = GangView({"a100": 4, "h100": 8})
    assert fitted(Request(min_chips=4), small_first).place["gpu_type"] == "a100"
    assert fitted(Request(min_chips=6), small_first).place["gpu_type"] == "h100"
    assert fitted(Request(min_chips=20), small_first).place["gpu_type"] == "h100"


def test_the_number_of_nodes_may_be_given() -> None:
    found = fitted(Request(chip="h100", min_chips=8), nodes=4)
    assert (found.place["nodes"], found.place["gpus_per_node"]) == (4, 2)
    assert "1 nodes hold 8 h100, 9 asked" in why(Request(chip="h100", min_chips=9), nodes=1).why
    assert fitted(Request(), nodes=3).place["nodes"] == 3


def test_the_inventorys_limit_is_final() -> None:
    limited = GangView({"h100": 8}, nodes_max=2)
    assert fitted(Request(chip="h100", min_chips=16), limited)
    refused = why(Request(chip="h100", min_chips=17), limited)
    assert refused.final
    assert "3 nodes are needed, the inventory grants 2" in refused.why


def test_a_chip_that_no_node_has() -> None:
    assert "has no b200 (its nodes have: h100, a100)" in why(Request(chip="b200", min_chips=1)).why
    assert "CPU only" in why(Request(min_chips=1), GangView({})).why


def test_a_queue_without_a_cap_has_room_for_everything() -> None:
    assert fitted(Request(chip="h100", min_chips=800)).now


def test_what_a_queue_has_given_out_is_not_free() -> None:
    rooms = {"default": QueueRoom("default", "Open", 16, used=9)}
    assert fitted(Request(chip="h100", min_chips=4), rooms=rooms).now
    waits = fitted(Request(chip="h100", min_chips=8), rooms=rooms)
    assert not waits.now
    assert "7 of 16 accelerators are free" in waits.words
    never = why(Request(chip="h100", min_chips=17), rooms=rooms)
    assert never.final
    assert "grants 16 accelerators in all, 18 are needed" in never.why


def test_what_the_same_pass_promised_is_not_free() -> None:
    rooms = {"default": QueueRoom("default", "Open", 8)}
    first = fitted(Request(chip="h100", min_chips=8), rooms=rooms)
    second = fit(Request(chip="h100", min_chips=1), VIEW, rooms, dict(first.taken), VolcanoOverrides())
    assert isinstance(second, Fit)
    assert not second.now


def test_a_job_may_name_its_queue_and_a_closed_or_missing_one_is_told() -> None:
    rooms = {**OPEN, "shut": QueueRoom("shut", "Closed", None)}
    closed = why(Request(), rooms=rooms, queue="shut")
    assert not closed.final
    assert "queue shut is Closed" in closed.why
    missing = why(Request(), rooms=rooms, queue="nope")
    assert not missing.final
    assert "there is no queue nope (the cluster has: default, shut)" in missing.why


def tried(request: Request, capacity: Capacity | None, *, complete: bool = True) -> Placement | Unplaceable:
    host = HostView("k8s", "volcano", "c", {"h100": 8}, gang=VIEW)
    census = Census("k8s", complete, capacity=capacity, error="" if complete else "refused")
    return place(request, [host], {"k8s": census}, Reservations(), lambda _: None)


def test_the_solver_asks_for_nodes_not_for_machines() -> None:
    found = tried(Request(chip="h100", min_chips=16), Capacity(0, rooms=OPEN))
    assert isinstance(found, Placement)
    assert (found.chip, found.gpus) == ("h100", None)
    assert found.place == {"queue": "default", "nodes": 2, "gpus_per_node": 8, "gpu_type": "h100"}
    assert found.words == "queue default, 2 x 8 h100"


def test_any_chip_becomes_a_chip() -> None:
    found = tried(Request(min_chips=8), Capacity(0, rooms=OPEN))
    assert isinstance(found, Placement)
    assert found.chip == "h100"


def test_queues_that_cannot_be_read_are_unknown_not_empty() -> None:
    found = tried(Request(chip="h100", min_chips=1), Capacity(0, error="queues: forbidden"))
    assert isinstance(found, Unplaceable)
    assert not found.final
    assert "its queues cannot be read: queues: forbidden" in found.sentence


def test_a_full_queue_is_waited_in() -> None:
    rooms = {"default": QueueRoom("default", "Open", 8, used=8)}
    found = tried(Request(chip="h100", min_chips=8), Capacity(0, rooms=rooms))
    assert isinstance(found, Placement)
    assert "0 of 8 accelerators are free" in found.words

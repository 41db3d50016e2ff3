"""What every control of TPU VMs promises. A test class inherits these and provides `bench`."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import pytest

from reconciler.backends.tpu_control import Control
from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Unreachable
from reconciler.core.tpu import Begun, Denied, Exists, NodeWish, RequestState, TpuState, taken_back

ZONE, OTHER = "us-central2-b", "us-central1-a"
WISH = NodeWish(
    "run-1",
    ZONE,
    "v4-16",
    "tpu-ubuntu2204-base",
    spot=True,
    labels={"reconciler-run": "a-1", "team": "lm"},
    metadata={"startup-script": "echo 'a,b'=$HOME\nexit", "owner": "me"},
    tags=("ssh-in",),
)


class Bench(Protocol):
    """A control, and what happens behind its back."""

    @property
    def control(self) -> Control: ...

    def advance(self, seconds: float) -> None: ...

    def preempt(self, name: str) -> None: ...

    def no_capacity(self) -> None:
        """The next create begins, and fails later."""

    def quota(self, limit: int) -> None:
        """For spot v4, in ZONE."""

    def lose_next_create(self) -> None:
        """It acts, and its answer is lost."""

    def forbid(self) -> None:
        """Every read is answered with a missing permission."""

    def cut(self) -> None:
        """Nobody answers any more."""


LONG = 3600.0
"""Whatever begins is over by then."""


class ControlContract:
    def test_where_nothing_is_a_complete_listing_is_empty(self, bench: Bench) -> None:
        listing = bench.control.list(ZONE)
        assert (listing.zone, listing.nodes, listing.requests) == (ZONE, (), ())
        assert (listing.complete, listing.error) == (True, "")
        assert bench.control.get(ZONE, "run-1") is None

    def test_a_node_is_what_was_asked_for(self, bench: Bench) -> None:
        begun = bench.control.create(WISH)
        assert isinstance(begun, Begun)
        assert begun.operation
        node = bench.control.get(ZONE, "run-1")
        assert node is not None
        assert (node.name, node.zone, node.state, node.accelerator_type) == ("run-1", ZONE, TpuState.COMING, "v4-16")
        assert (dict(node.labels), dict(node.metadata)) == (dict(WISH.labels), dict(WISH.metadata))
        assert (node.spot, node.preemptible, node.request) == (True, False, "")
        assert node.ident
        assert node.created
        bench.advance(LONG)
        (ready,) = bench.control.list(ZONE).nodes
        assert (ready.word, ready.state, ready.health) == ("READY", TpuState.READY, "HEALTHY")
        assert len(ready.endpoints) == 2
        assert all(each.internal for each in ready.endpoints)
        assert ready.ident == node.ident
        assert bench.control.list(OTHER).nodes == ()

    def test_a_name_that_is_taken_is_told_with_its_labels(self, bench: Bench) -> None:
        bench.control.create(WISH)
        again = bench.control.create(replace(WISH, labels={"reconciler-run": "b-1"}))
        assert isinstance(again, Exists)
        assert again.labels["reconciler-run"] == "a-1"
        assert again.node == bench.control.get(ZONE, "run-1")

    def test_no_capacity_shows_in_the_operation(self, bench: Bench) -> None:
        bench.no_capacity()
        begun = bench.control.create(WISH)
        assert isinstance(begun, Begun)
        assert bench.control.failure_of(ZONE, begun.operation) is None
        bench.advance(LONG)
        failure = bench.control.failure_of(ZONE, begun.operation)
        if bench.control.sees_operations:
            assert failure is not None
            assert (failure.kind, failure.final) == ("capacity", False)
        else:
            assert failure is None
        assert bench.control.get(ZONE, "run-1") is None

    def test_a_create_that_went_well_has_no_failure(self, bench: Bench) -> None:
        begun = bench.control.create(WISH)
        assert isinstance(begun, Begun)
        bench.advance(LONG)
        assert bench.control.failure_of(ZONE, begun.operation) is None
        unknown = f"projects/demo-project/locations/{ZONE}/operations/operation-1-2-3-4"
        assert bench.control.failure_of(ZONE, unknown) is None
        assert bench.control.failure_of(ZONE, "") is None

    @pytest.mark.parametrize(("limit", "kind", "final"), [(8, "quota", False), (0, "no-quota", True)])
    def test_a_quota_that_is_used_up_is_not_one_that_there_is_not(
        self, bench: Bench, limit: int, kind: str, final: bool
    ) -> None:
        bench.quota(limit)
        denied = bench.control.create(WISH)
        assert isinstance(denied, Denied)
        assert (denied.kind, denied.final) == (kind, final)
        assert denied.message

    def test_a_lost_answer_is_never_a_refusal(self, bench: Bench) -> None:
        """gcloud sends again by itself, and finds its own node."""
        bench.lose_next_create()
        try:
            made = bench.control.create(WISH)
        except OutcomeUnknown:
            pass
        else:
            assert isinstance(made, Exists)
            assert made.labels == WISH.labels
        node = bench.control.get(ZONE, "run-1")
        assert node is not None
        assert node.labels == WISH.labels

    def test_a_delete_is_asked_for_and_may_be_repeated(self, bench: Bench) -> None:
        bench.control.create(WISH)
        bench.advance(LONG)
        bench.control.delete(ZONE, "run-1")
        going = bench.control.get(ZONE, "run-1")
        assert going is not None
        assert going.state is TpuState.GOING
        bench.control.delete(ZONE, "run-1")
        bench.advance(LONG)
        assert bench.control.list(ZONE).nodes == ()
        bench.control.delete(ZONE, "run-1")
        bench.control.delete_request(ZONE, "run-1")

    def test_a_preempted_node_stays_until_it_is_deleted(self, bench: Bench) -> None:
        bench.control.create(WISH)
        bench.advance(LONG)
        bench.preempt("run-1")
        node = bench.control.get(ZONE, "run-1")
        assert node is not None
        assert (node.state, taken_back(node.word)) == (TpuState.LOST, True)
        taken = bench.control.create(WISH)
        assert isinstance(taken, Exists)
        assert taken.node == node
        bench.control.delete(ZONE, "run-1")
        bench.advance(LONG)
        assert bench.control.get(ZONE, "run-1") is None

    def test_a_queued_resource_makes_its_node_and_goes_with_it(self, bench: Bench) -> None:
        queued = replace(WISH, queued_s=7200.0)
        assert isinstance(bench.control.create(queued), Begun)
        listing = bench.control.list(ZONE)
        (request,) = listing.requests
        assert (request.name, request.state, request.nodes) == ("run-1", RequestState.WAITING, ("run-1",))
        assert (dict(request.labels), dict(request.metadata)) == (dict(WISH.labels), dict(WISH.metadata))
        assert listing.nodes == ()
        again = bench.control.create(queued)
        assert isinstance(again, Begun) or again.labels == WISH.labels  # type: ignore[union-attr]
        bench.advance(LONG)
        listing = bench.control.list(ZONE)
        assert [(each.name, each.state) for each in listing.requests] == [("run-1", RequestState.ACTIVE)]
        assert [(each.name, each.state, each.request) for each in listing.nodes] == [("run-1", TpuState.READY, "run-1")]
        bench.control.delete_request(ZONE, "run-1")
        bench.control.delete_request(ZONE, "run-1")
        bench.advance(LONG)
        listing = bench.control.list(ZONE)
        assert (listing.nodes, listing.requests, listing.complete) == ((), (), True)

    def test_a_queued_resource_whose_node_was_taken_is_suspended_until_it_is_deleted(self, bench: Bench) -> None:
        bench.control.create(replace(WISH, queued_s=7200.0))
        bench.advance(LONG)
        bench.preempt("run-1")
        bench.advance(LONG)
        (request,) = bench.control.list(ZONE).requests
        assert request.state is RequestState.SUSPENDED
        bench.control.delete_request(ZONE, "run-1")
        bench.advance(LONG)
        assert bench.control.list(ZONE).requests == ()

    def test_who_may_not_look_learns_nothing_about_absence(self, bench: Bench) -> None:
        bench.forbid()
        listing = bench.control.list(ZONE)
        assert not listing.complete
        assert "gcloud" in listing.error
        with pytest.raises(AccessRefused) as refused:
            bench.control.get(ZONE, "run-1")
        assert "`gcloud " in refused.value.hint

    def test_silence_is_not_absence(self, bench: Bench) -> None:
        bench.cut()
        listing = bench.control.list(ZONE)
        assert (listing.complete, listing.nodes) == (False, ())
        assert listing.error
        for call in (
            lambda: bench.control.get(ZONE, "run-1"),
            lambda: bench.control.create(WISH),
            lambda: bench.control.delete(ZONE, "run-1"),
        ):
            with pytest.raises(ReconcilerError) as raised:
                call()
            assert isinstance(raised.value, Unreachable), raised.value

    def test_machines_tell_their_keys_and_zones_their_types(self, bench: Bench) -> None:
        bench.control.create(WISH)
        bench.advance(LONG)
        keys = bench.control.host_keys(ZONE, "run-1")
        assert sorted(keys) == [0, 1]
        assert all(key.startswith("ssh-ed25519 AAAA") for key in keys.values())
        assert bench.control.host_keys(ZONE, "absent") == {}
        assert {"v4-8", "v4-16", "v5litepod-8"} <= bench.control.types(ZONE)

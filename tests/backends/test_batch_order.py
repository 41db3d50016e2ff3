"""What is asked of the scheduler for a run, and which runs go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.backends.batch import BatchBackend
from reconciler.backends.batch_order import Parcel, order_in, parcels
from reconciler.backends.dialect import Order, Site
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.slurm import SlurmDialect
from reconciler.core.errors import Rejected
from reconciler.core.protocols import Facts, Submission
from reconciler.core.secret import Secret
from reconciler.load.normal import decode
from reconciler.transports.fake import FakeTransport
from tests.worlds import job, run_of

PATHS = NodePaths("/s/status", "/w", "/s/checkpoints", "/s/results", "/share/runtime/abc")
PLACE = {"partition": "gpu", "nodes": 2, "gpus_per_node": 8, "gpu_type": "h100", "constraint": None, "time_s": 7200}


def rendered(
    name: str = "a", *, place: Any = None, site: Site | None = None, facts: Any = None, **spec: Any
) -> Submission:
    wanted = job(name, spec=spec)
    run = replace(run_of(wanted, host="hpc"), place=PLACE if place is None else place, token=f"token-{name}")
    backend = BatchBackend(
        NodeSettings("hpc", PATHS), site or Site(), SlurmDialect(), FakeTransport("hpc"), lambda: None
    )
    return backend.render(run, Facts(decode(run.normal), None, {}, **(facts or {})))


def ordered(**more: Any) -> Order:
    return order_in(rendered(**more))


def test_the_place_that_the_solver_chose_is_what_is_asked_for():
    order = ordered()
    assert (order.partition, order.nodes, order.gpus_per_node, order.gpu_type) == ("gpu", 2, 8, "h100")
    assert (order.time_s, order.unlimited) == (7200, False)
    assert ordered(place={**PLACE, "time_s": None}).unlimited


@pytest.mark.parametrize(
    ("spec", "host", "expected"),
    [
        ({}, None, None),
        ({}, "64G", "64G"),
        ({"request": {"mem": "3G"}}, "64G", "3072M"),
        ({"request": {"mem": "3G"}, "slurm": {"mem": "0"}}, "64G", "0"),
    ],
)
def test_the_nearest_word_on_memory_counts(spec, host, expected):
    assert ordered(site=Site(memory=host), **spec).memory == expected


def test_the_jobs_own_words_go_over_the_hosts_and_add_to_its_lists():
    site = Site(account="team", qos="low", exclude=("n1",), directives=("--mail-type=END",))
    order = ordered(site=site, slurm={"qos": "high", "exclude": ["n2", "n1"], "directives": ["--reservation=r"]})
    assert (order.account, order.qos) == ("team", "high")
    assert order.exclude == ("n1", "n2")
    assert order.extra == ("--mail-type=END", "--reservation=r")


@pytest.mark.parametrize(
    ("spec", "time_s", "expected"),
    [
        ({}, 7200, None),  # no budget for timeouts: it keeps all of its time
        ({"restart": {"timeout": 3}}, 7200, 120),
        ({"restart": {"timeout": "unlimited"}, "grace": "5m"}, 7200, 390),
        ({"restart": {"timeout": 3}}, 200, None),  # the warning would take most of it
        ({"restart": {"timeout": 3}}, None, None),
        ({"slurm": {"warn": "50s"}}, 60, 50),
    ],
)
def test_a_run_is_warned_where_another_attempt_can_follow(spec, time_s, expected):
    assert ordered(place={**PLACE, "time_s": time_s}, **spec).warn_s == expected


def test_slurm_restarts_only_what_was_handed_to_it():
    assert not ordered().requeue
    assert ordered(restart={"owner": "slurm"}).requeue


def test_no_secret_is_in_what_is_shown_or_written():
    submission = rendered(secrets={"KEY": {"env": "KEY"}}, facts={})
    shown = replace(submission, secrets={"KEY": Secret("hunter2")})
    assert "hunter2" not in repr(shown)
    assert "hunter2" not in str(shown.body)


def test_text_that_a_directive_would_change_is_refused_by_name():
    with pytest.raises(Rejected, match="general/default/a cannot be put into a script for slurm: account"):
        ordered(site=Site(account="my team"))


# --- arrays -----------------------------------------------------------------------------------------------------------


def packed(*items: Submission, array_max: int = 1000) -> list[Parcel]:
    return list(
        parcels(items, SlurmDialect(), status_root="/s/status", bundle=PATHS.bundle, python=None, array_max=array_max)
    )


def members(count: int, *, sweep: str = "general/default/s", **spec: Any) -> list[Submission]:
    return [rendered(f"m{number}", facts={"sweep": sweep}, **spec) for number in range(count)]


def test_members_of_one_sweep_go_as_one_array_in_their_order():
    items = members(3)
    [parcel] = packed(*items)
    assert parcel.items == tuple(items)
    assert parcel.order.array == 3
    assert parcel.order.name.startswith("general-default-s-")
    assert parcel.members == f"/s/status/.arrays/{parcel.order.name}/members"
    assert "#SBATCH --array=0-2\n" in SlurmDialect().script(parcel.order)


def test_an_array_has_a_name_of_its_own_each_time_and_the_same_for_the_same_runs():
    first, again, fewer = (packed(*items)[0].order.name for items in (members(3), members(3), members(2)))
    assert first == again != fewer


def test_other_jobs_and_lone_members_go_by_themselves_under_their_run_id():
    lone, other = members(1)[0], rendered("x")
    found = packed(lone, other)
    assert [parcel.order.name for parcel in found] == [lone.run.run_id, other.run.run_id]
    assert all(parcel.order.array is None and not parcel.members for parcel in found)


def test_members_that_differ_in_more_than_the_index_are_told_apart():
    wide = [rendered(f"w{n}", facts={"sweep": "general/default/s"}, place={**PLACE, "nodes": 1}) for n in range(2)]
    assert sorted(parcel.order.nodes for parcel in packed(*members(2), *wide)) == [1, 2]
    assert len(packed(*members(2), *members(2, sweep="general/default/t"))) == 2


def test_a_sweep_beyond_the_schedulers_limit_is_split():
    assert [parcel.order.array for parcel in packed(*members(5), array_max=2)] == [2, 2, None]


def test_at_most_so_many_members_run_at_once():
    items = [rendered(f"m{n}", facts={"sweep": "general/default/s", "parallel": 2}) for n in range(3)]
    [parcel] = packed(*items)
    assert "#SBATCH --array=0-2%2\n" in SlurmDialect().script(parcel.order)

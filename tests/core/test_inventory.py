from __future__ import annotations

import pytest

from reconciler.core.inventory import Cluster, Inventory, LocalHost, PlainHost
from reconciler.core.secret import Secret

CLUSTER = Cluster("c", "/r", "/w", "/w/logs", "/w/.dispatch", "/r/data", "/r/checkpoints", "/r/results", "/r/status")


def test_hosts_come_in_the_order_given() -> None:
    hosts = {"a": LocalHost("a", "c", slots=1), "b": PlainHost("b", "c", "b")}
    inventory = Inventory({"c": CLUSTER}, hosts, ("b", "a"))
    assert [host.name for host in inventory.ordered()] == ["b", "a"]
    assert inventory.cluster_of("a") is CLUSTER
    with pytest.raises(KeyError):
        inventory.cluster_of("z")


def test_credentials_are_apart_from_plain_variables_and_do_not_print() -> None:
    cluster = Cluster(
        *[getattr(CLUSTER, name) for name in CLUSTER.__slots__[:9]], wandb=Secret("s3cr3t"), wandb_entity="lab"
    )
    assert cluster.env == {"WANDB_ENTITY": "lab"}
    assert list(cluster.secrets) == ["WANDB_API_KEY"]
    assert "s3cr3t" not in repr(cluster)

"""What a Volcano host and `spec.volcano` may say, and what is told where they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import ManifestError
from reconciler.core.inventory import VolcanoHost
from reconciler.core.job import VolcanoOverrides
from reconciler.load.documents import load_documents
from reconciler.load.inventory import parse_inventory
from reconciler.load.normal import decode


def host(fields: str) -> VolcanoHost:
    text = f"clusters: {{k: {{root: /w, work: /w/work}}}}\nhosts:\n  v: {{type: volcano, cluster: k, {fields}}}\n"
    found = parse_inventory(text.encode(), "inv.yaml", home=Path("/home/u"), state_dir=Path("/s")).hosts["v"]
    assert isinstance(found, VolcanoHost)
    return found


def overrides(fields: str) -> VolcanoOverrides:
    text = (
        "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\n"
        f"spec:\n  command: [run]\n  volcano: {{{fields}}}\n"
    )
    loaded = load_documents([("a.yaml", text.encode())])
    if loaded.problems:
        raise ManifestError(loaded.problems)
    (job,) = loaded.desired
    return decode(job.normal).volcano


def test_times_are_seconds_and_null_is_for_ever() -> None:
    given = host(
        "pending_timeout: 6h, stuck_timeout: 10m, lost_timeout: 2m, keep_finished: 2d, helper_timeout: 90s, poll: 30s"
    )
    assert (given.pending_timeout_s, given.stuck_timeout_s, given.lost_timeout_s) == (21_600.0, 600.0, 120.0)
    assert (given.keep_finished_s, given.helper_timeout_s, given.poll_s) == (172_800.0, 90.0, 30.0)
    assert host("pending_timeout: null").pending_timeout_s is None


def test_further_fields_of_pod_and_container_are_taken_as_they_are() -> None:
    given = host("pod: {securityContext: {runAsUser: 1000}}, container: {securityContext: {privileged: false}}")
    assert given.pod == {"securityContext": {"runAsUser": 1000}}
    assert given.container == {"securityContext": {"privileged": False}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("pod: {restartPolicy: Always}", "hosts.v.pod: 'restartPolicy' is decided here, or has a field of its own"),
        ("container: {image: x}", "hosts.v.container: 'image' is decided here"),
        ("annotations: {reconciler/run: x}", "'reconciler/run' is ours: keys that start with reconciler/"),
        ("image_pull_policy: Sometimes", "expected Always, IfNotPresent, Never"),
        ("stuck_timeout: 5", "hosts.v.stuck_timeout"),
        ("max_nodes: 0", "hosts.v.max_nodes"),
        ("nodes: 3", "hosts.v has no field 'nodes'"),
    ],
)
def test_what_is_not_taken_is_told_where_it_stands(fields: str, said: str) -> None:
    with pytest.raises(ManifestError) as refused:
        host(fields)
    assert said in str(refused.value)
    assert "inv.yaml:3" in str(refused.value)


def test_overrides_are_typed() -> None:
    given = overrides("image: r/x:1, namespace: dev, cpu: 2, memory: 8Gi, nodes: 3, labels: {team: lm}")
    assert given == VolcanoOverrides(
        image="r/x:1", namespace="dev", cpu="2", memory="8Gi", nodes=3, labels={"team": "lm"}
    )
    assert overrides("") == VolcanoOverrides()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("images: x", "spec.volcano has no field 'images'; did you mean 'image'?"),
        ("namespace: Dev_1", "a namespace: at most 63 lower-case letters"),
        ("labels: {reconciler/owner: me}", "'reconciler/owner' is ours"),
        ("nodes: 0", "spec.volcano.nodes"),
        ("image: 'a b'", "an image such as"),
    ],
)
def test_overrides_that_are_not_taken(fields: str, said: str) -> None:
    with pytest.raises(ManifestError) as refused:
        overrides(fields)
    assert said in str(refused.value)

"""A user's road over Kubernetes with Volcano: gangs from git, code through a claim, preempted, requeued, deleted.

The cluster is simulated (docs/volcano-emulator.md): its pods are processes here. The command line, the `kubernetes` library, its
websockets and the runtime in the pods are real. test_kubernetes.py runs against a real cluster where KUBECONFIG names one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.kube import KubeSite, kube_site, ok

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("volcano")]
LONG = ["sleep", "600"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[KubeSite]:
    with kube_site(tmp_path) as made:
        yield made


def test_a_gang_runs_code_from_the_claim(group: KubeSite):
    group.make(group.inventory())
    (group.repo / "code.sh").write_text('echo "$RECONCILER_NODE_RANK of $RECONCILER_NUM_NODES $(cat data/x)"\n')
    (group.repo / "data").mkdir()
    (group.repo / "data" / "x").write_text("payload\n")
    group.gang("t", ["sh", "code.sh"], source={"ref": "HEAD"})
    group.commit()
    ok(group("apply", "--yes", "--wait"))
    assert group.status()["t"]["phase"] == "Succeeded"
    for rank in range(2):
        said = ok(group("logs", "t", "--worker", str(rank)))
        assert f"{rank} of 2 payload" in said.out
    assert group.helpers() == []
    assert group.creates() == 1
    assert group("plan").code == 0

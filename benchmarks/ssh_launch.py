"""A launch over SSH against a bare `ssh host true`, on private sshd hosts of this machine (tests/lab/sshd.py).

`submit` of one run on an open connection is what a further launch costs `watch`; the whole `apply` of one job, whose code
lies on the host already, is what it costs a person. Round trips are counted where they happen: calls of the transport.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import Row, expect, make_site, run


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    from tests.lab.sshd import lab

    with lab("node1") as made:
        return _measure(scratch, made, rounds)


def _measure(scratch: Path, made: Any, rounds: int) -> list[Row]:
    space = made["node1"].root
    site = make_site(
        scratch / "ssh",
        f"clusters: {{one: {{root: {space}/c, work: {space}/w}}}}\n"
        "hosts: {node1: {type: plain, ssh: node1, cluster: one, slots: 4096}}\n",
    )
    (site.repo / "code.py").write_text("print('hello')\n")
    env = {**site.env, "RECONCILER_SSH_CONFIG": str(made.ssh_config)}
    bare, whole = [], []
    for turn in range(rounds + 1):
        (site.repo / "manifests" / f"job-{turn}.yaml").write_text(
            f"apiVersion: reconciler/v1\nkind: Job\nmetadata: {{name: job-{turn}, project: bench}}\n"
            "spec:\n  command: ['true']\n  source: {repo: ., ref: main~0}\n".replace("main~0", "code")
        )
        if turn == 0:
            site.git("add", "-A")
            site.git("commit", "-q", "-m", "code")
            site.git("tag", "code")
        else:
            site.commit()
        bare.append(expect(run(["ssh", "-F", str(made.ssh_config), "node1", "true"])).wall_s)
        whole.append(expect(run(site.command("apply", "--yes"), env=env)).wall_s)
    bare, whole = bare[1:], whole[1:]  # the first brings runtime and code there
    submits, true, trips = _warm(site, made, 3 * rounds)
    least = min(bare)
    return [
        Row("bare `ssh host true`", bare),
        Row("`apply` of one job over SSH, its code there", whole, note=f"{min(whole) / least:.1f} times a bare ssh"),
        Row("`true` on an open connection", true, note="the floor of the next line"),
        Row("`submit` of one run on an open connection", submits, note=f"{min(submits) / least:.2f} times a bare ssh"),
        Row("commands on the host per `submit`", trips, "", target=1),
    ]


class _Counting:
    """A transport that counts what is asked of it."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.calls = inner, 0

    def run(self, command: Any, *, deadline_s: float) -> Any:
        self.calls += 1
        return self._inner.run(command, deadline_s=deadline_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _warm(site: Any, made: Any, rounds: int) -> tuple[list[float], list[float], list[float]]:
    from reconciler.app.shipping import Bundle
    from reconciler.backends.node import NodeBackend
    from reconciler.backends.node_call import NodePaths, NodeSettings
    from reconciler.core.job import JobSpec
    from reconciler.core.names import JobKey, run_id
    from reconciler.core.protocols import Facts, Look
    from reconciler.core.run import Run
    from reconciler.core.transport import Command
    from reconciler.load.documents import load_documents
    from reconciler.load.normal import decode
    from reconciler.source.deliver import runtime_path
    from reconciler.transports.registry import TransportSettings, open_transport

    space = made["node1"].root
    transport = _Counting(open_transport(TransportSettings("fabric", "node1", ssh_config=made.ssh_config)))
    share = _share_of(site)
    cluster = f"{space}/c"
    bundle = runtime_path(share, Bundle().sha256)
    paths = NodePaths(f"{cluster}/status", f"{space}/w", f"{cluster}/checkpoints", f"{cluster}/results", bundle)
    backend = NodeBackend(NodeSettings("node1", paths), transport, _fail)
    text = "{apiVersion: reconciler/v1, kind: Job, metadata: {name: w}, spec: {command: ['true'], source: null}}"
    wanted = load_documents([("warm.yaml", text.encode())]).desired[0]
    spec: JobSpec = decode(wanted.normal)
    backend.observe(Look())
    submits, trips, true = [], [], []
    for turn in range(rounds):
        key = JobKey("bench", "warm", f"w{turn}")
        made_run = Run(
            job=key, run_id=run_id(key, wanted.digest, 1), attempt=1, token=f"{turn:032x}", digest=wanted.digest,
            spec_digest=wanted.spec_digest, generation=1, host="node1", owner="bench", gpus=None, commit=None,
            dirty=False, spent={}, normal=wanted.normal,
        )  # fmt: skip
        submission = backend.render(made_run, Facts(spec, None, {}, None))
        before, start = transport.calls, time.perf_counter()
        results = backend.submit([submission])
        submits.append(time.perf_counter() - start)
        trips.append(float(transport.calls - before))
        assert type(results[made_run.run_id]).__name__ == "Accepted", results
        start = time.perf_counter()
        transport.run(Command(("true",)), deadline_s=10.0)
        true.append(time.perf_counter() - start)
    backend.close()
    return submits, true, trips


def _share_of(site: Any) -> str:
    from reconciler.load.inventory import load_inventory

    path = site.repo / "manifests" / "inventory.yaml"
    return load_inventory(path, home=site.root, state_dir=site.root).cluster_of("node1").share


def _fail() -> None:
    raise RuntimeError("the runtime is not on the host")

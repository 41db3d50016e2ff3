"""A plan over N manifests of which none needs anything, inside `watch` and as a fresh process, against `terraform plan`.

For 1,000 manifests every job was really run. For 10,000 the store was told so (Launching and Ended lines through
SqliteStore.append), which is what running them leaves in it. `live`: 2,000 of the jobs are alive on 20 hosts; their
answers come ready-made from transports that hold the bytes a node would send, so that everything but the nodes counts:
asking, parsing, planning. A pass that writes anything fails the measurement.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import REPOSITORY, Row, Site, expect, make_site, run, write_jobs

HOST, HOSTS = "local", 20
TERRAFORM_S_MAX = 60.0


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    rows: list[Row] = []
    for count in (1000, 10000):
        site = make_site(scratch / f"noop-{count}")
        write_jobs(site, count)
        site.commit()
        if count == 1000:
            expect(site("apply", "--yes", "--wait"))
        else:
            expect(_child(site, "tell", 0))
        expect(site("plan"))
        rows += _ours(site, count, rounds)
        rows += _terraform(scratch / f"terraform-{count}", count, rounds)
    expect(_child(site, "revive", 2000))
    seen = json.loads(expect(_child(site, "watch", 2000, rounds)).out)
    what = f"no-op plan over 10,000 manifests, 2,000 of them live on {HOSTS} hosts (their answers ready-made)"
    rows.append(Row(f"{what}: a pass in `watch`", seen["s"], target=0.3))
    rows.append(Row(f"{what}: remote commands of it", [seen["commands"]], "", target=HOSTS))
    rows.append(Row(f"{what}: peak memory", [seen["peak_mib"]], "MiB", target=250))
    return rows


def _ours(site: Site, count: int, rounds: int) -> list[Row]:
    what = f"no-op plan over {count:,} manifests"
    targets = (0.3, 1.5, 250) if count == 10000 else (None, None, None)
    seen = json.loads(expect(_child(site, "watch", 0, rounds)).out)
    fresh = [expect(site("plan")) for _ in range(rounds)]
    return [
        Row(f"{what}: a pass in `watch`", seen["s"], target=targets[0]),
        Row(f"{what}: fresh process, warm cache", [ran.wall_s for ran in fresh], target=targets[1]),
        Row(f"{what}: peak memory of that process", [ran.peak_mib for ran in fresh], "MiB", target=targets[2]),
    ]


def _terraform(directory: Path, count: int, rounds: int) -> list[Row]:
    terraform = shutil.which("terraform")
    if terraform is None:
        return []
    directory.mkdir()
    for part in range(0, count, 500):
        blocks = [
            f'resource "terraform_data" "job_{index:05d}" {{\n  input = {{ command = "true", name = "job-{index:05d}" }}\n}}\n'
            for index in range(part, part + 500)
        ]
        (directory / f"part_{part:05d}.tf").write_text("\n".join(blocks))
    env = {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    expect(run([terraform, "init", "-input=false"], cwd=directory, env=env))
    (directory / "terraform.tfstate").write_text(json.dumps(_terraform_state(count)))
    what = f"- `terraform plan` over {count:,} `terraform_data`"
    command = ["timeout", str(TERRAFORM_S_MAX), terraform, "plan", "-input=false", "-detailed-exitcode"]
    plans = []
    for _ in range(rounds if count == 1000 else 1):
        ran = run(command, cwd=directory, env=env)
        if ran.code == 124:
            return [Row(what, [ran.wall_s], note=f"given up after {TERRAFORM_S_MAX:.0f} s")]
        plans.append(expect(ran))
    return [Row(what, [ran.wall_s for ran in plans])]


def _terraform_state(count: int) -> dict[str, Any]:
    """What `terraform apply` leaves, which at 10,000 takes it minutes. A plan that is not empty fails the measurement."""
    kind = ["object", {"command": "string", "name": "string"}]
    resources = []
    for index in range(count):
        value = {"value": {"command": "true", "name": f"job-{index:05d}"}, "type": kind}
        attributes = {
            "id": f"{index:08d}-0000-0000-0000-000000000000",
            "input": value,
            "output": value,
            "triggers_replace": None,
        }
        resources.append(
            {
                "mode": "managed",
                "type": "terraform_data",
                "name": f"job_{index:05d}",
                "provider": 'provider["terraform.io/builtin/terraform"]',
                "instances": [{"schema_version": 0, "attributes": attributes, "sensitive_attributes": []}],
            }
        )
    state = {"version": 4, "terraform_version": "1.0.0", "serial": 1, "lineage": "benchmark", "outputs": {}}
    return {**state, "resources": resources, "check_results": None}


# ---- in a process of its own --------------------------------------------------------------------------------


def _child(site: Site, verb: str, live: int, rounds: int = 0) -> Any:
    return run([sys.executable, __file__, verb, str(site.repo), str(live), str(rounds)], env=site.env, cwd=REPOSITORY)


def _tell(ports: Any, live: int) -> None:
    """Journal what running the jobs would have: all ended, or with `live` that many running."""
    from reconciler.core.memory import Ended, Launched, Launching
    from reconciler.core.names import run_id
    from reconciler.core.phase import Phase
    from reconciler.core.run import Handle, Run

    lines: list[Any] = []
    for number, (key, wanted) in enumerate(list(ports.source.read().desired.items())[: live or None]):
        attempt = 2 if live else 1
        host = _host(number) if live else HOST
        made = Run(
            job=key, run_id=run_id(key, wanted.digest, attempt), attempt=attempt, token=ports.token(),
            digest=wanted.digest, spec_digest=wanted.spec_digest, generation=wanted.generation, host=host,
            owner=ports.owner, gpus=None, commit=None, dirty=False, spent={}, normal=wanted.normal,
        )  # fmt: skip
        lines.append((key, Launching(made, False)))
        native = {"status_dir": "", "pid": 4711, "start": "1", "boot_id": "b", "sid": 4711}
        lines.append((key, Launched(made.run_id, Handle(made.run_id, made.token, native))))
        if not live:
            lines.append((key, Ended(made.run_id, Phase.SUCCEEDED, None, 0, "exit 0", False, True, 0.0)))
    ports.store.lock()
    ports.store.append(lines, commit="", why="benchmark")
    ports.store.mark_scanned([HOST, *map(_host, range(HOSTS))])
    ports.store.unlock()


def _host(number: int) -> str:
    return f"host-{number % HOSTS:02d}"


class _Node:
    """A transport with one answer: every live run of a host, as its node would write it."""

    commands = 0

    def __init__(self, memories: Any, host: str) -> None:
        runs = [memory.run for memory in memories.values() if memory.run and memory.run.host == host]
        lines = [json.dumps({"sighting": _sighting(each)}) for each in runs]
        closing = {
            "boot_id": "b",
            "hostname": "h",
            "cpus": 64,
            "gpus": None,
            "gpu_error": None,
            "roots": {"/status": None},
            "done": True,
        }
        self._answer = "".join(f"@r1 {line}\n" for line in [*lines, json.dumps(closing)]).encode()

    def run(self, _command: Any, **_deadline: float) -> Any:
        from reconciler.core.transport import Completed

        _Node.commands += 1
        return Completed(0, self._answer, b"")

    def close(self) -> None:
        pass


def _sighting(run_: Any) -> dict[str, Any]:
    identity = {"pid": 4711, "start": "1", "boot_id": "b", "sid": 4711}
    return {
        "run_id": run_.run_id, "status_dir": "/status", "state": "present", "alive": True, "supervised": True,
        "started": identity, "progress": None, "request": None, "error": None,
        "claim": {"run": run_.to_json(), "run_id": run_.run_id, "token": run_.token, "attempt": run_.attempt, "boot_id": "b"},
        "metadata": {"status": "running", "seq": 7, "start_time": "2030-01-01T00:00:00Z", "last_heartbeat": "x"},
    }  # fmt: skip


def main() -> None:
    verb, directory, live, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    from reconciler.app.converge import Reconciler
    from reconciler.app.wiring import Settings, open_ports
    from reconciler.backends.node import NodeBackend
    from reconciler.backends.node_call import NodePaths, NodeSettings
    from reconciler.cli.main import COLLECT_AFTER
    from reconciler.core.solve import HostView

    gc.set_threshold(COLLECT_AFTER, 20, 20)  # as the command line does
    with open_ports(Settings(directory, state=Path(os.environ["RECONCILER_STATE"]))) as ports:
        if verb in ("tell", "revive"):
            _tell(ports, live)
            return
        if live:
            paths = NodePaths("/status", "/work", "/checkpoints", "/results", "/bundle")
            names = [_host(number) for number in range(HOSTS)]
            memories = ports.store.memories()
            nodes: dict[str, Any] = {name: _Node(memories, name) for name in names}
            backends = {
                name: NodeBackend(NodeSettings(name, paths), node, lambda: None) for name, node in nodes.items()
            }
            views = tuple(HostView(name, "plain", "lab", {}, slots=200) for name in names)
            reconciler = Reconciler(replace(ports, hosts=views, backends=backends.__getitem__))
        else:
            reconciler = Reconciler(ports)
        taken: list[float] = []
        newest = ports.store.newest()
        for turn in range(3 * rounds + 2):
            start = time.perf_counter()
            asked = _Node.commands
            seen = reconciler.look()
            assert not seen.plan.effects, seen.plan.actions[:3]
            assert not reconciler.apply(seen, why="benchmark")
            if turn > 1:  # the first one reads, the second finds everything where it was
                taken.append(time.perf_counter() - start)
            asked = _Node.commands - asked
        assert not live or seen.moving
        assert ports.store.newest() == newest
        reconciler.close()
    print(
        json.dumps(
            {"s": taken, "commands": asked, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        )
    )


if __name__ == "__main__":
    main()

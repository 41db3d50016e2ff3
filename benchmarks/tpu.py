"""TPU VMs on the emulated service (docs/tpu-emulator.md), with real sshd workers: what we add to what the cloud takes, how soon a
run that was taken back has a new VM asked for, and what a pass over many VMs costs.

The emulator makes a VM at once, and answers in a millisecond: nothing here says how long Google takes.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import Row, expect, make_site, run

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # what is forked here never speaks gRPC

ZONES = ("us-central1-a", "us-central2-b", "us-east1-d", "us-east5-a", "europe-west4-a")
VMS = 200
DELETE_S = 0.1


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    from tests.emulators.tpu import Emulator

    rows: list[Row] = []
    with Emulator(zones=ZONES, workers=True, real_clock=True, provision_s=0.0, delete_s=DELETE_S) as tpu:
        rows += _one_vm(scratch, tpu, rounds)
    with Emulator(zones=ZONES, real_clock=True, provision_s=0.0) as tpu:
        rows += _many(scratch, tpu, rounds)
    with Emulator(zones=ZONES, real_clock=True, provision_s=1e6) as tpu:
        rows += _being_made(scratch, tpu, rounds)
    with Emulator(zones=ZONES, real_clock=True, provision_s=0.0) as tpu:
        rows += _clients(scratch, tpu, rounds)
    return rows


def _site(scratch: Path, tpu: Any, name: str, root: str, hosts: dict[str, dict[str, Any]]) -> Any:
    key = scratch / f"{name}-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    common = {
        "type": "tpu",
        "cluster": "cloud",
        "project": tpu.world.project,
        "accelerator_type": "v4-8",
        "version": "tpu-ubuntu2204-base",
        "per_run": True,
        "control": "client",
        "endpoint": f"http://{tpu.grpc}",
        "ssh_key": str(key),
        "ssh_port": tpu.workers.port if tpu.workers else 22,
        "poll": 0,  # each pass asks: what an answer of some seconds ago costs is no question
    }
    inventory = {
        "approve": "auto",
        "clusters": {"cloud": {"root": f"{root}/c", "work": f"{root}/w"}},
        "hosts": {host: {**common, **more} for host, more in hosts.items()},
    }
    return make_site(scratch / name, json.dumps(inventory))


def _manifest(site: Any, name: str, **spec: Any) -> None:
    request = {"chip": "tpu-v4", "min_chips": 4}
    body = {"source": None, "request": request, "restart": {"backoff": {"initial": 0}}, "grace": "1s", **spec}
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}
    (site.repo / "manifests" / f"{name}.yaml").write_text(json.dumps(document))


def _one_vm(scratch: Path, tpu: Any, rounds: int) -> list[Row]:
    """One VM with one worker, from nothing to the program's first act, and the same after it was taken back."""
    from tests.lab.sshd import BASE

    shared = Path(tempfile.mkdtemp(prefix="bucket", dir=BASE))  # seen by the workers too
    asked, started, began, bare, again, applies = [], [], [], [], [], []
    try:
        for turn in range(rounds):
            # A site of its own: a VM that was taken away just after it was asked for holds its host for two minutes.
            site = _site(scratch, tpu, f"one{turn}", f"{shared}/{turn}", {"pod": {"zone": ZONES[0]}})
            marks = shared / f"began-{turn}"
            marks.mkdir()
            marks.chmod(0o777)
            command = f"touch {marks}/$RECONCILER_ATTEMPT; sleep 600"
            _manifest(site, f"job{turn}", command=command)
            site.commit()
            asked.append(expect(site("apply", "--yes")).wall_s)
            (name,) = tpu.nodes()
            begin = time.perf_counter()
            ran = expect(site("apply", "--yes"))
            _until((marks / "1").exists)
            started.append(ran.wall_s)
            began.append((marks / "1").stat().st_mtime - (time.time() - (time.perf_counter() - begin)))
            bare.append(expect(run(tpu.workers.ssh(name, 0, scratch / f"one{turn}-key", "true"))).wall_s)
            tpu.preempt(name)
            before, tries = _creates(tpu), 0
            begin = time.perf_counter()
            while _creates(tpu) == before:
                expect(site("apply", "--yes"))
                tries += 1
            again.append(time.perf_counter() - begin)
            applies.append(float(tries))
            (site.repo / "manifests" / f"job{turn}.yaml").unlink()
            site.commit()
            _until(functools.partial(_gone, site, tpu))
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    least = min(bare)
    return [
        Row("bare `ssh worker true`", bare, note="the floor of the next lines"),
        Row(
            "`apply` that asks for a VM",
            asked,
            note=f"{min(asked) / least:.1f} times a bare ssh; the service takes none of it",
        ),
        Row(
            "`apply` that finds the VM ready and starts the run",
            started,
            note=f"{min(started) / least:.1f} times a bare ssh; the runtime is brought to the new machine",
        ),
        Row("of it: until the program runs", began),
        Row(
            "preemption seen to a new VM asked for",
            again,
            note=f"{max(applies):.0f} `apply`: the old VM is deleted and seen to be gone first ({DELETE_S:g} s in the emulator)",
        ),
    ]


def _creates(tpu: Any) -> int:
    return sum(call.code == "OK" for call in tpu.calls("CreateNode"))


def _gone(site: Any, tpu: Any) -> bool:
    """One more pass with the manifest gone; true when there is no VM any more."""
    site("apply", "--yes", "--confirm-delete", "1")
    return not tpu.nodes()


def _many(scratch: Path, tpu: Any, rounds: int) -> list[Row]:
    """One pass over VMs in five zones, as `watch` makes it. READY without addresses: what workers cost is ssh, measured
    elsewhere, and would hide what the control plane costs."""
    tpu.fault("CreateNode", times=None, endpoints="missing")
    site, create = _fill(scratch, tpu, "many")
    passes, calls = _passes(site, tpu, rounds)
    listed = _lists(tpu, rounds)
    return [
        Row(f"`apply` that asks for {VMS} VMs in {len(ZONES)} zones", [create]),
        Row(
            f"both listings of {len(ZONES)} zones with {VMS} VMs, by the library",
            listed,
            note="the floor of the next line",
        ),
        Row(f"one pass of `watch` over {VMS} VMs in {len(ZONES)} zones", passes, note="workers are not asked"),
        Row(
            "API calls of that pass",
            calls,
            "",
            target=2.0 * len(ZONES),
            note="one listing of VMs and one of requests, for all zones",
        ),
    ]


def _being_made(scratch: Path, tpu: Any, rounds: int) -> list[Row]:
    """The same while all of them are being made, when each may still turn out to have failed."""
    site, _ = _fill(scratch, tpu, "made")
    passes, calls = _passes(site, tpu, rounds)
    return [
        Row(f"one pass of `watch` while {VMS} VMs are being made", passes),
        Row("API calls of that pass", calls, "", note="the operation of each is asked too"),
    ]


def _fill(scratch: Path, tpu: Any, name: str) -> tuple[Any, float]:
    """As many VMs in each zone, asked for by one `apply`; its seconds."""
    hosts = {f"pod-{zone}": {"zone": zone, "max_nodes": VMS // len(ZONES)} for zone in ZONES}
    site = _site(scratch, tpu, name, str(scratch / "nowhere"), hosts)
    _manifest(site, "sweep", command=["sleep", "600"], sweep={"grid": {"env.N": [str(one) for one in range(VMS)]}})
    site.commit()
    seconds = expect(site("apply", "--yes")).wall_s
    assert len(tpu.nodes()) == VMS, f"{len(tpu.nodes())} VMs, expected {VMS}"
    return site, seconds


def _passes(site: Any, tpu: Any, rounds: int) -> tuple[list[float], list[float]]:
    program = Path(__file__).parent / "slurm_pass.py"
    before = len(tpu.calls())
    told = expect(run([sys.executable, str(program), str(site.repo), str(rounds)], env=site.env))
    calls = (len(tpu.calls()) - before) / (rounds + 1)  # it looks once before it counts
    return json.loads(told.out)["seconds"], [calls]


def _lists(tpu: Any, rounds: int) -> list[float]:
    from reconciler.backends.tpu_client import TpuClientControl

    control = TpuClientControl(tpu.world.project, endpoint=f"http://{tpu.grpc}")
    for zone in ZONES:
        control.list(zone)
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for zone in ZONES:
            assert control.list(zone).complete
        taken.append(time.perf_counter() - begin)
    return taken


def _clients(scratch: Path, tpu: Any, rounds: int) -> list[Row]:
    """The same question by the library on an open connection and by the program."""
    from reconciler.backends.tpu_client import TpuClientControl

    tpu.create("n1", type="v4-8", zone=ZONES[0])
    control = TpuClientControl(tpu.world.project, endpoint=f"http://{tpu.grpc}")
    control.get(ZONES[0], "n1")
    client = []
    for _ in range(10 * rounds):
        begin = time.perf_counter()
        assert control.get(ZONES[0], "n1") is not None
        client.append(time.perf_counter() - begin)
    figure = "`get` of one VM by the library"
    if shutil.which("gcloud") is None:
        return [Row(figure, client, note="no gcloud here to compare it with")]
    argv = ["gcloud", "compute", "tpus", "tpu-vm", "describe", "n1", f"--zone={ZONES[0]}", "--format=json"]
    env = tpu.gcloud(scratch / "gcloud-home")
    expect(run(argv, env=env))  # the first writes its files
    program = [expect(run(argv, env=env)).wall_s for _ in range(rounds)]
    return [
        Row("`gcloud compute tpus tpu-vm describe`", program),
        Row(
            figure,
            client,
            note=f"{min(program) / min(client):.0f} times quicker than gcloud, which starts anew each time",
        ),
    ]


def _until(holds: Any, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

"""300 trivial local jobs, cold start to all seen complete, against three drivers of jobs from the package registry.

Ours is a fresh `reconciler apply --yes --wait` with no state, no cache and an empty cluster: it parses the manifests,
installs its runtime, journals, starts a supervisor for each job with log and exit code on disk, and looks until all have
ended. The variants take turns; directories are removed at the very end, because ext4 walks around inodes that were freed
within the last minutes, which costs up to half as much again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, expect, make_site, run, settle, write_jobs

PEERS = ("dpdispatcher==1.1.0", "psij-python==0.9.11", "submitit==1.5.4")
NAMES = {"psij_jobs": "PSI/J", "dpdispatcher_jobs": "DPDispatcher", "submitit_jobs": "submitit"}


def peers(scratch: Path) -> Path | None:
    """An interpreter with the peers, in a virtual environment of its own; None where uv or the registry is not there."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    python = scratch / "peers" / "bin" / "python"
    if uv is None:
        return None
    try:
        subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(scratch / "peers")], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *PEERS], check=True)
    except subprocess.CalledProcessError:
        return None
    return python


def measure(scratch: Path, *, rounds: int, count: int = 300, slow: bool = True) -> list[Row]:
    """`slow` runs submitit, a minute, once."""
    python = peers(scratch)
    ours: list[tuple[float, float]] = []
    others: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds):
        site = make_site(scratch / f"ours-{turn}")
        write_jobs(site, count)
        site.commit()
        settle()
        ran = expect(site("apply", "--yes", "--wait"))
        ours.append((ran.wall_s, ran.cpu_s))
        assert site("plan").code == 0, ran.out[-500:]
        for script in NAMES if python else ():
            if script == "submitit_jobs" and (turn > 0 or not slow):
                continue
            directory = scratch / f"{script}-{turn}"
            directory.mkdir()
            settle()
            command = [str(python), str(Path(__file__).parent / "peers" / f"{script}.py"), str(directory), str(count)]
            peer = expect(run(command, cwd=directory))
            others.setdefault(script, []).append((peer.wall_s, peer.cpu_s))
    name = f"{count} local `true` jobs, cold start to all seen complete"
    rows = [
        Row(f"{name}: wall", [wall for wall, _ in ours], target=1.5),
        Row(f"{name}: CPU of all processes", [cpu for _, cpu in ours], target=3.0),
    ]
    for script, values in others.items():
        ratio = min(wall for wall, _ in values) / min(wall for wall, _ in ours)
        rows.append(Row(f"- {NAMES[script]}: wall", [wall for wall, _ in values], note=f"{ratio:.1f} times ours"))
        rows.append(Row(f"- {NAMES[script]}: CPU", [cpu for _, cpu in values]))
    return rows

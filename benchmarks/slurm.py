"""A real Slurm cluster behind a real sshd (tests/lab): submissions against a bare `sbatch` loop on the same login node, what a
pass over many live jobs costs, and how soon a preempted job is in the queue again. CPU jobs, nothing but `sleep`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import Row, expect, make_site, run

JOBS, LIVE = 1000, 2000
LOOP = 'i=0; while [ $i -lt $1 ]; do sbatch --parsable "$2" >/dev/null || exit 1; i=$((i + 1)); done'
BARE = "#!/bin/sh\n#SBATCH --partition=cpu --output=/dev/null --hold\nsleep 600\n"


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    from tests.lab.slurm import login_node, slurm_lab

    rows: list[Row] = []
    with slurm_lab(max_array_size=10_001) as lab, login_node(lab) as ssh:
        rows += _submissions(scratch, lab, ssh, min(rounds, 3))
        rows += _pass(scratch, lab, ssh, rounds)
        rows += _preemption(scratch, lab, ssh, rounds)
    return rows


def _site(scratch: Path, lab: Any, ssh: Any, name: str) -> Any:
    folder = f"{lab.shared}/{name}"
    inventory = {
        "clusters": {"hpc": {"root": f"{folder}/c", "work": f"{folder}/w", "share": f"{folder}/s"}},
        "hosts": {
            "hpc": {
                "type": "slurm",
                "poll": 0,  # each pass asks: what an answer of some seconds ago costs is no question
                "ssh": "login01",
                "cluster": "hpc",
                "partitions": ["gpu"],
                "cpu_partitions": ["cpu"],
            }
        },
    }
    site = make_site(scratch / name, json.dumps(inventory))
    return site, {**site.env, "RECONCILER_SSH_CONFIG": str(ssh.ssh_config)}


def _manifest(site: Any, name: str, spec: dict[str, Any]) -> None:
    body = {"source": None, **spec}
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}
    (site.repo / "manifests" / f"{name}.yaml").write_text(json.dumps(document))


# Not to start: what is measured is acceptance, on a machine that has two cores for the scheduler, the jobs and us.
LATER = {"command": ["sleep", "600"], "slurm": {"directives": ["--begin=now+12hours"]}}


def _submissions(scratch: Path, lab: Any, ssh: Any, rounds: int) -> list[Row]:
    script = Path(str(lab.shared)) / "bare.sh"
    script.write_text(BARE.replace(" --hold", " --begin=now+12hours"))
    bare, ours, arrays = [], [], []
    for turn in range(rounds):
        loop = ["ssh", "-F", str(ssh.ssh_config), "login01", "sh", "-c", _quoted(LOOP), "sh", str(JOBS), str(script)]
        bare.append(expect(run(loop)).wall_s)
        lab.clear()
        site, env = _site(scratch, lab, ssh, f"many-{turn}")
        for number in range(JOBS):
            _manifest(site, f"j{number}", LATER)
        site.commit()
        ours.append(expect(run(site.command("apply", "--yes"), env=env)).wall_s)
        _expect_jobs(lab, JOBS)
        lab.clear()
        site, env = _site(scratch, lab, ssh, f"array-{turn}")
        _manifest(site, "sweep", {**LATER, "sweep": {"grid": {"env.N": [str(number) for number in range(JOBS)]}}})
        site.commit()
        arrays.append(expect(run(site.command("apply", "--yes"), env=env)).wall_s)
        _expect_jobs(lab, JOBS)
        lab.clear()
    least = min(bare)
    return [
        Row(f"{JOBS} times `sbatch` in a shell loop on the login node", bare, note="the floor of the next lines"),
        Row(
            f"`apply` of {JOBS} jobs",
            ours,
            target=round(1.1 * least, 2),
            note=f"{min(ours) / least:.2f} times the loop",
        ),
        Row(f"`apply` of a sweep of {JOBS}, as an array", arrays, note=f"{min(arrays) / least:.3f} times the loop"),
    ]


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _expect_jobs(lab: Any, count: int) -> None:
    found = len(lab.out("squeue", "-h", "-r", "-t", "PD,R", "-o", "%i").splitlines())
    assert found == count, f"{found} jobs are in the queue, expected {count}"


def _pass(scratch: Path, lab: Any, ssh: Any, rounds: int) -> list[Row]:
    """A whole `plan` in a process of its own, and one pass of `watch`, over live jobs; the remote commands of one pass."""
    site, env = _site(scratch, lab, ssh, "live")
    for number in range(2):
        members = {"env.N": [str(one) for one in range(LIVE // 2)]}
        _manifest(site, f"sweep{number}", {**LATER, "sweep": {"grid": members}})
    site.commit()
    expect(run(site.command("apply", "--yes"), env=env))
    _expect_jobs(lab, LIVE)
    cold = [expect(run(site.command("plan"), env=env)).wall_s for _ in range(rounds)]
    warm, commands = _warm(site, env, rounds)
    squeue = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(
            ["ssh", "-F", str(ssh.ssh_config), "login01", "squeue", "-r", "-h"], check=True, capture_output=True
        )
        squeue.append(time.perf_counter() - start)
    lab.clear()
    return [
        Row(f"bare `ssh login01 squeue -r` with {LIVE} jobs", squeue, note="the floor of the next lines"),
        Row(f"`plan` over {LIVE} live jobs, a process of its own", cold),
        Row(f"one pass of `watch` over {LIVE} live jobs", warm),
        Row("remote commands of that pass", commands, "", target=1),
    ]


def _warm(site: Any, env: dict[str, str], rounds: int) -> tuple[list[float], list[float]]:
    program = Path(__file__).parent / "slurm_pass.py"
    told = expect(run([sys.executable, str(program), str(site.repo), str(rounds)], env=env))
    found = json.loads(told.out)
    return found["seconds"], found["commands"]


def _preemption(scratch: Path, lab: Any, ssh: Any, rounds: int) -> list[Row]:
    """From the pass that sees the preemption to the new attempt accepted by Slurm: one `apply`."""
    site, env = _site(scratch, lab, ssh, "preempt")
    low = {
        "command": "trap 'exit 0' TERM; sleep 600 & wait",
        "request": {"chip": "h100", "min_chips": 8},
        "slurm": {"partition": "gpu-preempt", "nodelist": ["gh01"]},
        "restart": {"backoff": {"initial": 0}},
    }
    _manifest(site, "low", low)
    site.commit()
    expect(run(site.command("apply", "--yes"), env=env))
    taken = []
    for _ in range(rounds):
        _until(lambda: lab.out("squeue", "-h", "-p", "gpu-preempt", "-t", "R", "-o", "%i").split())
        time.sleep(1.0)
        high = lab.sbatch("#!/bin/sh\nsleep 600\n", "-p", "gpu", "--gres=gpu:h100:8", "-w", "gh01")
        _until(lambda: not lab.out("squeue", "-h", "-p", "gpu-preempt", "-t", "R,CG", "-o", "%i").split())
        before = len(lab.out("squeue", "-h", "-p", "gpu-preempt", "-t", "PD", "-o", "%i").split())
        assert before == 0
        taken.append(expect(run(site.command("apply", "--yes"), env=env)).wall_s)
        assert lab.out("squeue", "-h", "-p", "gpu-preempt", "-t", "PD", "-o", "%i").split()
        lab.out("scancel", high)
    lab.clear()
    return [Row("preemption seen to requeued: one `apply`", taken)]


def _until(holds: Any, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)

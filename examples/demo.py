"""The main story on this machine alone: commit a job, watch it train, kill it midway, see it go on from its checkpoint.

`make demo` runs it. Everything it makes lies below demo/ in this checkout; nothing outside is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
JOBS = DEMO / "jobs"
ROOT = DEMO / "cluster"
JOB = "demo/tiny/train"
# Bounds, so that a demo on a broken machine ends with a sentence and not never.
STEP_DEADLINE_S = 180.0

MANIFEST = """\
apiVersion: reconciler/v1
kind: Job
metadata: {{name: train, project: demo, group: tiny}}
spec:
  command: [{python}, train.py]
  config: {{steps: 3000, checkpoint_every: 250}}
  restart: {{backoff: {{initial: 1s}}}}
"""

INVENTORY = """\
clusters:
  here: {{root: {root}, work: {root}/work}}
hosts:
  local: {{type: local, cluster: here}}
"""


def main() -> int:
    """Tell the story; returns 0 when each part of it happened."""
    make_repository()
    say("A git repository of manifests, with one job: a tiny JAX model, trained on this machine's CPU.")
    show("git", "-C", str(JOBS), "log", "--oneline")
    print((JOBS / "manifests" / "train.yaml").read_text())

    say("What would be done?")
    reconciler("plan", expect=(2,))

    say("Do it, and watch. Midway the training process will be killed (SIGKILL), as a crash or an OOM killer would.")
    killer = Killer()
    killer.start()
    reconciler("apply", "--yes", "--wait", "--timeout", str(STEP_DEADLINE_S), expect=(0,))
    killer.join()
    if killer.killed_at is None:
        raise SystemExit("demo: the training process was not found to be killed; the rest would prove nothing")

    say("Apply again: everything is as it should be.")
    again = reconciler("apply", "--yes", expect=(0,))
    assert "Nothing to do" in again, again

    say("What happened, from the journal:")
    reconciler("history", JOB)
    resumed = resumed_step()
    say("In short:")
    print(f"  attempt 1 was killed at step {killer.killed_at};")
    print(f"  attempt 2 was requeued by the reconciler and resumed from its checkpoint at step {resumed}, not from 0;")
    print("  it succeeded, and a second apply found nothing to do.")
    print()
    print("  Where things lie:")
    print(f"    manifests    {JOBS / 'manifests'}")
    print(f"    checkpoints  {ROOT / 'checkpoints' / JOB}")
    print(f"    status, logs {ROOT / 'status' / JOB}")
    print(f"    journal      {DEMO / 'state'}")
    print()
    print(f"  Go on by hand: export RECONCILER_STATE={shlex.quote(str(DEMO / 'state'))}; cd {shlex.quote(str(JOBS))}")
    print(f"                 {HERE.parent / '.venv/bin/reconciler'} logs {JOB} --attempt 1")
    if not resumed:
        raise SystemExit("demo: attempt 2 started from step 0")
    return 0


def make_repository() -> None:
    """A fresh repository in demo/jobs; whatever an earlier demo left is removed, after its runs have ended."""
    if DEMO.exists():
        if (JOBS / ".git").exists():
            with contextlib.suppress(subprocess.SubprocessError, OSError):
                command = [sys.executable, "-m", "reconciler", "-C", str(JOBS), "cancel", JOB]
                subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=False)
        shutil.rmtree(DEMO)
    (JOBS / "manifests").mkdir(parents=True)
    shutil.copy2(HERE / "tiny-jax" / "train.py", JOBS / "train.py")
    (JOBS / "manifests" / "train.yaml").write_text(MANIFEST.format(python=json.dumps(sys.executable)))
    (JOBS / "manifests" / "inventory.yaml").write_text(INVENTORY.format(root=json.dumps(str(ROOT))[1:-1]))
    git = [
        "git",
        "-C",
        str(JOBS),
        "-c",
        "user.name=demo",
        "-c",
        "user.email=demo@localhost",
        "-c",
        "commit.gpgsign=false",
    ]
    subprocess.run(["git", "init", "-q", str(JOBS)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Train a tiny model"], check=True)


class Killer(threading.Thread):
    """Kills the training process once it is past a third of its steps and has a checkpoint."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.killed_at: int | None = None

    def run(self) -> None:
        deadline = time.monotonic() + STEP_DEADLINE_S
        while time.monotonic() < deadline:
            run = newest_run()
            progress = read(run / "progress.json") if run else {}
            step, total = progress.get("step"), progress.get("total")
            if run and isinstance(step, int) and isinstance(total, int) and step * 3 >= total:
                started = read(run / "started")
                for pid in children_of(int(started.get("pid", 0))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.killed_at = step
                return
            time.sleep(0.05)


def newest_run() -> Path | None:
    """The directory of the job's newest attempt."""
    runs = [path.parent for path in (ROOT / "status" / JOB).glob("*/metadata.json")]
    return max(runs, key=lambda path: path.stat().st_mtime, default=None)


def resumed_step() -> int:
    """The step that attempt 2 says it resumed from."""
    logs = subprocess.run(
        [sys.executable, "-m", "reconciler", "-C", str(JOBS), "logs", JOB],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = next((line for line in logs.splitlines() if line.startswith("resuming from step ")), "resuming from step 0")
    return int(words.split()[3].rstrip(",.:;"))


def children_of(pid: int) -> list[int]:
    """Child processes, by ps(1): the training process is the supervisor's only one."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def reconciler(*arguments: str, expect: tuple[int, ...] = (0,)) -> str:
    """Run one command as a user would, showing it and what it prints; returns what it printed when that was captured."""
    command = [sys.executable, "-m", "reconciler", "-C", str(JOBS), *arguments]
    print(f"\n$ reconciler {shlex.join(arguments)}", flush=True)
    live = "--wait" in arguments
    done = subprocess.run(command, env=environment(), stdout=None if live else subprocess.PIPE, text=True, check=False)
    if done.stdout:
        print(done.stdout, end="", flush=True)
    if done.returncode not in expect:
        raise SystemExit(f"demo: `reconciler {shlex.join(arguments)}` exited {done.returncode}, expected {expect}")
    return done.stdout or ""


def show(*command: str) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    subprocess.run(command, check=True)


def environment() -> dict[str, str]:
    """Ours, with the state below demo/ and no inventory but the demo's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
    return kept | {"RECONCILER_STATE": str(DEMO / "state"), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

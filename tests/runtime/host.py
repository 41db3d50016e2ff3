"""A node in a temporary directory, driven as the controlling side drives it: `sh bootstrap.sh VERB`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import process

DEADLINE_S = 30.0


def wait_for(what: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `what`; fails the test when there is none in time."""
    end = time.monotonic() + deadline_s
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, f"did not come true within {deadline_s} s"
        time.sleep(0.01)


class Host:
    """One root with everything a run needs, and the verbs on it."""

    def __init__(self, base: Path, bundle: Path) -> None:
        self.base = base
        self.bundle = bundle
        self.root = base / "root"
        self.unique = uuid.uuid4().hex  # a token is one run's in the whole world: `cancel` finds strays by it
        self.status = self.root / "status"
        self.environ = {**os.environ, "RECONCILER_PYTHON": sys.executable}

    def run(self, name: str = "train", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """A RUN as the protocol describes it."""
        run_id = f"lab-demo-{name}-0a1b2c3d-{attempt}"
        path = f"lab/demo/{name}"
        run: dict[str, Any] = {
            "run_id": run_id,
            "token": f"token-{name}-{attempt}-{self.unique}",
            "job": {"project": "lab", "group": "demo", "name": name},
            "attempt": attempt,
            "digest": "0a1b2c3d",
            "generation": 1,
            "status_root": str(self.status),
            "status_dir": str(self.status / path / run_id),
            "work_dir": str(self.base / "work" / path / run_id),
            "checkpoint_dir": str(self.root / "checkpoints" / path),
            "results_dir": str(self.root / "results" / path),
            "tree": None,
            "stages": [{"argv": ["true"]}],
            "job_key": None,
            "config": {},
            "env": {},
            "secrets": {},
            "setup": [],
            "modules": [],
            "python": None,
            "gpus": None,
            "hardware": {"chip": None, "total_chips": 0, "hosts": ["here"]},
            "grace_s": 5,
            "heartbeat_s": 0.1,
            "log_bytes_max": 1 << 28,
            "log_files": 3,
            "keep_work": False,
            "limit_s": None,
            "source": {"commit": None, "dirty": False},
            "claim": {"host": "here", "actor": "test"},
        }
        shell = changes.pop("shell", None)
        if shell is not None:
            run["stages"] = [{"argv": ["sh", "-c", shell]}]
        return {**run, **changes}

    def call(self, verb: str, document: dict[str, Any]) -> bytes:
        done = subprocess.run(
            ["sh", str(self.bundle / "bootstrap.sh"), verb],
            input=json.dumps({"version": 1, **document}).encode(),
            capture_output=True,
            env=self.environ,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (done.returncode, done.stderr.decode())
        return done.stdout

    def answers(self, verb: str, document: dict[str, Any]) -> list[dict[str, Any]]:
        """All answer lines; the last one is the closing line."""
        lines = [json.loads(line[4:]) for line in self.call(verb, document).splitlines() if line.startswith(b"@r1 ")]
        assert lines[-1]["done"] is True
        return lines

    def launch(self, *runs: dict[str, Any]) -> list[dict[str, Any]]:
        found = {answer["run_id"]: answer for answer in self.answers("launch", {"runs": list(runs)})[:-1]}
        return [found[run["run_id"]] for run in runs]

    def start(self, run: dict[str, Any]) -> dict[str, Any]:
        """Launch one run that must start; its handle."""
        [answer] = self.launch(run)
        assert answer["result"] == "started", answer
        handle: dict[str, Any] = answer["handle"]
        return handle

    def observe(self, *known: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The sightings by run id, and the closing line under ''."""
        document = {
            "status_roots": [str(self.status)],
            "known": [{"run_id": run["run_id"], "status_dir": run["status_dir"]} for run in known],
            **more,
        }
        *sightings, closing = self.answers("observe", document)
        return {"": closing, **{line["sighting"]["run_id"]: line["sighting"] for line in sightings}}

    def see(self, run: dict[str, Any]) -> dict[str, Any]:
        sighting: dict[str, Any] = self.observe(run)[run["run_id"]]
        return sighting

    def cancel(self, run: dict[str, Any], reason: str = "cancelled", grace_s: float = 5, **more: Any) -> dict[str, Any]:
        wanted = {name: run[name] for name in ("run_id", "token", "status_dir")}
        return self.answers("cancel", {"runs": [{**wanted, "reason": reason, "grace_s": grace_s, **more}]})[0]

    def clean(self, run: dict[str, Any], *, status: bool = True, work: bool = True, **more: Any) -> dict[str, Any]:
        wanted = {name: run[name] for name in ("run_id", "token", "status_dir", "work_dir")}
        return self.answers("clean", {"runs": [{**wanted, "status": status, "work": work, **more}]})[0]

    def metadata(self, run: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(run["status_dir"]) / "metadata.json").read_text())
        return found

    def log(self, run: dict[str, Any]) -> str:
        return (Path(run["status_dir"]) / "output.log").read_text()

    def wait_final(self, run: dict[str, Any], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """The final record, once the supervisor has gone as well."""
        wait_for(lambda: self.metadata(run)["end_time"], deadline_s)
        pid = self.metadata(run)["pid"]
        wait_for(lambda: not process.start_of(pid))
        return self.metadata(run)

    def wait_log(self, run: dict[str, Any], text: str) -> None:
        wait_for(lambda: text in self.log(run))

    def end_all(self) -> None:
        """Kill whatever a test left: processes that carry this root's mark."""
        mark = f"RECONCILER_STATUS_DIR={self.status}".encode()
        for started in self.status.glob("*/*/*/*/started"):
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                value = json.loads(started.read_text())
                if os.getsid(value["pid"]) == value["sid"]:
                    os.kill(value["pid"], signal.SIGKILL)
        for one in process.table().values():
            if mark in process.environment_of(one.pid):
                process.send([one.pid], signal.SIGKILL)

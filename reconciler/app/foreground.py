"""One job in the foreground on this machine: the job's own environment, nothing of the reconciler's around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import runtime.checkpoints
from reconciler.core.errors import ShipError
from reconciler.core.job import JobSpec
from reconciler.core.secret import Secret
from reconciler.transports.private import make_private, write_private


def run_here(spec: JobSpec, secrets: Mapping[str, Secret], *, directory: Path, root: Path) -> int:
    """Run the stages one after the other and return the exit code: the first that is not 0, 128 + n for signal n.

    Checkpoints, results and the config lie below `root` as they do below a cluster's root. Ctrl-C reaches the job, which may
    write a last checkpoint; a second one ends it.
    """
    base = root.resolve()
    key = str(spec.key)
    checkpoints = Path(spec.checkpoint.dir) if spec.checkpoint.dir else base / "checkpoints" / key
    status = base / "status" / key / "here"
    results = base / "results" / key
    try:
        for path in (checkpoints, status, results):
            make_private(path)
        config = status / "config.json"
        write_private(config, json.dumps(dict(spec.config)))
    except OSError as error:
        raise ShipError(f"{base} cannot be written: {error}", hint="Give another place with --root DIR.") from error
    source = directory if spec.source is None else directory / spec.source.repo
    found = runtime.checkpoints.newest(str(checkpoints))
    env = {
        **os.environ,
        "RECONCILER_JOB": key,
        "RECONCILER_RUN_ID": "here",
        "RECONCILER_ATTEMPT": "1",
        "RECONCILER_CONFIG": str(config),
        "RECONCILER_CHECKPOINT_DIR": str(checkpoints),
        "RECONCILER_RESULTS_DIR": str(results),
        "RECONCILER_RESUME_FROM": found.path if found else "",
        "RECONCILER_STATUS_DIR": str(status),
        "RECONCILER_WORK_DIR": str(source.resolve()),
        "THESEUS_ROOT": str(base),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [os.environ.get("PYTHONPATH", ""), str(Path(runtime.__file__).resolve().parents[1])])
        ),
        **spec.env,
        **{name: secret.reveal() for name, secret in secrets.items()},
    }
    commands = [
        ["bash", "-lc", stage.shell] if stage.shell is not None else list(stage.argv or ()) for stage in spec.stages
    ]
    if spec.job_key:
        commands = [[sys.executable, "-m", "runtime.run_job", spec.job_key]]
    for command in commands:
        code = _foreground(command, source, env)
        if code != 0:
            return code
    return 0


def _foreground(command: list[str], directory: Path, env: Mapping[str, str]) -> int:
    try:
        child = subprocess.Popen(command, cwd=directory, env=dict(env))
    except OSError as error:
        raise ShipError(f"{command[0]} cannot be started in {directory}: {error.strerror}") from error
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            # The terminal has sent the same signal to the job: wait for it to end in its own way.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            continue
        return 128 - code if code < 0 else code

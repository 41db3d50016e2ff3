"""How a backend speaks to the runtime on a host: one command per verb, and the record of a run as it travels there.

docs/node-protocol.md is the contract with the node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.backends.node_answers import Answer, parse
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, Unparsable
from reconciler.core.job import Json
from reconciler.core.protocols import Facts, Known, LogChunk, LogCursor
from reconciler.core.run import Run
from reconciler.core.transport import Command, Completed, Transport

# The shell line answers this when the runtime bundle is not on the host (docs/node-protocol.md).
BUNDLE_MISSING = 90

LOGS_DEADLINE_S = 60.0
# Verbs whose breaking off leaves open what was done.
_EFFECTS = frozenset({"launch", "cancel", "enqueue", "dequeue", "withdraw"})

_CALL = '[ -f "$1/bootstrap.sh" ] || exit 90; d=$1; shift; exec sh "$d/bootstrap.sh" "$@"'
_CALL_WITH_PYTHON = (
    '[ -f "$1/bootstrap.sh" ] || exit 90; d=$1; RECONCILER_PYTHON=$2; export RECONCILER_PYTHON; shift 2; '
    'exec sh "$d/bootstrap.sh" "$@"'
)
# What is made on a claim of Kubernetes may be read by pods whose images have another user.
_SHARED = "RECONCILER_SHARED=1; export RECONCILER_SHARED; "


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Where things lie on the host: absolute paths of its cluster, and the bundle's directory there."""

    status: str
    work: str
    checkpoints: str
    results: str
    bundle: str

    def status_dir(self, run: Run) -> str:
        return f"{self.status}/{run.job}/{run.run_id}"

    def work_dir(self, run: Run) -> str:
        return f"{self.work}/{run.job}/{run.run_id}"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the inventory says of the host beyond its paths. `env` goes under the job's own. `shared`: its files lie where only
    our own pods are, which may have other users than whoever made them; elsewhere only the account and its group read them."""

    name: str
    paths: NodePaths
    env: Mapping[str, str] = field(default_factory=dict)
    uv_groups: tuple[str, ...] = ()
    python: str | None = None
    heartbeat_s: float = 30.0
    log_bytes_max: int = 256 << 20
    log_files: int = 3
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    shared: bool = False


class NodeCall:
    """The way to one host's runtime. `install` brings the bundle there; it is called when the host says that it is missing."""

    def __init__(self, settings: NodeSettings, transport: Transport, install: Callable[[], None]) -> None:
        self._settings = settings
        self._transport = transport
        self._install = install

    def __call__(self, verb: str, document: Mapping[str, Any], *, deadline_s: float) -> Answer:
        """Run a verb of the bundle. Raises the transport's errors, Rejected with the host's words, Unparsable."""
        command = self._command(verb, json.dumps(document).encode())
        done = self._transport.run(command, deadline_s=deadline_s)
        if done.returncode == BUNDLE_MISSING:
            self._install()
            done = self._transport.run(command, deadline_s=deadline_s)
        if done.returncode != 0:
            raise self._failure(verb, done)
        answer = parse(done.stdout)
        if not answer.done:
            raise Unparsable(
                f"{self._settings.name} broke off its answer to {verb!r}: {excerpt(done.stderr or done.stdout)}"
            )
        return answer

    def _command(self, verb: str, stdin: bytes) -> Command:
        bundle, python = self._settings.paths.bundle, self._settings.python
        before = _SHARED if self._settings.shared else ""
        if python:
            return Command(("sh", "-c", before + _CALL_WITH_PYTHON, "sh", bundle, python, verb), stdin)
        return Command(("sh", "-c", before + _CALL, "sh", bundle, verb), stdin)

    def _failure(self, verb: str, done: Completed) -> ReconcilerError:
        words = excerpt(done.stderr or done.stdout)
        message = f"{self._settings.name} could not {verb}: exit {done.returncode}, {words}"
        # A launch or cancel that broke off may have had its effect for some of the batch.
        return OutcomeUnknown(message) if verb in _EFFECTS else Rejected(message)

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        """A piece of a run's output."""
        document = {
            "version": 1,
            "status_dir": self._settings.paths.status_dir(known.run),
            "offset": since.offset,
            "size_max": since.size_max,
            "worker": since.worker,
        }
        answer = self("logs", document, deadline_s=LOGS_DEADLINE_S)
        head = answer.lines[0]
        if head.get("error"):
            raise Rejected(f"{self._settings.name} has no log of {known.run.run_id}: {head['error']}")
        start, end = head.get("offset"), head.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            raise Unparsable(f"{self._settings.name} answered the log request without positions: {head!r}")
        return LogChunk(answer.rest[: end - start], start, end, bool(head.get("rotated")))

    def close(self) -> None:
        self._transport.close()


def record_of(settings: NodeSettings, run: Run, facts: Facts) -> dict[str, Json]:
    """The launch record of one run (docs/node-protocol.md, RUN), without secret values."""
    spec = facts.spec
    stages: list[Json] = [
        {"argv": list(stage.argv)} if stage.argv is not None else {"shell": stage.shell} for stage in spec.stages
    ]
    tree: Json = None
    if facts.tree is not None:
        tree = (
            {"directory": facts.tree.directory}
            if facts.tree.directory
            else {"object": facts.tree.object, "sha256": facts.tree.sha256}
        )
    python: Json = None
    if spec.python is not None or settings.uv_groups:
        groups = dict.fromkeys((*settings.uv_groups, *(spec.python.groups if spec.python else ())))
        python = {"groups": list(groups), "version": spec.python.version if spec.python else None}
    job = run.job
    return {
        "run_id": run.run_id,
        "token": run.token,
        "job": {"project": job.project, "group": job.group, "name": job.name},
        "attempt": run.attempt,
        "digest": run.digest,
        "generation": run.generation,
        "status_root": settings.paths.status,
        "status_dir": settings.paths.status_dir(run),
        "work_dir": settings.paths.work_dir(run),
        "checkpoint_dir": spec.checkpoint.dir or f"{settings.paths.checkpoints}/{job}",
        "results_dir": f"{settings.paths.results}/{job}",
        "tree": tree,
        "stages": stages,
        "job_key": spec.job_key,
        "config": dict(spec.config),
        "env": {**settings.env, **spec.env},
        "setup": [*settings.setup, *spec.setup],
        "modules": [*settings.modules, *spec.modules],
        "python": python,
        "gpus": None if run.gpus is None else list(run.gpus),
        "hardware": {"chip": facts.chip, "total_chips": len(run.gpus or ()), "hosts": [run.host]},
        "grace_s": spec.grace_s,
        "heartbeat_s": settings.heartbeat_s,
        "log_bytes_max": settings.log_bytes_max,
        "log_files": settings.log_files,
        "keep_work": False,
        "limit_s": spec.request.time_s,
        "source": {"commit": run.commit, "dirty": run.dirty},
        "owners": [run.owner, *([facts.heir_of] if facts.heir_of else [])],
        "claim": {"owner": run.owner, "run": run.to_json(), "host": run.host},
    }


def excerpt(output: bytes, *, length_max: int = 300) -> str:
    """What a command said, on one line, its end rather than its beginning."""
    text = " / ".join(line for line in output.decode(errors="replace").splitlines() if line.strip())
    return (text if len(text) <= length_max else "…" + text[-length_max:]) or "nothing was said"

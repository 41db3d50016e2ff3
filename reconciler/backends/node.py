"""Machines on which we run processes ourselves, without a scheduler: this one (`local`) and plain SSH hosts.

Identity: the run directory, claimed by an atomic rename; the process by pid, start time and boot id. One command serves a whole
batch of launches, one command observes all runs (docs/node-protocol.md is the contract with the node).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from reconciler.backends.node_answers import Answer, census_from, handle_from, parse
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, Unparsable
from reconciler.core.job import Json
from reconciler.core.names import JobKey
from reconciler.core.observation import Census
from reconciler.core.protocols import (
    Accepted,
    Capabilities,
    Declined,
    Facts,
    Known,
    LogChunk,
    LogCursor,
    Look,
    Submission,
)
from reconciler.core.run import Run
from reconciler.core.transport import Command, Completed, Transport

# The shell line answers this when the runtime bundle is not on the host (docs/node-protocol.md).
BUNDLE_MISSING = 90

OBSERVE_DEADLINE_S = 60.0
CANCEL_DEADLINE_S = 60.0
LOGS_DEADLINE_S = 60.0
# A launch claims, forks and returns; per run it costs milliseconds. The rest is for a node that is short of breath.
LAUNCH_DEADLINE_S = 60.0
LAUNCH_DEADLINE_PER_RUN_S = 1.0

_CALL = '[ -f "$1/bootstrap.sh" ] || exit 90; d=$1; shift; exec sh "$d/bootstrap.sh" "$@"'
_CALL_WITH_PYTHON = (
    '[ -f "$1/bootstrap.sh" ] || exit 90; d=$1; RECONCILER_PYTHON=$2; export RECONCILER_PYTHON; shift 2; '
    'exec sh "$d/bootstrap.sh" "$@"'
)


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
    """What the inventory says of the host beyond its paths. `env` goes under the job's own."""

    name: str
    paths: NodePaths
    env: Mapping[str, str] = field(default_factory=dict)
    uv_groups: tuple[str, ...] = ()
    python: str | None = None
    heartbeat_s: float = 30.0
    log_bytes_max: int = 256 << 20
    log_files: int = 3


class NodeBackend:
    """One host. `install` brings the runtime bundle there; it is called when the host says that it is missing."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self, settings: NodeSettings, transport: Transport, install: Callable[[], None]) -> None:
        self._settings = settings
        self._transport = transport
        self._install = install

    # --- launching

    def render(self, run: Run, facts: Facts) -> Submission:
        """The launch record of one run (docs/node-protocol.md, RUN), without secret values."""
        spec, settings = facts.spec, self._settings
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
        body: dict[str, Json] = {
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
            "setup": list(spec.setup),
            "modules": list(spec.modules),
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
        return Submission(run, body, facts.secrets)

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        """One command for the whole batch; the node answers run by run."""
        runs = [
            {**item.body, "secrets": {name: secret.reveal() for name, secret in item.secrets.items()}}
            for item in submissions
        ]
        deadline_s = LAUNCH_DEADLINE_S + LAUNCH_DEADLINE_PER_RUN_S * len(runs)
        answer = self._call("launch", {"version": 1, "runs": runs}, deadline_s=deadline_s)
        tokens = {item.run.run_id: item.run.token for item in submissions}
        results: dict[str, Accepted | Declined] = {}
        for line in answer.lines:
            run_id = line.get("run_id")
            claimed_only = line.get("result") == "already" and line.get("handle") is None
            # Claimed with our token, and not started: its launcher is still at it, or was killed. The next look tells.
            if isinstance(run_id, str) and run_id in tokens and not claimed_only:
                results[run_id] = _result(run_id, tokens[run_id], line, self._settings.name)
        return results

    # --- looking

    def observe(self, look: Look) -> Census:
        """Every run that may be alive, every known run, and with `scan` every run ever claimed: one command."""
        paths = self._settings.paths
        known = [
            {
                "run_id": item.run.run_id,
                "status_dir": paths.status_dir(item.run),
                "settled": item.handle is not None,
            }
            for item in look.known
        ]
        document = {
            "version": 1,
            "status_roots": [paths.status],
            "known": known,
            "scan": look.scan,
            "probe": look.probe,
        }
        try:
            answer = self._call("observe", document, deadline_s=OBSERVE_DEADLINE_S)
        except ReconcilerError as error:
            return Census(self._settings.name, complete=False, error=error.message)
        return census_from(self._settings.name, answer, scanned=look.scan)

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        document = {
            "version": 1,
            "status_dir": self._settings.paths.status_dir(known.run),
            "offset": since.offset,
            "size_max": since.size_max,
        }
        answer = self._call("logs", document, deadline_s=LOGS_DEADLINE_S)
        head = answer.lines[0]
        if head.get("error"):
            raise Rejected(f"{self._settings.name} has no log of {known.run.run_id}: {head['error']}")
        start, end = head.get("offset"), head.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            raise Unparsable(f"{self._settings.name} answered the log request without positions: {head!r}")
        return LogChunk(answer.rest[: end - start], start, end, bool(head.get("rotated")))

    # --- stopping

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        run = known.run
        request = {
            "run_id": run.run_id,
            "token": run.token,
            "status_dir": self._settings.paths.status_dir(run),
            "reason": reason,
            "grace_s": grace_s,
            "force": force,
        }
        answer = self._call("cancel", {"version": 1, "runs": [request]}, deadline_s=CANCEL_DEADLINE_S)
        line = next((line for line in answer.lines if line.get("run_id") == run.run_id), None)
        if line is None:
            raise OutcomeUnknown(f"{self._settings.name} did not answer whether it stops {run.run_id}")
        if line.get("result") == "refused":
            raise Rejected(f"{self._settings.name} refuses to stop {run.run_id}: {line.get('reason')}")
        return "already gone" if line.get("result") == "gone" else "signalled"

    def clean(self, runs: Iterable[Known], *, status: bool, work: bool) -> dict[str, str]:
        """Remove directories of ended runs; per run id what happened (removed, gone, refused and why)."""
        paths = self._settings.paths
        requests = [
            {
                "run_id": item.run.run_id,
                "token": item.run.token,
                "status_dir": paths.status_dir(item.run),
                "work_dir": paths.work_dir(item.run),
                "status": status,
                "work": work,
            }
            for item in runs
        ]
        answer = self._call("clean", {"version": 1, "runs": requests}, deadline_s=CANCEL_DEADLINE_S)
        return {
            str(line["run_id"]): " ".join(filter(None, (str(line.get("result")), str(line.get("reason") or ""))))
            for line in answer.lines
            if "run_id" in line
        }

    def close(self) -> None:
        self._transport.close()

    # --- the one way to the node

    def _call(self, verb: str, document: Mapping[str, Any], *, deadline_s: float) -> Answer:
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
                f"{self._settings.name} broke off its answer to {verb!r}: {_excerpt(done.stderr or done.stdout)}"
            )
        return answer

    def _command(self, verb: str, stdin: bytes) -> Command:
        bundle, python = self._settings.paths.bundle, self._settings.python
        if python:
            return Command(("sh", "-c", _CALL_WITH_PYTHON, "sh", bundle, python, verb), stdin)
        return Command(("sh", "-c", _CALL, "sh", bundle, verb), stdin)

    def _failure(self, verb: str, done: Completed) -> ReconcilerError:
        words = _excerpt(done.stderr or done.stdout)
        message = f"{self._settings.name} could not {verb}: exit {done.returncode}, {words}"
        # A launch or cancel that broke off may have had its effect for some of the batch.
        return OutcomeUnknown(message) if verb in ("launch", "cancel") else Rejected(message)


def _result(run_id: str, token: str, line: Mapping[str, Any], host: str) -> Accepted | Declined:
    result = line.get("result")
    handle = handle_from(run_id, token, line.get("handle"))
    if result in ("started", "already") and handle is not None:
        return Accepted(handle, repeated=result == "already")
    reason = str(line.get("reason") or "other")
    sentence = {
        "owned": f"a job of this name that another repository of manifests started lies on {host}. Rename the job, use another "
        f"cluster root, or, if it is yours from before, go on after it with `reconciler adopt --take-over`",
        "claimed": f"{run_id} is claimed on {host} by somebody else",
        "fenced": f"a newer attempt of this job has claimed {host}",
        "alive": f"an older attempt of this job is still alive on {host}",
        "missing": f"its code is not on {host}, or is damaged there",
        "unwritable": f"{host} cannot write where the run has to live",
    }.get(reason, f"{host} refused it")
    words = line.get("message")
    return Declined(reason, f"{sentence}: {words}" if words else sentence)


def _excerpt(output: bytes, *, length_max: int = 300) -> str:
    text = " / ".join(line for line in output.decode(errors="replace").splitlines() if line.strip())
    return (text if len(text) <= length_max else "…" + text[-length_max:]) or "nothing was said"


def job_of(claim: Mapping[str, Any]) -> JobKey | None:
    """The job a claim names, None when it does not say."""
    job = claim.get("job")
    if not isinstance(job, dict):
        return None
    return JobKey(str(job.get("project")), str(job.get("group")), str(job.get("name")))

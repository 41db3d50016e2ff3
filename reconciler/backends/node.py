"""Machines on which we run processes ourselves, without a scheduler: this one (`local`) and plain SSH hosts.

Identity: the run directory, claimed by an atomic rename; the process by pid, start time and boot id. One command serves a whole
batch of launches, one command observes all runs (docs/node-protocol.md is the contract with the node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from reconciler.backends.node_answers import census_from, handle_from, refusal_of
from reconciler.backends.node_call import NodeCall, NodeSettings, record_of
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, on_the_way
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
from reconciler.core.transport import Transport

OBSERVE_DEADLINE_S = 60.0
CANCEL_DEADLINE_S = 60.0
# A launch claims, forks and returns; per run it costs milliseconds. The rest is for a node that is short of breath.
LAUNCH_DEADLINE_S = 60.0
LAUNCH_DEADLINE_PER_RUN_S = 1.0


class NodeBackend:
    """One host. `install` brings the runtime bundle there; it is called when the host says that it is missing."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(self, settings: NodeSettings, transport: Transport, install: Callable[[], None]) -> None:
        self._settings = settings
        self._call = NodeCall(settings, transport, install)

    # --- launching

    def render(self, run: Run, facts: Facts) -> Submission:
        """The launch record of one run (docs/node-protocol.md, RUN), without secret values."""
        return Submission(run, record_of(self._settings, run, facts), facts.secrets)

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
            return Census(self._settings.name, complete=False, error=error.message, away=on_the_way(error))
        return census_from(self._settings.name, answer, scanned=look.scan)

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        return self._call.logs(known, since)

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
        self._call.close()


def _result(run_id: str, token: str, line: Mapping[str, Any], host: str) -> Accepted | Declined:
    result = line.get("result")
    handle = handle_from(run_id, token, line.get("handle"))
    if result in ("started", "already") and handle is not None:
        return Accepted(handle, repeated=result == "already")
    return refusal_of(run_id, line, host)


def job_of(claim: Mapping[str, Any]) -> JobKey | None:
    """The job a claim names, None when it does not say."""
    job = claim.get("job")
    if not isinstance(job, dict):
        return None
    return JobKey(str(job.get("project")), str(job.get("group")), str(job.get("name")))

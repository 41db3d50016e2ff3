"""The words that the node and the controlling side share, and the shapes of what they exchange.

Source: docs/node-protocol.md. The shapes are seen by the type checker only: `typing` costs a third of this
interpreter's start (8 ms), and one start serves a whole batch.
"""

from __future__ import annotations

MARK = "@r1 "
VERSION = 1
SCHEMA_VERSION = 1
EXIT_NO_PYTHON = 91

PREPARING, RUNNING = "preparing", "running"
COMPLETED, FAILED, PREEMPTED, CANCELLED = "completed", "failed", "preempted", "cancelled"
FINAL = frozenset((COMPLETED, FAILED, PREEMPTED, CANCELLED))

# Why we ask a run to stop -> (final status, cause).
REQUESTS = {
    "cancelled": (CANCELLED, "cancelled"),
    "suspended": (CANCELLED, "suspended"),
    "replaced": (CANCELLED, "replaced"),
    "deleted": (CANCELLED, "deleted"),
    "preempted": (PREEMPTED, "preemption"),
}

CLAIM, STARTED, METADATA, PROGRESS, REQUEST = "claim", "started", "metadata.json", "progress.json", "request"
LOG, CONFIG, FENCE, LOCK, LIVE = "output.log", "config.json", "fence", ".lock", ".live"
COMMIT, LATEST = "COMMIT", "latest"
# Of a run that goes through a queue system (docs/node-protocol.md, Queues).
QUEUED, RECORD, SECRETS, WORKERS, SCRIPT = "queued", "run.json", ".secrets", "workers", "script.sh"
# What the batch script ends with when nothing of the run was begun: the scheduler shows it as the exit code.
EXIT_NO_SHARE, EXIT_NOT_OURS, EXIT_NO_SECRETS = 78, 79, 77

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, TypedDict

    class Job(TypedDict):
        project: str
        group: str
        name: str

    class Tree(TypedDict, total=False):
        object: str
        sha256: str
        directory: str

    class Stage(TypedDict, total=False):
        argv: List[str]
        shell: str

    class Python(TypedDict):
        groups: List[str]
        version: Optional[str]

    class Run(TypedDict):
        """One run as the launch verb gets it. Secrets are in it: it is never written to a file as a whole."""

        run_id: str
        token: str
        job: Job
        attempt: int
        digest: str
        generation: int
        status_root: str
        status_dir: str
        work_dir: str
        checkpoint_dir: str
        results_dir: str
        tree: Optional[Tree]
        stages: List[Stage]
        job_key: Optional[str]
        config: Dict[str, Any]
        env: Dict[str, str]
        secrets: Dict[str, str]
        setup: List[str]
        modules: List[str]
        python: Optional[Python]
        gpus: Optional[List[str]]
        hardware: Dict[str, Any]
        grace_s: float
        heartbeat_s: float
        log_bytes_max: int
        log_files: int
        keep_work: bool
        limit_s: Optional[float]
        source: Dict[str, Any]
        claim: Dict[str, Any]
        owners: List[str]
        queue: Optional[Dict[str, Any]]
        ranks: Dict[str, str]
        secret_names: List[str]

    class Started(TypedDict):
        """The supervisor's identity. `abandoned_by` stands alone in its place when a later attempt came first."""

        pid: int
        start: str
        boot_id: str
        sid: int

    class Handle(Started):
        run_id: str
        token: str
        status_dir: str


class Refused(Exception):
    """A verb's answer to one run: nothing was done, and why."""

    def __init__(self, reason: str, message: str, missing: Optional[str] = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.missing = missing

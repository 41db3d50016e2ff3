"""The verb `launch`: claim every run of the batch, fork one supervisor per run, answer when each has started.

One interpreter serves the batch. Its memory is shared with the supervisors it forks, which is why everything they will
need is imported before the first fork, and why the garbage collector, which would touch and so copy it, is off.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from runtime import claim, environment, prepare, process, signals
from runtime.contract import Refused
from runtime.node import Node
from runtime.request import check_run
from runtime.supervise import Supervisor, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from runtime.claim import Claimed
    from runtime.contract import Run

    Say = Callable[[Dict[str, Any]], None]

STARTING_MAX = 16  # supervisors on their way to `started` at once: more would only wait for each other's processor time
REPORT_BYTES_MAX = 2048  # below PIPE_BUF: reports of several supervisors do not mix


class Batch:
    """The runs of one launch, from claim to answer."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._node = Node()
        pid = os.getpid()
        self._launcher = {"pid": pid, "start": process.start_of(pid)}
        self._trees: Dict[str, Optional[str]] = {}
        self._starting: Dict[int, Claimed] = {}
        self._reader, self._writer = os.pipe()
        self._partial = b""

    def launch(self, run: Dict[str, Any]) -> None:
        """Claim and fork one run; answers now when it is refused or known, else when its supervisor reports."""
        run_id = run.get("run_id") if isinstance(run, dict) else None
        try:
            checked = check_run(run)
            self._check_tree(checked)
            claimed = claim.take(checked, self._node, self._launcher)
        except Refused as refused:
            self._answer(run_id, "refused", refused.reason, refused.message, missing=refused.missing)
            return
        except claim.Already as already:
            handle = {**already.started, **_mark(checked)} if already.started else None
            self._answer(run_id, "already", "claimed before with the same token", "", handle=handle)
            return
        try:
            self._fork(claimed)
        except OSError as error:
            claim.undo(claimed)
            self._answer(run_id, "refused", "other", "no process could be made: %s" % error.strerror)
        while len(self._starting) >= STARTING_MAX:
            self._collect()

    def finish(self) -> None:
        """Wait until every supervisor has reported, or ended without."""
        os.close(self._writer)
        while self._starting and self._collect():
            pass
        for claimed in list(self._starting.values()):
            self._never_reported(claimed)
        os.close(self._reader)

    def _fork(self, claimed: Claimed) -> None:
        pid = os.fork()
        if pid == 0:
            _become_supervisor(claimed, self._node, self._writer, [self._reader])
        self._starting[pid] = claimed
        os.close(claimed.log)

    def _collect(self) -> bool:
        data = os.read(self._reader, 65536)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            report = json.loads(line)
            claimed = self._starting.pop(report["pid"])
            if report["started"]:
                self._started(claimed, report["started"])
            else:
                message = report.get("message") or "a later attempt abandoned this one before it started"
                self._answer(claimed.run["run_id"], "refused", report["reason"], message)
        return bool(data)

    def _never_reported(self, claimed: Claimed) -> None:
        run = claimed.run
        if claim.abandon(run["status_dir"], run["run_id"]):
            claim.drop_live(run["status_root"], run["run_id"])
            self._answer(run["run_id"], "refused", "other", "its supervisor ended before it began")
            return
        self._started(claimed, claim.read_started(run["status_dir"]) or {})

    def _started(self, claimed: Claimed, started: Dict[str, Any]) -> None:
        self._answer(claimed.run["run_id"], "started", "", "", handle={**started, **_mark(claimed.run)})

    def _check_tree(self, run: Run) -> None:
        tree = run["tree"]
        if not tree:
            return
        if "directory" in tree:
            if not os.path.isdir(tree["directory"]):
                raise Refused("missing", "there is no directory %s" % tree["directory"])
            return
        path = tree["object"]
        if path not in self._trees:
            try:
                self._trees[path] = prepare.checksum(path)
            except OSError:
                self._trees[path] = None
        if self._trees[path] != tree["sha256"]:
            what = "is not there" if self._trees[path] is None else "has checksum %s" % self._trees[path]
            raise Refused("missing", "%s %s" % (path, what), missing=tree["sha256"])

    def _answer(self, run_id: Any, result: str, reason: str, message: str, **more: Any) -> None:
        answer = {"run_id": run_id, "result": result, "reason": reason, "message": message, "handle": None}
        answer.update((name, value) for name, value in more.items() if value is not None)
        self._say(answer)


def _mark(run: Run) -> Dict[str, Any]:
    return {"run_id": run["run_id"], "token": run["token"], "status_dir": run["status_dir"]}


def _become_supervisor(claimed: Claimed, node: Node, report: int, unused: List[int]) -> None:
    """In the forked child: leave the launcher's session, win `started`, supervise, and never return."""
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (claimed.log, 1), (claimed.log, 2)):
            os.dup2(source, target)
        for descriptor in [null, claimed.log, *unused]:
            os.close(descriptor)
        run, pid = claimed.run, os.getpid()
        started = {"pid": pid, "start": process.start_of(pid), "boot_id": node.boot_id, "sid": pid}
        claimed.record["pid"] = pid
        if not _win_start(run, started, report):
            return
        os.close(report)
        supervise(claimed, node, Supervisor(claimed, node))
    except BaseException:  # noqa: BLE001 - the last resort: output.log gets the trace, the exit below always happens
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _win_start(run: Run, started: Dict[str, Any], report: int) -> bool:
    """Make `started`, and tell the launcher. Before this nothing was done for the run, not even its tree unpacked."""
    try:
        if claim.start(run["status_dir"], started):
            answer: Dict[str, Any] = {"started": started}
        else:
            answer = {"started": None, "reason": "fenced"}
    except OSError as error:
        answer = {"started": None, "reason": "unwritable", "message": error.strerror}
    os.write(report, json.dumps({"pid": started["pid"], **answer}).encode()[:REPORT_BYTES_MAX] + b"\n")
    return answer["started"] is not None


def launch(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Serve one batch; answers through `say`, one object per run. Gives what the closing line holds besides `done`."""
    signals.block()
    if any(isinstance(run, dict) and run.get("tree") for run in document["runs"]):
        import hashlib  # noqa: F401, PLC0415 - shared by every supervisor of the batch
        import tarfile  # noqa: F401, PLC0415
    if sys.platform.startswith("linux"):
        try:
            import ctypes  # noqa: F401, PLC0415
        except ImportError:
            pass
    os.umask(os.umask(0o022) & ~0o700)  # the runs' owner can always read and write their records
    batch = Batch(say)
    gc.disable()
    gc.freeze()
    for run in document["runs"]:
        batch.launch(run)
    batch.finish()
    return {}


__all__ = ["environment", "launch"]

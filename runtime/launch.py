"""The verb `launch`: claim every run of the batch, fork one supervisor per run, answer when each has started.

One interpreter serves the batch. Its memory is shared with the supervisors it forks, which is why everything they will
need is imported before the first fork, and why the garbage collector, which would touch and so copy it, is off.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from runtime import claim, prepare, process, signals
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

CLAIMS_MAX = 16  # claimed before the first of them is forked, see Batch.launch
STARTING_MAX = 16  # supervisors on their way to `started` at once: more would only wait for each other's processor time
MESSAGE_CHARS_MAX = (
    250  # a report stays below PIPE_BUF (4096) even where each character takes twelve: reports do not mix
)


class Batch:
    """The runs of one launch, from claim to answer."""

    def __init__(self, say: Say, *, doubtful: bool) -> None:
        self._say = say
        self._doubtful = doubtful
        self._node = Node()
        pid = os.getpid()
        self._launcher = {"pid": pid, "start": process.start_of(pid)}
        self._subreaper = process.subreaper()
        self._trees = Trees()
        self._claimed: List[Claimed] = []
        self._starting: Dict[int, Run] = {}
        self._reader, self._writer = os.pipe()
        self._partial = b""

    def launch(self, given: Any) -> None:
        """Claim one run; the answer is given now when there is nothing to start.

        Supervisors are forked some at a time: each fork makes every page of this process read-only once more, so a
        claim made after it stumbles over two hundred of them, and one made before it over none.
        """
        run_id = given.get("run_id") if isinstance(given, dict) else None
        try:
            run = check_run(given, doubtful=self._doubtful)
            self._trees.check(run)
            claimed = claim.take(run, self._node, self._launcher)
        except Refused as refused:
            self._say(_answer(run_id, "refused", refused.reason, refused.message, missing=refused.missing))
            return
        except claim.Already as already:
            handle = {**already.started, **_mark(run)} if already.started else None
            self._say(_answer(run_id, "already", "claimed", "it was claimed before with this token", handle=handle))
            return
        self._claimed.append(claimed)
        if len(self._claimed) >= CLAIMS_MAX:
            self._fork_claimed()

    def _fork_claimed(self) -> None:
        claimed, self._claimed = self._claimed, []
        for number, one in enumerate(claimed):
            while len(self._starting) >= STARTING_MAX:
                self._collect()
            try:
                pid = os.fork()
            except OSError as error:
                os.close(one.log)
                claim.undo(one.run)
                said = "no process could be made: %s" % error.strerror
                self._say(_answer(one.run["run_id"], "refused", "other", said))
                continue
            if pid == 0:
                for other in claimed[number + 1 :]:
                    os.close(other.log)
                self._become_supervisor(one)
            os.close(one.log)
            self._starting[pid] = one.run

    def finish(self) -> None:
        """Fork what is left, and wait until every fork has reported, or ended without."""
        self._fork_claimed()
        os.close(self._writer)
        while self._starting and self._collect():
            pass
        for run in self._starting.values():
            self._never_reported(run)
        os.close(self._reader)

    def _collect(self) -> bool:
        data = os.read(self._reader, 65536)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            pid, result, reason, message, started = json.loads(line)
            run = self._starting.pop(pid)
            handle = {**started, **_mark(run)} if started else None
            self._say(_answer(run["run_id"], result, reason, message, handle=handle))
        return bool(data)

    def _never_reported(self, run: Run) -> None:
        if claim.undo(run):
            self._say(_answer(run["run_id"], "refused", "other", "its supervisor ended before it began"))
            return
        handle = {**(claim.read_started(run["status_dir"]) or {}), **_mark(run)}
        self._say(_answer(run["run_id"], "started", "", "", handle=handle))

    def _become_supervisor(self, claimed: Claimed) -> None:
        """In the fork: leave the launcher's session, win `started`, supervise, and never return."""
        try:
            os.close(self._reader)
            if self._win_start(claimed):
                supervise(claimed, Supervisor(claimed, self._node, subreaper=self._subreaper()))
        except BaseException:  # noqa: BLE001 - the last resort: output.log gets the trace, the exit below always happens
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)

    def _win_start(self, claimed: Claimed) -> bool:
        """Detach, and make `started`. Before this nothing was done for the run, not even its tree unpacked."""
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (claimed.log, 1), (claimed.log, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(claimed.log)
        run, pid = claimed.run, os.getpid()
        claimed.record["pid"] = pid
        started: Any = {"pid": pid, "start": process.start_of(pid), "boot_id": self._node.boot_id, "sid": pid}
        try:
            won = claim.start(run["status_dir"], started)
        except OSError as error:
            claim.undo(run)
            self._report("refused", "unwritable", "%s: %s" % (error.filename or run["status_dir"], error.strerror))
            return False
        if won:
            self._report("started", "", "", started)
        else:
            self._report("refused", "fenced", "a later attempt abandoned this one before it started")
        os.close(self._writer)
        return won

    def _report(self, result: str, reason: str, message: str, started: Any = None) -> None:
        report = [os.getpid(), result, reason, message[:MESSAGE_CHARS_MAX], started]
        try:
            os.write(self._writer, json.dumps(report).encode() + b"\n")
        except OSError:
            pass  # the launcher was killed; `started` itself is what counts


class Trees:
    """The source trees of a batch, each looked at once."""

    def __init__(self) -> None:
        self._sums: Dict[str, Optional[str]] = {}

    def check(self, run: Run) -> None:
        """Raises Refused unless the run's tree lies here, whole."""
        tree = run["tree"]
        if not tree:
            return
        if "directory" in tree:
            if not os.path.isdir(tree["directory"]):
                raise Refused("missing", "there is no directory %s" % tree["directory"])
            return
        path = tree["object"]
        if path not in self._sums:
            try:
                self._sums[path] = prepare.checksum(path)
            except OSError:
                self._sums[path] = None
        if self._sums[path] != tree["sha256"]:
            what = "is not there" if self._sums[path] is None else "has checksum %s" % self._sums[path]
            raise Refused("missing", "%s %s" % (path, what), missing=tree["sha256"])


def _answer(run_id: Any, result: str, reason: str, message: str, **more: Any) -> Dict[str, Any]:
    answer = {"run_id": run_id, "result": result, "reason": reason, "message": message, "handle": None}
    answer.update((name, value) for name, value in more.items() if value is not None)
    return answer


def _mark(run: Run) -> Dict[str, Any]:
    return {"run_id": run["run_id"], "token": run["token"], "status_dir": run["status_dir"]}


def launch(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Serve one batch; answers through `say`, one object per run. Gives what the closing line holds besides `done`."""
    signals.block()
    if any(isinstance(run, dict) and run.get("tree") for run in document["runs"]):
        import hashlib  # noqa: F401, PLC0415 - shared by every supervisor of the batch
        import tarfile  # noqa: F401, PLC0415
    os.umask(os.umask(0o022) & ~0o700)  # the runs' owner can always read and write their records
    batch = Batch(say, doubtful=document.get("doubtful", True))
    gc.disable()
    gc.freeze()
    for run in document["runs"]:
        batch.launch(run)
    batch.finish()
    return {}

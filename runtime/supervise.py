"""One process per run, from `started` to the final record. One thread: it waits for a signal or a due moment."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time

from runtime import claim, contract, ending, environment, files, logs, memory, prepare, process, signals, status
from runtime.record import Record, tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from runtime.claim import Claimed
    from runtime.contract import Run
    from runtime.node import Node
    from runtime.prepare import Prepared
    from runtime.record import Ending

SETTLE_S = 0.02  # a child that ends this soon is recorded once, with its end: it saves a third of a short run's writes
LOG_CHECK_S = 1.0  # how far beyond its limit a log can grow: what the child writes in this time
LEFTOVER_GRACE_S = 10.0  # for what a finished program left behind
SLOW_S = 3600.0


class Stopped(Exception):
    """The run was asked to stop; `Supervisor.stop` says by whom."""


class Stop:
    """Why and until when we wait for the child to end by itself."""

    __slots__ = ("kill_at", "killed", "origin")

    def __init__(self, origin: str, kill_at: float) -> None:
        self.origin = origin  # "signal" (TERM, INT, HUP or a request), "warning" (URG), "limit", "fence"
        self.kill_at = kill_at
        self.killed = False


class Supervisor:
    """The loop around one run's children."""

    def __init__(
        self,
        claimed: Claimed,
        node: Node,
        *,
        subreaper: bool,
        record: Optional[Record] = None,
        log: Optional[str] = None,
    ) -> None:
        run = claimed.run
        self.run: Run = run
        self.node = node
        self.log = log or os.path.join(run["status_dir"], contract.LOG)
        self.record = record or Record(
            run["status_dir"],
            claimed.record,
            checkpoint_dir=run["checkpoint_dir"],
            secrets=run["secrets"].values(),
        )
        self.stop: Optional[Stop] = None
        self._wait = signals.waiter()
        self._subreaper = subreaper
        self._child = 0
        self._child_status: Optional[int] = None
        self._childless = True
        self._ended_asked = False
        self._start = process.start_of(os.getpid())
        now = time.monotonic()
        self._beat_at = now + SETTLE_S
        self._log_at = now + LOG_CHECK_S
        self._limit_at = now + run["limit_s"] if run["limit_s"] else None
        self._kept_space = False

    # -- the run --------------------

    def run_to_end(self) -> Ending:
        """Set up, run the stages, end what is left. Gives what the final record is to say."""
        before = memory.kills(self.node.kill_counter)
        try:
            self._check_fence()
            self.pulse()
            if prepare.is_needed(self.run):
                self.detail("set-up")
            prepared = prepare.prepare(self.run, self.record.fields["start_time"], self)
            result = self._run_stages(prepared, before)
        except prepare.SetUpFailed as error:
            result = ending.set_up_failed(error)
        except Stopped:
            result = self._stopped(None)
        self._end_descendants()
        return result

    def _run_stages(self, prepared: Prepared, kills_before: Optional[int]) -> Ending:
        self.record.fields["status"] = contract.RUNNING
        # After a set-up that was reported, the record says so until the next beat: let that be soon.
        self._beat_at = min(self._beat_at, time.monotonic() + SETTLE_S)
        for number, argv in enumerate(prepared.stages, 1):
            self.record.fields["phase_detail"] = (
                "stage %d of %d" % (number, len(prepared.stages)) if len(prepared.stages) > 1 else ""
            )
            try:
                code = self.run_child(argv, prepared.environ, prepared.cwd)
            except OSError as error:
                return ending.not_executable(argv[0], error)
            if self.stop and (self._ended_asked or number < len(prepared.stages)):
                return self._stopped(code)
            if code != 0 and self._request():  # killed at once by `force`, before we were told
                return ending.stopped("signal", self._request(), code, None)
            if code != 0:
                killed_for_memory = (
                    kills_before is not None and (memory.kills(self.node.kill_counter) or 0) > kills_before
                )
                places = (self.run["status_dir"], prepared.cwd, self.run["checkpoint_dir"])
                return ending.of_child(
                    code, killed_for_memory=killed_for_memory, full=ending.full_disk(places), output=tail(self.log)
                )
        return ending.completed()

    def _stopped(self, code: Optional[int]) -> Ending:
        assert self.stop is not None
        return ending.stopped(self.stop.origin, self._request(), code, self.run["limit_s"])

    # -- children --------------------

    def run_child(self, argv: List[bytes], environ: Dict[bytes, bytes], cwd: str) -> int:
        """Run one program to its end; gives its exit code, minus the number for a signal. Raises OSError, Stopped."""
        if self.stop:
            raise Stopped
        self._child_status = None
        self._child = environment.spawn(argv, environ, cwd)
        self._childless = False
        while self._child_status is None:
            self._sleep()
            self.reap()
        self._child = 0
        return exit_code(self._child_status)

    def pulse(self) -> None:
        """For long work within this process: keep the record alive, and raise Stopped when asked to stop."""
        self._sleep(0.0)
        if self.stop:
            raise Stopped

    def detail(self, text: str) -> None:
        """Say what the run is busy with, now."""
        self.record.fields["phase_detail"] = text
        self._beat()

    def reap(self) -> None:
        """Collect every child that has ended, adopted orphans included."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                self._childless = False
                return
            if pid == self._child:
                self._child_status, self._ended_asked = code, self.stop is not None

    def others(self) -> List[process.Process]:
        """All live processes of this run but the supervisor."""
        table = process.table()
        found = {one.pid: one for one in process.descendants(os.getpid(), table)}
        found.update((one.pid, one) for one in process.session(os.getpid(), self._start, table))
        if not self._subreaper:
            found.update((pid, table[pid]) for pid in process.marked(self.run["token"], table.values()))
        found.pop(os.getpid(), None)
        return list(found.values())

    def _end_descendants(self) -> None:
        self.reap()
        kill_at, number, told = 0.0, signal.SIGTERM, False
        while not (self._subreaper and self._childless):
            rest = self.others()
            if not rest:
                return
            now = time.monotonic()
            if not kill_at:
                kill_at = self.stop.kill_at if self.stop else now + min(self.run["grace_s"], LEFTOVER_GRACE_S)
            if now >= kill_at:
                number = signal.SIGKILL
            if number == signal.SIGKILL or not told:
                process.send((one.pid for one in rest), number)
                process.send((one.pid for one in rest), signal.SIGCONT)
            told = True
            if now >= kill_at + 5.0:
                # In uninterruptible sleep, or of another user. The run is not over while they hold its devices.
                self.record.fields["phase_detail"] = "waiting for processes that cannot be ended: %s" % sorted(
                    one.pid for one in rest
                )
            self._sleep(0.02 if now < kill_at + 1.0 else 1.0)
            self.reap()

    # -- time --------------------

    def _sleep(self, at_most: float = SLOW_S) -> None:
        """Wait for a signal or the next due moment, then do what is due."""
        due = [self._beat_at, self._log_at]
        if self.stop and not self.stop.killed:
            due.append(self.stop.kill_at)
        elif self._limit_at is not None and not self.stop:
            due.append(self._limit_at)
        now = time.monotonic()
        number = self._wait(min(at_most, min(due) - now))
        if number in signals.STOPPING:
            self.reap()  # a child that had ended by then ended by itself
            self._ask("signal")
        elif number == signals.WARNING:
            self._ask("warning")
        self._do_due(time.monotonic())

    def _do_due(self, now: float) -> None:
        if self.stop and not self.stop.killed and now >= self.stop.kill_at:
            self._kill()
        if self._limit_at is not None and not self.stop and now >= self._limit_at:
            self._ask("limit")
        if now >= self._log_at:
            self._log_at = now + LOG_CHECK_S
            logs.rotate(self.log, self.run["log_bytes_max"], self.run["log_files"], self.others)
        if now >= self._beat_at:
            self._check_fence()
            if not self.stop and os.path.exists(self._request_path()):
                self._ask("signal")  # asked on a machine that cannot signal us, or the signal was lost
            self._beat()

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + self.run["heartbeat_s"]
        self.record.beat()
        if not self._kept_space:  # the first beat: this is not one of the runs that end at once
            self._kept_space = True
            self.record.keep_space()
            gc.enable()

    # -- stopping --------------------

    def _ask(self, origin: str) -> None:
        """Ask the child to end. Asking again changes nothing, unless a request now allows less time."""
        grace_s = 0.0 if origin == "fence" else self._grace_s()
        kill_at = time.monotonic() + grace_s
        if self.stop:
            if kill_at < self.stop.kill_at and self._request().get("force"):
                self.stop.kill_at = kill_at
            return
        self.stop = Stop(origin, kill_at)
        self.record.fields["phase_detail"] = "stopping (%s), %.0f s to end by itself" % (origin, grace_s)
        if self._child:
            signal_group(self._child, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
        self._beat()

    def _kill(self) -> None:
        assert self.stop is not None
        self.stop.killed = True
        if self._child:
            signal_group(self._child, signal.SIGKILL)  # the rest is ended once it is gone

    def _grace_s(self) -> float:
        asked = self._request().get("grace_s")
        return float(asked) if isinstance(asked, (int, float)) else float(self.run["grace_s"])

    def _request(self) -> Dict[str, Any]:
        try:
            return status.read_json(self._request_path())
        except (OSError, ValueError):
            return {}

    def _request_path(self) -> str:
        return os.path.join(self.run["status_dir"], contract.REQUEST)

    def _check_fence(self) -> None:
        if self.stop:
            return
        try:
            fenced = self._is_fenced()
        except (OSError, ValueError):
            return  # a disk that is away for a moment is no newer attempt
        if fenced:
            self._ask("fence")

    def _is_fenced(self) -> bool:
        fence = claim.read_fence(os.path.dirname(self.run["status_dir"]))
        return claim.is_fenced(self.run["run_id"], self.run["attempt"], fence)


def signal_group(group: int, number: int) -> None:
    """Signal a process group, and wake it where it is stopped: only then does it act on TERM."""
    try:
        os.killpg(group, number)
        os.killpg(group, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass


def exit_code(code: int) -> int:
    """A wait status as an exit code; minus the number for a signal."""
    return -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)


def supervise(claimed: Claimed, supervisor: Supervisor) -> None:
    """Bring one run to its end and leave the final record, whatever happens in between."""
    _settle(claimed.run, supervisor.record, bring_to_end(claimed, supervisor))


def bring_to_end(claimed: Claimed, supervisor: Supervisor) -> Ending:
    """Run to the end and say how it ended; never raises for anything but the end of this process."""
    run = claimed.run
    try:
        for directory in (run["checkpoint_dir"], run["results_dir"]):
            files.make_directories(directory)
        return supervisor.run_to_end()
    except OSError as error:
        return ending.broken("%s: %s" % (error.filename or "set-up", error.strerror))
    except Exception as error:  # noqa: BLE001 - a defect of ours: its trace goes to the log, its name into the record
        sys.excepthook(*sys.exc_info())
        return ending.broken("the supervisor failed: %r (its trace is in output.log)" % (error,))


def _settle(run: Run, record: Record, result: Ending) -> None:
    try:
        record.finish(result)
    except OSError as error:
        # The old record is still valid, and the observer sees a run whose processes are gone.
        os.write(2, b"[reconciler] the final record could not be written: %s\n" % os.fsencode(str(error)))
        return
    if result.status == contract.COMPLETED and not run["keep_work"]:
        files.remove_tree(run["work_dir"])
    claim.drop_live(run["status_root"], run["run_id"])

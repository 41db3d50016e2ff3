"""What a container of a gang on Kubernetes calls: claim the run, supervise its program, show its output, say how it ended.

`bootstrap.sh pod DIRECTORY`: the directory holds `record.json` (a RUN of docs/node-protocol.md) and `secrets.json`, mounted
from a Secret. Volcano tells each pod its place: VC_TASK_INDEX (plugin env), VC_WORKER_HOSTS (plugin svc). The first pod claims
the run on the volume that all share, the others wait until they see that. Programs start when every pod is ready for it: the
image of one may take minutes longer than another's, and no rendezvous waits that long.

This process stays the container's first: it passes signals on, copies output.log to its own output for `kubectl logs`, and
leaves the final record as the container's termination message, which the API keeps with the pod.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from runtime import claim, contract, files, gang, launch, ranks, signals, status, step
from runtime.contract import Refused
from runtime.ending import broken
from runtime.node import Node
from runtime.record import Record
from runtime.request import check_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional

    from runtime.contract import Run
    from runtime.prepare import Prepared
    from runtime.ranks import Ranks
    from runtime.record import Ending

TERMINATION_LOG = "/dev/termination-log"
MESSAGE_BYTES_MAX = 4096  # of a termination message; the kubelet cuts the rest off
COPY_S = 0.25  # how much later than output.log the container's own output is
COPY_BYTES = 1 << 20
# A gang is scheduled as one, but an image of many GB comes to one machine long before it comes to another.
GATHER_S = 3600.0
# When the gang is being ended: how long the first pod waits for what the others write about their end.
LAST_WORDS_S = 5.0
READY = "ready"
_KEPT = ("status", "cause", "exit_code", "signal", "message", "seq", "progress", "checkpoint", "start_time", "end_time")
_SUMMARY = (*_KEPT, "run_id", "rank", "attempt")
_CAUSES = {"fenced": "fenced", "alive": "fenced", "claimed": "fenced", "missing": "infrastructure"}


def serve(directory: str) -> int:
    """Exit code of the container: 0 only for a run that completed here."""
    signals.block()
    try:
        run = _read(directory)
        place = place_of(os.environ)
    except Refused as refused:
        return _refuse({}, refused)
    except (OSError, ValueError) as error:
        return _refuse({}, Refused("other", "the run cannot be read from %s: %s" % (directory, error)))
    os.umask(os.umask(0o022) & ~0o700)
    files.open_to_others()
    job = PodJob(run["token"])
    if place.rank == 0:
        try:
            code = _claim(run, job)
        except Refused as refused:
            return _refuse(run, refused)
        if code:
            return _refuse(run, Refused("fenced", "the run is not this pod's to start; its output says why"))
    elif not step.is_started(run, job, GATHER_S):
        return _refuse(run, Refused("fenced", "the first pod of the gang has not started the run"))
    return Pod(run, job, place).run_to_end()


def place_of(environ: Mapping[str, str]) -> Ranks:
    """This pod's place, from what Volcano's plugins `env` and `svc` set; alone where they set nothing. Raises ValueError."""
    hosts = [host for host in environ.get("VC_WORKER_HOSTS", "").split(",") if host]
    count = int(environ.get("VC_WORKER_NUM") or len(hosts) or 1)
    rank = int(environ.get("VC_TASK_INDEX") or 0)
    if len(hosts) < count and count > 1:
        raise ValueError("VC_WORKER_HOSTS names %d of %d pods: is Volcano's plugin svc missing?" % (len(hosts), count))
    if rank >= count:
        raise ValueError("VC_TASK_INDEX is %d in a gang of %d" % (rank, count))
    return ranks.Ranks(rank, count, hosts[:count] or [os.uname().nodename])


class PodJob(step.Job):
    """One life only: nobody starts a pod of ours again, and its job is known by the run's token."""

    def __init__(self, token: str) -> None:
        super().__init__({"job": "", "restart": "", "array": "", "index": ""})
        self.ident = self.shown = token
        self.restart = 0


def _read(directory: str) -> Run:
    with open(os.path.join(directory, "record.json"), "rb") as file:
        data = file.read()
    given = json.loads(data)
    secrets = status.read_json(os.path.join(directory, "secrets.json"))
    # Secrets that the cluster keeps itself are in our environment: known here, they are masked in messages like the others.
    secrets.update((name, os.environ[name]) for name in given.get("handed_over", ()) if name in os.environ)
    return check_run({**given, "secrets": secrets})


def _claim(run: Run, job: PodJob) -> int:
    """0 when the run is ours to start. Raises Refused."""
    launch.Trees().check(run)
    try:
        claim.take(run, Node(), {})
    except claim.Already:
        pass  # `begin` tells whether it has begun
    return step.begin(run, job, run["run_id"], run["token"])


class Pod:
    """This container, from the claim to the end of the run."""

    def __init__(self, run: Run, job: PodJob, place: Ranks) -> None:
        self._run, self._job, self._place = run, job, place
        self._status_dir = run["status_dir"]
        worker = place.rank if place.count > 1 else None
        self._mine = self._status_dir
        if worker is not None:
            self._mine = os.path.join(self._status_dir, contract.WORKERS, str(worker))
        self._log = os.path.join(self._status_dir if not place.rank else self._mine, contract.LOG)
        self._wait = signals.waiter()
        self._copied = 0
        self._stop_at: Optional[float] = None

    def run_to_end(self) -> int:
        """Supervise in a child, so that whatever kills it leaves somebody who says so."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._supervise()
        code = self._attend(child)
        self._copy()
        if code == contract.EXIT_NOT_OURS:
            return _refuse(self._run, Refused("fenced", "another attempt has claimed the job"))
        try:
            fields = self._conclude(code)
        except (OSError, ValueError) as error:
            return _refuse(self._run, Refused("unwritable", "the final record could not be written: %s" % error))
        self._copy()
        _tell(fields)
        return gang.code_of(str(fields.get("status")), fields.get("exit_code"))

    def _supervise(self) -> None:
        code = 1
        try:
            code = step.attend(self._run, self._job, self._place, GangSupervisor)
        except BaseException:  # noqa: BLE001 - the last resort: the log gets the trace, the exit below always happens
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _attend(self, child: int) -> int:
        """Until the child has ended: pass on what the container is told. Gives its exit code, minus the number for a signal."""
        while True:
            number = self._wait(COPY_S)
            if number in signals.STOPPING:
                self._stop_at = self._stop_at or time.monotonic()
                os.kill(child, number or signal.SIGTERM)
            self._copy()
            code = _reaped(child)
            if code is not None:
                return code

    # -- the end --------------------

    def _conclude(self, code: int) -> Dict[str, Any]:
        """The final record, of the run on its first pod, else of this worker."""
        path = os.path.join(self._mine, contract.METADATA)
        fields = status.read_json(path)
        if fields.get("status") not in contract.FINAL:
            said = "was killed by signal %d" % -code if code < 0 else "ended with exit code %d" % code
            Record(self._mine, fields).finish(broken("The supervisor %s and left no final record." % said))
            fields = status.read_json(path)
        if self._place.rank:
            return fields
        if self._place.count > 1:
            fields = self._verdict(code)
        claim.drop_live(self._run["status_root"], self._run["run_id"])
        if fields["status"] == contract.COMPLETED and not self._run["keep_work"]:
            files.remove_tree(os.path.join(self._run["work_dir"]))
        return fields

    def _verdict(self, code: int) -> Dict[str, Any]:
        """The run has ended when every worker has: as the first pod sees it."""
        fields = status.read_json(os.path.join(self._status_dir, contract.METADATA))
        record = Record(self._status_dir, fields, checkpoint_dir=self._run["checkpoint_dir"])
        beat_at = time.monotonic() + self._run["heartbeat_s"]
        workers = gang.workers_of(self._status_dir)
        while not self._have_all_ended(workers) and not self._is_last_call(workers):
            if self._wait(COPY_S) in signals.STOPPING:
                self._stop_at = self._stop_at or time.monotonic()
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._run["heartbeat_s"]
                waiting = [rank for rank in range(self._place.count) if not _is_final(workers.get(rank))]
                fields["phase_detail"] = "waiting for workers %s to end" % waiting
                fields["workers"] = gang.summary(self._status_dir, count=self._place.count)
                record.beat()
            workers = gang.workers_of(self._status_dir)
        fields["workers"] = gang.summary(self._status_dir, count=self._place.count)
        record.finish(gang.verdict(workers, self._place.count, code) or broken("No worker left a record."))
        return status.read_json(os.path.join(self._status_dir, contract.METADATA))

    def _have_all_ended(self, workers: Dict[int, Dict[str, Any]]) -> bool:
        return all(_is_final(workers.get(rank)) for rank in range(self._place.count))

    def _is_last_call(self, workers: Dict[int, Dict[str, Any]]) -> bool:
        """Is the gang being ended, so that what is not written soon will never be?"""
        failed = any(_is_final(one) and one["status"] != contract.COMPLETED for one in workers.values())
        if failed and self._stop_at is None:
            self._stop_at = time.monotonic()
        return self._stop_at is not None and time.monotonic() > self._stop_at + LAST_WORDS_S

    # -- output --------------------

    def _copy(self) -> None:
        """What output.log has got since the last time. After it was cut, the rest stands in its predecessor."""
        try:
            size = os.stat(self._log).st_size
            if size < self._copied:
                self._copy_from(self._log + ".1", self._copied)
                self._copied = 0
            if size > self._copied:
                self._copied += self._copy_from(self._log, self._copied)
        except OSError:
            pass  # none yet; or nobody reads ours: the log on the volume is whole in any case

    @staticmethod
    def _copy_from(path: str, start: int) -> int:
        copied = 0
        with open(path, "rb") as file:
            file.seek(start)
            while True:
                data = file.read(COPY_BYTES)
                if not data:
                    return copied
                status.write_all(1, data)
                copied += len(data)


class GangSupervisor(step.QueuedSupervisor):
    """Its programs start when those of all pods can."""

    def _run_stages(self, prepared: Prepared, kills_before: Optional[int]) -> Ending:
        if self.place.count > 1:
            self._gather()
        return super()._run_stages(prepared, kills_before)

    def _gather(self) -> None:
        """Wait until every pod is ready. Raises Stopped; a gang that does not gather is ended by who watches it."""
        workers = os.path.join(self.run["status_dir"], contract.WORKERS)
        status.write_file(os.path.join(workers, str(self.place.rank), READY), b"", flush=True)
        told = -1
        while True:
            there = sum(os.path.exists(os.path.join(workers, str(rank), READY)) for rank in range(self.place.count))
            if there == self.place.count:
                return
            if there != told:
                told = there
                self.detail("%d of %d pods are ready" % (there, self.place.count))
            self._sleep(COPY_S)
            self.pulse()


def _is_final(fields: Optional[Dict[str, Any]]) -> bool:
    return fields is not None and fields.get("status") in contract.FINAL


def _reaped(child: int) -> Optional[int]:
    """The child's exit code once it has ended; others that were left to us are reaped, too."""
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == 0:
            return None
        if pid == child:
            return -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)


def _refuse(run: Any, refused: Refused) -> int:
    """Nothing is started, and nothing is written on the volume: it may be another attempt's."""
    sys.stderr.write("reconciler: nothing is started: %s\n" % refused.message)
    cause = _CAUSES.get(refused.reason, "refused")
    fields = {"status": contract.FAILED, "cause": cause, "message": refused.message, "seq": 0, "exit_code": None}
    _tell({**fields, "run_id": run.get("run_id"), "attempt": run.get("attempt")})
    return contract.EXIT_NOT_OURS


def _tell(fields: Dict[str, Any]) -> None:
    """The termination message: the record without what the API knows already, cut so that it stays whole JSON."""
    told = {name: fields[name] for name in _SUMMARY if name in fields}
    message = str(told.get("message") or "")
    while len(status.encode(told)) > MESSAGE_BYTES_MAX:
        if len(message) > 1:
            message = message[: len(message) // 2]
            told["message"] = message + "…"
        elif "progress" in told:
            del told["progress"]  # metrics of a program with very many of them
        else:
            return
    path = os.environ.get("RECONCILER_TERMINATION_LOG") or TERMINATION_LOG
    try:
        status.write_file(path, status.encode(told), flush=False)
    except OSError as error:
        sys.stderr.write("reconciler: %s cannot be written: %s\n" % (path, error.strerror))

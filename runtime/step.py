"""What a batch script calls on the machines that a queue system gave it: `begin`, then `work` on every machine, then `end`.

`begin` (once, on the first machine) wins `started`, so that of two jobs of one run only one runs. `work` (on every machine, by
the scheduler's own launcher) supervises the job's program there. `end` (once) writes the final record of a run on several
machines, or of one whose supervisor did not live to write it. Each takes the run's directory as its argument.
"""

from __future__ import annotations

import os
import re
import sys
import time

from runtime import claim, contract, files, gang, process, ranks, signals, status
from runtime.ending import broken
from runtime.node import Node
from runtime.record import Ending, Record, tail
from runtime.supervise import Supervisor, bring_to_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Type

    from runtime.contract import Run
    from runtime.ranks import Ranks

# How long another machine's new file may stay unseen on a shared file system (NFS keeps "not there" for up to acdirmax, 60 s).
VISIBLE_S = 90.0
# A scheduler signals every process of a step, one after the other: a program may end of it before its supervisor hears of it.
SIGNAL_LAG_S = 0.1


def serve(verb: str, arguments: List[str]) -> int:
    """Exit code of the batch script's step. 79: there is nothing to do here, because the run is not ours (any more)."""
    status_dir = arguments[0]
    try:
        run: Any = status.read_json(os.path.join(status_dir, contract.RECORD))
    except (OSError, ValueError) as error:
        where = os.uname().nodename
        sys.stderr.write("reconciler: %s cannot read the run: %s. Is its directory visible there?\n" % (where, error))
        return contract.EXIT_NO_SHARE
    os.umask(os.umask(0o022) & ~0o700)
    job = Job(run["queue"]["variables"])
    if verb == "begin":
        return begin(run, job, *arguments[1:3])
    if verb == "work":
        return work(run, job)
    return end(run, job, int(arguments[1]) if len(arguments) > 1 else 0)


class Job:
    """The scheduler's job that this process belongs to: its id, and how often the scheduler started it anew."""

    def __init__(self, names: Dict[str, str]) -> None:
        self.names = names
        self.ident = os.environ.get(names["job"], "")
        self.restart = int(os.environ.get(names["restart"]) or 0)
        array, index = os.environ.get(names["array"], ""), os.environ.get(names["index"], "")
        # As people write it: a member's own number may be that of the whole array.
        self.shown = "%s_%s" % (array, index) if array and index else self.ident

    def owns(self, started: Dict[str, Any]) -> bool:
        """Is this the job that won the run, in its present life?"""
        return started.get("job") == self.ident and started.get("restart") == self.restart


# -- begin --------------------


def begin(run: Run, job: Job, name: str, mark: str) -> int:
    """Win `started`, or leave everything as it is and give 79. `name` and `mark` are those of the job in its queue."""
    status_dir = run["status_dir"]
    mine = {
        "job": job.ident,
        "ident": job.shown,
        "name": name,
        "mark": mark,
        "restart": job.restart,
        "hostname": os.uname().nodename,
        "boot_id": process.boot_id(),
        "at": status.utc_now(),
    }
    path = os.path.join(status_dir, contract.STARTED)
    if not status.first_to_write(path, mine):
        why = _why_not_again(run, job, claim.read_started(status_dir) or {})
        if why:
            return _not_ours(why)
        status.replace_json(path, mine, durable=True)
        claim.list_live(run)
    if claim.is_fenced(run["run_id"], run["attempt"], claim.read_fence(os.path.dirname(status_dir))):
        return _not_ours("a newer attempt has claimed the job")
    request = _request(status_dir)
    if request:
        return _not_ours("it was asked to end before it started (%s)" % request.get("reason"))
    _open_record(run, job)
    return 0


def _why_not_again(run: Run, job: Job, found: Dict[str, Any]) -> str:
    """Somebody has begun before. Empty when that was this very job, in an earlier life that did not come to an end of its own:
    the scheduler put it back into its queue."""
    if "abandoned_by" in found:
        return "it was abandoned before it started (by %s)" % found["abandoned_by"]
    if found.get("job") != job.ident:
        return "job %s runs it; this is job %s, submitted twice" % (found.get("job"), job.ident)
    if int(found.get("restart") or 0) >= job.restart:
        return "this job has run it already (restart %d)" % job.restart
    record = status.read_json(os.path.join(run["status_dir"], contract.METADATA))
    lost = record.get("status") == contract.PREEMPTED or record.get("cause") == "infrastructure"
    if record.get("status") in contract.FINAL and not lost:
        return "it has ended (%s), whatever the scheduler does with its job" % record["status"]
    return ""


def _not_ours(why: str) -> int:
    sys.stderr.write("reconciler: nothing is started: %s\n" % why)
    return contract.EXIT_NOT_OURS


def _request(status_dir: str) -> Dict[str, Any]:
    try:
        return status.read_json(os.path.join(status_dir, contract.REQUEST))
    except (OSError, ValueError):
        return {}


def _open_record(run: Run, job: Job) -> None:
    path = os.path.join(run["status_dir"], contract.METADATA)
    record = status.read_json(path)
    record.update(
        status=contract.PREPARING,
        cause=None,
        exit_code=None,
        signal=None,
        message="",
        end_time=None,
        slurm_job_id=job.ident if (run["queue"] or {}).get("system", "slurm") == "slurm" else None,
        boot_id=process.boot_id(),
        phase_detail="started by the scheduler" + (", restart %d" % job.restart if job.restart else ""),
        restarts=job.restart,
        workers=[],
        seq=int(record.get("seq") or 0) + 1,
        last_heartbeat=status.utc_now(),
    )
    if job.restart:
        files.remove_tree(os.path.join(run["status_dir"], contract.WORKERS))
    status.replace_json(path, record)


# -- work --------------------


def work(run: Run, job: Job) -> int:
    """Supervise the program on this machine. Gives its exit code, 0 only for a run that completed here."""
    place = ranks.of_environment(job.names, os.environ)
    if not is_started(run, job):
        return contract.EXIT_NOT_OURS
    signals.block()
    try:
        run["secrets"] = _secrets(run)
    except OSError as error:
        sys.stderr.write("reconciler: the run's secrets are gone: %s\n" % error)
        return contract.EXIT_NO_SECRETS
    run["limit_s"] = None  # the scheduler keeps the time
    return attend(run, job, place)


def attend(run: Run, job: Job, place: Ranks, kind: Optional[Type[QueuedSupervisor]] = None) -> int:
    """Supervise the run's program on this machine, whose place in the gang is `place`, to its final record. `run` is started, and
    has its secrets. Gives the exit code as `work` does."""
    node = Node()
    run["ranks"] = ranks.environment(place, job.ident)
    directory = run["status_dir"]
    if place.count > 1:
        run["work_dir"] = os.path.join(run["work_dir"], "node-%d" % place.rank)
        directory = os.path.join(run["status_dir"], contract.WORKERS, str(place.rank))
        files.make_directories(directory)
    record = _record(run, place, node, directory)
    log = os.path.join(directory if place.rank else run["status_dir"], contract.LOG)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, files.FILE)
    claimed = claim.Claimed(run, record.fields, descriptor)
    if job.restart:
        os.write(descriptor, b"[reconciler] the scheduler started this attempt anew (restart %d)\n" % job.restart)
    kept = os.dup(2)
    os.set_inheritable(kept, False)
    _redirect(descriptor)
    kind = kind or QueuedSupervisor
    supervisor = kind(claimed, node, job, place, record=record, log=log, subreaper=process.subreaper()())
    try:
        result = bring_to_end(claimed, supervisor)
        if _is_displaced(supervisor):
            return contract.EXIT_NOT_OURS
        record.finish(result)
    except OSError as error:
        os.write(kept, b"reconciler: the final record could not be written: %s\n" % os.fsencode(str(error)))
        return 1
    if result.status == contract.COMPLETED and not run["keep_work"]:
        files.remove_tree(run["work_dir"])
    return gang.code_of(result.status, result.exit_code)


def _is_displaced(supervisor: QueuedSupervisor) -> bool:
    try:
        return supervisor.is_displaced()
    except (OSError, ValueError):
        return False  # not to be known: the end is written, as that of a run that has it to itself


def is_started(run: Run, job: Job, wait_s: float = VISIBLE_S) -> bool:
    """Wait until this machine sees that our job won the run; another job's win ends it at once."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            os.listdir(run["status_dir"])  # makes NFS look again
            started = claim.read_started(run["status_dir"]) or {}
        except (OSError, ValueError):
            started = {}
        if job.owns(started):
            return True
        if started and (started.get("job") != job.ident or int(started.get("restart") or 0) > job.restart):
            return False
        if time.monotonic() > deadline:
            sys.stderr.write("reconciler: %s does not see that the run was started\n" % os.uname().nodename)
            return False
        time.sleep(0.2)


def _secrets(run: Run) -> Dict[str, str]:
    """By name. A run without one that it was given must not start: raises OSError."""
    if not run.get("secret_names"):
        return {}
    return status.read_json(os.path.join(run["status_dir"], contract.SECRETS))


def _record(run: Run, place: Ranks, node: Node, directory: str) -> Record:
    """The run's own record on one machine; on several, each has one, and the first also keeps the run's alive."""
    fields = status.read_json(os.path.join(run["status_dir"], contract.METADATA))
    fields.update(pid=os.getpid(), boot_id=node.boot_id, hardware={**fields["hardware"], "hosts": place.hosts})
    secrets = run["secrets"].values()
    if place.count == 1:
        return Record(run["status_dir"], fields, checkpoint_dir=run["checkpoint_dir"], secrets=secrets)
    mine = gang.worker_fields(place.rank, node.hostname, run, fields)
    if place.rank:
        return Record(directory, mine, secrets=secrets)
    return gang.LeadRecord(run, fields, directory, mine, place.count, secrets)


def _redirect(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
        os.dup2(source, target)
    os.close(null)
    os.chdir("/")


class QueuedSupervisor(Supervisor):
    """A supervisor whose machine belongs to a scheduler, which signals, restarts and ends as it likes."""

    def __init__(self, claimed: claim.Claimed, node: Node, job: Job, place: Ranks, **more: Any) -> None:
        super().__init__(claimed, node, **more)
        self._job = job
        self.place = place

    def run_to_end(self) -> Ending:
        """As on any machine; a request that came before our first signal could reach us counts from the start."""
        if self._request():
            self._ask("signal")
        return super().run_to_end()

    def run_child(self, argv: List[bytes], environ: Dict[bytes, bytes], cwd: str) -> int:
        """A signal to the whole step counts as heard before the program ended of it, though we hear of it after."""
        code = super().run_child(argv, environ, cwd)
        until = time.monotonic() + SIGNAL_LAG_S
        while not self.stop and time.monotonic() < until:
            self._sleep(until - time.monotonic())
        self._ended_asked = self._ended_asked or self.stop is not None
        return code

    def _is_fenced(self) -> bool:
        return super()._is_fenced() or self.is_displaced()

    def is_displaced(self) -> bool:
        """Did the scheduler give this machine up while it still runs, and start the job elsewhere? Raises OSError, ValueError.
        The record is that life's from then on: what this one wrote of its end would read as the end of the run."""
        started = claim.read_started(self.run["status_dir"])
        if started is None or self._job.owns(started):
            return False
        self.record.disown()
        return True


# -- end --------------------


def end(run: Run, job: Job, code: int) -> int:
    """Make sure that the run has a final record, and give the exit code that the scheduler is to see."""
    status_dir = run["status_dir"]
    if not job.owns(claim.read_started(status_dir) or {}):
        return contract.EXIT_NOT_OURS
    path = os.path.join(status_dir, contract.METADATA)
    fields = status.read_json(path)
    killed = fields.get("status") == contract.FAILED and fields.get("cause") == "infrastructure"
    if (killed or fields.get("status") not in contract.FINAL) and _ran_out_of_memory(run):
        message = "The scheduler ended it because it used more memory than it had asked for (spec.request.mem)."
        fields["workers"] = gang.summary(status_dir)
        result = Ending(contract.FAILED, "out_of_memory", message, exit_code=fields.get("exit_code") or code)
        Record(status_dir, fields, checkpoint_dir=run["checkpoint_dir"]).finish(result)
        fields = status.read_json(path)
    elif fields.get("status") not in contract.FINAL:
        silent = "The step that runs the program ended with exit code %d and left no record." % code
        result = gang.verdict(gang.workers_of(status_dir), _count(job), code) or broken(
            "%s\n%s" % (silent, tail(_output(status_dir)))
        )
        fields["workers"] = gang.summary(status_dir)
        Record(status_dir, fields, checkpoint_dir=run["checkpoint_dir"]).finish(result)
        fields = status.read_json(path)
    over = fields["status"] != contract.PREEMPTED or not (run["queue"] or {}).get("requeue")
    if over:  # else the scheduler may start this very attempt again
        status.remove_file(os.path.join(status_dir, contract.SECRETS))
        claim.drop_live(run["status_root"], run["run_id"])
    if fields["status"] == contract.COMPLETED:
        files.remove_tree(run["work_dir"])
    return gang.code_of(fields["status"], fields.get("exit_code"))


def _ran_out_of_memory(run: Run) -> bool:
    """Did the scheduler say so beside the program's output? Only it knows limits that the kernel does not keep."""
    words = (run["queue"] or {}).get("memory_words")
    return bool(words and re.search(words, tail(_output(run["status_dir"]))))


def _count(job: Job) -> int:
    return ranks.of_environment(job.names, os.environ).count


def _output(status_dir: str) -> str:
    try:
        return str(status.read_json(os.path.join(status_dir, contract.QUEUED)).get("output"))
    except (OSError, ValueError):
        return ""

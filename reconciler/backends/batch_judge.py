"""What is true of one run behind a queue, in three values. Pure: the driver asks, this judges.

A `Seen` is all that one look brought of a run: its files on the host, its job in the queue and, where it was asked, its row in
the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.backends.batch_sight import Jobs, Wanted, ended_report, lives, unexplained, vanished_member, wanted_of
from reconciler.backends.dialect import Answer, Dialect, Refused, Taken
from reconciler.backends.node_answers import report_of, run_of
from reconciler.core.job import Json
from reconciler.core.observation import Presence, Report, Sighting
from reconciler.core.protocols import Known
from reconciler.core.queue import QueueJob
from reconciler.core.run import Handle, Run

# A submission that was cut short may reach the queue a moment later: until then, not to see it proves nothing.
UNSENT_S = 20.0
# The history is written later than things happen, by minutes when it was down. Until then, no row proves nothing.
HISTORY_LAG_S = 300.0
# A run that nobody knows of any more is given up once nothing was written about it for this many heartbeats, by the clock of
# the file server.
QUIET_BEATS = 4


class Seen:
    """One run of one look. The driver fills in what the history said, of those it asked about."""

    def __init__(self, run_id: str, data: Mapping[str, Any], jobs: Jobs, known: Known | None, dialect: Dialect) -> None:
        self.run_id, self.data, self.known = run_id, data, known
        self.claim, self.queued, self.started = (mapping(data.get(name)) for name in ("claim", "queued", "started"))
        self._jobs, self._dialect = jobs, dialect
        token = str(self.claim.get("token") or mapping(data.get("metadata")).get("token") or "")
        self.token = known.run.token if known is not None else token
        self.wanted: Wanted = wanted_of(run_id, self.token, self.queued, self.started)
        self.job: QueueJob | None = jobs.of(self.wanted)
        self.history: QueueJob | None = None
        self.history_error, self.history_kept = "", False
        self.quiet_s: float | None = None

    @property
    def ident(self) -> str:
        """The job's id as far as anybody wrote it down."""
        found = self.wanted.began or ident_of(self.queued, self._dialect)
        handle = self.known.handle if self.known is not None else None
        return found or (str(handle.native.get("job") or "") if handle is not None else "")

    @property
    def is_absent(self) -> bool:
        """It has no directory."""
        return self.data.get("state") == "absent"

    @property
    def is_settled(self) -> bool:
        """Its submission was answered: it was there once."""
        return self.known is not None and self.known.handle is not None

    @property
    def is_missing(self) -> bool:
        """Neither the queue nor its own record settles how it ended: worth asking the history."""
        if self.data.get("error") or (self.job is not None and not unexplained(self.job)):
            return False
        if self.is_absent and not self.is_settled:
            return False
        metadata = mapping(self.data.get("metadata"))
        return not _settles(metadata.get("status"), metadata.get("cause"))

    @property
    def is_theirs(self) -> bool:
        """The scheduler owns its restarts."""
        if self.claim:
            return bool(mapping(self.claim.get("queue")).get("requeue"))
        spec = self.known.run.normal.get("spec") if self.known is not None else None
        restart = spec.get("restart") if isinstance(spec, dict) else None
        return isinstance(restart, dict) and restart.get("owner", "reconciler") != "reconciler"

    @property
    def was_sent(self) -> bool:
        """It was surely given to the queue."""
        if (bool(self.started) and "abandoned_by" not in self.started) or self.queued.get("ident"):
            return True
        handle = self.known.handle if self.known is not None else None
        return (handle is not None and bool(handle.native.get("job"))) or isinstance(self._outcome(), Taken)

    @property
    def was_refused(self) -> bool:
        """It was surely not taken by the queue."""
        return isinstance(self._outcome(), Refused)

    @property
    def vanished_from_array(self) -> bool:
        """It never began, and others of its array are still known."""
        return not self.started and self._jobs.knows_array(self.wanted) and not self.history_error

    def twins(self) -> tuple[str, ...]:
        """Other living jobs of the same run: it got into the queue twice, and one of them is too many."""
        minded = self.job.ident if self.job is not None else ""
        return tuple(one.ident for one in self._jobs.living(self.wanted) if one.ident != minded)

    def _outcome(self) -> object:
        answer = self.queued.get("answer")
        return self._dialect.parse_submit(answer_of(answer)) if answer else None


def judge(one: Seen, dialect: Dialect, *, heartbeat_s: float) -> Sighting:
    """PRESENT with what it does or how it ended, ABSENT where that is proved, else UNKNOWN with the reason."""
    if one.data.get("error"):
        rootless = one.data.get("rootless") is True
        return Sighting(one.run_id, Presence.UNKNOWN, error=str(one.data["error"]), rootless=rootless)
    job, system = one.job, dialect.system
    run = one.known.run if one.known is not None else run_of(one.claim)
    try:
        record = report_of(one.data)
    except (KeyError, TypeError, ValueError) as problem:
        return Sighting(one.run_id, Presence.UNKNOWN, error=f"its metadata.json cannot be read: {problem}")
    over = record is not None and _settles(record.status.value, record.cause.value if record.cause else None)
    if job is not None and job.word.startswith("COMPLETING") and over:
        # Its supervisor wrote this when all its processes had ended: the scheduler is merely tidying up.
        return _present(one, run, record, job)
    if lives(job, theirs=one.is_theirs):
        return _present(one, run, record, job, alive=True)
    if one.is_absent and job is None and not one.is_settled:
        return Sighting(one.run_id, Presence.ABSENT)
    if job is not None:
        return _listed(one, job, run, record, system)
    if over:
        return _present(one, run, record, None)
    return _vanished(one, run, record, system, heartbeat_s)


def _listed(one: Seen, job: QueueJob, run: Run | None, record: Report | None, system: str) -> Sighting:
    """The queue lists it as ended. It tells no exit codes: those are in the history, which is written a moment later."""
    told, history = job, one.history
    if one.is_missing:
        if history is not None and not lives(history, theirs=False):
            told = history
        elif one.history_kept and not one.history_error and not one.is_absent and not _quiet(one, HISTORY_LAG_S):
            return _unknown(one, f"{system} lists it as {job.word}, and its history does not say how it ended yet")
    return _present(one, run, ended_report(run, record, told, system), job)


def _vanished(one: Seen, run: Run | None, record: Report | None, system: str, heartbeat_s: float) -> Sighting:
    """Not in the queue, and no word of its end in its record that settles it."""
    history, silence_s = one.history, QUIET_BEATS * heartbeat_s
    if history is not None and not lives(history, theirs=False):
        return _present(one, run, ended_report(run, record, history, system), history)
    if history is not None and not _quiet(one, max(silence_s, HISTORY_LAG_S)):
        # A controller that lost a job tells nobody: the history goes on believing in it. Silence decides in the end.
        return _unknown(
            one, f"{system}'s history says that job {history.ident} is {history.word}, its queue does not list it"
        )
    if not one.was_sent:
        if one.was_refused or _quiet(one, UNSENT_S):
            return Sighting(one.run_id, Presence.ABSENT)
        return _unknown(one, f"its submission to {system} was cut short a moment ago; it may still arrive")
    if record is not None and record.status.final:
        if one.history_error:
            why = f"only {system}'s history can say whether it was preempted or cancelled: {one.history_error}"
            return _unknown(one, f"it ended; {why}")
        if one.history_kept and not _quiet(one, HISTORY_LAG_S):
            return _unknown(one, f"it ended, and {system}'s history does not say how yet (it may be minutes behind)")
        return _present(one, run, record, None)
    if one.vanished_from_array:
        return _present(one, run, vanished_member(record, one.ident, system), None)
    silence_s = max(silence_s, HISTORY_LAG_S if one.history_kept else 0.0)
    if one.is_absent or _quiet(one, silence_s):
        return _present(one, run, record, None)
    wrote = "nothing is known of when it last wrote" if one.quiet_s is None else f"it wrote {one.quiet_s:.0f} s ago"
    return _unknown(
        one, f"{system} does not list it any more, but {wrote}; it is given up after {silence_s:.0f} s of silence"
    )


def _quiet(one: Seen, for_s: float) -> bool:
    return one.quiet_s is not None and one.quiet_s >= for_s


def _unknown(one: Seen, error: str) -> Sighting:
    return Sighting(one.run_id, Presence.UNKNOWN, error=error)


def _present(
    one: Seen, run: Run | None, report: Report | None, job: QueueJob | None, *, alive: bool = False
) -> Sighting:
    native: dict[str, Json] = {
        "job": job.ident if job is not None else one.ident,
        "status_dir": str(one.data.get("status_dir") or ""),
    }
    return Sighting(
        one.run_id,
        Presence.PRESENT,
        alive=alive,
        stopping=str(mapping(one.data.get("request")).get("reason") or ""),
        handle=Handle(one.run_id, one.token, native),
        run=run,
        report=report,
        queue=job,
        twins=one.twins() if alive else (),
    )


def _settles(status: Any, cause: Any) -> bool:
    """A final record settles an end, unless it only says that somebody asked or killed: the scheduler knows who and why."""
    if status in ("completed", "cancelled"):
        return True
    return status in ("failed", "preempted") and cause not in ("preemption", "infrastructure")


# --- what the node wrote down -----------------------------------------------------------------------------------------


def ident_of(queued: Mapping[str, Any], dialect: Dialect) -> str:
    """The job's id as far as the node wrote it down: found later, or in the answer to the submission."""
    if queued.get("ident"):
        return str(queued["ident"])
    if not queued.get("answer"):
        return ""
    told = dialect.parse_submit(answer_of(queued["answer"]))
    if not isinstance(told, Taken):
        return ""
    index = queued.get("index")
    return f"{told.ident}_{index}" if isinstance(index, int) else told.ident


def answer_of(data: Any) -> Answer:
    """A command's answer as the node tells it."""
    data = mapping(data)
    code = data.get("rc")
    return Answer(code if isinstance(code, int) else None, str(data.get("stdout") or ""), str(data.get("stderr") or ""))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}

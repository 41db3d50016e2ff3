"""A host behind which a queue system decides: the driver that every dialect shares. Slurm is the first dialect.

One remote command submits any number of runs, one observes them all; a second one is needed only when a run has left the queue
without a final record, to ask the history. All judgement is here, in pure functions; the login node only runs what it is told and
keeps what must survive a crash (docs/node-protocol.md, Queues).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from reconciler.backends.batch_order import mark_of, order_of, parcels
from reconciler.backends.batch_sight import (
    Jobs,
    Wanted,
    ended_report,
    lives,
    unexplained,
    vanished_member,
    wanted_of,
)
from reconciler.backends.dialect import Answer, Dialect, Doubtful, Probe, Refused, Site, Taken
from reconciler.backends.node_answers import Answer as NodeAnswer
from reconciler.backends.node_answers import refusal_of, report_of, run_of
from reconciler.backends.node_call import NodeCall, NodeSettings, record_of
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, Unparsable
from reconciler.core.job import Json
from reconciler.core.observation import Capacity, Census, Presence, Report, Sighting
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
from reconciler.core.queue import QueueLimits
from reconciler.core.run import Handle, Run
from reconciler.core.transport import Transport

# Slurm's own clients give up after some 10 s without a controller; more is a command that hangs.
COMMAND_S = 40.0
OBSERVE_DEADLINE_S = 4 * COMMAND_S
CANCEL_DEADLINE_S = 3 * COMMAND_S
SUBMIT_DEADLINE_S = 120.0
SUBMIT_DEADLINE_PER_RUN_S = 1.0
# A submission that was cut short may reach the queue a moment later: until then, not to see it proves nothing.
UNSENT_S = 20.0
# The history is written later than things happen, by minutes when it was down. Until then, no row proves nothing.
HISTORY_LAG_S = 300.0
# A run that nobody knows of any more is given up once nothing was written about it for this many heartbeats, by the clock of
# the file server.
QUIET_BEATS = 4
ARRAY_MAX = 1000


class BatchBackend:
    """One login node."""

    capabilities: ClassVar[Capabilities] = Capabilities(batch_max=1000)

    def __init__(
        self,
        settings: NodeSettings,
        site: Site,
        dialect: Dialect,
        transport: Transport,
        install: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._site = site
        self._dialect = dialect
        self._call = NodeCall(settings, transport, install)
        self._limits: QueueLimits | None = None

    # --- submitting

    def render(self, run: Run, facts: Facts) -> Submission:
        """The whole script as it would go to the queue by itself, and the record that travels with it."""
        dialect, paths = self._dialect, self._settings.paths
        order = order_of(
            run,
            facts.spec,
            self._site,
            dialect,
            status_dir=paths.status_dir(run),
            bundle=paths.bundle,
            python=self._settings.python,
        )
        record = record_of(self._settings, run, facts)
        record["gpus"] = None
        record["limit_s"] = None
        record["hardware"] = {"chip": facts.chip, "total_chips": order.nodes * order.gpus_per_node, "hosts": []}
        record["queue"] = {
            "system": dialect.system,
            "variables": dict(dialect.variables),
            "requeue": order.requeue,
            "memory_words": dialect.memory_words,
        }
        try:
            script = dialect.script(order)
        except ValueError as error:
            raise Rejected(f"{run.job} cannot be put into a script for {dialect.system}: {error}") from error
        body: dict[str, Json] = {
            "script": script,
            "record": record,
            "sweep": facts.sweep,
            "parallel": facts.parallel,
        }
        return Submission(run, body, facts.secrets, order)

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        """One command for all of them; members of a sweep as arrays."""
        dialect, paths = self._dialect, self._settings.paths
        documents: list[dict[str, Any]] = []
        limit = self._limits.array_max if self._limits is not None else None
        for parcel in parcels(
            submissions,
            dialect,
            status_root=paths.status,
            bundle=paths.bundle,
            python=self._settings.python,
            array_max=limit or ARRAY_MAX,
        ):
            runs = [
                {**_record(item), "secrets": {name: secret.reveal() for name, secret in item.secrets.items()}}
                for item in parcel.items
            ]
            order = parcel.order
            documents.append(
                {
                    "name": order.name,
                    "mark": order.mark,
                    "script": dialect.script(order),
                    "script_path": parcel.script_path,
                    "output": order.output.replace("%%", "%"),
                    "members": parcel.members,
                    "submit": list(dialect.submit(parcel.script_path)),
                    "runs": runs,
                }
            )
        document = {
            "version": 1,
            "find": _probe(dialect.find()),
            "alive": _probe(dialect.alive()),
            "timeout_s": COMMAND_S,
            "submissions": documents,
        }
        deadline_s = SUBMIT_DEADLINE_S + SUBMIT_DEADLINE_PER_RUN_S * len(submissions)
        answer = self._call("enqueue", document, deadline_s=deadline_s)
        return self._results(submissions, answer)

    def _results(self, submissions: Sequence[Submission], answer: NodeAnswer) -> dict[str, Accepted | Declined]:
        runs = {item.run.run_id: item.run for item in submissions}
        results: dict[str, Accepted | Declined] = {}
        refused: list[Run] = []
        for line in answer.lines:
            run = runs.get(str(line.get("run_id")))
            if run is None:
                continue
            match line.get("result"):
                case "submitted":
                    told = self._dialect.parse_submit(_answer(line.get("answer")))
                    match told:
                        case Taken(ident):
                            results[run.run_id] = Accepted(self._handle(run, ident, line.get("index")))
                        case Refused(words, final, hint):
                            refused.append(run)
                            message = f"{self._dialect.system} refused it: {words.rstrip('.')}" + (
                                f"; {hint}" if hint else ""
                            )
                            results[run.run_id] = Declined("refused", message, final=final)
                        case Doubtful():
                            pass  # only looking settles it
                case "already":
                    queued = _map(line.get("queued"))
                    ident = self._ident_of(queued) or _began_as(_map(line.get("started")), queued.get("index"))
                    results[run.run_id] = Accepted(self._handle(run, ident, None), repeated=True)
                case "refused":
                    results[run.run_id] = refusal_of(run.run_id, line, self._settings.name)
                case _:
                    pass
        if refused:
            self._withdraw(refused)
        return results

    def _withdraw(self, runs: Sequence[Run]) -> None:
        """Leave nothing of what was refused. Should this get lost, the refusal lies beside the claim, and looking finds it."""
        paths = self._settings.paths
        document = {
            "version": 1,
            "runs": [
                {
                    "run_id": run.run_id,
                    "token": run.token,
                    "status_dir": paths.status_dir(run),
                    "status_root": paths.status,
                }
                for run in runs
            ],
        }
        try:
            self._call("withdraw", document, deadline_s=CANCEL_DEADLINE_S)
        except ReconcilerError:
            pass

    def _handle(self, run: Run, ident: str, index: Any) -> Handle:
        job = f"{ident}_{index}" if isinstance(index, int) and ident else ident
        return Handle(run.run_id, run.token, {"job": job, "status_dir": self._settings.paths.status_dir(run)})

    def _ident_of(self, queued: Mapping[str, Any]) -> str:
        """The job's id as far as the node wrote it down: found later, or in the answer to the submission."""
        if queued.get("ident"):
            return str(queued["ident"])
        if not queued.get("answer"):
            return ""
        told = self._dialect.parse_submit(_answer(queued["answer"]))
        if not isinstance(told, Taken):
            return ""
        index = queued.get("index")
        return f"{told.ident}_{index}" if isinstance(index, int) else told.ident

    # --- looking

    def observe(self, look: Look) -> Census:
        """One question to the queue and one look at the records; where a run has left both, one more to the history."""
        name, dialect = self._settings.name, self._dialect
        commands = {"queue": dialect.queue()}
        if look.probe:
            commands |= {f"capacity {key}": argv for key, argv in dialect.capacity().items()}
        try:
            answer = self._observe(look.known, commands, scan=look.scan)
            said = _commands(answer)
            jobs = Jobs(dialect.parse_queue(said.get("queue") or Answer(None, "", "it was not asked")))
        except ReconcilerError as error:
            return Census(name, complete=False, error=error.message)
        errors = _root_errors(answer)
        seen = {one.run_id: one for line in answer.lines if (one := self._seen(line, jobs)) is not None}
        known = {item.run.run_id: item for item in look.known}
        missing = [
            one for one in seen.values() if (one.run_id in known or look.scan) and one.is_missing(known.get(one.run_id))
        ]
        if missing:
            self._ask_history(missing, known)
        complete = answer.done and not errors
        sightings = {one.run_id: self._judge(one, known.get(one.run_id)) for one in seen.values()}
        if not complete:
            sightings = {run_id: one for run_id, one in sightings.items() if one.alive}
        return Census(
            name,
            complete=complete,
            sightings=sightings,
            capacity=self._capacity(said) if look.probe and complete else None,
            scanned=look.scan and complete,
            error="; ".join(errors),
        )

    def _observe(
        self,
        known: Sequence[Known] | Any,
        commands: Mapping[str, Sequence[str]],
        *,
        scan: bool = False,
        ages: bool = False,
    ) -> NodeAnswer:
        paths = self._settings.paths
        document = {
            "version": 1,
            "queue": self._settings.name,
            "status_roots": [] if ages else [paths.status],
            "known": [
                {
                    "run_id": item.run.run_id,
                    "status_dir": paths.status_dir(item.run),
                    "settled": item.handle is not None,
                    "brief": item.handle is not None,
                }
                for item in known
            ],
            "scan": scan,
            "ages": ages,
            "commands": {key: {"argv": list(argv), "timeout_s": COMMAND_S} for key, argv in commands.items()},
        }
        return self._call("observe", document, deadline_s=OBSERVE_DEADLINE_S)

    def _seen(self, line: Mapping[str, Any], jobs: Jobs) -> _Seen | None:
        data = _map(line.get("sighting"))
        run_id = data.get("run_id")
        if not isinstance(run_id, str):
            return None
        claim, queued, started = _map(data.get("claim")), _map(data.get("queued")), _map(data.get("started"))
        return _Seen(run_id, data, claim, queued, started, jobs, self._ident_of(queued))

    def _ask_history(self, missing: Sequence[_Seen], known: Mapping[str, Known]) -> None:
        """What the history says of runs that left the queue, and for how long nothing was written about them."""
        idents = {one.job_ident(known.get(one.run_id)) for one in missing} - {""}
        names = {one.wanted(known.get(one.run_id)).name for one in missing if not one.job_ident(known.get(one.run_id))}
        argvs = self._dialect.accounting(sorted(idents), sorted(names))
        commands = {f"history {number}": argv for number, argv in enumerate(argvs)}
        asked = [known[one.run_id] for one in missing if one.run_id in known]
        try:
            answer = self._observe(asked, commands, ages=True)
            said = _commands(answer)
            told = [self._dialect.parse_accounting(said[key]) for key in commands]
            history = Jobs([job for jobs in told for job in jobs or ()])
            kept, silent = None not in told, ""
        except KeyError:
            history, kept, silent = Jobs(()), True, "its history was not asked"
        except ReconcilerError as error:
            history, kept, silent = Jobs(()), True, error.message
            if not isinstance(error, Unparsable):
                for one in missing:
                    one.history_error = silent
                return
        ages = {
            str(data.get("run_id")): data.get("quiet_s")
            for line in answer.lines
            if (data := _map(line.get("sighting")))
        }
        for one in missing:
            one.history = history.of(one.wanted(known.get(one.run_id)))
            one.history_error, one.history_kept = silent, kept
            age = ages.get(one.run_id)
            one.quiet_s = float(age) if isinstance(age, (int, float)) else None

    def _judge(self, one: _Seen, known: Known | None) -> Sighting:
        """What is true of one run, in three values."""
        run_id, data = one.run_id, one.data
        if data.get("error"):
            return Sighting(run_id, Presence.UNKNOWN, error=str(data["error"]))
        job = one.job(known)
        run = known.run if known is not None else run_of(one.claim)
        try:
            record = report_of(data)
        except (KeyError, TypeError, ValueError) as problem:
            return Sighting(run_id, Presence.UNKNOWN, error=f"its metadata.json cannot be read: {problem}")
        if job is not None and job.word.startswith("COMPLETING") and one.is_over(record):
            # Its supervisor wrote this when all its processes had ended: the scheduler is merely tidying up.
            return self._present(one, known, run, record, job)
        theirs = bool(_map(one.claim.get("queue")).get("requeue")) if one.claim else one.requeues(known)
        if lives(job, theirs=theirs):
            return self._present(one, known, run, record, job, alive=True)
        if data.get("state") == "absent" and job is None and (known is None or known.handle is None):
            return Sighting(run_id, Presence.ABSENT)
        if job is not None:
            # The queue tells no exit codes; the history may have lagged, then what is known has to do.
            told = one.history if unexplained(job) and one.history is not None else job
            return self._present(one, known, run, ended_report(run, record, told, self._dialect.system), job)
        if one.is_over(record):
            return self._present(one, known, run, record, None)
        return self._vanished(one, known, run, record)

    def _vanished(self, one: _Seen, known: Known | None, run: Run | None, record: Report | None) -> Sighting:
        """Not in the queue, and no word of its end in its record that settles it."""
        run_id, system = one.run_id, self._dialect.system
        if one.history is not None and not lives(one.history, theirs=False):
            return self._present(one, known, run, ended_report(run, record, one.history, system), one.history)
        quiet_s = QUIET_BEATS * self._settings.heartbeat_s
        # A controller that lost a job tells nobody: the history goes on believing in it.
        if one.history is not None and (one.quiet_s is None or one.quiet_s < max(quiet_s, HISTORY_LAG_S)):
            error = f"{system}'s history says that job {one.history.ident} is {one.history.word}, its queue does not list it"
            return Sighting(run_id, Presence.UNKNOWN, error=error)
        if not one.sent(self._dialect):
            if one.never_taken(self._dialect) or (one.quiet_s is not None and one.quiet_s >= UNSENT_S):
                return Sighting(run_id, Presence.ABSENT)
            error = f"its submission to {system} was cut short a moment ago; it may still arrive"
            return Sighting(run_id, Presence.UNKNOWN, error=error)
        lagging = one.history_kept and (one.quiet_s is None or one.quiet_s < HISTORY_LAG_S)
        if record is not None and record.status.final:
            if one.history_error:
                error = f"it ended; only {system}'s history can say whether it was preempted or cancelled: {one.history_error}"
                return Sighting(run_id, Presence.UNKNOWN, error=error)
            if lagging:
                error = f"it ended, and {system}'s history does not say how yet (it may be minutes behind)"
                return Sighting(run_id, Presence.UNKNOWN, error=error)
            return self._present(one, known, run, record, None)
        if one.vanished_from_array(known):
            return self._present(one, known, run, vanished_member(record, one.job_ident(known), system), None)
        quiet_s = max(quiet_s, HISTORY_LAG_S if one.history_kept else 0.0)
        if one.data.get("state") == "absent" or (one.quiet_s is not None and one.quiet_s >= quiet_s):
            return self._present(one, known, run, record, None)
        said = "nothing is known of when it last wrote" if one.quiet_s is None else f"it wrote {one.quiet_s:.0f} s ago"
        error = f"{system} does not list it any more, but {said}; it is given up after {quiet_s:.0f} s of silence"
        return Sighting(run_id, Presence.UNKNOWN, error=error)

    def _present(
        self,
        one: _Seen,
        known: Known | None,
        run: Run | None,
        report: Report | None,
        job: Any,
        *,
        alive: bool = False,
    ) -> Sighting:
        token = known.run.token if known is not None else str(one.claim.get("token") or "")
        ident = job.ident if job is not None else one.job_ident(known)
        native: dict[str, Json] = {"job": ident, "status_dir": str(one.data.get("status_dir") or "")}
        return Sighting(
            one.run_id,
            Presence.PRESENT,
            alive=alive,
            stopping=str(_map(one.data.get("request")).get("reason") or ""),
            handle=Handle(one.run_id, token, native),
            run=run,
            report=report,
            queue=job,
            twins=one.twins(known, job) if alive else (),
        )

    def _capacity(self, said: Mapping[str, Answer]) -> Capacity:
        answers = {
            key: said.get(f"capacity {key}") or Answer(None, "", "it was not asked") for key in self._dialect.capacity()
        }
        try:
            found = self._dialect.parse_capacity(answers)
        except ReconcilerError as error:
            return Capacity(0, error=error.message)
        self._limits = found.limits
        return Capacity(sum(node.cpus for node in found.nodes.values()), queue=found)

    # --- stopping

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        run, dialect = known.run, self._dialect
        document = {
            "version": 1,
            "find": _probe(dialect.find()),
            "alive": _probe(dialect.alive()),
            "ask": list(dialect.cancel("{ident}", "{name}", ask=True)),
            "end": list(dialect.cancel("{ident}", "{name}", ask=False)),
            "timeout_s": COMMAND_S,
            "runs": [
                {
                    "run_id": run.run_id,
                    "token": run.token,
                    "mark": mark_of(run),
                    "status_dir": self._settings.paths.status_dir(run),
                    "ident": str(known.handle.native.get("job") or "") if known.handle else "",
                    "reason": reason,
                    "grace_s": grace_s,
                    "force": force,
                    "twin": bool(known.handle and known.handle.native.get("twin")),
                }
            ],
        }
        answer = self._call("dequeue", document, deadline_s=CANCEL_DEADLINE_S)
        line = next((line for line in answer.lines if line.get("run_id") == run.run_id), None)
        if line is None or line.get("result") == "unknown":
            why = f": {line.get('reason')}" if line else ""
            raise OutcomeUnknown(f"{self._settings.name} cannot tell whether it stops {run.run_id}{why}")
        if line.get("result") == "refused":
            raise Rejected(f"{self._settings.name} refuses to stop {run.run_id}: {line.get('reason')}")
        return "already gone" if line.get("result") == "gone" else "signalled"

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        return self._call.logs(known, since)

    def close(self) -> None:
        self._call.close()


class _Seen:
    """One run as it was seen: its files, and its job in the queue."""

    def __init__(
        self,
        run_id: str,
        data: Mapping[str, Any],
        claim: Mapping[str, Any],
        queued: Mapping[str, Any],
        started: Mapping[str, Any],
        jobs: Jobs,
        ident: str,
    ) -> None:
        self.run_id, self.data, self.claim, self.queued, self.started = run_id, data, claim, queued, started
        self._jobs, self._ident = jobs, ident
        self.history: Any = None
        self.history_error, self.history_kept = "", False
        self.quiet_s: float | None = None

    def wanted(self, known: Known | None) -> Wanted:
        token = known.run.token if known is not None else str(self.claim.get("token") or "")
        return wanted_of(self.run_id, token, self.queued, self.started)

    def vanished_from_array(self, known: Known | None) -> bool:
        """It never began, and others of its array are still known."""
        return not self.started and self._jobs.knows_array(self.wanted(known)) and not self.history_error

    def job(self, known: Known | None) -> Any:
        return self._jobs.of(self.wanted(known))

    def twins(self, known: Known | None, job: Any) -> tuple[str, ...]:
        """Other living jobs of the same run: it got into the queue twice, and one of them is too many."""
        return tuple(one.ident for one in self._jobs.living(self.wanted(known)) if one.ident != job.ident)

    def job_ident(self, known: Known | None) -> str:
        return self._ident or (str(known.handle.native.get("job") or "") if known and known.handle else "")

    def is_missing(self, known: Known | None) -> bool:
        """Not in the queue, and its record does not settle how it ended."""
        if self.data.get("error"):
            return False
        job = self._jobs.of(self.wanted_here)
        if job is not None and not unexplained(job):
            return False
        if self.data.get("state") == "absent" and (known is None or known.handle is None):
            return False
        metadata = _map(self.data.get("metadata"))
        return not _settles(metadata.get("status"), metadata.get("cause"))

    @property
    def wanted_here(self) -> Wanted:
        token = str(self.claim.get("token") or _map(self.data.get("metadata")).get("token") or "")
        return wanted_of(self.run_id, token, self.queued, self.started)

    def is_over(self, record: Report | None) -> bool:
        return record is not None and _settles(record.status.value, record.cause.value if record.cause else None)

    def sent(self, dialect: Dialect) -> bool:
        """Was it surely given to the queue?"""
        if self.started and "abandoned_by" not in self.started:
            return True
        if self.queued.get("ident"):
            return True
        answer = self.queued.get("answer")
        return bool(answer) and isinstance(dialect.parse_submit(_answer(answer)), Taken)

    def never_taken(self, dialect: Dialect) -> bool:
        """Was it surely not taken by the queue?"""
        answer = self.queued.get("answer")
        return bool(answer) and isinstance(dialect.parse_submit(_answer(answer)), Refused)

    @staticmethod
    def requeues(known: Known | None) -> bool:
        """Does the scheduler own restarts of this run?"""
        spec = known.run.normal.get("spec") if known is not None else None
        restart = spec.get("restart") if isinstance(spec, dict) else None
        return isinstance(restart, dict) and restart.get("owner", "reconciler") != "reconciler"


def _settles(status: Any, cause: Any) -> bool:
    """A final record settles an end, unless it only says that somebody asked or killed: the scheduler knows who and why."""
    if status in ("completed", "cancelled"):
        return True
    return status in ("failed", "preempted") and cause not in ("preemption", "infrastructure")


def _probe(probe: Probe) -> dict[str, Any]:
    return {**asdict(probe), "argv": list(probe.argv)}


def _record(item: Submission) -> dict[str, Json]:
    record = item.body["record"]
    assert isinstance(record, dict)
    return record


def _answer(data: Any) -> Answer:
    data = _map(data)
    code = data.get("rc")
    return Answer(code if isinstance(code, int) else None, str(data.get("stdout") or ""), str(data.get("stderr") or ""))


def _commands(answer: NodeAnswer) -> dict[str, Answer]:
    return {
        str(told["name"]): _answer(told) for line in answer.lines if (told := _map(line.get("command"))).get("name")
    }


def _root_errors(answer: NodeAnswer) -> list[str]:
    last = answer.lines[-1] if answer.lines else {}
    roots = _map(last.get("roots"))
    return [f"{path}: {why}" for path, why in roots.items() if why] if roots else ["no status directory was read"]


def _began_as(started: Mapping[str, Any], index: Any) -> str:
    """The job that began. Of a member of an array its own number is no handle: the last one's is that of the whole array."""
    if isinstance(index, int):
        return f"{started['array']}_{index}" if started.get("array") else ""
    return str(started.get("job") or "")


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

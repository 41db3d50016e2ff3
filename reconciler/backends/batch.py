"""A host behind which a queue system decides: the driver that every dialect shares. Slurm is the first dialect.

One remote command submits any number of runs, one observes them all; a second one is needed only when a run has left the queue
without a final record, to ask the history. All judgement is here and pure (batch_judge, batch_sight); the login node only runs
what it is told and keeps what must survive a crash (docs/node-protocol.md, Queues).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from reconciler.backends.batch_judge import Seen, answer_of, ident_of, judge, mapping
from reconciler.backends.batch_order import Parcel, mark_of, order_of, parcels
from reconciler.backends.batch_sight import Jobs
from reconciler.backends.dialect import FOREIGN, Answer, Dialect, Doubtful, Probe, Refused, Site, Taken
from reconciler.backends.node_answers import Answer as NodeAnswer
from reconciler.backends.node_answers import refusal_of
from reconciler.backends.node_call import NodeCall, NodeSettings, record_of
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected, Unparsable, on_the_way
from reconciler.core.job import Json
from reconciler.core.observation import Capacity, Census
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
from reconciler.core.queue import QueueJob, QueueLimits
from reconciler.core.run import Handle, Run
from reconciler.core.transport import Transport

# Slurm's own clients give up after some 10 s without a controller; more is a command that hangs.
COMMAND_S = 40.0
OBSERVE_DEADLINE_S = 4 * COMMAND_S
CANCEL_DEADLINE_S = 3 * COMMAND_S
SUBMIT_DEADLINE_S = 120.0
SUBMIT_DEADLINE_PER_RUN_S = 1.0
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
        packed = list(self._packed(submissions))
        results = self._send(packed)
        for parcel in packed:
            if len(parcel.items) > 1 and all(_is_for_now(results.get(item.run.run_id)) for item in parcel.items):
                results |= self._send_part(parcel.items)
        return results

    def _send_part(self, items: Sequence[Submission]) -> dict[str, Accepted | Declined]:
        """An array counts as all its members against a limit of jobs: send as many as are taken. The rest is for later."""
        size = len(items) // 2
        while size:
            results = self._send(list(self._packed(items[:size])))
            if not all(_is_for_now(results.get(item.run.run_id)) for item in items[:size]):
                return results
            size //= 2
        return {}

    def _packed(self, submissions: Sequence[Submission]) -> Iterable[Parcel]:
        limit = self._limits.array_max if self._limits is not None else None
        return parcels(
            submissions,
            self._dialect,
            status_root=self._settings.paths.status,
            bundle=self._settings.paths.bundle,
            python=self._settings.python,
            array_max=ARRAY_MAX if limit is None else limit,
        )

    def _send(self, packed: Sequence[Parcel]) -> dict[str, Accepted | Declined]:
        dialect = self._dialect
        documents = [
            {
                "name": parcel.order.name,
                "mark": parcel.order.mark,
                "script": dialect.script(parcel.order),
                "script_path": parcel.script_path,
                "output": parcel.order.output.replace("%%", "%"),
                "members": parcel.members,
                "submit": list(dialect.submit(parcel.script_path)),
                "runs": [
                    {**_record(item), "secrets": {name: secret.reveal() for name, secret in item.secrets.items()}}
                    for item in parcel.items
                ],
            }
            for parcel in packed
        ]
        document = {
            "version": 1,
            "find": _probe(dialect.find()),
            "alive": _probe(dialect.alive()),
            "timeout_s": COMMAND_S,
            "unset": list(dialect.unset),
            "submissions": documents,
        }
        submissions = [item for parcel in packed for item in parcel.items]
        deadline_s = SUBMIT_DEADLINE_S + SUBMIT_DEADLINE_PER_RUN_S * len(submissions)
        return self._results(submissions, self._call("enqueue", document, deadline_s=deadline_s))

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
                    told = self._dialect.parse_submit(answer_of(line.get("answer")))
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
                    queued = mapping(line.get("queued"))
                    ident = str(mapping(line.get("started")).get("ident") or "") or ident_of(queued, self._dialect)
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

    # --- looking

    def observe(self, look: Look) -> Census:
        """One question to the queue and one look at the records; where a run has left both, one more to the history."""
        name, dialect = self._settings.name, self._dialect
        commands = {"queue": dialect.queue()}
        if look.probe:
            commands |= {f"capacity {key}": argv for key, argv in dialect.capacity().items()}
        try:
            paths = self._settings.paths
            asked: list[dict[str, Json]] = [
                {
                    "run_id": item.run.run_id,
                    "status_dir": paths.status_dir(item.run),
                    "settled": item.handle is not None,
                    "brief": item.handle is not None,
                }
                for item in look.known
            ]
            answer = self._observe(asked, commands, scan=look.scan)
            said = _commands(answer)
            jobs = Jobs(dialect.parse_queue(said.get("queue") or Answer(None, "", "it was not asked")))
        except ReconcilerError as error:
            return Census(name, complete=False, error=error.message, away=on_the_way(error))
        errors = _root_errors(answer)
        known = {item.run.run_id: item for item in look.known}
        seen = self._seen(answer, jobs, known)
        missing = [one for one in seen if (one.known is not None or look.scan) and one.is_missing]
        if missing:
            self._ask_history(missing)
        complete = answer.done and not errors
        heartbeat_s = self._settings.heartbeat_s
        sightings = {one.run_id: judge(one, dialect, heartbeat_s=heartbeat_s) for one in seen}
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
        known: Sequence[Mapping[str, Json]],
        commands: Mapping[str, Sequence[str]],
        *,
        scan: bool = False,
        ages: bool = False,
    ) -> NodeAnswer:
        document = {
            "version": 1,
            "queue": self._settings.name,
            "status_roots": [] if ages else [self._settings.paths.status],
            "known": list(known),
            "scan": scan,
            "ages": ages,
            "commands": {key: {"argv": list(argv), "timeout_s": COMMAND_S} for key, argv in commands.items()},
        }
        return self._call("observe", document, deadline_s=OBSERVE_DEADLINE_S)

    def _seen(self, answer: NodeAnswer, jobs: Jobs, known: Mapping[str, Known]) -> list[Seen]:
        found = [mapping(line.get("sighting")) for line in answer.lines]
        return [
            Seen(data["run_id"], data, jobs, known.get(data["run_id"]), self._dialect)
            for data in found
            if isinstance(data.get("run_id"), str)
        ]

    def _ask_history(self, missing: Sequence[Seen]) -> None:
        """What the history says of runs that left the queue, and for how long nothing was written about them."""
        idents = {one.ident for one in missing} - {""}
        names = {one.wanted.name for one in missing if not one.ident}
        argvs = self._dialect.accounting(sorted(idents), sorted(names))
        commands = {f"history {number}": argv for number, argv in enumerate(argvs)}
        try:
            answer = self._observe([_asked(one) for one in missing], commands, ages=True)
        except ReconcilerError as error:
            for one in missing:
                one.history_error = error.message
            return
        said = _commands(answer)
        history, kept, silent = Jobs(()), True, ""
        rows: list[QueueJob] = []
        try:
            for key in commands:
                told = self._dialect.parse_accounting(said[key])
                if told is None:  # none is kept; nor will the next question be answered
                    kept = False
                    break
                rows.extend(told)
            history = Jobs(rows)
        except KeyError:
            silent = "its history was not asked"
        except Unparsable as error:
            silent = error.message
        found = [mapping(line.get("sighting")) for line in answer.lines]
        ages = {data.get("run_id"): data.get("quiet_s") for data in found}
        for one in missing:
            one.history = history.of(one.wanted)
            one.history_error, one.history_kept = silent, kept
            age = ages.get(one.run_id)
            one.quiet_s = float(age) if isinstance(age, (int, float)) else None

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
            "ask": list(dialect.cancel("{ident}", "{name}", "{mark}", ask=True)),
            "end": list(dialect.cancel("{ident}", "{name}", "{mark}", ask=False)),
            "foreign": FOREIGN,
            "waiting": sorted(dialect.waiting),
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


def _is_for_now(result: Accepted | Declined | None) -> bool:
    """Did the scheduler itself say no, and might say yes to less, or later?"""
    return isinstance(result, Declined) and result.reason == "refused" and not result.final


def _probe(probe: Probe) -> dict[str, Any]:
    return {**asdict(probe), "argv": list(probe.argv)}


def _record(item: Submission) -> dict[str, Json]:
    record = item.body["record"]
    assert isinstance(record, dict)
    return record


def _asked(one: Seen) -> dict[str, Json]:
    """The run in a second look, which is only about when it last wrote."""
    status_dir = str(one.data.get("status_dir") or "")
    return {"run_id": one.run_id, "status_dir": status_dir, "settled": one.is_settled, "brief": True}


def _commands(answer: NodeAnswer) -> dict[str, Answer]:
    return {
        str(told["name"]): answer_of(told)
        for line in answer.lines
        if (told := mapping(line.get("command"))).get("name")
    }


def _root_errors(answer: NodeAnswer) -> list[str]:
    last = answer.lines[-1] if answer.lines else {}
    roots = mapping(last.get("roots"))
    return [f"{path}: {why}" for path, why in roots.items() if why] if roots else ["no status directory was read"]

"""The machines (workers) of one TPU VM: the node's verbs on all of them at once, each with directories of its own.

Machines of a VM may share a file system or nothing, so each but the first keeps its records below `.workers/RANK`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.backends.node_answers import Answer, census_from, handle_from, refusal_of
from reconciler.backends.node_call import NodeCall, NodeSettings
from reconciler.core.errors import ReconcilerError
from reconciler.core.job import Json
from reconciler.core.observation import Census, Presence, Sighting
from reconciler.core.protocols import Known, LogChunk, LogCursor
from reconciler.core.run import Run
from reconciler.core.tpu import TpuNode
from reconciler.core.transport import Transport
from runtime import ranks

OBSERVE_DEADLINE_S = 60.0
CANCEL_DEADLINE_S = 60.0
LAUNCH_DEADLINE_S = 120.0
# Reasons that a node knows. Whatever else ends a run, its parts are ended for the loss of the others.
_REASONS = frozenset({"cancelled", "suspended", "replaced", "deleted"})

Abreast = Callable[[Mapping[int, Callable[[], object]]], Mapping[int, object]]
"""Make calls side by side; what one raises of ReconcilerError is its result."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One machine: its transport, and its node verbs."""

    transport: Transport
    call: NodeCall
    settings: NodeSettings


@dataclass(slots=True)
class Launch:
    """What came of a launch on `count` machines. `repeated`: begun before. `missing`: a sentence, where one lacks the code.
    `told`: what the others said, or that they said nothing."""

    count: int
    begun: int = 0
    repeated: int = 0
    missing: str = ""
    told: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Signals:
    """What came of asking the run to end."""

    count: int
    signalled: int = 0
    gone: int = 0
    failed: list[str] = field(default_factory=list)


class Workers:
    """Of all VMs of one host. `open_worker` gives the transport of a machine, `install` brings the runtime over one."""

    def __init__(
        self,
        settings: NodeSettings,
        open_worker: Callable[[TpuNode, int], Transport],
        install: Callable[[Transport], None],
        abreast: Abreast,
    ) -> None:
        self._settings = settings
        self._open = open_worker
        self._install = install
        self._abreast = abreast
        self._known: dict[tuple[object, ...], Worker] = {}

    def launch(self, node: TpuNode, run: Run, record: Mapping[str, Json], secrets: Mapping[str, str]) -> Launch:
        """Start the run on every machine; one on which it has begun goes on as it is."""
        hosts = [one.internal or one.external for one in node.endpoints]

        def call(rank: int) -> object:
            worker = self._of(node, rank)
            document = {"version": 1, "runs": [{**_part(record, worker, run, rank, hosts), "secrets": dict(secrets)}]}
            return worker.call("launch", document, deadline_s=LAUNCH_DEADLINE_S)

        found = Launch(len(node.endpoints))
        for rank, answer in self._all(node, call):
            if isinstance(answer, ReconcilerError):
                found.told.append(f"worker {rank}: {answer.message}")
                continue
            line = _line(answer, run)
            if line.get("result") in ("started", "already") and handle_from(run.run_id, run.token, line.get("handle")):
                found.begun += 1
                found.repeated += line.get("result") == "already"
            elif line.get("result") == "refused":
                said = refusal_of(run.run_id, line, f"worker {rank} of {node.name}")
                if said.reason == "missing":
                    found.missing = found.missing or said.message
                else:
                    found.told.append(said.message)
            else:
                found.told.append(f"worker {rank} did not answer for this run")
        return found

    def guard(self, node: TpuNode, run: Run, terms: Mapping[str, Json]) -> str:
        """Have the first machine see to the end of the VM should nobody else, or tell it anew what is asked; what went wrong,
        "" for nothing. `terms`: what the verb `guard` is told beside what lies where (docs/node-protocol.md)."""
        try:
            worker = self._of(node, 0)
            paths = worker.settings.paths
            others = [f"{paths.status}/.workers/{rank}" for rank in range(1, len(node.endpoints))]
            own = paths.status_dir(run)
            document = {
                "version": 1,
                **terms,
                "run_id": run.run_id,
                # Where the machines share their directories, the others' parts are seen too.
                "status_dirs": [own, *(own.replace(paths.status, other, 1) for other in others)],
                "status_roots": [paths.status, *others],
                "lock": f"{paths.work}/.guard-{node.ident}",
            }
            worker.call("guard", document, deadline_s=LAUNCH_DEADLINE_S)
        except ReconcilerError as error:
            return error.message
        return ""

    def look(self, node: TpuNode, run: Run) -> list[Sighting]:
        """What each machine says of the run, by rank; UNKNOWN for one that cannot be asked."""

        def call(rank: int) -> object:
            worker = self._of(node, rank)
            paths = worker.settings.paths
            known = {"run_id": run.run_id, "status_dir": paths.status_dir(run), "settled": False}
            document = {"version": 1, "status_roots": [paths.status], "known": [known], "scan": False, "probe": False}
            answer = worker.call("observe", document, deadline_s=OBSERVE_DEADLINE_S)
            return census_from(worker.settings.name, answer, scanned=False)

        found = []
        for _, answer in self._all(node, call):
            if isinstance(answer, Census):
                found.append(answer.look(run.run_id))
            else:
                message = answer.message if isinstance(answer, ReconcilerError) else "it did not answer"
                found.append(Sighting(run.run_id, Presence.UNKNOWN, error=message))
        return found

    def signal(self, node: TpuNode, run: Run, reason: str, grace_s: float) -> Signals:
        """Ask the run to end on every machine."""

        def call(rank: int) -> object:
            worker = self._of(node, rank)
            request = {
                "run_id": run.run_id,
                "token": run.token,
                "status_dir": worker.settings.paths.status_dir(run),
                "reason": reason if reason in _REASONS else "replaced",
                "grace_s": grace_s,
                "force": False,
            }
            return worker.call("cancel", {"version": 1, "runs": [request]}, deadline_s=CANCEL_DEADLINE_S)

        found = Signals(len(node.endpoints))
        for rank, answer in self._all(node, call):
            if isinstance(answer, ReconcilerError):
                found.failed.append(f"worker {rank}: {answer.message}")
                continue
            line = _line(answer, run)
            if line.get("result") == "gone":
                found.gone += 1
            elif line.get("result") == "refused":
                found.failed.append(f"worker {rank}: {line.get('reason')}")
            else:
                found.signalled += 1
        return found

    def logs(self, node: TpuNode, known: Known, since: LogCursor) -> LogChunk:
        """The output on the machine `since.worker`."""
        return self._of(node, since.worker).call.logs(known, replace(since, worker=0))

    def transports(self, node: TpuNode) -> list[Transport]:
        """The ways to all machines. Raises what opening one raises."""
        return [self._of(node, rank).transport for rank in range(len(node.endpoints))]

    def close(self) -> None:
        for worker in self._known.values():
            worker.transport.close()
        self._known.clear()

    def _all(self, node: TpuNode, call: Callable[[int], object]) -> Sequence[tuple[int, object]]:
        def bound(rank: int) -> Callable[[], object]:
            return lambda: call(rank)

        answers = self._abreast({rank: bound(rank) for rank in range(len(node.endpoints))})
        return [(rank, answers[rank]) for rank in range(len(node.endpoints))]

    def _of(self, node: TpuNode, rank: int) -> Worker:
        # A repair may give a machine another address.
        key = (node.name, node.ident, rank, node.endpoints[rank])
        if key not in self._known:
            paths = self._settings.paths
            if rank:
                status, work = f"{paths.status}/.workers/{rank}", f"{paths.work}/.workers/{rank}"
                paths = replace(paths, status=status, work=work)
            settings = replace(self._settings, name=f"{node.name}#{rank}", paths=paths)
            transport = self._open(node, rank)
            call = NodeCall(settings, transport, lambda: self._install(transport))
            self._known[key] = Worker(transport, call, settings)
        return self._known[key]


def _line(answer: object, run: Run) -> Mapping[str, Any]:
    """What a machine answered for the run, {} for nothing."""
    assert isinstance(answer, Answer)
    return next((one for one in answer.lines if one.get("run_id") == run.run_id), {})


def _part(record: Mapping[str, Json], worker: Worker, run: Run, rank: int, hosts: Sequence[str]) -> dict[str, Json]:
    """The record as one worker gets it."""
    paths = worker.settings.paths
    env = record["env"]
    hardware = record["hardware"]
    assert isinstance(env, dict)
    assert isinstance(hardware, dict)
    place = ranks.environment(ranks.Ranks(rank, len(hosts), list(hosts)), run.run_id)
    return {
        **record,
        "status_root": paths.status,
        "status_dir": paths.status_dir(run),
        "work_dir": paths.work_dir(run),
        "env": {**place, **env},
        "hardware": {**hardware, "hosts": list(hosts)},
    }

"""A run on several machines: each keeps a record of its own, the first keeps the run's alive, and the end is one verdict."""

from __future__ import annotations

import os

from runtime import contract, status
from runtime.record import Ending, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional

    from runtime.contract import Run


class LeadRecord(Record):
    """The first machine's: beats go to the run's metadata.json with all workers in it, the end to the worker's own."""

    def __init__(
        self,
        run: Run,
        fields: Dict[str, Any],
        directory: str,
        mine: Dict[str, Any],
        count: int,
        secrets: Iterable[str],
    ) -> None:
        self._secret_values = list(secrets)
        super().__init__(run["status_dir"], fields, checkpoint_dir=run["checkpoint_dir"], secrets=self._secret_values)
        self._status_dir, self._directory, self._mine, self._count = run["status_dir"], directory, mine, count

    def _advance(self) -> None:
        super()._advance()
        self._mine.update(status=self.fields["status"], seq=self.fields["seq"])
        self.fields["workers"] = summary(self._status_dir, self._mine, self._count)

    def finish(self, ending: Ending) -> None:
        """This worker's end; the run's follows when all have ended (runtime/step.py, end)."""
        self.beat()
        if self.is_disowned:
            return
        Record(self._directory, self._mine, secrets=self._secret_values).finish(ending)


def worker_fields(rank: int, hostname: str, run: Run, fields: Dict[str, Any]) -> Dict[str, Any]:
    """The record of one worker, as it begins."""
    return {
        "schema_version": contract.SCHEMA_VERSION,
        "run_id": run["run_id"],
        "rank": rank,
        "host": hostname,
        "start_time": fields["start_time"],
        "pid": os.getpid(),
        "boot_id": fields["boot_id"],
        "status": contract.PREPARING,
        "seq": 0,
        "last_heartbeat": status.utc_now(),
        "cause": None,
        "exit_code": None,
        "signal": None,
        "message": "",
        "end_time": None,
        "phase_detail": "",
        "progress": {"step": None, "total": None, "metrics": {}},
    }


def workers_of(status_dir: str) -> Dict[int, Dict[str, Any]]:
    """Every worker's record by rank; one that cannot be read is left out."""
    found: Dict[int, Dict[str, Any]] = {}
    base = os.path.join(status_dir, contract.WORKERS)
    try:
        names = os.listdir(base)
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = status.read_json(os.path.join(base, name, contract.METADATA))
        except (OSError, ValueError):
            continue
    return found


def summary(status_dir: str, mine: Optional[Dict[str, Any]] = None, count: int = 0) -> List[Dict[str, Any]]:
    """One line per worker for the run's record; one that has not been heard of is `missing`."""
    found = workers_of(status_dir)
    if mine is not None:
        found[mine["rank"]] = mine
    kept = ("rank", "host", "status", "seq", "exit_code", "last_heartbeat")
    lines: List[Dict[str, Any]] = []
    for rank in range(max(count, max(found) + 1 if found else 0)):
        if rank in found:
            lines.append({**{name: found[rank].get(name) for name in kept}, "rank": rank})
        else:
            lines.append({"rank": rank, "status": "missing"})
    return lines


def verdict(workers: Dict[int, Dict[str, Any]], count: int, code: int) -> Optional[Ending]:
    """How the run ended, from how its workers did. None when none of them says anything.

    Who failed by itself decides, lowest rank first: the others were ended because of it, and say that somebody asked them
    to. A worker without a final record was killed together with its supervisor.
    """
    if not workers:
        return None
    final = {rank: one for rank, one in sorted(workers.items()) if one.get("status") in contract.FINAL}
    for wanted in (contract.CANCELLED, contract.FAILED):
        for rank, one in final.items():
            if one["status"] == wanted:
                return _of_worker(rank, one)
    asked = [(rank, one) for rank, one in final.items() if one["status"] == contract.PREEMPTED]
    silent = [rank for rank in range(max(count, max(workers) + 1)) if rank not in final]
    if silent and not asked:
        names = ", ".join("%d (%s)" % (rank, workers.get(rank, {}).get("host", "never heard of")) for rank in silent)
        message = "Worker %s ended without a record; the step ended with exit code %d." % (names, code)
        return Ending(contract.FAILED, "infrastructure", message, exit_code=code)
    if asked:
        return _of_worker(*asked[0])
    return Ending(contract.COMPLETED, None, "Every command ended with exit code 0 on %d machines." % count, exit_code=0)


def _of_worker(rank: int, one: Dict[str, Any]) -> Ending:
    message = "Worker %d on %s: %s" % (rank, one.get("host"), one.get("message") or one["status"])
    return Ending(one["status"], one.get("cause"), message, exit_code=one.get("exit_code"), signal=one.get("signal"))


def code_of(final: str, exit_code: Optional[int]) -> int:
    """What the scheduler is to see: 0 for a run that completed, and only for that."""
    if final == contract.COMPLETED:
        return 0
    return exit_code if exit_code and 0 < exit_code < 256 else 1

"""Journal lines and memories as JSON, and back. Reading is lenient: a record this version cannot read is named, not guessed."""

from __future__ import annotations

import json
from typing import Any

from reconciler.core.cause import Cause
from reconciler.core.loops import Series
from reconciler.core.memory import (
    Adopted,
    Billed,
    Deferred,
    Edited,
    Ended,
    Forgotten,
    Launched,
    Launching,
    Line,
    Memory,
    Noticed,
    Refused,
    Releasing,
    Requested,
    Stopped,
    Stopping,
    Tombstone,
    Unsettled,
)
from reconciler.core.names import JobKey
from reconciler.core.phase import Phase
from reconciler.core.run import Handle, run_from_json


def dump_line(line: Line) -> tuple[str, str]:
    """(kind, JSON body) of a journal line."""
    body: dict[str, Any]
    match line:
        case Launching(run, requeue, price):
            body = {"run": run.to_json(), "requeue": requeue}
            if price is not None:
                body["price_per_hour"] = price
        case Launched(run_id, handle, adopted):
            body = {"run_id": run_id, "handle": _handle(handle), "adopted": adopted}
        case Refused(run_id, message, not_before, cause, blamed):
            body = {"run_id": run_id, "message": message, "not_before": not_before}
            if cause is not None:
                body["cause"] = cause.value
            if blamed:
                body["blamed"] = True
        case Unsettled(run_id, message) | Stopped(run_id, message):
            body = {"run_id": run_id, "message": message}
        case Stopping(run_id, cause, forced):
            body = {"run_id": run_id, "cause": cause.value, "forced": forced}
        case Ended():
            body = {
                "run_id": line.run_id,
                "phase": line.phase.value,
                "cause": line.cause.value if line.cause else None,
                "exit_code": line.exit_code,
                "message": line.message,
                "requeue": line.requeue,
                "lasted": line.lasted,
                "not_before": line.not_before,
            }
            if line.series is not None:
                body["series"] = _series(line.series)
            if line.blamed:
                body["blamed"] = True
        case Adopted(run, found):
            body = {"run": run.to_json(), "handle": _handle(found)}
        case Edited(run_id, run):
            body = {"run_id": run_id, "run": run.to_json()}
        case Deferred(message, not_before):
            body = {"message": message, "not_before": not_before}
        case Requested(what, why, about):
            body = {"what": what, "why": why, "about": list(about) if about else None}
        case Releasing(run_id, machine, why):
            body = {"run_id": run_id, "machine": machine, "why": why}
        case Noticed(run_id, reason):
            body = {"run_id": run_id, "reason": reason}
        case Billed(run_id, machine, cost):
            body = {"run_id": run_id, "machine": machine, "cost": cost}
        case Forgotten(why, released):
            body = {"why": why, "released": released}
    return type(line).__name__, _json(body)


def load_line(kind: str, text: str) -> Line:
    """The inverse of `dump_line`. Raises KeyError, TypeError or ValueError for a record of another version, or a damaged one."""
    try:
        return _line(kind, _object(text))
    except (AttributeError, IndexError) as error:
        raise TypeError(str(error)) from error


def _line(kind: str, body: dict[str, Any]) -> Line:
    match kind:
        case "Launching":
            return Launching(run_from_json(body["run"]), body["requeue"], body.get("price_per_hour"))
        case "Launched":
            return Launched(body["run_id"], _unhandle(body["handle"]), body["adopted"])
        case "Refused":
            cause = Cause(body["cause"]) if "cause" in body else None
            return Refused(body["run_id"], body["message"], body["not_before"], cause, body.get("blamed", False))
        case "Unsettled":
            return Unsettled(body["run_id"], body["message"])
        case "Stopped":
            return Stopped(body["run_id"], body["message"])
        case "Stopping":
            return Stopping(body["run_id"], Cause(body["cause"]), body["forced"])
        case "Ended":
            return Ended(
                body["run_id"],
                Phase(body["phase"]),
                Cause(body["cause"]) if body["cause"] else None,
                body["exit_code"],
                body["message"],
                body["requeue"],
                body["lasted"],
                body["not_before"],
                _unseries(body.get("series")),  # lines from before it was counted have none
                body.get("blamed", False),
            )
        case "Adopted":
            return Adopted(run_from_json(body["run"]), _unhandle(body["handle"]) if body["handle"] else None)
        case "Edited":
            return Edited(body["run_id"], run_from_json(body["run"]))
        case "Deferred":
            return Deferred(body["message"], body["not_before"])
        case "Requested":
            about = body.get("about")
            return Requested(body["what"], body["why"], (about[0], about[1]) if about else None)
        case "Noticed":
            return Noticed(body["run_id"], body["reason"])
        case "Releasing":
            return Releasing(body["run_id"], body["machine"], body["why"])
        case "Billed":
            return Billed(body["run_id"], body["machine"], body["cost"])
        case "Forgotten":
            return Forgotten(body["why"], body.get("released", False))
    raise ValueError(f"unknown kind of journal line {kind!r}")


def dump_memory(memory: Memory) -> str:
    """One job's memory as JSON; fields at their default are left out, so that 10,000 finished jobs stay small."""
    body: dict[str, Any] = {"attempt": memory.attempt}
    if memory.run is not None:
        body["run"] = memory.run.to_json()
        body["run_at"] = memory.run_at
        body["submitted"] = memory.submitted
        if memory.given_up:
            body["given_up"] = True
        if memory.handle is not None:
            body["handle"] = _handle(memory.handle)
        if memory.stop is not None:
            body["stop"] = [memory.stop.value, memory.stop_at, memory.stop_forced, memory.stop_since]
    if memory.spent:
        body["spent"] = {cause.value: count for cause, count in memory.spent.items()}
    if memory.tombstone is not None:
        stone = memory.tombstone
        body["tombstone"] = [
            stone.phase.value,
            stone.digest,
            stone.generation,
            stone.run_id,
            stone.host,
            stone.cause.value if stone.cause else None,
            stone.exit_code,
            stone.message,
            stone.at,
        ]
    for name in (
        "unlucky",
        "not_before",
        "last_end",
        "last_host",
        "suspended",
        "cancelled",
        "pin",
        "heir_of",
        "released",
        "refused",
        "cost",
        "approved",
        "dry",
        "strikes",
    ):
        value = getattr(memory, name)
        if value:
            body[name] = value
    if memory.series is not None:
        body["series"] = _series(memory.series)
    if memory.last_phase is not None:
        body["last_phase"] = memory.last_phase.value
    if memory.cancelled_for is not None:
        body["cancelled_for"] = list(memory.cancelled_for)
    if memory.concern is not None:
        body["concern"] = list(memory.concern)
    if memory.billed is not None:
        body["billed"] = list(memory.billed)
    if memory.pin_for is not None:
        body["pin_for"] = list(memory.pin_for)
    return _json(body)


def load_memory(job: JobKey, text: str) -> Memory:
    """The inverse of `dump_memory`. Raises KeyError, TypeError or ValueError for a record of another version or a damaged one."""
    try:
        return _memory(job, _object(text))
    except (AttributeError, IndexError) as error:
        raise TypeError(str(error)) from error


def _object(text: str) -> dict[str, Any]:
    body = json.loads(text)
    if not isinstance(body, dict):
        raise TypeError(f"expected a JSON object, found {text[:80]!r}")
    return body


def _memory(job: JobKey, body: dict[str, Any]) -> Memory:
    stop = body.get("stop")
    pin_for = body.get("pin_for")
    return Memory(
        job,
        attempt=body["attempt"],
        run=run_from_json(body["run"]) if "run" in body else None,
        run_at=body.get("run_at", 0.0),
        handle=_unhandle(body["handle"]) if "handle" in body else None,
        submitted=body.get("submitted", False),
        given_up=body.get("given_up", False),
        stop=Cause(stop[0]) if stop else None,
        stop_at=stop[1] if stop else 0.0,
        stop_forced=stop[2] if stop else False,
        stop_since=stop[3] if stop and len(stop) > 3 else stop[1] if stop else 0.0,
        spent={Cause(cause): count for cause, count in body.get("spent", {}).items()},
        unlucky=body.get("unlucky", 0),
        not_before=body.get("not_before", 0.0),
        tombstone=_stone(body["tombstone"]) if "tombstone" in body else None,
        last_end=body.get("last_end", ""),
        last_phase=Phase(body["last_phase"]) if "last_phase" in body else None,
        last_host=body.get("last_host", ""),
        suspended=body.get("suspended", False),
        cancelled=body.get("cancelled", False),
        pin=body.get("pin"),
        concern=(concern[0], concern[1]) if (concern := body.get("concern")) else None,
        heir_of=body.get("heir_of", ""),
        released=body.get("released", False),
        refused=body.get("refused", ""),
        cancelled_for=(cancelled[0], cancelled[1]) if (cancelled := body.get("cancelled_for")) else None,
        pin_for=(pin_for[0], pin_for[1]) if pin_for else None,
        cost=body.get("cost", 0.0),
        approved=body.get("approved", {}),
        dry=tuple((host, zone, at) for host, zone, at in body.get("dry", ())),
        strikes=tuple((str(host), float(at)) for host, at in body.get("strikes", ())),
        series=_unseries(body.get("series")),
        billed=(body["billed"][0], body["billed"][1]) if "billed" in body else None,
    )


def _stone(body: list[Any]) -> Tombstone:
    phase, digest, generation, run_id, host, cause, exit_code, message, at = body
    return Tombstone(
        Phase(phase), digest, generation, run_id, host, Cause(cause) if cause else None, exit_code, message, at
    )


def _series(series: Series) -> list[Any]:
    return [series.failure, series.count, series.step, series.checkpoint, series.stalled]


def _unseries(body: list[Any] | None) -> Series | None:
    if body is None:
        return None
    failure, count, step, checkpoint, stalled = body
    return Series(
        str(failure),
        int(count),
        None if step is None else int(step),
        None if checkpoint is None else int(checkpoint),
        stalled=bool(stalled),
    )


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=True)


def _handle(handle: Handle | None) -> dict[str, Any] | None:
    return None if handle is None else {"run_id": handle.run_id, "token": handle.token, "native": dict(handle.native)}


def _unhandle(body: dict[str, Any]) -> Handle:
    return Handle(body["run_id"], body["token"], body["native"])

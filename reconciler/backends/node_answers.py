"""What a node says, as typed values. Garbage becomes UNKNOWN or an incomplete census, never ABSENT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.cause import Cause
from reconciler.core.observation import (
    Capacity,
    Census,
    Gpu,
    Presence,
    Progress,
    Report,
    ReportStatus,
    Sighting,
)
from reconciler.core.protocols import Declined
from reconciler.core.run import Handle, Run, run_from_json

MARKER = b"@r1 "


@dataclass(frozen=True, slots=True)
class Answer:
    """The marked lines in order, whether the closing one came, and the bytes after it (a log's text)."""

    lines: tuple[Mapping[str, Any], ...]
    done: bool
    rest: bytes


def parse(output: bytes) -> Answer:
    """Split a node's output. Unmarked lines are skipped; a marked line that is not a JSON object ends the answer, incomplete."""
    lines: list[Mapping[str, Any]] = []
    position = 0
    while position < len(output):
        end = output.find(b"\n", position)
        end = len(output) if end < 0 else end
        # A banner without a newline may stand before the first marked line.
        at = output.find(MARKER, position, end)
        position_next = end + 1
        if at >= 0:
            try:
                value = json.loads(output[at + len(MARKER) : end])
            except (ValueError, RecursionError):
                return Answer(tuple(lines), False, b"")
            if not isinstance(value, dict):
                return Answer(tuple(lines), False, b"")
            lines.append(value)
            if value.get("done") is True:
                return Answer(tuple(lines), True, output[position_next:])
        position = position_next
    return Answer(tuple(lines), False, b"")


def handle_from(run_id: str, token: str, data: Any) -> Handle | None:
    """The node's HANDLE as ours, None when it is not one."""
    if not isinstance(data, dict):
        return None
    native = {name: data.get(name) for name in ("status_dir", "pid", "start", "boot_id", "sid")}
    return Handle(run_id, token, native)


def refusal_of(run_id: str, line: Mapping[str, Any], host: str) -> Declined:
    """A node's `refused`, as a sentence for people."""
    reason = str(line.get("reason") or "other")
    sentence = {
        "owned": f"a job of this name that another repository of manifests started lies on {host}. Rename the job, use another "
        f"cluster root, or, if it is yours from before, go on after it with `reconciler adopt --take-over`",
        "claimed": f"{run_id} is claimed on {host} by somebody else",
        "fenced": f"a newer attempt of this job has claimed {host}",
        "alive": f"an older attempt of this job is still alive on {host}",
        "missing": f"its code is not on {host}, or is damaged there",
        "unsure": f"whether an older attempt of this job still lives on {host} cannot be told",
        "busy": f"the scheduler of {host} does not answer",
        "unwritable": f"{host} cannot write where the run has to live",
    }.get(reason, f"{host} refused it")
    words = line.get("message")
    return Declined(reason, f"{sentence}: {words}" if words else sentence)


def census_from(host: str, answer: Answer, *, scanned: bool) -> Census:
    """All sightings of one host; complete only if every status root could be read and every line understood."""
    last = answer.lines[-1] if answer.lines else {}
    roots = _map(last.get("roots"))
    errors = [f"{path}: {why}" for path, why in roots.items() if why]
    if not roots:
        errors.append("the answer does not say which status directories were read")
    boot_id = str(last.get("boot_id") or "")
    sightings: dict[str, Sighting] = {}
    for line in answer.lines:
        data = line.get("sighting")
        if data is None:
            continue
        seen = _sighting(data, boot_id)
        if seen is None:
            errors.append(f"an entry that cannot be read: {str(data)[:120]}")
        else:
            sightings[seen.run_id] = seen
    return Census(
        host,
        complete=answer.done and not errors,
        sightings=sightings,
        capacity=_capacity(last),
        scanned=scanned and answer.done and not errors,
        boot_id=boot_id,
        error="; ".join(errors),
    )


def _sighting(data: Any, boot_id: str) -> Sighting | None:
    data = _map(data)
    run_id = data.get("run_id")
    if not isinstance(run_id, str):
        return None
    error = data.get("error")
    state = data.get("state")
    if error or state not in ("present", "absent"):
        words, rootless = str(error or f"state {state!r}"), data.get("rootless") is True
        return Sighting(run_id, Presence.UNKNOWN, boot_id=boot_id, error=words, rootless=rootless)
    alive = data.get("alive") is True
    if state == "absent" and not alive:
        return Sighting(run_id, Presence.ABSENT, boot_id=boot_id)
    claim = _map(data.get("claim"))
    started = _map(data.get("started"))
    run = run_of(claim)
    token = str(claim.get("token") or "")
    native = {
        **started,
        "status_dir": data.get("status_dir"),
        "boot_id": started.get("boot_id") or claim.get("boot_id"),
    }
    try:
        report = report_of(data)
    except (KeyError, TypeError, ValueError) as problem:
        return Sighting(run_id, Presence.UNKNOWN, boot_id=boot_id, error=f"its metadata.json cannot be read: {problem}")
    return Sighting(
        run_id,
        Presence.PRESENT,
        alive=alive,
        supervised=data.get("supervised") is not False,
        stopping=str(_map(data.get("request")).get("reason") or ""),
        handle=Handle(run_id, token, native),
        run=run,
        report=report,
        boot_id=boot_id,
    )


def run_of(claim: Mapping[str, Any]) -> Run | None:
    """The run that a claim file keeps, None where it cannot be read."""
    try:
        return run_from_json(claim["run"])
    except (KeyError, TypeError, ValueError):
        return None


def report_of(data: Mapping[str, Any]) -> Report | None:
    """What a sighting's metadata.json and progress.json say. Raises KeyError, TypeError or ValueError for nonsense."""
    return _report(_map(data.get("metadata")), _map(data.get("progress")))


def _report(metadata: Mapping[str, Any], live: Mapping[str, Any]) -> Report | None:
    if not metadata:
        return None
    status = ReportStatus(metadata["status"])
    cause = metadata.get("cause")
    exit_code = metadata.get("exit_code")
    checkpoint = _map(metadata.get("checkpoint"))
    progress = _progress(live) or _progress(_map(metadata.get("progress")))
    step = live.get("checkpoint_step", checkpoint.get("step"))
    return Report(
        status,
        seq=int(metadata.get("seq") or 0),
        cause=Cause(cause) if cause else None,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        message=str(metadata.get("message") or ""),
        detail=str(metadata.get("phase_detail") or ""),
        progress=progress,
        checkpoint_step=step if isinstance(step, int) else None,
        start_time=str(metadata.get("start_time") or ""),
        last_heartbeat=str(metadata.get("last_heartbeat") or ""),
        end_time=str(metadata.get("end_time") or ""),
    )


def _progress(data: Mapping[str, Any]) -> Progress | None:
    step, total = data.get("step"), data.get("total")
    if isinstance(step, bool) or not isinstance(step, int):
        return None
    metrics = {
        str(name): float(value)
        for name, value in _map(data.get("metrics")).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return Progress(step, total if isinstance(total, int) and not isinstance(total, bool) else None, metrics)


def _capacity(last: Mapping[str, Any]) -> Capacity | None:
    cpus = last.get("cpus")
    if not isinstance(cpus, int):
        return None
    error = str(last.get("gpu_error") or "")
    found = last.get("gpus")
    if not isinstance(found, list):
        return Capacity(cpus, None, error)
    gpus: list[Gpu] = []
    for item in found:
        gpu = _map(item)
        index, used, total = gpu.get("index"), gpu.get("used_mib"), gpu.get("memory_total_mib")
        if not isinstance(index, int):
            return Capacity(cpus, None, f"an accelerator that cannot be read: {str(item)[:120]}")
        gpus.append(
            Gpu(
                ident=str(gpu.get("uuid") or index),
                index=index,
                name=str(gpu.get("name") or ""),
                memory_total_mib=int(total) if isinstance(total, (int, float)) else None,
                used_mib=int(used) if isinstance(used, (int, float)) else 0,
            )
        )
    return Capacity(cpus, tuple(gpus), error)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

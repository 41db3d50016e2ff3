"""Answers of a real Kubernetes 1.32 with a real Volcano 1.12 (records/kubernetes), as the parsers get them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.backends.volcano_answers import event_of, group_of, job_of, pod_of, queue_of
from reconciler.core.volcano import Event, Pod, PodGroup, VcJob, VcQueue

RECORDS = Path(__file__).parent.parent / "records" / "kubernetes"
PARSERS = {"Job": job_of, "Pod": pod_of, "PodGroup": group_of, "Event": event_of, "Queue": queue_of}


def answer(name: str) -> dict[str, Any]:
    """What was answered in records/kubernetes/NAME.json."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["stdout"]


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the records, with the file it is in."""
    for path in sorted(RECORDS.rglob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        for found in (data.get("stdout"), data.get("vcjob"), data.get("podgroup")):
            if isinstance(found, dict):
                for item in found.get("items", [found]):
                    yield str(path.relative_to(RECORDS)), item


def the_job(name: str, **more: Any) -> VcJob:
    """The job of a record; `more` is hand-made: it replaces parts of its status."""
    found = answer(f"{name}.vcjob")
    found["status"] = {**(found.get("status") or {}), **more}
    return job_of(found)


def the_pods(name: str) -> list[Pod]:
    return [pod_of(item) for item in answer(f"{name}.pods")["items"]]


def the_group(name: str) -> PodGroup:
    found = answer(f"{name}.podgroup")
    return group_of(found.get("items", [found])[0])


def the_events(name: str) -> list[Event]:
    return [event_of(item) for item in answer(name)["items"]]


def every_event() -> list[Event]:
    """All that was said in the namespace of most jobs, from first to last."""
    return the_events("node-lost/events")


def the_queue(name: str) -> VcQueue:
    return next(queue_of(item) for item in answer("queue/list")["items"] if item["metadata"]["name"] == name)


def stream() -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every status that each job had, in the order in which the watch told them."""
    for line in (RECORDS / "vcjob/watch.jsonl").read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        yield data["name"], data["status"]


def with_exit(name: str, index: int = 0, /, **ended: Any) -> dict[str, Any]:
    """Hand-made: a recorded pod whose container ended otherwise."""
    item = copy.deepcopy(answer(f"{name}.pods")["items"][index])
    item["status"]["containerStatuses"][0]["state"] = {"terminated": ended}
    return item


def with_condition(
    item: dict[str, Any], kind: str, reason: str, message: str = "", *, status: str = "True"
) -> dict[str, Any]:
    """Hand-made: a pod with one condition more, written when its container ended or began."""
    item = copy.deepcopy(item)
    state = item["status"]["containerStatuses"][0]["state"]
    at = state.get("terminated", {}).get("finishedAt") or state.get("running", {}).get("startedAt")
    kept = [one for one in item["status"]["conditions"] if one["type"] != kind]
    told = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}
    item["status"]["conditions"] = [*kept, told]
    return item

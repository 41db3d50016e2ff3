"""Everything here that reads what others wrote, as functions of bytes: a target returns, or raises what it says it raises.

What must never happen is any other error, and that garbage reads as "gone" or "finished": targets assert that where it applies.
The corpora are recorded answers (tests/records), examples and documents of our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reconciler.backends import node_answers, slurm_answers, slurm_capacity, slurm_submit, tpu_gcloud
from reconciler.backends import volcano_answers as kube
from reconciler.backends.dialect import Answer
from reconciler.backends.volcano_ends import end_of, part_of
from reconciler.backends.volcano_words import pending
from reconciler.core.cause import Cause
from reconciler.core.errors import ReconcilerError
from reconciler.core.memory import Ended, Forgotten, Launched, Line, Memory, Refused, Requested, Stopping, fold
from reconciler.core.names import JobKey
from reconciler.core.observation import Presence
from reconciler.core.phase import Phase
from reconciler.core.run import Handle, run_from_json
from reconciler.core.volcano import Pod, VcJob, quantity
from reconciler.load.defaults import load_defaults
from reconciler.load.documents import load_documents
from reconciler.load.inventory import parse_inventory
from reconciler.load.normal import decode
from reconciler.store.codec import dump_line, dump_memory, load_line, load_memory
from runtime import request
from runtime.contract import Refused as NodeRefused

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "tests" / "records"
HOME = Path("/home/u")


@dataclass(frozen=True)
class Target:
    """`raises` are errors of `run` that are part of its promise, beside ReconcilerError."""

    run: Callable[[bytes], None]
    corpus: Callable[[], list[bytes]]
    raises: tuple[type[Exception], ...] = ()

    def __call__(self, data: bytes) -> None:
        try:
            self.run(data)
        except (ReconcilerError, *self.raises):
            pass


# --- files of the user's


def _manifests() -> list[bytes]:
    found = [path.read_bytes() for path in sorted((ROOT / "examples").rglob("*.yaml"))]
    spec = b"spec: {command: [a, b], request: {chip: h100, min_chips: 8}}\n"
    return [*found, b"apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\n" + spec]


def _load(data: bytes) -> None:
    loaded = load_documents([("manifests/a.yaml", data)])
    for job in loaded.desired:
        decode(job.normal)


def _defaults(data: bytes) -> None:
    load_defaults([("manifests/_defaults.yaml", data)])


def _inventories() -> list[bytes]:
    return [path.read_bytes() for path in sorted((RECORDS / "inventory").rglob("*.yaml"))]


def _inventory(data: bytes) -> None:
    parse_inventory(data, "inventory.yaml", home=HOME, state_dir=HOME)


# --- what nodes say


def _node_corpus() -> list[bytes]:
    sighting = {
        "run_id": "p-g-n-1",
        "status_dir": "/s/p/g/n/p-g-n-1",
        "state": "present",
        "alive": True,
        "supervised": True,
        "started": {"pid": 3, "boot_id": "b"},
        "claim": {"token": "t", "run": {"job": "p/g/n"}},
        "metadata": {"status": "running", "seq": 3, "cause": None, "progress": {"step": 3}},
        "error": None,
    }
    last = {"done": True, "boot_id": "b", "cpus": 2, "gpus": None, "roots": {"/s": None}}
    lines = [{"sighting": sighting}, {"sighting": {**sighting, "state": "absent"}}, last]
    return [b"banner\n" + b"".join(b"@r1 " + json.dumps(line).encode() + b"\n" for line in lines)]


def _node(data: bytes) -> None:
    answer = node_answers.parse(data)
    census = node_answers.census_from("h", answer, scanned=True)
    if not answer.done:
        # An answer that broke off proves the absence of nothing.
        assert not census.complete
        assert census.look("never-heard-of").presence is Presence.UNKNOWN


def _runs() -> list[bytes]:
    texts = {name: name for name in ("run_id", "token", "digest", "spec_digest", "host", "owner")}
    run = {**texts, "job": "p/g/n", "attempt": 1, "generation": 1, "gpus": ["0"], "commit": None, "dirty": False}
    return [json.dumps({**run, "spent": {"failure": 1}, "normal": {}}).encode()]


def _run(data: bytes) -> None:
    run_from_json(json.loads(data))


def _request(data: bytes) -> None:
    document = request.read_document(data)
    runs = document.get("runs")
    for run in runs if isinstance(runs, list) else ():
        request.check_run(run)


def _requests() -> list[bytes]:
    run = {
        "run_id": "r", "token": "t", "job": {"project": "p", "group": "g", "name": "n"}, "attempt": 1,
        "status_root": "/s", "status_dir": "/s/p/g/n/r", "work_dir": "/w/p/g/n/r", "checkpoint_dir": "/c", "results_dir": "/r",
        "stages": [{"argv": ["true"]}], "env": {"A": "b"},
    }  # fmt: skip
    return [json.dumps({"version": 1, "runs": [run]}).encode()]


# --- schedulers and clouds


def _slurm(*kinds: str) -> Callable[[], list[bytes]]:
    def read() -> list[bytes]:
        told = json.loads((RECORDS / "slurm-22.05" / "answers.json").read_text())
        return [
            answer["stdout"].encode() for name, answer in told.items() if name.startswith(kinds) and answer["stdout"]
        ]

    return read


def _gclouds() -> list[bytes]:
    found = []
    for path in sorted((RECORDS / "gcloud").glob("*.json")):
        out = json.loads(path.read_bytes()).get("stdout")
        if isinstance(out, str) and out[:1] in "{[":
            found.append(out.encode())
        elif isinstance(out, (dict, list)):
            found.append(json.dumps(out).encode())
    return found


def _squeue(data: bytes) -> None:
    slurm_answers.queue_from(Answer(0, data.decode(errors="replace"), ""))


def _sacct(data: bytes) -> None:
    slurm_answers.history_from(Answer(0, data.decode(errors="replace"), ""))


def _scontrol(data: bytes) -> None:
    text = data.decode(errors="replace")
    for read in (slurm_capacity.nodes_from, slurm_capacity.partitions_from, slurm_capacity.limits_from):
        try:
            read(text)
        except ReconcilerError:
            continue


def _sbatch(data: bytes) -> None:
    text = data.decode(errors="replace")
    for code in (0, 1, None):
        slurm_submit.outcome(Answer(code, text, text))


def _gcloud(data: bytes) -> None:
    told = json.loads(data)
    for item in told if isinstance(told, list) else [told]:
        if not isinstance(item, dict):
            continue
        for read in (tpu_gcloud.node_of, tpu_gcloud.request_of):
            try:
                read(item)
            except ReconcilerError:
                continue


# --- Kubernetes


def _objects(*folders: str) -> Callable[[], list[bytes]]:
    def read() -> list[bytes]:
        found = []
        for folder in folders:
            for path in sorted((RECORDS / "kubernetes" / folder).glob("*.json")):
                out = json.loads(path.read_bytes()).get("stdout")
                if isinstance(out, dict):
                    found.append(json.dumps(out).encode())
        return found

    return read


def _cluster(data: bytes) -> None:
    told = json.loads(data)
    items: Any = told.get("items", [told]) if isinstance(told, dict) else [told]
    jobs: list[VcJob] = []
    pods: list[Pod] = []
    for item in items if isinstance(items, list) else [items]:
        for read, kept in (
            (kube.job_of, jobs),
            (kube.pod_of, pods),
            (kube.group_of, None),
            (kube.event_of, None),
            (kube.queue_of, None),
        ):
            try:
                found: Any = read(item)
            except ReconcilerError:
                continue
            if kept is not None:
                kept.append(found)
    for pod in pods:
        part = part_of(pod, "r")
        assert not (pod.phase == "Running" and not part.alive and not pod.exit), "a running pod is not over"
    for job in jobs:
        own = kube.pods_of(job, pods)
        pending(job, pods, None, (), None, waited_s=0.0)
        end_of(job, pods, (), [part_of(pod, "r") for pod in own])


def _quantity(data: bytes) -> None:
    quantity(data.decode(errors="replace"))


# --- our own store


def _journal(data: bytes) -> None:
    kind, _, text = data.decode(errors="replace").partition("\n")
    load_line(kind, text)


def _journals() -> list[bytes]:
    return [f"{kind}\n{text}".encode() for kind, text in map(dump_line, _lines())]


def _lines() -> list[Line]:
    return [
        Refused("r", "m", 1.0),
        Stopping("r", Cause.CANCELLED, False),
        Launched("r", Handle("r", "t", {"job": "7"})),
        Ended("r", Phase.FAILED, Cause.FAILURE, 3, "m", requeue=False, lasted=True, not_before=0.0),
        Requested("cancel", "why", ("d", 1)),
        Forgotten("m", released=True),
    ]


def _memories() -> list[bytes]:
    memory = Memory(JobKey("p", "g", "n"))
    for line in _lines():
        memory = fold(memory, line, 1.0)
    return [dump_memory(memory).encode()]


def _memory(data: bytes) -> None:
    load_memory(JobKey("p", "g", "n"), data.decode(errors="replace"))


TARGETS: Mapping[str, Target] = {
    "manifest": Target(_load, _manifests),
    "defaults": Target(_defaults, lambda: [b"spec:\n  request: {chip: h100}\n  env: {A: b}\n"]),
    "inventory": Target(_inventory, _inventories),
    "node": Target(_node, _node_corpus),
    "run": Target(_run, _runs, (KeyError, TypeError, ValueError)),
    "request": Target(_request, _requests, (ValueError, NodeRefused)),
    "squeue": Target(_squeue, _slurm("queue", "find", "alive")),
    "sacct": Target(_sacct, _slurm("history")),
    "scontrol": Target(_scontrol, _slurm("capacity")),
    "sbatch": Target(_sbatch, _slurm("submit")),
    "gcloud": Target(_gcloud, _gclouds, (ValueError,)),
    "cluster": Target(_cluster, _objects("vcjob", "pods", "queue", "node-lost", "recreate"), (ValueError,)),
    "quantity": Target(_quantity, lambda: [b"4", b"500m", b"64Gi", b"1e3"], (ValueError,)),
    "journal": Target(_journal, _journals, (KeyError, TypeError, ValueError)),
    "memory": Target(_memory, _memories, (KeyError, TypeError, ValueError)),
}


@cache
def corpus(name: str) -> tuple[bytes, ...]:
    """The target's corpus, read once."""
    return tuple(TARGETS[name].corpus())

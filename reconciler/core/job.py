"""What a manifest asks for, after loading: frozen, normalised, with one digest per meaning.

The types mirror schemas/job.schema.json field by field; `load` is their only maker. Durations are seconds, memory is
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.core.names import JobKey

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One command: a list is executed as it is, a string goes to `bash -lc`."""

    argv: tuple[str, ...] | None = None
    shell: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the code comes from. `repo` is relative to the manifests' repository."""

    repo: str = "."
    ref: str = "HEAD"
    dirty: bool = False
    mode: Literal["archive", "files", "rsync"] = "archive"
    files: tuple[str, ...] = ()
    submodules: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Hardware asked for.

    `min_chips` counts chips over all nodes; 0 is CPU mode; `chip` None with chips is any accelerator.
    """

    chip: str | None = None
    min_chips: int = 0
    n_shards: int = 1
    clusters: tuple[str, ...] = ()
    exclude_clusters: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    time_s: int | None = None
    mem_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret's value is found; the value itself is never here."""

    kind: Literal["env", "file", "command", "kubernetes"]
    target: str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Python:
    """`uv sync` on the node when the shipped tree has a pyproject.toml."""

    groups: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    initial_s: float = 10.0
    max_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Restart:
    """How often each cause may requeue; None is unlimited. Causes without a field (suspended, fenced) never requeue.

    `cancelled` counts runs that somebody else cancelled on the cluster, never those that we were asked to cancel. `owner`
    slurm: Slurm requeues by itself, and we wait for it. `same_failure`: how often in a row the same failure, without a step of
    progress, is taken before the job is given up, whatever its budgets hold; None is unlimited.
    """

    preemption: int | None = None
    infrastructure: int | None = 10
    failure: int | None = 3
    timeout: int | None = 0
    out_of_memory: int | None = 0
    cancelled: int | None = 0
    owner: Literal["reconciler", "slurm"] = "reconciler"
    same_failure: int | None = 5
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    dir: str | None = None
    keep_on_delete: bool = True


@dataclass(frozen=True, slots=True)
class SlurmOverrides:
    """What only Slurm understands, over the host's own values. None and empty: not set.

    Every text is free of blanks, quotes, backslashes, `#` and control characters. `mem` is Slurm's notation, per node.
    `directives` are whole options, `--option` or `--option=value`, none of them one that we set ourselves.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: tuple[str, ...] = ()
    nodelist: tuple[str, ...] = ()
    exclusive: bool = False
    cpus_per_node: int | None = None
    mem: str | None = None
    nodes: int | None = None
    directives: tuple[str, ...] = ()
    warn_s: int | None = None


@dataclass(frozen=True, slots=True)
class TpuOverrides:
    """What only Cloud TPU understands, over the host's own values. None and empty: not set.

    `spot` or `preemptible` set (also to False) stands in place of the host's spot, preemptible and reserved together; at most one
    of the two is True. Metadata and labels go over the host's key by key.
    """

    version: str | None = None
    spot: bool | None = None
    preemptible: bool | None = None
    zones: tuple[str, ...] = ()
    delete_on_exit: Literal["always", "success", "failure", "never"] | None = None
    keep_for_s: float | None = None
    ttl_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class VolcanoOverrides:
    """What only Kubernetes with Volcano understands, over the host's own values. None and empty: not set.

    Quantities are Kubernetes' text. Selectors, labels and annotations go over the host's key by key.
    """

    image: str | None = None
    namespace: str | None = None
    queue: str | None = None
    priority_class: str | None = None
    service_account: str | None = None
    nodes: int | None = None
    cpu: str | None = None
    memory: str | None = None
    shm_size: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job as desired.

    `normal` is the normalised document (defaults filled in) that digests and diffs are made of.
    """

    key: JobKey
    labels: Mapping[str, str]
    generation: int
    stages: tuple[Stage, ...]
    job_key: str | None
    config: Mapping[str, Json]
    source: Source | None
    request: Request
    env: Mapping[str, str]
    secrets: Mapping[str, SecretRef]
    python: Python | None
    setup: tuple[str, ...]
    modules: tuple[str, ...]
    checkpoint: Checkpoint
    restart: Restart
    on_change: Literal["replace", "hold"]
    suspend: bool
    deletion: Literal["cancel", "orphan"]
    priority: int
    depends_on: tuple[JobKey, ...]
    ttl_s: int | None
    grace_s: float
    slurm: SlurmOverrides
    tpu: TpuOverrides
    volcano: VolcanoOverrides
    normal: Mapping[str, Json] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Desired:
    """One row of the desired state: all that a quiet pass needs; `spec` is decoded only when something must be done.

    `digest` covers the job's key and every field whose change means another run (core/fields.py: effect `replace`);
    `spec_digest` covers the whole normalised spec, so that an edit in place is noticed too.

    A member of a sweep is a job like any other: `sweep`, the key of its sweep as text ("" without one), `sweep_values`, what
    the sweep set for it (`("config.training.lr", 0.1)`), and `parallel`, how many of the sweep may run at once (None: all),
    are beside its digests.
    """

    key: JobKey
    digest: str
    spec_digest: str
    generation: int
    suspend: bool
    priority: int
    depends_on: tuple[JobKey, ...]
    file: str
    line: int
    normal_json: str = field(hash=False, repr=False)
    sweep: str = ""
    sweep_values: tuple[tuple[str, Json], ...] = field(default=(), hash=False)
    parallel: int | None = None

    @property
    def normal(self) -> dict[str, Json]:
        """The normalised document, a fresh copy at each call. Kept as text: a quiet pass never reads it."""
        document: dict[str, Json] = json.loads(self.normal_json)
        return document

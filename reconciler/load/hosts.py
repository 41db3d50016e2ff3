"""Clusters and hosts of an inventory that the schema takes, as typed values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reconciler.core.inventory import (
    Cluster,
    Credential,
    Host,
    Limits,
    LocalHost,
    Mount,
    Partition,
    PlainHost,
    SlurmHost,
    Toleration,
    TpuHost,
    VolcanoHost,
)
from reconciler.core.quantity import seconds
from reconciler.core.secret import Secret
from reconciler.load.normal import secret_ref

LOCAL = "local"
PATHS = ("root", "work", "log", "share", "data", "checkpoints", "results", "status", "uv_dir")

_Doc = dict[str, Any]


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cluster_of(name: str, given: _Doc, home: Path) -> Cluster:
    paths = {field: _expanded(given[field], home) for field in PATHS if field in given}
    root, work = paths["root"], paths["work"]
    mount = given.get("mount")
    return Cluster(
        name=name,
        root=root,
        work=work,
        log=paths.get("log", _below(work, "logs")),
        share=paths.get("share", _below(work, ".dispatch")),
        data=paths.get("data", _below(root, "data")),
        checkpoints=paths.get("checkpoints", _below(root, "checkpoints")),
        results=paths.get("results", _below(root, "results")),
        status=paths.get("status", _below(root, "status")),
        mount=None
        if mount is None
        else Mount(_credential(mount), _text(given.get("cache_size")), given.get("cache_dir"), given.get("all_squash")),
        uv_dir=paths.get("uv_dir"),
        wandb=_optional_credential(given.get("wandb")),
        wandb_entity=given.get("wandb_entity"),
        wandb_project=given.get("wandb_project"),
        hf_token=_optional_credential(given.get("hf_token")),
    )


def local_cluster(state_dir: Path) -> Cluster:
    root = str(state_dir.absolute() / LOCAL)
    return cluster_of(LOCAL, {"root": root, "work": _below(root, "work")}, Path("/"))


def _expanded(path: str, home: Path) -> str:
    full = str(home) + path[1:] if path.startswith("~") else path
    return full.rstrip("/") or "/"


def _below(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


def _credential(given: str | _Doc) -> Credential:
    return Secret(given) if isinstance(given, str) else secret_ref(given)


def _optional_credential(given: str | _Doc | None) -> Credential | None:
    return None if given is None else _credential(given)


def _text(value: float | str | None) -> str | None:
    return None if value is None else str(value)


_DURATIONS = (
    "poll",
    "connect_timeout",
    "queued",
    "keep_for",
    "ttl",
    "capacity_timeout",
    "boot_timeout",
    "cooldown",
    "pending_timeout",
    "stuck_timeout",
    "lost_timeout",
    "keep_finished",
    "helper_timeout",
)


def _fields(given: _Doc, *, drop: tuple[str, ...] = ()) -> _Doc:
    """A host's fields as arguments: lists become tuples, and null means the default."""
    fields: _Doc = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None and name not in drop
    }
    for name in _DURATIONS:
        if name in fields:
            value = fields.pop(name)
            fields[f"{name}_s"] = float(seconds(value if isinstance(value, str) else int(value)))
    return fields


def _local(name: str, given: _Doc) -> Host:
    chips = given.get("chips")
    slots = given.get("slots")
    fields = _fields(given, drop=("chips", "slots", "cluster"))
    return LocalHost(
        name=name,
        cluster=given.get("cluster", LOCAL),
        chips=None if chips is None else _accelerators(chips),
        slots=cpus() if slots is None else int(slots),
        **fields,
    )


def _plain(name: str, given: _Doc) -> Host:
    chips = given.get("chips") or {}
    fields = _fields(given, drop=("chips",))
    if "slots" not in fields and chips.get("cpu"):
        fields["slots"] = chips["cpu"]  # the seed's table has `cpu` among the chips
    return PlainHost(name=name, chips=_accelerators(chips), **fields)


def _accelerators(chips: Mapping[str, int]) -> dict[str, int]:
    return {chip: int(count) for chip, count in chips.items() if chip != "cpu"}


def _slurm(name: str, given: _Doc) -> Host:
    chips = given.get("chips")
    fields = _fields(given, drop=("partitions", "cpu_partitions", "partitions_cpu", "chips", "time"))
    time = given.get("time")
    return SlurmHost(
        name=name,
        partitions=_partitions(given.get("partitions", [])),
        cpu_partitions=_partitions(given.get("cpu_partitions") or given.get("partitions_cpu") or []),
        chips=None if chips is None else _accelerators(chips),
        time_s=None if time is None else seconds(time if isinstance(time, str) else int(time)),
        **fields,
    )


def _partitions(given: list[str | _Doc]) -> tuple[Partition, ...]:
    return tuple(Partition(part) if isinstance(part, str) else Partition(**part) for part in given)


def _tpu(name: str, given: _Doc) -> Host:
    fields = _fields(given, drop=("zone", "zones"))
    zones = tuple(given.get("zones") or filter(None, [given.get("zone")]))
    for number in ("max_nodes", "ssh_port"):
        if number in fields:
            fields[number] = int(fields[number])
    if "price_per_chip_hour" in fields:
        fields["price_per_chip_hour"] = float(fields["price_per_chip_hour"])
    return TpuHost(name=name, zone=zones[0] if zones else "", zones=zones, **fields)


def limits_of(given: _Doc) -> Limits:
    chips, hourly, total = (given.get(name) for name in ("max_chips", "max_cost_per_hour", "max_cost_total"))
    return Limits(
        None if chips is None else int(chips),
        None if hourly is None else float(hourly),
        None if total is None else float(total),
    )


_QUANTITIES = ("cpu", "memory", "cpu_cpu", "cpu_memory", "shm_size")


def _volcano(name: str, given: _Doc) -> Host:
    fields = _fields(given, drop=("tolerations", "helper_resources"))
    fields |= {quantity: str(fields[quantity]) for quantity in _QUANTITIES if quantity in fields}
    return VolcanoHost(
        name=name,
        tolerations=tuple(
            Toleration(
                **{field: value for field, value in each.items() if field != "tolerationSeconds"},
                toleration_seconds=each.get("tolerationSeconds"),
            )
            for each in given.get("tolerations", [])
        ),
        helper_resources={field: str(value) for field, value in given.get("helper_resources", {}).items()},
        **fields,
    )


HOSTS: dict[str, Callable[[str, _Doc], Host]] = {
    "local": _local,
    "plain": _plain,
    "slurm": _slurm,
    "tpu": _tpu,
    "volcano": _volcano,
}

"""The inventory file -> `core.inventory.Inventory`. The seed's `~/.theseus.yaml` is read unchanged.

Everything that would only fail at a launch is refused here, with file and line: names that lead nowhere, unknown types,
fields and chips, paths that mean nothing on another machine. A credential's value is in no message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.core.chips import CHIPS, parse_accelerator_type
from reconciler.core.errors import ManifestError, Problem
from reconciler.core.inventory import (
    Cluster,
    Credential,
    Host,
    Inventory,
    LocalHost,
    Mount,
    Partition,
    PlainHost,
    SlurmHost,
    Toleration,
    TpuHost,
    VolcanoHost,
)
from reconciler.core.names import digest_of
from reconciler.core.quantity import seconds
from reconciler.core.secret import Secret
from reconciler.load.normal import secret_ref
from reconciler.load.schema import refusals
from reconciler.load.strict_yaml import Document, read
from reconciler.load.words import did_you_mean, dotted, one_of

INVENTORY_VARIABLE = "RECONCILER_INVENTORY"
LOCAL = "local"
CREDENTIALS = ("mount", "wandb", "hf_token")
_SUBROOTS = ("data", "checkpoints", "results", "status")
_PATHS = ("root", "work", "log", "share", *_SUBROOTS, "uv_dir")

_Doc = dict[str, Any]


def find_inventory(
    explicit: Path | None, *, env: Mapping[str, str], manifests_dir: Path, home: Path, state_dir: Path
) -> Inventory:
    """The inventory to use: `explicit`, $RECONCILER_INVENTORY, `inventory.yaml` beside the manifests,
    `~/.reconciler.yaml`, `~/.theseus.yaml`, else the built-in local host.

    Raises ManifestError when the file found is wrong, or one that was asked for by name does not exist.
    """
    variable = env.get(INVENTORY_VARIABLE, "")
    asked = explicit if explicit is not None else Path(variable).expanduser() if variable else None
    if asked is not None:
        return load_inventory(asked, home=home, state_dir=state_dir)
    for path in (manifests_dir / "inventory.yaml", home / ".reconciler.yaml", home / ".theseus.yaml"):
        if path.is_file():
            return load_inventory(path, home=home, state_dir=state_dir)
    return builtin(state_dir)


def builtin(state_dir: Path) -> Inventory:
    """One host, this machine, whose files lie under the user's state directory."""
    cluster = _local_cluster(state_dir)
    host = LocalHost(LOCAL, LOCAL, slots=cpus())
    digest = digest_of(["builtin", cluster.root])
    return Inventory({LOCAL: cluster}, {LOCAL: host}, (LOCAL,), digest=digest)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_inventory(path: Path, *, home: Path, state_dir: Path) -> Inventory:
    """Read one file. Raises ManifestError naming every problem in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError([Problem(str(path), 0, f"The inventory cannot be read: {error.strerror}")]) from error
    return parse_inventory(data, str(path), home=home, state_dir=state_dir)


def parse_inventory(data: bytes, file: str, *, home: Path, state_dir: Path) -> Inventory:
    """Read the text of an inventory. Raises ManifestError naming every problem in it."""
    documents = read(data, file)
    if not documents:
        raise ManifestError([Problem(file, 0, "The inventory is empty: expected clusters and hosts")])
    document = documents[0]
    problems = [problem for each in documents for problem in _told(each)]
    if len(documents) > 1:
        problems.append(Problem(file, documents[1].line, "An inventory is one document: remove the others"))
    value = document.value
    if document.parsed and "" not in document.touched:
        problems.extend(_refused(document))
    if not problems and isinstance(value, dict):
        problems.extend(_dangling(document, value))
    if problems or not isinstance(value, dict):
        raise ManifestError(sorted(problems))
    return _inventory(value, file, home, state_dir)


def _told(document: Document) -> list[Problem]:
    """The problems of the text, without the values of credentials."""
    if not document.parsed:
        return list(document.problems)
    told: list[Problem] = []
    for problem, path in zip(document.problems, document.touched, strict=False):
        hidden = _credential_path(path.split("."))
        told.append(replace(problem, message=f"{hidden}: {_HIDDEN}") if hidden else problem)
    return told


_HIDDEN = "expected text in quotes, or a reference such as {env: NAME} (the value is not shown)"


def _credential_path(path: Sequence[str | int]) -> str:
    """The path down to the credential that it is in, and no further: what stands below may be the value. Else empty."""
    for index in range(2, len(path)):
        if path[0] == "clusters" and path[index] in CREDENTIALS:
            return dotted(path[: index + 1])
    return ""


def _refused(document: Document) -> list[Problem]:
    refused: list[Problem] = []
    for refusal in refusals("inventory", document.value, document.written):
        if dotted(refusal.path) not in document.touched:
            hidden = _credential_path(refusal.path)
            message = f"{hidden}: {_HIDDEN}" if hidden else refusal.message
            refused.append(Problem(document.file, document.line_of(refusal.path), message))
    return refused


# ---- what the schema cannot say ------------------------------------------------------------------------


def _dangling(document: Document, value: _Doc) -> list[Problem]:
    problems: list[Problem] = []

    def wrong(path: tuple[str | int, ...], message: str) -> None:
        problems.append(Problem(document.file, document.line_of(path), f"{dotted(path)}: {message}"))

    clusters, hosts = value.get("clusters", {}), value["hosts"]
    if value.get("mount") is not None and value.get("proxy") is not None:
        wrong(("proxy",), "mount and proxy are two ways to the same mailbox: keep one of them")
    for index, name in enumerate(value.get("priority", [])):
        if name not in hosts:
            wrong(("priority", index), f"no host is called {name!r}{did_you_mean(name, hosts)}")
    for chip in value.get("gres_mapping", {}):
        if chip not in CHIPS:
            wrong(("gres_mapping", chip), _unknown_chip(chip))
    for name, host in hosts.items():
        cluster = host.get("cluster")
        if cluster is not None and cluster not in clusters and not (cluster == LOCAL and host.get("type") == LOCAL):
            known = f": expected {one_of(clusters)}" if clusters else ": there are no clusters"
            wrong(
                ("hosts", name, "cluster"),
                f"no cluster is called {cluster!r}{did_you_mean(cluster, clusters) or known}",
            )
        _check_host(("hosts", name), host, wrong)
    remote = {host.get("cluster") for host in hosts.values() if host.get("type", "plain") != LOCAL}
    for name in remote & clusters.keys():
        for path in _PATHS:
            text = clusters[name].get(path, "/")
            if text.startswith("~"):
                wrong(
                    ("clusters", name, path), f"{text!r} means another directory on each host: write the absolute path"
                )
    return problems


_Wrong = Callable[[tuple[str | int, ...], str], None]


def _check_host(path: tuple[str, str], host: _Doc, wrong: _Wrong) -> None:
    kind = host.get("type", "plain")
    if kind != "volcano":  # there, chips are labels of the user's own
        for chip in host.get("chips") or {}:
            if chip not in CHIPS:
                wrong((*path, "chips", chip), _unknown_chip(chip))
    if kind == "tpu" and host.get("accelerator_type"):
        try:
            parse_accelerator_type(host["accelerator_type"])
        except ValueError as error:
            wrong((*path, "accelerator_type"), str(error))
    if kind == "tpu" and host.get("spot") and host.get("preemptible"):
        wrong((*path, "preemptible"), "a VM is either spot or preemptible: keep one of them")
    if "cpu_partitions" in host and "partitions_cpu" in host:
        wrong((*path, "partitions_cpu"), "this is the older name of cpu_partitions: keep one of them")


def _unknown_chip(chip: str) -> str:
    known = [name for name, entry in CHIPS.items() if entry.kind != "cpu"]
    return f"no chip is called {chip!r}{did_you_mean(chip, known) or f': expected {one_of(known)}'}"


# ---- types -----------------------------------------------------------------------------------------------


def _inventory(value: _Doc, file: str, home: Path, state_dir: Path) -> Inventory:
    clusters = {name: _cluster(name, given, home) for name, given in value.get("clusters", {}).items()}
    hosts = {name: _HOSTS[given.get("type", "plain")](name, given) for name, given in value["hosts"].items()}
    if any(host.cluster == LOCAL for host in hosts.values()) and LOCAL not in clusters:
        clusters[LOCAL] = _local_cluster(state_dir)
    first = value.get("priority", [])
    return Inventory(
        clusters,
        hosts,
        (*first, *(name for name in hosts if name not in first)),
        {chip: text.removeprefix("gpu:") for chip, text in value.get("gres_mapping", {}).items()},
        value.get("mount"),
        value.get("proxy"),
        file,
        digest_of(_public(value)),
    )


def _public(value: _Doc) -> _Doc:
    """The file's value without credentials, for the digest; that there is one, and a reference to one, still count."""
    clusters = {
        name: {
            field: True if field in CREDENTIALS and isinstance(given, str) else given
            for field, given in cluster.items()
        }
        for name, cluster in value.get("clusters", {}).items()
    }
    # The order of hosts and of priority decides where a job goes, and JSON's canonical form forgets that of mappings.
    return {**value, "clusters": clusters, "order": list(value["hosts"])}


def _cluster(name: str, given: _Doc, home: Path) -> Cluster:
    paths = {field: _expanded(given[field], home) for field in _PATHS if field in given}
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


def _local_cluster(state_dir: Path) -> Cluster:
    root = str(state_dir.absolute() / LOCAL)
    return _cluster(LOCAL, {"root": root, "work": _below(root, "work")}, Path("/"))


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


def _fields(given: _Doc, *, drop: tuple[str, ...] = ()) -> _Doc:
    """A host's fields as arguments: lists become tuples, and null means the default."""
    fields: _Doc = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None and name not in drop
    }
    if "connect_timeout" in fields:
        fields["connect_timeout_s"] = float(seconds(fields.pop("connect_timeout")))
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
    fields = _fields(given, drop=("partitions", "cpu_partitions", "partitions_cpu", "chips"))
    return SlurmHost(
        name=name,
        partitions=_partitions(given.get("partitions", [])),
        cpu_partitions=_partitions(given.get("cpu_partitions") or given.get("partitions_cpu") or []),
        chips=None if chips is None else _accelerators(chips),
        **fields,
    )


def _partitions(given: list[str | _Doc]) -> tuple[Partition, ...]:
    return tuple(Partition(part) if isinstance(part, str) else Partition(**part) for part in given)


def _tpu(name: str, given: _Doc) -> Host:
    return TpuHost(name=name, **_fields(given))


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


_HOSTS: dict[str, Callable[[str, _Doc], Host]] = {
    "local": _local,
    "plain": _plain,
    "slurm": _slurm,
    "tpu": _tpu,
    "volcano": _volcano,
}

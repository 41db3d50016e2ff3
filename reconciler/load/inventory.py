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

from reconciler.core.chips import CHIPS
from reconciler.core.errors import ManifestError, Problem
from reconciler.core.inventory import (
    Inventory,
    LocalHost,
)
from reconciler.core.names import digest_of
from reconciler.load import tpu
from reconciler.load.directives import refusal_of
from reconciler.load.foreign import asked_too_much, in_repository
from reconciler.load.hosts import HOSTS, LOCAL, PATHS, cluster_of, cpus, limits_of, local_cluster
from reconciler.load.schema import refusals
from reconciler.load.strict_yaml import Document, read
from reconciler.load.trust import Permits, allowed_of
from reconciler.load.words import did_you_mean, dotted, one_of

INVENTORY_VARIABLE = "RECONCILER_INVENTORY"
CREDENTIALS = ("mount", "wandb", "hf_token")

_Doc = dict[str, Any]


def find_inventory(
    explicit: Path | None,
    *,
    env: Mapping[str, str],
    manifests_dir: Path,
    home: Path,
    state_dir: Path,
    trust: Permits | None = None,
) -> Inventory:
    """The inventory to use: `explicit`, $RECONCILER_INVENTORY, `inventory.yaml` beside the manifests,
    `~/.reconciler.yaml`, `~/.theseus.yaml`, else the built-in local host.

    With `trust`, a file that lies in the manifests' repository may not ask this machine for more than manifests may. Raises
    ManifestError when the file found is wrong, or one that was asked for by name does not exist.
    """
    variable = env.get(INVENTORY_VARIABLE, "")
    asked = explicit if explicit is not None else Path(variable).expanduser() if variable else None
    if asked is not None:
        return load_inventory(asked, home=home, state_dir=state_dir, trust=trust)
    beside = manifests_dir / "inventory.yaml"
    if trust is not None and os.path.lexists(beside) and not trust.takes_file(str(beside)):
        # What it leads to would be read, and quoted in messages.
        message = "a link that leads out of the repository is not read: put the file itself there, or name it with --inventory"
        raise ManifestError([Problem(str(beside), 0, message)])
    for path in (beside, home / ".reconciler.yaml", home / ".theseus.yaml"):
        if path.is_file():
            return load_inventory(path, home=home, state_dir=state_dir, trust=trust, foreign=path == beside)
    return builtin(state_dir)


def builtin(state_dir: Path) -> Inventory:
    """One host, this machine, whose files lie under the user's state directory."""
    cluster = local_cluster(state_dir)
    host = LocalHost(LOCAL, LOCAL, slots=cpus())
    digest = digest_of(["builtin", cluster.root])
    return Inventory({LOCAL: cluster}, {LOCAL: host}, (LOCAL,), digest=digest)


def load_inventory(
    path: Path, *, home: Path, state_dir: Path, trust: Permits | None = None, foreign: bool = False
) -> Inventory:
    """Read one file; with `trust`, see `find_inventory`. `foreign`: it was found in the manifests' repository, wherever it lies.
    Raises ManifestError naming every problem in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError([Problem(str(path), 0, f"The inventory cannot be read: {error.strerror}")]) from error
    foreign = trust is not None and (foreign or trust.holds(path))
    return parse_inventory(data, str(path), home=home, state_dir=state_dir, trust=trust, foreign=foreign)


def parse_inventory(
    data: bytes,
    file: str,
    *,
    home: Path,
    state_dir: Path,
    trust: Permits | None = None,
    foreign: bool = False,
) -> Inventory:
    """Read the text of an inventory; `foreign` for one that whoever writes the manifests has written. Raises ManifestError naming
    every problem in it."""
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
        if trust is not None and not problems:
            told = list(asked_too_much(value, Path(file).resolve().parent, trust)) if foreign else []
            told += in_repository(value, trust)
            problems.extend(
                Problem(file, document.line_of(where), f"{dotted(where)}: {message}") for where, message in told
            )
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
    for where, message in tpu.unpriced(value):
        wrong(where, message)
    remote = {host.get("cluster") for host in hosts.values() if host.get("type", "plain") != LOCAL}
    for name in remote & clusters.keys():
        for path in PATHS:
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
    if kind == "tpu":
        for below, message in tpu.wrong_with(path[1], host):
            wrong((*path, *below), message)
    for index, text in enumerate(host.get("directives", ())):
        owned = refusal_of(text, host=True)
        if owned:
            wrong((*path, "directives", index), owned)
    if "cpu_partitions" in host and "partitions_cpu" in host:
        wrong((*path, "partitions_cpu"), "this is the older name of cpu_partitions: keep one of them")


def _unknown_chip(chip: str) -> str:
    known = [name for name, entry in CHIPS.items() if entry.kind != "cpu"]
    return f"no chip is called {chip!r}{did_you_mean(chip, known) or f': expected {one_of(known)}'}"


# ---- types -----------------------------------------------------------------------------------------------


def _inventory(value: _Doc, file: str, home: Path, state_dir: Path) -> Inventory:
    clusters = {name: cluster_of(name, given, home) for name, given in value.get("clusters", {}).items()}
    hosts = {name: HOSTS[given.get("type", "plain")](name, given) for name, given in value["hosts"].items()}
    if any(host.cluster == LOCAL for host in hosts.values()) and LOCAL not in clusters:
        clusters[LOCAL] = local_cluster(state_dir)
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
        limits_of(value.get("limits", {})),
        value.get("approve", "ask"),
        value.get("state", "local"),
        allowed_of(value.get("allow", {})),
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

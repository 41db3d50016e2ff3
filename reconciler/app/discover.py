"""`hosts --discover`: ask a machine what it is, and write the inventory entry that a person would otherwise copy together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.app.discover_volcano import KubeWay, discover_volcano
from reconciler.app.login import run_on_login
from reconciler.app.wiring import Settings, find_place, read_inventory, transport_settings
from reconciler.backends.dialect import Answer, Dialect
from reconciler.backends.registry import SYSTEMS, dialect_of
from reconciler.core.chips import chip_of_nvidia, chip_of_type
from reconciler.core.errors import ManifestError, ReconcilerError
from reconciler.core.inventory import LocalHost, PlainHost, SlurmHost, VolcanoHost
from reconciler.core.quantity import show_seconds
from reconciler.core.queue import QueueCapacity, QueuePartition
from reconciler.core.transport import Command, Transport
from reconciler.transports.registry import TransportSettings, open_transport

_DEADLINE_S = 60.0
KUBE = "kube:"
_PLAIN = (
    "nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>/dev/null; echo cpus $(nproc 2>/dev/null)"
)


@dataclass(frozen=True, slots=True)
class Discovered:
    """`text` is YAML for the inventory; `notes` are things to say beside it."""

    kind: str
    text: str
    notes: tuple[str, ...] = ()


def discover(settings: Settings, alias: str) -> Discovered:
    """Look at `alias`: a host of the inventory, one of the user's ssh configuration, or `kube:CONTEXT` of the kubeconfig. Raises
    what the connection raises."""
    kube = _cluster(settings, alias)
    if kube is not None:
        return Discovered("volcano", *discover_volcano(kube))
    way, cluster = _way(settings, alias)
    transport = open_transport(way)
    try:
        for system in SYSTEMS:
            dialect = dialect_of(system)
            answers = {
                name: run_on_login(transport, argv, deadline_s=_DEADLINE_S) for name, argv in dialect.capacity().items()
            }
            if any(answer.returncode is not None for answer in answers.values()):
                return _of_queue(alias, way, cluster, dialect, answers)
        return _of_plain(alias, way, cluster, transport)
    finally:
        transport.close()


def _cluster(settings: Settings, alias: str) -> KubeWay | None:
    """The Kubernetes cluster that is meant, if one is."""
    if alias.startswith(KUBE):
        return KubeWay(name=alias.removeprefix(KUBE) or "kubernetes", context=alias.removeprefix(KUBE))
    try:
        host = read_inventory(settings, find_place(settings)).hosts.get(alias)
    except (ManifestError, ReconcilerError):
        return None
    if not isinstance(host, VolcanoHost):
        return None
    return KubeWay(alias, host.context or "", host.kubeconfig or "", host.namespace, host.cluster)


def _way(settings: Settings, alias: str) -> tuple[TransportSettings, str]:
    """How to reach it, and the cluster it is said to belong to."""
    try:
        inventory = read_inventory(settings, find_place(settings))
    except (ManifestError, ReconcilerError):
        return TransportSettings("fabric", alias), ""
    host = inventory.hosts.get(alias)
    if isinstance(host, (LocalHost, PlainHost, SlurmHost)):
        return transport_settings(host), host.cluster
    return TransportSettings("fabric", alias), next(iter(inventory.clusters), "") if len(
        inventory.clusters
    ) == 1 else ""


def _of_queue(
    alias: str, way: TransportSettings, cluster: str, dialect: Dialect, answers: Mapping[str, Answer]
) -> Discovered:
    capacity = dialect.parse_capacity(answers)
    mapping: dict[str, str] = {}
    chips: dict[str, int] = {}
    notes: list[str] = []
    for kind in sorted({kind for node in capacity.nodes.values() for kind, count in node.gpus.items() if count}):
        chip = chip_of_type(kind)
        total = sum(node.gpus.get(kind, 0) for node in capacity.nodes.values())
        if chip is None:
            notes.append(
                f"{total} accelerators of type {kind or '(none)'} are of no chip known here; jobs without `chip` can use them"
            )
            continue
        chips[chip] = chips.get(chip, 0) + total
        if chip != kind:
            mapping.setdefault(chip, kind)
    with_gpus = [one for one in capacity.partitions.values() if _gpus(capacity, one)]
    without = [one for one in capacity.partitions.values() if not _gpus(capacity, one)]
    lines = [f"hosts:\n  {alias}:", f"    type: {dialect.system}", f"    ssh: {way.alias}"]
    lines.append(
        f"    cluster: {cluster or 'NAME'}" + ("" if cluster else "   # one whose root and share all its machines see")
    )
    lines += _partitions("partitions", with_gpus or without, capacity)
    if with_gpus and without:
        lines += _partitions("cpu_partitions", without, capacity)
    if chips:
        counts = ", ".join(f"{chip}: {count}" for chip, count in chips.items())
        lines.append(f"    chips: {{{counts}}}   # the most that one job may ask for")
    if mapping:
        lines.append("gres_mapping:")
        lines += [f"  {chip}: {kind}" for chip, kind in mapping.items()]
    limits = capacity.limits
    told = [f"{dialect.system} {limits.version}".strip(), f"{len(capacity.nodes)} machines"]
    if limits.accounting is False:
        told.append("no accounting: how a run ended is known only while the queue remembers it")
    return Discovered(dialect.system, "\n".join(lines) + "\n", (", ".join(told), *notes))


def _partitions(field: str, partitions: Iterable[QueuePartition], capacity: QueueCapacity) -> list[str]:
    lines = [f"    {field}:"]
    for one in sorted(partitions, key=lambda one: (not one.default, one.name)):
        name = f"{{name: {one.name}, default: true}}" if one.default else one.name
        what = [f"{len(one.nodes)} machines", *(f"{count} {kind}" for kind, count in _gpus(capacity, one).items())]
        if one.time_max_s is not None:
            what.append(f"up to {show_seconds(one.time_max_s)}")
        if not one.up:
            what.append("down")
        lines.append(f"      - {name}   # {', '.join(what)}")
    return lines


def _gpus(capacity: QueueCapacity, partition: QueuePartition) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in capacity.of(partition.name):
        for kind, count in node.gpus.items():
            if count:
                found[kind or "untyped"] = found.get(kind or "untyped", 0) + count
    return dict(sorted(found.items()))


def _of_plain(alias: str, way: TransportSettings, cluster: str, transport: Transport) -> Discovered:
    done = transport.run(Command(("sh", "-c", _PLAIN)), deadline_s=_DEADLINE_S)
    chips: dict[str, int] = {}
    notes: list[str] = []
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("cpus "):
            notes.append(f"{line.removeprefix('cpus ') or '?'} CPUs, no queue system")
            continue
        product, _, memory = line.rpartition(",")
        chip = chip_of_nvidia(product, int(memory) if memory.strip().isdigit() else None)
        if chip is None:
            notes.append(f"{product.strip()} is of no chip known here")
        else:
            chips[chip] = chips.get(chip, 0) + 1
    kind = "local" if way.kind == "local" else "plain"
    lines = [f"hosts:\n  {alias}:", f"    type: {kind}"]
    if kind == "plain":
        lines.append(f"    ssh: {way.alias}")
    lines.append(f"    cluster: {cluster or 'NAME'}")
    if chips:
        lines.append(f"    chips: {{{', '.join(f'{chip}: {count}' for chip, count in sorted(chips.items()))}}}")
    return Discovered(kind, "\n".join(lines) + "\n", tuple(notes))

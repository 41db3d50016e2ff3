"""`hosts --discover` of a Kubernetes cluster: an inventory entry from what its API tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.backends.kube_client import KubeClient
from reconciler.backends.kube_control import CLAIM, JOB, NAMESPACE, NODE, QUEUE, Kind, Kube, Object
from reconciler.backends.volcano_answers import queue_of
from reconciler.core.chips import chip_of_type
from reconciler.core.errors import AccessRefused
from reconciler.core.gangs import DEFAULT_QUEUE
from reconciler.core.volcano import VcQueue, VcQueueState

PRODUCT = "nvidia.com/gpu.product"
MOUNT = "/workspace"
GPU_KEY = "nvidia.com/gpu"
# May we create jobs there? One question each.
_NAMESPACES_ASKED_MAX = 50
_CLUSTERS_OWN = ("kube-", "volcano-")


@dataclass(frozen=True, slots=True)
class KubeWay:
    """How a cluster is reached, and what is known of it. Empty: not known."""

    name: str
    context: str = ""
    kubeconfig: str = ""
    namespace: str = ""
    cluster: str = ""


def discover_volcano(way: KubeWay) -> tuple[str, tuple[str, ...]]:
    """YAML for the inventory, and things to say beside it. Raises what asking raises, but for what only may not be listed."""
    notes: list[str] = []
    kube = KubeClient(namespace=way.namespace or "default", kubeconfig=way.kubeconfig, context=way.context)
    try:
        queues = _listed(kube, QUEUE, notes)
        namespaces = _namespaces(kube, way, notes)
        nodes = _listed(kube, NODE, notes)
    finally:
        kube.close()
    namespace = namespaces[0] if namespaces else way.namespace or "default"
    inside = KubeClient(namespace=namespace, kubeconfig=way.kubeconfig, context=way.context)
    try:
        claims = _listed(inside, CLAIM, notes)
    finally:
        inside.close()
    lines = [f"hosts:\n  {way.name}:", "    type: volcano"]
    lines.append(
        f"    cluster: {way.cluster or 'NAME'}"
        + ("" if way.cluster else f"   # one whose root and work are {MOUNT} or below")
    )
    lines += [f"    {field}: {value}" for field in ("kubeconfig", "context") if (value := getattr(way, field))]
    lines.append(_choice("namespace", namespace, "", namespaces[1:], "may be used, too"))
    lines += _queue(queues)
    lines.append("    image: IMAGE   # with sh, bash, tar, gzip, sha256sum and Python 3.8 or newer")
    lines += _claim(claims)
    lines.append(f"    pvc_mount_path: {MOUNT}")
    lines += _chips(nodes, notes)
    return "\n".join(lines) + "\n", tuple(notes)


def _listed(kube: Kube, kind: Kind, notes: list[str]) -> list[Object]:
    try:
        return list(kube.list(kind).objects)
    except AccessRefused as error:
        notes.append(f"{kind.plural} could not be listed, fill in what they would have told: {error.message}")
        return []


def _namespaces(kube: KubeClient, way: KubeWay, notes: list[str]) -> list[str]:
    """In which we may create jobs, the likeliest first."""
    found = _listed(kube, NAMESPACE, notes)
    names = sorted(name for each in found if not (name := _name(each)).startswith(_CLUSTERS_OWN))
    likely = [name for name in (way.namespace, kube.context_namespace, "default") if name]
    names = list(dict.fromkeys([*(name for name in likely if not found or name in names), *names]))
    if len(names) > _NAMESPACES_ASKED_MAX:
        notes.append(f"only {_NAMESPACES_ASKED_MAX} of {len(names)} namespaces were asked for")
    usable = [name for name in names[:_NAMESPACES_ASKED_MAX] if _may_create(way, name)]
    if not usable:
        notes.append(
            "there is no namespace in which we may create Volcano jobs; docs/volcano.md has a Role that grants it"
        )
    return usable


def _may_create(way: KubeWay, namespace: str) -> bool:
    kube = KubeClient(namespace=namespace, kubeconfig=way.kubeconfig, context=way.context)
    try:
        return kube.allowed("create", JOB)
    finally:
        kube.close()


def _queue(found: Iterable[Object]) -> list[str]:
    queues = [queue for each in found if (queue := queue_of(each)).name != "root"]
    open_ones = sorted(
        (queue for queue in queues if queue.state is VcQueueState.OPEN),
        key=lambda one: (one.name != DEFAULT_QUEUE, one.name),
    )
    if not open_ones:
        return [f"    queue: {DEFAULT_QUEUE}"]
    first, *others = open_ones
    return [
        _choice("queue", first.name, _room(first), [f"{one.name} ({_room(one)})" for one in others], "are open, too")
    ]


def _room(queue: VcQueue) -> str:
    for key, limit in (queue.capability or {}).items():
        if key.endswith("/gpu"):
            return f"{(queue.allocated or {}).get(key, 0.0):g} of {limit:g} {key} in use"
    return "no limit on accelerators"


def _claim(found: Iterable[Object]) -> list[str]:
    """Those that many nodes can mount come first."""

    def told(claim: Object) -> tuple[list[str], str]:
        spec, status = _map(claim, "spec"), _map(claim, "status")
        modes = [str(mode) for mode in spec.get("accessModes") or ()]
        size = _map(status, "capacity").get("storage") or "size unknown"
        return modes, f"{', '.join(modes)}, {size}, {status.get('phase') or 'in no phase'}"

    claims = sorted(found, key=lambda each: ("ReadWriteMany" not in told(each)[0], _name(each)))
    if not claims:
        return ["    pvc_name: CLAIM   # the namespace has none that we see; docs/volcano.md shows how to make one"]
    first, *others = claims
    rest = [f"{_name(one)} ({told(one)[1]})" for one in others]
    return [_choice("pvc_name", _name(first), told(first)[1], rest, "are there, too")]


def _chips(nodes: Iterable[Object], notes: list[str]) -> list[str]:
    """Accelerators per node, by what the nodes' labels call them."""
    kinds: dict[tuple[str, str, int], int] = {}
    others: set[str] = set()
    count = 0
    for node in nodes:
        count += 1
        labels = _map(_map(node, "metadata"), "labels")
        for key, amount in _map(_map(node, "status"), "allocatable").items():
            number = int(amount) if str(amount).isdigit() else 0
            if not number or "/" not in key:
                continue
            if key.endswith("/gpu"):
                kind = (key, str(labels.get(PRODUCT) or ""), number)
                kinds[kind] = kinds.get(kind, 0) + 1
            elif not key.startswith(("hugepages-", "attachable-volumes-")):
                others.add(key)
    if not count:
        return []
    notes.append(f"{count} node{'s' * (count != 1)}, {sum(kinds.values())} with accelerators")
    if others:
        notes.append(f"further resources of the nodes: {', '.join(sorted(others))}")
    if not kinds:
        return []
    # The kind of which there are the most accelerators; one host of the inventory is of one kind.
    (key, product, each), machines = max(kinds.items(), key=lambda item: (item[0][2] * item[1], item[0]))
    for (key_, product_, each_), machines_ in sorted(kinds.items()):
        if (key_, product_, each_) != (key, product, each):
            notes.append(
                f"also {_many(machines_)} with {each_} {product_ or key_}: a host of its own, with its node_selector"
            )
    lines = [f"    gpu_resource_key: {key}"] if key != GPU_KEY else []
    chip = (chip_of_type(product) if product else None) or _label(product) or "gpu"
    lines.append(
        f"    chips: {{{chip}: {each}}}   # per node; {_many(machines)}" + (f" with {product}" if product else "")
    )
    if len({(one[0], one[1]) for one in kinds}) > 1 and product:
        lines.append(f"    node_selector: {{{PRODUCT}: {product}}}")
    return lines


def _label(product: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in product.lower()).strip("-")


def _many(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _choice(field: str, value: str, told: str, others: list[str], words: str) -> str:
    more = f"{', '.join(others)} {words}" if others else ""
    said = "; ".join(filter(None, (told, more)))
    return f"    {field}: {value}" + (f"   # {said}" if said else "")


def _name(found: Object) -> str:
    return str(_map(found, "metadata").get("name") or "")


def _map(found: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = found.get(field)
    return value if isinstance(value, Mapping) else {}

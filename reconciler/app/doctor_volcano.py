"""What `doctor` looks at on a Kubernetes cluster with Volcano: what we may do, what has to be there, and a pod of its image."""

from __future__ import annotations

import posixpath
import shlex
import time
from collections.abc import Callable, Iterable
from typing import Any

from reconciler.app.doctor_machine import examine_machine
from reconciler.app.finding import Finding
from reconciler.backends.kube_control import (
    CLAIM,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    POD_GROUP,
    QUEUE,
    SECRET,
    Kind,
    Kube,
    Object,
)
from reconciler.backends.volcano_answers import queue_of
from reconciler.backends.volcano_space import Space
from reconciler.core.errors import AccessRefused, ReconcilerError
from reconciler.core.gangs import DEFAULT_QUEUE
from reconciler.core.inventory import Cluster, VolcanoHost
from reconciler.core.volcano import VcQueueState

ROLE = "docs/volcano.md has a Role that grants all of it."
# An image of many GB may take longer the first time. Nobody should wait for a doctor, and the next try finds it pulled.
HELPER_S = 60.0

_RIGHTS: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    (JOB, "", ("create", "get", "list", "delete")),
    (POD, "", ("list", "watch", "delete")),
    # Opened by a GET: servers before 1.35 ask for `get`, later ones for `create`.
    (POD, "exec", ("create", "get")),
    (POD, "log", ("get",)),
    (SECRET, "", ("create", "get", "list", "patch", "delete")),
    (POD_GROUP, "", ("list",)),
    (EVENT, "", ("list",)),
    (QUEUE, "", ("list",)),
)


def examine_volcano(host: VolcanoHost, cluster: Cluster, space: Space) -> Iterable[Finding]:
    """From the cheapest to the dearest; what cannot be asked for lack of an earlier thing is not asked."""
    yield from _entry(host, cluster)
    kube = space.kube
    started = time.monotonic()
    try:
        kube.allowed("list", JOB)
    except ReconcilerError as error:
        yield Finding(host.name, "API", False, error.message, error.hint)
        return
    yield Finding(host.name, "API", True, f"{_by(host)}, {(time.monotonic() - started) * 1000:.0f} ms for a question")
    found = [*_objects(host, kube), *_rights(host, kube)]
    yield from found
    if host.image and all(finding.ok for finding in found):
        yield from _inside(host, cluster, space)


def _entry(host: VolcanoHost, cluster: Cluster) -> Iterable[Finding]:
    """What the inventory alone tells."""
    fix = "" if host.image else f"Write `image` into the entry of {host.name} in the inventory."
    yield Finding(host.name, "image", bool(host.image), host.image or "none: no run can be started", fix)
    if not host.pvc_name:
        fix = f"Write `pvc_name` into the entry of {host.name}; `kubectl -n {host.namespace} get pvc` shows yours."
        yield Finding(host.name, "claim", False, "none: code and records have no place", fix)
    paths = {name: getattr(cluster, name) for name in ("root", "work", "share", "status", "checkpoints", "results")}
    outside = [f"{name} {path}" for name, path in paths.items() if not _is_below(path, host.pvc_mount_path)]
    detail = f"{', '.join(outside)}: not on the claim, which is mounted at {host.pvc_mount_path}"
    fix = f"Set `root` and `work` of cluster {cluster.name} to {host.pvc_mount_path} or below, or change `pvc_mount_path`."
    yield Finding(
        host.name,
        "paths",
        not outside,
        detail if outside else f"all below {host.pvc_mount_path}, where the claim is mounted",
        fix if outside else "",
    )
    if cluster.mount is not None:
        detail = f"cluster {cluster.name} has `mount` (JuiceFS): it is ignored here, all storage is the claim's"
        yield Finding(host.name, "mount", True, detail)


def _objects(host: VolcanoHost, kube: Kube) -> Iterable[Finding]:
    yield from _asked(host, "namespace", lambda: _namespace(host, kube))
    yield from _asked(host, "volcano", lambda: _volcano(host, kube))
    yield from _asked(host, "queue", lambda: _queue(host, kube))
    if host.pvc_name:
        yield from _asked(host, "claim", lambda: _claim(host, kube))


def _asked(host: VolcanoHost, what: str, call: Callable[[], Finding]) -> Iterable[Finding]:
    try:
        yield call()
    except AccessRefused as error:
        # Who may not look at it may still be allowed to use it.
        yield Finding(host.name, what, True, f"not checked: {error.message}", error.hint)
    except ReconcilerError as error:
        yield Finding(host.name, what, False, error.message, error.hint)


def _namespace(host: VolcanoHost, kube: Kube) -> Finding:
    found = kube.get(NAMESPACE, host.namespace)
    if found is None:
        return Finding(
            host.name,
            "namespace",
            False,
            f"there is no {host.namespace}",
            f"Correct `namespace` in the inventory, or `{_kubectl(host)} create namespace {host.namespace}`.",
        )
    phase = _phase(found)
    fix = "" if phase == "Active" else "It takes nothing new. Wait until it is gone and make it anew, or use another."
    return Finding(host.name, "namespace", phase == "Active", f"{host.namespace}: {phase or 'in no phase'}", fix)


def _volcano(host: VolcanoHost, kube: Kube) -> Finding:
    count = len(kube.list(JOB).objects)
    return Finding(host.name, "volcano", True, f"there, {count} job{'s' * (count != 1)} in {host.namespace}")


def _queue(host: VolcanoHost, kube: Kube) -> Finding:
    name = host.queue or DEFAULT_QUEUE
    found = kube.get(QUEUE, name)
    if found is None:
        fix = f"Correct `queue` in the inventory; `{_kubectl(host)} get queue` shows those of the cluster."
        return Finding(host.name, "queue", False, f"there is no {name}", fix)
    queue = queue_of(found)
    if queue.state is not VcQueueState.OPEN:
        fix = "Ask its owner to open it, or name another in the inventory."
        return Finding(host.name, "queue", False, f"{name} is {queue.word or 'in no state'}, it takes no jobs", fix)
    key = host.gpu_resource_key
    cap = (queue.capability or {}).get(key)
    used = (queue.allocated or {}).get(key, 0.0)
    room = f"{used:g} of {cap:g} {key} in use" if cap is not None else f"{used:g} {key} in use, no limit"
    return Finding(host.name, "queue", True, f"{name}: open, {room}")


def _claim(host: VolcanoHost, kube: Kube) -> Finding:
    name = host.pvc_name
    found = kube.get(CLAIM, name)
    look = f"`{_kubectl(host)} -n {host.namespace} describe pvc {name}` says more."
    if found is None:
        fix = f"Make it (docs/volcano.md), or name another: `{_kubectl(host)} -n {host.namespace} get pvc`."
        return Finding(host.name, "claim", False, f"{host.namespace} has no {name}", fix)
    phase = _phase(found)
    if phase not in ("Bound", "Pending"):
        return Finding(host.name, "claim", False, f"{name} is {phase or 'in no phase'}", look)
    modes = [str(mode) for mode in _spec(found).get("accessModes") or ()]
    several = host.max_nodes is None or host.max_nodes > 1
    if several and "ReadWriteMany" not in modes:
        return Finding(
            host.name,
            "claim",
            False,
            f"{name} is {' and '.join(modes) or 'of no access mode'}: pods on two nodes cannot mount it at once",
            "Make a claim that is ReadWriteMany, or keep runs on one node with `max_nodes: 1` in the inventory.",
        )
    if phase == "Pending":
        return Finding(host.name, "claim", True, f"{name} is not bound yet; some are when a pod first asks. {look}")
    return Finding(host.name, "claim", True, f"{name}: bound, {', '.join(modes)}")


def _rights(host: VolcanoHost, kube: Kube) -> Iterable[Finding]:
    """One finding for each thing that we may not do; one in all where nothing is missing."""
    count, lacking = 0, False
    for kind, subresource, verbs in _RIGHTS:
        for verb in verbs:
            count += 1
            thing = kind.plural + (f".{kind.group}" if kind.group else "")
            try:
                allowed = kube.allowed(verb, kind, subresource=subresource)
            except ReconcilerError as error:
                yield Finding(host.name, "permission", False, error.message, error.hint)
                return
            if allowed:
                continue
            sub = f" --subresource={subresource}" if subresource else ""
            place = f" -n {host.namespace}" if kind.namespaced else ""
            where = f" in {host.namespace}" if kind.namespaced else ""
            name = thing + (f"/{subresource}" if subresource else "")
            asked = f"{_kubectl(host)} auth can-i {verb} {thing}{sub}{place}"
            yield Finding(
                host.name, "permission", False, f"we may not {verb} {name}{where}", f"`{asked}` asks the same. {ROLE}"
            )
            lacking = True
    if not lacking:
        yield Finding(host.name, "permissions", True, f"all {count} that are needed")


def _inside(host: VolcanoHost, cluster: Cluster, space: Space) -> Iterable[Finding]:
    """A helper pod, as every launch needs one: does it come, and what is in its image?"""
    image = host.helper_image or host.image
    started = time.monotonic()
    try:
        way = space.helper.open(within_s=min(host.helper_timeout_s, HELPER_S))
        took = time.monotonic() - started
        yield Finding(host.name, "helper pod", True, f"there after {took:.1f} s, image {image}")
        python = host.python or ""
        yield from examine_machine(
            host.name, way, cluster, how="helper pod", python=python, place=f"in the image {image}"
        )
    except ReconcilerError as error:
        yield Finding(host.name, "helper pod", False, error.message, error.hint)
        return
    if host.helper_image and host.helper_image != host.image:
        yield Finding(host.name, "image", True, f"not looked into: {host.image} (the helper's is {host.helper_image})")


def _by(host: VolcanoHost) -> str:
    context = f"context {host.context}" if host.context else "the current context"
    return f"{context} of {host.kubeconfig or 'the default kubeconfig'}"


def _kubectl(host: VolcanoHost) -> str:
    words = ["kubectl"]
    if host.kubeconfig:
        words += ["--kubeconfig", host.kubeconfig]
    if host.context:
        words += ["--context", host.context]
    return shlex.join(words)


def _is_below(path: str, top: str) -> bool:
    path, top = posixpath.normpath(path), posixpath.normpath(top)
    return path == top or path.startswith(top.rstrip("/") + "/")


def _phase(found: Object) -> str:
    status = found.get("status")
    return str(status.get("phase") or "") if isinstance(status, dict) else ""


def _spec(found: Object) -> dict[str, Any]:
    spec = found.get("spec")
    return spec if isinstance(spec, dict) else {}

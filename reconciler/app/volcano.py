"""A Volcano host of the inventory: what the solver sees of it, and its backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from reconciler.backends import kube_control
from reconciler.backends.kube_client import KubeClient
from reconciler.backends.kube_control import Kube
from reconciler.backends.node_call import NodeSettings
from reconciler.backends.volcano import VolcanoBackend, VolcanoSite
from reconciler.backends.volcano_answers import event_of, group_of, job_of, pod_of
from reconciler.backends.volcano_helper import Helper, HelperWish
from reconciler.backends.volcano_job import PodSite
from reconciler.backends.volcano_marks import label_value
from reconciler.backends.volcano_sight import Limits
from reconciler.backends.volcano_space import Space
from reconciler.backends.volcano_words import pending
from reconciler.core.gangs import DEFAULT_QUEUE, GangView
from reconciler.core.inventory import Toleration, VolcanoHost
from reconciler.core.job import Json
from reconciler.core.transport import Transport
from reconciler.store.holder import Holder, default_actor, is_dead, myself
from reconciler.transports.kube import KubeTransport

_HELPER_AMOUNTS = {"cpu": "1", "memory": "1Gi"}
ANY_CHIP = "gpu"
"""What the chips of a host are called that gives no names, only `gpus_per_node`."""


def gang_of(host: VolcanoHost) -> GangView:
    """The host as the solver sees it."""
    chips = host.chips or ({ANY_CHIP: host.gpus_per_node} if host.gpus_per_node else {})
    return GangView(chips, host.queue or DEFAULT_QUEUE, host.max_nodes)


def open_volcano(
    host: VolcanoHost,
    node: NodeSettings,
    *,
    install: Callable[[Transport], None],
    owner: str,
) -> VolcanoBackend:
    """The backend of a Volcano host. Nothing is asked before the first call."""
    kubeconfig = str(Path(host.kubeconfig).expanduser()) if host.kubeconfig else ""
    site = VolcanoSite(
        PodSite(
            namespace=host.namespace,
            image=host.image,
            claim=host.pvc_name,
            mount=host.pvc_mount_path,
            service_account=host.service_account,
            priority_class=host.priority_class,
            node_selector=host.node_selector,
            tolerations=[toleration_of(one) for one in host.tolerations],
            gpu_key=host.gpu_resource_key,
            cpu=host.cpu,
            memory=host.memory,
            cpu_cpu=host.cpu_cpu,
            cpu_memory=host.cpu_memory,
            shm_size=host.shm_size,
            rdma={host.rdma_resource_key: host.rdma_per_node} if host.rdma else {},
            labels=host.labels,
            annotations=host.annotations,
            pull_secrets=host.image_pull_secrets,
            pull_policy=host.image_pull_policy,
            keep_finished_s=host.keep_finished_s,
            python=host.python,
            pod=host.pod,
            container=host.container,
        ),
        Limits(host.pending_timeout_s, host.stuck_timeout_s),
        host.lost_timeout_s,
        queue=host.queue or DEFAULT_QUEUE,
        kubectl=[
            "kubectl",
            *(["--kubeconfig", kubeconfig] if kubeconfig else []),
            *(["--context", host.context] if host.context else []),
        ],
    )
    me = myself(default_actor())

    def client(namespace: str) -> KubeClient:
        return KubeClient(namespace=namespace, kubeconfig=kubeconfig, context=host.context or "")

    def open_space(namespace: str) -> Space:
        kube = client(namespace)
        wish = HelperWish(
            owner=label_value(owner),
            host=label_value(host.name),
            maker=json.dumps(asdict(me)),
            image=host.helper_image or host.image,
            claim=host.pvc_name,
            path=host.pvc_mount_path,
            queue=host.queue or DEFAULT_QUEUE,
            resources=helper_resources(host.helper_resources),
            service_account=host.service_account or "",
            node_selector=host.node_selector,
            tolerations=[toleration_of(one) for one in host.tolerations],
            pod=_alike(host.pod, "securityContext", "runtimeClassName", "dnsPolicy", "dnsConfig") | _pulling(host),
            container=_alike(host.container, "securityContext"),
        )
        helper = Helper(
            kube,
            wish,
            transport=partial(KubeTransport, kube),
            why=lambda: _why(kube, helper.name),
            ready_s=host.helper_timeout_s,
            is_gone=lambda maker: _is_dead(maker, me),
        )
        return Space(node, kube, helper, reach=partial(KubeTransport, kube), install=install)

    return VolcanoBackend(node, site, open_space, open_source=client, owner=owner)


def _is_dead(maker: str, me: Holder) -> bool:
    """Has the process that made a helper ended, on this machine? One at work beside us (`status` beside `watch`) has not."""
    try:
        return is_dead(Holder(**json.loads(maker)), me)
    except (TypeError, ValueError):
        return False


def helper_resources(given: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Requests and limits from the dotted keys of the original (`requests.cpu`); what is not given, is small."""
    found: dict[str, dict[str, str]] = {"requests": dict(_HELPER_AMOUNTS), "limits": dict(_HELPER_AMOUNTS)}
    for key, amount in given.items():
        kind, _, name = key.partition(".")
        found.setdefault(kind, {})[name] = amount
    return found


def toleration_of(given: Toleration) -> dict[str, Json]:
    """As Kubernetes writes it, without what is not said."""
    fields: dict[str, Json] = {
        "key": given.key,
        "operator": given.operator,
        "value": given.value,
        "effect": given.effect,
        "tolerationSeconds": given.toleration_seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _alike(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What the helper has in common with the pods of runs."""
    return {name: given[name] for name in names if name in given}


def _pulling(host: VolcanoHost) -> dict[str, Json]:
    return {"imagePullSecrets": [{"name": one} for one in host.image_pull_secrets]} if host.image_pull_secrets else {}


def _why(kube: Kube, name: str) -> str:
    """Why a helper is not coming."""
    found = kube.get(kube_control.JOB, name)
    if found is None:
        return "its job is gone"
    job = job_of(found)
    pods = [pod_of(each) for each in kube.list(kube_control.POD, labels={"volcano.sh/job-name": name}).objects]
    groups = [group_of(each) for each in kube.list(kube_control.POD_GROUP).objects]
    events = [event_of(each) for each in kube.list(kube_control.EVENT).objects]
    group = next((one for one in groups if one.owner_uid == job.uid), None)
    return pending(job, pods, group, events, None, waited_s=0.0).sentence

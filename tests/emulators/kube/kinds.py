"""The kinds of objects that the emulated API server knows, and what its discovery says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind, as discovery tells it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As error messages name it: `jobs.batch.volcano.sh`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


JOB = Resource("batch.volcano.sh", "v1alpha1", "jobs", "Job", short=("vcjob", "vj"))
POD_GROUP = Resource("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup", short=("pg", "podgroup-v1beta1"))
QUEUE = Resource("scheduling.volcano.sh", "v1beta1", "queues", "Queue", namespaced=False, short=("q", "queue-v1beta1"))
POD = Resource("", "v1", "pods", "Pod", short=("po",), subresources=("exec", "log"))
SECRET = Resource("", "v1", "secrets", "Secret")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap", short=("cm",))
EVENT = Resource("", "v1", "events", "Event", short=("ev",))
CLAIM = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",))
QUOTA = Resource("", "v1", "resourcequotas", "ResourceQuota", short=("quota",))
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",))
NODE = Resource("", "v1", "nodes", "Node", namespaced=False, short=("no",))
ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

STORED = (JOB, POD_GROUP, QUEUE, POD, SECRET, CONFIG_MAP, EVENT, CLAIM, QUOTA, NAMESPACE, NODE)
ALL = (*STORED, ACCESS_REVIEW)
VOLCANO_GROUPS = ("batch.volcano.sh", "scheduling.volcano.sh")


def named(word: str) -> Resource:
    """By plural, kind, or plural.group. Raises KeyError."""
    for resource in ALL:
        if word in (resource.plural, resource.kind, resource.qualified, *resource.short):
            return resource
    raise KeyError(f"emulator: no kind {word}; there are {', '.join(r.plural for r in ALL)}")


def resource_list(group: str, version: str) -> dict[str, Any]:
    """The answer to /api/v1 or /apis/GROUP/VERSION."""
    entries = []
    for resource in ALL:
        if (resource.group, resource.version) != (group, version):
            continue
        reads = (
            ["create"] if resource is ACCESS_REVIEW else ["create", "delete", "get", "list", "patch", "update", "watch"]
        )
        singular = resource.kind.lower()
        entry = {
            "name": resource.plural,
            "singularName": singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": reads,
        }
        entries.append({**entry, "shortNames": list(resource.short)} if resource.short else entry)
        for sub in resource.subresources:
            verbs = ["create", "get"] if sub == "exec" else ["get"]
            name = f"{resource.plural}/{sub}"
            entries.append(
                {"name": name, "singularName": "", "namespaced": True, "kind": resource.kind, "verbs": verbs}
            )
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def group_entry(group: str) -> dict[str, Any]:
    version = next(r.version for r in ALL if r.group == group)
    entry = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}

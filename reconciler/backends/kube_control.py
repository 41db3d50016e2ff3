"""The seam between the Volcano backend and the Kubernetes API: a few calls on objects, as plain JSON of one namespace.

Implemented by kube_client.KubeClient over the `kubernetes` library, and by a fake in the tests; both pass
tests/contract/kube_contract.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Object = Mapping[str, Any]
"""One object of the API as its JSON."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object. `group` "" is the core group. Of a kind that is not `namespaced` there is one list for the cluster."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True


JOB = Kind("batch.volcano.sh", "v1alpha1", "jobs", "Job")
POD_GROUP = Kind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup")
QUEUE = Kind("scheduling.volcano.sh", "v1beta1", "queues", "Queue", namespaced=False)
POD = Kind("", "v1", "pods", "Pod")
SECRET = Kind("", "v1", "secrets", "Secret")
EVENT = Kind("", "v1", "events", "Event")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole list: every object there was at one moment. `version` is the list's resourceVersion."""

    objects: Sequence[Object] = field(hash=False)
    version: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """`repeated`: an object of this name was there before, and is given instead; whose it is, the caller looks at."""

    object: Object = field(hash=False)
    repeated: bool = False


class Kube(Protocol):
    """One cluster as one user, in one namespace. Not thread-safe: a host's lane owns it. Every call has a deadline and is not
    repeated, but for reads.

    Raises Unreachable (nothing was done), OutcomeUnknown (an effect may have happened), AccessRefused (credentials missing,
    expired or not allowed: which verb on what), Rejected (the server refuses the object: in its own words, with the next step),
    Unparsable (what came back is no such object). That the server does not know a kind at all (Volcano is not installed), that
    there is no such namespace, and that no such object is there, are three different things: only the last is "absent".
    """

    namespace: str

    def get(self, kind: Kind, name: str) -> Object | None:
        """One object; None when the server says that there is none of this name."""
        ...

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed:
        """All objects that carry `labels` (an empty value: the label, with any value), page by page until complete."""
        ...

    def create(self, kind: Kind, body: Object) -> Made:
        """With strict fields: an unknown field is Rejected."""
        ...

    def delete(self, kind: Kind, name: str, *, uid: str, grace_s: int | None = None) -> bool:
        """Ask for the deletion of the very object with this uid. False: it is not there (any more). Returns before it is gone."""
        ...

    def patch(self, kind: Kind, name: str, body: Object) -> Object | None:
        """A JSON merge patch; None when there is no such object."""
        ...

    def logs(self, pod: str, *, container: str = "", size_max: int) -> bytes | None:
        """What the container wrote to its output so far, its first `size_max` bytes; None where it has none to show (not started,
        or its pod is gone)."""
        ...

    def allowed(self, verb: str, kind: Kind, *, subresource: str = "") -> bool:
        """May we? As the server's own access review says."""
        ...

    def close(self) -> None: ...

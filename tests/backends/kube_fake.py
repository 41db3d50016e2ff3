"""The Kubernetes API in memory: a Kube with knobs for what goes wrong. Pods do not run here; tests say what became of them.

It keeps the contract of tests/contract/kube_contract.py.
"""

from __future__ import annotations

import builtins
import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.backends import kube_refusals as refusals
from reconciler.backends.kube_control import JOB, NAMESPACE, POD, Kind, Listed, Made, Object
from reconciler.backends.kube_refusals import Ask, Login, Status
from reconciler.core.errors import OutcomeUnknown, ReconcilerError

LOGIN = Login("/home/jo/lab.yaml", "lab", "https://lab:6443")
# The fields of a Volcano job's spec (v1alpha1), for what strict fields refuse.
JOB_FIELDS = {
    "schedulerName",
    "minAvailable",
    "volumes",
    "tasks",
    "policies",
    "plugins",
    "runningEstimate",
    "queue",
    "maxRetry",
}
JOB_FIELDS |= {"ttlSecondsAfterFinished", "priorityClassName", "minSuccess", "networkTopology"}


@dataclass
class FakeKube:
    """Implements kube_control.Kube. Knobs, each to be set at any time:

    namespaces  those there are
    unknown     groups that the server does not know (`batch.volcano.sh`: no Volcano)
    forbidden   (verb, plural) -> raised as a missing right, and `allowed` says no
    failures    the errors of the next calls, in order; with `acts` true the effect happens all the same
    lingering   kinds whose objects are marked at a delete, and stay until `finish`
    """

    namespace: str = "team-a"
    namespaces: set[str] = field(default_factory=lambda: {"team-a"})
    unknown: set[str] = field(default_factory=set)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    failures: builtins.list[tuple[str, ReconcilerError, bool]] = field(default_factory=list)
    lingering: set[str] = field(default_factory=set)
    outputs: dict[str, bytes] = field(default_factory=dict)
    calls: builtins.list[tuple[str, str, str]] = field(default_factory=list)
    clock: str = "2026-11-21T06:00:00Z"
    closed: bool = False

    def __post_init__(self) -> None:
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    # --- behind the API's back

    def put(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """There is this object now, as it is; what the server would add is added."""
        made = copy.deepcopy(dict(body))
        number = next(self._numbers)
        about = made.setdefault("metadata", {})
        about.setdefault("uid", f"uid-{number}")
        about.setdefault("creationTimestamp", self.clock)
        about["resourceVersion"] = str(number)
        if kind.namespaced:
            about.setdefault("namespace", self.namespace)
        made.setdefault("apiVersion", f"{kind.group}/{kind.version}" if kind.group else kind.version)
        made.setdefault("kind", kind.kind)
        self._objects[self._key(kind, about["name"])] = made
        return made

    def there(self, kind: Kind, name: str) -> dict[str, Any] | None:
        return self._objects.get(self._key(kind, name))

    def names(self, kind: Kind) -> builtins.list[str]:
        return sorted(name for group, plural, name in self._objects if (group, plural) == (kind.group, kind.plural))

    def finish(self, kind: Kind, name: str) -> None:
        """It is gone."""
        self._objects.pop(self._key(kind, name), None)

    def run_pods(self, job: str, *, phase: str = "Running", ready: bool = True) -> builtins.list[dict[str, Any]]:
        """The pods of a job that was created, in this phase, with their containers running where that is the phase."""
        owner = self.there(JOB, job)
        assert owner is not None
        made = []
        for task in owner["spec"]["tasks"]:
            for index in range(task["replicas"]):
                template = copy.deepcopy(task["template"])
                about = template.setdefault("metadata", {})
                about["name"] = f"{job}-{task['name']}-{index}"
                about["labels"] = {
                    **about.get("labels", {}),
                    "volcano.sh/job-name": job,
                    "volcano.sh/task-spec": task["name"],
                    "volcano.sh/task-index": str(index),
                }
                about["ownerReferences"] = [
                    {"kind": "Job", "name": job, "uid": owner["metadata"]["uid"], "controller": True}
                ]
                state = (
                    {"running": {"startedAt": self.clock}}
                    if phase == "Running"
                    else {"waiting": {"reason": "ContainerCreating"}}
                )
                template["status"] = {
                    "phase": phase,
                    "containerStatuses": [
                        {"name": each["name"], "ready": ready and phase == "Running", "state": state}
                        for each in template["spec"]["containers"]
                    ],
                }
                made.append(self.put(POD, template))
        return made

    # --- Kube

    def get(self, kind: Kind, name: str) -> Object | None:
        self._call("get", kind, name)
        found = self._objects.get(self._key(kind, name))
        if found is None:
            self._need_namespace(Ask("get", kind, self.namespace, name))
        return copy.deepcopy(found)

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed:
        self._call("list", kind)
        self._need_namespace(Ask("list", kind, self.namespace))
        found = [
            copy.deepcopy(body)
            for (group, plural, _), body in sorted(self._objects.items())
            if (group, plural) == (kind.group, kind.plural)
            and _labelled(body, labels or {})
            and all(_chosen(body, each) for each in fields.split(",") if each)
        ]
        return Listed(found, str(next(self._numbers)))

    def create(self, kind: Kind, body: Object) -> Made:
        name = str(body["metadata"]["name"])
        ask = Ask("create", kind, self.namespace, name)
        lost = self._call("create", kind, name)
        self._need_namespace(ask)
        found = self._objects.get(self._key(kind, name))
        if found is not None:
            return Made(copy.deepcopy(found), repeated=True)
        if kind == JOB:
            for each in sorted(set(body["spec"]) - JOB_FIELDS):
                message = 'Job in version "v1alpha1" cannot be handled as a Job: strict decoding error: unknown field '
                message += f'"spec.{each}"'
                raise refusals.error(ask, Status(400, "BadRequest", message), LOGIN)
        made = self.put(kind, body)
        if lost is not None:
            raise lost
        return Made(copy.deepcopy(made))

    def delete(self, kind: Kind, name: str, *, uid: str, grace_s: int | None = None) -> bool:
        lost = self._call("delete", kind, name)
        self._need_namespace(Ask("delete", kind, self.namespace, name))
        found = self._objects.get(self._key(kind, name))
        if found is None or found["metadata"]["uid"] != uid:
            return False
        if kind.kind in self.lingering:
            found["metadata"].setdefault("deletionTimestamp", self.clock)
            found["metadata"].setdefault("deletionGracePeriodSeconds", 30 if grace_s is None else grace_s)
        else:
            self.finish(kind, name)
        if lost is not None:
            raise lost
        return True

    def patch(self, kind: Kind, name: str, body: Object) -> Object | None:
        lost = self._call("patch", kind, name)
        found = self._objects.get(self._key(kind, name))
        if found is None:
            self._need_namespace(Ask("patch", kind, self.namespace, name))
            return None
        _merge(found, body)
        found["metadata"]["resourceVersion"] = str(next(self._numbers))
        if lost is not None:
            raise lost
        return copy.deepcopy(found)

    def logs(self, pod: str, *, container: str = "", size_max: int) -> bytes | None:
        self._call("get", POD, pod)
        if self._key(POD, pod) not in self._objects or pod not in self.outputs:
            return None
        return self.outputs[pod][:size_max]

    def allowed(self, verb: str, kind: Kind, *, subresource: str = "") -> bool:
        self._call("review", kind)
        return (verb, f"{kind.plural}/{subresource}" if subresource else kind.plural) not in self.forbidden

    def close(self) -> None:
        self.closed = True

    # --- the rest

    def _key(self, kind: Kind, name: str) -> tuple[str, str, str]:
        return kind.group, kind.plural, name

    def _call(self, verb: str, kind: Kind, name: str = "") -> ReconcilerError | None:
        """What to raise after the effect; None: nothing. Raises what is to be raised at once."""
        self.calls.append((verb, kind.kind, name))
        ask = Ask(verb, kind, self.namespace, name)
        for index, (wanted, error, acts) in enumerate(self.failures):
            if wanted == verb:
                del self.failures[index]
                if acts:
                    return error
                raise error
        if kind.group in self.unknown:
            raise refusals.no_kind(ask, LOGIN)
        if (verb, kind.plural) in self.forbidden:
            resource = f'resource "{kind.plural}" in API group "{kind.group}" in the namespace "{self.namespace}"'
            message = f'{ask.resource} is forbidden: User "limited" cannot {verb} {resource}'
            raise refusals.error(ask, Status(403, "Forbidden", message), LOGIN)
        return None

    def _need_namespace(self, ask: Ask) -> None:
        if ask.kind.namespaced and ask.kind != NAMESPACE and self.namespace not in self.namespaces:
            raise refusals.no_namespace(self.namespace, ask, LOGIN)


def lost(verb: str) -> tuple[str, ReconcilerError, bool]:
    """A failure for `failures`: the next such call acts, and its answer is lost."""
    return verb, OutcomeUnknown(f"no answer to the {verb}"), True


def _labelled(body: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    labels = body["metadata"].get("labels") or {}
    return all(key in labels and (not value or labels[key] == value) for key, value in wanted.items())


def _chosen(body: Mapping[str, Any], selector: str) -> bool:
    path, _, value = selector.replace("==", "=").partition("=")
    unequal = path.endswith("!")
    found: Any = body
    for part in path.rstrip("!").split("."):
        found = (found or {}).get(part)
    return (str(found or "") == value) is not unequal


def _merge(into: dict[str, Any], body: Mapping[str, Any]) -> None:
    for key, value in body.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)

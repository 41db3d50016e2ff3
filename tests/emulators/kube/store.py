"""The objects of the emulated cluster, their versions, and their history for watches.

Objects are plain JSON and are never changed in place: what a reader holds stays as it was. All of it is guarded by one lock,
which whoever drives it takes (`with store.lock`).
"""

from __future__ import annotations

import copy
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.emulators.kube import clock, errors
from tests.emulators.kube.kinds import EVENT, POD, Resource

Json = dict[str, Any]
Key = tuple[Resource, str, str]  # kind, namespace ("" for the cluster's own), name


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    type: str  # ADDED, MODIFIED, DELETED
    key: Key
    object: Json


def stamp(later_s: float = 0.0) -> str:
    """Now, as the API writes times: whole seconds of UTC."""
    return datetime.fromtimestamp(clock.now() + later_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    def __init__(self, history: int = 20000) -> None:
        self.random = random.Random()
        """Names and uids come from here: seeded, they are the same each time."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1000  # so that there are versions which are too old
        self.history: deque[Change] = deque(maxlen=history)
        self.oldest = self.version  # watches from before this version are refused
        self.objects: dict[Key, Json] = {}
        self.listeners: list[Callable[[Change], None]] = []

    def uid(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    # -- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self.objects.get((resource, namespace, name))

    def wanted(self, resource: Resource, namespace: str, name: str) -> Json:
        found = self.get(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource, name)
        return found

    def list(self, resource: Resource, namespace: str = "") -> list[Json]:
        """In the order of names. Without a namespace: of all namespaces."""
        keys = [key for key in self.objects if key[0] is resource and (not namespace or key[1] == namespace)]
        return [self.objects[key] for key in sorted(keys, key=lambda key: key[1:])]

    def owned(self, uid: str) -> list[tuple[Key, Json]]:
        return [
            (key, body)
            for key, body in self.objects.items()
            if any(owner.get("uid") == uid for owner in body["metadata"].get("ownerReferences", ()))
        ]

    # -- writing

    def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        body = copy.deepcopy(body)
        meta = body.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(self.random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        name = meta["name"]
        if (resource, namespace, name) in self.objects:
            raise errors.already_exists(resource, name)
        for ours in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"):
            meta.pop(ours, None)
        if resource.namespaced:
            meta["namespace"] = namespace
        meta["uid"] = str(self.uid())
        meta["creationTimestamp"] = stamp()
        if resource.group:
            meta["generation"] = 1
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            **{k: v for k, v in body.items() if k not in _TYPE},
        }
        return self._put("ADDED", (resource, namespace, name), body)

    def update(self, resource: Resource, namespace: str, name: str, change: Callable[[Json], None]) -> Json:
        """`change` works on a copy. What is equal afterwards is no change, and gets no new version."""
        old = self.wanted(resource, namespace, name)
        new = copy.deepcopy(old)
        change(new)
        if new == old:
            return old
        if resource.group and new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        key = (resource, namespace, name)
        if new["metadata"].get("deletionTimestamp") and resource is not POD and not new["metadata"].get("finalizers"):
            return self.remove(key)
        return self._put("MODIFIED", key, new)

    def status(self, resource: Resource, namespace: str, name: str, status: Json) -> Json:
        return self.update(resource, namespace, name, lambda body: body.__setitem__("status", status))

    def delete(self, resource: Resource, namespace: str, name: str, *, grace_s: float | None, policy: str) -> Json:
        """Marks what ends later (a pod that runs, an object with finalizers, a foreground deletion), and removes the rest at
        once. What belongs to it follows, unless the policy is Orphan."""
        body = self.wanted(resource, namespace, name)
        key = (resource, namespace, name)
        uid = body["metadata"]["uid"]
        if policy == "Orphan":
            for (kind, space, owned), _ in self.owned(uid):
                self.update(kind, space, owned, lambda thing: _disown(thing, uid))
        if resource is POD:
            return self._delete_pod(key, body, grace_s)
        if policy == "Foreground" and self.owned(uid):
            body = self.update(resource, namespace, name, _mark_foreground)
            for (kind, space, owned), _ in self.owned(uid):
                self.delete(kind, space, owned, grace_s=None, policy="Background")
            return self.get(*key) or body
        return self.remove(key)

    def remove(self, key: Key) -> Json:
        """Gone at once, and what belongs to it is deleted."""
        body = self.objects.pop(key)
        gone = self._note("DELETED", key, body)
        uid = body["metadata"]["uid"]
        for (kind, space, name), _ in self.owned(uid):
            if (kind, space, name) in self.objects:
                self.delete(kind, space, name, grace_s=None, policy="Background")
        self._finish_foreground(body)
        return gone

    def event(self, resource: Resource, subject: Json, type_: str, reason: str, message: str, source: Json) -> None:
        """One Event on `subject`; the same again only counts."""
        meta = subject["metadata"]
        namespace = meta.get("namespace", "default")
        for old in self.list(EVENT, namespace):
            involved = old["involvedObject"]
            if (involved["uid"], old["reason"], old["message"]) == (meta["uid"], reason, message):
                self.update(EVENT, namespace, old["metadata"]["name"], _again)
                return
        involved = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "name": meta["name"],
            "namespace": namespace,
            "resourceVersion": meta["resourceVersion"],
            "uid": meta["uid"],
        }
        event: Json = {
            "metadata": {"name": f"{meta['name']}.{self.random.getrandbits(64):016x}"},
            "count": 1,
            "eventTime": None,
            "firstTimestamp": stamp(),
            "involvedObject": involved,
            "lastTimestamp": stamp(),
            "message": message,
            "reason": reason,
            "reportingComponent": source["component"],
            "reportingInstance": source.get("host", ""),
            "source": source,
            "type": type_,
        }
        self.create(EVENT, namespace, event)

    def compact(self) -> None:
        """From now on, a watch from an earlier version is answered with 410."""
        self.oldest = self.version
        self.history.clear()

    # -- inside

    def _delete_pod(self, key: Key, body: Json, grace_s: float | None) -> Json:
        """A pod that has a node ends by its kubelet's hand, which removes it then; force (0) removes it at once."""
        grace = body["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
        meta = body["metadata"]
        if grace == 0 or not body["spec"].get("nodeName"):
            return self.remove(key)
        if meta.get("deletionTimestamp") and meta.get("deletionGracePeriodSeconds", 0) <= grace:
            return body

        def mark(pod: Json) -> None:
            pod["metadata"].update(deletionTimestamp=stamp(grace), deletionGracePeriodSeconds=grace)

        return self.update(*key, mark)

    def _finish_foreground(self, gone: Mapping[str, Any]) -> None:
        for owner in gone["metadata"].get("ownerReferences", ()):
            for key, body in list(self.objects.items()):
                meta = body["metadata"]
                if meta["uid"] != owner["uid"] or "foregroundDeletion" not in meta.get("finalizers", ()):
                    continue
                if not self.owned(owner["uid"]):
                    self.remove(key)

    def _put(self, type_: str, key: Key, body: Json) -> Json:
        body["metadata"]["resourceVersion"] = str(self.version + 1)
        self.objects[key] = body
        return self._note(type_, key, body)

    def _note(self, type_: str, key: Key, body: Json) -> Json:
        self.version += 1
        if type_ == "DELETED":
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        if len(self.history) == self.history.maxlen:
            self.oldest = self.history[0].version
        change = Change(self.version, type_, key, body)
        self.history.append(change)
        for listener in self.listeners:
            listener(change)
        self.changed.notify_all()
        return body


_TYPE = ("apiVersion", "kind")


def _mark_foreground(body: Json) -> None:
    meta = body["metadata"]
    if not meta.get("deletionTimestamp"):
        meta.update(deletionTimestamp=stamp(), deletionGracePeriodSeconds=0, finalizers=["foregroundDeletion"])
        meta["generation"] = meta.get("generation", 1) + 1


def _disown(body: Json, uid: str) -> None:
    owners = [owner for owner in body["metadata"].get("ownerReferences", ()) if owner.get("uid") != uid]
    body["metadata"]["ownerReferences"] = owners


def _again(event: Json) -> None:
    event.update(count=event["count"] + 1, lastTimestamp=stamp())

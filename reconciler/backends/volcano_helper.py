"""The helper: a pod of ours that sleeps beside a volume claim, so that commands and files can reach the claim through it.

A claim can be read and written by pods alone. The helper is a Volcano job with one pod, made when it is first needed and deleted
afterwards. Whatever becomes of this process, it ends by itself: its pod may live for LIFE_S, and the job goes a minute later. A
helper is used by the instance that made it and by nobody else; what an earlier process left behind is swept, not used.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from reconciler.backends.kube_control import JOB, POD, Kube, Object
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Unreachable
from reconciler.core.transport import Command, Completed, Transport

_T = TypeVar("_T")

OWNER, HELPER, MAKER = "reconciler/owner", "reconciler/helper", "reconciler/maker"
"""Labels: whose it is, and for which host. Annotation: the text of who made it."""
CONTAINER = "helper"
LIFE_S = 15 * 60
"""How long a helper's pod lives at most (seconds)."""

_USABLE_S = 12 * 60  # after which a call gets a new helper, so that it is not cut
_LEFTOVER_S = 20 * 60  # older than that, it should have ended by itself
_PAUSE_S, _PAUSE_MAX_S = 0.3, 2.0
_SLEEP = f"trap 'exit 0' TERM INT; sleep {LIFE_S} & wait"
_SHUT = "The work on this host was broken off; no helper is made any more"
_JOB_NAME = "volcano.sh/job-name"  # Volcano's label of a job's pods
_OVER = frozenset({"Failed", "Aborted", "Aborting", "Terminated", "Terminating", "Completed", "Completing"})


@dataclass(frozen=True, slots=True)
class HelperWish:
    """What the helper is like. `owner` and `host` are values of labels; `maker` is free text, the same for a later process that
    may sweep what this one leaves. The claim is mounted at `path`. `pod` and `container`: further fields of its
    pod's spec and of its container, as they are."""

    owner: str
    host: str
    maker: str
    image: str
    claim: str
    path: str
    queue: str = "default"
    resources: Mapping[str, Any] = field(default_factory=dict, hash=False)
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    tolerations: Sequence[Mapping[str, Any]] = field(default=(), hash=False)
    pod: Mapping[str, Any] = field(default_factory=dict, hash=False)
    container: Mapping[str, Any] = field(default_factory=dict, hash=False)


def job_of(wish: HelperWish, name: str) -> dict[str, Any]:
    """The helper's job, as it is created."""
    labels = {OWNER: wish.owner, HELPER: wish.host}
    container: dict[str, Any] = {
        **wish.container,
        "name": CONTAINER,
        "image": wish.image,
        "command": ["sh", "-c", _SLEEP],
        "volumeMounts": [{"name": "cluster", "mountPath": wish.path}],
    }
    if wish.resources:
        container["resources"] = dict(wish.resources)
    spec: dict[str, Any] = {
        **wish.pod,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFE_S,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "cluster", "persistentVolumeClaim": {"claimName": wish.claim}}],
    }
    if wish.service_account:
        spec["serviceAccountName"] = wish.service_account
    if wish.node_selector:
        spec["nodeSelector"] = dict(wish.node_selector)
    if wish.tolerations:
        spec["tolerations"] = [dict(each) for each in wish.tolerations]
    task = {
        "name": CONTAINER,
        "replicas": 1,
        "minAvailable": 1,
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }
    return {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {MAKER: wish.maker}},
        "spec": {
            "schedulerName": "volcano",
            "queue": wish.queue,
            "minAvailable": 1,
            "ttlSecondsAfterFinished": 60,
            "policies": [
                {"event": "PodFailed", "action": "TerminateJob"},
                {"event": "PodEvicted", "action": "TerminateJob"},
                {"event": "TaskCompleted", "action": "CompleteJob"},
            ],
            "tasks": [task],
        },
    }


class Helper:
    """One helper at a time, for one host. Not thread-safe.

    `transport` makes a transport into the pod of a name; `why` tells, of the objects as they are now, why the pod is not coming.
    `is_gone` tells of a maker's text whether nobody uses that maker's helpers any more; without it, that they are our maker's and
    not ours.
    """

    def __init__(
        self,
        kube: Kube,
        wish: HelperWish,
        *,
        transport: Callable[[str], Transport],
        why: Callable[[], str] = lambda: "",
        ready_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        token: Callable[[], str] = lambda: secrets.token_hex(6),
        is_gone: Callable[[str], bool] | None = None,
    ) -> None:
        self.wish = wish
        self._kube, self._transport, self._why = kube, transport, why
        self._ready_s, self._clock, self._now, self._sleep, self._token = ready_s, clock, now, sleep, token
        self._is_gone = is_gone or (lambda maker: maker == wish.maker)
        self._name = ""
        self._uid = ""
        self._made_at = 0.0
        self._open: Transport | None = None
        self._shut = False

    @property
    def name(self) -> str:
        """The job's name; "" while there is none of ours."""
        return self._name

    def open(self, *, within_s: float | None = None) -> Transport:
        """A transport into the helper's container, which is made, and waited for, when there is none.

        Raises what creating it raises, and Unreachable when its pod does not come up within `ready_s`, or `within_s`, with the
        reason; what was made is deleted then.
        """
        if self._shut:
            raise Unreachable(_SHUT)
        if self._open is not None and self._clock() - self._made_at < _USABLE_S:
            return self._open
        self.close()
        name = self._name = f"reconciler-helper-{self._token()}"
        self._made_at = self._clock()
        try:
            uid = _uid(self._kube.create(JOB, job_of(self.wish, name)).object)
            # Shut meanwhile, it was not there yet to be deleted.
            self._name, self._uid = name, uid
            if self._shut:
                raise Unreachable(_SHUT)
            self._open = self._transport(self._wait(self._ready_s if within_s is None else within_s))
        except BaseException:
            # Also for a person's Ctrl-C. What cannot be deleted now ends by itself.
            with contextlib.suppress(ReconcilerError):
                self.close()
            raise
        return self._open

    def alive(self) -> bool:
        """Is the helper's container running, as the server says now? Raises what reading raises."""
        return bool(self._uid) and self._ready_pod() != ""

    def close(self) -> None:
        """Delete the helper, if there is one. Safe to call twice, also after it raised what reading and deleting raise."""
        transport, self._open = self._open, None
        if transport is not None:
            transport.close()
        if not self._name:
            return
        if not self._uid:
            # The answer to the create was lost.
            found = self._kube.get(JOB, self._name)
            self._uid = _uid(found) if found is not None and self._ours(found) else ""
        if self._uid:
            self._kube.delete(JOB, self._name, uid=self._uid)
        self._name = self._uid = ""

    def shut(self) -> None:
        """Close for good, also against a lane that is waiting for the helper right now, as after Ctrl-C: it gets Unreachable.
        Raises like `close`."""
        self._shut = True
        self.close()

    def sweep(self, found: Iterable[Object]) -> list[str]:
        """Delete the leftovers among `found` jobs, and give their names: helpers of our owner that our maker made before us, or
        that should have ended long ago. Raises what deleting raises."""
        deleted = []
        for job in found:
            about = job.get("metadata") or {}
            name = str(about.get("name") or "")
            labels = about.get("labels") or {}
            if labels.get(OWNER) != self.wish.owner or not labels.get(HELPER) or about.get("deletionTimestamp"):
                continue
            if not name or name == self._name or not _uid(job):
                continue
            age_s = self._now() - made_at(job)
            if (labels[HELPER] == self.wish.host and self._is_left(job)) or age_s > _LEFTOVER_S:
                self._kube.delete(JOB, name, uid=_uid(job))
                deleted.append(name)
        return deleted

    def _is_left(self, job: Object) -> bool:
        return self._is_gone(str((job["metadata"].get("annotations") or {}).get(MAKER) or ""))

    def _ours(self, job: Object) -> bool:
        about = job["metadata"]
        labels, notes = about.get("labels") or {}, about.get("annotations") or {}
        return labels.get(OWNER) == self.wish.owner and notes.get(MAKER) == self.wish.maker

    # --- waiting

    def _wait(self, within_s: float) -> str:
        """The name of the pod, when its container runs."""
        deadline, pause, trouble = self._clock() + within_s, _PAUSE_S, ""
        while True:
            try:
                pod = self._ready_pod()
                if pod:
                    return pod
                self._fail_if_over()
                trouble = ""
            except (_Over, Unreachable) as error:
                if isinstance(error, _Over):
                    raise Unreachable(
                        f"{self._told} ended before it could be used: {self._reason() or error}",
                        hint="It is made anew by the next pass.",
                    ) from None
                trouble = error.message
            left = deadline - self._clock()
            if left <= 0:
                raise Unreachable(
                    f"{self._told} is not there after {within_s:.0f} s: {self._reason() or trouble or 'nobody says why'}",
                    hint=f"It needs a place in queue {self.wish.queue}, the image {self.wish.image} and the claim "
                    f"{self.wish.claim}; `kubectl -n {self._kube.namespace} get pods,podgroups` shows such pods while they wait.",
                )
            self._sleep(min(pause, max(left, 0.0)))
            pause = min(pause * 1.5, _PAUSE_MAX_S)

    @property
    def _told(self) -> str:
        return (
            f"The helper pod that reaches the claim {self.wish.claim} of host {self.wish.host} in namespace "
            f"{self._kube.namespace} ({self._name})"
        )

    def _reason(self) -> str:
        try:
            return self._why()
        except ReconcilerError as error:
            return error.message

    def _ready_pod(self) -> str:
        for pod in self._kube.list(POD, labels={_JOB_NAME: self._name}).objects:
            about, status = pod.get("metadata") or {}, pod.get("status") or {}
            owners = about.get("ownerReferences") or ()
            if about.get("deletionTimestamp") or not any(owner.get("uid") == self._uid for owner in owners):
                continue
            for container in status.get("containerStatuses") or ():
                if (
                    container.get("name") == CONTAINER
                    and container.get("ready")
                    and (container.get("state") or {}).get("running")
                ):
                    return str(about.get("name") or "")
        return ""

    def _fail_if_over(self) -> None:
        job = self._kube.get(JOB, self._name)
        if job is None or _uid(job) != self._uid or job["metadata"].get("deletionTimestamp"):
            raise _Over("somebody deleted it")
        phase = str(((job.get("status") or {}).get("state") or {}).get("phase") or "")
        if phase in _OVER:
            raise _Over(f"its job is {phase}")


class _Over(Exception):
    """The helper will not come any more."""


class HelperTransport:
    """Implements core/transport.Transport through a helper that is made at the first call. That call may take the helper's
    `ready_s` beyond its deadline; the deadline counts from when the helper is there."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        """See Transport.run."""
        return self._again(lambda transport: transport.run(command, deadline_s=deadline_s))

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o640,
        deadline_s: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """See Transport.put."""
        transport = self._helper.open()
        try:
            transport.put(source, path, size=size, mode=mode, deadline_s=deadline_s, progress=progress)
        except (Unreachable, OutcomeUnknown):
            self._drop_the_dead()  # a stream cannot be sent twice; the next call gets a helper that lives
            raise

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        """See Transport.get."""
        return self._again(lambda transport: transport.get(path, size_max=size_max, deadline_s=deadline_s))

    def close(self) -> None:
        """Delete the helper. One that cannot be deleted now ends by itself."""
        with contextlib.suppress(ReconcilerError):
            self._helper.close()

    def _again(self, call: Callable[[Transport], _T]) -> _T:
        """Where nothing was done because the helper is gone, once more with a new one."""
        try:
            return call(self._helper.open())
        except Unreachable:
            if not self._drop_the_dead():
                raise
        return call(self._helper.open())

    def _drop_the_dead(self) -> bool:
        """True when there was a helper that is gone."""
        try:
            if not self._helper.name or self._helper.alive():
                return False
            self._helper.close()
        except ReconcilerError:
            return False
        return True


def _uid(thing: Object) -> str:
    return str((thing.get("metadata") or {}).get("uid") or "")


def made_at(thing: Object) -> float:
    """Seconds since 1970; the far future where the server's word is none, so that nothing is old by mistake."""
    try:
        return datetime.datetime.fromisoformat(str(thing["metadata"]["creationTimestamp"])).timestamp()
    except (KeyError, ValueError):
        return float("inf")

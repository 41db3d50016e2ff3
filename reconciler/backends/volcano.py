"""Kubernetes with Volcano: each run is a Volcano job of its own, whose pods run our runtime from a volume claim.

Identity: the job's name, which follows from the run id, our labels, and the whole run in an annotation. A create that is repeated
meets an object of that name, and compares. That a run is gone is proved by a whole list without its job and its pods; how it
ended by its pods' termination messages, else by what it wrote on the claim. The objects of an ended run stay for a while, then
Volcano deletes them (ttlSecondsAfterFinished); the claim keeps records and logs.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from reconciler.backends import kube_watch
from reconciler.backends.kube_control import EVENT, JOB, POD, POD_GROUP, QUEUE, SECRET, Kind, Made, Object
from reconciler.backends.kube_watch import Source
from reconciler.backends.node_call import NodeSettings, record_of
from reconciler.backends.volcano_answers import event_of, group_of, job_of, pod_of, queue_of
from reconciler.backends.volcano_helper import made_at
from reconciler.backends.volcano_job import CONTAINER, Order, PodSite, order_of, owner_reference, with_secrets
from reconciler.backends.volcano_marks import HELPER, HOST, OWNER, RUN, label_value, labels_of, object_name, run_of
from reconciler.backends.volcano_sight import Limits, Scene, ending, handle_of, is_unclear, sight, vanished
from reconciler.backends.volcano_space import Space
from reconciler.core.errors import (
    AccessRefused,
    NotNow,
    OutcomeUnknown,
    ReconcilerError,
    Rejected,
    Unparsable,
    Unreachable,
    on_the_way,
)
from reconciler.core.gangs import QueueRoom
from reconciler.core.job import Json
from reconciler.core.observation import Capacity, Census, Presence, Report, Sighting
from reconciler.core.protocols import (
    Accepted,
    Capabilities,
    Declined,
    Facts,
    Known,
    LogChunk,
    LogCursor,
    Look,
    Submission,
)
from reconciler.core.run import Handle, Run
from reconciler.core.transport import Transport
from reconciler.core.volcano import Pod, VcJob, VcQueueState

LOG_BYTES_MAX = 64 << 20
# How long after its create a job that no list shows may be one that is not shown yet (seconds): some servers answer from a copy.
LISTED_S = 120.0
# How old a Secret without a job must be before it is nobody's (seconds): its create may be on its way. Clocks differ by less.
ORPHAN_S = 600.0
# What a run is told on the claim before its job is deleted, so that its own last record says why.
_TELL = '[ -d "$1" ] || exit 0; printf %s "$2" >"$1/.request.new" && mv "$1/.request.new" "$1/request"'
# Reasons that a node knows. Whatever else ends a run, its record says that it was replaced.
_REASONS = frozenset({"cancelled", "suspended", "replaced", "deleted"})


@dataclass(frozen=True, slots=True)
class VolcanoSite:
    """What the inventory says of the host beyond its paths. Times are seconds: see core.inventory.VolcanoHost."""

    pods: PodSite
    limits: Limits = field(default_factory=Limits)
    queue: str = "default"
    kubectl: Sequence[str] = ("kubectl",)
    """How a person calls kubectl for this cluster."""


class VolcanoBackend:
    """One Volcano host of the inventory. `open_space` gives the namespace of a name, `open_source` a client for `listen` alone.
    Only jobs of `owner` are looked at, "" for everybody's."""

    capabilities: ClassVar[Capabilities] = Capabilities(batch_max=1000)

    def __init__(
        self,
        settings: NodeSettings,
        site: VolcanoSite,
        open_space: Callable[[str], Space],
        *,
        open_source: Callable[[str], Source] | None = None,
        owner: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._site = site
        self._open_space = open_space
        self._open_source = open_source
        self._owner = owner
        self._now = now
        self._spaces: dict[str, Space] = {}
        self._lacking: set[str] = set()
        self._ended: set[str] = set()

    # --- submitting

    def render(self, run: Run, facts: Facts) -> Submission:
        """The objects as they would be created, and the record that the pods will read."""
        record = record_of(self._settings, run, facts)
        nodes, each = run.place.get("nodes", 1), run.place.get("gpus_per_node", 0)
        total = nodes * each if isinstance(nodes, int) and isinstance(each, int) else 0
        record["gpus"] = None
        record["hardware"] = {"chip": facts.chip, "total_chips": total, "hosts": []}
        record["queue"] = {"system": "volcano"}
        order = order_of(run, facts.spec, self._site.pods, record, bundle=self._settings.paths.bundle)
        kubectl = [*self._site.kubectl, "-n", order.namespace]
        lines = [
            shlex.join([*kubectl, *words]) for words in (("create", "-f", "-"), ("get", "vcjob", order.name, "-w"))
        ]
        lines.append(shlex.join([*kubectl, "logs", "-l", f"volcano.sh/job-name={order.name}", "--prefix", "-f"]))
        body: dict[str, Json] = {"kubectl": list(lines), "job": dict(order.job), "record": record}
        return Submission(run, body, facts.secrets, order)

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        """Create the objects of each run, where its code is on the claim."""
        results: dict[str, Accepted | Declined] = {}
        for item in submissions:
            try:
                results[item.run.run_id] = self._submit(item)
            except (OutcomeUnknown, Unparsable):
                continue  # only a list tells
            except Rejected as error:
                results[item.run.run_id] = Declined("refused", _said(error), final=not isinstance(error, NotNow))
            except (AccessRefused, Unreachable) as error:
                results[item.run.run_id] = Declined("unreachable", _said(error))
        return results

    def _submit(self, item: Submission) -> Accepted | Declined:
        order, run = item.order, item.run
        assert isinstance(order, Order)
        if not _image_of(order):
            return Declined(
                "refused", f"{run.host} has no image: write `image` into its entry of the inventory", final=True
            )
        space = self._space(order.namespace)
        try:
            missing = self._bring(space, item)
        except (OutcomeUnknown, Unparsable):
            raise
        except ReconcilerError as error:
            # The claim, or the helper that reaches it, is in the way: that is no fault of this run's, and nothing was done.
            return Declined("unreachable", _said(error))
        if missing:
            self._lacking.add(order.namespace)
            return Declined("missing", f"{missing} is not on the claim")
        # The Secret first: a pod that starts before it is there would wait, and nobody would bring it after a crash in between.
        secrets = {name: secret.reveal() for name, secret in item.secrets.items()}
        kube = space.kube
        made = kube.create(SECRET, with_secrets(order, secrets))
        try:
            if made.repeated and not _is_of(made.object, run):
                # Not even by a reconciler with a state of its own: the record in it would be another attempt's.
                return Declined(
                    "claimed", f"{order.namespace} has a Secret {order.name} that was not made for this run"
                )
            job = kube.create(JOB, order.job)
        except Rejected:
            # The server judges an object before it sees that it has one of this name: what was taken before may be refused now.
            there = kube.get(JOB, order.name) if made.repeated else None
            if there is None or not _is_of(there, run):
                self._drop_secret(space, order.name, made.object)
                raise
            job = Made(there, repeated=True)
        except (AccessRefused, Unreachable):
            if not made.repeated:
                self._drop_secret(space, order.name, made.object)
            raise
        if job.repeated and not _is_of(job.object, run):
            if not made.repeated:
                self._drop_secret(space, order.name, made.object)
            return Declined(
                "claimed", f"{order.namespace} has a Volcano job {order.name} that was not made for this run"
            )
        self._adopt_secret(space, order.name, job.object)
        seen = job_of(job.object)
        handle = handle_of(run, seen, order.namespace)
        return Accepted(handle, repeated=job.repeated)

    def _bring(self, space: Space, item: Submission) -> str:
        """The runtime is brought along; of a tree that is not there, the name is given."""
        bundle = f"{self._settings.paths.bundle}/bootstrap.sh"
        record = item.body["record"]
        assert isinstance(record, dict)
        tree = record["tree"]
        wanted = [bundle]
        if isinstance(tree, dict):
            wanted.append(str(tree.get("object") or tree.get("directory")))
        gone = space.missing(wanted)
        if bundle in gone:
            space.install()
            space.missing([bundle])
        return next((path for path in gone if path != bundle), "")

    def _adopt_secret(self, space: Space, name: str, job: Object) -> None:
        """Let it go with its job. What fails here is done by a later look (`_tidy`)."""
        try:
            space.kube.patch(SECRET, name, {"metadata": {"ownerReferences": [owner_reference(job)]}})
        except ReconcilerError:
            space.swept = False

    @staticmethod
    def _drop_secret(space: Space, name: str, secret: Object) -> None:
        try:
            space.kube.delete(SECRET, name, uid=str(secret["metadata"]["uid"]))
        except ReconcilerError:
            space.swept = False

    def lacking(self) -> Sequence[Transport]:
        """Ways to the claims on which submits since the last look found no code."""
        return [self._space(namespace).way for namespace in sorted(self._lacking)]

    # --- looking

    def observe(self, look: Look) -> Census:
        """One list of each kind per namespace; one question to a running pod for how far runs have come."""
        self._lacking.clear()
        name = self._settings.name
        known = {item.run.run_id: item for item in look.known}
        # Where runs of ours are, or were sent in this process; of other namespaces a lost state leaves no trace here.
        home, known_at = self._site.pods.namespace, (self._where(item.run, item.handle) for item in look.known)
        namespaces = sorted({home, *known_at, *self._spaces})
        sightings: dict[str, Sighting] = {}
        try:
            for namespace in namespaces:
                sightings |= self._look(namespace, known, everybodys=look.scan)
        except ReconcilerError as error:
            return Census(
                name, complete=False, sightings=sightings, error=_said(error), away=not sightings and on_the_way(error)
            )
        scanned, unread = False, ""
        if look.scan:
            try:
                for namespace in namespaces:
                    for run_id, (run, written) in self._space(namespace).scan(name).items():
                        if run_id not in sightings and run_id not in known:
                            sightings[run_id] = Sighting(run_id, Presence.PRESENT, run=run, report=written)
                scanned = True
            except ReconcilerError as problem:
                unread = f"its claim cannot be read: {_said(problem)}"
        return Census(
            name,
            complete=True,
            sightings=sightings,
            capacity=self._capacity() if look.probe else None,
            scanned=scanned,
            error=unread,
        )

    def _look(self, namespace: str, known: Mapping[str, Known], *, everybodys: bool) -> dict[str, Sighting]:
        space = self._space(namespace)
        owner = {OWNER: "" if everybodys else label_value(self._owner)}
        objects = space.kube.list(JOB, labels=owner).objects
        listed = space.kube.list(POD, labels=owner).objects
        pods = [pod_of(each) for each in listed]
        helpers = [each for each in objects if HELPER in _texts(each, "labels")]
        jobs = [job_of(each) for each in objects if RUN in _texts(each, "labels")]
        runs = {run.run_id: (run, job) for job in jobs if (run := _run_of(job)) is not None}
        ours = {run_id for run_id, (run, _) in runs.items() if run.host == self._settings.name or run_id in known}
        mine = {HOST: label_value(self._settings.name), OWNER: label_value(self._owner)}
        space.running = [
            pod.name
            for pod, each in zip(pods, listed, strict=True)
            if _can_be_asked(pod) and mine.items() <= pod.labels.items() and _mounts(each, self._site.pods.claim)
        ]
        self._tidy(space, helpers, jobs)
        if not everybodys:
            self._end_suspended(space, [pair for run_id, pair in runs.items() if run_id not in known], pods)
        scene = self._scene(space, jobs, pods)
        written = self._written(
            space, [run for run_id, (run, job) in runs.items() if run_id in ours and not job.finished]
        )
        found: dict[str, Sighting] = {}
        for run_id in sorted(ours):
            run, job = runs[run_id]
            waited_s = self._waited_s(known.get(run_id))
            live, limits = written.get(run_id), self._site.limits
            found[run_id] = sight(run, job, scene, live, limits, namespace=namespace, waited_s=waited_s)
        missing = [
            item
            for run_id, item in known.items()
            if run_id not in found and self._where(item.run, item.handle) == namespace
        ]
        return found | self._missing(space, missing, pods, namespace)

    def _scene(self, space: Space, jobs: Sequence[VcJob], pods: Sequence[Pod]) -> Scene:
        """Events, pod groups and queues are asked for only when something does not simply run."""
        unclear = [job for job in jobs if is_unclear(job, pods)]
        if not unclear:
            return Scene(jobs, pods)
        groups = [group_of(each) for each in _shown(space, POD_GROUP)]
        events = [event_of(each) for each in _shown(space, EVENT)]
        queues = {queue.name: queue for queue in map(queue_of, _shown(space, QUEUE))}
        return Scene(jobs, pods, {group.owner_uid: group for group in groups}, events, queues)

    def _written(self, space: Space, runs: Sequence[Run]) -> Mapping[str, Report]:
        if not runs:
            return {}
        try:
            return space.written(runs, only_running=True).reports
        except ReconcilerError:
            return {}  # they run, as the API says; how far they have come is not known this time

    def _waited_s(self, item: Known | None) -> float:
        """Since its launch, by our clock."""
        return self._now() - item.since if item is not None and item.since else 0.0

    def _missing(
        self, space: Space, items: Sequence[Known], pods: Sequence[Pod], namespace: str
    ) -> dict[str, Sighting]:
        """Runs that no job of the list is for. Their pods may still end; then, unless we deleted it, what it wrote says how it
        ended.

        A list may be older than the create: a job of which nothing is known but that it was made is asked for by its name, and
        for LISTED_S even that proves nothing. What a run wrote on the claim proves that its job was there."""
        found: dict[str, Sighting] = {}
        gone: list[Known] = []
        for item in items:
            run, run_id = item.run, item.run.run_id
            left = [pod for pod in pods if _belongs(pod, run) and not pod.over]
            if left:
                limits = self._site.limits
                found[run_id] = ending(run, left, limits, namespace=namespace, name=self._name(item))
            elif item.handle is None:
                found[run_id] = Sighting(run_id, Presence.ABSENT)
            elif item.stopping or run_id in self._ended:
                found[run_id] = self._gone_on_request(space, item, namespace)
            else:
                gone.append(item)
        if not gone:
            return found
        try:
            written, unread = space.written([item.run for item in gone])
        except ReconcilerError as error:
            why = f"its job is gone, and how it ended cannot be read from the claim: {_said(error)}"
            return found | {item.run.run_id: Sighting(item.run.run_id, Presence.UNKNOWN, error=why) for item in gone}
        for item in gone:
            run, name, report = item.run, self._name(item), written.get(item.run.run_id)
            job = space.kube.get(JOB, name)
            if run.run_id in unread:
                why = f"its job is gone, and how it ended cannot be read from the claim: {unread[run.run_id]}"
                found[run.run_id] = Sighting(run.run_id, Presence.UNKNOWN, error=why)
            elif job is not None and (_is_of(job, run) or _is_the_same(job, item)):
                found[run.run_id] = Sighting(
                    run.run_id, Presence.UNKNOWN, error=_there_all_the_same(job, run, namespace)
                )
            elif report is None and item.since and self._waited_s(item) < LISTED_S:
                why = f"Volcano job {name} was made a moment ago, and {namespace} does not list it yet"
                found[run.run_id] = Sighting(run.run_id, Presence.UNKNOWN, error=why)
            else:
                found[run.run_id] = vanished(run, name, report)
        return found

    def _gone_on_request(self, space: Space, item: Known, namespace: str) -> Sighting:
        """Of a run whose end we have asked for: a whole list without it, and no job of its name. Why it ended, we know."""
        run = item.run
        job = space.kube.get(JOB, self._name(item))
        if job is not None and (_is_of(job, run) or _is_the_same(job, item)):
            return Sighting(run.run_id, Presence.UNKNOWN, error=_there_all_the_same(job, run, namespace))
        return Sighting(run.run_id, Presence.ABSENT)

    def _end_suspended(self, space: Space, unminded: Sequence[tuple[Run, VcJob]], pods: Sequence[Pod]) -> None:
        """A job that somebody suspended (Volcano: Aborted) has ended for us: its pods were killed, and a pod that a resume brings
        refuses to run what has run. Nobody else ever deletes it, for Volcano waits for the resume; so it goes, with its Secret,
        once its run is not minded any more. On the claim stays what it wrote."""
        for run, job in unminded:
            ours = run.host == self._settings.name and run.owner == self._owner
            if (
                ours
                and job.suspended
                and not job.deleting
                and not any(_belongs(pod, run) and not pod.over for pod in pods)
            ):
                try:
                    space.kube.delete(JOB, job.name, uid=job.uid)
                except ReconcilerError:
                    pass  # the next look tries again

    def _tidy(self, space: Space, helpers: Sequence[Object], jobs: Sequence[VcJob]) -> None:
        """What a killed process left behind: helpers, and Secrets whose job was never created. Once per process and namespace."""
        if helpers:
            try:
                space.helper.sweep(helpers)
            except ReconcilerError:
                pass  # they end by themselves
        if space.swept:
            return
        try:
            found = space.kube.list(SECRET, labels={OWNER: label_value(self._owner), RUN: ""}).objects
            by_name = {job.name: job for job in jobs}
            young = False
            for secret in found:
                metadata = secret["metadata"]
                name = str(metadata["name"])
                if metadata.get("ownerReferences"):
                    continue
                job = by_name.get(name)
                if job is None and self._now() - made_at(secret) < ORPHAN_S:
                    young = True  # another process may be about to create its job
                elif job is None:
                    space.kube.delete(SECRET, name, uid=str(metadata["uid"]))
                else:
                    owner = owner_reference({"metadata": {"name": job.name, "uid": job.uid}})
                    space.kube.patch(SECRET, name, {"metadata": {"ownerReferences": [owner]}})
            space.swept = not young
        except ReconcilerError:
            pass  # the next look tries again

    def _capacity(self) -> Capacity:
        key, kube = self._site.pods.gpu_key, self._space(self._site.pods.namespace).kube
        try:
            unread = ""
            try:
                found: Sequence[Object | None] = kube.list(QUEUE).objects
            except AccessRefused as error:
                # A user of one namespace may often look at the one queue that is theirs, and at no other.
                found, unread = [kube.get(QUEUE, self._site.queue)], error.message
            queues = [queue_of(each) for each in found if each is not None]
        except ReconcilerError as error:
            return Capacity(0, error=_said(error))
        rooms: dict[str, QueueRoom] = {}
        for queue in queues:
            cap = None if queue.capability is None else queue.capability.get(key)
            used = (queue.allocated or {}).get(key, 0.0)
            state = "Open" if queue.state is VcQueueState.OPEN else queue.word
            rooms[queue.name] = QueueRoom(queue.name, state, None if cap is None else int(cap), int(used))
        return Capacity(0, error=unread, rooms=rooms)

    def listen(self, *, changed: Callable[[], None], going: Callable[[], bool], pause: Callable[[], None]) -> None:
        """Whatever happens to a run, its pods show it first. See protocols.Announces."""
        if self._open_source is None:
            return
        source = self._open_source(self._site.pods.namespace)
        kube_watch.listen(
            source, POD, {OWNER: label_value(self._owner), RUN: ""}, changed=changed, going=going, pause=pause
        )

    # --- stopping

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        """Delete the job; its pods get its grace, after which their kubelets kill them. `force`: remove the pods that no kubelet
        will end, because their node is silent or they have none; what may still run there ends by its fence."""
        run, name, namespace = known.run, self._name(known), self._where(known.run, known.handle)
        space = self._space(namespace)
        found = space.kube.get(JOB, name)
        told = "already gone"
        pods = self._pods(space, run)
        if found is not None:
            job = job_of(found)
            if not _is_of(found, run):
                raise Rejected(f"Volcano job {name} in {namespace} was not made for this attempt: it is left alone")
            if all(pod.over for pod in pods) and (job.finished or len(pods) >= job.replicas):
                return told
            if not force and not job.deleting:
                self._tell(space, pods, run, reason, grace_s)
            if not job.deleting and space.kube.delete(JOB, name, uid=job.uid):
                told = f"Volcano job {name} is being deleted"
            elif job.deleting:
                told = f"Volcano job {name} is being deleted already"
            self._ended.add(run.run_id)
        if force:
            stuck = [pod for pod in pods if pod.node_lost or not pod.node]
            for pod in stuck:
                space.kube.delete(POD, pod.name, uid=pod.uid, grace_s=0)
            told += f"; {len(stuck)} pods are removed without grace" if stuck else ""
        return told

    def _tell(self, space: Space, pods: Sequence[Pod], run: Run, reason: str, grace_s: float) -> None:
        """Best effort: without it the run's last record says that it was preempted, and ours says why all the same."""
        asked = {"reason": reason if reason in _REASONS else "replaced", "grace_s": grace_s}
        for pod in pods:
            if _can_be_asked(pod):
                try:
                    space.tell(pod.name, _TELL, self._settings.paths.status_dir(run), json.dumps(asked))
                except ReconcilerError:
                    continue
                return

    # --- logs

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        """From the claim, by a running pod; of an ended run from its pod, as long as the cluster keeps it."""
        space = self._space(self._where(known.run, known.handle))
        pods = self._pods(space, known.run)
        space.running = [pod.name for pod in pods if _can_be_asked(pod)] or space.running
        pod = next((pod for pod in pods if pod.index == since.worker), None)
        if pod is not None and not space.running:
            data = space.kube.logs(pod.name, container=CONTAINER, size_max=LOG_BYTES_MAX)
            # A node keeps the last part of a long output only: what lies beyond it is on the claim.
            if data is not None and since.offset <= len(data):
                return _piece(data, since)
        return space.logs(known, since)

    # --- the rest

    def home(self) -> Space:
        """The host's own namespace."""
        return self._space(self._site.pods.namespace)

    def spaces(self) -> Iterable[Space]:
        """The namespaces that were opened."""
        return self._spaces.values()

    def close(self) -> None:
        """Delete helpers, end connections."""
        for space in self._spaces.values():
            space.close()

    def _space(self, namespace: str) -> Space:
        if namespace not in self._spaces:
            self._spaces[namespace] = self._open_space(namespace)
        return self._spaces[namespace]

    def _pods(self, space: Space, run: Run) -> list[Pod]:
        listed = space.kube.list(POD, labels=labels_of(run)).objects
        return sorted((pod_of(each) for each in listed), key=lambda pod: (pod.index is None, pod.index or 0))

    def _where(self, run: Run, handle: Handle | None) -> str:
        """The namespace in which the run is, or would be."""
        native = handle.native.get("namespace") if handle is not None else None
        if isinstance(native, str):
            return native
        spec = run.normal.get("spec")
        volcano = spec.get("volcano") if isinstance(spec, dict) else None
        given = volcano.get("namespace") if isinstance(volcano, dict) else None
        return given if isinstance(given, str) else self._site.pods.namespace

    @staticmethod
    def _name(known: Known) -> str:
        native = known.handle.native.get("job") if known.handle is not None else None
        return native if isinstance(native, str) else object_name(known.run.run_id)


def _can_be_asked(pod: Pod) -> bool:
    return pod.began and pod.phase == "Running" and not pod.deleting and not pod.node_lost and HELPER not in pod.labels


def _run_of(job: VcJob) -> Run | None:
    """The run that a job was made for. A copy that somebody made under another name carries our marks, and is none of ours."""
    run = run_of(job.labels, job.annotations)
    return run if run is not None and job.name == object_name(run.run_id) else None


def _belongs(pod: Pod, run: Run) -> bool:
    return labels_of(run).items() <= pod.labels.items()


def _shown(space: Space, kind: Kind) -> Sequence[Object]:
    """All of a kind that only explains how things stand: whoever may not see it gets to know less."""
    try:
        return space.kube.list(kind).objects
    except AccessRefused:
        return ()


def _is_the_same(found: Object, item: Known) -> bool:
    """Is it the very object that was made for the run, whatever was done to its marks?"""
    uid = item.handle.native.get("uid") if item.handle is not None else None
    return bool(uid) and (found.get("metadata") or {}).get("uid") == uid


def _there_all_the_same(found: Object, run: Run, namespace: str) -> str:
    name = (found.get("metadata") or {}).get("name")
    if _is_of(found, run):
        return f"Volcano job {name} exists, and {namespace} does not list it yet"
    return (
        f"Volcano job {name} in {namespace} is there, and somebody has changed its marks (labels and annotations that begin with "
        f"reconciler/): it is left alone. Put them back, or delete it with kubectl"
    )


def _mounts(pod: Object, claim: str) -> bool:
    """Does it see this claim? Pods of another host, or from before the inventory named another one, see another."""
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    return any((one.get("persistentVolumeClaim") or {}).get("claimName") == claim for one in volumes)


def _is_of(found: Object, run: Run) -> bool:
    """Was it made for this very attempt, by whoever has its token?"""
    minded = run_of(_texts(found, "labels"), _texts(found, "annotations"))
    return minded is not None and (minded.run_id, minded.token) == (run.run_id, run.token)


def _texts(found: Object, field_name: str) -> Mapping[str, str]:
    metadata: Any = found.get("metadata")
    value = metadata.get(field_name) if isinstance(metadata, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _image_of(order: Order) -> str:
    return str(order.job["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["image"])


def _piece(data: bytes, since: LogCursor) -> LogChunk:
    size = len(data)
    rotated = since.offset > size
    start = 0 if rotated else max(0, size + since.offset) if since.offset < 0 else since.offset
    end = min(size, start + since.size_max)
    return LogChunk(data[start:end], start, end, rotated)


def _said(error: ReconcilerError) -> str:
    return f"{error.message.rstrip('.')}. {error.hint}".rstrip(". ") if error.hint else error.message

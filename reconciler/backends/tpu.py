"""Google Cloud TPU VMs: a VM is made for a run, the run is started on all its machines (workers) at once, and the VM is deleted.

Identity: the VM's name follows from the run, so that making it twice is making it once; its labels say whose it is. Nothing is
remembered here between calls that a listing does not tell again. What a VM runs is asked of its workers with the node's own
verbs (docs/node-protocol.md), each worker with a status directory of its own.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from reconciler.backends.gang import gang_of
from reconciler.backends.node_call import NodeSettings, record_of
from reconciler.backends.tpu_control import Control
from reconciler.backends.tpu_marks import (
    RUN,
    is_anothers,
    is_of,
    labels_of,
    machine_of,
    metadata_of,
    run_of,
    waiting_machine,
)
from reconciler.backends.tpu_refusals import of_request
from reconciler.backends.tpu_workers import Abreast, Workers
from reconciler.core.cause import Cause
from reconciler.core.chips import parse_accelerator_type
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Rejected
from reconciler.core.job import Json, TpuOverrides
from reconciler.core.machine import Disposal, Machine
from reconciler.core.observation import Capacity, Census, Presence, Report, ReportStatus, Sighting
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
from reconciler.core.release import disposal_of
from reconciler.core.run import Handle, Run
from reconciler.core.tpu import (
    Begun,
    Denied,
    Exists,
    Listing,
    NodeWish,
    TpuNode,
    TpuState,
    node_name,
    sentence_of,
    taken_back,
)
from reconciler.core.transport import Transport

# A create that was answered shows up in listings a moment later; seen missing before that, it proves nothing.
LISTED_S = 120.0
EVERY_ZONE = "-"
# A VM that deletes itself leaves that to us for so long.
SELF_DELETE_MARGIN_S = 900.0
ASK_OPERATION_S = 60.0
# A worker that has missed as many heartbeats is named; it may hang, or its disk may be full.
HEARTBEATS_MISSED = 4
STILL_S_MIN = 60.0
# Nobody wants to go on from where these end: a machine that does not answer is not waited for.
_FOR_GOOD = frozenset({"cancelled", "deleted"})
CAUSES = {
    "capacity": Cause.CAPACITY,
    "reservation": Cause.CAPACITY,
    "quota": Cause.QUOTA,
    "no-quota": Cause.REFUSED,  # it would say so at every try
}


@dataclass(frozen=True, slots=True)
class TpuSite:
    """What the inventory says of the host beyond its paths. `wish` is the VM without name, zone, and what is ours in it. `fixed`:
    the host's name is the VM's, else each run's VM has the run's name. `capacity_s` and `boot_s`: how long a VM may take to
    come, and then to be reachable with its run begun."""

    wish: NodeWish
    zones: tuple[str, ...]
    fixed: bool
    chip: str
    chips: int
    project: str = ""
    disposal: Disposal = field(default_factory=Disposal)
    price_per_hour: float | None = None
    capacity_s: float = 3600.0
    boot_s: float = 900.0
    heirs_of: Callable[[str], bool] = lambda _: False
    """Does this host also mind the VMs that were made by a host of this name, because the inventory has none of that name?"""
    self_delete: bool = False
    """Does a VM delete itself when nobody did so for `margin_s` after it was due?"""
    margin_s: float = SELF_DELETE_MARGIN_S
    keys: str = ""
    """What `ssh-keys` of a new VM says: USER:KEY, "" to leave it to the project."""


@dataclass(slots=True)
class _Found:
    """One look at all zones: our VMs and waiting requests by run id."""

    nodes: dict[str, tuple[TpuNode, Run, Machine]] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    waiting: dict[str, tuple[Machine, Run]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class TpuBackend:
    """One TPU host of the inventory. `open_worker` gives the transport of one machine of a VM, `install` brings the runtime over
    a transport, `abreast` makes calls side by side, `gcloud` gives the command by which a person would make a VM.
    Only VMs of `owner` are looked at, "" for everybody's."""

    # One at a time: each run has a VM of its own, and what happens to one says nothing of those before it.
    capabilities: ClassVar[Capabilities] = Capabilities(batch_max=1)

    def __init__(
        self,
        settings: NodeSettings,
        site: TpuSite,
        control: Control,
        *,
        open_worker: Callable[[TpuNode, int], Transport],
        install: Callable[[Transport], None],
        abreast: Abreast,
        gcloud: Callable[[NodeWish], Sequence[str]] = lambda _: (),
        owner: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._site = site
        self._control = control
        self._workers = Workers(settings, open_worker, install, abreast)
        self._places: dict[str, tuple[str, str]] = {}
        self._gcloud = gcloud
        self._owner = owner
        self._now = now
        self._since: dict[tuple[str, ...], float] = {}
        self._beats: dict[tuple[str, ...], tuple[int, float]] = {}
        self._lacking: dict[str, TpuNode] = {}
        self._told: dict[str, Mapping[str, Json]] = {}

    # --- submitting

    def render(self, run: Run, facts: Facts) -> Submission:
        """The VM that will be asked for, and the record that its workers will get."""
        record = record_of(self._settings, run, facts)
        record["gpus"] = None
        record["hardware"] = {"chip": self._site.chip, "total_chips": self._site.chips, "hosts": []}
        wish = self._wish(run, facts.spec.tpu)
        return Submission(run, {"gcloud": shlex.join(self._gcloud(wish)), "record": record}, facts.secrets, wish)

    def _wish(self, run: Run, given: TpuOverrides) -> NodeWish:
        """The host's VM, with what the job's `spec.tpu` puts in place of it."""
        site = self._site
        disposal = disposal_of(site.disposal, given)
        metadata = {**site.wish.metadata, **given.metadata, **metadata_of(run, disposal, site.price_per_hour)}
        metadata.setdefault("enable-guest-attributes", "TRUE")  # by which the machines tell their host keys
        if site.keys:
            metadata["ssh-keys"] = site.keys
        zone, name = self._place(run)
        wish = replace(
            site.wish,
            name=name,
            zone=zone,
            version=given.version or site.wish.version,
            labels={**site.wish.labels, **given.labels, **labels_of(run)},
            metadata=metadata,
        )
        if given.spot is not None or given.preemptible is not None:
            wish = replace(wish, spot=bool(given.spot), preemptible=bool(given.preemptible), reserved=False)
        if wish.preemptible and wish.queued_s is not None:
            raise Rejected(
                f"{run.job} asks for a preemptible VM (spec.tpu.preemptible), and {self._settings.name} asks by queued requests, "
                f"which make spot VMs or ordinary ones",
                hint="Write spec.tpu.spot: true instead.",
            )
        return wish

    def _place(self, run: Run, handle: Handle | None = None) -> tuple[str, str]:
        """(zone, name) of the run's VM: where it was seen, else where it was asked for, else what follows from the run. The
        inventory may have changed since."""
        if run.run_id in self._places:
            return self._places[run.run_id]
        native = handle.native if handle is not None else {}
        name = str(native.get("node") or (self._settings.name if self._site.fixed else node_name(run.run_id)))
        return str(native.get("zone") or run.place.get("zone") or self._site.zones[0]), name

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        """Ask for the VM of each run; where it is ready, start the run on it."""
        results: dict[str, Accepted | Declined] = {}
        for item in submissions:
            try:
                result = self._submit(item)
            except OutcomeUnknown:
                continue  # only a listing tells
            if result is not None:
                results[item.run.run_id] = result
        return results

    def _submit(self, item: Submission) -> Accepted | Declined | None:
        wish = item.order
        assert isinstance(wish, NodeWish)
        # What was seen a moment ago need not be refused as a creation. And a queued request asked for twice answers as it did the
        # first time, also when its VM is there by now.
        look = wish.queued_s is not None or item.run.run_id in self._places
        node = self._control.get(wish.zone, wish.name) if look else None
        made = self._control.create(wish) if node is None else Exists(node)
        if isinstance(made, Denied):
            words = {
                "capacity": "no capacity",
                "no-quota": "no quota at all",
                "invalid": "refused",
                "not-now": "not now",
            }.get(made.kind, made.kind)
            cause = CAUSES.get(made.kind)
            return Declined(made.kind, f"{wish.zone}: {words}: {made.message}", final=made.final, cause=cause)
        if isinstance(made, Begun):
            queue = "asked for by a queued request" if wish.queued_s is not None else "being made"
            handle = self._handle(item.run, operation=made.operation)
            return Accepted(handle, words=f"{wish.name} in {wish.zone} is {queue}")
        if not is_of(made.labels, item.run):
            return Declined(
                "claimed",
                f"{wish.zone} has a VM {wish.name} already, which was not made for this run: it is left alone. Delete it, or "
                f"rename the host",
            )
        if is_anothers(made.node or made.request, item.run):
            return Declined(
                "claimed",
                f"{wish.zone} has the VM {wish.name} of this run already, made by another reconciler with a state of its own: it "
                f"is left alone",
            )
        if made.node is None or not self._is_usable(made.node):
            return Accepted(self._handle(item.run, made.node), repeated=True)
        return self._launch(item, made.node)

    def not_offered(self) -> tuple[str, ...]:
        """Of the host's zones, those that do not offer its accelerator type. Raises what the control raises."""
        kind = self._site.wish.accelerator_type
        return tuple(zone for zone in self._site.zones if kind not in self._control.types(zone))

    def _is_usable(self, node: TpuNode) -> bool:
        """Can all its machines be logged in to? READY may come before the last address."""
        return node.state is TpuState.READY and len(node.endpoints) >= self._machines(node)

    @staticmethod
    def _machines(node: TpuNode) -> int:
        """How many it has, by its own type: the inventory may name another one by now."""
        try:
            return parse_accelerator_type(node.accelerator_type).hosts
        except ValueError:
            return 1

    def _handle(self, run: Run, node: TpuNode | None = None, operation: str = "") -> Handle:
        zone, name = (node.zone, node.name) if node is not None else self._place(run)
        native: dict[str, Json] = {"node": name, "zone": zone, "asked_at": self._now()}
        if self._site.project:
            native["project"] = self._site.project
        if operation:
            native["operation"] = operation
        return Handle(run.run_id, run.token, native)

    def _launch(self, item: Submission, node: TpuNode) -> Accepted | Declined:
        """Start the run on every worker. What has begun on some and not on others is finished by the next submit."""
        run = item.run
        record = item.body["record"]
        assert isinstance(record, dict)
        secrets = {name: secret.reveal() for name, secret in item.secrets.items()}
        # Before the run begins, so that no crash of ours leaves it out.
        unguarded = self._guard(node, run, record) if self._site.self_delete else ""
        guarded = f"the VM will not delete itself: {unguarded}" if unguarded else ""
        found = self._workers.launch(node, run, record, secrets)
        self._lacking.pop(run.run_id, None)
        if found.missing:
            self._lacking[run.run_id] = node
            return Declined("missing", found.missing)
        # Any refusal leaves the VM to its run: the next pass tries again, until the time that it may take is over.
        words = f"started on {found.begun} of {found.count} workers of {node.name}"
        words += "".join(f"; {said}" for said in (*found.told, guarded) if said)
        handle = self._handle(run, node)
        if found.begun == found.count:
            handle = _begun(handle)
        return Accepted(handle, repeated=found.repeated == found.count, words=words)

    def _guard(self, node: TpuNode, run: Run, record: Mapping[str, Json]) -> str:
        """Set a guard on its VM, or tell the one that is there what the manifest asks; what went wrong, "" for nothing."""
        failed = self._workers.guard(node, run, self._terms(node, run, record))
        if not failed:
            self._told[run.run_id] = _asked(run)
        return failed

    def _terms(self, node: TpuNode, run: Run, record: Mapping[str, Json]) -> dict[str, Json]:
        """What a VM that deletes itself has to know."""
        machine = machine_of(node, run, wait_s=None)
        kept = machine.disposal
        return {
            "project": self._site.project,
            "zone": node.zone,
            "node": node.name,
            "ident": node.ident,
            "request": node.request,
            "label": node.labels.get(RUN, ""),
            "age_s": max(0.0, self._now() - machine.created_at) if machine.created_at else 0.0,
            "disposal": {"delete": kept.delete.value, "keep_s": kept.keep_s, "ttl_s": kept.ttl_s},
            "margin_s": self._site.margin_s,
            "start_s": self._site.boot_s,
            "overrides": _asked(run),
            "grace_s": record["grace_s"],
        }

    def lacking(self) -> Sequence[Transport]:
        """The workers on which submits since the last look found no code."""
        return [transport for node in self._lacking.values() for transport in self._workers.transports(node)]

    # --- looking

    def observe(self, look: Look) -> Census:
        """One listing of all zones, and one look at the workers of each VM that is ready."""
        self._lacking.clear()
        name = self._settings.name
        known = {item.run.run_id: item for item in look.known}
        zones = {*self._site.zones, *(self._place(item.run, item.handle)[0] for item in look.known)}
        found = self._find(self._list(zones), known, everybodys=look.scan)
        self._places = {run_id: (machine.zone, machine.name) for run_id, (machine, _) in found.waiting.items()}
        self._places |= {run_id: (node.zone, node.name) for run_id, (node, _, _) in found.nodes.items()}
        sightings: dict[str, Sighting] = {}
        for run_id, (node, run, machine) in found.nodes.items():
            sightings[run_id] = self._sight(node, run, machine, known.get(run_id))
        for run_id, (machine, run) in found.waiting.items():
            if run_id not in sightings:
                sightings[run_id] = _waiting(machine, run, known.get(run_id))
        complete = not found.errors
        for run_id, item in known.items():
            if run_id not in sightings and complete:
                sightings[run_id] = self._missing(item)
        return Census(
            name,
            complete=complete,
            sightings=sightings,
            capacity=Capacity(0) if complete else None,
            scanned=look.scan and complete,
            error="; ".join(found.errors),
            machines=tuple(found.machines),
        )

    def _list(self, zones: Collection[str]) -> list[Listing]:
        """What is where, complete for `zones`: everywhere, for a VM may lie in a zone that the inventory names no longer."""
        every = self._control.list(EVERY_ZONE)
        if every.complete and self._control.sees_operations:
            return [every]
        # Some zone cannot be reached, or (gcloud) that would not be told: only of those asked for by name is all known.
        elsewhere = tuple(node for node in every.nodes if node.zone not in zones)
        waiting = tuple(request for request in every.requests if request.zone not in zones)
        named = [self._control.list(zone) for zone in sorted(zones)]
        return [*named, Listing(EVERY_ZONE, elsewhere, waiting)]

    def _find(self, listings: Sequence[Listing], known: Mapping[str, Known], *, everybodys: bool) -> _Found:
        found = _Found()
        site = self._site
        for listing in listings:
            if not listing.complete:
                found.errors.append(f"{listing.zone}: {listing.error}")
            made = {(node.zone, node.request) for node in listing.nodes}
            for node in listing.nodes:
                run = run_of(node)
                if run is None or not self._is_here(run, everybodys):
                    continue
                waits = node.state in (TpuState.COMING, TpuState.READY)
                machine = machine_of(node, run, wait_s=site.capacity_s + site.boot_s if waits else None)
                machine = replace(machine, ready=self._is_usable(node))
                found.machines.append(machine)
                # Should one run have two VMs (somebody renamed the host meanwhile), the one that we know of is the run's.
                minded = known.get(run.run_id)
                asked = minded.handle.native.get("node") if minded is not None and minded.handle is not None else None
                other = found.nodes.get(run.run_id)
                foreign = other is not None and run.owner == self._owner != other[1].owner
                if other is None or foreign or (node.name == asked and run.owner == other[1].owner):
                    found.nodes[run.run_id] = (node, run, machine)
            for request in listing.requests:
                if (request.zone, request.name) in made:
                    continue
                made_for = run_of(request)
                if made_for is None or not self._is_here(made_for, everybodys):
                    continue
                machine = waiting_machine(request, made_for, wait_s=None)
                found.machines.append(machine)
                found.waiting[made_for.run_id] = (machine, made_for)
        return found

    def _is_here(self, run: Run, everybodys: bool) -> bool:
        """Several hosts of an inventory may share a zone; each minds the VMs that it made, one those of hosts that are gone."""
        if self._owner and run.owner != self._owner and not everybodys:
            return False
        return run.host == self._settings.name or self._site.heirs_of(run.host)

    def _sight(self, node: TpuNode, run: Run, machine: Machine, known: Known | None) -> Sighting:
        handle = known.handle if known is not None and known.handle is not None else self._handle(run, node)
        seen = Sighting(run.run_id, Presence.PRESENT, alive=True, handle=handle, run=run, machine=machine)
        if node.state is TpuState.LOST:
            cause = Cause.PREEMPTION if taken_back(node.word) else Cause.INFRASTRUCTURE
            status = ReportStatus.PREEMPTED if cause is Cause.PREEMPTION else ReportStatus.FAILED
            message = f"{machine.shown}: {sentence_of(node.word)}"
            return replace(seen, alive=False, report=Report(status, seq=0, cause=cause, message=message))
        if node.state is TpuState.GOING:
            # What may run there for another moment is for whoever minds the run; to all others it is a machine on its way out.
            return replace(seen, alive=known is not None, stopping="deleted")
        begun = bool(handle.native.get("begun"))
        if node.state is TpuState.COMING:
            if begun:
                message = f"{machine.shown} was ready and is {node.word} now: what ran on it has ended"
                return replace(
                    seen, alive=False, report=Report(ReportStatus.FAILED, 0, Cause.INFRASTRUCTURE, message=message)
                )
            # A creation that failed mostly takes its VM with it: one that stays is asked about now and then.
            asked = ("operation", node.ident)
            if asked in self._since and self._for_s(*asked) < ASK_OPERATION_S:
                return seen
            self._since[asked] = self._now()
            return self._failed_create(seen, handle) or seen
        if node.state is TpuState.DEGRADED and self._for_s("state", node.ident, node.word) > self._site.boot_s:
            message = f"{machine.shown} has been {node.word} for {self._site.boot_s:.0f} s"
            return replace(seen, broken=True, report=_lost(message))
        if begun and node.state is TpuState.READY and not self._is_usable(node):
            # Its run is on it, and an address is missing for a moment: silence, not a new VM.
            seen = replace(seen, machine=replace(machine, ready=True), error=f"an address of {node.name} is missing")
            if self._for_s("addresses", node.ident) > self._site.boot_s:
                return replace(seen, broken=True, report=_lost(f"{machine.shown}: an address is missing for too long"))
            return seen
        self._since.pop(("addresses", node.ident), None)
        if not self._is_usable(node):
            return seen
        parts = self._workers.look(node, run)
        if begun:
            parts = [_lost_record(part) if part.presence is Presence.ABSENT else part for part in parts]
        gang = gang_of(parts)
        if known is None and gang.error:
            # Nobody minds it, and it does not tell everything: no reason to think that it waits for its start.
            return Sighting(run.run_id, Presence.UNKNOWN, run=run, machine=machine, error=gang.error)
        if gang.begun < gang.count and not gang.broken and not begun:
            left = f"its run is started on {gang.count - gang.begun} of {gang.count} workers"
            return replace(seen, unfinished=left + (f" once they answer ({gang.error})" if gang.error else ""))
        said = self._without_heartbeat(node, parts)
        if self._site.self_delete and known is not None and parts[0].presence is Presence.PRESENT:
            said.append(self._tell_guard(node, known.run))
        seen = replace(seen, error="; ".join(filter(None, (gang.error, *said))), handle=_begun(handle))
        if gang.begun:  # else none of them can be asked: nothing is known but that the VM is there
            seen = replace(seen, alive=gang.alive, broken=gang.broken, report=gang.report, stopping=gang.stopping)
        for rank, part in enumerate(parts):
            # A machine that says nothing for so long has taken its part of the run with it, though the VM be READY.
            if part.presence is Presence.UNKNOWN and self._for_s("worker", node.ident, str(rank)) > self._site.boot_s:
                message = (
                    f"worker {rank} of {machine.shown} has not answered for {self._site.boot_s:.0f} s: {part.error}"
                )
                return replace(seen, broken=True, report=_lost(message))
            if part.presence is not Presence.UNKNOWN:
                self._since.pop(("worker", node.ident, str(rank)), None)
        return seen

    def _tell_guard(self, node: TpuNode, run: Run) -> str:
        """What the manifest asks by now, unless this process has told it: another one may have told otherwise before."""
        if self._told.get(run.run_id) == _asked(run):
            return ""
        spec = run.normal.get("spec")
        failed = self._guard(node, run, {"grace_s": spec.get("grace", 0.0) if isinstance(spec, Mapping) else 0.0})
        return f"{node.name} is not told when it is to delete itself by now: {failed}" if failed else ""

    def _without_heartbeat(self, node: TpuNode, parts: Sequence[Sighting]) -> list[str]:
        """The workers that answer, and whose part of the run has written nothing for a while, by our clock."""
        said = []
        patience_s = max(HEARTBEATS_MISSED * self._settings.heartbeat_s, STILL_S_MIN)
        for rank, part in enumerate(parts):
            what = ("beat", node.ident, str(rank))
            report = part.report
            if part.presence is Presence.UNKNOWN or report is None or report.status.final:
                self._beats.pop(what, None)
                continue
            seq, since = self._beats.get(what, (-1, 0.0))
            if seq != report.seq:
                since = self._now()
                self._beats[what] = (report.seq, since)
            if self._now() - since > patience_s:
                said.append(f"worker {rank} has written no heartbeat for {self._now() - since:.0f} s")
        return said

    def _for_s(self, *what: str) -> float:
        """For how long it has been so, as far as this process has seen."""
        return self._now() - self._since.setdefault(what, self._now())

    def _failed_create(self, seen: Sighting, handle: Handle) -> Sighting | None:
        operation = str(handle.native.get("operation") or "")
        if not operation:
            return None
        try:
            denied = self._control.failure_of(str(handle.native.get("zone")), operation)
        except ReconcilerError:
            return None
        if denied is None:
            return None
        cause = CAUSES.get(denied.kind, Cause.INFRASTRUCTURE)
        report = Report(ReportStatus.FAILED, 0, cause, message=denied.message)
        return replace(seen, alive=False, report=report)

    def _missing(self, item: Known) -> Sighting:
        """A run that we know of, and no VM of it in any complete listing: asked for by its name before that is believed."""
        run, (zone, name) = item.run, self._place(item.run, item.handle)
        made_in = item.handle.native.get("project") if item.handle is not None else None
        if made_in and self._site.project and made_in != self._site.project:
            error = (
                f"its VM was made in the project {made_in}, and {self._settings.name} looks into {self._site.project}"
            )
            return Sighting(run.run_id, Presence.UNKNOWN, error=error)
        try:
            node = self._control.get(zone, name)
        except ReconcilerError as error:
            return Sighting(run.run_id, Presence.UNKNOWN, error=error.message)
        if node is not None and is_of(node.labels, run):
            return Sighting(run.run_id, Presence.UNKNOWN, error=f"{name} exists, but {zone} does not list it yet")
        if item.handle is None:
            return Sighting(run.run_id, Presence.ABSENT)
        seen = Sighting(run.run_id, Presence.PRESENT, handle=item.handle, run=run)
        failed = self._failed_create(seen, item.handle)
        if failed is not None:
            return failed
        asked_at = item.handle.native.get("asked_at")
        listed = bool(item.handle.native.get("begun"))  # else its workers could not have been told
        if not listed and isinstance(asked_at, (int, float)) and self._now() - asked_at < LISTED_S:
            return Sighting(
                run.run_id, Presence.UNKNOWN, error=f"{name} was asked for a moment ago, and is not listed yet"
            )
        message = f"its VM {name} is gone from {zone}"
        return replace(seen, report=Report(ReportStatus.FAILED, 0, Cause.INFRASTRUCTURE, message=message))

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        """The output on one worker; empty once its VM is gone."""
        node = self._control.get(*self._place(known.run, known.handle))
        if node is None or not is_of(node.labels, known.run) or node.state is not TpuState.READY:
            raise Rejected(f"The VM of {known.run.run_id} is gone or not ready, and its output with it")
        if not 0 <= since.worker < len(node.endpoints):
            raise Rejected(f"{node.name} has no worker {since.worker}: expected 0 to {len(node.endpoints) - 1}")
        return self._workers.logs(node, known, since)

    # --- stopping

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        """End the run on all its workers; where it never began, or without grace, by deleting its VM."""
        run = known.run
        zone, name = self._place(run, known.handle)
        node = self._control.get(zone, name)
        if node is None or not is_of(node.labels, run):
            return self._withdraw(zone, name, run) or "already gone"
        if is_anothers(node, run):
            raise Rejected(f"{name} in {zone} was made by another reconciler with a state of its own; it is left alone")
        if node.state is not TpuState.READY or not node.endpoints or force:
            return self._delete(node)
        told = self._workers.signal(node, run, reason, grace_s)
        if not told.signalled and told.failed and reason in _FOR_GOOD:
            return f"no worker answers ({told.failed[0]}); {self._delete(node)}"
        if not told.signalled and told.failed:
            raise OutcomeUnknown(f"No worker of {name} can be told to end the run: {told.failed[0]}")
        if not told.signalled:
            if all(seen.presence is Presence.ABSENT for seen in self._workers.look(node, run)):
                return self._delete(node)  # it never began: there is nothing but the VM
            return "already gone"
        return "signalled" if not told.failed else f"signalled on {told.signalled} of {told.count} workers"

    def _withdraw(self, zone: str, name: str, run: Run) -> str:
        """Delete the request of a run that has no VM yet; "" when there is none of ours. Whether the inventory asks by requests
        now does not matter: this one may have been made before an edit."""
        listing = self._control.list(zone)
        for request in listing.requests:
            if request.name == name and is_of(request.labels, run) and not is_anothers(request, run):
                self._control.delete_request(zone, name)
                return f"the request {name} in {zone} is being deleted"
        if not listing.complete:
            raise OutcomeUnknown(f"{zone} cannot be asked whether a request of {run.run_id} waits: {listing.error}")
        return ""

    def release(self, machine: Machine) -> str:
        """See core.protocols.Rents."""
        node = self._control.get(machine.zone, machine.name)
        if node is None:
            listing = self._control.list(machine.zone) if machine.request else None
            for request in listing.requests if listing is not None else ():
                made_for = run_of(request) if request.name == machine.request else None
                if made_for is not None and (made_for.run_id, made_for.owner) == (machine.run_id, machine.owner):
                    self._control.delete_request(machine.zone, machine.request)
                    return f"the request {machine.request} in {machine.zone} is deleted"
            return f"{machine.shown} is gone already"
        if node.ident != machine.ident:
            raise Rejected(
                f"{machine.shown} is another VM by now than the one that was to be deleted; it is left alone"
            )
        return self._delete(node)

    def _delete(self, node: TpuNode) -> str:
        """A VM that carries our mark, whole: with the request that it came from."""
        if node.request:
            self._control.delete_request(node.zone, node.request)
        else:
            self._control.delete(node.zone, node.name)
        return f"{node.name} in {node.zone} is being deleted"

    def close(self) -> None:
        self._workers.close()


def _asked(run: Run) -> dict[str, Json]:
    """What the run's manifest asks in place of what its VM says of its end, in the words of the VM's metadata."""
    spec = run.normal.get("spec")
    tpu = spec.get("tpu") if isinstance(spec, Mapping) else None
    given = tpu if isinstance(tpu, Mapping) else {}
    words = {"delete_on_exit": "delete", "keep_for": "keep_s", "ttl": "ttl_s"}
    return {word: given[name] for name, word in words.items() if given.get(name) is not None}


def _lost(message: str) -> Report:
    return Report(ReportStatus.FAILED, seq=0, cause=Cause.INFRASTRUCTURE, message=message)


def _begun(handle: Handle) -> Handle:
    return replace(handle, native={**handle.native, "begun": True})


def _waiting(machine: Machine, run: Run, known: Known | None) -> Sighting:
    handle = known.handle if known is not None else None
    seen = Sighting(run.run_id, Presence.PRESENT, alive=True, run=run, machine=machine, handle=handle)
    if machine.dead:
        message = f"{machine.shown}: {machine.words}"
        denied = of_request(message)
        cause = CAUSES.get(denied.kind, Cause.CAPACITY)
        if handle is not None and handle.native.get("begun"):
            # Its VM was there, and was taken.
            return replace(
                seen, alive=False, report=Report(ReportStatus.PREEMPTED, 0, Cause.PREEMPTION, message=message)
            )
        return replace(seen, alive=False, report=Report(ReportStatus.FAILED, 0, cause, message=message))
    return replace(seen, stopping="deleted" if machine.going else "")


def _lost_record(part: Sighting) -> Sighting:
    """Of a worker that had begun and knows nothing of it now. A disk that is back in a moment must not cost the run."""
    return replace(
        part, presence=Presence.UNKNOWN, error="it has no record of the run, which had begun on it: its disk is gone"
    )

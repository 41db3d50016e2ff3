"""Many runs that vanish in one look from one host, or from those that share one cluster's root, are more likely a mistake of
seeing than so many ends: then nothing of these hosts is touched until they are seen again, or a person says that they are lost.
Pure.

A look can be complete and yet show nothing: a file system that is not mounted below an empty directory, a cluster root that was
changed in the inventory, records that a scheduler purged or somebody cleaned away, a state restored from a backup. One or two
runs that vanish are taken for lost; where many do, starting them all again could start them twice, and certainly costs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reconciler.core.actions import Action, Stop, Verb, View
from reconciler.core.cooling import Pause, pauses
from reconciler.core.decide import Tended
from reconciler.core.job import Desired, Json
from reconciler.core.machine import Machine
from reconciler.core.memory import Memory
from reconciler.core.names import JobKey
from reconciler.core.observation import Census, Presence, Sighting
from reconciler.core.phase import Phase
from reconciler.core.solve import Closed

if TYPE_CHECKING:
    from reconciler.core.plan import World

# Fewer than three that vanish together may be chance, and a small host would be held for each of its losses.
MISSING_MIN = 3
# Below a third the rest of the host speaks for the look: whoever cleans up, or lost a disk of many, has not lost the host.
MISSING_SHARE = 1 / 3

REASON = "MassDisappearance"

ROOTLESS = (
    "its status root is gone, and with it the records of runs that were started there. Mount the file system, or mend the "
    "cluster's root; if the records are gone for good, make that directory anew"
)

_JOBS_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Alarm:
    """`missing` of the `minded` runs on `host` are gone in one look, and nothing of their own tells how. `around`: these are too
    many only together with what is missing elsewhere in its cluster: (cluster, missing, minded). `hosts`: those of which a
    person would have to say that what is missing is lost."""

    host: str
    missing: tuple[JobKey, ...]
    minded: int
    around: tuple[str, int, int] | None
    hosts: tuple[str, ...]

    @property
    def flag(self) -> str:
        """What a person says who knows that they are lost."""
        return " ".join(f"--confirm-lost {host}" for host in self.hosts)

    @property
    def count(self) -> str:
        return f"{len(self.missing)} of {self.minded} runs"

    @property
    def extent(self) -> str:
        """How many are missing, wherever it was counted."""
        return self.count if self.around is None else "{1} of {2} runs in cluster {0}".format(*self.around)

    @property
    def message(self) -> str:
        names = ", ".join(map(str, self.missing[:_JOBS_NAMED_MAX])) + (
            ", …" if len(self.missing) > _JOBS_NAMED_MAX else ""
        )
        where = self.host
        if self.around is not None:
            cluster, missing, minded = self.around
            where += f", and {missing} of {minded} in its cluster {cluster},"
        return (
            f"{self.count} on {where} are gone in one look, and nothing tells how they ended ({names}). Nothing is done "
            f"there: no end is recorded, nothing is requeued, stopped, removed or started. Is the cluster's root mounted, and "
            f"the one that the inventory names? Has the scheduler lost its records, or did somebody clean up? Mend that, and "
            f"they are found again. If they are lost: reconciler apply {self.flag}"
        )

    def to_json(self) -> dict[str, Json]:
        """As the documents of `plan` and `status` say it."""
        return {
            "host": self.host,
            "reason": REASON,
            "missing": len(self.missing),
            "minded": self.minded,
            "jobs": [str(job) for job in self.missing],
            "message": self.message,
            "flag": self.flag,
        }


def vanished(memory: Memory, seen: Sighting, *, queued: bool) -> bool:
    """Is the run gone without a word of its own? A final report, a restart of its machine and what a scheduler says are such
    words; so is a claim whose processes are gone. On Volcano a job that is gone always has one. `queued`: behind a scheduler,
    whose silence says nothing about processes."""
    if seen.alive or (seen.report is not None and seen.report.status.final):
        return False
    if seen.presence is Presence.PRESENT:
        return queued and seen.queue is None and seen.machine is None
    known = memory.handle.native.get("boot_id") if memory.handle else None
    restarted = isinstance(known, str) and bool(seen.boot_id) and known != seen.boot_id
    return seen.presence is Presence.ABSENT and not restarted


def alarms(world: World, found_elsewhere: Collection[JobKey]) -> dict[str, Alarm]:
    """The hosts on which too many runs vanished, by name: too many of that host, or of all hosts of its cluster that were seen
    whole, since these share what may have gone away. `found_elsewhere`: jobs of which another run was seen.

    Counted are runs that were surely started and that we did not ask to end, whichever jobs are selected.
    """
    minded: dict[str, int] = {}
    missing: dict[str, list[JobKey]] = {}
    for memory in world.memories.values():
        run = memory.run
        if run is None or not memory.submitted or memory.stop is not None:
            continue
        minded[run.host] = minded.get(run.host, 0) + 1
        if memory.job not in found_elsewhere and is_missing(world, memory):
            missing.setdefault(run.host, []).append(memory.job)
    if not missing:
        return {}
    counts: dict[str, tuple[int, int]] = {}
    clusters = {view.name: view.cluster for view in world.hosts}
    for host, cluster in clusters.items():
        census = world.observation.censuses.get(host)
        if census is not None and census.complete:
            gone, of = counts.get(cluster, (0, 0))
            counts[cluster] = gone + len(missing.get(host, ())), of + minded.get(host, 0)
    found: dict[str, Alarm] = {}
    for host, jobs in missing.items():
        here, around = (len(jobs), minded[host]), counts.get(clusters.get(host, ""), (0, 0))
        wide = _too_many(*around)
        # Were one host of them confirmed, the rest might be too few to be held: whoever says it of one has to say it of all.
        hosts = sorted(one for one in missing if clusters.get(one) == clusters[host]) if wide else [host]
        if (wide or _too_many(*here)) and not world.lost.issuperset(hosts):
            whole = None if _too_many(*here) else (clusters[host], *around)
            found[host] = Alarm(host, tuple(sorted(jobs)), minded[host], whole, tuple(hosts))
    return found


def _too_many(missing: int, minded: int) -> bool:
    return missing >= MISSING_MIN and missing > MISSING_SHARE * minded


def is_missing(world: World, memory: Memory) -> bool:
    """Has the open run of this job vanished?"""
    run = memory.run
    if run is None:
        return False
    seen = world.observation.look(run.host, run.run_id)
    if seen.alive or seen.presence is Presence.UNKNOWN:
        return False
    view = next((view for view in world.hosts if view.name == run.host), None)
    return vanished(memory, seen, queued=view is not None and view.queue is not None)


def concerns(world: World, alarm: Alarm) -> bool:
    """Is the alarm one of a pass over the selected jobs?"""
    if world.only is None or not world.only.isdisjoint(alarm.missing):
        return True
    runs = (memory.run for job in world.only if (memory := world.memories.get(job)) is not None)
    return any(run is not None and run.host == alarm.host for run in runs)


@dataclass(frozen=True, slots=True)
class Shut:
    """Hosts that are to take no new jobs now: none of `every`, and beside those none of `alone` for one job."""

    every: Mapping[str, Closed] = field(hash=False)
    alone: Mapping[JobKey, Mapping[str, Closed]] = field(hash=False)

    def to(self, job: JobKey) -> Mapping[str, Closed]:
        """Where this job may not start."""
        own = self.alone.get(job)
        return {**own, **self.every} if own else self.every


def closed(world: World, tended: Mapping[JobKey, Tended], alarms: Mapping[str, Alarm]) -> Shut:
    """Hosts that are to take no new jobs now: on which runs are missing, or all records, and which cool down. What this pass has
    learned of ends counts too."""
    strikes: list[tuple[JobKey, str, float]] = []
    rootless: dict[str, Closed] = {}
    for key, memory in world.memories.items():
        state = tended.get(key)
        known = state.memory.strikes if state is not None else memory.strikes
        strikes += ((key, host, at) for host, at in known)
        run = memory.run
        if run is not None and run.host not in rootless and world.observation.look(run.host, run.run_id).rootless:
            # Launched now, a job would make the directory anew, and those whose records it held would look gone.
            rootless[run.host] = Closed(ROOTLESS)
    paused = pauses(strikes, world.breaks, world.now)
    every = _cooling(world, paused.every) | rootless
    every |= {host: Closed(passed_over(alarm)) for host, alarm in alarms.items()}
    return Shut(every, {job: _cooling(world, own) for job, own in paused.alone.items()})


def _cooling(world: World, paused: Mapping[str, Pause]) -> dict[str, Closed]:
    return {host: Closed(one.sentence, one.until) for host, one in paused.items() if host not in world.trusted}


def unminded(world: World, census: Census) -> Iterable[Machine]:
    """Machines of ours that carry no open run."""
    for machine in census.machines:
        memory = world.memories.get(machine.job) or Memory(machine.job)
        minded = memory.run is not None and memory.run.run_id == machine.run_id
        if machine.owner == world.owner and not minded and (world.only is None or machine.job in world.only):
            yield machine


def held(memory: Memory, desired: Desired | None, alarm: Alarm, *, frozen: bool) -> Tended:
    """The job of a vanished run: as it is, whatever is wished of it meanwhile."""
    assert memory.run is not None
    message = (
        f"attempt {memory.run.attempt} on {alarm.host} is gone without a trace, with others ({alarm.extent}): perhaps its root "
        f"is not mounted or not the one that the inventory names, a scheduler lost its records, or somebody cleaned up. Nothing "
        f"is done until they are seen again, or `reconciler apply {alarm.flag}`"
    )
    wish = _wish(memory, desired, frozen=frozen)
    if wish:
        message += f". {wish} meanwhile, which is kept and heeded then"
    view = View(
        memory.job,
        Phase.HELD,
        REASON,
        message,
        host=alarm.host,
        attempt=memory.run.attempt,
        run_id=memory.run.run_id,
        frozen=frozen,
    )
    return Tended(memory, (), view)


def restrained(state: Tended, alarm: Alarm) -> Tended:
    """The job of a run that is seen on such a host, or of a stray there: only what a person asked for by name is done."""
    action, memory = state.action, state.memory
    if action is None or action.host != alarm.host or action.verb in (Verb.HOLD, Verb.ADOPT):
        return state
    by_name = (memory.cancelled or memory.suspended) and isinstance(action.effect, Stop)
    if by_name and memory.run is not None and action.run_id == memory.run.run_id:
        return state
    return replace(state, view=_put_off(state.view, action, alarm), action=None)


def passed_over(alarm: Alarm) -> str:
    """Why no job is started there."""
    return f"held, because {alarm.count} there are gone without a trace ({REASON})"


def _put_off(view: View | None, action: Action, alarm: Alarm) -> View | None:
    if view is None:
        return None
    said = (
        f"{action.verb} waits ({action.message}): nothing is done on {alarm.host} while {alarm.count} there are missing"
    )
    return replace(view, reason=REASON, message=said)


def _wish(memory: Memory, desired: Desired | None, *, frozen: bool) -> str:
    if memory.cancelled:
        return "It was cancelled"
    if memory.suspended or (desired is not None and desired.suspend):
        return "It was suspended"
    return "" if desired is not None or frozen else "Its manifest was removed"

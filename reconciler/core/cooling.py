"""A host on which attempts are lost or refused again and again gets no new ones for a while: others are chosen. Pure.

It follows from what the journal says of ended and refused attempts, and so holds over processes; beside that, from what one
process saw of the way there. The window passes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler.core.cause import Cause
from reconciler.core.names import JobKey
from reconciler.core.observation import Report
from reconciler.core.run import Run

# Twice may be chance. From the third on within half an hour another host serves better: by then the back-off of the jobs alone
# would start a new attempt there every few minutes.
STRIKES_MIN = 3
WINDOW_S = 1800.0

# A restart takes all attempts of a host with it, and a full disk refuses a whole batch. What is seen within a minute is
# therefore one incident, and one incident alone is no flapping, however many attempts it costs.
INCIDENT_S = 60.0
INCIDENTS_MIN = 2

# What one job alone meets with on a host may lie with that job: a directory of its own that nobody can write to, a program that
# kills its supervisor. That keeps this job away from there, and no other.
JOBS_MIN = 2

# The first pause outlasts a restart with file system check. The longest is what a mended host may stand idle without a word.
FIRST_PAUSE_S = 600.0
LONGEST_PAUSE_S = 3600.0

# A way that broke off three times in a quarter of an hour will break off under the next launch as well.
BREAKS_MIN = 3
BREAKS_WINDOW_S = 900.0

# How long and how many are remembered per job: more than any pause that they can lead to needs.
STRIKES_KEPT_S = 12 * 3600.0
STRIKES_KEPT = 12

# The reasons of a refused launch that lie with the host, not with the job (docs/node-protocol.md, launch).
BLAMED_REASONS = frozenset({"unwritable", "busy", "unreachable"})

REASON = "HostCoolingDown"


@dataclass(frozen=True, slots=True)
class Pause:
    """No new attempts on `host` until `until` (our clock); `why` in words."""

    host: str
    until: float
    why: str

    @property
    def sentence(self) -> str:
        return f"cools down until {clock(self.until)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Pauses:
    """`every`: the hosts that cool down for every job; `alone`: those that one job has to stay away from, by job and host."""

    every: Mapping[str, Pause] = field(hash=False)
    alone: Mapping[JobKey, Mapping[str, Pause]] = field(hash=False)


def blames_host(run: Run, cause: Cause, report: Report | None, *, lasted: bool) -> bool:
    """Does this end speak against its host? Only what the run itself did not tell: its own set-up may fail everywhere, and no job
    may take a host from the others. Behind a scheduler nothing does, since that minds its machines itself. On a rented machine
    only an attempt that never came to work: another machine is made for the next."""
    told = report is not None and report.seq > 0 and report.status.final
    if cause is not Cause.INFRASTRUCTURE or told:
        return False
    return not run.place or ("zone" in run.place and not lasted)


def strike(had: tuple[tuple[str, float], ...], host: str, at: float) -> tuple[tuple[str, float], ...]:
    """With one more attempt that `host` lost or refused, and without those that are of no use any more."""
    kept = [one for one in had if abs(at - one[1]) < STRIKES_KEPT_S]
    return (*kept, (host, at))[-STRIKES_KEPT:]


def pauses(strikes: Iterable[tuple[JobKey, str, float]], breaks: Mapping[str, Sequence[float]], now: float) -> Pauses:
    """Who is to stay away from which hosts now. `strikes`: (job, host, when) of all attempts that were lost or refused there;
    `breaks`: when the way to a host was seen to go away.

    A time that has not come yet is from a clock ahead of ours, and says nothing of how long ago that was.
    """
    by_host: dict[str, list[tuple[float, JobKey]]] = {}
    for job, host, at in strikes:
        if at <= now:
            by_host.setdefault(host, []).append((at, job))
    every: dict[str, Pause] = {}
    alone: dict[JobKey, dict[str, Pause]] = {}
    for host, hits in by_host.items():
        hits.sort()
        until, since = _until(hits, STRIKES_MIN, WINDOW_S, INCIDENT_S, JOBS_MIN)
        if now < until:
            row = [hit for hit in hits if hit[0] >= since]
            who = f"{len(row)} attempts of {len({job for _, job in row})} jobs"
            every[host] = Pause(host, until, f"{who} were lost or refused there, the last at {clock(row[-1][0])}")
        for job in {job for _, job in hits}:
            own = [hit for hit in hits if hit[1] == job]
            until, since = _until(own, STRIKES_MIN, WINDOW_S, INCIDENT_S, 1)
            if now < until:
                count = sum(at >= since for at, _ in own)
                last = clock(own[-1][0])
                why = f"{count} attempts of this job alone were lost or refused there, the last at {last}"
                alone.setdefault(job, {})[host] = Pause(host, until, why)
    for host, seen in breaks.items():
        gone = sorted(at for at in seen if at <= now)
        until, since = _until([(at, None) for at in gone], BREAKS_MIN, BREAKS_WINDOW_S, 0.0, 1)
        if now < until and (host not in every or every[host].until < until):
            count = sum(at >= since for at in gone)
            every[host] = Pause(
                host, until, f"the connection to it broke off {count} times, the last time at {clock(gone[-1])}"
            )
    return Pauses(every, alone)


def _until(
    hits: Sequence[tuple[float, JobKey | None]], least: int, window_s: float, incident_s: float, jobs_min: int
) -> tuple[float, float]:
    """Until when the last of `hits` leads to a pause, 0 for none, and with which hit that row began. Each further incident during
    a pause, or within a window after it, doubles the pause; one whose window holds fewer than `jobs_min` jobs says nothing."""
    incidents: list[list[tuple[float, JobKey | None]]] = []
    for hit in hits:
        if incidents and hit[0] - incidents[-1][0][0] <= incident_s:
            incidents[-1].append(hit)
        else:
            incidents.append([hit])
    level, until, since = 0, 0.0, 0.0
    for index, incident in enumerate(incidents):
        at = incident[-1][0]
        recent = [each for each in incidents[: index + 1] if at - each[-1][0] < window_s]
        if len({job for each in recent for _, job in each}) < jobs_min:
            continue
        if level and at < until + window_s:
            level += 1
        elif sum(map(len, recent)) >= least and len(recent) >= INCIDENTS_MIN:
            level, since = 1, recent[0][0][0]
        else:
            level = 0
        if level:
            # 2**10 first pauses are more than the longest: a bound for the exponent, never reached in use.
            until = at + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(level - 1, 10))
    return (until, since) if level else (0.0, 0.0)


def clock(at: float) -> str:
    """A time of the day for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")

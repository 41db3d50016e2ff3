"""The sweeps of all files together: which of them stand twice, and what `depends_on` means by a sweep's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from reconciler.core.errors import Problem
from reconciler.core.job import Desired
from reconciler.core.names import JobKey


@dataclass(slots=True)
class Sweeps:
    """Filled while files are put together. `members` holds every sweep's, in the order of the files."""

    members: dict[JobKey, list[JobKey]] = field(default_factory=dict)
    # Per sweep, one member for each document that describes it.
    _described: dict[JobKey, dict[tuple[str, int], Desired]] = field(default_factory=dict)
    _keys: dict[str, JobKey] = field(default_factory=dict)
    _bad: set[str] = field(default_factory=set)

    def add(self, job: Desired) -> None:
        """Count a member in."""
        key = self._keys.get(job.sweep)
        if key is None:
            key = self._keys[job.sweep] = JobKey(*job.sweep.split("/"))
            self.members[key], self._described[key] = [], {}
        self.members[key].append(job.key)
        self._described[key].setdefault((job.file, job.line), job)

    def holder(self, key: JobKey, jobs: Mapping[JobKey, Desired]) -> JobKey:
        """The sweep of a member, else the key itself."""
        job = jobs.get(key)
        return self._keys[job.sweep] if job is not None and job.sweep else key

    def judge(self, jobs: Mapping[JobKey, Desired], frozen: set[JobKey], problems: list[Problem]) -> None:
        """Freeze, whole and with one problem per document, the sweeps whose name somebody else has too."""
        for key, described in self._described.items():
            told: list[tuple[Desired, str]] = []
            for here, job in described.items():
                others = ", ".join(f"{file}:{line}" for file, line in described if (file, line) != here)
                if others:
                    told.append((job, f"Sweep {key} is described twice: also in {others}. Keep one of them"))
            namesake = jobs.get(key)
            if namesake is not None:
                told.append((namesake, f"Job {key} has the name of a sweep: rename one of them"))
                told.extend(
                    (job, f"Sweep {key} has the name of a job in {namesake.file}:{namesake.line}: rename one of them")
                    for job in described.values()
                )
            elif key in frozen:
                told.extend(
                    (job, f"Sweep {key} is described twice: also in a document that is broken")
                    for job in described.values()
                )
            if told:
                problems.extend(Problem(job.file, job.line, message) for job, message in told)
                self._bad.add(str(key))
                frozen.add(key)
                frozen.update(self.members[key])

    def told(self, same: Sequence[Desired]) -> bool:
        """Has `judge` told already what is wrong with these?"""
        return all(job.sweep in self._bad or str(job.key) in self._bad for job in same)

    def expanded(self, jobs: Iterable[Desired], frozen: AbstractSet[JobKey]) -> Iterator[Desired]:
        """The jobs, waiting for the members where they wait for a sweep. A frozen sweep keeps its name: its members may be
        more than are known."""
        known = {key: keys for key, keys in self.members.items() if key not in frozen}
        made: dict[tuple[JobKey, ...], tuple[JobKey, ...]] = {}
        for job in jobs:
            if not job.depends_on or known.keys().isdisjoint(job.depends_on):
                yield job
                continue
            # Members wait for the same, and share the tuple: a thousand after a thousand are no million keys.
            wide = made.get(job.depends_on)
            if wide is None:
                every = (member for key in job.depends_on for member in known.get(key, (key,)))
                wide = made[job.depends_on] = tuple(dict.fromkeys(every))
            yield replace(job, depends_on=wide)

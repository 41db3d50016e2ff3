"""Names in jobs that must exist in the inventory.

Clusters, hosts and chips. Told when a plan is made, not at a launch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from reconciler.core.chips import CHIPS
from reconciler.core.errors import Problem
from reconciler.core.inventory import Inventory, VolcanoHost
from reconciler.core.job import Desired
from reconciler.load.words import did_you_mean, one_of


def check_references(jobs: Iterable[Desired], inventory: Inventory) -> tuple[Problem, ...]:
    """Problems of the jobs whose request names something that the inventory lacks.

    A chip must be in the table or be a label of a Volcano host. Decodes every job given: pass those that are new or
    changed. The members of a sweep ask for the same, so that it is told once.
    """
    labels = {chip for host in inventory.hosts.values() if isinstance(host, VolcanoHost) for chip in host.chips}
    chips = labels | CHIPS.keys()
    problems: list[Problem] = []
    sweeps: set[str] = set()
    for job in jobs:
        if job.sweep in sweeps:
            continue
        if job.sweep:
            sweeps.add(job.sweep)
        who = f"Sweep {job.sweep}" if job.sweep else f"Job {job.key}"
        request = cast(dict[str, Any], cast(dict[str, Any], job.normal["spec"])["request"])
        wanted = (
            ("cluster", "clusters", request["clusters"], inventory.clusters.keys()),
            ("cluster", "exclude_clusters", request["exclude_clusters"], inventory.clusters.keys()),
            ("host", "hosts", request["hosts"], inventory.hosts.keys()),
            ("chip", "chip", [request["chip"]] if request["chip"] else [], chips),
        )
        problems.extend(
            Problem(
                job.file,
                job.line,
                f"{who}: spec.request.{field} names the {kind} {name!r}, which the inventory does not have"
                f"{did_you_mean(name, known) or f': expected {one_of(sorted(known))}'}",
            )
            for kind, field, names, known in wanted
            for name in names
            if name not in known
        )
    return tuple(problems)

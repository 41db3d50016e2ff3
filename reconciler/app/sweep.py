"""Every rented machine that carries our mark, in any zone: what needs it, and the deletion of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reconciler.app.act import Done
from reconciler.app.converge import Pass, Reconciler
from reconciler.core.actions import Action, Release, Verb
from reconciler.core.machine import Machine
from reconciler.core.release import Fate


@dataclass(frozen=True, slots=True)
class Found:
    """One machine. `fate` is None for one that is needed or on its way out."""

    host: str
    machine: Machine
    fate: Fate | None


def machines_of(seen: Pass) -> tuple[list[Found], Mapping[str, str]]:
    """All machines of ours, and the rented hosts that could not be asked, with the reason."""
    due = {
        (action.host, action.effect.machine.name, action.effect.machine.zone): Fate(True, action.message)
        for action in seen.plan.actions
        if isinstance(action.effect, Release)
    }
    kept = {(machine.name, machine.zone): fate for machine, fate in seen.plan.kept}
    found: list[Found] = []
    unseen: dict[str, str] = {}
    for host in seen.world.hosts:
        if host.rented is None:
            continue
        census = seen.world.observation.censuses.get(host.name)
        if census is None or not census.complete:
            unseen[host.name] = census.error if census is not None else "it was not asked"
            continue
        for machine in census.machines:
            if machine.owner != seen.world.owner:
                continue
            fate = due.get((host.name, machine.name, machine.zone)) or kept.get((machine.name, machine.zone))
            found.append(Found(host.name, machine, fate))
    return found, unseen


def sweep(
    reconciler: Reconciler, seen: Pass, found: list[Found], *, why: str, report: Callable[[Done], None] | None
) -> list[Done]:
    """Delete the machines among `found` that nothing needs, kept ones too. Raises what Reconciler.apply raises."""
    actions = tuple(
        Action(
            Verb.DELETE,
            item.machine.job,
            "Swept",
            f"{item.machine.shown} is deleted: swept",
            item.machine.run_id,
            item.host,
            effect=Release(item.machine),
        )
        for item in found
        if item.fate is not None
    )
    # What this look learned (a run has ended) is written down with it: it may be told by nothing else afterwards.
    return reconciler.apply(
        replace(seen, plan=replace(seen.plan, actions=actions, refusal=None)), why=why, report=report
    )

"""When a rented machine is deleted: once no attempt needs it, and its disposal does not keep it. Pure.

Decided from what is seen (the machine, with its disposal in its own marks) and from how its run ended, never from what we meant
to do: so a machine is found and deleted whatever crashed between its creation and now.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.job import TpuOverrides
from reconciler.core.machine import DeleteOn, Disposal, Machine
from reconciler.core.memory import Memory
from reconciler.core.phase import Phase


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a machine that no attempt needs. `delete` now, or kept for the reason in `why`, until `until` (our clock;
    0: until somebody deletes it)."""

    delete: bool
    why: str
    until: float = 0.0


def disposal_of(made: Disposal, given: TpuOverrides) -> Disposal:
    """What a job's manifest asks for, over what its host says, or over what its machine was made with: an edit reaches a machine
    that is there."""
    return Disposal(
        made.delete if given.delete_on_exit is None else DeleteOn(given.delete_on_exit),
        made.keep_s if given.keep_for_s is None else given.keep_for_s,
        made.ttl_s if given.ttl_s is None else given.ttl_s,
    )


def outlived(machine: Machine, disposal: Disposal, now: float) -> bool:
    """Has it reached its ttl? By the cloud's clock for its beginning and ours for now."""
    return disposal.ttl_s is not None and machine.created_at > 0 and now - machine.created_at >= disposal.ttl_s


def fate(machine: Machine, memory: Memory, now: float) -> Fate | None:
    """None for a machine that is needed, or on its way out. `memory` is that of its job."""
    if machine.going or (memory.run is not None and memory.run.run_id == machine.run_id):
        return None
    if machine.dead:
        return Fate(True, f"it is {machine.words} and will not run again")
    disposal = machine.disposal
    if outlived(machine, disposal, now):
        return Fate(True, "it has reached its ttl")
    stone = memory.tombstone
    if stone is None and memory.attempt == 0 and disposal.delete is not DeleteOn.ALWAYS:
        return Fate(False, f"nothing is known of how its run ended, and delete_on_exit is {disposal.delete}")
    if stone is None or stone.run_id != machine.run_id:
        return Fate(True, f"no attempt needs it (it was made for {machine.run_id})")
    ended = {Phase.SUCCEEDED: DeleteOn.SUCCESS, Phase.FAILED: DeleteOn.FAILURE}.get(stone.phase)
    how = "was cancelled" if ended is None else "succeeded" if ended is DeleteOn.SUCCESS else "failed"
    kept = disposal.delete is DeleteOn.NEVER or (
        ended is not None and disposal.delete in (DeleteOn.SUCCESS, DeleteOn.FAILURE) and disposal.delete is not ended
    )
    if kept:
        return Fate(False, f"its run {how}, and delete_on_exit is {disposal.delete}")
    if now < stone.at + disposal.keep_s:
        return Fate(False, f"its run {how}, and keep_for is not over", stone.at + disposal.keep_s)
    return Fate(True, f"its run {how}")

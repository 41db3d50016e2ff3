"""What rented machines cost, and whether one more may be made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler.core.inventory import Limits
from reconciler.core.job import Desired
from reconciler.core.machine import Machine
from reconciler.core.memory import Memory
from reconciler.core.names import JobKey
from reconciler.core.observation import Observation
from reconciler.core.solve import HostView, Placement


@dataclass(frozen=True, slots=True)
class Spending:
    """Over all hosts: machines of ours that exist or are being made, their chips, what they cost an hour, and what all that this
    state knows of has cost so far. `unpriced`: some of it has no price. `blind`: hosts that could not be asked."""

    machines: int = 0
    chips: int = 0
    per_hour: float = 0.0
    total: float = 0.0
    unpriced: bool = False
    blind: tuple[str, ...] = ()

    def with_one(self, placement: Placement) -> Spending:
        """With one more machine."""
        price = placement.price_per_hour or 0.0
        return replace(
            self,
            machines=self.machines + 1,
            chips=self.chips + placement.chips,
            per_hour=self.per_hour + price,
            unpriced=self.unpriced or not price,
        )


def spending(
    hosts: Iterable[HostView], observation: Observation, memories: Mapping[JobKey, Memory], owner: str, now: float
) -> Spending:
    """What is known of it now. Machines that vanished without our deleting them are not in the total."""
    found = Spending(total=sum(memory.cost for memory in memories.values()))
    for host in hosts:
        if host.rented is None:
            continue
        census = observation.censuses.get(host.name)
        if census is None or not census.complete:
            found = replace(found, blind=(*found.blind, host.name))
            continue
        for machine in census.machines:
            if machine.owner != owner:
                continue
            price = machine.price_per_hour or 0.0
            found = replace(
                found,
                machines=found.machines + 1,
                chips=found.chips + host.rented.chips,
                per_hour=found.per_hour + price,
                total=found.total + cost_of(machine, now) - _billed(memories.get(machine.job), machine),
                unpriced=found.unpriced or not price,
            )
    return found


def _billed(memory: Memory | None, machine: Machine) -> float:
    """What of its cost is in the memory of its job already."""
    billed = memory.billed if memory is not None else None
    return billed[1] if billed is not None and billed[0] == machine.key else 0.0


def cost_of(machine: Machine, now: float) -> float:
    """What it has cost so far, by the cloud's clock for its beginning and ours for its end; 0 without a price."""
    if not machine.price_per_hour or not machine.created_at:
        return 0.0
    return machine.price_per_hour * max(0.0, now - machine.created_at) / 3600


def over(limits: Limits, before: Spending, placement: Placement) -> tuple[str, bool] | None:
    """Why one more machine is too much, and whether that will not change by waiting; None when it is not."""
    after = before.with_one(placement)
    if limits == Limits():
        return None
    if before.blind:
        return f"what runs on {', '.join(before.blind)} is not known, so that no limit can be kept", False
    if limits.max_chips is not None and after.chips > limits.max_chips:
        return _said("max_chips", limits.max_chips, before.chips, placement.chips), placement.chips > limits.max_chips
    price = placement.price_per_hour or 0.0
    costly = limits.max_cost_per_hour is not None or limits.max_cost_total is not None
    if costly and not price:
        return f"limits keep costs, and {placement.host} has no price_per_chip_hour", True
    if limits.max_cost_per_hour is not None and after.per_hour > limits.max_cost_per_hour:
        alone = price > limits.max_cost_per_hour
        return _said("max_cost_per_hour", limits.max_cost_per_hour, before.per_hour, price), alone
    if limits.max_cost_total is not None and before.total >= limits.max_cost_total:
        return f"limits.max_cost_total is {limits.max_cost_total:.2f}, and {before.total:.2f} are spent", True
    return None


def was_approved(memory: Memory, desired: Desired, placement: Placement) -> bool:
    """Did somebody say yes to this work on this host at this price or a higher one? So that what was lost goes on without
    asking. A price that is not known is never that."""
    if memory.pin_for != (desired.digest, desired.generation) or not placement.price_per_hour:
        return False
    return placement.price_per_hour <= memory.approved.get(placement.host, 0.0)


def _said(name: str, limit: float, used: float, more: float) -> str:
    return f"limits.{name} is {limit:g}: {used:.6g} in use, {more:.6g} more asked"

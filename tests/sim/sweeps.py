"""Which workloads are interrupted how, at each of their boundaries."""

from __future__ import annotations

from tests.sim.lives import ALL

NAMES = [workload.name for workload in ALL]
# Where the script itself hangs on a call that goes wrong once, or on a moment: an interruption makes it another script. These
# keep their promises wherever they are killed, and need not end alike.
DELICATE = frozenset(
    {
        "a launch arrives late",
        "a launch arrives later",
        "a launch arrives late, and was sent again in vain",
        "a launch arrives after it was given up",
        "it has finished before its end is asked for",
    }
)
STURDY = [name for name in NAMES if name not in DELICATE]
PLACES: dict[str, list[str]] = {
    "kill": STURDY,
    "stall": STURDY,
    "kill elsewhere": ["preempt and requeue", "many jobs over two hosts with accelerators"],
    "lose state": ["edit and replace", "preempt and requeue", "dependency chain", "delete"],
    "glance": ["edit and replace", "preempt and requeue", "many jobs over two hosts with accelerators"],
}

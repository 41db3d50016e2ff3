"""How each planted bug is known to be found: the storm or the workload that shows it, and the promise that it breaks.

`python -m tests.sim --prove` looks for all of them anew and prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Storm:
    """Within so many seeds, counted from 0. `known` is tried first. `kind`: of worlds, see kinds.py."""

    known: int
    kind: str = "storm"


@dataclass(frozen=True, slots=True)
class Script:
    """This workload; `how` and `at`: interrupted so, at this boundary or one nearby."""

    workload: str
    how: str = ""
    at: int | None = None


Proof = Storm | Script


PROOFS: dict[str, Proof] = {
    "intents are written after the effects": Storm(0),
    "stops have no intent": Storm(0),
    "launches are settled before they are made": Storm(0),
    "an open launch is not remembered": Storm(0),
    "a launch that was cut is taken for refused": Storm(4),
    "a launch missing from an answer is taken for refused": Storm(16),
    "a launch that is sent again is settled by an unreachable host": Script(
        "a launch arrives late, and was sent again in vain"
    ),
    "a launch is sent again under another token": Storm(1),
    "an unsettled launch is let go of at once": Script("a launch arrives late"),
    "an unsettled launch is not waited for from its end": Script("a launch arrives late"),
    "an unsettled launch of a dead process is not waited for": Script("a launch arrives later", "kill", 5),
    "a look again is forgotten in a crash": Script("an old state is restored", "kill", 35),
    "a number that was refused counts as used": Script("an old state is restored"),
    "an old answer is believed": Script("edit and replace", "stale"),
    "absence is read from a look that failed": Storm(0),
    "a failed look is taken for complete": Storm(1),
    "an unknown run is taken for ended": Storm(0),
    "a run on a host that is not asked is taken for ended": Script("a host leaves the inventory for a while"),
    "a state that was lost is not noticed": Script("the state is lost while a host is away"),
    "a host is marked as looked at too early": Script("an old state is restored", "kill", 41),
    "a host that knows more is not looked at again": Script("an old state is restored"),
    "a source that cannot be read prunes": Storm(27),
    "a source that cannot be read forgets": Storm(29),
    "a broken manifest is a removed one": Storm(0),
    "a frozen run is stopped": Storm(0),
    "a frozen stop goes on": Script("its manifest is broken while its run is ended"),
    "a mass deletion is not refused": Script("delete everything"),
    "the generation is ignored when it is over": Storm(3),
    "the generation is ignored while it runs": Script("run again while it runs"),
    "every edit replaces": Storm(21),
    "on_change is ignored": Script("an edit that is held"),
    "deletion is ignored": Script("let go of"),
    "a released run is minded again": Script("let go of"),
    "a suspended job starts": Storm(1),
    "a cancel by request is forgotten": Script("cancelled by request and resumed"),
    "a resumed job stays cancelled": Script("cancelled by request and resumed"),
    "a wish that is taken back is carried out": Script("removed, and wanted again before it has ended"),
    "a deleted job does not come back": Script("removed and committed again"),
    "a failed dependency is fulfilled": Storm(9),
    "a dependency of yesterday is fulfilled": Storm(44),
    "marks are not compared": Storm(0),
    "tokens are not compared": Script("its run id is taken"),
    "an attempt's number is used twice": Storm(0),
    "a forgotten job begins with its first attempt": Script("removed and committed again"),
    "run ids collide": Storm(1),
    "the newest claim does not count": Script("the state is lost after all was done"),
    "a stray is left alone": Script("a launch arrives after it was given up"),
    "a twin is left in the queue": Script("in the queue twice"),
    "a twin's end is the run's": Storm(1),
    "a stop is done when it was asked for": Storm(0),
    "a stop forgets the grace": Storm(0),
    "a stop is forced at once": Storm(0),
    "a stop is asked for once": Script("its manifest is broken while its run is ended"),
    "a stuck supervisor is never forced": Script("its manifest is broken while its run is ended"),
    "a finished job runs again": Storm(0),
    "a finished job runs again when its manifest comes back": Script("finished, removed and committed again"),
    "an end that we asked for hides a success": Script("it has finished before its end is asked for"),
    "preemption is a failure": Script("cancelled by somebody while it waits"),
    "one budget for all causes": Script("each cause has a budget of its own"),
    "the budget begins anew with each attempt": Script("fails until its budget is spent"),
    "the budget is one too many": Storm(1),
    "the budget dies with the state": Script("the state is lost between two failures"),
    "what somebody else cancelled is requeued": Storm(9),
    "a requeue does not wait": Storm(0),
    "the back-off is nothing": Storm(0),
    "an accelerator is given twice in a pass": Storm(1),
    "what cannot be seen holds nothing": Script("an accelerator is kept for a launch on its way"),
    "slots are not counted": Storm(1),
    "fewer chips than asked": Storm(3),
    "request.hosts is ignored": Storm(1),
    "the lock is not asked before an effect": Storm(1),
    "the lock never expires": Storm(12),
    "the lock is taken from whoever has it": Script("edit and replace", "glance", 1),
    "a holder that lost the lock goes on writing": Storm(1),
    "a stale plan is carried out": Storm(3),
    "memory of another process is not noticed": Storm(0),
    # --- in the adapters
    "a submission that timed out is taken for refused": Storm(39, "wire"),
    "a run that the queue forgot is given up at once": Storm(3, "wire"),
    "what the scheduler may start again is taken for over": Storm(1, "wire"),
    "the job that began is not the run's": Storm(1, "wire"),
    "a VM that is not listed is gone": Storm(13, "tpu"),
    "everybody's VMs are ours": Storm(0, "tpu"),
    "a VM that is there is not told": Storm(0, "tpu"),
    "pods that outlive their job are not looked at": Storm(5, "volcano"),
}

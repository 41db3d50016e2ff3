"""A campaign's result as a page."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from statistics import mean

from tests.sim.fleet import Result, command
from tests.sim.kinds import KINDS
from tests.sim.planted.bugs import BUGS
from tests.sim.planted.hunt import WITHIN


def written(result: Result) -> str:
    """Markdown: what was run, what was met, what failed and how to see it again."""
    tally = result.tally
    interrupted = sum(count for kind, count in tally.worlds.items() if kind.startswith("interrupted"))
    swapped = tally.worlds["an old answer"] + tally.worlds["an answer lost"]
    rows = [
        *((f"{name}, by seed", f"{tally.worlds[name]} {kind.missing}".strip()) for name, kind in KINDS.items()),
        ("crash points (a world each)", str(interrupted)),
        ("old or lost answers (a world each)", str(swapped)),
        ("virtual hours", f"{tally.virtual_s / 3600:,.0f}"),
        ("passes", f"{tally.passes:,}"),
        ("launches and stops", f"{tally.effects:,}"),
        ("phases met", str(len(tally.phases))),
        ("reasons and kinds of journal lines met", str(len(tally.met))),
        ("planted bugs found", f"{len(BUGS) - len(result.unfound)} of {len(BUGS)}"),
        ("worlds that broke a promise", str(len(tally.failures))),
        ("wall time", f"{result.seconds:.0f} s, {result.jobs} processes, {os.cpu_count()} cores, {platform.machine()}"),
    ]
    parts = ["# Simulated worlds", ""]
    if result.interrupted:
        parts += ["Interrupted: this is what was done until then.", ""]
    parts += _table(("what", "how much"), rows)
    if tally.failures:
        parts += ["", "## Broken promises", ""]
        parts += _table(
            ("world", "what was broken", "again"), [(what, why, f"`{command(what)}`") for what, why in tally.failures]
        )
        parts += ["", "A seed that failed is kept: add `KIND SEED what it found` to tests/sim/regressions."]
    if result.unmet:
        parts += ["", "## Never came up, so it was not tested", "", ", ".join(result.unmet)]
    parts += ["", "## Planted bugs", ""]
    parts += _bugs(result)
    return "\n".join(parts) + "\n"


def _bugs(result: Result) -> list[str]:
    hunted = result.tally.hunted
    rows = []
    needed: list[int] = []
    for bug in BUGS:
        found = result.tally.found.get(bug)
        tries = [one.tried for one in hunted.get(bug, ()) if one is not None]
        seeds = (
            "" if bug not in hunted else f"{mean(tries):.0f} ({len(tries)} of {len(hunted[bug])})" if tries else "none"
        )
        needed += tries
        rows.append((bug, "NOT FOUND" if found is None else found.where, "" if found is None else found.by, seeds))
    head = ("bug", "found by", "because", "storms needed")
    parts = _table(head, rows) if hunted else _table(head[:3], [row[:3] for row in rows])
    if needed:
        parts += [
            "",
            f"From scratch, {result.rounds} times each, by at most {WITHIN} storms: {len(needed)} of "
            f"{sum(map(len, hunted.values()))} hunts found their bug, after {mean(needed):.1f} storms on average and "
            f"{max(needed)} at most. The other {len(BUGS) - len(hunted)} bugs are left to the workloads: no storm is known that "
            "finds them soon.",
        ]
    return parts


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]

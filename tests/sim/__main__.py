"""A campaign of simulated worlds:

    python -m tests.sim [--seeds 300] [--jobs 2] [--report build/sim.md]     a campaign, and its report
    python -m tests.sim --replay storm:17                                    one world again, with what happened in it
    python -m tests.sim --prove                                              where each planted bug is found now
    python -m tests.sim --soak 7                                             so many virtual days, one call in twenty failing

Exit code 0 when every promise was kept, everything that should come up came up and every planted bug was found, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from tests.sim.fleet import campaign, prove, replay
from tests.sim.folder import folder
from tests.sim.report import written
from tests.sim.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=300, help="storms; other kinds of worlds get a fifth each")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--hunt", type=int, metavar="ROUNDS", help="look for each planted bug from scratch so often")
    parser.add_argument("--report", type=Path, default=Path("build/sim.md"))
    parser.add_argument("--replay", metavar="WORLD", help="storm:SEED, crash:WORKLOAD:HOW:BOUNDARY, stale:WORKLOAD:N")
    parser.add_argument("--prove", action="store_true")
    parser.add_argument("--soak", type=int, metavar="DAYS")
    given = parser.parse_args()
    if given.replay:
        try:
            print("\n".join(replay(given.replay)))
        except AssertionError:
            traceback.print_exc()
            return 1
        return 0
    if given.prove:
        return prove()
    if given.soak:
        return _soak(given.soak, given.first or 1)
    rounds = given.seeds // 500 if given.hunt is None else given.hunt
    result = campaign(given.first, given.seeds, given.jobs, rounds)
    text = written(result)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(text)
    print(text)
    print(f"written to {given.report}", file=sys.stderr)
    return 0 if result.good else 1


def _soak(days: int, seed: int) -> int:
    print("| day | memory at its end | passes | runs begun | journal lines |\n| ---: | ---: | ---: | ---: | ---: |")
    try:
        with folder() as directory:
            for day in soak(directory, days=days, seed=seed):
                print(
                    f"| {day.number} | {day.memory_mib:.1f} MiB | {day.passes} | {day.started} | {day.lines} |",
                    flush=True,
                )
    except AssertionError:
        traceback.print_exc()
        return 1
    print("At rest in the end; journal and hosts agree.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A commit picked up by `watch`: from `git commit` returning to the first instant of the job's own process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import REPOSITORY, Row, make_site, process

WAIT_S = 30.0


def measure(scratch: Path, *, rounds: int) -> list[Row]:
    site = make_site(scratch / "pickup")
    (site.repo / "manifests" / "README.md").write_text("jobs\n")
    site.commit()
    taken = []
    with process(site.command("watch"), env=site.env, cwd=REPOSITORY):
        time.sleep(3.0)
        for turn in range(2 * rounds):
            stamp = site.root / f"started-{turn}"
            (site.repo / "manifests" / f"job-{turn}.yaml").write_text(
                f"apiVersion: reconciler/v1\nkind: Job\nmetadata: {{name: job-{turn}, project: bench}}\n"
                f"spec:\n  command: [sh, -c, 'date +%s.%N > {stamp}.new; mv {stamp}.new {stamp}']\n  source: null\n"
            )
            site.commit()
            committed = time.time()
            while not stamp.exists() and time.time() < committed + WAIT_S:
                time.sleep(0.01)
            taken.append(float(stamp.read_text()) - committed)
            time.sleep(2.0 + 0.37 * turn)  # meet the loop at different moments of its rest
    return [Row("`git commit` to the job's process, `watch` running", taken, target=1.0)]

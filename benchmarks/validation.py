"""`reconciler validate` over 10,000 manifests of 25 lines (those of validate.py, which looks at the parts)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import validate
from measure import Row, expect, make_site


def measure(scratch: Path, *, rounds: int, count: int = 10000) -> list[Row]:
    site = make_site(
        scratch / "validation",
        "clusters: {c: {root: /r, work: /w}}\nhosts: {gpu: {type: plain, ssh: gpu, cluster: c, chips: {h100: 8}}}\n",
    )
    validate.generate(site.repo / "manifests", count)
    # The template's jobs wait for a job of this name.
    (site.repo / "manifests" / "tokenize.yaml").write_text(
        "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: tokenize, project: lm, group: ablations}\n"
        "spec: {command: ['true'], source: null}\n"
    )
    taken = [expect(site("validate")) for _ in range(max(2, rounds // 2))]
    return [
        Row(f"`validate` of {count:,} manifests, nothing cached", [ran.wall_s for ran in taken]),
        Row("- its peak memory", [ran.peak_mib for ran in taken], "MiB"),
    ]

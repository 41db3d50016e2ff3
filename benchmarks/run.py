"""All figures, into docs/benchmarks.md between its markers.

    python benchmarks/run.py [--rounds 5] [--only local_jobs noop ...] [--print]

Takes minutes and wants a quiet machine: the load average before and after is part of the table, and with it anybody can
judge the figures. Nothing here is ever a test.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import REPOSITORY, Cpu, Row, machine

FIGURES = ("startup", "local_jobs", "noop", "ssh_launch", "pickup", "validation")
BEGIN, END = "<!-- figures: made by benchmarks/run.py -->", "<!-- end of figures -->"
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| figure | least | median | of | target | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        unit = f" {row.unit}" if row.unit else ""
        verdict = ""
        if row.target is not None:
            verdict = "met" if row.median <= row.target else "met at best" if row.least <= row.target else "**missed**"
        target = "" if row.target is None else f"{row.target:g}{unit}"
        note = "; ".join(filter(None, (verdict, row.note)))
        shown = [f"{value:.3f}" if value < 10 and row.unit == "s" else f"{value:.0f}" if row.unit != "s" else f"{value:.1f}" for value in (row.least, row.median)]  # fmt: skip
        lines.append(f"| {row.figure} | {shown[0]}{unit} | {shown[1]}{unit} | {len(row.values)} | {target} | {note} |")
    return lines


def version_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]}: none"
    out = subprocess.run(command, capture_output=True, text=True)
    return (out.stdout or out.stderr).splitlines()[0]


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=FIGURES, choices=FIGURES)
    parser.add_argument("--print", action="store_true", dest="printed", help="do not touch the document")
    arguments = parser.parse_args()
    before = load()
    rows: list[Row] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as name:
        for figure in arguments.only:
            print(f"{figure} ...", file=sys.stderr, flush=True)
            try:
                found = importlib.import_module(figure).measure(Path(name), rounds=arguments.rounds)
            except Exception as error:  # noqa: BLE001  one figure that cannot be had here must not cost the others
                traceback.print_exc()
                missing.append(f"{figure}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                continue
            print("\n".join(table(found)[2:]), file=sys.stderr, flush=True)
            rows += found
    cpu = Cpu()
    commit = version_of("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    text = [
        f"Taken {datetime.datetime.now(datetime.UTC):%Y-%m-%d} at commit {commit} on {machine()}; "
        f"{version_of('git', '--version')}; {version_of('terraform', 'version')}; {version_of('ssh', '-V')}. "
        f"Load average {before} before, {load()} after. CPU: {cpu.how}.",
        "",
        *table(rows),
        *(["", "Not taken: " + "; ".join(missing)] if missing else []),
    ]
    cpu.close()
    if arguments.printed:
        print("\n".join(text))
        return
    document = DOCUMENT.read_text()
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text("\n".join([head + BEGIN, "", *text, "", END]) + tail)


if __name__ == "__main__":
    main()

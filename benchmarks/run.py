"""All figures, into docs/benchmarks.md: each as soon as it is taken, between its own markers, so that one can be taken anew.

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

FIGURES = ("startup", "local_jobs", "noop", "ssh_launch", "pickup", "validation", "slurm", "tpu")
BEGIN, END = "<!-- {}: made by benchmarks/run.py -->", "<!-- end of {} -->"
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
        shown = [_shown(value, row.unit) for value in (row.least, row.median)]
        lines.append(f"| {row.figure} | {shown[0]}{unit} | {shown[1]}{unit} | {len(row.values)} | {target} | {note} |")
    return lines


def _shown(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:.0f}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


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
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as name:
        for figure in arguments.only:
            print(f"{figure} ...", file=sys.stderr, flush=True)
            before = load()
            try:
                rows = importlib.import_module(figure).measure(Path(name), rounds=arguments.rounds)
            except Exception:  # noqa: BLE001  one figure that cannot be had here must not cost the others
                traceback.print_exc()
                continue
            text = [f"{circumstances()} Load average {before} before, {load()} after.", "", *table(rows)]
            print("\n".join(text), flush=True)
            if not arguments.printed:
                write(figure, text)


def circumstances() -> str:
    cpu = Cpu()
    cpu.close()
    commit = version_of("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    tools = "; ".join([version_of("git", "--version"), version_of("terraform", "version"), version_of("ssh", "-V")])
    now = datetime.datetime.now(datetime.UTC)
    return f"Taken {now:%Y-%m-%d %H:%M} UTC at commit {commit} on {machine()}; {tools}. CPU: {cpu.how}."


def write(figure: str, text: list[str]) -> None:
    """Put the figure's part in place of the one before, or at the end."""
    begin, end = BEGIN.format(figure), END.format(figure)
    head, found, rest = DOCUMENT.read_text().partition(begin)
    tail = rest.partition(end)[2] if found else ""
    if not found:
        head += f"\n## {figure}\n\n"
    DOCUMENT.write_text("\n".join([head + begin, "", *text, "", end]) + (tail or "\n"))


if __name__ == "__main__":
    main()

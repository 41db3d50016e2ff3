"""How long loading manifests takes: cold (text to desired state) and from cached rows. Prints rows of a Markdown table.

    python benchmarks/validate.py [--count 1000 10000] [--profile]

Each figure is a fresh interpreter's, imports included; best of three. The manifests are one file each, 25 lines,
different in name, learning rate and size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

TEMPLATE = """\
apiVersion: reconciler/v1
kind: Job
metadata:
  name: pretrain-{index}
  project: lm
  group: ablations
  labels: {{owner: jo}}
spec:
  command: [python, train.py, --seed, "{index}"]
  config:
    training:
      per_device_batch_size: 16
      learning_rate: {rate}e-4
      steps: 1000
    model: {{layers: {layers}, width: 768}}
  request:
    chip: h100
    min_chips: 8
    time: "2-00:00:00"
    mem: 128G
  env:
    NCCL_DEBUG: WARN
    RUN_NOTE: "it's run {index}"
  restart: {{preemption: unlimited, failure: 3}}
  depends_on: [tokenize]
"""


def generate(directory: Path, count: int) -> None:
    for index in range(count):
        folder = directory / f"part-{index % 20}"
        folder.mkdir(exist_ok=True)
        text = TEMPLATE.format(index=index, rate=1 + index % 97, layers=2 + index % 30)
        (folder / f"job-{index}.yaml").write_text(text)


def cold(directory: Path, rows: Path) -> int:
    from reconciler.load.documents import load_documents, to_row

    files = [(str(path.relative_to(directory)), path.read_bytes()) for path in sorted(directory.rglob("*.yaml"))]
    loaded = load_documents(files)
    assert not loaded.problems, loaded.problems[:3]
    assert loaded.complete
    if not rows.exists():
        rows.write_text(json.dumps([to_row(job) for job in loaded.desired]))
    return len(loaded.desired)


def warm(_directory: Path, rows: Path) -> int:
    from reconciler.load.documents import from_row

    listed = json.loads(rows.read_text())
    start = time.perf_counter()
    jobs = [from_row(row) for row in listed]
    print(f"from_row alone: {time.perf_counter() - start:.3f} s", file=sys.stderr)
    return len(jobs)


def measure(mode: str, directory: Path, rows: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a fresh interpreter, best of three by wall time."""
    results = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        command = [sys.executable, __file__, "--child", mode, str(directory), str(rows)]
        peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        results.append((wall, cpu, int(peak) / 1024))
    return min(results)


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{len(os.sched_getaffinity(0))} x {model}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        mode, directory, rows = arguments.child
        (cold if mode == "cold" else warm)(Path(directory), Path(rows))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    print("| manifests | path | wall s | CPU s | peak MiB | machine |\n| --- | --- | --- | --- | --- | --- |")
    for count in arguments.count:
        with tempfile.TemporaryDirectory() as name:
            directory, rows = Path(name) / "manifests", Path(name) / "rows.json"
            directory.mkdir()
            generate(directory, count)
            if arguments.profile:
                import cProfile

                cProfile.runctx("cold(directory, rows)", globals(), locals(), sort="tottime")
                continue
            for mode, path in (("cold", "text to desired"), ("warm", "cached rows to desired")):
                wall, cpu, peak = measure(mode, directory, rows)
                print(f"| {count} | {path} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {machine()} |", flush=True)


if __name__ == "__main__":
    main()

"""How the figures are taken: wall time, CPU time of everything a command started, peak memory, and rows of a table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Supervisors are nobody's children any more when they end; the group's counter has them all.
_GROUPS = Path("/sys/fs/cgroup/cpuacct")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `values` in `unit`, in the order they were taken."""

    figure: str
    values: Sequence[float]
    unit: str = "s"
    target: float | None = None
    note: str = ""

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Cpu:
    """CPU seconds of a command and all it leaves behind; `how` says where they are counted."""

    def __init__(self) -> None:
        self._group: Path | None = _GROUPS / f"reconciler-bench-{os.getpid()}-{id(self)}"
        try:
            self._group.mkdir()
        except OSError:
            self._group = None
        self.how = "cgroup cpuacct" if self._group else "/proc/stat of the whole machine"

    def enter(self) -> None:
        """In the child, before its program: count it, and everything it starts, here."""
        if self._group:
            (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def read(self) -> float:
        if self._group:
            return int((self._group / "cpuacct.usage").read_text()) / 1e9
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        deadline = time.monotonic() + 5.0
        while self._group and time.monotonic() < deadline:
            with suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str
    wall_s: float
    cpu_s: float
    peak_mib: float


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """One command to its end. CPU includes what it left running for a quarter of a second more."""
    cpu = Cpu()
    # Files, not pipes: nobody waits for us to read, and what outlives the command does not keep us.
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        before, start = cpu.read(), time.perf_counter()
        # wait4 tells the peak of this child alone; RUSAGE_CHILDREN would keep the largest of all there were.
        child = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=complained, preexec_fn=cpu.enter,  # noqa: PLW1509  this process has one thread
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        time.sleep(0.25)
        cpu_s = cpu.read() - before
        cpu.close()
        said.seek(0)
        complained.seek(0)
        return Ran(child.returncode, said.read(), complained.read(), wall, cpu_s, usage.ru_maxrss / 1024)


def expect(ran: Ran, *codes: int) -> Ran:
    """The same, or an error with what it said: a figure of a command that failed is none."""
    if ran.code not in (codes or (0,)):
        raise RuntimeError(f"exit {ran.code}:\n{ran.out[-2000:]}\n{ran.err[-2000:]}")
    return ran


@dataclass(frozen=True, slots=True)
class Site:
    """A repository of manifests with state, cache and cluster of its own below one directory."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
        home = self.root / "home"
        return kept | {
            "HOME": str(home),
            "RECONCILER_STATE": str(self.root / "state"),
            "PYTHONPATH": str(REPOSITORY),
            "NO_COLOR": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "reconciler", "-C", str(self.repo), *arguments]

    def __call__(self, *arguments: str) -> Ran:
        return run(self.command(*arguments), env=self.env, cwd=REPOSITORY)

    def git(self, *arguments: str) -> None:
        command = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", str(self.repo), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "change")


def make_site(root: Path, inventory: str = "") -> Site:
    """An empty one. Without an inventory: this machine as the only host, with room for every job."""
    site = Site(root)
    (site.repo / "manifests").mkdir(parents=True)
    (root / "home").mkdir()
    default = (
        f"clusters: {{here: {{root: {root}/cluster, work: {root}/work}}}}\n"
        "hosts: {local: {type: local, cluster: here, slots: 4096}}\n"
    )
    (site.repo / "manifests" / "inventory.yaml").write_text(inventory or default)
    site.git("init", "-q", "-b", "main")
    return site


def write_jobs(site: Site, count: int) -> None:
    """`count` jobs that run `true` and ship no code, one file each."""
    for index in range(count):
        folder = site.repo / "manifests" / f"part-{index // 500:02d}"
        folder.mkdir(exist_ok=True)
        (folder / f"job-{index:05d}.yaml").write_text(
            "apiVersion: reconciler/v1\nkind: Job\n"
            f"metadata: {{name: job-{index:05d}, project: bench}}\n"
            "spec:\n  command: ['true']\n  source: null\n"
        )


@contextmanager
def process(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, asked to end (TERM) at the end."""
    child = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=30)


def settle() -> None:
    """Leave what was written before to the disk, so that nobody pays for somebody else's pages."""
    os.sync()


def machine() -> str:
    """Processors, memory, kernel and file system do most for these figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{len(os.sched_getaffinity(0))} x {model}, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )

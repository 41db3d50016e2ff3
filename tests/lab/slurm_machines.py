"""The machines and processes of a Slurm cluster in slurm.py: namespaces, ports, cgroups, and how all of it ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tests.lab.slurm_conf import NODES, PORTS
from tests.lab.sshd import _alive, _below

UP_S = 60.0
# Below the ephemeral ports, where a port that is free now would not stay so.
FIRST_PORTS = range(20000, 32000, 16)
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("freezer", "memory", "cpuset", "cpuacct")

# Becomes a machine, then the command. $1 hostname, $2 the lab, $3 files of the machine or "", $4 HOME, $5 cgroup or ""
MACHINE = r"""
set -e
hostname "$1"
mount --bind "$2/etc/hosts" /etc/hosts
if [ -n "$3" ]; then
    mount --bind "$3/boot_id" /proc/sys/kernel/random/boot_id
    n=0; for kept in $LAB_KEEP; do
        n=$((n + 1)); mkdir -p "$3/keep/$n"; mount --bind "$kept" "$3/keep/$n"
    done
    mount --bind "$2/home" "$4"
    mount --bind "$3/tmp" /tmp
    n=0; for kept in $LAB_KEEP; do
        n=$((n + 1)); mkdir -p "$kept"; mount --bind "$3/keep/$n" "$kept"
    done
fi
if [ -n "$5" ]; then
    for controller in freezer memory cpuset cpuacct; do
        mount --bind "/sys/fs/cgroup/$controller/$5" "/sys/fs/cgroup/$controller"
    done
fi
shift 5
exec "$@"
"""

T = TypeVar("T")


class Machines:
    """What runs from one scratch folder; the nodes have namespaces of their own where that is possible."""

    def __init__(self, root: Path, conf: Path, env: dict[str, str], *, namespaces: bool, cgroup: bool) -> None:
        self.root, self.conf, self.log, self.namespaces = root, conf, root / "log", namespaces
        self._env = env
        self._cgroup = root.name if cgroup else ""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._mounts: dict[str, set[str]] = {name: set() for name in NODES}
        self._claim, self.first_port = _claim_ports()

    def make(self) -> None:
        for name in NODES:
            for part in ("spool", "tmp"):
                (self.root / "nodes" / name / part).mkdir(parents=True)
            (self.root / "nodes" / name / "tmp").chmod(0o1777)
            self.new_boot(name)
        for controller in CONTROLLERS if self._cgroup else ():
            # Slurm names its cgroups by node only: each cluster gets a part of the tree for itself.
            mine = CGROUPS / controller / self._cgroup
            mine.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems") if controller == "cpuset" else ():
                (mine / file).write_text((CGROUPS / controller / file).read_text())

    def new_boot(self, node: str) -> None:
        (self.root / "nodes" / node / "boot_id").write_text(Path("/proc/sys/kernel/random/uuid").read_text())

    def start(self, name: str, machine: str, *argv: str) -> None:
        """Start it in the foreground, as our child: its pid stays its own until we have waited for it."""
        if self.running(name):
            return
        inside = self.on(machine) if machine and self.namespaces else []
        with (self.log / f"{name}.out").open("ab") as log:
            daemon = subprocess.Popen(
                [*inside, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._env, "SLURM_CONF": str(self.conf), "LAB_NODE": machine, "LAB_KEEP": kept()},
                cwd=self.log,
                start_new_session=True,
            )
        self._daemons[name] = daemon
        if inside and machine in NODES:
            # Once it differs from ours it is the node's, and all that the node starts is known by it.
            ours = _mounts_of("self")
            until(f"{name} is a machine", lambda: daemon.poll() is not None or _mounts_of(daemon.pid) not in {ours, ""})
            self._mounts[machine] |= {_mounts_of(daemon.pid)} - {ours, ""}

    def on(self, hostname: str) -> list[str]:
        """The words before a command that runs it on that machine."""
        files = str(self.root / "nodes" / hostname) if hostname in NODES else ""
        words = [hostname, str(self.root), files, self._env["HOME"], self._cgroup if files else ""]
        return ["unshare", "--mount", "--uts", "sh", "-c", MACHINE, "sh", *words]

    def running(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def listening(self, name: str, port: int) -> None:
        def probe() -> bool:
            if not self.running(name):
                said = (self.log / f"{name}.out").read_text(errors="replace")
                raise AssertionError(f"{name} exited {self._daemons[name].returncode}: {said[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        until(f"{name} listens on {port}", probe)

    def signal(self, name: str, number: signal.Signals) -> None:
        self._daemons[name].send_signal(number)

    def stop(self, name: str, number: signal.Signals) -> None:
        self.signal(name, number)
        self.signal(name, signal.SIGCONT)
        try:
            self._daemons[name].wait(UP_S)
        except subprocess.TimeoutExpired:
            self._daemons[name].kill()
            self._daemons[name].wait()
            raise

    def power_off(self, node: str) -> None:
        if self.running(node):
            self.stop(node, signal.SIGKILL)
        _kill(lambda: self.processes(node))
        self.new_boot(node)

    def end(self) -> None:
        """Kill all that lives, and give back ports and cgroups."""
        try:
            for daemon in self._daemons.values():
                daemon.kill()  # does nothing to one that we know to have ended
            for daemon in self._daemons.values():
                daemon.wait()
            _kill(self.processes)
        finally:
            self._claim.close()
            for controller in CONTROLLERS if self._cgroup else ():
                for path, _, _ in os.walk(CGROUPS / controller / self._cgroup, topdown=False):
                    until(f"{path} is empty", lambda path=path: _rmdir(path), 10)

    def processes(self, node: str = "") -> list[int]:
        """All that lives of this cluster, or of one node of it, and is not a zombie."""
        conf = f"SLURM_CONF={self.conf}".encode()
        marks = {f"SLURMD_NODENAME={node}".encode(), f"LAB_NODE={node}".encode()}
        mounts = self._mounts[node] if node else set().union(*self._mounts.values())
        found: set[int] = set()
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            # Unreadable: gone, or another user's and so not ours.
            with contextlib.suppress(OSError):
                environ = set((entry / "environ").read_bytes().split(b"\0"))
                ours = conf in environ and (not node or bool(marks & environ))
                if ours or _mounts_of(pid) in mounts:
                    found |= {pid, *_below(pid)}
        return sorted(pid for pid in found - {os.getpid()} if _alive(pid))


def until(what: str | Callable[[], str], probe: Callable[[], T], within_s: float = UP_S) -> T:
    """Poll until `probe` gives something true."""
    deadline = time.monotonic() + within_s
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
    return found


def cgroups_missing() -> Iterable[str]:
    """The v1 controllers that we cannot write to."""
    return [name for name in CONTROLLERS if not os.access(CGROUPS / name / "cgroup.procs", os.W_OK)]


def kept() -> str:
    """This Python and this checkout, where they lie below HOME or /tmp, of which the nodes have their own."""
    hidden = (pwd.getpwuid(os.getuid()).pw_dir, "/tmp")
    places = sorted({str(Path(place)) for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])})
    below = [place for place in places if any(Path(place).is_relative_to(one) for one in hidden)]
    return " ".join(
        one for one in below if not any(one != other and Path(one).is_relative_to(other) for other in below)
    )


def hostname_is_local() -> bool:
    """True where a daemon that listens at the address of its hostname listens at 127.0.0.1."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    return False


def _mounts_of(pid: int | str) -> str:
    """Which mount namespace; "" when it has ended."""
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return ""


def _kill(find: Callable[[], list[int]]) -> None:
    """Until none is found: one may have started another meanwhile."""

    def none_left() -> bool:
        found = find()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    until("killed processes are gone", none_left, 10)


def _claim_ports() -> tuple[socket.socket, int]:
    """The first of a block of free ports, and what keeps other labs off it while a daemon of ours is stopped."""
    for first in FIRST_PORTS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0slurm-lab-{first}")
            for port in range(first, first + PORTS):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        return claim, first
    raise RuntimeError("no block of ports is free")


def _rmdir(path: str) -> bool:
    try:
        Path(path).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True

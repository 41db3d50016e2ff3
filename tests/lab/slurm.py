"""A private, real Slurm cluster of five nodes on loopback for tests; its login node is an ssh host of sshd.py.

Everything runs from one scratch folder with its own ports, munge key and, if wanted, accounting database. As root every
node has its own hostname, /tmp and boot id, and shares HOME with the login node. Nothing of the machine's own Slurm is
read or written. Everything is ended by the process ids that were started here, and what jobs left behind by the
environment and the mount namespace they were started in.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from tests.lab import slurm_conf
from tests.lab.slurm_conf import CONTROLLER, NODES, Options
from tests.lab.sshd import BASE, Lab, _alive, _below, lab, namespaces_work

UP_S = 60.0
SBIN = ":/usr/sbin:/usr/local/sbin:/sbin"
NEEDED = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
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
    mount --bind "$2/home" "$4"
    mount --bind "$3/tmp" /tmp
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


@dataclass(frozen=True)
class Row:
    """A job, or a task of an array, as squeue lists it."""

    id: str
    state: str
    partition: str
    account: str
    nodes: str
    reason: str
    name: str


class SlurmLab:
    """One cluster. `shared` and `home` are seen by the login node and all nodes; `env` is for clients."""

    def __init__(self, root: Path, options: Options, *, namespaces: bool) -> None:
        self.root, self.options, self.namespaces = root, options, namespaces
        self.shared, self.home, self.log = root / "shared", root / "home", root / "log"
        self.conf = root / "etc" / "slurm.conf"
        account = pwd.getpwuid(os.getuid())
        self._user, self._user_home = account.pw_name, account.pw_dir
        kept = {k: v for k, v in os.environ.items() if not re.match("SLURM|SBATCH|SQUEUE|SACCT|SINFO|SCANCEL", k)}
        self.env = {**kept, "PATH": kept.get("PATH", os.defpath) + SBIN, "SLURM_CONF": str(self.conf)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._mounts: dict[str, set[str]] = {name: set() for name in NODES}
        self._claim, self._port = _claim_ports()

    def up(self) -> None:
        """A new cluster; returns when all nodes are idle."""
        for name in ("etc", "run", "log", "state", "db", "shared", "home"):
            (self.root / name).mkdir()
        for name in NODES:
            for part in ("spool", "tmp"):
                (self.root / "nodes" / name / part).mkdir(parents=True)
            (self.root / "nodes" / name / "tmp").chmod(0o1777)
            self._new_boot(name)
        slurm_conf.write(self.root, self._port, self._user, self.options)
        present = Path("/etc/hosts").read_text()
        (self.root / "etc" / "hosts").write_text(slurm_conf.hosts((CONTROLLER, *NODES, socket.gethostname()), present))
        if self.options.cgroup:
            self._make_cgroups()
        self._start_munge()
        if self.options.accounting:
            self._start_database()
            self.start_dbd()
            self.out("sacctmgr", "-i", input=slurm_conf.accounts(self.options, self._user))
        self.start_controller()
        for name in NODES:
            self._start_slurmd(name)
        self.until("all nodes are up", lambda: not self._away(*NODES))

    def down(self) -> None:
        """End all that runs, by pid, and remove the folder. The cluster is thrown away, so nothing is waited for."""
        try:
            for daemon in self._daemons.values():
                if daemon.poll() is None:
                    daemon.kill()
            for daemon in self._daemons.values():
                daemon.wait()
            self._kill(self.processes)
        finally:
            self._claim.close()
            for controller in CONTROLLERS if self.options.cgroup else ():
                for path, _, _ in os.walk(CGROUPS / controller / self.root.name, topdown=False):
                    self.until(f"{path} is empty", lambda path=path: _rmdir(path), 10)
            shutil.rmtree(self.root, ignore_errors=True)

    # --- clients

    def run(self, *argv: str, input: str = "", timeout_s: float = 60, cwd: Path | None = None, **env: str) -> Any:  # noqa: A002
        """The finished client command, as text. It runs on this machine, in `shared`."""
        return subprocess.run(
            [*self._client_prefix(), *argv],
            input=input,
            env={**self.env, **env},
            cwd=cwd or self.shared,
            timeout=timeout_s,
            capture_output=True,
            text=True,
        )

    def out(self, *argv: str, **options: Any) -> str:
        """What the client command printed. A failure is an error."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{argv} exited {done.returncode}: {done.stdout}{done.stderr}"
        return str(done.stdout).strip()

    def sbatch(self, script: str, *options: str) -> str:
        """The id of a new job that runs `script` by sh; output goes to shared/slurm-ID.out."""
        return self.out("sbatch", "--parsable", *options, input=f"#!/bin/sh\n{script}\n")

    def squeue(self, *options: str) -> list[Row]:
        """All jobs that the controller remembers, finished ones too; arrays task by task."""
        text = self.out("squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%T|%P|%a|%N|%r|%j", *options)
        return [Row(*line.split("|", 6)) for line in text.splitlines()]

    def jobs_of(self, name: str) -> list[str]:
        """Ids of the jobs of that name, in every state."""
        return [row.id for row in self.squeue() if row.name == name]

    def job(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        text = self.out("scontrol", "-o", "-d", "show", "job", job).splitlines()[0]
        return dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", text))

    def reach(self, job: str, *states: str, within_s: float = UP_S) -> str:
        """Wait until the job is in one of the states; the state."""
        seen = ""

        def probe() -> str | None:
            nonlocal seen
            seen = self.job(job)["JobState"]
            return seen if seen in states else None

        return self.until(lambda: f"job {job} is {' or '.join(states)}, not {seen}", probe, within_s)

    def output(self, job: str) -> str:
        """What the job printed so far."""
        file = self.shared / f"slurm-{job}.out"
        return file.read_text() if file.exists() else ""

    def clear(self) -> None:
        """Back to an empty cluster with all nodes in service, for a shared one between tests."""
        waiting = {row.id.partition("_")[0] for row in self.squeue("-t", "PD,R,CG,S,CF")}
        if waiting:
            # KILL first, for one that ignores TERM would take KillWait.
            self.run("scancel", "--full", "--signal=KILL", *waiting)
            self.run("scancel", *waiting)
        self.until("no job is left", lambda: not self.squeue("-t", "PD,R,CG,S,CF"))
        for name in NODES:
            if self.node_state(name) not in {"idle"}:
                self.start_node(name)
                self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self.until("all nodes are idle", lambda: all(self.node_state(name) == "idle" for name in NODES))

    def until(self, what: str | Callable[[], str], probe: Callable[[], T], within_s: float = UP_S) -> T:
        """Poll until `probe` gives something true."""
        deadline = time.monotonic() + within_s
        while not (found := probe()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s} s: {what if isinstance(what, str) else what()}")
            time.sleep(0.02)
        return found

    # --- the controller and the accounting daemon

    def start_controller(self) -> None:
        """Returns when it answers."""
        self._daemon("slurmctld", CONTROLLER, "slurmctld", "-D")
        self._listening("slurmctld", self._port)
        self.until("slurmctld answers", lambda: " is UP" in self.run("scontrol", "ping").stdout)

    def stop_controller(self) -> None:
        """It saves its state. Jobs go on."""
        self._stop("slurmctld", signal.SIGTERM)

    def kill_controller(self) -> None:
        """It loses what it has not saved, jobs acknowledged in the last seconds among it."""
        self._stop("slurmctld", signal.SIGKILL)

    def freeze_controller(self) -> None:
        """It accepts connections and says nothing."""
        self._daemons["slurmctld"].send_signal(signal.SIGSTOP)

    def thaw_controller(self) -> None:
        self._daemons["slurmctld"].send_signal(signal.SIGCONT)

    def start_dbd(self) -> None:
        """Returns when it answers."""
        self._daemon("slurmdbd", CONTROLLER, "slurmdbd", "-D")
        self._listening("slurmdbd", self._port + 1)
        self.until("slurmdbd answers", lambda: self.run("sacctmgr", "-nP", "show", "cluster").returncode == 0)

    def stop_dbd(self) -> None:
        """sacct fails from now on. Jobs go on."""
        self._stop("slurmdbd", signal.SIGTERM)

    # --- nodes

    def start_node(self, name: str) -> None:
        """slurmd, or the machine; returns when it is registered, which takes no node out of DOWN by hand."""
        self._start_slurmd(name)
        self.until(f"{name} is registered", lambda: not self._away(name))

    def stop_node(self, name: str) -> None:
        """slurmd only. Jobs go on, and the controller takes the node for lost after SlurmdTimeout and some."""
        self._stop(name, signal.SIGTERM)

    def kill_node(self, name: str) -> None:
        """Power off: slurmd and all that runs on the node. The controller notices after SlurmdTimeout and some."""
        self._stop(name, signal.SIGKILL)
        self._kill(lambda: self.processes(name))
        self._new_boot(name)

    def set_node(self, name: str, state: str, reason: str = "test") -> None:
        """down, drain or resume, by the administrator."""
        self.out("scontrol", "update", f"nodename={name}", f"state={state}", f"reason={reason}")

    def node_state(self, name: str) -> str:
        """As sinfo has it: idle, mixed, allocated, completing, drained, down, down*..."""
        return self.out("sinfo", "-hN", "-n", name, "-o", "%T").split()[0]

    def processes(self, node: str = "") -> list[int]:
        """All that lives of this cluster, or of one node of it, and is not a zombie."""
        conf, mounts = f"SLURM_CONF={self.conf}".encode(), set().union(*self._mounts.values())
        marks = {f"SLURMD_NODENAME={node}".encode(), f"LAB_NODE={node}".encode()}
        found: set[int] = set()
        for entry in Path("/proc").glob("[0-9]*"):
            # Gone, or another user's: none of ours.
            with contextlib.suppress(OSError):
                environ = set((entry / "environ").read_bytes().split(b"\0"))
                ours = conf in environ and (not node or bool(marks & environ))
                if ours or str((entry / "ns" / "mnt").readlink()) in (self._mounts[node] if node else mounts):
                    found |= {int(entry.name), *_below(int(entry.name))}
        return sorted(pid for pid in found - {os.getpid()} if _alive(pid))

    # --- inside

    def _away(self, *names: str) -> str:
        """The nodes that do not answer."""
        rows = self.run("sinfo", "-hN", "-n", ",".join(names), "-o", "%N %T").stdout.split("\n")
        known = {row.split()[0] for row in rows if row and not re.search(r"unknown|\*$", row)}
        return " ".join(set(names) - known)

    def _start_munge(self) -> None:
        run, key = self.root / "run", self.root / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = [f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed"]
        files += [f"--key-file={key}", f"--log-file={self.log}/munged.log"]
        self._daemon("munged", "", "munged", "--foreground", "--force", "--num-threads=4", *files)
        self.until("munged answers", lambda: self.run("munge", "-S", f"{run}/munge.sock", "-n").returncode == 0)

    def _start_database(self) -> None:
        common = ["--no-defaults", f"--user={self._user}", f"--datadir={self.root}/db", "--skip-name-resolve"]
        install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        self.out(*install)
        sock, port = f"--socket={self.root}/run/mysql.sock", self._port + 2
        files = [sock, f"--pid-file={self.root}/run/mariadbd.pid", f"--log-error={self.log}/mariadb.log"]
        sizes = ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"]
        listen = [f"--port={port}", "--bind-address=127.0.0.1"]
        self._daemon("mariadbd", "", "mariadbd", *common, *files, *listen, *sizes)
        self._listening("mariadbd", port)
        self.out("mariadb", "--no-defaults", sock, "-u", "root", input=slurm_conf.SQL)

    def _start_slurmd(self, name: str) -> None:
        self._daemon(name, name, "slurmd", "-D", "-N", name)
        if self.namespaces:
            # Once it differs from ours it is the node's, and all that the node starts is known by it.
            mine, file = Path("/proc/self/ns/mnt").readlink(), Path(f"/proc/{self._daemons[name].pid}/ns/mnt")
            self._mounts[name].add(
                str(self.until(f"{name} is a machine", lambda: mine != (its := file.readlink()) and its))
            )

    def _daemon(self, name: str, machine: str, *argv: str) -> None:
        """Start it in the foreground, as our child: its pid stays its own until we have waited for it."""
        if name in self._daemons and self._daemons[name].poll() is None:
            return
        env = {"PATH": self.env["PATH"], "SLURM_CONF": str(self.conf), "LAB_NODE": machine, "HOME": self._user_home}
        inside = self._machine(machine) if machine and self.namespaces else []
        with (self.log / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*inside, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.log,
                start_new_session=True,
            )

    def _machine(self, hostname: str) -> list[str]:
        files = str(self.root / "nodes" / hostname) if hostname in NODES else ""
        cgroup = self.root.name if files and self.options.cgroup else ""
        command = ["unshare", "--mount", "--uts", "sh", "-c", MACHINE, "sh"]
        return [*command, hostname, str(self.root), files, self._user_home, cgroup]

    def _client_prefix(self) -> list[str]:
        """srun is called back at the address of its hostname, and must be at home there."""
        return [] if _hostname_is_local() or not self.namespaces else self._machine(socket.gethostname())

    def _listening(self, name: str, port: int) -> None:
        def probe() -> bool:
            code = self._daemons[name].poll()
            said = (self.log / f"{name}.out").read_text(errors="replace")
            assert code is None, f"{name} exited {code}: {said[-2000:]}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        self.until(f"{name} listens on {port}", probe)

    def _stop(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons[name]
        daemon.send_signal(number)
        try:
            daemon.wait(UP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise

    def _kill(self, find: Callable[[], list[int]]) -> None:
        """Until none is found: one may have started another meanwhile."""

        def none_left() -> bool:
            found = find()
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        self.until("killed processes are gone", none_left, 10)

    def _new_boot(self, name: str) -> None:
        (self.root / "nodes" / name / "boot_id").write_text(Path("/proc/sys/kernel/random/uuid").read_text())

    def _make_cgroups(self) -> None:
        """Slurm names its cgroups by node only: each cluster gets a part of the tree for itself."""
        for controller in CONTROLLERS:
            mine = CGROUPS / controller / self.root.name
            mine.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems") if controller == "cpuset" else ():
                (mine / file).write_text((CGROUPS / controller / file).read_text())


@dataclass(frozen=True)
class Cluster:
    """A cluster and its login node."""

    slurm: SlurmLab
    ssh: Lab


def require_slurm() -> None:
    """Skip the test where a private cluster cannot be had, saying how to get it. CI has it or fails."""
    missing = [package for command, package in NEEDED.items() if shutil.which(command, path=os.environ.get("PATH", "") + SBIN) is None]
    if missing:
        _refuse(
            f"no Slurm here ({', '.join(missing)}); get it with `apt-get install --no-install-recommends munge slurmctld slurmd "
            "slurmdbd slurm-client slurm-wlm-basic-plugins mariadb-server-core mariadb-client-core` (or `.ci/engines.sh` as root)"
        )
    if not namespaces_work() and not _hostname_is_local():
        _refuse(
            f"the hostname {socket.gethostname()} is not at 127.0.0.1, where the cluster listens; put it there in /etc/hosts, "
            "or run as root"
        )


def require_cgroups() -> None:
    """Skip the test where memory cannot be limited."""
    if not namespaces_work() or not all(os.access(CGROUPS / name / "cgroup.procs", os.W_OK) for name in CONTROLLERS):
        pytest.skip(f"memory limits need root and writable cgroup v1 mounts of {', '.join(CONTROLLERS)} in {CGROUPS}")


@contextlib.contextmanager
def slurm_lab(*, namespaces: bool | None = None, **options: Any) -> Iterator[SlurmLab]:
    """A running cluster (see Options), stopped and removed at the end. Skips the test where that is not possible."""
    chosen = Options(**options)
    require_slurm()
    if chosen.cgroup:
        require_cgroups()
    BASE.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="slurm", dir=BASE))
    root.chmod(0o755)
    made = SlurmLab(root, chosen, namespaces=namespaces_work() if namespaces is None else namespaces)
    try:
        made.up()
        yield made
    finally:
        made.down()


@contextlib.contextmanager
def login_node(slurm: SlurmLab, *names: str, env: Mapping[str, str] | None = None) -> Iterator[Lab]:
    """ssh hosts from which the cluster is used: login01, or those named."""
    home = slurm.home if slurm.namespaces else None
    with lab(*names or ("login01",), env={**(env or {}), "SLURM_CONF": str(slurm.conf)}, home=home) as ssh:
        yield ssh


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A cluster with accounting and login01, for the whole session. A test that changes it puts it back, or `clear`s it."""
    with slurm_lab() as made, login_node(made) as ssh:
        yield Cluster(made, ssh)


@pytest.fixture
def fresh_slurm() -> Iterator[Callable[..., SlurmLab]]:
    """Makes clusters of the test's own, without accounting unless asked for: up in a moment."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(slurm_lab(**{"accounting": False, **options}))


def _refuse(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _hostname_is_local() -> bool:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    return False


def _claim_ports() -> tuple[socket.socket, int]:
    """The first of a block of free ports, and what keeps other labs off it while a daemon of ours is stopped."""
    for first in FIRST_PORTS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0slurm-lab-{first}")
            for port in range(first, first + slurm_conf.PORTS):
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
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.lab import slurm_conf
from tests.lab.slurm_conf import CONTROLLER, NODES, Options
from tests.lab.slurm_machines import UP_S, Machines, cgroups_missing, hostname_is_local, until
from tests.lab.sshd import BASE, Lab, lab, namespaces_work

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


BUSY = {"IDLE", "IDLE+PLANNED", "MIXED", "ALLOCATED", "COMPLETING", "IDLE+COMPLETING"}


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
        self._user = account.pw_name
        # The caller's own Slurm must not shine through.
        kept = {k: v for k, v in os.environ.items() if not re.match("SLURM|SBATCH|SQUEUE|SACCT|SINFO|SCANCEL|SRUN", k)}
        kept["PATH"] = kept.get("PATH", os.defpath) + SBIN
        # The HOME of the machines, which need not be the one that the tests were given.
        self.env = {**kept, "SLURM_CONF": str(self.conf), "HOME": account.pw_dir}
        bare = {"PATH": kept["PATH"], "HOME": account.pw_dir, "LANG": "C.UTF-8"}
        self._machines = Machines(root, self.conf, bare, namespaces=namespaces, cgroup=options.cgroup)
        self._port = self._machines.first_port

    def up(self) -> None:
        """A new cluster; returns when all nodes are idle."""
        for name in ("etc", "run", "log", "state", "db", "shared", "home"):
            (self.root / name).mkdir()
        self._machines.make()
        slurm_conf.write(self.root, self._port, self._user, self.options)
        present = Path("/etc/hosts").read_text()
        (self.root / "etc" / "hosts").write_text(slurm_conf.hosts((CONTROLLER, *NODES, socket.gethostname()), present))
        self._start_munge()
        if self.options.accounting:
            self._start_database()
            self.start_dbd()
            self.out("sacctmgr", "-i", input=slurm_conf.accounts(self.options, self._user))
        self.start_controller()
        for name in NODES:
            self._start_slurmd(name)
        until("all nodes are up", lambda: not self._away(*NODES))

    def down(self) -> None:
        """End all that runs, by pid, and remove the folder. The cluster is thrown away, so nothing is waited for."""
        try:
            self._machines.end()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def processes(self) -> list[int]:
        """All that lives of this cluster and is not a zombie: daemons, jobs and what they left, clients."""
        return self._machines.processes()

    # --- clients

    def run(self, *argv: str, input: str = "", timeout_s: float = 60, cwd: Path | None = None, **env: str) -> Any:
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

        return until(lambda: f"job {job} is {' or '.join(states)}, not {seen}", probe, within_s)

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
        until("no job is left", lambda: not self.squeue("-t", "PD,R,CG,S,CF"))
        for name, state in self._node_states(*NODES).items():
            if state not in BUSY:
                self.start_node(name)
                self.run("scontrol", "update", f"nodename={name}", "state=resume")
        until("all nodes are idle", lambda: set(self._node_states(*NODES).values()) <= {"IDLE", "IDLE+PLANNED"})

    # --- the controller and the accounting daemon

    def start_controller(self) -> None:
        """Returns when it answers."""
        self._machines.start("slurmctld", CONTROLLER, "slurmctld", "-D")
        self._machines.listening("slurmctld", self._port)
        until("slurmctld answers", lambda: " is UP" in self.run("scontrol", "ping").stdout)

    def stop_controller(self) -> None:
        """It saves its state. Jobs go on."""
        self._machines.stop("slurmctld", signal.SIGTERM)

    def kill_controller(self) -> None:
        """It loses what it has not saved, jobs acknowledged in the last seconds among it."""
        self._machines.stop("slurmctld", signal.SIGKILL)

    def freeze_controller(self) -> None:
        """It accepts connections and says nothing."""
        self._machines.signal("slurmctld", signal.SIGSTOP)

    def thaw_controller(self) -> None:
        self._machines.signal("slurmctld", signal.SIGCONT)

    def start_dbd(self) -> None:
        """Returns when it answers."""
        self._machines.start("slurmdbd", CONTROLLER, "slurmdbd", "-D")
        self._machines.listening("slurmdbd", self._port + 1)
        until("slurmdbd answers", lambda: self.run("sacctmgr", "-nP", "show", "cluster").returncode == 0)

    def stop_dbd(self) -> None:
        """sacct fails from now on. Jobs go on."""
        self._machines.stop("slurmdbd", signal.SIGTERM)

    # --- nodes

    def start_node(self, name: str) -> None:
        """slurmd, or the machine; returns when it is registered, which takes no node out of DOWN by hand."""
        self._start_slurmd(name)
        until(f"{name} is registered", lambda: not self._away(name))

    def stop_node(self, name: str) -> None:
        """slurmd only. Jobs go on, and the controller takes the node for lost after SlurmdTimeout and some."""
        self._machines.stop(name, signal.SIGTERM)

    def kill_node(self, name: str) -> None:
        """Power off: slurmd and all that runs on the node. The controller notices after SlurmdTimeout and some: 30 s.

        `set_node(name, "down")` makes it notice now. If the node is back before that, its jobs stay RUNNING.
        """
        self._machines.power_off(name)

    def set_node(self, name: str, state: str, reason: str = "test") -> None:
        """down, drain or resume, by the administrator."""
        self.out("scontrol", "update", f"nodename={name}", f"state={state}", f"reason={reason}")

    def node_state(self, name: str) -> str:
        """As scontrol has it: IDLE, MIXED, ALLOCATED, COMPLETING, IDLE+DRAIN, DOWN, DOWN+NOT_RESPONDING..."""
        # Not sinfo: after a job that ran for less than a second it may say "mixed" of an idle node, for ever.
        return self._node_states(name)[name]

    # --- inside

    def _node_states(self, *names: str) -> dict[str, str]:
        text = self.out("scontrol", "-o", "show", "node", ",".join(names))
        return {line.split()[0].partition("=")[2]: re.findall(r" State=(\S+)", line)[0] for line in text.splitlines()}

    def _away(self, *names: str) -> list[str]:
        """The nodes that do not answer."""
        states = self._node_states(*names)
        return [name for name, state in states.items() if re.search("UNKNOWN|NOT_RESPONDING", state)]

    def _start_munge(self) -> None:
        run, key = self.root / "run", self.root / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = [f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed"]
        files += [f"--key-file={key}", f"--log-file={self.log}/munged.log"]
        self._machines.start("munged", "", "munged", "--foreground", "--force", "--num-threads=4", *files)
        until("munged answers", lambda: self.run("munge", "-S", f"{run}/munge.sock", "-n").returncode == 0)

    def _start_database(self) -> None:
        common = ["--no-defaults", f"--user={self._user}", f"--datadir={self.root}/db", "--skip-name-resolve"]
        install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        done = self.run(*install)
        for _ in range(2):  # mariadbd has been seen to die of SIGSEGV here, once in hundreds of times
            if done.returncode == 0:
                break
            shutil.rmtree(self.root / "db")
            (self.root / "db").mkdir()
            done = self.run(*install)
        assert done.returncode == 0, done
        sock, port = f"--socket={self.root}/run/mysql.sock", self._port + 2
        files = [sock, f"--pid-file={self.root}/run/mariadbd.pid", f"--log-error={self.log}/mariadb.log"]
        sizes = [
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-lock-wait-timeout=900",
        ]
        listen = [f"--port={port}", "--bind-address=127.0.0.1"]
        self._machines.start("mariadbd", "", "mariadbd", *common, *files, *listen, *sizes)
        self._machines.listening("mariadbd", port)
        self.out("mariadb", "--no-defaults", sock, "-u", "root", input=slurm_conf.SQL)

    def _start_slurmd(self, name: str) -> None:
        self._machines.start(name, name, "slurmd", "-D", "-N", name)

    def _client_prefix(self) -> list[str]:
        """srun is called back at the address of its hostname, and must be at home there."""
        return [] if hostname_is_local() or not self.namespaces else self._machines.on(socket.gethostname())


@dataclass(frozen=True)
class Cluster:
    """A cluster and its login node."""

    slurm: SlurmLab
    ssh: Lab


def require_slurm(*, namespaces: bool | None = None) -> None:
    """Skip the test where a private cluster cannot be had, saying how to get it. CI has it or fails."""
    missing = [
        package
        for command, package in NEEDED.items()
        if shutil.which(command, path=os.environ.get("PATH", "") + SBIN) is None
    ]
    if missing:
        _refuse(
            f"no Slurm here ({', '.join(missing)}); get it with `apt-get install --no-install-recommends munge slurmctld slurmd "
            "slurmdbd slurm-client slurm-wlm-basic-plugins mariadb-server-core mariadb-client-core` (or `.ci/engines.sh` as root)"
        )
    if not (namespaces_work() if namespaces is None else namespaces) and not hostname_is_local():
        _refuse(
            f"the hostname {socket.gethostname()} is not at 127.0.0.1, where the cluster listens; put it there in /etc/hosts, "
            "or run as root"
        )


def require_cgroups() -> None:
    """Skip the test where memory cannot be limited."""
    if not namespaces_work() or cgroups_missing():
        pytest.skip("memory limits need root and writable cgroup v1 mounts, freezer and memory among them")


@contextlib.contextmanager
def slurm_lab(*, namespaces: bool | None = None, **options: Any) -> Iterator[SlurmLab]:
    """A running cluster (see Options), stopped and removed at the end. Skips the test where that is not possible."""
    chosen = Options(**options)
    require_slurm(namespaces=namespaces)
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

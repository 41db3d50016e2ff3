"""Private ssh "hosts" on loopback for tests: real sshd processes that look like other machines.

Host number n listens on 127.0.0.(10+n), all on one free port, each with its own host key; the client key, ssh_config
and known_hosts are throw-away files. As root every host has its own hostname, HOME, /tmp, boot id and process list
(Linux namespaces); otherwise a forced command gives each its own HOME. Nothing of the caller's ssh set-up is read or
written. Everything is ended by the process ids that were started here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

# Neither below /tmp nor below a home directory: hosts have their own of both, and must still see their files.
BASE = Path("/var/tmp")
UP_S = 10.0
UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")

SSHD_CONFIG = """\
ListenAddress {address}
Port {port}
AddressFamily inet
HostKey {etc}/host_key
PidFile none
AuthorizedKeysFile {etc}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
X11Forwarding no
AllowTcpForwarding yes
PrintMotd no
PrintLastLog no
MaxStartups 100:30:200
MaxSessions {max_sessions}
LogLevel VERBOSE
SetEnv {env}
{more}
Subsystem sftp internal-sftp
"""

CLIENT_CONFIG = """\
Host *
    User {user}
    IdentityFile {root}/client_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {root}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    PreferredAuthentications publickey
    ForwardAgent no
    LogLevel ERROR
    KexAlgorithms curve25519-sha256
"""

# PID 1 of a host's namespaces, as root.
# $1 host directory, $2 hostname, $3 HOME, $4 its size as a tmpfs or "", $5 login shell or "", $6 sshd, $7 what HOME shows
INSIDE = r"""
set -e
hostname "$2"
mount --make-rprivate / 2>/dev/null || true
cat /proc/sys/kernel/random/uuid > "$1/etc/boot_id"
mount --bind "$1/etc/boot_id" /proc/sys/kernel/random/boot_id
{ printf '127.0.0.1 %s\n' localhost "$2"; cat /etc/hosts; } > "$1/etc/hosts"
mount --bind "$1/etc/hosts" /etc/hosts
if [ -n "$5" ]; then
    awk -F: -v OFS=: -v s="$5" -v h="$3" '$6 == h {$7 = s} {print}' /etc/passwd > "$1/etc/passwd"
    mount --bind "$1/etc/passwd" /etc/passwd
fi
if [ -n "$4" ]; then mount -t tmpfs -o "size=$4,mode=755" home "$3"; else mount --bind "$7" "$3"; fi
mount --bind "$1/tmp" /tmp
cd /
exec "$6" -D -f "$1/etc/sshd_config" -E "$1/etc/sshd.log"
"""


class Host:
    """One machine of the lab. `home` and `tmp` are where its HOME and /tmp lie, seen from the test."""

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        self.name, self.address, self._lab = name, address, lab
        self.root = lab.root / "hosts" / name
        self.home, self.tmp, self.etc = self.root / "home", self.root / "tmp", self.root / "etc"
        self.home_size = ""
        self.login_shell = ""
        self.max_sessions = 100
        self.more = ""
        # Of every session. Kept apart from `more`, as sshd heeds only the first SetEnv line.
        self.env: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        for directory in (self.home, self.tmp, self.etc):
            directory.mkdir(parents=True)
        self.tmp.chmod(0o1777)
        _keygen(self.etc / "host_key", name)
        self.unlock()

    @property
    def log(self) -> str:
        return (self.etc / "sshd.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Power on; returns when the port answers. Files are kept over stop and start."""
        if self.running:
            return
        env = {"LAB_HOST": self.name, "LAB_DIR": str(self.root), **self.env}
        force = "" if self._lab.namespaces else f"ForceCommand {self._login_script()}"
        (self.etc / "sshd_config").write_text(
            SSHD_CONFIG.format(
                address=self.address,
                port=self._lab.port,
                etc=self.etc,
                env=" ".join(f'"{key}={value}"' for key, value in env.items()),
                max_sessions=self.max_sessions,
                more=f"{self.more}\n{force}",
            )
        )
        argv = [self._lab.sshd, "-D", "-f", str(self.etc / "sshd_config"), "-E", str(self.etc / "sshd.log")]
        if self._lab.namespaces:
            user_home = pwd.getpwuid(os.getuid()).pw_dir
            inside = [str(self.root), self.name, user_home, self.home_size, self.login_shell, self._lab.sshd]
            argv = [*UNSHARE, "sh", "-c", INSIDE, "sh", *inside, str(self.home)]
        with (self.etc / "start.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + UP_S
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self._lab.port), timeout=1):
                return
            time.sleep(0.005)
        raise RuntimeError(f"{self.name} did not come up: {(self.etc / 'start.log').read_text()}")

    def stop(self) -> None:
        """Power off: every process of the host is killed, also those that left their session."""
        if self._process is None:
            return
        doomed = [*_below(self._process.pid), *self._strays()]
        for pid in (self._process.pid, *doomed):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # A dying sshd may answer for a moment more, and would be taken for the next one.
        deadline = time.monotonic() + UP_S
        while any(map(_alive, doomed)) and time.monotonic() < deadline:
            time.sleep(0.002)

    def freeze(self) -> None:
        """The host hangs: connections are accepted by the kernel, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def cut(self) -> None:
        """Kill the connections that are open now; the commands they started go on."""
        for pid in self._sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def rekey(self) -> None:
        """Another host key, as after a new installation (or an impostor). `Lab.trust` makes clients know it."""
        self.stop()
        for file in self.etc.glob("host_key*"):
            file.unlink()
        _keygen(self.etc / "host_key", self.name)
        self.start()

    def lock(self) -> None:
        """No key may log in any more; open connections stay."""
        (self.etc / "authorized_keys").write_text("")

    def unlock(self) -> None:
        shutil.copy(self._lab.root / "client_key.pub", self.etc / "authorized_keys")

    def _login_script(self) -> Path:
        script = self.etc / "login"
        script.write_text(
            f"#!/bin/sh\nexport HOME={shlex.quote(str(self.home))} TMPDIR={shlex.quote(str(self.tmp))}\n"
            'cd "$HOME" && exec "${SHELL:-/bin/sh}" -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        script.chmod(0o755)
        return script

    def _daemon(self) -> int | None:
        """The listening sshd: with namespaces PID 1 of the host, the only child of unshare."""
        if self._process is None:
            return None
        if not self._lab.namespaces:
            return self._process.pid
        return next(iter(_children(self._process.pid)), None)

    def _sessions(self) -> list[int]:
        """The sshd processes that serve connections."""
        daemon = self._daemon()
        found = [] if daemon is None else _below(daemon)
        return [pid for pid in found if b"sshd" in _cmdline(pid)]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (
            _below(self._process.pid) if self._lab.namespaces else (self._process.pid, *_below(self._process.pid))
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _strays(self) -> list[int]:
        if self._lab.namespaces:
            return []  # they die with PID 1
        mark = f"LAB_DIR={self.root}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (entry / "environ").read_bytes().split(b"\0")
                # A job submitted from here has our environment, but runs on another machine.
                if mark in environ and not any(word.startswith(b"SLURM_JOB_ID=") for word in environ):
                    found.append(int(entry.name))
        return found


class Lab:
    """Some hosts, and what a client needs to reach them."""

    def __init__(self, root: Path, names: Sequence[str], *, namespaces: bool) -> None:
        self.root, self.namespaces = root, namespaces
        self.sshd = _sshd_path() or "sshd"
        addresses = {name: f"127.0.0.{11 + index}" for index, name in enumerate(names)}
        self.port = _free_port(list(addresses.values()))
        _keygen(root / "client_key", "lab")
        self.hosts = {name: Host(self, name, address) for name, address in addresses.items()}
        self.ssh_config = root / "ssh_config"
        self.known_hosts = root / "known_hosts"
        self.configure()
        self.trust()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def configure(self, more: str = "") -> Path:
        """Write the client's configuration, `more` first (the first value of an option wins)."""
        hosts = "".join(f"Host {h.name}\n    HostName {h.address}\n    Port {self.port}\n" for h in self.hosts.values())
        general = CLIENT_CONFIG.format(user=pwd.getpwuid(os.getuid()).pw_name, root=self.root)
        self.ssh_config.write_text(f"{more}\n{hosts}\n{general}")
        return self.ssh_config

    def trust(self) -> None:
        """Write the present host keys into known_hosts."""
        lines = []
        for host in self.hosts.values():
            kind, key = (host.etc / "host_key.pub").read_text().split()[:2]
            lines.append(f"[{host.address}]:{self.port} {kind} {key}\n")
        self.known_hosts.write_text("".join(lines))

    def start(self) -> None:
        if os.getuid() == 0:
            # root's sshd insists on this empty directory; a package makes it at boot, a container has none.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for host in self.hosts.values():
            host.start()

    def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()


def require_sshd() -> None:
    """Skip the test where private sshd hosts cannot be had, saying how to get them."""
    if _sshd_path() is None:
        pytest.skip(
            "no sshd here; get it with `apt-get install openssh-server openssh-client` (or your system's package)"
        )
    if shutil.which("ssh-keygen") is None or shutil.which("ssh") is None:
        pytest.skip("no ssh client here; get it with `apt-get install openssh-client`")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.11", 0))
    except OSError:
        pytest.skip("127.0.0.11 is not a loopback address here (macOS: `sudo ifconfig lo0 alias 127.0.0.11`)")


def namespaces_work() -> bool:
    """True as root on a Linux that lets us make mount, uts and pid namespaces. LAB_NAMESPACES=0 does without."""
    if os.getuid() != 0 or shutil.which("unshare") is None or os.environ.get("LAB_NAMESPACES") == "0":
        return False
    return subprocess.run([*UNSHARE, "hostname", "probe"], capture_output=True).returncode == 0


@contextlib.contextmanager
def lab(
    *names: str, namespaces: bool | None = None, env: Mapping[str, str] | None = None, home: Path | None = None
) -> Iterator[Lab]:
    """A running lab, stopped and removed at the end. Skips the test where that is not possible.

    `env` is set in every session, `home` is a HOME that all hosts share.
    """
    require_sshd()
    BASE.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="lab", dir=BASE))
    root.chmod(0o755)
    made = Lab(
        root, names or ("node1", "node2", "node3"), namespaces=namespaces_work() if namespaces is None else namespaces
    )
    for host in made.hosts.values():
        host.env.update(env or {})
        host.home = home or host.home
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def ssh_lab() -> Iterator[Lab]:
    """Three hosts for the whole session. A test that changes one puts it back."""
    with lab() as made:
        yield made


def _sshd_path() -> str | None:
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def _keygen(path: Path, comment: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True)


def _free_port(addresses: list[str]) -> int:
    for _ in range(50):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind((addresses[0], 0))
            port: int = first.getsockname()[1]
            try:
                for address in addresses[1:]:
                    stack.enter_context(socket.socket()).bind((address, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free on all of " + ", ".join(addresses))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.extend(map(int, (task / "children").read_text().split()))
    return found


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for child in _children(pid):
        found += [child, *_below(child)]
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""

"""The workers of emulated nodes as machines to log in to: one real sshd each, on the address that the API tells.

Worker machines are the hosts of tests/lab/sshd.py: as root with a hostname, HOME, /tmp and process list of their own (Linux
namespaces), otherwise each with its own HOME. Their host keys are what getGuestAttributes tells; who may log in is what the
metadata of the node and of the project says under `ssh-keys`. They listen on loopback addresses only, and are ended by the
process ids that were started here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.emulators.tpu.nodes import Node
from tests.emulators.tpu.world import World
from tests.lab import sshd

FIRST_PORT = 2222
# Held while a farm lives, so that two farms, which use the same addresses, take different ports.
ANCHOR = "127.1.255.254"
SFTP_SERVERS = tuple(
    f"{place}/sftp-server" for place in ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/libexec", "/usr/lib/ssh")
)


class Worker(sshd.Host):
    """One machine: beside those here, `freeze`, `thaw`, `cut` (its connections), `start` and `rekey` of tests/lab/sshd.py."""

    def __init__(self, farm: Workers, name: str, address: str, number: int, addresses: list[str]) -> None:
        super().__init__(farm, name, address)  # type: ignore[arg-type]
        self.env = {
            "TPU_WORKER_ID": str(number),
            "TPU_WORKER_HOSTNAMES": ",".join(addresses),
            "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server
        }

    @property
    def host_key(self) -> str:
        return (self.etc / "host_key.pub").read_text().split()[1]

    def down(self) -> None:
        """Without power: nobody listens, and no process is left. Files are kept."""
        self.stop()

    def wipe(self) -> None:
        """Made anew: another host key, an empty HOME and /tmp."""
        self.stop()
        for directory in (self.home, self.tmp):
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.rekey()

    def full(self, size: str = "64k") -> None:
        """A HOME so small that it is full soon. Needs root and namespaces."""
        if not self._lab.namespaces:
            raise LookupError("a small HOME needs root and Linux namespaces")
        self.stop()
        self.home_size = size
        self.start()

    def unlock(self) -> None:
        """Nobody, until the metadata says who."""
        self.lock()

    def admit(self, keys: list[str]) -> None:
        # In one step: sshd may read it at any time.
        new = self.etc / "authorized_keys.new"
        new.write_text("".join(f"{key}\n" for key in keys))
        new.replace(self.etc / "authorized_keys")

    def _login_script(self) -> Path:
        """Without namespaces: HOME by a forced command, which must also let sftp (and so scp) through, and a plain login."""
        script = super()._login_script()
        sftp = next((path for path in SFTP_SERVERS if os.path.exists(path)), "sftp-server")
        home, temporary = shlex.quote(str(self.home)), shlex.quote(str(self.tmp))
        script.write_text(
            f"#!/bin/sh\nexport HOME={home} TMPDIR={temporary}\ncd {home} || exit 1\n"
            f'case "$SSH_ORIGINAL_COMMAND" in\n    "") exec "${{SHELL:-/bin/sh}}" ;;\n'
            f"    internal-sftp* | */sftp-server*) exec {sftp} ;;\n"
            '    *) exec "${SHELL:-/bin/sh}" -c "$SSH_ORIGINAL_COMMAND" ;;\nesac\n'
        )
        return script


class Workers:
    """All of them. `workers["n1"][0]` is worker 0 of node n1; all listen on `port`."""

    def __init__(self, world: World, port: int = 0, *, namespaces: bool | None = None) -> None:
        path = sshd._sshd_path()
        if path is None:
            raise RuntimeError("no sshd here: apt-get install openssh-server (or your system's package)")
        self.sshd = path
        self.namespaces = sshd.namespaces_work() if namespaces is None else namespaces
        self._world = world
        self._anchor, self.port = _anchor(port)
        sshd.BASE.mkdir(exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="tpu", dir=sshd.BASE))
        self.root.chmod(0o755)
        if os.getuid() == 0:
            # root's sshd insists on this empty directory; a package makes it at boot, a container has none.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._of: dict[Node, list[Worker]] = {}

    def __getitem__(self, node: str) -> list[Worker]:
        """By the node's id or its full name."""
        for known, workers in self._of.items():
            if node in (known.name, known.name.rpartition("/")[2]) and not known.gone:
                return workers
        raise LookupError(f"node {node} has no machines")

    def stop(self) -> None:
        for workers in self._of.values():
            for worker in workers:
                worker.stop()
        self._of.clear()
        self._anchor.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def do(self, node: Node, number: int, what: str) -> None:
        if what not in ("down", "start", "freeze", "thaw", "cut", "wipe", "full"):
            raise LookupError(f"a machine cannot {what}: down, start, freeze, thaw, cut, wipe or full")
        getattr(self[node.name][number], what)()

    def ssh(self, node: str, worker: int, key: Path, *command: str) -> list[str]:
        """An ssh command line for one worker, that checks its host key and reads no configuration."""
        machine = self[node][worker]
        known = self.root / f"known-{machine.name}"
        known.write_text(f"[{machine.address}]:{self.port} ssh-ed25519 {machine.host_key}\n")
        options = (
            "BatchMode=yes", "ConnectTimeout=5", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=/dev/null", "LogLevel=ERROR",
        )  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", "-i", str(key), "-p", str(self.port), *flags, machine.address, *command]

    # --- what the world tells

    def up(self, node: Node) -> None:
        workers = self._of.get(node)
        if workers is None:
            workers = self._of[node] = [
                Worker(self, node.hostname(number), address, number, node.addresses)
                for number, address in enumerate(node.addresses)
            ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Worker.start, workers))

    def down(self, node: Node) -> None:
        for worker in self._of.get(node, ()):
            worker.stop()

    def remove(self, node: Node) -> None:
        self.down(node)
        for worker in self._of.pop(node, ()):
            shutil.rmtree(worker.root, ignore_errors=True)

    def admit(self, node: Node) -> None:
        lines = [
            line.partition(":")[2]
            for metadata in (node.json.get("metadata") or {}, self._world.metadata)
            for line in metadata.get("ssh-keys", "").splitlines()
            if ":" in line
        ]
        for worker in self._of.get(node, ()):
            worker.admit(lines)

    def host_key(self, node: Any, worker: int) -> str:
        return self._of[node][worker].host_key if node in self._of else ""


def _anchor(port: int) -> tuple[socket.socket, int]:
    for number in [port] if port else range(FIRST_PORT, FIRST_PORT + 200):
        held = socket.socket()
        try:
            held.bind((ANCHOR, number))
        except OSError as error:
            held.close()
            if port:
                raise OSError(f"port {port} of {ANCHOR} is taken, or no loopback address here: {error}") from None
            continue
        # Somebody else's sshd may have the port on the first worker's address.
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended are no hindrance
            probe.bind(("127.1.0.1", number))
            return held, number
        held.close()
    raise OSError(
        "no port is free for the workers; or 127.1.0.1 is no loopback address here (macOS: ifconfig lo0 alias)"
    )

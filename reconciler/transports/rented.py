"""SSH to machines that were made a moment ago: addresses and host keys that no file of the user's knows.

For each machine an ssh configuration of our own is written, with a name that no other machine ever gets and the host key that the
cloud told; the user's own configuration is included after it, for jump hosts and the like. A key that the cloud does not tell is
asked of the machine itself, once, and kept: from then on another key is refused.
"""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Rejected, Unreachable
from reconciler.transports.private import make_private, write_private
from reconciler.transports.registry import TransportSettings
from reconciler.transports.sshconfig import checked_alias

SCAN_S = 15.0


@dataclass(frozen=True, slots=True)
class Login:
    """`alias` is unique to this machine, also among those that had its name and address before. `key` is its host key as a
    known_hosts line has it (`ssh-ed25519 AAAA...`), "" where nobody told it."""

    alias: str
    address: str
    port: int
    user: str
    identity: str
    key: str = ""


def settings_for(login: Login, folder: Path, *, include: Path | None, timeout_s: float) -> TransportSettings:
    """Write what ssh needs to know below `folder`, and how to reach the machine with it. Raises Unreachable when its key has to
    be asked of it, and it does not answer; Rejected for an address that could be taken for something else."""
    # The user's own ProxyCommand may name all three, and a shell reads it. An IPv6 zone is free text.
    for text in (login.alias, login.user):
        if "#" in checked_alias(text):
            raise Rejected(f"{text!r} cannot stand in an ssh configuration")
    try:
        ipaddress.ip_address(login.address)
    except ValueError:
        raise Rejected(f"{login.address!r} is not an IP address") from None
    if "%" in login.address:
        raise Rejected(f"{login.address!r} is not the address of a machine: it has a zone")
    if any(c == '"' or not c.isprintable() for c in login.identity):
        raise Rejected(f"The key's path {login.identity!r} cannot stand in an ssh configuration")
    make_private(folder)
    known = folder / f"{login.alias}.known_hosts"
    if login.key:
        _write(known, f"{login.alias} {login.key}\n")
    elif not known.exists():
        _write(known, "".join(f"{login.alias} {key}\n" for key in _scan(login)))
    config = folder / f"{login.alias}.config"
    lines = [
        f"Host {login.alias}",
        f"    HostName {login.address}",
        f"    Port {login.port}",
        f"    User {login.user}",
        f'    IdentityFile "{login.identity}"',
        "    IdentitiesOnly yes",
        f"    HostKeyAlias {login.alias}",
        f'    UserKnownHostsFile "{known}"',
        "    GlobalKnownHostsFile none",
        "    StrictHostKeyChecking yes",
        "Match all",
        *([f'    Include "{include}"'] if include is not None and include.exists() else []),
    ]
    _write(config, "\n".join(lines) + "\n")
    return TransportSettings("fabric", login.alias, connect_timeout_s=timeout_s, ssh_config=config)


def _scan(login: Login) -> list[str]:
    """The keys that it offers. ssh-keyscan(1)."""
    argv = ("ssh-keyscan", "-T", str(int(SCAN_S)), "-p", str(login.port), "--", login.address)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=2 * SCAN_S)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Unreachable(f"{login.address}: its host key cannot be asked: {error}") from None
    lines = (line.split(None, 1) for line in done.stdout.decode("ascii", "replace").splitlines() if line[:1] != "#")
    keys = [parts[1].strip() for parts in lines if len(parts) == 2]
    if not keys:
        raise Unreachable(f"{login.address}: no ssh server answers on port {login.port} yet")
    return keys


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    write_private(aside, text)
    aside.replace(path)

"""What the user's ssh configuration says about one host, as ssh itself reads it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import AccessRefused, Rejected, Unreachable
from reconciler.transports.shell import words

# `ssh -G` opens no connection; only a `Match exec` of the user's can make it slow.
_CONFIG_S = 10.0
# OpenSSH has no limit; a longer chain is a loop.
JUMPS_MAX = 8


# A port after a name. An IPv6 address, which has colons of its own, stands in brackets when a port follows.
_PORT = re.compile(r"^([^:]*|.*\[[^\]]*\]):(\d+)$")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host as ssh_config(5) resolves it: Host, Match, Include, canonical names and defaults applied."""

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    host_key_alias: str | None
    identity_agent: str | None
    proxy_command: str | None
    jumps: tuple[str, ...]
    control_path: str | None

    @property
    def key_name(self) -> str:
        """The name under which known_hosts lists this host (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        name = self.hostname.lower()
        return name if self.port == 22 else f"[{name}]:{self.port}"


# As OpenSSH does since 9.6: names end in the user's ProxyCommand and `Match exec`, which a shell reads.
_OF_SHELLS = frozenset("'\"`$\\;&<>|(){}")


def checked_alias(alias: str) -> str:
    """The alias, when it can be handed to ssh. Raises Rejected for one that ssh, or a shell after it, would take for more."""
    if (
        not alias
        or alias.startswith("-")
        or "@-" in alias
        or any(c.isspace() or not c.isprintable() or c in _OF_SHELLS for c in alias)
    ):
        raise Rejected(f"{alias!r} is not an ssh destination: expected an alias of ssh_config, a host, or user@host")
    return alias


def ssh_argv(config: Path | None, *arguments: str) -> tuple[str, ...]:
    """An `ssh` command line that reads the given configuration file, or the user's."""
    return ("ssh", *(("-F", str(config)) if config is not None else ()), *arguments)


def endpoint(alias: str, config: Path | None) -> Endpoint:
    """Ask `ssh -G` what the configuration says about `alias`.

    `ssh -G` is asked because no library reads `Include`, `Match exec` and canonical names as ssh does. Raises
    Rejected for a configuration that ssh refuses, Unreachable when it does not answer in time, AccessRefused without
    an ssh program.
    """
    if shutil.which("ssh") is None:
        raise AccessRefused(f"{alias}: there is no `ssh` program here", hint="Install the OpenSSH client.")
    try:
        done = subprocess.run(
            ssh_argv(config, "-G", "--", destination(checked_alias(alias))),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_CONFIG_S,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{alias}: the ssh configuration took more than {_CONFIG_S:g} s to evaluate") from None
    if done.returncode != 0:
        raise Rejected(f"{alias}: ssh refuses its configuration: {words(done.stderr)}")
    return _parse(alias, done.stdout.decode("utf-8", "surrogateescape"))


def destination(alias: str) -> str:
    """The alias as a word of ssh's command line, where `user@host:port`, as in ProxyJump, is written as a URI."""
    return f"ssh://{alias}" if not alias.startswith("ssh://") and (_PORT.match(alias) or "[" in alias) else alias


def without_port(alias: str) -> tuple[str, str | None]:
    """`user@host` and the port, for programs such as rsync that take them apart."""
    found = _PORT.match(alias.removeprefix("ssh://"))
    return (found[1], found[2]) if found else (alias, None)


def _parse(alias: str, text: str) -> Endpoint:
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), []).append(value)

    def one(key: str) -> str | None:
        value = options.get(key, [""])[0]
        return value if value and value.lower() != "none" else None

    hostname, user = one("hostname") or alias, one("user") or ""

    def paths(values: list[str]) -> tuple[Path, ...]:
        return tuple(Path(_expanded(v, hostname, user)) for v in values if v and v.lower() != "none")

    files = [
        path
        for key in ("userknownhostsfile", "globalknownhostsfile")
        for v in options.get(key, [])
        for path in v.split()
    ]
    jump = one("proxyjump")
    return Endpoint(
        alias=alias,
        hostname=hostname,
        port=int(one("port") or 22),
        user=user,
        identity_files=paths(options.get("identityfile", [])),
        known_hosts=paths(files),
        host_key_alias=one("hostkeyalias"),
        # `none` is an answer here: no agent at all.
        identity_agent=options.get("identityagent", [""])[0] or None,
        proxy_command=one("proxycommand"),
        jumps=tuple(part.strip() for part in jump.split(",")) if jump else (),
        control_path=one("controlpath"),
    )


def _expanded(text: str, hostname: str, user: str) -> str:
    """`~` and the tokens that make sense in a file name; as in ssh, home is that of the password file, not $HOME."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = os.environ.get("HOME", "/")
    if text == "~" or text.startswith("~/"):
        text = home + text[1:]
    for token, value in (("%d", home), ("%h", hostname), ("%r", user), ("%%", "%")):
        text = text.replace(token, value)
    return text

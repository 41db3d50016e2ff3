"""The working tree by rsync, for people who edit and run: only what changed travels, nothing is packed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reconciler.core.errors import OutcomeUnknown, Rejected, ShipError, Unreachable
from reconciler.core.names import is_name
from reconciler.core.transport import Command, Transport
from reconciler.transports.openssh import OpenSshTransport, batch_command
from reconciler.transports.pump import pump
from reconciler.transports.registry import TransportSettings, ssh_config_of
from reconciler.transports.shell import Feed, words
from reconciler.transports.sshconfig import without_port

# What the tool that this one follows left out: version control, caches, secrets, weights and logs of experiments.
EXCLUDES = (
    ".git",
    "__pycache__",
    "*.pyc",
    ".mypy_cache",
    ".ruff_cache",
    ".venv",
    "*.egg-info",
    ".env",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.safetensors",
    "wandb/",
)

_ASK_S = 60.0
# rsync(1), EXIT VALUES: 12 a protocol stream that broke off, 30 and 35 time-outs; 255 is ssh's own.
_CUT = (12, 30, 35)
_CONNECTION = 255
_TOTAL = re.compile(rb"^\s*([\d,.]+)\s+\d+%")


def synchronise(
    tree: Path,
    transport: Transport,
    host: TransportSettings,
    share: str,
    name: str,
    *,
    deadline_s: float,
    excludes: Sequence[str] = EXCLUDES,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Make `{share}/rsync/{name}/` on the host equal to `tree`, but for what the excludes match; returns the directory.

    Files that the tree no longer has are deleted there; excluded ones are left alone. It is not atomic: a job that
    reads the directory meanwhile may see a mixture. For a fabric host the system's ssh is used with the same
    configuration and keys. `progress` gets the bytes that travelled since its last call. Raises what the transport
    raises, ShipError without rsync on either side, Rejected when the host's disk is full or forbidden; repeating is
    always safe.
    """
    deadline = time.monotonic() + deadline_s
    if shutil.which("rsync") is None:
        raise ShipError("There is no `rsync` program here", hint="Install rsync, or ship a commit instead.")
    if not tree.is_dir():
        raise ShipError(f"{tree} is not a directory")
    if not is_name(name):
        raise ShipError(f"{name!r} cannot name a directory of a host")
    if not share.startswith("/"):
        raise ShipError(f"{share!r} is not a share directory: expected an absolute path")
    target = f"{share.rstrip('/')}/rsync/{name}"
    made = transport.run(
        Command(("sh", "-c", 'umask o= && mkdir -p "$1"', "sh", target)), deadline_s=min(_ASK_S, deadline_s)
    )
    if made.returncode != 0:
        raise Rejected(f"{host.alias}: {target} cannot be made: {words(made.stderr)}")
    shell = _remote_shell(transport, host, deadline)
    alias, port = without_port(host.alias)
    shell += f" -p {port}" if shell and port else ""
    output, errors = _Progress(progress), bytearray()
    argv = (
        "rsync", "-a", "--delete", "--protect-args", "--info=progress2", "--outbuf=L",
        *(("-z", "-e", shell) if shell else ()),
        *(f"--exclude={pattern}" for pattern in excludes),
        "--", f"{tree}/", f"{alias}:{target}/" if shell else f"{target}/",
    )  # fmt: skip
    ended = pump(argv, Feed(b"", b""), stdout=output.add, stderr=errors.extend, deadline=deadline)
    if ended.returncode == 0:
        return target
    said = words(bytes(errors)) or f"rsync ended with status {ended.returncode}"
    if ended.timed_out:
        raise OutcomeUnknown(f"{host.alias}: {target} was not complete within {deadline_s:g} s")
    if b"command not found" in errors or ended.returncode == 127 or b"rsync: not found" in errors:
        raise ShipError(f"{host.alias}: there is no `rsync` on the host: {said}", hint="Install it, or ship a commit.")
    if b"No space left" in errors or b"Permission denied (13)" in errors:
        raise Rejected(f"{host.alias}: {target} cannot be written: {said}")
    if ended.returncode == _CONNECTION:
        raise Unreachable(f"{host.alias}: rsync got no connection: {said}")
    if ended.returncode in _CUT or ended.returncode is None or ended.returncode < 0:
        raise OutcomeUnknown(f"{host.alias}: {target} is incomplete: {said}")
    raise ShipError(f"{host.alias}: {target} is incomplete: {said}", hint="Run it again when the files are at rest.")


def _remote_shell(transport: Transport, host: TransportSettings, deadline: float) -> str:
    """The `-e` of rsync: words that it splits at blanks, minding double quotes. Empty for this machine."""
    if host.kind == "local":
        return ""
    if isinstance(transport, OpenSshTransport):
        command = transport.shell_command(deadline_s=deadline - time.monotonic())
    else:
        command = batch_command(ssh_config_of(host), host.connect_timeout_s)
    if any('"' in word for word in command):
        raise ShipError(f"{host.alias}: a path of the ssh set-up holds a double quote; rsync cannot be given that")
    return " ".join(f'"{word}"' for word in command)


class _Progress:
    """Reads the running total of `--info=progress2` and reports differences."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._rest = b""
        self._total = 0

    def add(self, piece: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]", (self._rest + piece)[-4096:])
        for line in lines:
            found = _TOTAL.match(line)
            if found and self._progress is not None:
                total = int(re.sub(rb"\D", b"", found[1]))
                if total > self._total:
                    self._progress(total - self._total)
                    self._total = total

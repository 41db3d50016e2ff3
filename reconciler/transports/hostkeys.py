"""Is this the host we know? Reads known_hosts files as sshd(8) describes them. Pure but for reading the files."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import AccessRefused
from reconciler.transports.sshconfig import Endpoint


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line that speaks about the host; `marker` is `revoked`, `cert-authority` or nothing."""

    file: Path
    line: int
    marker: str
    kind: str
    blob: bytes


def known_keys(name: str, files: Iterable[Path]) -> list[KnownKey]:
    """All keys that the files hold for `name`: `host`, or `[host]:port`.

    Files and lines that cannot be read hold none, as in ssh.
    """
    found: list[KnownKey] = []
    for file in files:
        try:
            lines = file.read_bytes().decode("utf-8", "replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            fields = line.split()
            marker = fields.pop(0)[1:] if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or not _names(fields[0], name):
                continue
            try:
                blob = base64.b64decode(fields[2], validate=True)
            except binascii.Error:
                continue
            found.append(KnownKey(file, number, marker, fields[1], blob))
    return found


def _names(field: str, name: str) -> bool:
    if field.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in field[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    named = False
    for pattern in field.lower().split(","):
        # Only * and ? are wildcards here; [ stands for itself, as in [host]:port.
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            named = True
    return named


def fingerprint(blob: bytes) -> str:
    """As ssh prints it: SHA256 and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def check(host: Endpoint, keys: Iterable[KnownKey], kind: str, blob: bytes, *, login: str) -> None:
    """Return when the offered key is the host's. `login` is the command a person runs to meet the host.

    Raises AccessRefused for a revoked, changed or unknown key; the message names the file and the next step.
    """
    offered = f"{kind} {fingerprint(blob)}"
    plain = [key for key in keys if not key.marker]
    for key in keys:
        if key.marker == "revoked" and key.blob == blob:
            raise AccessRefused(
                f"{host.alias}: the host key of {host.key_name} ({offered}) is revoked in {key.file}:{key.line}",
                hint="Ask the host's administrator which key is right.",
            )
    if any(key.blob == blob for key in plain):
        return
    if same := [key for key in plain if key.kind == kind]:
        raise AccessRefused(
            f"{host.alias}: the host key of {host.key_name} has changed: it offers {offered}, "
            f"{same[0].file}:{same[0].line} says {fingerprint(same[0].blob)}; somebody may be listening in",
            hint=f"If the host was set up anew, run `ssh-keygen -R '{host.key_name}' -f {same[0].file}`, then "
            f"`{login}`, and compare the fingerprint with what its administrator says.",
        )
    files = " or ".join(map(str, host.known_hosts)) or "any known_hosts file"
    raise AccessRefused(
        f"{host.alias}: the host key of {host.key_name} ({offered}) is not in {files}",
        hint=f"Run `{login}` once and compare the fingerprint with what the host's administrator says; "
        "ssh then remembers it.",
    )

"""Bring packed trees to a host, once each: a name is a checksum, and what has the name has been checked.

`{share}/objects/{sha256}.tar.gz` holds source trees, `{share}/runtime/{sha256}/` unpacked runtime bundles. Both come
into being complete, by a rename after the check. Two deliverers at once each bring their own copy, and the last rename
wins. A transfer that is cut leaves at most a temporary file, which is never taken for the object and is removed a day
later.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
import time
from collections.abc import Callable

from reconciler.core.errors import OutcomeUnknown, Rejected, ShipError
from reconciler.core.transport import Command, Completed, Transport
from reconciler.source.snapshot import Snapshot

# A question to the host's file system. Network file systems under load take seconds.
_ASK_S = 60.0
_BUNDLE_BYTES_MAX = 16 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

_NO_TOOL, _MISMATCH, _CANNOT = 71, 72, 73

# The checksum of "$1" on standard output, by whichever of the usual programs is there.
_SUM = f"""
checksum() {{
    if command -v sha256sum > /dev/null 2>&1; then sha256sum < "$1" | cut -d ' ' -f 1
    elif command -v shasum > /dev/null 2>&1; then shasum -a 256 < "$1" | cut -d ' ' -f 1
    elif command -v python3 > /dev/null 2>&1; then
        python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
    else echo "none of sha256sum, shasum and python3 is there" >&2; exit {_NO_TOOL}; fi
}}
"""

# $1 directory, $2 object, $3 size, $4 its checksum, or nothing when the size is enough. What others left is cleared up.
_LOOK = (
    _SUM
    + """
find "$1" -name '.incoming-*' -mtime +0 -exec rm -rf {} + 2> /dev/null
if [ ! -f "$2" ]; then echo absent; exit 0; fi
n=$(wc -c < "$2") || exit 73
if [ "$((n))" -ne "$3" ]; then echo damaged; exit 0; fi
if [ -n "$4" ]; then
    found=$(checksum "$2") || exit
    if [ "$found" != "$4" ]; then echo damaged; exit 0; fi
fi
echo present
"""
)

# $1 temporary file, $2 object, $3 checksum
_ACCEPT = (
    _SUM
    + f"""
trap 'rm -f "$1"' EXIT
trap 'exit 75' HUP INT TERM
found=$(checksum "$1") || exit
if [ "$found" != "$3" ]; then echo "it has the checksum $found" >&2; exit {_MISMATCH}; fi
mv -f "$1" "$2" || exit {_CANNOT}
"""
)

# $1 directory of all bundles, $2 temporary directory, $3 final directory, $4 checksum, $5 its mode; the archive on standard input
_UNPACK = (
    _SUM
    + f"""
if [ -d "$3" ]; then cat > /dev/null; exit 0; fi
case $5 in *0) umask o= ;; esac
mkdir -p "$1" || exit {_CANNOT}
find "$1" -name '.incoming-*' -mtime +0 -exec rm -rf {{}} + 2> /dev/null
trap 'rm -rf "$2" "$2.tar.gz"' EXIT
trap 'exit 75' HUP INT TERM
mkdir "$2" || exit {_CANNOT}
cat > "$2.tar.gz" || exit {_CANNOT}
found=$(checksum "$2.tar.gz") || exit
if [ "$found" != "$4" ]; then echo "it has the checksum $found" >&2; exit {_MISMATCH}; fi
(cd "$2" && gzip -dc "$2.tar.gz" | tar -xof -) || exit {_CANNOT}
chmod "$5" "$2"
# Somebody else may have been faster; then mv puts ours inside theirs, where it is taken away again.
mv "$2" "$3" || [ -d "$3" ] || exit {_CANNOT}
rm -rf "$3/${{2##*/}}"
exit 0
"""
)


class Trust(enum.Enum):
    """When an object that is already there counts as the one we want."""

    SIZE = "size"  # it has our name, which it got only after a check, and our size
    CHECKSUM = "checksum"  # it is read again; for when a node has found it damaged


def object_path(share: str, sha256: str) -> str:
    """Where a source tree lies on a host."""
    return f"{_share(share)}/objects/{_digest(sha256)}.tar.gz"


def runtime_path(share: str, sha256: str) -> str:
    """Where an unpacked runtime bundle lies on a host."""
    return f"{_share(share)}/runtime/{_digest(sha256)}"


def deliver(
    transport: Transport,
    share: str,
    snapshot: Snapshot,
    *,
    deadline_s: float,
    trust: Trust = Trust.SIZE,
    shared: bool = False,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Make sure that the host has the packed tree; returns its path there.

    `shared`: every account there may read it; else the group at most. One question when it is there already. `progress` gets the
    bytes sent since its last call, up to `snapshot.size`.
    Raises what the transport raises (after OutcomeUnknown the same call looks and goes on), Rejected for a full or
    forbidden disk, ShipError when the bytes that arrived are not the ones that were sent or cannot be checked.
    """
    deadline = time.monotonic() + deadline_s
    final = object_path(share, snapshot.sha256)
    objects = final.rpartition("/")[0]
    doubt = snapshot.sha256 if trust is Trust.CHECKSUM else ""
    look = _sh(transport, _LOOK, objects, final, str(snapshot.size), doubt, until=deadline)
    if look.returncode == 0 and look.stdout.strip() == b"present":
        return final
    if look.returncode != 0:
        raise _failed(look, f"{objects} cannot be looked at")
    incoming = f"{objects}/.incoming-{secrets.token_hex(8)}"
    try:
        source = snapshot.path.open("rb")
    except OSError as error:
        raise ShipError(f"{snapshot.path} cannot be read: {error.strerror}") from error
    with source:
        left = max(0.1, deadline - time.monotonic())
        mode = 0o644 if shared else 0o640
        transport.put(source, incoming, size=snapshot.size, mode=mode, deadline_s=left, progress=progress)
    accepted = _sh(transport, _ACCEPT, incoming, final, snapshot.sha256, until=deadline)
    if accepted.returncode != 0:
        raise _failed(accepted, f"{final} was not accepted")
    return final


def deliver_runtime(transport: Transport, share: str, bundle: bytes, *, deadline_s: float, shared: bool = False) -> str:
    """Make sure that the host has the runtime bundle, a tar.gz, unpacked; returns where. `shared` and errors as for `deliver`."""
    if len(bundle) > _BUNDLE_BYTES_MAX:
        raise ShipError(f"A runtime bundle of {len(bundle)} bytes is too large: expected at most {_BUNDLE_BYTES_MAX}")
    deadline = time.monotonic() + deadline_s
    sha256 = hashlib.sha256(bundle).hexdigest()
    final = runtime_path(share, sha256)
    there = transport.run(Command(("test", "-d", final)), deadline_s=min(_ASK_S, deadline_s))
    if there.returncode == 0:
        return final
    parent = final.rpartition("/")[0]
    incoming = f"{parent}/.incoming-{secrets.token_hex(8)}"
    mode = "755" if shared else "750"
    done = _sh(transport, _UNPACK, parent, incoming, final, sha256, mode, stdin=bundle, until=deadline)
    if done.returncode != 0:
        raise _failed(done, f"{final} was not unpacked")
    return final


def _sh(transport: Transport, script: str, *arguments: str, until: float, stdin: bytes = b"") -> Completed:
    left = max(0.1, until - time.monotonic())
    return transport.run(
        Command(("sh", "-c", script, "sh", *arguments), stdin), deadline_s=left if stdin else min(_ASK_S, left)
    )


def _failed(done: Completed, what: str) -> ShipError | Rejected | OutcomeUnknown:
    said = " ".join(done.stderr.decode("utf-8", "replace").split()) or f"status {done.returncode}"
    if done.returncode == _MISMATCH:
        return ShipError(
            f"{what}: what arrived is not what was sent ({said}); it was removed",
            hint="Try again; when it happens again, the disk or the network of the host damages data.",
        )
    if done.returncode == _NO_TOOL:
        return ShipError(f"{what}: no checksum can be computed there: {said}", hint="Install coreutils or Python 3.")
    if done.returncode == 75 or done.returncode > 128:
        return OutcomeUnknown(f"{what}: the command was ended: {said}")
    return Rejected(f"{what}: {said}")


def _share(share: str) -> str:
    if not share.startswith("/") or "\0" in share:
        raise ShipError(f"{share!r} is not a share directory: expected an absolute path")
    return share.rstrip("/")


def _digest(sha256: str) -> str:
    if not _SHA256.match(sha256):
        raise ShipError(f"{sha256!r} is not a SHA-256: expected 64 hexadecimal digits")
    return sha256

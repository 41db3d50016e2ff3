"""The bundle that travels to a node, as the controlling side makes it: always the same bytes for the same code."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict

# Runs under any Python 3: one that is too old hands over to the next candidate before it has read any input.
MAIN = b"""import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
if sys.version_info < (3, 8):
    os.execv("/bin/sh", ["sh", os.path.join(here, "bootstrap.sh")] + sys.argv[1:])
sys.path.insert(0, here)

from runtime.__main__ import close_inherited, main

close_inherited()
raise SystemExit(main(sys.argv[1:]))
"""


def bundle_files() -> Dict[str, bytes]:
    """Path inside the bundle -> content. Reads this package's own directory."""
    here = os.path.dirname(os.path.abspath(__file__))
    files = {"__main__.py": MAIN}
    for name in os.listdir(here):
        if name.endswith((".py", ".sh")):
            with open(os.path.join(here, name), "rb") as file:
                files[name if name == "bootstrap.sh" else "runtime/" + name] = file.read()
    return files


def bundle_digest() -> str:
    """SHA-256 over paths and contents, 64 hex digits: independent of how they are packed."""
    digest = hashlib.sha256()
    for path, data in sorted(bundle_files().items()):
        digest.update(b"%d %s %d\n" % (len(path), path.encode(), len(data)))
        digest.update(data)
    return digest.hexdigest()


def bundle_tar() -> bytes:
    """The bundle as .tar.gz, to be unpacked in `{share}/runtime/{bundle_digest()}/`."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped:  # noqa: SIM117 - 3.8 has no parentheses here
        with tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path, data in sorted(bundle_files().items()):
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(data), 0o755 if path.endswith(".sh") else 0o644
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()

"""SSH host keys among the guest attributes of a TPU machine. Pure.

The guest agent publishes them in the namespace `hostkeys`, one attribute per kind of key, the value in base64. Whoever is root on
the machine writes them, so that anything but a key is dropped: the value goes into a known_hosts file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# In the order in which we like them.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_VALUE = re.compile(r"AAAA[A-Za-z0-9+/]{16,2000}={0,3}\Z")


def host_key(attributes: Iterable[tuple[str, str, str]]) -> str:
    """The best key among (namespace, key, value), as it stands in known_hosts; "" without one."""
    found = {key: value.strip() for namespace, key, value in attributes if namespace == "hostkeys"}
    for kind in _KINDS:
        if _VALUE.match(found.get(kind, "")):
            return f"{kind} {found[kind]}"
    return ""

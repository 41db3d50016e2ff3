"""Which transport a host gets. Modules with costly imports are loaded only when such a host is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.core.transport import Transport

# Names another ssh configuration file than the user's own; tests and CI point it at theirs.
SSH_CONFIG_VARIABLE = "RECONCILER_SSH_CONFIG"


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How one host is reached.

    `alias` is an alias of the user's ssh configuration or user@host; for `local` only a name for messages.
    `ssh_config` None means $RECONCILER_SSH_CONFIG, and without it the user's own files.
    `python` names an interpreter on the host, for those who need one; transports do not.
    """

    kind: Literal["local", "fabric", "openssh"]
    alias: str
    connect_timeout_s: float = 15.0
    ssh_config: Path | None = None
    python: str | None = None


def ssh_config_of(settings: TransportSettings) -> Path | None:
    """The ssh configuration file in force, or None for the user's own."""
    if settings.ssh_config is not None:
        return settings.ssh_config
    named = os.environ.get(SSH_CONFIG_VARIABLE)
    return Path(named) if named else None


def open_transport(host: TransportSettings) -> Transport:
    """A transport for the host. Connects at the first call, not here."""
    config = ssh_config_of(host)
    if host.kind == "local":
        from reconciler.transports.local import LocalTransport  # noqa: PLC0415

        return LocalTransport(host.alias)
    if host.kind == "fabric":
        # Importing fabric takes a fifth of a second; a program without ssh hosts does not pay it.
        from reconciler.transports.ssh import FabricTransport  # noqa: PLC0415

        return FabricTransport(host.alias, connect_timeout_s=host.connect_timeout_s, config=config)
    from reconciler.transports.openssh import OpenSshTransport  # noqa: PLC0415

    return OpenSshTransport(host.alias, connect_timeout_s=host.connect_timeout_s, config=config)

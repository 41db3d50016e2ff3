"""Hosts that run real processes, for the contract: a directory, a transport to it, and the ways in which that can be hurt."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Iterator
from typing import Any

from reconciler.app.shipping import Bundle, HostShipping
from reconciler.backends.node import NodeBackend
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.core.errors import OutcomeUnknown, Rejected, Unreachable
from reconciler.core.protocols import Backend, Known, Look
from reconciler.core.transport import Command, Completed, Transport
from reconciler.transports.registry import TransportSettings

DEADLINE_S = 30.0


class Hurt(enum.Enum):
    NOTHING = "all is well"
    UNREACHABLE = "no connection"
    GARBLED = "answers are nonsense"
    CUT = "answers do not arrive"


class Switch:
    """A real transport that can be hurt; counts the commands that go through."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.hurt = Hurt.NOTHING
        self.commands = 0

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        if self.hurt is Hurt.UNREACHABLE:
            raise Unreachable("no connection")
        self.commands += 1
        done = self._inner.run(command, deadline_s=deadline_s)
        if self.hurt is Hurt.CUT:
            raise OutcomeUnknown("the connection was cut")
        return Completed(0, b"@r1 {\xff\xfe nonsense\n", b"") if self.hurt is Hurt.GARBLED else done

    def put(self, *arguments: Any, **more: Any) -> None:
        self._inner.put(*arguments, **more)

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        return self._inner.get(path, size_max=size_max, deadline_s=deadline_s)

    def close(self) -> None:
        self._inner.close()


class NodeSite:
    """Everything lies below `root` on the host. `opener` makes a transport."""

    def __init__(
        self, host: str, root: str, opener: Callable[[], Transport], bundle: Bundle, *, python: str | None = None
    ) -> None:
        self.host, self.root = host, root
        self._opener, self._bundle, self._python = opener, bundle, python
        self.switches: list[Switch] = []

    def open(self) -> Backend:
        switch = Switch(self._opener())
        self.switches.append(switch)
        shipping = HostShipping(
            self.host, switch, TransportSettings("local", self.host), f"{self.root}/share", self._bundle
        )
        paths = NodePaths(
            status=f"{self.root}/status",
            work=f"{self.root}/work",
            checkpoints=f"{self.root}/checkpoints",
            results=f"{self.root}/results",
            bundle=shipping.bundle_dir,
        )
        settings = NodeSettings(self.host, paths, heartbeat_s=0.2, python=self._python)
        shipping.install_bundle()
        return NodeBackend(settings, switch, shipping.install_bundle)

    def commands(self) -> int:
        return sum(switch.commands for switch in self.switches)

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_S
        while True:
            value = holds()
            if value:
                return value
            assert time.monotonic() < end, f"did not come true within {DEADLINE_S:g} s"
            time.sleep(0.02)

    @contextlib.contextmanager
    def _hurt(self, hurt: Hurt) -> Iterator[None]:
        for switch in self.switches:
            switch.hurt = hurt
        yield
        for switch in self.switches:
            switch.hurt = Hurt.NOTHING

    def unreachable(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.UNREACHABLE)

    def garbled(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.GARBLED)

    def cut_after(self) -> contextlib.AbstractContextManager[None]:
        return self._hurt(Hurt.CUT)

    def clear(self) -> None:
        """End whatever a test left alive, as a user would: by its mark."""
        backend = self.open()

        def all_gone() -> bool:
            sightings = backend.observe(Look()).sightings.values()
            for seen in sightings:
                if seen.alive and seen.run is not None:
                    with contextlib.suppress(Rejected):
                        backend.cancel(Known(seen.run), reason="cancelled", grace_s=0.0, force=True)
            return not any(seen.alive for seen in sightings)

        self.until(all_gone)
        backend.close()

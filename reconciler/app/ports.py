"""What the use cases are given. `app.wiring` makes the real ones; tests and the simulated world make their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.core.errors import Problem
from reconciler.core.inventory import Limits
from reconciler.core.job import Desired, JobSpec
from reconciler.core.memory import Memory
from reconciler.core.names import JobKey
from reconciler.core.observation import Gpu
from reconciler.core.protocols import Backend, Clock, Store, Tree
from reconciler.core.secret import Secret
from reconciler.core.solve import HostView

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes done, bytes in all) while code is on its way."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The manifests, read. `complete` is false when a job may be described in a file that could not be understood."""

    desired: Mapping[JobKey, Desired] = field(hash=False)
    frozen: Mapping[JobKey, Problem] = field(hash=False)
    problems: tuple[Problem, ...]
    complete: bool
    commit: str | None
    dirty: bool
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Where manifests come from. Raises SourceError when they cannot be read completely."""

    def read(self) -> DesiredState: ...


@dataclass(frozen=True, slots=True)
class Package:
    """A job's code, pinned and packed on this side. `notes` are things to say (submodules left out, files too large)."""

    commit: str | None
    dirty: bool
    payload: object | None
    notes: tuple[str, ...] = ()


class Shipper(Protocol):
    """Gets code from a repository to a host. Raises ShipError, and the transport's errors."""

    def prepare(self, spec: JobSpec, pin: str | None, head: str | None) -> Package:
        """Take the pinned commit or resolve one, and pack. `head` is the manifests' commit: what HEAD means in their own
        repository. Local work only."""
        ...

    def deliver(self, host: str, package: Package, progress: Progress | None, *, send: bool) -> Tree | None:
        """Where the package lies on the host. `send` makes sure that it is there; without it, it is taken to be: a launch
        that finds it missing is declined as `missing` and made again. Runs on the host's lane; safe to repeat."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything with effects that a pass may use. `hosts` are in the solver's order."""

    source: Source
    store: Store
    clock: Clock
    shipper: Shipper
    hosts: tuple[HostView, ...]
    backends: Callable[[str], Backend]
    secrets: Callable[[JobSpec, str], Mapping[str, Secret]]
    token: Callable[[], str]
    decode: Callable[..., JobSpec]
    chip_of: Callable[[Gpu], str | None]
    check: Callable[[Iterable[Desired]], tuple[Problem, ...]]
    owner: str
    inventory_digest: str = ""
    limits: Limits = field(default_factory=Limits)
    approve: bool = False
    """May what costs money be made without anybody's looking at the plan? (`approve: auto` of the inventory)"""


def known_hosts(hosts: tuple[HostView, ...]) -> frozenset[str]:
    return frozenset(host.name for host in hosts)


def open_run_host(memory: Memory) -> str | None:
    """Where a job's open run is, None when it has none."""
    return memory.run.host if memory.run is not None else None

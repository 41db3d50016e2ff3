"""Ports for tests of the use cases: a machine in memory, the real store, a virtual clock, and a record of what happened when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.app.converge import Options, Reconciler
from reconciler.app.ports import DesiredState, Package, Ports
from reconciler.app.wiring import chip_of
from reconciler.backends.fake import FakeBackend, FakeMachine
from reconciler.core.errors import Problem, ReconcilerError
from reconciler.core.job import Desired, JobSpec
from reconciler.core.names import JobKey
from reconciler.core.observation import Census
from reconciler.core.protocols import Accepted, Declined, Known, Look, Submission, Tree
from reconciler.core.secret import Secret
from reconciler.core.solve import HostView
from reconciler.load.normal import decode
from reconciler.store.sqlite import SqliteStore
from tests.worlds import OWNER


@dataclass
class VirtualClock:
    at: float = 1_000_000.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class SpyStore(SqliteStore):
    """The real store, writing down what it does in `log`, beside what the machines are asked."""

    def __init__(self, path: Path, log: list[str], **more: Any) -> None:
        super().__init__(path, **more)
        self.log = log
        self.renewals: list[Exception | None] = []

    def append(self, lines: Iterable[tuple[JobKey, Any]], *, commit: str, why: str = "") -> None:
        batch = list(lines)
        super().append(batch, commit=commit, why=why)
        self.log.extend(f"{type(line).__name__} {job.name}" for job, line in batch)

    def mark_scanned(self, hosts: Iterable[str]) -> None:
        names = set(hosts) - self.scanned()
        super().mark_scanned(names)
        self.log.extend(f"scanned {name}" for name in sorted(names))

    def lock(self) -> None:
        super().lock()
        self.log.append("lock")


class SpyBackend(FakeBackend):
    """A FakeBackend that logs its calls, and answers what a test put in `answers` (per verb) instead of the truth."""

    def __init__(self, machine: FakeMachine, log: list[str]) -> None:
        super().__init__(machine)
        self.log = log
        self.looks: list[Look] = []
        self.answers: dict[str, Callable[..., Any]] = {}

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Accepted | Declined]:
        self.log.extend(f"submit {item.run.job.name}" for item in submissions)
        answer = self.answers.get("submit", super().submit)
        return answer(submissions)

    def observe(self, look: Look) -> Census:
        self.looks.append(look)
        return self.answers.get("observe", super().observe)(look)

    def cancel(self, known: Known, *, reason: str, grace_s: float, force: bool = False) -> str:
        self.log.append(f"cancel {known.run.job.name}")
        return self.answers.get("cancel", super().cancel)(known, reason=reason, grace_s=grace_s, force=force)


@dataclass
class Desk:
    """One workstation: manifests to edit, machines to break, a reconciler to run."""

    directory: Path
    names: tuple[str, ...] = ("ws",)
    clock: VirtualClock = field(default_factory=VirtualClock)
    log: list[str] = field(default_factory=list)
    manifests: dict[JobKey, Desired] = field(default_factory=dict)
    frozen: dict[JobKey, Problem] = field(default_factory=dict)
    complete: bool = True
    problems: tuple[Problem, ...] = ()
    failing: dict[str, ReconcilerError] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    tree: Tree | None = None
    tokens: int = 0
    machines: dict[str, FakeMachine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machines = self.machines or {name: FakeMachine(name, self.clock.now) for name in self.names}
        self.backends = {name: SpyBackend(machine, self.log) for name, machine in self.machines.items()}
        self.store = SpyStore(self.directory / "state.sqlite", self.log, now=self.clock.now)
        self.reconciler = Reconciler(self.ports())

    def want(self, *jobs: Desired) -> None:
        self.manifests.update((item.key, item) for item in jobs)

    def ports(self, **changes: Any) -> Ports:
        given: dict[str, Any] = {
            "source": self,
            "store": self.store,
            "clock": self.clock,
            "shipper": self,
            "hosts": tuple(HostView(name, "plain", "lab", {}, slots=8) for name in self.names),
            "backends": self.backends.__getitem__,
            "secrets": self.secrets,
            "token": self.token,
            "decode": decode,
            "chip_of": chip_of,
            "check": lambda jobs: self.problems,
            "owner": OWNER,
        }
        return Ports(**{**given, **changes})

    def another(self, actor: str, **options: Any) -> Reconciler:
        """A second reconciler on the same state, as another process."""
        store = SpyStore(self.directory / "state.sqlite", [], now=self.clock.now, actor=actor)
        return Reconciler(self.ports(store=store), Options(**options))

    def one_pass(self, why: str = "test") -> Any:
        return self.reconciler.apply(self.reconciler.look(), why=why)

    def lines(self) -> list[str]:
        return [type(entry.line).__name__ for entry in self.store.history()]

    def close(self) -> None:
        self.reconciler.close()
        self.store.close()

    # --- ports

    def read(self) -> DesiredState:
        self._fail("read")
        return DesiredState(
            dict(self.manifests), dict(self.frozen), tuple(self.frozen.values()), self.complete, "c1", False
        )

    def prepare(self, spec: JobSpec, pin: str | None, head: str | None) -> Package:
        self._fail("prepare")
        return Package("commit", False, self.tree)

    def deliver(self, host: str, package: Package, progress: object, *, send: bool) -> Tree | None:
        self._fail("deliver")
        if send:
            self.sent.append(host)
            self.machines[host].objects.add(self.tree.object if self.tree else "")
        return self.tree

    def secrets(self, spec: JobSpec, host: str) -> Mapping[str, Secret]:
        self._fail("secrets")
        return {}

    def token(self) -> str:
        self.tokens += 1
        return f"token-{self.tokens}"

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise self.failing[what]

"""The host in memory keeps the same contract, so what is tested on it holds for the others."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator

import pytest

from reconciler.core.errors import OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Command, Completed, Transport
from reconciler.transports.fake import Access, FakeHost, FakeTransport, Fault, Hangs
from tests.contract.transport_contract import ConnectedContract, put, run


def shell(host: FakeHost, command: Command) -> Completed:
    """As much of `sh -c` as the contract uses."""
    script = command.argv[2]
    if script.startswith("exit "):
        return Completed(int(script.split()[1]), b"", b"")
    if script.startswith("tee"):
        return Completed(0, command.stdin, command.stdin)
    assert script.endswith("sleep 30")
    raise Hangs


def hangs(host: FakeHost, command: Command) -> Completed:
    raise Hangs


PROGRAMS = {
    "sh": shell,
    "true": lambda host, command: Completed(0, b"", b""),
    "cat": lambda host, command: Completed(0, command.stdin, b""),
    "printf": lambda host, command: Completed(0, printf(command.argv[1], command.argv[2:]), b""),
    "sleep": hangs,
}


def printf(template: str, arguments: tuple[str, ...]) -> bytes:
    text = "".join(template.replace("%s", each) for each in arguments) or template
    return text.encode("utf-8", "surrogateescape")


class FakeSite:
    directory = "/site"

    def __init__(self) -> None:
        self.host = FakeHost("fake", programs=dict(PROGRAMS))

    def open(self) -> Transport:
        return FakeTransport(self.host)

    def names(self) -> list[str]:
        return sorted(posixpath.relpath(path, "/site").split("/")[0] for path in self.host.files)

    def read(self, path: str) -> bytes:
        return self.host.files[path].data

    def mode(self, path: str) -> int:
        return self.host.files[path].mode

    def cut(self) -> None:
        self.host.cut()

    def restart(self) -> None:
        pass

    def power_off(self) -> None:
        self.host.access = Access.OFF

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        return self._with(Access.FROZEN)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return self._with(Access.LOCKED)

    def stranger(self) -> contextlib.AbstractContextManager[None]:
        return self._with(Access.UNKNOWN_KEY)

    def forget(self) -> None:
        self.host.access = Access.UNKNOWN_KEY

    @contextlib.contextmanager
    def _with(self, access: Access) -> Iterator[None]:
        self.host.access = access
        yield
        self.host.access = Access.OPEN


class TestFake(ConnectedContract):
    @pytest.fixture
    def site(self) -> FakeSite:
        return FakeSite()

    # A function ends at once or never, so nothing can be cut while it runs; `Fault` says what would have been.
    test_a_connection_cut_while_a_command_runs_leaves_the_outcome_unknown = None  # type: ignore[assignment]


def test_a_fault_before_the_call_does_nothing() -> None:
    host = FakeHost("h", programs=dict(PROGRAMS))
    host.faults.append(Fault.BEFORE)
    with pytest.raises(Unreachable):
        run(FakeTransport(host), "true")
    assert host.commands == []


@pytest.mark.parametrize(("fault", "done"), [(Fault.LOST, 0), (Fault.AFTER, 1)])
def test_a_lost_answer_does_not_say_whether_the_command_ran(fault: Fault, done: int) -> None:
    host = FakeHost("h", programs=dict(PROGRAMS))
    host.faults.extend([fault, None])
    transport = FakeTransport(host)
    with pytest.raises(OutcomeUnknown):
        run(transport, "true")
    assert len(host.commands) == done
    assert run(transport, "true")[0] == 0


def test_a_full_disk_is_refused_with_the_hosts_words() -> None:
    host = FakeHost("h", disk_bytes=10)
    with pytest.raises(Rejected, match="No space left"):
        put(FakeTransport(host), "/f", b"x" * 11)
    assert host.files == {}

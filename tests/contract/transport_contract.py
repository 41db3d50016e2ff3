"""What every transport promises. A test class inherits these and provides `site`.

`TransportContract` holds for all; `ConnectedContract` adds what only a machine behind a connection can show.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Command, Transport

# For calls that must succeed on a loaded machine.
AMPLE_S = 30.0
# What a missed deadline may cost beyond it: the time to end the command, and a loaded machine.
SLACK_S = 1.5

HOSTILE = [
    "",
    " ",
    "-n",
    "--",
    "a'b",
    'a"b',
    "a\nb",
    "trailing\n\n",
    "$(touch pwned)",
    "`id`",
    "$HOME",
    "back\\slash",
    "\\n\\",
    "tab\tand\rreturn",
    "*",
    "~",
    "!history",
    "%s%d",
    "a;b&c|d>e<f(g)",
    "#not a comment",
    "Grüße, 世界 🚀",
    "\x01\x02\x7f",
    "\u0081\u0082\u0088",  # their bytes are the marks that dash uses inside words
    "not utf-8: \udcff\udc80",
    "x" * 100_000,
]


class Site(Protocol):
    """One place to test. `directory` is empty, absolute and on the host; `names()` lists it behind the transport's
    back.
    """

    directory: str

    def open(self) -> Transport: ...

    def names(self) -> list[str]: ...

    def read(self, path: str) -> bytes: ...

    def mode(self, path: str) -> int: ...


class ConnectedSite(Site, Protocol):
    """A machine whose power, network, keys and rights the test holds in its hand."""

    def cut(self) -> None: ...

    def restart(self) -> None: ...

    def power_off(self) -> None: ...

    def frozen(self) -> contextlib.AbstractContextManager[None]: ...

    def locked(self) -> contextlib.AbstractContextManager[None]: ...

    def stranger(self) -> contextlib.AbstractContextManager[None]: ...

    def forget(self) -> None: ...


def run(transport: Transport, *argv: str, stdin: bytes = b"", deadline_s: float = AMPLE_S) -> tuple[int, bytes, bytes]:
    done = transport.run(Command(argv, stdin), deadline_s=deadline_s)
    return done.returncode, done.stdout, done.stderr


def put(transport: Transport, path: str, data: bytes, **more: object) -> None:
    transport.put(io.BytesIO(data), path, size=len(data), deadline_s=AMPLE_S, **more)  # type: ignore[arg-type]


def soon(what: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Poll until it is true."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class TransportContract:
    @pytest.fixture
    def transport(self, site: Site) -> Iterator[Transport]:
        opened = site.open()
        yield opened
        opened.close()

    @pytest.fixture
    def shared(self, transport: Transport) -> Transport:
        """For tests that change nothing; a class may keep one open for all of them."""
        return transport

    # --- run --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("status", [0, 1, 2, 73, 75, 124, 125, 126, 127, 128, 130, 137, 143, 254, 255])
    def test_every_exit_status_arrives_as_a_value(self, shared: Transport, status: int) -> None:
        assert run(shared, "sh", "-c", f"exit {status}")[0] == status

    def test_a_program_that_is_not_there_answers_127(self, shared: Transport) -> None:
        status, out, err = run(shared, "no-such-program-here")
        assert (status, out) == (127, b"")
        assert b"no-such-program-here" in err

    def test_a_builtin_of_the_shell_is_not_taken_for_a_program(self, shared: Transport) -> None:
        assert run(shared, "exit", "3")[0] == 127

    def test_standard_input_arrives_byte_for_byte(self, shared: Transport) -> None:
        data = bytes(range(256)) * 64 + b"no newline at the end"
        assert run(shared, "cat", stdin=data) == (0, data, b"")

    def test_without_input_a_program_sees_the_end_at_once(self, shared: Transport) -> None:
        assert run(shared, "cat") == (0, b"", b"")

    def test_ten_megabytes_pass_in_both_directions_at_once(self, shared: Transport) -> None:
        data = bytes(range(251)) * 40_000
        status, out, err = run(shared, "cat", stdin=data)
        assert (status, err) == (0, b"")
        assert out == data

    def test_both_outputs_are_kept_apart_and_whole(self, shared: Transport) -> None:
        data = b"z" * 3_000_000
        status, out, err = run(shared, "sh", "-c", "tee /dev/stderr", stdin=data)
        assert status == 0
        assert out == data
        assert err == data

    def test_input_that_nobody_reads_does_not_block(self, shared: Transport) -> None:
        assert run(shared, "true", stdin=b"x" * 3_000_000)[0] == 0

    @pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
    def test_an_argument_arrives_byte_for_byte(self, shared: Transport, text: str) -> None:
        status, out, _ = run(shared, "printf", "[%s]", text, "and the next")
        assert status == 0
        assert out == b"[" + text.encode("utf-8", "surrogateescape") + b"][and the next]"

    @pytest.mark.parametrize("argv", [(), ("",), ("echo", "a\0b")])
    def test_what_no_program_can_be_given_is_refused(self, shared: Transport, argv: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match=r"NUL|empty"):
            run(shared, *argv)

    def test_a_deadline_is_kept_and_says_that_the_outcome_is_unknown(self, transport: Transport) -> None:
        run(transport, "true")
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="sleep"):
            run(transport, "sleep", "30", deadline_s=0.3)
        assert time.monotonic() - began < 0.3 + SLACK_S

    def test_the_next_call_after_a_missed_deadline_works(self, transport: Transport) -> None:
        run(transport, "true")
        with pytest.raises(OutcomeUnknown):
            run(transport, "sleep", "30", deadline_s=0.2)
        assert run(transport, "printf", "again") == (0, b"again", b"")

    def test_many_commands_leave_nothing_open(self, transport: Transport) -> None:
        run(transport, "true")
        before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
        for _ in range(40):
            run(transport, "true")
        after = len(list(Path("/proc/self/fd").iterdir())) if before else 0
        assert after <= before + 2

    def test_a_closed_transport_opens_again(self, transport: Transport) -> None:
        assert run(transport, "true")[0] == 0
        transport.close()
        transport.close()
        assert run(transport, "true")[0] == 0

    def test_a_transport_that_was_never_used_closes(self, site: Site) -> None:
        site.open().close()

    # --- put and get ------------------------------------------------------------------------------------------------

    def test_a_file_comes_back_as_it_was_put(self, site: Site, shared: Transport) -> None:
        path, data = f"{site.directory}/a/b/c.bin", bytes(range(256)) * 4_000
        put(shared, path, data, mode=0o640)
        assert site.read(path) == data
        assert site.mode(path) == 0o640
        assert shared.get(path, size_max=len(data), deadline_s=AMPLE_S) == data

    def test_an_empty_file_is_a_file(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/empty", b"")
        assert shared.get(f"{site.directory}/empty", size_max=0, deadline_s=AMPLE_S) == b""

    @pytest.mark.parametrize("name", ["-n", "a b", "q'\"q", "$(id)", "new\nline", "Grüße", "back\\slash", "*"])
    def test_a_file_name_arrives_byte_for_byte(self, site: Site, shared: Transport, name: str) -> None:
        put(shared, f"{site.directory}/{name}", b"data")
        assert site.names() == [name]
        assert shared.get(f"{site.directory}/{name}", size_max=4, deadline_s=AMPLE_S) == b"data"

    def test_a_put_replaces_the_file_and_leaves_nothing_beside_it(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/f", b"old")
        put(shared, f"{site.directory}/f", b"new and longer")
        assert site.read(f"{site.directory}/f") == b"new and longer"
        assert site.names() == ["f"]

    def test_progress_adds_up_to_the_size(self, site: Site, shared: Transport) -> None:
        sent: list[int] = []
        put(shared, f"{site.directory}/f", b"x" * 1_500_000, progress=sent.append)
        assert sum(sent) == 1_500_000
        assert len(sent) > 2

    def test_a_source_that_is_longer_than_said_is_cut_at_the_size(self, site: Site, shared: Transport) -> None:
        shared.put(io.BytesIO(b"0123456789"), f"{site.directory}/f", size=4, deadline_s=AMPLE_S)
        assert site.read(f"{site.directory}/f") == b"0123"

    def test_fewer_bytes_than_said_leave_the_old_file(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/f", b"old")
        with pytest.raises(OutcomeUnknown, match="5 of 9 bytes"):
            shared.put(io.BytesIO(b"short"), f"{site.directory}/f", size=9, deadline_s=AMPLE_S)
        assert site.read(f"{site.directory}/f") == b"old"
        assert site.names() == ["f"]

    def test_a_put_onto_a_directory_is_refused(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/d/f", b"x")
        with pytest.raises(Rejected, match="directory"):
            put(shared, f"{site.directory}/d", b"x")

    def test_a_put_below_a_file_is_refused_with_the_hosts_words(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/f", b"x")
        with pytest.raises(Rejected, match=r"(?i)not a directory|file exists"):
            put(shared, f"{site.directory}/f/below", b"x")

    def test_a_missing_file_is_refused(self, site: Site, shared: Transport) -> None:
        with pytest.raises(Rejected, match="no such file"):
            shared.get(f"{site.directory}/none", size_max=10, deadline_s=AMPLE_S)

    def test_a_directory_is_not_read(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/d/f", b"x")
        with pytest.raises(Rejected, match="not a regular file"):
            shared.get(f"{site.directory}/d", size_max=10, deadline_s=AMPLE_S)

    def test_a_file_larger_than_expected_is_refused(self, site: Site, shared: Transport) -> None:
        put(shared, f"{site.directory}/f", b"12345")
        with pytest.raises(Rejected, match="5 bytes"):
            shared.get(f"{site.directory}/f", size_max=4, deadline_s=AMPLE_S)


class ConnectedContract(TransportContract):
    def test_a_connection_cut_while_a_command_runs_leaves_the_outcome_unknown(
        self, site: ConnectedSite, transport: Transport
    ) -> None:
        script = 'echo started > "$1/mark"; sleep 30'
        with cut_once(site, lambda: "mark" in site.names()), pytest.raises(OutcomeUnknown):
            run(transport, "sh", "-c", script, "sh", site.directory)
        assert run(transport, "true")[0] == 0

    def test_a_connection_cut_in_a_transfer_leaves_no_file(self, site: ConnectedSite, transport: Transport) -> None:
        run(transport, "true")
        seen = 0

        def progress(count: int) -> None:
            nonlocal seen
            if seen < 4_000_000 <= seen + count:
                site.cut()
            seen += count

        with pytest.raises(OutcomeUnknown):
            put(transport, f"{site.directory}/f", b"x" * 30_000_000, progress=progress)
        assert seen < 30_000_000
        assert soon(lambda: site.names() == []), site.names()
        put(transport, f"{site.directory}/f", b"whole")
        assert site.names() == ["f"]

    def test_a_cut_transfer_leaves_the_old_file(self, site: ConnectedSite, transport: Transport) -> None:
        put(transport, f"{site.directory}/f", b"old")
        # The first cut may come before anything was asked of the host.
        with pytest.raises((OutcomeUnknown, Unreachable)):
            put(transport, f"{site.directory}/f", b"x" * 30_000_000, progress=lambda _: site.cut())
        assert soon(lambda: site.names() == ["f"])
        assert site.read(f"{site.directory}/f") == b"old"

    def test_a_restarted_host_is_reached_again_by_the_next_call(
        self, site: ConnectedSite, transport: Transport
    ) -> None:
        assert run(transport, "true")[0] == 0
        site.restart()
        assert run(transport, "true")[0] == 0

    def test_a_host_that_is_off_is_unreachable(self, site: ConnectedSite, transport: Transport) -> None:
        run(transport, "true")
        site.power_off()
        with pytest.raises(Unreachable):
            run(transport, "true")

    def test_a_host_that_hangs_is_unreachable_after_the_connect_timeout(self, site: ConnectedSite) -> None:
        transport = site.open()
        with site.frozen():
            began = time.monotonic()
            with pytest.raises(Unreachable):
                run(transport, "true")
            assert time.monotonic() - began < 2.0 + SLACK_S  # sites open with a connect timeout of 2 s or less
        transport.close()

    def test_a_host_that_hangs_within_a_connection_costs_the_deadline(
        self, site: ConnectedSite, transport: Transport
    ) -> None:
        run(transport, "true")
        with site.frozen():
            began = time.monotonic()
            with pytest.raises((OutcomeUnknown, Unreachable)):
                run(transport, "true", deadline_s=0.5)
            assert time.monotonic() - began < 0.5 + SLACK_S
        assert run(transport, "true")[0] == 0

    def test_a_host_that_stops_reading_costs_the_deadline(self, site: ConnectedSite, transport: Transport) -> None:
        run(transport, "true")
        with site.frozen():
            began = time.monotonic()
            with pytest.raises((OutcomeUnknown, Unreachable)):
                transport.put(io.BytesIO(b"x" * 40_000_000), f"{site.directory}/f", size=40_000_000, deadline_s=1.0)
            assert time.monotonic() - began < 1.0 + SLACK_S
        assert soon(lambda: site.names() == [])

    def test_an_unknown_host_key_is_refused_and_says_what_to_do(self, site: ConnectedSite) -> None:
        site.forget()
        transport = site.open()
        with pytest.raises(AccessRefused, match=r"(?s)host key.*Run `ssh .*once"):
            run(transport, "true")
        transport.close()

    def test_a_changed_host_key_is_refused(self, site: ConnectedSite) -> None:
        with site.stranger():
            transport = site.open()
            with pytest.raises(AccessRefused, match="host key"):
                run(transport, "true")
            transport.close()

    def test_a_withdrawn_right_to_log_in_is_refused_and_given_back_works(self, site: ConnectedSite) -> None:
        transport = site.open()
        with site.locked(), pytest.raises(AccessRefused, match=r"(?s)login.*Run `ssh"):
            run(transport, "true")
        assert run(transport, "true")[0] == 0
        transport.close()


@contextlib.contextmanager
def cut_once(site: ConnectedSite, when: Callable[[], bool]) -> Iterator[None]:
    """Cut the connection from another thread as soon as `when` holds."""

    def cut() -> None:
        if soon(when):
            site.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    yield
    thread.join()

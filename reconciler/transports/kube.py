"""One container of a pod, by commands that the Kubernetes API server runs in it (`pods/exec`, over a websocket).

A websocket for each command; nothing stays open between two. As with the other kinds of connection, the command travels as the
first line of the standard input of a plain `sh` (see shell.py), so its marks say whether it ran, ended and was heard whole; the
server's own Status is read where the marks are missing. The protocol cannot say that the input has ended, hence `head -c SIZE`
stands in front of a command that reads.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from reconciler.core.errors import OutcomeUnknown, ReconcilerError
from reconciler.core.transport import Command, Completed
from reconciler.transports import kube_frames as frames
from reconciler.transports import shell
from reconciler.transports.shell import Feed, Frame, Progress, Upload

# Small enough for every server's limit on a message, large enough for few of them.
_SEND_BYTES = 128 * 1024
_READ_BYTES = 1 << 18
# What ending a command past its deadline may cost on top of the deadline (seconds).
_END_S = 0.5
# How long outputs may lag behind the Status that ends a command (seconds).
_LINGER_S = 1.0

# Without `--`, which not every shell's `kill` knows.
_END = 'kill -TERM "-$1" 2>/dev/null || kill -TERM "$1"'
# The `head` that feeds the command of the shell $1: with its end, the command sees the end of its input.
_CLOSE = """
for f in /proc/[0-9]*/stat; do
  IFS= read -r l < "$f" || continue
  case $l in *" (head) "?" $1 "*) kill -TERM "${l%% *}"; exit 0 ;; esac
done 2>/dev/null
kill -TERM "-$1"
"""


@dataclass(frozen=True, slots=True)
class Door:
    """How a websocket to an API server is opened. `headers` say who we are and are never shown; `tls` as `ssl` names it."""

    server: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    tls: Mapping[str, Any] = field(default_factory=dict, hash=False)
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()


class Doors(Protocol):
    """Who knows the API server: implemented by backends/kube_client.py."""

    namespace: str

    def door(self, *, fresh: bool = False) -> Door:
        """`fresh`: sign in anew first. Raises AccessRefused."""
        ...

    def refused(self, pod: str, code: int, body: bytes) -> ReconcilerError:
        """What to raise when the server did not open the stream."""
        ...

    def unanswered(self, pod: str, why: str) -> ReconcilerError:
        """What to raise when there is no connection to the server."""
        ...

    def not_run(self, pod: str, body: bytes) -> ReconcilerError:
        """What to raise for the Status `body` of a command that did not speak."""
        ...


class KubeTransport:
    """Implements core/transport.Transport for one container; it must have `sh`, `head` and the tools that shell.py uses."""

    def __init__(self, doors: Doors, pod: str, *, container: str = "", connect_timeout_s: float = 15.0) -> None:
        self._doors, self._pod, self._container = doors, pod, container
        self._connect_timeout_s = connect_timeout_s
        self._where = f"pod {pod} in namespace {doors.namespace}"

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        """See Transport.run."""
        return self._execute(command.argv, command.stdin, deadline_s=deadline_s)

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o640,
        deadline_s: float,
        progress: Progress | None = None,
    ) -> None:
        """See Transport.put."""
        shell.put(self._execute, self._where, Upload(source, size, progress), path, mode=mode, deadline_s=deadline_s)

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        """See Transport.get."""
        return shell.get(self._execute, self._where, path, size_max=size_max, deadline_s=deadline_s)

    def close(self) -> None:
        """Nothing stays open between two calls."""

    # --- one command

    def _execute(
        self,
        argv: tuple[str, ...],
        feed: bytes | Upload,
        *,
        deadline_s: float,
        output_max: int = shell.OUTPUT_BYTES_MAX,
    ) -> Completed:
        deadline = time.monotonic() + deadline_s
        size = feed.size if isinstance(feed, Upload) else len(feed)
        frame = Frame(argv, output_max=output_max, reads=size)
        heard = _Heard()
        with self._stream(deadline) as line:
            self._converse(line, frame, Feed(frame.head, feed), len(frame.head) + size, heard, deadline)
        if heard.short:
            raise OutcomeUnknown(f"{self._where}: {size - heard.short} of {size} bytes arrived: the source had no more")
        if frame.finished:
            return frame.completed()
        if heard.late:
            if frame.pid is not None:
                self._also(_END, frame.pid)
            raise OutcomeUnknown(f"{self._where}: {argv[0]} did not end within its deadline")
        if heard.status is None:
            why = f" ({heard.why})" if heard.why else ""
            raise OutcomeUnknown(f"{self._where}: the connection was cut while {argv[0]} ran{why}")
        code = exit_code(heard.status)
        if code is None and frame.pid is None:
            raise self._doors.not_run(self._pod, heard.status)
        raise OutcomeUnknown(
            f"{self._where}: the shell around {argv[0]} ended with status {code if code is not None else 'unknown'} before it "
            "could say how the program did: the container was stopped, or ran out of memory",
        )

    def _converse(self, line: _Line, frame: Frame, feed: Feed, size: int, heard: _Heard, deadline: float) -> None:
        """Feed the command and hear it until it has ended, the line is cut, or the deadline has passed."""
        inbox, sent = frames.Inbox(), 0
        sinks = {frames.STDOUT: frame.stdout.add, frames.STDERR: frame.stderr.add}
        while not frame.finished:
            if heard.over:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                heard.late = heard.status is None
                return
            if not line.sending:
                piece = feed.peek()[:_SEND_BYTES]
                if piece:
                    line.send(frames.frame(frames.BINARY, b"\0" + bytes(piece)))
                    feed.sent(len(piece))
                    sent += len(piece)
                elif sent < size and not heard.short and frame.pid is not None:
                    heard.short = size - sent  # the source had less than was said, and the command waits for the rest
                    self._also(_CLOSE, frame.pid, within_s=min(left, self._connect_timeout_s))
            try:
                inbox.add(line.exchange(left))
                for message in inbox.messages():
                    if message.kind == frames.PING:
                        line.send(frames.frame(frames.PONG, message.data))
                    elif message.kind == frames.CLOSE:
                        heard.over = True
                    elif message.data[:1] == bytes((frames.STATUS,)):
                        heard.status = message.data[1:]
                        deadline = min(deadline, time.monotonic() + _LINGER_S)
                    elif message.data and message.data[0] in sinks:
                        sinks[message.data[0]](message.data[1:])
            except (OSError, frames.BrokenFrame) as error:
                heard.over, heard.why = True, str(error)

    def _also(self, script: str, pid: int, *, within_s: float = _END_S) -> None:
        """Say something to the command's processes, by a command of its own."""
        frame = Frame(("sh", "-c", script, "sh", str(pid)), reads=0)
        deadline = time.monotonic() + within_s
        with contextlib.suppress(ReconcilerError), self._stream(deadline, connect_s=within_s) as line:
            self._converse(line, frame, Feed(frame.head, b""), len(frame.head), _Heard(), deadline)

    # --- one stream

    @contextlib.contextmanager
    def _stream(self, deadline: float, *, connect_s: float | None = None) -> Iterator[_Line]:
        within_s = self._connect_timeout_s if connect_s is None else connect_s
        websocket = self._connected(deadline, within_s)
        try:
            yield _Line(websocket.sock)
        finally:
            websocket.shutdown()

    def _connected(self, deadline: float, within_s: float) -> Any:
        import websocket  # noqa: PLC0415  comes with kubernetes; imported late, for --help

        for fresh in (False, True):
            door = self._doors.door(fresh=fresh)
            left = min(within_s, deadline - time.monotonic())
            if left <= 0:
                raise self._doors.unanswered(self._pod, "no time was left to connect")
            # enable_multithread off: no lock is needed, a lane owns us.
            made = websocket.WebSocket(sslopt=dict(door.tls), enable_multithread=False)
            try:
                made.connect(
                    self._url(door.server),
                    timeout=left,
                    header=[f"{key}: {value}" for key, value in door.headers.items()],
                    subprotocols=[frames.PROTOCOL],
                    suppress_origin=True,
                    redirect_limit=0,
                    **_by_proxy(door),
                )
            except websocket.WebSocketBadStatusException as error:
                made.shutdown()
                if error.status_code == 401 and not fresh:
                    continue
                raise self._doors.refused(self._pod, error.status_code, error.resp_body or b"") from error
            except (websocket.WebSocketException, OSError, ValueError) as error:
                made.shutdown()
                why = f"no connection within {left:.3g} s" if _timed_out(error) else str(error)
                raise self._doors.unanswered(self._pod, why) from error
            return made
        raise AssertionError("the second try returns or raises")

    def _url(self, server: str) -> str:
        parts = urlsplit(server)
        place = f"/api/v1/namespaces/{self._doors.namespace}/pods/{self._pod}/exec"
        query = [("command", word) for word in ("sh", "-c", shell.READ_AND_RUN)]
        query += [("stdin", "true"), ("stdout", "true"), ("stderr", "true"), ("tty", "false")]
        if self._container:
            query.append(("container", self._container))
        scheme = "wss" if parts.scheme == "https" else "ws"
        return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + place, urlencode(query), ""))


@dataclass(slots=True)
class _Heard:
    """What a conversation came to, besides the frame. `over`: the other side has ended it, `why` in its words. `short`: so many
    bytes of the input were never there."""

    status: bytes | None = None
    late: bool = False
    over: bool = False
    why: str = ""
    short: int = 0


class _Line:
    """A connected socket, of TLS or not, that never waits longer than it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._out = memoryview(b"")
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @property
    def sending(self) -> bool:
        """Is there something that has not been taken yet?"""
        return bool(self._out)

    def send(self, data: bytes) -> None:
        self._out = memoryview(bytes(self._out) + data) if self._out else memoryview(data)

    def exchange(self, within_s: float) -> bytes:
        """Send what fits and give what has come: as soon as something has, or all has been sent (the caller may have more), after
        `within_s` at the latest. Raises OSError at the end of the line."""
        had = self.sending
        self._push()
        got = self._pull()
        if got or (had and not self.sending):
            return got
        self._poll.modify(self._sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        self._poll.poll(max(20.0, within_s * 1000))
        return self._pull()

    def _push(self) -> None:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._out:
                self._out = self._out[self._sock.send(self._out) :]

    def _pull(self) -> bytes:
        try:
            got = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not got:
            raise ConnectionResetError("the server ended the connection")
        return got


def exit_code(status: bytes) -> int | None:
    """The exit code of a command by the Status that ends its stream; None when it tells of no exit."""
    try:
        told = json.loads(status)
        if told["status"] == "Success":
            return 0
        if told.get("reason") != "NonZeroExitCode":
            return None
        causes = told["details"]["causes"]
        return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _by_proxy(door: Door) -> dict[str, Any]:
    if not door.proxy:
        return {}
    proxy = urlsplit(door.proxy)
    how: dict[str, Any] = {
        "http_proxy_host": proxy.hostname,
        "http_proxy_port": proxy.port,
        "proxy_type": proxy.scheme if proxy.scheme.startswith("socks") else "http",
        "http_no_proxy": list(door.no_proxy),
    }
    if proxy.username:
        how["http_proxy_auth"] = (unquote(proxy.username), unquote(proxy.password or ""))
    return how


def _timed_out(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "timed out" in str(error)

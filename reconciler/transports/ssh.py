"""SSH through fabric: one connection per host, kept and reused. The only module that imports fabric and paramiko.

Fabric holds the connection, the jump hosts and the keys. Commands go over its paramiko channel directly:
`Connection.run` starts three threads and polls with sleeps (10 ms and more per command, and no deadline of its own).
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import paramiko
from fabric import Config, Connection

from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Command, Completed
from reconciler.transports import hostkeys, shell
from reconciler.transports.shell import Feed, Frame, Progress, Upload
from reconciler.transports.sshconfig import JUMPS_MAX, Endpoint, destination, endpoint, ssh_argv

# A message to the peer when the line is quiet, so that firewalls keep it open (seconds).
_KEEPALIVE_S = 30
# The kernel gives up a connection whose data stays unacknowledged for this long (milliseconds).
_TCP_USER_TIMEOUT_MS = 30_000
# What ending a command past its deadline may cost on top of the deadline.
_END_S = 0.5
# paramiko sends one packet at a time, and no server takes more in one (RFC 4253, 6.1).
_SEND_BYTES = 32 * 1024
# How long sending waits for the peer's window before it looks at what has come in.
_SEND_WAIT_S = 0.05

# Signature algorithms of a kind of key, where the names differ (RFC 8332).
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


class FabricTransport:
    """One host over one ssh connection, opened at the first call and again when it is dead."""

    def __init__(self, alias: str, *, connect_timeout_s: float = 15.0, config: Path | None = None) -> None:
        self._alias = alias
        self._config = config
        self._connect_timeout_s = connect_timeout_s
        self._login = shlex.join(ssh_argv(config, destination(alias)))
        self._chain: list[Connection] = []
        # Its own log would print a traceback for every connection that fails; the errors raised here say it.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())

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
        shell.put(self._execute, self._alias, Upload(source, size, progress), path, mode=mode, deadline_s=deadline_s)

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        """See Transport.get."""
        return shell.get(self._execute, self._alias, path, size_max=size_max, deadline_s=deadline_s)

    def close(self) -> None:
        """See Transport.close."""
        chain, self._chain = self._chain, []
        for connection in reversed(chain):
            _close(connection)

    # --- one command ------------------------------------------------------------------------------------------------

    def _execute(
        self,
        argv: tuple[str, ...],
        feed: bytes | Upload,
        *,
        deadline_s: float,
        output_max: int = shell.OUTPUT_BYTES_MAX,
    ) -> Completed:
        deadline = time.monotonic() + deadline_s
        frame = Frame(argv, output_max=output_max)
        channel = self._session(deadline)
        # paramiko waits without a limit for the answer to a request and for room in a full socket. Past the deadline
        # and the time to end the command, the socket is shut, which wakes it wherever it waits.
        watchdog = threading.Timer(max(0.0, deadline - time.monotonic()) + _END_S, self._cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            channel.exec_command(shell.LOGIN_COMMAND)
            _converse(channel, frame, Feed(frame.head, feed), deadline)
        except (OSError, EOFError, paramiko.SSHException) as error:
            if time.monotonic() >= deadline:
                self._end(frame)
                raise OutcomeUnknown(f"{self._alias}: {argv[0]} did not end within {deadline_s:g} s") from error
            self.close()
            raise OutcomeUnknown(
                f"{self._alias}: the connection was lost while {argv[0]} ran ({_said(error)})"
            ) from error
        finally:
            watchdog.cancel()
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.close()
        if frame.finished:
            return frame.completed()
        if frame.pid is None and channel.exit_status != -1:
            raise AccessRefused(
                f"{self._alias}: the login shell ended with status {channel.exit_status} instead of running our "
                f"command: {frame.words() or 'it said nothing'}",
                hint=f"Check that `{self._login} true` works.",
            )
        raise OutcomeUnknown(f"{self._alias}: the connection was cut while {argv[0]} ran")

    def _cut(self) -> None:
        if self._chain:
            _shut(getattr(self._chain[0].client.get_transport(), "sock", None))

    def _session(self, deadline: float) -> Any:
        """A channel on a living connection. Nothing has been asked of the host yet, so every failure is Unreachable."""
        while True:
            reused = bool(self._chain)
            try:
                transport = self._connected(deadline)
                return transport.open_session(timeout=max(0.01, deadline - time.monotonic()))
            except paramiko.ChannelException as error:
                raise Unreachable(
                    f"{self._alias}: no further session on this connection ({_said(error)})",
                    hint="Its sshd allows too few sessions (MaxSessions); fewer programs at once will do.",
                ) from error
            except (OSError, EOFError, paramiko.SSHException) as error:
                self.close()
                if not reused or time.monotonic() >= deadline:
                    raise Unreachable(f"{self._alias}: no session could be opened ({_said(error)})") from error

    def _end(self, frame: Frame) -> None:
        """End what runs past its deadline, as far as that is possible in half a second."""
        if frame.pid is None:
            self.close()  # it never spoke: the connection is not to be trusted either
            return
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel = self._chain[-1].transport.open_session(timeout=_END_S)
            channel.exec_command(f"exec sh -c 'kill -TERM -{frame.pid}'")
            channel.close()

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connected(self, deadline: float) -> Any:
        if self._chain and self._chain[-1].is_connected:
            return self._chain[-1].transport
        self.close()
        until = min(deadline, time.monotonic() + self._connect_timeout_s)
        hops = list(_route(endpoint(self._alias, self._config), self._config))
        try:
            for hop in hops:
                self._chain.append(self._open(hop, self._chain[-1] if self._chain else None, until))
        except BaseException:
            self.close()
            raise
        return self._chain[-1].transport

    def _open(self, hop: Endpoint, gateway: Connection | None, until: float) -> Connection:
        where = hop.alias if hop.alias == self._alias else f"{self._alias} (jump host {hop.alias})"
        login = shlex.join(ssh_argv(self._config, destination(hop.alias)))
        keys = hostkeys.known_keys(hop.key_name, hop.known_hosts)
        left = max(0.01, until - time.monotonic())
        kwargs: dict[str, Any] = {
            "key_filename": [str(path) for path in hop.identity_files if path.is_file()],
            "allow_agent": (hop.identity_agent or "").lower() != "none",
            "look_for_keys": False,
            "banner_timeout": left,
            "auth_timeout": left,
            "channel_timeout": left,
            "transport_factory": lambda sock, **options: _transport(sock, keys, options),
        }
        if gateway is None:
            kwargs["sock"] = _socket(hop, where, left)
        # An empty, lazy configuration: everything that the user's files say is in the endpoint already.
        connection = Connection(
            hop.hostname,
            user=hop.user,
            port=hop.port,
            config=Config(lazy=True, ssh_config=paramiko.SSHConfig()),
            gateway=gateway,
            connect_kwargs=kwargs,
        )
        connection.connect_timeout = left
        connection.client.set_missing_host_key_policy(_Check(hop, keys, login))
        try:
            connection.open()
        except BaseException as error:
            _close(connection, kwargs.get("sock"))
            _explain(error, where, hop, login)
            raise
        connection.transport.set_keepalive(_KEEPALIVE_S)
        return connection


class _Check(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Asked for every key, because fabric's own list is left empty."""

    def __init__(self, hop: Endpoint, keys: list[hostkeys.KnownKey], login: str) -> None:
        self._hop, self._keys, self._login = hop, keys, login

    def missing_host_key(self, _client: Any, _hostname: str, key: Any) -> None:
        hostkeys.check(self._hop, self._keys, key.get_name(), key.asbytes(), login=self._login)


def _route(target: Endpoint, config: Path | None) -> Iterator[Endpoint]:
    """The hops to the target, nearest first; a jump host's own ProxyJump counts too, as in ssh."""
    if len(target.jumps) > JUMPS_MAX:
        raise Rejected(f"{target.alias}: ProxyJump names more than {JUMPS_MAX} hosts")
    for index, jump in enumerate(target.jumps):
        hop = endpoint(jump, config)
        if hop.hostname == target.hostname and hop.port == target.port:
            continue  # `Host * / ProxyJump bastion` names the bastion for itself too; ssh ignores that
        if index == 0 and hop.jumps:
            if jump in hop.jumps:
                raise Rejected(f"{target.alias}: ProxyJump of {jump} names itself")
            yield from _route(hop, config)
        else:
            yield hop
    yield target


def _transport(sock: Any, keys: list[hostkeys.KnownKey], options: dict[str, Any]) -> Any:
    """A paramiko transport that asks first for the kinds of host key we know, as ssh does."""
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    wanted = [name for key in keys if not key.marker for name in _ALGORITHMS.get(key.kind, (key.kind,))]
    offered = list(security.key_types)
    known = [name for name in dict.fromkeys(wanted) if name in offered]
    security.key_types = known + [name for name in offered if name not in known]
    return transport


def _socket(hop: Endpoint, where: str, timeout_s: float) -> socket.socket:
    if hop.proxy_command is not None:
        return _proxied(hop, hop.proxy_command)
    try:
        sock = socket.create_connection((hop.hostname, hop.port), timeout=timeout_s)
    except socket.gaierror as error:
        raise Unreachable(f"{where}: the name {hop.hostname} is not known ({error.strerror})") from error
    except OSError as error:
        raise Unreachable(f"{where}: no connection to {hop.hostname} port {hop.port} ({_said(error)})") from error
    # Without this every command waits 40 ms for a delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
    return sock


def _proxied(hop: Endpoint, command: str) -> socket.socket:
    """The near end of a ProxyCommand, which ssh gives to a shell; it ends when we close our side."""
    for token, value in (("%h", hop.hostname), ("%p", str(hop.port)), ("%r", hop.user), ("%n", hop.alias), ("%%", "%")):
        command = command.replace(token, value)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        ("sh", "-c", f"exec {command}"),
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    threading.Thread(target=process.wait, daemon=True).start()  # reaps it, whenever it ends
    return ours


def _close(connection: Connection, sock: socket.socket | None = None) -> None:
    """Close without paramiko's pause: its reader thread wakes at once when the socket is shut."""
    _shut(sock)
    _shut(getattr(connection.client.get_transport(), "sock", None))
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        connection.client.close()


def _shut(sock: Any) -> None:
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _converse(channel: Any, frame: Frame, feed: Feed, deadline: float) -> None:
    """Send all, take all in, until the answer is whole or the channel ends. Raises TimeoutError past the deadline."""
    arrived = threading.Event()
    for pipe in (channel.in_buffer, channel.in_stderr_buffer):
        pipe.set_event(_Bell(arrived))
    sending = True
    while not frame.finished:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        arrived.clear()
        if sending:
            sending = _send(channel, feed, min(left, _SEND_WAIT_S))
        elif not (channel.recv_ready() or channel.recv_stderr_ready() or channel.closed or channel.eof_received):
            arrived.wait(left)
        while channel.recv_ready():
            frame.stdout.add(channel.recv(shell.CHUNK_BYTES))
        while channel.recv_stderr_ready():
            frame.stderr.add(channel.recv_stderr(shell.CHUNK_BYTES))
        if (channel.eof_received or channel.closed) and not (channel.recv_ready() or channel.recv_stderr_ready()):
            # The exit status, where there is one, comes after the end of the outputs.
            channel.status_event.wait(min(left, 1.0))
            return


class _Bell:
    """Rings when either output has something. `Channel.fileno` cannot be used: it loses a wake-up now and then.

    (paramiko.pipe.OrPipe: a set between the check and the clear of the other output is dropped.)
    """

    def __init__(self, event: threading.Event) -> None:
        self.set = event.set

    def clear(self) -> None:
        """Only the reader clears, before it looks."""


def _send(channel: Any, feed: Feed, wait_s: float) -> bool:
    """Send one piece, waiting at most `wait_s` for room. False when all is sent or nobody reads any more."""
    piece = feed.peek()
    if not piece:
        channel.shutdown_write()
        return False
    channel.settimeout(wait_s)
    try:
        feed.sent(channel.send(bytes(piece[:_SEND_BYTES])))
    except TimeoutError:
        return True
    except OSError:
        return False  # the command ended before it read everything; its answer says why
    return True


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _explain(error: BaseException, where: str, hop: Endpoint, login: str) -> None:
    """Raise what a failed connect means. Nothing was done in any case. Returns for errors that speak for themselves."""
    said = _said(error)
    silent = "timeout" in said.lower() or "EOF" in said
    if isinstance(error, paramiko.AuthenticationException) and not silent:
        tried = ", ".join(str(path) for path in hop.identity_files if path.is_file()) or "no key file"
        agent = "no agent" if (hop.identity_agent or "").lower() == "none" else "the agent's keys"
        raise AccessRefused(
            f"{where}: login as {hop.user} was refused ({said}); tried {tried} and {agent}",
            hint=f"Run `{login}`. When that asks for a password or a second factor, set `transport: openssh` for "
            "this host.",
        ) from error
    if isinstance(error, paramiko.SSHException) and "No authentication methods" in said:
        raise AccessRefused(
            f"{where}: there is no usable key to log in as {hop.user}",
            hint=f"Load one (`ssh-add`) or name it with IdentityFile, then check with `{login}`.",
        ) from error
    if isinstance(error, (OSError, EOFError, paramiko.SSHException)):
        raise Unreachable(f"{where}: {hop.hostname} port {hop.port} gave no ssh connection ({said})") from error

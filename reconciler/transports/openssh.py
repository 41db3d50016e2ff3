"""SSH through the system's `ssh` program and its shared master connection, for sites with a second factor.

Nothing here ever prompts. Where keys suffice we start the master ourselves; where a person must log in, the error says
the one command to run, and the master that it leaves behind is used from then on.

Every command is sent in a way that cannot open a connection of its own: with the master gone, ssh falls back to a
ProxyCommand of ours that only says so. Hence a refused connection (nothing was done) and a cut one (nobody knows)
cannot be confused, whatever exit status the command itself has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Rejected, Unreachable
from reconciler.core.transport import Command, Completed
from reconciler.transports import shell
from reconciler.transports.pump import pump
from reconciler.transports.shell import Feed, Frame, Progress, Upload
from reconciler.transports.sshconfig import checked_alias, destination, endpoint, ssh_argv

# How long our master outlives its last use (seconds); the next process finds it and needs no new login.
PERSIST_S = 600
# A unix socket's name has at most 104 bytes on some systems, and ssh appends 17 of its own while it binds.
CONTROL_PATH_MAX = 86
# What ending a command past its deadline may cost on top of the deadline (seconds).
_END_S = 0.5
# `ssh -O check` asks a process on this machine (seconds).
_CHECK_S = 2.0

_GONE = "reconciler-no-master"
_GENERAL = (
    "-T", "-x", "-a",
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "UpdateHostKeys=no",
    "-o", "RemoteCommand=none",
    "-o", "PermitLocalCommand=no",
    "-o", "LogLevel=ERROR",
)  # fmt: skip
_BY_MASTER_ONLY = ("-o", "ControlMaster=no", "-o", f"ProxyCommand=sh -c 'echo {_GONE} >&2'")
_KEEP_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")


class OpenSshTransport:
    """One host by way of a master connection: the user's own, one the user made for us, or ours."""

    def __init__(
        self,
        alias: str,
        *,
        connect_timeout_s: float = 15.0,
        config: Path | None = None,
        control_dir: Path | None = None,
    ) -> None:
        self._alias = checked_alias(alias)
        self._config = config
        self._connect_timeout_s = connect_timeout_s
        self._control_dir = control_dir
        self._control: Path | None = None
        self._jumps = False

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
        """Let go of the master. Others may be using it, so it is left to end by itself after PERSIST_S of idleness."""
        self._control = None

    def end_master(self) -> None:
        """End our own master now, also for other processes that use it. A master that the user made is left alone."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._ask("-S", str(self._ours()), "-O", "exit", timeout_s=_CHECK_S)
        self._control = None

    def shell_command(self, *, deadline_s: float) -> tuple[str, ...]:
        """An ssh command line that another program (rsync) may call, once the master is there. Same errors as `run`."""
        control = self._master(time.monotonic() + deadline_s)
        return ssh_argv(self._config, *_GENERAL, *_BY_MASTER_ONLY, "-S", str(control))

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
        if isinstance(feed, Upload) and self._control is not None and not self._alive(self._control):
            self._control = None  # a stream cannot be sent twice, so the master is looked at first
        for last in (isinstance(feed, Upload), True):
            control = self._master(deadline)
            done = self._once(control, Frame(argv, output_max=output_max), argv[0], feed, deadline)
            if done is not None:
                return done
            self._control = None
            if last:
                break
        raise Unreachable(f"{self._alias}: the master connection {control} went away; nothing was done")

    def _once(
        self,
        control: Path,
        frame: Frame,
        program: str,
        feed: bytes | Upload,
        deadline: float,
    ) -> Completed | None:
        """The answer, or None when there is no master behind `control` and nothing was done."""
        command = ssh_argv(
            self._config,
            *_GENERAL,
            *_BY_MASTER_ONLY,
            "-S",
            str(control),
            "--",
            destination(self._alias),
            shell.LOGIN_COMMAND,
        )
        ended = pump(
            command,
            Feed(frame.head, feed),
            stdout=frame.stdout.add,
            stderr=frame.stderr.add,
            deadline=deadline,
            finished=lambda: frame.finished,
            env=_environment(),
        )
        if frame.finished:
            return frame.completed()
        if ended.timed_out:
            self._end(control, frame)
            raise OutcomeUnknown(f"{self._alias}: {program} did not end within its deadline")
        said = frame.words().replace(_GONE, "").strip()
        if frame.pid is None and _GONE.encode() in frame.stderr.data:
            if "refused by peer" in said or "session request failed" in said:
                raise Unreachable(
                    f"{self._alias}: no further session on the master connection ({said})",
                    hint="Its sshd allows too few sessions (MaxSessions); fewer programs at once will do.",
                )
            if "read from master failed" not in said:
                return None
        elif frame.pid is None and ended.returncode != 255:
            raise AccessRefused(
                f"{self._alias}: the login shell ended with status {ended.returncode} instead of running our command: "
                f"{said or 'it said nothing'}",
                hint=f"Check that `{self._login()} true` works.",
            )
        raise OutcomeUnknown(f"{self._alias}: the connection was cut while {program} ran{f' ({said})' if said else ''}")

    def _end(self, control: Path, frame: Frame) -> None:
        """End what runs past its deadline, as far as that is possible in half a second."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if frame.pid is not None:
                kill = f"exec sh -c 'kill -TERM -{frame.pid}'"
                options = (*_GENERAL, *_BY_MASTER_ONLY, "-S", str(control), "--", destination(self._alias), kill)
                self._ask(*options, timeout_s=_END_S, last=False)
            elif control == self._ours():
                # Not a word came: the connection itself may hang. The next call makes a new one.
                self._control = None
                self._ask("-S", str(control), "-O", "exit", timeout_s=_END_S)

    # --- the master -------------------------------------------------------------------------------------------------

    def _master(self, deadline: float) -> Path:
        if self._control is not None and self._control.exists():
            return self._control
        about = endpoint(self._alias, self._config)
        self._jumps = bool(about.jumps)
        places = [Path(about.control_path)] if about.control_path else []
        for control in (*places, self._theirs(), self._ours()):
            if control.exists() and self._alive(control):
                break
        else:
            self._start(deadline)
            control = self._ours()
        self._control = control
        return control

    def _alive(self, control: Path) -> bool:
        try:
            return self._ask("-S", str(control), "-O", "check", timeout_s=_CHECK_S).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _start(self, deadline: float) -> None:
        """Make a master of our own. Raises Unreachable or AccessRefused: no command has been sent."""
        left = min(self._connect_timeout_s, deadline - time.monotonic())
        if left <= 0:
            raise Unreachable(f"{self._alias}: no time was left to connect")
        options = (
            *_GENERAL,
            *_KEEP_ALIVE,
            "-o", f"ConnectTimeout={max(1, round(left))}",
            "-o", "ConnectionAttempts=1",
            "-o", "ClearAllForwardings=yes",
            # `auto`, and a command that ends: of two processes that start one at the same time, the second just leaves.
            "-o", "ControlMaster=auto",
            "-o", f"ControlPersist={PERSIST_S}",
            "-S", str(self._ours()),
            "--", destination(self._alias), "true",
        )  # fmt: skip
        # A file, not a pipe: the master goes to the background with its error stream and would hold a pipe open.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                ssh_argv(self._config, *options),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env=_environment(),
            )
            try:
                status = process.wait(left)
            except subprocess.TimeoutExpired:
                raise Unreachable(f"{self._alias}: no connection within {left:.3g} s") from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            errors.seek(0)
            said = shell.words(errors.read())
        if status == 255:
            raise self._refusal(said)

    def _refusal(self, said: str) -> ReconcilerError:
        """What the words of an ssh that could not connect mean."""
        login = self._login()
        if "has changed" in said or "REVOKED" in said:
            return AccessRefused(
                f"{self._alias}: the host key is not the one we know: {said}",
                hint=f"Somebody may be listening in. If the host was set up anew, remove its old key as ssh says, run "
                f"`{login}` and compare the fingerprint with what its administrator says.",
            )
        if "Host key verification failed" in said or "host key is known" in said:
            return AccessRefused(
                f"{self._alias}: the host key is not in any known_hosts file: {said}",
                hint=f"Run `{login}` once and compare the fingerprint with what the host's administrator says; "
                "ssh then remembers it.",
            )
        if "Permission denied" in said or "authentication" in said:
            return AccessRefused(
                f"{self._alias}: login without a question was refused: {said}",
                hint=f"Run `{self.master_command()}` and answer what it asks; its connection is then used from here.",
            )
        if "Bad configuration option" in said or "Bad owner or permissions" in said:
            return Rejected(f"{self._alias}: ssh refuses its configuration: {said}")
        return Unreachable(
            f"{self._alias}: no ssh connection: {said or 'ssh did not say why'}",
            # ssh keeps the words of a jump host to itself when it is to stay in the background.
            hint=f"If a jump host refuses us, `{login} true` says why." if self._jumps else "",
        )

    def master_command(self) -> str:
        """The one command with which a person makes a master connection for us."""
        return shlex.join(
            ssh_argv(
                self._config,
                "-M",
                "-S",
                str(self._theirs()),
                "-o",
                "ServerAliveInterval=15",
                "-fN",
                destination(self._alias),
            )
        )

    def _login(self) -> str:
        return shlex.join(ssh_argv(self._config, destination(self._alias)))

    def _ask(self, *arguments: str, timeout_s: float, last: bool = True) -> subprocess.CompletedProcess[bytes]:
        tail = ("--", destination(self._alias)) if last else ()
        return subprocess.run(
            ssh_argv(self._config, *arguments, *tail),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            env=_environment(),
        )

    def _ours(self) -> Path:
        """Where our master listens. Raises Rejected when no safe directory can be had."""
        if self._control_dir is None:
            self._control_dir = control_directory()
        name = hashlib.sha256(f"{self._config}\0{self._alias}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        path = self._control_dir / name
        if len(os.fsencode(path)) > CONTROL_PATH_MAX:
            raise Rejected(f"{path} is too long for a control socket: expected at most {CONTROL_PATH_MAX} bytes")
        return path

    def _theirs(self) -> Path:
        """Where a master that a person makes for us listens."""
        return self._ours().with_suffix(".m")


def batch_command(config: Path | None, connect_timeout_s: float) -> tuple[str, ...]:
    """An ssh command line for another program (rsync): asks nobody, checks host keys, and makes its own connection."""
    return ssh_argv(config, *_GENERAL, *_KEEP_ALIVE, "-o", f"ConnectTimeout={max(1, round(connect_timeout_s))}")


def _environment() -> dict[str, str]:
    """No window asks for a password either, not even for a jump host, which our options do not reach."""
    return os.environ | {"SSH_ASKPASS_REQUIRE": "never"}


def control_directory() -> Path:
    """A short directory of the user's own with mode 0700, made when missing.

    Whoever can write to a control socket runs commands as the user on the host, so a directory that belongs to somebody
    else, is open to others or is a link raises Rejected.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # Under /tmp, not $TMPDIR: on some systems that is too long a name for a socket.
    directory = Path(runtime, "reconciler") if runtime and len(runtime) < 50 and Path(runtime).is_dir() else None
    directory = directory or Path("/tmp", f"reconciler-{os.getuid()}")  # noqa: S108 - checked below
    directory.mkdir(mode=0o700, exist_ok=True)
    about = directory.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise Rejected(
            f"{directory} is not a private directory of yours; control sockets cannot lie there",
            hint=f"Look at who made it; then `rm -r {directory}` or `chmod 700 {directory}`.",
        )
    return directory

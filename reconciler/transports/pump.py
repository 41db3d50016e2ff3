"""Run one local program with a deadline: feed it, read both outputs without deadlock, leave nothing that holds us."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from reconciler.transports.shell import Feed

_READ_BYTES = 1 << 16
# Where the system has no pidfd (macOS), the end of a program that left its outputs to a child is noticed this often.
_POLL_S = 0.02
# How long a program whose answer is whole may take to end by itself.
_LINGER_S = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status (negative: killed by that signal), or None when it was not waited for."""

    returncode: int | None
    timed_out: bool


def pump(
    argv: tuple[str, ...],
    feed: Feed,
    *,
    stdout: Callable[[bytes], None],
    stderr: Callable[[bytes], None],
    deadline: float,
    finished: Callable[[], bool] = lambda: False,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run `argv` in a session of its own until it ends, `finished()` is true, or the deadline has passed.

    `deadline` is a time.monotonic(). Past it the process group is killed. A child that the program left in the
    background with our pipes does not hold us: when the program itself has ended, what is in the pipes is read and the
    pipes are closed. Raises what the sinks raise (after killing the group), and OSError when the program cannot be
    started.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        cwd=cwd,
        env=env,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    sinks: dict[IO[bytes], Callable[[bytes], None]] = {process.stdout: stdout, process.stderr: stderr}
    pidfd = _pidfd(process.pid)
    whole = False
    try:
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdin, *sinks):
                os.set_blocking(pipe.fileno(), False)
            for pipe in sinks:
                selector.register(pipe, selectors.EVENT_READ)
            if pidfd is not None:
                selector.register(pidfd, selectors.EVENT_READ)
            if _write(process.stdin, feed):
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while not (whole := finished()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return Ended(None, timed_out=True)
                ready = selector.select(left if pidfd is not None else min(left, _POLL_S))
                # Asked before reading: what a program wrote before its end is in the pipes by now.
                ended = process.poll() is not None
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        if not _write(process.stdin, feed):
                            selector.unregister(process.stdin)
                    elif isinstance(key.fileobj, int):
                        continue  # the pidfd
                    elif not _read(cast("IO[bytes]", key.fileobj), sinks, all_of_it=False):
                        selector.unregister(key.fileobj)
                if ended:
                    for pipe in sinks:
                        _read(pipe, sinks, all_of_it=True)
                    whole = True
                    break
        # A framed answer can be whole a moment before the program that brought it has gone.
        if pidfd is not None and process.poll() is None:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(_LINGER_S * 1000)
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.0 if pidfd is not None else _LINGER_S)
        return Ended(process.returncode, timed_out=False)
    finally:
        for pipe in (process.stdin, *sinks):
            pipe.close()
        if pidfd is not None:
            os.close(pidfd)
        if not whole or process.returncode is None:
            _kill(process)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _write(pipe: IO[bytes], feed: Feed) -> bool:
    """Send what fits. False when there is nothing more to send or nobody to read it; the pipe is closed then."""
    try:
        while piece := feed.peek():
            feed.sent(os.write(pipe.fileno(), piece))
    except BlockingIOError:
        return True
    except BrokenPipeError:
        pass
    pipe.close()
    return False


def _read(pipe: IO[bytes], sinks: dict[IO[bytes], Callable[[bytes], None]], *, all_of_it: bool) -> bool:
    """Read what is there. False at the end of the stream."""
    while True:
        try:
            piece = os.read(pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        if not piece:
            return False
        sinks[pipe](piece)
        if not all_of_it:
            return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        # A process stuck in the kernel does not die; it is not waited for beyond this.
        process.wait(0.5)

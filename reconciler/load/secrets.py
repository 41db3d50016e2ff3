"""Secret references -> values, at launch and only there.

A value is in no message, and a failure tells what to check.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import SecretError
from reconciler.core.inventory import Credential
from reconciler.core.secret import Secret
from reconciler.load.trust import Permits

# Longest value: what Linux takes for one string of the environment (execve(2), MAX_ARG_STRLEN), with room for the name.
VALUE_MAX_BYTES = 120_000
COMMAND_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Resolver:
    """Where references are looked up. `base` is the manifests' repository, to which files are relative. With `trust`, whoever
    wrote the references is not who runs this, and gets only what is permitted."""

    base: Path
    home: Path
    environ: Mapping[str, str]
    deadline_s: float = COMMAND_DEADLINE_S
    trust: Permits | None = None

    def resolve(self, name: str, reference: Credential) -> Secret:
        """The value for the variable `name`. Raises SecretError: not permitted, not there, empty, not text, or too late."""
        if isinstance(reference, Secret):
            return reference
        if self.trust is not None:
            self.trust.check(name, reference, self.base)
        target = reference.target
        if reference.kind == "kubernetes":
            raise SecretError(
                f"Secret {name}: a Kubernetes secret is only read by the cluster itself",
                hint="Use env, file or command, or name the Volcano hosts in request.hosts.",
            )
        if reference.kind == "env":
            value = self.environ.get(str(target))
            if value is None:
                raise SecretError(
                    f"Secret {name}: the variable {target} is not set where the reconciler runs",
                    hint=f"Set {target}, or refer to a file or command.",
                )
            return _checked(name, value.encode("utf-8", "surrogateescape"), f"the variable {target}")
        if reference.kind == "file":
            return _checked(name, self._read(name, str(target)), f"the file {target}")
        argv = (target,) if isinstance(target, str) else target
        return _checked(name, self._output(name, argv), f"the output of {argv[0]}")

    def _read(self, name: str, target: str) -> bytes:
        path = self.home / target[2:] if target.startswith("~/") else self.base / target
        try:
            with path.open("rb") as file:
                return file.read(VALUE_MAX_BYTES + 1)
        except OSError as error:
            raise SecretError(
                f"Secret {name}: the file {target} cannot be read: {error.strerror}",
                hint="A path is relative to the manifests' repository, or starts with ~/.",
            ) from None

    def _output(self, name: str, argv: tuple[str, ...]) -> bytes:
        """Standard output of a program that gets no input, in a session of its own so that all of it can be ended."""
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.base,
                env=dict(self.environ),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "a NUL character"
            raise SecretError(f"Secret {name}: {argv[0]} cannot be started: {why}") from None
        until = time.monotonic() + self.deadline_s
        try:
            output = _read_until(process, until)
            if output is not None:
                code = process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            output = None
        finally:
            _end(process)
        if output is None:
            raise SecretError(
                f"Secret {name}: {argv[0]} did not end within {self.deadline_s:g} s",
                hint="It gets no terminal and no input: unlock the password store first, or use another reference.",
            )
        if code != 0 and len(output) <= VALUE_MAX_BYTES:
            raise SecretError(f"Secret {name}: {argv[0]} failed with exit code {code}", hint="Run the command by hand.")
        return output


def _read_until(process: subprocess.Popen[bytes], until: float) -> bytes | None:
    """All output, or a little more than is allowed of it; None when the time is over."""
    assert process.stdout is not None
    chunks: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while size <= VALUE_MAX_BYTES:
            left = until - time.monotonic()
            if left <= 0 or not selector.select(left):
                return None
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
    if size > VALUE_MAX_BYTES:
        _end(process)
    return b"".join(chunks)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _checked(name: str, value: bytes, where: str) -> Secret:
    if len(value) > VALUE_MAX_BYTES:
        raise SecretError(f"Secret {name}: {where} is longer than {VALUE_MAX_BYTES} bytes")
    if value.endswith(b"\n"):
        value = value[:-2] if value.endswith(b"\r\n") else value[:-1]
    if not value:
        raise SecretError(f"Secret {name}: {where} is empty")
    if b"\0" in value:
        raise SecretError(f"Secret {name}: {where} holds a NUL character, which no variable can")
    try:
        return Secret(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise SecretError(f"Secret {name}: {where} is not UTF-8 text") from None

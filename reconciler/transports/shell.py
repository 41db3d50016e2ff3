"""What travels to a remote login shell, and how its answer is known to be whole. Pure: no connection here.

A login shell may be bash, csh or fish, may print noise from its start-up files, and an ssh client reports its own
failures with an exit status that a command may also have. So three things are fixed:

* The text handed to the login shell never changes (`LOGIN_COMMAND`) and means the same in all of them. The command
  itself is the first line of standard input, read by a plain `sh` byte by byte (POSIX `read`); what follows is the
  command's own input.
* Both output streams carry a random mark before the first and after the last byte of the command, with its exit status.
  Noise before is dropped; a missing end says that the connection was cut; nobody guesses from 255.
* Arguments that are not plain ASCII travel as octal escapes, so no shell's notion of encoding touches them.
"""

from __future__ import annotations

import posixpath
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from reconciler.core.errors import OutcomeUnknown, Rejected
from reconciler.core.transport import Completed

READ_AND_RUN = 'IFS= read -r c && eval "$c"'
LOGIN_COMMAND = f"exec sh -c '{READ_AND_RUN}'"

# One answer is held in memory; a command that prints more than this is out of control.
OUTPUT_BYTES_MAX = 256 * 1024 * 1024
# One piece of an upload: large enough for few system calls, small enough for a smooth progress bar.
CHUNK_BYTES = 256 * 1024
# How much of a program's own words goes into a message.
WORDS_MAX = 400

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Upload:
    """A stream that becomes a command's standard input: exactly `size` bytes of it."""

    source: BinaryIO
    size: int
    progress: Progress | None = None


class Execute(Protocol):
    """The one thing a kind of connection must be able to do. `output_max` counts bytes per stream."""

    def __call__(
        self, argv: tuple[str, ...], feed: bytes | Upload, *, deadline_s: float, output_max: int = OUTPUT_BYTES_MAX
    ) -> Completed: ...


class Feed:
    """Standard input piece by piece: the head, then bytes or a stream. Never more than an Upload's size."""

    def __init__(self, head: bytes, body: bytes | Upload) -> None:
        self._pending = memoryview(head if isinstance(body, Upload) else head + body)
        self._upload = body if isinstance(body, Upload) else None
        self._left = body.size if isinstance(body, Upload) else 0
        self._unreported = 0
        self._head_left = len(head)

    def peek(self) -> memoryview:
        """The bytes to send next; empty at the end."""
        if not self._pending and self._left and self._upload is not None:
            chunk = self._upload.source.read(min(CHUNK_BYTES, self._left))
            self._left = self._left - len(chunk) if chunk else 0
            self._pending = memoryview(chunk)
        return self._pending

    def sent(self, count: int) -> None:
        """Say that `count` bytes of the last peek are on their way."""
        self._pending = self._pending[count:]
        of_head = min(count, self._head_left)
        self._head_left -= of_head
        if self._upload is not None and self._upload.progress is not None and count > of_head:
            self._upload.progress(count - of_head)


def quoted(argv: tuple[str, ...]) -> tuple[str, str]:
    """Assignments and words, both plain printable ASCII, that make a POSIX sh run exactly `argv`.

    Raises ValueError for an empty command or a NUL, which no argument can hold.
    """
    if not argv or not argv[0]:
        raise ValueError("an empty command cannot be run")
    assignments: list[str] = []
    words: list[str] = []
    for argument in argv:
        if "\0" in argument:
            raise ValueError(f"{argument[:60]!r} holds a NUL character; no argument of a program can")
        if argument.isascii() and argument.isprintable():
            words.append(shlex.quote(argument))
            continue
        octal = "".join(
            chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}"
            for byte in argument.encode("utf-8", "surrogateescape")
        )
        name = f"a{len(assignments)}"
        # The x keeps trailing newlines, which a command substitution would drop.
        assignments.append(f"{name}=$(printf '{octal}x');{name}=${{{name}%x}};")
        words.append(f'"${name}"')
    return "".join(assignments), " ".join(words)


class Frame:
    """One command on its way: the line that starts it, and what has come back.

    `reads`: how many bytes the command's input has, for a connection that cannot say where the input ends; None: it can.
    """

    def __init__(self, argv: tuple[str, ...], *, output_max: int = OUTPUT_BYTES_MAX, reads: int | None = None) -> None:
        nonce = secrets.token_hex(12)
        assignments, words = quoted(argv)
        both = "printf '%s%s.' {0} \"{1}\";printf '%s%s.' {0} \"{1}\" >&2;"
        # `exec` in a subshell: only programs are run, so a builtin such as `exit` cannot take the marks away.
        program = f"(exec {words})"
        if reads is not None:
            # The status of a pipeline is its last program's. `head` alone, so that its end is the end of the input.
            program = f"head -c {reads} | {program}" if reads else f"{program} </dev/null"
        self.head = (
            both.format(f"{nonce}+", "$$")
            + f"{assignments}{program};s=$?;"
            + both.format(f"{nonce}-", "$s")
            + "exit 0\n"
        ).encode("ascii")
        self.stdout = _Stream(nonce, output_max)
        self.stderr = _Stream(nonce, output_max)

    @property
    def pid(self) -> int | None:
        """Process id, and process group, of the remote sh, once it has spoken. None proves nothing."""
        return self.stdout.start if self.stdout.start is not None else self.stderr.start

    @property
    def finished(self) -> bool:
        """True when the command has ended and both outputs are whole."""
        return self.stdout.status is not None and self.stderr.status is not None

    def completed(self) -> Completed:
        """The answer; only when `finished`."""
        assert self.stdout.status is not None
        return Completed(self.stdout.status, self.stdout.content(), self.stderr.content())

    def words(self) -> str:
        """What was said outside the marks, for a message."""
        return words(bytes(self.stderr.data) or bytes(self.stdout.data))


class _Stream:
    """One output: bytes between `NONCE+PID.` and `NONCE-STATUS.`."""

    def __init__(self, nonce: str, output_max: int) -> None:
        self._open, self._shut = f"{nonce}+".encode(), f"{nonce}-".encode()
        self._max = output_max
        self._from = 0  # where the search goes on; bytes before it hold no mark
        self._end = 0
        self.data = bytearray()
        self.start: int | None = None
        self.status: int | None = None

    def add(self, piece: bytes) -> None:
        """Take what arrived. Raises OutcomeUnknown when the command prints more than is held."""
        if self.status is not None:
            return  # a process left in the background goes on talking
        self.data += piece
        if self.start is None:
            found = self._number(self._open)
            if found is None:
                self._limit()
                return
            self.start, after = found[0], found[2]
            del self.data[:after]
            self._from = 0
        found = self._number(self._shut)
        if found is not None:
            self.status, self._end = found[0], found[1]
        else:
            self._limit()

    def content(self) -> bytes:
        return bytes(self.data[: self._end])

    def _number(self, mark: bytes) -> tuple[int, int, int] | None:
        at = self.data.find(mark, self._from)
        if at < 0:
            self._from = max(0, len(self.data) - len(mark) + 1)
            return None
        self._from = at
        dot = self.data.find(b".", at, at + len(mark) + 20)
        return None if dot < 0 else (int(self.data[at + len(mark) : dot]), at, dot + 1)

    def _limit(self) -> None:
        if len(self.data) > self._max + 200:
            raise OutcomeUnknown(f"A command printed more than {self._max} bytes; it was cut off")


def words(raw: bytes) -> str:
    """A program's own words, short enough for a message, on one line."""
    text = " ".join(raw.decode("utf-8", "replace").split())
    return text if len(text) <= WORDS_MAX else "... " + text[-WORDS_MAX:]


# --- files ------------------------------------------------------------------------------------------------------------

_CANNOT, _SHORT, _TOO_LARGE = 73, 75, 76

# $1 directory, $2 temporary name, $3 final name, $4 size, $5 mode. The temporary file is the owner's alone until its
# mode is set.
_PUT = f"""
if [ -d "$3" ]; then echo "it is a directory" >&2; exit {_CANNOT}; fi
case $5 in *0) umask o= ;; esac
mkdir -p "$1" || exit {_CANNOT}
umask 077
trap 'rm -f "$2"' EXIT
trap 'exit {_SHORT}' HUP INT TERM PIPE
cat > "$2" || exit {_CANNOT}
n=$(wc -c < "$2") || exit {_CANNOT}
if [ "$((n))" -ne "$4" ]; then echo "$((n)) of $4 bytes arrived" >&2; exit {_SHORT}; fi
chmod "$5" "$2" && mv -f "$2" "$3" || exit {_CANNOT}
"""

_GET = f"""
if [ -f "$1" ]; then :; elif [ -e "$1" ]; then echo "it is not a regular file" >&2; exit {_CANNOT}
else echo "there is no such file" >&2; exit {_CANNOT}; fi
n=$(wc -c < "$1") || exit {_CANNOT}
if [ "$((n))" -gt "$2" ]; then echo "it has $((n)) bytes, more than the $2 expected at most" >&2; exit {_TOO_LARGE}; fi
exec cat "$1"
"""


def put(execute: Execute, host: str, upload: Upload, path: str, *, mode: int, deadline_s: float) -> None:
    """`Transport.put` by means of one command."""
    target = _plain(path)
    parent = posixpath.dirname(target) or "."
    temporary = posixpath.join(parent, f".put-{secrets.token_hex(8)}")
    argv = ("sh", "-c", _PUT, "sh", parent, temporary, target, str(upload.size), f"{mode:o}")
    done = execute(argv, upload, deadline_s=deadline_s)
    if done.returncode == 0:
        return
    said = words(done.stderr) or f"status {done.returncode}"
    if done.returncode == _SHORT or done.returncode > 128:
        raise OutcomeUnknown(f"{host}: {path} was not written whole: {said}")
    raise Rejected(f"{host}: {path} cannot be written: {said}")


def get(execute: Execute, host: str, path: str, *, size_max: int, deadline_s: float) -> bytes:
    """`Transport.get` by means of one command."""
    argv = ("sh", "-c", _GET, "sh", _plain(path), str(size_max))
    # The file may grow between the look and the copy, hence the room and the second check.
    done = execute(argv, b"", deadline_s=deadline_s, output_max=size_max + CHUNK_BYTES)
    if done.returncode > 128:
        raise OutcomeUnknown(f"{host}: reading {path} ended with status {done.returncode}: {words(done.stderr)}")
    if done.returncode != 0:
        raise Rejected(f"{host}: {path} cannot be read: {words(done.stderr) or f'status {done.returncode}'}")
    if len(done.stdout) > size_max:
        raise Rejected(f"{host}: {path} cannot be read: it grew beyond {size_max} bytes")
    return done.stdout


def _plain(path: str) -> str:
    """A path no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path

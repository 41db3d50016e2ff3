"""Run a scheduler's command on the login node, with a deadline, and say exactly what it said."""

from __future__ import annotations

import os
import re
import subprocess
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

OUTPUT_BYTES_MAX = 64 << 20
LOGIN_SHELL_S = 20.0
# Ask the login shell where the program is, and take over what its profile exports: PATH, and what the program itself needs.
_LOGIN = 'command -v "$1" >/dev/null 2>&1 && exec env -0'

_environ: Optional[Dict[bytes, bytes]] = None


class Begun:
    """A command on its way. `answer` waits for it; what it says meanwhile must fit into a pipe."""

    def __init__(self, argv: List[str], timeout_s: float, unset: Sequence[str] = ()) -> None:
        # `sh -c TEXT PROGRAM ...` is a prelude to the program that is wanted.
        self._program = argv[3] if argv[:2] == ["sh", "-c"] and len(argv) > 3 else argv[0]
        self._timeout_s = timeout_s
        self._began = time.monotonic()
        self.took_s = 0.0  # until its answer was heard
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._failure = ""
        environ = _environment(self._program)
        if environ is None:
            self._failure = "%s is neither in PATH on %s nor in that of its login shell" % (
                self._program,
                os.uname().nodename,
            )
            return
        for name in unset:
            environ.pop(os.fsencode(name), None)
        try:
            self._process = subprocess.Popen(
                argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            self._failure = "%s: %s" % (argv[0], error.strerror)

    def answer(self) -> Dict[str, Any]:
        """`{"rc", "stdout", "stderr"}`. `rc` is None when the command was ended at its deadline or could not be run."""
        if self._process is None:
            return {"rc": None, "stdout": "", "stderr": self._failure}
        with self._process as process:
            try:
                # One that ended long ago is heard all the same.
                out, err = process.communicate(timeout=max(0.5, self._began + self._timeout_s - time.monotonic()))
            except subprocess.TimeoutExpired as late:
                process.kill()
                said = _text(late.stderr or b"") + "%s did not answer within %g s" % (self._program, self._timeout_s)
                return {"rc": None, "stdout": _text(late.stdout or b""), "stderr": said}
            except BaseException:
                process.kill()
                raise
            finally:
                self.took_s = time.monotonic() - self._began
        return {"rc": process.returncode, "stdout": _text(out), "stderr": _text(err)}


def run(argv: List[str], timeout_s: float) -> Dict[str, Any]:
    """Begin it, and wait for its answer."""
    return Begun(argv, timeout_s).answer()


def probe(question: Dict[str, Any], value: str, timeout_s: float) -> Tuple[Optional[bool], str, Dict[str, Any]]:
    """(there, surely not there, or nobody knows; what `found` captured; the answer). See backends/dialect.py, Probe."""
    answer = run([part.replace("{}", value) for part in question["argv"]], timeout_s)
    if answer["rc"] is None:
        return None, "", answer
    found = re.search(question["found"], answer["stdout"], re.MULTILINE)
    if found:
        return True, found.group(1), answer
    if re.search(question["absent"], answer["stdout"] + "\n" + answer["stderr"], re.MULTILINE):
        return False, "", answer
    return None, "", answer


def find(
    question: Dict[str, Any], name: str, mark: str, timeout_s: float
) -> Tuple[Optional[bool], str, Dict[str, Any]]:
    """As `probe`, for a job by its name: group 2 of `found` is the mark that it carries, and another's mark is another's job.

    Of several, the newest: ids grow.
    """
    answer = run([part.replace("{}", name) for part in question["argv"]], timeout_s)
    if answer["rc"] is None:
        return None, "", answer
    found = re.findall(question["found"], answer["stdout"], re.MULTILINE)
    ours = [ident for ident, told in found if told in (mark, "")]
    if ours:
        return True, max(ours, key=lambda ident: (len(ident), ident)), answer
    if re.search(question["absent"], answer["stdout"] + "\n" + answer["stderr"], re.MULTILINE):
        return False, "", answer
    return None, "", answer


def words(answer: Dict[str, Any]) -> str:
    """What a command said, on one line."""
    said = " / ".join(line.strip() for line in (answer["stderr"] or answer["stdout"]).splitlines() if line.strip())
    return (said or "it said nothing")[:500]


def _environment(program: str) -> Optional[Dict[bytes, bytes]]:
    """Ours when it knows the program, else the login shell's; None when neither does."""
    global _environ  # noqa: PLW0603 - asked for once per process
    path = dict(os.environb)
    if _is_in(program, path):
        return path
    if _environ is None:
        try:
            asked = subprocess.run(
                ["bash", "-lc", _LOGIN, "bash", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=LOGIN_SHELL_S,
                check=False,
            )
            pairs = [entry.split(b"=", 1) for entry in asked.stdout.split(b"\0") if b"=" in entry]
            # A profile may greet on standard output: the first entry then has the greeting in front of its name.
            _environ = {name.rpartition(b"\n")[2]: value for name, value in pairs}
        except (OSError, subprocess.TimeoutExpired):
            _environ = {}
    return dict(_environ) if _is_in(program, _environ) else None


def _is_in(program: str, environ: Dict[bytes, bytes]) -> bool:
    if "/" in program:
        return os.access(program, os.X_OK)
    places = environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    return any(os.access(os.path.join(place or b".", os.fsencode(program)), os.X_OK) for place in places)


def _text(data: bytes) -> str:
    return data[:OUTPUT_BYTES_MAX].decode("utf-8", "replace")

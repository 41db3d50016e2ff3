"""Run a scheduler's command on the login node, with a deadline, and say exactly what it said."""

from __future__ import annotations

import os
import re
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

OUTPUT_BYTES_MAX = 64 << 20
LOGIN_SHELL_S = 20.0
# Ask the login shell where the program is, and take over what its profile exports: PATH, and what the program itself needs.
_LOGIN = 'command -v "$1" >/dev/null 2>&1 && exec env -0'

_environ: Optional[Dict[bytes, bytes]] = None


def run(argv: List[str], timeout_s: float) -> Dict[str, Any]:
    """`{"rc", "stdout", "stderr"}`. `rc` is None when the command was ended at its deadline or could not be run."""
    # `sh -c TEXT PROGRAM ...` is a prelude to the program that is wanted.
    program = argv[3] if argv[:2] == ["sh", "-c"] and len(argv) > 3 else argv[0]
    environ = _environment(program)
    if environ is None:
        said = "%s is neither in PATH on %s nor in that of its login shell" % (program, os.uname().nodename)
        return {"rc": None, "stdout": "", "stderr": said}
    try:
        done = subprocess.run(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = _text(late.stderr or b"") + "%s did not answer within %g s" % (program, timeout_s)
        return {"rc": None, "stdout": _text(late.stdout or b""), "stderr": said}
    except OSError as error:
        return {"rc": None, "stdout": "", "stderr": "%s: %s" % (argv[0], error.strerror)}
    return {"rc": done.returncode, "stdout": _text(done.stdout), "stderr": _text(done.stderr)}


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
    return _environ if _is_in(program, _environ) else None


def _is_in(program: str, environ: Dict[bytes, bytes]) -> bool:
    if "/" in program:
        return os.access(program, os.X_OK)
    places = environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    return any(os.access(os.path.join(place or b".", os.fsencode(program)), os.X_OK) for place in places)


def _text(data: bytes) -> str:
    return data[:OUTPUT_BYTES_MAX].decode("utf-8", "replace")

"""From how things ended to what the record says: status, cause, and a sentence. Pure but for `full_disk`."""

from __future__ import annotations

import os
import signal

from runtime.contract import CANCELLED, COMPLETED, FAILED, PREEMPTED, REQUESTS
from runtime.record import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Optional

    from runtime.prepare import SetUpFailed

FULL_BYTES = 128 << 10  # less than this free: what failed to be written may have been the whole reason


def completed() -> Ending:
    """Every stage ended with exit code 0."""
    return Ending(COMPLETED, None, "Every command ended with exit code 0.", exit_code=0)


def of_child(code: int, *, killed_for_memory: bool, full: Optional[str], output: str) -> Ending:
    """A child that ended by itself, or by somebody who is not us. `code` is negative for a signal."""
    number = -code if code < 0 else None
    shown, text = exit_of(code), _with(output)
    if killed_for_memory and shown == 128 + signal.SIGKILL:
        message = "The kernel killed it because memory ran out."
        return Ending(FAILED, "out_of_memory", message + text, exit_code=shown, signal=number)
    if number == signal.SIGKILL:
        message = "Something outside killed it (KILL), and no memory limit was hit."
        return Ending(FAILED, "infrastructure", message + text, exit_code=shown, signal=number)
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        message = "Something outside asked it to stop (%s)." % name_of(number)
        return Ending(PREEMPTED, "preemption", message + text, exit_code=shown, signal=number)
    if full:
        message = "It failed and the disk that holds %s is full." % full
        return Ending(FAILED, "infrastructure", message + text, exit_code=shown, signal=number)
    how = "It died of signal %s." % name_of(number) if number else "It ended with exit code %d." % code
    return Ending(FAILED, "failure", how + text, exit_code=shown, signal=number)


def stopped(origin: str, request: Dict[str, Any], code: Optional[int], limit_s: Optional[float]) -> Ending:
    """A run that was asked to stop. The request's reason decides; without one, somebody outside took the place away."""
    number = -code if code is not None and code < 0 else None
    shown = exit_of(code) if code is not None else None
    if origin == "fence":
        message = "A newer attempt has claimed this job; this one was ended."
        return Ending(CANCELLED, "fenced", message, exit_code=shown, signal=number)
    if origin == "limit":
        message = "It ran longer than its limit of %g s." % (limit_s or 0)
        return Ending(FAILED, "timeout", message, exit_code=shown, signal=number)
    word = request.get("reason")
    if word in REQUESTS:
        status, cause = REQUESTS[word]
        return Ending(status, cause, "Stopped as requested (%s)." % word, exit_code=shown, signal=number)
    if origin == "warning":
        message = "Its time limit was near: it was asked to checkpoint and end."
        return Ending(PREEMPTED, "timeout", message, exit_code=shown, signal=number)
    message = "The supervisor was asked to stop from outside."
    return Ending(PREEMPTED, "preemption", message, exit_code=shown, signal=number)


def set_up_failed(error: SetUpFailed) -> Ending:
    """A step before the first command failed."""
    return Ending(FAILED, "infrastructure", "Set-up failed in step %s: %s" % (error.step, error), exit_code=error.code)


def not_executable(program: bytes, error: OSError) -> Ending:
    """The command could not be executed: codes 126 and 127 as in a shell."""
    shown = os.fsdecode(program)
    code = 127 if isinstance(error, FileNotFoundError) else 126
    return Ending(FAILED, "failure", "Cannot run %s: %s" % (shown, error.strerror), exit_code=code)


def broken(message: str) -> Ending:
    """Neither the program's fault nor its choice."""
    return Ending(FAILED, "infrastructure", message)


def exit_of(code: int) -> int:
    """Exit code as a shell shows it: 128 + signal."""
    return 128 - code if code < 0 else code


def name_of(number: Optional[int]) -> str:
    """`TERM` for 15, the number where there is no name."""
    try:
        return signal.Signals(number or 0).name[3:]
    except ValueError:
        return str(number)


def full_disk(paths: Iterable[str]) -> Optional[str]:
    """The first path whose file system has no space or no inodes left."""
    for path in paths:
        try:
            found = os.statvfs(path)
        except OSError:
            continue
        if found.f_bavail * found.f_frsize < FULL_BYTES or (found.f_files and not found.f_favail):
            return path
    return None


def _with(output: str) -> str:
    return "\nThe last lines of its output:\n" + output if output else ""

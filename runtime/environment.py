"""What a job's processes get to see, and how a program is found and started.

Everything is bytes here: names, values and arguments are UTF-8 whatever the locale of the node says, so that they
arrive as they were written.
"""

from __future__ import annotations

import errno
import os
import signal

from runtime import checkpoints, contract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List

    from runtime.contract import Run, Stage

    Environ = Dict[bytes, bytes]

BUNDLE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Signals that Python ignores and a program expects at their defaults, and those that the supervisor may handle.
DEFAULTS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGURG,
)


def of_run(run: Run, start_time: str) -> Environ:
    """The whole environment of a run: ours, then `env`, then `secrets`; later ones win."""
    environ = dict(os.environb)
    for name in (b"VIRTUAL_ENV", b"PYTHONHOME", b"RECONCILER_PYTHON", b"RECONCILER_PYTHON_TRIED"):
        environ.pop(name, None)
    user = {**run["env"], **run["secrets"]}
    environ.update(encoded(user))
    environ.update(ours(run, start_time))
    environ.update(encoded(user))
    before = environ.get(b"PYTHONPATH", b"")
    environ[b"PYTHONPATH"] = (before + b":" if before else b"") + os.fsencode(BUNDLE)
    return environ


def ours(run: Run, start_time: str) -> Environ:
    """The variables that the protocol promises."""
    job, status_dir = run["job"], run["status_dir"]
    resume = checkpoints.newest(run["checkpoint_dir"])
    environ = {
        "RECONCILER_JOB": "%s/%s/%s" % (job["project"], job["group"], job["name"]),
        "RECONCILER_RUN_ID": run["run_id"],
        "RECONCILER_ATTEMPT": str(run["attempt"]),
        "RECONCILER_CONFIG": os.path.join(status_dir, contract.CONFIG),
        "RECONCILER_CHECKPOINT_DIR": run["checkpoint_dir"],
        "RECONCILER_RESULTS_DIR": run["results_dir"],
        "RECONCILER_RESUME_FROM": resume.path if resume else "",
        "RECONCILER_STATUS_DIR": status_dir,
        "RECONCILER_TOKEN": run["token"],
        "RECONCILER_WORK_DIR": run["work_dir"],
        "THESEUS_ROOT": os.path.dirname(run["status_root"]),
        "THESEUS_DISPATCH_RUN_ID": run["run_id"],
        "THESEUS_DISPATCH_START_TIME": start_time,
    }
    if run["gpus"] is not None:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(run["gpus"])
    environ.update(run.get("ranks") or {})
    return encoded(environ)


def encoded(values: Dict[str, str]) -> Environ:
    """Text to bytes. Text that UTF-8 cannot hold was refused at the door."""
    return {name.encode(): value.encode() for name, value in values.items()}


def argv_of(stage: Stage) -> List[bytes]:
    """A list is executed as it is; a string is the one argument of `bash -lc`."""
    if "argv" in stage:
        return [part.encode() for part in stage["argv"]]
    return [b"bash", b"-lc", stage["shell"].encode()]


def find_program(name: bytes, environ: Environ) -> bytes:
    """The file to execute, by the PATH that the job sees. Raises OSError naming the program and where it was sought."""
    if b"/" in name:
        return name
    path = environ.get(b"PATH") or os.fsencode(os.defpath)
    candidates = [os.path.join(directory or b".", name) for directory in path.split(b":")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    shown = os.fsdecode(path)
    if any(os.path.isfile(candidate) for candidate in candidates):
        raise PermissionError(errno.EACCES, "is in PATH (%s) but not executable" % shown)
    raise FileNotFoundError(errno.ENOENT, "is in no directory of PATH (%s)" % shown)


def spawn(argv: List[bytes], environ: Environ, cwd: str) -> int:
    """Start a program in `cwd` as the leader of a process group of its own; output goes where ours goes.

    Raises OSError when it cannot be executed. posix_spawn, not fork: it does not copy this process's tables, and tells
    of a failed exec at once. It cannot change directory, so the supervisor, which has one thread, does for a moment.
    """
    os.chdir(cwd)
    try:
        program = find_program(argv[0], environ)
        try:
            return _spawn(program, argv, environ)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return _spawn(
                b"/bin/sh", [b"sh", program, *argv[1:]], environ
            )  # a script without a first line, as in execvp
    finally:
        os.chdir("/")


def _spawn(program: bytes, argv: List[bytes], environ: Environ) -> int:
    return os.posix_spawn(program, argv, environ, setpgroup=0, setsigmask=(), setsigdef=DEFAULTS)

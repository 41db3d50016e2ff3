"""Everything between the claim and the first command: the source tree, modules, set-up lines, the uv environment.

Each step that fails is named in the record. Nothing is ever written outside the work directory.
"""

from __future__ import annotations

import os
import stat
import sys

from runtime import environment, files
from runtime.record import tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from typing import Iterator, List, Optional, Tuple

    from runtime.contract import Run
    from runtime.environment import Environ
    from runtime.supervise import Supervisor

READ_BYTES = 1 << 20
NAMES_MAX = 5_000_000  # members of one archive; more is no source tree

# $1 how many modules, then their names, then the set-up lines. What they export is handed over through descriptor 9,
# and so is the number of the step that failed. Every text arrives as an argument; none is pasted into this script.
SHELL = r"""
step=0 over=
trap '[ -n "$over" ] || printf "S%d" "$step" >&9' EXIT
count=$1; shift
while [ "$step" -lt "$count" ]; do
    module load "$1" || exit
    shift; step=$((step + 1))
done
for line do
    eval "$line" || exit
    step=$((step + 1))
done
over=1
"$RECONCILER_DUMP_PYTHON" -I -S -c 'import os
data = b"E" + b"\0".join(k + b"=" + v for k, v in os.environb.items())
while data:
    data = data[os.write(9, data):]'
"""


class SetUpFailed(Exception):
    """`step` is what was being done, `code` the exit code where a program did it."""

    def __init__(self, step: str, message: str, code: Optional[int] = None) -> None:
        super().__init__(message)
        self.step = step
        self.code = code


class Prepared:
    """All that the stages need."""

    def __init__(self, environ: Environ, cwd: str, stages: List[List[bytes]]) -> None:
        self.environ = environ
        self.cwd = cwd
        self.stages = stages


def is_needed(run: Run) -> bool:
    """Is there any step that takes time?"""
    return bool(run["tree"] or run["setup"] or run["modules"] or run["python"])


def prepare(run: Run, start_time: str, supervisor: Supervisor) -> Prepared:
    """Make the work directory ready. Raises SetUpFailed, or Stopped from the supervisor."""
    try:
        files.make_directories(run["work_dir"])
    except OSError as error:
        raise SetUpFailed("work directory", "%s: %s" % (error.filename, error.strerror)) from None
    environ = environment.of_run(run, start_time)
    cwd, tree = run["work_dir"], run["tree"]
    if tree and "directory" in tree:
        cwd = tree["directory"]
    elif tree:
        supervisor.detail("set-up: source tree")
        unpack(tree["object"], tree["sha256"], run["work_dir"], supervisor)
    if run["modules"] or run["setup"]:
        supervisor.detail("set-up: modules and set-up lines")
        environ = _source_shell(run, environ, cwd, supervisor)
    if run["python"] and os.path.exists(os.path.join(cwd, "pyproject.toml")):
        supervisor.detail("set-up: uv sync")
        environ = _uv_sync(run, environ, cwd, supervisor)
    stages = [environment.argv_of(stage) for stage in run["stages"]]
    if run["job_key"]:
        python = b"python" if b"VIRTUAL_ENV" in environ else b"python3"
        script = os.path.join(environment.BUNDLE, "runtime", "run_job.py")
        stages.append([python, os.fsencode(script), run["job_key"].encode()])
    return Prepared(environ, cwd, stages)


# -- the source tree --------------------


def unpack(archive: str, sha256: str, target: str, supervisor: Supervisor) -> None:
    """Unpack a .tar.gz whose checksum is `sha256` below `target`. Raises SetUpFailed naming the member that is refused.

    Times are not restored (a build must see its sources as new). Links are made last, so that no member is written
    through one; a link that leads out of the tree is the user's own text and writes nothing.
    """
    import tarfile  # noqa: PLC0415 - the launcher has imported it where it is needed

    step = "source tree"
    try:
        found = checksum(archive, supervisor)
    except OSError as error:
        raise SetUpFailed(step, "%s: %s" % (archive, error.strerror)) from None
    if found != sha256:
        raise SetUpFailed(step, "%s has checksum %s, expected %s: send it again" % (archive, found, sha256))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            links = []
            for member, path in _members(tar, target):
                supervisor.pulse()
                if member.issym() or member.islnk():
                    links.append((member, path))
                else:
                    _write_member(tar, member, path, supervisor)
            for member, path in links:
                _write_link(member, path, target)
    except tarfile.TarError as error:
        raise SetUpFailed(step, "%s is not a whole archive: %s" % (archive, error)) from None
    except EOFError:
        raise SetUpFailed(step, "%s is cut short" % archive) from None
    except OSError as error:
        raise SetUpFailed(step, "%s: %s" % (error.filename or target, error.strerror or error)) from None


def checksum(path: str, supervisor: Optional[Supervisor] = None) -> str:
    """SHA-256 of a file, 64 hex digits. Raises OSError."""
    import hashlib  # noqa: PLC0415 - only runs with a tree need it

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            data = file.read(READ_BYTES)
            if not data:
                return digest.hexdigest()
            digest.update(data)
            if supervisor:
                supervisor.pulse()


def inside(target: str, name: str) -> str:
    """Where the member `name` goes below `target`. Raises SetUpFailed for a name that leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise SetUpFailed("source tree", "the archive holds %r, which leads out of the work directory" % name)
    return os.path.join(target, *parts)


def _members(tar: tarfile.TarFile, target: str) -> Iterator[Tuple[tarfile.TarInfo, str]]:
    for count, member in enumerate(tar):
        if count >= NAMES_MAX:
            raise SetUpFailed("source tree", "the archive holds more than %d files" % NAMES_MAX)
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise SetUpFailed("source tree", "the archive holds %r, a device or pipe" % member.name)
        yield member, inside(target, member.name)


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, supervisor: Supervisor) -> None:
    if member.isdir():
        files.make_directories(path)
        return
    source = tar.extractfile(member)
    assert source is not None  # it is a file
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = 0o755 if member.mode & stat.S_IXUSR else 0o644
    try:
        descriptor = os.open(path, flags, mode)
    except FileNotFoundError:  # an archive need not list directories
        files.make_directories(os.path.dirname(path))
        descriptor = os.open(path, flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        while True:
            data = source.read(READ_BYTES)
            if not data:
                return
            file.write(data)
            if len(data) == READ_BYTES:
                supervisor.pulse()


def _write_link(member: tarfile.TarInfo, path: str, target: str) -> None:
    files.make_directories(os.path.dirname(path))
    if os.path.lexists(path):
        os.unlink(path)
    if member.issym():
        os.symlink(member.linkname, path)
    else:
        original = inside(target, member.linkname)
        if os.path.realpath(original) != os.path.join(os.path.realpath(target), os.path.relpath(original, target)):
            raise SetUpFailed("source tree", "the archive links %r through a link" % member.name)
        os.link(original, path, follow_symlinks=False)


# -- modules, set-up lines, uv --------------------


def _source_shell(run: Run, environ: Environ, cwd: str, supervisor: Supervisor) -> Environ:
    """Run modules and set-up lines in one login shell and keep what it exports. Secrets stay out of every file."""
    descriptor = _memory_file(run["status_dir"])
    try:
        os.dup2(descriptor, 9, inheritable=True)
        try:
            code = _run_shell(run, environ, cwd, supervisor)
        finally:
            os.close(9)
        answer = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
    if code != 0 or answer[:1] != b"E":
        steps = ["module load %s" % name for name in run["modules"]] + ["setup: %s" % line for line in run["setup"]]
        number = int(answer[1:] or b"0") if answer[:1] == b"S" and answer[1:].isdigit() else 0
        step = steps[min(number, len(steps) - 1)]
        raise (
            _failed(step, code, run) if code else SetUpFailed(step, "it ended the shell, so that nothing after it ran")
        )
    kept = dict(entry.split(b"=", 1) for entry in answer[1:].split(b"\0") if b"=" in entry)
    for name in (b"RECONCILER_DUMP_PYTHON", b"SHLVL", b"_", b"PWD", b"OLDPWD"):
        kept.pop(name, None)
    fixed = environment.encoded(run["secrets"])
    fixed.update((name, value) for name, value in environ.items() if name.startswith(b"RECONCILER_"))
    if run["gpus"] is not None and "CUDA_VISIBLE_DEVICES" not in run["env"]:
        fixed[b"CUDA_VISIBLE_DEVICES"] = environ[b"CUDA_VISIBLE_DEVICES"]
    kept.update(fixed)
    bundle = os.fsencode(environment.BUNDLE)
    path = [part for part in kept.get(b"PYTHONPATH", b"").split(b":") if part and part != bundle]
    kept[b"PYTHONPATH"] = b":".join([*path, bundle])
    return kept


def _run_shell(run: Run, environ: Environ, cwd: str, supervisor: Supervisor) -> int:
    texts = [SHELL, "set-up", str(len(run["modules"])), *run["modules"], *run["setup"]]
    argv = [b"bash", b"-lc", *(text.encode() for text in texts)]
    try:
        code = supervisor.run_child(argv, {**environ, b"RECONCILER_DUMP_PYTHON": os.fsencode(sys.executable)}, cwd)
    except OSError as error:
        raise SetUpFailed("set-up shell", "bash %s" % error.strerror) from None
    supervisor.pulse()
    return code


def _memory_file(directory: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("environment")
    path = os.path.join(directory, ".environment")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return descriptor


def _uv_sync(run: Run, environ: Environ, cwd: str, supervisor: Supervisor) -> Environ:
    """Make the environment and put it first in PATH: the same as `uv run`, without a process that swallows signals."""
    assert run["python"] is not None
    place = os.path.join(run["work_dir"], ".venv")
    environ = {**environ, b"UV_PROJECT_ENVIRONMENT": os.fsencode(place)}
    version = run["python"].get("version")
    options = ["--python", version] if version else []
    for group in run["python"]["groups"]:
        options += ["--group", group]
    tries = [["--frozen"], []] if os.path.exists(os.path.join(cwd, "uv.lock")) else [[]]
    for extra in tries:
        argv = [text.encode() for text in ["uv", "sync", *extra, *options]]
        try:
            code = supervisor.run_child(argv, environ, cwd)
        except OSError as error:
            raise SetUpFailed("uv sync", "uv %s; install it on this host, or drop `python`" % error.strerror) from None
        supervisor.pulse()
        if code == 0:
            break
    else:
        raise _failed("uv sync", code, run)
    environ[b"VIRTUAL_ENV"] = os.fsencode(place)
    environ[b"PATH"] = os.fsencode(os.path.join(place, "bin")) + b":" + environ.get(b"PATH", os.fsencode(os.defpath))
    return environ


def _failed(step: str, code: int, run: Run) -> SetUpFailed:
    how = "killed by signal %d" % -code if code < 0 else "exit code %d" % code
    output = tail(os.path.join(run["status_dir"], "output.log"))
    return SetUpFailed(step, how + (".\nThe last lines of its output:\n" + output if output else ""), abs(code))

"""The git program, called so that nothing around it changes the answer and no text is taken for an option.

Only the command line is used: it reads every repository format there is, and a no-change question costs 3 ms.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from reconciler.core.errors import SourceError

# A local git answers in milliseconds; a repository on a dead network mount never does.
GIT_S = 60.0

# Hooks, file system monitors and signatures would run other programs; a quiet read needs none of them, and no remote either. A
# commit may hold files that look like a bare repository, whose configuration names programs: only a `.git` is taken for one.
_SAFE = (
    "-c", "protocol.allow=never",
    "-c", "safe.bareRepository=explicit",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.quotePath=false",
    "-c", "log.showSignature=false",
    "-c", "advice.detachedHead=false",
    "-c", "core.attributesFile=/dev/null",
)  # fmt: skip

_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


def environment(**more: str) -> dict[str, str]:
    """The caller's environment without its GIT_ variables; no prompt, no pager, no lock, no fetch, plain words."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_PAGER": "cat",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
        **more,
    }


def argv_of(repo: Path, *arguments: str) -> list[str]:
    return ["git", *_SAFE, "-C", str(repo), *(("--git-dir=.",) if is_bare(repo) else ()), *arguments]


def is_bare(repo: Path) -> bool:
    """Is this directory itself a repository without a working tree? Not when it lies in one that has one: there it is content. In
    a tree without git (an unpacked archive) it may be content, too: its name has to say that it is none."""
    place = repo.absolute()
    return (
        looks_bare(repo)
        and place.name.endswith(".git")
        and not any(os.path.lexists(above / ".git") for above in (place, *place.parents))
    )


def looks_bare(repo: Path) -> bool:
    """Would git, left alone, take the files of this directory for a repository?"""
    return (repo / "HEAD").is_file() and (repo / "objects").is_dir() and (repo / "refs").is_dir()


def start(repo: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start git with pipes on all three streams. Raises SourceError when there is no git or no such directory."""
    try:
        return subprocess.Popen(
            argv_of(repo, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env if env is not None else environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise SourceError("There is no `git` program here", hint="Install git.") from None


def finish(
    process: subprocess.Popen[bytes], given: bytes = b"", *, deadline_s: float = GIT_S
) -> tuple[int, bytes, str]:
    """Exit status, output and git's own words. Raises SourceError past the deadline; git is dead then."""
    try:
        out, err = process.communicate(given, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise SourceError(f"`{_shown(process)}` did not answer within {deadline_s:g} s") from None
    return process.returncode, out, err.decode("utf-8", "replace").strip()


def ask(
    repo: Path,
    *arguments: str,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    deadline_s: float = GIT_S,
) -> tuple[int, bytes, str]:
    """Run git to its end."""
    return finish(start(repo, *arguments, env=env), given, deadline_s=deadline_s)


def tell(
    repo: Path,
    *arguments: str,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    deadline_s: float = GIT_S,
) -> bytes:
    """The output of a git that must succeed. Raises SourceError with git's own words."""
    status, out, said = ask(repo, *arguments, given=given, env=env, deadline_s=deadline_s)
    if status != 0:
        raise SourceError(f"{repo}: `git {arguments[0]}` failed: {said or f'status {status}'}")
    return out


@contextlib.contextmanager
def stream(
    repo: Path, *arguments: str, env: Mapping[str, str] | None = None, deadline_s: float = GIT_S
) -> Iterator[IO[bytes]]:
    """The output of git while it is written. A git that fails, or is not done by the deadline, raises SourceError."""
    # A file, not a pipe: nobody reads the words while the output is read.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv_of(repo, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env if env is not None else environment(),
            start_new_session=True,
        )
        assert process.stdout is not None
        timer = threading.Timer(deadline_s, process.kill)
        timer.daemon = True
        timer.start()
        failure: Exception | None = None
        try:
            with process.stdout:
                try:
                    yield process.stdout
                    while process.stdout.read(1 << 16):  # padding; left unread it would kill git
                        pass
                except (tarfile.TarError, EOFError) as error:
                    failure = error  # most likely because git ended early; its words say more
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            timer.cancel()
        if status != 0 or failure is not None:
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()
            raise SourceError(
                f"{repo}: `git {arguments[0]}` failed: {said or failure or f'ended by signal or with status {status}'}"
            ) from failure


def object_id(text: str) -> str:
    """The text, when it is a full object id. Raises SourceError: anything else could be an option or a moving name."""
    if not _OBJECT.match(text):
        raise SourceError(f"{text!r} is not an object id: expected 40 or 64 hexadecimal digits")
    return text


def resolve(repo: Path, ref: str) -> str:
    """The commit that `ref` names now. Raises SourceError naming the ref and where it was looked for."""
    return where(repo, ref)[0]


def where(repo: Path, ref: str) -> tuple[str, bool]:
    """The commit that `ref` names now, and whether `repo` has a working tree."""
    if not ref or any(ord(character) < 32 for character in ref):
        raise SourceError(f"{ref!r} is not a name of a commit: expected a branch, a tag or a commit id")
    status, out, said = ask(repo, "rev-parse", "--is-inside-work-tree", "--end-of-options", ref + "^{commit}")
    lines = [line for line in out.decode("utf-8", "replace").splitlines() if line != "--end-of-options"]
    if status == 0 and len(lines) == 2 and _OBJECT.match(lines[1]):
        return lines[1], lines[0] == "true"
    if not repo.is_dir():
        raise SourceError(f"{repo} is not a directory", hint="Name the repository with -C DIR.")
    if lines[:1] not in (["true"], ["false"]):
        raise SourceError(f"{repo} cannot be read as a git repository: {said}")
    raise SourceError(
        f"{repo} has no commit named {ref!r}",
        hint="Commit something first."
        if ref == "HEAD"
        else f"`git -C {shlex.quote(str(repo))} branch -a` lists the branches.",
    )


def hashed(data: bytes) -> str:
    """The id that git gives to a blob (SHA-1 repositories)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def split_nul(data: bytes) -> Iterable[str]:
    """Names from a `-z` output; bytes that are not UTF-8 are kept as surrogates."""
    return (part.decode("utf-8", "surrogateescape") for part in data.split(b"\0") if part)


def _shown(process: subprocess.Popen[bytes]) -> str:
    arguments = process.args
    return " ".join(map(str, arguments)) if isinstance(arguments, list) else str(arguments)

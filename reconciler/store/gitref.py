"""The one ref that holds a shared state: read whole, replaced only if nobody else has replaced it meanwhile.

`compare and swap` is `git push --force-with-lease=REF:OLD`: the remote itself refuses when the ref is not at OLD any more. A push
whose answer is lost is looked up before anything is concluded. Source: git-push(1), git-fast-import(1), git-cat-file(1).

What was read or made last is kept by a ref of this process alone, refs/reconciler-seen/<pid>-<random>/..., lest a `git gc` of
somebody takes it away meanwhile. It goes with `close`; those of processes that were killed go with the next one that closes. One
ref stays, refs/reconciler-seen/last/...: from it git knows what need not be fetched again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler.core.errors import LockHeld, StoreError

REF = "refs/reconciler/state"
SEEN = "refs/reconciler-seen"
NOTHING = "0" * 40
LOCAL_S, REMOTE_S = 60.0, 60.0
_GRACE_S = 2.0  # for git to remove its lock files when it is told to end
_ROUNDS = 3

_SAFE = (
    "-c",
    "safe.bareRepository=explicit",  # a commit may hold files that look like one
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "push.recurseSubmodules=no",
    "-c",
    "push.gpgSign=no",
    "-c",
    "push.pushOption=",
    "-c",
    "push.followTags=false",
)
# How git gets to the remote here. Everything else of GIT_* speaks of some other repository or command.
_KEPT = re.compile(
    r"GIT_(ASKPASS|SSH|SSH_COMMAND|SSH_VARIANT|PROXY_COMMAND|SSL_(CAINFO|CAPATH|CERT|KEY)"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_[0-9]+|VALUE_[0-9]+))\Z"
)
_OBJECT = re.compile(r"[0-9a-f]{40,64}\Z")
# Nothing that fast-import, ls-tree or cat-file could take for more than a name.
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
_FILE = b"100644"


class GitRef:
    """One ref on one remote of a repository. `repo` is any directory in it, `git_dir` the repository itself."""

    def __init__(self, repo: Path, remote: str = "origin", ref: str = REF, *, git_dir: Path | None = None) -> None:
        self._repo, self._remote, self._ref = repo, remote, ref
        self._git_dir = (f"--git-dir={git_dir}",) if git_dir is not None else ()
        self._folder, _, name = ref.rpartition("/")
        self._ours = f"{SEEN}/{os.getpid()}-{secrets.token_hex(4)}"
        self._seen = f"{self._ours}/{name}"
        self._last = f"{SEEN}/last/{name}"
        self._kept = ""
        """The commit that `_seen` is at; all of it is here."""

    @property
    def told(self) -> str:
        return f"{self._ref} of git remote {self._remote}"

    def beside(self) -> Path:
        """A file of this ref's own in the clone's git directory, shared by all its worktrees. Raises StoreError."""
        common = os.fsdecode(self._tell("rev-parse", "--git-common-dir").rstrip(b"\n"))
        return self._repo / common / "reconciler" / f"{self._ref.replace('/', '-')}.unmoved"

    def fetch(self) -> str:
        """The commit that the remote's ref is at now, all of which is here afterwards; NOTHING where there is no such ref.
        Raises StoreError when the remote cannot be asked."""
        for _ in range(_ROUNDS):
            at = self._there()
            if at in (NOTHING, self._kept):
                return at
            lacking = self._lacking(at)
            if lacking:
                # By the clone's own filter a partial clone would leave the files out, and ask for them one by one.
                self._bring(f"+{self._ref}:{self._seen}")
                lacking = self._lacking(at)
            if lacking and at not in lacking:
                self._bring("--stdin", given="".join(f"{one}\n" for one in lacking).encode())
                lacking = self._lacking(at)
            if not lacking:
                self._keep(at)
                return at
            # It moved on between the two questions.
        raise StoreError(
            f"The state in {self.told} cannot be read: in {_ROUNDS} tries it was moved each time, or not all of it came",
            hint="Try again. If it stays so: does `git fetch` of that ref work here, and does `git fsck` find this clone sound?",
        )

    def _bring(self, *what: str, given: bytes = b"") -> None:
        options = ("-q", "--no-tags", "--no-prune", "--no-recurse-submodules", "--no-filter", "--refmap=")
        flags, names = [one for one in what if one.startswith("--")], [one for one in what if not one.startswith("--")]
        code, _, said = self._git("fetch", *options, *flags, self._remote, *names, given=given, deadline_s=REMOTE_S)
        if code != 0:
            raise self._unreachable(said)

    def _lacking(self, commit: str) -> set[str]:
        """What of a commit is not here, as far as can be seen: itself, or objects of it. Asks no remote."""
        code, out, _ = self._git("rev-list", "--objects", "--no-walk", "--missing=print", commit)
        if code != 0:
            return {commit}
        return {line[1:].decode() for line in out.split(b"\n") if line.startswith(b"?")}

    def _keep(self, commit: str) -> None:
        if commit != self._kept:
            self._tell("update-ref", self._seen, commit)
            self._kept = commit

    def tree(self, commit: str) -> dict[str, str]:
        """Every file of a commit: object by path. Raises StoreError, also for anything that is not a plain file."""
        if commit == NOTHING:
            return {}
        found: dict[str, str] = {}
        for entry in self._tell("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
            if entry:
                about, path = entry.split(b"\t", 1)
                mode, _, name = about.split(b" ")
                found[self._path(path, mode)] = name.decode()
        return found

    def changed(self, old: str, new: str) -> dict[str, str | None]:
        """What of `old` is otherwise in `new`: object by path, None for what is gone. Raises LookupError where `old` is not
        here, and StoreError."""
        if old in ("", NOTHING) or new == NOTHING or self._lacking(old):
            raise LookupError(old)
        raw = self._tell("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new).split(b"\0")
        found: dict[str, str | None] = {}
        for at in range(0, len(raw) - 1, 2):
            _, mode, _, name, how = raw[at].split(b" ")
            gone = how == b"D"
            found[self._path(raw[at + 1], _FILE if gone else mode)] = None if gone else name.decode()
        return found

    def _path(self, path: bytes, mode: bytes) -> str:
        try:
            text = path.decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if mode != _FILE or not _PATH.match(text):
            raise StoreError(
                f"The state in {self.told} holds {path!r} (mode {mode.decode('ascii', 'replace')}), not written by a reconciler",
                hint="Somebody else writes to this ref: see who may push there. Deleting it loses only the history.",
            )
        return text

    def contents(self, objects: Mapping[str, str]) -> dict[str, bytes]:
        """Files by path, from their objects (an id, or COMMIT:PATH). Raises StoreError."""
        if not objects:
            return {}
        data = self._tell("cat-file", "--batch", given="".join(f"{one}\n" for one in objects.values()).encode())
        found: dict[str, bytes] = {}
        at = 0
        for path in objects:
            end = data.index(b"\n", at)
            about = data[at:end].split(b" ")
            if len(about) != 3 or about[1] != b"blob":
                raise StoreError(
                    f"{path} of the state in {self.told} is not here: {data[at:end].decode('utf-8', 'replace')}",
                    hint="Does `git fsck` find this clone sound?",
                )
            size = int(about[2])
            found[path] = data[end + 1 : end + 1 + size]
            at = end + 1 + size + 1
        return found

    def commit(self, parent: str, changes: Mapping[str, bytes | None], message: str) -> str:
        """A commit upon `parent` (NOTHING: the first) with these files changed, None for gone. It is here, and nowhere else.
        Raises StoreError, also for a path that is not plain."""
        text = message.encode()
        head = f"reset {self._seen}\n\ncommit {self._seen}\nmark :1\ncommitter reconciler <reconciler@localhost> now\n"
        parts = [head.encode(), b"data %d\n" % len(text), text, b"\n"]
        if parent != NOTHING:
            parts.append(f"from {parent}\n".encode())
        for path, data in changes.items():
            if not _PATH.match(path):
                raise StoreError(f"{path!r} cannot be a file of the state in {self.told}")
            if data is None:
                parts.append(f"D {path}\n".encode())
            else:
                parts.append(f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
        parts.append(b"get-mark :1\ndone\n")
        code, out, said = self._git(
            "fast-import", "--quiet", "--force", "--done", "--date-format=now", given=b"".join(parts)
        )
        made = out.decode("ascii", "replace").strip()
        if code != 0 or not _OBJECT.match(made):
            raise StoreError(f"The state could not be written into {self._repo}: {said}")
        self._kept = made
        return made

    def swap(self, old: str, new: str) -> None:
        """Put the remote's ref from `old` to `new`, of which NOTHING means that there is none. Raises LockHeld when it is at
        something else, and StoreError when it was not changed, or when that cannot be known."""
        if new == NOTHING:
            what = f":{self._ref}"
        else:
            # By a pattern, because a plain REF is also the name of a branch refs/heads/REF.
            self._keep(new)
            what = f"{self._ours}/*:{self._folder}/*"
        code, out, said = self._git(
            "push",
            "--porcelain",
            "--no-verify",
            "--no-signed",
            f"--force-with-lease={self._ref}:{'' if old == NOTHING else old}",
            self._remote,
            what,
            deadline_s=REMOTE_S,
            more=("-c", f"remote.{self._remote}.mirror=false"),
        )
        if code == 0 and f":{self._ref}\t".encode() in out:
            return  # a pattern that met nothing ends well, too, and names no ref
        try:
            at = self._there()
        except StoreError as error:
            raise StoreError(
                f"Whether the state was written to {self.told} is not known: {said or error.message}",
                hint="The next pass looks. Nothing is done on any host before its intent is known to be there.",
            ) from error
        if at == new:
            return  # it arrived, and only the answer was lost
        if at != old:
            raise LockHeld(f"The state in {self.told} was changed by another reconciler meanwhile; this one stops")
        raise StoreError(
            f"The state could not be written to {self.told}: {said or 'git push failed'}",
            hint=f"Pushing {self._ref} there must be allowed to whoever runs the reconciler.",
        )

    def close(self) -> None:
        """Let go of what was kept, here and for processes that are gone. What cannot be let go is left for the next one."""
        if not self._kept:
            return
        self._git("update-ref", self._last, self._kept)
        self._kept = ""
        _, out, _ = self._git("for-each-ref", "--format=%(refname)", SEEN)
        left = [name for name in out.decode("utf-8", "replace").split() if self._is_left(name)]
        self._git("update-ref", "--stdin", given="".join(f"delete {name}\n" for name in left).encode())

    def _is_left(self, name: str) -> bool:
        pid = name.removeprefix(f"{SEEN}/").partition("-")[0]
        return name == self._seen or (pid.isdecimal() and not _runs(int(pid)))

    # --- git

    def _there(self) -> str:
        code, out, said = self._git("ls-remote", "--exit-code", self._remote, self._ref, deadline_s=REMOTE_S)
        if code not in (0, 2):
            raise self._unreachable(said)
        # It also lists what ends like our ref: refs/heads/REF.
        found = [
            at for at, _, name in (line.partition(b"\t") for line in out.splitlines()) if name == self._ref.encode()
        ]
        if not found:
            return NOTHING
        at = found[0].decode("ascii", "replace")
        if not _OBJECT.match(at):
            raise self._unreachable(f"{at!r} is no object")
        return at

    def _unreachable(self, said: str) -> StoreError:
        words = " ".join(said.split()) or "git did not say why"
        return StoreError(
            f"The state in {self.told} cannot be read: {words}",
            hint="Without it nothing is done. Is the remote reachable, and does `git fetch` work there without a question?",
        )

    def _tell(self, *arguments: str, given: bytes = b"") -> bytes:
        code, out, said = self._git(*arguments, given=given)
        if code != 0:
            raise StoreError(f"{self._repo}: git {arguments[0]} failed: {said or f'status {code}'}")
        return out

    def _git(
        self, *arguments: str, given: bytes = b"", deadline_s: float = LOCAL_S, more: Iterable[str] = ()
    ) -> tuple[int, bytes, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.match(name)}
        environ = {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}
        try:
            process = subprocess.Popen(
                ["git", *_SAFE, *more, "-C", str(self._repo), *self._git_dir, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise StoreError("There is no `git` program here", hint="Install git.") from None
        with process:
            try:
                out, said = process.communicate(given, timeout=deadline_s)
            except subprocess.TimeoutExpired:
                _end(process)
                return 124, b"", f"git {arguments[0]} did not answer within {deadline_s:g} s"
            except BaseException:
                _end(process)
                raise
        return process.returncode, out, said.decode("utf-8", "replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git and all that it started (ssh, credential helpers): they are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

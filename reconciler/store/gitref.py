"""The one ref that holds a shared state: read whole, replaced only if nobody else has replaced it meanwhile.

`compare and swap` is `git push --force-with-lease=REF:OLD`: the remote itself refuses when the ref is not at OLD any more. A push
whose answer is lost is looked up before anything is concluded. Source: git-push(1), git-fast-import(1), git-cat-file(1).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.core.errors import LockHeld, StoreError

REF = "refs/reconciler/state"
_SEEN = "refs/reconciler/seen"  # what was fetched last: a ref of ours keeps git from throwing it away
NOTHING = "0" * 40
LOCAL_S, REMOTE_S = 60.0, 60.0

_SAFE = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "push.recurseSubmodules=no",
)
_OBJECT = re.compile(r"[0-9a-f]{40,64}\Z")


class GitRef:
    """One ref on one remote of a repository. `repo` is any directory in it."""

    def __init__(self, repo: Path, remote: str = "origin", ref: str = REF) -> None:
        self._repo, self._remote, self._ref = repo, remote, ref

    @property
    def told(self) -> str:
        return f"{self._ref} of git remote {self._remote}"

    def fetch(self) -> str:
        """The commit that the remote's ref is at now, whose objects are here afterwards; NOTHING where there is no such ref.
        Raises StoreError when the remote cannot be asked."""
        at = self._there()
        if at != NOTHING and not self._has(at):
            code, _, said = self._git(
                "fetch", "-q", "--no-tags", self._remote, f"+{self._ref}:{_SEEN}", deadline_s=REMOTE_S
            )
            if code != 0:
                raise self._unreachable(said)
            if not self._has(at):
                return self.fetch()  # it moved on between the two questions
        return at

    def files(self, commit: str) -> dict[str, bytes]:
        """Every file of a commit, by path. Raises StoreError."""
        if commit == NOTHING:
            return {}
        names = self._tell("ls-tree", "-r", "-z", "--full-tree", commit)
        entries = [entry.split(b"\t", 1) for entry in names.split(b"\0") if entry]
        ids = [about.split(b" ")[2] for about, _ in entries]
        return self._contents(list(zip(ids, (path for _, path in entries), strict=True)))

    def _contents(self, wanted: Sequence[tuple[bytes, bytes]]) -> dict[str, bytes]:
        """Files by path, from (object id, path)."""
        data = self._tell("cat-file", "--batch", given=b"".join(one + b"\n" for one, _ in wanted)) if wanted else b""
        found: dict[str, bytes] = {}
        at = 0
        for _, path in wanted:
            end = data.index(b"\n", at)
            size = int(data[at:end].rsplit(b" ", 1)[1])
            found[path.decode()] = data[end + 1 : end + 1 + size]
            at = end + 1 + size + 1
        return found

    def changed(self, old: str, new: str) -> dict[str, bytes | None]:
        """What of `old` is otherwise in `new`, by path; None for what is gone. Raises LookupError where `old` is not here."""
        if old in ("", NOTHING) or new == NOTHING or not self._has(old):
            raise LookupError(old)
        raw = self._tell("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new).split(b"\0")
        pairs = [(raw[at].split(b" "), raw[at + 1]) for at in range(0, len(raw) - 1, 2)]
        kept = [(about[3], path) for about, path in pairs if about[4] != b"D"]
        gone: dict[str, bytes | None] = {path.decode(): None for about, path in pairs if about[4] == b"D"}
        return gone | self._contents(kept)

    def commit(self, parent: str, changes: Mapping[str, bytes | None], message: str) -> str:
        """A commit upon `parent` (NOTHING: the first) with these files changed, None for gone. It is here, and nowhere else."""
        work = f"refs/reconciler/work/{os.getpid()}"  # another reconciler may be at work in this very clone
        head = (
            f"commit {work}\ncommitter reconciler <reconciler@localhost> now\ndata {len(message.encode())}\n{message}\n"
        )
        parts = [head.encode()]
        if parent != NOTHING:
            parts.append(f"from {parent}\n".encode())
        for path, data in changes.items():
            if data is None:
                parts.append(f"D {path}\n".encode())
            else:
                parts.append(f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
        parts.append(b"done\n")
        self._git("update-ref", "-d", work)
        code, _, said = self._git(
            "fast-import", "--quiet", "--force", "--done", "--date-format=now", given=b"".join(parts)
        )
        if code != 0:
            raise StoreError(f"The state could not be written into {self._repo}: {said}")
        made = self._tell("rev-parse", "--verify", work).decode().strip()
        self._git("update-ref", "-d", work)  # git keeps what nothing names for two weeks
        return made

    def swap(self, old: str, new: str) -> None:
        """Put the remote's ref from `old` to `new`, of which NOTHING means that there is none. Raises LockHeld when it is at
        something else, and StoreError when it was not changed, or when that cannot be known."""
        lease = f"--force-with-lease={self._ref}:{'' if old == NOTHING else old}"
        source = "" if new == NOTHING else new
        code, _, said = self._git(
            "push",
            "-q",
            "--porcelain",
            "--no-verify",
            lease,
            self._remote,
            f"{source}:{self._ref}",
            deadline_s=REMOTE_S,
        )
        if code == 0:
            return
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

    # --- git

    def _there(self) -> str:
        code, out, said = self._git("ls-remote", "--exit-code", self._remote, self._ref, deadline_s=REMOTE_S)
        if code == 2:
            return NOTHING
        found = out.split()
        at = found[0].decode() if found else ""
        if code != 0 or not _OBJECT.match(at):
            raise self._unreachable(said)
        return at

    def _has(self, commit: str) -> bool:
        return self._git("cat-file", "-e", f"{commit}^{{tree}}")[0] == 0

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

    def _git(self, *arguments: str, given: bytes = b"", deadline_s: float = LOCAL_S) -> tuple[int, bytes, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or name == "GIT_SSH_COMMAND"
        }
        environ = {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "GIT_NO_REPLACE_OBJECTS": "1", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                ["git", *_SAFE, "-C", str(self._repo), *arguments],
                input=given,
                capture_output=True,
                env=environ,
                timeout=deadline_s,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise StoreError("There is no `git` program here", hint="Install git.") from None
        except subprocess.TimeoutExpired:
            return 124, b"", f"git {arguments[0]} did not answer within {deadline_s:g} s"
        return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace").strip()

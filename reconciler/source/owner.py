"""Whose jobs are these? One identity per repository of manifests, the same in every clone of it."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

from reconciler.core.errors import SourceError
from reconciler.source import git

OWNER_VARIABLE = "RECONCILER_OWNER"
# A first commit, or what stands for one outside of git: 16 characters of it tell it from all others.
_OWN_MARK = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64}|dir-[0-9a-f]{16})\Z")


def owner_of(root: Path, *, known: str | None, in_git: bool) -> str:
    """The mark that runs carry: the repository's first commit, so that clones and CI agree and other people's jobs differ.

    `known` is an earlier answer for the same place: when that commit is still there, history need not be walked again.
    $RECONCILER_OWNER overrides. Without git it is this machine, user and directory. Raises SourceError for a shallow clone,
    whose first commit is not the repository's.
    """
    named = os.environ.get(OWNER_VARIABLE)
    if named:
        return named
    if not in_git:
        place = f"{socket.gethostname()}:{os.getuid()}:{root.resolve()}"
        return "dir-" + hashlib.sha256(place.encode()).hexdigest()[:16]
    if (
        known
        and not known.startswith("dir-")
        and git.ask(root, "merge-base", "--is-ancestor", git.object_id(known), "HEAD")[0] == 0
    ):
        return known
    if git.tell(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
        raise SourceError(
            f"{root} is a shallow clone: its first commit, by which runs are known as this repository's, is not there",
            hint=f"Fetch the whole history (git fetch --unshallow; in CI: fetch-depth 0), or set ${OWNER_VARIABLE}.",
        )
    status, out, _ = git.ask(root, "rev-list", "--max-parents=0", "HEAD", "--")
    roots = sorted(out.decode().split()) if status == 0 else []
    if not roots:
        raise SourceError(f"{root} has no commit yet", hint="Commit a manifest first: git add -A && git commit.")
    return roots[0]


def state_name(owner: str) -> str:
    """16 characters for the folder or the ref of an owner's state. $RECONCILER_OWNER may be any text, and many begin alike."""
    return (owner if _OWN_MARK.match(owner) else hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest())[
        :16
    ]

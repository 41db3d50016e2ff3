"""Code as it is to run: a commit, the working tree as it lies there, or listed files, each as one archive in a cache.

The repository is only read: no index, stash, branch or object of the user's is changed.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.errors import ShipError, SourceError
from reconciler.source import git
from reconciler.source.git import resolve
from reconciler.source.pack import SIZE_BYTES_MAX, Packer, packing
from reconciler.transports.private import make_private

__all__ = ["Snapshot", "Submodules", "archive", "dirty", "listed", "prune", "resolve"]

# Packing half a gigabyte from a slow disk.
_PACK_S = 600.0
# Part of every key of the cache: raise it when the same tree is to be packed differently.
_FORMAT = 1
_NAMES_SHOWN = 5
_CACHE_BYTES_MAX = 4 * 1024**3


class Submodules(enum.Enum):
    """What becomes of submodules; a warning says it when they are left out."""

    LEAVE_OUT = "leave out"
    INCLUDE = "include"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A packed tree. `commit` is the commit it is, or was made from; `dirty` says that it differs from that commit."""

    path: Path
    sha256: str
    size: int
    commit: str | None
    dirty: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree and where its objects are found."""

    repo: Path
    tree: str
    env: Mapping[str, str]


def archive(
    repo: Path,
    commit: str,
    *,
    cache: Path,
    submodules: Submodules = Submodules.LEAVE_OUT,
    size_max: int = SIZE_BYTES_MAX,
) -> Snapshot:
    """The tree of a commit (a full id, see `resolve`); `export-ignore` is honoured.

    The second call for a commit runs no process. The same tree gives the same bytes, whichever commit it belongs to;
    for that reason `export-subst` is not done. Raises SourceError when the commit cannot be read; ShipError for a tree
    beyond `size_max` (uncompressed bytes), a submodule that is to be included and is not there, and a cache that cannot
    be written.
    """
    key = _key("commit", git.object_id(commit), submodules.value, size_max)
    if (known := _recall(cache, key, commit)) is not None:
        return known
    tree = git.tell(repo, "rev-parse", "--verify", "--end-of-options", commit + "^{tree}").decode().split()[-1]
    snapshot = _pack(
        _Tree(_top(repo), tree, _env()), cache, submodules, size_max, commit=commit, is_dirty=False, working=False
    )
    _remember(cache, key, snapshot)
    return snapshot


def dirty(
    repo: Path,
    *,
    cache: Path,
    submodules: Submodules = Submodules.LEAVE_OUT,
    size_max: int = SIZE_BYTES_MAX,
) -> Snapshot:
    """The working tree as it is: changed and untracked files that git does not ignore are in, deleted ones are not.

    Raises like `archive`, and SourceError for a directory that is no git working tree or holds files git cannot read.
    """
    top = _top(repo)
    with _working(top) as tree:
        # Fails in a repository without a commit; the working tree can be shipped all the same.
        status, out, _ = git.ask(top, "rev-parse", "HEAD^{commit}", "HEAD^{tree}")
        lines = out.decode("ascii", "replace").split() if status == 0 else []
        commit, committed = (lines[0], lines[1]) if len(lines) == 2 else (None, None)
        return _pack(tree, cache, submodules, size_max, commit=commit, is_dirty=tree.tree != committed, working=True)


def listed(root: Path, patterns: Sequence[str], *, cache: Path, size_max: int = SIZE_BYTES_MAX) -> Snapshot:
    """The files that match the patterns (`*`, `?`, `**`, relative to `root`); a directory brings all below it.

    Git is not asked, so ignored files can be shipped too; `.git` never is. Raises ShipError for a pattern that leaves
    `root`, also through a link, or matches no file.
    """
    chosen: dict[str, Path] = {}
    for pattern in patterns:
        parts = Path(pattern).parts
        if not pattern or Path(pattern).is_absolute() or ".." in parts or "\0" in pattern:
            raise ShipError(f"{pattern!r} cannot be shipped: expected a path or pattern inside {root}")
        places = root.glob(pattern) if parts else [root]
        matched = [each for path in places for each in _below(path) if not _is_gits(each.relative_to(root))]
        if not matched:
            raise ShipError(f"{pattern!r} matches no file in {root}")
        for each in matched:
            _check_inside(each, root)
        chosen.update((each.relative_to(root).as_posix(), each) for each in matched)
    try:
        with packing(cache, size_max=size_max) as (packer, done):
            for name in sorted(chosen):
                packer.add_path(chosen[name], name)
    except FileNotFoundError as error:
        raise ShipError(f"{error.filename} went away while it was packed") from error
    return Snapshot(done[0].path, done[0].sha256, done[0].size, None, dirty=True, warnings=_lfs(packer))


def prune(cache: Path, *, size_max: int = _CACHE_BYTES_MAX) -> int:
    """Remove the archives that were not used for longest until `size_max` bytes remain. Returns the bytes freed."""
    entries = []
    for path in (cache / "objects").glob("*.tar.gz"):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            entries.append((about.st_mtime, about.st_size, path))
    excess = sum(size for _, size, _ in entries) - size_max
    freed = 0
    for _, size, path in sorted(entries):
        if freed >= excess:
            break
        path.unlink(missing_ok=True)
        freed += size
    return freed


# --- packing ----------------------------------------------------------------------------------------------------------


def _pack(
    tree: _Tree,
    cache: Path,
    submodules: Submodules,
    size_max: int,
    *,
    commit: str | None,
    is_dirty: bool,
    working: bool,
) -> Snapshot:
    # A submodule's working tree is not named by the tree that holds it, so it is packed anew every time.
    nameable = not (working and submodules is Submodules.INCLUDE)
    key = _key("tree", tree.tree, submodules.value, size_max)
    if nameable and (known := _recall(cache, key, commit)) is not None:
        return replace(known, dirty=is_dirty)
    left_out: list[str] = []
    with packing(cache, size_max=size_max) as (packer, done):
        _add(packer, tree, "", submodules, left_out, working=working)
    warnings = list(_lfs(packer))
    if left_out:
        warnings.append(
            f"{_some(left_out)}: submodules and repositories of their own are not shipped, their directories are empty "
            "in the job; `source: {submodules: true}` includes them"
        )
    snapshot = Snapshot(done[0].path, done[0].sha256, done[0].size, commit, is_dirty, tuple(warnings))
    if nameable:
        _remember(cache, key, snapshot)
    return snapshot


def _add(
    packer: Packer, tree: _Tree, prefix: str, submodules: Submodules, left_out: list[str], *, working: bool
) -> None:
    """Add a tree and, where wanted, those of its submodules."""
    links = _links(tree)
    with git.stream(tree.repo, "archive", "--format=tar", tree.tree, env=tree.env, deadline_s=_PACK_S) as stream:
        packer.add_tar(stream, prefix)
    for path, pin in links:
        if submodules is Submodules.LEAVE_OUT:
            left_out.append(prefix + path)
            continue
        inner = tree.repo / path
        _check_inside(inner / ".git", tree.repo)
        if not (inner / ".git").exists():
            raise ShipError(
                f"Submodule {prefix}{path} is not checked out in {tree.repo}",
                hint="Run `git submodule update --init --recursive`.",
            )
        with _working(inner) if working else _pinned(inner, pin, prefix + path) as below:
            _add(packer, below, f"{prefix}{path}/", submodules, left_out, working=working)


def _check_inside(path: Path, root: Path) -> None:
    """Raises ShipError for a path whose directories, links followed, are not below `root`: what is there is somebody else's."""
    top, parent = Path(os.path.realpath(root)), Path(os.path.realpath(path.parent))
    if parent != top and top not in parent.parents:
        raise ShipError(
            f"{path} cannot be shipped: a link in it leads out of {root}",
            hint="Put the files themselves there, or ship the repository in which they lie.",
        )


def _links(tree: _Tree) -> list[tuple[str, str]]:
    """Submodules (gitlinks) of a tree: path and pinned commit."""
    out = git.tell(tree.repo, "ls-tree", "-r", "-z", "--full-tree", tree.tree, env=tree.env, deadline_s=_PACK_S)
    found = []
    for entry in git.split_nul(out):
        about, _, path = entry.partition("\t")
        mode, _, pin = about.split(" ")
        if mode == "160000":
            found.append((path, pin))
    return found


@contextlib.contextmanager
def _pinned(repo: Path, pin: str, path: str) -> Iterator[_Tree]:
    status, out, said = git.ask(repo, "rev-parse", "--verify", "--end-of-options", git.object_id(pin) + "^{tree}")
    if status != 0:
        raise ShipError(
            f"Submodule {path} does not have the commit {pin} that is pinned: {said}",
            hint="Run `git submodule update --init --recursive`.",
        )
    yield _Tree(repo, out.decode().split()[-1], _env())


@contextlib.contextmanager
def _working(repo: Path) -> Iterator[_Tree]:
    """The working tree as a tree object. Index and new objects live in a temporary directory that is removed."""
    out = git.tell(repo, "rev-parse", "--path-format=absolute", "--git-path", "index", "--git-path", "objects")
    index, objects = (Path(os.fsdecode(line)) for line in out.rstrip(b"\n").split(b"\n"))
    with tempfile.TemporaryDirectory(prefix="reconciler-snapshot-") as name:
        scratch = Path(name)
        (scratch / "objects").mkdir()
        with contextlib.suppress(FileNotFoundError):
            # The copy knows which files are unchanged, so they are not read again. Its time must be kept, too: git
            # tells by it which files may have changed after the index was written.
            shutil.copy2(index, scratch / "index")
        env = _env(
            GIT_INDEX_FILE=str(scratch / "index"),
            GIT_OBJECT_DIRECTORY=str(scratch / "objects"),
            GIT_ALTERNATE_OBJECT_DIRECTORIES=_quoted(objects),
        )
        git.tell(repo, "-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", ".", env=env, deadline_s=_PACK_S)
        tree = git.tell(repo, "write-tree", env=env, deadline_s=_PACK_S).decode().strip()
        yield _Tree(repo, git.object_id(tree), env)


def _quoted(path: Path) -> str:
    """One entry of a list that git splits at `:` and unquotes when it begins with a double quote."""
    text = str(path)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if ":" in text or text.startswith('"') else text


def _env(**more: str) -> dict[str, str]:
    # Pointers stay pointers: fetching what they point to could take hours and needs the network.
    return git.environment(GIT_LFS_SKIP_SMUDGE="1", **more)


def _top(repo: Path) -> Path:
    """The top of the working tree, or the repository itself when it is bare."""
    status, out, said = git.ask(repo, "rev-parse", "--is-bare-repository", "--show-toplevel")
    lines = out.rstrip(b"\n").split(b"\n")
    if status == 0 and len(lines) == 2:
        return Path(os.fsdecode(lines[1]))
    if lines[0] == b"true":
        return repo
    raise SourceError(f"{repo} cannot be read as a git repository: {said}")


def _is_gits(path: Path) -> bool:
    """Some file systems do not tell `.GIT` from `.git`."""
    return any(part.casefold() == ".git" for part in path.parts)


def _below(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for directory, directories, files in os.walk(path):
        here = Path(directory)
        # Links to directories are listed among the directories and not followed.
        links = [name for name in directories if (here / name).is_symlink()]
        directories[:] = sorted(name for name in set(directories) - set(links) if not _is_gits(Path(name)))
        yield from (here / name for name in sorted(files + links) if not _is_gits(Path(name)))


def _lfs(packer: Packer) -> tuple[str, ...]:
    if not packer.lfs_pointers:
        return ()
    return (
        f"{_some(packer.lfs_pointers)}: Git LFS pointers are shipped, not the files they stand for; "
        "the job has to fetch those itself",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


# --- what was packed before -------------------------------------------------------------------------------------------


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()


def _recall(cache: Path, key: str, commit: str | None) -> Snapshot | None:
    try:
        about = json.loads((cache / "keys" / f"{key}.json").read_bytes())
        path = cache / "objects" / f"{about['sha256']}.tar.gz"
        if path.stat().st_size != about["size"]:
            return None
        os.utime(path)  # used now: the last to be pruned
        return Snapshot(path, about["sha256"], about["size"], commit, dirty=False, warnings=tuple(about["warnings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing there, or not whole: packed again


def _remember(cache: Path, key: str, snapshot: Snapshot) -> None:
    about = {"sha256": snapshot.sha256, "size": snapshot.size, "warnings": list(snapshot.warnings)}
    try:
        make_private(cache / "keys")
        handle, name = tempfile.mkstemp(prefix=".key-", dir=cache / "keys")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(about, file)
        Path(name).replace(cache / "keys" / f"{key}.json")
    except OSError as error:
        raise ShipError(f"{cache} cannot be written: {error.strerror}") from error

"""The manifests as git has them: which files, in which version, read completely or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.errors import Problem, SourceError
from reconciler.source import git

# A file changed this recently may change again without a new time stamp (file systems keep seconds or ticks).
_RACY_S = 2.0
_UNPRINTABLE = "the name is not UTF-8, or has characters that do not print; rename the file"

StatCache = dict[str, tuple[tuple[int, int, int, int], str]]


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Every file below the manifest directory, in one version.

    `commit` is None for a working tree. `tree` names the content: equal trees hold equal files. `files` are paths
    relative to `root` with `/`, and blob ids, in git's order. `dirty` lists changes that are not committed and
    therefore not in `files`. `problems` are entries that cannot be manifests (links, submodules, names that are not
    UTF-8); while there are any, the tree does not show everything that the user wrote, so nothing may be concluded
    from what is missing.
    """

    root: Path
    subdir: str
    commit: str | None
    tree: str
    dirty: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...] = ()


def read(root: Path, subdir: str, ref: str, known: SourceTree | None = None) -> SourceTree:
    """What `ref` holds below `subdir` (relative to `root`, which may lie inside the repository).

    With `known`, the result of an earlier read of the same place, an unmoved ref costs two git processes and no
    listing. Raises SourceError when the repository, the ref or the directory is not there, when git fails or does not
    answer, and when the directory holds no file at all: an empty source is taken for a mistake, never for "remove
    everything".
    """
    place = _place(subdir)
    # Both start at once; together they take as long as the slower one.
    status = git.start(root, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--", place)
    try:
        commit, has_work_tree = git.where(root, ref)
    except SourceError:
        git.finish(status)
        raise
    code, out, said = git.finish(status)
    if code != 0 and has_work_tree:
        raise SourceError(f"{root}: `git status` failed: {said}")
    dirty = tuple(_shown_name(entry[3:]) for entry in git.split_nul(out)) if has_work_tree else ()
    if known is not None and (known.root, known.subdir, known.commit) == (root, subdir, commit):
        return known if known.dirty == dirty else _with_dirty(known, dirty)
    tree, files, problems = _listed(root, place, commit, ref)
    return SourceTree(root, subdir, commit, tree, dirty, files, problems)


def read_working_tree(root: Path, subdir: str, cache: StatCache | None = None) -> SourceTree:
    """The files as they lie on disk, for directories without git and for `--working-tree`.

    Ids are those git would give (SHA-1 blobs). `cache` may be kept between calls by the caller: files whose size,
    times and inode are unchanged are not read again. Raises SourceError like `read`.
    """
    top = root / _place(subdir)
    real, base = os.path.realpath(top), os.path.realpath(root)
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise SourceError(
            f"{top} is a link that leads out of {root}; nothing is read there",
            hint="Name the directory itself with -C DIR.",
        )
    found = _Found(before={} if cache is None else cache)
    try:
        _walk(top, os.path.relpath(top, root), found)
    except FileNotFoundError as error:
        if not top.is_dir():
            raise _missing(str(top)) from None
        raise SourceError(f"{error.filename} went away while {top} was read; the next pass reads it again") from error
    except OSError as error:
        raise SourceError(f"{top} cannot be read completely: {error.filename}: {error.strerror}") from error
    if cache is not None:
        cache.clear()
        cache.update(found.after)
    if not found.files and not found.problems:
        raise _empty(str(top))
    files = sorted(found.files, key=lambda entry: os.fsencode(entry[0]))
    summary = hashlib.sha256()
    for path, blob in files:
        summary.update(os.fsencode(path) + b"\0" + blob.encode() + b"\0")
    return SourceTree(root, subdir, None, summary.hexdigest(), (), tuple(files), tuple(found.problems))


def blobs(source: SourceTree, ids: Collection[str]) -> dict[str, bytes]:
    """The contents of the given ids of `source.files`, all of them, with one git process.

    Raises SourceError when one is not there, or, for a working tree, when a file changed since it was listed.
    """
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    if source.commit is None:
        return _from_disk(source, wanted)
    asked = "".join(f"{git.object_id(each)}\n" for each in wanted).encode()
    out = git.tell(source.root, "cat-file", "--batch", given=asked)
    found: dict[str, bytes] = {}
    at = 0
    for each in wanted:
        end = out.find(b"\n", at)
        header = out[at:end].decode("ascii", "replace").split() if end >= 0 else []
        if len(header) != 3 or header[0] != each or header[1] != "blob":
            raise SourceError(f"{source.root}: object {each} cannot be read: {' '.join(header) or 'git said nothing'}")
        size = int(header[2])
        found[each] = out[end + 1 : end + 1 + size]
        if len(found[each]) != size:
            raise SourceError(f"{source.root}: object {each} was cut off after {len(found[each])} of {size} bytes")
        at = end + 1 + size + 1
    return found


def descends(root: Path, old: str, new: str) -> bool:
    """True when commit `new` has `old` in its past.

    False means that history was rewritten (a forced push), or that `old` is gone.
    """
    status, _, said = git.ask(root, "merge-base", "--is-ancestor", git.object_id(old), git.object_id(new))
    if status in (0, 1):
        return status == 0
    if git.ask(root, "cat-file", "-e", git.object_id(old))[0] != 0:
        return False
    raise SourceError(f"{root}: the histories of {old} and {new} cannot be compared: {said}")


def _place(subdir: str) -> str:
    """The manifest directory as a relative path that stays inside the root."""
    path = os.path.normpath(subdir or ".")
    if path.startswith("/") or path.split("/")[0] == ".." or "\0" in path:
        raise SourceError(f"{subdir!r} is not a manifest directory: expected a path inside the repository")
    return path


def _listed(
    root: Path, place: str, commit: str, ref: str
) -> tuple[str, tuple[tuple[str, str], ...], tuple[Problem, ...]]:
    # Paths are relative to `root`, as git gives them to a command that runs there.
    target = [] if place == "." else [place + "/"]
    out = git.tell(root, "ls-tree", "-r", "-z", commit, "--", *target)
    files: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for entry in git.split_nul(out):
        about, _, path = entry.partition("\t")
        mode, _, blob = about.split(" ")
        shown = _shown_name(path)
        if mode == "120000":
            problems.append(Problem(shown, 0, "a symbolic link cannot be a manifest; commit the file itself"))
        elif mode == "160000":
            problems.append(Problem(shown, 0, "a submodule cannot hold manifests; commit the files themselves"))
        elif shown != path:
            problems.append(Problem(shown, 0, _UNPRINTABLE))
        else:
            files.append((path, blob))
    if not files and not problems:
        what = f"{place} in {ref} ({commit[:12]}) of {root}"
        raise _empty(what) if place == "." else _missing(what)
    # Order and ids of all files say all that a tree id says, and it needs no further process.
    return hashlib.sha256(out).hexdigest(), tuple(files), tuple(problems)


@dataclass(slots=True)
class _Found:
    """What one walk over the disk has collected."""

    before: StatCache
    after: StatCache = field(default_factory=dict)
    files: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _walk(directory: Path, relative: str, found: _Found) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = entry.name if relative == "." else f"{relative}/{entry.name}"
            about = entry.stat(follow_symlinks=False)
            shown = _shown_name(path)
            if shown != path:
                found.problems.append(Problem(shown, 0, _UNPRINTABLE))
            elif stat.S_ISDIR(about.st_mode):
                if entry.name != ".git":
                    _walk(directory / entry.name, path, found)
            elif stat.S_ISREG(about.st_mode):
                found.files.append((path, _id_of(entry.path, path, about, found)))
            elif stat.S_ISLNK(about.st_mode):
                message = "a symbolic link cannot be a manifest; put the file itself there"
                found.problems.append(Problem(path, 0, message))
            else:
                found.problems.append(Problem(path, 0, "it is not a regular file"))


def _id_of(file: str, path: str, about: os.stat_result, found: _Found) -> str:
    key = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
    before = found.before.get(path)
    blob = before[1] if before is not None and before[0] == key else git.hashed(Path(file).read_bytes())
    if max(about.st_mtime, about.st_ctime) < time.time() - _RACY_S:
        found.after[path] = (key, blob)
    return blob


def _from_disk(source: SourceTree, wanted: list[str]) -> dict[str, bytes]:
    place = {blob: path for path, blob in source.files}
    found: dict[str, bytes] = {}
    for each in wanted:
        if each not in place:
            raise SourceError(f"{source.root}: no file has the content {each}")
        try:
            data = (source.root / place[each]).read_bytes()
        except OSError as error:
            raise SourceError(f"{source.root / place[each]} cannot be read: {error.strerror}") from error
        if git.hashed(data) != each:
            raise SourceError(f"{source.root / place[each]} changed while it was read; the next pass reads it again")
        found[each] = data
    return found


def _with_dirty(known: SourceTree, dirty: tuple[str, ...]) -> SourceTree:
    return SourceTree(known.root, known.subdir, known.commit, known.tree, dirty, known.files, known.problems)


def _shown_name(path: str) -> str:
    """The name of a file as a line of ours can hold it. A name that does not print could be taken for lines of ours."""
    return path if path.isprintable() else ascii(path)


def _missing(shown: str) -> SourceError:
    return SourceError(
        f"There is no manifest directory {shown}; nothing is concluded from that",
        hint="To say that no job is wanted, keep the directory with one file in it, such as .gitkeep.",
    )


def _empty(shown: str) -> SourceError:
    return SourceError(
        f"The manifest directory {shown} holds no file; nothing is concluded from that",
        hint="To say that no job is wanted, keep one file in it, such as .gitkeep.",
    )

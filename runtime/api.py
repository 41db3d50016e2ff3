"""For the programs of jobs: progress, checkpoints that are whole or not there, resuming, config, stopping.

    from runtime import api

    config = api.config()
    newest = api.resume()                        # path of the newest complete checkpoint, or None
    with api.checkpoint(step, keep=3) as path:   # write files into `path`; it appears under its name only when complete
        ...
    api.report(step, total, loss=0.1)

Outside the reconciler everything works too: reports go nowhere, checkpoints to ./checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from runtime import checkpoints, contract, files, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Optional


class Fenced(RuntimeError):
    """A newer attempt of this job has begun; this one must not write any more."""


class _Stop:
    asked = False


def report(step: int, total: Optional[int] = None, **metrics: float) -> None:
    """Tell how far the work is. Cheap enough for steps of a millisecond; only the newest report is kept."""
    directory = os.environ.get("RECONCILER_STATUS_DIR")
    if not directory or os.environ.get("RECONCILER_NODE_RANK", "0") != "0":
        return  # on several machines the first one speaks for all
    value = {
        "step": int(step),
        "total": None if total is None else int(total),
        "metrics": _plain(metrics),
        "at": status.utc_now(),
    }
    aside = os.path.join(directory, ".progress.%d" % os.getpid())
    try:
        # Not flushed: a report lost in a power cut is worth less than a wait for the disk in every step.
        status.write_file(aside, status.encode(value), flush=False)
        os.rename(aside, os.path.join(directory, contract.PROGRESS))
    except OSError:
        status.remove_file(aside)  # a full disk must not end a training run


def checkpoint_dir() -> str:
    """Where this job's checkpoints are, over all attempts. It is made when missing."""
    path = os.environ.get("RECONCILER_CHECKPOINT_DIR") or os.path.abspath("checkpoints")
    files.make_directories(path)
    return path


def resume() -> Optional[str]:
    """Path of the newest complete checkpoint, None to start from nothing. Half-written ones are passed over."""
    newest = checkpoints.newest(os.environ.get("RECONCILER_CHECKPOINT_DIR") or os.path.abspath("checkpoints"))
    return newest.path if newest else None


def config() -> Dict[str, Any]:
    """spec.config of the job, {} when there is none."""
    path = os.environ.get("RECONCILER_CONFIG")
    return status.read_json(path) if path else {}


@contextlib.contextmanager
def checkpoint(step: int, *, keep: Optional[int] = None) -> Iterator[str]:
    """Write a checkpoint of `step`: the block writes files into the directory it is given, the rest happens here.

    At the end of the block the files are flushed, COMMIT is written, the directory gets its name, `latest` names it. A
    block that raises, or a crash at any point, leaves no checkpoint of that name. `keep` removes all but the newest
    complete ones. Raises Fenced, leaving everything as it was, when a newer attempt of this job has begun.
    """
    base = checkpoint_dir()
    final = os.path.join(base, checkpoints.directory_name(step))
    aside = os.path.join(base, ".%s.%d" % (os.path.basename(final), os.getpid()))
    refuse_when_fenced()
    files.remove_tree(aside)
    os.mkdir(aside)
    try:
        yield aside
        _commit(aside, step)
        refuse_when_fenced()
        _put_in_place(aside, final)
    except BaseException:
        files.remove_tree(aside)
        raise
    status.replace_file(os.path.join(base, contract.LATEST), (os.path.basename(final) + "\n").encode())
    status.flush_file(base)
    if keep is not None:
        prune(base, keep)


def prune(base: str, keep: int) -> None:
    """Remove complete checkpoints but the newest `keep` (at least one), and what crashed attempts left half-written."""
    complete = [path for step, path in checkpoints.by_step(base) if checkpoints.check(path, step)]
    for path in complete[: -max(keep, 1)]:
        # COMMIT first: from then on it is no checkpoint, however the removal ends.
        status.remove_file(os.path.join(path, contract.COMMIT))
        files.remove_tree(path)


def refuse_when_fenced() -> None:
    """Raise Fenced when the job's fence names a newer attempt. Call it before shared writes."""
    directory = os.environ.get("RECONCILER_STATUS_DIR")
    if not directory:
        return
    try:
        fence = status.read_json(os.path.join(os.path.dirname(directory), contract.FENCE))
    except (OSError, ValueError):
        return  # no fence, or a disk that is away: the write itself will tell
    attempt = int(os.environ.get("RECONCILER_ATTEMPT", "0"))
    if fence.get("run_id") != os.environ.get("RECONCILER_RUN_ID") and int(fence.get("attempt", 0)) >= attempt:
        raise Fenced("attempt %s of this job has begun; attempt %d must not write" % (fence.get("attempt"), attempt))


def install_stop_handler() -> None:
    """From now on TERM does not end the program but makes `stopping()` true. Call it in the main thread."""
    signal.signal(signal.SIGTERM, _on_term)


def stopping() -> bool:
    """Were we asked to stop? Then write a checkpoint and end; after the grace of the job comes KILL."""
    return _Stop.asked


def _on_term(_number: int, _frame: object) -> None:
    _Stop.asked = True


def _commit(path: str, step: int) -> None:
    sizes: Dict[str, int] = {}
    for directory, _names, names in os.walk(path):
        for name in names:
            file = os.path.join(directory, name)
            status.flush_file(file)
            sizes[os.path.relpath(file, path)] = os.stat(file).st_size
        status.flush_file(directory)
    commit = {
        "step": int(step),
        "time": status.utc_now(),
        "run_id": os.environ.get("RECONCILER_RUN_ID"),
        "attempt": int(os.environ.get("RECONCILER_ATTEMPT", "0")),
        "files": sizes,
    }
    status.write_file(os.path.join(path, contract.COMMIT), status.encode(commit), flush=True)
    status.flush_file(path)


def _put_in_place(aside: str, final: str) -> None:
    try:
        os.rename(aside, final)
        return
    except OSError:
        if not os.path.isdir(final):
            raise
    # The step was written before, by this attempt or by one that was cut short: the new one takes its place. A crash
    # between the two renames loses this step only, and the one before it is still whole.
    old = "%s.old.%d.%d" % (
        os.path.join(os.path.dirname(final), "." + os.path.basename(final)),
        os.getpid(),
        time.time_ns(),
    )
    os.rename(final, old)
    os.rename(aside, final)
    files.remove_tree(old)


def _plain(metrics: Dict[str, Any]) -> Dict[str, Any]:
    """Numbers of any array library as JSON ones; what is not finite becomes text, because JSON has no word for it."""
    plain: Dict[str, Any] = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            plain[name] = str(value)
            continue
        plain[name] = number if number - number == 0 else str(number)
    return plain


__all__ = [
    "Fenced",
    "checkpoint",
    "checkpoint_dir",
    "config",
    "install_stop_handler",
    "prune",
    "refuse_when_fenced",
    "report",
    "resume",
    "stopping",
]

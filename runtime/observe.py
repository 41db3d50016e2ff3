"""The verb `observe`: what is true of the runs on this machine, in one look. Writes nothing."""

from __future__ import annotations

import os

from runtime import claim, contract, status
from runtime.node import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    Say = Callable[[Dict[str, Any]], None]


def observe(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """One sighting per listed and per known run; what the closing line says of the machine and of each status root.

    With `commands`, a scheduler's are run first and their answers given as they are: what they say of a run must not be
    younger than what its record says, or a run that ends in between would look lost. With `queue`, the name of a host, runs
    of that host's queue are told, and no others.
    """
    node, roots = Node(), {}  # type: Node, Dict[str, Optional[str]]
    if document.get("commands"):
        from runtime import commands  # noqa: PLC0415 - only for queues

        silent = None
        for name, command in document["commands"].items():
            # A scheduler that does not answer one question makes every client wait: it is not asked the next.
            answer = silent or commands.run(command["argv"], command["timeout_s"])
            say({"command": {"name": name, **answer}})
            if answer["rc"] != 0 and silent is None:
                silent = {"rc": None, "stdout": "", "stderr": "not asked: %s failed before" % name}
    queue = document.get("queue")
    todo: Dict[str, str] = {}
    for root in document.get("status_roots", []):
        try:
            todo.update(_scan(root) if document.get("scan") else ())
            todo.update(_live(root))
            roots[root] = None
        except OSError as error:
            roots[root] = "%s: %s" % (error.filename or root, error.strerror)
        except ValueError as error:
            roots[root] = str(error)
    settled, brief = set(), set()
    asked = {known["status_dir"] for known in document.get("known", [])}
    for known in document.get("known", []):
        todo[known["status_dir"]] = known["run_id"]
        if known.get("settled"):
            settled.add(known["status_dir"])
        if known.get("brief"):
            brief.add(known["status_dir"])
    clock = FileClock() if document.get("ages") else None
    gone = [root + "/" for root in roots if not os.path.isdir(root)]
    for status_dir, run_id in todo.items():
        sighting = (
            queued_sight(run_id, status_dir, queue, brief=status_dir in brief)
            if queue
            else sight(run_id, status_dir, node)
        )
        if sighting is None and status_dir not in asked:
            continue
        if sighting is None:
            sighting = {
                "run_id": run_id,
                "status_dir": status_dir,
                "state": "present",
                "error": "it belongs to another host",
            }
        if clock is not None:
            sighting["quiet_s"] = clock.age(status_dir)
        if status_dir in settled and sighting["state"] == "absent" and status_dir.startswith(tuple(gone)):
            # The run was there once, so its root was: a file system that is not mounted proves nothing.
            sighting["error"] = "its status root does not exist any more: is a file system not mounted?"
            sighting["rootless"] = True
        say({"sighting": sighting})
    closing: Dict[str, Any] = {
        "boot_id": node.boot_id,
        "hostname": node.hostname,
        "time": status.utc_now(),
        "cpus": _cpus(),
        "gpus": None,
        "gpu_error": None,
        "roots": roots,
    }
    if document.get("probe"):
        from runtime import gpus  # noqa: PLC0415 - only a probe starts nvidia-smi

        closing["gpus"], closing["gpu_error"] = gpus.query()
    return closing


def queued_sight(run_id: str, status_dir: str, queue: str, *, brief: bool) -> Optional[Dict[str, Any]]:
    """What is written of one run of a queue; whether it lives, only the queue can say. None for a run that is not of it.

    `brief`: its claim is known to the reader.
    """
    sighting: Dict[str, Any] = {"run_id": run_id, "status_dir": status_dir, "state": "present", "error": None}
    try:
        if not brief:
            sighting["claim"] = status.read_json(os.path.join(status_dir, contract.CLAIM))
            if not sighting["claim"].get("queue") or sighting["claim"].get("host") != queue:
                return None
        metadata = status.read_json(os.path.join(status_dir, contract.METADATA))
        metadata.pop("config", None)
        sighting["metadata"] = metadata
        sighting["started"] = claim.read_started(status_dir)
    except FileNotFoundError:
        if os.path.isdir(status_dir):
            sighting["error"] = "%s is not whole" % status_dir
        else:
            sighting["state"] = "absent"
        return sighting
    except OSError as error:
        sighting["error"] = "%s: %s" % (error.filename or status_dir, error.strerror)
    except ValueError as error:
        sighting["error"] = str(error)
    sighting["progress"] = _optional(os.path.join(status_dir, contract.PROGRESS))
    sighting["request"] = _optional(os.path.join(status_dir, contract.REQUEST))
    sighting["queued"] = _optional(os.path.join(status_dir, contract.QUEUED))
    if (
        brief
    ):  # what the reader knows, and what only a first look needs: with thousands of runs it is most of the answer
        for name in ("hardware", "source", "job_key", "token", "digest", "host", "workers"):
            (sighting.get("metadata") or {}).pop(name, None)
        for name in ("script", "output", "at"):
            (sighting["queued"] or {}).pop(name, None)
        if (sighting["queued"] or {}).get("answer") and sighting["started"]:
            sighting["queued"].pop("answer")
    return sighting


class FileClock:
    """Ages by the file server's own clock: a file made now is compared with the run's, so that no two clocks ever are."""

    def age(self, status_dir: str) -> Optional[float]:
        """Seconds since anything was last written about the run; None where that cannot be told."""
        mark = os.path.join(status_dir, ".now.%d" % os.getpid())
        try:
            status.write_file(mark, b"", flush=False)
            now = os.stat(mark).st_mtime
        except OSError:
            return None
        finally:
            status.remove_file(mark)
        newest = None
        for name in (contract.METADATA, contract.QUEUED, contract.STARTED, contract.CLAIM):
            try:
                written = os.stat(os.path.join(status_dir, name)).st_mtime
            except OSError:
                continue
            newest = written if newest is None else max(newest, written)
        return None if newest is None else max(0.0, now - newest)


def sight(run_id: str, status_dir: str, node: Node) -> Dict[str, Any]:
    """What is known of one run. Whatever cannot be read makes an `error`: then nothing about the run is proved."""
    sighting: Dict[str, Any] = {
        "run_id": run_id,
        "status_dir": status_dir,
        "state": "present",
        "alive": False,
        "supervised": False,
        "started": None,
        "claim": None,
        "metadata": None,
        "progress": None,
        "request": None,
        "error": None,
    }
    try:
        os.stat(status_dir)
        _fill(sighting, status_dir, node)
    except FileNotFoundError:
        if os.path.isdir(status_dir):
            sighting["error"] = "%s is not a run's directory: it has no claim" % status_dir
        else:  # none, or removed while we looked
            sighting["alive"] = bool(_strays(status_dir, node))
            sighting["state"] = "present" if sighting["alive"] else "absent"
    except OSError as error:
        sighting["error"] = "%s: %s" % (error.filename or status_dir, error.strerror)
    except ValueError as error:
        sighting["error"] = str(error)
    return sighting


def _fill(sighting: Dict[str, Any], status_dir: str, node: Node) -> None:
    try:
        made = sighting["claim"] = status.read_json(os.path.join(status_dir, contract.CLAIM))
    except ValueError:
        if os.path.exists(os.path.join(status_dir, contract.STARTED)):
            raise
        return  # a power cut emptied it before the run started (claim.start): nothing of it ever lived
    if made.get("queue"):
        raise ValueError("the run belongs to the queue of %s" % made.get("host"))
    try:
        metadata = status.read_json(os.path.join(status_dir, contract.METADATA))
        metadata.pop("config", None)
        sighting["metadata"] = metadata
    except ValueError:
        if made.get("boot_id") == node.boot_id:
            raise
        metadata = {}
    sighting["progress"] = _optional(os.path.join(status_dir, contract.PROGRESS))
    sighting["request"] = _optional(os.path.join(status_dir, contract.REQUEST))
    try:
        started = claim.read_started(status_dir)
    except ValueError:
        if made.get("boot_id") == node.boot_id:
            raise
        started = None  # a power cut emptied it; nothing of that boot lives
    sighting["started"] = started
    if made.get("hostname") != node.hostname and metadata.get("status") not in contract.FINAL:
        # A directory that several machines share. Only its own machine can tell whether the run lives.
        sighting["error"] = "the run belongs to %s; this is %s" % (made.get("hostname"), node.hostname)
    sighting["alive"], sighting["supervised"] = liveness(made, started, metadata, node)


def liveness(made: Dict[str, Any], started: Any, metadata: Dict[str, Any], node: Node) -> Tuple[bool, bool]:
    """(Does any process of the run live, does its supervisor live)? Of this machine in this boot."""
    if made.get("boot_id") != node.boot_id:
        return False, False
    if started is None:
        return node.is_alive({**made.get("launcher", {}), "boot_id": made["boot_id"]}), False
    if node.is_alive(started):
        return True, True
    final = metadata.get("status") in contract.FINAL
    return bool(node.members(started, str(made.get("token", "")), deep=not final)), False


def _live(root: str) -> Iterator[Tuple[str, str]]:
    """(status_dir, run id) of every entry of `.live`."""
    directory = os.path.join(root, contract.LIVE)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        os.path.isdir(root)
        return
    for name in names:
        try:
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                relative = file.readline().rstrip("\n")
        except FileNotFoundError:
            continue  # the run ended while we looked
        if not relative:
            relative = _find(root, name)  # a power cut emptied the entry
            if not relative:
                continue
        if relative.startswith("/") or ".." in relative.split("/") or os.path.basename(relative) != name:
            raise ValueError("%s/%s leads to %r, which is no run of this root" % (directory, name, relative))
        yield os.path.join(root, relative), name


def _find(root: str, run_id: str) -> str:
    for job_dir in _job_dirs(root):
        if os.path.isdir(os.path.join(job_dir, run_id)):
            return os.path.relpath(os.path.join(job_dir, run_id), root)
    return ""


def _scan(root: str) -> Iterator[Tuple[str, str]]:
    """(status_dir, run id) of the newest attempt of every job."""
    for job_dir in _job_dirs(root):
        newest = _newest(job_dir)
        if newest:
            yield os.path.join(job_dir, newest), newest


def _newest(job_dir: str) -> Optional[str]:
    try:
        run_id = claim.read_fence(job_dir).get("run_id")
        if run_id and os.path.isdir(os.path.join(job_dir, run_id)):
            return str(run_id)
    except ValueError:
        pass
    best: Tuple[int, Optional[str]] = (-1, None)
    for name in _directories(job_dir):
        path = os.path.join(job_dir, name, contract.CLAIM)
        try:
            attempt = int(status.read_json(path).get("attempt", 0))
        except FileNotFoundError:
            continue
        best = max(best, (attempt, name), key=lambda pair: pair[0])
    return best[1]


def _job_dirs(root: str) -> Iterator[str]:
    for project in _directories(root):
        for group in _directories(os.path.join(root, project)):
            base = os.path.join(root, project, group)
            for name in _directories(base):
                yield os.path.join(base, name)


def _directories(path: str) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []


def _optional(path: str) -> Optional[Dict[str, Any]]:
    try:
        return status.read_json(path)
    except (FileNotFoundError, ValueError):
        return None  # progress is written by the job's own code: nonsense there proves nothing about the run


def _strays(status_dir: str, node: Node) -> List[int]:
    """Processes that carry the mark of a run whose directory is gone."""
    from runtime import process  # noqa: PLC0415

    needle = b"\0RECONCILER_STATUS_DIR=" + status_dir.encode() + b"\0"
    return [pid for pid in node.table() if needle in b"\0" + process.environment_of(pid) + b"\0"]


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1

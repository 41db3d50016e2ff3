"""From bytes on standard input to checked documents: the one place where the node doubts what it is told."""

from __future__ import annotations

import json
import os

from runtime.contract import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator

    from runtime.contract import Run

# Field -> (type, default). A field without default is required.
NEEDED: Any = object()
FIELDS: Dict[str, Any] = {
    "run_id": (str, NEEDED),
    "token": (str, NEEDED),
    "job": (dict, NEEDED),
    "attempt": (int, NEEDED),
    "digest": (str, ""),
    "generation": (int, 1),
    "status_root": (str, NEEDED),
    "status_dir": (str, NEEDED),
    "work_dir": (str, NEEDED),
    "checkpoint_dir": (str, NEEDED),
    "results_dir": (str, NEEDED),
    "tree": ((dict, type(None)), None),
    "stages": (list, NEEDED),
    "job_key": ((str, type(None)), None),
    "config": (dict, {}),
    "env": (dict, {}),
    "secrets": (dict, {}),
    "setup": (list, []),
    "modules": (list, []),
    "python": ((dict, type(None)), None),
    "gpus": ((list, type(None)), None),
    "hardware": (dict, {}),
    "grace_s": ((int, float), 30),
    "heartbeat_s": ((int, float), 30),
    "log_bytes_max": (int, 268435456),
    "log_files": (int, 3),
    "keep_work": (bool, False),
    "limit_s": ((int, float, type(None)), None),
    "source": (dict, {"commit": None, "dirty": False}),
    "claim": (dict, {}),
    "owners": (list, []),
    "queue": ((dict, type(None)), None),
}
PATHS = ("status_root", "status_dir", "work_dir", "checkpoint_dir", "results_dir")
HEARTBEAT_S_MIN = 0.05


def read_document(data: bytes) -> Dict[str, Any]:
    """The document of a verb. Raises ValueError for anything that is not one of version 1."""
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("version") != 1:
        raise ValueError('expected a JSON object with "version": 1 on standard input')
    # Looking for the two kinds of text that no program can be given costs more than all else here; most documents
    # hold no escape that could make them.
    document["doubtful"] = b"\\u0000" in data or b"\\ud" in data.lower()
    return document


def check_run(given: Any, *, doubtful: bool = True) -> Run:
    """The run with its defaults filled in. Raises Refused naming the field that is wrong.

    `doubtful`: its text may hold NUL or lone surrogates (`read_document`).
    """
    if not isinstance(given, dict):
        raise Refused("other", "a run is a JSON object")
    run: Any = {}
    for name, (kind, default) in FIELDS.items():
        value = given.get(name, default)
        if value is NEEDED:
            raise Refused("other", "the run has no %s" % name)
        if not isinstance(value, kind):
            raise Refused("other", "%s is of type %s" % (name, type(value).__name__))
        run[name] = value
    for name in PATHS:
        path = run[name] + "/"
        if path[0] != "/" or "//" in path or "/./" in path or "/../" in path:
            raise Refused("other", "%s is not an absolute, plain path: %r" % (name, run[name]))
    if os.path.basename(run["status_dir"]) != run["run_id"] or run["run_id"] in (".", ".."):
        raise Refused("other", "status_dir does not end in the run id")
    if not run["status_dir"].startswith(run["status_root"] + "/") or run["work_dir"].count("/") < 2:
        raise Refused("other", "status_dir is not below status_root, or work_dir is a top-level directory")
    if not run["stages"] and not run["job_key"]:
        raise Refused("other", "the run has nothing to run: no stages and no job_key")
    run["heartbeat_s"] = max(run["heartbeat_s"], HEARTBEAT_S_MIN)
    _check_parts(run)
    if doubtful:
        for text in _texts(run):
            _check_text(text)
    return run  # type: ignore[no-any-return]


def _check_parts(run: Any) -> None:
    for part in ("project", "group", "name"):
        if not isinstance(run["job"].get(part), str):
            raise Refused("other", "job has no %s" % part)
    if not _are_texts(run["job"].values()):
        raise Refused("other", "job names project, group and name, as text")
    for stage in run["stages"]:
        stage = stage if isinstance(stage, dict) else {}  # noqa: PLW2901
        argv = stage.get("argv")
        if not (_are_texts(argv) and argv and argv[0]) and not _are_texts([stage.get("shell")]):
            raise Refused("other", "a stage needs argv, with a program, or shell")
    for values in (run["env"], run["secrets"]):
        if not _are_texts(values.values()) or not all(name and "=" not in name for name in values):
            raise Refused("other", "env and secrets map names without '=' to text")
    for name in ("setup", "modules", "gpus"):
        if not _are_texts(run[name] or ()):
            raise Refused("other", "%s is not a list of text" % name)
    tree = run["tree"]
    if tree and not isinstance(tree.get("directory"), str) and not _are_texts([tree.get("object"), tree.get("sha256")]):
        raise Refused("other", "tree needs object and sha256, or directory")


def _are_texts(values: Any) -> bool:
    if values is None:
        return False
    for value in values:  # noqa: SIM110 - all() with a generator takes twice as long, and this runs per value
        if not isinstance(value, str):
            return False
    return True


def _texts(run: Any) -> Iterator[str]:
    for name in (*PATHS, "run_id", "token", "digest"):
        yield run[name]
    for stage in run["stages"]:
        yield from stage.get("argv") or [stage["shell"]]
    for values in (run["env"], run["secrets"]):
        yield from values
        yield from values.values()
    yield from run["setup"]
    yield from run["modules"]
    yield from run["gpus"] or ()
    yield from run["job"].values()
    yield run["job_key"] or ""


def _check_text(text: str) -> None:
    """No operating system passes NUL to a program, and UTF-8 holds no lone surrogate: say so instead of altering it."""
    if "\0" in text:
        raise Refused("other", "a NUL character cannot be handed to a program")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("other", "text with a lone surrogate cannot be handed to a program") from None

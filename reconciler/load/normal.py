"""A document that the schema takes -> the normalised document, and from that the typed `JobSpec`.

Normalising fills in defaults, turns durations into seconds and memory into bytes, and gives each thing one spelling
(`command` and `stages` both become `stages`). What the schema cannot say (two fields that contradict each other) is
found here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from reconciler.core.fields import DEFAULTS, PYTHON_DEFAULTS
from reconciler.core.job import (
    Backoff,
    Checkpoint,
    JobSpec,
    Json,
    Python,
    Request,
    Restart,
    SecretRef,
    SlurmOverrides,
    Source,
    Stage,
    TpuOverrides,
    VolcanoOverrides,
)
from reconciler.core.names import JobKey
from reconciler.core.quantity import bytes_of, seconds
from reconciler.load.directives import refusal_of
from reconciler.load.tpu import wrong_with_overrides
from reconciler.load.words import dotted

# (path, message) of one thing wrong.
Wrong = tuple[tuple[str | int, ...], str]

# Plain JSON below this point: the schema has vouched for its shape.
_Doc = dict[str, Any]
_DEFAULTS = cast(_Doc, DEFAULTS)
# Of a path, with the NUL at its end, and of one name in it: limits.h of Linux.
_PATH_BYTES, _NAME_BYTES = 4096, 255
_BUDGETS = ("preemption", "infrastructure", "failure", "timeout", "out_of_memory", "cancelled", "same_failure")


def normalise(document: Mapping[str, Any], wrong: list[Wrong]) -> tuple[JobKey, _Doc]:
    """The job's key and its normalised document; of a sweep, those that its members are made from. What contradicts itself
    is appended to `wrong`."""
    metadata: _Doc = document["metadata"]
    given: _Doc = document["spec"]
    key = JobKey(metadata.get("project", "general"), metadata.get("group", "default"), metadata["name"])
    # The defaults are shared, never changed: every value that differs is a new object.
    spec: _Doc = dict(_DEFAULTS)
    for name, value in given.items():
        make = _MAKERS.get(name)
        if make is None:
            if name not in ("command", "sweep"):
                spec[name] = value
        else:
            try:
                spec[name] = make(value)
            except ValueError as error:
                wrong.append((("spec", name), f"spec.{name}: {error}"))
    if "command" in given:
        spec["stages"] = [_stage(given["command"])]
    depends_on = given.get("depends_on")
    if depends_on:
        spec["depends_on"] = _dependencies(key, depends_on, wrong)
    _contradictions(spec, wrong)
    return key, {
        "metadata": {
            "project": key.project,
            "group": key.group,
            "name": key.name,
            "labels": metadata.get("labels", {}),
        },
        "spec": spec,
    }


def _stage(command: Any) -> _Doc:
    if isinstance(command, dict):
        command = command["command"]
    return {"shell": command} if isinstance(command, str) else {"argv": command}


def _filled(name: str, value: _Doc) -> _Doc:
    filled: _Doc = _DEFAULTS[name] | value
    return filled


def _source(value: _Doc | None) -> _Doc | None:
    return None if value is None else _filled("source", value)


def _request(value: _Doc) -> _Doc:
    request = _filled("request", value)
    if request["time"] is not None:
        request["time"] = seconds(_int_or_text(request["time"]))
    if request["mem"] is not None:
        request["mem"] = bytes_of(_int_or_text(request["mem"]))
    chip = request["chip"]
    if chip == "cpu":
        if value.get("min_chips"):
            raise ValueError("chip cpu has no chips to count: write min_chips: 0, and no chip")
        chip = None
    elif chip is not None and "min_chips" not in value:
        request["min_chips"] = 1
    request["min_chips"] = int(request["min_chips"])
    request["n_shards"] = int(request["n_shards"])
    # 0 chips is CPU mode, whatever chip is named (theseus: n_chips == 0 clears the chip).
    request["chip"] = chip if request["min_chips"] else None
    return request


def _int_or_text(value: Any) -> int | str:
    return value if isinstance(value, str) else int(value)


def _restart(value: _Doc) -> _Doc:
    restart = _filled("restart", value)
    for name in _BUDGETS:
        budget = restart[name]
        restart[name] = None if budget is None or budget == "unlimited" else int(budget)
    backoff = _DEFAULTS["restart"]["backoff"] | restart["backoff"]
    restart["backoff"] = {name: seconds(_int_or_text(wait)) for name, wait in backoff.items()}
    if restart["backoff"]["initial"] > restart["backoff"]["max"]:
        raise ValueError("backoff.initial is longer than backoff.max")
    return restart


def _slurm(value: _Doc) -> _Doc:
    """Only what is set: a default that is written out is the same as silence."""
    given = {name: item for name, item in value.items() if item not in (None, False, [])}
    for name in ("cpus_per_node", "nodes"):
        if name in given:
            given[name] = int(given[name])
    if "warn" in given:
        given["warn"] = seconds(_int_or_text(given["warn"]))
    return given


def _tpu(value: _Doc) -> _Doc:
    """Only what is set. `false` is: it takes back what the host says."""
    given = {name: item for name, item in value.items() if item not in (None, [], {})}
    for name in ("keep_for", "ttl"):
        if name in given:
            given[name] = seconds(_int_or_text(given[name]))
    return given


def _volcano(value: _Doc) -> _Doc:
    """Only what is set; quantities as text, however they were written."""
    given = {name: item for name, item in value.items() if item not in (None, {})}
    return given | {name: str(given[name]) for name in _QUANTITIES if name in given}


_QUANTITIES = ("cpu", "memory", "shm_size")
_MAKERS: dict[str, Any] = {
    "generation": int,
    "priority": int,
    "stages": lambda value: [_stage(item) for item in value],
    "source": _source,
    "request": _request,
    "python": lambda value: None if value is None else PYTHON_DEFAULTS | value,
    "checkpoint": lambda value: _filled("checkpoint", value),
    "restart": _restart,
    "ttl": lambda value: None if value is None else seconds(_int_or_text(value)),
    "grace": lambda value: seconds(_int_or_text(value)),
    "slurm": _slurm,
    "tpu": _tpu,
    "volcano": _volcano,
}


def _dependencies(key: JobKey, texts: list[str], wrong: list[Wrong]) -> list[str]:
    """Full keys of the jobs named; a short form means this job's own project and group."""
    full: list[str] = []
    for index, text in enumerate(texts):
        missing = 2 - text.count("/")
        parts = (key.project, key.group)[:missing] if missing > 0 else ()
        path = ("spec", "depends_on", index)
        try:
            other = JobKey.parse("/".join((*parts, text)))
        except ValueError as error:
            wrong.append((path, f"spec.depends_on[{index}]: {error}"))
            continue
        if other == key:
            wrong.append((path, f"spec.depends_on[{index}]: {other} would wait for itself"))
        full.append(str(other))
    return full


def _contradictions(spec: _Doc, wrong: list[Wrong]) -> None:
    both = spec["env"].keys() & spec["secrets"].keys() if spec["secrets"] else ()
    wrong.extend(
        (("spec", "secrets", name), f"spec.secrets: {name} is also in spec.env: keep one of them")
        for name in sorted(both)
    )
    request = spec["request"]
    if request["exclude_clusters"]:
        wrong.extend(
            (("spec", "request", "exclude_clusters"), f"spec.request: cluster {name} is both asked for and excluded")
            for name in sorted(set(request["clusters"]) & set(request["exclude_clusters"]))
        )
    if spec["slurm"]:
        _contradictions_of_slurm(spec["slurm"], request, wrong)
    if spec["tpu"]:
        wrong.extend(
            (("spec", "tpu", *path), f"{dotted(('spec', 'tpu', *path))}: {message}")
            for path, message in wrong_with_overrides(spec["tpu"])
        )
    source = spec["source"]
    if source is not None and source is not _DEFAULTS["source"]:
        _contradictions_of_source(source, wrong)


def _contradictions_of_slurm(slurm: _Doc, request: _Doc, wrong: list[Wrong]) -> None:
    path = ("spec", "slurm")
    for index, text in enumerate(slurm.get("directives", ())):
        owned = refusal_of(text, host=False)
        if owned:
            wrong.append(((*path, "directives", index), f"spec.slurm.directives[{index}]: {owned}"))
    if "warn" in slurm and request["time"] is not None and slurm["warn"] >= request["time"]:
        wrong.append(((*path, "warn"), "spec.slurm.warn: the warning would come before the run has started"))
    wrong.extend(
        ((*path, "nodelist"), f"spec.slurm: node {name} is both asked for and excluded")
        for name in slurm.get("nodelist", ())
        if name in slurm.get("exclude", ())
    )


def _contradictions_of_source(source: _Doc, wrong: list[Wrong]) -> None:
    path = ("spec", "source")
    if source["mode"] == "files" and not source["files"]:
        wrong.append(((*path, "mode"), "spec.source: mode files needs the paths: write files: [train.py]"))
    if source["files"] and source["mode"] != "files":
        wrong.append(((*path, "files"), "spec.source: files is only read with mode: files"))
    if source["dirty"] and source["ref"] != "HEAD":
        wrong.append(
            ((*path, "dirty"), "spec.source: dirty ships the working tree, so a ref other than HEAD cannot be kept")
        )
    refusal = _refusal_of_ref(source["ref"])
    if refusal:
        wrong.append(((*path, "ref"), f"spec.source.ref: {refusal}"))
    texts: dict[tuple[str | int, ...], str] = {
        ("repo",): source["repo"],
    }
    texts.update({("files", index): file for index, file in enumerate(source["files"])})
    wrong.extend(
        (
            (*path, *where),
            f"spec.{dotted(('source', *where))}: no path of any system is like that (too long, or with a NUL)",
        )
        for where, text in texts.items()
        if _is_no_path(text)
    )
    wrong.extend(
        ((*path, "files", index), f"spec.source.files[{index}]: '**' stands for directories: write it between slashes")
        for index, file in enumerate(source["files"])
        if any("**" in part and part != "**" for part in file.split("/"))
    )
    for index, file in enumerate(source["files"]):
        if file.startswith("/") or ".." in file.split("/"):
            wrong.append(
                (
                    (*path, "files", index),
                    f"spec.source.files[{index}]: {file!r} leaves the repository: expected a path inside it",
                )
            )


def _refusal_of_ref(ref: str) -> str:
    """Why a ref may not be shipped; "" when it may. What is in branches is meant to be seen; what was put aside is not."""
    if ref.startswith("-"):
        return "a ref cannot start with '-'"
    if "@{" in ref or ref.startswith(":"):
        return "expected a branch, a tag or a commit: what refs were before, and searches, cannot be shipped"
    name = "/".join(filter(None, re.split(r"[~^:]", ref)[0].casefold().split("/")))
    if name == "stash" or name.endswith("refs/stash"):
        return "what is stashed cannot be shipped (a branch of that name is refs/heads/stash)"
    return ""


def _is_no_path(text: str) -> bool:
    data = text.encode("utf-8", "surrogatepass")
    return len(data) >= _PATH_BYTES or b"\0" in data or any(len(part) > _NAME_BYTES for part in data.split(b"/"))


# ---- types -------------------------------------------------------------------------------------------------


def decode(normal: Mapping[str, Json]) -> JobSpec:
    """The typed job of a normalised document made by `normalise`."""
    metadata, spec = cast(_Doc, normal["metadata"]), cast(_Doc, normal["spec"])
    source, request, python = spec["source"], spec["request"], spec["python"]
    restart = _DEFAULTS["restart"] | spec["restart"]  # a journal may hold one of an older version
    return JobSpec(
        key=JobKey(metadata["project"], metadata["group"], metadata["name"]),
        labels=metadata["labels"],
        generation=spec["generation"],
        stages=tuple(
            Stage(tuple(stage["argv"]) if "argv" in stage else None, stage.get("shell")) for stage in spec["stages"]
        ),
        job_key=spec["job"],
        config=spec["config"],
        source=None if source is None else Source(**(source | {"files": tuple(source["files"])})),
        request=Request(
            chip=request["chip"],
            min_chips=request["min_chips"],
            n_shards=request["n_shards"],
            clusters=tuple(request["clusters"]),
            exclude_clusters=tuple(request["exclude_clusters"]),
            hosts=tuple(request["hosts"]),
            time_s=request["time"],
            mem_bytes=request["mem"],
        ),
        env=spec["env"],
        secrets={name: secret_ref(reference) for name, reference in spec["secrets"].items()},
        python=None if python is None else Python(tuple(python["groups"]), python["version"]),
        setup=tuple(spec["setup"]),
        modules=tuple(spec["modules"]),
        checkpoint=Checkpoint(**spec["checkpoint"]),
        restart=Restart(
            **{name: restart[name] for name in _BUDGETS},
            owner=restart["owner"],
            backoff=Backoff(float(restart["backoff"]["initial"]), float(restart["backoff"]["max"])),
        ),
        on_change=spec["on_change"],
        suspend=spec["suspend"],
        deletion=spec["deletion"],
        priority=spec["priority"],
        depends_on=tuple(JobKey(*text.split("/")) for text in spec["depends_on"]),
        ttl_s=spec["ttl"],
        grace_s=float(spec["grace"]),
        slurm=_overrides(spec["slurm"]),
        tpu=_tpu_overrides(spec["tpu"]),
        volcano=_volcano_overrides(spec["volcano"]),
        normal=normal,
    )


_SLURM_WORDS = ("partition", "account", "qos", "constraint", "cpus_per_node", "mem", "nodes")
_SLURM_LISTS = ("exclude", "nodelist", "directives")


def _overrides(slurm: _Doc) -> SlurmOverrides:
    fields: _Doc = {name: slurm.get(name) for name in _SLURM_WORDS}
    fields |= {name: tuple(slurm.get(name, ())) for name in _SLURM_LISTS}
    return SlurmOverrides(**fields, exclusive=slurm.get("exclusive", False), warn_s=slurm.get("warn"))


_TPU_WORDS = ("version", "spot", "preemptible", "delete_on_exit")


def _tpu_overrides(tpu: _Doc) -> TpuOverrides:
    """A journal may hold one of an older version, which passed on whatever was written."""
    keep_for, ttl = tpu.get("keep_for"), tpu.get("ttl")
    return TpuOverrides(
        **{name: tpu.get(name) for name in _TPU_WORDS},
        zones=tuple(tpu.get("zones", ())),
        keep_for_s=None if keep_for is None else float(keep_for),
        ttl_s=None if ttl is None else float(ttl),
        metadata=tpu.get("metadata", {}),
        labels=tpu.get("labels", {}),
    )


_VOLCANO_WORDS = ("image", "namespace", "queue", "priority_class", "service_account", "nodes", *_QUANTITIES)


def _volcano_overrides(volcano: _Doc) -> VolcanoOverrides:
    """A journal may hold one of an older version, which passed on whatever was written."""
    return VolcanoOverrides(
        **{name: volcano.get(name) for name in _VOLCANO_WORDS},
        node_selector=volcano.get("node_selector", {}),
        labels=volcano.get("labels", {}),
        annotations=volcano.get("annotations", {}),
    )


def secret_ref(reference: Mapping[str, Any]) -> SecretRef:
    """The reference of `{env: X}`, `{file: X}`, `{command: [..]}` or `{kubernetes: {name, key}}`."""
    ((kind, target),) = reference.items()
    if kind == "command":
        return SecretRef("command", tuple(target))
    if kind == "kubernetes":
        return SecretRef("kubernetes", (target["name"], target["key"]))
    return SecretRef("env" if kind == "env" else "file", target)

"""The end of a run's output, where a job is given up and its record does not hold it: whoever reads in the morning why a job
stalled should not have to ask a host that may be gone by then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.app.lanes import Lanes
from reconciler.app.ports import Ports
from reconciler.core.errors import ReconcilerError
from reconciler.core.memory import Ended, Line, Memory
from reconciler.core.names import JobKey
from reconciler.core.protocols import Known, LogCursor
from reconciler.core.run import Run

# What is read, and what is kept of it: a journal line is no log.
_BYTES_MAX = 4096
_LINES_MAX = 10
_CHARS_MAX = 1500

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# How many outputs one pass reads: if more jobs stall at once, the same is wrong with all of them.
_READ_MAX = 20


def with_excerpts(
    lines: Iterable[tuple[JobKey, Line]],
    memories: Mapping[JobKey, Memory],
    ports: Ports,
    lanes: Lanes,
    *,
    tick: Callable[[], None],
) -> list[tuple[JobKey, Line]]:
    """The lines, with the last of its output in each that gives a job up as stalled and does not hold it yet.

    Best effort: an output that cannot be read, for whatever reason a host has, is left out, and so is one that may show a secret
    whose value cannot be had now. One call per host, each on its lane; `tick` is called meanwhile.
    """
    kept = list(lines)
    wanted: dict[str, list[tuple[int, Known]]] = {}
    for index, (job, line) in enumerate(kept):
        run = memories[job].run if job in memories else None
        if isinstance(line, Ended) and line.series is not None and line.series.stalled and "\n" not in line.message:
            known = Known(run, memories[job].handle) if run is not None and run.run_id == line.run_id else None
            if known is not None and sum(map(len, wanted.values())) < _READ_MAX:
                wanted.setdefault(known.run.host, []).append((index, known))
    if not wanted:
        return kept
    calls = {host: _reading(ports, host, [known for _, known in items]) for host, items in wanted.items()}
    for host, texts in lanes.each(calls, tick=tick):
        if isinstance(texts, ReconcilerError):
            continue
        for (index, _), text in zip(wanted[host], texts, strict=True):
            job, line = kept[index]
            assert isinstance(line, Ended)
            if text:
                kept[index] = job, replace(line, message=f"{line.message}\nThe last lines of its output:\n{text}")
    return kept


def _reading(ports: Ports, host: str, wanted: Sequence[Known]) -> Callable[[], list[str]]:
    def call() -> list[str]:
        backend = ports.backends(host)
        texts = [""] * len(wanted)
        for index, known in enumerate(wanted):
            try:
                chunk = backend.logs(known, LogCursor(-_BYTES_MAX, _BYTES_MAX))
            except ReconcilerError:
                break  # a host that does not answer now is not waited for once per job
            data = chunk.data.partition(b"\n")[2] if chunk.start > 0 else chunk.data  # no half of a secret
            texts[index] = _plain(_without_secrets(ports, known.run, data.decode(errors="replace")))
        return texts

    return call


def _without_secrets(ports: Ports, run: Run, text: str) -> str:
    """As the record of a run is masked on its node (runtime/record.py); "" where not all of its secrets are known here."""
    try:
        spec = ports.decode(run.normal)
        known = ports.secrets(spec, run.host)
    except (ReconcilerError, KeyError, TypeError, ValueError, AttributeError):
        return ""
    if not spec.secrets.keys() <= known.keys():
        return ""  # those that the cluster keeps itself
    for value in sorted((secret.reveal() for secret in known.values()), key=len, reverse=True):
        # Only its end may have been read, and lines are stripped: of a value of several lines each is taken out.
        for part in filter(None, (value, *(line.strip() for line in value.splitlines()))):
            text = text.replace(part, "***")
    return text


def _plain(text: str) -> str:
    """Its last lines as plain text: what a terminal would obey is no part of a message."""
    text = _COLOUR.sub("", text).replace("\r", "\n")
    shown = "".join(char for char in text if char == "\n" or char.isprintable())
    lines = [line.rstrip() for line in shown.split("\n") if line.strip()]
    return "\n".join(lines[-_LINES_MAX:])[-_CHARS_MAX:]

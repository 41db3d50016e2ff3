"""Answers of a real Slurm 22.05 to the dialect's own commands (records/slurm-22.05/record.py), and hand-made ones."""

from __future__ import annotations

import json
from pathlib import Path

from reconciler.backends.dialect import Answer
from reconciler.backends.slurm_answers import BEGIN, END, FIELD, HISTORY_HEADER, QUEUE_HEADER, WHOLE
from reconciler.core.queue import QueueJob

RECORDS = Path(__file__).parent.parent / "records" / "slurm-22.05"
ANSWERS: dict[str, dict[str, object]] = json.loads((RECORDS / "answers.json").read_text(encoding="utf-8"))


def recorded(name: str) -> Answer:
    return Answer(**ANSWERS[name])  # type: ignore[arg-type]


def queue_row(
    ident: str = "7",
    *,
    base: str = "",
    index: str = "N/A",
    word: str = "PENDING",
    reason: str = "None",
    start: str = "N/A",
    name: str = "run",
    mark: str = "(null)",
) -> str:
    """Hand-made: one record as squeue writes it."""
    base = base or ident.partition("_")[0]
    fields = (ident, base, index, word, reason, start, "2026-11-26T06:52:47", "", "gpu", "1:00:00", name, mark)
    return BEGIN + FIELD.join(fields) + END + "\n"


def queue_answer(*rows: str, returncode: int | None = 0, stderr: str = "") -> Answer:
    return Answer(returncode, "".join((QUEUE_HEADER + "\n", *rows, WHOLE + "\n")), stderr)


def history_row(
    ident: str = "7",
    *,
    word: str = "COMPLETED",
    code: str = "0:0",
    submit: str = "2026-11-26T06:52:47",
    name: str = "run",
    partition: str = "gpu",
) -> str:
    """Hand-made: one row as sacct writes it."""
    return FIELD.join(
        (ident, word, code, submit, "Unknown", "Unknown", "None assigned", partition, "None", name, "", "\n")
    )


def history_answer(*rows: str) -> Answer:
    return Answer(0, "".join((HISTORY_HEADER + FIELD + "\n", *rows, WHOLE + "\n")), "")


def by_name(jobs: tuple[QueueJob, ...]) -> dict[str, QueueJob]:
    return {job.name: job for job in jobs}


def by_ident(jobs: tuple[QueueJob, ...]) -> dict[str, QueueJob]:
    return {job.ident: job for job in jobs}

"""What squeue and sacct list, as typed values. Pure; whatever is not provably whole raises Unparsable.

Sources: squeue(1) `-o`, sacct(1) `-p` and "JOB ACCOUNTING FIELDS"; tried on 22.05. A name or a comment may hold blanks, line
breaks and any other character, so the fields are divided by control characters and those two stand last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reconciler.backends import slurm_states
from reconciler.backends.dialect import Answer
from reconciler.core.errors import Unparsable
from reconciler.core.queue import QueueJob, QueueState

FIELD, BEGIN, END = "\x1f", "\x1e", "\x1d"

# Code, and what the header calls it. All are there from 20.11 to today.
_QUEUE = (
    ("%i", "JOBID"), ("%F", "ARRAY_JOB_ID"), ("%K", "ARRAY_TASK_ID"), ("%T", "STATE"), ("%r", "REASON"),
    ("%S", "START_TIME"), ("%V", "SUBMIT_TIME"), ("%N", "NODELIST"), ("%P", "PARTITION"), ("%l", "TIME_LIMIT"),
    ("%j", "NAME"), ("%k", "COMMENT"),
)  # fmt: skip
QUEUE_FORMAT = BEGIN + FIELD.join(code for code, _ in _QUEUE) + END
QUEUE_HEADER = BEGIN + FIELD.join(title for _, title in _QUEUE) + END

_HISTORY = (
    "JobID",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "NodeList",
    "Partition",
    "Reason",
    "JobName",
    "Comment",
)
HISTORY_FORMAT = ",".join(_HISTORY)
HISTORY_HEADER = FIELD.join(_HISTORY)

_NO_HISTORY = "accounting storage is disabled"
WHOLE = "reconciler: whole"
"""The line that ends a listing whose command exited with 0."""

_NOTHING = frozenset({"", "N/A", "(null)", "Unknown", "None", "NONE", "None assigned", "n/a"})
_IDENT = re.compile(r"(\d+)(?:_(\d+|\[[\d,:%-]+\]))?(?:\+\d+)?\Z")
_EXIT = re.compile(r"(\d+):(\d+)\Z")
_SPAN = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z")
_MEMBERS_MAX = 4_000_001


def text_of(answer: Answer, tool: str) -> str:
    """The text of a listing, without its last line. Raises Unparsable, in Slurm's words, unless it is whole."""
    words = answer.stderr.strip()[:500]
    if answer.returncode is None:
        raise Unparsable(f"{tool} did not answer in time: {words or 'it was silent'}")
    if answer.returncode != 0:
        raise Unparsable(f"{tool} failed with exit code {answer.returncode}: {words or answer.stdout.strip()[:500]}")
    if re.search(r"(?m)^\S+ (?:error|fatal):", words):
        raise Unparsable(f"{tool} exited with 0 and an error: {words}")
    text, whole, rest = answer.stdout.removesuffix("\n").rpartition(WHOLE)
    if not whole or rest or (text and not text.endswith("\n")):
        raise Unparsable(f"{tool}'s answer is cut off after {len(answer.stdout)} characters: {answer.stdout[-80:]!r}")
    return text


def queue_from(answer: Answer) -> tuple[QueueJob, ...]:
    """Every job in the answer of `squeue -o QUEUE_FORMAT`."""
    text = text_of(answer, "squeue")
    header, *records = re.split(f"{END}\n(?={BEGIN}|\\Z)", text)
    if header + END != QUEUE_HEADER:
        raise Unparsable(f"squeue's answer does not begin with its header: {header[:200]!r}")
    if records.pop() if records else True:
        raise Unparsable(f"squeue's last record is cut off: {text[-120:]!r}")
    jobs: list[QueueJob] = []
    for record in records:
        fields = record.removeprefix(BEGIN).split(FIELD)
        if not record.startswith(BEGIN) or len(fields) < len(_QUEUE):
            raise Unparsable(f"squeue's record cannot be read: {record[:200]!r}")
        ident, base, index, word, reason, start, submit, nodes, partition, _, *texts = fields
        name, mark = _texts(texts)
        for member, at in _members(ident, base, index, "squeue"):
            jobs.append(_job(member, base, at, name, mark, word, None, reason, start, submit, nodes, partition))
    return tuple(jobs)


def history_from(answer: Answer) -> tuple[QueueJob, ...] | None:
    """The newest record of each job in the answer of `sacct -X -p -D -o HISTORY_FORMAT`.

    A requeued job has one row per run. An id that was given out twice (the controller lost its state) is two jobs, told
    apart by name. A row that the daemon wrote before it knew the job is named "allocation", with no submit time: it counts
    only where nothing else is known. None: this cluster keeps no history.
    """
    if answer.returncode and _NO_HISTORY in answer.stderr + answer.stdout:
        return None
    text = text_of(answer, "sacct")
    rows = text.split(FIELD + "\n")
    if rows.pop() or not rows or rows[0] != HISTORY_HEADER:
        raise Unparsable(f"sacct's answer does not begin with its header, or its last row is cut off: {text[-120:]!r}")
    newest: dict[tuple[str, str], QueueJob] = {}
    rest: dict[tuple[str, str], QueueJob] = {}
    for row in rows[1:]:
        fields = row.split(FIELD)
        if len(fields) < len(_HISTORY):
            raise Unparsable(f"sacct's row cannot be read: {row[:200]!r}")
        ident, word, code, submit, start, _, nodes, partition, reason, *texts = fields
        name, mark = _texts(texts)
        if name == "allocation" and submit in _NOTHING:
            name = ""
        if _EXIT.match(code) is None:
            raise Unparsable(f"sacct's row has the exit code {code!r}: {row[:200]!r}")
        base = ident.partition("_")[0]
        for member, at in _members(ident, base, "", "sacct"):
            # The row of an array's waiting rest goes on naming members that have rows of their own by now.
            known = newest if member == ident else rest
            job = _job(member, base, at, name, mark, word, code, reason, start, submit, nodes, partition)
            before = known.get((member, name))
            if before is None or not job.submitted_at or job.submitted_at >= before.submitted_at:
                known[member, name] = job
    newest = rest | newest
    named = {ident for ident, name in newest if name}
    return tuple(job for (ident, name), job in newest.items() if name or ident not in named)


def _texts(texts: Sequence[str]) -> tuple[str, str]:
    """Name and comment. Where one of them holds our separator, which none of ours does, the name is all of it."""
    if len(texts) != 2:
        return FIELD.join(texts), ""
    name, mark = texts
    return name, "" if mark == "(null)" else mark


def _members(ident: str, base: str, index: str, tool: str) -> Iterator[tuple[str, int | None]]:
    """Id and index of every job that a record is about: one, or the waiting rest of an array, `7_[2-5,9%2]`.

    An array base without an index (seen when the rest of an array is cancelled) stands for all members not listed.
    """
    matched = _IDENT.match(ident)
    # A component of a heterogeneous job, "7+1", has a number of its own beneath.
    if matched is None or (matched[1] != base and "+" not in ident):
        raise Unparsable(f"{tool} named a job {ident[:80]!r} (of {base[:80]!r})")
    member = matched[2]
    if member is None:
        if index not in _NOTHING:
            raise Unparsable(f"{tool} named a job {ident!r} with the index {index[:80]!r}")
        yield ident, None
    elif member.isdigit():
        yield ident, int(member)
    else:
        for at in _indexes(member[1:-1].partition("%")[0], tool):
            yield f"{base}_{at}", at


def _indexes(spans: str, tool: str) -> Iterator[int]:
    for span in spans.split(","):
        matched = _SPAN.match(span)
        if matched is None or int(matched[3] or 1) < 1 or int(matched[2] or 0) > _MEMBERS_MAX:
            raise Unparsable(f"{tool} named the members {spans[:80]!r} of an array")
        yield from range(int(matched[1]), int(matched[2] or matched[1]) + 1, int(matched[3] or 1))


def _job(
    ident: str,
    base: str,
    index: int | None,
    name: str,
    mark: str,
    word: str,
    code: str | None,
    reason: str,
    start: str,
    submit: str,
    nodes: str,
    partition: str,
) -> QueueJob:
    if not word or FIELD in word:
        raise Unparsable(f"job {ident} has no state")
    meaning = slurm_states.meaning(word)
    waits = meaning.state is QueueState.WAITING
    sentence, held = meaning.sentence, meaning.held
    if word == "PENDING":
        why = slurm_states.wait(reason)
        sentence, held = why.sentence, why.held
    elif word == "FAILED" and reason not in _NOTHING and reason != "NonZeroExitCode":
        sentence = f"{sentence} (Slurm says {reason!r})"
    exit_code = signal = None
    if meaning.state is QueueState.ENDED:
        if code is not None:
            exit_code, signal = (int(part) for part in code.split(":"))
        elif word == "COMPLETED":
            exit_code = signal = 0
    start = "" if start in _NOTHING else start
    return QueueJob(
        ident=ident,
        name=name,
        mark=mark,
        state=meaning.state,
        word=word,
        cause=meaning.cause,
        exit_code=exit_code,
        signal=signal,
        revivable=meaning.revivable,
        array=base if index is not None else "",
        index=index,
        partition=partition,
        nodes="" if nodes in _NOTHING else nodes,
        reason=reason if waits else "",
        sentence=sentence.replace("{id}", ident),
        held=held,
        starts_at=start if waits else "",
        started_at="" if waits else start,
        submitted_at="" if submit in _NOTHING else submit,
    )

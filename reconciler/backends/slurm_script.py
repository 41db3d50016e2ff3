"""The batch script of Slurm: directives that sbatch reads back unchanged, and the line that starts the run on every node.

Sources: sbatch(1), srun(1); how a directive is read is `_get_argument` in slurm's src/common/opt (sbatch), tried on 22.05:
blanks end a value, `#` begins a comment even in the middle of a word, quotes and backslashes vanish. So none of them may
stand in a value, and none is quoted here: a value goes out as it is, or not at all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from reconciler.backends.dialect import Order

SIGNAL_MAX_S = 65535
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

# Options that decide which job it is, how we find it again or whether it exists at all, and ones that make sbatch do
# something else than submit this script to this cluster. They are ours.
_OURS = {
    "job-name": "the name is how the job is found again",
    "comment": "the comment is how the job is known to be ours",
    "array": "arrays come from the manifest",
    "clusters": "every cluster is a host of its own in the inventory",
    "output": "the log has its fixed place",
    "error": "the log has its fixed place",
    "open-mode": "a second start would erase the log",
    "requeue": "who restarts a job is decided by spec.restart",
    "no-requeue": "who restarts a job is decided by spec.restart",
    "signal": "the warning before the time limit comes from the manifest",
    "wrap": "it replaces the script",
    "parsable": "it is always given",
    "wait": "sbatch would not return before the job's end",
    "test-only": "nothing would be submitted",
    "quiet": "Slurm's words are needed",
    "help": "nothing would be submitted",
    "usage": "nothing would be submitted",
    "version": "nothing would be submitted",
}
# Long options which merely begin with one of ours.
_NOT_OURS = frozenset({"wait-all-nodes", "wait-for-switch"})
_SHORT = {
    "J": "job-name", "a": "array", "M": "clusters", "o": "output", "e": "error", "W": "wait", "Q": "quiet", "h": "help",
    "V": "version",
}  # fmt: skip
# Short options without a value: sbatch reads what follows them in the same word as further options.
_BARE = "HIkOsvhQVW"
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=.*)?\Z|-([A-Za-z])(.*)\Z")
_TYPE = re.compile(r"[A-Za-z0-9_.-]+\Z")


def directive_text(what: str, value: str) -> str:
    """`value` as it may stand in a directive. Raises ValueError naming `what` and the character that sbatch would change."""
    if not value:
        raise ValueError(f"{what} is empty")
    for char in value:
        if char.isspace():
            raise ValueError(f"{what} {value!r} holds a blank, where sbatch would end it")
        if char in "\"'\\":
            raise ValueError(f"{what} {value!r} holds {char}, which sbatch would take away")
        if char == "#":
            raise ValueError(f"{what} {value!r} holds #, where sbatch would begin a comment")
        if not char.isprintable():
            raise ValueError(f"{what} {value!r} holds the character {char!r}, which is not printable")
    return value


def render(order: Order) -> str:
    """The whole script. Raises ValueError for text that cannot be put into a directive unchanged."""
    lines = ["#!/bin/sh", *(f"#SBATCH {words}" for words in _directives(order)), "", _body(order.body)]
    return "\n".join(lines) + "\n"


def step(order: Order, argv: Sequence[str]) -> str:
    """One task on each node of the job, all ended when one fails.

    `--export=ALL` holds even where the script was submitted with NONE; `--wait=0` over the site's WaitTime: nodes that are
    done may wait for the others. Since 22.05 srun does not inherit the job's `--cpus-per-task`; it inherits its gres.
    """
    words = [
        "srun",
        "--export=ALL",
        "--kill-on-bad-exit=1",
        "--wait=0",
        f"--nodes={order.nodes}",
        "--ntasks-per-node=1",
    ]
    if order.cpus_per_node is not None:
        words.append(f"--cpus-per-task={order.cpus_per_node}")
    return shlex.join([*words, *argv])


def duration(seconds: int) -> str:
    """Seconds as Slurm's D-HH:MM:SS. It counts in minutes and rounds up."""
    days, rest = divmod(seconds, _DAY)
    return f"{days}-{rest // _HOUR:02}:{rest % _HOUR // _MINUTE:02}:{rest % _MINUTE:02}"


def _directives(order: Order) -> Iterator[str]:
    if "," in order.name:
        raise ValueError(f"name {order.name!r} holds a comma, at which squeue --name would divide it")
    yield _option("job-name", "name", order.name)
    yield _option("comment", "mark", order.mark)
    if order.partition:
        yield _option("partition", "partition", order.partition)
    yield f"--nodes={_count('nodes', order.nodes)}"
    yield "--ntasks-per-node=1"
    if _count("gpus_per_node", order.gpus_per_node, least=0):
        if order.gpu_type and not _TYPE.match(order.gpu_type):
            raise ValueError(f"gpu_type {order.gpu_type!r} is no type of a gres")
        yield "--gres=" + ":".join(filter(None, ("gpu", order.gpu_type, str(order.gpus_per_node))))
    if order.cpus_per_node is not None:
        yield f"--cpus-per-task={_count('cpus_per_node', order.cpus_per_node)}"
    if order.memory is not None:
        yield _option("mem", "memory", order.memory)
    if order.unlimited:
        yield "--time=UNLIMITED"
    elif order.time_s is not None:
        yield f"--time={duration(_count('time_s', order.time_s))}"
    yield _option("output", "output", order.output)
    yield _option("error", "output", order.output)
    yield "--open-mode=append"
    yield "--requeue" if order.requeue else "--no-requeue"
    if order.warn_s is not None:
        # To the steps, not to this shell (no "B:"). Programs ignore URG unless they ask for it, and our runtime does.
        yield f"--signal=URG@{min(_count('warn_s', order.warn_s), SIGNAL_MAX_S)}"
    if order.array is not None:
        most = f"%{_count('array_parallel', order.array_parallel)}" if order.array_parallel is not None else ""
        yield f"--array=0-{_count('array', order.array) - 1}{most}"
    for option, value in (("account", order.account), ("qos", order.qos), ("constraint", order.constraint)):
        if value is not None:
            yield _option(option, option, value)
    for option, names in (("exclude", order.exclude), ("nodelist", order.nodelist)):
        if names:
            yield _option(option, option, ",".join(directive_text(option, name) for name in names))
    if order.exclusive:
        yield "--exclusive"
    for words in order.extra:
        yield _extra(words)


def _option(option: str, what: str, value: str) -> str:
    return f"--{option}={directive_text(what, value)}"


def _count(what: str, value: int, *, least: int = 1) -> int:
    if isinstance(value, bool) or value < least:
        raise ValueError(f"{what} is {value}, expected {least} or more")
    return value


def _extra(words: str) -> str:
    """A directive of the user's: one option, which is none of ours."""
    matched = _OPTION.match(directive_text("extra", words))
    if matched is None:
        raise ValueError(f"extra {words!r} is not one option: expected --option=value or -xVALUE")
    long, short, value = matched.groups()
    if short and short in _BARE and value:
        raise ValueError(f"extra {words!r} is more than one option: write each by itself")
    name = long or _SHORT.get(short, "")
    if name and name not in _NOT_OURS:
        # sbatch takes any beginning of a long option that is not ambiguous.
        ours = _OURS.get(name) or next((why for option, why in _OURS.items() if option.startswith(name)), None)
        if ours:
            raise ValueError(f"extra {words!r} cannot be given: {ours}")
    return words


def _body(body: str) -> str:
    """The shell lines, from which sbatch must take no directive: it reads comments up to the first command."""
    if "\0" in body or "\r\n" in body:
        raise ValueError("body holds a NUL or a DOS line break, which sbatch refuses")
    for line in body.split("\n"):
        if re.match(r"#(?:SBATCH|PBS|BSUB)", line):
            raise ValueError(f"body begins with {line!r}, which sbatch would take for a directive")
        if line.strip() and not line.lstrip().startswith("#"):
            break
    return body.rstrip("\n")

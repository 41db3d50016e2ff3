"""What `scontrol show node`, `show partition` and `show config` say, as typed values. Pure.

Sources: scontrol(1), sinfo(1) "NODE STATE CODES", slurm.conf(5), gres.conf(5). Slurm 23.11 writes `gres/gpu:...` where
older ones write `gpu:...`; states are words joined by "+", with the suffixes of sinfo on some releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from reconciler.core.errors import Unparsable
from reconciler.core.queue import QueueLimits, QueueNode, QueuePartition

HOSTS_MAX = 65536
"""As many names as Slurm itself puts into one list (MAX_RANGE)."""

_ACCEPTING = frozenset({"IDLE", "MIXED"})
# A node in power saving is woken by the job. Every other flag (DRAIN, NOT_RESPONDING, MAINTENANCE, RESERVED, COMPLETING,
# PLANNED for another job, POWERING_DOWN, REBOOT_..., and ones we do not know) keeps new work away.
_HARMLESS = frozenset(
    {"CLOUD", "DYNAMIC", "DYNAMIC_NORM", "POWERED_DOWN", "POWER_DOWN", "POWERING_UP", "POWER", "POWER_UP"}
)
_SUFFIX = {
    "*": "NOT_RESPONDING", "~": "POWERED_DOWN", "#": "POWERING_UP", "!": "POWER_DOWN_PENDING", "%": "POWERING_DOWN",
    "$": "MAINTENANCE", "@": "REBOOT_REQUESTED", "^": "REBOOT_ISSUED", "-": "PLANNED",
}  # fmt: skip
_STATE = re.compile(r"([A-Z_+]+)([*~#!%$@^-]*)\Z")

_GRES = re.compile(r"(?:gres/)?gpu(?::(?P<type>[^:=]+))??(?:[:=](?P<count>\d+))?\Z")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?\Z")
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?\Z")
_NO_LIMIT = frozenset({"UNLIMITED", "INFINITE", "NONE", "(null)", "N/A", ""})
# Free text, at the end of the line.
_PROSE = re.compile(r"\s(?:Reason|Comment|Extra)=")


def expand_hostlist(text: str) -> tuple[str, ...]:
    """The names that Slurm writes as `gh[01-03,07],ga01`, in order. Raises ValueError for what is no such list."""
    names: list[str] = []
    for item in _split(text):
        for name in _expand(item):
            names.append(name)
            if len(names) > HOSTS_MAX:
                raise ValueError(f"more than {HOSTS_MAX} names in {text[:120]!r}")
    return tuple(names)


def _split(text: str) -> Iterator[str]:
    """The items between commas that stand outside of brackets."""
    if not text:
        return
    depth, start = 0, 0
    for at, char in enumerate(text + ","):
        if char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
        if depth not in (0, 1):
            break
        if char == "," and depth == 0:
            if at == start:
                break
            yield text[start:at]
            start = at + 1
    else:
        if depth == 0:
            return
    raise ValueError(f"not a list of hosts: {text[:120]!r}")


def _expand(item: str) -> Iterator[str]:
    head, bracket, rest = item.partition("[")
    if not bracket:
        if not item or re.search(r"[\s\]()]", item):
            raise ValueError(f"not the name of a host: {item[:120]!r}")
        yield item
        return
    inside, _, tail = rest.partition("]")
    for part in inside.split(","):
        matched = _RANGE.match(part)
        if matched is None:
            raise ValueError(f"not a range: {part[:120]!r}")
        first, last = matched[1], matched[2] or matched[1]
        if int(last) < int(first) or int(last) - int(first) >= HOSTS_MAX:
            raise ValueError(f"not a range: {part[:120]!r}")
        # The first number's width is that of all: [08-10] is 08, 09, 10.
        for number in range(int(first), int(last) + 1):
            name = f"{head}{number:0{len(first)}}"
            if tail:
                yield from _expand(name + tail)
            else:
                yield name


def duration_s(text: str) -> int | None:
    """Seconds of `2-00:00:00`, `12:00:00`, `30:00` or `30` (minutes); None for no limit. Raises ValueError."""
    if text in _NO_LIMIT:
        return None
    matched = _DURATION.match(text)
    if matched is None:
        raise ValueError(f"not a time: {text[:60]!r}")
    days, *clock = matched.groups()
    fields = [int(part) for part in clock if part is not None]
    # With days, numbers begin with hours; without, "a" is minutes, "a:b" minutes and seconds.
    if days is not None or len(fields) == 3:
        hours, minutes, seconds = [*fields, 0, 0][:3]
    else:
        hours, minutes, seconds = 0, *[*fields, 0][:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def gpus_of(text: str) -> dict[str, int]:
    """Accelerators per type in a Gres, GresUsed or TRES text; "" is the type of those without one."""
    counts: dict[str, int] = {}
    # "(S:0-1)" and "(IDX:0,2-3)" hold commas of their own.
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        matched = _GRES.match(item.strip().replace(":no_consume", ""))
        if matched is not None:
            kind = matched["type"] or ""
            counts[kind] = counts.get(kind, 0) + int(matched["count"] or 1)
    return counts


def is_usable(state: str) -> bool:
    """True for a state in which a node takes new work now."""
    matched = _STATE.match(state)
    if matched is None:
        return False
    base, *flags = matched[1].split("+")
    flags += [_SUFFIX[char] for char in matched[2]]
    return base in _ACCEPTING and _HARMLESS.issuperset(flags)


def nodes_from(text: str) -> dict[str, QueueNode]:
    """`scontrol show node -d -o`. Raises Unparsable."""
    nodes = (_node(line) for line in _records(text, "NodeName"))
    return {node.name: node for node in nodes}


def partitions_from(text: str) -> dict[str, QueuePartition]:
    """`scontrol show partition -o`. Raises Unparsable."""
    partitions = (_partition(line) for line in _records(text, "PartitionName"))
    return {partition.name: partition for partition in partitions}


def limits_from(text: str) -> QueueLimits:
    """`scontrol show config`; what cannot be read stays None."""
    config: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            config.setdefault(key.strip(), value.strip())
    storage = config.get("AccountingStorageType")
    sizes = [_number(config.get("MaxArraySize")), _number(config.get("MaxJobCount"))]
    tasks = re.search(r"(?:^|,)max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    sizes += [int(tasks[1])] if tasks else []
    known = [size for size in sizes if size is not None]
    return QueueLimits(
        version=config.get("SLURM_VERSION", ""),
        cluster=config.get("ClusterName", ""),
        # The largest index is MaxArraySize - 1 and ours begin with 0: so many members.
        array_max=min(known) if sizes[0] is not None else None,
        remembered_s=_number(config.get("MinJobAge")),
        kill_wait_s=_number(config.get("KillWait")),
        accounting=None if storage is None else storage.endswith("slurmdbd"),
    )


def _number(text: str | None) -> int | None:
    matched = re.match(r"(\d+)(?: sec)?\Z", text or "")
    return int(matched[1]) if matched else None


def _records(text: str, key: str) -> Iterator[str]:
    """The one-line records. A Reason may hold line breaks; what follows one is none of ours."""
    if text.startswith(("No nodes in the system", "No partitions in the system")):
        return
    if not text.strip():
        raise Unparsable(f"scontrol said nothing where a {key} was expected")
    for at, line in enumerate(text.split("\n")):
        if line.startswith(f"{key}="):
            yield line
        elif at == 0 and line.strip():
            raise Unparsable(f"scontrol said {line[:120]!r} where a {key} was expected")


def _fields(line: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", _PROSE.split(line, maxsplit=1)[0]):
        fields.setdefault(key, value)
    return fields


def _whole(fields: Mapping[str, str], *keys: str) -> list[str]:
    missing = [key for key in keys if key not in fields]
    if missing:
        raise Unparsable(f"scontrol's record of {next(iter(fields.values()), '')!r} has no {' and no '.join(missing)}")
    return [fields[key] for key in keys]


def _node(line: str) -> QueueNode:
    fields = _fields(line)
    name, state, gres = _whole(fields, "NodeName", "State", "Gres")
    gpus = gpus_of(gres)
    # GresUsed is there with -d, for an operator or on releases that show it to all; AllocTRES always is.
    used = gpus_of(fields.get("GresUsed") or fields.get("AllocTRES", ""))
    untyped = used.pop("", 0)
    if "GresUsed" not in fields and used:
        # A TRES text counts typed ones twice: as "gres/gpu=3" and as "gres/gpu:h100=3".
        untyped = 0
    if untyped and "" not in gpus:
        # Of which type is not said: rather too few free than too many.
        used = {kind: used.get(kind, 0) + untyped for kind in gpus}
    elif untyped:
        used[""] = untyped
    return QueueNode(
        name,
        usable=is_usable(state),
        state=state,
        gpus=gpus,
        used={kind: count for kind, count in used.items() if count},
        cpus=_number(fields.get("CPUEfctv")) or _number(fields.get("CPUTot")) or 0,
        cpus_used=_number(fields.get("CPUAlloc")) or 0,
        memory_mib=_number(fields.get("RealMemory")) or 0,
        features=frozenset(
            feature for feature in fields.get("ActiveFeatures", "").split(",") if feature not in ("", "(null)")
        ),
    )


def _partition(line: str) -> QueuePartition:
    fields = _fields(line)
    name, state, hosts, longest = _whole(fields, "PartitionName", "State", "Nodes", "MaxTime")
    accounts = fields.get("AllowAccounts", "ALL")
    try:
        return QueuePartition(
            name,
            up=state == "UP",
            nodes=() if hosts == "(null)" else expand_hostlist(hosts),
            default=fields.get("Default") == "YES",
            time_max_s=duration_s(longest),
            time_default_s=duration_s(fields.get("DefaultTime", "NONE")),
            nodes_max=_number(fields.get("MaxNodes")),
            accounts=None if accounts == "ALL" else frozenset(accounts.split(",")),
        )
    except ValueError as problem:
        raise Unparsable(f"scontrol's record of partition {name!r}: {problem}") from problem

"""What `doctor` looks at on a host with a queue system, the machines behind it included."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from reconciler.app.finding import Finding
from reconciler.app.login import run_on_login
from reconciler.backends.dialect import Dialect
from reconciler.backends.registry import dialect_of
from reconciler.core.errors import ReconcilerError
from reconciler.core.inventory import Cluster, SlurmHost
from reconciler.core.queue import QueueCapacity
from reconciler.core.transport import Command, Transport

_DEADLINE_S = 60.0
# An ended job should stay in the listing longer than the pause between two passes of `watch`.
REMEMBERED_MIN_S = 60
# A machine that is free starts a test at once; on a busy partition nobody should wait for a doctor.
START_WITHIN_S = 15

_SEES = """
for d in "$@"; do [ -d "$d" ] && [ -e "$d/.reconciler-doctor" ] && echo "sees $d" || echo "blind $d"; done
p=; for c in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
  command -v "$c" >/dev/null 2>&1 && "$c" -c 'import sys; sys.exit(sys.version_info < (3, 8))' && { p=$c; break; }
done
echo "python ${p:-none}"
"""


def examine_queue(host: SlurmHost, cluster: Cluster, transport: Transport) -> Iterable[Finding]:
    """Tools, scheduler settings, partitions, and whether a machine of each partition sees the shared directories."""
    dialect = dialect_of(host.type)
    for tool in dialect.tools:
        if run_on_login(transport, (tool, "--version"), deadline_s=_DEADLINE_S).returncode is None:
            yield Finding(host.name, tool, False, "not found", f"Put it into PATH of the login shell on {host.name}.")
    answers = {key: run_on_login(transport, argv, deadline_s=_DEADLINE_S) for key, argv in dialect.capacity().items()}
    try:
        capacity = dialect.parse_capacity(answers)
    except ReconcilerError as error:
        yield Finding(host.name, dialect.system, False, error.message, "Is the controller up? Ask your administrators.")
        return
    yield from _settings(host, dialect, capacity, transport)
    yield from _partitions(host, capacity)
    yield from _shared(host, cluster, capacity, transport)


def _settings(host: SlurmHost, dialect: Dialect, capacity: QueueCapacity, transport: Transport) -> Iterable[Finding]:
    limits = capacity.limits
    usable = sum(node.usable for node in capacity.nodes.values())
    detail = f"{limits.version or 'version unknown'}, {len(capacity.nodes)} machines, {usable} take work"
    yield Finding(host.name, dialect.system, bool(capacity.nodes), detail)
    if limits.remembered_s is not None:
        ok = limits.remembered_s >= REMEMBERED_MIN_S
        fix = "" if ok else "Look more often than that (watch --interval), or have MinJobAge raised."
        yield Finding(host.name, "memory of ended jobs", ok, f"{limits.remembered_s} s (MinJobAge)", fix)
    if limits.kill_wait_s is not None:
        detail = f"{limits.kill_wait_s} s between TERM and KILL when Slurm preempts without a grace (KillWait)"
        yield Finding(host.name, "time to checkpoint", True, detail)
    if limits.array_max is not None:
        detail = f"up to {limits.array_max} members (MaxArraySize); larger sweeps are split"
        yield Finding(host.name, "arrays", True, detail)
    if limits.accounting is False:
        detail = "none: how a run ended that was killed unseen is known only while the queue remembers it"
        yield Finding(host.name, "accounting", True, detail)
        return
    for argv in dialect.accounting(["1"], []):
        answer = run_on_login(transport, argv, deadline_s=_DEADLINE_S)
        try:
            dialect.parse_accounting(answer)
            yield Finding(host.name, "accounting", True, "answers")
        except ReconcilerError as error:
            fix = "Runs that end unseen are held as Unknown until it answers. Ask your administrators."
            yield Finding(host.name, "accounting", False, error.message, fix)


def _partitions(host: SlurmHost, capacity: QueueCapacity) -> Iterable[Finding]:
    for wish in (*host.partitions, *host.cpu_partitions):
        found = capacity.partitions.get(wish.name)
        if found is None:
            known = ", ".join(sorted(capacity.partitions))
            fix = f"Correct the inventory; the cluster has: {known}. `reconciler hosts --discover {host.name}` writes the entry."
            yield Finding(host.name, "partition", False, f"there is no {wish.name}", fix)
        elif not found.up:
            yield Finding(host.name, "partition", False, f"{wish.name} is down", "Jobs wait until it is up again.")
        else:
            yield Finding(host.name, "partition", True, f"{wish.name}: {len(found.nodes)} machines")


def _shared(host: SlurmHost, cluster: Cluster, capacity: QueueCapacity, transport: Transport) -> Iterable[Finding]:
    """Run one short job per partition that looks for a file which the login node just wrote."""
    paths = list(dict.fromkeys((cluster.root, cluster.share, cluster.status, cluster.checkpoints, cluster.results)))
    marks = " ".join(shlex.quote(f"{path}/.reconciler-doctor") for path in paths)
    folders = " ".join(map(shlex.quote, paths))
    transport.run(Command(("sh", "-c", f"umask o=; mkdir -p {folders}; touch {marks}")), deadline_s=_DEADLINE_S)
    wishes = [wish.name for wish in (*host.partitions, *host.cpu_partitions)] or [
        one.name for one in capacity.partitions.values() if one.default
    ]
    try:
        for name in dict.fromkeys(wishes):
            if name in capacity.partitions and capacity.partitions[name].up:
                yield from _seen_from(host, name, paths, transport)
    finally:
        transport.run(Command(("sh", "-c", f"rm -f {marks}")), deadline_s=_DEADLINE_S)


def _seen_from(host: SlurmHost, partition: str, paths: list[str], transport: Transport) -> Iterable[Finding]:
    account = tuple(f"--{name}={value}" for name, value in (("account", host.account), ("qos", host.qos)) if value)
    argv = (
        "srun", f"--partition={partition}", *account, "--nodes=1", "--ntasks=1", "--time=1",
        f"--immediate={START_WITHIN_S}", "--job-name=reconciler-doctor", "sh", "-c", _SEES, "sh", *paths,
    )  # fmt: skip
    answer = run_on_login(transport, argv, deadline_s=_DEADLINE_S + START_WITHIN_S)
    lines = [line.split(" ", 1) for line in answer.stdout.splitlines() if " " in line]
    what = f"shared directories from {partition}"
    if not any(kind in ("sees", "blind") for kind, _ in lines):
        said = " / ".join(answer.stderr.split("\n")[:2]).strip() or "no answer"
        yield Finding(
            host.name, what, True, f"not checked: no machine started a test within {START_WITHIN_S} s ({said})"
        )
        return
    blind = [path for kind, path in lines if kind == "blind"]
    fix = "Set root, share and what lies below them to directories that every machine of the partition mounts."
    yield Finding(
        host.name, what, not blind, f"not visible: {', '.join(blind)}" if blind else "visible", fix if blind else ""
    )
    python = next((rest for kind, rest in lines if kind == "python"), "none")
    if python == "none" and host.python is None:
        fix = "Install python3 3.8 or newer there, or name an interpreter with `python:` in the inventory."
        yield Finding(host.name, f"python on {partition}", False, "no Python 3.8 or newer", fix)

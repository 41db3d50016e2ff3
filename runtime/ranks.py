"""Which of how many machines this is, and what programs that start on all of them need to find each other. Pure."""

from __future__ import annotations

import re
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping

PORT_FIRST, PORT_COUNT = 61440, 4095  # above the range from which kernels take ports of their own (60999 on Linux)
_PART = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?")


class Ranks:
    """One machine's place in the gang. `hosts` is in the order of ranks."""

    def __init__(self, rank: int, count: int, hosts: List[str]) -> None:
        self.rank = rank
        self.count = count
        self.hosts = hosts


def of_environment(names: Mapping[str, str], environ: Mapping[str, str]) -> Ranks:
    """Read the scheduler's variables; `names` says which ones (backends/dialect.py, variables)."""
    count = int(environ.get(names["nodes"]) or 1)
    hosts = expand(environ.get(names["nodelist"], ""))
    return Ranks(int(environ.get(names["rank"]) or 0), count, hosts[:count] or [""])


def expand(text: str) -> List[str]:
    """The hosts of a compressed list: `gh[01-03,07],ga01`, several brackets in one name included."""
    hosts: List[str] = []
    for part in _split(text):
        found = [""]
        for prefix, inside in _PART.findall(part):
            found = [host + prefix for host in found]
            if inside:
                found = [host + number for host in found for number in _numbers(inside)]
        hosts += [host for host in found if host]
    return hosts


def _split(text: str) -> List[str]:
    parts, depth, start = [], 0, 0
    for at, one in enumerate(text):
        depth += (one == "[") - (one == "]")
        if one == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _numbers(inside: str) -> List[str]:
    numbers: List[str] = []
    for span in inside.split(","):
        first, dash, last = span.partition("-")
        if dash and first.isdigit() and last.isdigit():
            numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        else:
            numbers.append(span)
    return numbers


def environment(ranks: Ranks, job: str) -> Dict[str, str]:
    """What the job's programs get. The port is the same on every machine because it follows from the scheduler's job id."""
    environ = {
        "RECONCILER_NODE_RANK": str(ranks.rank),
        "RECONCILER_NUM_NODES": str(ranks.count),
        "RECONCILER_NODES": ",".join(ranks.hosts),
    }
    if ranks.count > 1:
        port = PORT_FIRST + (int(job) if job.isdigit() else zlib.crc32(job.encode())) % PORT_COUNT
        environ.update(
            RECONCILER_COORDINATOR="%s:%d" % (ranks.hosts[0], port),
            JAX_COORDINATOR_ADDRESS="%s:%d" % (ranks.hosts[0], port),
            JAX_NUM_PROCESSES=str(ranks.count),
            JAX_PROCESS_ID=str(ranks.rank),
            MASTER_ADDR=ranks.hosts[0],
            MASTER_PORT=str(port),
            NODE_RANK=str(ranks.rank),
            NNODES=str(ranks.count),
        )
    return environ

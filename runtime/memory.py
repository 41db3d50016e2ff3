"""Did the kernel kill for want of memory? Counters of the control group, else of the machine."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

ROOT = "/sys/fs/cgroup"


def counter() -> str:
    """The file that counts what the kernel killed for memory where this process runs; empty where nobody counts.

    Source: cgroup-v2 `memory.events` (oom_kill), cgroup-v1 `memory.oom_control` (oom_kill), /proc/vmstat (oom_kill, all
    of the machine, since Linux 4.13). A rise matters only together with a child that died of SIGKILL.
    """
    for path in [*candidates(_text("/proc/self/cgroup")), "/proc/vmstat"]:
        if kills(path) is not None:
            return path
    return ""


def kills(path: str) -> Optional[int]:
    """How many processes the kernel has killed for memory, by the counter in `path`."""
    return parse(_text(path)) if path else None


def candidates(groups: str) -> List[str]:
    """Files that may count, most specific first, from the text of /proc/self/cgroup. In a container the path that the
    kernel names may not exist below the mount: then the mount itself is ours."""
    paths = []
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        group = group.rstrip("/")
        if "memory" in controllers.split(","):
            paths += ["%s/memory%s/memory.oom_control" % (ROOT, group), ROOT + "/memory/memory.oom_control"]
        elif number == "0" and not controllers:
            paths += ["%s%s/memory.events" % (ROOT, group), ROOT + "/memory.events"]
    return paths


def parse(text: str) -> Optional[int]:
    """The value of the line `oom_kill N`."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 65536).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)

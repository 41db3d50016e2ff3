"""Which NVIDIA GPUs there are and how full they are, by nvidia-smi. Never raises: no answer is a value, too."""

from __future__ import annotations

import os
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

KILL_WAIT_S = 1.0
TIMEOUT_S = 20.0  # nvidia-smi takes seconds without persistence mode, and for ever when a driver hangs
GPU_QUERY = "index,uuid,name,memory.total,memory.used"
APP_QUERY = "gpu_uuid,used_memory"


def query(program: str = "nvidia-smi") -> Tuple[Optional[List[Dict[str, Any]]], Optional[str]]:
    """(GPUs, None), or (None, why not), or (None, None) where there is no nvidia-smi."""
    try:
        gpus = _ask(program, "--query-gpu=" + GPU_QUERY)
        if gpus is None:
            return None, None
        apps = _ask(program, "--query-compute-apps=" + APP_QUERY)
        return combine(gpus, apps or ""), None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None, str(error)


def combine(gpus: str, apps: str) -> List[Dict[str, Any]]:
    """Both tables as one. Raises ValueError for a line that is not understood.

    `used_mib` is the larger of what the processes use and what the card reports: in containers and under MPS the list
    of processes is short of some, and `[N/A]` is shown for a process of which only the card knows.
    """
    found: List[Dict[str, Any]] = []
    for fields in _rows(gpus, 5):
        found.append(
            {
                "index": int(fields[0]),
                "uuid": fields[1],
                "name": fields[2],
                "memory_total_mib": _number(fields[3]),
                "used_mib": _number(fields[4]) or 0,
                "processes": 0,
            }
        )
    used: Dict[str, int] = {}
    by_uuid = {gpu["uuid"]: gpu for gpu in found}
    for uuid, memory in _rows(apps, 2):
        if uuid in by_uuid:
            by_uuid[uuid]["processes"] += 1
            used[uuid] = used.get(uuid, 0) + (_number(memory) or 0)
    for uuid, total in used.items():
        by_uuid[uuid]["used_mib"] = max(by_uuid[uuid]["used_mib"], total)
    return found


def _rows(text: str, count: int) -> List[List[str]]:
    rows = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("No "):  # "No running processes found", "No devices were found"
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != count:
            raise ValueError("nvidia-smi said %r; expected %d columns" % (line, count))
        rows.append(fields)
    return rows


def _number(text: str) -> Optional[int]:
    """MiB, None for `[N/A]` and its kin."""
    return int(text) if text.isdigit() else None


def _ask(program: str, what: str) -> Optional[str]:
    try:
        child = subprocess.Popen(
            [program, what, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return None
    try:
        out, err = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        try:
            child.communicate(timeout=KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            pass  # one that hangs in the driver does not even end; this process soon does
        raise ValueError("nvidia-smi gave no answer within %.0f s" % TIMEOUT_S) from None
    text = out.decode("utf-8", "replace")
    if child.returncode != 0:
        first = (text + err.decode("utf-8", "replace")).strip().splitlines()[:1]
        raise ValueError("nvidia-smi ended with exit code %d: %s" % (child.returncode, first[0] if first else ""))
    return text

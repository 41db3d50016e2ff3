"""What `doctor` looks at on any machine, or in any pod, that runs live on: interpreter, tools, paths, clock."""

from __future__ import annotations

import time
from collections.abc import Iterable

from reconciler.app.finding import Finding
from reconciler.core.inventory import Cluster
from reconciler.core.transport import Command, Transport

_DEADLINE_S = 30.0
# A node whose clock is off does no harm here (clocks are never compared), but it spoils log times and TLS.
CLOCK_OFF_MAX_S = 60.0

# What a run needs of its host, in one command: interpreter, tools, and whether each path can be written.
_LOOK = """
echo "shell ok"
for p in "$1" python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
  [ -n "$p" ] || continue
  v=$("$p" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 8) else "")' 2>/dev/null)
  [ -n "$v" ] && { echo "python $v $p"; break; }
done
for t in git tar gzip bash rsync uv nvidia-smi; do command -v "$t" >/dev/null 2>&1 && echo "tool $t"; done
[ -x "$HOME/.local/bin/uv" ] && echo "tool uv"
echo "clock $(date -u +%s)"
shift
umask o=
for d in "$@"; do
  if mkdir -p "$d" 2>/dev/null && t="$d/.reconciler-doctor.$$" && : > "$t" 2>/dev/null; then
    rm -f "$t"; echo "writable $(df -Pk "$d" 2>/dev/null | awk 'NR==2{print $4}') $d"
  else echo "unwritable 0 $d"; fi
done
"""


def examine_machine(
    name: str, transport: Transport, cluster: Cluster, *, how: str, python: str, place: str = ""
) -> Iterable[Finding]:
    """`how`: the kind of connection, in a word. `python`: the interpreter that the inventory names, or "". `place`: where a tool
    that is missing has to be installed ("on hpc"). Raises what asking raises."""
    place = place or f"on {name}"
    paths = [cluster.root, cluster.work, cluster.share, cluster.status, cluster.checkpoints, cluster.results]
    started = time.monotonic()
    done = transport.run(Command(("sh", "-c", _LOOK, "sh", python, *paths)), deadline_s=_DEADLINE_S)
    took = time.monotonic() - started
    lines = [line.split(" ", 1) for line in done.stdout.decode(errors="replace").splitlines() if " " in line]
    facts = {kind: rest for kind, rest in lines if kind in ("shell", "python", "clock")}
    tools = {rest for kind, rest in lines if kind == "tool"}
    yield Finding(name, "connection", "shell" in facts, f"{how}, {took * 1000:.0f} ms to connect and look")
    found = facts.get("python")
    yield Finding(
        name,
        "python",
        found is not None,
        found or "no Python 3.8 or newer",
        "" if found else f"Install python3 {place}, or name an interpreter with `python:` in the inventory.",
    )
    for tool in ("tar", "gzip", "bash"):
        if tool not in tools:
            yield Finding(name, tool, False, "not found", f"Install {tool} {place}.")
    if "uv" not in tools:
        yield Finding(name, "uv", True, "not found; only jobs that ship a pyproject.toml and set `python` need it")
    for kind, rest in lines:
        if kind in ("writable", "unwritable"):
            free, _, path = rest.partition(" ")
            ok = kind == "writable"
            detail = f"{path}, {int(free) / 1048576:.1f} GiB free" if ok and free.isdigit() else path
            yield Finding(
                name, "path", ok, detail, "" if ok else "Create it, or give the login the right to write there."
            )
    if "clock" in facts and facts["clock"].isdigit():
        off = int(facts["clock"]) - time.time()
        ok = abs(off) < CLOCK_OFF_MAX_S + took
        yield Finding(
            name, "clock", ok, f"{off:+.0f} s from ours", "" if ok else "Set up NTP; runs are not harmed by it."
        )

"""Passes over one repository in one process, as `watch` makes them: seconds and remote commands of each, as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from reconciler.app.converge import Reconciler
from reconciler.app.wiring import Settings, open_ports
from reconciler.transports import ssh


def main() -> None:
    repo, rounds = Path(sys.argv[1]), int(sys.argv[2])
    calls = 0
    inner = ssh.FabricTransport.run

    def counted(self: Any, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return inner(self, *arguments, **more)

    ssh.FabricTransport.run = counted  # type: ignore[method-assign]
    import os

    state = os.environ.get("RECONCILER_STATE")
    seconds, commands = [], []
    with open_ports(Settings(repo, state=Path(state) if state else None)) as ports:
        reconciler = Reconciler(ports)
        reconciler.look()
        for _ in range(rounds):
            before, start = calls, time.perf_counter()
            reconciler.look()
            seconds.append(time.perf_counter() - start)
            commands.append(float(calls - before))
        reconciler.close()
    print(json.dumps({"seconds": seconds, "commands": commands}))


if __name__ == "__main__":
    main()

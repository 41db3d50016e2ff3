"""The emulator as a program: serves until SIGTERM, or until its standard input ends."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading

from tests.emulators.tpu.emulator import GET_LIBRARY, Emulator, have_library
from tests.emulators.tpu.world import SETTINGS, ZONES

EPILOG = """\
When it serves, it prints one line of JSON: {"rest": "127.0.0.1:PORT", "grpc": "127.0.0.1:PORT" or null, "control":
"http://127.0.0.1:PORT/_emu/", "ssh_port": PORT or null, "project": ..., "zones": [...], "gcloud": {environment}}. It listens on
loopback only, keeps nothing, and ends on SIGTERM, on SIGINT and when its standard input ends (--detached: not then).

Try it:
  python -m tests.emulators.tpu --rest-port 18080 --detached &
  curl -s 127.0.0.1:18080/_emu/create -d '{"name": "n1", "type": "v4-32"}'
  curl -s 127.0.0.1:18080/v2/projects/demo-project/locations/us-central1-a/nodes
  curl -s 127.0.0.1:18080/_emu/fault -d '{"method": "CreateNode", "lro_error": {"code": 8, "message": "no more capacity"}}'
  curl -s 127.0.0.1:18080/_emu/advance -d '{"seconds": 3600}'

docs/tpu-emulator.md has the environment for gcloud, the channel for google-cloud-tpu, every fault and what is not emulated.
It simulates: its answers follow documentation and reports, and were never compared with the real service.
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.tpu",
        description="An emulator of the Cloud TPU API for gcloud, google-cloud-tpu and ssh.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rest-port", type=int, default=0, metavar="PORT", help="for HTTP (default: any that is free)")
    parser.add_argument("--grpc-port", type=int, default=0, metavar="PORT", help="for gRPC (default: any that is free)")
    parser.add_argument("--no-grpc", action="store_true", help="HTTP only; starts quicker, checks no field names")
    parser.add_argument("--project", default="demo-project", help="the only project there is (default: %(default)s)")
    parser.add_argument(
        "--zone", action="append", metavar="ZONE[=FAMILY,...]",
        help=f"a zone, with what it offers, as us-central2-b=v4 (repeatable; default: {', '.join(ZONES)}, with everything)",
    )  # fmt: skip
    parser.add_argument(
        "--quota", action="append", default=[], metavar="ZONE:FAMILY=N",
        help="a limit, as us-central2-b:v4=32 or us-central2-b:v4-preemptible=0 (repeatable; default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=SECONDS",
        help="how long things take: " + ", ".join(f"{name}={value:g}" for name, value in SETTINGS.items() if value is not None)
        + "; and creates_per_minute",
    )  # fmt: skip
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument(
        "--speed", type=float, default=1.0, metavar="N", help="emulated seconds per real one (default: 1)"
    )
    clock.add_argument("--still", action="store_true", help="time moves only by /_emu/advance")
    parser.add_argument(
        "--workers", action="store_true", help="a real sshd for each worker, on 127.1.0.1, 127.1.0.2, ..."
    )
    parser.add_argument(
        "--ssh-port", type=int, default=0, metavar="PORT", help="of all workers (default: 2222, or the next free)"
    )
    parser.add_argument("--log", metavar="FILE", help="append every call and its answer, one line of JSON each")
    parser.add_argument("--seed", type=int, default=0, help="of the ids (default: %(default)s)")
    parser.add_argument("--detached", action="store_true", help="do not end with standard input")
    return parser


def main() -> int:
    parser = arguments()
    told = parser.parse_args()
    try:
        zones = {
            zone: families.split(",") if families else None for zone, _, families in _pairs(told.zone or ZONES, "=")
        }
        from tests.emulators.tpu.catalogue import FAMILIES

        quota: dict[str, dict[str, int]] = {}
        for zone, _, limit in _pairs(told.quota, ":"):
            family, _, number = limit.partition("=")
            quota.setdefault(zone, {})[family] = int(number)
        emulator = Emulator(
            zones={zone: families or list(FAMILIES) for zone, families in zones.items()},
            project=told.project,
            quota=quota,
            real_clock=not told.still,
            speed=told.speed,
            rest_port=told.rest_port,
            grpc_port=told.grpc_port,
            grpc=False if told.no_grpc else None,
            workers=told.workers,
            ssh_port=told.ssh_port,
            log=told.log,
            strict=False,
            seed=told.seed,
            **{name: float(value) for name, _, value in _pairs(told.set, "=")},
        )
    except ValueError as error:
        parser.error(str(error))
    end = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: end.set())
    try:
        emulator.start()
    except OSError as error:
        print(f"cannot listen: {error}", file=sys.stderr)
        return 1
    if not told.no_grpc and not have_library():
        print(f"HTTP only: {GET_LIBRARY}", file=sys.stderr)
    ready = {
        "rest": emulator.rest,
        "grpc": emulator.grpc or None,
        "control": f"http://{emulator.rest}/_emu/",
        "ssh_port": emulator.workers.port if emulator.workers else None,
        "project": told.project,
        "zones": list(zones),
        "gcloud": emulator.gcloud_endpoints(),
    }
    print(json.dumps(ready), flush=True)
    if not told.detached:
        threading.Thread(target=_wait_for_end_of_input, args=(end,), daemon=True).start()
    end.wait()
    emulator.stop()
    return 0


def _pairs(words: list[str] | tuple[str, ...], sign: str) -> list[tuple[str, str, str]]:
    return [word.partition(sign) for word in words]


def _wait_for_end_of_input(end: threading.Event) -> None:
    # Not by sys.stdin: a thread that holds its lock would stop the interpreter from ending.
    import os

    while os.read(0, 4096):
        pass
    end.set()


if __name__ == "__main__":
    sys.exit(main())

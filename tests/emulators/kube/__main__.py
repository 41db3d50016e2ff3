"""`python -m tests.emulators.kube FOLDER`: the simulated cluster as a program.

It prints one line of JSON when it serves, and ends on SIGTERM, on SIGINT, and when its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from types import FrameType

from tests.emulators.kube import Cluster


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.kube", description="A simulated Kubernetes with Volcano."
    )
    parser.add_argument("folder", help="claims, pods and the kubeconfig are put here")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--namespace", default="team-a")
    parser.add_argument("--claim", action="append", default=[], help="a claim that exists from the start; repeatable")
    parser.add_argument(
        "--node", action="append", default=[], help="NAME:cpu=8,memory=32Gi,nvidia.com/gpu=8; repeatable"
    )
    parser.add_argument("--detached", action="store_true", help="do not end with standard input")
    given = parser.parse_args()
    nodes = {}
    for text in given.node:
        name, _, resources = text.partition(":")
        nodes[name] = dict(pair.split("=", 1) for pair in resources.split(",") if pair)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with Cluster(
        given.folder, nodes=nodes or None, namespace=given.namespace, claims=tuple(given.claim), port=given.port
    ) as kube:
        told = {"url": kube.url, "kubeconfig": str(kube.kubeconfig), "namespace": kube.namespace}
        print(json.dumps(told), flush=True)
        if not given.detached:
            threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

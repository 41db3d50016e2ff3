"""Exec: a command in a pod's container, with its streams on the channels of a websocket."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import BinaryIO

from tests.emulators.kube.sockets import Channels, Closed
from tests.emulators.kube.store import Json

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
CHUNK = 32 * 1024


def serve(channels: Channels, process: subprocess.Popen[bytes]) -> None:
    """Until the command ends and its output is told, then its result on the error channel. A client that goes away ends the
    streams, not the command, as with a real kubelet; its stdin ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = ((STDOUT, process.stdout), (STDERR, process.stderr))
    pumps = [threading.Thread(target=_pump, args=(channels, number, pipe), daemon=True) for number, pipe in streams]
    reader = threading.Thread(target=_feed, args=(channels, process), daemon=True)
    for thread in (*pumps, reader):
        thread.start()
    code = process.wait()
    for thread in pumps:
        thread.join(timeout=10)
    try:
        channels.send(ERROR, json.dumps(result(128 - code if code < 0 else code)).encode())
    except Closed:
        return
    channels.close()
    reader.join(timeout=2)  # until the client has closed, too


def result(code: int) -> Json:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    message = f"command terminated with non-zero exit code: command terminated with exit code {code}"
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": details}


def failure(message: str) -> Json:
    """The command could not be started."""
    details = {"causes": [{"message": message}]}
    text = f"Internal error occurred: {message}"
    status = {"metadata": {}, "status": "Failure", "message": text, "reason": "InternalError", "details": details}
    return {**status, "code": 500}


def _pump(channels: Channels, number: int, pipe: BinaryIO) -> None:
    gone = False
    with pipe:
        while data := pipe.read1(CHUNK):  # type: ignore[attr-defined]
            try:
                if not gone:
                    channels.send(number, data)
            except Closed:
                gone = True  # and read on, so that the command is not held up


def _feed(channels: Channels, process: subprocess.Popen[bytes]) -> None:
    stdin = process.stdin
    try:
        while True:
            message = channels.receive()
            if not message or stdin is None:
                continue
            try:
                if message[0] == STDIN:
                    stdin.write(message[1:])
                    stdin.flush()
                elif message[0] == CLOSE and message[1:2] == bytes([STDIN]):
                    stdin.close()
            except (OSError, ValueError):
                stdin = None  # the command does not read (any more)
    except Closed:
        pass
    finally:
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass

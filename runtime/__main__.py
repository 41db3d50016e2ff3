"""One verb per call: a JSON document on standard input, marked lines of JSON on standard output."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

VERBS = ("launch", "observe", "cancel", "logs", "clean", "enqueue", "withdraw", "dequeue", "guard")
# What a batch script calls on the machines it was given; these take the run's directory as an argument.
STEPS = ("begin", "work", "end")


def main(arguments: List[str]) -> int:
    """Serve one verb. 0 when its `done` line was written, 2 for a call that cannot be understood, 1 for a failure."""
    if len(arguments) >= 2 and arguments[0] in STEPS:
        from runtime import step  # noqa: PLC0415

        return step.serve(arguments[0], arguments[1:])
    if len(arguments) == 2 and arguments[0] == "pod":
        from runtime import pod  # noqa: PLC0415

        return pod.serve(arguments[1])
    from runtime import request  # noqa: PLC0415

    if len(arguments) != 1 or arguments[0] not in VERBS:
        sys.stderr.write("Usage: bootstrap.sh %s, with one JSON document on standard input\n" % "|".join(VERBS))
        return 2
    verb = arguments[0]
    try:
        document = request.read_document(sys.stdin.buffer.read())
    except ValueError as error:
        sys.stderr.write("The runtime was asked %s: %s\n" % (verb, error))
        return 2
    try:
        _serve(verb, document)
    except KeyError as error:
        sys.stderr.write("The runtime was asked %s without the field %s\n" % (verb, error))
        return 2
    return 0


def _serve(verb: str, document: Dict[str, Any]) -> None:
    if os.environ.pop("RECONCILER_SHARED", ""):  # files.SHARED
        from runtime import files  # noqa: PLC0415

        files.open_to_others()
    if verb == "launch":
        from runtime.launch import launch as serve  # noqa: PLC0415
    elif verb == "observe":
        from runtime.observe import observe as serve  # noqa: PLC0415
    elif verb == "cancel":
        from runtime.cancel import cancel as serve  # noqa: PLC0415
    elif verb == "clean":
        from runtime.clean import clean as serve  # noqa: PLC0415
    elif verb == "enqueue":
        from runtime.enqueue import enqueue as serve  # noqa: PLC0415
    elif verb == "withdraw":
        from runtime.enqueue import withdraw as serve  # noqa: PLC0415
    elif verb == "guard":
        from runtime.guard import guard as serve  # noqa: PLC0415
    elif verb == "dequeue":
        from runtime.dequeue import dequeue as serve  # noqa: PLC0415
    else:
        from runtime.read import read_log  # noqa: PLC0415

        read_log(document, sys.stdout.fileno())
        return
    say({"done": True, **serve(document, say)})


def say(answer: Dict[str, Any]) -> None:
    """One answer line, at once. A reader that has gone away does not stop the work, which is done to its end."""
    from runtime import contract, status  # noqa: PLC0415

    data = contract.MARK.encode() + status.encode(answer)
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


def close_inherited() -> None:
    """Close what the caller left open above standard error, so that no supervisor keeps its pipes and locks."""
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        descriptors = list(range(3, 256))
    for descriptor in descriptors:
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:
                pass


if __name__ == "__main__":
    close_inherited()
    raise SystemExit(main(sys.argv[1:]))

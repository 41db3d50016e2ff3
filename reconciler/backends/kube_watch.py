"""News of one kind of object, as it happens: a list for the start, then a watch from there on.

A watch shortens the wait until the next look; it proves nothing, and nothing is concluded from it. So whatever goes wrong with
one (it grew too old, it broke, it fell silent) is mended by a list anew, and told as news: something may have happened meanwhile.

Source: Kubernetes API Concepts, Efficient detection of changes (resourceVersion, bookmarks, 410 Gone). That a watch may end as if
all were well when the server dies under it was seen on a real cluster (kubectl --watch exits 0).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from reconciler.backends.kube_control import Kind, Listed
from reconciler.core.errors import AccessRefused, ReconcilerError

# The server ends a watch after this long; without one byte for longer, a bookmark included, it is taken for dead.
WATCH_S = 240
SILENCE_S = 300.0
# A watch that ends within this was none, and is not opened again at once.
SHORT_S = 1.0
REFUSED_PAUSES = 30
_CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})


class Source(Protocol):
    """What is needed of an API client: of kube_client.KubeClient."""

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed: ...

    def stream(self, kind: Kind, query: Mapping[str, str], *, silence_s: float) -> Iterator[bytes]: ...


def listen(
    source: Source,
    kind: Kind,
    labels: Mapping[str, str],
    *,
    changed: Callable[[], None],
    going: Callable[[], bool],
    pause: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `changed` for every change among the objects with `labels`, and whenever one may have been missed, until `going` says
    no, which is asked at each event. `pause` is called after a failure, and after a watch that ended
    at once."""
    version, refused = "", False
    while going():
        began = clock()
        try:
            if not version:
                version = source.list(kind, labels=labels).version
                if not refused:
                    changed()
            version = _follow(source, kind, labels, version, changed, going)
        except AccessRefused:
            # Whoever may list and not watch hears nothing, and is not told every time that it may have missed something.
            for _ in range(REFUSED_PAUSES):
                pause()
            version, refused = "", True
            continue
        except ReconcilerError:
            version = ""
        if clock() - began < SHORT_S:
            pause()


def _follow(
    source: Source,
    kind: Kind,
    labels: Mapping[str, str],
    version: str,
    changed: Callable[[], None],
    going: Callable[[], bool],
) -> str:
    """One watch. Gives the version to go on from, "" where only a list can help."""
    query = {
        "labelSelector": ",".join(f"{name}={value}" if value else name for name, value in sorted(labels.items())),
        "resourceVersion": version,
        "timeoutSeconds": str(WATCH_S),
        "allowWatchBookmarks": "true",
    }
    for line in source.stream(kind, query, silence_s=SILENCE_S):
        if not going():
            break
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            word, about = str(event["type"]), event["object"].get("metadata") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
        if word == "ERROR":
            return ""
        version = str(about.get("resourceVersion") or version)
        if word in _CHANGES:
            changed()
    return version

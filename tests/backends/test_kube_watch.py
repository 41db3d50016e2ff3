"""News of pods: what is told, what starts anew, and that nothing is missed. The API is the simulated one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.backends import kube_watch
from reconciler.backends.kube_client import KubeClient
from reconciler.backends.kube_control import POD, Kind, Listed
from reconciler.core.errors import AccessRefused, Unreachable
from tests.contract.kube_contract import job
from tests.emulators.kube import Cluster

pytest.importorskip("kubernetes")


class Played:
    """A server's side, played: versions that lists give, and lines of each watch (an exception among them is raised)."""

    def __init__(self, *watches: list[Any]) -> None:
        self.watches = list(watches)
        self.lists = 0
        self.asked: list[str] = []

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed:
        self.lists += 1
        return Listed([], f"list-{self.lists}")

    def stream(self, kind: Kind, query: Mapping[str, str], *, silence_s: float) -> Iterator[bytes]:
        self.asked.append(query["resourceVersion"])
        for line in self.watches.pop(0):
            if isinstance(line, Exception):
                raise line
            yield line


def event(word: str, version: str) -> bytes:
    return f'{{"type": "{word}", "object": {{"metadata": {{"resourceVersion": "{version}"}}}}}}'.encode()


def heard(source: Played, watch_s: float = 100.0) -> tuple[int, int]:
    """(news, pauses) until the source has no more watches, each of which takes some seconds."""
    news, pauses = [0], [0]

    def count(of: list[int]) -> Callable[[], None]:
        def add() -> None:
            of[0] += 1

        return add

    kube_watch.listen(
        source,
        POD,
        {"a": "b"},
        changed=count(news),
        going=lambda: bool(source.watches),
        pause=count(pauses),
        clock=itertools.count(0.0, watch_s).__next__,
    )
    return news[0], pauses[0]


def test_each_change_is_news_and_bookmarks_are_not() -> None:
    source = Played([event("ADDED", "5"), event("BOOKMARK", "8"), event("DELETED", "9"), b""], [])
    assert heard(source) == (3, 0)  # the first list counts, too
    assert source.asked == ["list-1", "9"]
    assert source.lists == 1


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    source = Played([event("BOOKMARK", "8")], [event("MODIFIED", "9")], [])
    heard(source)
    assert source.asked[:2] == ["list-1", "8"]
    assert source.lists == 1


@pytest.mark.parametrize("trouble", [b'{"type": "ERROR", "object": {"code": 410}}', b"<html>", b'{"type": 1}', b"[]"])
def test_what_cannot_go_on_starts_anew_and_is_news(trouble: bytes) -> None:
    source = Played([event("ADDED", "5"), trouble], [], [])
    news, pauses = heard(source)
    assert (source.lists, pauses) == (2, 0)
    assert source.asked[:2] == ["list-1", "list-2"]
    assert news == 3


def test_a_broken_or_silent_watch_pauses_and_starts_anew() -> None:
    source = Played([event("ADDED", "5"), Unreachable("silence")], [], [])
    assert heard(source) == (3, 0)
    assert source.asked[:2] == ["list-1", "list-2"]


@pytest.mark.parametrize("ending", [[], [Unreachable("refused")], [b"<html>"]])
def test_a_watch_that_ends_at_once_is_not_opened_again_at_once(ending: list[Any]) -> None:
    source = Played(ending, ending, ending, [])
    assert heard(source, watch_s=0.1)[1] == 4


def test_who_may_not_watch_hears_nothing_and_asks_seldom() -> None:
    source = Played([AccessRefused("no")], [AccessRefused("no")], [])
    news, pauses = heard(source)
    assert (news, pauses) == (1, 2 * kube_watch.REFUSED_PAUSES)


def test_over_the_api_changes_come_at_once_and_survive_a_restart(tmp_path: Path) -> None:
    with Cluster(tmp_path / "k") as kube:
        client = KubeClient(namespace=kube.namespace, kubeconfig=str(kube.kubeconfig))
        told, ended = threading.Semaphore(0), threading.Event()
        thread = threading.Thread(
            target=kube_watch.listen,
            args=(client, POD, {"app": "x"}),
            kwargs={
                "changed": told.release,
                "going": lambda: not ended.is_set(),
                "pause": lambda: ended.wait(0.05) and None,
            },
            daemon=True,
        )
        thread.start()
        try:
            assert told.acquire(timeout=20)  # the list
            made = KubeClient(namespace=kube.namespace, kubeconfig=str(kube.kubeconfig))
            body = job("one")
            body["spec"]["tasks"][0]["template"]["metadata"] = {"labels": {"app": "x"}}
            from reconciler.backends.kube_control import JOB

            made.create(JOB, body)
            assert told.acquire(timeout=20)
            kube.wait(lambda: kube.phase("one") == "Running" or kube.phase("one") == "Completed")
            kube.stop()
            kube.start()
            while told.acquire(timeout=0.3):
                pass
            kube.delete("jobs", "one")
            assert told.acquire(timeout=20)
            made.close()
        finally:
            ended.set()
            kube.stop()
            thread.join(20)
            kube.start()
        assert not thread.is_alive()
        client.close()

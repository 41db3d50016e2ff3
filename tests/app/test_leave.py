"""Effects and the lock: once it is lost, or slept through, nothing more is done on any host."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.app import lanes
from reconciler.app.converge import Options, Reconciler
from reconciler.core.errors import LockHeld
from reconciler.core.memory import Launching
from tests.app.worlds import Desk
from tests.worlds import job, run_of


def test_once_the_lock_is_lost_no_further_effect_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "TICK_S", 0.05)
    desk = Desk(tmp_path)
    desk.want(*(job(name) for name in "abcd"))
    desk.one_pass()
    desk.want(*(job(name, command=["false"]) for name in "abcd"))
    lost = threading.Event()
    after: list[str] = []

    def cancel(known: Any, **more: Any) -> str:
        if lost.is_set():
            after.append(known.run.job.name)
        lost.wait(5)
        return "ok"

    desk.backends["ws"].answers["cancel"] = cancel

    def renew() -> None:
        lost.set()
        raise LockHeld("taken over")

    desk.store.renew = renew  # type: ignore[method-assign]
    desk.reconciler = Reconciler(desk.ports(), Options(delete_allowed=4))
    with pytest.raises(LockHeld):
        desk.reconciler.apply(desk.reconciler.look(), why="test")
    desk.reconciler._lanes._threads["ws"].shutdown(wait=True)
    assert after == []


def test_a_holder_that_wakes_after_its_term_does_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.one_pass()
    desk.want(job())
    append = desk.store.append
    acted: list[float] = []
    desk.backends["ws"].answers["submit"] = lambda submissions: (acted.append(desk.clock.now()), {})[1]

    def slept(lines: Any, **more: Any) -> None:
        append(lines, **more)
        desk.clock.at += 3600  # stopped, or the lid is closed

    desk.store.append = slept  # type: ignore[method-assign]
    with pytest.raises(LockHeld):
        desk.reconciler.apply(desk.reconciler.look(), why="test")
    assert acted == []


def test_what_is_sent_again_is_what_the_manifest_says(tmp_path: Path) -> None:
    """A record of the state names the wanted digest and another command: whoever may write the state chooses no command."""
    desk = Desk(tmp_path)
    wanted = job(command=["true"])
    desk.want(wanted)
    forged = replace(run_of(wanted), normal=job(command=["curl", "evil"]).normal)
    desk.store.lock()
    desk.store.append([(forged.job, Launching(forged, False))], commit="c")
    desk.store.mark_scanned(["ws"])
    desk.store.unlock()
    sent: list[str] = []
    desk.backends["ws"].answers["submit"] = lambda submissions: (
        sent.extend(str(item.run.normal) for item in submissions),
        {},
    )[1]
    desk.one_pass()
    assert sent
    assert "evil" not in "".join(sent)

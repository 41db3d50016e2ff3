"""A VM that deletes itself: the real guard, started on the worker (this machine), asks the emulated service over HTTP.

The reconciler does nothing more in these tests once the run has begun: as if it ran nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.phase import Phase
from tests.app.tpu.desks import FOR_EVER, MARKS, TpuDesk, finish
from tests.backends.test_tpu import ZONE

pytestmark = MARKS
WAIT_S = 20.0


class Guarded:
    """Desks whose host has `self_delete`; their guards are ended at the end."""

    def __init__(self, root: Path, bundle: Any, tpu: Any) -> None:
        self._made = (root, bundle, tpu)
        self.root, self.tpu = root, tpu

    def desk(self, **site: Any) -> TpuDesk:
        return TpuDesk(*self._made, **{"self_delete": True, "margin_s": 0.3, **site})

    def logs(self) -> list[Path]:
        return list(self.root.glob("work/.guard-*"))

    def said(self) -> str:
        return "".join(path.read_text() for path in self.logs())

    def ended(self) -> bool:
        """Has every guard let go of its lock?"""
        return not any(_is_held(path) for path in self.logs())

    def end(self) -> None:
        for path in self.logs():
            pid = path.read_text().partition("\n")[0]
            if pid and _is_held(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _is_held(path: Path) -> bool:
    import fcntl

    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@pytest.fixture
def guarded(tmp_path, bundle, tpu, monkeypatch) -> Iterator[Guarded]:
    monkeypatch.setenv("GCE_METADATA_HOST", tpu.rest)
    monkeypatch.setenv("RECONCILER_GUARD_API", f"http://{tpu.rest}")
    monkeypatch.setenv("RECONCILER_GUARD_POLL_S", "0.05")
    made = Guarded(tmp_path, bundle, tpu)
    yield made
    made.end()


def wait(holds: Any, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def deletions(tpu: Any) -> list[str]:
    return [call.name.rpartition("/")[2] for call in tpu.calls("DeleteNode") if call.code == "OK"]


def test_a_vm_whose_run_has_ended_deletes_itself_when_nobody_does(guarded: Guarded):
    desk = guarded.desk()
    desk.want("sleep 1")
    desk.settle(lambda: desk.phase() in (Phase.RUNNING, Phase.PREPARING))
    (name,) = desk.tpu.nodes()
    assert deletions(desk.tpu) == []
    wait(lambda: deletions(desk.tpu), "the VM deletes itself")
    assert set(deletions(desk.tpu)) == {name}
    desk.tpu.advance(600)
    wait(guarded.ended, "its guard ends")
    assert "its run has ended (completed)" in guarded.said()
    assert "does not know this VM" in guarded.said()
    finish(desk)


def test_while_a_run_lives_nothing_is_deleted_and_one_guard_is_enough(guarded: Guarded):
    desk = guarded.desk()
    desk.want(FOR_EVER)
    desk.settle(lambda: desk.phase() is Phase.RUNNING)
    node = desk.world.backend._control.get(ZONE, next(iter(desk.tpu.nodes())))
    (run,) = [memory.run for memory in desk.desk.store.memories().values()]
    terms = {"grace_s": 1.0}
    assert desk.world.backend._workers.guard(node, run, desk.world.backend._terms(node, run, terms)) == ""
    assert len(guarded.logs()) == 1
    deadline = time.monotonic() + 1.5  # many of its looks, and five times what it would wait
    while time.monotonic() < deadline:
        assert desk.tpu.calls("DeleteNode") == []
        time.sleep(0.05)
    assert not guarded.ended()
    finish(desk)


def test_a_run_past_the_ttl_of_its_vm_is_asked_to_end_before_the_vm_is_deleted(guarded: Guarded):
    desk = guarded.desk(disposal=Disposal(DeleteOn.NEVER, 0.0, 8.0))
    desk.want(["sh", "-c", f"trap 'touch {guarded.root}/asked; exit 0' TERM; sleep 600 & wait"])
    desk.tpu.settings(provision_s=2.0)
    desk.settle(lambda: desk.phase() is Phase.RUNNING, step_s=1.0)
    wait(lambda: (guarded.root / "asked").exists() or deletions(desk.tpu), "its end")
    assert (guarded.root / "asked").exists()
    wait(lambda: deletions(desk.tpu), "the VM deletes itself")
    assert "its ttl is past" in guarded.said()
    finish(desk)


@pytest.mark.parametrize(
    "kept", [Disposal(DeleteOn.NEVER), Disposal(DeleteOn.FAILURE), Disposal(DeleteOn.ALWAYS, 3600.0)]
)
def test_what_is_kept_is_not_deleted(guarded: Guarded, kept: Disposal):
    desk = guarded.desk(disposal=kept)
    desk.want(["true"])
    desk.settle(lambda: desk.phase() is Phase.SUCCEEDED)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert desk.tpu.calls("DeleteNode") == []
        time.sleep(0.05)
    assert not guarded.ended()
    desk.tpu.delete(next(iter(desk.tpu.nodes())))
    finish(desk)


@pytest.mark.parametrize("change", ["label", "disposal"])
def test_the_service_is_asked_first_whether_the_vm_is_still_that_one(guarded: Guarded, change: str):
    desk = guarded.desk()
    desk.want("sleep 1")
    desk.settle(lambda: desk.phase() in (Phase.RUNNING, Phase.PREPARING))
    (name,) = desk.tpu.nodes()
    kept = json.dumps({"delete": "never", "keep_s": 0, "ttl_s": None})
    node = desk.tpu._node(name)
    if change == "label":
        node.json["labels"]["reconciler-run"] = "another-run"
    else:
        node.json["metadata"]["reconciler-disposal"] = kept
    asked = len(desk.tpu.calls("GetNode"))
    wait(lambda: len(desk.tpu.calls("GetNode")) > asked, "the question")
    if change == "label":
        wait(guarded.ended, "its guard ends")
        assert "it is let alone" in guarded.said()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert desk.tpu.calls("DeleteNode") == []
        time.sleep(0.05)
    desk.tpu.delete(name)
    finish(desk)


def test_without_the_right_to_delete_it_says_so_and_tries_again(guarded: Guarded):
    desk = guarded.desk()
    desk.tpu.world.vm_token = ""
    desk.want("sleep 1")
    desk.settle(lambda: desk.phase() in (Phase.RUNNING, Phase.PREPARING))
    wait(lambda: "the metadata server answered" in guarded.said(), "what it could not do")
    assert desk.tpu.calls("DeleteNode") == []
    desk.tpu.world.vm_token = "another"
    wait(lambda: deletions(desk.tpu), "the VM deletes itself")
    finish(desk)

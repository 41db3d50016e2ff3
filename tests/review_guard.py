"""Review: what a manifest says by now, and what the guard on the VM does. On the emulator, the guard is real."""

from __future__ import annotations

import time

import pytest

from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.phase import Phase
from tests.app.tpu.desks import FOR_EVER, MARKS, bundle, finish, tpu  # noqa: F401
from tests.app.tpu.test_guard import Guarded, deletions, guarded, wait  # noqa: F401

pytestmark = MARKS


def test_a_ttl_that_was_raised_in_the_manifest_keeps_the_living_run(guarded: Guarded):
    desk = guarded.desk(disposal=Disposal(DeleteOn.NEVER, 0.0, 8.0))
    script = f"trap 'touch {guarded.root}/asked; exit 0' TERM; sleep 600 & wait"
    desk.want(["sh", "-c", script])
    desk.tpu.settings(provision_s=2.0)
    desk.settle(lambda: desk.phase() is Phase.RUNNING, step_s=1.0)
    desk.want(["sh", "-c", script], tpu={"ttl": "5h"})
    desk.one_pass()
    desk.tpu.advance(60)  # far past the old ttl
    desk.one_pass()
    assert desk.phase() is Phase.RUNNING  # the reconciler minds the edit
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        assert not (guarded.root / "asked").exists(), "the guard ended the run; " + guarded.said()
        time.sleep(0.1)
    finish(desk)


def test_a_vm_that_is_to_be_kept_by_an_edit_is_kept(guarded: Guarded):
    desk = guarded.desk()
    desk.want("sleep 3")
    desk.settle(lambda: desk.phase() is Phase.RUNNING, step_s=1.0)
    desk.want("sleep 3", tpu={"delete_on_exit": "never"})
    desk.one_pass()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert not deletions(desk.tpu), guarded.said()
        time.sleep(0.1)
    finish(desk)

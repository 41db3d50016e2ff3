"""The loop: when it passes, what it says once, what it survives. Time is virtual; waiting moves the clock."""

from __future__ import annotations

import threading

import pytest

from reconciler.app.converge import Reconciler
from reconciler.app.watch import COMMIT_POLL_S, ERROR_PAUSE_S, Pace, Stop, git_fingerprint, watch
from reconciler.core.errors import LockHeld, SourceError, StoreError
from tests.app.worlds import Desk
from tests.worlds import job, key


class Run:
    """A watch over a desk that ends after `until_s` of virtual time; `at` holds what happens when."""

    def __init__(self, desk: Desk, until_s: float, *, pace: Pace | None = None, at=()) -> None:
        self.desk, self.start = desk, desk.clock.now()
        self.passes: list[float] = []
        self.errors: list[str] = []
        self.done: list[str] = []
        self.waits: list[float] = []
        self.print = 0
        stop = Stop(threading.Event())
        todo = sorted(at, key=lambda item: item[0])

        def woken(seconds: float) -> bool:
            assert seconds > 0
            self.waits.append(seconds)
            desk.clock.sleep(seconds)
            while todo and todo[0][0] <= desk.clock.now() - self.start:
                todo.pop(0)[1](self)
            if desk.clock.now() - self.start >= until_s:
                stop.ask()
            return False

        watch(
            desk.reconciler,
            pace or Pace(),
            stop,
            fingerprint=lambda: self.print,
            woken=woken,
            on_pass=lambda seen: self.passes.append(desk.clock.now() - self.start),
            on_done=lambda item: self.done.append(f"{item.action.verb} {item.action.job.name}"),
            on_error=lambda error: self.errors.append(error.message),
        )

    def commit(self, *jobs) -> None:
        self.desk.want(*jobs)
        self.print += 1


def test_a_commit_is_picked_up_within_one_poll(desk):
    run = Run(desk, 30, pace=Pace(busy_s=600, idle_s=600), at=[(10, lambda run: run.commit(job()))])
    assert [at for at in run.passes if at <= 10 + COMMIT_POLL_S][1:] == [pytest.approx(10, abs=COMMIT_POLL_S)]
    assert run.done == ["launch a"]
    assert max(run.waits) <= COMMIT_POLL_S


def test_an_idle_world_is_looked_at_rarely_and_a_busy_one_often(desk):
    idle = Run(desk, 300)
    assert idle.passes == [0, 60, 120, 180, 240]
    desk.want(job())
    busy = Run(desk, 30)
    assert len(busy.passes) >= 6


def test_after_an_effect_the_next_look_comes_soon(desk):
    desk.want(job())
    run = Run(desk, 5, pace=Pace(busy_s=100, idle_s=100))
    assert run.passes[:2] == [0, 1]


def test_the_next_pass_comes_when_the_back_off_ends(desk):
    from reconciler.core.cause import Cause
    from reconciler.core.observation import ReportStatus

    desk.want(job())
    desk.one_pass()
    [process] = desk.machines["ws"].living()
    desk.machines["ws"].end(process.run.run_id, ReportStatus.FAILED, Cause.FAILURE, 1)
    run = Run(desk, 11, pace=Pace(busy_s=300, idle_s=300))
    assert run.passes[:2] == [0, 10]
    assert run.done == ["requeue a"]


def test_a_refusal_is_said_once_and_nothing_is_done(desk):
    desk.want(*(job(f"j{n}") for n in range(4)))
    desk.one_pass()
    desk.manifests.clear()
    run = Run(desk, 60, pace=Pace(busy_s=5, idle_s=5))
    assert len(run.passes) > 5
    assert len(run.errors) == 1
    assert "--confirm-delete 4" in run.errors[0]
    assert len(desk.machines["ws"].living()) == 4


def test_a_refusal_that_comes_back_is_said_again(desk):
    desk.want(*(job(f"j{n}") for n in range(4)))
    desk.one_pass()
    kept = dict(desk.manifests)
    run = Run(
        desk,
        60,
        at=[
            (10, lambda run: (desk.manifests.clear(), run.commit())),
            (20, lambda run: run.commit(*kept.values())),
            (30, lambda run: (desk.manifests.clear(), run.commit())),
        ],
    )
    assert len(run.errors) == 2


@pytest.mark.parametrize("error", [SourceError("git is gone"), StoreError("disk full"), LockHeld("ci is at it")])
def test_an_error_is_said_and_the_loop_goes_on(desk, error):
    desk.want(job())
    desk.failing["read"] = error
    run = Run(desk, 12, at=[(7, lambda run: desk.failing.clear())])
    assert run.errors[0] == error.message
    assert run.errors == [error.message] * 2
    assert run.passes[0] == pytest.approx(2 * ERROR_PAUSE_S, abs=0.1)
    assert run.done == ["launch a"]


def test_after_another_reconcilers_write_it_looks_again_at_once(desk):
    desk.want(job())
    other = desk.another("ci")

    class Interrupted(Reconciler):
        def look(self, **more):
            seen = super().look(**more)
            if not meddled:
                meddled.append(other.apply(other.look(), why="ci"))
            return seen

    meddled: list[object] = []
    desk.reconciler = Interrupted(desk.ports())
    run = Run(desk, 3, pace=Pace(busy_s=100, idle_s=100))
    assert run.passes[:2] == [0, 0]
    assert run.errors == []
    assert desk.machines["ws"].calls.count("submit") == 1
    other.close()
    other.ports.store.close()


def test_a_stop_ends_the_loop_after_the_pass(desk):
    desk.want(job())
    stop = Stop(threading.Event())
    passes = []
    watch(
        desk.reconciler,
        Pace(),
        stop,
        fingerprint=lambda: 0,
        woken=lambda seconds: True,
        on_pass=lambda seen: (passes.append(seen), stop.ask()),
        on_done=lambda item: None,
        on_error=lambda error: None,
    )
    assert len(passes) == 1
    assert desk.store.memories()[key()].submitted


def test_the_fingerprint_moves_with_every_commit_and_edit(tmp_path):
    import subprocess

    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *words],
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    look, look_at_files = git_fingerprint(tmp_path / ".git", None), git_fingerprint(tmp_path / ".git", manifests)
    before, before_files = look(), look_at_files()
    (manifests / "a.yaml").write_text("x")
    assert look() == before
    assert look_at_files() != before_files
    git("add", "-A")
    git("commit", "-qm", "one")
    committed = look()
    assert committed != before
    git("pack-refs", "--all")
    packed = look()
    git("commit", "-q", "--allow-empty", "-m", "two")
    assert look() not in (committed, packed)
    assert look() == look()

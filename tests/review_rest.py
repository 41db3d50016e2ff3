"""Review of acting under a lock, and of money: each test says what should hold; those that fail are findings."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.app.act import act
from reconciler.app.converge import Options, Reconciler
from reconciler.backends.fake import FakeBackend
from reconciler.core.actions import Start
from reconciler.core.cause import Cause
from reconciler.core.errors import LockHeld, StoreError
from reconciler.core.inventory import Limits
from reconciler.core.memory import Launched, Launching, Memory, Refused, fold
from reconciler.core.observation import Census
from reconciler.core.solve import HostView, Rented
from reconciler.store.git import GitStore
from reconciler.store.gitref import GitRef
from runtime.guard import Rule
from tests.app.worlds import Desk
from tests.store.test_git import Remote
from tests.worlds import NOW, job, key, run_of, unsettled_memory


# --- G7: after the lock is lost, the lanes go on
def test_once_the_lock_is_lost_no_further_effect_follows(tmp_path, monkeypatch) -> None:
    from reconciler.app import lanes

    monkeypatch.setattr(lanes, "TICK_S", 0.05)
    desk = Desk(tmp_path)
    desk.want(job("a"), job("b"), job("c"), job("d"))
    desk.one_pass()
    for name in "abcd":
        desk.want(job(name, command=["false"]))
    lost = threading.Event()
    after: list[str] = []
    ws = desk.backends["ws"]
    cancelled: list[str] = []

    def cancel(known, **more):
        cancelled.append(known.run.job.name)
        if lost.is_set():
            after.append(known.run.job.name)
        else:
            lost.wait(5)
        return "ok"

    ws.answers["cancel"] = cancel

    def renew() -> None:
        lost.set()
        raise LockHeld("taken over")

    desk.store.renew = renew
    desk.reconciler = Reconciler(desk.ports(), Options(delete_allowed=4))
    seen = desk.reconciler.look()
    with pytest.raises(LockHeld):
        desk.reconciler.apply(seen, why="test")
    desk.reconciler._lanes._threads["ws"].shutdown(wait=True)
    assert after == [], f"cancelled after the lock was known to be lost: {after}"


# --- G20: a holder that wakes up between its intent and its effect, long after its term
def test_a_holder_that_wakes_after_its_term_does_not_act(tmp_path) -> None:
    remote = Remote(tmp_path / "git")
    desk = Desk(tmp_path)
    store = GitStore(GitRef(remote.clone("first")), now=desk.clock.now, actor="jo")
    desk.reconciler = Reconciler(desk.ports(store=store))
    desk.one_pass()  # the host has been looked at before, as it always has
    assert store.scanned() == {"ws"}
    desk.want(job())
    append = store.append
    acted = []
    desk.backends["ws"].answers["submit"] = lambda submissions: (acted.append(desk.clock.now()), {})[1]

    def slept(lines, **more):
        append(lines, **more)
        desk.clock.at += 3600  # SIGSTOP, or the lid is closed

    store.append = slept
    try:
        desk.reconciler.apply(desk.reconciler.look(), why="t")
    except LockHeld:
        pass
    assert acted == []


# --- G19: what the state says of a run is run as it says
def test_a_forged_record_of_an_unsettled_run_does_not_choose_the_command(tmp_path) -> None:
    desk = Desk(tmp_path)
    wanted = job(command=["true"])
    desk.want(wanted)
    evil = job(command=["curl", "evil"])
    run = replace(run_of(wanted), normal=evil.normal)  # digest of what is wanted, text of something else
    desk.store.lock()
    desk.store.append([(run.job, Launching(run, False))], commit="c")
    desk.store.mark_scanned(["ws"])
    desk.store.unlock()
    sent = []
    desk.backends["ws"].answers["submit"] = lambda submissions: (
        sent.extend(
            list(item.run.normal["command"]) if "command" in item.run.normal else item.run.normal
            for item in submissions
        ),
        {},
    )[1]
    desk.one_pass()
    assert "evil" not in str(sent), sent


# --- B1: an unsettled launch is sent again whatever it costs by now
def rent(price: float, chips: int = 4) -> HostView:
    return HostView("pod", "tpu", "lab", {}, rented=Rented("tpu-v4", chips, chips, ("z",), 4, price))


def planned(memory, wanted, view, *, limits=Limits(), approved=False):
    from reconciler.app.wiring import chip_of
    from reconciler.core.observation import Observation
    from reconciler.core.plan import World, plan
    from reconciler.load.normal import decode
    from tests.worlds import OWNER

    return plan(
        World(
            desired={wanted.key: wanted},
            frozen={},
            complete=True,
            memories={wanted.key: memory},
            observation=Observation({"pod": Census("pod", True, {}, scanned=True)}),
            hosts=(view,),
            owner=OWNER,
            now=NOW,
            decode=decode,
            chip_of=chip_of,
            approved=approved,
            limits=limits,
        )
    )


def wanted_on_tpu():
    return job(spec={"request": {"chip": "tpu-v4", "min_chips": 4}})


def test_a_launch_that_was_cut_short_is_not_sent_again_at_a_price_nobody_agreed_to() -> None:
    wanted = wanted_on_tpu()
    run = run_of(wanted, host="pod")
    memory = fold(Memory(run.job), Launching(run, False, 10.0), NOW - 100)  # yes to 10 an hour; then killed
    made = planned(memory, wanted, rent(100.0))  # the inventory says 400 an hour by now (a bigger type, or a new price)
    starts = [a for a in made.actions if isinstance(a.effect, Start)]
    assert not starts, starts[0].message


def test_a_launch_that_was_cut_short_keeps_the_limits() -> None:
    wanted = wanted_on_tpu()
    run = run_of(wanted, host="pod")
    memory = fold(Memory(run.job), Launching(run, False, 40.0), NOW - 100)
    made = planned(memory, wanted, rent(10.0), limits=Limits(max_cost_per_hour=1.0))
    assert not [a for a in made.actions if isinstance(a.effect, Start)]


def test_a_launch_that_was_cut_short_counts_for_the_limits_of_others() -> None:
    """Two jobs; the one's launch is unsettled and is sent again (40 an hour); the other's fresh one is 40: the limit is 50."""
    from reconciler.app.wiring import chip_of
    from reconciler.core.observation import Observation
    from reconciler.core.plan import World, plan
    from reconciler.load.normal import decode
    from tests.worlds import OWNER

    a, b = (job(n, spec={"request": {"chip": "tpu-v4", "min_chips": 4}}) for n in "ab")
    run = run_of(a, host="pod")
    memory = fold(Memory(run.job), Launching(run, False, 40.0), NOW - 100)
    made = plan(
        World(
            desired={a.key: a, b.key: b},
            frozen={},
            complete=True,
            memories={a.key: memory},
            observation=Observation({"pod": Census("pod", True, {}, scanned=True)}),
            hosts=(rent(10.0),),
            owner=OWNER,
            now=NOW,
            decode=decode,
            chip_of=chip_of,
            approved=True,
            limits=Limits(max_cost_per_hour=50.0),
        )
    )
    assert len([x for x in made.actions if isinstance(x.effect, Start)]) <= 1, [x.message for x in made.actions]


# --- B3: the guard deletes what the manifest says to keep
def test_the_guard_keeps_a_vm_whose_run_failed_without_a_record_when_only_success_deletes() -> None:
    made = Rule(
        {"margin_s": 900, "start_s": 600, "age_s": 0, "disposal": {"delete": "success", "keep_s": 0, "ttl_s": None}},
        0.0,
    )
    made.see(True, True, 1.0)
    made.see(False, True, 2.0)
    assert made.why("", 5000.0) == ""  # release.fate keeps it: "its run failed, and delete_on_exit is success"


# --- B4: cool-down written by a machine whose clock is ahead
def test_a_zone_that_was_dry_in_the_future_is_asked_after_the_cool_down() -> None:
    wanted = wanted_on_tpu()
    run = replace(run_of(wanted, host="pod"), place={"zone": "z"})
    memory = fold(Memory(run.job), Launching(run, False, 40.0), NOW + 86_400)
    memory = fold(memory, Refused(run.run_id, "no capacity", NOW + 10, Cause.CAPACITY), NOW + 86_400)
    memory = replace(memory, not_before=0.0)
    view = replace(rent(10.0), rented=replace(rent(10.0).rented, cooldown_s=600.0))
    made = planned(memory, wanted, view, approved=True)
    assert [a for a in made.actions if isinstance(a.effect, Start)], made.views[0].message

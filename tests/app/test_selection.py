"""A selection limits what is decided. What the others hold stays theirs."""

from __future__ import annotations

from reconciler.core.errors import OutcomeUnknown
from reconciler.core.observation import ReportStatus
from reconciler.core.solve import HostView
from tests.app.worlds import Desk
from tests.worlds import gpus, job, key


def test_a_pass_over_one_job_lets_the_other_ones_be(desk):
    desk.want(job("a"), job("b"))
    desk.one_pass()
    desk.want(job("c"))
    del desk.manifests[key("b")]
    desk.reconciler.select(frozenset({key("c")}))
    seen = desk.reconciler.look()
    assert [(action.verb.value, action.job.name) for action in seen.plan.actions] == [("launch", "c")]
    assert seen.plan.refusal is None
    desk.reconciler.apply(seen, why="submit")
    assert len(desk.machines["ws"].living()) == 3
    assert "cancel b" not in desk.log


def test_a_pass_over_one_job_adopts_no_other_and_a_later_full_pass_still_finds_it(desk, tmp_path):
    desk.want(job("a"))
    desk.one_pass()
    [process] = desk.machines["ws"].living()
    desk.machines["ws"].end(process.run.run_id, ReportStatus.COMPLETED)
    fresh = Desk(tmp_path / "fresh", machines=desk.machines)
    fresh.want(job("a"), job("b"))
    fresh.reconciler.select(frozenset({key("b")}))
    fresh.one_pass()
    assert set(fresh.store.memories()) == {key("b")}
    fresh.reconciler.select(None)
    seen = fresh.reconciler.look()
    assert not seen.plan.effects
    assert [view.phase.value for view in seen.plan.views] == ["Succeeded", "Running"]
    fresh.close()


def test_what_an_unselected_job_may_be_using_is_not_given_to_a_selected_one(desk):
    desk.machines["ws"].gpus = gpus(1)
    desk.reconciler = type(desk.reconciler)(desk.ports(hosts=(HostView("ws", "plain", "lab", None),)))
    desk.want(job("a", request={"min_chips": 1}))
    desk.backends["ws"].answers["submit"] = _cut
    desk.one_pass()
    desk.want(job("b", request={"min_chips": 1}))
    desk.reconciler.select(frozenset({key("b")}))
    seen = desk.reconciler.look()
    assert seen.plan.actions == ()
    assert [(view.job.name, view.reason) for view in seen.plan.views] == [("b", "Unplaceable")]


def test_a_selected_job_waits_for_an_unselected_one_that_it_depends_on(desk):
    desk.want(job("a"), job("b", depends_on=["general/default/a"]))
    desk.reconciler.select(frozenset({key("b")}))
    [view] = desk.reconciler.look().plan.views
    assert (view.job.name, view.reason) == ("b", "DependencyWaiting")


def _cut(submissions):
    raise OutcomeUnknown("cut")

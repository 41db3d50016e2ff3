"""`explain`: why is this job not running, or why did it end, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from reconciler.cli.common import GLOBALS, Exit, JobArgument, Json, find_job, session

if TYPE_CHECKING:
    from reconciler.app.converge import Pass, Reconciler
    from reconciler.core.names import JobKey


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(job: JobArgument, as_json: Json = False) -> int:
    """Tell why a job is as it is: the rule that failed per host, spent budgets, the next try.

    Example: reconciler explain lm/ablations/small
    """
    from reconciler.cli.out import emit, say

    with session() as reconciler:
        key = find_job(reconciler, job)
        seen = reconciler.look()
        told = _told(reconciler, seen, key)
    if as_json or GLOBALS.as_json:
        emit({"version": 1, "exit_code": 0, **told})
        return int(Exit.DONE)
    for line in _text(told):
        say(line)
    return int(Exit.DONE)


def _told(reconciler: Reconciler, seen: Pass, key: JobKey) -> dict[str, object]:
    from reconciler.core.cause import Cause, budget
    from reconciler.core.memory import Memory

    now = seen.world.now
    view = next((view for view in seen.plan.views if view.job == key), None)
    memory = seen.world.memories.get(key) or Memory(key)
    action = next((action for action in seen.plan.actions if action.job == key), None)
    problem = seen.state.frozen.get(key)
    wanted = seen.world.desired.get(key)
    restart = reconciler.ports.decode(wanted.normal).restart if wanted else None
    budgets = []
    if restart is not None:
        for cause in (
            Cause.PREEMPTION,
            Cause.INFRASTRUCTURE,
            Cause.FAILURE,
            Cause.TIMEOUT,
            Cause.OUT_OF_MEMORY,
            Cause.CANCELLED,
        ):
            limit = budget(restart, cause)
            budgets.append({"cause": cause.value, "spent": memory.spent.get(cause, 0), "limit": limit})
    alarm = next((one for one in seen.plan.alarms if key in one.missing), None)
    alike = None
    if memory.series is not None and memory.series.count:
        limit = restart.same_failure if restart is not None else None
        alike = {"count": memory.series.count, "limit": limit, "failure": memory.series.failure}
    return {
        "job": str(key),
        "phase": view.phase.value if view else "Unknown to this repository",
        "reason": view.reason if view else "",
        "message": view.message if view else "no manifest describes it, and nothing of it is remembered",
        "host": view.host if view else "",
        "attempt": view.attempt if view else memory.attempt,
        "run_id": view.run_id if view else "",
        "manifest": f"{wanted.file}:{wanted.line}" if wanted else "",
        "problem": str(problem) if problem else "",
        "next_action": None if action is None else {"verb": action.verb.value, "message": action.message},
        "next_try_s": None if view is None or not view.next_try else round(view.next_try - now, 1),
        "hosts": [{"host": host, "why": why} for host, why in (view.passed_over if view else ())],
        "budgets": budgets,
        "same_failure": alike,
        "alarm": "" if alarm is None else alarm.message,
        "last_end": memory.last_end,
        "pinned_commit": memory.pin,
    }


def _text(told: dict[str, object]) -> list[str]:
    from reconciler.cli.out import ago

    lines = [f"{told['job']} is {told['phase']} ({told['reason']})", f"  {told['message']}"]
    if told["alarm"]:
        lines.append(f"  {told['alarm']}")
    if told["problem"]:
        lines.append(f"  Its manifest cannot be used: {told['problem']}")
    if told["manifest"]:
        lines.append(f"  Manifest: {told['manifest']}")
    if told["run_id"]:
        lines.append(f"  Attempt {told['attempt']} on {told['host']}: {told['run_id']}")
    if told["last_end"] and told["last_end"] != told["message"]:
        lines.append(f"  The last attempt ended: {told['last_end']}")
    hosts, budgets = told["hosts"], told["budgets"]
    assert isinstance(hosts, list)
    assert isinstance(budgets, list)
    if hosts:
        lines.append("  Why not on each host:")
        lines += [f"    {item['host']}: {item['why']}" for item in hosts]
    if told["next_try_s"] is not None:
        assert isinstance(told["next_try_s"], float)
        lines.append(f"  Next try in {ago(told['next_try_s'])}")
    spent = [item for item in budgets if item["spent"]]
    if spent:
        words = ", ".join(
            f"{item['cause']} {item['spent']} of {'unlimited' if item['limit'] is None else item['limit']}"
            for item in spent
        )
        lines.append(f"  Requeues spent: {words}")
    alike = told["same_failure"]
    if isinstance(alike, dict):
        limit = "unlimited" if alike["limit"] is None else alike["limit"]
        lines.append(
            f"  The same failure in a row, without a step of progress: {alike['count']} of {limit} ({alike['failure']})"
        )
    action = told["next_action"]
    if isinstance(action, dict) and action["verb"] != "hold":
        lines.append(f"  The next apply will {action['verb']}: {action['message']}")
    return lines

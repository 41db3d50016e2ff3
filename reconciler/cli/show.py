"""A plan, and what became of it, as text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from reconciler.app.act import Done
from reconciler.app.converge import Pass
from reconciler.cli.out import first_line, say, styled, warn
from reconciler.core.actions import Action, Start, Verb
from reconciler.core.breaker import REASON as MISSING
from reconciler.core.breaker import Alarm
from reconciler.core.machine import Machine
from reconciler.core.phase import Phase
from reconciler.core.release import Fate

WAITING = frozenset({Phase.PENDING, Phase.PREEMPTED, Phase.LOST})
_WAITING_SHOWN_MAX = 20

GLYPH = {
    Verb.LAUNCH: ("+", "add"),
    Verb.REQUEUE: (">", "add"),
    Verb.ADOPT: ("=", "info"),
    Verb.REPLACE: ("~", "change"),
    Verb.CANCEL: ("x", "change"),
    Verb.HOLD: ("?", "change"),
    Verb.FORGET: ("-", "remove"),
    Verb.DELETE: ("-", "remove"),
}


def show_plan(seen: Pass, *, next_step: str | None) -> None:
    """Every line with its reason, frozen manifests, one summary line, and the command that applies it."""
    for problem in seen.state.problems:
        say(f"{styled('!', 'remove')} frozen   {problem}")
    for note in seen.state.notes:
        warn(f"note: {note}")
    for alarm in seen.plan.alarms:
        say(alarm_line(alarm))
    width = max((len(str(action.job)) for action in seen.plan.actions), default=0)
    for action in seen.plan.actions:
        say(line_of(action, width))
        for change in action.changes:
            say(f"             {styled(str(change), 'faint')}")
    touched = {action.job for action in seen.plan.actions}
    waiting = [view for view in seen.plan.views if view.job not in touched and view.phase in WAITING]
    for view in waiting[:_WAITING_SHOWN_MAX]:
        say(styled(f". waits    {view.job!s:<{width}}  {first_line(view.message)}", "faint"))
    if len(waiting) > _WAITING_SHOWN_MAX:
        say(styled(f". waits    and {len(waiting) - _WAITING_SHOWN_MAX} more", "faint"))
    for machine, fate in seen.plan.kept:
        say(styled(f"$ kept     {machine.job!s:<{width}}  {kept(machine, fate)}", "change"))
    say(summary(seen))
    if rent := rented(seen):
        say(rent)
    if seen.plan.refusal is not None:
        warn(styled(seen.plan.refusal.message, "remove"))
    elif next_step and seen.plan.effects:
        exact = " exactly this" if next_step.partition(" apply ")[2][:1] not in ("", "-") else ""
        say(f"To apply{exact}: {styled(next_step, 'bold')}")


def alarm_line(alarm: Alarm) -> str:
    """One line for a host on which too many runs vanished, however many those are."""
    return f"{styled('! alarm', 'remove')}    {alarm.message}"


def kept(machine: Machine, fate: Fate) -> str:
    """Why a machine that no attempt needs is still there, what that costs, and until when."""
    price = f" at {machine.price_per_hour:.2f} an hour" if machine.price_per_hour else ""
    until = datetime.fromtimestamp(fate.until).strftime(" until %H:%M:%S") if fate.until else ""
    end = until or "; to delete it: reconciler sweep"
    return f"{machine.shown} is kept{price}: {fate.why}{end}"


def rented(seen: Pass) -> str:
    """What rented machines cost now, have cost, and will cost with this plan; "" where nothing is rented."""
    spent = seen.plan.spending
    placements = [
        action.effect.placement
        for action in seen.plan.actions
        if isinstance(action.effect, Start) and action.effect.placement is not None
    ]
    more = [one.price_per_hour for one in placements if one.price_per_hour is not None]
    unseen = f"{', '.join(spent.blind)} cannot be asked: what is rented there goes on costing" if spent.blind else ""
    if not spent.machines and not more and not spent.total:
        return f"{styled('Rented:', 'bold')} {unseen}." if unseen else ""
    parts = [f"{spent.machines} machine{'s' * (spent.machines != 1)}, {spent.per_hour:.2f} an hour"]
    if more:
        parts.append(f"this plan adds {sum(more):.2f} an hour")
    parts.append(f"{spent.total:.2f} so far")
    if unseen:
        parts.append(unseen)
    if spent.unpriced or 0.0 in more:
        parts.append("prices are missing in the inventory")
    return f"{styled('Rented:', 'bold')} {'; '.join(parts)}."


def line_of(action: Action, width: int) -> str:
    glyph, colour = GLYPH[action.verb]
    if action.verb is Verb.HOLD and action.reason != "HostUnknown":
        glyph = "!"
    return f"{styled(f'{glyph} {action.verb.value:<8}', colour)} {action.job!s:<{width}}  {action.message}"


def summary(seen: Pass) -> str:
    """`Plan: 2 to launch, 1 to delete; 7 unchanged, 1 held, 1 frozen.`"""
    counts = seen.plan.counts()
    held = counts.pop("hold")
    doing = [f"{count} to {verb}" for verb, count in counts.items() if count]
    touched = {action.job for action in seen.plan.actions}
    waiting = sum(view.job not in touched and view.phase in WAITING for view in seen.plan.views)
    resting = [
        view for view in seen.plan.views if view.job not in touched and not view.frozen and view.phase not in WAITING
    ]
    missing = sum(view.phase is Phase.HELD and view.reason == MISSING for view in resting)
    rest = [f"{len(resting) - missing} unchanged"]
    if waiting:
        rest.append(f"{waiting} waiting")
    if held:
        rest.append(f"{held} held")
    if missing:
        rest.append(f"{missing} missing")
    if seen.state.problems:
        rest.append(f"{len(seen.state.problems)} problem{'s' * (len(seen.state.problems) > 1)} in manifests")
    head = ", ".join(doing) if doing else "nothing to do"
    return f"{styled('Plan:', 'bold')} {head}; {', '.join(rest)}."


def show_done(item: Done) -> None:
    """One line when an action is over."""
    glyph, colour = GLYPH[item.action.verb]
    where = f" on {item.action.host}" if item.action.host else ""
    if item.ok:
        say(f"{styled(f'{glyph} {item.action.verb.value}', colour)} {item.action.job}{where}: {item.message}")
    else:
        warn(f"{styled('! ' + item.action.verb.value, 'remove')} {item.action.job}{where}: {item.message}")


def results_to_json(items: Iterable[Done]) -> list[dict[str, object]]:
    return [
        {
            "verb": item.action.verb.value,
            "job": str(item.action.job),
            "run_id": item.action.run_id,
            "host": item.action.host,
            "ok": item.ok,
            "message": item.message,
        }
        for item in items
    ]


def closing(seen: Pass, done: Iterable[Done]) -> str:
    """The last line of an apply: what it came to."""
    items = list(done)
    bad = sum(not item.ok for item in items)
    phases: dict[str, int] = {}
    for view in seen.plan.views:
        phases[view.phase.value] = phases.get(view.phase.value, 0) + 1
    now = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "no jobs"
    if not items:
        return f"Nothing to do. Jobs: {now}."
    return (
        f"Done: {len(items) - bad} action{'s' * (len(items) - bad != 1)}"
        + (f", {bad} did not work" if bad else "")
        + f". Jobs at the last look: {now}."
    )

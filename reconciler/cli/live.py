"""The status table while one waits: redrawn in place on a terminal, one line per change elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reconciler.cli.out import coloured, first_line, say

if TYPE_CHECKING:
    from reconciler.app.act import Done
    from reconciler.app.converge import Pass
    from reconciler.core.actions import View

_COLOURS = {
    "Running": "green",
    "Succeeded": "green",
    "Failed": "red",
    "Held": "yellow",
    "Unknown": "yellow",
    "Lost": "red",
    "Preempted": "yellow",
    "Terminating": "yellow",
}

# Rows that fit a screen; the rest is a count. Those that move come first.
_ROWS_MAX = 30


class Live:
    """Shows each pass as it comes."""

    def __init__(self, *, quiet: bool, lines_only: bool = False, told: Iterable[str] = ()) -> None:
        """`told`: hosts whose alarm is on the screen already."""
        self._quiet = quiet
        self._lines_only = lines_only
        self._live: Any = None
        self._last: dict[str, str] = {}
        self._alarmed = set(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Pass) -> None:
        if self._quiet:
            return
        self._alarms(seen)
        if self._lines_only or not coloured():
            self._lines(seen)
            return
        if self._live is None:
            from rich.live import Live as RichLive

            self._live = RichLive(refresh_per_second=8)
            self._live.start()
        self._live.update(table(seen.plan.views))

    def note(self, item: Done) -> None:
        """An action that a pass took while one waits."""
        from reconciler.cli.show import show_done

        if not self._quiet:
            show_done(item)

    def _alarms(self, seen: Pass) -> None:
        """One line when too many runs of a host vanish, and one when they are seen again: not when it cannot be asked."""
        from reconciler.cli.show import alarm_line

        alarms = {alarm.host: alarm for alarm in seen.plan.alarms}
        for host in sorted(alarms.keys() - self._alarmed):
            say(alarm_line(alarms[host]))
        looks = seen.world.observation.censuses
        unseen = {host for host in self._alarmed if host in looks and not looks[host].complete}
        for host in sorted(self._alarmed - alarms.keys() - unseen):
            say(f"{host}: the alarm is over; its jobs are minded again.")
        self._alarmed = set(alarms) | unseen

    def _lines(self, seen: Pass) -> None:
        """Without a terminal: a line when a job's phase changes, and one for each tenth of its progress. The alarm of a host
        stands for its missing runs."""
        missing = {job for alarm in seen.plan.alarms for job in alarm.missing}
        for view in seen.plan.views:
            if view.job in missing:
                self._last[str(view.job)] = view.phase.value
                continue
            share = ""
            if view.progress is not None and view.progress.total:
                share = f"{view.progress.step * 10 // view.progress.total * 10}%"
            key = f"{view.phase}{share}"
            if self._last.get(str(view.job)) != key:
                self._last[str(view.job)] = key
                say(f"{view.job}: {view.phase}{f' {bar(view)}' if view.progress else ''}  {first_line(view.message)}")


def table(views: tuple[View, ...]) -> Any:
    """The status table as a rich renderable."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("JOB", "PHASE", "ATTEMPT", "HOST", "PROGRESS", "MESSAGE"):
        shown.add_column(name, no_wrap=name != "MESSAGE", overflow="fold" if name == "MESSAGE" else "ellipsis")
    moving = sorted(views, key=lambda view: (view.phase.value in ("Succeeded", "Cancelled"), str(view.job)))
    for view in moving[:_ROWS_MAX]:
        shown.add_row(
            Text(str(view.job)),
            Text(view.phase.value, style=_COLOURS.get(view.phase.value, "")),
            str(view.attempt or ""),
            Text(view.host),
            Text(bar(view)),
            Text(first_line(view.message), style="dim"),
        )
    if len(moving) > _ROWS_MAX:
        shown.add_row(f"… and {len(moving) - _ROWS_MAX} more", "", "", "", "", "")
    return shown


def bar(view: View, *, width: int = 16) -> str:
    """`████████░░░░░░░░ 200/400` or `step 200`, with the loss when there is one."""
    if view.progress is None:
        return ""
    step, total = view.progress.step, view.progress.total
    if not total:
        return f"step {step}"
    filled = max(0, min(width, step * width // total))
    loss = view.progress.metrics.get("loss")
    return f"{'█' * filled}{'░' * (width - filled)} {step}/{total}" + (f" loss {loss:.3g}" if loss is not None else "")

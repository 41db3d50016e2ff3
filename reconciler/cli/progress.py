"""Progress bars of transfers: rich on a terminal, one line per finished transfer elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from reconciler.cli.out import coloured, warn

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Below this nothing is drawn: it is over before a person could read it.
_WORTH_A_BAR = 256 << 10


class Transfers:
    """Bars for what is on its way, keyed by what it is. `advance` is called from the lanes' threads."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes of `what` have been sent."""
        if self._quiet or total < _WORTH_A_BAR:
            return
        if not coloured():
            if done >= total:
                warn(f"sent {what} ({total / 1e6:.1f} MB)")
            return
        if self._bars is None:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("sending {task.description}"),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                transient=True,
            )
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)

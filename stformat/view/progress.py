"""The progress of a conversion on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from stformat import model

__all__ = ["shown_progress"]


@contextmanager
def shown_progress(console: Console | None = None) -> Iterator[model.Progress]:
    """Show the steps of a conversion while they go on.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; standard error by default.

    Yields
    ------
    callable
        Takes `stformat.model.ProgressEvent` objects.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _line_printer(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _bar_mover(bars)


def _line_printer(console: Console) -> model.Progress:
    announced: set[str] = set()

    def show(event: model.ProgressEvent, /) -> None:
        if event.step not in announced:
            announced.add(event.step)
            amount = f" ({event.total} {event.unit})" if event.total else ""
            console.print(f"{event.step}{amount}", highlight=False, markup=False)

    return show


def _bar_mover(bars: Progress) -> model.Progress:
    tasks: dict[str, TaskID] = {}

    def show(event: model.ProgressEvent, /) -> None:
        total = event.total or 1
        if event.step not in tasks:
            for earlier in tasks.values():
                bars.update(earlier, completed=bars.tasks[earlier].total)
            tasks[event.step] = bars.add_task(event.step, total=total, unit=event.unit)
        bars.update(tasks[event.step], completed=event.done)

    return show

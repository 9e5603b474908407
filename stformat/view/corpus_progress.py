"""The progress of a corpus on standard error: bars on a terminal, a line a slide elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stformat.convert.report import CorpusEvent, CorpusProgress
from stformat.model import ProgressEvent

__all__ = ["shown_corpus_progress"]


@contextmanager
def shown_corpus_progress(console: Console | None = None) -> Iterator[CorpusProgress]:
    """Show which slides of a corpus are converted, and how far each is.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; standard error by default.

    Yields
    ------
    callable
        Takes `stformat.convert.report.CorpusEvent` objects.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: _print_line(console, event)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


def _print_line(console: Console, event: CorpusEvent) -> None:
    if event.outcome is None:
        return
    done = f"{event.n_done} of {event.n_slides}, {_size(event)}"
    line = f"{event.slide_id}: {event.outcome.result} ({done})"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _size(event: CorpusEvent) -> str:
    return f"{decimal(event.bytes_done)} of {decimal(event.bytes_total)}"


class _Bars:
    """One bar for the slides, one for their bytes, and one for each slide that is converted."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._slides = bars.add_task("slides", amount="")
        self._bytes = bars.add_task("bytes", amount="")
        self._active: dict[str | None, TaskID] = {}

    def __call__(self, event: CorpusEvent, /) -> None:
        if event.step is not None:
            self._show_step(event.slide_id, event.step)
            return
        if event.slide_id in self._active:
            self._bars.remove_task(self._active.pop(event.slide_id))
        amount = f"{event.n_done} of {event.n_slides}"
        self._bars.update(self._slides, completed=event.n_done, total=event.n_slides, amount=amount)
        self._bars.update(
            self._bytes,
            completed=event.bytes_done,
            total=event.bytes_total,
            amount=_size(event),
        )

    def _show_step(self, slide_id: str | None, step: ProgressEvent) -> None:
        if slide_id not in self._active:
            self._active[slide_id] = self._bars.add_task("", amount="")
        self._bars.update(
            self._active[slide_id],
            description=f"{slide_id}: {step.step}",
            completed=step.done,
            total=step.total or 1,
            amount=f"{step.done} of {step.total} {step.unit}" if step.total else "",
        )

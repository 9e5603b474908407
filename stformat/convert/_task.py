"""The conversion of one slide of a corpus, in whichever process: it never raises what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stformat.convert.report import Result, SlideOutcome
from stformat.convert.slide import convert_with
from stformat.errors import Problem, StformatError, StoreError, StoreExistsError
from stformat.model import Progress, ProgressEvent
from stformat.sources import read_slide
from stformat.store.commit import discard_unfinished
from stformat.store.finished import differences
from stformat.store.image_codecs import IMAGE_CODECS

__all__ = ["Report", "SlideTask", "abandoned", "failed", "run_task", "throttled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideTask:
    """One slide to be converted; it is sent between processes."""

    slide_id: str
    """Identifier, which names the store."""

    kind: str
    """Kind of source."""

    source: Path
    """Folder or file, absolute."""

    sample: str | None
    """Which slide of `source`, where it has several."""

    target: Path
    """Store to make, absolute."""

    is_there: bool
    """Whether there was something at `target` when the corpus began."""

    overwrite: bool
    """Replace a store at `target`."""

    resume: bool
    """Leave a store at `target` that is of the same source and options; go on with an
    unfinished one."""

    image_codec: str
    """How pixels are stored."""

    options: Mapping[str, object]
    """Options of `stformat.sources.read_slide`."""

    n_bytes: int
    """Size of the source files."""

    def ended(
        self, result: Result, *, error: str | None = None, problems: tuple[Problem, ...] = ()
    ) -> SlideOutcome:
        """Return what became of the slide."""
        return SlideOutcome(
            slide_id=self.slide_id,
            kind=self.kind,
            source=self.source,
            target=self.target,
            result=result,
            error=error,
            problems=problems,
        )


type Report = Callable[[SlideTask, ProgressEvent], None]
"""Told of each step of each slide."""


def run_task(task: SlideTask, progress: Progress) -> SlideOutcome:
    """Convert one slide.

    Parameters
    ----------
    task : SlideTask
        The slide. A store that is at its target, and was not when the corpus began, is the work of
        an earlier attempt, whose process died before it could say so.
    progress : callable
        Told of each step; to end the conversion it raises what is no `Exception`.

    Returns
    -------
    SlideOutcome
        Also of a slide that could not be converted.
    """
    is_early = task.resume or not task.is_there
    try:
        if is_early and task.target.exists():
            changed = _differences(task)
            if not changed:
                return task.ended("skipped" if task.is_there else "converted")
            if not task.overwrite:
                return failed(task, _changed(task, changed))
        convert_with(
            IMAGE_CODECS[task.image_codec],
            task.source,
            task.target,
            kind=task.kind,
            slide_id=task.sample,
            overwrite=task.overwrite,
            resume=task.resume,
            progress=progress,
            options=task.options,
        )
    except Exception as error:  # noqa: BLE001 - whatever befalls one slide, the others go on
        return failed(task, error)
    return task.ended("converted")


def _differences(task: SlideTask) -> tuple[str, ...]:
    record = read_slide(
        task.source,
        kind=task.kind,
        slide_id=task.sample,
        scratch=task.target.parent,
        options=task.options,
    )
    try:
        return differences(record, task.target, IMAGE_CODECS[task.image_codec])
    except StoreError:
        if not task.overwrite:
            raise
        return ("all of it",)


def _changed(task: SlideTask, changed: tuple[str, ...]) -> StoreExistsError:
    return StoreExistsError(
        Problem(
            "store.differs",
            str(task.target),
            "a store that is skipped must be of the same source and options",
            f"one that differs in {', '.join(changed)}",
            "pass --overwrite to convert the slide again",
        )
    )


def failed(task: SlideTask, error: BaseException) -> SlideOutcome:
    """Return that a slide was not converted, and why."""
    if isinstance(error, StformatError):
        problems = error.problems
    elif isinstance(error, OSError):
        problems = (
            Problem(
                "source.unreadable",
                str(error.filename or task.source),
                "the files of a source must stay readable until it is converted",
                str(error),
            ),
        )
    else:
        problems = (
            Problem(
                "convert.unexpected",
                str(task.source),
                "a conversion must end, or say what is wrong with its source",
                f"{type(error).__name__}: {error}{_place(error)}",
                "report it, it is a fault of stformat"
                if not isinstance(error, MemoryError)
                else "convert with fewer workers",
            ),
        )
    return task.ended("failed", error=type(error).__name__, problems=problems)


def _place(error: BaseException) -> str:
    """Return where an error was raised."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" (line {trace.tb_lineno} of {Path(trace.tb_frame.f_code.co_filename).name})"


def abandoned(task: SlideTask, error: StformatError) -> SlideOutcome:
    """Return that a slide is given up whose process died; remove what that process left."""
    try:
        discard_unfinished(task.target, unfinished="keep" if task.resume else "discard")
    except StformatError as refusal:
        return failed(task, type(error)(*error.problems, *refusal.problems))
    return failed(task, error)


def throttled(progress: Progress, *, interval_s: float) -> Progress:
    """Return a progress function that passes on the beginning of steps, and else the latest news.

    Parameters
    ----------
    progress : callable
        Told of a new step at once, of how far a step is no more often than `interval_s`.
    interval_s : float
        In seconds.

    Returns
    -------
    callable
        Takes every `stformat.model.ProgressEvent`.
    """
    step: str | None = None
    due = 0.0

    def tell(event: ProgressEvent, /) -> None:
        nonlocal step, due
        now = time.monotonic()
        if event.step == step and now < due:
            return
        step, due = event.step, now + interval_s
        progress(event)

    return tell

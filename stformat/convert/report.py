"""What became of the slides of a corpus, and how far their conversion is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from stformat.errors import Problem
from stformat.model import ProgressEvent

__all__ = ["CorpusEvent", "CorpusProgress", "CorpusReport", "SlideOutcome"]

type Result = Literal["converted", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOutcome:
    """What became of one slide."""

    slide_id: str | None
    """Identifier of the slide; None for a folder that could not be listed."""

    kind: str | None
    """Kind of source; None for a folder that could not be listed."""

    source: Path
    """Folder or file of the slide."""

    target: Path | None
    """Its store; None for a folder that could not be listed."""

    result: Result
    """``"converted"``; ``"skipped"``, its store was there, of the same source and options; or
    ``"failed"``."""

    error: str | None = None
    """Name of the class of the error, where it failed."""

    problems: tuple[Problem, ...] = ()
    """What did not hold, where it failed."""

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as a JSON object."""
        return {
            "slide_id": self.slide_id,
            "kind": self.kind,
            "source": str(self.source),
            "target": None if self.target is None else str(self.target),
            "result": self.result,
            "error": self.error,
            "problems": [problem.to_json() for problem in self.problems],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """What became of every slide of a corpus."""

    slides: tuple[SlideOutcome, ...]
    """One a slide, by identifier; before them the folders that could not be listed."""

    @property
    def converted(self) -> tuple[SlideOutcome, ...]:
        """Slides that were converted."""
        return self._of("converted")

    @property
    def skipped(self) -> tuple[SlideOutcome, ...]:
        """Slides whose stores were there already, of the same source and options."""
        return self._of("skipped")

    @property
    def failed(self) -> tuple[SlideOutcome, ...]:
        """Slides that were not converted, and folders that could not be listed."""
        return self._of("failed")

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "converted": len(self.converted),
            "skipped": len(self.skipped),
            "failed": len(self.failed),
            "slides": [outcome.to_json() for outcome in self.slides],
        }

    def _of(self, result: Result) -> tuple[SlideOutcome, ...]:
        return tuple(outcome for outcome in self.slides if outcome.result == result)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusEvent:
    """The conversion of a corpus went on."""

    slide_id: str | None
    """Slide that this is about; None at the beginning."""

    step: ProgressEvent | None
    """Where that slide's conversion is; None where it has ended."""

    outcome: SlideOutcome | None
    """What became of the slide; None where its conversion goes on."""

    n_done: int
    """Slides that ended, in whatever way."""

    n_slides: int
    """All slides."""

    bytes_done: int
    """Size of the source files of slides that ended."""

    bytes_total: int
    """Size of the source files of all slides."""


class CorpusProgress(Protocol):
    """Whatever wants to know how far the conversion of a corpus is."""

    def __call__(self, event: CorpusEvent, /) -> None:
        """Take note of `event`; an exception raised here ends the conversion cleanly."""

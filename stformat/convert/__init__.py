"""Source to record to store: one slide, or every slide of a tree."""

from __future__ import annotations

from stformat.convert.corpus import convert_slides
from stformat.convert.report import CorpusEvent, CorpusReport, SlideOutcome
from stformat.convert.slide import convert_slide

__all__ = ["CorpusEvent", "CorpusReport", "SlideOutcome", "convert_slide", "convert_slides"]

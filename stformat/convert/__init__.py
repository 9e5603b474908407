"""Source to record to store: one slide, or every slide of a tree."""

from __future__ import annotations

from stformat.convert.slide import convert_slide

__all__ = ["convert_slide"]

"""Public test tools: synthetic slides, and their files in the layouts that sources come in."""

from __future__ import annotations

from stformat.testing.legacy_st import (
    ExpectedLegacySt,
    LegacyStQuirks,
    expected_legacy_st,
    write_legacy_st,
)
from stformat.testing.synthetic import SyntheticSlide, make_slide
from stformat.testing.visium import (
    ExpectedVisium,
    VisiumQuirks,
    expected_visium,
    write_visium,
)

__all__ = [
    "ExpectedLegacySt",
    "ExpectedVisium",
    "LegacyStQuirks",
    "SyntheticSlide",
    "VisiumQuirks",
    "expected_legacy_st",
    "expected_visium",
    "make_slide",
    "write_legacy_st",
    "write_visium",
]

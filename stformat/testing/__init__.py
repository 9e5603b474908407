"""Public test tools: synthetic slides, and their files in the layouts that sources come in."""

from __future__ import annotations

from stformat.testing.legacy_st import (
    ExpectedLegacySt,
    LegacyStQuirks,
    expected_legacy_st,
    write_legacy_st,
)
from stformat.testing.synthetic import SyntheticSlide, make_slide

__all__ = [
    "ExpectedLegacySt",
    "LegacyStQuirks",
    "SyntheticSlide",
    "expected_legacy_st",
    "make_slide",
    "write_legacy_st",
]

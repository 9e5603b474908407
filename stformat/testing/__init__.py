"""Public test tools: synthetic slides, and their files in the layouts that sources come in."""

from __future__ import annotations

from stformat.testing.hest import ExpectedHest, HestQuirks, expected_hest, write_hest
from stformat.testing.legacy_st import (
    ExpectedLegacySt,
    LegacyStQuirks,
    expected_legacy_st,
    write_legacy_st,
)
from stformat.testing.stimage import (
    ExpectedStimage,
    StimageQuirks,
    expected_stimage,
    write_stimage,
)
from stformat.testing.synthetic import SyntheticSlide, make_slide
from stformat.testing.visium import (
    ExpectedVisium,
    VisiumQuirks,
    expected_visium,
    write_visium,
)

__all__ = [
    "ExpectedHest",
    "ExpectedLegacySt",
    "ExpectedStimage",
    "ExpectedVisium",
    "HestQuirks",
    "LegacyStQuirks",
    "StimageQuirks",
    "SyntheticSlide",
    "VisiumQuirks",
    "expected_hest",
    "expected_legacy_st",
    "expected_stimage",
    "expected_visium",
    "make_slide",
    "write_hest",
    "write_legacy_st",
    "write_stimage",
    "write_visium",
]

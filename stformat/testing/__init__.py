"""Public test tools: synthetic slides, and their files in the layouts that sources come in."""

from __future__ import annotations

from stformat.testing.hest import ExpectedHest, HestQuirks, expected_hest, write_hest
from stformat.testing.legacy_st import (
    ExpectedLegacySt,
    LegacyStQuirks,
    expected_legacy_st,
    write_legacy_st,
)
from stformat.testing.spatialdata_container import (
    ExpectedSpatialData,
    SpatialDataQuirks,
    expected_spatialdata,
    make_spatialdata,
    write_spatialdata,
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
from stformat.testing.visium_hd import (
    ExpectedVisiumHd,
    VisiumHdQuirks,
    expected_visium_hd,
    write_visium_hd,
)

__all__ = [
    "ExpectedHest",
    "ExpectedLegacySt",
    "ExpectedSpatialData",
    "ExpectedStimage",
    "ExpectedVisium",
    "ExpectedVisiumHd",
    "HestQuirks",
    "LegacyStQuirks",
    "SpatialDataQuirks",
    "StimageQuirks",
    "SyntheticSlide",
    "VisiumHdQuirks",
    "VisiumQuirks",
    "expected_hest",
    "expected_legacy_st",
    "expected_spatialdata",
    "expected_stimage",
    "expected_visium",
    "expected_visium_hd",
    "make_slide",
    "make_spatialdata",
    "write_hest",
    "write_legacy_st",
    "write_spatialdata",
    "write_stimage",
    "write_visium",
    "write_visium_hd",
]

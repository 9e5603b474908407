"""Hypothesis strategies of synthetic slides and of the quirks of their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from stformat.testing.legacy_st import (
    ImageFormat,
    LegacyStLayout,
    LegacyStQuirks,
    write_legacy_st,
)
from stformat.testing.synthetic import SyntheticSlide, make_slide

__all__ = ["LegacyStSample", "legacy_st_quirks", "legacy_st_samples", "slides"]

_LEAST_SPOTS, _MOST_SPOTS = 5, 9  # along an edge; five leave nine spots on any tissue
_MOST_MISSING = 2
_LEAST_GENES, _MOST_GENES = 4, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyStSample:
    """A slide and how its files are written."""

    slide: SyntheticSlide
    """The slide."""

    quirks: LegacyStQuirks
    """How the files depart from the plainest."""

    layout: LegacyStLayout
    """How the files are laid out."""

    image_format: ImageFormat | None
    """How the image is stored."""

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return it."""
        return write_legacy_st(
            self.slide,
            folder,
            image_format=self.image_format,
            layout=self.layout,
            quirks=self.quirks,
        )


@st.composite
def slides(draw: st.DrawFn) -> SyntheticSlide:
    """Small slides of 5 to 9 spots along an edge and up to 40 genes."""
    pitch_px = draw(st.integers(8, 24)) + draw(st.sampled_from([0.0, 0.37]))
    height, width = (
        int(draw(st.integers(_LEAST_SPOTS, _MOST_SPOTS)) * pitch_px) + draw(st.integers(1, 7))
        for _ in range(2)
    )
    return make_slide(
        height=height,
        width=width,
        seed=draw(st.integers(0, 2**16)),
        n_genes=draw(st.integers(_LEAST_GENES, _MOST_GENES)),
        pitch_px=pitch_px,
        slide_id=draw(st.sampled_from(["A1", "MOB1", "sample-7", "B_2"])),
        rotation_deg=draw(st.sampled_from([0.0, 0.3, -2.0])),
    )


def legacy_st_quirks() -> st.SearchStrategy[LegacyStQuirks]:
    """Any mixture of quirks that leaves a slide of `slides` readable."""
    few = st.integers(0, _MOST_MISSING)
    return st.builds(
        LegacyStQuirks,
        spot_names=st.sampled_from(["x", "underscore", "padded", "float"]),
        is_transposed=st.booleans(),
        delimiter=st.sampled_from(["\t", ",", ";", " "]),
        has_crlf=st.booleans(),
        is_compressed=st.booleans(),
        has_corner=st.booleans(),
        has_quotes=st.booleans(),
        has_point_zero=st.booleans(),
        n_spots_without_counts=few,
        n_counts_without_spot=few,
        has_unselected=st.booleans(),
        has_selected=st.booleans(),
        has_measured=st.booleans(),
        is_shuffled=st.booleans(),
        array_axes=st.sampled_from(["image", "mirrored", "transposed", "turned"]),
        is_off_image=st.booleans(),
        n_repeated_genes=few,
        labels=st.sampled_from(["none", "by-place", "by-pixel"]),
        n_unlabelled=few,
        has_repeated_label=st.booleans(),
    )


@st.composite
def legacy_st_samples(draw: st.DrawFn) -> LegacyStSample:
    """Slides with the files they are written as."""
    return LegacyStSample(
        slide=draw(slides()),
        quirks=draw(legacy_st_quirks()),
        layout=draw(st.sampled_from(["her2st", "flat"])),
        image_format=draw(st.sampled_from([None, "png", "tiff-tiled", "tiff-striped"])),
    )

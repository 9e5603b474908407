"""Hypothesis strategies of synthetic slides and of the quirks of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stformat.testing.hest import HestQuirks, write_hest
from stformat.testing.legacy_st import (
    ImageFormat,
    LegacyStLayout,
    LegacyStQuirks,
    write_legacy_st,
)
from stformat.testing.spatialdata_container import SpatialDataQuirks, write_spatialdata
from stformat.testing.stimage import StimageQuirks, write_stimage
from stformat.testing.synthetic import SyntheticSlide, make_slide
from stformat.testing.visium import VisiumQuirks, write_visium
from stformat.testing.visium_hd import VisiumHdQuirks, write_visium_hd

__all__ = [
    "HestSample",
    "LegacyStSample",
    "SpatialDataSample",
    "StimageSample",
    "VisiumHdSample",
    "VisiumSample",
    "hest_quirks",
    "hest_samples",
    "legacy_st_quirks",
    "legacy_st_samples",
    "slides",
    "spatialdata_quirks",
    "spatialdata_samples",
    "stimage_quirks",
    "stimage_samples",
    "visium_hd_quirks",
    "visium_hd_samples",
    "visium_quirks",
    "visium_samples",
]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumSample:
    """A slide and how Space Ranger's outputs of it are written."""

    slide: SyntheticSlide
    """The slide."""

    quirks: VisiumQuirks
    """How the files depart from the plainest."""

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return it."""
        return write_visium(self.slide, folder, quirks=self.quirks)


@st.composite
def visium_quirks(draw: st.DrawFn) -> VisiumQuirks:
    """Any mixture of quirks that leaves a slide of `visium_samples` readable."""
    few = st.integers(0, _MOST_MISSING)
    is_legacy, n_sections = draw(st.booleans()), draw(st.sampled_from([1, 1, 2, 3]))
    return draw(
        st.builds(
            VisiumQuirks,
            counts=st.sampled_from(["h5", "mtx"]),
            content=st.sampled_from(["filtered", "raw", "both", "probes"]),
            is_legacy=st.just(is_legacy),
            strings=st.sampled_from(["fixed", "padded", "variable"]),
            value_type=st.sampled_from(["int32", "int64", "float64"]),
            index_type=st.sampled_from(["int32", "int64", "uint32"]),
            has_zeros=st.booleans(),
            n_genomes=st.sampled_from([1, 2]),
            n_antibodies=st.just(0) if is_legacy else few,
            n_repeated_names=st.integers(0, 1),
            positions=st.sampled_from(["csv", "txt", "gz", "parquet"]),
            has_header=st.booleans(),
            has_crlf=st.booleans(),
            is_rounded=st.booleans(),
            is_shuffled=st.booleans(),
            n_sections=st.just(n_sections),
            suffixes=st.just("both")
            if n_sections > 1
            else st.sampled_from(["both", "counts", "positions", "neither"]),
            n_spots_without_counts=few,
            n_counts_without_position=few,
            missing_factors=st.frozensets(
                st.sampled_from(
                    [
                        "fiducial_diameter_fullres",
                        "spot_diameter_fullres",
                        "tissue_hires_scalef",
                        "tissue_lowres_scalef",
                    ]
                ),
                max_size=3,
            ),
            images=st.sampled_from(["none", "full", "hires", "lowres", "hires+lowres"]),
            hires_scale=st.sampled_from([0.5, 0.15, 1.25]),
            is_off_image=st.booleans(),
            layout=st.sampled_from(["outs", "spatial", "flat"]),
        )
    )


@st.composite
def visium_samples(draw: st.DrawFn) -> VisiumSample:
    """Slides with a hexagonal array of 6 to 9 spots along an edge, and their files."""
    pitch_px = draw(st.sampled_from([12.0, 17.5, 24.0]))
    height, width = (
        draw(st.integers(6, 9)) * int(pitch_px) + draw(st.integers(0, 5)) for _ in "yx"
    )
    slide = make_slide(
        height=height,
        width=width,
        seed=draw(st.integers(0, 2**16)),
        n_genes=draw(st.integers(_LEAST_GENES, _MOST_GENES)),
        pitch_px=pitch_px,
        slide_id=draw(st.sampled_from(["A1", "151673", "V1-B_2"])),
        rotation_deg=draw(st.sampled_from([0.0, 90.0, -2.0])),
        jitter=0.0,
        lattice="hexagonal",
    )
    return VisiumSample(slide=slide, quirks=draw(visium_quirks()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HestSample:
    """A slide and how its files in the layout of HEST-1k are written."""

    slide: SyntheticSlide
    """The slide."""

    quirks: HestQuirks
    """How the files depart from the plainest."""

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return it."""
        return write_hest(self.slide, folder, quirks=self.quirks)


@st.composite
def hest_quirks(draw: st.DrawFn) -> HestQuirks:
    """Any mixture of quirks that leaves a slide of `slides` readable."""
    gene_columns = draw(st.sampled_from(["none", "visium"]))
    metadata = draw(st.sampled_from(["json", "catalogue", "none"]))
    return draw(
        st.builds(
            HestQuirks,
            layout=st.sampled_from(["csr", "csc", "dense"]),
            value_type=st.sampled_from(["float32", "float64", "int32", "int64", "uint16"]),
            index_type=st.sampled_from(["int32", "int64"]),
            has_zeros=st.booleans(),
            has_decoys=st.booleans(),
            is_compressed=st.booleans(),
            has_nullable_names=st.booleans(),
            gene_columns=st.just(gene_columns),
            n_antibodies=st.just(0) if gene_columns == "none" else st.integers(0, _MOST_MISSING),
            n_repeated_names=st.integers(0, 1),
            pixels=st.sampled_from(["exact", "rounded", "swapped", "none"]),
            in_tissue=st.sampled_from(["bool", "int", "none"]),
            has_array=st.booleans(),
            has_label=st.booleans(),
            diameter=st.just("scalefactors")
            if metadata == "none"
            else st.sampled_from(["scalefactors", "description", "both"]),
            metadata=st.just(metadata),
            has_bom=st.booleans(),
            has_embedded=st.booleans(),
            has_image=st.booleans(),
            tissue=st.sampled_from(["none", "geojson", "holes", "pickle"]),
            cells=st.sampled_from(["none", "parquet", "geojson"]),
            n_other_slides=st.integers(0, _MOST_MISSING),
        )
    )


@st.composite
def hest_samples(draw: st.DrawFn) -> HestSample:
    """Slides with a spot on tissue, and their files."""
    slide = draw(slides().filter(lambda slide: bool(slide.in_tissue.any())))
    return HestSample(slide=slide, quirks=draw(hest_quirks()))


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumHdSample:
    """A slide and how Space Ranger's Visium HD outputs of it are written."""

    arguments: Mapping[str, Any]
    """What `make_slide` makes the slide of: its hundreds of bins would be too long to print."""

    quirks: VisiumHdQuirks
    """How the files depart from the plainest."""

    @property
    def slide(self) -> SyntheticSlide:
        """The slide."""
        return make_slide(**self.arguments)

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return it."""
        return write_visium_hd(self.slide, folder, quirks=self.quirks)


def visium_hd_quirks() -> st.SearchStrategy[VisiumHdQuirks]:
    """Any mixture of quirks that leaves a slide of `visium_hd_samples` readable."""
    few = st.integers(0, 1)
    return st.builds(
        VisiumHdQuirks,
        sizes_um=st.sampled_from([(2, 8, 16), (2,), (8, 16), (8,), (16,), (2, 4, 8)]),
        counts=st.sampled_from(["h5", "mtx"]),
        strings=st.sampled_from(["fixed", "padded", "variable"]),
        value_type=st.sampled_from(["int32", "int64", "float64"]),
        index_type=st.sampled_from(["int32", "int64", "uint32"]),
        has_zeros=st.booleans(),
        n_antibodies=st.integers(0, _MOST_MISSING),
        barcodes=st.sampled_from(["places", "sequences"]),
        suffixes=st.sampled_from(["both", "counts", "positions"]),
        positions=st.sampled_from(["parquet", "csv"]),
        is_shuffled=st.booleans(),
        has_off_tissue=st.booleans(),
        n_bins_without_counts=few,
        n_counts_without_position=few,
        missing_factors=st.frozensets(
            st.sampled_from(
                ["bin_size_um", "spot_diameter_fullres", "microns_per_pixel", "tissue_hires_scalef"]
            ),
            max_size=2,
        ),
        images=st.sampled_from(["none", "full", "hires", "lowres", "hires+lowres"]),
        hires_scale=st.sampled_from([0.5, 0.25]),
        has_feature_slice=st.booleans(),
        cells=st.sampled_from(["none", "numbers", "names", "no-counts", "no-outlines"]),
        nuclei=st.sampled_from(["none", "plain", "clustered"]),
    )


@st.composite
def visium_hd_samples(draw: st.DrawFn) -> VisiumHdSample:
    """Slides with a square array of 12 to 25 bins along an edge, and their files."""
    pitch_px = draw(st.sampled_from([5.0, 7.5]))
    rows, columns = draw(st.integers(12, 25)), draw(st.integers(12, 25))
    arguments = {
        # Centres of coarse bins may lie beyond the last of the fine ones.
        "height": int((rows + 12) * pitch_px),
        "width": int((columns + 12) * pitch_px),
        "array_shape": (rows, columns),
        "seed": draw(st.integers(0, 2**16)),
        "n_genes": draw(st.integers(_LEAST_GENES, _MOST_GENES)),
        "pitch_px": pitch_px,
        "slide_id": draw(st.sampled_from(["A1", "H1-D1", "B_2"])),
        "rotation_deg": draw(st.sampled_from([0.0, 90.0, 0.7])),
        "jitter": 0.0,
    }
    return VisiumHdSample(arguments=arguments, quirks=draw(visium_hd_quirks()))


@dataclass(frozen=True, slots=True, kw_only=True)
class StimageSample:
    """A slide and how its files in the layout of STimage-1K4M are written."""

    slide: SyntheticSlide
    """The slide."""

    quirks: StimageQuirks
    """How the files depart from the plainest."""

    image_format: ImageFormat | None
    """How the image is stored; lossless or not at all."""

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and return it."""
        return write_stimage(self.slide, folder, image_format=self.image_format, quirks=self.quirks)


def stimage_quirks() -> st.SearchStrategy[StimageQuirks]:
    """Any mixture of quirks that leaves a slide of `stimage_samples` readable."""
    few = st.integers(0, _MOST_MISSING)
    return st.builds(
        StimageQuirks,
        technology=st.sampled_from(["ST", "Visium", "VisiumHD"]),
        layout=st.sampled_from(["tree", "flat"]),
        spot_names=st.sampled_from(["x", "float"]),
        prefixed=st.sampled_from(["both", "coord", "count", "neither"]),
        numbers=st.sampled_from(["float", "integer", "mixed", "exponent"]),
        has_fractions=st.booleans(),
        is_compressed=st.booleans(),
        has_crlf=st.booleans(),
        has_quotes=st.booleans(),
        has_corner=st.booleans(),
        has_last_newline=st.booleans(),
        has_blank_lines=st.booleans(),
        n_prefixed_genes=st.integers(0, 1),
        n_repeated_genes=st.integers(0, 1),
        n_spots_without_counts=few,
        n_counts_without_spot=few,
        is_shuffled=st.booleans(),
        is_off_image=st.booleans(),
        labels=st.sampled_from(["none", "header", "headerless"]),
        n_unlabelled=few,
        has_repeated_label=st.booleans(),
        meta=st.sampled_from(["none", "csv", "tsv", "corrected"]),
    )


@st.composite
def stimage_samples(draw: st.DrawFn) -> StimageSample:
    """Slides of `slides` or, of Visium, of `visium_samples`, and their files."""
    quirks = draw(stimage_quirks())
    is_visium = quirks.technology == "Visium"
    return StimageSample(
        slide=draw(visium_samples()).slide if is_visium else draw(slides()),
        quirks=quirks,
        image_format=draw(st.sampled_from([None, "png", "tiff-tiled", "tiff-striped"])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialDataSample:
    """A slide and how its SpatialData container is written."""

    slide: SyntheticSlide
    """The slide."""

    quirks: SpatialDataQuirks
    """How the container departs from the plainest."""

    def write(self, folder: Path) -> Path:
        """Write the container into a folder and return its path."""
        return write_spatialdata(self.slide, folder / "slide.zarr", quirks=self.quirks)


def spatialdata_quirks() -> st.SearchStrategy[SpatialDataQuirks]:
    """Any mixture of quirks that leaves a slide of `slides` readable."""
    few = st.integers(0, _MOST_MISSING)
    return st.builds(
        SpatialDataQuirks,
        shapes=st.sampled_from(["circles", "squares", "polygons"]),
        layout=st.sampled_from(["csr", "csc", "dense"]),
        value_type=st.sampled_from(["float32", "int64", "uint16"]),
        has_text_index=st.booleans(),
        image=st.sampled_from(["none", "single", "multiscale"]),
        pixel_type=st.sampled_from(["uint8", "uint16"]),
        chunk_px=st.tuples(st.integers(7, 60), st.integers(7, 60)),
        placement=st.sampled_from(["identity", "scale", "affine", "sequence"]),
        system=st.sampled_from(["global", "V1-A1"]),
        has_microns=st.booleans(),
        has_array=st.booleans(),
        is_shuffled=st.booleans(),
        n_rows_without_shape=few,
        n_shapes_without_row=few,
        has_outlines=st.booleans(),
        has_others=st.booleans(),
        container=st.sampled_from(["0.1", "0.2"]),
    )


def spatialdata_samples() -> st.SearchStrategy[SpatialDataSample]:
    """Slides and their containers."""
    return st.builds(SpatialDataSample, slide=slides(), quirks=spatialdata_quirks())

"""A slide as the Visium HD outputs of Space Ranger: bins of several sizes, and segmented cells."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import h5py
import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing._segmented_cells import (
    NUCLEUS_SHARE,
    areas_of_rings,
    cell_names,
    cells_of,
    cluster_names,
    shrunk,
    write_rings,
)
from stformat.testing._visium_counts import FeatureRows, StringStyle, write_h5, write_mtx
from stformat.testing.synthetic import SyntheticSlide
from stformat.testing.visium import reduced_image, with_zeros

__all__ = [
    "ExpectedBins",
    "ExpectedVisiumHd",
    "VisiumHdQuirks",
    "expected_visium_hd",
    "write_visium_hd",
]

FINEST_UM = 2
"""Side of a bin that stands for a spot of the slide, in microns."""

FIDUCIAL_UM = 330.0
_LOWRES_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumHdQuirks:
    """How outputs depart from the plainest ones; the default is how Space Ranger 3 writes them."""

    sizes_um: tuple[int, ...] = (2, 8, 16)
    """Sizes of bins that are there, multiples of 2."""

    counts: Literal["h5", "mtx"] = "h5"
    """Kind of the matrices."""

    strings: StringStyle = "fixed"
    """How HDF5 stores texts."""

    value_type: Literal["int32", "int64", "float64"] = "int32"
    """Type of HDF5 values."""

    index_type: Literal["int32", "int64", "uint32"] = "int64"
    """Type of HDF5 indices."""

    has_zeros: bool = False
    """Matrices store a zero in every row that leaves one out."""

    n_antibodies: int = 0
    """How many genes, the last ones, are antibodies in the files."""

    barcodes: Literal["places", "sequences"] = "places"
    """``s_008um_00001_00002-1``, or sequences as files for tests of other projects have them."""

    suffixes: Literal["both", "counts", "positions"] = "both"
    """Where barcodes end in ``-1``."""

    positions: Literal["parquet", "csv"] = "parquet"
    """Format of the tissue positions."""

    is_shuffled: bool = False
    """Tissue positions are in another order than the matrix."""

    has_off_tissue: bool = False
    """Every third bin of the matrices is flagged as not in tissue."""

    n_bins_without_counts: int = 0
    """How many bins each matrix lacks, the last ones."""

    n_counts_without_position: int = 0
    """How many rows of each matrix have no place, the first ones."""

    missing_factors: frozenset[str] = frozenset()
    """Members that ``scalefactors_json.json`` lacks, as ``bin_size_um`` since Space Ranger 4."""

    images: Literal["none", "full", "hires", "lowres", "hires+lowres"] = "hires+lowres"
    """Images in the folder; the full-resolution one lies beside ``binned_outputs``."""

    hires_scale: float = 0.5
    """Scale factor of the reduced image."""

    has_feature_slice: bool = False
    """``feature_slice.h5`` is there, which is no count matrix."""

    cells: Literal["none", "numbers", "names", "no-counts", "no-outlines"] = "none"
    """Segmented outputs: with ``cell_id`` as numbers or as names, or with a part missing."""

    nuclei: Literal["none", "plain", "clustered"] = "none"
    """Outlines of nuclei beside those of cells; ``"clustered"``: both annotated by cluster too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBins:
    """What a reader must find of bins of one size, or of cells."""

    barcodes: tuple[str, ...]
    """(n_obs,) barcodes as the matrix has them."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the array, columns ``(array_col, array_row)``."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels of the image that is stored."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) column ``in_tissue``."""

    counts: sparse.csr_array
    """(n_obs, n_genes) int32."""

    antibodies: sparse.csr_array
    """(n_obs, n_antibodies) int32."""

    n_without_counts: int
    """How many places have no row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedVisiumHd:
    """What a reader must find in the files of `write_visium_hd`."""

    scale: float
    """Pixels of the image that is stored for one of the slide's."""

    image: NDArray[np.uint8] | None
    """(3, y, x) image that is stored, or None."""

    mpp: float
    """Microns per pixel of the image that is stored."""

    bins: dict[int, ExpectedBins]
    """By size in microns, of those that are there."""

    cells: ExpectedBins | None
    """Cells, where they are whole."""

    cell_areas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(n_cells,) areas of outlines in pixels of the image that is stored."""

    nucleus_areas: NDArray[np.float64] | None = None
    """(n_cells,) areas of nuclei, in the order of their cells, where they are there."""

    clusters: tuple[str | None, ...] | None = None
    """(n_cells,) names of clusters, where they are there."""


def expected_visium_hd(
    slide: SyntheticSlide, quirks: VisiumHdQuirks | None = None
) -> ExpectedVisiumHd:
    """Say what a reader must find in a slide's Visium HD files.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : VisiumHdQuirks, optional
        Those of `write_visium_hd`.

    Returns
    -------
    ExpectedVisiumHd
        Positions and counts, joined.
    """
    quirks = quirks or VisiumHdQuirks()
    scale, image = _stored_image(slide, quirks)
    n_genes = len(slide.gene_names) - quirks.n_antibodies
    bins = {}
    for size in quirks.sizes_um:
        grid = _grid(slide, size, quirks)
        rows = grid.counted[quirks.n_counts_without_position :]
        has_suffix = quirks.suffixes != "positions"
        bins[size] = ExpectedBins(
            barcodes=tuple(
                _barcode(grid, row, quirks, has_suffix=has_suffix) for row in rows.tolist()
            ),
            array_xy=grid.array_xy[rows],
            xy=grid.xy[rows] * scale,
            in_tissue=grid.in_tissue[rows],
            counts=grid.counts[rows][:, :n_genes],
            antibodies=grid.counts[rows][:, n_genes:],
            n_without_counts=len(grid.xy) - len(grid.counted),
        )
    cells, areas = _expected_cells(slide, n_genes, scale, quirks)
    has_nuclei = quirks.cells != "none" and quirks.nuclei != "none"
    has_clusters = cells is not None and quirks.nuclei == "clustered"
    nucleus_areas = areas_of_rings(cells_of(slide).rings) * (NUCLEUS_SHARE * scale) ** 2
    return ExpectedVisiumHd(
        scale=scale,
        image=image,
        mpp=FINEST_UM / slide.pitch_px / scale,
        bins=bins,
        cells=cells,
        cell_areas=areas,
        nucleus_areas=nucleus_areas if has_nuclei else None,
        clusters=tuple(cluster_names(len(areas))) if has_clusters else None,
    )


def write_visium_hd(
    slide: SyntheticSlide, folder: Path, *, quirks: VisiumHdQuirks | None = None
) -> Path:
    """Write a slide as the Visium HD outputs of Space Ranger.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide, of the square lattice; each of its spots stands for a bin of 2 um.
    folder : pathlib.Path
        Directory to write into; made where it is missing.
    quirks : VisiumHdQuirks, optional
        How the files depart from the plainest.

    Returns
    -------
    pathlib.Path
        `folder`, which has the outputs as ``outs``.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide
    >>> slide = make_slide(height=200, width=200, n_genes=20, pitch_px=10.0, seed=0, jitter=0.0)
    >>> folder = write_visium_hd(slide, Path(tempfile.mkdtemp()))
    >>> sorted(path.name for path in (folder / "outs" / "binned_outputs").iterdir())
    ['square_002um', 'square_008um', 'square_016um']
    """
    quirks = quirks or VisiumHdQuirks()
    outs = folder / "outs"
    for size in quirks.sizes_um:
        _write_bins(slide, outs / "binned_outputs" / f"square_{size:03d}um", size, quirks)
    if quirks.cells != "none":
        _write_cells(slide, outs / "segmented_outputs", quirks)
    if quirks.has_feature_slice:
        with h5py.File(outs / "feature_slice.h5", "w", libver="earliest") as file:
            file.create_group("feature_slices")
    if "full" in quirks.images.split("+"):
        _write_png(outs / "tissue_image.png", slide.image)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Bins of one size: all of the array, by row and column."""

    size_um: int
    array_xy: NDArray[np.int64]
    xy: NDArray[np.float64]
    in_tissue: NDArray[np.bool_]
    counts: sparse.csr_array
    counted: NDArray[np.int64]


def _grid(slide: SyntheticSlide, size_um: int, quirks: VisiumHdQuirks) -> _Grid:
    """Add up the slide's spots by blocks; those off tissue are in no matrix and count nothing."""
    factor = size_um // FINEST_UM
    fine_xy = slide.array_xy - slide.array_xy.min(axis=0)
    fine_tissue = slide.in_tissue
    places, group = np.unique(fine_xy[:, ::-1] // factor, axis=0, return_inverse=True)
    n_bins = len(places)
    member = sparse.csr_array(
        (fine_tissue.astype(np.int32), (group, np.arange(len(group)))), shape=(n_bins, len(group))
    )
    counts = sparse.csr_array(member @ slide.counts).astype(np.int32)
    counts.sort_indices()
    counts.eliminate_zeros()
    is_counted = np.bincount(group, weights=fine_tissue, minlength=n_bins) > 0
    counted = np.flatnonzero(is_counted)
    counted = counted[: len(counted) - quirks.n_bins_without_counts]
    in_tissue = is_counted.copy()
    if quirks.has_off_tissue:
        in_tissue[::3] = False
    middle = (places[:, ::-1] + 0.5) * factor - 0.5
    linear = _linear(slide)
    origin = slide.xy.mean(axis=0) - fine_xy.mean(axis=0) @ linear
    return _Grid(
        size_um=size_um,
        array_xy=places[:, ::-1],
        xy=middle @ linear + origin,
        in_tissue=in_tissue,
        counts=counts,
        counted=counted,
    )


def _linear(slide: SyntheticSlide) -> NDArray[np.float64]:
    """Fit the steps of the array in pixels, exactly one pitch long: rows are its two axes."""
    places = slide.array_xy - slide.array_xy.mean(axis=0)
    fitted = np.linalg.lstsq(places, slide.xy - slide.xy.mean(axis=0))[0]
    return fitted / np.linalg.norm(fitted, axis=1, keepdims=True) * slide.pitch_px


def _barcode(grid: _Grid, row: int, quirks: VisiumHdQuirks, *, has_suffix: bool) -> str:
    if quirks.barcodes == "sequences":
        name = "".join("ACGT"[row // 4**place % 4] for place in range(16))
    else:
        col, array_row = grid.array_xy[row].tolist()
        name = f"s_{grid.size_um:03d}um_{array_row:05d}_{col:05d}"
    return f"{name}-1" if has_suffix else name


def _features(slide: SyntheticSlide, quirks: VisiumHdQuirks) -> FeatureRows:
    n_features = len(slide.gene_names)
    n_genes = n_features - quirks.n_antibodies
    return FeatureRows(
        ids=[f"ENSG{row:011d}" if row < n_genes else f"AB{row}" for row in range(n_features)],
        names=slide.gene_names,
        types=["Gene Expression"] * n_genes + ["Antibody Capture"] * quirks.n_antibodies,
        genomes=["GRCh38"] * n_genes + [""] * quirks.n_antibodies,
    )


def _write_bins(slide: SyntheticSlide, folder: Path, size_um: int, quirks: VisiumHdQuirks) -> None:
    grid = _grid(slide, size_um, quirks)
    spatial = folder / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    has_suffix = quirks.suffixes != "positions"
    barcodes = [_barcode(grid, row, quirks, has_suffix=has_suffix) for row in grid.counted.tolist()]
    _write_matrix(
        folder / "filtered_feature_bc_matrix", barcodes, slide, grid.counts[grid.counted], quirks
    )
    placed = np.setdiff1d(np.arange(len(grid.xy)), grid.counted[: quirks.n_counts_without_position])
    if quirks.is_shuffled:
        placed = np.random.default_rng(size_um).permutation(placed)
    has_suffix = quirks.suffixes != "counts"
    columns = {
        "barcode": [_barcode(grid, row, quirks, has_suffix=has_suffix) for row in placed.tolist()],
        "in_tissue": grid.in_tissue[placed].astype(np.int32),
        "array_row": grid.array_xy[placed, 1].astype(np.int32),
        "array_col": grid.array_xy[placed, 0].astype(np.int32),
        "pxl_row_in_fullres": grid.xy[placed, 1],
        "pxl_col_in_fullres": grid.xy[placed, 0],
    }
    if quirks.positions == "parquet":
        pq.write_table(pa.table(columns), spatial / "tissue_positions.parquet")
    else:
        lists = [list(values) for values in columns.values()]
        lines = [
            ",".join(columns),
            *(",".join(map(str, row)) for row in zip(*lists, strict=True)),
        ]
        (spatial / "tissue_positions.csv").write_text("\n".join(lines) + "\n")
    _write_spatial(slide, spatial, quirks, bin_size_um=size_um)


def _write_matrix(
    stem: Path,
    barcodes: list[str],
    slide: SyntheticSlide,
    counts: sparse.csr_array,
    quirks: VisiumHdQuirks,
) -> None:
    features = _features(slide, quirks)
    if quirks.has_zeros:
        counts = with_zeros(counts)
    if quirks.counts == "mtx":
        write_mtx(stem, "", barcodes, features, counts, version=3, is_compressed=True)
        return
    write_h5(
        stem.with_name(f"{stem.name}.h5"),
        barcodes,
        features,
        counts,
        is_legacy=False,
        strings=quirks.strings,
        value_type=quirks.value_type,
        index_type=quirks.index_type,
    )


def _write_spatial(
    slide: SyntheticSlide, spatial: Path, quirks: VisiumHdQuirks, *, bin_size_um: int | None
) -> None:
    """Write scale factors and reduced images; those of cells lack what is of bins."""
    mpp = FINEST_UM / slide.pitch_px
    factors: dict[str, float] = {
        "microns_per_pixel": mpp,
        "regist_target_img_scalef": quirks.hires_scale,
        "tissue_lowres_scalef": quirks.hires_scale * _LOWRES_SHARE,
        "fiducial_diameter_fullres": FIDUCIAL_UM / mpp,
        "tissue_hires_scalef": quirks.hires_scale,
    }
    if bin_size_um is not None:
        factors |= {"spot_diameter_fullres": bin_size_um / mpp, "bin_size_um": float(bin_size_um)}
    kept = {key: value for key, value in factors.items() if key not in quirks.missing_factors}
    (spatial / "scalefactors_json.json").write_text(json.dumps(kept))
    for size, scale in (
        ("hires", quirks.hires_scale),
        ("lowres", quirks.hires_scale * _LOWRES_SHARE),
    ):
        if size in quirks.images.split("+"):
            _write_png(spatial / f"tissue_{size}_image.png", reduced_image(slide, scale))


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    path.write_bytes(imagecodecs.png_encode(pixels, level=1))


def _expected_cells(
    slide: SyntheticSlide, n_genes: int, scale: float, quirks: VisiumHdQuirks
) -> tuple[ExpectedBins | None, NDArray[np.float64]]:
    if quirks.cells not in {"numbers", "names"}:
        return None, np.zeros(0)
    cells = cells_of(slide)
    n_cells = len(cells.centres)
    expected = ExpectedBins(
        barcodes=tuple(cell_names(n_cells)),
        array_xy=np.full((n_cells, 2), -1),
        xy=cells.centres * scale,
        in_tissue=np.ones(n_cells, dtype=np.bool_),
        counts=cells.counts[:, :n_genes],
        antibodies=cells.counts[:, n_genes:],
        n_without_counts=0,
    )
    return expected, areas_of_rings(cells.rings) * scale**2


def _write_cells(slide: SyntheticSlide, folder: Path, quirks: VisiumHdQuirks) -> None:
    cells = cells_of(slide)
    names = cell_names(len(cells.centres))
    spatial = folder / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    if quirks.cells != "no-counts":
        _write_matrix(folder / "filtered_feature_cell_matrix", names, slide, cells.counts, quirks)
    are_named = quirks.cells == "names"
    if quirks.cells != "no-outlines":
        write_rings(folder, "cell", cells.rings, are_named=are_named, nuclei=quirks.nuclei)
    if quirks.nuclei != "none":
        rings = shrunk(cells, NUCLEUS_SHARE)
        write_rings(folder, "nucleus", rings, are_named=are_named, nuclei=quirks.nuclei)
    _write_spatial(slide, spatial, quirks, bin_size_um=None)


def _stored_image(
    slide: SyntheticSlide, quirks: VisiumHdQuirks
) -> tuple[float, NDArray[np.uint8] | None]:
    """Scale and pixels of the image that a reader must store."""
    sizes = quirks.images.split("+")
    if "full" in sizes:
        return 1.0, slide.image
    for size, scale in (
        ("hires", quirks.hires_scale),
        ("lowres", quirks.hires_scale * _LOWRES_SHARE),
    ):
        if size in sizes and f"tissue_{size}_scalef" not in quirks.missing_factors:
            return scale, reduced_image(slide, scale)
    return 1.0, None

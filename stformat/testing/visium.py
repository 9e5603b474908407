"""A slide as the outputs of Space Ranger, and as studies publish them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing._visium_counts import FeatureRows, StringStyle, write_h5, write_mtx
from stformat.testing.synthetic import SyntheticSlide

__all__ = [
    "ExpectedVisium",
    "VisiumQuirks",
    "expected_visium",
    "reduced_image",
    "with_zeros",
    "write_visium",
]

FIDUCIAL_UM = 105.0
SPOT_UM = 65.0
GENOMES = ("GRCh38", "mm10")

_HEADER = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
_LOWRES_SHARE = 0.3  # of the reduced image's scale factor
_BASES = "ACGT"
_BARCODE_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumQuirks:
    """How outputs depart from the plainest ones; the default is how Space Ranger 3 writes them."""

    counts: Literal["h5", "mtx"] = "h5"
    """Kind of the matrix."""

    content: Literal["filtered", "raw", "both", "probes"] = "filtered"
    """Which matrices there are. A raw one has all spots, a filtered one those on tissue; a matrix
    of probes is a raw one by another name."""

    is_legacy: bool = False
    """As Cell Ranger 2 wrote it: one HDF5 group a genome, or ``genes.tsv`` without compression."""

    strings: StringStyle = "fixed"
    """How HDF5 stores texts."""

    value_type: Literal["int32", "int64", "float64"] = "int32"
    """Type of HDF5 values."""

    index_type: Literal["int32", "int64", "uint32"] = "int64"
    """Type of HDF5 indices."""

    has_zeros: bool = False
    """The matrix stores a zero in every row that leaves one out."""

    n_genomes: Literal[1, 2] = 1
    """Reference genomes; of two each has half of the genes."""

    n_antibodies: int = 0
    """How many genes, the last ones, are antibodies in the files."""

    n_repeated_names: int = 0
    """How many genes, before the antibodies, carry the symbols of the first ones."""

    positions: Literal["csv", "txt", "gz", "parquet"] = "csv"
    """Format of the tissue positions."""

    has_header: bool = True
    """Tissue positions name their columns, as since Space Ranger 2."""

    has_crlf: bool = False
    """Lines of tissue positions end in CR LF."""

    is_rounded: bool = False
    """Pixels of tissue positions are integers, as before Space Ranger 3."""

    is_shuffled: bool = False
    """Tissue positions are in another order than the matrix."""

    n_sections: int = 1
    """Arrays stitched into one slide; barcodes end in the section and a column ``key`` has them."""

    suffixes: Literal["both", "counts", "positions", "neither"] = "both"
    """Where barcodes end in ``-1``."""

    n_spots_without_counts: int = 0
    """How many spots the matrix lacks, the last ones."""

    n_counts_without_position: int = 0
    """How many rows of the matrix have no place, the first ones."""

    missing_factors: frozenset[str] = frozenset()
    """Members that ``scalefactors_json.json`` lacks."""

    images: Literal["none", "full", "hires", "lowres", "hires+lowres"] = "hires+lowres"
    """Images in the folder."""

    hires_scale: float = 0.5
    """Scale factor of the reduced image; may exceed 1."""

    is_off_image: bool = False
    """Pixels are shifted, so that the first column of spots has negative ones."""

    layout: Literal["outs", "spatial", "flat"] = "outs"
    """``outs`` with ``spatial`` in it, without the folder around it, or all files side by side
    behind a prefix, as in GEO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedVisium:
    """What a reader must find in the files of `write_visium`."""

    rows: NDArray[np.int64]
    """(n_obs,) spots of the slide that have counts and a place, in the order of the matrix."""

    barcodes: tuple[str, ...]
    """(n_obs,) barcodes as the matrix has them."""

    scale: float
    """Pixels of the image that is stored for one of the slide's."""

    image: NDArray[np.uint8] | None
    """(3, y, x) image that is stored, or None."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels of that image, columns ``(x, y)``."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the array, columns ``(array_col, array_row)``."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) column ``in_tissue``."""

    section: tuple[str, ...] | None
    """(n_obs,) sections, where there are several."""

    gene_ids: tuple[str, ...]
    """(n_genes,) identifiers of what is no antibody."""

    gene_names: tuple[str, ...]
    """(n_genes,) symbols of these, repeated ones included."""

    genomes: tuple[str | None, ...]
    """(n_genes,) reference genomes, where the files have them."""

    counts: sparse.csr_array
    """(n_obs, n_genes) int32."""

    antibodies: sparse.csr_array
    """(n_obs, n_antibodies) int32."""

    n_spots_without_counts: int
    """How many placed spots have no row."""

    n_counts_without_position: int
    """How many rows have no place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """Spots and features of a slide as the files have them."""

    counted: NDArray[np.int64]
    placed: NDArray[np.int64]
    counts_names: list[str]
    positions_names: list[str]
    section: list[str] | None
    xy: NDArray[np.float64]
    array_xy: NDArray[np.int64]
    features: FeatureRows


def expected_visium(slide: SyntheticSlide, quirks: VisiumQuirks | None = None) -> ExpectedVisium:
    """Say what a reader must find in a slide's Visium files.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : VisiumQuirks, optional
        Those of `write_visium`.

    Returns
    -------
    ExpectedVisium
        Positions and counts, joined.

    Raises
    ------
    ValueError
        If `quirks` leave no spot on both sides.
    """
    quirks = quirks or VisiumQuirks()
    written = _arrange(slide, quirks)
    rows = written.counted[np.isin(written.counted, written.placed)]
    scale, image = _stored_image(slide, quirks)
    n_genes = len(slide.gene_names) - quirks.n_antibodies
    has_genomes = quirks.counts == "h5"
    counts = slide.counts[rows]
    return ExpectedVisium(
        rows=rows,
        barcodes=tuple(written.counts_names[row] for row in rows),
        scale=scale,
        image=image,
        xy=written.xy[rows] * scale,
        array_xy=written.array_xy[rows],
        in_tissue=slide.in_tissue[rows],
        section=None if written.section is None else tuple(written.section[row] for row in rows),
        gene_ids=tuple(written.features.ids[:n_genes]),
        gene_names=tuple(written.features.names[:n_genes]),
        genomes=tuple(
            genome if has_genomes else None for genome in written.features.genomes[:n_genes]
        ),
        counts=counts[:, :n_genes],
        antibodies=counts[:, n_genes:],
        n_spots_without_counts=len(written.placed) - len(rows),
        n_counts_without_position=len(written.counted) - len(rows),
    )


def write_visium(
    slide: SyntheticSlide, folder: Path, *, quirks: VisiumQuirks | None = None
) -> Path:
    """Write a slide as the outputs of Space Ranger.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide; ``make_slide(..., lattice="hexagonal")`` has Visium's array, any other is one
        that is written as if it were.
    folder : pathlib.Path
        Directory to write into; made where it is missing.
    quirks : VisiumQuirks, optional
        How the files depart from the plainest.

    Returns
    -------
    pathlib.Path
        `folder`.

    Raises
    ------
    ValueError
        If `quirks` leave no spot on both sides, or contradict one another.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide
    >>> slide = make_slide(
    ...     height=400, width=400, n_genes=20, pitch_px=60.0, seed=0, lattice="hexagonal"
    ... )
    >>> folder = write_visium(slide, Path(tempfile.mkdtemp()))
    >>> sorted(path.name for path in (folder / "outs").iterdir())
    ['filtered_feature_bc_matrix.h5', 'spatial']
    """
    quirks = quirks or VisiumQuirks()
    written = _arrange(slide, quirks)
    is_flat = quirks.layout == "flat"
    outs = folder / "outs" if quirks.layout == "outs" else folder
    spatial = outs if is_flat else outs / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    prefix = f"GSM1_{slide.slide_id}_" if is_flat else ""
    _write_counts(slide, outs, prefix, written, quirks)
    _write_positions(slide, spatial / f"{prefix}tissue_positions", written, quirks)
    factors = {
        "fiducial_diameter_fullres": FIDUCIAL_UM / slide.mpp,
        "spot_diameter_fullres": SPOT_UM / slide.mpp,
        "tissue_hires_scalef": quirks.hires_scale,
        "tissue_lowres_scalef": quirks.hires_scale * _LOWRES_SHARE,
    }
    kept = {key: value for key, value in factors.items() if key not in quirks.missing_factors}
    (spatial / f"{prefix}scalefactors_json.json").write_text(json.dumps(kept))
    for size, name, scale in (
        ("full", outs / f"{prefix}tissue_image.png", 1.0),
        ("hires", spatial / f"{prefix}tissue_hires_image.png", quirks.hires_scale),
        (
            "lowres",
            spatial / f"{prefix}tissue_lowres_image.png",
            quirks.hires_scale * _LOWRES_SHARE,
        ),
    ):
        if size in quirks.images.split("+"):
            pixels = np.ascontiguousarray(reduced_image(slide, scale).transpose(1, 2, 0))
            name.write_bytes(imagecodecs.png_encode(pixels, level=1))
    return folder


def _arrange(slide: SyntheticSlide, quirks: VisiumQuirks) -> _Written:
    n_spots = len(slide.xy)
    is_raw = quirks.content in {"raw", "probes"}
    listed = np.flatnonzero(slide.in_tissue | is_raw)
    counted = listed[: len(listed) - quirks.n_spots_without_counts]
    without_place = listed[: quirks.n_counts_without_position]
    placed = np.setdiff1d(np.arange(n_spots), without_place)
    if not np.intersect1d(counted, placed).size:
        raise ValueError(f"these quirks leave none of {len(listed)} spots on both sides")
    bare = [_barcode(row) for row in range(n_spots)]
    section = None
    if quirks.n_sections > 1:
        if quirks.suffixes != "both":
            raise ValueError("barcodes of a stitched slide end in -1 and the section")
        section = [f"V1-{row * quirks.n_sections // n_spots}_A1" for row in range(n_spots)]
    xy = slide.xy - [slide.xy[:, 0].min() + 1.5, 0.0] if quirks.is_off_image else slide.xy
    return _Written(
        counted=counted,
        placed=placed,
        counts_names=_names(bare, section, has_suffix=quirks.suffixes in {"both", "counts"}),
        positions_names=_names(bare, section, has_suffix=quirks.suffixes in {"both", "positions"}),
        section=section,
        xy=np.rint(xy) if quirks.is_rounded else xy,
        array_xy=slide.array_xy,
        features=_features(slide, quirks),
    )


def _barcode(row: int) -> str:
    digits = [row // 4**place % 4 for place in range(_BARCODE_LENGTH)]
    return "".join(_BASES[digit] for digit in digits)


def _names(bare: list[str], section: list[str] | None, *, has_suffix: bool) -> list[str]:
    names = [f"{barcode}-1" if has_suffix else barcode for barcode in bare]
    if section is None:
        return names
    return [f"{name}_{part}" for name, part in zip(names, section, strict=True)]


def _features(slide: SyntheticSlide, quirks: VisiumQuirks) -> FeatureRows:
    n_features = len(slide.gene_names)
    n_genes = n_features - quirks.n_antibodies
    if quirks.is_legacy and quirks.n_antibodies:
        raise ValueError("legacy matrices have no antibodies")
    kept = n_genes - quirks.n_repeated_names
    names = (
        *slide.gene_names[:kept],
        *slide.gene_names[: quirks.n_repeated_names],
        *(f"{name}.1" for name in slide.gene_names[n_genes:]),
    )
    half = -(-n_genes // quirks.n_genomes)
    return FeatureRows(
        ids=[
            f"ENSG{row:011d}" if row < n_genes else f"AB{row}_TotalSeq" for row in range(n_features)
        ],
        names=names,
        types=["Gene Expression"] * n_genes + ["Antibody Capture"] * quirks.n_antibodies,
        genomes=[GENOMES[row // half] for row in range(n_genes)] + [""] * quirks.n_antibodies,
    )


def _write_counts(
    slide: SyntheticSlide, outs: Path, prefix: str, written: _Written, quirks: VisiumQuirks
) -> None:
    contents = {
        "filtered": [("filtered_feature_bc_matrix", written.counted)],
        "raw": [("raw_feature_bc_matrix", written.counted)],
        "probes": [("raw_probe_bc_matrix", written.counted)],
        "both": [
            ("filtered_feature_bc_matrix", written.counted),
            ("raw_feature_bc_matrix", np.arange(len(slide.xy))),
        ],
    }[quirks.content]
    for name, rows in contents:
        barcodes = [written.counts_names[row] for row in rows]
        counts = slide.counts[rows]
        if quirks.has_zeros:
            counts = with_zeros(counts)
        if quirks.counts == "h5":
            write_h5(
                outs / f"{prefix}{name}.h5",
                barcodes,
                written.features,
                counts,
                is_legacy=quirks.is_legacy,
                strings=quirks.strings,
                value_type=quirks.value_type,
                index_type=quirks.index_type,
            )
            continue
        is_flat = quirks.layout == "flat"
        write_mtx(
            outs if is_flat else outs / name,
            f"{prefix}{name}_" if is_flat else "",
            barcodes,
            written.features,
            counts,
            version=2 if quirks.is_legacy else 3,
            is_compressed=not quirks.is_legacy,
        )


def with_zeros(counts: sparse.csr_array) -> sparse.csr_array:
    """Store the first zero of every row, behind its values."""
    dense = counts.toarray()
    parts = []
    for row in dense:
        columns = [*np.flatnonzero(row), *np.flatnonzero(row == 0)[:1]]
        parts.append((row[columns], np.array(columns, dtype=np.int32)))
    indptr = np.concatenate([[0], np.cumsum([len(columns) for _, columns in parts])])
    data, indices = (np.concatenate(values) for values in zip(*parts, strict=True))
    return sparse.csr_array((data, indices, indptr), shape=counts.shape)


def _write_positions(
    slide: SyntheticSlide, stem: Path, written: _Written, quirks: VisiumQuirks
) -> None:
    order = written.placed
    if quirks.is_shuffled:
        order = np.random.default_rng(len(order)).permutation(order)
    header = ("key", *_HEADER[1:]) if quirks.n_sections > 1 else _HEADER
    pixels = written.xy.astype(np.int64) if quirks.is_rounded else written.xy
    columns = {
        header[0]: [written.positions_names[row] for row in order],
        "in_tissue": slide.in_tissue[order].astype(np.int32).tolist(),
        "array_row": written.array_xy[order, 1].tolist(),
        "array_col": written.array_xy[order, 0].tolist(),
        "pxl_row_in_fullres": pixels[order, 1].tolist(),
        "pxl_col_in_fullres": pixels[order, 0].tolist(),
    }
    if quirks.positions == "parquet":
        pq.write_table(pa.table(columns), stem.with_name(f"{stem.name}.parquet"))
        return
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    if quirks.has_header:
        lines.insert(0, ",".join(columns))
    end = "\r\n" if quirks.has_crlf else "\n"
    data = "".join(line + end for line in lines).encode()
    name = stem.name if quirks.has_header else f"{stem.name}_list"
    if quirks.positions == "gz":
        stem.with_name(f"{name}.csv.gz").write_bytes(gzip.compress(data, mtime=0))
    else:
        stem.with_name(f"{name}.{quirks.positions}").write_bytes(data)


def _stored_image(
    slide: SyntheticSlide, quirks: VisiumQuirks
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


def reduced_image(slide: SyntheticSlide, scale: float) -> NDArray[np.uint8]:
    """Return an image of which every pixel is the nearest of the full-resolution one."""
    rows, columns = (
        np.minimum(((np.arange(max(1, round(size * scale))) + 0.5) / scale).astype(int), size - 1)
        for size in (slide.height, slide.width)
    )
    return slide.image[:, rows][:, :, columns]

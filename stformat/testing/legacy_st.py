"""A synthetic slide as legacy ST files, with the quirks that real ones have."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing.synthetic import SyntheticSlide

__all__ = [
    "ExpectedLegacySt",
    "ImageFormat",
    "LegacyStLayout",
    "LegacyStQuirks",
    "expected_legacy_st",
    "write_image",
    "write_legacy_st",
]

type ImageFormat = Literal["jpeg", "png", "tiff-tiled", "tiff-striped"]
type LegacyStLayout = Literal["her2st", "flat"]

_TILE_PX = 256
_STRIP_PX = 64
_JPEG_QUALITY = 90
_LABEL_SCALE = 2.0  # label files give pixels of another version of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyStQuirks:
    """How a sample's files depart from the plainest ones; the default is how HER2ST's are."""

    spot_names: Literal["x", "underscore", "padded", "float"] = "x"
    """``10x13``, ``10_13``, ``010x013``, or measured positions as in ``13.064x6.086``."""

    is_transposed: bool = False
    """Counts are genes x spots."""

    delimiter: Literal["\t", ",", ";", " "] = "\t"
    """Between fields of every text file."""

    has_crlf: bool = False
    """Lines end in CR LF."""

    is_compressed: bool = True
    """Counts are gzip-compressed."""

    has_corner: bool = True
    """The header has a cell above the row names."""

    has_quotes: bool = False
    """Names stand in double quotes."""

    has_point_zero: bool = False
    """Counts are written ``3.0``."""

    n_spots_without_counts: int = 0
    """How many spots of the spot file the counts lack, the last ones."""

    n_counts_without_spot: int = 0
    """How many rows of counts the spot file lacks, the first ones."""

    has_unselected: bool = False
    """Spots off the tissue are in both files, with ``selected`` 0."""

    has_selected: bool = True
    """The spot file has the column ``selected``."""

    has_measured: bool = True
    """The spot file has ``new_x, new_y``."""

    is_shuffled: bool = False
    """Rows and columns of the spot file are in another order than those of the counts."""

    array_axes: Literal["image", "mirrored", "transposed", "turned"] = "image"
    """How the array's x and y lie on the image."""

    is_off_image: bool = False
    """The image begins between the second and the third column of spots."""

    n_repeated_genes: int = 0
    """How many genes, the last ones, carry the names of the first ones."""

    labels: Literal["none", "by-place", "by-pixel"] = "none"
    """Whether there is a label file, and what its rows are joined on."""

    n_unlabelled: int = 0
    """How many spots on the tissue the label file lacks, the first ones."""

    has_repeated_label: bool = False
    """The label file gives its last row twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLegacySt:
    """What a reader must find in the files of `write_legacy_st`."""

    rows: NDArray[np.int64]
    """(n_obs,) spots of the slide that have counts and a place, in the order of the counts."""

    barcodes: tuple[str, ...]
    """(n_obs,) names of the spots."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels, columns ``(x, y)``."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the capture array, columns ``(x, y)``."""

    in_tissue: NDArray[np.bool_]
    """(n_obs,) column ``selected``."""

    labels: tuple[str | None, ...]
    """(n_obs,) labels; all None without a label file."""

    gene_names: tuple[str, ...]
    """(n_vars,) names of genes as written, repeated ones included."""

    counts: sparse.csr_array
    """(n_obs, n_vars) int32."""

    n_spots_without_counts: int
    """How many spots of the spot file have no counts."""

    n_counts_without_spot: int
    """How many rows of counts are not in the spot file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """Spots of a slide as the files have them."""

    names: list[str]
    array_xy: NDArray[np.int64]
    new_xy: NDArray[np.float64]
    xy: NDArray[np.float64]
    counted: NDArray[np.int64]
    placed: NDArray[np.int64]
    labelled: NDArray[np.int64]


def expected_legacy_st(
    slide: SyntheticSlide, quirks: LegacyStQuirks | None = None
) -> ExpectedLegacySt:
    """Say what a reader must find in a slide's legacy ST files.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : LegacyStQuirks, optional
        Those of `write_legacy_st`.

    Returns
    -------
    ExpectedLegacySt
        Positions, counts and labels, joined.

    Raises
    ------
    ValueError
        If `quirks` leave no spot on both sides.
    """
    quirks = quirks or LegacyStQuirks()
    written = _arrange(slide, quirks)
    rows = written.counted[np.isin(written.counted, written.placed)]
    is_labelled = np.isin(rows, written.labelled)
    return ExpectedLegacySt(
        rows=rows,
        barcodes=tuple(written.names[row] for row in rows),
        xy=written.xy[rows],
        array_xy=written.array_xy[rows],
        in_tissue=slide.in_tissue[rows] | (not quirks.has_selected),
        labels=tuple(
            slide.labels[row] if has_label else None
            for row, has_label in zip(rows, is_labelled, strict=True)
        ),
        gene_names=_gene_names(slide, quirks),
        counts=slide.counts[rows],
        n_spots_without_counts=len(written.placed) - len(rows),
        n_counts_without_spot=len(written.counted) - len(rows),
    )


def write_legacy_st(
    slide: SyntheticSlide,
    folder: Path,
    *,
    image_format: ImageFormat | None = "jpeg",
    layout: LegacyStLayout = "her2st",
    quirks: LegacyStQuirks | None = None,
) -> Path:
    """Write a slide as the files of a legacy ST sample.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    folder : pathlib.Path
        Directory to write into; made where it is missing.
    image_format : {"jpeg", "png", "tiff-tiled", "tiff-striped"} or None, default: "jpeg"
        How the image is stored; None writes none. TIFF is written in bands, so that a slide of any
        size is; JPEG alone is lossy.
    layout : {"her2st", "flat"}, default: "her2st"
        Folders of the HER2ST study, or all files side by side.
    quirks : LegacyStQuirks, optional
        How the files depart from the plainest.

    Returns
    -------
    pathlib.Path
        `folder`. The same arguments give the same bytes.

    Raises
    ------
    ValueError
        If `quirks` leave no spot on both sides.

    Examples
    --------
    >>> import tempfile
    >>> from stformat.testing import make_slide
    >>> slide = make_slide(height=400, width=400, n_genes=20, pitch_px=60.0, seed=0)
    >>> folder = write_legacy_st(slide, Path(tempfile.mkdtemp()), layout="flat")
    >>> sorted(path.name for path in folder.iterdir())
    ['S1.jpg', 'S1.tsv.gz', 'alignment_table_S1.tsv']
    """
    quirks = quirks or LegacyStQuirks()
    written = _arrange(slide, quirks)
    name = slide.slide_id
    is_her2st = layout == "her2st"
    suffix = ".csv" if quirks.delimiter in ",;" else ".tsv"
    counts = folder / ("ST-cnts" if is_her2st else ".") / f"{name}{suffix}"
    spots = folder / (
        f"ST-spotfiles/{name}_selection{suffix}" if is_her2st else f"alignment_table_{name}{suffix}"
    )
    _write_text(counts, _counts_lines(slide, written, quirks), quirks, quirks.is_compressed)
    _write_text(spots, _spots_lines(slide, written, quirks), quirks)
    if quirks.labels != "none":
        labels = folder / (
            f"ST-pat/lbl/{name}_labeled_coordinates{suffix}"
            if is_her2st
            else f"{name}_labels{suffix}"
        )
        _write_text(labels, _labels_lines(slide, written, quirks), quirks)
    if image_format is not None:
        image = folder / (f"ST-imgs/{name[0]}/{name}/{name}_HE" if is_her2st else name)
        write_image(slide, image, image_format)
    return folder


def _arrange(slide: SyntheticSlide, quirks: LegacyStQuirks) -> _Written:
    """Choose the spots of each file and place them as the quirks say."""
    listed = np.flatnonzero(slide.in_tissue | quirks.has_unselected)
    counted = listed[: len(listed) - quirks.n_spots_without_counts]
    placed = listed[quirks.n_counts_without_spot :]
    if not np.intersect1d(counted, placed).size:
        raise ValueError(f"these quirks leave none of {len(listed)} spots on both sides")
    array_xy = _turn(slide.array_xy, slide, quirks)
    new_xy = _turn(slide.new_xy, slide, quirks)
    on_tissue = placed[slide.in_tissue[placed]]
    # The third column of spots is then half a pitch inside the image.
    shift = (slide.xy[:, 0].min() + 1.5 * slide.pitch_px) * quirks.is_off_image
    return _Written(
        names=_spot_names(array_xy, new_xy, quirks),
        array_xy=array_xy,
        new_xy=np.round(new_xy, 3),
        xy=np.round(slide.xy - [shift, 0.0], 2),
        counted=counted,
        placed=placed,
        labelled=on_tissue[quirks.n_unlabelled :] if quirks.labels != "none" else on_tissue[:0],
    )


def _turn[T: np.number](
    xy: NDArray[T], slide: SyntheticSlide, quirks: LegacyStQuirks
) -> NDArray[T]:
    """Array positions on axes that lie otherwise on the image."""
    x, y = xy.T
    last = slide.array_xy[:, 0].max() + 1
    turned = {
        "image": (x, y),
        "mirrored": (last - x, y),
        "transposed": (y, x),
        "turned": (y, last - x),
    }
    return np.stack(turned[quirks.array_axes], axis=1)


def _spot_names(
    array_xy: NDArray[np.int64], new_xy: NDArray[np.float64], quirks: LegacyStQuirks
) -> list[str]:
    if quirks.spot_names == "float":
        return [f"{x:g}x{y:g}" for x, y in np.round(new_xy, 3).tolist()]
    pattern = {"x": "{}x{}", "underscore": "{}_{}", "padded": "{:03d}x{:03d}"}[quirks.spot_names]
    return [pattern.format(x, y) for x, y in array_xy.tolist()]


def _gene_names(slide: SyntheticSlide, quirks: LegacyStQuirks) -> tuple[str, ...]:
    kept = len(slide.gene_names) - quirks.n_repeated_genes
    return slide.gene_names[:kept] + slide.gene_names[: quirks.n_repeated_genes]


def _counts_lines(
    slide: SyntheticSlide, written: _Written, quirks: LegacyStQuirks
) -> Iterator[Sequence[str]]:
    columns: Sequence[str] = _gene_names(slide, quirks)
    rows: Sequence[str] = [written.names[row] for row in written.counted]
    counts = slide.counts[written.counted]
    if quirks.is_transposed:
        columns, rows, counts = rows, columns, counts.T.tocsr()
    quote = '"' * quirks.has_quotes
    # A blank cell vanishes between runs of white space.
    corner = [""] if quirks.has_corner and quirks.delimiter != " " else []
    yield [*corner, *(f"{quote}{column}{quote}" for column in columns)]
    ending = ".0" * quirks.has_point_zero
    for index, row in enumerate(rows):
        values = counts[[index]].toarray()[0].tolist()
        yield [f"{quote}{row}{quote}", *(f"{value}{ending}" for value in values)]


def _spots_lines(
    slide: SyntheticSlide, written: _Written, quirks: LegacyStQuirks
) -> Iterator[Sequence[str]]:
    placed = written.placed
    is_float = quirks.spot_names == "float" and not quirks.has_measured
    nominal = written.new_xy if is_float else written.array_xy
    columns = {
        "x": [f"{x:g}" for x in nominal[placed, 0]],
        "y": [f"{y:g}" for y in nominal[placed, 1]],
    }
    if quirks.has_measured:
        columns |= {
            f"new_{axis}": [f"{value:.3f}" for value in written.new_xy[placed, index]]
            for index, axis in enumerate("xy")
        }
    columns |= {
        f"pixel_{axis}": [f"{value:.2f}" for value in written.xy[placed, index]]
        for index, axis in enumerate("xy")
    }
    if quirks.has_selected:
        columns["selected"] = [str(int(selected)) for selected in slide.in_tissue[placed]]
    names = list(columns)[:: -1 if quirks.is_shuffled else 1]
    order = np.random.default_rng(len(placed)).permutation(len(placed))
    yield names
    for row in order if quirks.is_shuffled else range(len(placed)):
        yield [columns[name][row] for name in names]


def _labels_lines(
    slide: SyntheticSlide, written: _Written, quirks: LegacyStQuirks
) -> Iterator[Sequence[str]]:
    is_by_place = quirks.labels == "by-place"
    scale = _LABEL_SCALE if is_by_place else 1.0
    quote = '"' if quirks.delimiter == " " or quirks.has_quotes else ""
    yield ["Row.names", *(["x", "y"] * is_by_place), "pixel_x", "pixel_y", "label"]
    labelled = written.labelled.tolist()
    for row in labelled + labelled[-1:] * quirks.has_repeated_label:
        (x, y), (pixel_x, pixel_y) = written.new_xy[row], written.xy[row] / scale
        place = [f"{x:.3f}", f"{y:.3f}"] if is_by_place else []
        label = f"{quote}{slide.labels[row]}{quote}"
        yield [f"{pixel_x:.0f}x{pixel_y:.0f}", *place, f"{pixel_x:.4f}", f"{pixel_y:.4f}", label]


def _write_text(
    path: Path,
    lines: Iterator[Sequence[str]],
    quirks: LegacyStQuirks,
    is_compressed: bool = False,  # noqa: FBT001, FBT002 - one private caller gives it
) -> None:
    end = "\r\n" if quirks.has_crlf else "\n"
    data = "".join(quirks.delimiter.join(fields) + end for fields in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_compressed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, mtime=0))
    else:
        path.write_bytes(data)


def write_image(slide: SyntheticSlide, stem: Path, image_format: ImageFormat) -> None:
    """Write the image of a slide beside others, named `stem` and the suffix of its format."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if image_format == "jpeg":
        pixels = np.ascontiguousarray(slide.image.transpose(1, 2, 0))
        stem.with_name(f"{stem.name}.jpg").write_bytes(
            imagecodecs.jpeg8_encode(pixels, level=_JPEG_QUALITY)
        )
        return
    if image_format == "png":
        pixels = np.ascontiguousarray(slide.image.transpose(1, 2, 0))
        stem.with_name(f"{stem.name}.png").write_bytes(imagecodecs.png_encode(pixels, level=1))
        return
    is_tiled = image_format == "tiff-tiled"
    tifffile.imwrite(
        stem.with_name(f"{stem.name}.tif"),
        _tiles(slide) if is_tiled else _strips(slide),
        shape=(slide.height, slide.width, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression="zlib",
        metadata=None,
        software=False,
        tile=(_TILE_PX, _TILE_PX) if is_tiled else None,
        rowsperstrip=None if is_tiled else _STRIP_PX,
    )


def _strips(slide: SyntheticSlide) -> Iterator[bytes]:
    # tifffile takes whole pages as arrays, but strips that are compressed already.
    for band in slide.iter_bands(_TILE_PX):
        for top in range(0, band.shape[1], _STRIP_PX):
            strip = band[:, top : top + _STRIP_PX].transpose(1, 2, 0)
            yield zlib.compress(strip.tobytes(), 1)


def _tiles(slide: SyntheticSlide) -> Iterator[NDArray[np.uint8]]:
    for band in slide.iter_bands(_TILE_PX):
        below = _TILE_PX - band.shape[1]
        beside = -slide.width % _TILE_PX
        padded = np.pad(band, ((0, 0), (0, below), (0, beside)), constant_values=255)
        for left in range(0, padded.shape[2], _TILE_PX):
            yield np.ascontiguousarray(padded[:, :, left : left + _TILE_PX].transpose(1, 2, 0))

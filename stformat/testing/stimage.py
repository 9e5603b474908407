"""Synthetic slides in the layout of STimage-1K4M, with the quirks that the data set has."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.testing.legacy_st import ImageFormat, write_image
from stformat.testing.synthetic import SyntheticSlide

__all__ = ["ExpectedStimage", "StimageQuirks", "expected_stimage", "write_stimage"]

type StimageTechnology = Literal["ST", "Visium", "VisiumHD"]

KEYWORDS = ("breast cancer", "spatial transcriptomics", "tumor microenvironment")
PMIDS = ("34650042", "32579974")
TITLE = 'A "synthetic" study of tissue, with commas'
SPECIES, TISSUE = "human", "breast"

_META_COLUMNS = (
    "slide", "species", "tissue", "pmid", "title", "abstract", "keywords", "involve_cancer", "tech",
    "spot_num", "gene_num",
)  # fmt: skip
_FRACTION = 0.25
_BASES = "ACGT"
_BARCODE_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StimageQuirks:
    """How a slide's files depart from the plainest ones."""

    technology: StimageTechnology = "ST"
    """Folder, and names of spots: ``10x13``, barcodes, or bins of 8 um."""

    layout: Literal["tree", "flat"] = "tree"
    """Folders of the data set, or the files of a slide side by side, as in its example."""

    spot_names: Literal["x", "float"] = "x"
    """On ST: ``10x13``, or measured positions as in ``13.064x6.086``."""

    prefixed: Literal["both", "coord", "count", "neither"] = "both"
    """Which files have the slide's name before those of spots."""

    numbers: Literal["float", "integer", "mixed", "exponent"] = "float"
    """Counts are written ``3.0``, ``3``, either, or ``3e+00``."""

    has_fractions: bool = False
    """The count after the first one of each row is a quarter more."""

    is_compressed: bool = False
    """Counts and coordinates are gzip-compressed."""

    has_crlf: bool = False
    """Lines end in CR LF."""

    has_quotes: bool = False
    """Every text field stands in double quotes, as R writes it."""

    has_corner: bool = True
    """The header has a cell above the row names."""

    has_last_newline: bool = True
    """The last line ends as the others do."""

    has_blank_lines: bool = False
    """A blank line stands behind every third line of the counts."""

    n_prefixed_genes: int = 0
    """How many genes, the first ones, have ``hg38_`` before their name, and the next as many
    ``mm10_``."""

    n_repeated_genes: int = 0
    """How many genes, the last ones, carry the names of the first ones."""

    n_spots_without_counts: int = 0
    """How many spots of the coordinates the counts lack, the last ones."""

    n_counts_without_spot: int = 0
    """How many rows of counts the coordinates lack, the first ones."""

    is_shuffled: bool = False
    """Coordinates are in another order than counts, and so are their columns."""

    is_off_image: bool = False
    """The image begins between the second and the third column of spots."""

    labels: Literal["none", "header", "headerless"] = "none"
    """Whether there is an annotation file, and whether its first line names the columns."""

    n_unlabelled: int = 0
    """How many spots the annotation file lacks, the first ones."""

    has_repeated_label: bool = False
    """The annotation file gives its last row twice."""

    meta: Literal["none", "csv", "tsv", "corrected"] = "csv"
    """The catalogue: none, separated by commas or tabs, or with a wrong species that a second file
    of a later name corrects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStimage:
    """What a reader must find in the files of `write_stimage`."""

    rows: NDArray[np.int64]
    """(n_obs,) spots of the slide that have counts and a place, in the order of the counts."""

    barcodes: tuple[str, ...]
    """(n_obs,) names of the spots without that of the slide."""

    xy: NDArray[np.float64]
    """(n_obs, 2) centres in pixels, columns ``(x, y)``."""

    radius_px: NDArray[np.float64]
    """(n_obs,) radius in pixels."""

    array_xy: NDArray[np.int64]
    """(n_obs, 2) places on the capture array, columns ``(x, y)``; -1 where names do not tell."""

    labels: tuple[str | None, ...]
    """(n_obs,) labels; all None without an annotation file."""

    column_names: tuple[str, ...]
    """(n_vars,) names of columns as written, repeated and prefixed ones included."""

    gene_names: tuple[str, ...]
    """(n_vars,) names of genes without genomes."""

    genomes: tuple[str | None, ...]
    """(n_vars,) genomes."""

    counts: sparse.csr_array
    """(n_obs, n_vars) int32, or float32 with fractions."""

    n_spots_without_counts: int
    """How many spots of the coordinates have no counts."""

    n_counts_without_spot: int
    """How many rows of counts have no coordinates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """Spots of a slide as the files have them."""

    names: list[str]
    xy: NDArray[np.float64]
    radius: float
    counted: NDArray[np.int64]
    placed: NDArray[np.int64]
    labelled: NDArray[np.int64]
    counts: sparse.csr_array


def expected_stimage(slide: SyntheticSlide, quirks: StimageQuirks | None = None) -> ExpectedStimage:
    """Say what a reader must find in a slide's files.

    Parameters
    ----------
    slide : SyntheticSlide
        The slide.
    quirks : StimageQuirks, optional
        Those of `write_stimage`.

    Returns
    -------
    ExpectedStimage
        Positions, counts and labels, joined.

    Raises
    ------
    ValueError
        If `quirks` leave no spot on both sides.
    """
    quirks = quirks or StimageQuirks()
    written = _arrange(slide, quirks)
    rows = written.counted[np.isin(written.counted, written.placed)]
    columns = _column_names(slide, quirks)
    split = [name.split("_", 1) for name in columns]
    is_labelled = np.isin(rows, written.labelled)
    return ExpectedStimage(
        rows=rows,
        barcodes=tuple(written.names[row] for row in rows),
        xy=written.xy[rows],
        radius_px=np.full(len(rows), written.radius),
        array_xy=np.full((len(rows), 2), -1, dtype=np.int64)
        if quirks.technology == "Visium"
        else slide.array_xy[rows],
        labels=tuple(
            slide.labels[row] if has_label else None
            for row, has_label in zip(rows, is_labelled, strict=True)
        ),
        column_names=columns,
        gene_names=tuple(parts[-1] for parts in split),
        genomes=tuple(parts[0] if len(parts) == 2 else None for parts in split),
        counts=written.counts[rows],
        n_spots_without_counts=len(written.placed) - len(rows),
        n_counts_without_spot=len(written.counted) - len(rows),
    )


def write_stimage(
    slides: SyntheticSlide | Sequence[SyntheticSlide],
    folder: Path,
    *,
    image_format: ImageFormat | None = "jpeg",
    quirks: StimageQuirks | None = None,
) -> Path:
    """Write slides in the layout of STimage-1K4M.

    Parameters
    ----------
    slides : SyntheticSlide or sequence of them
        One slide, or several of different names.
    folder : pathlib.Path
        Directory to write into; made where it is missing. Slides that are there already stay, and
        so do their rows of the catalogue: slides of several technologies are written in several
        calls.
    image_format : {"jpeg", "png", "tiff-tiled", "tiff-striped"} or None, default: "jpeg"
        How images are stored, whose names all end in ``.png``; None writes none.
    quirks : StimageQuirks, optional
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
    >>> folder = write_stimage(slide, Path(tempfile.mkdtemp()))
    >>> [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.csv"))]
    ['ST/coord/S1_coord.csv', 'ST/gene_exp/S1_count.csv', 'meta/meta_all_gene.csv']
    """
    quirks = quirks or StimageQuirks()
    listed = [slides] if isinstance(slides, SyntheticSlide) else list(slides)
    for slide in listed:
        _write_slide(slide, folder, image_format, quirks)
    if quirks.meta != "none":
        _write_meta(listed, folder / "meta", quirks)
    return folder


def _write_slide(
    slide: SyntheticSlide, folder: Path, image_format: ImageFormat | None, quirks: StimageQuirks
) -> None:
    written = _arrange(slide, quirks)
    is_tree = quirks.layout == "tree"
    base = folder / quirks.technology if is_tree else folder
    coord, counts, image = (
        base / (name if is_tree else ".") for name in ("coord", "gene_exp", "image")
    )
    name = slide.slide_id
    _write_text(coord / f"{name}_coord.csv", _coord_lines(slide, written, quirks), quirks)
    _write_text(counts / f"{name}_count.csv", _counts_lines(slide, written, quirks), quirks)
    if quirks.labels != "none":
        _write_text(
            folder / "annotation" / f"{name}_anno.csv",
            _label_lines(slide, written, quirks),
            quirks,
            may_be_compressed=False,
        )
    if image_format is not None:
        image.mkdir(parents=True, exist_ok=True)
        write_image(slide, image / f"{name}.written", image_format)
        (made,) = image.glob(f"{name}.written.*")
        made.replace(image / f"{name}.png")


def _arrange(slide: SyntheticSlide, quirks: StimageQuirks) -> _Written:
    """Choose the spots of each file and place them as the quirks say."""
    listed = np.flatnonzero(slide.in_tissue)
    counted = listed[: len(listed) - quirks.n_spots_without_counts]
    placed = listed[quirks.n_counts_without_spot :]
    if not np.intersect1d(counted, placed).size:
        raise ValueError(f"these quirks leave none of {len(listed)} spots on both sides")
    shift = (slide.xy[:, 0].min() + 1.5 * slide.pitch_px) * quirks.is_off_image
    counts = slide.counts
    if quirks.has_fractions:
        counts = counts.astype(np.float32)
        counts.data[1::2] += np.float32(_FRACTION)
    return _Written(
        names=_spot_names(slide, quirks),
        xy=np.round(slide.xy - [shift, 0.0], 2),
        radius=slide.pitch_px / (2 if quirks.technology == "VisiumHD" else 4),
        counted=counted,
        placed=placed,
        labelled=placed[quirks.n_unlabelled :] if quirks.labels != "none" else placed[:0],
        counts=counts,
    )


def _spot_names(slide: SyntheticSlide, quirks: StimageQuirks) -> list[str]:
    if quirks.technology == "VisiumHD":
        return [f"s_008um_{y:05d}_{x:05d}-1" for x, y in slide.array_xy.tolist()]
    if quirks.technology == "Visium":
        return [f"{_barcode(row)}-1" for row in range(len(slide.array_xy))]
    if quirks.spot_names == "float":
        return [f"{x:.3f}x{y:.3f}" for x, y in slide.new_xy.tolist()]
    return [f"{x}x{y}" for x, y in slide.array_xy.tolist()]


def _barcode(row: int) -> str:
    return "".join(_BASES[row // 4**place % 4] for place in range(_BARCODE_LENGTH))


def _column_names(slide: SyntheticSlide, quirks: StimageQuirks) -> tuple[str, ...]:
    kept = len(slide.gene_names) - quirks.n_repeated_genes
    names = slide.gene_names[:kept] + slide.gene_names[: quirks.n_repeated_genes]
    n = quirks.n_prefixed_genes
    genomes = ["hg38_"] * n + ["mm10_"] * n
    return tuple(
        f"{genomes[column]}{name}" if column < len(genomes) else name
        for column, name in enumerate(names)
    )


def _counts_lines(
    slide: SyntheticSlide, written: _Written, quirks: StimageQuirks
) -> Iterator[Sequence[str]]:
    prefix = f"{slide.slide_id}_" * (quirks.prefixed in {"both", "count"})
    columns = _column_names(slide, quirks)
    yield _quoted(["", *columns] if quirks.has_corner else columns, quirks)
    for index, row in enumerate(written.counted):
        values = written.counts[[row]].toarray()[0].tolist()
        name = _quoted([f"{prefix}{written.names[row]}"], quirks)
        yield [*name, *(_spelled(value, place, quirks) for place, value in enumerate(values))]
        if quirks.has_blank_lines and index % 3 == 2:
            yield []


def _spelled(value: float, place: int, quirks: StimageQuirks) -> str:
    if value != int(value):
        return f"{value:.2f}"
    is_integer = quirks.numbers == "integer" or (quirks.numbers == "mixed" and place % 2 == 0)
    if quirks.numbers == "exponent":
        return f"{value:.9e}"
    return str(int(value)) if is_integer else f"{float(value)}"


def _coord_lines(
    slide: SyntheticSlide, written: _Written, quirks: StimageQuirks
) -> Iterator[Sequence[str]]:
    prefix = f"{slide.slide_id}_" * (quirks.prefixed in {"both", "coord"})
    placed = written.placed
    columns = {
        "yaxis": [repr(y) for y in written.xy[placed, 1].tolist()],
        "xaxis": [repr(x) for x in written.xy[placed, 0].tolist()],
        "r": [repr(written.radius)] * len(placed),
    }
    order = np.arange(len(placed))
    if quirks.is_shuffled:
        columns = dict(reversed(columns.items()))
        order = np.random.default_rng(len(placed)).permutation(order)
    yield _quoted([*([""] * quirks.has_corner), *columns], quirks)
    for row in order.tolist():
        name = f"{prefix}{written.names[placed[row]]}"
        yield [*_quoted([name], quirks), *(values[row] for values in columns.values())]


def _label_lines(
    slide: SyntheticSlide, written: _Written, quirks: StimageQuirks
) -> Iterator[Sequence[str]]:
    prefix = f"{slide.slide_id}_" * (quirks.prefixed in {"both", "coord"})
    if quirks.labels == "header":
        yield _quoted(["", "label"], quirks)
    labelled = written.labelled.tolist()
    for row in labelled + labelled[-1:] * quirks.has_repeated_label:
        yield _quoted([f"{prefix}{written.names[row]}", slide.labels[row]], quirks)


def _quoted(fields: Sequence[str], quirks: StimageQuirks) -> list[str]:
    return [f'"{field}"' for field in fields] if quirks.has_quotes else list(fields)


def _write_text(
    path: Path,
    lines: Iterator[Sequence[str]],
    quirks: StimageQuirks,
    *,
    may_be_compressed: bool = True,
) -> None:
    end = "\r\n" if quirks.has_crlf else "\n"
    text = end.join(",".join(fields) for fields in lines)
    data = (text + end * quirks.has_last_newline).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if quirks.is_compressed and may_be_compressed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, mtime=0))
    else:
        path.write_bytes(data)


def _write_meta(slides: Sequence[SyntheticSlide], folder: Path, quirks: StimageQuirks) -> None:
    """Add rows to the catalogue, which quotes every field as the published one does."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_meta_row(slide, quirks) for slide in slides]
    if quirks.meta == "corrected":
        wrong = [row | {"species": "mouse"} for row in rows]
        _merge_rows(folder / "meta_all_gene.csv", wrong, ",")
        _merge_rows(folder / "meta_all_gene02122025.csv", rows, ",")
    else:
        delimiter = "\t" if quirks.meta == "tsv" else ","
        _merge_rows(folder / "meta_all_gene.csv", rows, delimiter)


def _meta_row(slide: SyntheticSlide, quirks: StimageQuirks) -> dict[str, str]:
    return {
        "slide": slide.slide_id,
        "species": SPECIES,
        "tissue": TISSUE,
        "pmid": ",".join(PMIDS),
        "title": TITLE,
        "abstract": "Abstract 1: made up,\nover two lines.",
        "keywords": f"Keywords 1: {'; '.join(KEYWORDS)}. Keywords 2:",
        "involve_cancer": "True",
        "tech": quirks.technology,
        "spot_num": str(len(_arrange(slide, quirks).counted)),
        "gene_num": str(len(slide.gene_names)),
    }


def _merge_rows(path: Path, rows: list[dict[str, str]], delimiter: str) -> None:
    merged: dict[str, dict[str, str]] = {}
    if path.exists():
        text = io.StringIO(path.read_text(), newline="")
        merged = {row["slide"]: row for row in csv.DictReader(text, delimiter=delimiter)}
    merged |= {row["slide"]: row for row in rows}
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, _META_COLUMNS, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(merged[name] for name in sorted(merged))
    path.write_text(out.getvalue())

"""One slide as STimage-1K4M lays slides out.

https://huggingface.co/datasets/jiawennnn/STimage-1K4M: a folder for each technology with
``coord/<slide>_coord.csv``, ``gene_exp/<slide>_count.csv`` and ``image/<slide>.png``, beside them
``annotation`` and ``meta``.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.errors import ExportError, Problem
from stformat.export._counts_text import csv_field, write_counts_csv
from stformat.export._file_names import checked_file_name
from stformat.export._png_stream import write_png
from stformat.export._pyramid_tiff import check_interleaved, count_rows, write_generic_tiff
from stformat.export._source import table_of
from stformat.genes.keys import unique_keys
from stformat.kernels._pool import read_ahead
from stformat.model import Progress
from stformat.store.reader import Slide
from stformat.store.record_checks import OBS_COLUMNS

__all__ = ["MAX_PNG_PIXELS", "write_stimage"]

MAX_PNG_PIXELS = 178_956_970
"""Largest image that is written as PNG: of larger ones Pillow thinks that they are an attack."""

_FOLDERS = {"ST": "ST", "Visium": "Visium", "Visium HD": "VisiumHD"}
_BAND_PX = 256
_META_COLUMNS = (
    "slide", "species", "tissue", "pmid", "title", "abstract", "keywords", "involve_cancer", "tech",
    "spot_num", "gene_num",
)  # fmt: skip


def write_stimage(slide: Slide, directory: Path, progress: Progress) -> None:
    """Write a slide's coordinates, dense counts, image, labels and row of the catalogue.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    directory : pathlib.Path
        Where to write.
    progress : callable
        Told of ``"counts"`` and ``"image"``.

    Raises
    ------
    ExportError
        If the layout has no folder for the technology, an image has other than 1 or 3 channels, or
        names cannot be those of files, or be written on a line.

    Notes
    -----
    Names of spots are ``<slide>_<barcode>``. Columns are symbols, or the keys of the table where
    these are symbols or there is none; those that repeat get a suffix, as keys of tables do.
    Images of more than `MAX_PNG_PIXELS` are tiled TIFF, ``image/<slide>.tif``. Memory: a block of
    16 million values, a few hundred rows of the image, ``obs`` and ``var``.
    """
    name = checked_file_name(slide.slide_id, "the slide")
    folder = directory / _folder(slide)
    if slide.has_image:
        check_interleaved(slide, "STimage-1K4M")
    spots = [f"{name}_{barcode}" for barcode in slide.obs.index.astype(str)]
    coord, counts = folder / "coord", folder / "gene_exp"
    for made in (coord, counts):
        made.mkdir(parents=True)
    _write_coord(slide, spots, coord / f"{name}_coord.csv")
    _write_labels(slide.obs, spots, directory / "annotation", name)
    _write_meta(slide, directory / "meta", tech=folder.name)
    write_counts_csv(
        slide,
        counts / f"{name}_count.csv",
        row_names=spots,
        column_names=_column_names(slide),
        progress=progress,
    )
    if slide.has_image:
        _write_image(slide, folder / "image", name, progress)


def _folder(slide: Slide) -> str:
    technology = slide.metadata.technology
    if technology not in _FOLDERS:
        raise ExportError(
            Problem(
                "export.technology",
                slide.slide_id,
                f"STimage-1K4M has folders for {', '.join(_FOLDERS)}",
                technology,
                "export it as hest, h5ad, ome-tiff or zip",
            )
        )
    return _FOLDERS[technology]


def _column_names(slide: Slide) -> Sequence[str]:
    keys = slide.var.index.astype(str)
    if table_of(slide).gene_key == "gene_name":
        return list(keys)
    symbols = slide.var["gene_name"].astype(object)
    names, _ = unique_keys(
        [key if pd.isna(symbol) else symbol for key, symbol in zip(keys, symbols, strict=True)]
    )
    return list(names)


def _write_coord(slide: Slide, spots: Sequence[str], path: Path) -> None:
    x, y = slide.centers_px(slice(None)).T.tolist()
    lines = zip(spots, y, x, slide.radius_px.tolist(), strict=True)
    _write_lines(path, [["", "yaxis", "xaxis", "r"], *(map(str, line) for line in lines)])


def _write_labels(obs: pd.DataFrame, spots: Sequence[str], folder: Path, name: str) -> None:
    labels = [column for column in obs.columns if column not in OBS_COLUMNS]
    if labels:
        folder.mkdir()
        columns = [_texts(obs[label]) for label in labels]
        rows = zip(spots, *columns, strict=True)
        _write_lines(folder / f"{name}_anno.csv", [["", *labels], *rows])


def _texts(column: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in column.astype(object)]


def _write_lines(path: Path, rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{','.join(map(csv_field, row))}\n" for row in rows)


def _write_meta(slide: Slide, folder: Path, *, tech: str) -> None:
    known = slide.metadata
    row = {
        "slide": known.slide_id,
        "species": known.species,
        "tissue": known.tissue,
        "pmid": known.pmid,
        "title": known.title,
        "abstract": None,
        "keywords": "; ".join(known.keywords),
        "involve_cancer": known.involves_cancer,
        "tech": tech,
        "spot_num": slide.n_obs,
        "gene_num": slide.n_vars,
    }
    folder.mkdir()
    with (folder / "meta_all_gene.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(_META_COLUMNS)
        writer.writerow("" if row[name] is None else row[name] for name in _META_COLUMNS)


def _write_image(slide: Slide, folder: Path, name: str, progress: Progress) -> None:
    folder.mkdir()
    top = slide.levels[0]
    if top.height * top.width > MAX_PNG_PIXELS:
        write_generic_tiff(slide, folder / f"{name}.tif", progress)
        return
    shape = len(slide.channel_names), top.height, top.width
    with closing(read_ahead(_bands(slide, shape, progress))) as bands:
        path = folder / f"{name}.png"
        write_png(path, bands, shape=shape, dtype=slide.dtype, mpp=slide.mpp)


def _bands(
    slide: Slide, shape: tuple[int, int, int], progress: Progress
) -> Generator[NDArray[np.unsignedinteger]]:
    _, height, width = shape
    done = count_rows(progress, height)
    for top in range(0, height, _BAND_PX):
        band = slide.read_region(0, top, 0, min(_BAND_PX, height - top), width)
        yield band
        done(band.shape[1])

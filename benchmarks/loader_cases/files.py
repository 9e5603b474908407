"""Tiles as PNG files with a CSV of counts, as STimage-1K4M is published, and a dataset of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import stformat as stf
from loader_cases.corpus import PANEL, Corpus

__all__ = [
    "TARGET_SUM",
    "TILE_PX",
    "ReadsPng",
    "TileFiles",
    "by_imagecodecs",
    "by_pillow",
    "files_of_sample",
    "files_of_slide",
    "sample_rows",
]

TILE_PX = 224
TARGET_SUM = 1e4

type ReadsPng = Callable[[Path], NDArray[np.uint8]]


def by_pillow(path: Path) -> NDArray[np.uint8]:
    """Read a PNG file as the paper's code does: (y, x, c)."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def by_imagecodecs(path: Path) -> NDArray[np.uint8]:
    """Read a PNG file by a faster decoder: (y, x, c)."""
    return imagecodecs.png_decode(path.read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileFiles:
    """A dataset of torch: a file a tile, counts in memory."""

    paths: list[Path]
    """File of each tile."""

    panel: NDArray[np.float32]
    """(n, n_genes) counts of the panel."""

    totals: NDArray[np.int64]
    """(n,) counts of all genes."""

    read: ReadsPng = by_pillow
    """Reads a file."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.read(self.paths[index])
        scale = np.float32(TARGET_SUM / self.totals[index])
        return {
            "tile": np.ascontiguousarray(pixels.transpose(2, 0, 1)),
            "expression": np.log1p(self.panel[index] * scale),
            "row": index,
        }

    def read_by(self, read: ReadsPng) -> TileFiles:
        """Return the dataset of the same files, read by another function."""
        return dataclasses.replace(self, read=read)


def files_of_slide(corpus: Corpus, path: Path, rows: NDArray[np.int64]) -> TileFiles:
    """Write rows of a slide, unless they are there, and return their dataset."""
    folder = corpus.folder / f"png-{path.stem}-{len(rows)}"
    files = [folder / f"{row}.png" for row in rows]
    table = folder / "count.csv"
    if not table.exists():
        folder.mkdir(exist_ok=True)
        with stf.open_slide(path) as slide:
            tiles = slide.tiles(TILE_PX, rows=rows)
            for file, tile in zip(files, tiles, strict=True):
                pixels = np.ascontiguousarray(tile.transpose(1, 2, 0))
                file.write_bytes(imagecodecs.png_encode(pixels))
            counts = pd.DataFrame(slide.expression(rows), index=rows, columns=slide.var.index)
        counts.astype(int).to_csv(table)
    counts = pd.read_csv(table, index_col=0)
    return TileFiles(
        paths=files,
        panel=counts[list(PANEL)].to_numpy(dtype=np.float32),
        totals=counts.to_numpy().sum(axis=1),
    )


def files_of_sample(corpus: Corpus, rows: list[NDArray[np.int64]]) -> TileFiles:
    """Write the sample of the rows of all slides, and return its dataset, in the order of rows."""
    sample = np.array([*sample_rows(corpus, rows)])
    parts = [
        files_of_slide(corpus, path, sample[sample[:, 0] == number, 1])
        for number, path in enumerate(corpus.paths)
        if (sample[:, 0] == number).any()
    ]
    return TileFiles(
        paths=[path for part in parts for path in part.paths],
        panel=np.concatenate([part.panel for part in parts]),
        totals=np.concatenate([part.totals for part in parts]),
    )


def sample_rows(corpus: Corpus, rows: list[NDArray[np.int64]]) -> dict[tuple[int, int], int]:
    """Draw rows of all slides, as many as have files: the place of each (slide, row) of them."""
    pairs = [(slide, row) for slide, some in enumerate(rows) for row in some.tolist()]
    n_drawn = min(len(pairs), corpus.scale.n_files)
    drawn = np.sort(np.random.default_rng(0).choice(len(pairs), n_drawn, replace=False))
    return {pairs[number]: place for place, number in enumerate(drawn.tolist())}

"""Which tiles are exported, and what is known of each."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ExportError, Problem
from stformat.model import Progress, ProgressEvent
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex
from stformat.store.tiles import Tiles

__all__ = ["BATCH_BYTES", "ExpressionChoice", "TileSet", "TileSize", "choose_tiles"]

BATCH_BYTES = 1 << 26
"""Bytes of tiles and expression that are taken at a time."""

_MAX_BATCH = 4096
_N_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSize:
    """Edge and resolution of tiles, as `stformat.store.reader.Slide.tiles` takes them."""

    tile_px: int
    """Edge in output pixels."""

    mpp: float | None = None
    """Microns per output pixel; None is the slide's own."""

    size_um: float | None = None
    """Edge in microns, instead of `mpp`."""

    field: Literal["spot"] | None = None
    """The square around the spot, instead of `mpp`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionChoice:
    """Which expression goes with tiles."""

    genes: tuple[str, ...]
    """Keys of the genes in the order of the columns."""

    columns: NDArray[np.int64]
    """(n_genes,) columns of the table."""

    normalize: Literal["log1p"] | None
    """Rule of `stformat.store.reader.Slide.expression`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSet:
    """Tiles of a slide, with the rows they belong to."""

    slide: Slide
    """The slide, bound to the table of the rows."""

    tiles: Tiles
    """(n, c, y, x) tiles, read where they are indexed."""

    rows: NDArray[np.int64]
    """(n,) rows of the table."""

    barcodes: tuple[str, ...]
    """(n,) barcodes."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels, columns ``(x, y)``."""

    coverage: NDArray[np.float64]
    """(n,) share of each tile that lies inside the image."""

    n_below_coverage: int
    """Rows that were chosen and left out for want of coverage."""

    expression: ExpressionChoice | None
    """Expression that goes with the tiles, or None."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of a tile and of the expression that goes with it."""
        _, n_c, height, width = self.tiles.shape
        n_genes = 0 if self.expression is None else len(self.expression.genes)
        return n_c * height * width * self.tiles.dtype.itemsize + 4 * n_genes

    @property
    def batch_size(self) -> int:
        """Tiles in a batch of `BATCH_BYTES`, at least one."""
        return max(1, min(_MAX_BATCH, BATCH_BYTES // self.row_bytes))

    def iter_batches(
        self, size: int, progress: Progress
    ) -> Generator[tuple[slice, NDArray[np.unsignedinteger]]]:
        """Yield the places of some tiles and the tiles, the next ones being read meanwhile."""
        progress(ProgressEvent(step="tiles", total=len(self), unit="tiles"))
        start = 0
        with closing(self.tiles.iter_batches(size)) as batches:  # type: ignore[type-var]
            for batch in batches:
                here = slice(start, start + len(batch))
                yield here, batch
                start = here.stop
                progress(ProgressEvent(step="tiles", done=start, total=len(self), unit="tiles"))

    def read_expression(self, choice: ExpressionChoice, here: slice) -> NDArray[np.float32]:
        """Read the expression that goes with some tiles: dense, one row a tile."""
        return self.slide.expression(self.rows[here], choice.genes, normalize=choice.normalize)


def choose_tiles(
    slide: Slide,
    size: TileSize,
    *,
    rows: RowIndex | Sequence[str] | None,
    in_tissue_only: bool,
    min_coverage: float,
    genes: Iterable[str] | Literal["all"] | None,
    normalize: Literal["log1p"] | None,
) -> TileSet:
    """Choose tiles and what goes with them; no pixel is read.

    Parameters
    ----------
    slide : Slide
        The slide, bound to a table.
    size : TileSize
        Edge and resolution.
    rows : mask, barcodes, positions or slice, optional
        Rows of the table, each once; None is all of them.
    in_tissue_only : bool
        Leave out rows that are not on tissue.
    min_coverage : float
        Leave out tiles of which less lies inside the image, from 0 to 1.
    genes : iterable of str, "all" or None
        Genes whose expression goes with the tiles.
    normalize : {"log1p"} or None
        How expression is normalised.

    Returns
    -------
    TileSet
        At least one tile, in the order of `rows`.

    Raises
    ------
    ExportError
        If size or coverage is not possible, a row is chosen twice, or no tile is left.
    NoImageError
        If the slide has no image.
    BarcodeLookupError
        If no row has a barcode.
    GeneLookupError
        If a name means several genes, or none.
    """
    if not 0 <= min_coverage <= 1:
        raise _impossible("min_coverage", "a share from 0 to 1 is needed", f"{min_coverage:g}")
    expression = _choose_expression(slide, genes, normalize)
    chosen = slide.rows(slice(None) if rows is None else rows)
    _refuse_repeated(slide, chosen)
    if in_tissue_only:
        chosen = chosen[slide.obs["in_tissue"].to_numpy(dtype=np.bool_)[chosen]]
    tiles = _place(slide, size, chosen)
    coverage = tiles.coverage
    is_kept = coverage >= min_coverage
    if not is_kept.any():
        raise _impossible(
            "rows", "at least one tile is needed", f"none of {slide.n_obs} rows is left"
        )
    kept = chosen[is_kept]
    return TileSet(
        slide=slide,
        tiles=tiles if is_kept.all() else _place(slide, size, kept),
        rows=kept,
        barcodes=tuple(slide.obs.index[kept].astype(str)),
        xy=slide.centers_px(kept),
        coverage=coverage[is_kept],
        n_below_coverage=int(np.count_nonzero(~is_kept)),
        expression=expression,
    )


def _place(slide: Slide, size: TileSize, rows: NDArray[np.int64]) -> Tiles:
    try:
        return slide.tiles(
            size.tile_px, mpp=size.mpp, size_um=size.size_um, field=size.field, rows=rows
        )
    except ValueError as error:
        raise _impossible("size of tiles", "a possible size is needed", str(error)) from error


def _choose_expression(
    slide: Slide,
    genes: Iterable[str] | Literal["all"] | None,
    normalize: Literal["log1p"] | None,
) -> ExpressionChoice | None:
    if genes is None:
        if normalize is not None:
            raise _impossible("normalize", "genes must be chosen with it", "none")
        return None
    if normalize not in {None, "log1p"}:
        raise _impossible("normalize", "None or 'log1p' is needed", repr(normalize))
    columns = np.arange(slide.n_vars) if genes == "all" else slide.gene_columns(genes)
    if not len(columns):
        raise _impossible("genes", "at least one gene is needed", "none")
    keys = tuple(slide.var.index[columns].astype(str))
    return ExpressionChoice(genes=keys, columns=columns, normalize=normalize)


def _refuse_repeated(slide: Slide, rows: NDArray[np.int64]) -> None:
    different, counts = np.unique(rows, return_counts=True)
    repeated = different[counts > 1]
    if len(repeated):
        names = ", ".join(slide.obs.index[repeated[:_N_SHOWN]])
        raise _impossible("rows", "a row may be chosen once", f"{len(repeated)} repeated: {names}")


def _impossible(where: str, expected: str, found: str) -> ExportError:
    return ExportError(Problem("export.tiles", where, expected, found))

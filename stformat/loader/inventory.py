"""What is known of every slide before an epoch begins: its rows, its tiles, its genes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import Problem, SlidesDifferError
from stformat.genes.names import GeneNames
from stformat.kernels._pool import map_chunks
from stformat.loader.expression import GeneMap, Panel
from stformat.loader.pixels import TileRule
from stformat.loader.plan import Blocks, cut_blocks, map_runs
from stformat.loader.shelf import SlideShelf
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["Inventory", "Wanted", "take_inventory"]

_ROWS_OF_BLOCK = 1024
"""Most rows of a block. Bins take little memory each, and batches of one place would teach little;
what their blocks decode twice is little beside what their tiles take."""

_BYTES_OF_ROW = 128
"""What a row takes in any case: its slide, number, part and centre, its place in the matrix of
counts and in batches, each as eight bytes, and what these are made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of every slide."""

    tile_px: int | None
    """Edge of a tile, or None for no tiles."""

    mpp: float | None
    """Microns per pixel of a tile, or None for each slide's own."""

    expression: Literal["dense", "csr"] | None
    """How expression is returned, if at all."""

    genes: Sequence[str] | Panel | None
    """Which genes; None for all, where slides have the same."""

    block_bytes: int
    """Most bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Item:
    """What is known of one slide."""

    slide_id: str
    rows: NDArray[np.int64] | None
    n_obs: int
    tiles: TileRule | None
    keys_digest: bytes | None
    columns: NDArray[np.int64] | None
    n_vars: int
    count_dtypes: tuple[np.dtype[Any], np.dtype[Any]]
    row_nnz: float
    bounds: NDArray[np.int64]
    extent_px: NDArray[np.float64]
    row_bytes: int


# No slots: `blocks` is made once and kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class Inventory:
    """Every slide of a loader."""

    slide_ids: tuple[str, ...]
    """Identifier of each."""

    rows: tuple[NDArray[np.int64] | None, ...]
    """Rows of its table that are loaded, ascending; None for all."""

    n_obs: tuple[int, ...]
    """How many rows its table has."""

    tiles: tuple[TileRule, ...] | None
    """How tiles lie on it; None where there are none."""

    map_of_slide: NDArray[np.int64]
    """(n_slides,) entry of `maps`."""

    maps: tuple[GeneMap, ...]
    """Where genes go, for each kind of table; empty without expression."""

    count_dtypes: tuple[np.dtype[Any], np.dtype[Any]]
    """Types of values and columns in which those of every slide fit."""

    row_nnz: tuple[float, ...]
    """Mean number of values of wanted genes that a row stores, of each slide; 0 without
    expression."""

    gene_keys: tuple[str, ...]
    """Key of each gene; empty without expression."""

    bounds: tuple[NDArray[np.int64], ...]
    """Where the blocks of a slide begin and end."""

    extent_px: tuple[NDArray[np.float64], ...]
    """(n_blocks, 2) how far the centres of each block lie apart along x and y, in pixels."""

    row_bytes: tuple[int, ...]
    """Mean bytes that a row takes beside its tile, of each slide: counts, numbers, places."""

    def rows_at(self, slide: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of the table at places among those that are loaded."""
        rows = self.rows[slide]
        return places if rows is None else rows[places]

    @cached_property
    def blocks(self) -> Blocks:
        """The blocks of all slides, each row once."""
        return self.blocks_of(self.bounds)

    def blocks_of(self, bounds: Sequence[NDArray[np.int64]]) -> Blocks:
        """Return the blocks of all slides whose rows are others: `bounds` of each slide's."""
        starts = [each[:-1] for each in bounds]
        stops = [each[1:] for each in bounds]
        slide = np.repeat(np.arange(len(bounds)), [len(each) for each in starts])
        start, stop = np.concatenate(starts), np.concatenate(stops)
        is_there = stop > start
        n_bytes = np.concatenate(
            [self._bytes_of(number, np.diff(each)) for number, each in enumerate(bounds)]
        )
        return Blocks(
            slide=slide[is_there],
            start=start[is_there],
            stop=stop[is_there],
            n_bytes=np.maximum(n_bytes[is_there], 1),
        )

    def _bytes_of(self, slide: int, n_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what so many rows of each block of a slide take in memory."""
        # A row that is drawn twice is held once, but for tiles that are read to their places.
        n_distinct = np.minimum(n_rows, np.diff(self.bounds[slide]))
        n_bytes: NDArray[np.int64] = n_distinct * self.row_bytes[slide]
        if self.tiles is None:
            return n_bytes
        rule = self.tiles[slide]
        if rule.uses_regions:
            return n_bytes + rule.held_bytes(n_distinct, self.extent_px[slide])[0]
        return n_bytes + n_rows * rule.tile_bytes


def take_inventory(shelf: SlideShelf, rows: Sequence[RowIndex | None], wanted: Wanted) -> Inventory:
    """Open every slide once, and hold them against one another.

    Raises
    ------
    SlidesDifferError
        If slides cannot be in one batch: other channels, another type of sample, other genes.
    SplitError
        If tiles could share pixels with those of another side of a split.
    NoImageError
        If a slide has no image, and tiles are wanted.
    GeneLookupError
        If a slide lacks a gene that is named, or has several of its name.
    StoreError
        If a slide cannot be opened.
    """

    def look_at(number: int) -> _Item:
        with shelf.lend(number) as slide:
            if wanted.tile_px is not None:
                shelf.check_tiles(number, wanted.tile_px, wanted.mpp, slide.mpp)
            return _item(slide, rows[number], wanted)

    items = map_chunks(look_at, range(len(shelf)))
    _check_samples(items)
    maps: dict[object, int] = {}
    map_of_slide, gene_maps = [], []
    gene_keys = _gene_keys(shelf, items, wanted)
    for item in items if wanted.expression is not None else ():
        columns = np.arange(item.n_vars) if item.columns is None else item.columns
        key = (item.n_vars, columns.tobytes())
        if key not in maps:
            gene_maps.append(GeneMap.from_columns(columns, item.n_vars))
        map_of_slide.append(maps.setdefault(key, len(maps)))
    tiles = tuple(item.tiles for item in items if item.tiles is not None)
    return Inventory(
        slide_ids=tuple(item.slide_id for item in items),
        rows=tuple(item.rows for item in items),
        n_obs=tuple(item.n_obs for item in items),
        tiles=None if wanted.tile_px is None else tiles,
        map_of_slide=np.array(map_of_slide, dtype=np.int64),
        maps=tuple(gene_maps),
        gene_keys=gene_keys,
        count_dtypes=_common_dtypes(items),
        row_nnz=tuple(item.row_nnz for item in items),
        bounds=tuple(item.bounds for item in items),
        extent_px=tuple(item.extent_px for item in items),
        row_bytes=tuple(item.row_bytes for item in items),
    )


def _item(slide: Slide, selection: RowIndex | None, wanted: Wanted) -> _Item:
    rows = None if selection is None else _ascending(selection, slide.n_obs)
    tiles = None if wanted.tile_px is None else TileRule.of(slide, wanted.tile_px, wanted.mpp)
    keys_digest, columns, row_nnz, row_bytes = None, None, 0.0, _BYTES_OF_ROW
    count_dtypes = np.dtype(np.int32), np.dtype(np.int32)
    if wanted.expression is not None:
        if wanted.genes is None:
            keys_digest = _read_names(slide).keys_digest
        else:
            columns = _columns_of(slide, wanted.genes)
        counts = slide.counts
        count_dtypes = counts.dtype, counts.index_dtype
        nnz = counts.nnz
        if columns is not None:
            nnz = counts.n_stored_in_columns(columns[columns >= 0])
        row_nnz = nnz / max(1, slide.n_obs)
        of_value = sum(dtype.itemsize for dtype in count_dtypes)
        row_bytes += -(-nnz * of_value // max(1, slide.n_obs))
    xy = slide.centers_px(slice(None) if rows is None else rows)

    def n_bytes(n: NDArray[np.int64], extent_px: NDArray[np.float64]) -> NDArray[np.int64]:
        total = n * row_bytes
        if tiles is not None:
            total += tiles.held_bytes(n, extent_px)[0]
        return np.maximum(total, 1)

    def n_bytes_or_rows(n: NDArray[np.int64], extent_px: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.maximum(n_bytes(n, extent_px), n * wanted.block_bytes // _ROWS_OF_BLOCK)

    bounds = cut_blocks(xy, n_bytes_or_rows, block_bytes=wanted.block_bytes)
    if tiles is not None:
        uses_regions = bool(map_runs(tiles.held_bytes, xy, bounds)[1].any())
        tiles = dataclasses.replace(tiles, uses_regions=uses_regions)
    return _Item(
        slide_id=slide.slide_id,
        rows=rows,
        n_obs=slide.n_obs,
        tiles=tiles,
        keys_digest=keys_digest,
        columns=columns,
        n_vars=slide.n_vars,
        count_dtypes=count_dtypes,
        row_nnz=row_nnz,
        bounds=bounds,
        extent_px=map_runs(lambda _, extent_px: extent_px, xy, bounds),
        row_bytes=row_bytes,
    )


def _ascending(selection: RowIndex, n_obs: int) -> NDArray[np.int64]:
    rows = np.sort(row_positions(selection, n_obs))
    is_repeated = rows[1:] == rows[:-1]
    if is_repeated.any():
        raise ValueError(
            f"rows must name a row once, got row {rows[1:][is_repeated][0]} several times; give "
            "weights to draw rows more often than others"
        )
    return rows


def _read_names(slide: Slide) -> GeneNames:
    return slide.opened.table(slide.counts.table).read_gene_names()


def _columns_of(slide: Slide, genes: Sequence[str] | Panel) -> NDArray[np.int64]:
    """Return where genes are in the table, -1 where a panel has some that it has not."""
    if isinstance(genes, Sequence):
        columns = slide.gene_columns(genes)
        _refuse_repeated(slide, genes, columns)
        return columns
    columns = np.asarray(genes.columns_in(slide))
    n_genes, n_vars = len(genes.keys), slide.n_vars
    known = columns[columns >= 0]
    if (
        columns.shape != (n_genes,)
        or columns.dtype.kind not in "iu"
        or (columns < -1).any()
        or (columns >= n_vars).any()
        or len(np.unique(known)) != len(known)
    ):
        raise ValueError(
            f"columns_in must return {n_genes} different columns of {n_vars}, or -1, for slide "
            f"{slide.slide_id}, got an array of {columns.dtype} of shape {columns.shape}"
        )
    return columns.astype(np.int64, copy=False)


def _refuse_repeated(slide: Slide, genes: Sequence[str], columns: NDArray[np.int64]) -> None:
    _, first, which = np.unique(columns, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(columns)))
    if len(again):
        place = int(again[0])
        raise ValueError(
            f"genes must name a gene of slide {slide.slide_id} once, got "
            f"{genes[first[which][place]]!r} and {genes[place]!r}"
        )


def _gene_keys(shelf: SlideShelf, items: Sequence[_Item], wanted: Wanted) -> tuple[str, ...]:
    if wanted.expression is None:
        return ()
    if wanted.genes is not None:
        genes = wanted.genes
        return tuple(genes) if isinstance(genes, Sequence) else tuple(genes.keys)
    first = items[0]
    problems = [
        Problem(
            "loader.genes",
            item.slide_id,
            f"slides that are read without naming genes must have the same, those of "
            f"{first.slide_id}",
            f"{item.n_vars} genes, others than its {first.n_vars}"
            if item.n_vars != first.n_vars
            else "others, or the same in another order",
            "name genes, give a panel, or leave expression out with expression=None",
        )
        for item in items
        if item.keys_digest != first.keys_digest
    ]
    if problems:
        raise SlidesDifferError(*problems)
    # Names of every slide would take megabytes each.
    with shelf.lend(0) as slide:
        return tuple(_read_names(slide).keys)


def _common_dtypes(items: Sequence[_Item]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    values, columns = zip(*(item.count_dtypes for item in items), strict=True)
    return np.result_type(*set(values)), np.result_type(*set(columns))


def _check_samples(items: Sequence[_Item]) -> None:
    """Hold the channels and the types of all images against those of the first."""
    first = items[0].tiles
    problems = [
        Problem(
            "loader.samples",
            item.slide_id,
            f"tiles of one batch must be alike, here {first.n_c} channels of {first.dtype}",
            f"{item.tiles.n_c} channels of {item.tiles.dtype}",
            "load such slides apart",
        )
        for item in items
        if first is not None
        and item.tiles is not None
        and (item.tiles.n_c, item.tiles.dtype) != (first.n_c, first.dtype)
    ]
    if problems:
        raise SlidesDifferError(*problems)

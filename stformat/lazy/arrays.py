"""Arrays that xarray indexes lazily; each read goes through the slide and takes what was asked.

They hold the slide itself, so they pickle as it does: by reopening the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from stformat.store.layout import INNER_PX, SHARD_PX
from stformat.store.reader import Slide

__all__ = [
    "MAX_CHUNK_BYTES",
    "CentersArray",
    "ExpressionArray",
    "FrameColumn",
    "LevelArray",
    "RowChunks",
    "SlideArray",
    "TilesArray",
    "row_chunks",
]

MAX_CHUNK_BYTES = 64 * 2**20
"""Largest dask chunk of tiles, or of dense expression, that is proposed."""

type Positions = NDArray[np.int64]


class SlideArray(BackendArray):
    """Outer indexing of a slide: a subclass reads the cross product of positions.

    Subclasses have ``shape`` and ``dtype`` and implement `take`.
    """

    __slots__ = ()

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read the cross product of `positions`, one array a dimension.

        Parameters
        ----------
        *positions : (k,) ndarray of int64
            Indices into each dimension, in range, not empty; in any order, repeats allowed.

        Returns
        -------
        ndarray
            Of shape ``(len(positions[0]), ...)``.
        """
        raise NotImplementedError

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        if isinstance(key, indexing.VectorizedIndexer):
            block: NDArray[Any] = indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER, self._outer
            )
            return block
        # The adapter would sort the rows and gather the result once more; any order is read here.
        return self._outer(key.tuple)

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        positions = [_positions(item, size) for item, size in zip(key, self.shape, strict=True)]
        lengths = tuple(len(chosen) for chosen in positions)
        block = self.take(*positions) if all(lengths) else np.empty(lengths, self.dtype)
        return block[tuple(0 if isinstance(item, _INTEGER) else slice(None) for item in key)]


_INTEGER = (int, np.integer)


def _positions(item: Any, size: int) -> Positions:  # noqa: ANN401 - an int, a slice or an array
    if isinstance(item, slice):
        return np.arange(*item.indices(size), dtype=np.int64)
    chosen = np.atleast_1d(np.asarray(item, dtype=np.int64))
    return np.where(chosen < 0, chosen + size, chosen)


def _take_along(block: NDArray[Any], axis: int, positions: Positions) -> NDArray[Any]:
    """Index one axis, without a copy where all of it is wanted as it stands."""
    if len(positions) == block.shape[axis] and np.array_equal(positions, np.arange(len(positions))):
        return block
    return block.take(positions, axis=axis)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilesArray(SlideArray):
    """Tiles of every row: axes ``('obs', 'c', 'tile_y', 'tile_x')``.

    A tile is cut whole; channels and pixels of it are chosen afterwards.
    """

    slide: Slide
    tile_px: int
    mpp: float | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read tiles; see `SlideArray.take`."""
        rows, *inside = positions
        block: NDArray[Any] = self.slide.tiles(self.tile_px, mpp=self.mpp, rows=rows)[:]
        for axis, chosen in enumerate(inside, start=1):
            block = _take_along(block, axis, chosen)
        return block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpressionArray(SlideArray):
    """Dense float32 expression: axes ``('obs', 'var')``; only wanted rows and genes are read."""

    slide: Slide
    columns: Positions | None
    """Rows of ``slide.var`` that the array's columns are, or None for all."""
    normalize: Literal["log1p"] | None
    target_sum: float | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read expression; see `SlideArray.take`."""
        rows, chosen = positions
        columns = chosen if self.columns is None else self.columns[chosen]
        wanted, places = np.unique(columns, return_inverse=True)
        block: NDArray[Any] = self.slide.expression(
            rows,
            None if len(wanted) == self.slide.n_vars else self.slide.var.index[wanted],
            normalize=self.normalize,
            target_sum=self.target_sum,
        )
        return _take_along(block, 1, places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CentersArray(SlideArray):
    """One coordinate of the centres along obs; only wanted rows are read."""

    slide: Slide
    axis: Literal[0, 1]
    """0 is x, 1 is y."""
    scale: float
    """Units to a full-resolution pixel: 1, or microns per pixel."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read coordinates; see `SlideArray.take`."""
        (rows,) = positions
        return self.slide.centers_px(rows)[:, self.axis] * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameColumn(SlideArray):
    """A column, or the index, of the slide's ``obs`` or ``var``; the frame loads on first use."""

    slide: Slide
    frame: Literal["obs", "var"]
    column: str | None
    """Name of the column; None is the index."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Positions | None = None
    """Rows of the frame that the array holds, or None for all."""

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read values; see `SlideArray.take`."""
        (chosen,) = positions
        frame: pd.DataFrame = self.slide.obs if self.frame == "obs" else self.slide.var
        column = frame.index if self.column is None else frame[self.column]
        rows = chosen if self.rows is None else self.rows[chosen]
        values: NDArray[Any] = column.take(rows).to_numpy(dtype=self.dtype, copy=True)
        if self.dtype == object:
            # However a column stores text, a missing one reads as None.
            values[pd.isna(values)] = None
        return values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelArray(SlideArray):
    """One pyramid level: axes ``('c', 'y', 'x')``."""

    slide: Slide
    level: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read pixels; see `SlideArray.take`."""
        channels, rows, cols = positions
        result = np.empty((len(channels), len(rows), len(cols)), self.dtype)
        for top, bottom in _spans(rows):
            in_rows = np.flatnonzero((rows >= top) & (rows < bottom))
            for left, right in _spans(cols):
                in_cols = np.flatnonzero((cols >= left) & (cols < right))
                region = self.slide.read_region(self.level, top, left, bottom - top, right - left)
                result[np.ix_(np.arange(len(channels)), in_rows, in_cols)] = region[
                    np.ix_(channels, rows[in_rows] - top, cols[in_cols] - left)
                ]
        return result


def _spans(positions: Positions) -> Iterator[tuple[int, int]]:
    """Cover positions by windows: cut at gaps of a chunk, and at shards so that memory is bounded.

    Examples
    --------
    >>> import numpy as np
    >>> list(_spans(np.array([4100, 10, 12, 900])))
    [(10, 13), (900, 901), (4100, 4101)]
    """
    wanted = np.unique(positions)
    is_cut = (np.diff(wanted) > INNER_PX) | (np.diff(wanted // SHARD_PX) > 0)
    for span in np.split(wanted, np.flatnonzero(is_cut) + 1):
        yield int(span[0]), int(span[-1]) + 1


class RowChunks(Mapping[str, tuple[int, ...]]):
    """xarray's ``preferred_chunks`` along ``obs``, computed only when someone chunks.

    Parameters
    ----------
    slide : Slide
        The slide whose rows are chunked.
    row_bytes : int
        Bytes of a row of the widest variable.
    """

    def __init__(self, slide: Slide, row_bytes: int) -> None:
        self._slide = slide
        self._row_bytes = row_bytes

    @cached_property
    def _chunks(self) -> tuple[int, ...]:
        return row_chunks(
            self._slide.centers_px(slice(None)), max_rows=max(1, MAX_CHUNK_BYTES // self._row_bytes)
        )

    def __getitem__(self, dim: str) -> tuple[int, ...]:
        if dim != "obs":
            raise KeyError(dim)
        return self._chunks

    def __iter__(self) -> Iterator[str]:
        return iter(("obs",))

    def __len__(self) -> int:
        return 1

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A deep copy of a Dataset copies its encoding; a second open store would serve nobody.
        return self


def row_chunks(xy: NDArray[np.float64], *, max_rows: int) -> tuple[int, ...]:
    """Cut rows in spatial order where the image shard changes, and evenly below `max_rows`.

    Parameters
    ----------
    xy : (n_obs, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``, in the order of the rows.
    max_rows : int
        Most rows of a chunk, at least 1.

    Returns
    -------
    tuple of int
        Lengths of the chunks; their sum is n_obs.

    Examples
    --------
    Three rows in the first shard and one in the next to the right:

    >>> import numpy as np
    >>> xy = np.array([[10.0, 10.0], [500.0, 9.0], [40.0, 900.0], [4096.0, 7.0]])
    >>> row_chunks(xy, max_rows=1000), row_chunks(xy, max_rows=2)
    ((3, 1), (2, 1, 1))
    """
    if len(xy) == 0:
        return (0,)
    cell = np.floor(xy / SHARD_PX)
    changes = np.flatnonzero((cell[1:] != cell[:-1]).any(axis=1)) + 1
    chunks: list[int] = []
    for length in np.diff(np.concatenate(([0], changes, [len(xy)]))).tolist():
        n_pieces = -(-length // max_rows)
        short, n_longer = divmod(length, n_pieces)
        chunks.extend([short + 1] * n_longer + [short] * (n_pieces - n_longer))
    return tuple(chunks)

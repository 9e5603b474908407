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

from stformat.store.layout import SHARD_PX
from stformat.store.lazy_array import OuterArray, Positions, take_along
from stformat.store.reader import Slide

__all__ = [
    "MAX_CHUNK_BYTES",
    "CentersArray",
    "ExpressionArray",
    "FrameColumn",
    "RepeatedText",
    "RowChunks",
    "TilesArray",
    "row_chunks",
]

MAX_CHUNK_BYTES = 64 * 2**20
"""Largest dask chunk of tiles, or of dense expression, that is proposed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TilesArray(OuterArray):
    """Tiles of every row: axes ``('obs', 'c', 'tile_y', 'tile_x')``.

    A tile is cut whole; channels and pixels of it are chosen afterwards.
    """

    slide: Slide
    tile_px: int
    mpp: float | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read tiles; see `OuterArray.take`."""
        rows, *inside = positions
        block: NDArray[Any] = self.slide.tiles(self.tile_px, mpp=self.mpp, rows=rows)[:]
        for axis, chosen in enumerate(inside, start=1):
            block = take_along(block, axis, chosen)
        return block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpressionArray(OuterArray):
    """Dense float32 expression: axes ``('obs', 'var')``; only wanted rows and genes are read."""

    slide: Slide
    columns: Positions | None
    """Rows of ``slide.var`` that the array's columns are, or None for all."""
    normalize: Literal["log1p"] | None
    target_sum: float | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read expression; see `OuterArray.take`."""
        rows, chosen = positions
        columns = chosen if self.columns is None else self.columns[chosen]
        wanted, places = np.unique(columns, return_inverse=True)
        block: NDArray[Any] = self.slide.expression(
            rows,
            None if len(wanted) == self.slide.n_vars else self.slide.var.index[wanted],
            normalize=self.normalize,
            target_sum=self.target_sum,
        )
        return take_along(block, 1, places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CentersArray(OuterArray):
    """One coordinate of the centres along obs; only wanted rows are read."""

    slide: Slide
    axis: Literal[0, 1]
    """0 is x, 1 is y."""
    scale: float
    """Units to a full-resolution pixel: 1, or microns per pixel."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read coordinates; see `OuterArray.take`."""
        (rows,) = positions
        return self.slide.centers_px(rows)[:, self.axis] * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameColumn(OuterArray):
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
        """Read values; see `OuterArray.take`."""
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
class RepeatedText(OuterArray):
    """One text for every row."""

    text: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]  # follows from the text
        """Text of that length."""
        return np.array(self.text).dtype

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Repeat the text; see `OuterArray.take`."""
        return np.full(tuple(len(chosen) for chosen in positions), self.text, dtype=self.dtype)


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

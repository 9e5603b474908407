"""The image of a slide as an xarray DataArray that reads the pixels it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from stformat.store.tiles import TileEngine

__all__ = ["lazy_level"]


class _LevelArray(BackendArray):
    """One level; every read is one region."""

    def __init__(self, engine: TileEngine, level: int) -> None:
        self._engine = engine
        self._level = level
        self.shape = (engine.n_c, *engine.level_shape(level))
        self.dtype = engine.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        values: NDArray[Any] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )
        return values

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        (top, height, rows), (left, width, cols) = (
            _span(part, size) for part, size in zip(key[1:], self.shape[1:], strict=True)
        )
        if height == 0 or width == 0:
            return np.empty((self.shape[0], height, width), self.dtype)[key[0], rows, cols]
        region = self._engine.read_region(self._level, top, left, height, width)
        return region[key[0], rows, cols]


def _span(part: int | slice, size: int) -> tuple[int, int, int | slice]:
    """Return the first index and the length of what must be read, and what is taken of it."""
    if not isinstance(part, slice):
        return int(part), 1, 0
    wanted = range(size)[part]
    if not wanted:
        return 0, 0, slice(0)
    low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
    return low, high - low + 1, slice(None, None, wanted.step)


def lazy_level(engine: TileEngine, level: int, *, channel_names: tuple[str, ...]) -> xr.DataArray:
    """Return a level of an image; nothing is read until values are asked for.

    Parameters
    ----------
    engine : TileEngine
        The image.
    level : int
        Pyramid level, 0 is full resolution.
    channel_names : tuple of str
        One name a channel, the coordinate along ``c``.

    Returns
    -------
    xarray.DataArray
        Dimensions ``('c', 'y', 'x')``, without dask.
    """
    data = indexing.LazilyIndexedArray(_LevelArray(engine, level))
    variable = xr.Variable(("c", "y", "x"), data)
    return xr.DataArray(variable, coords={"c": list(channel_names)}, name="image")

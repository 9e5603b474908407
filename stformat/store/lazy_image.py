"""The levels of a slide's image as xarray DataArrays that read the pixels they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from stformat.store.layout import image_shards
from stformat.store.lazy_array import OuterArray, Positions, take_along

if TYPE_CHECKING:
    from stformat.store.arrays import ArrayReader
    from stformat.store.open_store import OpenStore

__all__ = ["ImagedSlide", "LevelArray", "lazy_level", "read_pixels"]

PIXELS = {"units": "px"}
MICRONS = {"units": "um"}


class ImagedSlide(Protocol):
    """What is asked of a slide here; it pickles, as `stformat.store.reader.Slide` does."""

    @property
    def opened(self) -> OpenStore:
        """The open store."""

    @property
    def mpp(self) -> float | None:
        """Microns per full-resolution pixel, or None where unknown."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name a channel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelArray(OuterArray):
    """One pyramid level: axes ``('c', 'y', 'x')``."""

    slide: ImagedSlide
    level: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read pixels; see `OuterArray.take` and `read_pixels`."""
        channels, rows, cols = positions
        pixels = read_pixels(self.slide.opened.engine.level(self.level), rows, cols)
        return take_along(pixels, 0, channels)


def read_pixels(level: ArrayReader, rows: Positions, cols: Positions) -> NDArray[Any]:
    """Read the pixels of a level where some rows and some columns cross.

    Parameters
    ----------
    level : ArrayReader
        Axes ``('c', 'y', 'x')``, its chunks whole in ``c``.
    rows, cols : (m,), (n,) ndarray of int64
        Positions within the level, in any order, with or without repetition.

    Returns
    -------
    (c, m, n) ndarray of uint8 or uint16
        The pixels. Each chunk that holds one of them is decoded once. Beside the result, and the
        slide's cache of chunks, the chunks in flight are in memory, one a thread: what lies between
        the wanted pixels never is. Positions that do not ascend take one more copy of the result.
    """
    n_c, _, _ = level.shape
    _, edge_y, edge_x = level.metadata.chunks
    y, x = _Axis.of(rows, edge_y), _Axis.of(cols, edge_x)
    index = np.stack(np.meshgrid(y.chunks, x.chunks, indexing="ij"), axis=-1).reshape(-1, 2)
    pixels = np.empty((n_c, y.length, x.length), level.dtype)

    def copy(position: int, chunk: NDArray[Any]) -> None:
        at_y, at_x = divmod(position, len(x.chunks))
        part = chunk[:, y.inside[at_y]][:, :, x.inside[at_x]]
        pixels[:, y.wanted[at_y], x.wanted[at_x]] = part

    level.visit_chunks(index @ np.array([level.grid[2], 1]), copy)
    return take_along(take_along(pixels, 1, y.places), 2, x.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """What a request wants along one axis, chunk by chunk."""

    length: int
    """Number of different positions."""

    places: Positions
    """(m,) place of each wanted position among the different ones, which ascend."""

    chunks: Positions
    """(k,) chunks along the axis that hold any of them."""

    wanted: list[slice]
    """Those that each of `chunks` holds, as places."""

    inside: list[slice | Positions]
    """The same, as positions within the chunk."""

    @classmethod
    def of(cls, positions: Positions, edge: int) -> _Axis:
        distinct, places = np.unique(positions, return_inverse=True)
        chunks, starts = np.unique(distinct // edge, return_index=True)
        bounds = [*starts.tolist(), len(distinct)]
        wanted = [slice(*pair) for pair in pairwise(bounds)]
        return cls(
            length=len(distinct),
            places=places,
            chunks=chunks,
            wanted=wanted,
            inside=[_as_slice(distinct[here] % edge) for here in wanted],
        )


def _as_slice(ascending: Positions) -> slice | Positions:
    """Return evenly spaced positions as a slice: NumPy copies by it several times faster."""
    steps = np.diff(ascending)
    if len(steps) and (steps != steps[0]).any():
        return ascending
    first, last = int(ascending[0]), int(ascending[-1])
    return slice(first, last + 1, int(steps[0]) if len(steps) else 1)


def lazy_level(slide: ImagedSlide, level: int) -> xr.DataArray:
    """Return a level of an image; nothing is read until values are asked for.

    Parameters
    ----------
    slide : Slide
        The slide, which the result holds and pickles with.
    level : int
        Pyramid level, 0 is full resolution.

    Returns
    -------
    xarray.DataArray
        Dimensions ``('c', 'y', 'x')``, without dask. Coordinates, each with an index: ``c``, the
        names of the channels; ``y`` and ``x``, the centres of the level's pixels in full-resolution
        pixels, ``(i + 0.5) * 2**level``; and, where the mpp is known, ``y_um`` and ``x_um``, the
        same in microns.

    Raises
    ------
    NoImageError
        If the slide has no image.
    """
    engine = slide.opened.engine
    shape = (engine.n_c, *engine.level_shape(level))
    dims = ("c", "y", "x")
    array = LevelArray(slide=slide, level=level, shape=shape, dtype=engine.dtype)
    coords = xr.Coordinates({"c": list(slide.channel_names)})
    for dim, size in zip(dims[1:], shape[1:], strict=True):
        centres = (np.arange(size) + 0.5) * 2**level
        coords[dim] = xr.Variable(dim, centres, PIXELS)
        if slide.mpp is not None:
            coords[f"{dim}_um"] = xr.Variable(dim, centres * slide.mpp, MICRONS)
    image = xr.DataArray(indexing.LazilyIndexedArray(array), coords, dims, name="image")
    image.encoding = {"preferred_chunks": dict(zip(dims, image_shards(*shape), strict=True))}
    return image if slide.mpp is None else image.set_xindex("y_um").set_xindex("x_um")

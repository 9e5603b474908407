"""How tiles lie on a slide, and how their pixels are held in memory.

Where tiles overlap, as those of Visium HD's bins do, the part of the level that they lie in is held
and every tile is cut when its batch is made; where they lie apart the tiles themselves are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.coords import TileGrid, grid_for_mpp
from stformat.store.reader import Slide
from stformat.store.tiles import TileEngine

__all__ = ["Held", "Region", "TileRule", "choose_held", "engine_of"]

_LEAST_GAIN = 2
"""How many times the memory of a region tiles must take for it to be held: they are copied to a
batch faster than they are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRule:
    """How tiles lie on one slide."""

    grid: TileGrid
    """Size, level and step."""

    mpp: float | None
    """Microns per pixel of a tile, or None for the slide's own."""

    n_c: int
    """Number of channels."""

    dtype: np.dtype[Any]
    """Type of a sample."""

    fill_value: int
    """Sample value outside the image."""

    uses_regions: bool = False
    """Whether parts of the level are held rather than tiles, where they take less memory."""

    @classmethod
    def of(cls, slide: Slide, tile_px: int, mpp: float | None) -> TileRule:
        """Return the rule of a slide.

        Raises
        ------
        NoImageError
            If it has no image.
        ValueError
            As from `stformat.coords.grid_for_mpp`.
        """
        engine = slide.opened.engine
        return cls(
            grid=grid_for_mpp(tile_px, target_mpp=mpp, mpp=slide.mpp, n_levels=engine.n_levels),
            mpp=mpp,
            n_c=engine.n_c,
            dtype=engine.dtype,
            fill_value=engine.background,
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of one pixel."""
        return self.n_c * self.dtype.itemsize

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile."""
        return self.sample_bytes * self.grid.tile_px**2

    def held_bytes(
        self, n_rows: NDArray[np.int64], extent_px: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the bytes that rows take, and whether these are those of a region.

        Parameters
        ----------
        n_rows : (k,) ndarray of int64
            Numbers of rows.
        extent_px : (k, 2) ndarray of float64
            How far their centres lie apart along x and along y, in full-resolution pixels.
        """
        edges = np.ceil(extent_px / 2**self.grid.level).astype(np.int64) + self.grid.source_px + 1
        of_regions = edges.prod(axis=1) * self.sample_bytes
        of_tiles = n_rows * self.tile_bytes
        is_region = _LEAST_GAIN * of_regions < of_tiles
        return np.where(is_region, of_regions, of_tiles), is_region


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle of a level that holds all windows of some tiles; it may overhang the level."""

    top: int
    """First row of the level that it has."""

    left: int
    """First column."""

    height: int
    """Number of rows."""

    width: int
    """Number of columns."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """How the pixels of some rows of a slide are held."""

    regions: tuple[tuple[Region, NDArray[np.int64]], ...]
    """Regions, each with the rows, as places among those asked for, whose tiles it holds."""

    of_tiles: NDArray[np.int64]
    """(n,) the others: rows whose tiles are held as they are."""


def choose_held(
    windows: NDArray[np.int64], row: NDArray[np.int64], part: NDArray[np.int64], rule: TileRule
) -> Held:
    """Choose for each part of a group whether a region is held or tiles are.

    Parameters
    ----------
    windows : (n, 2) ndarray of int64
        Windows of rows of a slide, columns ``(left, top)`` in pixels of the level.
    row : (n,) ndarray of int64
        The row of each window; a row that comes twice takes memory once.
    part : (n,) ndarray of int64
        The part that each row belongs to.
    rule : TileRule
        How tiles lie on the slide.

    Returns
    -------
    Held
        Every row once.
    """
    if not rule.uses_regions:
        return Held(regions=(), of_tiles=np.arange(len(windows)))
    regions, of_tiles = [], [np.zeros(0, np.int64)]
    for number in np.unique(part).tolist():
        here = np.flatnonzero(part == number)
        left, top = windows[here].min(axis=0).tolist()
        right, bottom = (windows[here].max(axis=0) + rule.grid.source_px).tolist()
        region = Region(top=top, left=left, height=bottom - top, width=right - left)
        n_pixels = len(np.unique(row[here])) * rule.grid.tile_px**2
        if _LEAST_GAIN * region.height * region.width < n_pixels:
            regions.append((region, here))
        else:
            of_tiles.append(here)
    return Held(regions=tuple(regions), of_tiles=np.concatenate(of_tiles))


def engine_of(slide: Slide, rule: TileRule) -> TileEngine:
    """Return what cuts the tiles of a slide: an epoch does not come back to their chunks.

    Only resampling does, which takes the windows of a request some at a time.
    """
    return slide.opened.uncached_engine if rule.grid.is_copy else slide.opened.engine

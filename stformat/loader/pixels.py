"""Pixels of a group in memory, and the tiles of a batch cut from them.

Where tiles overlap, as those of Visium HD's bins do, the part of the level that they lie in is held
and every tile is cut when its batch is made; where they lie apart the tiles themselves are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.coords import TileGrid, grid_for_mpp, tile_windows
from stformat.loader.memory import Memory
from stformat.store.reader import Slide
from stformat.store.tiles import TileEngine

__all__ = ["HeldPixels", "HeldRegion", "HeldTiles", "TileRule", "engine_of", "hold_pixels"]


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
        of_tiles = n_rows * (self.sample_bytes * self.grid.tile_px**2)
        # Tiles are copied to a batch faster than they are cut: a region must be worth it.
        is_region = 2 * of_regions < of_tiles
        return np.where(is_region, of_regions, of_tiles), is_region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldTiles:
    """Tiles as they are."""

    tiles: Any
    """(n, c, y, x) array, of NumPy or of CuPy."""

    def cut(self, which: NDArray[np.int64], places: NDArray[np.int64], out: Any) -> None:  # noqa: ANN401 - of NumPy or CuPy
        """Copy tiles `which` to `places` of `out`."""
        for source, target in zip(which.tolist(), places.tolist(), strict=True):
            out[target] = self.tiles[source]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldRegion:
    """A part of a level, with the windows of tiles."""

    pixels: Any
    """(c, y, x) array, of NumPy or of CuPy."""

    top: int
    """First row of the level that it has."""

    left: int
    """First column."""

    windows: NDArray[np.int64]
    """(n, 2) windows, columns ``(left, top)`` in pixels of the level."""

    is_whole: NDArray[np.bool_]
    """(n,) whether a window lies inside the level."""

    rule: TileRule
    """How tiles lie on the slide."""

    def cut(self, which: NDArray[np.int64], places: NDArray[np.int64], out: Any) -> None:  # noqa: ANN401 - of NumPy or CuPy
        """Cut tiles `which` into `places` of `out`."""
        if self.rule.grid.is_copy:
            self._copy(which, places, out)
            return
        grid = self.rule.grid
        xp = _module_of(out)
        shape = (len(which), self.rule.n_c, grid.source_px, grid.source_px)
        source = xp.empty(shape, out.dtype)
        self._copy(which, np.arange(len(which)), source)
        tiles = kernels.resample_tiles(source, tile_px=grid.tile_px, step=grid.step)
        out[xp.asarray(places)] = tiles

    def _copy(self, which: NDArray[np.int64], places: NDArray[np.int64], out: Any) -> None:  # noqa: ANN401 - of NumPy or CuPy
        xp = _module_of(out)
        is_cut_off = ~self.is_whole[which]
        if is_cut_off.any():
            out[xp.asarray(places[is_cut_off])] = self.rule.fill_value
        windows, targets = xp.asarray(self.windows[which]), xp.asarray(places)
        kernels.scatter_chunk(self.pixels, self.top, self.left, windows, targets, out)


type HeldPixels = HeldTiles | HeldRegion


def hold_pixels(
    slide: Slide,
    rows: NDArray[np.int64],
    rule: TileRule,
    *,
    memory: Memory,
    xp: Any = np,  # noqa: ANN401 - a module
) -> HeldPixels:
    """Read what the tiles of some rows need, each chunk once.

    Parameters
    ----------
    slide : Slide
        The slide.
    rows : (n,) ndarray of int64
        Rows of its table, neighbours of one another.
    rule : TileRule
        How tiles lie on it.
    memory : Memory
        Where tiles are read to.
    xp : module, default: numpy
        NumPy or CuPy: where the pixels are held.

    Returns
    -------
    HeldTiles or HeldRegion
        A region where it takes less than half the memory of tiles.

    Raises
    ------
    CorruptStoreError
        If a chunk is missing or damaged.
    """
    centers = slide.centers_px(rows)
    extent = np.ptp(centers, axis=0)[np.newaxis]
    if not rule.held_bytes(np.array([len(rows)]), extent)[1].any():
        edge = rule.grid.tile_px
        tiles = engine_of(slide, rule).cut(
            tile_windows(centers, rule.grid),
            rule.grid,
            fill_value=rule.fill_value,
            out=memory.empty((len(rows), rule.n_c, edge, edge), rule.dtype),
        )
        return HeldTiles(tiles=xp.asarray(tiles))
    windows = tile_windows(centers, rule.grid)
    engine, level = slide.opened.uncached_engine, rule.grid.level
    size = np.array(engine.level_shape(level)[::-1])
    # Windows beside the image need a pixel of it all the same, for a region is never empty.
    low = np.clip(windows.min(axis=0), 0, size - 1)
    high = np.clip(windows.max(axis=0) + rule.grid.source_px, low + 1, size)
    (left, top), (width, height) = low.tolist(), (high - low).tolist()
    return HeldRegion(
        pixels=xp.asarray(engine.read_region(level, top, left, height, width)),
        top=top,
        left=left,
        windows=windows,
        is_whole=((windows >= 0) & (windows + rule.grid.source_px <= size)).all(axis=1),
        rule=rule,
    )


def engine_of(slide: Slide, rule: TileRule) -> TileEngine:
    """Return what cuts the tiles of a slide: an epoch does not come back to their chunks.

    Only resampling does, which takes the windows of a request some at a time.
    """
    return slide.opened.uncached_engine if rule.grid.is_copy else slide.opened.engine


def _module_of(array: Any) -> Any:  # noqa: ANN401 - a module
    """Return the module of an array of NumPy or CuPy."""
    if isinstance(array, np.ndarray):
        return np
    import cupy  # noqa: PLC0415 - whoever has such an array has it

    return cupy

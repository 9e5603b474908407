"""Pixels of a group in memory, read slide by slide, and the tiles of its batches.

Where tiles lie apart, each is read to its place in the batches, which are then slices. Where those
of a slide overlap, as those of Visium HD's bins do, or a GPU cuts them, pixels are held by parts of
the group, and the tiles of a batch are cut when it is made.

All that a group holds lies in one array, so that a batch is cut in one call (decision 27).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.coords import TileGrid, tile_windows
from stformat.loader.memory import Memory, on_device
from stformat.loader.pixels import Held, TileRule, choose_held, engine_of
from stformat.loader.settings import BLOCKS_OF_GROUP
from stformat.store.reader import Slide
from stformat.store.regions import read_regions

__all__ = ["GroupPixels", "HeldPixels", "PlacedTiles"]

_IS_TILE = -1


class PlacedTiles:
    """The tiles of a group, in the order of its batches.

    Parameters
    ----------
    order : (n,) ndarray of int64
        Rows of the group in the order in which batches have them.
    rule : TileRule
        Of any of the slides: their tiles are alike.
    memory : Memory
        Where the tiles are; a batch is a view of them.
    """

    def __init__(self, order: NDArray[np.int64], rule: TileRule, memory: Memory) -> None:
        edge = rule.grid.tile_px
        self._tiles = memory.empty((len(order), rule.n_c, edge, edge), rule.dtype)
        self._place = np.empty_like(order)
        self._place[order] = np.arange(len(order))

    def add(
        self,
        slide: Slide,
        rule: TileRule,
        numbers: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        go_on: Callable[[], object],
    ) -> None:
        """Read the tiles of rows of a slide.

        Parameters
        ----------
        slide : Slide
            The slide.
        rule : TileRule
            How tiles lie on it.
        numbers : (n,) ndarray of int64
            Places of the rows among those of the group.
        rows : (n,) ndarray of int64
            Rows of its table.
        go_on : callable
            Called now and then; what it raises ends the reading.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        engine_of(slide, rule).cut(
            tile_windows(slide.centers_px(rows), rule.grid),
            rule.grid,
            fill_value=rule.fill_value,
            out=self._tiles,
            places=self._place[numbers],
            go_on=go_on,
        )

    def batch(self, first: int, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """Return the tiles of a batch, which begins at place `first` of the order: a view."""
        return self._tiles[first : first + len(chosen)]


class HeldPixels:
    """Tiles and regions that tiles are cut from, one behind the other in a few arrays.

    Parameters
    ----------
    part : (n,) ndarray of int64
        The part that each row of the group belongs to.
    rule : TileRule
        Of any of the slides: their tiles are alike.
    n_bytes : int
        About how much memory the pixels of a group may take.
    memory : Memory
        Where arrays of NumPy are made.
    empty : callable
        Makes the array of a batch, of a shape and a type.
    xp : module
        NumPy or CuPy: where tiles are cut. Each array is copied there when it is first needed.
    """

    def __init__(  # noqa: PLR0917 - what it holds and where, called once
        self,
        part: NDArray[np.int64],
        rule: TileRule,
        n_bytes: int,
        memory: Memory,
        empty: Callable[..., Any],
        xp: Any,  # noqa: ANN401 - a module
    ) -> None:
        self._part = part
        self._rule = rule
        self._n_bytes = n_bytes
        self._memory = memory
        self._empty = empty
        self._xp = xp
        self._arrays: list[Any] = []
        self._n_free = 0
        self._array = np.zeros_like(part)
        self._start = np.zeros_like(part)
        self._strides = np.zeros((len(part), 2), np.int64)
        # What the windows of rows are resampled by; those of others are tiles already.
        self._grids: list[TileGrid] = []
        self._grid = np.full_like(part, _IS_TILE)

    def add(
        self,
        slide: Slide,
        rule: TileRule,
        numbers: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        go_on: Callable[[], object],
    ) -> None:
        """Read what the tiles of rows of a slide need, as `PlacedTiles.add` does."""
        windows = tile_windows(slide.centers_px(rows), rule.grid)
        held = choose_held(windows, rows, self._part[numbers], rule)
        if held.regions:
            corners, pixels = self._place_regions(rule, windows, numbers, held)
            level = slide.opened.uncached_engine.level(rule.grid.level)
            read_regions(level, corners, pixels, background=rule.fill_value, go_on=go_on)
        here = held.of_tiles
        if len(here):
            first, tiles = self._place_tiles(rule, numbers[here], rows[here])
            engine_of(slide, rule).cut(
                windows[here][first], rule.grid, fill_value=rule.fill_value, out=tiles, go_on=go_on
            )

    def batch(self, _first: int, chosen: NDArray[np.int64]) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        """Cut the tiles of a batch: those of some rows of the group."""
        rule = self._rule
        tiles = self._empty((len(chosen), rule.n_c, *2 * (rule.grid.tile_px,)), rule.dtype)
        of_row = self._grid[chosen]
        for number in np.unique(of_row).tolist():
            here = np.flatnonzero(of_row == number)
            if number == _IS_TILE:
                self._gather(chosen[here], here, tiles)
                continue
            grid = self._grids[number]
            sources = self._empty((len(here), rule.n_c, *2 * (grid.source_px,)), rule.dtype)
            self._gather(chosen[here], np.arange(len(here)), sources)
            resampled = kernels.resample_tiles(sources, tile_px=grid.tile_px, step=grid.step)
            tiles[self._xp.asarray(here)] = resampled
        return tiles

    def _place_tiles(
        self, rule: TileRule, numbers: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return which of some rows are new, and room for their tiles."""
        _, first, which = np.unique(rows, return_index=True, return_inverse=True)
        edge = rule.grid.tile_px
        shape = len(first), rule.n_c, edge, edge
        array, start, samples = self._allocate(math.prod(shape))
        self._array[numbers] = array
        self._start[numbers] = start + which * math.prod(shape[1:])
        self._strides[numbers] = edge**2, edge
        return first, samples.reshape(shape)

    def _place_regions(
        self, rule: TileRule, windows: NDArray[np.int64], numbers: NDArray[np.int64], held: Held
    ) -> tuple[list[tuple[int, int]], list[NDArray[Any]]]:
        """Return the corners of regions, and room for their pixels."""
        corners: list[tuple[int, int]] = []
        pixels: list[NDArray[Any]] = []
        for region, here in held.regions:
            shape = rule.n_c, region.height, region.width
            array, start, samples = self._allocate(math.prod(shape))
            pixels.append(samples.reshape(shape))
            corners.append((region.top, region.left))
            left, top = windows[here].T - np.array([[region.left], [region.top]])
            self._array[numbers[here]] = array
            self._start[numbers[here]] = start + top * region.width + left
            self._strides[numbers[here]] = region.height * region.width, region.width
            if not rule.grid.is_copy:
                self._grid[numbers[here]] = self._number_of(rule.grid)
        return corners, pixels

    def _number_of(self, grid: TileGrid) -> int:
        if grid not in self._grids:
            self._grids.append(grid)
        return self._grids.index(grid)

    def _allocate(self, n: int) -> tuple[int, int, NDArray[Any]]:
        """Return room for samples: the number of its array, its beginning there, and itself."""
        if n > self._n_free:
            # The first is of about one size in every group, so that memory fits again; what is not
            # written to takes none. There is room for a block more than was planned, for one that
            # groups share may take more than its share.
            n_bytes = self._n_bytes // BLOCKS_OF_GROUP + (0 if self._arrays else self._n_bytes)
            self._n_free = max(n, n_bytes // self._rule.dtype.itemsize)
            self._arrays.append(self._memory.empty((self._n_free,), self._rule.dtype))
        array = self._arrays[-1]
        start = len(array) - self._n_free
        self._n_free -= n
        return len(self._arrays) - 1, start, array[start : start + n]

    def _used(self, number: int) -> NDArray[Any]:
        """Return what is written to of an array of NumPy, once nothing more is added."""
        array: NDArray[Any] = self._arrays[number]
        is_last = number == len(self._arrays) - 1
        return array[: len(array) - self._n_free] if is_last else array

    def _gather(
        self,
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        out: Any,  # noqa: ANN401 - of NumPy or CuPy
    ) -> None:
        """Cut windows of rows of the group to their places."""
        of_row, xp = self._array[rows], self._xp
        for number in np.unique(of_row).tolist():
            here = np.flatnonzero(of_row == number)
            if not isinstance(self._arrays[number], xp.ndarray):
                self._arrays[number] = on_device(self._used(number), xp)
            kernels.gather_windows(
                self._arrays[number],
                xp.asarray(self._start[rows[here]]),
                xp.asarray(self._strides[rows[here]]),
                xp.asarray(places[here]),
                out,
            )


type GroupPixels = PlacedTiles | HeldPixels

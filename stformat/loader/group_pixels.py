"""Pixels of a group in memory, read slide by slide, and the tiles of its batches.

Where tiles lie apart, each is read to its place in the batches, which are then slices. Where those
of a slide overlap, as those of Visium HD's bins do, or a GPU cuts them, pixels are held by parts of
the group, and the tiles of a batch are cut when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.coords import tile_windows
from stformat.kernels._pool import map_chunks
from stformat.loader.memory import Memory
from stformat.loader.pixels import HeldPixels, TileRule, engine_of, hold_pixels
from stformat.store.reader import Slide

__all__ = ["GroupPixels", "PartPixels", "PlacedTiles"]


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
        _part: int,
        numbers: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> None:
        """Read the tiles of rows of a slide; `numbers` are their places among the group's rows.

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
        )

    def batch(self, first: int, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """Return the tiles of a batch, which begins at place `first` of the order."""
        return self._tiles[first : first + len(chosen)]


class PartPixels:
    """Pixels of the parts of a group.

    Parameters
    ----------
    part : (n,) ndarray of int64
        The part that each row of the group belongs to.
    rule : TileRule
        Of any of the slides: their tiles are alike.
    memory : Memory
        Where arrays of NumPy are made.
    empty : callable
        Makes the array of a batch, of a shape and a type.
    xp : module
        NumPy or CuPy: where pixels are held.
    """

    def __init__(
        self,
        part: NDArray[np.int64],
        rule: TileRule,
        memory: Memory,
        empty: Callable[..., Any],
        xp: Any,  # noqa: ANN401 - a module
    ) -> None:
        self._part = part
        self._rule = rule
        self._memory = memory
        self._empty = empty
        self._xp = xp
        self._tile = np.zeros_like(part)
        self._held: dict[int, HeldPixels] = {}

    def add(
        self,
        slide: Slide,
        rule: TileRule,
        part: int,
        numbers: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> None:
        """Read what the tiles of a part need, as `PlacedTiles.add` does."""
        distinct, self._tile[numbers] = np.unique(rows, return_inverse=True)
        self._held[part] = hold_pixels(slide, distinct, rule, memory=self._memory, xp=self._xp)

    def batch(self, _first: int, chosen: NDArray[np.int64]) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        """Cut the tiles of a batch: those of some rows of the group."""
        edge = self._rule.grid.tile_px
        tiles = self._empty((len(chosen), self._rule.n_c, edge, edge), self._rule.dtype)
        of_part = self._part[chosen]

        def cut(part: int) -> None:
            places = np.flatnonzero(of_part == part)
            self._held[part].cut(self._tile[chosen[places]], places, tiles)

        # A GPU divides the work itself.
        map_chunks(cut, np.unique(of_part).tolist(), n_threads=None if self._xp is np else 1)
        return tiles


type GroupPixels = PlacedTiles | PartPixels

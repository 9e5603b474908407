"""Parts of one slide that lie apart: square blocks, and rows whose tiles stay on their side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.collection.shares import assign_sides, draw_order

__all__ = ["block_sides", "count_blocks"]

_CORNERS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Where a tile may touch a block: its centre and its corners."""


def block_sides(
    xy: NDArray[np.float64],
    *,
    block_px: float,
    reach_px: float,
    fractions: tuple[float, ...],
    seed: int,
    name: str,
) -> NDArray[np.uint8]:
    """Assign rows of a slide to sides by the block that they lie in.

    Memory: some 40 bytes a row, beside `xy`.

    Parameters
    ----------
    xy : (n_obs, 2) ndarray of float64
        Centres, columns ``(x, y)``.
    block_px : float
        Edge of a block, at least twice `reach_px`.
    reach_px : float
        From `stformat.coords.tile_reach_px`.
    fractions : tuple of float
        Wanted share of rows of each side.
    seed : int
        Not negative.
    name : str
        Identifier of the slide: each has an order of its own.

    Returns
    -------
    (n_obs,) ndarray of uint8
        1 for the first side and so on; 0 for rows whose tile would reach into a block of another
        side. So no two tiles of different sides overlap.

    Examples
    --------
    >>> xy = np.array([[5.0, 5.0], [9.5, 5.0], [15.0, 5.0], [25.0, 5.0]])
    >>> block_sides(xy, block_px=10, reach_px=2, fractions=(0.5, 0.5, 0.0), seed=0, name="S1")
    array([2, 0, 1, 1], dtype=uint8)
    """
    if not len(xy):
        return np.zeros(0, dtype=np.uint8)
    own, *touched = _places(xy, block_px, reach_px)
    n_blocks = 1 + max(int(place.max()) for place in (own, *touched))
    n_rows = np.bincount(own, minlength=n_blocks)
    occupied = np.flatnonzero(n_rows)
    side_of = np.zeros(n_blocks, dtype=np.uint8)
    order = draw_order(len(occupied), seed, name)
    side_of[occupied] = 1 + assign_sides(n_rows[occupied], fractions, order)
    sides = side_of[own]
    _claim_empty(side_of, n_rows, sides, touched)
    is_near = np.zeros(len(xy), dtype=np.bool_)
    for place in touched:
        is_near |= side_of[place] != sides
    sides[is_near] = 0
    return sides


def count_blocks(xy: NDArray[np.float64], block_px: float) -> int:
    """Count the blocks that hold a row.

    Examples
    --------
    >>> count_blocks(np.array([[5.0, 5.0], [9.5, 5.0], [15.0, 5.0]]), block_px=10)
    2
    """
    return 0 if len(xy) == 0 else len(np.unique(_keys(xy, (0, 0), block_px, 0)))


def _places(xy: NDArray[np.float64], block_px: float, reach_px: float) -> list[NDArray[np.int32]]:
    """Return the number of the block that each row's tile touches at each corner, as (n,) arrays.

    Blocks that are touched are numbered by column, then row.
    """
    keys = [np.unique(_keys(xy, corner, block_px, reach_px)) for corner in _CORNERS]
    blocks = np.unique(np.concatenate(keys))
    return [
        np.searchsorted(blocks, _keys(xy, corner, block_px, reach_px)).astype(np.int32)
        for corner in _CORNERS
    ]


def _keys(
    xy: NDArray[np.float64], corner: tuple[int, int], block_px: float, reach_px: float
) -> NDArray[np.int64]:
    """Return one number for the block at a corner of each row's tile, ascending by column, row."""
    low, high = (
        np.floor((xy.min(axis=0) - reach_px) / block_px),
        np.floor((xy.max(axis=0) + reach_px) / block_px),
    )
    n_y = int(high[1] - low[1]) + 1
    x, y = (
        (np.floor((xy[:, axis] + sign * reach_px) / block_px) - low[axis]).astype(np.int64)
        for axis, sign in enumerate(corner)
    )
    keys: NDArray[np.int64] = x * n_y + y
    return keys


def _claim_empty(
    side_of: NDArray[np.uint8],
    n_rows: NDArray[np.int64],
    sides: NDArray[np.uint8],
    touched: list[NDArray[np.int32]],
) -> None:
    """Give a block that holds no row, but tiles reach into, to the side of most of these."""
    claims = np.zeros((len(side_of), int(side_of.max()) + 1), dtype=np.int64)
    for place in touched:
        is_empty = n_rows[place] == 0
        np.add.at(claims, (place[is_empty], sides[is_empty]), 1)
    empty = np.flatnonzero(n_rows == 0)
    side_of[empty] = claims[empty].argmax(axis=1)

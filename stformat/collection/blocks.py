"""Parts of one slide that lie apart: square blocks, and rows whose tiles stay on their side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.collection.shares import assign_sides, draw_order

__all__ = ["block_sides"]


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
    corners = np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]]) * reach_px
    touched = np.floor((xy[:, None] + corners) / block_px).astype(np.int64)
    blocks, found = np.unique(touched.reshape(-1, 2), axis=0, return_inverse=True)
    place = found.reshape(len(xy), len(corners))
    own = place[:, 0]
    n_rows = np.bincount(own, minlength=len(blocks))
    occupied = np.flatnonzero(n_rows)
    side_of = np.zeros(len(blocks), dtype=np.int64)
    order = draw_order(len(occupied), seed, name)
    side_of[occupied] = 1 + assign_sides(n_rows[occupied], fractions, order)
    _claim_empty(side_of, n_rows, place)
    sides = side_of[own]
    sides[(side_of[place] != sides[:, None]).any(axis=1)] = 0
    return sides.astype(np.uint8)


def _claim_empty(
    side_of: NDArray[np.int64], n_rows: NDArray[np.int64], place: NDArray[np.int64]
) -> None:
    """Give a block that holds no row, but tiles reach into, to the side of most of these."""
    is_empty = n_rows[place] == 0
    claims = np.zeros((len(side_of), int(side_of.max()) + 1), dtype=np.int64)
    claimant = np.broadcast_to(side_of[place[:, :1]], place.shape)
    np.add.at(claims, (place[is_empty], claimant[is_empty]), 1)
    empty = np.flatnonzero(n_rows == 0)
    side_of[empty] = claims[empty].argmax(axis=1)

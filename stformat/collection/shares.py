"""Things of different size into sides of wanted shares, in an order drawn from a seed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign_sides", "draw_order"]

_ROUNDING = 1e-12
"""Part of the square of the whole that is taken for no gain: a move that gains nothing could be
undone by the next, for ever."""


def draw_order(n: int, seed: int, name: str = "") -> NDArray[np.int64]:
    """Draw an order of n things.

    Parameters
    ----------
    n : int
        How many.
    seed : int
        Not negative.
    name : str, default: ""
        Another name gives another order of the same seed.

    Returns
    -------
    (n,) ndarray of int64
        The numbers below `n`, each once. NumPy keeps the seeding and the bits of the generator
        that is used, PCG64, the same in all its versions and on all platforms, as it does not
        promise of functions that are made from them: so the order is that of raw bits.

    Examples
    --------
    >>> draw_order(5, seed=0), draw_order(5, seed=0, name="S1")
    (array([1, 3, 4, 0, 2]), array([3, 4, 1, 0, 2]))
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    bits = np.random.PCG64(np.random.SeedSequence([seed, *words.tolist()])).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def assign_sides(
    sizes: NDArray[np.int64], fractions: tuple[float, ...], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Assign things to sides, one after the other, each to the side that lacks most.

    Parameters
    ----------
    sizes : (n,) ndarray of int64
        Size of each thing, at least 1.
    fractions : tuple of float
        Wanted share of each side, adding up to 1.
    order : (n,) ndarray of int64
        The order to take them in.

    Returns
    -------
    (n,) ndarray of int64
        Side of each thing, from 0. No side of a share above 0 is left empty where there are as
        many things as such sides: it is given the smallest there are. In the end no thing is left
        that would bring the shares nearer to those wanted on another side.

    Examples
    --------
    >>> assign_sides(np.ones(10, dtype=np.int64), (0.8, 0.1, 0.1), np.arange(10))
    array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    >>> assign_sides(np.array([1, 1, 1, 1, 1, 20]), (0.8, 0.1, 0.1), np.arange(6))
    array([1, 2, 1, 2, 1, 0])
    """
    sides = np.zeros(len(sizes), dtype=np.int64)
    wanted = np.array(fractions, dtype=np.float64) * float(sizes.sum())
    is_wanted = np.array(fractions) > 0
    lacking = wanted.copy()
    for thing in order.tolist():
        side = int(np.where(is_wanted, lacking, -np.inf).argmax())
        sides[thing] = side
        lacking[side] -= sizes[thing]
    _fill_empty(sides, sizes, is_wanted, order)
    while _move_one(sides, sizes, wanted, is_wanted, order):
        pass
    return sides


def _fill_empty(
    sides: NDArray[np.int64],
    sizes: NDArray[np.int64],
    is_wanted: NDArray[np.bool_],
    order: NDArray[np.int64],
) -> None:
    """Give each side that has nothing the smallest thing of those that have several."""
    for side in np.flatnonzero(is_wanted):
        n_things = np.bincount(sides, minlength=len(is_wanted))
        spare = order[n_things[sides[order]] > 1]
        if n_things[side] == 0 and len(spare):
            sides[spare[sizes[spare].argmin()]] = side


def _move_one(
    sides: NDArray[np.int64],
    sizes: NDArray[np.int64],
    wanted: NDArray[np.float64],
    is_wanted: NDArray[np.bool_],
    order: NDArray[np.int64],
) -> bool:
    """Move the thing that makes the squares of what sides have too much least; say if one does."""
    over = np.bincount(sides, weights=sizes, minlength=len(wanted)) - wanted
    n_things = np.bincount(sides, minlength=len(wanted))
    here, size = sides[order], sizes[order].astype(np.float64)
    gain = size[:, None] * (over[here][:, None] - over[None, :] - size[:, None])
    gain[n_things[here] == 1] = 0.0
    gain[:, ~is_wanted] = 0.0
    place, side = np.unravel_index(gain.argmax(), gain.shape)
    if gain[place, side] <= _ROUNDING * float(sizes.sum()) ** 2:
        return False
    sides[order[place]] = side
    return True

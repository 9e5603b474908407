"""Things of different size into sides of wanted shares, in an order drawn from a seed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign_sides", "draw_order"]


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
        Size of each thing.
    fractions : tuple of float
        Wanted share of each side, adding up to 1.
    order : (n,) ndarray of int64
        The order to take them in.

    Returns
    -------
    (n,) ndarray of int64
        Side of each thing, from 0. No side of a share above 0 is left empty where there are as
        many things as such sides.

    Examples
    --------
    >>> assign_sides(np.ones(10, dtype=np.int64), (0.8, 0.1, 0.1), np.arange(10))
    array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    """
    sides = np.zeros(len(sizes), dtype=np.int64)
    lacking = np.array(fractions) * sizes.sum()
    is_wanted = np.array(fractions) > 0
    is_empty = is_wanted.copy()
    for done, thing in enumerate(order.tolist()):
        must_fill = is_empty.sum() >= len(sizes) - done
        eligible = is_empty if must_fill and is_empty.any() else is_wanted
        side = int(np.where(eligible, lacking, -np.inf).argmax())
        sides[thing] = side
        lacking[side] -= sizes[thing]
        is_empty[side] = False
    return sides

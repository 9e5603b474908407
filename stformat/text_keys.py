"""Millions of names as fixed-width bytes: which repeat, and where one list has those of another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["repeated_row", "rows_of"]

_ROWS_AT_ONCE = 1 << 18
_WORD = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
_SHIFT = np.uint64(32)
_MAX_SALTS = 8


def repeated_row(names: NDArray[np.bytes_]) -> int | None:
    """Return a row whose name an earlier row has.

    Parameters
    ----------
    names : (n,) ndarray of bytes of fixed width
        Names; bytes of zero at the end are no part of one.

    Returns
    -------
    int or None
        None where all names differ.

    Notes
    -----
    Memory: 16 bytes a name.

    Examples
    --------
    >>> repeated_row(np.array([b"a", b"b", b"a"]))
    2
    """
    hashes = _hashes(names, salt=0)
    ordered = np.sort(hashes)
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return None
    rows = np.flatnonzero(np.isin(hashes, suspects))
    seen: set[bytes] = set()
    for row in rows.tolist():
        if names[row] in seen:
            return int(row)
        seen.add(names[row])
    return None


def rows_of(wanted: NDArray[np.bytes_], names: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Find names in a list.

    Parameters
    ----------
    wanted : (m,) ndarray of bytes of fixed width
        Names to be found.
    names : (n,) ndarray of bytes of fixed width
        The list; no name repeats.

    Returns
    -------
    (m,) ndarray of int64
        Row of each name in `names`, or -1.

    Raises
    ------
    ValueError
        If a name repeats.

    Notes
    -----
    Names are compared by 64-bit hashes that differ within `names`, then byte by byte, so the result
    is exact. Memory: about 40 bytes a name of either list.

    Examples
    --------
    >>> rows_of(np.array([b"c", b"a"]), np.array([b"a", b"bb"]))
    array([-1,  0])
    """
    if not len(names):
        return np.full(len(wanted), -1, dtype=np.int64)
    for salt in range(_MAX_SALTS):
        hashes = _hashes(names, salt=salt)
        order = np.argsort(hashes)
        hashes = hashes[order]
        if not (hashes[1:] == hashes[:-1]).any():
            return _looked_up(wanted, names, hashes, order, salt=salt)
    raise ValueError("names must be unique, found one that repeats")


def _looked_up(
    wanted: NDArray[np.bytes_],
    names: NDArray[np.bytes_],
    hashes: NDArray[np.uint64],
    order: NDArray[np.int64],
    *,
    salt: int,
) -> NDArray[np.int64]:
    rows = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), _ROWS_AT_ONCE):
        block = wanted[start : start + _ROWS_AT_ONCE]
        place = np.searchsorted(hashes, _hashes(block, salt=salt))
        found = order[np.minimum(place, len(hashes) - 1)]
        rows[start : start + len(block)] = np.where(names[found] == block, found, -1)
    return rows


def _hashes(names: NDArray[np.bytes_], *, salt: int) -> NDArray[np.uint64]:
    """(n,) uint64: equal for equal names, whatever the width of the array."""
    hashes = np.empty(len(names), dtype=np.uint64)
    n_words = -(-names.dtype.itemsize // _WORD)
    for start in range(0, len(names), _ROWS_AT_ONCE):
        block = names[start : start + _ROWS_AT_ONCE].astype(f"S{n_words * _WORD}")
        words: NDArray[Any] = block.view(np.dtype("<u8")).reshape(len(block), n_words)
        mixed = np.full(len(block), salt, dtype=np.uint64)
        for column in range(n_words):
            word = words[:, column]
            # Words of zeros behind a name leave its hash as it is.
            next_mixed = (mixed ^ word) * _MULTIPLIER
            next_mixed ^= next_mixed >> _SHIFT
            mixed = np.where(word == 0, mixed, next_mixed)
        hashes[start : start + len(block)] = mixed
    return hashes

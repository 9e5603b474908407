"""Counts of a group in memory: rows of one slide after those of another, read in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat.loader.memory import Memory
from stformat.store.counts import CountsReader

__all__ = ["HeldCounts"]

_SLACK = 9 / 8
"""How much more than the mean of their slides rows may hold before memory has to grow."""


class HeldCounts:
    """Rows of slides whose counts have the same types, as one CSR matrix.

    Parameters
    ----------
    memory : Memory
        Where arrays are made.
    dtype, index_dtype : dtype
        Of values and of columns.
    n_values : int
        About how many values there will be.
    """

    def __init__(
        self, memory: Memory, dtype: DTypeLike, index_dtype: DTypeLike, n_values: int
    ) -> None:
        capacity = int(n_values * _SLACK)
        self._data = _Growing(memory.empty, dtype, capacity)
        self._indices = _Growing(memory.empty, index_dtype, capacity)
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, counts: CountsReader, rows: NDArray[np.int64]) -> None:
        """Read rows of a slide after those that are there.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        lengths = counts.read_rows(rows, (self._data.extend, self._indices.extend))
        self._lengths.append(lengths)

    @property
    def data(self) -> NDArray[Any]:
        """(nnz,) values."""
        return self._data.used

    @property
    def indices(self) -> NDArray[Any]:
        """(nnz,) column of each."""
        return self._indices.used

    @property
    def indptr(self) -> NDArray[np.int64]:
        """(n + 1,) where each row begins."""
        lengths = np.concatenate(self._lengths)
        indptr = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        return indptr


class _Growing:
    """A 1-D array that is filled from its beginning, and copied to a larger one where it is full.

    Parameters
    ----------
    empty : callable
        As `Memory.empty`.
    dtype : dtype
        Type of elements.
    capacity : int
        Elements that it has room for at first.
    """

    def __init__(self, empty: Callable[..., NDArray[Any]], dtype: DTypeLike, capacity: int) -> None:
        self._empty = empty
        self._array = empty((capacity,), dtype)
        self._n_used = 0

    @property
    def used(self) -> NDArray[Any]:
        """What has been asked for so far."""
        return self._array[: self._n_used]

    def extend(self, n: int) -> NDArray[Any]:
        """Return the next `n` elements, to be filled before there are others."""
        n_used = self._n_used + n
        if n_used > len(self._array):
            larger = self._empty((int(n_used * _SLACK),), self._array.dtype)
            larger[: self._n_used] = self.used
            self._array = larger
        self._n_used = n_used
        return self._array[n_used - n : n_used]

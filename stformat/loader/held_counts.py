"""Counts of a group in memory: rows of one slide after those of another, read in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat import kernels
from stformat.loader.memory import Memory
from stformat.store.counts import CountsReader

__all__ = ["HeldCounts"]

_SLACK = 9 / 8
"""How much more than the mean of their slides rows may hold before memory has to grow."""

_PIECE_BYTES = 32 * 2**20
"""Counts of which most are not wanted are read so many bytes at a time."""


class HeldCounts:
    """Rows of slides as one CSR matrix, of the genes that are wanted alone.

    Parameters
    ----------
    memory : Memory
        Where arrays are made.
    dtype, index_dtype : dtype
        Of values and of columns, wide enough for those of every slide.
    n_values : int
        About how many values there will be.
    n_genes : int
        Number of columns.
    has_totals : bool
        Whether rows are added up, over all genes of their tables.
    """

    def __init__(
        self,
        memory: Memory,
        dtype: DTypeLike,
        index_dtype: DTypeLike,
        *,
        n_values: int,
        n_genes: int,
        has_totals: bool,
    ) -> None:
        self._n_genes = n_genes
        self._has_totals = has_totals
        of_value = np.dtype(dtype).itemsize + np.dtype(index_dtype).itemsize
        self._piece_values = max(1, _PIECE_BYTES // of_value)
        capacity = int(n_values * _SLACK)
        self._data = _Growing(memory.empty, dtype, capacity)
        self._indices = _Growing(memory.empty, index_dtype, capacity)
        self._lengths = [np.zeros(0, np.int64)]
        self._totals = [np.zeros(0)]

    def add(
        self,
        counts: CountsReader,
        rows: NDArray[np.int64],
        target: NDArray[np.int64] | None = None,
        *,
        go_on: Callable[[], object],
    ) -> None:
        """Read rows of a slide after those that are there.

        Parameters
        ----------
        counts : CountsReader
            Counts of the slide.
        rows : (n,) ndarray of int64
            Rows of its table.
        target : (n_vars,) ndarray of int64, optional
            Column for each gene of the table, or -1 for one that is not wanted. By default every
            gene stays in its column.
        go_on : callable
            Called now and then; what it raises ends the reading.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        pieces = [rows] if target is None else self._pieces(counts, rows)
        for some in pieces:
            go_on()
            lengths = counts.read_rows(some, (self._data.extend, self._indices.extend))
            indptr = np.append(0, np.cumsum(lengths))
            data, indices = (array.last(indptr[-1]) for array in (self._data, self._indices))
            if self._has_totals:
                self._totals.append(kernels.row_sums(data, indptr))
            if target is not None:
                # Right after they were decoded, while they are in the cache of the processor.
                selected = kernels.select_genes_inplace(
                    data, indices, indptr, gene_map=target, n_out=self._n_genes
                )
                for array in (self._data, self._indices):
                    array.drop(int(indptr[-1] - selected[-1]))
                lengths = np.diff(selected)
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
        return np.append(0, np.cumsum(np.concatenate(self._lengths)))

    @property
    def totals(self) -> NDArray[np.float64] | None:
        """(n,) sum of each row over all genes of its table, where that was asked for."""
        return np.concatenate(self._totals) if self._has_totals else None

    def _pieces(self, counts: CountsReader, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut rows where they hold about `_PIECE_BYTES`; a piece has a row more at most."""
        up_to = np.cumsum(counts.n_stored_of_rows(rows))
        limits = np.arange(self._piece_values, up_to[-1] if len(rows) else 0, self._piece_values)
        ends = np.searchsorted(up_to, limits, side="right")
        yield from (some for some in np.split(rows, ends) if len(some))


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
        """What has been asked for so far and not dropped."""
        return self._array[: self._n_used]

    def last(self, n: int) -> NDArray[Any]:
        """Return the last `n` elements."""
        return self._array[self._n_used - n : self._n_used]

    def extend(self, n: int) -> NDArray[Any]:
        """Return the next `n` elements, to be filled before there are others."""
        n_used = self._n_used + n
        if n_used > len(self._array):
            larger = self._empty((int(n_used * _SLACK),), self._array.dtype)
            larger[: self._n_used] = self.used
            self._array = larger
        self._n_used = n_used
        return self.last(n)

    def drop(self, n: int) -> None:
        """Forget the last `n` elements."""
        self._n_used -= n

"""Means and variances of genes, from blocks of rows one after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import column_indices, csr, twins_for
from stformat.kernels._pool import thread_count

__all__ = ["GeneMoments", "gene_moments"]

# Sums of counts below 2**32 stay in int64 for as many rows.
MAX_ROWS = 1 << 31
MAX_COUNT = (1 << 32) - 1
# A block has sums of its own, an entry a gene, that are added up at its end.
BLOCK_VALUES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneMoments:
    """Sums of genes over the rows that were seen; made by `gene_moments`.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.array([1, 2, 4], dtype=np.int32), np.array([0, 1, 1])
    >>> moments = gene_moments(*counts, np.array([0, 2, 3]), n_vars=3)
    >>> moments.mean, moments.variance
    (array([0.5, 3. , 0. ]), array([0.5, 2. , 0. ]))
    """

    n_obs: int
    """Rows that were seen."""

    sums: NDArray[Any]
    """(n_vars,) int64 of counts, exact; float64 of fractions."""

    squares: NDArray[Any]
    """Sums of squares: of counts (2, n_vars) uint64, exact, the multiples of 2**32 and the rest;
    of fractions (n_vars,) float64."""

    @property
    def is_exact(self) -> bool:
        """Whether the sums are of whole numbers."""
        return self.sums.dtype == np.int64

    @property
    def mean(self) -> NDArray[np.float64]:
        """(n_vars,) mean of each gene, NaN without rows; of counts correctly rounded."""
        if self.n_obs == 0:
            return np.full(len(self.sums), np.nan)
        # Python divides integers of any size and rounds the quotient correctly.
        return np.array([total / self.n_obs for total in self.sums.tolist()], dtype=np.float64)

    @property
    def variance(self) -> NDArray[np.float64]:
        """(n_vars,) variance of each gene with ``n_obs - 1``, NaN with fewer than two rows.

        Of counts it is correctly rounded. Of fractions it is
        ``max(squares - sums**2 / n_obs, 0) / (n_obs - 1)`` in float64.
        """
        n = self.n_obs
        if n < 2:
            return np.full(len(self.sums), np.nan)
        if not self.is_exact:
            centred = self.squares - self.sums * self.sums / n
            return np.asarray(np.maximum(centred, 0) / (n - 1), dtype=np.float64)
        high, low = self.squares.tolist()
        return np.array(
            [
                (n * ((h << 32) + rest) - total * total) / (n * (n - 1))
                for total, h, rest in zip(self.sums.tolist(), high, low, strict=True)
            ],
            dtype=np.float64,
        )


def gene_moments(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    n_vars: int,
    *,
    state: GeneMoments | None = None,
) -> GeneMoments:
    """Add the rows of a CSR matrix to the sums from which genes' means and variances follow.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row. Integers must be below 2**32 in magnitude.
    indices : (nnz,) ndarray of int32 or int64
        Column of each value, in any order but once a row.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    n_vars : int
        Number of genes.
    state : GeneMoments, optional
        Sums of the rows before; it is not changed. Default: none were seen.

    Returns
    -------
    GeneMoments
        Sums of the rows before and of these.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above, or `state` is of integers and `data`
        is not or the other way round.
    ValueError
        If `indptr` does not rise from 0 to the length of `data` and `indices`, a column or a count
        is out of range, `state` is of another number of genes, or there are more than 2**31 rows.

    Notes
    -----
    Sums of integers are exact: any order of rows and any blocks give the same bits. Fractions are
    added in float64 one after the other, with each square rounded before it is added: the bits do
    not depend on where blocks end, but on the order of rows. The relative error of such a mean is
    below ``n_obs * 2**-53`` for values of one sign, that of the variance below
    ``3 * n_obs * 2**-53 * (1 + mean**2 / variance)``.

    Examples
    --------
    Two blocks of rows:

    >>> import numpy as np
    >>> block = np.array([3, 1], dtype=np.int32), np.array([0, 1]), np.array([0, 1, 2])
    >>> moments = gene_moments(*block, n_vars=2)
    >>> gene_moments(*block, n_vars=2, state=moments).mean
    array([1.5, 0.5])
    """
    twins = twins_for(data=data, indices=indices, indptr=indptr)
    data, indptr = csr(data, indptr)
    indices = column_indices(indices, len(data))
    if n_vars < 0:
        raise ValueError(f"n_vars must be at least 0, got {n_vars}")
    is_exact = data.dtype.kind != "f"
    state = _nothing_seen(n_vars, is_exact=is_exact) if state is None else state
    _check_state(state, n_vars, is_exact=is_exact)
    n_obs = state.n_obs + len(indptr) - 1
    if n_obs > MAX_ROWS:
        raise ValueError(f"n_obs must be at most 2**31 over all blocks, got {n_obs}")
    add = _add_counts if is_exact else _add_fractions
    sums, squares, position = add(twins, data, indices, state)
    if position >= 0:
        column = int(indices[position])
        if not 0 <= column < n_vars:
            raise ValueError(
                f"indices must be columns of {n_vars} genes, got {column} at {position}"
            )
        raise ValueError(
            f"data must be below 2**32 in magnitude, got {data[position]} at {position}"
        )
    return GeneMoments(n_obs=n_obs, sums=sums, squares=squares)


def _nothing_seen(n_vars: int, *, is_exact: bool) -> GeneMoments:
    if is_exact:
        squares = np.zeros((2, n_vars), np.uint64)
        return GeneMoments(n_obs=0, sums=np.zeros(n_vars, np.int64), squares=squares)
    return GeneMoments(n_obs=0, sums=np.zeros(n_vars), squares=np.zeros(n_vars))


def _check_state(state: GeneMoments, n_vars: int, *, is_exact: bool) -> None:
    if state.is_exact != is_exact:
        kinds = {True: "integers", False: "floats"}
        raise TypeError(
            f"state must be of {kinds[is_exact]}, as data is; got {kinds[not is_exact]}"
        )
    if len(state.sums) != n_vars:
        raise ValueError(f"state must be of {n_vars} genes, got {len(state.sums)}")


def _add_counts(
    twins: Any,  # noqa: ANN401 - a module
    data: NDArray[Any],
    indices: NDArray[Any],
    state: GeneMoments,
) -> tuple[NDArray[np.int64], NDArray[np.uint64], int]:
    n_vars = len(state.sums)
    sums, squares = state.sums.copy(), state.squares.copy()
    misplaced: list[int] = []
    lock = threading.Lock()

    def block(start: int, stop: int) -> None:
        own = twins.xp.zeros(n_vars, np.int64)
        own_squares = twins.xp.zeros((2, n_vars), np.uint64)
        some = slice(start, stop)
        position = twins.count_moments(data[some], indices[some], own, *own_squares)
        with lock:
            if position >= 0:
                misplaced.append(start + position)
            np.add(sums, twins.to_host(own), out=sums)
            np.add(squares, twins.to_host(own_squares), out=squares)

    n_values = max(BLOCK_VALUES, -(-len(data) // thread_count()))
    twins.run_blocks(block, len(data), block=n_values)
    # Carried, so that the same rows leave the same bits whatever the blocks were.
    squares[0] += squares[1] >> np.uint64(32)
    squares[1] &= np.uint64(MAX_COUNT)
    return sums, squares, min(misplaced, default=-1)


def _add_fractions(
    twins: Any,  # noqa: ANN401 - a module
    data: NDArray[Any],
    indices: NDArray[Any],
    state: GeneMoments,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    sums, squares = twins.xp.array(state.sums), twins.xp.array(state.squares)
    position = twins.value_moments(data, indices, sums, squares)
    return twins.to_host(sums), twins.to_host(squares), position

"""Rows of counts added up by group: bins of a coarser grid, spots of a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import column_indices, contiguous, csr, read_only, twins_for

__all__ = ["pool_bins"]

# The scratch of a thread has an entry a column.
MAX_COLUMNS = 1 << 31


def pool_bins(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    group: NDArray[np.int64],
    n_groups: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Add up the rows of a CSR matrix by group, exactly.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row.
    indices : (nnz,) ndarray of int32 or int64
        Column of each value, in any order but once a row.
    indptr : (n_rows + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    group : (n_rows,) ndarray of int64
        Row of the result that each row is added to, or -1 for a row that is left out.
    n_groups : int
        Number of rows of the result. One that no row is added to is empty.

    Returns
    -------
    data : (pooled_nnz,) ndarray
        Sums: int32 of integers, the type of `data` of floats.
    indices : (pooled_nnz,) ndarray
        Columns, ascending in each row, of the type of `indices`. A column is there where any row
        of the group has it, were its sum 0.
    indptr : (n_groups + 1,) ndarray
        Where each row begins, of the type of `indptr`.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If `indptr` does not rise from 0 to the length of `data` and `indices`, or a column or a
        group is out of range.
    OverflowError
        If an integer or a sum of integers is none of int32.

    Notes
    -----
    The total over all rows that have a group is conserved. Floats are added in float64 in the order
    of their rows and rounded once, so they are the same bits for any number of threads. Columns are
    counted before they are filled: beside the result, memory is a few numbers a row and a scratch
    of one number a column for each thread.

    Examples
    --------
    Rows 0 and 2 make the first row of the result:

    >>> import numpy as np
    >>> data, indices, indptr = pool_bins(
    ...     np.array([1, 5, 2, 7], dtype=np.int32), np.array([3, 0, 3, 1]), np.array([0, 1, 2, 4]),
    ...     np.array([0, 1, 0]), 2,
    ... )
    >>> data, indices, indptr
    (array([7, 3, 5], dtype=int32), array([1, 3, 0]), array([0, 2, 3]))
    """
    twins = twins_for(data=data, indices=indices, indptr=indptr, group=group)
    offset_type = indptr.dtype
    data, indptr = csr(data, indptr)
    indices = column_indices(indices, len(data))
    group = contiguous(read_only("group", group, n_dims=1, dtypes=(np.int64,)))
    if n_groups < 0:
        raise ValueError(f"n_groups must be at least 0, got {n_groups}")
    if len(group) != len(indptr) - 1:
        raise ValueError(f"group must have one entry a row, {len(indptr) - 1}, got {len(group)}")
    _check_range("group", group, -1, n_groups)
    _check_range("indices", indices, 0, MAX_COLUMNS)
    n_vars = int(indices.max()) + 1 if len(indices) else 0
    pooled_data, pooled_indices, pooled_indptr, failed = twins.pool_bins(
        data, indices, indptr, group, n_groups, n_vars
    )
    if failed >= 0:
        raise OverflowError(f"sums must fit in int32, those of group {failed} do not")
    return pooled_data, pooled_indices, pooled_indptr.astype(offset_type, copy=False)


def _check_range(name: str, values: NDArray[Any], lowest: int, stop: int) -> None:
    if len(values) == 0 or (values.min() >= lowest and values.max() < stop):
        return
    position = int(np.argmax((values < lowest) | (values >= stop)))
    raise ValueError(f"{name} must be {lowest} to {stop - 1}, got {values[position]} at {position}")

"""What NumPy's indexing rules select among rows, as positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["RowIndex", "row_positions"]

type RowIndex = int | np.integer | slice | ArrayLike
"""One row, a slice, positions (negative ones count from the end) or a mask of all rows."""


def row_positions(index: RowIndex, n_rows: int) -> NDArray[np.int64]:
    """Return the rows that an index selects.

    Parameters
    ----------
    index : int, slice, (m,) array of int or (n_rows,) array of bool
        As NumPy takes it along one axis.
    n_rows : int
        How many rows there are.

    Returns
    -------
    (m,) ndarray of int64
        Positions from 0 to ``n_rows - 1``, in the order of `index`, repetitions kept.

    Raises
    ------
    IndexError
        If a position is out of bounds, a mask has another length, or the index is something else.

    Examples
    --------
    >>> row_positions([-1, 0], 5)
    array([4, 0])
    >>> row_positions([True, False, True], 3)
    array([0, 2])
    """
    if isinstance(index, slice):
        return np.arange(n_rows, dtype=np.int64)[index]
    array = np.atleast_1d(np.asarray(index))
    if array.ndim == 1 and array.dtype == bool:
        if len(array) != n_rows:
            raise IndexError(
                f"a mask must have one value for each of {n_rows} rows, got {len(array)}"
            )
        return np.flatnonzero(array).astype(np.int64, copy=False)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise IndexError(
            "rows must be an integer, a slice, integers or a mask, got an array of "
            f"{array.dtype} of shape {array.shape}"
        )
    outside = (array < -n_rows) | (array >= n_rows)
    if outside.any():
        raise IndexError(f"rows go from 0 to {n_rows - 1}, got {array[outside][0]}")
    positions = array.astype(np.int64)
    return np.where(positions < 0, positions + n_rows, positions)

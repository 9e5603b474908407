"""A count matrix in memory as blocks of whole rows."""

from __future__ import annotations

from collections.abc import Iterator

from scipy import sparse

from stformat.model import Counts

__all__ = ["counts_of"]

ROWS_PER_BLOCK = 1024


def counts_of(matrix: sparse.csr_array) -> Counts:
    """Wrap a matrix as the counts of a table.

    Parameters
    ----------
    matrix : csr_array
        int32 or float32, column indices ascending, without explicit zeros.

    Returns
    -------
    Counts
        Blocks of 1024 rows.

    Examples
    --------
    >>> import numpy as np
    >>> counts_of(sparse.csr_array(np.eye(3, dtype=np.int32))).shape
    (3, 3)
    """

    def blocks() -> Iterator[sparse.csr_array]:
        for start in range(0, matrix.shape[0], ROWS_PER_BLOCK):
            yield matrix[start : start + ROWS_PER_BLOCK]

    return Counts(shape=matrix.shape, dtype=matrix.dtype, iter_blocks=blocks, nnz=int(matrix.nnz))

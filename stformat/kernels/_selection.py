"""Kernel that keeps the values of chosen genes of sparse counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import (
    check_gene_map,
    column_indices,
    contiguous,
    csr,
    read_only,
    result,
    twins_for,
)
from stformat.kernels._counts import rows_in_block

__all__ = ["select_genes_inplace"]


def select_genes_inplace(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    *,
    gene_map: NDArray[np.int64],
    n_out: int,
) -> NDArray[np.int64]:
    """Keep the values of chosen genes of a CSR matrix, and put these in chosen columns.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row; C-contiguous and writeable. What is kept is moved to the beginning,
        in the order in which it was.
    indices : (nnz,) ndarray of int32 or int64
        Column of each value; C-contiguous and writeable. What is kept becomes a column of the
        result, and is moved likewise.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    gene_map : (n_vars,) ndarray of int64
        Column of the result for each column of the matrix, or -1 for one that is not wanted.
    n_out : int
        Number of columns of the result, below 2**31.

    Returns
    -------
    (n_obs + 1,) ndarray of int64
        Where each row begins now. Of `data` and `indices` the first ``indptr[-1]`` elements are
        the result; what the others hold is not defined.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If `indptr` does not rise from 0 to the length of `data` and `indices`, a target is out of
        range or that of two genes, an array cannot be written to, or a column index is out of
        range. Only in the last case has anything been moved.

    See Also
    --------
    densify : Chosen genes of a matrix, written densely.

    Notes
    -----
    One pass over the matrix, without memory of its size.

    Examples
    --------
    Of three genes the last one is kept as the first, and the first as the second:

    >>> import numpy as np
    >>> data = np.array([4, 1, 2], dtype=np.int32)
    >>> indices = np.array([0, 1, 2])
    >>> indptr = select_genes_inplace(
    ...     data, indices, np.array([0, 2, 3]), gene_map=np.array([1, -1, 0]), n_out=2
    ... )
    >>> data[: indptr[-1]], indices[: indptr[-1]], indptr
    (array([4, 2], dtype=int32), array([1, 0]), array([0, 1, 2]))
    """
    twins = twins_for(data=data, indices=indices, indptr=indptr, gene_map=gene_map)
    _, indptr = csr(data, indptr)
    column_indices(indices, len(data))
    values = result(data, data.shape, data.dtype, twins.xp)
    columns = result(indices, indices.shape, indices.dtype, twins.xp)
    gene_map = contiguous(read_only("gene_map", gene_map, n_dims=1, dtypes=(np.int64,)))
    check_gene_map(gene_map, n_out, twins.misplaced_gene(gene_map, n_out))
    # Looked up for every value: half the bytes are half the misses of the first cache.
    targets = gene_map.astype(np.int32)
    lengths = twins.xp.zeros(len(indptr), np.int64)
    begun: list[int] = []
    misplaced: list[int] = []

    def block(start: int, stop: int) -> None:
        begun.append(start)
        position = twins.select_genes(
            values, columns, indptr[start : stop + 1], targets, lengths[start + 1 : stop + 1]
        )
        if position >= 0:
            misplaced.append(position)

    n_rows = len(indptr) - 1
    twins.run_blocks(block, n_rows, block=rows_in_block(n_rows, len(data)))
    if misplaced:
        found = columns[min(misplaced)]
        raise ValueError(
            f"indices must be columns of {len(gene_map)} genes, got {found} at {min(misplaced)}"
        )
    selected: NDArray[np.int64] = twins.xp.cumsum(lengths)
    _close_gaps(values, columns, indptr, selected, sorted(begun))
    return selected


def _close_gaps(
    values: NDArray[Any],
    columns: NDArray[Any],
    indptr: NDArray[np.int64],
    selected: NDArray[np.int64],
    begun: list[int],
) -> None:
    """Move what each block of rows kept, at its beginning, to where the block before it ends."""
    for start, stop in pairwise([*begun, len(indptr) - 1]):
        source, first, last = int(indptr[start]), int(selected[start]), int(selected[stop])
        if source == first:
            continue
        for array in (values, columns):
            array[first:last] = array[source : source + last - first]

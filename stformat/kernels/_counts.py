"""Kernels of sparse counts: sums, normalisation, dense rows of chosen genes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import (
    check_gene_map,
    column_indices,
    contiguous,
    csr,
    csr_rows,
    read_only,
    result,
    twins_for,
)

__all__ = ["densify", "normalize_log1p", "normalize_log1p_inplace", "row_sums", "rows_in_block"]

# A block of work lasts some 100 us: long beside handing it to a thread, short beside a call.
BLOCK_VALUES = 1 << 17
CELLS_A_VALUE = 16
# Totals without an entry stand for the rows' own sums; read-only, as given ones come.
OWN_SUMS = np.empty(0)
OWN_SUMS.flags.writeable = False


def row_sums(data: NDArray[Any], indptr: NDArray[Any]) -> NDArray[np.float64]:
    """Sum the rows of a CSR matrix.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.

    Returns
    -------
    (n_obs,) ndarray of float64
        Exact for whole numbers with sums below 2**53. Fractions are added in a fixed order, so
        that their sums too are the same bits everywhere.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If `indptr` does not rise from 0 to the length of `data`.

    Examples
    --------
    >>> import numpy as np
    >>> row_sums(np.array([1, 2, 5], dtype=np.int32), np.array([0, 2, 2, 3]))
    array([3., 0., 5.])
    """
    twins = twins_for(data=data, indptr=indptr)
    data, indptr = csr(data, indptr)
    sums: NDArray[np.float64] = twins.xp.empty(len(indptr) - 1)

    def block(start: int, stop: int) -> None:
        twins.row_sums(data, indptr[start : stop + 1], sums[start:stop])

    twins.run_blocks(block, len(sums), block=rows_in_block(len(sums), len(data)))
    return sums


def normalize_log1p(
    data: NDArray[Any],
    indptr: NDArray[Any],
    *,
    target_sum: float,
    totals: NDArray[np.float64] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Scale the rows of a CSR matrix to one sum and take log(1 + x), in one pass.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    target_sum : float
        Sum of a row after scaling, positive and finite.
    totals : (n_obs,) ndarray of float64, optional
        Sum of each row before scaling, where it is not that of `data`: of the whole
        transcriptome, say. Default: `row_sums`.
    out : (nnz,) ndarray of float32, optional
        C-contiguous array to write to, apart from `data` in memory: for a large matrix, new
        memory costs more than the computation.

    Returns
    -------
    (nnz,) ndarray of float32
        Values with the layout of `data`; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If `indptr` does not rise from 0 to the length of `data`, `target_sum` is not positive and
        finite, or `totals` has not one finite, non-negative value a row.

    See Also
    --------
    normalize_log1p_inplace : The same, over the values themselves.

    Notes
    -----
    With ``scale = target_sum / total`` (0 for a total of 0), the product ``x * scale`` and its
    log1p are float64, rounded to float32 at the end: within 1 ulp of the correctly rounded
    log1p of the float64 product, and equal to it but for about one value in a million. A product
    that is negative or not finite gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.array([1, 3, 7], dtype=np.int32)
    >>> np.expm1(normalize_log1p(counts, np.array([0, 2, 3]), target_sum=8.0)).round(4)
    array([2., 6., 8.], dtype=float32)
    """
    twins = twins_for(data=data, indptr=indptr)
    data, indptr = csr(data, indptr)
    target_sum = _target_sum(target_sum)
    totals = OWN_SUMS if totals is None else _totals(totals, len(indptr) - 1)
    normalized = result(out, (len(data),), np.dtype(np.float32), twins.xp)

    def block(start: int, stop: int) -> None:
        twins.normalize_log1p(
            data, indptr[start : stop + 1], target_sum, totals[start:stop], normalized
        )

    twins.run_blocks(block, len(indptr) - 1, block=rows_in_block(len(indptr) - 1, len(data)))
    return normalized


def normalize_log1p_inplace(
    data: NDArray[np.float32],
    indptr: NDArray[Any],
    *,
    target_sum: float,
    totals: NDArray[np.float64] | None = None,
) -> None:
    """Scale the rows of a CSR matrix to one sum and take log(1 + x), over the values themselves.

    Parameters
    ----------
    data : (nnz,) ndarray of float32
        Values, row after row; C-contiguous and writeable.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    target_sum : float
        Sum of a row after scaling, positive and finite.
    totals : (n_obs,) ndarray of float64, optional
        Sum of each row before scaling. Default: `row_sums`.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        As from `normalize_log1p`, or if `data` cannot be written to; nothing is changed.

    See Also
    --------
    normalize_log1p : The same bits in a new array.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([1, 3, 0], dtype=np.float32)
    >>> normalize_log1p_inplace(values, np.array([0, 2, 3]), target_sum=4.0)
    >>> np.expm1(values).round(4)
    array([1., 3., 0.], dtype=float32)
    """
    twins = twins_for(data=data, indptr=indptr)
    _, indptr = csr(data, indptr)
    values = result(data, (len(data),), np.dtype(np.float32), twins.xp)
    target_sum = _target_sum(target_sum)
    totals = OWN_SUMS if totals is None else _totals(totals, len(indptr) - 1)

    def block(start: int, stop: int) -> None:
        twins.normalize_log1p_inplace(
            values, indptr[start : stop + 1], target_sum, totals[start:stop]
        )

    twins.run_blocks(block, len(indptr) - 1, block=rows_in_block(len(indptr) - 1, len(data)))


def densify(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    *,
    gene_map: NDArray[np.int64],
    n_out: int,
    rows: NDArray[np.int64] | None = None,
    totals: NDArray[np.float64] | None = None,
    target_sum: float | None = None,
    log1p: bool = False,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Write rows of a CSR matrix densely, with chosen genes in chosen columns, in one pass.

    Parameters
    ----------
    data : (nnz,) ndarray of uint8, uint16, uint32, int32, int64, float32 or float64
        Values, row after row.
    indices : (nnz,) ndarray of int32 or int64
        Column of each value, in any order but once a row.
    indptr : (n_obs + 1,) ndarray of int32 or int64
        Where each row begins in `data`; the last entry is its length.
    gene_map : (n_vars,) ndarray of int64
        Column of the result for each column of the matrix, or -1 for one that is not wanted.
    n_out : int
        Number of columns of the result. Those that no gene is mapped to are 0.
    rows : (n,) ndarray of int64, optional
        Rows to write, in this order; they may repeat. Default: all.
    totals : (n_obs,) ndarray of float64, optional
        Sum of each row of the matrix before scaling, where it is not that of its values: of the
        whole transcriptome, say. Default: `row_sums`, which counts genes that are not wanted too.
    target_sum : float, optional
        Sum of a row after scaling, positive and finite. Default: values are not scaled.
    log1p : bool, default: False
        Whether to take log(1 + x), after scaling.
    out : (n, n_out) ndarray of float32, optional
        C-contiguous array to write to.

    Returns
    -------
    (n, n_out) ndarray of float32
        Values of the chosen genes; `out` where it was given. Scaled and log-transformed values
        are the bits that `normalize_log1p` gives.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If `indptr` does not rise from 0 to the length of `data` and `indices` (where `rows` are
        given, only their offsets are looked at); a column index, a row or a target is out of
        range, or `n_out` 2**31 or more; two genes have the same target; `target_sum` is not
        positive and finite; or `totals` is given without it or has not one value a row, finite and
        not negative (of `rows`).

    Examples
    --------
    Genes 2 and 0 of three, in this order:

    >>> import numpy as np
    >>> densify(
    ...     np.array([4, 1, 2], dtype=np.int32), np.array([0, 1, 2]), np.array([0, 2, 3]),
    ...     gene_map=np.array([1, -1, 0]), n_out=2, target_sum=10.0,
    ... )
    array([[ 0.,  8.],
           [10.,  0.]], dtype=float32)
    """
    twins = twins_for(data=data, indices=indices, indptr=indptr, gene_map=gene_map)
    if rows is None:
        data, indptr = csr(data, indptr)
        starts, stops = indptr[:-1], indptr[1:]
    else:
        twins_for(rows=rows)
        data, starts, stops = csr_rows(data, indptr, rows)
    indices = column_indices(indices, len(data))
    gene_map = contiguous(read_only("gene_map", gene_map, n_dims=1, dtypes=(np.int64,)))
    check_gene_map(gene_map, n_out, twins.misplaced_gene(gene_map, n_out))
    # Looked up for every value: half the bytes are half the misses of the first cache.
    gene_map = gene_map.astype(np.int32)
    if target_sum is None:
        if totals is not None:
            raise ValueError("totals must come with a target_sum to scale to, got none")
        # A factor of 1 for every row.
        target_sum, totals_of_rows = 1.0, twins.xp.ones(len(starts))
    elif totals is None:
        totals_of_rows = OWN_SUMS
    else:
        totals_of_rows = _totals(totals, len(indptr) - 1, rows)
    target_sum = _target_sum(target_sum)
    dense = result(out, (len(starts), n_out), np.dtype(np.float32), twins.xp)
    twin = twins.densify_log1p if log1p else twins.densify
    misplaced: list[int] = []

    def block(start: int, stop: int) -> None:
        some = slice(start, stop)
        position = twin(
            data,
            indices,
            starts[some],
            stops[some],
            target_sum,
            totals_of_rows[some],
            gene_map,
            dense[some],
        )
        if position >= 0:
            misplaced.append(position)

    # To clear a cell takes a small part of the time that a value does.
    n_values = dense.size // CELLS_A_VALUE + int((stops - starts).sum())
    twins.run_blocks(block, len(dense), block=rows_in_block(len(dense), n_values))
    if misplaced:
        found = indices[min(misplaced)]
        raise ValueError(
            f"indices must be columns of {len(gene_map)} genes, got {found} at {min(misplaced)}"
        )
    return dense


def _target_sum(target_sum: float) -> float:
    if not (math.isfinite(target_sum) and target_sum > 0):
        raise ValueError(f"target_sum must be positive and finite, got {target_sum}")
    return float(target_sum)


def _totals(
    totals: NDArray[np.float64], n_obs: int, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Check the totals of all rows, or of those chosen, and return them."""
    twins_for(totals=totals)
    totals = read_only("totals", totals, n_dims=1, dtypes=(np.float64,))
    if len(totals) != n_obs:
        raise ValueError(f"totals must have one value a row, {n_obs}, got {len(totals)}")
    if rows is not None:
        totals = read_only("totals", totals[rows], n_dims=1, dtypes=(np.float64,))
    is_total = np.isfinite(totals) & (totals >= 0)
    if not is_total.all():
        place = int(np.argmin(is_total))
        row = place if rows is None else rows[place]
        raise ValueError(
            f"totals must be finite and not negative, got {totals[place]} for row {row}"
        )
    return contiguous(totals)


def rows_in_block(n_rows: int, n_values: int) -> int:
    """Return how many rows of a matrix are a block of work."""
    return 1 + BLOCK_VALUES * n_rows // max(1, n_values)

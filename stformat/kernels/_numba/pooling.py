"""Rows pooled by group with compiled loops: columns are counted first, then summed in place."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba import sums
from stformat.kernels._numba._compile import Array
from stformat.kernels._pool import run_blocks

__all__ = ["pool_bins"]

# Long beside the zeroing of a block's scratch, which has an entry a column.
BLOCK_VALUES = 1 << 20


def pool_bins(  # noqa: PLR0917 - called by position, as its twins
    data: Array, indices: Array, indptr: Array, group: Array, n_groups: int, n_vars: int
) -> tuple[Array, Array, Array, int]:
    """Return data, columns and offsets, and the first group with a sum out of range, or -1."""
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(n_groups + 1)).astype(np.int64)
    groups_in_block = 1 + BLOCK_VALUES * n_groups // max(1, len(data))
    lengths = np.empty(n_groups, np.int64)

    def count(start: int, stop: int) -> None:
        sums.pooled_lengths(
            indices, indptr, order, bounds[start : stop + 1], n_vars, lengths[start:stop]
        )

    run_blocks(count, n_groups, block=groups_in_block)
    pooled_indptr = np.concatenate([[0], np.cumsum(lengths)])
    is_float = data.dtype.kind == "f"
    pooled_indices = np.empty(pooled_indptr[-1], indices.dtype)
    pooled_data = np.empty(pooled_indptr[-1], data.dtype if is_float else np.int32)
    sum_type = np.dtype(np.float64 if is_float else np.int64)
    int32 = np.iinfo(np.int32)
    limits = np.array([-np.inf, np.inf] if is_float else [int32.min, int32.max], sum_type)
    overflowing: list[int] = []

    def fill(start: int, stop: int) -> None:
        failed = sums.pooled_sums(
            data,
            indices,
            indptr,
            order,
            bounds[start : stop + 1],
            np.zeros(n_vars, sum_type),
            limits,
            pooled_indptr[start:stop],
            pooled_indices,
            pooled_data,
        )
        if failed >= 0:
            overflowing.append(start + failed)

    run_blocks(fill, n_groups, block=groups_in_block)
    return pooled_data, pooled_indices, pooled_indptr, min(overflowing, default=-1)

"""Compiled twins of the sums over rows: moments of genes, rows pooled by group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from stformat.kernels._numba._compile import Array, compiled, inlined

WORD = 64
LOW = 0xFFFFFFFF


@compiled
def count_moments(
    data: Array, indices: Array, sums: Array, squares_high: Array, squares_low: Array
) -> int:
    """Return the position of the first value or column that is out of range, or -1."""
    for k in range(data.size):
        gene = np.int64(indices[k])
        value = np.int64(data[k])
        if not (0 <= gene < sums.size and -LOW <= value <= LOW):
            return k
        magnitude = np.uint64(abs(value))
        square = np.uint64(magnitude * magnitude)
        column = np.uint64(gene)
        sums[column] += value
        squares_high[column] += square >> np.uint64(32)
        squares_low[column] += square & np.uint64(LOW)
    return -1


@compiled
def value_moments(data: Array, indices: Array, sums: Array, squares: Array) -> int:
    """Return the position of the first column that is out of range, or -1."""
    for k in range(data.size):
        gene = np.int64(indices[k])
        if not 0 <= gene < sums.size:
            return k
        value = np.float64(data[k])
        column = np.uint64(gene)
        sums[column] += value
        squares[column] += value * value
    return -1


@intrinsic
def _count_trailing_zeros(_typing: Any, word: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Compile to the instruction that finds the lowest bit of a word that is not 0."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - likewise
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 1))

    return types.uint64(word), generate


# numba types an intrinsic by its definition, with the typing context that callers do not pass.
_lowest_bit: Any = _count_trailing_zeros


@inlined
def _mark(columns: Array, is_present: Array) -> int:
    """Set the bits of columns; return how many were not set."""
    n_new = 0
    for k in range(columns.size):
        column = np.uint64(columns[k])
        place = column // np.uint64(WORD)
        bit = np.uint64(1) << (column % np.uint64(WORD))
        if is_present[place] & bit == 0:
            n_new += 1
        is_present[place] |= bit
    return n_new


@compiled
def pooled_lengths(  # noqa: PLR0917 - compiled functions are called by position
    indices: Array, indptr: Array, order: Array, bounds: Array, n_vars: int, out: Array
) -> None:
    """Count the columns of each group."""
    is_present = np.zeros((n_vars + WORD - 1) // WORD, np.uint64)
    for group in range(out.size):
        for place in range(is_present.size):
            is_present[place] = 0
        length = 0
        for k in range(bounds[group], bounds[group + 1]):
            row = order[k]
            length += _mark(indices[indptr[row] : indptr[row + 1]], is_present)
        out[group] = length


@compiled
def pooled_sums(  # noqa: PLR0917 - compiled functions are called by position
    data: Array,
    indices: Array,
    indptr: Array,
    order: Array,
    bounds: Array,
    totals: Array,
    limits: Array,
    pooled_indptr: Array,
    pooled_indices: Array,
    pooled_data: Array,
) -> int:
    """Fill the groups' columns and sums; return the first group with a sum out of range, or -1.

    `totals` has an entry a column and is 0 before and after; sums are computed in its type. NaN
    is within any limits.
    """
    is_present = np.zeros((totals.size + WORD - 1) // WORD, np.uint64)
    for group in range(bounds.size - 1):
        for k in range(bounds[group], bounds[group + 1]):
            row = order[k]
            columns = indices[indptr[row] : indptr[row + 1]]
            values = data[indptr[row] : indptr[row + 1]]
            _mark(columns, is_present)
            for i in range(columns.size):
                if values[i] < limits[0] or values[i] > limits[1]:
                    return group
                totals[np.uint64(columns[i])] += values[i]
        end = pooled_indptr[group]
        for place in range(is_present.size):
            word = is_present[place]
            is_present[place] = 0
            while word != 0:
                column = np.uint64(place * WORD) + _lowest_bit(word)
                word &= word - np.uint64(1)
                if totals[column] < limits[0] or totals[column] > limits[1]:
                    return group
                pooled_indices[end] = column
                pooled_data[end] = totals[column]
                totals[column] = 0
                end += 1
    return -1

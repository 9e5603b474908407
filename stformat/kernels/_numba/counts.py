"""Compiled twins of the kernels of sparse counts in `_reference`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from stformat.kernels._numba._compile import Array, compiled, inlined
from stformat.kernels._numba.memory import prefetch_span

LANES = 64
SMALL_COUNTS = 32

LN2 = 0.6931471805599453
EXPONENT_OF_ONE = 0x3FF0000000000000
SQRT_HALF = 0x3FE6A09E00000000
MANTISSA = 0x000FFFFFFFFFFFFF
TWO_TO_52 = 0x4330000000000000
INFINITY = 0x7FF0000000000000


@intrinsic
def _multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Compile to ``a * b + c`` rounded once: asked for here, never left to the compiler."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - likewise
        return builder.fma(*arguments)

    return types.float64(a, b, c), generate


# numba types an intrinsic by its definition, with the typing context that callers do not pass.
_fma: Any = _multiply_add


@inlined
def _scaled_log1p(count: Any, scale: float) -> float:  # noqa: ANN401 - any number
    """Return log(1 + count * scale) to 2e-13 of itself, NaN where that is negative or not finite.

    With 1 + value = 2**e m, sqrt(1/2) <= m < sqrt(2), s = (m - 1) / (m + 1) and t = s**2,
    log(m) = s (2 + t p(t)). The coefficients of p interpolate 2/3 + 2/5 t + 2/7 t**2 + ... at the
    Chebyshev nodes of 0 <= t <= 0.0295. No branch, no table: this vectorises.
    """
    # Adding 0 costs nothing here and turns -0.0 into 0.0: what is then neither negative nor
    # infinite nor NaN is told by one comparison of its bits. Comparing it as a number with 0 and
    # infinity would compile to ten operations.
    value = _fma(np.float64(count), scale, 0.0)
    is_count = np.uint64(np.float64(value).view(np.uint64)) < np.uint64(INFINITY)
    u = 1.0 + value
    shifted = np.int64(np.float64(u).view(np.int64) + np.int64(EXPONENT_OF_ONE - SQRT_HALF))
    m = np.int64((shifted & np.int64(MANTISSA)) + np.int64(SQRT_HALF)).view(np.float64)
    # An integer in the low bits of 2**52 reads as 2**52 + integer; 1023 is the bias.
    biased = np.int64((np.uint64(shifted) >> np.uint64(52)) | np.uint64(TWO_TO_52))
    exponent = biased.view(np.float64) - (2.0**52 + 1023.0)
    # 1 + value drops bits of a small value; where there is nothing to scale, take it as it was.
    g = value if exponent == 0.0 else m - 1.0
    s = g / (2.0 + g)
    t = s * s
    p = _fma(t, 0.1936304304875125, 0.22191380789044335)
    p = _fma(t, p, 0.2857175485162511)
    p = _fma(t, p, 0.39999998795791064)
    p = _fma(t, p, 0.6666666666737623)
    log = _fma(exponent, LN2, s * _fma(t, p, 2.0))
    return log if is_count else np.nan


@inlined
def _row_total(values: Array, lanes: Array) -> float:
    """Sum a row in `LANES` interleaved partial sums, halved until one is left."""
    for lane in range(LANES):
        lanes[lane] = 0.0
    n_whole = values.size // LANES * LANES
    for start in range(0, n_whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(values[np.uint64(start) + np.uint64(lane)])
    rest = values[n_whole:]
    for lane in range(rest.size):
        lanes[lane] += np.float64(rest[lane])
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return lanes[0]  # type: ignore[no-any-return] # of an array of Any


@inlined
def _scale(target_sum: float, totals: Array, row: int, values: Array, lanes: Array) -> float:
    """Return the factor of a row, by its total or, where there are no totals, its own sum."""
    total = _row_total(values, lanes) if totals.size == 0 else totals[row]
    return target_sum / total if total != 0.0 else 0.0


@compiled
def row_sums(data: Array, indptr: Array, out: Array) -> None:
    lanes = np.empty(LANES, np.float64)
    for row in range(out.size):
        out[row] = _row_total(data[indptr[row] : indptr[row + 1]], lanes)


@compiled
def normalize_log1p(
    data: Array, indptr: Array, target_sum: float, totals: Array, out: Array
) -> None:
    lanes = np.empty(LANES, np.float64)
    for row in range(indptr.size - 1):
        source = data[indptr[row] : indptr[row + 1]]
        scale = _scale(target_sum, totals, row, source, lanes)
        target = out[indptr[row] : indptr[row + 1]]
        for k in range(target.size):
            target[k] = _scaled_log1p(source[k], scale)


@compiled
def normalize_log1p_inplace(data: Array, indptr: Array, target_sum: float, totals: Array) -> None:
    # Not the kernel above with out=data: for overlapping arrays the compiler's alias check picks
    # the scalar loop, which is 3.5 times slower.
    lanes = np.empty(LANES, np.float64)
    for row in range(indptr.size - 1):
        values = data[indptr[row] : indptr[row + 1]]
        scale = _scale(target_sum, totals, row, values, lanes)
        for k in range(values.size):
            values[k] = _scaled_log1p(values[k], scale)


@compiled
def misplaced_gene(gene_map: Array, n_out: int) -> int:
    """Return the first gene whose target is no column of the result or is taken, or -1."""
    is_taken = np.zeros(n_out, np.bool_)
    for gene in range(gene_map.size):
        target = gene_map[gene]
        if not -1 <= target < n_out:
            return gene
        if target >= 0:
            if is_taken[target]:
                return gene
            is_taken[target] = True
    return -1


@inlined
def _longest(starts: Array, stops: Array) -> int:
    longest = 0
    for row in range(starts.size):
        longest = max(longest, stops[row] - starts[row])
    return longest


@inlined
def _find_wanted(genes: Array, gene_map: Array, places: Array, targets: Array) -> int:
    """List the values of a row that have a target, and their targets; return how many.

    Of a column index that has no gene, return -1 less its place. Which genes are wanted is as good
    as random, and a wrong guess of the processor costs more than all else: no branch depends on it.
    """
    n_vars = np.uint64(gene_map.size)
    largest = np.uint64(0)
    for k in range(genes.size):
        largest = max(largest, np.uint64(genes[k]))
    if largest >= n_vars:
        for k in range(genes.size):
            if np.uint64(genes[k]) >= n_vars:
                return -1 - k
    n = 0
    for k in range(genes.size):
        gene = gene_map[np.uint64(genes[k])]
        places[np.uint64(n)] = k
        targets[np.uint64(n)] = gene
        n += gene >= 0
    return n


@compiled
def densify(  # noqa: PLR0917 - compiled functions are called by position
    data: Array,
    indices: Array,
    starts: Array,
    stops: Array,
    target_sum: float,
    totals: Array,
    gene_map: Array,
    out: Array,
) -> int:
    """Return the position of the first column index that has no gene, or -1."""
    lanes = np.empty(LANES, np.float64)
    places, targets = np.empty((2, _longest(starts, stops)), np.uint32)
    for row in range(out.shape[0]):
        if row + 1 < out.shape[0]:
            prefetch_span(data, starts[row + 1], stops[row + 1])
            prefetch_span(indices, starts[row + 1], stops[row + 1])
        values = data[starts[row] : stops[row]]
        genes = indices[starts[row] : stops[row]]
        n_wanted = _find_wanted(genes, gene_map, places, targets)
        if n_wanted < 0:
            return starts[row] - 1 - n_wanted  # type: ignore[no-any-return] # of an array of Any
        target = out[row]
        scale = _scale(target_sum, totals, row, values, lanes)
        # Cleared right before it is filled, while it is in the cache.
        for k in range(target.size):
            target[k] = 0
        for k in range(n_wanted):
            target[targets[k]] = np.float64(values[places[k]]) * scale
    return -1


@compiled
def densify_log1p(  # noqa: PLR0917 - compiled functions are called by position
    data: Array,
    indices: Array,
    starts: Array,
    stops: Array,
    target_sum: float,
    totals: Array,
    gene_map: Array,
    out: Array,
) -> int:
    """Return the position of the first column index that has no gene, or -1."""
    lanes = np.empty(LANES, np.float64)
    places, targets = np.empty((2, _longest(starts, stops)), np.uint32)
    # Most counts are small whole numbers: a table a row spares the scattered loop its logarithms.
    table = np.empty(SMALL_COUNTS, np.float32)
    for row in range(out.shape[0]):
        if row + 1 < out.shape[0]:
            prefetch_span(data, starts[row + 1], stops[row + 1])
            prefetch_span(indices, starts[row + 1], stops[row + 1])
        values = data[starts[row] : stops[row]]
        genes = indices[starts[row] : stops[row]]
        n_wanted = _find_wanted(genes, gene_map, places, targets)
        if n_wanted < 0:
            return starts[row] - 1 - n_wanted  # type: ignore[no-any-return] # of an array of Any
        target = out[row]
        scale = _scale(target_sum, totals, row, values, lanes)
        for k in range(SMALL_COUNTS):
            table[k] = _scaled_log1p(k, scale)
        # Cleared right before it is filled, while it is in the cache.
        for k in range(target.size):
            target[k] = 0
        for k in range(n_wanted):
            value = values[places[k]]
            if 0 <= value < SMALL_COUNTS and np.int32(value) == value:
                target[targets[k]] = table[np.uint32(value)]
            else:
                target[targets[k]] = _scaled_log1p(value, scale)
    return -1

"""Compiled twins of `_reference`: serial, without the GIL, cached on disk.

No function here uses fastmath: results are the same bits on every machine. Array arguments have
been checked by the functions that call these. Explicit loops are meant: slice assignment of short
rows costs a quarter more. So are unsigned indices: a signed one that may be negative would count
from the end, and the test for that keeps a loop from being vectorised.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

type Array = NDArray[Any]

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
_inlined = numba.njit(nogil=True, error_model="numpy", inline="always")

# A window further out than this is outside any image; clamping keeps sums of coordinates in int64.
FAR = 1 << 40

# ---- tiles ---------------------------------------------------------------------------------------


@_inlined
def _clamped(position: int) -> int:
    return min(max(position, -FAR), FAR)


@_compiled
def gather_tiles(image: Array, windows: Array, fill_value: int, out: Array) -> None:
    n_c, height, width = image.shape
    tile_px = out.shape[3]
    for tile in range(out.shape[0]):
        left = _clamped(windows[tile, 0])
        top = _clamped(windows[tile, 1])
        row_start, row_stop = max(0, -top), min(tile_px, height - top)
        col_start, col_stop = max(0, -left), min(tile_px, width - left)
        if max(row_start, col_start) > 0 or min(row_stop, col_stop) < tile_px:
            pixels = out[tile].reshape(-1)
            for k in range(pixels.size):
                pixels[k] = fill_value
        if col_start >= col_stop:
            continue
        for c in range(n_c):
            for row in range(row_start, row_stop):
                source = image[c, top + row]
                target = out[tile, c, row]
                for col in range(col_start, col_stop):
                    target[np.uint64(col)] = source[np.uint64(left + col)]


@_compiled
def scatter_chunk(  # noqa: PLR0917 - compiled functions are called by position
    chunk: Array, top: int, left: int, windows: Array, which: Array, out: Array
) -> int:
    """Return the position of the first entry of `which` that is no tile of `out`, or -1."""
    for k in range(which.size):
        if not 0 <= which[k] < out.shape[0]:
            return k
    n_c, height, width = chunk.shape
    tile_px = out.shape[3]
    for window in range(which.size):
        window_left = _clamped(windows[window, 0])
        window_top = _clamped(windows[window, 1])
        col_start = max(left, window_left)
        col_stop = min(left + width, window_left + tile_px)
        if col_start >= col_stop:
            continue
        for c in range(n_c):
            for row in range(max(top, window_top), min(top + height, window_top + tile_px)):
                source = chunk[c, row - top]
                target = out[which[window], c, row - window_top]
                for col in range(col_start, col_stop):
                    target[np.uint64(col - window_left)] = source[np.uint64(col - left)]
    return -1


@_compiled
def downsample_2x2(image: Array, start: int, stop: int, out: Array) -> None:
    """Fill rows `start` to `stop` of `out`."""
    n_c, height, width = image.shape
    for c in range(n_c):
        for row in range(start, stop):
            # Repeating the last row or column of an odd edge gives the rounded mean of the pixels
            # that exist: (2 s + 2) // 4 is (s + 1) // 2, and (4 p + 2) // 4 is p.
            upper = image[c, 2 * row]
            lower = image[c, min(2 * row + 1, height - 1)]
            target = out[c, row]
            for k in range(width // 2):
                j = np.uint64(2 * k)
                total = (
                    np.uint32(upper[j])
                    + np.uint32(upper[j + np.uint64(1)])
                    + np.uint32(lower[j])
                    + np.uint32(lower[j + np.uint64(1)])
                )
                target[k] = np.uint32(total + np.uint32(2)) >> np.uint32(2)
            if width % 2:
                total = np.uint32(upper[width - 1]) + np.uint32(lower[width - 1])
                target[width // 2] = np.uint32(total + np.uint32(1)) >> np.uint32(1)


@_inlined
def _overlap(pixel: int, start: int, stop: int) -> int:
    """Overlap of a source pixel with ``[start, stop)``, in 1/65536 pixel."""
    return min(stop, (pixel + 1) << 16) - max(start, pixel << 16)


@_compiled
def resample_coarser(source: Array, step: int, out: Array) -> None:
    n, n_c, edge, _ = source.shape
    tile_px = out.shape[3]
    n_taps = 3
    for j in range(tile_px):
        n_taps = max(n_taps, (((j + 1) * step - 1) >> 16) - ((j * step) >> 16) + 1)
    first = np.empty(tile_px, np.int64)
    weights = np.zeros((n_taps, tile_px), np.uint64)
    for j in range(tile_px):
        first[j] = (j * step) >> 16
        for tap in range(n_taps):
            overlap = _overlap(first[j] + tap, j * step, (j + 1) * step)
            weights[tap, j] = max(overlap, 0)
    # Zeros after the edge let every output pixel read the same number of taps.
    columns = np.zeros(edge + n_taps, np.uint64)
    totals = np.empty(tile_px, np.uint64)
    for tile in range(n):
        for c in range(n_c):
            for row in range(tile_px):
                _sum_rows(source[tile, c], row * step, (row + 1) * step, columns[:edge])
                _sum_columns(columns, first, weights, totals)
                _divide(totals, step * step, out[tile, c, row])


@_inlined
def _sum_rows(plane: Array, start: int, stop: int, columns: Array) -> None:
    """Add up the source rows in ``[start, stop)`` of 1/65536 pixel, by their overlap."""
    for k in range(columns.size):
        columns[k] = 0
    for row in range(start >> 16, ((stop - 1) >> 16) + 1):
        weight = np.uint64(_overlap(row, start, stop))
        pixels = plane[row]
        for k in range(columns.size):
            columns[k] += weight * np.uint64(pixels[k])


@_inlined
def _sum_columns(columns: Array, first: Array, weights: Array, totals: Array) -> None:
    """Add up columns by their overlap; up to a step of 2 pixels there are three taps at most."""
    left, middle, right = weights[0], weights[1], weights[2]
    for k in range(totals.size):
        j = np.uint64(first[k])
        totals[k] = (
            left[k] * columns[j]
            + middle[k] * columns[j + np.uint64(1)]
            + right[k] * columns[j + np.uint64(2)]
        )
    for tap in range(3, weights.shape[0]):
        weight = weights[tap]
        for k in range(totals.size):
            totals[k] += weight[k] * columns[np.uint64(first[k] + tap)]


@_inlined
def _divide(totals: Array, area: int, target: Array) -> None:
    """Divide by an area below 2**46, rounding half up.

    The quotient in float64 is off by one at most, since it is below 2**17 and its relative error
    below 2**-50; the remainder says which way. This vectorises, integer division does not.
    """
    reciprocal = 1.0 / area
    for k in range(target.size):
        total = np.int64(totals[k]) + np.int64(area // 2)
        quotient = np.int64(np.float64(total) * reciprocal)
        remainder = total - quotient * area
        quotient += np.int64(remainder >= area) - np.int64(remainder < 0)
        target[k] = quotient


@_compiled
def resample_finer(source: Array, step: int, out: Array) -> None:
    n, n_c, _, _ = source.shape
    tile_px = out.shape[3]
    first = np.empty(tile_px, np.int64)
    fraction = np.empty(tile_px, np.uint32)
    for j in range(tile_px):
        position = j * step + ((step - 65536) >> 1)
        first[j] = (position >> 16) + 1
        fraction[j] = (position & 65535) >> 8
    # Two source rows at the output's columns, a row at its parity.
    rows = np.empty((2, tile_px), np.uint32)
    for tile in range(n):
        for c in range(n_c):
            next_row = 0
            for row in range(tile_px):
                while next_row < first[row] + 2:
                    _interpolate(source[tile, c, next_row], first, fraction, rows[next_row & 1])
                    next_row += 1
                upper = rows[first[row] & 1]
                lower = rows[(first[row] + 1) & 1]
                lower_weight = fraction[row]
                upper_weight = np.uint32(np.uint32(256) - lower_weight)
                target = out[tile, c, row]
                for k in range(tile_px):
                    total = np.uint32(upper[k] * upper_weight + lower[k] * lower_weight)
                    target[k] = np.uint32(total + np.uint32(32768)) >> np.uint32(16)


@_inlined
def _interpolate(pixels: Array, first: Array, fraction: Array, target: Array) -> None:
    for k in range(target.size):
        j = np.uint64(first[k])
        right = fraction[k]
        left = np.uint32(np.uint32(256) - right)
        target[k] = left * np.uint32(pixels[j]) + right * np.uint32(pixels[j + np.uint64(1)])


# ---- counts --------------------------------------------------------------------------------------

LANES = 64
SMALL_COUNTS = 32

LN2 = 0.6931471805599453
EXPONENT_OF_ONE = 0x3FF0000000000000
SQRT_HALF = 0x3FE6A09E00000000
MANTISSA = 0x000FFFFFFFFFFFFF
TWO_TO_52 = 0x4330000000000000


@intrinsic
def _multiply_add(_typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Compile to ``a * b + c`` rounded once: asked for here, never left to the compiler."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - likewise
        return builder.fma(*arguments)

    return types.float64(a, b, c), generate


# numba types an intrinsic by its definition, with the typing context that callers do not pass.
_fma: Any = _multiply_add


@_inlined
def _log1p(value: float) -> float:
    """Return log(1 + value) to 2e-13 of itself, NaN where value is negative or not finite.

    With 1 + value = 2**e m, sqrt(1/2) <= m < sqrt(2), s = (m - 1) / (m + 1) and t = s**2,
    log(m) = s (2 + t p(t)). The coefficients of p interpolate 2/3 + 2/5 t + 2/7 t**2 + ... at the
    Chebyshev nodes of 0 <= t <= 0.0295. No branch, no table: this vectorises.
    """
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
    return log if 0.0 <= value < np.inf else np.nan


@_inlined
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


@_inlined
def _scale(target_sum: float, totals: Array, row: int, values: Array, lanes: Array) -> float:
    """Return the factor of a row, by its total or, where there are no totals, its own sum."""
    total = _row_total(values, lanes) if totals.size == 0 else totals[row]
    return target_sum / total if total != 0.0 else 0.0


@_compiled
def row_sums(data: Array, indptr: Array, out: Array) -> None:
    lanes = np.empty(LANES, np.float64)
    for row in range(out.size):
        out[row] = _row_total(data[indptr[row] : indptr[row + 1]], lanes)


@_compiled
def normalize_log1p(
    data: Array, indptr: Array, target_sum: float, totals: Array, out: Array
) -> None:
    lanes = np.empty(LANES, np.float64)
    for row in range(indptr.size - 1):
        source = data[indptr[row] : indptr[row + 1]]
        scale = _scale(target_sum, totals, row, source, lanes)
        target = out[indptr[row] : indptr[row + 1]]
        for k in range(target.size):
            target[k] = _log1p(np.float64(source[k]) * scale)


@_compiled
def normalize_log1p_inplace(data: Array, indptr: Array, target_sum: float, totals: Array) -> None:
    # Not the kernel above with out=data: for overlapping arrays the compiler's alias check picks
    # the scalar loop, which is 3.5 times slower.
    lanes = np.empty(LANES, np.float64)
    for row in range(indptr.size - 1):
        values = data[indptr[row] : indptr[row + 1]]
        scale = _scale(target_sum, totals, row, values, lanes)
        for k in range(values.size):
            values[k] = _log1p(np.float64(values[k]) * scale)


@_compiled
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


@_compiled
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
    for row in range(out.shape[0]):
        values = data[starts[row] : stops[row]]
        genes = indices[starts[row] : stops[row]]
        target = out[row]
        for k in range(target.size):
            target[k] = 0.0
        scale = _scale(target_sum, totals, row, values, lanes)
        for k in range(genes.size):
            if not 0 <= genes[k] < gene_map.size:
                return starts[row] + k  # type: ignore[no-any-return] # of an array of Any
            gene = gene_map[genes[k]]
            if gene >= 0:
                target[gene] = np.float64(values[k]) * scale
    return -1


@_compiled
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
    # Most counts are small whole numbers: a table a row spares the scattered loop its logarithms.
    table = np.empty(SMALL_COUNTS, np.float32)
    for row in range(out.shape[0]):
        values = data[starts[row] : stops[row]]
        genes = indices[starts[row] : stops[row]]
        target = out[row]
        for k in range(target.size):
            target[k] = 0.0
        scale = _scale(target_sum, totals, row, values, lanes)
        for k in range(SMALL_COUNTS):
            table[k] = _log1p(np.float64(k) * scale)
        for k in range(genes.size):
            if not 0 <= genes[k] < gene_map.size:
                return starts[row] + k  # type: ignore[no-any-return] # of an array of Any
            gene = gene_map[genes[k]]
            if gene >= 0:
                value = values[k]
                if 0 <= value < SMALL_COUNTS and np.int64(value) == value:
                    target[gene] = table[np.int64(value)]
                else:
                    target[gene] = _log1p(np.float64(value) * scale)
    return -1

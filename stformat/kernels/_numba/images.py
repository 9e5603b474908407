"""Compiled twins of the image kernels in `_reference`."""

from __future__ import annotations

import numpy as np

from stformat.kernels._numba._compile import Array, compiled, inlined
from stformat.kernels._numba.memory import copy_memory

# A window further out than this is outside any image; clamping keeps sums of coordinates in int64.
FAR = 1 << 40


@inlined
def _clamped(position: int) -> int:
    return min(max(position, -FAR), FAR)


@inlined
def _copy(target: Array, source: Array, start: int) -> None:
    """Copy the samples of a row from `start` that a target has room for.

    A loop ends in steps of single samples, which for rows of some hundred samples cost a third of
    the time; memcpy does not.
    """
    if source.strides[0] == source.itemsize:
        copy_memory(target, source, start, target.size)
    else:
        for k in range(target.size):
            target[np.uint64(k)] = source[np.uint64(start + k)]


@compiled
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
                target = out[tile, c, row, col_start:col_stop]
                _copy(target, image[c, top + row], left + col_start)


@compiled
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
                first, last = col_start - window_left, col_stop - window_left
                target = out[which[window], c, row - window_top, first:last]
                _copy(target, chunk[c, row - top], col_start - left)
    return -1


@compiled
def gather_windows(pixels: Array, starts: Array, strides: Array, places: Array, out: Array) -> None:
    n_c, tile_px = out.shape[1:3]
    for window in range(starts.size):
        if strides[window, 0] == tile_px * tile_px and strides[window, 1] == tile_px:
            # A tile as it is: half the time of its rows one by one.
            copy_memory(out[places[window]].reshape(-1), pixels, starts[window], n_c * tile_px**2)
            continue
        for c in range(n_c):
            first = starts[window] + c * strides[window, 0]
            for row in range(tile_px):
                target = out[places[window], c, row]
                _copy(target, pixels, first + row * strides[window, 1])


@compiled
def downsample_2x2(image: Array, start: int, stop: int, out: Array) -> None:
    """Fill rows `start` to `stop` of `out`."""
    n_c, height, width = image.shape
    # Bands of an image are no contiguous arrays; loops over rows that are known to be vectorise.
    upper = np.empty(width, out.dtype)
    lower = np.empty(width, out.dtype)
    for c in range(n_c):
        for row in range(start, stop):
            # Repeating the last row or column of an odd edge gives the rounded mean of the pixels
            # that exist: (2 s + 2) // 4 is (s + 1) // 2, and (4 p + 2) // 4 is p.
            _copy(upper, image[c, 2 * row], 0)
            _copy(lower, image[c, min(2 * row + 1, height - 1)], 0)
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


@inlined
def _overlap(pixel: int, start: int, stop: int) -> int:
    """Overlap of a source pixel with ``[start, stop)``, in 1/65536 pixel."""
    return min(stop, (pixel + 1) << 16) - max(start, pixel << 16)


@compiled
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


@inlined
def _sum_rows(plane: Array, start: int, stop: int, columns: Array) -> None:
    """Add up the source rows in ``[start, stop)`` of 1/65536 pixel, by their overlap."""
    for k in range(columns.size):
        columns[k] = 0
    for row in range(start >> 16, ((stop - 1) >> 16) + 1):
        weight = np.uint64(_overlap(row, start, stop))
        pixels = plane[row]
        for k in range(columns.size):
            columns[k] += weight * np.uint64(pixels[k])


@inlined
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


@inlined
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


@compiled
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


@inlined
def _interpolate(pixels: Array, first: Array, fraction: Array, target: Array) -> None:
    for k in range(target.size):
        j = np.uint64(first[k])
        right = fraction[k]
        left = np.uint32(np.uint32(256) - right)
        target[k] = left * np.uint32(pixels[j]) + right * np.uint32(pixels[j + np.uint64(1)])

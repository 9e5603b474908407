"""What each kernel means, in plain NumPy: the definition that every faster twin is held to.

Slow on purpose. Arguments are those of the twins: checked, complete, the result's array given.
`totals` without an entry stand for the rows' own sums.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "change_stains",
    "codes_after_clear_are_bytes",
    "count_moments",
    "densify",
    "densify_log1p",
    "downsample_2x2",
    "gather_tiles",
    "gather_windows",
    "normalize_log1p",
    "parse_count_rows",
    "pool_bins",
    "resample_coarser",
    "resample_finer",
    "row_sums",
    "scatter_chunk",
    "select_genes",
    "tiles_to_float",
    "tiles_to_half",
    "value_moments",
]

type Array = NDArray[Any]

LANES = 64

_PLAIN_NUMBER = re.compile(rb"([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]{1,3}))?")


def gather_tiles(image: Array, windows: Array, fill_value: int, out: Array) -> None:
    """Cut a window around each corner; what lies outside the image is `fill_value`."""
    _, height, width = image.shape
    tile_px = out.shape[3]
    for tile, (left, top) in zip(out, windows.tolist(), strict=True):
        tile[...] = fill_value
        for row in range(max(0, -top), min(tile_px, height - top)):
            for col in range(max(0, -left), min(tile_px, width - left)):
                tile[:, row, col] = image[:, top + row, left + col]


def scatter_chunk(  # noqa: PLR0917 - called by position, as its twin
    chunk: Array, top: int, left: int, windows: Array, which: Array, out: Array
) -> None:
    """Copy the pixels of a chunk to where each listed window shows them."""
    _, height, width = chunk.shape
    tile_px = out.shape[3]
    for tile, (window_left, window_top) in zip(which.tolist(), windows.tolist(), strict=True):
        for row in range(top, top + height):
            for col in range(left, left + width):
                y, x = row - window_top, col - window_left
                if 0 <= y < tile_px and 0 <= x < tile_px:
                    out[tile, :, y, x] = chunk[:, row - top, col - left]


def gather_windows(pixels: Array, starts: Array, strides: Array, places: Array, out: Array) -> None:
    """Copy windows of images that lie one behind the other to their places."""
    _, n_c, tile_px, _ = out.shape
    for start, (of_channel, of_row), place in zip(
        starts.tolist(), strides.tolist(), places.tolist(), strict=True
    ):
        for c in range(n_c):
            for row in range(tile_px):
                first = start + c * of_channel + row * of_row
                out[place, c, row] = pixels[first : first + tile_px]


def downsample_2x2(image: Array, out: Array) -> None:
    """Average squares of two pixels, those at an odd edge over the pixels that exist."""
    for row in range(out.shape[1]):
        for col in range(out.shape[2]):
            square = image[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].astype(np.int64)
            n_pixels = square.shape[1] * square.shape[2]
            out[:, row, col] = (square.sum(axis=(1, 2)) + n_pixels // 2) // n_pixels


def resample_coarser(source: Array, step: int, out: Array) -> None:
    """Average over squares of `step` 1/65536 pixels, a partly covered pixel by its share.

    The weights of an output pixel add up to step**2 <= 2**46, so with samples below 2**16 and the
    half that rounds, sums stay below 2**63.
    """
    edge, tile_px = source.shape[2], out.shape[3]
    starts = np.arange(tile_px, dtype=np.int64)[:, np.newaxis] * step
    pixels = np.arange(edge, dtype=np.int64) * 65536
    overlap = np.minimum(starts + step, pixels + 65536) - np.maximum(starts, pixels)
    weights = np.maximum(overlap, 0).astype(np.uint64)
    totals = weights @ source.astype(np.uint64) @ weights.T
    area = np.uint64(step * step)
    out[...] = (totals + area // np.uint64(2)) // area


def resample_finer(source: Array, step: int, out: Array) -> None:
    """Interpolate between the four nearest source pixels, with weights in 1/256.

    The weights of an output pixel add up to 2**16, so with samples below 2**16 and the half that
    rounds, sums stay below 2**32.
    """
    position = np.arange(out.shape[3]) * step + ((step - 65536) >> 1)
    # The source begins with a margin pixel: position 0 is its second.
    near = (position >> 16) + 1
    far_weight = (position & 65535) >> 8
    near_weight = 256 - far_weight
    weights = np.zeros((out.shape[3], source.shape[2]), np.uint64)
    row = np.arange(out.shape[3])
    weights[row, near] = near_weight
    weights[row, near + 1] = far_weight
    totals = weights @ source.astype(np.uint64) @ weights.T
    out[...] = (totals + np.uint64(32768)) >> np.uint64(16)


def tiles_to_float(  # noqa: PLR0917 - called by position, as its twin
    tiles: Array, factors: Array, offsets: Array, flips: Array, turns: Array, out: Array
) -> None:
    """Scale and shift in float32, each rounded; then mirror, then turn counter-clockwise."""
    for tile, flip, turn, target in zip(tiles, flips, turns.tolist(), out, strict=True):
        is_mirrored, is_upended = flip.tolist()
        with np.errstate(over="ignore"):
            values = tile.astype(np.float32) * factors[:, np.newaxis, np.newaxis]
            values += offsets[:, np.newaxis, np.newaxis]
        values = np.flip(values, axis=2) if is_mirrored else values
        values = np.flip(values, axis=1) if is_upended else values
        target[...] = np.rot90(values, turn, axes=(1, 2))


def tiles_to_half(  # noqa: PLR0917 - called by position, as its twin
    tiles: Array, factors: Array, offsets: Array, flips: Array, turns: Array, out: Array
) -> None:
    """Do as `tiles_to_float` and round to float16, ties to even; `out` takes the bits."""
    values = np.empty(out.shape, np.float32)
    tiles_to_float(tiles, factors, offsets, flips, turns, values)
    with np.errstate(over="ignore"):
        out[...] = values.astype(np.float16).view(np.uint16)


def change_stains(
    tiles: Array, factors: Array, densities: Array, samples: Array, out: Array
) -> None:
    """Look densities up, change them by each tile's map in 1/4096, and look samples up."""
    for tile, change, target in zip(tiles, factors.astype(np.int64), out, strict=True):
        density = densities[tile].astype(np.int64)
        totals = np.tensordot(change[:, :3], density, axes=1)
        totals += change[:, 3, np.newaxis, np.newaxis] * 4096 + 2048
        target[...] = samples[np.clip(totals >> 12, 0, len(samples) - 1)]


def row_sums(data: Array, indptr: Array, out: Array) -> None:
    """Sum each row in float64: value k of a row goes to partial sum k mod 64.

    The partial sums are then added in pairs (k and k + 32, k and k + 16, ...) until one is left.
    This order is part of the definition, so that sums of fractions too are the same everywhere.
    """
    for row, (start, stop) in enumerate(pairwise(indptr.tolist())):
        partial = np.zeros(LANES)
        for first in range(start, stop, LANES):
            values = data[first : min(first + LANES, stop)]
            partial[: len(values)] += values
        while len(partial) > 1:
            half = len(partial) // 2
            partial = partial[:half] + partial[half:]
        out[row] = partial[0]


def normalize_log1p(
    data: Array, indptr: Array, target_sum: float, totals: Array, out: Array
) -> None:
    """Scale each row to a sum and take log(1 + x): float64 within, rounded to float32 once."""
    scales = _scales(data, indptr[:-1], indptr[1:], target_sum, totals)
    out[...] = _log1p(data.astype(np.float64) * np.repeat(scales, np.diff(indptr)))


def densify(  # noqa: PLR0917 - called by position, as its twin
    data: Array,
    indices: Array,
    starts: Array,
    stops: Array,
    target_sum: float,
    totals: Array,
    gene_map: Array,
    out: Array,
) -> None:
    """Write each row's values, scaled to a sum, in the columns of their genes, and zeros else."""
    scales = _scales(data, starts, stops, target_sum, totals)
    out[...] = 0
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        target = gene_map[indices[start:stop]]
        is_wanted = target >= 0
        with np.errstate(over="ignore"):
            out[row, target[is_wanted]] = (
                data[start:stop][is_wanted].astype(np.float64) * scales[row]
            )


def densify_log1p(  # noqa: PLR0917 - called by position, as its twin
    data: Array,
    indices: Array,
    starts: Array,
    stops: Array,
    target_sum: float,
    totals: Array,
    gene_map: Array,
    out: Array,
) -> None:
    """Do as `densify` and take log(1 + x) before rounding to float32."""
    scales = _scales(data, starts, stops, target_sum, totals)
    out[...] = 0
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        target = gene_map[indices[start:stop]]
        is_wanted = target >= 0
        values = data[start:stop][is_wanted].astype(np.float64)
        out[row, target[is_wanted]] = _log1p(values * scales[row])


def select_genes(
    data: Array, indices: Array, indptr: Array, targets: Array, lengths: Array
) -> None:
    """Keep the values whose genes have a target, side by side from where the first row begins."""
    to = int(indptr[0])
    for row, (start, stop) in enumerate(pairwise(indptr.tolist())):
        target = targets[indices[start:stop]]
        kept = data[start:stop][target >= 0]
        data[to : to + len(kept)], indices[to : to + len(kept)] = kept, target[target >= 0]
        lengths[row] = len(kept)
        to += len(kept)


def count_moments(
    data: Array, indices: Array, sums: Array, squares_high: Array, squares_low: Array
) -> None:
    """Add each count to the sum of its gene, the halves of its square to those of the squares."""
    for gene, value in zip(indices.tolist(), data.tolist(), strict=True):
        sums[gene] += value
        squares_high[gene] += value * value >> 32
        squares_low[gene] += value * value & 0xFFFFFFFF


def value_moments(data: Array, indices: Array, sums: Array, squares: Array) -> None:
    """Add each value and its rounded square to the sums of its gene, one after the other."""
    for gene, value in zip(indices.tolist(), data.astype(np.float64), strict=True):
        sums[gene] += value
        squares[gene] += value * value


def pool_bins(  # noqa: PLR0917 - called by position, as its twin
    data: Array, indices: Array, indptr: Array, group: Array, n_groups: int, n_vars: int
) -> tuple[Array, Array, Array, int]:
    """Add up the rows of each group, one after the other, in int64 or float64.

    A column is stored where any row of the group stores it, were its sum 0.
    """
    is_float = data.dtype.kind == "f"
    totals = np.zeros((n_groups, n_vars), np.float64 if is_float else np.int64)
    is_stored = np.zeros((n_groups, n_vars), np.bool_)
    for row, (start, stop) in enumerate(pairwise(indptr.tolist())):
        if group[row] >= 0:
            totals[group[row], indices[start:stop]] += data[start:stop]
            is_stored[group[row], indices[start:stop]] = True
    pooled_indptr = np.concatenate([[0], np.cumsum(is_stored.sum(axis=1))])
    pooled_indices = np.nonzero(is_stored)[1].astype(indices.dtype)
    failed = -1 if is_float else _first_beyond_int32(data, indptr, group, totals)
    pooled_data = totals[is_stored].astype(data.dtype if is_float else np.int32)
    return pooled_data, pooled_indices, pooled_indptr, failed


def _first_beyond_int32(data: Array, indptr: Array, group: Array, totals: Array) -> int:
    """Return the first group with a value or a sum that int32 cannot hold, or -1."""
    is_beyond = (totals != totals.astype(np.int32)).any(axis=1)
    for row, (start, stop) in enumerate(pairwise(indptr.tolist())):
        values = data[start:stop].astype(np.int64)
        if group[row] >= 0 and (values != values.astype(np.int32)).any():
            is_beyond[group[row]] = True
    return int(np.argmax(is_beyond)) if is_beyond.any() else -1


def codes_after_clear_are_bytes(data: Array) -> bool:
    """Walk over LZW codes; whether the first after each clear code is below 256.

    Codes begin with 9 bits and get longer, up to 12, one entry before the table could need it: it
    has 258 entries after a clear code, and one more with each code after the first.
    """
    bits = "".join(format(byte, "08b") for byte in data.tolist())
    at, n_entries, is_first = 0, 258, True
    while True:
        length = next(n for n in (9, 10, 11, 12) if n_entries < 2**n - 1 or n == 12)
        if at + length > len(bits):
            return True
        code = int(bits[at : at + length], 2)
        at += length
        if code == 256:
            n_entries, is_first = 258, True
        elif code == 257:
            return True
        elif is_first:
            if code > 257:
                return False
            is_first = False
        else:
            n_entries += 1


def parse_count_rows(  # noqa: PLR0917 - called by position, as its twin
    text: Array,
    delimiter: int,
    n_columns: int,
    rows: Array,
    indices: Array,
    values: Array,
    spans: Array,
) -> tuple[int, int, int, int, int, int]:
    """Return how many lines, rows, values and spans there are, a fault, and fields of its row.

    An entry of `rows` is a line of the text, where its name starts and stops, and how many values
    it has; a span is where a field starts and stops whose value is NaN, because it is not plain.
    Faults: 1 for a row of another length, 2 for an empty field.
    """
    end = rb"(?:" + re.escape(bytes([delimiter])) + rb"|\r?\n)"
    field = re.compile(rb'(?:"[^"\n]*")*(?:(?!' + end + rb").)*" + rb"(?=" + end + rb")", re.DOTALL)
    content = bytes(text)
    at = line = row = n = n_spans = 0
    while at < len(content):
        stop = _match(field, content, at).end()
        is_row = stop > at or content[stop] == delimiter
        if is_row:
            rows[row] = line, at, stop, 0
            row += 1
        column, first_empty = 0, n_columns
        while content[stop] == delimiter:
            at, stop = stop + 1, _match(field, content, stop + 1).end()
            value = _plain_number(content[at:stop])
            if column < n_columns and stop == at:
                first_empty = min(first_empty, column)
            elif column < n_columns and value != 0:
                if np.isnan(value):
                    spans[n_spans] = at, stop
                    n_spans += 1
                indices[n], values[n] = column, value
                n += 1
                rows[row - 1, 3] += 1
            column += 1
        if is_row and column != n_columns:
            return line, row, n, n_spans, 1, column
        if first_empty < n_columns:
            return line, row, n, n_spans, 2, first_empty
        at = content.index(b"\n", stop) + 1
        line += 1
    return line, row, n, n_spans, 0, 0


def _match(pattern: re.Pattern[bytes], content: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(content, at)
    if found is None:
        raise ValueError("a text must end with a newline")
    return found


def _plain_number(field: bytes) -> float:
    """Read digits with a point or an exponent that float64 computes exactly; NaN for others."""
    match = _PLAIN_NUMBER.fullmatch(field)
    if match is None or not 0 < len(match[1] + match[2]) <= 18:
        return math.nan
    mantissa, exponent = int(match[1] + match[2]), int(match[3] or 0) - len(match[2])
    is_exact = mantissa == 0 or (mantissa <= 1 << 53 and abs(exponent) <= 22)
    return float(field) if is_exact else math.nan


def _scales(
    data: Array, starts: Array, stops: Array, target_sum: float, totals: Array
) -> NDArray[np.float64]:
    """Return the factor of each row; 0 for a row without counts."""
    if len(totals) == 0:
        totals = np.empty(len(starts))
        for row, bounds in enumerate(zip(starts, stops, strict=True)):
            row_sums(data, np.array(bounds), totals[row : row + 1])
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(totals == 0, 0.0, target_sum / totals)


def _log1p(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return log(1 + x) as float32; NaN where x is negative or not finite."""
    is_count = (values >= 0) & (values < np.inf)
    return np.log1p(np.where(is_count, values, np.nan)).astype(np.float32)

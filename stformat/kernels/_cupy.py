"""CUDA twins of `_reference` for CuPy arrays: launches of the kernels in ``cuda/*.cu``.

CuPy compiles the sources on first use, for each device, and caches the result on disk. Array
arguments have been checked by the functions that call these.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OPTIONS", "SOURCES", "CudaTwins", "cuda_twins", "source_code"]

type Array = Any  # of CuPy, which ships no type information

SOURCES = Path(__file__).parent / "cuda"
# Products are rounded before they are added, as everywhere; sources say fma where they are not.
OPTIONS = ("--std=c++17", "--fmad=false")

THREADS = 256
MAX_BLOCKS = 1 << 20
MAX_BLOCKS_ALONG_Y = 65_535
THREADS_OF_SUM = 8
NOT_FOUND = (1 << 64) - 1
NO_PLACE = (1 << 63) - 1


@cache
def source_code(source: str) -> str:
    """Return the code of a source file with that of the headers it includes in their place.

    CuPy names what it keeps on disk by the code it is given, whatever that includes: a header that
    changed would not be seen.
    """
    code = (SOURCES / f"{source}.cu").read_text()
    return re.sub(r'#include "(\w+\.cuh)"', lambda found: _header(found[1]), code)


def _header(name: str) -> str:
    return (SOURCES / name).read_text().replace("#pragma once\n", "")


@cache
def cuda_twins() -> CudaTwins:
    """Return the twins, which run on whichever device of CuPy is current."""
    return CudaTwins()


class CudaTwins:
    """The twins, by the names that `_numba` gives them."""

    def __init__(self) -> None:
        import cupy  # noqa: PLC0415 - an extra; whoever passes a CuPy array has it

        self.xp = cupy
        self._module = cache(self._new_module)

    def to_host(self, array: Array) -> NDArray[Any]:
        """Return an array in the host's memory."""
        host: NDArray[Any] = self.xp.asnumpy(array)
        return host

    @staticmethod
    def run_blocks(function: Callable[[int, int], object], n_items: int, *, block: int) -> None:
        """Call ``function(0, n_items)``: the device divides the work, blocks are for threads."""
        del block
        if n_items > 0:
            function(0, n_items)

    # ---- tiles -----------------------------------------------------------------------------------

    def gather_tiles(self, image: Array, windows: Array, fill_value: int, out: Array) -> None:
        """See `_reference.gather_tiles`."""
        image, geometry = self._image(image)
        n, n_c, tile_px, _ = out.shape
        self._over_planes(
            "tiles",
            f"gather_tiles_{image.dtype}",
            n * n_c,
            _vectors(tile_px, tile_px, image.dtype),
            (image, *geometry, windows, *map(np.uint32, (n_c, tile_px, fill_value)), out),
        )

    def scatter_chunk(  # noqa: PLR0917 - called by position, as its twins
        self, chunk: Array, top: int, left: int, windows: Array, which: Array, out: Array
    ) -> int:
        """Return the position of the first entry of `which` that is no tile of `out`, or -1."""
        is_tile = (which >= 0) & (which < len(out))
        if not is_tile.all():
            return int(self.xp.argmin(is_tile))
        chunk, geometry = self._image(chunk)
        _, n_c, tile_px, _ = out.shape
        corner = np.int64(left), np.int64(top)
        sizes = np.uint32(n_c), np.uint32(tile_px)
        self._over_planes(
            "tiles",
            f"scatter_chunk_{chunk.dtype}",
            len(which) * n_c,
            _vectors(tile_px, tile_px, chunk.dtype),
            (chunk, *geometry, *corner, windows, which, *sizes, out),
        )
        return -1

    def gather_windows(
        self, pixels: Array, starts: Array, strides: Array, places: Array, out: Array
    ) -> None:
        """See `_reference.gather_windows`."""
        _, n_c, tile_px, _ = out.shape
        self._over_planes(
            "tiles",
            f"gather_windows_{pixels.dtype}",
            len(starts) * n_c,
            _vectors(tile_px, tile_px, pixels.dtype),
            (pixels, starts, strides, places, np.uint32(n_c), np.uint32(tile_px), out),
        )

    def downsample_2x2(self, image: Array, start: int, stop: int, out: Array) -> None:
        """Fill all rows of `out`: there is one block of them."""
        del start, stop
        image, (channel_stride, row_stride, height, width) = self._image(image)
        self._over_planes(
            "tiles",
            f"downsample_2x2_{image.dtype}",
            len(image),
            _vectors(out.shape[1], 2 * out.shape[2], image.dtype),
            (image, channel_stride, row_stride, np.uint32(height), np.uint32(width), out),
        )

    def resample_coarser(self, source: Array, step: int, out: Array) -> None:
        """See `_reference.resample_coarser`."""
        self._resample("resample_coarser", source, step, out)

    def resample_finer(self, source: Array, step: int, out: Array) -> None:
        """See `_reference.resample_finer`."""
        self._resample("resample_finer", source, step, out)

    def tiles_to_float(  # noqa: PLR0917 - called by position, as its twins
        self,
        tiles: Array,
        factors: NDArray[np.float32],
        offsets: NDArray[np.float32],
        flips: NDArray[np.bool_],
        turns: NDArray[np.uint8],
        out: Array,
    ) -> None:
        """See `_reference.tiles_to_float`."""
        self._to_float("tiles_to_float", tiles, (factors, offsets, flips, turns), out)

    def tiles_to_half(  # noqa: PLR0917 - called by position, as its twins
        self,
        tiles: Array,
        factors: NDArray[np.float32],
        offsets: NDArray[np.float32],
        flips: NDArray[np.bool_],
        turns: NDArray[np.uint8],
        out: Array,
    ) -> None:
        """See `_reference.tiles_to_half`."""
        self._to_float("tiles_to_half", tiles, (factors, offsets, flips, turns), out)

    def change_stains(
        self,
        tiles: Array,
        factors: NDArray[np.int32],
        densities: NDArray[np.int32],
        samples: NDArray[np.uint8],
        out: Array,
    ) -> None:
        """See `_reference.change_stains`."""
        tiles = self.xp.ascontiguousarray(tiles)
        plane_size = tiles.shape[2] * tiles.shape[3]
        tables = map(self.xp.asarray, (factors, densities, samples))
        arguments = (tiles, np.uint32(plane_size), *tables, np.int32(len(samples) - 1), out)
        self._over_planes("stains", "change_stains_uint8", len(tiles), plane_size, arguments)

    # ---- counts ----------------------------------------------------------------------------------

    def row_sums(self, data: Array, indptr: Array, out: Array) -> None:
        """See `_reference.row_sums`."""
        self._row_sums(data, indptr[:-1], indptr[1:], out)

    def normalize_log1p(
        self, data: Array, indptr: Array, target_sum: float, totals: Array, out: Array
    ) -> None:
        """See `_reference.normalize_log1p`; `out` may be `data`."""
        n_rows = len(indptr) - 1
        threads = _threads_of_row(len(data), n_rows)
        scales = self._scales(data, indptr[:-1], indptr[1:], target_sum, totals)
        self._over_items(
            "counts",
            f"normalize_log1p_{data.dtype}",
            n_rows * threads,
            (data, indptr, np.int64(n_rows), scales, np.uint32(threads), out),
        )

    def normalize_log1p_inplace(
        self, data: Array, indptr: Array, target_sum: float, totals: Array
    ) -> None:
        """See `_reference.normalize_log1p`."""
        self.normalize_log1p(data, indptr, target_sum, totals, data)

    def misplaced_gene(self, gene_map: Array, n_out: int) -> int:
        """Return the first gene whose target is no column of the result or is taken, or -1."""
        targets = self.to_host(gene_map)
        _, first, place = np.unique(targets, return_index=True, return_inverse=True)
        is_repeated = (targets >= 0) & (first[place] != np.arange(len(targets)))
        is_misplaced = is_repeated | (targets < -1) | (targets >= n_out)
        return int(np.argmax(is_misplaced)) if is_misplaced.any() else -1

    def densify(  # noqa: PLR0917 - called by position, as its twins
        self,
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
        matrix = data, indices, starts, stops
        return self._densify(matrix, target_sum, totals, gene_map, out, takes_log1p=0)

    def densify_log1p(  # noqa: PLR0917 - called by position, as its twins
        self,
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
        matrix = data, indices, starts, stops
        return self._densify(matrix, target_sum, totals, gene_map, out, takes_log1p=1)

    def select_genes(
        self, data: Array, indices: Array, indptr: Array, targets: Array, lengths: Array
    ) -> int:
        """Return the position of the first column index that has no gene, or -1.

        There is one block of rows, the whole matrix.
        """
        is_gene = (indices >= 0) & (indices < len(targets))
        if not is_gene.all():
            return int(self.xp.argmin(is_gene))
        target = targets[indices]
        places = self.xp.flatnonzero(target >= 0)
        n_before = self.xp.searchsorted(places, indptr)
        lengths[...] = n_before[1:] - n_before[:-1]
        data[: len(places)], indices[: len(places)] = data[places], target[places]
        return -1

    # ---- sums over rows --------------------------------------------------------------------------

    def count_moments(
        self, data: Array, indices: Array, sums: Array, squares_high: Array, squares_low: Array
    ) -> int:
        """Return the position of the first value or column that is out of range, or -1."""
        first_bad = self._not_found()
        sizes = np.int64(len(data)), np.int64(len(sums))
        self._over_items(
            "sums",
            f"count_moments_{data.dtype}_{indices.dtype}",
            len(data),
            (data, indices, *sizes, sums, squares_high, squares_low, first_bad),
        )
        return self._found(first_bad)

    def value_moments(self, data: Array, indices: Array, sums: Array, squares: Array) -> int:
        """Return the position of the first column that is out of range, or -1."""
        n_vars = len(sums)
        is_gene = (indices >= 0) & (indices < n_vars)
        if not is_gene.all():
            return int(self.xp.argmin(is_gene))
        # A stable sort keeps the order of rows, in which the values are added.
        order = self.xp.argsort(indices, kind="stable")
        bounds = self.xp.searchsorted(indices[order], self.xp.arange(n_vars + 1))
        self._over_items(
            "sums",
            f"value_moments_{data.dtype}",
            n_vars,
            (data, order, bounds, np.int64(n_vars), sums, squares),
        )
        return -1

    def pool_bins(  # noqa: PLR0917 - called by position, as its twins
        self, data: Array, indices: Array, indptr: Array, group: Array, n_groups: int, n_vars: int
    ) -> tuple[Array, Array, Array, int]:
        """Return data, columns and offsets, and the first group with a sum out of range, or -1.

        Values are sorted by group and column: memory is some 40 bytes a value.
        """
        xp, n_rows = self.xp, len(indptr) - 1
        threads = _threads_of_row(len(data), n_rows)
        places = xp.empty(len(data), np.int64)
        sizes = np.int64(n_vars), np.uint32(threads)
        self._over_items(
            "sums",
            f"pooled_places_{indices.dtype}",
            n_rows * threads,
            (indices, indptr, np.int64(n_rows), group, *sizes, places),
        )
        order = xp.argsort(places, kind="stable")
        places = places[order]
        places = places[: int((places < NO_PLACE).sum())]
        is_first = xp.ones(len(places), np.bool_)
        is_first[1:] = places[1:] != places[:-1]
        starts = xp.flatnonzero(is_first)
        bounds = xp.empty(len(starts) + 1, np.int64)
        bounds[:-1], bounds[-1] = starts, len(places)
        places = places[starts]
        groups, columns = xp.divmod(places, max(1, n_vars))
        sums = xp.empty(len(starts), data.dtype if data.dtype.kind == "f" else np.int32)
        first_bad = self._not_found()
        self._over_items(
            "sums",
            f"pooled_sums_{data.dtype}",
            len(starts),
            (data, order, bounds, np.int64(len(starts)), first_bad, sums),
        )
        pooled_indptr = xp.searchsorted(groups, xp.arange(n_groups + 1)).astype(np.int64)
        place = self._found(first_bad)
        failed = int(groups[place]) if place >= 0 else -1
        return sums, columns.astype(indices.dtype), pooled_indptr, failed

    # ---- launches --------------------------------------------------------------------------------

    def _over_items(self, source: str, name: str, n_items: int, arguments: tuple[Any, ...]) -> None:
        n_blocks = min(-(-n_items // THREADS), MAX_BLOCKS)
        if n_blocks > 0:
            self._launch(source, name, (n_blocks,), arguments)

    def _over_planes(
        self, source: str, name: str, n_planes: int, in_plane: int, arguments: tuple[Any, ...]
    ) -> None:
        n_blocks = min(-(-in_plane // THREADS), MAX_BLOCKS_ALONG_Y)
        if n_planes > 0 and n_blocks > 0:
            self._launch(source, name, (n_planes, n_blocks), arguments)

    def _launch(
        self, source: str, name: str, grid: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        """Run a kernel of a source file with NumPy scalars and arrays as arguments."""
        self._module(source).get_function(name)(grid, (THREADS,), arguments)

    def _new_module(self, source: str) -> Any:  # noqa: ANN401 - CuPy's own type
        # It is compiled and loaded for each device on which a kernel of it is asked for.
        return self.xp.RawModule(code=source_code(source), options=OPTIONS)

    def _image(self, image: Array) -> tuple[Array, tuple[np.int64, ...]]:
        """Return an image of contiguous rows with the strides of channels and rows, its size."""
        if image.strides[2] != image.itemsize:
            image = self.xp.ascontiguousarray(image)
        strides = (stride // image.itemsize for stride in image.strides[:2])
        return image, tuple(map(np.int64, (*strides, *image.shape[1:])))

    def _resample(self, name: str, source: Array, step: int, out: Array) -> None:
        source = self.xp.ascontiguousarray(source)
        n, n_c, edge, _ = source.shape
        tile_px = out.shape[3]
        self._over_planes(
            "tiles",
            f"{name}_{source.dtype}",
            n * n_c,
            tile_px * -(-tile_px // 4),
            (
                source,
                np.uint32(edge),
                np.uint32(tile_px),
                np.uint64(step),
                np.float64(1.0 / (step * step)),
                out,
            ),
        )

    def _to_float(
        self, name: str, tiles: Array, settings: tuple[NDArray[Any], ...], out: Array
    ) -> None:
        tiles = self.xp.ascontiguousarray(tiles)
        n, n_c, height, width = tiles.shape
        sizes = map(np.uint32, (n_c, height, width))
        self._over_planes(
            "floats",
            f"{name}_{tiles.dtype}",
            n * n_c,
            -(-height // 4) * -(-width // 4),
            (tiles, *sizes, *map(self.xp.ascontiguousarray, map(self.xp.asarray, settings)), out),
        )

    def _row_sums(self, data: Array, starts: Array, stops: Array, out: Array) -> None:
        n_rows = len(out)
        partials = self.xp.empty(n_rows * THREADS_OF_SUM)
        self._over_items(
            "counts",
            f"partial_sums_{data.dtype}",
            len(partials),
            (data, starts, stops, np.int64(n_rows), partials),
        )
        self._over_items("counts", "row_totals", n_rows, (partials, np.int64(n_rows), out))

    def _scales(
        self, data: Array, starts: Array, stops: Array, target_sum: float, totals: Array
    ) -> Array:
        """Return the factor of each row, by its total or, where there are no totals, its sum."""
        n_rows = len(starts)
        if len(totals) == 0:
            totals = self.xp.empty(n_rows)
            self._row_sums(data, starts, stops, totals)
        scales = self.xp.empty(n_rows)
        arguments = totals, np.int64(n_rows), np.float64(target_sum), scales
        self._over_items("counts", "row_scales", n_rows, arguments)
        return scales

    def _densify(
        self,
        matrix: tuple[Array, ...],
        target_sum: float,
        totals: Array,
        gene_map: Array,
        out: Array,
        *,
        takes_log1p: int,
    ) -> int:
        data, indices, starts, stops = matrix
        n_rows, n_out = out.shape
        threads = _threads_of_row(len(data), n_rows)
        first_bad = self._not_found()
        scales = self._scales(data, starts, stops, target_sum, totals)
        out.fill(0)
        sizes = np.int64(len(gene_map)), np.int64(n_out), np.uint32(takes_log1p), np.uint32(threads)
        self._over_items(
            "counts",
            f"densify_{data.dtype}_{indices.dtype}",
            n_rows * threads,
            (*matrix, np.int64(n_rows), scales, gene_map, *sizes, first_bad, out),
        )
        return self._found(first_bad)

    def _not_found(self) -> Array:
        return self.xp.asarray(np.full(1, NOT_FOUND, np.uint64))

    @staticmethod
    def _found(first_bad: Array) -> int:
        position = int(first_bad[0])
        return -1 if position == NOT_FOUND else position


def _vectors(rows: int, samples_of_row: int, dtype: np.dtype[Any]) -> int:
    """Return how many 16-byte pieces rows of samples have."""
    return rows * -(-samples_of_row * dtype.itemsize // 16)


def _threads_of_row(n_values: int, n_rows: int) -> int:
    """Return a power of two near a quarter of the mean row: a few values a thread, side by side."""
    wanted = n_values // max(1, 4 * n_rows)
    return min(max(1 << wanted.bit_length(), 8), THREADS)

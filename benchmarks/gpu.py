"""Kernels on an NVIDIA GPU: how near they come to the bandwidth of its memory.

    python benchmarks/gpu.py [--runs 9] [--scale 1.0]

Runs by itself in a checkout, with NumPy, SciPy, numba and CuPy; stformat need not be installed.
First every kernel's result on the GPU is held to that on the CPU, then a Markdown table is printed:
the median time of each kernel, its useful bytes a second as a share of a copy measured in the same
rounds, and the time of the plainest CuPy code and of the CPU for the same work. Useful bytes are
those of the arguments and of the result, each counted once. `--scale` shrinks the data.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stformat import kernels
from stformat.kernels._pool import thread_count

TARGET_SUM = 1e4
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel on one layout of data."""

    name: str
    """Kernel and layout."""

    run: Callable[..., Any]
    """The kernel, taking the arrays of either device."""

    arrays: dict[str, np.ndarray]
    """Arguments, on the host."""

    plain: Callable[..., Any] | None
    """The same with CuPy's functions; None where there is nothing plain."""


def tile_cases(rng: np.random.Generator, scale: float) -> list[Case]:
    edge = int(12_000 * scale**0.5)
    image = rng.integers(0, 256, (3, edge, edge), dtype=np.uint8)
    cases = []
    for layout, tile_px, pitch in (("Visium, 224 px", 224, 125), ("Visium HD, 64 px", 64, 20)):
        corner = np.arange(0, edge - tile_px, pitch)
        top, left = np.meshgrid(corner, corner, indexing="ij")
        windows = np.column_stack([left.ravel(), top.ravel()])[: int(200_000 * scale)]
        cases.append(
            Case(
                name=f"gather_tiles, {layout}",
                run=lambda image, windows, tile_px=tile_px: kernels.gather_tiles(
                    image, windows, tile_px
                ),
                arrays={"image": image, "windows": windows},
                plain=lambda image, windows, tile_px=tile_px: _sliced(image, windows, tile_px),
            )
        )
        starts = windows @ np.array([1, edge])
        cases.append(
            Case(
                name=f"gather_windows, {layout}",
                run=lambda tile_px=tile_px, **arrays: _gathered(tile_px, **arrays),
                arrays={
                    "pixels": image.reshape(-1),
                    "starts": starts,
                    "strides": np.tile([edge * edge, edge], (len(starts), 1)),
                    "places": rng.permutation(len(starts)),
                },
                plain=None,
            )
        )
    n = int(8000 * scale)
    tiles = rng.integers(0, 256, (n, 3, 224, 224), dtype=np.uint8)
    turned = {"flips": rng.random((n, 2)) < 0.5, "turns": rng.integers(0, 4, n)}
    for name, source_px, step in (("coarser, x 1.3", 292, 85_197), ("finer, x 0.8", 181, 52_429)):
        source = rng.integers(0, 256, (n, 3, source_px, source_px), dtype=np.uint8)
        cases.append(
            Case(
                name=f"resample_tiles, {name}",
                run=lambda source, step=step: kernels.resample_tiles(
                    source, tile_px=224, step=step
                ),
                arrays={"source": source},
                plain=None,
            )
        )
    for name, settings in (
        ("float32", {}),
        ("float16", {"dtype": np.float16}),
        ("float32, flips and turns", turned),
    ):
        cases.append(
            Case(
                name=f"tiles_to_float, {name}",
                run=lambda tiles, settings=settings: kernels.tiles_to_float(
                    tiles, mean=MEAN, std=STD, **settings
                ),
                arrays={"tiles": tiles},
                plain=None if settings is turned else _scaled,
            )
        )
    cases.append(
        Case(
            name="downsample_2x2",
            run=kernels.downsample_2x2,
            arrays={"image": image},
            plain=_halved,
        )
    )
    return cases


def count_cases(rng: np.random.Generator, scale: float) -> list[Case]:
    cases = []
    for layout, n_obs, per_row in (("Visium", 20_000, 5200), ("Visium HD", 500_000, 368)):
        n_vars = 18_085
        lengths = rng.poisson(per_row, int(n_obs * scale))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        indices = (place * np.repeat(n_vars // lengths, lengths)).astype(np.int32)
        data = rng.geometric(0.6, indptr[-1]).astype(np.int32)
        csr = {"data": data, "indices": indices, "indptr": indptr}
        by_row = {"data": data.astype(np.float32), "indptr": indptr}
        totals = {"totals": np.add.reduceat(data, indptr[:-1]).astype(np.float64)}
        few = min(len(lengths), 4096)
        rows = {"rows": rng.permutation(len(lengths))[:few]}
        group = np.arange(len(lengths)) // 4
        cases += [
            Case(
                name=f"row_sums, {layout}",
                run=kernels.row_sums,
                arrays=by_row,
                plain=_summed,
            ),
            Case(
                name=f"normalize_log1p, {layout}",
                run=lambda data, indptr: kernels.normalize_log1p(
                    data, indptr, target_sum=TARGET_SUM
                ),
                arrays=by_row,
                plain=None,
            ),
            Case(
                name=f"normalize_log1p, totals given, {layout}",
                run=lambda data, indptr, totals: kernels.normalize_log1p(
                    data, indptr, target_sum=TARGET_SUM, totals=totals
                ),
                arrays=by_row | totals,
                plain=_normalized,
            ),
            Case(
                name=f"densify, {few} rows, {layout}",
                run=lambda gene_map, **csr: kernels.densify(
                    gene_map=gene_map, n_out=len(gene_map), target_sum=TARGET_SUM, log1p=True, **csr
                ),
                arrays=csr | rows | {"gene_map": np.arange(n_vars)},
                plain=None,
            ),
            Case(
                name=f"gene_moments, {layout}",
                run=lambda n_vars=n_vars, **csr: kernels.gene_moments(**csr, n_vars=n_vars).sums,
                arrays=csr,
                plain=None,
            ),
            Case(
                name=f"pool_bins, 4 rows a group, {layout}",
                run=lambda group, **csr: kernels.pool_bins(
                    **csr, group=group, n_groups=int(group[-1]) + 1
                ),
                arrays=csr | {"group": group},
                plain=_pooled,
            ),
        ]
    return cases


# ---- the same in CuPy's own functions ------------------------------------------------------------


def _gathered(tile_px, *, pixels, places, **where):
    tiles = type(pixels)((len(places), 3, tile_px, tile_px), pixels.dtype)
    kernels.gather_windows(pixels, places=places, out=tiles, **where)
    return tiles


def _sliced(image, windows, tile_px):
    import cupy

    away = cupy.arange(tile_px)
    rows = windows[:, 1, None, None] + away[:, None]
    cols = windows[:, 0, None, None] + away
    return image[:, rows, cols].transpose(1, 0, 2, 3)


def _scaled(tiles):
    import cupy

    mean, std = (cupy.asarray(v, cupy.float32)[:, None, None] for v in (MEAN, STD))
    return (tiles.astype(cupy.float32) / 255 - mean) / std


def _halved(image):
    n_c, height, width = image.shape
    squares = image[:, : height // 2 * 2, : width // 2 * 2].reshape(
        n_c, height // 2, 2, width // 2, 2
    )
    return ((squares.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def _matrix(data, indptr, indices=None):
    from cupyx.scipy import sparse

    columns = data.astype(np.int32) * 0 if indices is None else indices
    return sparse.csr_matrix((data.astype(np.float32), columns, indptr.astype(np.int32)))


def _summed(data, indptr):
    return _matrix(data, indptr).sum(axis=1)


def _normalized(data, indptr, totals):
    import cupy

    row = cupy.searchsorted(indptr, cupy.arange(len(data)), side="right") - 1
    return cupy.log1p(data * (TARGET_SUM / totals)[row].astype(cupy.float32))


def _pooled(data, indices, indptr, group):
    import cupy
    from cupyx.scipy import sparse

    ones = cupy.ones(len(group), cupy.float32)
    chosen = sparse.csr_matrix((ones, (group, cupy.arange(len(group)))))
    return chosen @ _matrix(data, indptr, indices)


# ---- checks and times ----------------------------------------------------------------------------


def _parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def check(case: Case, on_gpu: dict[str, Any]) -> list[np.ndarray]:
    """Hold the result on the GPU to that on the CPU, floats to one ulp; return the latter."""
    import cupy

    expected = [np.asarray(part) for part in _parts(case.run(**case.arrays))]
    actual = [cupy.asnumpy(part) for part in _parts(case.run(**on_gpu))]
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), case.name
        if one.dtype.kind == "f":
            np.testing.assert_array_max_ulp(one, other, 1)
        else:
            np.testing.assert_array_equal(one, other)
    return expected


def gpu_seconds(call: Callable[[], Any]) -> float:
    """Time of one call by the device's own clock, launches and copies of errors included."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) / 1e3


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def copy_case(n_bytes: int) -> Callable[[], Any]:
    import cupy

    source, target = (cupy.zeros(n_bytes // 8, cupy.float64) for _ in range(2))
    return lambda: cupy.copyto(target, source)


def measure(case: Case, runs: int, copied: int) -> str:
    """Return the row of a case: kernel, copy and plain code take turns."""
    import cupy

    on_gpu = {name: cupy.asarray(array) for name, array in case.arrays.items()}
    expected = check(case, on_gpu)
    useful = sum(part.nbytes for part in [*case.arrays.values(), *expected])
    if "rows" in case.arrays:
        # Of the matrix only the rows that are asked for are read.
        share = len(case.arrays["rows"]) / (len(case.arrays["indptr"]) - 1)
        read = sum(case.arrays[name].nbytes for name in ("data", "indices"))
        useful -= round(read * (1 - share))
    calls = {"copy": copy_case(copied), "kernel": lambda: case.run(**on_gpu)}
    if case.plain is not None:
        calls["plain"] = lambda: case.plain(**on_gpu)
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(gpu_seconds(call))
    median = {name: statistics.median(values) for name, values in times.items()}
    on_cpu = statistics.median(cpu_seconds(lambda: case.run(**case.arrays)) for _ in range(3))
    rate = useful / median["kernel"]
    share = rate / (2 * copied / median["copy"])
    plain = f"{median['plain'] / median['kernel']:.1f} x" if "plain" in median else "-"
    spread = max(times["kernel"]) / min(times["kernel"])
    return (
        f"| {case.name} | {median['kernel'] * 1e3:.3f} | {spread:.2f} | {useful / 1e9:.2f} | "
        f"{rate / 1e9:.0f} | {share:.0%} | {plain} | {on_cpu / median['kernel']:.0f} x |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    copied = max(int(4e9 * arguments.scale), 1 << 20)
    copy = copy_case(copied)
    seconds = statistics.median(gpu_seconds(copy) for _ in range(arguments.runs))
    print(f"{properties['name'].decode()}, CuPy {cupy.__version__}, CPU threads "
          f"{thread_count()}, copy {2 * copied / seconds / 1e9:.0f} GB/s\n")  # fmt: skip
    print("| kernel | ms | max / min | useful GB | GB/s | of copy | plain CuPy | CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for make in (tile_cases, count_cases):
        for case in make(np.random.default_rng(0), arguments.scale):
            print(measure(case, arguments.runs, copied), flush=True)
            cupy.get_default_memory_pool().free_all_blocks()


if __name__ == "__main__":
    main()

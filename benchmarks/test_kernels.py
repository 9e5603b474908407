"""Kernels beside the plainest code that moves as many bytes, and beside NumPy and SciPy.

Run ``pytest benchmarks/test_kernels.py --benchmark-enable --benchmark-group-by=group,param``;
without ``--benchmark-enable`` each case runs once, as a test that both sides agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import sparse

from stformat import kernels

TARGET_SUM = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayout:
    """Tiles cut from an image in memory, in the order of the rows of a store."""

    name: str
    """What the layout resembles."""

    image_px: int
    """Edge of the image in pixels."""

    pitch_px: int
    """Distance of neighbouring centres: tiles overlap where it is below `tile_px`."""

    tile_px: int
    """Edge of a tile in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLayout:
    """A sparse count matrix."""

    name: str
    """What the layout resembles."""

    n_obs: int
    """Rows."""

    per_row: int
    """Mean number of genes seen in a row: what a row costs beside its share of the overhead."""

    n_vars: int = 18_085
    """Columns."""


TILES = [
    TileLayout(name="visium", image_px=6000, pitch_px=250, tile_px=224),
    # Small tiles: the cost of a row of pixels is that of starting it.
    TileLayout(name="visium-hd", image_px=3000, pitch_px=20, tile_px=64),
]
COUNTS = [
    CountLayout(name="visium", n_obs=1000, per_row=5200),
    CountLayout(name="visium-hd", n_obs=16_000, per_row=368),
]
N_GENES = [2000, 18_085]
BATCH_ROWS = 512


def by_name(layouts):
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.name)


@cache
def image_and_windows(layout):
    rng = np.random.default_rng(0)
    shape = (3, layout.image_px, layout.image_px)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    corner = np.arange(0, layout.image_px - layout.tile_px, layout.pitch_px)
    top, left = np.meshgrid(corner, corner, indexing="ij")
    return image, np.column_stack([left.ravel(), top.ravel()])


@cache
def counts(layout):
    rng = np.random.default_rng(0)
    lengths = rng.poisson(layout.per_row, layout.n_obs)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    indices = place * np.repeat(layout.n_vars // lengths, lengths)
    data = rng.geometric(0.6, indptr[-1])
    shape = (layout.n_obs, layout.n_vars)
    return sparse.csr_array((data.astype(np.int32), indices.astype(np.int32), indptr), shape=shape)


@by_name(TILES)
@pytest.mark.parametrize("side", ["gather_tiles", "memcpy"])
def test_gather_against_memcpy(benchmark, layout, side):
    """All tiles of an image in memory, into an array that exists, beside copying that array."""
    benchmark.group = "gather"
    image, windows = image_and_windows(layout)
    tile_px = layout.tile_px
    tiles = kernels.gather_tiles(image, windows, tile_px)
    if side == "memcpy":
        again = np.empty_like(tiles)
        benchmark(np.copyto, again, tiles)
    else:
        again = benchmark(kernels.gather_tiles, image, windows, tile_px, out=tiles)
    left, top = windows[-1]
    expected = image[:, top : top + tile_px, left : left + tile_px]
    np.testing.assert_array_equal(again[-1], expected)


@by_name(COUNTS)
@pytest.mark.parametrize("side", ["normalize_log1p", "stream", "numpy"])
def test_normalize_against_a_stream(benchmark, layout, side):
    """Float32 values read once and written once, and the same normalisation in NumPy."""
    benchmark.group = "normalize"
    matrix = counts(layout)
    values, indptr = matrix.data.astype(np.float32), matrix.indptr
    out = np.empty_like(values)
    totals = np.add.reduceat(values, indptr[:-1], dtype=np.float64)

    def in_numpy():
        scales = np.repeat((TARGET_SUM / totals).astype(np.float32), np.diff(indptr))
        return np.log1p(np.multiply(values, scales, out=out), out=out)

    if side == "stream":
        benchmark(np.copyto, out, values)
        np.testing.assert_array_equal(out, values)
    elif side == "numpy":
        benchmark(in_numpy)
    else:
        benchmark(kernels.normalize_log1p, values, indptr, target_sum=TARGET_SUM, out=out)
        np.testing.assert_allclose(out.copy(), in_numpy(), rtol=1e-6)


@by_name(COUNTS)
@pytest.mark.parametrize("n_genes", N_GENES)
@pytest.mark.parametrize("side", ["densify", "scipy"])
def test_densify_against_scipy(benchmark, layout, n_genes, side):
    """A batch of random rows, normalised and dense, of all genes or of a panel."""
    benchmark.group = "densify"
    matrix = counts(layout)
    rng = np.random.default_rng(1)
    genes = np.sort(rng.permutation(layout.n_vars)[:n_genes])
    gene_map = np.full(layout.n_vars, -1)
    gene_map[genes] = np.arange(n_genes)
    rows = rng.permutation(layout.n_obs)[:BATCH_ROWS]
    totals = matrix.sum(axis=1).astype(np.float64)
    matrix_of_floats = matrix.astype(np.float32)

    def in_scipy():
        batch = matrix_of_floats[rows]
        if n_genes < layout.n_vars:
            batch = batch[:, genes]
        scales = (TARGET_SUM / totals[rows]).astype(np.float32)
        batch.data *= np.repeat(scales, np.diff(batch.indptr))
        np.log1p(batch.data, out=batch.data)
        return batch.toarray()

    def in_one_pass():
        return kernels.densify(
            matrix.data,
            matrix.indices,
            matrix.indptr,
            gene_map=gene_map,
            n_out=n_genes,
            rows=rows,
            totals=totals,
            target_sum=TARGET_SUM,
            log1p=True,
        )

    dense = benchmark(in_scipy if side == "scipy" else in_one_pass)
    np.testing.assert_allclose(dense[:8], in_scipy()[:8], rtol=1e-6)

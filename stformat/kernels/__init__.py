"""Array kernels: tiles from images, pyramid levels, sparse counts from text, normalised expression.

Each function checks its arguments once and hands them to the twin made for their kind of array.
The twins compute what `stformat.kernels._reference` defines: integers bit for bit, floats to the
accuracy that the function states, with the same bits for every number of threads.
"""

from __future__ import annotations

from stformat.kernels._counts import densify, normalize_log1p, normalize_log1p_inplace, row_sums
from stformat.kernels._floats import tiles_to_float
from stformat.kernels._images import (
    ChunkScatter,
    downsample_2x2,
    gather_tiles,
    gather_windows,
    resample_tiles,
    scatter_chunk,
)
from stformat.kernels._lzw import codes_after_clear_are_bytes
from stformat.kernels._moments import GeneMoments, gene_moments
from stformat.kernels._pooling import pool_bins
from stformat.kernels._selection import select_genes_inplace
from stformat.kernels._stains import change_stains
from stformat.kernels._text import CountRows, parse_count_rows
from stformat.kernels._warmup import WarmKernel, warmup

__all__ = [
    "ChunkScatter",
    "CountRows",
    "GeneMoments",
    "WarmKernel",
    "change_stains",
    "codes_after_clear_are_bytes",
    "densify",
    "downsample_2x2",
    "gather_tiles",
    "gather_windows",
    "gene_moments",
    "normalize_log1p",
    "normalize_log1p_inplace",
    "parse_count_rows",
    "pool_bins",
    "resample_tiles",
    "row_sums",
    "scatter_chunk",
    "select_genes_inplace",
    "tiles_to_float",
    "warmup",
]

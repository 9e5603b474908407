"""Compiled twins of `_reference`: serial, without the GIL, cached on disk.

No function here uses fastmath: results are the same bits on every machine. Array arguments have
been checked by the functions that call these. Explicit loops are meant: slice assignment of short
rows costs a quarter more. So are unsigned indices: a signed one that may be negative would count
from the end, and the test for that keeps a loop from being vectorised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._numba.counts import (
    densify,
    densify_log1p,
    misplaced_gene,
    normalize_log1p,
    normalize_log1p_inplace,
    row_sums,
)
from stformat.kernels._numba.floats import tiles_to_float, tiles_to_half
from stformat.kernels._numba.images import (
    downsample_2x2,
    gather_tiles,
    gather_windows,
    resample_coarser,
    resample_finer,
    scatter_chunk,
)
from stformat.kernels._numba.lzw import codes_after_clear_are_bytes
from stformat.kernels._numba.pooling import pool_bins
from stformat.kernels._numba.selection import select_genes
from stformat.kernels._numba.stains import change_stains
from stformat.kernels._numba.sums import count_moments, value_moments
from stformat.kernels._numba.text import parse_count_rows
from stformat.kernels._pool import run_blocks

__all__ = [
    "change_stains",
    "codes_after_clear_are_bytes",
    "count_moments",
    "densify",
    "densify_log1p",
    "downsample_2x2",
    "gather_tiles",
    "gather_windows",
    "misplaced_gene",
    "normalize_log1p",
    "normalize_log1p_inplace",
    "parse_count_rows",
    "pool_bins",
    "resample_coarser",
    "resample_finer",
    "row_sums",
    "run_blocks",
    "scatter_chunk",
    "select_genes",
    "tiles_to_float",
    "tiles_to_half",
    "to_host",
    "value_moments",
    "xp",
]

# The functions that call the twins make their arrays with this module.
xp = np


def to_host[T: np.generic](array: NDArray[T]) -> NDArray[T]:
    """Return the array, which is in the host's memory already."""
    return array

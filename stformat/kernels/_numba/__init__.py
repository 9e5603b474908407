"""Compiled twins of `_reference`: serial, without the GIL, cached on disk.

No function here uses fastmath: results are the same bits on every machine. Array arguments have
been checked by the functions that call these. Explicit loops are meant: slice assignment of short
rows costs a quarter more. So are unsigned indices: a signed one that may be negative would count
from the end, and the test for that keeps a loop from being vectorised.
"""

from __future__ import annotations

from stformat.kernels._numba.counts import (
    densify,
    densify_log1p,
    misplaced_gene,
    normalize_log1p,
    normalize_log1p_inplace,
    row_sums,
)
from stformat.kernels._numba.images import (
    downsample_2x2,
    gather_tiles,
    resample_coarser,
    resample_finer,
    scatter_chunk,
)

__all__ = [
    "densify",
    "densify_log1p",
    "downsample_2x2",
    "gather_tiles",
    "misplaced_gene",
    "normalize_log1p",
    "normalize_log1p_inplace",
    "resample_coarser",
    "resample_finer",
    "row_sums",
    "scatter_chunk",
]

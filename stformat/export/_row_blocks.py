"""Blocks of rows that hold about as many counts each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stformat.store.reader import Slide

__all__ = ["row_blocks"]

_BLOCK_VALUES = 1 << 22
"""Most stored counts of a block, but for a row that has more: 32 MiB with their columns."""


def row_blocks(slide: Slide, *, most_rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Cut the rows of a table into blocks of a bounded number of counts.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    most_rows : int, optional
        Most rows of a block.

    Yields
    ------
    tuple of int
        First row and the one behind the last.
    """
    ends = np.cumsum(slide.obs["n_genes"].to_numpy(dtype=np.int64))
    n_obs, start, before = slide.n_obs, 0, 0
    while start < n_obs:
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK_VALUES, side="right")))
        if most_rows is not None:
            stop = min(stop, start + most_rows)
        yield start, stop
        start, before = stop, int(ends[stop - 1])

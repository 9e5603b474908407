"""Counts of chosen genes of many slides, as a stream of blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._pool import read_ahead
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["CountBlock", "SlideOpener", "iter_blocks"]

type SlideOpener = Callable[[], AbstractContextManager[Slide]]

BLOCK_VALUES = 1 << 22
"""Values that a block aims at; a block has one row at least."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountBlock:
    """Rows of counts as CSR; columns are places in a list of genes."""

    data: NDArray[Any]
    """(nnz,) values."""

    indices: NDArray[np.int64]
    """(nnz,) place of each value's gene."""

    indptr: NDArray[np.int64]
    """(n_rows + 1,) where each row begins."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    def without_empty_rows(self) -> CountBlock:
        """Return the rows that hold a value."""
        holds = np.diff(self.indptr) > 0
        indptr = self.indptr[np.append(True, holds)]
        return CountBlock(data=self.data, indices=self.indices, indptr=indptr)


def iter_blocks(
    slide: Slide, columns: NDArray[np.int64], *, rows: RowIndex | None = None
) -> Iterator[CountBlock]:
    """Read counts of some genes, block after block.

    Parameters
    ----------
    slide : Slide
        Bound to the table to read.
    columns : (n_genes,) ndarray of int64
        Column of each gene; -1 where the table has none, of which no value comes.
    rows : int, slice, array of int or mask, optional
        Rows to read; by default all.

    Yields
    ------
    CountBlock
        Rows in their order.

    Notes
    -----
    Two blocks are in memory at a time, some 16 bytes a value each.
    """
    places = np.full(slide.n_vars, -1, dtype=np.int64)
    known = columns >= 0
    places[columns[known]] = np.flatnonzero(known)
    positions = row_positions(slice(None) if rows is None else rows, slide.n_obs)
    step = max(1, BLOCK_VALUES * slide.n_obs // max(1, slide.counts.nnz))

    def blocks() -> Generator[CountBlock]:
        for start in range(0, len(positions), step):
            found = slide.counts[positions[start : start + step]]
            place = places[found.indices]
            is_wanted = place >= 0
            before = np.append(0, np.cumsum(is_wanted))
            yield CountBlock(
                data=found.data[is_wanted],
                indices=place[is_wanted],
                indptr=before[found.indptr],
            )

    with closing(read_ahead(blocks())) as ahead:
        yield from ahead

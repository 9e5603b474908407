"""The rows of a count matrix in another order, by a bucket sort that may take place on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Counts, Progress, ProgressEvent, silent
from stformat.spill import Pile, Spill

__all__ = ["BYTES_PER_VALUE", "ordered_blocks", "row_starts", "stop_of_batch"]

BYTES_PER_VALUE = 8
"""Bytes of a stored value with its column, while its row waits for its place."""

BLOCK_NNZ = 1 << 20
"""Stored values of a block that is given, unless a single row has more."""

BUCKET_ROWS = 1 << 16
"""Rows that stand together in the new order and wait in one bucket."""

MAX_BUCKETS = 128
"""Most buckets: each may be an open file."""


def ordered_blocks(
    counts: Counts,
    order: NDArray[np.int64],
    spill: Spill,
    *,
    progress: Progress = silent,
) -> Iterator[sparse.csr_array]:
    """Read a matrix and give its rows in another order.

    Parameters
    ----------
    counts : Counts
        The matrix, rows in the order of the source.
    order : (n_obs,) ndarray of int64
        A permutation: source row of each row that is given.
    spill : Spill
        Room for the matrix; it is used until the last block was taken.
    progress : Progress
        Told of every block of the source, as step ``"counts"``.

    Returns
    -------
    iterator of csr_array
        Blocks of whole rows with at most about a million stored values each, or of one row. The
        matrix has been read once when this returns.

    Raises
    ------
    CountsError
        If the blocks of `counts` break its promises, or their rows do not add up.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Each row goes to one of up to 128 buckets, by its place in the new order; then one bucket after
    another is read. Every stored value is written and read once, so time is linear in them.
    Memory: 5 bytes a row, the budget of `spill` (8 bytes a stored value while it lasts), a block
    as read, and about 30 bytes a stored value of the block that is given.
    """
    buckets = _Buckets(counts, order, spill)
    n_obs = counts.shape[0]
    done = 0
    progress(ProgressEvent(step="counts", done=0, total=n_obs, unit="rows"))
    for block in counts.iter_blocks():
        _check_block(block, counts, first_row=done)
        if done + block.shape[0] > n_obs:
            raise _more_rows(n_obs, done + block.shape[0])
        buckets.append(block, first_row=done)
        done += block.shape[0]
        progress(ProgressEvent(step="counts", done=done, total=n_obs, unit="rows"))
    if done != n_obs:
        raise _more_rows(n_obs, done)
    return buckets.blocks()


class _Buckets:
    """Rows in, in the order of the source; rows out, in the new order."""

    def __init__(self, counts: Counts, order: NDArray[np.int64], spill: Spill) -> None:
        n_obs = len(order)
        n_buckets = min(MAX_BUCKETS, max(1, -(-n_obs // BUCKET_ROWS)))
        self._order = order
        self._n_vars = counts.shape[1]
        self._bounds = [bucket * n_obs // n_buckets for bucket in range(n_buckets + 1)]
        self._entry = np.dtype([("value", counts.dtype), ("column", np.int32)])
        self._piles: list[Pile] = [spill.pile() for _ in range(n_buckets)]
        self._lengths = np.zeros(n_obs, dtype=np.int32)
        self._bucket_of = np.zeros(n_obs, dtype=np.uint8)
        for bucket, (start, stop) in enumerate(
            zip(self._bounds[:-1], self._bounds[1:], strict=True)
        ):
            self._bucket_of[order[start:stop]] = bucket

    def append(self, block: sparse.csr_array, *, first_row: int) -> None:
        """Add the rows of a block to their buckets."""
        rows = slice(first_row, first_row + block.shape[0])
        lengths = np.diff(block.indptr)
        self._lengths[rows] = lengths
        entries = np.empty(len(block.data), dtype=self._entry)
        entries["value"] = block.data
        entries["column"] = block.indices
        if len(self._piles) == 1:
            self._piles[0].append(entries)
            return
        buckets = self._bucket_of[rows]
        by_bucket = np.argsort(buckets, kind="stable")
        entries = entries[_places(block.indptr[:-1][by_bucket], lengths[by_bucket])]
        n_of_bucket = np.bincount(buckets, weights=lengths, minlength=len(self._piles))
        ends = np.cumsum(n_of_bucket).astype(np.int64)
        for pile, start, stop in zip(self._piles, [0, *ends[:-1]], ends, strict=True):
            if stop > start:
                # A copy: a view would keep all of the block in memory.
                pile.append(entries[start:stop].copy())

    def blocks(self) -> Iterator[sparse.csr_array]:
        """Yield all rows in the new order, and forget them."""
        for pile, start, stop in zip(self._piles, self._bounds[:-1], self._bounds[1:], strict=True):
            yield from self._of_bucket(pile.joined(self._entry), self._order[start:stop])
            pile.clear()

    def _of_bucket(
        self, entries: NDArray[Any], source_rows: NDArray[np.int64]
    ) -> Iterator[sparse.csr_array]:
        by_source = np.argsort(source_rows)
        lengths = self._lengths[source_rows].astype(np.int64)
        starts = np.empty(len(source_rows), dtype=np.int64)
        starts[by_source] = row_starts(lengths[by_source])[:-1]
        target = row_starts(lengths)
        start = 0
        while start < len(source_rows):
            stop = stop_of_batch(target, start, BLOCK_NNZ)
            taken = entries[_places(starts[start:stop], lengths[start:stop])]
            local = target[start : stop + 1] - target[start]
            yield sparse.csr_array(
                (
                    np.ascontiguousarray(taken["value"]),
                    np.ascontiguousarray(taken["column"]),
                    local,
                ),
                shape=(stop - start, self._n_vars),
            )
            start = stop


def _places(starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Places of the values of rows that begin at `starts`, one row after another."""
    ends = np.cumsum(lengths, dtype=np.int64)
    places = np.repeat(starts - ends + lengths, lengths)
    places += np.arange(len(places))
    return places


def row_starts(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where rows of these lengths begin, and where the last one ends.

    Examples
    --------
    >>> row_starts(np.array([2, 0, 1]))
    array([0, 2, 2, 3])
    """
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def stop_of_batch(indptr: NDArray[np.int64], start: int, max_nnz: int) -> int:
    """Return the end of the longest run of rows from `start` with at most `max_nnz` values.

    Examples
    --------
    >>> stop_of_batch(np.array([0, 2, 4, 9]), 0, 4), stop_of_batch(np.array([0, 2, 4, 9]), 2, 4)
    (2, 3)
    """
    return max(start + 1, int(np.searchsorted(indptr, indptr[start] + max_nnz, side="right")) - 1)


def _check_block(block: sparse.csr_array, counts: Counts, *, first_row: int) -> None:
    """Hold a block to the promises of `stformat.model.Counts`."""
    if block.shape[1] != counts.shape[1] or block.data.dtype != counts.dtype:
        raise _counts_error(
            "counts.block",
            f"a block must be {counts.dtype} with {counts.shape[1]} columns",
            f"{block.data.dtype} with {block.shape[1]}",
        )
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)) + first_row
    for code, expected, is_wrong in _promises(block, rows):
        if is_wrong.any():
            first = int(np.argmax(is_wrong))
            raise _counts_error(
                code,
                expected,
                f"{block.data[first]} in row {rows[first]}, column {block.indices[first]}",
            )


def _promises(
    block: sparse.csr_array, rows: NDArray[np.int64]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Each promise with a mask over the stored values that break it."""
    columns = block.indices
    outside = (columns < 0) | (columns >= block.shape[1])
    yield "counts.column", f"columns must be from 0 to {block.shape[1] - 1}", outside
    not_after = np.zeros(len(columns), np.bool_)
    not_after[1:] = (columns[1:] <= columns[:-1]) & (rows[1:] == rows[:-1])
    yield "counts.order", "columns of a row must ascend without repeats", not_after
    yield "counts.explicit-zero", "zeros must not be stored", block.data == 0
    unusable = ~(block.data >= 0) | (block.data == np.inf)
    yield "counts.value", "values must be finite and not negative", unusable


def _more_rows(n_obs: int, found: int) -> CountsError:
    return _counts_error("counts.rows", f"blocks must add up to {n_obs} rows", str(found))


def _counts_error(code: str, expected: str, found: str) -> CountsError:
    return CountsError(Problem(code, "counts", expected, found))

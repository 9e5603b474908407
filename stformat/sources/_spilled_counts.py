"""A dense text count matrix of any size: parsed once, kept as sparse rows, on disk where large."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.model import Counts
from stformat.sources._dense_text import LARGEST_COUNT, CountBlock, open_dense_text
from stformat.spill import Spill

__all__ = ["SpilledCounts", "spill_counts_text"]

MEMORY_BYTES = 1 << 26
"""Bytes of values and columns that stay in memory, 8 a value: 64 MiB."""

_PART_VALUES = 1 << 18
_PART_ROWS = 1 << 10


@dataclass(frozen=True, slots=True)
class _Part:
    """Consecutive rows; values are int32 where all of them fit, float32 else."""

    n_values: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.int32] | NDArray[np.float32]


class SpilledCounts:
    """A count matrix as its text has it, which may be read again and again.

    Made by `spill_counts_text`. Its files have no name, and end with the last use of the matrix.
    """

    def __init__(
        self, parts: list[_Part], held: ExitStack, *, names: _Names, n_non_integer: int
    ) -> None:
        self._parts = parts
        weakref.finalize(self, held.close)
        self.row_names = names.rows
        """Names down the first column, unique or not."""

        self.column_names = names.columns
        """Names along the header, unique or not."""

        self.n_non_integer = n_non_integer
        """How many values are no integers."""

    def rows(self, is_kept: NDArray[np.bool_]) -> Counts:
        """Return some rows as the counts of a table.

        Parameters
        ----------
        is_kept : (n_rows,) ndarray of bool
            Rows to take, in their order.

        Returns
        -------
        Counts
            Blocks of a thousand rows, or of a quarter of a million values.
        """
        dtype: np.dtype[np.int32] | np.dtype[np.float32]
        dtype = np.dtype(np.float32) if self.n_non_integer else np.dtype(np.int32)
        n_columns = len(self.column_names)

        def blocks() -> Iterator[sparse.csr_array]:
            start = 0
            for part in self._parts:
                kept = is_kept[start : start + len(part.n_values)]
                start += len(part.n_values)
                block = sparse.csr_array(
                    (
                        part.values.astype(dtype, copy=False),
                        part.indices,
                        np.concatenate([[0], np.cumsum(part.n_values)]),
                    ),
                    shape=(len(part.n_values), n_columns),
                )
                yield block if kept.all() else block[np.flatnonzero(kept)]

        return Counts(
            shape=(int(np.count_nonzero(is_kept)), n_columns),
            dtype=dtype,
            iter_blocks=blocks,
            nnz=sum(len(part.values) for part in self._parts),
        )


@dataclass(frozen=True, slots=True)
class _Names:
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def spill_counts_text(path: Path, *, scratch: Path | None) -> SpilledCounts:
    """Parse a dense text matrix once, into memory or, where it is large, into files.

    Parameters
    ----------
    path : pathlib.Path
        As `stformat.sources._dense_text.open_dense_text` takes it.
    scratch : pathlib.Path or None
        Directory of the files; None is the system's own.

    Returns
    -------
    SpilledCounts
        The matrix with its zeros dropped.

    Raises
    ------
    CountsError
        If the file is damaged or no such matrix, a row has too many or too few values, a value is
        no number, negative, not finite, or an integer beyond int32.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Memory: that of the parser, `MEMORY_BYTES`, and the names; 8 bytes a value on disk beyond it.
    Parsing twice would take no disk, and the time of reading text that is some fifty times as long.
    """
    names: list[str] = []
    n_values = []
    with ExitStack() as held:
        spill = held.enter_context(Spill(scratch, memory_bytes=MEMORY_BYTES))
        indices, values = spill.pile(), spill.pile()
        with open_dense_text(path) as text:
            for gathered in _gathered(text.blocks()):
                names.extend(name for block in gathered for name in block.names)
                n_values.append(np.concatenate([block.n_values for block in gathered]))
                indices.append(np.concatenate([block.indices for block in gathered]))
                values.append(_narrow(np.concatenate([block.values for block in gathered])))
        pieces = zip(n_values, indices.pieces(), values.pieces(), strict=True)
        return SpilledCounts(
            [_Part(*piece) for piece in pieces],
            held.pop_all(),
            names=_Names(tuple(names), text.columns),
            n_non_integer=text.n_non_integer,
        )


def _gathered(blocks: Iterator[CountBlock]) -> Iterator[list[CountBlock]]:
    """Put blocks together that are too small to be worth a part each."""
    pending: list[CountBlock] = []
    n_rows = n_values = 0
    for block in blocks:
        pending.append(block)
        n_rows += len(block.names)
        n_values += len(block.values)
        if n_rows >= _PART_ROWS or n_values >= _PART_VALUES:
            yield pending
            pending, n_rows, n_values = [], 0, 0
    if pending:
        yield pending


def _narrow(values: NDArray[np.float64]) -> NDArray[np.int32] | NDArray[np.float32]:
    is_count = not values.size or (
        values.max() <= LARGEST_COUNT and bool((values == np.floor(values)).all())
    )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused behind the last block
        return values.astype(np.int32) if is_count else values.astype(np.float32)

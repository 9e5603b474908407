"""A text count matrix as CSR in memory, zeros dropped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from stformat.sources._dense_text import open_dense_text

__all__ = ["TextCounts", "read_counts_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounts:
    """A count matrix as its text has it: rows and columns are not yet spots and genes."""

    row_names: tuple[str, ...]
    """Names down the first column, unique or not."""

    column_names: tuple[str, ...]
    """Names along the header, unique or not."""

    matrix: sparse.csr_array
    """(n_rows, n_columns) int32, or float32 where a value is no integer; no explicit zeros."""

    n_non_integer: int
    """How many values are no integers."""


def read_counts_text(path: Path) -> TextCounts:
    """Read a dense text matrix with one header line and one column of names.

    Parameters
    ----------
    path : pathlib.Path
        Tab-, comma-, semicolon- or space-separated text, gzip-compressed or not. The header may
        leave out the cell above the row names.

    Returns
    -------
    TextCounts
        The matrix with its zeros dropped.

    Raises
    ------
    CountsError
        If the file is damaged or no such matrix, a row has too many or too few values, a value is
        no number, negative, not finite, or an integer beyond int32.

    Notes
    -----
    Memory: that of `stformat.sources._dense_text.DenseText`, and about 16 bytes for a value other
    than zero.
    """
    with open_dense_text(path) as text:
        blocks = list(text.blocks())
    data = np.concatenate([block.values for block in blocks])
    indices = np.concatenate([block.indices for block in blocks])
    n_values = np.concatenate([block.n_values for block in blocks])
    names = tuple(name for block in blocks for name in block.names)
    return TextCounts(
        row_names=names,
        column_names=text.columns,
        matrix=sparse.csr_array(
            (data.astype(text.dtype), indices, np.concatenate([[0], np.cumsum(n_values)])),
            shape=(len(names), len(text.columns)),
        ),
        n_non_integer=text.n_non_integer,
    )

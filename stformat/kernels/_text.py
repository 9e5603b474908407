"""Rows of a dense text matrix as sparse counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import contiguous, host_twins, read_only

__all__ = ["CountRows", "parse_count_rows"]

MAX_BYTES = (1 << 31) - 1
"""Places in a text are int32."""

_FAULTS: tuple[Literal["ragged", "empty-field"] | None, ...] = (None, "ragged", "empty-field")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountRows:
    """Rows of a text, zeros dropped; made by `parse_count_rows`."""

    n_lines: int
    """Lines of the text; with a fault, those before it."""

    lines: NDArray[np.int64]
    """(n_rows,) line of the text that each row is, from 0; blank lines are no rows."""

    names: NDArray[np.int64]
    """(n_rows, 2) where the name of each row starts and stops in the text, quotes included."""

    n_values: NDArray[np.int64]
    """(n_rows,) values of each row."""

    indices: NDArray[np.int32]
    """(nnz,) column of each value, ascending in a row."""

    values: NDArray[np.float64]
    """(nnz,) values that are not 0, and NaN for each field of `spans`."""

    spans: NDArray[np.int32]
    """(n, 2) where fields start and stop that are not plain: signed, quoted, padded, beyond what
    float64 computes exactly, or no number. In the order of the NaNs of `values`."""

    fault: Literal["ragged", "empty-field"] | None
    """What is wrong with the last row; what follows it has not been read."""

    n_fields: int
    """Fields behind the name of the row that is at fault: all of a ragged one, those before the
    first empty one else. 0 without a fault."""


def parse_count_rows(text: NDArray[np.uint8], *, delimiter: str, n_columns: int) -> CountRows:
    r"""Parse lines of a name and numbers between delimiters.

    Parameters
    ----------
    text : (n,) ndarray of uint8
        Whole lines, the last one ended by a newline too; a carriage return before a newline is
        part of the line's end. A field in double quotes may hold the delimiter.
    delimiter : str
        One ASCII character.
    n_columns : int
        Numbers in a row, at least 1.

    Returns
    -------
    CountRows
        Rows up to the end of the text, or to the first row of another length or with an empty
        field. Plain numbers are digits with a point or an exponent or without, and are rounded as
        Python's ``float`` rounds them; fields that are not plain are left to the caller.

    Raises
    ------
    TypeError
        If `text` is no array of uint8.
    ValueError
        If `text` does not end with a newline or has 2 GiB or more, or another argument is out of
        its range.

    Examples
    --------
    >>> import numpy as np
    >>> rows = parse_count_rows(np.frombuffer(b"a,0,3.0\nb,+1,0\n", np.uint8), delimiter=",",
    ...                         n_columns=2)
    >>> rows.n_values, rows.indices, rows.values, rows.spans
    (array([1, 1]), array([1, 0], dtype=int32), array([ 3., nan]), array([[10, 12]], dtype=int32))
    """
    twins = host_twins(text=text)
    text = contiguous(read_only("text", text, n_dims=1, dtypes=(np.uint8,)))
    if len(text) > MAX_BYTES or (len(text) and text[-1] != ord("\n")):
        raise ValueError(f"text must end with a newline within {MAX_BYTES} bytes, it does not")
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '\r\n".+-' + "0123456789eE":
        raise ValueError(f"delimiter must be an ASCII character of no number, got {delimiter!r}")
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    # A number and its delimiter take two bytes; of the capacity only what is written takes memory.
    capacity = len(text) // 2 + 1
    rows = np.empty((len(text) // (2 * n_columns) + 1, 4), np.int64)
    indices = np.empty(capacity, np.int32)
    values = np.empty(capacity, np.float64)
    spans = np.empty((capacity, 2), np.int32)
    n_lines, n_rows, n, n_spans, fault, n_fields = twins.parse_count_rows(
        text, ord(delimiter), n_columns, rows, indices, values, spans
    )
    rows = rows[:n_rows]
    return CountRows(
        n_lines=n_lines,
        lines=rows[:, 0],
        names=rows[:, 1:3],
        n_values=rows[:, 3],
        indices=indices[:n].copy(),
        values=values[:n].copy(),
        spans=spans[:n_spans].copy(),
        fault=_FAULTS[fault],
        n_fields=n_fields,
    )

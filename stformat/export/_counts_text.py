"""A count matrix as dense comma-separated text, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from stformat.errors import ExportError, Problem
from stformat.export._row_blocks import row_blocks
from stformat.model import Progress, ProgressEvent
from stformat.store.reader import Slide

__all__ = ["csv_field", "dense_lines", "write_counts_csv"]

_BLOCK_CELLS = 1 << 24
"""Most values of a block: two bytes each for those of one digit."""

_ZERO = ord("0")


def write_counts_csv(
    slide: Slide,
    path: Path,
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    progress: Progress,
) -> None:
    """Write all counts of a table: a line of column names, then a line a row.

    Parameters
    ----------
    slide : Slide
        Bound to the table.
    path : pathlib.Path
        The file.
    row_names, column_names : sequence of str
        One a row, one a column.
    progress : callable
        Told of ``"counts"``.

    Raises
    ------
    ExportError
        If a name has a line break.
    """
    n_obs = slide.n_obs
    most_rows = max(1, _BLOCK_CELLS // max(1, slide.n_vars))
    progress(ProgressEvent(step="counts", total=n_obs, unit="rows"))
    with path.open("wb") as file:
        file.write(f"{','.join(['', *map(csv_field, column_names)])}\n".encode())
        for start, stop in row_blocks(slide, most_rows=most_rows):
            for line in dense_lines(slide.counts[start:stop], row_names[start:stop]):
                file.write(line)
            progress(ProgressEvent(step="counts", done=stop, total=n_obs, unit="rows"))


def dense_lines(block: sparse.csr_array, names: Sequence[str]) -> Iterator[bytes]:
    r"""Spell rows of a sparse matrix, zeros included.

    Parameters
    ----------
    block : (n_rows, n_columns) csr_array
        The rows, without repeated indices, indices ascending.
    names : sequence of str
        One a row.

    Yields
    ------
    bytes
        A line, in the shortest spelling of each value that reads back as the same.

    Raises
    ------
    ExportError
        If a name has a line break.

    Examples
    --------
    >>> list(dense_lines(sparse.csr_array(np.array([[0, 12, 3]], np.int32)), ["A1_10x13"]))
    [b'A1_10x13,0,12,3\n']
    """
    n_rows, n_columns = block.shape
    # All zeros at first; a value of one digit takes the place of its zero, a longer one is put
    # between what stands before and behind.
    lines = np.empty((n_rows, n_columns, 2), dtype=np.uint8)
    lines[..., 0] = _ZERO
    lines[..., 1] = ord(",")
    lines[:, -1:, 1] = ord("\n")
    rows = np.repeat(np.arange(n_rows), np.diff(block.indptr))
    is_digit = (block.data >= 0) & (block.data < 10) & (block.data == np.floor(block.data))
    digits = block.data[is_digit].astype(np.uint8)
    lines[rows[is_digit], block.indices[is_digit], 0] = digits + _ZERO
    long = np.flatnonzero(~is_digit)
    bounds = np.searchsorted(rows[long], np.arange(n_rows + 1))
    columns, texts = block.indices[long].tolist(), _texts(block.data[long])
    for row, name in enumerate(names):
        line = lines[row].tobytes()
        pieces = [f"{csv_field(name)},".encode()]
        done = 0
        for place in range(bounds[row], bounds[row + 1]):
            at = 2 * columns[place]
            pieces += (line[done:at], texts[place])
            done = at + 1
        pieces.append(line[done:])
        yield b"".join(pieces)


def _texts(values: np.ndarray) -> list[bytes]:
    if values.dtype.kind in "iu":
        return [b"%d" % value for value in values.tolist()]
    return [np.format_float_positional(value, trim="-").encode() for value in values]


def csv_field(text: str) -> str:
    r"""Spell a text as a field between commas.

    Raises
    ------
    ExportError
        If it has a line break: readers take tables line by line.

    Examples
    --------
    >>> csv_field("HLA,A"), csv_field("ERBB2")
    ('"HLA,A"', 'ERBB2')
    """
    if "\n" in text or "\r" in text:
        raise ExportError(
            Problem("export.name", "names", "a name must be one line of text", repr(text))
        )
    if not set(',"') & set(text) and text == text.strip():
        return text
    return f'"{text.replace('"', '""')}"'

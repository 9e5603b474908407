"""The matrix of an AnnData object in blocks of whole rows: CSR, CSC or dense.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Counts, Note
from stformat.sources._anndata import MAX_ROWS, ArrayNode, GroupNode, array_of
from stformat.sources._counts_10x import clean_counts
from stformat.sources._notes import counted

__all__ = ["Matrix", "MatrixSummary", "counts_of_matrix", "open_matrix", "summarize"]

BLOCK_VALUES = 1 << 20
"""Values of one block of rows, but for a row that has more."""

BAND_VALUES = 1 << 23
"""Values of the rows that one pass over a matrix by columns gathers."""

_LAYOUTS: dict[str, Literal["csr", "csc"]] = {"csr_matrix": "csr", "csc_matrix": "csc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A matrix, of which only the row or column pointers are in memory."""

    where: str
    """File and path in it, for messages."""

    layout: Literal["csr", "csc", "dense"]
    """How values are stored."""

    shape: tuple[int, int]
    """``(n_obs, n_vars)``."""

    data: ArrayNode
    """Values: (nnz,), or (n_obs, n_vars) of a dense matrix."""

    indices: ArrayNode | None
    """(nnz,) columns (CSR) or rows (CSC); None of a dense matrix."""

    indptr: NDArray[np.int64]
    """Where rows (CSR) or columns (CSC) begin; empty for a dense matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSummary:
    """What one pass over the values of a matrix tells."""

    dtype: np.dtype[np.int32] | np.dtype[np.float32]
    """Type that holds them."""

    n_stored: int
    """Values that are stored, zeros of a dense matrix not counted."""

    notes: tuple[Note, ...]
    """``counts.explicit-zeros`` and ``counts.non-integer``, where there are any."""


def open_matrix(group: GroupNode, name: str) -> Matrix:
    """Open the matrix of an AnnData group.

    Parameters
    ----------
    group : GroupNode
        The object.
    name : str
        ``"X"``. Layers and ``raw`` are matrices too, and are never taken in its place.

    Returns
    -------
    Matrix
        The matrix; its pointers are read and checked.

    Raises
    ------
    CountsError
        If it is missing, or its parts do not fit one another.
    """
    node = group.child(name) if name in group.names else None
    if node is None or node.attributes.get("encoding-type") == "null":
        raise CountsError(
            Problem(
                "anndata.no-matrix",
                group.where,
                f"the counts must be the matrix {name}; layers and raw are never guessed from",
                ", ".join(group.names) or "nothing",
                "put the raw counts into X and write the file again",
            )
        )
    if isinstance(node, ArrayNode):
        if len(node.shape) != 2 or node.dtype.kind not in "biuf" or max(node.shape) > MAX_ROWS:
            raise _structure(
                node.where,
                "a matrix of numbers of two axes is needed",
                f"{node.dtype} of shape {node.shape}",
            )
        return Matrix(
            where=node.where,
            layout="dense",
            shape=(node.shape[0], node.shape[1]),
            data=node,
            indices=None,
            indptr=np.zeros(0, dtype=np.int64),
        )
    return _open_sparse(node)


def _open_sparse(group: GroupNode) -> Matrix:
    layout = _LAYOUTS.get(str(group.attributes.get("encoding-type")))
    if layout is None:
        raise CountsError(
            Problem(
                "anndata.encoding",
                group.where,
                "a matrix must be dense, csr_matrix or csc_matrix",
                repr(group.attributes.get("encoding-type")),
            )
        )
    try:
        n_obs, n_vars = (int(size) for size in group.attributes["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise _structure(group.where, "the attribute shape needs two sizes", str(error)) from error
    if min(n_obs, n_vars) < 0 or max(n_obs, n_vars) > MAX_ROWS:
        raise _structure(group.where, f"sizes must be from 0 to {MAX_ROWS}", f"{n_obs} x {n_vars}")
    data, indices, pointers = (
        array_of(group, part, n_axes=1) for part in ("data", "indices", "indptr")
    )
    n_lines = n_obs if layout == "csr" else n_vars
    if (
        data.dtype.kind not in "biuf"
        or indices.dtype.kind not in "iu"
        or pointers.dtype.kind not in "iu"
        or data.shape != indices.shape
        or pointers.shape != (n_lines + 1,)
    ):
        raise _structure(
            group.where,
            f"data and indices must be of one length and indptr of {n_lines + 1} integers",
            f"{data.dtype} {data.shape}, {indices.dtype} {indices.shape}, "
            f"{pointers.dtype} {pointers.shape}",
        )
    indptr = pointers.read(0, n_lines + 1).astype(np.int64)
    if indptr[0] != 0 or indptr[-1] != data.shape[0] or (np.diff(indptr) < 0).any():
        raise _structure(
            f"{group.where}/indptr",
            f"it must ascend from 0 to the number of values, {data.shape[0]}",
            f"{indptr.min()} to {indptr.max()}",
        )
    return Matrix(
        where=group.where,
        layout=layout,
        shape=(n_obs, n_vars),
        data=data,
        indices=indices,
        indptr=indptr,
    )


def summarize(matrix: Matrix) -> MatrixSummary:
    """Read every value once, to know which type holds them all.

    Parameters
    ----------
    matrix : Matrix
        The matrix.

    Returns
    -------
    MatrixSummary
        int32, or float32 where a value is no integer.

    Notes
    -----
    Values that no table may have are refused when rows are read. Memory: a block.
    """
    n_stored = n_zeros = n_non_integer = 0
    n_rows = matrix.data.shape[0]
    width = matrix.shape[1] if matrix.layout == "dense" else 1
    step = max(1, BLOCK_VALUES // max(1, width))
    for start in range(0, n_rows, step):
        values = matrix.data.read(start, min(n_rows, start + step))
        n_nonzero = int(np.count_nonzero(values))
        n_stored += n_nonzero
        n_zeros += values.size - n_nonzero
        if values.dtype.kind == "f":
            n_non_integer += int(np.count_nonzero(values != np.floor(values)))
    notes = []
    if n_zeros and matrix.layout != "dense":
        zeros = counted(
            n_zeros,
            f"zero that {matrix.where} stores was dropped: it says",
            f"zeros that {matrix.where} stores were dropped: they say",
        )
        message = f"{zeros} what absence says."
        notes.append(Note(code="counts.explicit-zeros", message=message, count=n_zeros))
    if n_non_integer:
        counts = counted(n_non_integer, "value is no integer", "values are no integers")
        message = f"{counts}: stored as float32, not as counts."
        notes.append(Note(code="counts.non-integer", message=message, count=n_non_integer))
    dtype = np.dtype(np.float32) if n_non_integer else np.dtype(np.int32)
    return MatrixSummary(dtype=dtype, n_stored=n_stored, notes=tuple(notes))


def counts_of_matrix(
    opened: Callable[[], AbstractContextManager[Matrix]],
    summary: MatrixSummary,
    shape: tuple[int, int],
    *,
    rows: NDArray[np.int64] | None = None,
    columns: NDArray[np.int64] | None = None,
) -> Counts:
    """Give rows and columns of a matrix as the counts of a table.

    Parameters
    ----------
    opened : callable
        Opens the matrix; called anew each time the counts are read.
    summary : MatrixSummary
        From `summarize`.
    shape : tuple of int
        Shape of the matrix.
    rows, columns : ndarray of int64, optional
        Ascending rows and columns to keep; None keeps all.

    Returns
    -------
    Counts
        Rows in the order of the matrix.

    Notes
    -----
    Memory: about a million values at once; of a matrix by columns eight million, for which it is
    read once for each eight million values that it has.
    """
    n_obs = shape[0] if rows is None else len(rows)
    n_vars = shape[1] if columns is None else len(columns)

    def iter_blocks() -> Iterator[sparse.csr_array]:
        with opened() as matrix:
            for first, block in _row_blocks(matrix):
                kept = block.astype(summary.dtype, copy=False)
                if rows is not None:
                    low, high = np.searchsorted(rows, [first, first + block.shape[0]])
                    kept = kept[rows[low:high] - first]
                if columns is not None:
                    kept = kept[:, columns]
                    kept.sort_indices()
                if kept.shape[0]:
                    yield kept

    return Counts(
        shape=(n_obs, n_vars), dtype=summary.dtype, iter_blocks=iter_blocks, nnz=summary.n_stored
    )


def _row_blocks(matrix: Matrix) -> Iterator[tuple[int, sparse.csr_array]]:
    """Yield the first row of each block, and the block, clean."""
    if matrix.layout == "dense":
        yield from _dense_blocks(matrix)
    elif matrix.layout == "csr":
        yield from _csr_blocks(matrix)
    else:
        yield from _csc_blocks(matrix)


def _dense_blocks(matrix: Matrix) -> Iterator[tuple[int, sparse.csr_array]]:
    n_obs, n_vars = matrix.shape
    step = max(1, BLOCK_VALUES // max(1, n_vars))
    for start in range(0, n_obs, step):
        values = matrix.data.read(start, min(n_obs, start + step))
        row, column = np.nonzero(values)
        indptr = np.searchsorted(row, np.arange(len(values) + 1))
        yield start, _clean(matrix, start, values[row, column], column, indptr)


def _csr_blocks(matrix: Matrix) -> Iterator[tuple[int, sparse.csr_array]]:
    indptr = matrix.indptr
    for start, stop in _runs(indptr, BLOCK_VALUES):
        low, high = int(indptr[start]), int(indptr[stop])
        data, indices = _read_values(matrix, low, high)
        yield start, _clean(matrix, start, data, indices, indptr[start : stop + 1] - low)


def _csc_blocks(matrix: Matrix) -> Iterator[tuple[int, sparse.csr_array]]:
    """Bands of rows, each gathered in one pass over all columns."""
    lengths = np.zeros(matrix.shape[0], dtype=np.int64)
    for _, _, lines in _pieces(matrix):
        lengths += np.bincount(lines, minlength=len(lengths))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    for start, stop in _runs(indptr, BAND_VALUES):
        data, rows, columns = [], [], []
        for first, piece, lines in _pieces(matrix):
            wanted = np.flatnonzero((lines >= start) & (lines < stop))
            data.append(piece[wanted])
            rows.append((lines[wanted] - start).astype(np.int32))
            column = np.searchsorted(matrix.indptr, first + wanted, side="right") - 1
            columns.append(column.astype(np.int32))
        # Columns ascend already, and a stable sort leaves them so in each row.
        order = np.argsort(np.concatenate([np.zeros(0, np.int32), *rows]), kind="stable")
        values = np.concatenate([np.zeros(0, matrix.data.dtype), *data])[order]
        column = np.concatenate([np.zeros(0, np.int32), *columns])[order]
        band = indptr[start : stop + 1] - indptr[start]
        yield start, _clean(matrix, start, values, column, band)


def _pieces(matrix: Matrix) -> Iterator[tuple[int, NDArray[Any], NDArray[np.int64]]]:
    """Yield the number of a first value, some values and their rows, of a matrix by columns."""
    n_values, n_obs = matrix.data.shape[0], matrix.shape[0]
    for start in range(0, n_values, BLOCK_VALUES):
        values, indices = _read_values(matrix, start, min(n_values, start + BLOCK_VALUES))
        rows = indices.astype(np.int64)
        if rows.min() < 0 or rows.max() >= n_obs:
            raise _structure(
                f"{matrix.where}/indices",
                f"indices must be those of {n_obs} rows",
                f"{rows.min()} to {rows.max()}",
            )
        yield start, values, rows


def _read_values(
    matrix: Matrix, start: int, stop: int
) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
    if matrix.indices is None:
        raise ValueError("a dense matrix has no indices")
    return matrix.data.read(start, stop), matrix.indices.read(start, stop)


def _clean(
    matrix: Matrix,
    first_row: int,
    data: NDArray[Any],
    indices: NDArray[np.integer[Any]],
    indptr: NDArray[np.int64],
) -> sparse.csr_array:
    shape = len(indptr) - 1, matrix.shape[1]
    where = f"{matrix.where}, rows from {first_row}"
    values = data.astype(np.uint8) if data.dtype.kind == "b" else data
    return clean_counts(where, values, indices, indptr, shape=shape)[0]


def _runs(indptr: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Cut lines into runs of at most `most` values, or of one line."""
    start, n_lines = 0, len(indptr) - 1
    while start < n_lines:
        after = int(np.searchsorted(indptr, indptr[start] + most, side="right")) - 1
        stop = min(n_lines, max(start + 1, after))
        yield start, stop
        start = stop


def _structure(where: str, expected: str, found: str) -> CountsError:
    return CountsError(Problem("anndata.structure", where, expected, found))

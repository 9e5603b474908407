"""A count matrix of Cell Ranger or Space Ranger: barcodes x features, held to its own claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Note
from stformat.sources._notes import counted
from stformat.text_keys import repeated_row

__all__ = [
    "GENES",
    "FeatureCounts",
    "Features",
    "check_packed_rows",
    "check_rows",
    "clean_counts",
    "value_notes",
    "value_type",
]

GENES = "Gene Expression"
"""Feature type of genes, and of features that carry none."""

_LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Columns of a matrix, in the order of the file."""

    ids: tuple[str, ...]
    """(n,) identifiers as the file has them, unique or not; names where it has none."""

    names: tuple[str, ...]
    """(n,) symbols as the file spells them."""

    gene_ids: tuple[str, ...]
    """(n,) identifiers of genes: `ids`, or of a probe those of its gene."""

    types: tuple[str, ...]
    """(n,) ``"Gene Expression"``, ``"Antibody Capture"``, ..."""

    genomes: tuple[str | None, ...]
    """(n,) reference genomes, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCounts:
    """A count matrix as its file has it."""

    barcodes: tuple[str, ...]
    """(n_barcodes,) names of the rows, unique."""

    features: Features
    """Columns."""

    matrix: sparse.csr_array
    """(n_barcodes, n_features) int32, or float32 where a value is no integer; column indices
    ascending, no explicit zeros, no duplicates."""

    notes: tuple[Note, ...] = ()
    """What a user of the counts should know."""


def check_rows(name: str, barcodes: tuple[str, ...]) -> None:
    """Refuse barcodes that are empty or repeat.

    Parameters
    ----------
    name : str
        Name of the file, for messages.
    barcodes : tuple of str
        Names of the rows.

    Raises
    ------
    CountsError
        If one is empty or stands twice.

    Examples
    --------
    >>> check_rows("barcodes.tsv", ("AAAC-1", "AAAG-1"))
    """
    seen: set[str] = set()
    for row, barcode in enumerate(barcodes, start=1):
        if not barcode or barcode in seen:
            raise CountsError(
                Problem(
                    "counts.repeated-spots",
                    f"{name}, barcode {row}",
                    "every row of counts needs a barcode of its own",
                    f"{barcode!r} again" if barcode else "none",
                )
            )
        seen.add(barcode)


def check_packed_rows(name: str, barcodes: NDArray[np.bytes_]) -> None:
    """Refuse barcodes that are empty or repeat, of which there may be millions.

    Parameters
    ----------
    name : str
        Name of the file, for messages.
    barcodes : (n,) ndarray of bytes
        Names of the rows.

    Raises
    ------
    CountsError
        If one is empty or stands twice.

    Examples
    --------
    >>> check_packed_rows("barcodes.tsv", np.array([b"AAAC-1", b"AAAG-1"]))
    """
    is_empty = barcodes == b""
    row = int(np.argmax(is_empty)) if is_empty.any() else repeated_row(barcodes)
    if row is not None:
        raise CountsError(
            Problem(
                "counts.repeated-spots",
                f"{name}, barcode {row + 1}",
                "every row of counts needs a barcode of its own",
                f"{barcodes[row].decode()!r} again" if barcodes[row] else "none",
            )
        )


def clean_counts(
    name: str,
    data: NDArray[Any],
    indices: NDArray[np.integer[Any]],
    indptr: NDArray[np.integer[Any]],
    *,
    shape: tuple[int, int],
) -> tuple[sparse.csr_array, tuple[Note, ...]]:
    """Check the parts of a matrix and put its columns in order.

    Parameters
    ----------
    name : str
        Name of the file, for messages.
    data, indices : (nnz,) ndarray
        Values and their columns.
    indptr : (n_barcodes + 1,) ndarray of integer
        Where rows begin.
    shape : tuple of int
        ``(n_barcodes, n_features)``.

    Returns
    -------
    csr_array
        int32, or float32 where a value is no integer. Column indices ascend in a row; zeros that
        the file stores are dropped.
    tuple of Note
        ``counts.explicit-zeros`` and ``counts.non-integer`` with their numbers, where there are
        any.

    Raises
    ------
    CountsError
        If `indptr` does not ascend from 0 to nnz, a column is out of range or stands twice in a
        row, or a value is negative, not finite or too large.

    Examples
    --------
    >>> import numpy as np
    >>> matrix, notes = clean_counts(
    ...     "m.h5", np.array([2.0, 0.0]), np.array([1, 0]), np.array([0, 2]), shape=(1, 3)
    ... )
    >>> matrix.toarray().tolist(), matrix.dtype, notes[0].code
    ([[0, 2, 0]], dtype('int32'), 'counts.explicit-zeros')
    """
    _check_structure(name, data, indices, indptr, shape)
    dtype, n_non_integer = value_type(name, data)
    # SciPy's own choice of index type would follow that of the file.
    index_type = np.int32 if max(len(data), *shape) <= _LARGEST else np.int64
    matrix = sparse.csr_array(
        (data.astype(dtype), indices.astype(index_type), indptr.astype(index_type)), shape=shape
    )
    matrix.sort_indices()
    _refuse_repeated(name, matrix)
    n_zeros = len(data) - int(np.count_nonzero(data))
    if n_zeros:
        matrix.eliminate_zeros()
    return matrix, value_notes(name, n_zeros, n_non_integer)


def value_notes(name: str, n_zeros: int, n_non_integer: int) -> tuple[Note, ...]:
    """Say what there is to say of the values of a matrix.

    Parameters
    ----------
    name : str
        Name of the file.
    n_zeros : int
        How many zeros it stores.
    n_non_integer : int
        How many values are no integers.

    Returns
    -------
    tuple of Note
        ``counts.explicit-zeros`` and ``counts.non-integer``, where there are any.

    Examples
    --------
    >>> [note.message for note in value_notes("m.h5", 0, 2)]
    ['2 values are no integers: stored as float32, not as counts.']
    """
    notes = []
    if n_zeros:
        zeros = counted(
            n_zeros,
            f"zero that {name} stores was dropped: it says",
            f"zeros that {name} stores were dropped: they say",
        )
        message = f"{zeros} what absence says."
        notes.append(Note(code="counts.explicit-zeros", message=message, count=n_zeros))
    if n_non_integer:
        values = counted(n_non_integer, "value is no integer", "values are no integers")
        message = f"{values}: stored as float32, not as counts."
        notes.append(Note(code="counts.non-integer", message=message, count=n_non_integer))
    return tuple(notes)


def _check_structure(
    name: str,
    data: NDArray[Any],
    indices: NDArray[np.integer[Any]],
    indptr: NDArray[np.integer[Any]],
    shape: tuple[int, int],
) -> None:
    n_rows, n_columns = shape
    problem = None
    if len(data) != len(indices):
        problem = ("every value needs a feature", f"{len(data)} values, {len(indices)} indices")
    elif len(indptr) != n_rows + 1:
        problem = (f"indptr needs {n_rows + 1} entries", str(len(indptr)))
    elif indptr[0] != 0 or indptr[-1] != len(data) or (indptr[1:] < indptr[:-1]).any():
        problem = (
            f"indptr must ascend from 0 to the number of values, {len(data)}",
            f"{indptr.min()} to {indptr.max()}, ending in {indptr[-1]}",
        )
    elif len(indices) and (indices.min() < 0 or indices.max() >= n_columns):
        problem = (
            f"indices must be those of {n_columns} features",
            f"{indices.min()} to {indices.max()}",
        )
    if problem:
        raise CountsError(Problem("counts.structure", name, *problem))


def value_type(name: str, data: NDArray[Any]) -> tuple[type[np.int32 | np.float32], int]:
    """Return the type that holds values, and how many are no integers; CountsError if none does."""
    if not len(data):
        return np.int32, 0
    n_non_integer = 0
    if data.dtype.kind == "f":
        if not np.isfinite(data).all():
            raise CountsError(
                Problem("counts.not-finite", name, "a count must be finite", "NaN or infinity")
            )
        n_non_integer = int(np.count_nonzero(data != np.floor(data)))
    low, high = data.min(), data.max()
    largest = float(np.finfo(np.float32).max) if n_non_integer else _LARGEST
    if low < 0:
        raise CountsError(
            Problem("counts.negative", name, "a count must not be negative", f"{low:.12g}")
        )
    if high > largest:
        raise CountsError(
            Problem("counts.overflow", name, f"a value must be at most {largest}", f"{high:.12g}")
        )
    return (np.float32 if n_non_integer else np.int32), n_non_integer


def _refuse_repeated(name: str, matrix: sparse.csr_array) -> None:
    is_same = np.zeros(len(matrix.indices), dtype=np.bool_)
    is_same[1:] = matrix.indices[1:] == matrix.indices[:-1]
    starts = matrix.indptr[:-1]
    # The first entry of a row follows one of another row.
    is_same[starts[starts < len(is_same)]] = False
    if is_same.any():
        entry = int(np.argmax(is_same))
        row = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
        raise CountsError(
            Problem(
                "counts.repeated-entries",
                f"{name}, barcode {row + 1}",
                "a feature must have one value",
                f"feature {int(matrix.indices[entry]) + 1} more than once",
            )
        )

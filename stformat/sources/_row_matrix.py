"""A count matrix of millions of rows, read in blocks: HDF5 as it lies on disk, text once parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Note
from stformat.row_order import stop_of_batch
from stformat.sources._counts_10x import (
    Features,
    check_packed_rows,
    clean_counts,
    value_notes,
    value_type,
)
from stformat.sources._counts_h5 import (
    DAMAGE,
    data_set_of,
    is_counts_h5,
    matrix_groups,
    matrix_shape,
    numbers_of,
    opened_h5,
    read_counts_h5,
    read_features,
)
from stformat.sources._counts_mtx import MtxFiles
from stformat.sources._packed_text import pack_texts, packed_blocks
from stformat.sources._rows import counts_of
from stformat.sources._spilled_mtx import spill_counts_mtx

__all__ = ["RowMatrix", "open_rows"]

BLOCK_NNZ = 1 << 20
"""Stored values read at a time, or as many as a chunk of the file has."""

MAX_CHUNK_BYTES = 1 << 28
"""Largest chunk that is decoded: a block needs all of the chunks that it touches."""

_CACHE_BYTES = 1 << 24
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMatrix:
    """A count matrix, of which barcodes and features are in memory."""

    barcodes: NDArray[np.bytes_]
    """(n_rows,) names of the rows, unique."""

    features: Features
    """Columns."""

    dtype: np.dtype[np.int32] | np.dtype[np.float32]
    """int32, or float32 where a value is no integer."""

    nnz: int
    """Stored values, at most."""

    iter_blocks: Callable[[], Iterator[sparse.csr_array]]
    """Yields blocks of whole rows in the order of the file, in canonical form, without zeros."""

    notes: tuple[Note, ...] = ()
    """What a user of the counts should know."""


def open_rows(source: Path | MtxFiles, *, scratch: Path | None) -> RowMatrix:
    """Open a count matrix to read it row by row.

    Parameters
    ----------
    source : pathlib.Path or MtxFiles
        HDF5 file or Matrix Market folder.
    scratch : pathlib.Path or None
        Directory of temporary files, of a Matrix Market matrix larger than its budget of memory;
        None is the system's own.

    Returns
    -------
    RowMatrix
        HDF5 with the group ``matrix`` of Space Ranger is read in blocks whenever they are asked
        for; Matrix Market text is parsed once; HDF5 of before Space Ranger is held in memory.

    Raises
    ------
    CountsError
        If the matrix is not what it must be. What concerns single rows is raised by the iteration.
    StoreWriteError
        If the scratch directory cannot hold the matrix.

    Notes
    -----
    Memory: the barcodes; while blocks are read 8 bytes a row, and one chunk of the file or a
    million values. Values are read once here, for their type, and once by each iteration.
    """
    if not isinstance(source, Path):
        spilled = spill_counts_mtx(source, scratch=scratch)
        return RowMatrix(
            barcodes=spilled.barcodes,
            features=spilled.features,
            dtype=spilled.dtype,
            nnz=spilled.nnz,
            iter_blocks=spilled.iter_blocks,
            notes=spilled.notes,
        )
    return _open_h5(source) if _is_one_matrix(source) else _read_h5(source)


def _is_one_matrix(path: Path) -> bool:
    if not is_counts_h5(path):
        return False
    with opened_h5(path) as file:
        groups = matrix_groups(file)
        return len(groups) == 1 and "features" in file[groups[0]]


def _read_h5(path: Path) -> RowMatrix:
    counts = read_counts_h5(path)
    held = counts_of(counts.matrix)
    return RowMatrix(
        barcodes=pack_texts(counts.barcodes),
        features=counts.features,
        dtype=held.dtype,
        nnz=int(counts.matrix.nnz),
        iter_blocks=held.iter_blocks,
        notes=counts.notes,
    )


def _open_h5(path: Path) -> RowMatrix:
    try:
        with opened_h5(path, cache_bytes=_CACHE_BYTES) as file:
            (name,) = matrix_groups(file)
            group = file[name]
            where = f"{path.name}, {name}"
            n_features, n_rows = matrix_shape(where, group)
            barcodes = _barcodes(where, group, n_rows)
            features = read_features(where, group, n_features)
            indptr = _indptr(where, group, n_rows)
            nnz = int(indptr[-1])
            dtype, notes = _scan_values(path.name, where, group, nnz)
    except CountsError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error
    del indptr
    shape = (n_rows, n_features)

    def blocks() -> Iterator[sparse.csr_array]:
        try:
            with opened_h5(path, cache_bytes=_CACHE_BYTES) as file:
                yield from _read_blocks(where, file[name], shape, dtype)
        except CountsError:
            raise
        except DAMAGE as error:
            raise _damaged(path, error) from error

    return RowMatrix(
        barcodes=barcodes,
        features=features,
        dtype=dtype,
        nnz=nnz,
        iter_blocks=blocks,
        notes=notes,
    )


def _damaged(path: Path, error: Exception) -> CountsError:
    return CountsError(
        Problem(
            "counts.damaged",
            path.name,
            "the file must be whole HDF5",
            str(error) or type(error).__name__,
            "copy the file again from its source",
        )
    )


def _barcodes(where: str, group: h5py.Group, n_rows: int) -> NDArray[np.bytes_]:
    data_set = data_set_of(where, group, "barcodes", n_rows)
    where = f"{where}/barcodes"
    if h5py.check_string_dtype(data_set.dtype) is None:
        raise CountsError(
            Problem("counts.structure", where, "texts are needed", str(data_set.dtype))
        )
    blocks = (data_set[start : start + _BLOCK_ROWS] for start in range(0, n_rows, _BLOCK_ROWS))
    barcodes = packed_blocks(where, blocks, topic="counts", error=CountsError)
    check_packed_rows(where, barcodes)
    return barcodes


def _indptr(where: str, group: h5py.Group, n_rows: int) -> NDArray[np.int64]:
    indptr = numbers_of(where, group, "indptr", kinds="iu", size=n_rows + 1).astype(np.int64)
    nnz = len(data_set_of(where, group, "data", None))
    if indptr[0] != 0 or indptr[-1] != nnz or (indptr[1:] < indptr[:-1]).any():
        raise CountsError(
            Problem(
                "counts.structure",
                where,
                f"indptr must ascend from 0 to the number of values, {nnz}",
                f"{indptr.min()} to {indptr.max()}, ending in {indptr[-1]}",
            )
        )
    data_set_of(where, group, "indices", nnz)
    return indptr


def _values(where: str, group: h5py.Group, part: str, kinds: str) -> tuple[h5py.Dataset, int]:
    """Return a data set of numbers and how many of them are read at once."""
    data_set = data_set_of(where, group, part, None)
    if data_set.dtype.kind not in kinds:
        raise CountsError(
            Problem(
                "counts.structure",
                f"{where}/{part}",
                "numbers are needed" if "f" in kinds else "integers are needed",
                str(data_set.dtype),
            )
        )
    chunk = min(len(data_set), data_set.chunks[0]) if data_set.chunks else 1
    if chunk * data_set.dtype.itemsize > MAX_CHUNK_BYTES:
        raise CountsError(
            Problem(
                "counts.h5-chunk",
                f"{where}/{part}",
                f"values must be stored in chunks of at most {MAX_CHUNK_BYTES} bytes",
                f"{chunk} values of {data_set.dtype} in one",
                "rewrite the file with h5repack -l CHUNK=65536",
            )
        )
    return data_set, max(BLOCK_NNZ, chunk)


def _scan_values(
    name: str, where: str, group: h5py.Group, nnz: int
) -> tuple[np.dtype[np.int32] | np.dtype[np.float32], tuple[Note, ...]]:
    """Type that holds every value, and what there is to say of them."""
    data_set, step = _values(where, group, "data", "iuf")
    n_zeros = n_non_integer = 0
    for start in range(0, nnz, step):
        block = data_set[start : start + step]
        n_non_integer += value_type(where, block)[1]
        n_zeros += len(block) - int(np.count_nonzero(block))
    dtype = np.dtype(np.float32) if n_non_integer else np.dtype(np.int32)
    return dtype, value_notes(name, n_zeros, n_non_integer)


def _read_blocks(
    where: str, group: h5py.Group, shape: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[sparse.csr_array]:
    n_rows, n_features = shape
    indptr = _indptr(where, group, n_rows)
    data, step = _values(where, group, "data", "iuf")
    indices, index_step = _values(where, group, "indices", "iu")
    start = 0
    while start < n_rows:
        stop = stop_of_batch(indptr, start, max(step, index_step))
        stop = min(stop, start + _BLOCK_ROWS)
        values = slice(indptr[start], indptr[stop])
        block, _ = clean_counts(
            f"{where}, barcodes {start + 1} to {stop}",
            data[values],
            indices[values],
            indptr[start : stop + 1] - indptr[start],
            shape=(stop - start, n_features),
        )
        yield block if block.dtype == dtype else block.astype(dtype)
        start = stop

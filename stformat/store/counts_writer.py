"""A count matrix written twice: by row for spots, by column for genes.

Specification: spec/stformat-0.1.md, "Counts", and the sparse encodings of AnnData,
https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.kernels import row_sums
from stformat.metadata.anndata_zarr import sparse_attributes
from stformat.model import Counts, Progress, ProgressEvent, silent
from stformat.store.nodes import write_group
from stformat.store.vector_writer import VectorWriter, write_vector

__all__ = ["CountsSummary", "ordered_blocks", "write_counts"]

_BLOCK_NNZ = 1 << 22
_BAND_NNZ = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsSummary:
    """What is known of a matrix once it has been written."""

    nnz: int
    """Stored values."""

    total_counts: NDArray[np.int64] | NDArray[np.float64]
    """(n_obs,) sum of each row, in the order of the store."""

    n_genes: NDArray[np.int64]
    """(n_obs,) stored values of each row, in the order of the store."""

    @property
    def total(self) -> float:
        """Sum of all values."""
        return float(self.total_counts.sum())


def write_counts(
    by_row: Path,
    by_gene: Path,
    counts: Counts,
    order: NDArray[np.int64],
    *,
    progress: Progress = silent,
) -> CountsSummary:
    """Write a count matrix as CSR and, in the same pass, its gene-major copy as CSC.

    Parameters
    ----------
    by_row : pathlib.Path
        Folder of the CSR group: ``data`` of the type of `counts`, ``indices`` int32, ``indptr``
        int64.
    by_gene : pathlib.Path
        Folder of the CSC group: ``data`` of the smallest unsigned type that holds the largest
        count (float32 where counts are), ``indices`` int32 ascending in a gene, ``indptr`` int64.
    counts : Counts
        The matrix, rows in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.
    progress : Progress
        Told of source rows read (``"counts"``), stored rows written (``"matrix"``) and genes
        written (``"by-gene"``).

    Returns
    -------
    CountsSummary
        Sums of the rows.

    Raises
    ------
    CountsError
        If the blocks of `counts` break its promises.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Memory: see `ordered_blocks`, and about 6 bytes a stored value for the gene-major copy.
    """
    n_obs, n_vars = counts.shape
    gene_major = _GeneMajor(n_vars)
    totals: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.int64]] = []
    done = 0
    with ExitStack() as stack:
        data = stack.enter_context(closing(VectorWriter(by_row / "data", counts.dtype)))
        indices = stack.enter_context(closing(VectorWriter(by_row / "indices", np.dtype(np.int32))))
        blocks = ordered_blocks(counts, order, progress=progress)
        progress(ProgressEvent(step="matrix", done=0, total=n_obs, unit="rows"))
        for block in blocks:
            data.append(block.data)
            indices.append(block.indices.astype(np.int32, copy=False))
            gene_major.append(block)
            totals.append(row_sums(block.data, block.indptr))
            lengths.append(np.diff(block.indptr).astype(np.int64))
            done += block.shape[0]
            progress(ProgressEvent(step="matrix", done=done, total=n_obs, unit="rows"))
        data.finish()
        indices.finish()
    n_genes = np.concatenate([np.zeros(0, np.int64), *lengths])
    write_vector(by_row / "indptr", _indptr(n_genes))
    write_group(by_row, sparse_attributes("csr_matrix", counts.shape))
    gene_major.write(by_gene, counts, progress=progress)
    total_counts = np.concatenate([np.zeros(0), *totals])
    return CountsSummary(
        nnz=int(n_genes.sum()),
        total_counts=total_counts.astype(np.int64) if counts.dtype.kind == "i" else total_counts,
        n_genes=n_genes,
    )


def ordered_blocks(
    counts: Counts, order: NDArray[np.int64], *, progress: Progress = silent
) -> Iterator[sparse.csr_array]:
    """Read a matrix and give its rows in another order.

    Parameters
    ----------
    counts : Counts
        The matrix, rows in the order of the source.
    order : (n_obs,) ndarray of int64
        A permutation: source row of each row that is given.
    progress : Progress
        Told of every block of the source, as step ``"counts"``.

    Returns
    -------
    iterator of csr_array
        Blocks of whole rows with at most about 4 million stored values each, or of one row.

    Raises
    ------
    CountsError
        If the blocks of `counts` break its promises, or their rows do not add up.

    Notes
    -----
    The matrix is held in memory until the last block: 8 bytes a stored value, 12 for a moment
    while it is put together. Nothing else of this module relies on that.
    """
    return _gather_rows(*_load(counts, progress), order, counts.shape[1])


def _gather_rows(
    data: NDArray[Any],
    indices: NDArray[np.int32],
    indptr: NDArray[np.int64],
    order: NDArray[np.int64],
    n_vars: int,
) -> Iterator[sparse.csr_array]:
    lengths = np.diff(indptr)[order]
    target = _indptr(lengths)
    start = 0
    while start < len(order):
        stop = _stop_of_batch(target, start, _BLOCK_NNZ)
        local = target[start : stop + 1] - target[start]
        take = np.repeat(indptr[order[start:stop]] - local[:-1], lengths[start:stop])
        take += np.arange(len(take))
        yield sparse.csr_array((data[take], indices[take], local), shape=(stop - start, n_vars))
        start = stop


def _stop_of_batch(indptr: NDArray[np.int64], start: int, max_nnz: int) -> int:
    """End of the longest run of rows (or columns) from `start` that holds `max_nnz` values."""
    return max(start + 1, int(np.searchsorted(indptr, indptr[start] + max_nnz, side="right")) - 1)


def _load(
    counts: Counts, progress: Progress
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]]:
    """All blocks as the three arrays of one CSR matrix."""
    n_obs, _ = counts.shape
    values: list[NDArray[Any]] = [np.zeros(0, counts.dtype)]
    columns: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    lengths: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    done = 0
    progress(ProgressEvent(step="counts", done=0, total=n_obs, unit="rows"))
    for block in counts.iter_blocks():
        _check_block(block, counts, first_row=done)
        values.append(block.data)
        columns.append(block.indices.astype(np.int32, copy=False))
        lengths.append(np.diff(block.indptr).astype(np.int64))
        done += block.shape[0]
        progress(ProgressEvent(step="counts", done=done, total=n_obs, unit="rows"))
    if done != n_obs:
        raise _counts_error("counts.rows", f"blocks must add up to {n_obs} rows", str(done))
    data = np.concatenate(values)
    values.clear()
    return data, np.concatenate(columns), _indptr(np.concatenate(lengths))


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


def _counts_error(code: str, expected: str, found: str) -> CountsError:
    return CountsError(Problem(code, "counts", expected, found))


def _indptr(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr


class _GeneMajor:
    """Row blocks in, one CSC matrix out: each block is transposed at once and kept narrow."""

    def __init__(self, n_vars: int) -> None:
        self._n_rows = 0
        self._largest = 0
        self._lengths = np.zeros(n_vars, dtype=np.int64)
        self._pieces: list[tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]]] = []

    def append(self, block: sparse.csr_array) -> None:
        """Add the rows of a block below those so far."""
        piece = block.tocsc()
        data = piece.data
        if data.dtype.kind == "i":
            largest = int(data.max(initial=0))
            self._largest = max(self._largest, largest)
            data = data.astype(np.min_scalar_type(largest))
        rows = (piece.indices.astype(np.int64) + self._n_rows).astype(np.int32)
        indptr = piece.indptr.astype(np.int64)
        self._pieces.append((data, rows, indptr))
        self._lengths += np.diff(indptr)
        self._n_rows += block.shape[0]

    def write(self, directory: Path, counts: Counts, *, progress: Progress) -> None:
        """Write the group, one band of genes after another."""
        is_integer = counts.dtype.kind == "i"
        dtype = np.min_scalar_type(self._largest) if is_integer else counts.dtype
        n_vars = len(self._lengths)
        indptr = _indptr(self._lengths)
        with ExitStack() as stack:
            data = stack.enter_context(closing(VectorWriter(directory / "data", dtype)))
            indices = stack.enter_context(
                closing(VectorWriter(directory / "indices", np.dtype(np.int32)))
            )
            progress(ProgressEvent(step="by-gene", done=0, total=n_vars, unit="genes"))
            start = 0
            while start < n_vars:
                stop = _stop_of_batch(indptr, start, _BAND_NNZ)
                values, rows = self._band(start, stop, dtype)
                data.append(values)
                indices.append(rows)
                start = stop
                progress(ProgressEvent(step="by-gene", done=start, total=n_vars, unit="genes"))
            data.finish()
            indices.finish()
        write_vector(directory / "indptr", indptr)
        write_group(directory, sparse_attributes("csc_matrix", counts.shape))

    def _band(
        self, start: int, stop: int, dtype: np.dtype[Any]
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Values and rows of the genes from `start` to `stop`, rows ascending in each gene."""
        place = _indptr(self._lengths[start:stop])
        values = np.empty(place[-1], dtype=dtype)
        rows = np.empty(place[-1], dtype=np.int32)
        for piece_data, piece_rows, piece_indptr in self._pieces:
            bounds = piece_indptr[start : stop + 1]
            lengths = np.diff(bounds)
            to = np.repeat(place[:-1] - (bounds[:-1] - bounds[0]), lengths)
            to += np.arange(len(to))
            values[to] = piece_data[bounds[0] : bounds[-1]]
            rows[to] = piece_rows[bounds[0] : bounds[-1]]
            place[:-1] += lengths
        return values, rows

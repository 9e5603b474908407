"""A count matrix written twice: by row for spots, by column for genes.

Specification: spec/stformat-0.1.md, "Counts", and the sparse encodings of AnnData,
https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.kernels import row_sums
from stformat.metadata.anndata_zarr import sparse_attributes
from stformat.model import Counts, Progress, ProgressEvent, silent
from stformat.row_order import BYTES_PER_VALUE, ordered_blocks, row_starts, stop_of_batch
from stformat.spill import Spill
from stformat.store import layout
from stformat.store.nodes import write_group
from stformat.store.vector_writer import COUNTS_CODEC, VectorWriter, write_vector

__all__ = ["CountsSummary", "write_counts"]

_BAND_NNZ = 1 << 22
_GENE_MAJOR_BYTES = 8  # at most, of a stored value with its row

type _Piece = tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]
"""Values, rows, and where each gene begins, of one block of rows."""


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
    spill: Spill,
    *,
    progress: Progress = silent,
) -> CountsSummary:
    """Write a count matrix as CSR and, in the same pass, its gene-major copy as CSC.

    Parameters
    ----------
    by_row : pathlib.Path
        Folder of the CSR group: ``data`` of the type of `counts`, ``indices`` and ``indptr`` int32,
        or int64 where there are more values than that can count.
    by_gene : pathlib.Path
        Folder of the CSC group: ``data`` of the smallest unsigned type that holds the largest
        count (float32 where counts are), ``indices`` ascending in a gene, types as above.
    counts : Counts
        The matrix, rows in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.
    spill : Spill
        Room for what is not yet in order.
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
        If the file system refuses, or says beforehand that it has no room for what `spill` does
        not hold in memory: up to 16 bytes a stored value.

    Notes
    -----
    Memory: that of `stformat.row_order.ordered_blocks`; the gene-major copy shares the budget of
    `spill` with 5 to 8 bytes a stored value. Sums are 16 bytes a row.
    """
    n_obs, n_vars = counts.shape
    if counts.nnz is not None:
        spill.expect(counts.nnz * (BYTES_PER_VALUE + _GENE_MAJOR_BYTES))
    gene_major = _GeneMajor(n_vars, spill)
    totals: NDArray[np.int64] | NDArray[np.float64] = (
        np.zeros(n_obs, np.int64) if counts.dtype.kind == "i" else np.zeros(n_obs, np.float64)
    )
    n_genes = np.zeros(n_obs, dtype=np.int64)
    index_type = layout.index_type(counts.nnz or 0)
    done = 0
    with ExitStack() as stack:
        data = stack.enter_context(closing(_writer(by_row / "data", counts.dtype)))
        indices = stack.enter_context(closing(_writer(by_row / "indices", index_type)))
        blocks = ordered_blocks(counts, order, spill, progress=progress)
        progress(ProgressEvent(step="matrix", done=0, total=n_obs, unit="rows"))
        for block in blocks:
            data.append(block.data)
            indices.append(block.indices.astype(index_type, copy=False))
            gene_major.append(block)
            rows = slice(done, done + block.shape[0])
            totals[rows] = row_sums(block.data, block.indptr)
            n_genes[rows] = np.diff(block.indptr)
            done += block.shape[0]
            progress(ProgressEvent(step="matrix", done=done, total=n_obs, unit="rows"))
        data.finish()
        indices.finish()
    write_vector(by_row / "indptr", _narrow(row_starts(n_genes)))
    write_group(by_row, sparse_attributes("csr_matrix", counts.shape))
    gene_major.write(by_gene, counts, progress=progress)
    return CountsSummary(nnz=int(n_genes.sum()), total_counts=totals, n_genes=n_genes)


def _writer(directory: Path, dtype: np.dtype[Any]) -> VectorWriter:
    return VectorWriter(directory, dtype, codec=COUNTS_CODEC)


def _narrow(indptr: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    return indptr.astype(layout.index_type(int(indptr[-1])), copy=False)


class _GeneMajor:
    """Row blocks in, one CSC matrix out: each block is transposed at once and kept narrow."""

    def __init__(self, n_vars: int, spill: Spill) -> None:
        self._n_rows = 0
        self._largest = 0
        self._lengths = np.zeros(n_vars, dtype=np.int64)
        self._values = spill.pile()
        self._rows = spill.pile()
        self._starts: list[NDArray[np.int32]] = []

    def append(self, block: sparse.csr_array) -> None:
        """Add the rows of a block below those so far."""
        piece = block.tocsc()
        data = piece.data
        if data.dtype.kind == "i":
            largest = int(data.max(initial=0))
            self._largest = max(self._largest, largest)
            data = data.astype(np.min_scalar_type(largest))
        self._values.append(data)
        self._rows.append((piece.indices.astype(np.int64) + self._n_rows).astype(np.int32))
        self._starts.append(piece.indptr.astype(np.int32))
        self._lengths += np.diff(piece.indptr)
        self._n_rows += block.shape[0]

    def write(self, directory: Path, counts: Counts, *, progress: Progress) -> None:
        """Write the group, one band of genes after another."""
        is_integer = counts.dtype.kind == "i"
        dtype = np.min_scalar_type(self._largest) if is_integer else counts.dtype
        n_vars = len(self._lengths)
        indptr = row_starts(self._lengths)
        pieces = list(zip(self._values.pieces(), self._rows.pieces(), self._starts, strict=True))
        with ExitStack() as stack:
            data = stack.enter_context(closing(_writer(directory / "data", dtype)))
            indices = stack.enter_context(
                closing(_writer(directory / "indices", layout.index_type(int(indptr[-1]))))
            )
            progress(ProgressEvent(step="by-gene", done=0, total=n_vars, unit="genes"))
            start = 0
            while start < n_vars:
                stop = stop_of_batch(indptr, start, _BAND_NNZ)
                values, rows = self._band(pieces, start, stop, dtype)
                data.append(values)
                indices.append(rows)
                start = stop
                progress(ProgressEvent(step="by-gene", done=start, total=n_vars, unit="genes"))
            data.finish()
            indices.finish()
        write_vector(directory / "indptr", _narrow(indptr))
        write_group(directory, sparse_attributes("csc_matrix", counts.shape))

    def _band(
        self, pieces: list[_Piece], start: int, stop: int, dtype: np.dtype[Any]
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Values and rows of the genes from `start` to `stop`, rows ascending in each gene."""
        place = row_starts(self._lengths[start:stop])
        values = np.empty(place[-1], dtype=dtype)
        rows = np.empty(place[-1], dtype=np.int32)
        for piece_data, piece_rows, piece_indptr in pieces:
            bounds = piece_indptr[start : stop + 1].astype(np.int64)
            lengths = np.diff(bounds)
            to = np.repeat(place[:-1] - (bounds[:-1] - bounds[0]), lengths)
            to += np.arange(len(to))
            values[to] = piece_data[bounds[0] : bounds[-1]]
            rows[to] = piece_rows[bounds[0] : bounds[-1]]
            place[:-1] += lengths
        return values, rows

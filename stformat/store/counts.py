"""Counts of a table: rows from the CSR matrix, genes from its gene-major copy.

Specification: spec/stformat-0.1.md, "Counts".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem
from stformat.genes.lookup import GeneIndex
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.layout import by_gene_path
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import map_visits
from stformat.store.row_index import RowIndex, row_positions

if TYPE_CHECKING:
    # scipy.sparse takes longer to import than a slide to open.
    from scipy import sparse

__all__ = ["CompressedReader", "CountsReader"]

type NewArray = Callable[[int], NDArray[Any]]
"""Returns an array of so many elements, of any content."""

# Rows at random come back too seldom to be worth new memory, which costs a third of a request.
_KEPT_BYTES = 2**23

_MOST_KEPT_OFFSETS = 2**20
"""Offsets of longer matrices are read where they are needed: a loader has many slides open."""


class CompressedReader:
    """Reads slices along the major axis of a compressed sparse matrix; safe for threads.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Group of ``data``, ``indices`` and ``indptr``.
    n_major, n_minor : int
        Length of the axis that ``indptr`` runs along, and of the other one.
    cache : ChunkCache
        Shared with the other arrays of the slide.
    """

    def __init__(
        self, store: CommittedStore, path: str, *, n_major: int, n_minor: int, cache: ChunkCache
    ) -> None:
        self._path = path
        self._costs = store.files.costs
        self._n_major = n_major
        self._n_minor = n_minor
        self._data, self._indices = (
            ArrayReader(store, f"{path}/{name}", cache=cache, kept_bytes=_KEPT_BYTES)
            for name in ("data", "indices")
        )
        self._keeps_offsets = n_major <= _MOST_KEPT_OFFSETS
        # Read once and kept: its chunks need not be.
        self._indptr_reader = ArrayReader(store, f"{path}/indptr")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self._data.dtype

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """Type of the stored indices."""
        return self._indices.dtype

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """Where each slice begins: ``n_major + 1`` int64, loaded on first use and kept.

        Raises
        ------
        CorruptStoreError
            If it does not rise from 0 to the number of stored values.
        """
        self._check_lengths()
        indptr = self._indptr_reader.read_1d(0, self._n_major + 1).astype(np.int64, copy=False)
        nnz = self._data.shape[0]
        if indptr[0] != 0 or indptr[-1] != nnz or (np.diff(indptr) < 0).any():
            raise self._corrupt(
                f"indptr must rise from 0 to {nnz}", f"{indptr[0]} to {indptr[-1]}, or a fall"
            )
        indptr.flags.writeable = False
        return indptr

    def spans(self, slices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where slices begin and end among the stored values.

        Up to 2**20 offsets of a matrix are loaded on first use and kept. Of one that has more,
        those of the slices are read each time.

        Raises
        ------
        CorruptStoreError
            If they are no spans of the stored values.
        """
        if self._keeps_offsets:
            return self.indptr[slices], self.indptr[slices + 1]
        self._check_lengths()
        starts, stops = np.split(
            self._indptr_reader.take_1d(np.concatenate([slices, slices + 1])).astype(np.int64), 2
        )
        nnz = self._data.shape[0]
        if ((starts < 0) | (starts > stops) | (stops > nnz)).any():
            raise self._corrupt(f"indptr must rise from 0 to {nnz}", "offsets that do not")
        return starts, stops

    def read(
        self, slices: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.integer], NDArray[np.integer]]:
        """Read slices, each chunk that they touch once.

        Parameters
        ----------
        slices : (m,) ndarray of int64
            Positions along the major axis, in any order, with or without repetition.

        Returns
        -------
        data, indices : (nnz,) ndarray
            Values and their positions along the minor axis, slice after slice.
        indptr : (m + 1,) ndarray of int32 or int64
            Where each slice begins; of the type of `indices`, as SciPy wants them.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged, or an index lies outside the matrix.
        """
        data, indices, lengths = self.read_into(slices, (None, None))
        index_type = np.int32 if len(data) <= np.iinfo(np.int32).max else np.int64
        indptr: NDArray[np.integer] = np.append(0, np.cumsum(lengths)).astype(index_type)
        return data, indices.astype(index_type, copy=False), indptr

    def read_into(
        self, slices: NDArray[np.int64], empty: tuple[NewArray | None, NewArray | None]
    ) -> tuple[NDArray[Any], NDArray[np.integer], NDArray[np.int64]]:
        """Read slices as `read` does, to arrays that the caller makes.

        Parameters
        ----------
        slices : (m,) ndarray of int64
            Positions along the major axis.
        empty : pair of callable or None
            For values and for indices, returns the array that is read to, of so many elements of
            type `dtype` or `index_dtype`, or of one that holds their values; None for new memory.

        Returns
        -------
        data, indices : (nnz,) ndarray
            What `empty` returned, filled.
        lengths : (m,) ndarray of int64
            Number of values of each slice.

        Raises
        ------
        CorruptStoreError
            As `read` does.
        """
        starts, stops = self.spans(slices)
        data, indices = map_visits(
            lambda part: part[0].read_1d_ranges(starts, stops, empty=part[1]),
            list(zip((self._data, self._indices), empty, strict=True)),
            self._costs,
        )
        # What is negative is, without its sign, larger than any index: one pass instead of two.
        unsigned = indices.view(f"u{indices.itemsize}")
        if len(indices) and unsigned.max() >= self._n_minor:
            raise self._corrupt(
                f"indices must be from 0 to {self._n_minor - 1}",
                f"{indices.min()} to {indices.max()}",
            )
        return data, indices, stops - starts

    def _check_lengths(self) -> None:
        shape = self._indptr_reader.shape
        if shape != (self._n_major + 1,) or self._data.shape != self._indices.shape:
            raise self._corrupt(
                f"{self._n_major} slices of as many values as indices",
                f"indptr {shape}, data {self._data.shape}, indices {self._indices.shape}",
            )

    def _corrupt(self, expected: str, found: str) -> CorruptStoreError:
        return CorruptStoreError(Problem("counts.matrix", self._path, expected, found))


class CountsReader:
    """The count matrix of one table, read by rows or by genes; never as a whole unless asked.

    ``counts[rows]`` reads rows. Of up to 2**20 rows, where they begin is loaded on first use and
    kept: 8 bytes a row; of more it is read when it is needed. The gene-major copy keeps 8 bytes a
    gene.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    table : TableAttributes
        The table.
    cache : ChunkCache
        Shared with the other arrays of the slide.
    gene_index : callable
        Returns the genes of the table; called on first use of a gene.
    """

    def __init__(
        self,
        store: CommittedStore,
        table: TableAttributes,
        *,
        cache: ChunkCache,
        gene_index: Callable[[], GeneIndex],
    ) -> None:
        self._table = table
        self._gene_index = gene_index
        self._by_row = CompressedReader(
            store,
            f"tables/{table.name}/X",
            n_major=table.n_obs,
            n_minor=table.n_vars,
            cache=cache,
        )
        self._by_gene = CompressedReader(
            store,
            by_gene_path(table.name),
            n_major=table.n_vars,
            n_minor=table.n_obs,
            cache=cache,
        )

    def __repr__(self) -> str:
        n_obs, n_vars = self.shape
        return f"<Counts {self._table.name}: {n_obs} x {n_vars} {self.dtype}, {self.nnz} stored>"

    @property
    def table(self) -> str:
        """Name of the table."""
        return self._table.name

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_obs, n_vars)``."""
        return self._table.n_obs, self._table.n_vars

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values: int32, or float32 where the source has values that are no counts."""
        return self._by_row.dtype

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """Type in which columns are stored."""
        return self._by_row.index_dtype

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return self._table.nnz

    @property
    def indptr(self) -> NDArray[np.int64]:
        """(n_obs + 1,) where each row begins among the stored values; loaded on first use, kept."""
        return self._by_row.indptr

    def __getitem__(self, rows: RowIndex) -> sparse.csr_array:
        from scipy import sparse  # noqa: PLC0415 - see the module's imports

        positions = row_positions(rows, self._table.n_obs)
        data, indices, indptr = self._by_row.read(positions)
        return sparse.csr_array((data, indices, indptr), shape=(len(positions), self.shape[1]))

    def read_rows(
        self, rows: NDArray[np.int64], empty: tuple[NewArray, NewArray]
    ) -> NDArray[np.int64]:
        """Read rows to arrays that the caller makes.

        Parameters
        ----------
        rows : (m,) ndarray of int64
            Rows, in any order.
        empty : pair of callable
            For values and for columns, returns the array that is read to, of so many elements of
            type `dtype` or `index_dtype`, or of one that holds their values.

        Returns
        -------
        (m,) ndarray of int64
            Number of values of each row; they follow one another in the arrays.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged, or a column lies outside the matrix.
        """
        return self._by_row.read_into(rows, empty)[2]

    def genes(self, genes: Iterable[str]) -> sparse.csc_array:
        """Read all rows of some genes, from the gene-major copy.

        Parameters
        ----------
        genes : iterable of str
            Keys, identifiers or names.

        Returns
        -------
        (n_obs, k) csc_array
            One column a gene, in the order of `genes`, of type `dtype`.

        Raises
        ------
        GeneLookupError
            If a name means several genes, or none.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        return self.columns(self._gene_index().resolve(genes))

    def columns(self, columns: NDArray[np.int64]) -> sparse.csc_array:
        """Read all rows of some columns, by position; as `genes` does."""
        from scipy import sparse  # noqa: PLC0415 - see the module's imports

        data, indices, indptr = self._by_gene.read(columns)
        # The copy holds the narrowest type, in which sums and differences would wrap around.
        values = data.astype(self.dtype, copy=False)
        return sparse.csc_array((values, indices, indptr), shape=(self.shape[0], len(columns)))

    def n_stored_of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many values each of some rows holds."""
        return _lengths(self._by_row, rows)

    def n_stored_in_rows(self, rows: NDArray[np.int64]) -> int:
        """Return how many values some rows hold."""
        return int(_lengths(self._by_row, rows).sum())

    def n_stored_in_columns(self, columns: NDArray[np.int64]) -> int:
        """Return how many values some columns hold."""
        return int(_lengths(self._by_gene, columns).sum())


def _lengths(matrix: CompressedReader, slices: NDArray[np.int64]) -> NDArray[np.int64]:
    starts, stops = matrix.spans(slices)
    return stops - starts

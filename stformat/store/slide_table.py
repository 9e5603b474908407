"""One table of an open slide: rows, genes, places and counts, each loaded on first use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.errors import BarcodeLookupError, CorruptStoreError, Problem
from stformat.genes.lookup import GeneIndex
from stformat.genes.names import GeneNames
from stformat.kernels._arguments import result
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.counts import CountsReader
from stformat.store.layout import spots_path
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import map_visits
from stformat.store.row_index import RowIndex, row_positions
from stformat.store.text_column import read_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SlideTable"]

_N_SHOWN = 5
_ALL_ROWS = slice(None)


class SlideTable:
    """Reads one table; safe for threads. What it loads it keeps, but for counts.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    attributes : TableAttributes
        The table, as the root attribute describes it.
    cache : ChunkCache
        Shared with the other arrays of the slide.
    """

    def __init__(
        self, store: CommittedStore, attributes: TableAttributes, *, cache: ChunkCache
    ) -> None:
        self.attributes = attributes
        self._store = store
        self._cache = cache
        self._path = f"tables/{attributes.name}"
        self._vectors: dict[str, ArrayReader] = {}
        self._genes = _TableGenes(store, self._path, attributes.n_vars)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a capture area, indexed by barcode."""
        return self._read_frame("obs", self.attributes.n_obs, ("x", "y"))

    @cached_property
    def var(self) -> pd.DataFrame:
        """One row a gene, indexed by its key."""
        return self._read_frame("var", self.attributes.n_vars, ("gene_id", "gene_name"))

    @property
    def gene_index(self) -> GeneIndex:
        """The genes, to be found by key, identifier or name."""
        return self._genes.index

    def read_gene_names(self) -> GeneNames:
        """Read what the columns are called, without loading `var`; it is not kept."""
        if "var" in self.__dict__:
            return GeneNames.from_frame(self.var)
        return self._genes.read_names()

    @cached_property
    def counts(self) -> CountsReader:
        """The count matrix."""
        # Who holds the table is not held by it: a slide that is dropped closes its files at once.
        genes = self._genes
        return CountsReader(
            self._store, self.attributes, cache=self._cache, gene_index=lambda: genes.index
        )

    @cached_property
    def median_total(self) -> float:
        """Median over all rows of the sum of a row over all genes."""
        totals = self.totals(row_positions(_ALL_ROWS, self.attributes.n_obs))
        return float(np.median(totals)) if len(totals) else 0.0

    def totals(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the sum of rows over all genes, without loading `obs`."""
        reader = self._vector(f"{self._path}/obs/total_counts")
        return reader.take_1d(rows).astype(np.float64, copy=False)

    def centers(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the centres of rows in full-resolution pixels: (m, 2), columns ``(x, y)``."""
        path = spots_path(self.attributes.name)
        vectors = [self._vector(f"{path}/{axis}") for axis in "xy"]
        costs = self._store.files.costs
        xy = np.empty((len(rows), 2))
        xy.T[:] = map_visits(lambda vector: vector.take_1d(rows), vectors, costs)
        if not np.isfinite(xy).all():
            raise CorruptStoreError(
                Problem("table.centres", path, "centres must be finite", "one that is not")
            )
        return xy

    def radii(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the radius, or half the side, of rows in full-resolution pixels."""
        return self._vector(f"{spots_path(self.attributes.name)}/radius").take_1d(rows)

    def rows(self, selection: RowIndex | Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of rows; see `stformat.store.reader.Slide.rows`."""
        if not isinstance(selection, slice):
            values = np.atleast_1d(np.asarray(selection))
            if values.size and values.dtype.kind in "OUT":
                return self._rows_of(values)
        return row_positions(selection, self.attributes.n_obs)

    def expression(
        self,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64] | None,
        *,
        normalize: Literal["log1p"] | None,
        target_sum: float | None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return dense values; see `stformat.store.reader.Slide.expression`."""
        if normalize not in {None, "log1p"}:
            raise ValueError(f"normalize must be None or 'log1p', got {normalize!r}")
        if columns is None:
            columns = np.arange(self.attributes.n_vars)
        dense = result(out, (len(rows), len(columns)), np.dtype(np.float32), np)
        wanted, places = np.unique(columns, return_inverse=True)
        has_repeats = len(wanted) < len(columns)
        data, indices, indptr, gene_map = self._stored(rows, wanted if has_repeats else columns)
        scaled: dict[str, Any] = {}
        if normalize is not None:
            target = self.median_total if target_sum is None else target_sum
            scaled = {"totals": self.totals(rows), "target_sum": target, "log1p": True}
        once = kernels.densify(
            data,
            indices,
            indptr,
            gene_map=gene_map,
            n_out=len(wanted),
            out=None if has_repeats else dense,
            **scaled,
        )
        return np.take(once, places, axis=1, out=dense, mode="clip") if has_repeats else dense

    def _stored(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.integer], NDArray[np.integer], NDArray[np.int64]]:
        """Read a block as CSR, from whichever copy of the matrix holds less that is not wanted.

        Returns
        -------
        data, indices, indptr : ndarray
            The rows.
        gene_map : ndarray of int64
            Place in `columns`, where none repeats, of each column that `indices` may name, or -1.
        """
        counts = self.counts
        if len(columns) < self.attributes.n_vars:
            n_stored = counts.n_stored_in_columns(columns)
            if n_stored < counts.n_stored_in_rows(rows):
                block = counts.columns(columns).tocsr()[rows]
                return block.data, block.indices, block.indptr, np.arange(len(columns))
        gene_map = np.full(self.attributes.n_vars, -1, dtype=np.int64)
        gene_map[columns] = np.arange(len(columns))
        block = counts[rows]
        return block.data, block.indices, block.indptr, gene_map

    def _rows_of(self, barcodes: NDArray[Any]) -> NDArray[np.int64]:
        rows = self._barcodes.get_indexer_for(list(barcodes))  # type: ignore[arg-type]  # any list
        unknown = [str(barcode) for barcode in barcodes[rows < 0]]
        if unknown:
            shown = ", ".join(unknown[:_N_SHOWN])
            rest = f" and {len(unknown) - _N_SHOWN} more" if len(unknown) > _N_SHOWN else ""
            raise BarcodeLookupError(
                Problem(
                    "rows.unknown-barcode",
                    self._path,
                    "a barcode must be that of a row",
                    f"{shown}{rest}, which no row has",
                    f"rows have barcodes such as {', '.join(self._barcodes[:2])}",
                )
            )
        return rows.astype(np.int64, copy=False)

    @cached_property
    def _barcodes(self) -> pd.Index[str]:
        import pandas as pd  # noqa: PLC0415 - opening a slide must not import pandas

        if "obs" in self.__dict__:
            index: pd.Index[str] = self.obs.index
            return index
        path = f"{self._path}/obs/{self._index_name('obs')}"
        barcodes: pd.Index[str] = pd.Index(read_text(self._store, path))
        if len(barcodes) != self.attributes.n_obs or not barcodes.is_unique:
            raise self._corrupt(
                "obs", f"{self.attributes.n_obs} different barcodes", f"{barcodes.nunique()}"
            )
        return barcodes

    def _vector(self, path: str) -> ArrayReader:
        reader = self._vectors.get(path)
        if reader is None:
            reader = self._vectors[path] = ArrayReader(self._store, path, cache=self._cache)
        if reader.shape != (self.attributes.n_obs,):
            raise CorruptStoreError(
                Problem("table.rows", path, f"{self.attributes.n_obs} rows", f"{reader.shape}")
            )
        return reader

    def _read_frame(self, name: str, n_rows: int, columns: Iterable[str]) -> pd.DataFrame:
        from stformat.store.elements import read_element  # noqa: PLC0415 - imports anndata

        frame: pd.DataFrame = read_element(self._store, f"{self._path}/{name}")
        missing = [column for column in columns if column not in frame]
        if len(frame) != n_rows or missing:
            raise self._corrupt(
                name,
                f"{n_rows} rows and the columns {', '.join(columns)}",
                f"{len(frame)} rows" + (f", no {', '.join(missing)}" if missing else ""),
            )
        return frame

    def _index_name(self, frame: str) -> str:
        return _index_name(self._store, f"{self._path}/{frame}")

    def _corrupt(self, name: str, expected: str, found: str) -> CorruptStoreError:
        return _corrupt(f"{self._path}/{name}", expected, found)


class _TableGenes:
    """The genes of a table, read when they are first looked up."""

    def __init__(self, store: CommittedStore, path: str, n_vars: int) -> None:
        self._store = store
        self._path = f"{path}/var"
        self._n_vars = n_vars

    @cached_property
    def index(self) -> GeneIndex:
        """The genes, to be found by key, identifier or name."""
        columns = [self._text(name) for name in (None, "gene_id", "gene_name")]
        try:
            return GeneIndex(*columns)
        except ValueError as error:
            raise _corrupt(self._path, "the keys of genes must be unique", str(error)) from error

    def read_names(self) -> GeneNames:
        """Read what the columns are called."""
        keys = self._text(None)
        if None in keys:
            raise _corrupt(self._path, "every gene must have a key", "one without")
        gene_id, gene_name, genome = map(self._text, ("gene_id", "gene_name", "genome"))
        return GeneNames(keys=keys, gene_id=gene_id, gene_name=gene_name, genome=genome)

    def _text(self, name: str | None) -> list[Any]:
        """Read a column of `var` as text, or its index."""
        name = _index_name(self._store, self._path) if name is None else name
        column: list[Any] = read_text(self._store, f"{self._path}/{name}").tolist()
        if len(column) != self._n_vars:
            raise _corrupt(f"{self._path}/{name}", f"{self._n_vars} genes", f"{len(column)}")
        return column


def _index_name(store: CommittedStore, path: str) -> str:
    """Return the column that is the index of a frame."""
    return str(store.node(path).get("attributes", {}).get("_index"))


def _corrupt(path: str, expected: str, found: str) -> CorruptStoreError:
    return CorruptStoreError(Problem("table.content", path, expected, found))

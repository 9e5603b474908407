"""One table of an open store as the checks read it: column by column, each kept no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem, StoreError
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store.arrays import ArrayReader
from stformat.store.elements import read_element
from stformat.store.opened import CommittedStore
from stformat.store.record_checks import OBS_COLUMNS
from stformat.store.slide_table import SlideTable
from stformat.store.zarr_bridge import UNREADABLE, open_array

__all__ = ["TableView"]

_ROWS_AT_ONCE = 1 << 16
_VALUES_AT_ONCE = 1 << 20
_TEXT = {"categorical", "string-array", "nullable-string-array"}


class TableView:
    """Reads one table; keeps centres and the flag of tissue: 17 bytes a row.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    table : SlideTable
        The table.
    """

    def __init__(self, store: CommittedStore, table: SlideTable) -> None:
        self.attributes: TableAttributes = table.attributes
        self.path = f"tables/{table.attributes.name}"
        self._store = store
        self._table = table

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return self.attributes.n_obs

    @cached_property
    def xy(self) -> NDArray[np.float64]:
        """(n_obs, 2) centres in full-resolution pixels, columns ``(x, y)``."""
        return self._in_blocks(self._table.centers, np.empty((self.n_obs, 2)))

    @cached_property
    def in_tissue(self) -> NDArray[np.bool_]:
        """(n_obs,) True where the source says that tissue covers the spot."""
        values = pd.Series(self.column("in_tissue"))
        return values.fillna(value=False).to_numpy(dtype=bool)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Columns gene_id, gene_name and feature_type of object, indexed by key."""
        names = ["gene_id", "gene_name", "feature_type"]
        columns = {name: read_element(self._store, f"{self.path}/var/{name}") for name in names}
        keys = read_element(self._store, f"{self.path}/var/{self._index_name('var')}")
        frame = pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})
        return frame.astype(object).set_axis(pd.Index(keys, dtype=object), axis=0)

    def radii(self) -> NDArray[np.float64]:
        """Return the radius of each spot, or half the side of each bin, in full-res pixels."""
        return self._in_blocks(self._table.radii, np.empty(self.n_obs))

    def totals(self) -> NDArray[np.float64]:
        """Return the sum of each row over all genes."""
        return self._in_blocks(self._table.totals, np.empty(self.n_obs))

    def column(self, name: str) -> Any:  # noqa: ANN401 - an array or a pandas array, as encoded
        """Return one column of obs.

        Raises
        ------
        CorruptStoreError
            If there is no such column, or it is damaged.
        """
        return read_element(self._store, f"{self.path}/obs/{name}")

    def labels(self) -> Iterator[tuple[str, pd.Series[Any]]]:
        """Yield name and values of each column of text that the format does not define."""
        attributes = self._store.node(f"{self.path}/obs").get("attributes", {})
        for name in attributes.get("column-order", []):
            if name in OBS_COLUMNS:
                continue
            encoding = self._store.node(f"{self.path}/obs/{name}").get("attributes", {})
            if encoding.get("encoding-type") in _TEXT:
                yield name, pd.Series(self.column(name))

    def iter_barcodes(self) -> Iterator[NDArray[np.object_]]:
        """Yield the index of obs in blocks.

        Yields
        ------
        (m,) ndarray of object
            Barcodes in the order of the rows.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        path = f"{self.path}/obs/{self._index_name('obs')}"
        if self._store.node(path)["node_type"] == "group":
            yield np.asarray(read_element(self._store, path), dtype=object)
            return
        try:
            array = open_array(self._store, path)
            step = max(1, _ROWS_AT_ONCE // array.chunks[0]) * array.chunks[0]
            for start in range(0, array.shape[0], step):
                yield np.asarray(array[start : start + step], dtype=object)
        except StoreError:
            raise
        except UNREADABLE as error:
            raise CorruptStoreError(
                Problem("table.element", path, "barcodes must be as committed", str(error))
            ) from error

    def iter_values(self) -> Iterator[NDArray[Any]]:
        """Yield the stored values of the count matrix in blocks of at most a million."""
        data = ArrayReader(self._store, f"{self.path}/X/data")
        for start in range(0, data.shape[0], _VALUES_AT_ONCE):
            yield data.read_1d(start, min(start + _VALUES_AT_ONCE, data.shape[0]))

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """Type of the values of the count matrix."""
        return self._store.array(f"{self.path}/X/data").dtype

    def _in_blocks(
        self, read: Callable[[NDArray[np.int64]], NDArray[np.float64]], out: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fill an array of one entry a row: reading plans for each row that is asked for."""
        for start in range(0, self.n_obs, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, self.n_obs))
            out[rows] = read(rows)
        return out

    def _index_name(self, frame: str) -> str:
        attributes = self._store.node(f"{self.path}/{frame}").get("attributes", {})
        return str(attributes.get("_index"))

"""Outlines of capture areas, read in blocks from a store's GeoParquet.

Specification: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem
from stformat.store.files import StoreFiles

__all__ = ["iter_shapes"]

_ROWS_AT_ONCE = 1 << 16
_GEOMETRY = "geometry"


def iter_shapes(
    files: StoreFiles, region: str
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    """Yield the shapes of a region in blocks.

    Parameters
    ----------
    files : StoreFiles
        The files of the store.
    region : str
        Name of the element under ``shapes/``.

    Yields
    ------
    index : (m,) ndarray of int or object
        What rows of tables refer to.
    centres : (m, 2) ndarray of float64
        Centroids in full-resolution pixels, columns ``(x, y)``; NaN of a shape that is missing or
        empty.

    Raises
    ------
    CorruptStoreError
        If the file is no GeoParquet file, with its geometry as WKB.
    """
    path = f"shapes/{region}/shapes.parquet"
    try:
        file = pq.ParquetFile(
            pa.PythonFile(_StoreFile(files, path), mode="r"), page_checksum_verification=True
        )
        index = _index_of(file.schema_arrow, file.metadata.num_rows)
        columns = [_GEOMETRY, index] if isinstance(index, str) else [_GEOMETRY]
        n_before = 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            wkb = batch.column(_GEOMETRY).to_numpy(zero_copy_only=False)
            middles = shapely.centroid(shapely.from_wkb(wkb))
            has_place = ~(shapely.is_missing(middles) | shapely.is_empty(middles))
            centres = np.full((len(wkb), 2), np.nan)
            centres[has_place] = shapely.get_coordinates(middles[has_place])
            if isinstance(index, str):
                yield batch.column(index).to_numpy(zero_copy_only=False), centres
            else:
                yield np.array(index[n_before : n_before + len(wkb)]), centres
            n_before += len(wkb)
    # pyarrow's own errors are ValueError, OSError or KeyError.
    except (ValueError, TypeError, KeyError, OSError, shapely.errors.GEOSException) as error:
        raise CorruptStoreError(
            Problem("shapes.content", path, "a GeoParquet file with WKB is needed", str(error))
        ) from error


def _index_of(schema: pa.Schema, n_rows: int) -> str | range:
    """Return the column that pandas made of the index, or the numbers that stand for it."""
    document = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    index = next(iter(document.get("index_columns", [])), None)
    if isinstance(index, str):
        return index
    if index is None:
        return range(n_rows)
    return range(index["start"], index["stop"], index["step"])


class _StoreFile(io.RawIOBase):
    """A file of a store that can be read from any place."""

    def __init__(self, files: StoreFiles, path: str) -> None:
        super().__init__()
        self._files = files
        self._path = path
        self._size = files.size(path)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        rest = max(0, self._size - self._at)
        length = rest if size < 0 else min(size, rest)
        data = self._files.read_range(self._path, self._at, length) if length else b""
        self._at += length
        return data

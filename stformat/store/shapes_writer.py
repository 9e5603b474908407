"""Capture areas as a SpatialData shapes element: GeoParquet beside its attributes.

Specification: https://geoparquet.org/releases/v1.1.0/ and spatialdata's shapes 0.3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from stformat.metadata import spatialdata_zarr
from stformat.model import Spots
from stformat.store.nodes import refusals_of, write_group

__all__ = ["write_shapes"]

_ROWS_PER_GROUP = 1 << 16
_GEOMETRY = "geometry"
_GEOMETRY_TYPES = {"circle": "Point", "square": "Polygon", "polygon": "Polygon"}

# Well-known binary, little-endian: byte order, type, then for a polygon its rings and their points.
_POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("xy", "<f8", (2,))])
_SQUARE = np.dtype(
    [
        ("order", "u1"),
        ("type", "<u4"),
        ("n_rings", "<u4"),
        ("n_points", "<u4"),
        ("xy", "<f8", (5, 2)),
    ]
)
_CORNERS = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
"""Ring of a square around its centre, in halves of its side, as shapely.box orders it."""


def write_shapes(
    directory: Path, spots: Spots, order: NDArray[np.int64], *, mpp: float | None
) -> None:
    """Write the outlines of capture areas in full-resolution pixels.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the element, ``shapes/<region>``.
    spots : Spots
        Capture areas in the order of the source.
    order : (n_obs,) ndarray of int64
        Source row of each stored row.
    mpp : float or None
        Microns per full-resolution pixel, where known.

    Raises
    ------
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Circles are points with a column ``radius``; the index is ``spot_id``. Written in row groups of
    65,536 shapes, so memory does not grow with them.
    """
    write_group(directory, spatialdata_zarr.shapes_attributes(mpp))
    path = directory / "shapes.parquet"
    schema = _schema(spots)
    with (
        refusals_of(path),
        pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for start in range(0, len(order), _ROWS_PER_GROUP):
            rows = order[start : start + _ROWS_PER_GROUP]
            columns = {
                "radius": spots.radius_px[rows],
                _GEOMETRY: _ENCODERS[spots.shape](spots, rows),
                spatialdata_zarr.INSTANCE_KEY: np.arange(start, start + len(rows), dtype=np.int64),
            }
            arrays = [pa.array(columns[name], schema.field(name).type) for name in schema.names]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _schema(spots: Spots) -> pa.Schema:
    """Columns, with the documents of GeoParquet and of pandas."""
    columns: dict[str, Any] = {"radius": np.zeros(0)} if spots.shape == "circle" else {}
    columns[_GEOMETRY] = np.zeros(0, dtype=object)
    # An explicit int64 index: a RangeIndex would stand in the file's metadata only.
    index = pd.Index(np.zeros(0, dtype=np.int64), name=spatialdata_zarr.INSTANCE_KEY)
    of_pandas = pa.Schema.from_pandas(pd.DataFrame(columns, index=index))
    types = {"radius": pa.float64(), _GEOMETRY: pa.binary(), index.name: pa.int64()}
    geo = {
        "version": "1.1.0",
        "primary_column": _GEOMETRY,
        "columns": {
            _GEOMETRY: {
                "encoding": "WKB",
                "geometry_types": [_GEOMETRY_TYPES[spots.shape]] if spots.n_obs else [],
                "crs": None,
                **({"bbox": _bounds(spots)} if spots.n_obs else {}),
            }
        },
    }
    return pa.schema(
        [(name, types[name]) for name in of_pandas.names],
        metadata={b"geo": json.dumps(geo).encode(), b"pandas": of_pandas.metadata[b"pandas"]},
    )


def _bounds(spots: Spots) -> list[float]:
    if spots.outlines is not None:
        return [float(value) for value in shapely.total_bounds(shapely.from_wkb(spots.outlines))]
    reach = 0.0 if spots.shape == "circle" else spots.radius_px
    x, y = spots.xy.T
    bounds = ((x - reach).min(), (y - reach).min(), (x + reach).max(), (y + reach).max())
    return [float(value) for value in bounds]


def _points(spots: Spots, rows: NDArray[np.int64]) -> pa.Array:
    shapes = np.empty(len(rows), dtype=_POINT)
    shapes["order"], shapes["type"] = 1, 1
    shapes["xy"] = spots.xy[rows]
    return _as_binary(shapes)


def _squares(spots: Spots, rows: NDArray[np.int64]) -> pa.Array:
    shapes = np.empty(len(rows), dtype=_SQUARE)
    shapes["order"], shapes["type"] = 1, 3
    shapes["n_rings"], shapes["n_points"] = 1, len(_CORNERS)
    shapes["xy"] = spots.xy[rows][:, None] + spots.radius_px[rows][:, None, None] * _CORNERS
    return _as_binary(shapes)


def _polygons(spots: Spots, rows: NDArray[np.int64]) -> pa.Array:
    if spots.outlines is None:
        raise ValueError("polygons must have outlines")
    return pa.array(spots.outlines[rows], pa.binary())


_ENCODERS: dict[str, Callable[[Spots, NDArray[np.int64]], pa.Array]] = {
    "circle": _points,
    "square": _squares,
    "polygon": _polygons,
}


def _as_binary(shapes: NDArray[np.void]) -> pa.Array:
    """Each element as the bytes that it is, without a copy."""
    size = shapes.dtype.itemsize
    ends = np.arange(len(shapes) + 1, dtype=np.int32) * np.int32(size)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(shapes.view(np.uint8))]
    return pa.Array.from_buffers(pa.binary(), len(shapes), buffers)

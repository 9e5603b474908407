"""Polygons that are no capture areas as a SpatialData shapes element, written batch by batch.

Specification: https://geoparquet.org/releases/v1.1.0/ and spatialdata's shapes 0.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import shapely
from pyarrow import parquet

from stformat.metadata import spatialdata_zarr
from stformat.model import OutlineBatch, OutlineColumn, Outlines
from stformat.store.nodes import refusals_of, write_group

__all__ = ["write_outlines"]

_TYPES: Mapping[OutlineColumn, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
}
_GEOMETRY = "geometry"


def write_outlines(directory: Path, outlines: Outlines, *, mpp: float | None) -> None:
    """Write polygons in full-resolution pixels.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the element, ``shapes/<name>``.
    outlines : Outlines
        The polygons; read once, in their order.
    mpp : float or None
        Microns per full-resolution pixel, where known.

    Raises
    ------
    InputError
        If the source of the polygons turns out to be broken.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Memory: a batch, and its row group as Parquet.
    """
    write_group(directory, spatialdata_zarr.shapes_attributes(mpp))
    schema = _schema(outlines.columns)
    path = directory / "shapes.parquet"
    with (
        refusals_of(path),
        parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in outlines.iter_batches():
            writer.write_table(_table(batch, schema))


def _schema(columns: Mapping[str, OutlineColumn]) -> pa.Schema:
    geo: dict[str, Any] = {
        "version": "1.1.0",
        "primary_column": _GEOMETRY,
        # An empty list says that the types are not known: polygons alone, or with multipolygons.
        "columns": {_GEOMETRY: {"encoding": "WKB", "crs": None, "geometry_types": []}},
    }
    fields = [*((name, _TYPES[kind]) for name, kind in columns.items()), (_GEOMETRY, pa.binary())]
    return pa.schema(fields, metadata={"geo": json.dumps(geo)})


def _table(batch: OutlineBatch, schema: pa.Schema) -> pa.Table:
    columns: dict[str, Any] = {
        name: pa.array(values, type=schema.field(name).type)
        for name, values in batch.columns.items()
    }
    wkb = shapely.to_wkb(batch.geometry, byte_order=1)
    return pa.table(columns | {_GEOMETRY: pa.array(wkb, type=pa.binary())}, schema=schema)

"""GeoParquet read in batches: geometries beside their columns.

Specification: https://geoparquet.org/releases/v1.1.0/, of which WKB is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyarrow import parquet

from stformat.errors import InputError, Problem
from stformat.model import Note, OutlineBatch, OutlineColumn, Outlines
from stformat.sources._notes import counted, named

__all__ = ["GeoBatch", "GeoParquet", "open_geoparquet", "outlines_of", "transformed"]

BATCH = 1 << 14
"""Rows of a batch."""

INDEX = "source_id"
"""Column of outlines that holds the index of the file."""

_DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    MemoryError,
    TypeError,
    KeyError,
    shapely.errors.ShapelyError,
)
_POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoBatch:
    """Some rows of a file."""

    geometry: NDArray[np.object_]
    """(n,) shapely geometries."""

    columns: Mapping[str, NDArray[Any]]
    """Columns that were asked for: text as objects of str or None, int64, float64, bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoParquet:
    """A file, of which the footer has been read."""

    path: Path
    """The file."""

    n_rows: int
    """Number of rows."""

    geometry: str
    """Name of the column of geometries."""

    index: str | None
    """Name of the column that is the index; None where rows are numbered from 0."""

    index_kind: OutlineColumn | None
    """Type of the index, where it is a column of text or numbers."""

    range_index: tuple[int, int]
    """First number and step of an index that is no column."""

    columns: Mapping[str, OutlineColumn]
    """Other columns that are text, numbers or truth values, by name."""

    left_out: tuple[str, ...]
    """Names of the columns that are something else."""

    def batches(self, *columns: str) -> Iterator[GeoBatch]:
        """Read the rows in batches, with some of the columns or the index.

        Raises
        ------
        InputError
            If the file is damaged, or a geometry is missing.
        """
        with _damage_told(self.path), _opened(self.path) as file:
            for batch in file.iter_batches(BATCH, columns=[self.geometry, *columns]):
                wkb = batch.column(self.geometry)
                if wkb.null_count:
                    raise _error(self.path, "every row needs a geometry", f"{wkb.null_count} nulls")
                yield GeoBatch(
                    geometry=shapely.from_wkb(wkb.to_numpy(zero_copy_only=False)),
                    columns={name: _column(self, name, batch.column(name)) for name in columns},
                )


def open_geoparquet(path: Path) -> GeoParquet:
    """Read the footer of a file.

    Parameters
    ----------
    path : pathlib.Path
        GeoParquet with geometries as WKB.

    Returns
    -------
    GeoParquet
        What is in it.

    Raises
    ------
    InputError
        If the file is damaged, or holds no such geometries.
    """
    with _damage_told(path), _opened(path) as file:
        schema = file.schema_arrow
        metadata = schema.metadata or {}
        geo = json.loads(metadata.get(b"geo", b"null"))
        geometry = geo.get("primary_column") if isinstance(geo, dict) else None
        columns = geo.get("columns", {}) if isinstance(geo, dict) else {}
        encoding = columns[geometry].get("encoding") if geometry in columns else None
        if not isinstance(geometry, str) or geometry not in schema.names or encoding != "WKB":
            raise _error(
                path,
                "GeoParquet with geometries as WKB is needed",
                f"the column {geometry!r} as {encoding!r}",
                "write it again with GeoDataFrame.to_parquet",
            )
        pandas = json.loads(metadata.get(b"pandas", b"{}"))
        index = [name for name in pandas.get("index_columns", []) if name in schema.names]
        kinds = {name: _kind(file, name) for name in schema.names if name != geometry}
        the_index = index[0] if len(index) == 1 else None
        others = {name: kind for name, kind in kinds.items() if name not in index}
        return GeoParquet(
            path=path,
            n_rows=file.metadata.num_rows,
            geometry=geometry,
            index=the_index,
            index_kind=kinds.get(the_index) if the_index else None,
            range_index=_range(pandas.get("index_columns", [])),
            columns={name: kind for name, kind in others.items() if kind is not None},
            left_out=tuple(name for name, kind in others.items() if kind is None),
        )


def outlines_of(
    source: GeoParquet, name: str, *, to_pixels: NDArray[np.float64] | None = None
) -> tuple[Outlines | None, tuple[Note, ...]]:
    """Give the polygons of a file as outlines.

    Parameters
    ----------
    source : GeoParquet
        The file.
    name : str
        Name of the outlines.
    to_pixels : (3, 3) ndarray of float64, optional
        Affine map from the file's coordinates to full-resolution pixels, for column vectors
        ``(x, y, 1)``; None where they are the same.

    Returns
    -------
    Outlines or None
        Every row with its columns; its index, where it has one, is the column ``source_id``. None
        where there are no rows.
    tuple of Note
        ``outlines.none``, ``outlines.columns-left-out``.

    Raises
    ------
    InputError
        If a geometry is no polygon, when batches are read.
    """
    path = source.path
    if not source.n_rows:
        return None, (Note(code="outlines.none", message=f"{name} holds no outlines."),)
    columns = dict(source.columns)
    names = {column: column for column in columns}
    notes = []
    if source.index is not None and source.index_kind is not None and INDEX not in columns:
        names[source.index] = INDEX
        columns = {INDEX: source.index_kind, **columns}
    if source.left_out:
        n_columns = len(source.left_out)
        left = counted(n_columns, "column", "columns")
        verb = "holds" if n_columns == 1 else "hold"
        message = f"{left} of {name} {verb} neither text nor numbers: {named(source.left_out)}."
        notes.append(Note(code="outlines.columns-left-out", message=message, count=n_columns))

    def iter_batches() -> Iterator[OutlineBatch]:
        for batch in source.batches(*names):
            kinds = shapely.get_type_id(batch.geometry)
            if not np.isin(kinds, _POLYGONS).all() or shapely.is_empty(batch.geometry).any():
                raise _error(path, "outlines must be polygons that are not empty", "others")
            geometry = batch.geometry
            if to_pixels is not None:
                geometry = transformed(geometry, to_pixels)
            yield OutlineBatch(
                geometry=geometry,
                columns={names[column]: values for column, values in batch.columns.items()},
            )

    return Outlines(name=name, columns=columns, iter_batches=iter_batches), tuple(notes)


def transformed(geometry: NDArray[np.object_], affine: NDArray[np.float64]) -> NDArray[np.object_]:
    """Map geometries through an affine map for column vectors ``(x, y, 1)``.

    Examples
    --------
    >>> import numpy as np
    >>> twice = np.diag([2.0, 2.0, 1.0])
    >>> print(transformed(np.array([shapely.Point(1, 2)], dtype=object), twice)[0])
    POINT (2 4)
    """
    moved: NDArray[np.object_] = shapely.transform(
        geometry, lambda xy: xy @ affine[:2, :2].T + affine[:2, 2]
    )
    return moved


def _range(index_columns: list[Any]) -> tuple[int, int]:
    """Read what pandas says of an index of numbers at equal distances."""
    for column in index_columns:
        if isinstance(column, dict) and column.get("kind") == "range":
            return int(column["start"]), int(column["step"])
    return 0, 1


def _kind(file: parquet.ParquetFile, name: str) -> OutlineColumn | None:
    kind = file.schema_arrow.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_floating(kind):
        return "number"
    has_nulls = _has_nulls(file, name)
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "number" if has_nulls else "integer"
    return "flag" if pa.types.is_boolean(kind) and not has_nulls else None


def _has_nulls(file: parquet.ParquetFile, name: str) -> bool:
    """Whether a column has missing values, or does not say."""
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if column.path_in_schema == name:
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return True
    return False


def _column(source: GeoParquet, name: str, values: pa.Array) -> NDArray[Any]:
    kind = source.index_kind if name == source.index else source.columns[name]
    if kind == "text":
        texts = np.empty(len(values), dtype=object)
        texts[:] = values.to_pylist()
        return texts
    if kind == "number":
        numbers: NDArray[Any] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers
    if values.null_count:
        raise _error(source.path, f"{name} must have no missing values", f"{values.null_count}")
    wanted = pa.int64() if kind == "integer" else pa.bool_()
    exact: NDArray[Any] = values.cast(wanted).to_numpy(zero_copy_only=False)
    return exact


def _opened(path: Path) -> parquet.ParquetFile:
    return parquet.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Say what pyarrow and GEOS raise in a typed error."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            Problem(
                "outlines.damaged",
                path.name,
                "the file must be whole GeoParquet",
                (str(error) or type(error).__name__)[:200],
                "copy the file again from its source",
            )
        ) from error


def _error(path: Path, expected: str, found: str, remedy: str = "") -> InputError:
    return InputError(Problem("outlines.geoparquet", path.name, expected, found[:200], remedy))

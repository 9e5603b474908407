"""Segmented cells of Space Ranger 4: outlines in GeoJSON, joined to counts by cell; and nuclei.

Specification: https://www.rfc-editor.org/rfc/rfc7946
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Note, OutlineBatch, Outlines, Spots, Table
from stformat.sources._bin_tables import kept_counts, rows_of_names
from stformat.sources._json_stream import JsonStream
from stformat.sources._notes import counted, named
from stformat.sources._outlines_geojson import read_geojson
from stformat.sources._packed_text import pack_texts, unpack
from stformat.sources._row_matrix import RowMatrix, open_rows
from stformat.sources._visium_files import VisiumFiles, select_counts
from stformat.sources._visium_tables import build_tables
from stformat.text_keys import repeated_row

__all__ = ["CellParts", "read_cells"]

REGION = "cells"
NUCLEI = "nuclei"
CLUSTERS = "graphclust"
OUTLINES = "cell_segmentations.geojson"
CLUSTERED_OUTLINES = f"graphclust_annotated_{OUTLINES}"
NUCLEUS_OUTLINES = "nucleus_segmentations.geojson"
MAX_CELLS = 20_000_000
"""Most cells that are read."""

_DIGITS = 9  # of a cell's number in its barcode
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParts:
    """The tables of cells, and what they were made from."""

    tables: tuple[Table, ...]
    """``expression_cells`` first; empty where a part of the cells is missing."""

    outlines: tuple[Outlines, ...]
    """``nuclei``, where they are there."""

    files: tuple[Path, ...]
    """Files that were read."""

    notes: tuple[Note, ...]
    """What a user of the cells should know."""


def read_cells(
    files: VisiumFiles, *, scale: float, is_needed: bool, scratch: Path | None
) -> CellParts:
    """Read segmented outputs.

    Parameters
    ----------
    files : VisiumFiles
        Files of ``segmented_outputs``.
    scale : float
        Pixels of the stored image for one full-resolution pixel of the source.
    is_needed : bool
        Whether a part that is missing is an error; else it is noted, and there are no cells.
    scratch : pathlib.Path or None
        Directory of temporary files.

    Returns
    -------
    CellParts
        A row for each cell that has both counts and an outline, in the order of the count matrix.
        Its place is the centroid of its outline, its label ``graphclust`` the cluster that the
        annotated outlines name. Nuclei have the columns ``cell_id``, the barcode of their cell, and
        ``class`` where the file has one.

    Raises
    ------
    InputError
        If a file is not what it must be, or no cell has both.
    """
    path = _first_file(files.folder, OUTLINES, CLUSTERED_OUTLINES)
    missing = [
        *((OUTLINES,) if path is None else ()),
        *(() if files.counts else ("filtered_feature_cell_matrix.h5",)),
    ]
    if missing and is_needed:
        raise PositionsError(
            Problem(
                "cells.incomplete",
                str(files.folder),
                f"{OUTLINES} and filtered_feature_cell_matrix.h5 are needed",
                f"no {' and no '.join(missing)}",
            )
        )
    nuclei = _read_nuclei(files.folder, scale)
    if path is None or not files.counts:
        message = f"Segmented cells are not stored: there is no {' and no '.join(missing)}."
        note = Note(code="cells.incomplete", message=message)
        return replace(nuclei, notes=(note, *nuclei.notes))
    choice = select_counts(files, None)
    clusters = _first_file(files.folder, CLUSTERED_OUTLINES)
    tables, notes = _join(
        open_rows(choice.source, scratch=scratch),
        path,
        clusters,
        scale=scale,
        where=f"{choice.path.name}, {path.name}",
    )
    paths = dict.fromkeys(one for one in (path, clusters) if one)
    return CellParts(
        tables=tables,
        outlines=nuclei.outlines,
        files=(*choice.files, *paths, *nuclei.files),
        notes=(*notes, *nuclei.notes),
    )


def _first_file(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_nuclei(folder: Path, scale: float) -> CellParts:
    """Read the outlines of nuclei, which have no counts of their own."""
    path = _first_file(folder, NUCLEUS_OUTLINES, f"graphclust_annotated_{NUCLEUS_OUTLINES}")
    if path is None:
        return CellParts(tables=(), outlines=(), files=(), notes=())
    outlines, notes = read_geojson(path, NUCLEI)

    def batches() -> Iterator[OutlineBatch]:
        for batch in outlines.iter_batches() if outlines is not None else ():
            columns = dict(batch.columns)
            if "cell_id" in columns:
                columns["cell_id"] = np.array(
                    [_barcode(cell) or cell for cell in columns["cell_id"]], dtype=object
                )
            yield OutlineBatch(geometry=_scaled(batch.geometry, scale), columns=columns)

    found = () if outlines is None else (replace(outlines, iter_batches=batches),)
    return CellParts(tables=(), outlines=found, files=(path,), notes=notes)


def _join(
    matrix: RowMatrix, path: Path, clusters: Path | None, *, scale: float, where: str
) -> tuple[tuple[Table, ...], tuple[Note, ...]]:
    names, polygons = _read_outlines(path)
    annotations = {} if clusters is None else {CLUSTERS: _read_clusters(clusters, matrix.barcodes)}
    rows, _ = rows_of_names(matrix.barcodes, names)
    is_joined = rows >= 0
    n_joined = int(np.count_nonzero(is_joined))
    if not n_joined:
        raise PositionsError(
            Problem(
                "positions.no-join",
                where,
                "barcodes of the counts must be those of the outlines",
                f"{', '.join(unpack(matrix.barcodes[:3])) or 'none'} in the counts, "
                f"{', '.join(unpack(names[:3])) or 'none'} in the outlines",
                "check that both are of the same sample",
            )
        )
    notes = list(matrix.notes)
    n_lost = len(rows) - n_joined
    if n_lost:
        lost = unpack(matrix.barcodes[np.flatnonzero(~is_joined)[:_SHOWN]])
        counts_have = counted(n_lost, "row of counts has", "rows of counts have")
        message = f"{REGION}: {counts_have} no outline and cannot be stored: {named(lost)}."
        notes.append(Note(code="counts.without-position", message=message, count=n_lost))
    n_alone = len(names) - n_joined
    if n_alone:
        cells = counted(n_alone, "outline has", "outlines have")
        message = f"{REGION}: {cells} no counts and no row of the table."
        notes.append(Note(code="cells.without-counts", message=message, count=n_alone))
    spots = _spots(
        matrix.barcodes[is_joined],
        _scaled(shapely.from_wkb(polygons[rows[is_joined]]), scale),
        {name: values[is_joined] for name, values in annotations.items()},
    )
    tables, gene_notes = build_tables(
        matrix.features,
        spots,
        kept_counts(matrix, is_joined if n_lost else None, n_joined),
        suffix=f"_{REGION}",
    )
    return tables, (*notes, *gene_notes)


def _scaled(polygons: NDArray[np.object_], scale: float) -> NDArray[np.object_]:
    if scale == 1:
        return polygons
    scaled: NDArray[np.object_] = shapely.transform(polygons, lambda xy: xy * scale)
    return scaled


def _spots(
    names: NDArray[np.bytes_],
    polygons: NDArray[np.object_],
    annotations: dict[str, NDArray[np.object_]],
) -> Spots:
    no_place = np.full(len(names), -1, dtype=np.int32)
    return Spots(
        region=REGION,
        shape="polygon",
        barcodes=names,
        xy=shapely.get_coordinates(shapely.centroid(polygons)),
        radius_px=np.sqrt(shapely.area(polygons) / np.pi),
        array_row=no_place,
        array_col=no_place,
        in_tissue=np.ones(len(names), dtype=np.bool_),
        outlines=shapely.to_wkb(polygons),
        annotations=annotations,
    )


def _read_clusters(path: Path, barcodes: NDArray[np.bytes_]) -> NDArray[np.object_]:
    """(n,) name of the cluster of each cell, None where it is in none."""
    names: list[str] = []
    clusters: list[str | None] = []
    for number, feature in _features(path):
        names.append(_name_of(path, number, feature))
        kind = feature["properties"].get("classification")
        name = kind.get("name") if isinstance(kind, dict) else None
        # One text for all cells of a cluster.
        clusters.append(sys.intern(name) if isinstance(name, str) and name else None)
    rows, _ = rows_of_names(barcodes, _unique(path, names))
    found = np.full(len(barcodes), None, dtype=object)
    found[rows >= 0] = np.array(clusters, dtype=object)[rows[rows >= 0]]
    return found


def _read_outlines(path: Path) -> tuple[NDArray[np.bytes_], NDArray[np.object_]]:
    """Names of cells and their polygons as WKB, in full-resolution pixels of the source."""
    names: list[str] = []
    polygons: list[bytes] = []
    for number, feature in _features(path):
        names.append(_name_of(path, number, feature))
        polygons.append(_polygon_of(path, number, feature))
    outlines = np.empty(len(polygons), dtype=object)
    outlines[:] = polygons
    return _unique(path, names), outlines


def _unique(path: Path, names: list[str]) -> NDArray[np.bytes_]:
    packed = pack_texts(names)
    row = repeated_row(packed)
    if row is not None:
        raise _bad_cell(path, row, "every cell needs a number of its own", f"{names[row]} again")
    return packed


def _features(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the features of a collection, numbered from 0."""
    has_features = False
    try:
        with path.open(encoding="utf-8-sig") as file:
            stream = JsonStream(path, file)
            for member in stream.members():
                if member != "features":
                    stream.value()
                    continue
                has_features = True
                for number in stream.items():
                    if number >= MAX_CELLS:
                        raise _bad_cell(path, number, f"at most {MAX_CELLS} are read", "more")
                    yield number, stream.value()
            stream.end()
    except OSError as error:
        raise PositionsError(
            Problem("source.unreadable", path.name, "the file must be readable", str(error))
        ) from error
    if not has_features:
        raise PositionsError(
            Problem("cells.outlines", path.name, "a GeoJSON FeatureCollection is needed", "none")
        )


def _name_of(path: Path, number: int, feature: Any) -> str:  # noqa: ANN401 - of JSON
    """Barcode of a cell: as the properties have it, or made of its number as Space Ranger does."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    cell = properties.get("cell_id") if isinstance(properties, dict) else None
    name = _barcode(cell)
    if name is not None:
        return name
    raise _bad_cell(path, number, "properties.cell_id must be a number or a name", repr(cell)[:80])


def _barcode(cell: object) -> str | None:
    """Return the barcode of a cell that a number or a name stands for, or None."""
    if isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < 10**_DIGITS:
        return f"cellid_{cell:0{_DIGITS}d}-1"
    if isinstance(cell, str) and 0 < len(cell) <= 64 and "\0" not in cell:
        return f"cellid_{int(cell):0{_DIGITS}d}-1" if cell.isdecimal() else cell
    return None


def _polygon_of(path: Path, number: int, feature: dict[str, Any]) -> bytes:
    try:
        polygon = shapely.geometry.shape(feature["geometry"])
    except (
        shapely.errors.ShapelyError, AttributeError, IndexError, KeyError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise _bad_cell(path, number, "a polygon is needed", str(error) or "another") from error
    xy = shapely.get_coordinates(polygon)
    is_polygon = polygon.geom_type in {"Polygon", "MultiPolygon"} and polygon.area > 0
    if not is_polygon or polygon.has_z or not np.isfinite(xy).all():
        raise _bad_cell(path, number, "a polygon with an area is needed", f"{polygon.geom_type}")
    return bytes(shapely.to_wkb(polygon))


def _bad_cell(path: Path, number: int, expected: str, found: str) -> PositionsError:
    return PositionsError(
        Problem("cells.outlines", f"{path.name}, feature {number + 1}", expected, found[:200])
    )

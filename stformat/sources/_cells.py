"""Segmented cells of Space Ranger 4: outlines in GeoJSON, joined to counts by cell.

Specification: https://www.rfc-editor.org/rfc/rfc7946
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Note, Spots, Table
from stformat.sources._bin_tables import kept_counts, rows_of_names
from stformat.sources._json_stream import JsonStream
from stformat.sources._notes import counted, named
from stformat.sources._packed_text import pack_texts, unpack
from stformat.sources._row_matrix import open_rows
from stformat.sources._visium_files import CountsChoice, VisiumFiles, select_counts
from stformat.sources._visium_tables import build_tables
from stformat.text_keys import repeated_row

__all__ = ["CellParts", "read_cells"]

REGION = "cells"
OUTLINES = "cell_segmentations.geojson"
MAX_CELLS = 20_000_000
"""Most cells that are read."""

_DIGITS = 9  # of a cell's number in its barcode
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParts:
    """The tables of cells, and what they were made from."""

    tables: tuple[Table, ...]
    """``expression_cells`` first; empty where a part of the cells is missing."""

    files: tuple[Path, ...]
    """Files that were read."""

    notes: tuple[Note, ...]
    """What a user of the cells should know."""


def read_cells(files: VisiumFiles, *, scale: float, is_needed: bool) -> CellParts:
    """Read segmented outputs.

    Parameters
    ----------
    files : VisiumFiles
        Files of ``segmented_outputs``.
    scale : float
        Pixels of the stored image for one full-resolution pixel of the source.
    is_needed : bool
        Whether a part that is missing is an error; else it is noted, and there are no cells.

    Returns
    -------
    CellParts
        A row for each cell that has both counts and an outline, in the order of the count matrix.
        Its place is the centroid of its outline.

    Raises
    ------
    InputError
        If a file is not what it must be, or no cell has both.
    """
    path = files.folder / OUTLINES
    missing = [
        *(() if path.is_file() else (OUTLINES,)),
        *(() if files.counts else ("filtered_feature_cell_matrix.h5",)),
    ]
    if missing:
        message = f"Segmented cells are not stored: there is no {' and no '.join(missing)}."
        if is_needed:
            raise PositionsError(
                Problem(
                    "cells.incomplete",
                    str(files.folder),
                    f"{OUTLINES} and filtered_feature_cell_matrix.h5 are needed",
                    f"no {' and no '.join(missing)}",
                )
            )
        return CellParts(
            tables=(), files=(), notes=(Note(code="cells.incomplete", message=message),)
        )
    choice = select_counts(files, None)
    tables, notes = _join(choice, path, scale)
    return CellParts(tables=tables, files=(*choice.files, path), notes=notes)


def _join(
    choice: CountsChoice, path: Path, scale: float
) -> tuple[tuple[Table, ...], tuple[Note, ...]]:
    matrix = open_rows(choice.source)
    names, polygons = _read_outlines(path)
    rows, _ = rows_of_names(matrix.barcodes, names)
    is_joined = rows >= 0
    n_joined = int(np.count_nonzero(is_joined))
    if not n_joined:
        raise PositionsError(
            Problem(
                "positions.no-join",
                f"{choice.path.name}, {path.name}",
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
    spots = _spots(matrix.barcodes[is_joined], shapely.from_wkb(polygons[rows[is_joined]]), scale)
    tables, gene_notes = build_tables(
        matrix.features,
        spots,
        kept_counts(matrix, is_joined if n_lost else None, n_joined),
        suffix=f"_{REGION}",
    )
    return tables, (*notes, *gene_notes)


def _spots(names: NDArray[np.bytes_], polygons: NDArray[np.object_], scale: float) -> Spots:
    if scale != 1:
        polygons = shapely.transform(polygons, lambda xy: xy * scale)
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
    )


def _read_outlines(path: Path) -> tuple[NDArray[np.bytes_], NDArray[np.object_]]:
    """Names of cells and their polygons as WKB, in full-resolution pixels of the source."""
    names: list[str] = []
    polygons: list[bytes] = []
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
                    feature = stream.value()
                    names.append(_name_of(path, number, feature))
                    polygons.append(_polygon_of(path, number, feature))
            stream.end()
    except OSError as error:
        raise PositionsError(
            Problem("source.unreadable", path.name, "the file must be readable", str(error))
        ) from error
    if not has_features:
        raise PositionsError(
            Problem("cells.outlines", path.name, "a GeoJSON FeatureCollection is needed", "none")
        )
    packed = pack_texts(names)
    row = repeated_row(packed)
    if row is not None:
        raise _bad_cell(path, row, "every cell needs a number of its own", f"{names[row]} again")
    outlines = np.empty(len(polygons), dtype=object)
    outlines[:] = polygons
    return packed, outlines


def _name_of(path: Path, number: int, feature: Any) -> str:  # noqa: ANN401 - of JSON
    """Barcode of a cell: as the properties have it, or made of its number as Space Ranger does."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    cell = properties.get("cell_id") if isinstance(properties, dict) else None
    if isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < 10**_DIGITS:
        return f"cellid_{cell:0{_DIGITS}d}-1"
    if isinstance(cell, str) and 0 < len(cell) <= 64 and "\0" not in cell:
        return f"cellid_{int(cell):0{_DIGITS}d}-1" if cell.isdecimal() else cell
    raise _bad_cell(path, number, "properties.cell_id must be a number or a name", repr(cell)[:80])


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

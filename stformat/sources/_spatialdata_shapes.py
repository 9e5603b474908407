"""Shapes of SpatialData as capture areas: circles, squares, and polygons of any other outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stformat.errors import InputError, PositionsError, Problem
from stformat.model import Note
from stformat.sources._geoparquet import GeoParquet, open_geoparquet, transformed
from stformat.sources._notes import counted
from stformat.sources._spatialdata_systems import Systems, area_scale, parse_systems
from stformat.sources._zarr_nodes import open_group

__all__ = ["Areas", "ShapesElement", "read_areas", "read_shapes"]

_SQUARE = 1e-4
"""Relative difference of edges and diagonals that a square may have: corners may be rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesElement:
    """A shapes element, of which the metadata have been read."""

    name: str
    """Name of the element."""

    source: GeoParquet
    """Its file."""

    systems: Systems
    """Coordinate systems of its geometries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Capture areas in full-resolution pixels, in the order of the element."""

    index: pd.Index[Any]
    """(n,) index of the element, unique."""

    shape: Literal["circle", "square"]
    """Outline."""

    xy: NDArray[np.float64]
    """(n, 2) centres, columns ``(x, y)``."""

    radius_px: NDArray[np.float64]
    """(n,) radius of circles, half the side of squares."""

    is_exact: bool
    """Whether the outlines are circles or squares. Of other polygons the circle of the same centre
    of mass and area stands for each."""

    notes: tuple[Note, ...]
    """What a user of the outlines should know."""


def read_shapes(path: Path, name: str) -> ShapesElement:
    """Open a shapes element of a container.

    Parameters
    ----------
    path : pathlib.Path
        Its group.
    name : str
        Its name.

    Returns
    -------
    ShapesElement
        The element.

    Raises
    ------
    InputError
        If it is damaged, or holds its geometries in no ``shapes.parquet``, which SpatialData has
        written since 0.2.
    """
    where = f"shapes/{name}"
    attributes = open_group(path, where).attributes
    file = path / "shapes.parquet"
    if not file.is_file():
        raise InputError(
            Problem(
                "spatialdata.shapes",
                where,
                "geometries are read from shapes.parquet",
                "no such file",
                "read and write the container with SpatialData 0.2 or later",
            )
        )
    return ShapesElement(
        name=name,
        source=open_geoparquet(file),
        systems=parse_systems(
            attributes.get("coordinateTransformations"), axes=("x", "y"), where=where
        ),
    )


def read_areas(element: ShapesElement, to_pixels: NDArray[np.float64]) -> Areas:
    """Read capture areas.

    Parameters
    ----------
    element : ShapesElement
        Points with a column ``radius``, or polygons.
    to_pixels : (3, 3) ndarray of float64
        Affine map from its coordinates to full-resolution pixels.

    Returns
    -------
    Areas
        Centres, mapped; lengths are enlarged by the root of the map's determinant.

    Raises
    ------
    InputError
        If the file is damaged.
    PositionsError
        If there are no rows, geometries are neither all points nor all polygons, a radius is not
        positive, or the index repeats.

    Notes
    -----
    Memory: a batch of geometries; centres, radii and the index of all.
    """
    where = f"shapes/{element.name}"
    source = element.source
    is_identity = np.array_equal(to_pixels, np.eye(3))
    has_radius = source.columns.get("radius") in {"number", "integer"}
    wanted = [*(["radius"] if has_radius else []), *([source.index] if source.index else [])]
    kinds: set[str] = set()
    centres, sizes, keys = [], [], []
    for batch in source.batches(*wanted):
        geometry = batch.geometry if is_identity else transformed(batch.geometry, to_pixels)
        kind, xy, area = _outline(where, geometry)
        kinds.add(kind)
        if kind == "circle" and not has_radius:
            raise _error(where, "points need a column radius", "none")
        centres.append(xy)
        sizes.append(batch.columns["radius"] if kind == "circle" else area)
        if source.index:
            keys.append(batch.columns[source.index])
    if not centres:
        raise _error(where, "capture areas are needed", "no rows")
    if "circle" in kinds and len(kinds) > 1:
        raise _error(where, "geometries must be all points or all polygons", "both")
    scale, is_round = (1.0, True) if is_identity else area_scale(to_pixels)
    xy, size = np.concatenate(centres), np.concatenate(sizes)
    if "polygon" in kinds:
        radius = np.sqrt(size / np.pi)
    else:
        radius = size * scale if "circle" in kinds else np.sqrt(size) / 2
    if not np.isfinite(xy).all() or not (np.isfinite(radius) & (radius > 0)).all():
        raise _error(where, "places must be finite and sizes positive", "others")
    index = _index(source, keys)
    if index.has_duplicates:
        raise _error(where, "the index must be unique", repr(index[index.duplicated()][0]))
    if "circle" in kinds and not is_round:
        kinds.add("ellipse")
    return Areas(
        index=index,
        shape="square" if kinds == {"square"} else "circle",
        xy=xy,
        radius_px=radius,
        is_exact="polygon" not in kinds,
        notes=tuple(_notes(where, kinds, len(xy))),
    )


def _outline(
    where: str, geometry: NDArray[np.object_]
) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """Tell the kind of the outlines, their centres, and the areas of those that are no points."""
    types = shapely.get_type_id(geometry)
    if shapely.is_empty(geometry).any():
        raise _error(where, "geometries must not be empty", "one that is")
    if (types == shapely.GeometryType.POINT).all():
        return "circle", shapely.get_coordinates(geometry), np.zeros(len(geometry))
    polygons = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    if not np.isin(types, polygons).all():
        raise _error(where, "geometries must be all points or all polygons", "others")
    corners = _squares(geometry)
    if corners is not None:
        low, high = corners.min(axis=1), corners.max(axis=1)
        is_straight = np.isclose(high - low, _sides(corners)[:, :1], rtol=_SQUARE).all()
        # Of a square that stands straight the middle of its box is exact.
        centre = (low + high) / 2 if is_straight else corners.mean(axis=1)
        return "square", centre, shapely.area(geometry)
    centroids = shapely.get_coordinates(shapely.centroid(geometry))
    return "polygon", centroids, shapely.area(geometry)


def _squares(geometry: NDArray[np.object_]) -> NDArray[np.float64] | None:
    """Return the corners (n, 4, 2), where all of them are squares."""
    is_ring = (shapely.get_num_coordinates(geometry) == 5) & (
        shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON
    )
    if not is_ring.all():
        return None
    corners = shapely.get_coordinates(geometry).reshape(-1, 5, 2)[:, :4]
    sides = _sides(corners)
    diagonals = np.linalg.norm(corners[:, [2, 3]] - corners[:, [0, 1]], axis=2)
    wanted = sides[:, :1]
    is_square = np.isclose(sides, wanted, rtol=_SQUARE) & (wanted > 0)
    has_diagonals = np.isclose(diagonals, wanted * np.sqrt(2), rtol=_SQUARE)
    return corners if is_square.all() and has_diagonals.all() else None


def _sides(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    return lengths


def _index(source: GeoParquet, keys: Sequence[NDArray[Any]]) -> pd.Index[Any]:
    start, step = source.range_index
    index: pd.Index[Any] = pd.RangeIndex(start, start + step * source.n_rows, step)
    if keys:
        index = pd.Index(np.concatenate(keys))
    return index


def _notes(where: str, kinds: set[str], n_areas: int) -> list[Note]:
    notes = []
    if "polygon" in kinds:
        areas = counted(n_areas, "outline is no square", "outlines are no squares")
        message = (
            f"{areas} in {where}: the circle of the same centre of mass and area stands for each, "
            "and the polygons are kept beside them."
        )
        notes.append(Note(code="spots.polygons-as-circles", message=message, count=n_areas))
    if "ellipse" in kinds:
        message = (
            f"Circles of {where} are ellipses on the image, whose axes differ in scale: circles of "
            "the same area stand for them."
        )
        notes.append(Note(code="spots.not-round", message=message, count=n_areas))
    return notes


def _error(where: str, expected: str, found: str) -> PositionsError:
    return PositionsError(Problem("spatialdata.areas", where, expected, found))

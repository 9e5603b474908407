"""Polygons of a SpatialData container that are no capture areas, as outlines of a slide."""

from __future__ import annotations

import re

import numpy as np
import shapely
from numpy.typing import NDArray

from stformat.errors import InputError
from stformat.model import Note, Outlines
from stformat.sources._geoparquet import GeoParquet, outlines_of
from stformat.sources._notes import named
from stformat.sources._spatialdata_container import Container
from stformat.sources._spatialdata_places import Canvas, Placed, usable_shapes
from stformat.sources._spatialdata_systems import map_between

__all__ = ["other_outlines", "own_outlines"]

_NAME = re.compile(r"(_?[A-Za-z0-9-][A-Za-z0-9_.-]*|_)(?<!\.json)", re.IGNORECASE)


def own_outlines(container: Container, placed: Placed) -> tuple[Outlines, ...]:
    """Keep the polygons that circles stand for in a table.

    Parameters
    ----------
    container : Container
        The container.
    placed : Placed
        The table.

    Returns
    -------
    tuple of Outlines
        ``<region>_outlines``, where the outlines of its spots are not exact.
    """
    if placed.is_exact:
        return ()
    source = usable_shapes(container, placed.annotation.region).source
    name = f"{placed.tables[0].spots.region}_outlines"
    outlines, _ = outlines_of(source, name, to_pixels=_map(placed.to_pixels))
    return () if outlines is None else (outlines,)


def other_outlines(
    container: Container, canvas: Canvas, taken: set[str]
) -> tuple[tuple[Outlines, ...], tuple[Note, ...]]:
    """Take the shapes that no table annotates.

    Parameters
    ----------
    container : Container
        The container.
    canvas : Canvas
        The pixels of the slide.
    taken : set of str
        Names of elements of the slide, in lower case.

    Returns
    -------
    tuple of Outlines
        Those that are polygons, share a coordinate system with the canvas, and have names that are
        free and that elements may have.
    tuple of Note
        ``outlines.left-out`` names the others.
    """
    regions = {annotation.region for annotation, _ in canvas.annotations}
    found: list[Outlines] = []
    notes: list[Note] = []
    left_out = []
    for name, element in container.shapes.items():
        if name in regions:
            continue
        outlines = None
        if (
            not isinstance(element, InputError)
            and name.lower() not in taken
            and len(name) <= 128
            and _NAME.fullmatch(name)
            and all(_NAME.fullmatch(column) for column in element.source.columns)
            and _has_polygons(element.source)
        ):
            pair = f"shapes/{name} and the image"
            to_pixels = map_between(
                element.systems, canvas.systems, wanted=canvas.system, where=pair
            )
            if to_pixels is not None:
                outlines, more = outlines_of(element.source, name, to_pixels=_map(to_pixels))
                notes.extend(more)
        if outlines is None:
            left_out.append(name)
        else:
            found.append(outlines)
    if left_out:
        message = (
            f"Shapes that are no polygons on the image, or whose names cannot be used: "
            f"{named(left_out)}."
        )
        notes.append(Note(code="outlines.left-out", message=message, count=len(left_out)))
    return tuple(found), tuple(notes)


def _map(to_pixels: NDArray[np.float64]) -> NDArray[np.float64] | None:
    return None if np.array_equal(to_pixels, np.eye(3)) else to_pixels


def _has_polygons(source: GeoParquet) -> bool:
    """Whether the first geometries are polygons."""
    for batch in source.batches():
        types = shapely.get_type_id(batch.geometry)
        return bool(
            np.isin(types, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)).all()
        )
    return False

"""Outlines in GeoJSON, of tissue and of cells, read as a stream.

Specification: https://www.rfc-editor.org/rfc/rfc7946, of which files of HEST-1k and QuPath use
features in an object, or in a bare array. A feature may be all cells of a class: polygons are read
one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from stformat.errors import InputError, Problem
from stformat.model import Note, OutlineBatch, Outlines
from stformat.sources._json_stream import JsonStream
from stformat.sources._notes import counted

__all__ = ["read_geojson"]

BATCH = 4096
"""Polygons of a batch."""

_HOLE = "hole"
_GEOMETRIES = {"Polygon", "MultiPolygon"}


@dataclass(slots=True)
class _Feature:
    """What is kept of a feature: not its polygons."""

    labels: dict[str, str] = field(default_factory=dict)
    holes: frozenset[int] = frozenset()
    n_polygons: int = 0


def read_geojson(path: Path, name: str) -> tuple[Outlines | None, tuple[Note, ...]]:
    """Read polygons in full-resolution pixels.

    Parameters
    ----------
    path : pathlib.Path
        Features of the types Polygon and MultiPolygon.
    name : str
        Name of the outlines.

    Returns
    -------
    Outlines or None
        One row a polygon, in the order of the file, with the text columns ``class`` (of
        ``classification.name``), ``tissue_id`` and ``cell_id`` where a feature has them. Polygons
        that a feature lists under ``hole``, as HEST-1k's first version does, become holes of its
        other one. None where there is no polygon.
    tuple of Note
        ``outlines.none``, or ``outlines.degenerate`` with the number of rings of fewer than three
        places, which are left out.

    Raises
    ------
    InputError
        If the file is damaged or holds something else.

    Notes
    -----
    Memory: a batch of polygons, and a few bytes a feature. The file is read twice.
    """
    features: list[_Feature] = []
    n_degenerate = 0
    for index, polygon in _polygons(path, features):
        if polygon is None:
            n_degenerate += 1
        else:
            features[index].n_polygons += 1
    n_polygons = sum(feature.n_polygons for feature in features)
    notes = []
    if n_degenerate:
        rings = counted(n_degenerate, "outline has", "outlines have")
        message = f"{rings} fewer than three places in {path.name} and cannot be stored."
        notes.append(Note(code="outlines.degenerate", message=message, count=n_degenerate))
    if not n_polygons:
        notes.append(Note(code="outlines.none", message=f"{path.name} holds no outlines."))
        return None, tuple(notes)
    _check_holes(path, features)
    columns = sorted({column for feature in features for column in feature.labels})
    return (
        Outlines(
            name=name,
            columns=dict.fromkeys(columns, "text"),
            iter_batches=lambda: _batches(path, features, columns),
        ),
        tuple(notes),
    )


def _check_holes(path: Path, features: list[_Feature]) -> None:
    for number, feature in enumerate(features):
        if feature.holes and (
            feature.n_polygons - len(feature.holes) != 1
            or not feature.holes <= set(range(feature.n_polygons))
        ):
            raise _error(
                path,
                "a feature with holes must have one polygon around them",
                f"{feature.n_polygons} polygons, {len(feature.holes)} of them holes",
                number,
            )


def _batches(path: Path, features: list[_Feature], columns: list[str]) -> Iterator[OutlineBatch]:
    polygons: list[shapely.Polygon] = []
    owners: list[int] = []
    with_holes: dict[int, list[shapely.Polygon]] = {}
    seen = 0
    owner = -1
    for index, polygon in _polygons(path, []):
        seen = seen + 1 if index == owner else 0
        owner = index
        holes = features[index].holes
        if polygon is None:
            continue
        if holes:
            # One ring around, the others inside: put together once all of them are there.
            parts = with_holes.setdefault(index, [])
            parts.insert(len(parts) if seen in holes else 0, polygon)
            if len(parts) < features[index].n_polygons:
                continue
            outer, *inner = with_holes.pop(index)
            polygons.append(shapely.Polygon(outer.exterior, [hole.exterior for hole in inner]))
        else:
            polygons.append(polygon)
        owners.append(index)
        if len(polygons) == BATCH:
            yield _batch(polygons, owners, features, columns)
            polygons, owners = [], []
    if polygons:
        yield _batch(polygons, owners, features, columns)


def _batch(
    polygons: list[shapely.Polygon],
    owners: list[int],
    features: list[_Feature],
    columns: list[str],
) -> OutlineBatch:
    geometry = np.empty(len(polygons), dtype=object)
    geometry[:] = polygons
    labels: dict[str, NDArray[Any]] = {}
    for column in columns:
        labels[column] = np.array([features[owner].labels.get(column) for owner in owners], object)
    return OutlineBatch(geometry=geometry, columns=labels)


@contextmanager
def _opened(path: Path) -> Iterator[JsonStream]:
    try:
        file = path.open(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", path.name, "the file must be readable", str(error))
        ) from error
    with file:
        yield JsonStream(path, file)


def _polygons(path: Path, features: list[_Feature]) -> Iterator[tuple[int, shapely.Polygon | None]]:
    """Yield the number of a feature and a polygon of it, None for a degenerate one.

    `features` grows by each feature, complete when the next one begins.
    """
    with _opened(path) as stream:
        if stream.peek() == "[":
            yield from _features(path, stream, features)
        else:
            found = False
            for member in stream.members():
                if member == "features":
                    found = True
                    yield from _features(path, stream, features)
                else:
                    stream.value()
            if not found:
                raise _error(path, "a collection of features is needed", "no member 'features'")
        stream.end()


def _features(
    path: Path, stream: JsonStream, features: list[_Feature]
) -> Iterator[tuple[int, shapely.Polygon | None]]:
    for number in stream.items():
        features.append(_Feature())
        if stream.peek() != "{":
            raise _error(path, "a feature must be an object", repr(stream.value())[:40], number)
        for member in stream.members():
            if member == "geometry" and stream.peek() == "{":
                for polygon in _geometry(path, stream, number):
                    yield number, polygon
            elif member == "properties":
                _describe(path, features[-1], stream.value(), number)
            else:
                stream.value()


def _geometry(path: Path, stream: JsonStream, number: int) -> Iterator[shapely.Polygon | None]:
    kind: object = None
    n_parts = 0
    for member in stream.members():
        if member == "type":
            kind = stream.value()
        elif member == "coordinates" and stream.peek() == "[":
            rings = []
            for _ in stream.items():
                part = stream.value()
                n_parts += 1
                # Polygons of a multipolygon are one level deeper than rings of a polygon.
                if _depth(part) == 3:
                    yield _polygon(path, part, number)
                else:
                    rings.append(part)
            if rings:
                yield _polygon(path, rings, number)
        else:
            stream.value()
    if kind not in _GEOMETRIES and (kind is not None or n_parts):
        raise _error(path, "outlines must be polygons", repr(kind), number)


def _depth(value: object) -> int:
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth


def _polygon(path: Path, rings: list[Any], number: int) -> shapely.Polygon | None:
    try:
        outer, *holes = [[(float(x), float(y)) for x, y, *_ in ring] for ring in rings]
    except (TypeError, ValueError) as error:
        raise _error(path, "a polygon must be rings of places", str(error), number) from error
    if not all(
        math.isfinite(value) for ring in (outer, *holes) for place in ring for value in place
    ):
        raise _error(path, "a place must be two finite numbers", "NaN or infinity", number)
    if len(set(outer)) < 3:
        return None
    return shapely.Polygon(outer, [hole for hole in holes if len(set(hole)) >= 3])


def _describe(path: Path, feature: _Feature, properties: object, number: int) -> None:
    if properties is None:
        return
    if not isinstance(properties, dict):
        raise _error(path, "properties must be an object", repr(properties)[:40], number)
    classification = properties.get("classification")
    labels = {
        "class": classification.get("name") if isinstance(classification, dict) else classification,
        "tissue_id": properties.get("tissue_id"),
        "cell_id": properties.get("cell_id"),
    }
    if labels["class"] is None:
        labels["class"] = properties.get("class")
    feature.labels = {
        name: str(value)
        for name, value in labels.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    holes = properties.get(_HOLE)
    if isinstance(holes, list) and all(isinstance(hole, int) for hole in holes):
        feature.holes = frozenset(holes)


def _error(path: Path, expected: str, found: str, number: int | None = None) -> InputError:
    where = path.name if number is None else f"{path.name}, feature {number}"
    return InputError(Problem("outlines.geojson", where, expected, found[:200]))

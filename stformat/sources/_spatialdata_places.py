"""What of a SpatialData container lies on one image: tables of a slide, and its scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, InputError, Problem
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.model import Mpp, MppMethod, Note, Spots, Table
from stformat.sources._anndata import Frame
from stformat.sources._anndata_tables import build_tables, read_labels
from stformat.sources._lattice import nearest_distance
from stformat.sources._notes import named
from stformat.sources._spatialdata_container import Container
from stformat.sources._spatialdata_image import Raster
from stformat.sources._spatialdata_shapes import Areas, ShapesElement, read_areas
from stformat.sources._spatialdata_systems import Systems, area_scale, map_between
from stformat.sources._spatialdata_tables import Annotation, JoinedRows, join_rows, table_parts
from stformat.sources._visium_tables import table_name

__all__ = ["Canvas", "Placed", "choose_canvas", "place_table", "scale_of", "usable_shapes"]

type Affine = NDArray[np.float64]

MICRONS = "microns"
"""Coordinate system that is counted in microns, by custom."""

NO_PLACE = -1
"""Row and column of a spot of which no place on an array is known."""

CONTRADICTION = 0.05
"""Relative difference of two values of mpp that is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The pixels that coordinates of a slide are counted in, and what lies on them."""

    raster: Raster | None
    """The image, or None."""

    systems: Systems
    """Coordinate systems of the pixels."""

    annotations: tuple[tuple[Annotation, Affine], ...]
    """Tables, and the maps of their shapes into pixels; at least one."""

    system: str | None
    """The coordinate system that was asked for."""

    notes: tuple[Note, ...]
    """``tables.left-out``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Tables of one annotation, one a type of features."""

    annotation: Annotation
    """What it annotates."""

    to_pixels: Affine
    """Map of its shapes into pixels."""

    tables: tuple[Table, ...]
    """The tables; they share their spots."""

    is_exact: bool
    """Whether spots have the outlines of the shapes."""

    rows: NDArray[np.int64]
    """(n_obs,) rows of the shapes element."""

    notes: tuple[Note, ...]
    """What a user of them should know."""


def usable_shapes(container: Container, name: str) -> ShapesElement:
    """Return a shapes element.

    Raises
    ------
    InputError
        If it could not be opened.
    """
    element = container.shapes[name]
    if isinstance(element, InputError):
        raise element
    return element


def choose_canvas(
    container: Container,
    annotations: list[Annotation],
    *,
    given: bool,
    element: str | None,
    system: str | None,
) -> Canvas:
    """Choose the image, and the tables that lie on it.

    Parameters
    ----------
    container : Container
        The container.
    annotations : list of Annotation
        Tables that might be taken.
    given : bool
        Whether an image file is given, whose pixels are the coordinates of the system.
    element : str or None
        Name of the image to take.
    system : str or None
        Coordinate system to place elements through.

    Returns
    -------
    Canvas
        The image that the attribute of stformat names, else the only one that shares a coordinate
        system with a table; without images the coordinates of the system stand for pixels.

    Raises
    ------
    InputError
        If several images could be meant, the image is damaged, or no table lies on it.
    """
    raster = None if given else _choose_raster(container, annotations, element, system)
    systems = _common_system(container, annotations, system) if raster is None else raster.systems
    where = "the shapes" if raster is None else f"images/{raster.name}"
    fitting, left_out = [], []
    for annotation in annotations:
        shapes = usable_shapes(container, annotation.region)
        pair = f"shapes/{annotation.region} and {where}"
        to_pixels = map_between(shapes.systems, systems, wanted=system, where=pair)
        if to_pixels is None:
            left_out.append(annotation)
        else:
            fitting.append((annotation, to_pixels))
    if not fitting:
        raise InputError(
            Problem(
                "spatialdata.systems",
                container.path.name,
                f"shapes must share a coordinate system with {where}",
                f"{named(sorted(systems)) or 'none'} of {where}, and "
                + "; ".join(
                    f"{named(sorted(usable_shapes(container, one.region).systems))} of {one.region}"
                    for one in left_out
                ),
                "name one with coordinate_system=",
            )
        )
    notes = []
    if left_out:
        names = named([one.table for one in left_out])
        message = f"Tables whose shapes share no coordinate system with {where}: {names}."
        notes.append(Note(code="tables.left-out", message=message, count=len(left_out)))
    return Canvas(
        raster=raster,
        systems=systems,
        annotations=tuple(fitting),
        system=system,
        notes=tuple(notes),
    )


def _choose_raster(
    container: Container, annotations: list[Annotation], element: str | None, system: str | None
) -> Raster | None:
    images = container.images
    own = container.stformat
    if element is None and own is not None and own.image and own.image.element in images:
        element = own.image.element
    if element is not None:
        if element not in images:
            raise ImageError(
                Problem(
                    "spatialdata.no-image",
                    container.path.name,
                    f"the image {element!r} must be there",
                    named(list(images)) or "no image",
                )
            )
        candidates = [element]
    else:
        systems: set[str] = set()
        for one in annotations:
            systems |= set(usable_shapes(container, one.region).systems)
        systems = systems if system is None else systems & {system}
        candidates = [
            name
            for name, raster in images.items()
            if isinstance(raster, InputError) or systems & set(raster.systems)
        ]
    if len(candidates) > 1:
        raise ImageError(
            Problem(
                "image.several",
                container.path.name,
                "one image is needed",
                named(candidates),
                "name the histology image with image_element=",
            )
        )
    if not candidates:
        return None
    raster = images[candidates[0]]
    if isinstance(raster, InputError):
        raise raster
    return raster


def _common_system(
    container: Container, annotations: list[Annotation], system: str | None
) -> Systems:
    """Systems of coordinates that stand for pixels, where there is no image."""
    shapes = [usable_shapes(container, one.region) for one in annotations]
    names = sorted(set.intersection(*(set(one.systems) for one in shapes)) - {MICRONS})
    if system is not None:
        names = [system]
    elif "global" in names:
        names = ["global"]
    if len(names) != 1:
        raise InputError(
            Problem(
                "spatialdata.systems",
                container.path.name,
                "the coordinate system that stands for pixels must be known",
                named(names) or "no system that all tables share",
                "name one with coordinate_system=",
            )
        )
    return {names[0]: np.eye(3)}


def place_table(
    container: Container, annotation: Annotation, to_pixels: Affine, *, keeps_names: bool
) -> Placed:
    """Read a table and the places of its rows.

    Parameters
    ----------
    container : Container
        The container.
    annotation : Annotation
        The table and its shapes.
    to_pixels : (3, 3) ndarray of float64
        Map of the shapes into pixels.
    keeps_names : bool
        Whether table and shapes keep their names; else they are ``expression`` and ``spots``.

    Returns
    -------
    Placed
        Its tables.

    Raises
    ------
    InputError
        If table or shapes are damaged, or do not fit one another.
    """
    areas = read_areas(usable_shapes(container, annotation.region), to_pixels)
    parts = table_parts(container, annotation.table)
    obs = parts.obs
    joined = join_rows(obs, annotation, areas.index)
    keys = {annotation.region_key, annotation.instance_key}
    labels, label_notes = read_labels(obs, known=frozenset(keys))
    own = _own_table(container, annotation)
    spots, spot_notes = _spots(annotation, areas, obs, joined, own=own)
    is_identity = np.array_equal(to_pixels, np.eye(3))
    spots = replace(
        spots,
        region=annotation.region if keeps_names else "spots",
        xy=_exact(obs, joined.rows, spots.xy) if own and is_identity else spots.xy,
        annotations={name: values[joined.rows] for name, values in labels.items()},
    )

    def name(kind: str) -> str:
        if not keeps_names:
            return table_name(kind)
        same = table_name(kind) in {"expression", annotation.table} or own is not None
        return annotation.table if same else f"{annotation.table}_{table_name(kind)}"

    is_all = len(joined.rows) == len(obs)
    tables, table_notes = build_tables(
        parts,
        spots,
        rows=None if is_all else joined.rows,
        key_kind=own.gene_key if own else None,
        name=name,
    )
    return Placed(
        annotation=annotation,
        to_pixels=to_pixels,
        tables=tables,
        is_exact=areas.is_exact,
        rows=joined.places,
        notes=(*joined.notes, *areas.notes, *spot_notes, *label_notes, *table_notes),
    )


def _own_table(container: Container, annotation: Annotation) -> TableAttributes | None:
    """Return what stformat said of a table, where it still annotates the same shapes."""
    tables = container.stformat.tables if container.stformat else ()
    for table in tables:
        if (table.name, table.region) == (annotation.table, annotation.region):
            return table
    return None


def _spots(
    annotation: Annotation,
    areas: Areas,
    obs: Frame,
    joined: JoinedRows,
    *,
    own: TableAttributes | None,
) -> tuple[Spots, list[Note]]:
    rows, places = joined.rows, joined.places
    notes = []
    array = [obs.numbers("array_row"), obs.numbers("array_col")]
    has_array = all(values is not None and np.isfinite(values[rows]).all() for values in array)
    if not has_array:
        message = f"{obs.where} has no array_row and array_col: both are {NO_PLACE}."
        notes.append(Note(code="positions.no-array", message=message, count=len(rows)))
    array_row, array_col = (
        np.rint(values[rows]).astype(np.int64)
        if values is not None and has_array
        else np.full(len(rows), NO_PLACE, dtype=np.int64)
        for values in array
    )
    in_tissue = np.ones(len(rows), dtype=np.bool_)
    flags = obs.numbers("in_tissue")
    if flags is not None:
        if not np.isin(flags[rows], (0.0, 1.0)).all():
            raise InputError(
                Problem(
                    "positions.not-a-flag", f"{obs.where}/in_tissue", "0 or 1 is needed", "others"
                )
            )
        in_tissue = flags[rows].astype(np.bool_)
    section = obs.text("section")
    xy = areas.xy[places]
    return (
        Spots(
            region=annotation.region,
            shape=areas.shape,
            barcodes=obs.index[rows],
            xy=xy,
            radius_px=areas.radius_px[places],
            array_row=array_row,
            array_col=array_col,
            in_tissue=in_tissue,
            section=None if section is None else section[rows],
            pitch_px=own.pitch_px if own else nearest_distance(xy),
            pitch_um=own.pitch_um if own else None,
            diameter_um=own.diameter_um if own else None,
        ),
        notes,
    )


def _exact(obs: Frame, rows: NDArray[np.int64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres as obs has them, which corners of a square give to the last bits only."""
    columns = obs.numbers("x"), obs.numbers("y")
    if columns[0] is None or columns[1] is None:
        return xy
    exact = np.stack([columns[0][rows], columns[1][rows]], axis=1)
    return exact if np.allclose(exact, xy, rtol=1e-9, atol=1e-6) else xy


def scale_of(
    container: Container, canvas: Canvas, *, given: float | None, tag_mpp: float | None
) -> tuple[Mpp, tuple[Note, ...]]:
    """Find microns per pixel.

    Parameters
    ----------
    container : Container
        The container.
    canvas : Canvas
        Its pixels.
    given : float or None
        Microns per pixel as given.
    tag_mpp : float or None
        Microns per pixel as tags of an image file say.

    Returns
    -------
    Mpp
        As given, else as the coordinate system ``microns`` says (method ``"file"``; where stformat
        wrote the container, its own method), else as the tags say.
    tuple of Note
        ``mpp.contradiction``, ``mpp.unknown``.

    Raises
    ------
    InputError
        If the map into ``microns`` is needed and is no affine map.
    """
    own = container.stformat.mpp if container.stformat else None
    from_system = _microns(container, canvas)
    is_own = own is not None and from_system is not None and own.value is not None
    if is_own and own is not None and own.value is not None and from_system is not None:
        is_own = abs(from_system / own.value - 1) < 1e-9
    candidates: dict[MppMethod, float | None] = {
        "given": given,
        "file": from_system,
        "image-tags": tag_mpp,
    }
    known = {method: value for method, value in candidates.items() if value is not None}
    unknown: tuple[MppMethod, None] = ("unknown", None)
    method, value = next(iter(known.items()), unknown)
    if value is None:
        message = "Microns per pixel are unknown: pass --mpp."
        return Mpp(), (Note(code="mpp.unknown", message=message),)
    notes = tuple(
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.5g} ({method}) is taken, {other:.5g} ({name}) "
                f"differs by {abs(other / value - 1):.0%}."
            ),
        )
        for name, other in known.items()
        if abs(other / value - 1) > CONTRADICTION
    )
    if is_own and own is not None and method == "file":
        return Mpp(value=own.value, method=own.method, residual=own.residual), notes
    return Mpp(value=value, method=method), notes


def _microns(container: Container, canvas: Canvas) -> float | None:
    """Microns per pixel, as the image says, or else the shapes of a table."""
    maps: Mapping[str, object] = canvas.systems
    into = maps.get(MICRONS)
    if isinstance(into, Problem):
        raise InputError(into)
    if isinstance(into, np.ndarray):
        return _uniform(into)
    for annotation, to_pixels in canvas.annotations:
        shapes = usable_shapes(container, annotation.region)
        into = shapes.systems.get(MICRONS)
        if isinstance(into, np.ndarray):
            return _uniform(np.linalg.solve(to_pixels.T, into.T).T)
    return None


def _uniform(affine: Affine) -> float | None:
    scale, is_uniform = area_scale(affine)
    return scale if is_uniform else None

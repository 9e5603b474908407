"""SpatialData containers: tables that annotate circles, squares or polygons, on an image or none.

A container is read without the library spatialdata, from its files, piece by piece. A store of
stformat is a container, and so is a copy that another tool wrote of one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from stformat.errors import InputError, Problem
from stformat.model import Descriptors, Image, Note, Outlines, SlideRecord, SourceFile, Table
from stformat.sources._bytes import in_order, source_directory
from stformat.sources._image import open_image
from stformat.sources._kinds import SourceKind, SourceRequest, descriptors, focal_plane
from stformat.sources._notes import counted, named, outside_notes
from stformat.sources._spatialdata_container import Container, evidence, open_container
from stformat.sources._spatialdata_image import Raster, as_image
from stformat.sources._spatialdata_outlines import other_outlines, own_outlines
from stformat.sources._spatialdata_places import (
    Canvas,
    Placed,
    choose_canvas,
    place_table,
    scale_of,
)
from stformat.sources._spatialdata_tables import choose_annotations

__all__ = ["KIND", "read_container"]

PREFERRED = "square_008um"
"""Part of the name of the table that is the default one where bins of several sizes are there."""


def read_spatialdata(request: SourceRequest) -> SlideRecord:
    """Read one slide from a SpatialData container.

    Parameters
    ----------
    request : SourceRequest
        Options of its own: ``table`` and ``region``, names of the only table and of the only
        shapes to take; ``image_element``, the name of the image where several lie on the tables;
        ``coordinate_system``, through which elements are placed, by default ``global``;
        ``focal_plane`` of an image that is given as a file, whose pixels are then the coordinates
        of that system.

    Returns
    -------
    SlideRecord
        Every table that annotates shapes which lie on the image; see `read_container`.

    Raises
    ------
    InputError
        If the container is damaged or ambiguous, or says what a slide cannot hold.
    """
    return read_container(open_container(request.path), request, is_on_disk=True)


KIND = SourceKind(
    name="spatialdata",
    options=("table", "region", "image_element", "coordinate_system", "focal_plane"),
    looks_like=evidence,
    read=read_spatialdata,
)
"""SpatialData as a kind of source."""


def read_container(
    container: Container, request: SourceRequest, *, is_on_disk: bool
) -> SlideRecord:
    """Make a slide of a container.

    Parameters
    ----------
    container : Container
        Its elements.
    request : SourceRequest
        As for `read_spatialdata`.
    is_on_disk : bool
        Whether the container is the source; else it holds what was in memory, and is none.

    Returns
    -------
    SlideRecord
        A single table is called ``expression`` and its region ``spots``; several keep their names,
        as do those that stformat wrote. Polygons that are no squares become circles of the same
        area, and are kept as outlines, ``<region>_outlines``, as are all other polygons.

    Raises
    ------
    InputError
        As `read_spatialdata` does.

    Notes
    -----
    Memory: centres, labels and names of rows; a block of a matrix; a row of chunks of the image.
    """
    options = {
        name: _text(request, name)
        for name in ("table", "region", "image_element", "coordinate_system")
    }
    annotations = choose_annotations(container, table=options["table"], region=options["region"])
    canvas = choose_canvas(
        container,
        annotations,
        given=request.image is not None,
        element=options["image_element"],
        system=options["coordinate_system"],
    )
    is_named = len(canvas.annotations) > 1 or container.stformat is not None
    placed = [
        place_table(container, annotation, to_pixels, keeps_names=is_named)
        for annotation, to_pixels in canvas.annotations
    ]
    about = _about(container, request)
    parts = _parts(container, canvas)
    source = source_directory(container.path, parts) if is_on_disk else None
    image = _image(container, canvas.raster, request, about.stain, source)
    tables = tuple(table for one in placed for table in one.tables)
    mpp, mpp_notes = scale_of(
        container, canvas, given=request.mpp, tag_mpp=image.tag_mpp if image else None
    )
    outlines, outline_notes = _outlines(container, canvas, placed)
    sources = [found for found in (source, image and image.source) if found]
    return SlideRecord(
        slide_id=request.slide_id or _slide_id(container),
        descriptors=about,
        tables=tables,
        default_table=_default(container, tables),
        image=image,
        mpp=mpp,
        sources=in_order(sources),
        outlines=outlines,
        notes=(
            *_old_notes(container),
            *canvas.notes,
            *(note for one in placed for note in one.notes),
            *mpp_notes,
            *outline_notes,
            *_left_out(container, canvas),
            *(image.notes if image else _NO_IMAGE),
            *(note for one in placed for note in _outside(one.tables[0], image)),
        ),
    )


_NO_IMAGE = (Note(code="image.none", message="The source has no image: the slide has no tiles."),)


def _text(request: SourceRequest, name: str) -> str | None:
    value = request.options.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise InputError(Problem("option.text", name, "a name is needed", repr(value)))
    return value


def _about(container: Container, request: SourceRequest) -> Descriptors:
    """Descriptors as given, else as stformat once kept them."""
    known: dict[str, object] = {}
    if container.stformat is not None:
        kept = container.stformat.model_dump()
        known = {name: kept[name] for name in _DESCRIPTORS if kept.get(name) is not None}
    return descriptors(known | dict(request.options), technology="unknown")


_DESCRIPTORS = tuple(field.name for field in fields(Descriptors))


def _parts(container: Container, canvas: Canvas) -> list[str]:
    """Elements that the slide is made of; of an image level 0 alone would do, all are taken."""
    found = ["zarr.json", ".zattrs"]
    if canvas.raster is not None:
        found.append(f"images/{canvas.raster.name}")
    found += [f"shapes/{name}" for name in container.shapes]
    for annotation, _ in canvas.annotations:
        found += [f"tables/{annotation.table}", f"table/{annotation.table}"]
    return found


def _image(
    container: Container,
    raster: Raster | None,
    request: SourceRequest,
    stain: Literal["he", "if"],
    source: SourceFile | None,
) -> Image | None:
    if request.image is not None:
        return open_image(
            request.image,
            scratch=request.scratch,
            stain=stain,
            focal_plane=focal_plane(request.options),
        )
    if raster is None:
        return None
    own = container.stformat.image if container.stformat else None
    is_own = own is not None and own.element == raster.name
    return as_image(
        raster,
        stain=stain,
        background=own.background if own and is_own else None,
        orientation=own.orientation if own and is_own else 1,
        source=source,
    )


def _outlines(
    container: Container, canvas: Canvas, placed: list[Placed]
) -> tuple[tuple[Outlines, ...], tuple[Note, ...]]:
    own = [outlines for one in placed for outlines in own_outlines(container, one)]
    taken = {table.name.lower() for one in placed for table in one.tables}
    taken |= {one.tables[0].spots.region.lower() for one in placed}
    taken |= {outlines.name.lower() for outlines in own} | {"he"}
    others, notes = other_outlines(container, canvas, taken)
    return (*own, *others), notes


def _outside(table: Table, image: Image | None) -> tuple[Note, ...]:
    return outside_notes(table.spots.xy, table.spots.barcodes, image)


def _slide_id(container: Container) -> str:
    if container.stformat is not None:
        return container.stformat.slide_id
    return container.path.name.removesuffix(".zarr") or container.path.name


def _default(container: Container, tables: tuple[Table, ...]) -> str:
    names = [table.name for table in tables]
    if container.stformat is not None and container.stformat.default_table in names:
        return container.stformat.default_table
    return next((name for name in names if PREFERRED in name), names[0])


def _old_notes(container: Container) -> tuple[Note, ...]:
    """Return what an earlier conversion noted, but for what this one finds for itself."""
    if container.stformat is None:
        return ()
    again = ("mpp.", "image.none", "spots.outside-image", "outlines.", "positions.no-array")
    return tuple(
        Note(code=note.code, message=note.message, count=note.count)
        for note in container.stformat.notes
        if not note.code.startswith(again)
    )


def _left_out(container: Container, canvas: Canvas) -> tuple[Note, ...]:
    """Name the elements that are no part of a slide."""
    taken = {annotation.table for annotation, _ in canvas.annotations}
    used = canvas.raster.name if canvas.raster else None
    names = [
        *(f"images/{name}" for name in container.images if name != used),
        *container.others,
        *(f"tables/{name}" for name in container.tables if name not in taken),
    ]
    if not names:
        return ()
    elements = counted(len(names), "element is no part", "elements are no part")
    message = f"{elements} of the slide: {named(names)}."
    return (Note(code="elements.left-out", message=message, count=len(names)),)

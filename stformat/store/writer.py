"""A slide's record written as a store: every element, then the root; not yet committed.

Specification: spec/stformat-0.1.md, "Layout".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stformat.errors import InputError, Problem
from stformat.metadata import ngff, spatialdata_zarr
from stformat.metadata.stformat_v0_1 import (
    FORMAT_VERSION,
    ImageAttributes,
    MppAttributes,
    NoteAttributes,
    SectionAttributes,
    SourceAttributes,
    StformatAttributes,
    TableAttributes,
)
from stformat.model import (
    Image,
    Progress,
    ProgressEvent,
    SlideRecord,
    Spots,
    Table,
    silent,
)
from stformat.store import layout
from stformat.store.image_writer import write_pyramid
from stformat.store.nodes import consolidate, write_group
from stformat.store.shapes_writer import write_shapes
from stformat.store.table_writer import OBS_COLUMNS, write_table

__all__ = ["STEPS", "validate_record", "write_slide"]

STEPS = ("image", "shapes", "counts", "matrix", "by-gene", "table", "root", "consolidate")
"""Names of the steps in progress events, in the order in which they begin; with several tables
those from ``"counts"`` to ``"table"`` repeat."""

_SOFTWARE = ("stformat", "numpy", "zarr", "numcodecs", "anndata", "geopandas", "pyarrow")

_NAME = re.compile(r"(?!__)[A-Za-z0-9_.-]+(?<!^\.)(?<!^\.\.)")


def write_slide(record: SlideRecord, directory: Path, *, progress: Progress = silent) -> None:
    """Fill an empty directory with all of a store but its manifest and its commit record.

    The same record gives the same bytes, whatever the number of threads.

    Parameters
    ----------
    record : SlideRecord
        The slide.
    directory : pathlib.Path
        Existing empty directory.
    progress : Progress
        Told of every step of `STEPS`; what it raises ends the writing and is passed on.

    Raises
    ------
    InputError
        If the record contradicts itself: see `validate_record`; or its image or counts turn out
        not to be what they promise.
    StoreWriteError
        If the file system refuses.
    """
    problems = validate_record(record)
    if problems:
        raise InputError(*problems)
    image, mpp = record.image, record.mpp.value
    n_levels = 0 if image is None else _write_image(directory, image, mpp, progress)
    orders = {}
    progress(ProgressEvent(step="shapes"))
    for spots in _regions(record).values():
        orders[spots.region] = layout.spatial_order(spots.xy)
        write_shapes(directory / "shapes" / spots.region, spots, orders[spots.region], mpp=mpp)
    write_group(directory / "shapes")
    tables = tuple(
        write_table(
            directory,
            table,
            orders[table.spots.region],
            image_shape=None if image is None else image.shape[1:],
            progress=progress,
        )
        for table in record.tables
    )
    write_group(directory / "tables")
    write_group(directory / "stformat")
    progress(ProgressEvent(step="root"))
    attributes = _stformat_attributes(record, n_levels, tables)
    write_group(
        directory,
        {**spatialdata_zarr.root_attributes(), "stformat": attributes.model_dump(mode="json")},
    )
    progress(ProgressEvent(step="consolidate"))
    consolidate(directory)


def _write_image(directory: Path, image: Image, mpp: float | None, progress: Progress) -> int:
    """Write ``images/``: the pyramid, SpatialData's element and the strict OME-NGFF view."""
    element = directory / "images" / layout.IMAGE_ELEMENT
    n_levels = write_pyramid(element, image, progress=progress)
    view = ngff.image_view_attributes(
        element=layout.IMAGE_ELEMENT,
        n_levels=n_levels,
        channel_names=image.channel_names,
        dtype=image.dtype,
        mpp=mpp,
    )
    ngff.validate_image_view(view)
    write_group(
        element,
        spatialdata_zarr.image_attributes(
            element=layout.IMAGE_ELEMENT,
            n_levels=n_levels,
            channel_names=image.channel_names,
            mpp=mpp,
        ),
    )
    write_group(directory / "images", view)
    return n_levels


def _regions(record: SlideRecord) -> dict[str, Spots]:
    """Capture areas by region: tables of one region share them."""
    return {table.spots.region: table.spots for table in record.tables}


def _stformat_attributes(
    record: SlideRecord, n_levels: int, tables: tuple[TableAttributes, ...]
) -> StformatAttributes:
    about, image = record.descriptors, record.image
    sections = sorted(
        {
            name
            for table in record.tables
            if table.spots.section is not None
            for name in table.spots.section
            if name is not None
        }
    )
    return StformatAttributes(
        format_version=FORMAT_VERSION,
        slide_id=record.slide_id,
        technology=about.technology,
        stain=about.stain,
        species=about.species,
        tissue=about.tissue,
        disease=about.disease,
        donor=about.donor,
        study=about.study,
        licence=about.licence,
        citation=about.citation,
        sections=tuple(SectionAttributes(name=name) for name in sections),
        mpp=MppAttributes(
            value=record.mpp.value, method=record.mpp.method, residual=record.mpp.residual
        ),
        image=None
        if image is None
        else ImageAttributes(
            element=layout.IMAGE_ELEMENT,
            n_levels=n_levels,
            background=image.background,
            orientation=image.orientation,
            source_codec=image.codec,
            source=None if image.source is None else image.source.name,
        ),
        tables=tables,
        default_table=record.default_table,
        sources=tuple(
            SourceAttributes(name=source.name, size=source.size, sha256=source.sha256)
            for source in sorted(record.sources, key=lambda source: source.name)
        ),
        notes=tuple(
            NoteAttributes(code=note.code, message=note.message, count=note.count)
            for note in record.notes
        ),
        software={name: version(name) for name in _SOFTWARE},
    )


def validate_record(record: SlideRecord) -> list[Problem]:
    """Return what keeps a record from being written; nothing is read from its image or counts.

    Parameters
    ----------
    record : SlideRecord
        The slide.

    Returns
    -------
    list of Problem
        Empty where the record is consistent: element names are usable and unique, arrays of one
        table agree in length, barcodes and gene keys are unique, centres are finite, radii are
        positive, annotation names are usable and free.
    """
    problems = list(_name_problems(record))
    for table in record.tables:
        problems += _table_problems(table)
    if record.image is not None:
        problems += _image_problems(record.image)
    return problems


def _name_problems(record: SlideRecord) -> Iterator[Problem]:
    tables = [table.name for table in record.tables]
    if record.default_table not in tables:
        yield Problem(
            "record.default-table",
            "default_table",
            f"the default table must be one of {', '.join(tables) or 'at least one table'}",
            repr(record.default_table),
        )
    names = [*tables, *_regions(record)]
    if record.image is not None:
        names.append(layout.IMAGE_ELEMENT)
    yield from _unusable("element", names)
    for region, spots in _regions(record).items():
        for table in record.tables:
            other = table.spots
            if other.region == region and not (
                np.array_equal(other.barcodes, spots.barcodes)
                and np.array_equal(other.xy, spots.xy)
            ):
                yield Problem(
                    "record.region",
                    f"table {table.name}",
                    f"tables of the region {region} must have the same spots in the same order",
                    "other barcodes or positions",
                )


def _table_problems(table: Table) -> Iterator[Problem]:
    spots, genes = table.spots, table.genes
    n_obs, n_vars = spots.n_obs, genes.n_vars
    where = f"table {table.name}"
    shapes = {
        "counts": (table.counts.shape, (n_obs, n_vars)),
        "xy": (spots.xy.shape, (n_obs, 2)),
        "radius_px": (spots.radius_px.shape, (n_obs,)),
        "array_row": (spots.array_row.shape, (n_obs,)),
        "array_col": (spots.array_col.shape, (n_obs,)),
        "in_tissue": (spots.in_tissue.shape, (n_obs,)),
        **{name: (labels.shape, (n_obs,)) for name, labels in spots.annotations.items()},
        **{
            name: (getattr(genes, name).shape, (n_vars,))
            for name in ("gene_id", "gene_name", "feature_type", "genome")
        },
    }
    if spots.section is not None:
        shapes["section"] = (spots.section.shape, (n_obs,))
    for name, (found, expected) in shapes.items():
        if found != expected:
            yield Problem(
                "record.shape", where, f"{name} must have the shape {expected}", str(found)
            )
    for name, keys in (("barcodes", spots.barcodes), ("gene keys", genes.keys)):
        repeated = [key for key, n in Counter(keys.tolist()).items() if n > 1]
        if repeated:
            yield Problem(
                "record.duplicates",
                where,
                f"{name} must be unique",
                f"{len(repeated)} that repeat, such as {repeated[0]!r}",
            )
    if not np.isfinite(spots.xy).all():
        yield Problem("record.xy", where, "centres must be finite", "NaN or infinity")
    if not ((spots.radius_px > 0) & np.isfinite(spots.radius_px)).all():
        yield Problem("record.radius", where, "radii must be positive and finite", "others")
    yield from _unusable(f"{where}, annotation", [*OBS_COLUMNS, *spots.annotations])


def _image_problems(image: Image) -> Iterator[Problem]:
    where = "image" if image.source is None else image.source.name
    if min(image.shape) < 1 or image.dtype not in (np.uint8, np.uint16):
        yield Problem(
            "record.image",
            where,
            "an image must be uint8 or uint16 with at least one pixel",
            f"{image.dtype} of shape {image.shape}",
        )
    if len(image.channel_names) != image.shape[0]:
        yield Problem(
            "record.channels",
            where,
            f"{image.shape[0]} channel names are needed",
            str(len(image.channel_names)),
        )


def _unusable(kind: str, names: list[str]) -> Iterator[Problem]:
    """Names that SpatialData refuses: odd characters, or equal to another but for case."""
    repeats = Counter(name.lower() for name in names)
    for name in names:
        if not _NAME.fullmatch(name):
            yield Problem(
                "record.name",
                f"{kind} {name!r}",
                "a name must consist of letters, digits and _ - . and not start with __",
                repr(name),
            )
        if repeats[name.lower()] > 1:
            yield Problem(
                "record.name-repeats",
                f"{kind} {name!r}",
                "a name must differ from every other in more than case",
                f"{repeats[name.lower()]} times",
            )

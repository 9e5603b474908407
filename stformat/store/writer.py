"""A slide's record written as a store: every element, then the root; not yet committed.

Specification: spec/stformat-0.1.md, "Layout and names".
"""

from __future__ import annotations

from pathlib import Path

from stformat.errors import InputError
from stformat.metadata import ngff, spatialdata_zarr
from stformat.model import Image, Progress, ProgressEvent, SlideRecord, silent
from stformat.store import layout
from stformat.store.description import describe_slide
from stformat.store.image_writer import write_pyramid
from stformat.store.nodes import consolidate, write_group
from stformat.store.record_checks import regions, validate_record
from stformat.store.shapes_writer import write_shapes
from stformat.store.table_writer import write_table

__all__ = ["STEPS", "write_slide"]

STEPS = ("image", "shapes", "counts", "matrix", "by-gene", "table", "root", "consolidate")
"""Names of the steps in progress events, in the order in which they begin; with several tables
those from ``"counts"`` to ``"table"`` repeat, without an image there is no ``"image"``."""


def write_slide(record: SlideRecord, directory: Path, *, progress: Progress = silent) -> None:
    """Fill an empty directory with all of a store but its manifest and its commit record.

    The same record gives the same bytes, whatever the number of threads.

    Parameters
    ----------
    record : SlideRecord
        The slide. Its image and its counts are read once.
    directory : pathlib.Path
        Existing empty directory.
    progress : Progress
        Told of every step of `STEPS`; what it raises ends the writing and is passed on.

    Raises
    ------
    InputError
        If the record contradicts itself (see `stformat.store.record_checks.validate_record`), or
        its image or counts turn out not to be what they promise.
    StoreWriteError
        If the file system refuses. What was written so far stays: the caller owns `directory`.

    Notes
    -----
    Memory: that of `stformat.store.image_writer.write_pyramid`, then that of
    `stformat.store.counts_writer.write_counts` for one table after another.
    """
    problems = validate_record(record)
    if problems:
        raise InputError(*problems)
    image, mpp = record.image, record.mpp.value
    if image is not None:
        _write_image(directory / "images", image, mpp, progress)
    progress(ProgressEvent(step="shapes"))
    orders = {}
    for region, spots in regions(record).items():
        orders[region] = layout.spatial_order(spots.xy)
        write_shapes(directory / "shapes" / region, spots, orders[region], mpp=mpp)
    write_group(directory / "shapes")
    sums = {}
    for table in record.tables:
        summary = write_table(
            directory,
            table,
            orders[table.spots.region],
            image_shape=None if image is None else image.shape[1:],
            progress=progress,
        )
        sums[table.name] = (summary.nnz, summary.total)
    write_group(directory / "tables")
    write_group(directory / "stformat")
    progress(ProgressEvent(step="root"))
    description = describe_slide(record, sums).model_dump(mode="json")
    write_group(directory, spatialdata_zarr.root_attributes() | {"stformat": description})
    progress(ProgressEvent(step="consolidate"))
    consolidate(directory)


def _write_image(images: Path, image: Image, mpp: float | None, progress: Progress) -> None:
    """Write ``images/``: the pyramid, SpatialData's element and the strict OME-NGFF view."""
    name = layout.IMAGE_ELEMENT
    n_levels = write_pyramid(images / name, image, progress=progress)
    view = ngff.image_view_attributes(
        element=name,
        n_levels=n_levels,
        channel_names=image.channel_names,
        dtype=image.dtype,
        mpp=mpp,
    )
    ngff.validate_image_view(view)
    element = spatialdata_zarr.image_attributes(
        element=name, n_levels=n_levels, channel_names=image.channel_names, mpp=mpp
    )
    write_group(images / name, element)
    write_group(images, view)

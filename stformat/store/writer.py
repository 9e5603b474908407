"""A slide's record written as a store: every element, then the root; not yet committed.

Specification: spec/stformat-0.1.md, "Layout and names".
"""

from __future__ import annotations

from pathlib import Path

from stformat.digests import digests_ahead
from stformat.errors import InputError
from stformat.metadata import ngff, spatialdata_zarr
from stformat.model import Image, Progress, ProgressEvent, SlideRecord, Table, silent
from stformat.store import layout
from stformat.store.counts_writer import CountsSummary
from stformat.store.description import describe_slide
from stformat.store.image_codecs import (
    ZSTD,
    ImageCodec,
    chunk_edge,
    codec_problem,
    with_codec_notes,
)
from stformat.store.image_writer import write_pyramid
from stformat.store.journal import NO_JOURNAL, Journal, open_journal
from stformat.store.nodes import consolidate, write_group
from stformat.store.outlines_writer import write_outlines
from stformat.store.record_checks import regions, validate_record
from stformat.store.record_key import record_key
from stformat.store.shapes_writer import write_shapes
from stformat.store.table_writer import read_summary, write_table

__all__ = ["STEPS", "resume_slide", "write_slide"]

STEPS = ("image", "shapes", "counts", "matrix", "by-gene", "table", "root", "consolidate")
"""Names of the steps in progress events, in the order in which they begin; with several tables
those from ``"counts"`` to ``"table"`` repeat, without an image there is no ``"image"``."""


def write_slide(
    record: SlideRecord, directory: Path, *, codec: ImageCodec = ZSTD, progress: Progress = silent
) -> None:
    """Fill an empty directory with all of a store but its manifest and its commit record.

    The same record gives the same bytes, whatever the number of threads.

    Parameters
    ----------
    record : SlideRecord
        The slide. Its image and its counts are read once.
    directory : pathlib.Path
        Existing empty directory.
    codec : ImageCodec, default: zstd
        How the image is stored; one that loses something adds a note to the slide's.
    progress : Progress
        Told of every step of `STEPS`; what it raises ends the writing and is passed on.

    Raises
    ------
    InputError
        If the record contradicts itself (see `stformat.store.record_checks.validate_record`), its
        image is none that `codec` can store, or image or counts turn out not to be what they
        promise.
    StoreWriteError
        If the file system refuses. What was written so far stays: the caller owns `directory`.

    See Also
    --------
    resume_slide : For a writing that may be interrupted, and continued later.

    Notes
    -----
    Memory: that of `stformat.store.image_writer.write_pyramid`, then that of
    `stformat.store.counts_writer.write_counts` for one table after another.
    """
    _check_record(record, codec)
    with digests_ahead(source.digest for source in record.sources):
        _fill(with_codec_notes(record, codec), directory, codec, NO_JOURNAL, progress)


def resume_slide(
    record: SlideRecord, directory: Path, *, codec: ImageCodec = ZSTD, progress: Progress = silent
) -> None:
    """Fill a directory as `write_slide` does, and go on where an interrupted call stopped.

    Parameters
    ----------
    record : SlideRecord
        The slide. Its image is read unless all of it was finished, its counts likewise.
    directory : pathlib.Path
        Existing directory. Of what is in it, the rows of shards of the image, the shapes of a
        region and the tables are kept that an earlier call finished for the same record and whose
        files are still whole; everything else is removed. The journal that says so is left in it,
        hidden; it says nothing yet while the digest of a large source is being worked out.
    codec : ImageCodec, default: zstd
        As `write_slide` does; what was finished under another codec is not kept.
    progress : Progress
        Told of ``"resume"`` where something may be kept, then of every step of `STEPS`, of those
        that were finished before as done; what it raises ends the writing and is passed on.

    Raises
    ------
    InputError, StoreWriteError
        As `write_slide` does.
    StoreReadError
        If the file system refuses to read what was written.
    """
    _check_record(record, codec)
    record = with_codec_notes(record, codec)
    key = record_key(record, codec)
    with digests_ahead(source.digest for source in record.sources):
        journal = open_journal(directory, key, progress=progress)
        _fill(record, directory, codec, journal, progress)


def _check_record(record: SlideRecord, codec: ImageCodec) -> None:
    problems = validate_record(record)
    if record.image is not None:
        problem = codec_problem(codec, record.image)
        problems += [] if problem is None else [problem]
    if problems:
        raise InputError(*problems)


def _fill(
    record: SlideRecord, directory: Path, codec: ImageCodec, journal: Journal, progress: Progress
) -> None:
    image, mpp = record.image, record.mpp.value
    if image is not None:
        _write_image(directory / "images", image, mpp, journal, progress, codec=codec)
    progress(ProgressEvent(step="shapes"))
    orders = {}
    for region, spots in regions(record).items():
        orders[region] = layout.spatial_order(spots.xy)
        shapes = directory / "shapes" / region
        if not journal.is_finished(shapes):
            write_shapes(shapes, spots, orders[region], mpp=mpp)
            journal.finish(shapes)
    for outlines in record.outlines:
        shapes = directory / "shapes" / outlines.name
        if not journal.is_finished(shapes):
            write_outlines(shapes, outlines, mpp=mpp)
            journal.finish(shapes)
    write_group(directory / "shapes")
    sums = {}
    for table in record.tables:
        part = directory / "tables" / table.name, directory / "stformat" / table.name
        if journal.is_finished(*part):
            summary = _finished_table(directory, table, progress)
        else:
            summary = write_table(
                directory,
                table,
                orders[table.spots.region],
                image_shape=None if image is None else image.shape[1:],
                progress=progress,
            )
            journal.finish(*part)
        sums[table.name] = (summary.nnz, summary.total)
    write_group(directory / "tables")
    write_group(directory / "stformat")
    progress(ProgressEvent(step="root"))
    description = describe_slide(record, sums).model_dump(mode="json")
    journal.save()
    write_group(directory, spatialdata_zarr.root_attributes() | {"stformat": description})
    progress(ProgressEvent(step="consolidate"))
    consolidate(directory)


def _write_image(
    images: Path,
    image: Image,
    mpp: float | None,
    journal: Journal,
    progress: Progress,
    *,
    codec: ImageCodec,
) -> None:
    """Write ``images/``: the pyramid, SpatialData's element and the strict OME-NGFF view."""
    if journal.is_finished(images):
        height = image.shape[1]
        progress(ProgressEvent(step="image", done=height, total=height, unit="px rows"))
        return
    name = layout.IMAGE_ELEMENT
    n_levels = write_pyramid(
        images / name,
        image,
        codec=codec,
        chunk_px=chunk_edge(codec, image),
        journal=journal,
        progress=progress,
    )
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
    journal.finish(images)


def _finished_table(directory: Path, table: Table, progress: Progress) -> CountsSummary:
    """Announce the steps of a table that an earlier call finished; return its sums."""
    n_obs, n_vars = table.counts.shape
    for step, total, unit in (
        ("counts", n_obs, "rows"),
        ("matrix", n_obs, "rows"),
        ("by-gene", n_vars, "genes"),
        ("table", 0, ""),
    ):
        progress(ProgressEvent(step=step, done=total, total=total, unit=unit))
    return read_summary(directory, table.name)

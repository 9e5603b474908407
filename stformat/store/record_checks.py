"""What must hold of a record before anything of it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from stformat.errors import Problem
from stformat.metadata.stformat_v0_1 import ElementName
from stformat.model import Image, SlideRecord, Spots, Table
from stformat.store import layout
from stformat.store.description import describe_ahead
from stformat.text_keys import repeated_row

__all__ = ["OBS_COLUMNS", "regions", "validate_record"]

OBS_COLUMNS = (
    "barcode",
    "region",
    "spot_id",
    "x",
    "y",
    "array_row",
    "array_col",
    "in_tissue",
    "in_image",
    "total_counts",
    "n_genes",
    "source_index",
    "section",
)
"""Index and columns of obs that the format defines; annotations may not use these names."""

_NAME: TypeAdapter[str] = TypeAdapter(ElementName)


def regions(record: SlideRecord) -> dict[str, Spots]:
    """Return the capture areas by region; tables of one region share them."""
    by_region: dict[str, Spots] = {}
    for table in record.tables:
        by_region.setdefault(table.spots.region, table.spots)
    return by_region


def validate_record(record: SlideRecord) -> list[Problem]:
    """Return what keeps a record from being written.

    Parameters
    ----------
    record : SlideRecord
        The slide; nothing is read from its image or counts.

    Returns
    -------
    list of Problem
        Empty where the description is one that the format allows, the arrays of each table agree
        in length, barcodes and gene keys are unique, centres are finite, radii positive, and
        annotations and outlines have names that are usable and free.
    """
    problems: list[Problem] = []
    if record.image is not None:
        problems += _image_problems(record.image)
    for table in record.tables:
        problems += _shape_problems(table)
    if problems:
        # What follows looks inside arrays, or computes with their shapes.
        return problems
    for table in record.tables:
        problems += _value_problems(table)
        problems += _annotation_problems(table)
    problems += _region_problems(record)
    problems += _outline_problems(record)
    problems += _description_problems(record)
    return problems


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


def _shape_problems(table: Table) -> Iterator[Problem]:
    spots, genes = table.spots, table.genes
    per_row = {
        "radius_px": spots.radius_px,
        "array_row": spots.array_row,
        "array_col": spots.array_col,
        "in_tissue": spots.in_tissue,
        **({} if spots.section is None else {"section": spots.section}),
        **({} if spots.outlines is None else {"outlines": spots.outlines}),
        **spots.annotations,
    }
    per_column = {
        "gene_id": genes.gene_id,
        "gene_name": genes.gene_name,
        "feature_type": genes.feature_type,
        "genome": genes.genome,
    }
    if (spots.outlines is None) == (spots.shape == "polygon"):
        yield Problem(
            "record.shape",
            f"table {table.name}",
            "polygons, and no other shapes, must have outlines",
            f"{spots.shape} {'without' if spots.outlines is None else 'with'} them",
        )
    n_obs, n_vars = spots.n_obs, genes.n_vars
    shapes = {
        "counts": (table.counts.shape, (n_obs, n_vars)),
        "xy": (spots.xy.shape, (n_obs, 2)),
        **{name: (values.shape, (n_obs,)) for name, values in per_row.items()},
        **{name: (values.shape, (n_vars,)) for name, values in per_column.items()},
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            yield Problem(
                "record.shape",
                f"table {table.name}",
                f"{name} must have the shape {expected}",
                str(found),
            )


def _value_problems(table: Table) -> Iterator[Problem]:
    where = f"table {table.name}"
    for name, keys in (("barcodes", table.spots.barcodes), ("gene keys", table.genes.keys)):
        found = _repeated(keys)
        if found:
            yield Problem("record.duplicates", where, f"{name} must be unique", found)
    for name, values, is_wrong in (
        ("centres must be finite", table.spots.xy, ~np.isfinite(table.spots.xy)),
        (
            "radii must be finite and above 0",
            table.spots.radius_px,
            ~((table.spots.radius_px > 0) & np.isfinite(table.spots.radius_px)),
        ),
    ):
        if is_wrong.any():
            yield Problem(
                "record.value",
                where,
                name,
                f"{values[is_wrong][0]} and {int(is_wrong.sum()) - 1} more",
            )


def _repeated(keys: NDArray[np.object_] | NDArray[np.bytes_]) -> str:
    """Say which keys repeat; nothing where none does."""
    if keys.dtype.kind == "S":
        row = repeated_row(keys)  # type: ignore[arg-type]  # its kind says so
        return "" if row is None else f"{keys[row].decode('utf-8', 'replace')!r} more than once"
    index = pd.Index(keys, dtype=object)
    repeated = index[index.duplicated()].unique()
    return f"{len(repeated)} that repeat, such as {repeated[0]!r}" if len(repeated) else ""


def _annotation_problems(table: Table) -> Iterator[Problem]:
    names = list(table.spots.annotations)
    taken = Counter(name.lower() for name in [*OBS_COLUMNS, *names])
    for name in names:
        where = f"table {table.name}, annotation {name!r}"
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            yield Problem(
                "record.name", where, "its name must be one that elements may have", reason
            )
        if taken[name.lower()] > 1:
            yield Problem(
                "record.name-taken",
                where,
                "its name must differ from those of other columns of obs in more than case",
                "one that is taken",
            )


def _region_problems(record: SlideRecord) -> Iterator[Problem]:
    by_region = regions(record)
    for table in record.tables:
        spots, shared = table.spots, by_region[table.spots.region]
        is_same = spots is shared or (
            spots.shape == shared.shape
            and np.array_equal(spots.barcodes, shared.barcodes)
            and np.array_equal(spots.xy, shared.xy)
            and np.array_equal(spots.radius_px, shared.radius_px)
        )
        if not is_same:
            yield Problem(
                "record.region",
                f"table {table.name}",
                f"tables of the region {spots.region} must have the same spots in the same order",
                "other barcodes, positions or outlines",
            )


def _outline_problems(record: SlideRecord) -> Iterator[Problem]:
    image = [] if record.image is None else [layout.IMAGE_ELEMENT]
    elements = [*image, *regions(record), *(table.name for table in record.tables)]
    taken = Counter(name.lower() for name in elements)
    taken.update(outlines.name.lower() for outlines in record.outlines)
    for outlines in record.outlines:
        where = f"outlines {outlines.name!r}"
        for name in (outlines.name, *outlines.columns):
            try:
                _NAME.validate_python(name)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                yield Problem(
                    "record.name",
                    where,
                    "its name and those of its columns must be ones that elements may have",
                    f"{name!r}: {reason}",
                )
        if taken[outlines.name.lower()] > 1:
            yield Problem(
                "record.name-taken",
                where,
                "its name must differ from those of other elements in more than case",
                "one that is taken",
            )


def _description_problems(record: SlideRecord) -> Iterator[Problem]:
    try:
        describe_ahead(record)
    except ValidationError as error:
        for detail in error.errors():
            yield Problem(
                "record.description",
                ".".join([error.title, *map(str, detail["loc"])]),
                detail["msg"],
                repr(detail["input"]) if detail["loc"] else "a record that breaks it",
            )

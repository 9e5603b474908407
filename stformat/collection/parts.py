"""The slides of a collection as parts: where each is, and its rows on the sides that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stformat.errors import Problem, SplitError
from stformat.store.location import Location, parse_location
from stformat.store.slide_part import SlidePart

if TYPE_CHECKING:
    # Opening a folder must not take longer for what reads documents.
    from stformat.collection.split import Side, Split

__all__ = ["address_below", "refuse_divided", "rows_on", "slide_parts"]


def rows_on(
    sides: Sequence[tuple[Split, Side]], slide_ids: Sequence[str]
) -> tuple[NDArray[np.bool_] | None, ...]:
    """Return which rows of slides are on every one of several sides.

    Parameters
    ----------
    sides : sequence of (Split, side)
        The sides.
    slide_ids : sequence of str
        Identifiers of the slides.

    Returns
    -------
    tuple of ((n_obs,) ndarray of bool or None)
        A mask for each slide; None where no split divides it.
    """
    masks = [split.row_masks(side) for split, side in sides]
    found: list[NDArray[np.bool_] | None] = []
    for name in slide_ids:
        of_slide = [each[name] for each in masks if name in each]
        found.append(np.logical_and.reduce(of_slide) if of_slide else None)
    return tuple(found)


def slide_parts(
    location: Location, table: pa.Table, sides: Sequence[tuple[Split, Side]]
) -> tuple[SlidePart, ...]:
    """Return the slides of a catalogue, closed, with their rows on every one of several sides.

    Parameters
    ----------
    location : Location
        The folder of the catalogue.
    table : pyarrow.Table
        Columns of the catalogue, a row a slide.
    sides : sequence of (Split, side)
        The sides.

    Returns
    -------
    tuple of SlidePart
        One a row.
    """
    found = table.select(["slide_id", "path", "manifest_sha256", "mpp"]).to_pylist()
    rows = rows_on(sides, [row["slide_id"] for row in found])
    parts: list[SlidePart] = []
    for row, mask in zip(found, rows, strict=True):
        reaches = [split.reach_px(row["slide_id"], row["mpp"]) for split, _ in sides]
        address = address_below(location, row["path"])
        parts.append(
            SlidePart(
                location=parse_location(address, location.options or None),
                slide_id=row["slide_id"],
                manifest_sha256=row["manifest_sha256"],
                rows=mask,
                reach_px=min((reach for reach in reaches if reach is not None), default=None),
            )
        )
    return tuple(parts)


def refuse_divided(part: SlidePart) -> None:
    """Refuse to open a slide without its rows, where other rows are on another side.

    Raises
    ------
    SplitError
        If the slide is divided.
    """
    if part.rows is not None:
        raise SplitError(
            Problem(
                "split.divided",
                part.slide_id,
                "a slide that is divided must be opened with the rows of its side",
                "its identifier or place alone",
                "use iter_slide_rows(); the collection that was split opens all rows",
            )
        )


def address_below(location: Location, path: str) -> str:
    """Return the address of what lies below a location at a path."""
    if not location.is_url:
        return str(Path(location.address, path))
    parts = urlsplit(location.address)
    return urlunsplit(parts._replace(path=f"{parts.path}/{quote(path)}"))

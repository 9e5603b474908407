"""Notes that every kind of source writes alike: rows without a partner, spots off the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stformat.model import Image, Note
from stformat.sources._packed_text import texts_of

__all__ = ["counted", "named", "outside_notes", "unmatched_notes"]

_SHOWN = 5


def counted(number: int, one: str, several: str) -> str:
    """Put a number before the words that go with it.

    Parameters
    ----------
    number : int
        How many there are.
    one, several : str
        The words for one, and for any other number.

    Returns
    -------
    str
        The number and the words.

    Examples
    --------
    >>> counted(1, "spot has", "spots have"), counted(0, "spot has", "spots have")
    ('1 spot has', '0 spots have')
    """
    return f"{number} {one if number == 1 else several}"


def named(names: Sequence[str]) -> str:
    """List the first few of some names.

    Parameters
    ----------
    names : sequence of str
        Names.

    Returns
    -------
    str
        At most five of them, and how many more there are.

    Examples
    --------
    >>> named(["1x1", "1x2"]), named([str(n) for n in range(7)])
    ('1x1, 1x2', '0, 1, 2, 3, 4 and 2 more')
    """
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def unmatched_notes(
    without_position: Sequence[str], without_counts: Sequence[str]
) -> tuple[Note, ...]:
    """Say which rows of counts and which spots have no partner.

    Parameters
    ----------
    without_position : sequence of str
        Rows of counts that no spot file places; a store cannot hold them.
    without_counts : sequence of str
        Spots that the count matrix has no row for.

    Returns
    -------
    tuple of Note
        ``counts.without-position`` and ``spots.without-counts``, each with its number; empty where
        every row has its partner.

    Examples
    --------
    >>> [note.code for note in unmatched_notes([], ["AAAC-1"])]
    ['spots.without-counts']
    """
    notes = []
    if without_position:
        n_rows = len(without_position)
        rows = counted(n_rows, "row of counts has", "rows of counts have")
        message = (
            f"{rows} no place in the spot file and cannot be stored: {named(without_position)}."
        )
        notes.append(Note(code="counts.without-position", message=message, count=n_rows))
    if without_counts:
        n_spots = len(without_counts)
        spots = counted(
            n_spots,
            "spot of the spot file has no counts and is not a row",
            "spots of the spot file have no counts and are not rows",
        )
        message = f"{spots} of the table: {named(without_counts)}."
        notes.append(Note(code="spots.without-counts", message=message, count=n_spots))
    return tuple(notes)


def outside_notes(
    xy: NDArray[np.float64],
    barcodes: NDArray[np.object_] | NDArray[np.bytes_],
    image: Image | None,
) -> tuple[Note, ...]:
    """Say which spots have their centre outside the image.

    Parameters
    ----------
    xy : (n, 2) ndarray of float64
        Centres in pixels of the image, columns ``(x, y)``.
    barcodes : (n,) ndarray of str or bytes
        Their names.
    image : Image or None
        The image; without one nothing is outside.

    Returns
    -------
    tuple of Note
        ``spots.outside-image`` with their number, or nothing.
    """
    if image is None:
        return ()
    _, height, width = image.shape
    is_outside = ((xy < 0) | (xy >= (width, height))).any(axis=1)
    n_outside = int(np.count_nonzero(is_outside))
    if not n_outside:
        return ()
    spots = counted(n_outside, "spot has its centre", "spots have their centres")
    message = (
        f"{spots} outside the image of {width} x {height} px: "
        f"{named(texts_of(barcodes[is_outside]))}."
    )
    return (Note(code="spots.outside-image", message=message, count=n_outside),)

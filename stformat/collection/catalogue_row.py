"""The row of a slide in a catalogue."""

from __future__ import annotations

from typing import Any

from stformat.collection.catalogue import COLUMNS
from stformat.collection.fingerprints import count_fingerprint, image_fingerprint
from stformat.store.reader import Slide

__all__ = ["slide_row"]


def slide_row(slide: Slide, path: str) -> dict[str, Any]:
    """Return the row of a slide; reads its counts and its thumbnail.

    Parameters
    ----------
    slide : Slide
        Bound to its default table.
    path : str
        Path of its store below the folder, with ``/``.

    Returns
    -------
    dict
        A value for each column of the catalogue.

    Raises
    ------
    CorruptStoreError
        If what is read is damaged.
    """
    counts = count_fingerprint(slide)
    return {
        "path": path,
        **{column.name: column.value(slide) for column in COLUMNS},
        "fingerprint_rows": counts.rows.tolist(),
        "fingerprint_genes": counts.genes.tolist(),
        "fingerprint_image": image_fingerprint(slide),
    }

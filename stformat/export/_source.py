"""The slide that is exported: one that is open, or a store by its path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store.reader import Slide, open_slide

__all__ = ["opened_slide", "table_of"]


@contextmanager
def opened_slide(
    slide_or_path: Slide | str | os.PathLike[str], table: str | None
) -> Iterator[Slide]:
    """Bind a slide to a table for the time of the block.

    Parameters
    ----------
    slide_or_path : Slide or path
        A slide, which stays open, or the path of a store, which is closed in the end.
    table : str or None
        Name of a table; None is the one that the slide is bound to, or the store's default.

    Yields
    ------
    Slide
        The slide.

    Raises
    ------
    TableLookupError
        If there is no such table.
    StoreError
        If there is no store that can be read.
    """
    if isinstance(slide_or_path, Slide):
        yield slide_or_path if table is None else slide_or_path.table(table)
        return
    with open_slide(slide_or_path, table=table) as slide:
        yield slide


def table_of(slide: Slide) -> TableAttributes:
    """Return what the store says of the table that a slide is bound to."""
    tables = {table.name: table for table in slide.metadata.tables}
    return tables[slide.counts.table]

"""What the slides of one open store share, whichever table they are bound to."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from stformat.errors import NoImageError, Problem, TableLookupError, UnsupportedStoreError
from stformat.store.chunk_cache import ChunkCache
from stformat.store.opened import open_committed
from stformat.store.pyramid import open_pyramid
from stformat.store.slide_table import SlideTable
from stformat.store.tiles import TileEngine

__all__ = ["OpenStore", "local_path"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class OpenStore:
    """A committed store with its cache, its tables and its image; reads metadata only.

    Parameters
    ----------
    path : str
        Absolute path of its directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.store = open_committed(path)
        self.cache = ChunkCache()
        self.tables = {
            table.name: SlideTable(self.store, table, cache=self.cache)
            for table in self.store.attributes.tables
        }

    @cached_property
    def engine(self) -> TileEngine:
        """The tile engine.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        attributes = self.store.attributes
        if attributes.image is None:
            raise NoImageError(
                Problem(
                    "slide.no-image",
                    attributes.slide_id,
                    "pixels and tiles need a slide with an image",
                    "none in this store",
                    "convert the slide with --image",
                )
            )
        return open_pyramid(self.store, attributes.image, self.cache)

    def table(self, name: str | None) -> SlideTable:
        """Return a table by name; None is the default table.

        Raises
        ------
        TableLookupError
            If there is no such table.
        """
        wanted = self.store.attributes.default_table if name is None else name
        if wanted not in self.tables:
            raise TableLookupError(
                Problem(
                    "slide.no-table",
                    self.path,
                    f"a table must be one of {', '.join(self.tables)}",
                    repr(wanted),
                )
            )
        return self.tables[wanted]

    def close(self) -> None:
        """Let go of the files and of what was kept."""
        self.store.close()
        self.cache.clear()


def local_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a store in a local directory.

    Raises
    ------
    UnsupportedStoreError
        If it is a URL or a zip file.
    """
    text = os.fspath(path)
    if _URL.match(text) or text.endswith(".zip"):
        raise UnsupportedStoreError(
            Problem(
                "store.not-local",
                text,
                "this version reads stores in local directories",
                "a zip file" if text.endswith(".zip") else "a URL",
                "unpack it, or copy it to a local directory, first",
            )
        )
    return str(Path(text).absolute())

"""What the slides of one open store share, whichever table they are bound to."""

from __future__ import annotations

from functools import cached_property
from typing import Self

from stformat.errors import NoImageError, Problem, StoreReplaced, TableLookupError
from stformat.store.chunk_cache import ChunkCache
from stformat.store.location import Location
from stformat.store.opened import open_committed
from stformat.store.pyramid import open_pyramid
from stformat.store.slide_table import SlideTable
from stformat.store.tiles import TileEngine

__all__ = ["OpenStore"]


class OpenStore:
    """A committed store with its cache, its tables and its image; reads metadata only.

    Parameters
    ----------
    location : Location
        Where it is.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self.store = open_committed(location)
        self.cache = ChunkCache()
        self.tables = {
            table.name: SlideTable(self.store, table, cache=self.cache)
            for table in self.store.attributes.tables
        }

    @classmethod
    def reopened(cls, location: Location, digest: str) -> Self:
        """Open the version of a store whose manifest has a digest.

        Raises
        ------
        StoreReplaced
            If there is another.
        """
        opened = cls(location)
        if opened.store.commit.manifest_sha256 != digest:
            opened.close()
            raise StoreReplaced(
                Problem(
                    "store.replaced",
                    str(location),
                    "a pickled slide needs the version of the store that it was opened from",
                    "another version",
                    "open the slide again",
                )
            )
        return opened

    @cached_property
    def engine(self) -> TileEngine:
        """The tile engine; it keeps chunks in `cache`.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        return self._new_engine(self.cache)

    @cached_property
    def uncached_engine(self) -> TileEngine:
        """The tile engine for who will not come back to a chunk: none is kept, or given new memory.

        Raises
        ------
        NoImageError
            If the slide has no image.
        """
        return self._new_engine(ChunkCache(0))

    def _new_engine(self, cache: ChunkCache) -> TileEngine:
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
        return open_pyramid(self.store, attributes.image, cache)

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
                    str(self.location),
                    f"a table must be one of {', '.join(self.tables)}",
                    repr(wanted),
                )
            )
        return self.tables[wanted]

    def close(self) -> None:
        """Let go of the files and of what was kept."""
        self.store.close()
        self.cache.clear()

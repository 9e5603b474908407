"""The image of an open store: its levels, its channels, its tile engine."""

from __future__ import annotations

from dataclasses import dataclass

from stformat.coords import mpp_at
from stformat.metadata.stformat_v0_1 import ImageAttributes
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.opened import CommittedStore
from stformat.store.tiles import TileEngine

__all__ = ["Level", "channel_names", "levels_of", "open_pyramid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the pyramid."""

    level: int
    """Number of the level; 0 is full resolution."""

    height: int
    """Rows, in pixels of the level."""

    width: int
    """Columns, in pixels of the level."""

    downsample: float
    """Full-resolution pixels to one pixel of the level: exactly ``2**level``."""

    mpp: float | None
    """Microns per pixel of the level, or None where unknown."""


def open_pyramid(store: CommittedStore, image: ImageAttributes, cache: ChunkCache) -> TileEngine:
    """Return the tile engine over the levels of an image; reads metadata only.

    Raises
    ------
    CorruptStoreError
        If a level does not exist.
    UnsupportedStoreError
        If a level is no image, or of codecs that are not read.
    """
    levels = [
        ArrayReader(store, f"images/{image.element}/s{number}", cache=cache)
        for number in range(image.n_levels)
    ]
    return TileEngine(levels, background=image.background)


def levels_of(engine: TileEngine, mpp: float | None) -> tuple[Level, ...]:
    """Describe the levels of an image, full resolution first."""
    shapes = (engine.level_shape(number) for number in range(engine.n_levels))
    return tuple(
        Level(
            level=number,
            height=height,
            width=width,
            downsample=2.0**number,
            mpp=None if mpp is None else mpp_at(mpp, number),
        )
        for number, (height, width) in enumerate(shapes)
    )


def channel_names(store: CommittedStore, image: ImageAttributes, n_c: int) -> tuple[str, ...]:
    """Return one name a channel; numbers where another tool dropped the names."""
    document = store.node(f"images/{image.element}")
    try:
        channels = document["attributes"]["ome"]["omero"]["channels"]
        names = tuple(str(channel["label"]) for channel in channels)
    except (KeyError, TypeError):
        names = ()
    return names if len(names) == n_c else tuple(str(number) for number in range(n_c))

"""The image of an open store: its levels, its channels, its tile engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.coords import mpp_at
from stformat.metadata.stformat_v0_1 import ImageAttributes
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_cache import ChunkCache
from stformat.store.opened import CommittedStore
from stformat.store.tiles import TileEngine

__all__ = ["Level", "channel_names", "levels_of", "open_pyramid", "thumbnail"]


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

    codec: str
    """How its pixels are stored: ``"zstd"``, ``"blosc"``, ``"jpeg"``, or the names of the codecs
    that another tool chose."""


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
            codec=engine.level_codec(number),
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


def thumbnail(engine: TileEngine, max_px: int) -> NDArray[np.unsignedinteger]:
    """Return the whole image with no edge longer than `max_px`, at least 1."""
    shapes = [engine.level_shape(number) for number in range(engine.n_levels)]
    fits = [number for number, shape in enumerate(shapes) if max(shape) <= max_px]
    level = fits[0] if fits else len(shapes) - 1
    image = engine.read_region(level, 0, 0, *shapes[level])
    while max(image.shape[1:]) > max_px:
        image = kernels.downsample_2x2(image)
    return image

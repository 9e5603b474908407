"""Rectangles of a level, read together, and which chunks they touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.store.arrays import ArrayReader
from stformat.store.chunk_groups import group_by_chunk
from stformat.store.chunk_windows import overlap, touched_chunks

__all__ = ["read_regions", "region_chunks"]


def read_regions(
    level: ArrayReader,
    corners: Sequence[tuple[int, int]],
    out: Sequence[NDArray[np.unsignedinteger]],
    *,
    background: int,
    go_on: Callable[[], object] | None = None,
) -> None:
    """Read rectangles of a level, each chunk that they touch once.

    Parameters
    ----------
    level : ArrayReader
        Level of a pyramid, axes ``('c', 'y', 'x')``, its chunks whole in c.
    corners : sequence of (int, int)
        First row and column of each, which may be negative.
    out : sequence of (c, height, width) ndarray
        Where each is read to, of its size and the image's type.
    background : int
        Value of what lies outside the level.
    go_on : callable, optional
        Called for each chunk; what it raises ends the request.

    Raises
    ------
    CorruptStoreError
        If a chunk is missing or damaged.
    """
    touched = []
    for (top, left), pixels in zip(corners, out, strict=True):
        _, height, width = pixels.shape
        touched.append(region_chunks(level, top, left, height, width))
        bottom, right = level.shape[1:]
        if min(top, left) < 0 or top + height > bottom or left + width > right:
            pixels[...] = background
    of_region = np.repeat(np.arange(len(touched)), [len(chunks) for chunks in touched])
    groups = group_by_chunk(np.concatenate([np.zeros(0, np.int64), *touched]))
    _, edge_y, edge_x = level.metadata.chunks
    rows, cols = np.divmod(groups.chunks, level.grid[2])

    def copy(position: int, chunk: NDArray[Any]) -> None:
        if go_on is not None:
            go_on()
        chunk_top, chunk_left = int(rows[position]) * edge_y, int(cols[position]) * edge_x
        for number in of_region[groups.pieces(position)].tolist():
            (top, left), pixels = corners[number], out[number]
            to_y, from_y = overlap(chunk_top, chunk.shape[1], top, pixels.shape[1])
            to_x, from_x = overlap(chunk_left, chunk.shape[2], left, pixels.shape[2])
            pixels[:, to_y, to_x] = chunk[:, from_y, from_x]

    level.visit_chunks(groups.chunks, copy)


def region_chunks(
    level: ArrayReader, top: int, left: int, height: int, width: int
) -> NDArray[np.int64]:
    """Return the flat numbers of the chunks of a level that a rectangle touches."""
    _, edge_y, edge_x = level.metadata.chunks
    rows = touched_chunks(top, height, level.shape[1], edge_y)
    cols = touched_chunks(left, width, level.shape[2], edge_x)
    flat: NDArray[np.int64] = np.add.outer(rows * level.grid[2], cols).reshape(-1)
    return flat

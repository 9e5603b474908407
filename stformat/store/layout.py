"""Where everything stands in a store and how it is cut into chunks and shards; pure functions.

Specification: spec/stformat-0.1.md, "Layout" and "Row order".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COMMIT_PATH",
    "IMAGE_ELEMENT",
    "INNER_PX",
    "JPEG_TILE_PX",
    "MANIFEST_PATH",
    "SHARD_PX",
    "SMALLEST_LEVEL_PX",
    "VECTOR_CHUNK",
    "VECTOR_SHARD",
    "by_gene_path",
    "image_chunks",
    "image_shards",
    "index_type",
    "level_shapes",
    "spatial_order",
    "spots_path",
    "vector_chunks",
]

INNER_PX = 256
"""Edge of an inner chunk of an image: the unit of reading and of its checksum."""

JPEG_TILE_PX = (INNER_PX, 2 * INNER_PX)
"""Edges of JPEG tiles that are kept as inner chunks of an image."""

SHARD_PX = 4096
"""Edge of an image shard, the unit of writing: one file; also the cell of the row order."""

SMALLEST_LEVEL_PX = 1024
"""The pyramid ends at the first level whose longer edge is at most this."""

VECTOR_CHUNK = 1 << 15
"""Elements in an inner chunk of a long 1-D array."""

VECTOR_SHARD = 1 << 22
"""Elements in a shard of a long 1-D array."""

_MORTON_BITS = 24
_MOST_CELLS = 1 << (63 - _MORTON_BITS)
_ROWS_AT_ONCE = 1 << 18

IMAGE_ELEMENT = "he"
MANIFEST_PATH = "stformat/manifest.json"
COMMIT_PATH = "stformat/commit.json"


def by_gene_path(table: str) -> str:
    """Return the path of the gene-major copy of a table.

    Examples
    --------
    >>> by_gene_path("expression")
    'stformat/expression/by_gene'
    """
    return f"stformat/{table}/by_gene"


def spots_path(table: str) -> str:
    """Return the path of the plain arrays of a table's capture areas.

    Examples
    --------
    >>> spots_path("expression")
    'stformat/expression/spots'
    """
    return f"stformat/{table}/spots"


def level_shapes(
    height: int, width: int, *, smallest_px: int = SMALLEST_LEVEL_PX
) -> list[tuple[int, int]]:
    """Return the height and width of every pyramid level, full resolution first.

    Parameters
    ----------
    height, width : int
        Size of level 0 in pixels, at least 1.
    smallest_px : int, default: 1024
        The pyramid ends at the first level whose longer edge is at most this.

    Returns
    -------
    list of tuple of int
        Each level is the ceiling of half of the one before.

    Examples
    --------
    >>> level_shapes(3001, 1500)
    [(3001, 1500), (1501, 750), (751, 375)]
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > smallest_px:
        rows, cols = shapes[-1]
        shapes.append(((rows + 1) // 2, (cols + 1) // 2))
    return shapes


def image_chunks(n_c: int, *, chunk_px: int = INNER_PX) -> tuple[int, int, int]:
    """Return the inner chunk of an image: all channels of a 256-pixel square."""
    return (n_c, chunk_px, chunk_px)


def image_shards(
    n_c: int, height: int, width: int, *, chunk_px: int = INNER_PX, shard_px: int = SHARD_PX
) -> tuple[int, int, int]:
    """Return the shard of a level: 4096 pixels square, or what whole chunks the level needs.

    Examples
    --------
    >>> image_shards(3, 9923, 300)
    (3, 4096, 512)
    """
    rows, cols = (min(shard_px, -(-n // chunk_px) * chunk_px) for n in (height, width))
    return (n_c, rows, cols)


def index_type(nnz: int) -> np.dtype[np.signedinteger]:
    """Return the type of ``indices`` and ``indptr`` of a matrix of `nnz` values.

    AnnData hands both to SciPy as they are, which sorts, sums and converts in place only what is
    of one type.

    Examples
    --------
    >>> index_type(2**31 - 1), index_type(2**31)
    (dtype('int32'), dtype('int64'))
    """
    return np.dtype(np.int32) if nnz <= np.iinfo(np.int32).max else np.dtype(np.int64)


def vector_chunks(
    length: int, *, chunk: int = VECTOR_CHUNK, shard: int = VECTOR_SHARD
) -> tuple[tuple[int], tuple[int]]:
    """Return the inner chunk and the shard of a 1-D array of `length` elements.

    Both depend on the length alone; short arrays get one chunk of their own size.

    Examples
    --------
    >>> vector_chunks(1000), vector_chunks(100_000)
    (((1000,), (1000,)), ((32768,), (131072,)))
    """
    inner = max(1, min(chunk, length))
    outer = min(shard, -(-max(1, length) // inner) * inner)
    return (inner,), (outer,)


def spatial_order(xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order rows so that neighbours on the slide are neighbours in the table.

    Parameters
    ----------
    xy : (n_obs, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``, finite.

    Returns
    -------
    (n_obs,) ndarray of int64
        Source row of each stored row. Rows are sorted by the 4096-pixel cell they lie in (cell
        row, then cell column: the order of the image shards), inside a cell by the Morton code of
        their pixel [1]_, and rows of one pixel by their source order.

    References
    ----------
    .. [1] G. M. Morton, "A computer oriented geodetic data base and a new technique in file
       sequencing", IBM, 1966.

    Examples
    --------
    >>> import numpy as np
    >>> spatial_order(np.array([[5000.0, 1.0], [3.0, 3.0], [2.0, 3.0]]))
    array([2, 1, 0])
    """
    if not len(xy):
        return np.zeros(0, dtype=np.int64)
    # Slides of many millions of rows: whole arrays of temporary values would not fit.
    low = np.floor(xy.min(axis=0)).astype(np.int64) // SHARD_PX
    span = np.floor(xy.max(axis=0)).astype(np.int64) // SHARD_PX - low + 1
    cell = np.empty(len(xy), dtype=np.int64)
    morton = np.empty(len(xy), dtype=np.int32)
    for start in range(0, len(xy), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        pixel = np.floor(xy[block]).astype(np.int64)
        cells = pixel // SHARD_PX
        inside = pixel - cells * SHARD_PX
        cells -= low
        cell[block] = cells[:, 1] * span[0] + cells[:, 0]
        morton[block] = _spread_bits(inside[:, 0]) | (_spread_bits(inside[:, 1]) << 1)
    if int(span[0]) * int(span[1]) >= _MOST_CELLS:
        columns, rows = np.floor(xy.T).astype(np.int64) // SHARD_PX
        return np.lexsort((morton, columns, rows)).astype(np.int64, copy=False)
    cell <<= _MORTON_BITS
    cell |= morton
    return np.argsort(cell, kind="stable").astype(np.int64, copy=False)


def _spread_bits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put a zero bit after each of the 12 low bits."""
    spread = values & 0xFFF
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | (spread << shift)) & mask
    return spread

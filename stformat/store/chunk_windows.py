"""Which chunks of a level windows overlap, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["overlap", "touched_chunks", "window_chunks"]


def touched_chunks(start: int, size: int, extent: int, edge: int) -> NDArray[np.int64]:
    """Return the chunks along one axis that a window touches, those outside left out."""
    first, last = max(start, 0), min(start + size, extent)
    return np.arange(first // edge, -(-last // edge) if last > first else first // edge)


def overlap(chunk_start: int, chunk_size: int, start: int, size: int) -> tuple[slice, slice]:
    """Return where a chunk and a window meet along one axis: in the window, in the chunk."""
    low = max(chunk_start, start)
    high = min(chunk_start + chunk_size, start + size)
    return slice(low - start, high - start), slice(low - chunk_start, high - chunk_start)


def window_chunks(
    windows: NDArray[np.int64], edge_px: int, extent: tuple[int, int], chunks: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List which window needs which chunk.

    Parameters
    ----------
    windows : (n, 2) ndarray of int64
        Columns ``(left, top)`` in pixels of the level.
    edge_px : int
        Edge of the windows.
    extent, chunks : tuple of int
        Height and width of the level, and of a chunk.

    Returns
    -------
    of_window, chunk : (m,) ndarray of int64
        One entry for each window and each chunk that it overlaps; `chunk` is the flat number.
    """
    size = np.array(extent)[::-1]
    edges = np.array(chunks)[::-1]
    first = np.maximum(windows, 0) // edges
    last = (np.minimum(windows + edge_px, size) - 1) // edges
    n_cols, n_rows = np.maximum(last - first + 1, 0).T
    n_pairs = n_cols * n_rows
    of_window = np.repeat(np.arange(len(windows)), n_pairs)
    nth = np.arange(len(of_window)) - (np.cumsum(n_pairs) - n_pairs)[of_window]
    row, col = np.divmod(nth, n_cols[of_window])
    chunk = (first[of_window, 1] + row) * -(-size[0] // edges[0]) + first[of_window, 0] + col
    return of_window, chunk

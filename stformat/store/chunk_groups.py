"""Pieces of a request sorted by the chunk that each needs, so that each chunk is read once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChunkGroups", "group_by_chunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkGroups:
    """Pieces of a request, grouped by the chunk that each needs."""

    chunks: NDArray[np.int64]
    """(k,) flat numbers of the chunks, ascending, each once."""

    order: NDArray[np.int64]
    """(m,) piece numbers, those of one chunk together, else in the order of the request."""

    bounds: NDArray[np.int64]
    """(k + 1,) start of each chunk's pieces in `order`."""

    def pieces(self, position: int) -> NDArray[np.int64]:
        """Return the piece numbers of the chunk at a position of `chunks`."""
        return self.order[self.bounds[position] : self.bounds[position + 1]]


def group_by_chunk(chunk_of_piece: NDArray[np.int64]) -> ChunkGroups:
    """Group the pieces of a request by chunk (or by shard).

    Parameters
    ----------
    chunk_of_piece : (m,) ndarray of int64
        Flat number of the chunk that each piece needs.

    Returns
    -------
    ChunkGroups
        The chunks and, for each, its pieces.

    Examples
    --------
    >>> import numpy as np
    >>> groups = group_by_chunk(np.array([7, 2, 7]))
    >>> groups.chunks, groups.pieces(1)
    (array([2, 7]), array([0, 2]))
    """
    order = np.argsort(chunk_of_piece, kind="stable")
    chunks, starts = np.unique(chunk_of_piece[order], return_index=True)
    return ChunkGroups(chunks=chunks, order=order, bounds=np.append(starts, len(order)))

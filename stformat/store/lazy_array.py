"""What xarray indexes lazily: a request becomes the positions along each axis that it wants."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

__all__ = ["OuterArray", "Positions", "take_along"]

type Positions = NDArray[np.int64]


class OuterArray(BackendArray):
    """Outer indexing of a slide: a subclass reads the cross product of positions.

    Subclasses have ``shape`` and ``dtype`` and implement `take`.
    """

    __slots__ = ()

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, *positions: Positions) -> NDArray[Any]:
        """Read the cross product of `positions`, one array a dimension.

        Parameters
        ----------
        *positions : (k,) ndarray of int64
            Indices into each dimension, in range, not empty; in any order, repeats allowed.

        Returns
        -------
        ndarray
            Of shape ``(len(positions[0]), ...)``.
        """
        raise NotImplementedError

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        if isinstance(key, indexing.VectorizedIndexer):
            block: NDArray[Any] = indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER, self._outer
            )
            return block
        # The adapter would sort the rows and gather the result once more; any order is read here.
        return self._outer(key.tuple)

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        positions = [_positions(item, size) for item, size in zip(key, self.shape, strict=True)]
        lengths = tuple(len(chosen) for chosen in positions)
        block = self.take(*positions) if all(lengths) else np.empty(lengths, self.dtype)
        return block[tuple(0 if isinstance(item, _INTEGER) else slice(None) for item in key)]


_INTEGER = (int, np.integer)


def take_along(block: NDArray[Any], axis: int, positions: Positions) -> NDArray[Any]:
    """Index one axis, without a copy where all of it is wanted as it stands."""
    if len(positions) == block.shape[axis] and np.array_equal(positions, np.arange(len(positions))):
        return block
    return block.take(positions, axis=axis)


def _positions(item: Any, size: int) -> Positions:  # noqa: ANN401 - an int, a slice or an array
    if isinstance(item, slice):
        return np.arange(*item.indices(size), dtype=np.int64)
    chosen = np.atleast_1d(np.asarray(item, dtype=np.int64))
    return np.where(chosen < 0, chosen + size, chosen)

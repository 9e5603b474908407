"""Rows of an array that is one chunk without compression: read without the rest of it.

Zarr decodes a chunk as a whole, which for a chunk that is all of an image takes all of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec

from stformat.errors import CountsError, Problem

__all__ = ["raw_rows"]


def raw_rows(
    path: Path, where: str, array: zarr.Array[Any], axis: int
) -> Callable[[int, int], NDArray[Any]] | None:
    """Return what reads runs of rows of an array, where its bytes are those of its values.

    Parameters
    ----------
    path : pathlib.Path
        Directory of the array.
    where : str
        What to call it in messages.
    array : zarr.Array
        The array.
    axis : int
        Axis that rows are counted along.

    Returns
    -------
    callable or None
        ``read(top, bottom)`` returns some rows, axes as in the array, and raises CountsError where
        the chunk is cut off. None for several chunks, compression, filters, Fortran order or a
        chunk that is not stored.
    """
    key = array.metadata.encode_chunk_key((0,) * array.ndim)
    chunk = path / key
    is_one = all(size <= part for size, part in zip(array.shape, array.chunks, strict=True))
    if not is_one or not _is_raw(array) or not chunk.is_file():
        return None
    dtype = _stored_type(array)
    outer, inner = math.prod(array.chunks[:axis]), math.prod(array.chunks[axis + 1 :])
    n_rows = array.chunks[axis]
    visible = tuple(slice(size) for size in array.shape)

    def read(top: int, bottom: int) -> NDArray[Any]:
        part = np.empty((outer, bottom - top, inner), dtype)
        try:
            with chunk.open("rb") as file:
                for number in range(outer):
                    file.seek((number * n_rows + top) * inner * dtype.itemsize)
                    n_read = file.readinto(memoryview(part[number]).cast("B"))
                    if n_read != part[number].nbytes:
                        raise _cut_off(where, f"{n_read} bytes of {part[number].nbytes}")
        except OSError as error:
            raise _cut_off(where, str(error)) from error
        shape = (*array.chunks[:axis], bottom - top, *array.chunks[axis + 1 :])
        # Chunks at the end of an array overhang it.
        rows = part.reshape(shape)[(*visible[:axis], slice(None), *visible[axis + 1 :])]
        return rows.astype(dtype.newbyteorder("="), copy=False)

    return read


def _is_raw(array: zarr.Array[Any]) -> bool:
    if array.compressors or array.filters or array.shards is not None:
        return False
    if array.metadata.zarr_format == 2:
        return array.metadata.order == "C"
    return isinstance(array.serializer, BytesCodec)


def _stored_type(array: zarr.Array[Any]) -> np.dtype[Any]:
    if array.metadata.zarr_format == 2:
        return np.dtype(array.dtype)
    endian = getattr(array.serializer, "endian", None)
    is_big = endian is not None and str(getattr(endian, "value", endian)) == "big"
    return array.dtype.newbyteorder(">" if is_big else "<")


def _cut_off(where: str, found: str) -> CountsError:
    return CountsError(
        Problem(
            "zarr.damaged",
            where,
            "the store must be whole",
            found,
            "copy it again from its source",
        )
    )

"""One chunk under blosc, from the bytes of a store to numbers: checked before it is decoded.

Specification: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst (version 2).
"""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.store.chunk_codec import ChunkError

__all__ = ["blosc_bound", "decode_blosc", "encode_blosc"]

# Four bytes of versions, flags and size of an element; then bytes of content, of a block, in all.
_HEADER = struct.Struct("<4xIII")


def blosc_bound(n_bytes: int) -> int:
    """Return a size that no blosc buffer of `n_bytes` of content exceeds.

    Examples
    --------
    >>> blosc_bound(1000)
    1016
    """
    return n_bytes + _HEADER.size


def encode_blosc(chunk: NDArray[Any], *, cname: str, level: int, shuffle: str) -> bytes:
    """Compress one chunk: little-endian bytes in C order as one blosc buffer.

    Parameters
    ----------
    chunk : ndarray
        A whole inner chunk, padded where it overhangs its array.
    cname : str
        Name of the compressor, such as ``"lz4"``.
    level : int
        0 to 9.
    shuffle : {"noshuffle", "shuffle", "bitshuffle"}
        How the bytes of elements are sorted beforehand.

    Returns
    -------
    bytes
        One blosc buffer; the same for the same chunk, since one thread makes it.

    Examples
    --------
    >>> chunk = np.arange(6, dtype=np.uint16).reshape(2, 3)
    >>> decoded = np.empty_like(chunk)
    >>> decode_blosc(encode_blosc(chunk, cname="lz4", level=5, shuffle="bitshuffle"), decoded)
    >>> np.array_equal(decoded, chunk)
    True
    """
    little = chunk.astype(chunk.dtype.newbyteorder("<"), order="C", copy=False)
    return bytes(
        imagecodecs.blosc_encode(
            # Elements, not bytes: of bytes it would sort none, whatever `typesize` says.
            little.reshape(-1),  # type: ignore[arg-type]  # any buffer
            level=level,
            compressor=cname,
            shuffle=shuffle,
            typesize=chunk.itemsize,
            numthreads=1,
        )
    )


def decode_blosc(buffer: bytes | memoryview, out: NDArray[Any]) -> None:
    """Decode one blosc buffer into an array; the GIL is released meanwhile.

    Parameters
    ----------
    buffer : bytes or memoryview
        One blosc buffer.
    out : ndarray
        C-contiguous; receives exactly ``out.nbytes`` bytes.

    Raises
    ------
    ChunkError
        If the buffer does not declare ``out.nbytes`` bytes of content and its own length (nothing
        is decoded then), or if its content is damaged.
    """
    if len(buffer) < _HEADER.size:
        raise ChunkError("no blosc buffer")
    size, _, length = _HEADER.unpack_from(buffer)
    if length != len(buffer):
        raise ChunkError(f"a blosc buffer of {length} bytes in a chunk of {len(buffer)}")
    if size != out.nbytes:
        raise ChunkError(f"{size} bytes of content instead of {out.nbytes}")
    target = memoryview(out.reshape(-1).view(np.uint8))
    try:
        decoded = imagecodecs.blosc_decode(buffer, out=target)  # type: ignore[arg-type]  # any buffer
    except imagecodecs.BloscError as error:
        raise ChunkError(f"a damaged blosc buffer ({error})") from error
    if len(decoded) != out.nbytes:
        raise ChunkError(f"a buffer that ends after {len(decoded)} of {out.nbytes} bytes")

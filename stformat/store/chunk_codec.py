"""One chunk under zstd, from the bytes of a store to numbers: checked before it is decoded.

Specification: RFC 8878, section 3.1.1 (Zstandard frames); RFC 3720, appendix B.4 (CRC-32C).
"""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CRC32C_BYTES",
    "ChunkError",
    "compressed_bound",
    "declared_size",
    "decode_into",
    "with_crc32c",
    "without_crc32c",
]

CRC32C_BYTES = 4
"""Bytes of the checksum that the codec crc32c appends, little-endian."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM_FLAG = 0x04
_SINGLE_SEGMENT_FLAG = 0x20
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_FORMATS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


class ChunkError(ValueError):
    """The bytes of a chunk are not what its codecs make of a chunk of its size."""


def with_crc32c(content: bytes) -> bytes:
    """Append the CRC-32C of some bytes to them.

    Examples
    --------
    >>> with_crc32c(b"123456789")[-4:].hex()
    '839206e3'
    """
    checksum: int = google_crc32c.value(content)
    return content + checksum.to_bytes(CRC32C_BYTES, "little")


def without_crc32c(encoded: bytes | memoryview) -> memoryview:
    """Return the bytes before a CRC-32C, which is verified.

    Raises
    ------
    ChunkError
        If there is none, or it is that of other bytes.

    Examples
    --------
    >>> bytes(without_crc32c(with_crc32c(b"123456789")))
    b'123456789'
    """
    content, stored = memoryview(encoded)[:-CRC32C_BYTES], encoded[-CRC32C_BYTES:]
    if len(stored) < CRC32C_BYTES:
        raise ChunkError(f"{len(encoded)} bytes that end before their checksum")
    # The checksum takes bytes or an array, and no other buffer.
    if google_crc32c.value(np.frombuffer(content, np.uint8)) != int.from_bytes(stored, "little"):
        raise ChunkError("bytes of another checksum")
    return content


def compressed_bound(n_bytes: int) -> int:
    """Return a size that no zstd frame of `n_bytes` of content exceeds.

    Raw blocks cost 3 bytes for every 128 KiB; a frame's header and checksum at most 22 bytes.

    Examples
    --------
    >>> compressed_bound(1000)
    1071
    """
    return n_bytes + n_bytes // 128 + 64


def declared_size(frame: bytes | memoryview) -> tuple[int | None, bool]:
    """Read what the header of a zstd frame says of its content.

    Parameters
    ----------
    frame : bytes or memoryview
        The frame, or its first 18 bytes.

    Returns
    -------
    size : int or None
        Bytes of the decoded content, or None where the header does not say.
    has_checksum : bool
        Whether a checksum of the content follows it.

    Raises
    ------
    ChunkError
        If the bytes are no zstd frame.

    Examples
    --------
    >>> import imagecodecs
    >>> declared_size(imagecodecs.zstd_encode(bytes(300)))[0]
    300
    """
    if len(frame) < 6 or bytes(frame[:4]) != _MAGIC:
        raise ChunkError("no zstd frame")
    descriptor = frame[4]
    is_single = bool(descriptor & _SINGLE_SEGMENT_FLAG)
    at = 5 + (0 if is_single else 1) + _DICTIONARY_ID_BYTES[descriptor & 3]
    width = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    has_checksum = bool(descriptor & _CHECKSUM_FLAG)
    if width == 0:
        return None, has_checksum
    if len(frame) < at + width:
        raise ChunkError("a zstd frame cut short in its header")
    (size,) = struct.unpack_from(_CONTENT_SIZE_FORMATS[width], frame, at)
    return size + (256 if width == 2 else 0), has_checksum


def decode_into(
    frame: bytes | memoryview, out: NDArray[Any], *, requires_checksum: bool = True
) -> None:
    """Decode one zstd frame into an array; the GIL is released meanwhile.

    Parameters
    ----------
    frame : bytes or memoryview
        One frame, checksum included.
    out : ndarray
        C-contiguous; receives exactly ``out.nbytes`` bytes.
    requires_checksum : bool, default: True
        Whether the frame must carry a checksum; one that is there is verified in any case.

    Raises
    ------
    ChunkError
        If the frame does not declare ``out.nbytes`` bytes of content or lacks a checksum that it
        must carry (in both cases nothing is decoded), or if its content is damaged.
    """
    size, has_checksum = declared_size(frame)
    if size != out.nbytes:
        raise ChunkError(f"a frame of {size} bytes of content instead of {out.nbytes}")
    if requires_checksum and not has_checksum:
        raise ChunkError("a frame without a checksum")
    target = memoryview(out.reshape(-1).view(np.uint8))
    try:
        decoded = imagecodecs.zstd_decode(frame, out=target)  # type: ignore[arg-type]  # any buffer
    except imagecodecs.ZstdError as error:
        raise ChunkError(f"a damaged frame ({error})") from error
    if len(decoded) != out.nbytes:
        raise ChunkError(f"a frame that ends after {len(decoded)} of {out.nbytes} bytes")

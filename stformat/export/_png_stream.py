"""PNG files written band by band: no library's encoder takes an image in parts.

PNG (third edition), https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2
_FILTER_SUB = 1
_LEVEL = 4
_METRE = 1
_UM_PER_METRE = 1e6


def write_png(
    path: Path,
    bands: Iterable[NDArray[np.unsignedinteger]],
    *,
    shape: tuple[int, int, int],
    dtype: np.dtype[np.unsignedinteger],
    mpp: float | None,
) -> None:
    """Write an image from the top, in bands of rows.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    bands : iterable of (c, h, x) ndarray
        All rows of the image.
    shape : tuple of int
        Channels (1 or 3), height and width.
    dtype : dtype
        uint8 or uint16.
    mpp : float or None
        Microns per pixel, to be kept as pixels per metre.
    """
    n_c, height, width = shape
    colour = _GRAY if n_c == 1 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, colour, 0, 0, 0)
    deflate = zlib.compressobj(_LEVEL)
    with path.open("wb") as file:
        file.write(_SIGNATURE)
        _write_chunk(file, b"IHDR", header)
        if mpp is not None:
            per_metre = round(_UM_PER_METRE / mpp)
            _write_chunk(file, b"pHYs", struct.pack(">IIB", per_metre, per_metre, _METRE))
        for band in bands:
            _write_chunk(file, b"IDAT", deflate.compress(_filtered(band)))
        _write_chunk(file, b"IDAT", deflate.flush())
        _write_chunk(file, b"IEND", b"")


def _filtered(band: NDArray[np.unsignedinteger]) -> bytes:
    """Lay rows out as PNG has them, each byte less that of the pixel on its left."""
    n_c, height, width = band.shape
    pixels = np.ascontiguousarray(band.transpose(1, 2, 0)).astype(band.dtype.newbyteorder(">"))
    samples = pixels.view(np.uint8).reshape(height, width, n_c * band.dtype.itemsize)
    lines = np.empty((height, 1 + width * samples.shape[2]), dtype=np.uint8)
    lines[:, 0] = _FILTER_SUB
    differences = lines[:, 1:].reshape(samples.shape)
    differences[:, 0] = samples[:, 0]
    np.subtract(samples[:, 1:], samples[:, :-1], out=differences[:, 1:])
    return lines.tobytes()


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if data or kind == b"IEND":
        checksum = zlib.crc32(data, zlib.crc32(kind))
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))

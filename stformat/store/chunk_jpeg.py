"""One chunk as a JPEG stream, from pixels to the bytes of a store and back.

A stream may come from anyone, so its headers are read first: only a sequential frame of the
chunk's own size, in one scan, is handed to the decoder, which then takes time and memory as the
chunk does.

Specification: spec/stformat-0.1.md, "Arrays and codecs"; ITU-T T.81 (JPEG), annex B.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.store.chunk_codec import ChunkError

__all__ = ["JpegFrame", "decode_jpeg", "encode_jpeg", "jpeg_bound", "parse_frame"]

_SOI = b"\xff\xd8"
_SOS = 0xDA
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length; none of them may stand between the headers of an image.
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
_MAX_SEGMENTS = 1000


class JpegFrame(NamedTuple):
    """Size that a JPEG stream declares."""

    height: int
    """Rows."""

    width: int
    """Columns."""

    n_samples: int
    """Samples of a pixel."""


def jpeg_bound(n_bytes: int) -> int:
    """Return the most bytes that a JPEG stream of `n_bytes` of samples may have.

    Noise at the highest quality takes 1.3 times its samples; headers may hold a colour profile.

    Examples
    --------
    >>> jpeg_bound(1000)
    1050576
    """
    return 2 * n_bytes + 2**20


def encode_jpeg(
    pixels: NDArray[np.uint8], chunk_px: tuple[int, int], *, level: int, subsampling: str
) -> bytes:
    """Encode one chunk, whose pixels beyond the image repeat its last row and column.

    Parameters
    ----------
    pixels : (c, y, x) ndarray of uint8
        One or three channels; the part of the chunk that lies inside the image.
    chunk_px : tuple of int
        Rows and columns of the chunk.
    level : int
        Quality, 1 to 100.
    subsampling : {"444", "422", "420"}
        How many pixels share a sample of colour.

    Returns
    -------
    bytes
        A baseline JPEG stream: grayscale, or YCbCr under a JFIF header.

    Examples
    --------
    >>> stream = encode_jpeg(np.zeros((3, 10, 7), np.uint8), (16, 16), level=90, subsampling="444")
    >>> parse_frame(stream)
    JpegFrame(height=16, width=16, n_samples=3)
    """
    n_c, height, width = pixels.shape
    # Repeated pixels add next to nothing to the stream and do not ring into the image, as a step
    # to zero would.
    image = np.empty((*chunk_px, n_c), np.uint8)
    for channel in range(n_c):
        image[:height, :width, channel] = pixels[channel]
    image[:height, width:] = image[:height, width - 1 : width]
    image[height:] = image[height - 1 : height]
    samples = image if n_c > 1 else image[:, :, 0]
    return bytes(imagecodecs.jpeg8_encode(samples, level=level, subsampling=subsampling))


def parse_frame(stream: bytes | memoryview) -> JpegFrame:
    """Read the headers of a JPEG stream up to its scan.

    Parameters
    ----------
    stream : bytes or memoryview
        The stream, from its SOI marker on.

    Returns
    -------
    JpegFrame
        Size and samples.

    Raises
    ------
    ChunkError
        If it is no JPEG stream of a sequential frame of 8 bits whose first scan holds all samples.
    """
    if bytes(stream[:2]) != _SOI:
        raise ChunkError("no JPEG stream")
    frame: JpegFrame | None = None
    at = 2
    for _ in range(_MAX_SEGMENTS):
        while bytes(stream[at : at + 2]) == b"\xff\xff":
            at += 1
        if len(stream) < at + 4 or stream[at] != 0xFF or stream[at + 1] in _ALONE:
            raise ChunkError("a JPEG stream without a scan")
        code = stream[at + 1]
        body = bytes(stream[at + 4 : at + 2 + int.from_bytes(stream[at + 2 : at + 4])])
        if code in _FRAMES:
            if frame is not None:
                raise ChunkError("a JPEG stream of several frames")
            frame = _frame(code, body)
        if code == _SOS:
            if frame is None or not body or body[0] != frame.n_samples:
                raise ChunkError("a JPEG stream of several scans")
            return frame
        at += 4 + len(body)
    raise ChunkError(f"a JPEG stream of more than {_MAX_SEGMENTS} marker segments")


def _frame(code: int, body: bytes) -> JpegFrame:
    if code not in _SEQUENTIAL or len(body) < 6 or body[0] != 8:
        raise ChunkError("a JPEG stream of another kind than sequential with 8 bits")
    height, width, n_samples = struct.unpack_from(">HHB", body, 1)
    return JpegFrame(height, width, n_samples)


def decode_jpeg(stream: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG stream into a chunk; the GIL is released meanwhile.

    Parameters
    ----------
    stream : bytes or memoryview
        A whole JPEG stream, tables included.
    out : (c, y, x) ndarray of uint8
        C-contiguous; one or three channels.

    Raises
    ------
    ChunkError
        If the stream declares another size than the chunk's or is of a kind that is not read (in
        both cases nothing is decoded), or if its content is damaged.
    """
    n_c, height, width = out.shape
    frame = parse_frame(stream)
    if frame != (height, width, n_c):
        raise ChunkError(
            f"an image of {frame.width} x {frame.height} pixels of {frame.n_samples} samples "
            f"instead of {width} x {height} of {n_c}"
        )
    try:
        if n_c == 1:
            imagecodecs.jpeg8_decode(stream, out=out[0])  # type: ignore[arg-type]  # any buffer
            return
        image = imagecodecs.jpeg8_decode(stream)  # type: ignore[arg-type]  # any buffer
    except (imagecodecs.Jpeg8Error, ValueError) as error:
        raise ChunkError(f"a damaged JPEG stream ({error})") from error
    np.copyto(out, image.transpose(2, 0, 1))

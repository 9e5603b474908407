"""PNG files: chunks, their checksums, decoding.

PNG (third edition), https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from stformat.model import Note
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_tags import exif_orientation, plausible_mpp
from stformat.sources._segments import Segment

__all__ = ["PNG_SIGNATURE", "PngHeader", "decode_png_file", "parse_png"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_BLOCK = 1 << 20
_MAX_CHUNKS = 1_000_000
_MAX_EXIF = 1 << 20

# A deflate stream codes at most 258 bytes in two bits.
_MAX_DEFLATE_RATIO = 1032

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 3, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_STORED_SAMPLES = _SAMPLES | {_PALETTE: 1}
_BITS = {
    _GRAY: {1, 2, 4, 8, 16},
    _RGB: {8, 16},
    _PALETTE: {1, 2, 4, 8},
    _GRAY_ALPHA: {8, 16},
    _RGB_ALPHA: {8, 16},
}
_METRE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PngHeader:
    """What the chunks of a PNG file declare."""

    width: int
    """Columns."""

    height: int
    """Rows."""

    bits: int
    """Bits of a stored sample, or of an index into the palette: 1, 2, 4, 8 or 16."""

    samples: int
    """Samples of a pixel as decoded, alpha and colour-key transparency included."""

    has_alpha: bool
    """Whether the last sample is opacity."""

    orientation: int
    """EXIF orientation, 1 to 8."""

    tag_mpp: float | None
    """Microns per pixel from the pHYs chunk, where plausible."""

    notes: tuple[Note, ...]
    """What decoding changes, or drops."""


def parse_png(file: InputFile, *, max_pixels: int) -> PngHeader:
    """Walk over the chunks of a PNG file and verify each checksum.

    Parameters
    ----------
    file : InputFile
        A file that starts with the PNG signature.
    max_pixels : int
        Most pixels that an image may declare.

    Returns
    -------
    PngHeader
        What the image is.

    Raises
    ------
    ImageError
        If the file ends before its IEND chunk, a checksum is wrong, the kind of image is not
        read, or more pixels are declared than are allowed or than the data can hold.
    """
    where = file.name
    kind, start, length = _chunk_at(file, len(PNG_SIGNATURE))
    if kind != b"IHDR" or length != 13:
        raise image_error("corrupt", where, "a PNG must start with its header", f"chunk {kind!r}")
    _verify(file, kind, start, length)
    width, height, bits, colour, *methods = struct.unpack(">IIBBBBB", file.read(start, length))
    _check_size(width, height, max_pixels, where)
    _check_coding(colour, bits, methods, where)
    has_key = False
    orientation = 1
    tag_mpp: float | None = None
    data_bytes = 0
    for _ in range(_MAX_CHUNKS):
        kind, start, length = _chunk_at(file, start + length + 4)
        _verify(file, kind, start, length)
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            data_bytes += length
        elif kind == b"tRNS":
            has_key = True
        elif kind == b"eXIf":
            orientation = exif_orientation(file.read(start, min(length, _MAX_EXIF)))
        elif kind == b"pHYs" and length == 9:
            tag_mpp = _density(*struct.unpack(">IIB", file.read(start, length)))
    else:
        raise image_error("corrupt", where, f"a PNG must hold at most {_MAX_CHUNKS} chunks", "more")
    has_alpha = colour in {_GRAY_ALPHA, _RGB_ALPHA}
    # A colour that stands for "transparent", or the opacity of each colour of a palette.
    has_key = has_key and not has_alpha
    header = PngHeader(
        width=width,
        height=height,
        bits=bits,
        samples=_SAMPLES[colour] + has_key,
        has_alpha=has_key or has_alpha,
        orientation=orientation,
        tag_mpp=tag_mpp,
        notes=_notes(colour, bits, width * height, has_alpha=has_key or has_alpha),
    )
    raw_bytes = height * (1 + -(-width * _STORED_SAMPLES[colour] * bits // 8))
    if raw_bytes > data_bytes * _MAX_DEFLATE_RATIO:
        raise image_error(
            "truncated",
            where,
            f"{width} x {height} pixels need at least {raw_bytes // _MAX_DEFLATE_RATIO} bytes",
            f"{data_bytes}",
            "copy the file again from its source",
        )
    return header


def _check_size(width: int, height: int, max_pixels: int, where: str) -> None:
    """Refuse an image that is empty or too large."""
    if not (width and height):
        raise image_error(
            "corrupt", where, "a PNG must declare its size", f"{width} x {height} pixels"
        )
    if width * height > max_pixels:
        raise image_error(
            "too-large",
            where,
            f"an image may have at most {max_pixels} pixels",
            f"{width} x {height}",
        )


def _check_coding(colour: int, bits: int, methods: list[int], where: str) -> None:
    """Refuse what the standard does not know."""
    compression, filtering, interlacing = methods
    if bits not in _BITS.get(colour, ()) or compression or filtering or interlacing > 1:
        raise image_error(
            "corrupt",
            where,
            "colour type, bits and methods of a PNG must be what the standard allows",
            f"colour type {colour} with {bits} bits, methods {methods}",
        )


def _notes(colour: int, bits: int, n_pixels: int, *, has_alpha: bool) -> tuple[Note, ...]:
    """Note what decoding does to the samples."""
    notes: list[Note] = []
    if colour == _PALETTE:
        message = "Pixels were indices of a palette; they were replaced by its colours."
        notes.append(Note(code="image.palette-applied", message=message, count=n_pixels))
    elif bits < 8:
        message = f"Samples of {bits} bits were scaled to 8: the brightest is 255."
        notes.append(Note(code="image.scaled-to-8-bits", message=message, count=n_pixels))
    if has_alpha:
        message = "The image has a channel of opacity, which was dropped; colours are as stored."
        notes.append(Note(code="image.alpha-dropped", message=message, count=n_pixels))
    return tuple(notes)


def _chunk_at(file: InputFile, at: int) -> tuple[bytes, int, int]:
    """Read the head of a chunk: its type, where its data starts and how long they are."""
    head = file.read(at, 8)
    length = int.from_bytes(head[:4])
    if len(head) < 8 or at + 12 + length > file.size:
        raise image_error(
            "truncated",
            file.name,
            "a PNG must reach its IEND chunk",
            f"the end of the file in the chunk at offset {at}",
            "copy the file again from its source",
        )
    return head[4:], at + 8, length


def _verify(file: InputFile, kind: bytes, start: int, length: int) -> None:
    """Compare the checksum of a chunk with its data."""
    checksum = zlib.crc32(kind)
    for at in range(start, start + length, _BLOCK):
        checksum = zlib.crc32(file.read(at, min(_BLOCK, start + length - at)), checksum)
    if file.read(start + length, 4) != checksum.to_bytes(4):
        raise image_error(
            "corrupt",
            file.name,
            "the checksum of every PNG chunk must fit its data",
            f"another one in the {kind.decode('latin-1')!r} chunk at offset {start - 8}",
            "copy the file again from its source",
        )


def _density(x: int, y: int, unit: int) -> float | None:
    if unit != _METRE or not (x and y):
        return None
    return plausible_mpp(1e6 / x, 1e6 / y)


def decode_png_file(
    file: InputFile, segment: Segment, out: NDArray[Any], *, scratch: Path | None
) -> None:
    """Decode a PNG file, the only segment of its grid, into `out`; see `SegmentedImage.decode`."""
    del segment
    data = file.load(0, file.size, scratch)
    pixels = out if out.shape[2] > 1 else out[:, :, 0]
    try:
        imagecodecs.png_decode(data, out=pixels)
    except (imagecodecs.PngError, ValueError) as error:
        raise image_error("corrupt", file.name, "the PNG must decode", str(error)) from error

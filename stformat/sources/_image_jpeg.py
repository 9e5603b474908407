"""JPEG streams: structure, wholeness, decoding.

ITU-T T.81 (JPEG), annex B; JFIF 1.02.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_tags import exif_orientation, plausible_mpp, um_per_unit
from stformat.sources._segments import Segment

__all__ = ["JPEG_ERRORS", "Component", "JpegStream", "decode_jpeg_file", "parse_jpeg"]

JPEG_ERRORS = (imagecodecs.Jpeg8Error, ValueError)
"""What the decoder raises: its own error, or ValueError for sizes that do not fit the output."""

_MAX_COEFFICIENT_BYTES = 512 * 2**20
_MAX_SCANS = 100
_MAX_SEGMENTS = 10_000
_WINDOW = 1 << 20

# In entropy-coded data FF is followed by 00 (a stuffed byte) or D0-D7 (restart); FF FF is fill.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)

_SOI, _EOI, _SOS, _APP0, _APP1 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2


@dataclass(frozen=True, slots=True)
class Component:
    """One colour component of a frame."""

    identifier: int
    horizontal: int
    vertical: int


@dataclass(slots=True, kw_only=True)
class JpegStream:
    """What a walk over the segments of a JPEG stream finds."""

    width: int = 0
    """Columns of the frame; 0 until its header is seen."""

    height: int = 0
    """Rows of the frame."""

    frame: int = 0
    """Marker of the frame header: 0xC0 baseline, 0xC1 extended, 0xC2 progressive."""

    components: tuple[Component, ...] = ()
    """Colour components."""

    n_scans: int = 0
    """Scans seen."""

    first_scan_components: int = 0
    """Components of the first scan; fewer than the frame has mean one scan a component."""

    scan_bytes: int = 0
    """Entropy-coded bytes of all scans."""

    is_jfif: bool = False
    """Whether the stream says that it is JFIF, whose three components are YCbCr."""

    orientation: int = 1
    """EXIF orientation, 1 to 8."""

    tag_mpp: float | None = None
    """Microns per pixel from the JFIF density, where plausible."""

    @property
    def n_blocks(self) -> int:
        """Blocks of 8 x 8 coefficients in the frame, interleaved padding left aside."""
        across = max(component.horizontal for component in self.components)
        down = max(component.vertical for component in self.components)
        return sum(
            -(-self.width * component.horizontal // (8 * across))
            * -(-self.height * component.vertical // (8 * down))
            for component in self.components
        )

    @property
    def buffers_coefficients(self) -> bool:
        """Whether a decoder has to hold the coefficients of the whole frame."""
        return self.frame == _PROGRESSIVE or self.first_scan_components < len(self.components)


def parse_jpeg(read: Callable[[int, int], bytes], where: str) -> JpegStream:
    """Walk over the segments of a JPEG stream, from SOI to the EOI that is its own.

    Parameters
    ----------
    read : callable
        ``read(start, length)`` returns bytes of the stream, fewer only at its end.
    where : str
        The file, for messages.

    Returns
    -------
    JpegStream
        What the headers declare. Thumbnails lie inside APP segments and are passed over; bytes
        after EOI are ignored.

    Raises
    ------
    ImageError
        If the stream ends before its EOI marker, is no JPEG, is of a kind that is not read
        (lossless, arithmetic coding, more than 8 bits), or declares more pixels than it can hold.
    """
    if read(0, 2) != b"\xff\xd8":
        raise image_error("corrupt", where, "a JPEG stream must start with SOI", "other bytes")
    stream = JpegStream()
    at = 2
    in_scan = False
    for _ in range(_MAX_SEGMENTS):
        start = _next_marker(read, at, where)
        if in_scan:
            stream.scan_bytes += start - at
        code = read(start, 2)[1]
        if code == _EOI:
            _check_stream(stream, where)
            return stream
        if code == _SOI:
            raise image_error("corrupt", where, "a JPEG stream must hold one SOI", "a second one")
        length = int.from_bytes(read(start + 2, 2))
        body = read(start + 4, max(0, length - 2))
        if length < 2 or len(body) < length - 2:
            raise _truncated(where, "a marker segment that is cut short")
        _take_segment(stream, code, body, where)
        in_scan = code == _SOS
        at = start + 2 + length
    raise image_error(
        "corrupt", where, f"a JPEG must hold at most {_MAX_SEGMENTS} marker segments", "more"
    )


def _next_marker(read: Callable[[int, int], bytes], at: int, where: str) -> int:
    """Find the next marker other than stuffing, fill and restarts."""
    # Most often the marker is right here; a window that grows keeps the work linear in any case.
    size = 64
    while True:
        window = read(at, size)
        match = _MARKER.search(window)
        if match is not None:
            return at + match.start()
        if len(window) < size:
            raise _truncated(where, "the end of the file first")
        at += len(window) - 1
        size = min(8 * size, _WINDOW)


def _take_segment(stream: JpegStream, code: int, body: bytes, where: str) -> None:
    """Note what one marker segment declares."""
    if code in _FRAMES:
        _take_frame(stream, code, body, where)
    elif code == _SOS:
        if not stream.components or not body:
            raise image_error("corrupt", where, "a JPEG scan must follow a frame header", "none")
        stream.n_scans += 1
        if stream.n_scans == 1:
            stream.first_scan_components = body[0]
    elif code == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 12:
        stream.is_jfif = True
        unit, x, y = struct.unpack_from(">BHH", body, 7)
        # JFIF numbers its units from 0, TIFF from 1; inch comes before centimetre in both.
        scale = um_per_unit(unit + 1)
        if scale is not None and x and y:
            stream.tag_mpp = plausible_mpp(scale / x, scale / y)
    elif code == _APP1 and body.startswith(b"Exif\0"):
        stream.orientation = exif_orientation(body[6:])


def _take_frame(stream: JpegStream, code: int, body: bytes, where: str) -> None:
    """Note size, precision and components from a frame header."""
    if stream.components:
        raise image_error("corrupt", where, "a JPEG must hold one frame", "a second frame header")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise _truncated(where, "a frame header that is cut short")
    precision, height, width, n_components = struct.unpack_from(">BHHB", body)
    if code not in {_BASELINE, _EXTENDED, _PROGRESSIVE} or precision != 8:
        raise _unsupported(where, f"a frame of type SOF{code - 0xC0} with {precision} bits")
    if n_components not in {1, 2, 3}:
        raise _unsupported(where, f"{n_components} components (CMYK has 4)")
    if not (width and height):
        raise image_error(
            "corrupt", where, "a JPEG must declare its size", f"{width} x {height} pixels"
        )
    stream.components = tuple(
        Component(body[at], body[at + 1] >> 4, body[at + 1] & 15)
        for at in range(6, 6 + 3 * n_components, 3)
    )
    if any(not (1 <= c.horizontal <= 4 and 1 <= c.vertical <= 4) for c in stream.components):
        raise image_error("corrupt", where, "sampling factors must be 1 to 4", "others")
    stream.frame, stream.width, stream.height = code, width, height


def _check_stream(stream: JpegStream, where: str) -> None:
    """Refuse what no decoder could make of the bytes that are there, or only at a price."""
    if not stream.n_scans:
        raise image_error("corrupt", where, "a JPEG must hold a scan", "none before EOI")
    if stream.n_scans > _MAX_SCANS:
        raise image_error(
            "too-large", where, f"at most {_MAX_SCANS} scans are decoded", f"{stream.n_scans}"
        )
    # A block costs a bit for its DC coefficient and, but in a progressive scan, one for its end.
    bits = stream.n_blocks * (1 if stream.frame == _PROGRESSIVE else 2)
    if stream.scan_bytes * 8 < bits:
        raise image_error(
            "truncated",
            where,
            f"{stream.width} x {stream.height} pixels need at least {bits // 8} bytes of scans",
            f"{stream.scan_bytes}",
            "copy the file again from its source",
        )
    if stream.buffers_coefficients and stream.n_blocks * 128 > _MAX_COEFFICIENT_BYTES:
        raise image_error(
            "too-large",
            where,
            f"a progressive JPEG must need at most {_MAX_COEFFICIENT_BYTES >> 20} MiB to decode",
            f"one that needs {stream.n_blocks * 128 >> 20} MiB",
            "rewrite it without loss as baseline: jpegtran -copy all in.jpg > out.jpg",
        )


def decode_jpeg_file(
    file: InputFile, segment: Segment, out: NDArray[Any], *, scratch: Path | None
) -> None:
    """Decode a JPEG file, the only segment of its grid, into `out`; see `SegmentedImage.decode`."""
    del segment
    data = file.load(0, file.size, scratch)
    pixels = out if out.shape[2] > 1 else out[:, :, 0]
    try:
        imagecodecs.jpeg8_decode(data, out=pixels)
    except JPEG_ERRORS as error:
        raise image_error("corrupt", file.name, "the JPEG must decode", str(error)) from error


def _truncated(where: str, found: str) -> ImageError:
    return image_error(
        "truncated",
        where,
        "a JPEG must reach its EOI marker",
        found,
        "copy the file again from its source",
    )


def _unsupported(where: str, found: str) -> ImageError:
    return image_error(
        "unsupported",
        where,
        "a JPEG must be baseline or progressive, 8-bit, grayscale or RGB",
        found,
        "convert it to an 8-bit RGB TIFF",
    )

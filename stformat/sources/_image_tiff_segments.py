"""Decoding of the strips and tiles of a TIFF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.kernels import codes_after_clear_are_bytes
from stformat.scratch import scratch_array
from stformat.sources._ccitt import CcittError, decode_ccitt
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_jpeg import JPEG_ERRORS, parse_jpeg
from stformat.sources._image_jpeg2000 import parse_jpeg2000
from stformat.sources._image_tiff import TiffLayout
from stformat.sources._image_tiff_samples import ycbcr_to_rgb
from stformat.sources._segments import Segment

__all__ = ["TiffSegments"]

_RGB = 2

_CODED_PIXEL_BYTES = 32
"""Bytes a pixel that decoding JPEG 2000 or WebP takes: 4 a sample, twice."""

_BYTE_DECODERS: Mapping[str, Callable[..., Sized]] = MappingProxyType(
    {
        "deflate": imagecodecs.deflate_decode,
        "lzw": imagecodecs.lzw_decode,
        "packbits": imagecodecs.packbits_decode,
        "zstd": imagecodecs.zstd_decode,
    }
)

_DECODER_ERRORS = (
    imagecodecs.DeflateError,
    imagecodecs.LzwError,
    imagecodecs.PackbitsError,
    imagecodecs.ZstdError,
    imagecodecs.Jpeg2kError,
    imagecodecs.WebpError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class TiffSegments:
    """Reads the segments of an image, in any thread."""

    layout: TiffLayout
    scratch: Path | None

    @property
    def has_rows(self) -> bool:
        """Whether rows can be read alone: they are not compressed and not shared by blocks."""
        return self.layout.kind.codec == "none" and self.layout.kind.stored.ycbcr is None

    @property
    def decoder_bytes(self) -> int:
        """Bytes that decoding a segment takes beside its values."""
        kind, grid = self.layout.kind, self.layout.grid
        if kind.codec in {"jpeg2000", "webp"}:
            return _CODED_PIXEL_BYTES * grid.height * grid.width
        return 0 if kind.stored.are_values else kind.stored.n_bytes(grid.height, grid.width)

    def read_rows(self, file: InputFile, segment: Segment, first: int, out: NDArray[Any]) -> None:
        """Read rows of an uncompressed segment; see `SegmentedImage.read_rows`."""
        n_rows, width, _ = out.shape
        start = int(self.layout.starts[segment])
        stored = self._buffer(out, n_rows)
        file.read_into(start + self.layout.kind.stored.n_bytes(first, width), stored)
        if self.layout.kind.stored.reverse_bits:
            imagecodecs.bitorder_decode(stored, out=stored)
        self.layout.kind.stored.to_values(stored, out)

    def decode(self, file: InputFile, segment: Segment, out: NDArray[Any]) -> None:
        """Decode a segment; see `SegmentedImage.decode`."""
        start, length = int(self.layout.starts[segment]), int(self.layout.lengths[segment])
        data = file.load(start, length, self.scratch)
        where = _place(file, start)
        match self.layout.kind.codec:
            case "jpeg":
                self._decode_jpeg(data, segment, out, where)
            case "jpeg2000":
                self._decode_jpeg2000(bytes(data), segment, out, where)
            case "webp":
                self._decode_webp(data, segment, out, where)
            case _:
                self._decode_rows(data, segment, out, where)

    def _decode_rows(
        self, data: bytearray | mmap, segment: Segment, out: NDArray[Any], where: str
    ) -> None:
        """Decode what is stored as rows of samples."""
        kind = self.layout.kind
        if kind.stored.reverse_bits:
            packed = np.frombuffer(data, np.uint8)
            imagecodecs.bitorder_decode(packed, out=packed)
        n_rows, _ = self.layout.grid.visible(segment)
        if kind.ccitt is not None:
            self._decode_ccitt(bytes(data), out[:n_rows], where)
            return
        if kind.codec == "lzw":
            _check_lzw(data, where)
        # A strip may hold no more rows than are visible, a tile holds all.
        stored = self._buffer(out, out.shape[0])
        n_needed = kind.stored.n_bytes(n_rows, out.shape[1])
        if kind.codec == "none":
            n_bytes = min(len(data), len(stored))
            stored[:n_bytes] = np.frombuffer(data, np.uint8, n_bytes)
        else:
            n_bytes = len(self._run(_BYTE_DECODERS[kind.codec], data, memoryview(stored), where))
        if n_bytes < n_needed:
            raise image_error(
                "truncated",
                where,
                f"the segment must hold {n_needed} bytes of pixels",
                f"{n_bytes}",
                "copy the file again from its source",
            )
        kind.stored.to_values(stored[:n_needed], out[:n_rows])

    def _buffer(self, out: NDArray[Any], n_rows: int) -> NDArray[np.uint8]:
        """Return room for stored rows: the memory of their values where it fits."""
        stored = self.layout.kind.stored
        if stored.are_values:
            return out.reshape(-1).view(np.uint8)
        return scratch_array((stored.n_bytes(n_rows, out.shape[1]),), np.uint8, self.scratch)

    def _run(
        self,
        decoder: Callable[..., Sized],
        data: bytes | bytearray | mmap,
        out: NDArray[Any] | memoryview,
        where: str,
    ) -> Sized:
        """Decode into memory that is given."""
        try:
            return decoder(data, out=out)
        except _DECODER_ERRORS as error:
            raise _corrupt(self.layout.kind.codec, where, error) from error

    def _decode_ccitt(self, data: bytes, out: NDArray[Any], where: str) -> None:
        """Decode black and white rows."""
        kind = self.layout.kind
        if kind.ccitt is None:
            raise ValueError("the segment holds no CCITT data")
        try:
            decode_ccitt(data, kind.ccitt, out=out[:, :, 0])
        except CcittError as error:
            raise _corrupt(kind.codec, where, error) from error
        if kind.stored.is_inverted:
            np.invert(out, out=out)

    def _decode_webp(
        self, data: bytearray | mmap, segment: Segment, out: NDArray[Any], where: str
    ) -> None:
        """Decode a WebP image, which of a last strip has no more rows than are visible."""
        decoder = partial(imagecodecs.webp_decode, hasalpha=out.shape[2] == 4)
        n_rows, _ = self.layout.grid.visible(segment)
        try:
            decoder(data, out=out)
        except imagecodecs.WebpError as error:
            raise _corrupt("webp", where, error) from error
        except ValueError:  # the decoder looks at the size before it decodes
            self._run(decoder, data, out[:n_rows], where)

    def _decode_jpeg2000(
        self, data: bytes, segment: Segment, out: NDArray[Any], where: str
    ) -> None:
        """Decode a JPEG 2000 code stream after a look at what it would take."""
        stream = parse_jpeg2000(data, where)
        found = stream.height, stream.width, stream.n_components
        decoded = self._target(segment, out, found, where)
        if stream.bits != 8 * out.itemsize:
            raise image_error(
                "corrupt", where, f"samples of {8 * out.itemsize} bits", f"{stream.bits} bits"
            )
        self._run(
            imagecodecs.jpeg2k_decode,
            data,
            decoded if out.shape[2] > 1 else decoded[:, :, 0],
            where,
        )
        coding = self.layout.kind.ycbcr_after_decoding
        if coding is not None:
            ycbcr_to_rgb(decoded[:, :, :3], coding, out=decoded[:, :, :3])
        if decoded is not out:
            out[: stream.height, : stream.width] = decoded

    def _decode_jpeg(
        self, data: bytearray | mmap, segment: Segment, out: NDArray[Any], where: str
    ) -> None:
        """Decode a JPEG segment."""
        stream = parse_jpeg(lambda start, length: bytes(data[start : start + length]), where)
        found = stream.height, stream.width, len(stream.components)
        decoded = self._target(segment, out, found, where)
        is_colour = out.shape[2] == 3
        is_rgb = self.layout.kind.is_rgb and not stream.is_jfif
        try:
            imagecodecs.jpeg8_decode(
                data,
                tables=self.layout.jpeg_tables[segment.plane],
                colorspace=_RGB if is_colour and is_rgb else None,
                outcolorspace=_RGB if is_colour else None,
                out=decoded if out.shape[2] > 1 else decoded[:, :, 0],
            )
        except JPEG_ERRORS as error:
            raise _corrupt("JPEG", where, error) from error
        if self.layout.kind.stored.is_inverted:
            np.invert(decoded, out=decoded)
        if decoded is not out:
            out[: stream.height, : stream.width] = decoded

    def _target(
        self, segment: Segment, out: NDArray[Any], found: tuple[int, int, int], where: str
    ) -> NDArray[Any]:
        """Return `out`, or an array for a segment that is as small as its visible part."""
        n_rows, n_columns = self.layout.grid.visible(segment)
        height, width, n_samples = found
        if not (
            n_rows <= height <= out.shape[0]
            and n_columns <= width <= out.shape[1]
            and n_samples == out.shape[2]
        ):
            raise image_error(
                "corrupt",
                where,
                f"a segment of {out.shape[1]} x {out.shape[0]} pixels of {out.shape[2]} samples",
                f"{width} x {height} of {n_samples}",
            )
        return out if found == out.shape else scratch_array(found, out.dtype, self.scratch)


def _place(file: InputFile, start: int) -> str:
    return f"{file.name}, segment at offset {start}"


def _check_lzw(data: bytearray | mmap, where: str) -> None:
    """Refuse data that the decoder would not survive."""
    if not codes_after_clear_are_bytes(np.frombuffer(data, np.uint8)):
        raise image_error("corrupt", where, "lzw data must decode", "a code of an empty table")


def _corrupt(codec: str, where: str, error: Exception) -> ImageError:
    return image_error("corrupt", where, f"{codec} data must decode", str(error))

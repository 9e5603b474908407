"""Decoding of the strips and tiles of a TIFF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from stformat.sources._image_file import InputFile, image_error, scratch_array
from stformat.sources._image_jpeg import JPEG_ERRORS, parse_jpeg
from stformat.sources._image_tiff import TiffLayout
from stformat.sources._segments import Segment

__all__ = ["TiffSegments"]

_RGB = 2

_DECODERS: Mapping[str, Callable[..., Sized]] = MappingProxyType(
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
    ValueError,
)


@dataclass(frozen=True, slots=True)
class TiffSegments:
    """Reads the segments of one page, in any thread."""

    layout: TiffLayout
    scratch: Path | None

    def read_rows(self, file: InputFile, segment: Segment, first: int, out: NDArray[Any]) -> None:
        """Read rows of an uncompressed segment; see `SegmentedImage.read_rows`."""
        row_bytes = out[0].nbytes
        file.read_into(int(self.layout.starts[segment]) + first * row_bytes, out)
        self._finish(out)

    def decode(self, file: InputFile, segment: Segment, out: NDArray[Any]) -> None:
        """Decode a compressed segment; see `SegmentedImage.decode`."""
        start, length = int(self.layout.starts[segment]), int(self.layout.lengths[segment])
        data = file.load(start, length, self.scratch)
        where = f"{file.name}, segment at offset {start}"
        if self.layout.codec == "jpeg":
            self._decode_jpeg(data, segment, out, where)
            return
        flat = out.reshape(-1).view(np.uint8)
        try:
            n_bytes = len(_DECODERS[self.layout.codec](data, out=memoryview(flat)))
        except _DECODER_ERRORS as error:
            raise image_error(
                "corrupt", where, f"{self.layout.codec} data must decode", str(error)
            ) from error
        n_rows, _ = self.layout.grid.visible(segment)
        visible = out[:n_rows]
        if n_bytes < visible.nbytes:
            raise image_error(
                "truncated",
                where,
                f"the segment must hold {visible.nbytes} bytes of pixels",
                f"{n_bytes}",
                "copy the file again from its source",
            )
        self._finish(visible)

    def _finish(self, pixels: NDArray[Any]) -> None:
        """Turn stored samples into values, in place."""
        if self.layout.swap_bytes:
            pixels.byteswap(inplace=True)
        if self.layout.has_predictor:
            imagecodecs.delta_decode(pixels, axis=1, out=pixels)

    def _decode_jpeg(
        self, data: bytearray | mmap, segment: Segment, out: NDArray[Any], where: str
    ) -> None:
        """Decode a JPEG segment, which may be as small as the part of it that is visible."""
        stream = parse_jpeg(lambda start, length: bytes(data[start : start + length]), where)
        n_rows, n_columns = self.layout.grid.visible(segment)
        if not (
            n_rows <= stream.height <= out.shape[0]
            and n_columns <= stream.width <= out.shape[1]
            and len(stream.components) == out.shape[2]
        ):
            raise image_error(
                "corrupt",
                where,
                f"a JPEG of {out.shape[1]} x {out.shape[0]} pixels of {out.shape[2]} samples",
                f"{stream.width} x {stream.height} of {len(stream.components)}",
            )
        fits = (stream.height, stream.width) == out.shape[:2]
        shape = (stream.height, stream.width, out.shape[2])
        decoded = out if fits else scratch_array(shape, np.uint8, self.scratch)
        is_colour = out.shape[2] == 3
        try:
            imagecodecs.jpeg8_decode(
                data,
                tables=self.layout.jpeg_tables,
                colorspace=(
                    _RGB if is_colour and self.layout.is_rgb and not stream.is_jfif else None
                ),
                outcolorspace=_RGB if is_colour else None,
                out=decoded if out.shape[2] > 1 else decoded[:, :, 0],
            )
        except JPEG_ERRORS as error:
            raise image_error("corrupt", where, "JPEG data must decode", str(error)) from error
        if not fits:
            out[: stream.height, : stream.width] = decoded

"""The codecs that an image can be stored with.

Specification: spec/stformat-0.1.md, "Arrays and codecs" and "Images".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stformat.errors import Problem
from stformat.metadata.zarr_codecs import blosc_codecs, jpeg_codecs, zstd_codecs
from stformat.model import Image, JpegTiles, Note, SlideRecord
from stformat.store import layout
from stformat.store.chunk_blosc import encode_blosc
from stformat.store.chunk_codec import with_crc32c, without_crc32c
from stformat.store.chunk_jpeg import decode_jpeg, encode_jpeg
from stformat.store.shard import ZSTD_LEVEL, encode_chunk

__all__ = [
    "IMAGE_CODECS",
    "ZSTD",
    "ImageCodec",
    "chunk_edge",
    "codec_problem",
    "kept_tiles",
    "with_codec_notes",
]

JPEG_LEVEL = 90
"""A tenth of the bytes; differences of a few grey levels, below the noise of a scanner."""

JPEG_SUBSAMPLING = "444"
"""Every pixel keeps a colour of its own: what tells haematoxylin from eosin is colour."""

_JPEG_CHANNELS = frozenset({1, 3})

# Planes of samples decode four times as fast as under zstd; sorting their bits gains a few per cent
# of size and costs all of that.
BLOSC_NAME = "lz4"
BLOSC_LEVEL = 5
BLOSC_SHUFFLE: Final = "noshuffle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCodec:
    """How the chunks of an image become bytes."""

    name: str
    """Name that a user gives."""

    codecs: Callable[[np.dtype[Any]], list[dict[str, Any]]]
    """``codecs(dtype)`` returns the codecs of an inner chunk, as members of a zarr.json."""

    encode: Callable[[NDArray[Any], tuple[int, int]], bytes]
    """``encode(chunk, inside)`` encodes a chunk ``(c, y, x)`` of which ``inside`` rows and columns
    lie in the image; the others are 0. Safe for threads; the same bytes for the same chunk."""

    decode: Callable[[bytes, NDArray[Any]], None] | None = None
    """``decode(encoded, out)`` gives the pixels that a reader will see; None where the codec is
    lossless, so that they are those that were encoded."""

    keep: Callable[[bytes], bytes] | None = None
    """``keep(stream)`` makes a chunk of a JPEG stream as it is; None where chunks are no JPEG."""


def codec_problem(codec: ImageCodec, image: Image) -> Problem | None:
    """Say why an image cannot be stored with a codec, or return None."""
    if codec.name != "jpeg":
        return None
    if image.dtype == np.uint8 and image.shape[0] in _JPEG_CHANNELS:
        return None
    return Problem(
        "image.codec",
        "image_codec",
        "JPEG holds 8-bit images of 1 or 3 channels",
        f"{image.shape[0]} channels of {image.dtype}",
        "store the image without loss: zstd",
    )


def kept_tiles(codec: ImageCodec, image: Image, chunk_px: int) -> JpegTiles | None:
    """Return the tiles of the source that may stand as chunks of level 0, if there are any."""
    tiles = image.jpeg_tiles
    is_kept = codec.keep is not None and tiles is not None and tiles.edge_px == chunk_px
    return tiles if is_kept else None


def chunk_edge(codec: ImageCodec, image: Image) -> int:
    """Return the edge of an inner chunk of an image: that of JPEG tiles that are kept, or 256."""
    fits = (edge for edge in layout.JPEG_TILE_PX if kept_tiles(codec, image, edge))
    return next(fits, layout.INNER_PX)


def with_codec_notes(record: SlideRecord, codec: ImageCodec) -> SlideRecord:
    """Return a record whose notes say what a codec that loses something does to its pixels."""
    image = record.image
    if image is None or codec.decode is None:
        return record
    _, height, width = image.shape
    if kept_tiles(codec, image, chunk_edge(codec, image)):
        code = "image.jpeg-kept"
        message = (
            "Level 0 keeps the JPEG tiles of the source as they are; a tile that no chunk can be, "
            f"and the other levels, were encoded as JPEG of quality {JPEG_LEVEL}."
        )
    else:
        code = "image.jpeg-encoded"
        message = (
            f"Pixels were encoded as JPEG of quality {JPEG_LEVEL}: they are close to those of the "
            "source, not equal."
        )
    note = Note(code=code, message=message, count=height * width)
    return replace(record, notes=(*record.notes, note))


def _encode_zstd(chunk: NDArray[Any], _inside: tuple[int, int]) -> bytes:
    return encode_chunk(np.ascontiguousarray(chunk))


def _encode_blosc(chunk: NDArray[Any], _inside: tuple[int, int]) -> bytes:
    plain = np.ascontiguousarray(chunk)
    return with_crc32c(
        encode_blosc(plain, cname=BLOSC_NAME, level=BLOSC_LEVEL, shuffle=BLOSC_SHUFFLE)
    )


def _encode_jpeg(chunk: NDArray[Any], inside: tuple[int, int]) -> bytes:
    height, width = inside
    stream = encode_jpeg(
        chunk[:, :height, :width],
        (chunk.shape[1], chunk.shape[2]),
        level=JPEG_LEVEL,
        subsampling=JPEG_SUBSAMPLING,
    )
    return with_crc32c(stream)


def _decode_jpeg(encoded: bytes, out: NDArray[Any]) -> None:
    decode_jpeg(without_crc32c(encoded), out)


ZSTD = ImageCodec(
    name="zstd", codecs=lambda dtype: zstd_codecs(dtype, level=ZSTD_LEVEL), encode=_encode_zstd
)
"""Lossless; every Zarr v3 reader has it."""

_ALL = (
    ZSTD,
    ImageCodec(
        name="blosc",
        codecs=lambda dtype: blosc_codecs(
            dtype, cname=BLOSC_NAME, level=BLOSC_LEVEL, shuffle=BLOSC_SHUFFLE
        ),
        encode=_encode_blosc,
    ),
    ImageCodec(
        name="jpeg",
        codecs=lambda _dtype: jpeg_codecs(level=JPEG_LEVEL, subsampling=JPEG_SUBSAMPLING),
        encode=_encode_jpeg,
        decode=_decode_jpeg,
        keep=with_crc32c,
    ),
)

IMAGE_CODECS: Mapping[str, ImageCodec] = MappingProxyType({codec.name: codec for codec in _ALL})
"""By name: ``zstd``, the default; ``blosc`` decodes faster; ``jpeg`` loses, and is the smallest."""

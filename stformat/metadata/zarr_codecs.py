"""Codecs of chunks that are coded without zarr-python: their members of a zarr.json, both ways.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/index.html ("bytes", "blosc",
"crc32c", "transpose"), the zarr extensions registry ("zstd") and spec/stformat-0.1.md, "Arrays and
codecs" ("imagecodecs_jpeg").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "NUMERIC",
    "ChunkCoding",
    "Compression",
    "blosc_codecs",
    "jpeg_codecs",
    "parse_coding",
    "promises_checksum",
    "zstd_codecs",
]

type Compression = Literal["zstd", "blosc", "jpeg"]

NUMERIC = frozenset({"bool", "uint8", "uint16", "uint32", "uint64"}) | frozenset(
    {"int8", "int16", "int32", "int64", "float16", "float32", "float64"}
)
"""Data types of arrays of numbers."""

# What a JPEG stream holds, a zarr array has the other way round: (y, x, sample) from (c, y, x).
_SAMPLES_LAST = [1, 2, 0]
_JPEG_CHANNELS = frozenset({1, 3})

# They concern the encoder alone; any other member changes what a stream decodes to.
_JPEG_MEMBERS = frozenset({"level", "subsampling"})

_CRC32C = {"name": "crc32c"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCoding:
    """How the bytes of a chunk stand for its numbers, where this library decodes them itself."""

    compression: Compression
    """``"zstd"`` and ``"blosc"`` hold little-endian numbers in C order, ``"jpeg"`` an image of
    one or three samples a pixel, which are the first axis of the chunk."""

    has_content_checksum: bool
    """Whether a zstd frame must end with a checksum of its content."""

    has_crc32c: bool
    """Whether a CRC-32C of the compressed bytes follows them."""

    @property
    def has_checksum(self) -> bool:
        """Whether damage to a chunk is told from another content."""
        return self.has_content_checksum or self.has_crc32c


def zstd_codecs(dtype: np.dtype[Any], *, level: int) -> list[dict[str, Any]]:
    """Return the codecs of numbers under zstd with a checksum of the content.

    Examples
    --------
    >>> [codec["name"] for codec in zstd_codecs(np.dtype("int32"), level=1)]
    ['bytes', 'zstd']
    """
    return [
        _bytes_codec(dtype),
        {"name": "zstd", "configuration": {"level": level, "checksum": True}},
    ]


def blosc_codecs(
    dtype: np.dtype[Any],
    *,
    cname: str,
    level: int,
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"],
) -> list[dict[str, Any]]:
    """Return the codecs of numbers under blosc, which has no checksum, and CRC-32C.

    Examples
    --------
    >>> codecs = blosc_codecs(np.dtype("uint8"), cname="lz4", level=5, shuffle="bitshuffle")
    >>> [codec["name"] for codec in codecs]
    ['bytes', 'blosc', 'crc32c']
    """
    blosc = {
        "cname": cname,
        "clevel": level,
        "shuffle": shuffle,
        "typesize": np.dtype(dtype).itemsize,
        "blocksize": 0,
    }
    return [_bytes_codec(dtype), {"name": "blosc", "configuration": blosc}, dict(_CRC32C)]


def jpeg_codecs(*, level: int, subsampling: str) -> list[dict[str, Any]]:
    """Return the codecs of an image ``(c, y, x)`` whose chunks are JPEG streams under CRC-32C.

    The members of the configuration are those of the codec of this name that the package
    imagecodecs-zarr has. They say how chunks are encoded; a stream is decoded without them.

    Examples
    --------
    >>> [codec["name"] for codec in jpeg_codecs(level=90, subsampling="444")]
    ['transpose', 'imagecodecs_jpeg', 'crc32c']
    """
    return [
        {"name": "transpose", "configuration": {"order": list(_SAMPLES_LAST)}},
        {
            "name": "imagecodecs_jpeg",
            "configuration": {"level": level, "subsampling": subsampling},
        },
        dict(_CRC32C),
    ]


def parse_coding(
    codecs: Sequence[Mapping[str, Any]], data_type: str, chunks: tuple[int, ...]
) -> ChunkCoding | None:
    """Narrow the codecs of a chunk to a coding that is known, or return None.

    Parameters
    ----------
    codecs : sequence of mapping
        The codecs of a chunk in the order of encoding; inside a shard its inner codecs.
    data_type : str
        Zarr data type of the array.
    chunks : tuple of int
        Shape of a chunk.

    Returns
    -------
    ChunkCoding or None
        None for what is left to zarr-python.
    """
    has_crc32c = len(codecs) > 1 and codecs[-1]["name"] == "crc32c"
    match codecs[:-1] if has_crc32c else codecs:
        case [{"name": "bytes"} as plain, {"name": "zstd" | "blosc" as name} as compressor]:
            endian = plain.get("configuration", {}).get("endian", "little")
            options = compressor.get("configuration", {})
            if data_type not in NUMERIC or endian != "little" or not _is_known(name, options):
                return None
            return ChunkCoding(
                compression=name,
                has_content_checksum=name == "zstd" and options.get("checksum") is True,
                has_crc32c=has_crc32c,
            )
        case [{"name": "transpose"} as transpose, {"name": "imagecodecs_jpeg"} as jpeg]:
            order = transpose["configuration"]["order"]
            options = jpeg.get("configuration", {})
            is_image = data_type == "uint8" and len(chunks) == 3 and chunks[0] in _JPEG_CHANNELS
            if not is_image or order != _SAMPLES_LAST or options.keys() - _JPEG_MEMBERS:
                return None
            return ChunkCoding(
                compression="jpeg", has_content_checksum=False, has_crc32c=has_crc32c
            )
        case _:
            return None


def promises_checksum(codec: Mapping[str, Any]) -> bool:
    """Return whether a codec, the last of a chunk, leaves a checksum of it."""
    return codec["name"] == "crc32c" or (
        codec["name"] == "zstd" and codec.get("configuration", {}).get("checksum") is True
    )


def _is_known(name: str, options: Mapping[str, Any]) -> bool:
    """Return whether the decoder has the compressor of a blosc buffer; snappy is rarely built."""
    return name == "zstd" or options.get("cname") in {"blosclz", "lz4", "lz4hc", "zlib", "zstd"}


def _bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the codec of plain numbers; one-byte types have no byte order to state."""
    if np.dtype(dtype).itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}

"""The zarr.json of a Zarr v3 array: how its bytes are cut, and by which codecs.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and its codecs
"sharding_indexed" 1.0, "bytes", "zstd", "crc32c".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stformat.errors import Problem, UnsupportedStoreError
from stformat.metadata.zarr_codecs import NUMERIC, ChunkCoding, parse_coding, promises_checksum

__all__ = ["ALLOWED_CODECS", "MAX_CHUNK_BYTES", "ArrayMetadata", "array_document", "parse_array"]

ALLOWED_CODECS = frozenset(
    {
        "blosc",
        "bytes",
        "crc32c",
        "gzip",
        "imagecodecs_jpeg",
        "numcodecs.delta",
        "numcodecs.zlib",
        "numcodecs.zstd",
        "sharding_indexed",
        "transpose",
        "vlen-bytes",
        "vlen-utf8",
        "zstd",
    }
)
"""Codecs that only transform bytes. Anything else in a store (a pickle, say) is refused unread."""

MAX_CHUNK_BYTES = 1 << 30
"""Largest chunk that is read, decoded; text counts one byte an element."""

_MEMBERS = frozenset({"zarr_format", "node_type", "shape", "data_type", "chunk_grid"}) | frozenset(
    {"chunk_key_encoding", "fill_value", "codecs", "attributes", "dimension_names"}
    | {"storage_transformers"}
)
_INDEX_CODECS = ({"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayMetadata:
    """What a reader needs to know of an array."""

    shape: tuple[int, ...]
    """Shape of the array."""

    data_type: str
    """Zarr data type: a NumPy name for numbers, ``"string"`` for text."""

    chunks: tuple[int, ...]
    """Shape of the unit of reading (the inner chunk where there are shards)."""

    shards: tuple[int, ...] | None
    """Shape of the unit of writing, or None where each chunk is a file."""

    separator: str
    """Between the indices of a chunk's key: ``c/0/1``."""

    fill_value: Any
    """JSON form of the fill value."""

    coding: ChunkCoding | None
    """How chunks are coded that are decoded without zarr-python, whose shard index, if any, stands
    at the end under crc32c; None for all others."""

    has_plain_index: bool
    """Whether a chunk's bytes are found without zarr-python: each chunk is a file, or the shard
    index stands at the end under crc32c."""

    has_checksums: bool
    """Whether the last codec of a chunk promises a checksum: crc32c, or zstd that says so."""

    codec_names: tuple[str, ...]
    """Names of every codec, shards' inner and index codecs included."""

    @property
    def compression(self) -> str:
        """What chunks are compressed with: ``"zstd"``, ..., or the names of unknown codecs."""
        return self.coding.compression if self.coding else ", ".join(self.codec_names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the numbers.

        Raises
        ------
        UnsupportedStoreError
            If the array holds no numbers.
        """
        if self.data_type not in NUMERIC:
            raise UnsupportedStoreError(
                Problem("zarr.data-type", "zarr.json", "a numeric array is needed", self.data_type)
            )
        return np.dtype(self.data_type).newbyteorder("<")


def array_document(
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    codecs: list[dict[str, Any]],
    dimension_names: tuple[str, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the zarr.json of a sharded array of numbers.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        A numeric type.
    chunks, shards : tuple of int
        Inner chunk and shard; each edge of `shards` is a multiple of that of `chunks`.
    codecs : list of dict
        Codecs of an inner chunk, from `stformat.metadata.zarr_codecs`.
    dimension_names : tuple of str, optional
        One name a dimension.
    attributes : mapping, optional
        Attributes of the array.

    Returns
    -------
    dict
        The document.
    """
    name = np.dtype(dtype).name
    fill: Any = False if name == "bool" else 0.0 if name.startswith("float") else 0
    sharding = {
        "chunk_shape": list(chunks),
        "codecs": codecs,
        "index_codecs": [dict(codec) for codec in _INDEX_CODECS],
        "index_location": "end",
    }
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": dict(attributes or {}),
        "storage_transformers": [],
    }
    if dimension_names is not None:
        document["dimension_names"] = list(dimension_names)
    return document


def parse_array(document: Mapping[str, Any], where: str) -> ArrayMetadata:
    """Narrow a zarr.json document to the metadata of an array.

    Parameters
    ----------
    document : mapping
        Parsed zarr.json.
    where : str
        Path of the array, for messages.

    Returns
    -------
    ArrayMetadata
        What a reader needs.

    Raises
    ------
    UnsupportedStoreError
        If the document is no Zarr v3 array on a regular grid, names a codec outside
        `ALLOWED_CODECS`, holds a member that must be understood and is not, or declares a chunk
        over 1 GiB.
    """
    try:
        return _parse(document, where)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UnsupportedStoreError(
            Problem(
                "zarr.array-metadata",
                f"{where}/zarr.json",
                "the metadata must describe a Zarr v3 array",
                f"{type(error).__name__}: {error}",
            )
        ) from error


def _parse(document: Mapping[str, Any], where: str) -> ArrayMetadata:
    if document["zarr_format"] != 3 or document["node_type"] != "array":
        raise ValueError(f"zarr_format {document['zarr_format']}, {document['node_type']}")
    if document["chunk_grid"]["name"] != "regular" or document.get("storage_transformers"):
        raise ValueError("only a regular chunk grid without storage transformers is read")
    for key in document.keys() - _MEMBERS:
        if document[key].get("must_understand", True) is not False:
            raise ValueError(f"member {key!r} must be understood and is not known")
    encoding = document["chunk_key_encoding"]
    if encoding["name"] != "default":
        raise ValueError(f"chunk key encoding {encoding['name']}")
    shape = _positive_ints(document["shape"], lowest=0)
    grid = _positive_ints(document["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = document["codecs"]
    names = _allowed_codec_names(codecs, where)
    is_sharded = len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed"
    inner = codecs[0]["configuration"] if is_sharded else None
    chunks = _positive_ints(inner["chunk_shape"]) if inner else grid
    chain = inner["codecs"] if inner else codecs
    has_plain_index = inner is None or _is_plain_index(inner)
    if not (len(shape) == len(grid) == len(chunks)):
        raise ValueError(f"shape {shape}, shards {grid} and chunks {chunks} differ in rank")
    if any(outer % edge for outer, edge in zip(grid, chunks, strict=True)):
        raise ValueError(f"shards {grid} are no multiple of chunks {chunks}")
    data_type = str(document["data_type"])
    itemsize = np.dtype(data_type).itemsize if data_type in NUMERIC else 1
    if math.prod(chunks) * itemsize > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk may hold {MAX_CHUNK_BYTES} bytes, {chunks} declares more")
    return ArrayMetadata(
        shape=shape,
        data_type=data_type,
        chunks=chunks,
        shards=grid if is_sharded else None,
        separator=encoding.get("configuration", {}).get("separator", "/"),
        fill_value=document["fill_value"],
        coding=parse_coding(chain, data_type, chunks) if has_plain_index else None,
        has_plain_index=has_plain_index,
        has_checksums=promises_checksum(chain[-1]),
        codec_names=names,
    )


def _positive_ints(values: Any, lowest: int = 1) -> tuple[int, ...]:  # noqa: ANN401 - JSON
    result = tuple(values)
    if not all(type(value) is int and value >= lowest for value in result):
        raise ValueError(f"integers of at least {lowest} are needed, got {values}")
    return result


def _allowed_codec_names(codecs: list[dict[str, Any]], where: str) -> tuple[str, ...]:
    names = _codec_names(codecs)
    for name in names:
        if name not in ALLOWED_CODECS:
            raise UnsupportedStoreError(
                Problem(
                    "zarr.codec",
                    f"{where}/zarr.json",
                    "codecs must be among those that only transform bytes",
                    repr(name),
                    "convert the data again with a codec of the specification",
                )
            )
    return names


def _codec_names(codecs: list[dict[str, Any]]) -> tuple[str, ...]:
    names: list[str] = []
    for codec in codecs:
        names.append(codec["name"])
        configuration = codec.get("configuration", {})
        for key in ("codecs", "index_codecs"):
            if key in configuration:
                names.extend(_codec_names(configuration[key]))
    return tuple(names)


def _is_plain_index(sharding: dict[str, Any]) -> bool:
    codecs = [dict(codec) for codec in sharding["index_codecs"]]
    return sharding.get("index_location", "end") == "end" and codecs == list(_INDEX_CODECS)

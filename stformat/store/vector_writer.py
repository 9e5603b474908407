"""Long 1-D arrays of numbers, written while their length is still unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels import _pool
from stformat.metadata.zarr_array import array_document
from stformat.metadata.zarr_codecs import blosc_codecs, zstd_codecs
from stformat.store import layout
from stformat.store.chunk_blosc import encode_blosc
from stformat.store.chunk_codec import with_crc32c
from stformat.store.nodes import write_document
from stformat.store.shard import ZSTD_LEVEL, ShardWriter, encode_chunk

__all__ = ["COUNTS_CODEC", "ZSTD", "VectorCodec", "VectorWriter", "write_vector"]

_ENCODED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorCodec:
    """How the chunks of a vector become bytes."""

    codecs: Callable[[np.dtype[Any]], list[dict[str, Any]]]
    """``codecs(dtype)`` returns the codecs of an inner chunk, as members of a zarr.json."""

    encode: Callable[[NDArray[Any]], bytes]
    """Encodes a chunk. Safe for threads; the same bytes for the same chunk."""


ZSTD = VectorCodec(codecs=lambda dtype: zstd_codecs(dtype, level=ZSTD_LEVEL), encode=encode_chunk)
"""Of most vectors."""

COUNTS_CODEC = VectorCodec(
    codecs=lambda dtype: blosc_codecs(dtype, cname="lz4hc", level=1, shuffle="shuffle"),
    encode=lambda chunk: with_crc32c(
        encode_blosc(chunk, cname="lz4hc", level=1, shuffle="shuffle")
    ),
)
"""Of small integers and ascending indices: LZ4 over sorted bytes is decoded in a sixth of the time
of zstd, in as much room."""


class VectorWriter:
    """A 1-D sharded array that grows by blocks of any size.

    The bytes depend on the values alone, not on the blocks they come in: an array shorter than
    one inner chunk gets a chunk of its own length, and the last shard covers what chunks it needs
    where it is the only one, exactly as `stformat.store.layout.vector_chunks` says.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the array.
    dtype : numpy.dtype
        A numeric type; blocks are cast to it, safely or not at all.
    chunk, shard : int
        Elements in an inner chunk and in a shard; `shard` is a multiple of `chunk`.
    codec : VectorCodec
        How inner chunks are coded; by default as zstd frames with a checksum.
    attributes : mapping, optional
        Attributes of the array.
    """

    def __init__(
        self,
        directory: Path,
        dtype: np.dtype[Any],
        *,
        chunk: int = layout.VECTOR_CHUNK,
        shard: int = layout.VECTOR_SHARD,
        codec: VectorCodec = ZSTD,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if shard % chunk:
            raise ValueError(f"shard must be a multiple of chunk, got {shard} and {chunk}")
        self._directory = directory
        self._dtype = np.dtype(dtype)
        self._chunk, self._shard = chunk, shard
        self._codec = codec
        self._attributes = attributes
        self._length = 0
        self._n_chunks = 0
        self._pending: list[NDArray[Any]] = []
        self._open: ShardWriter | None = None

    @property
    def length(self) -> int:
        """Elements appended so far."""
        return self._length

    def append(self, values: NDArray[Any]) -> None:
        """Add a block at the end.

        Parameters
        ----------
        values : (n,) ndarray
            Any number of elements.

        Raises
        ------
        ValueError
            If `values` does not have one dimension.
        TypeError
            If its type does not cast safely to the array's.
        StoreWriteError
            If the file system refuses.
        """
        if values.ndim != 1:
            raise ValueError(f"values must have shape (n,), got {values.shape}")
        block = values.astype(self._dtype, casting="safe", copy=False)
        held = self._length - self._n_chunks * self._chunk
        self._length += len(block)
        if held + len(block) < self._chunk:
            self._pending.append(block.copy())
            return
        first = self._chunk - held if held else 0
        whole = first + (len(block) - first) // self._chunk * self._chunk
        if held:
            self._write_chunks([np.concatenate([*self._pending, block[:first]])])
        self._write_chunks([block[i : i + self._chunk] for i in range(first, whole, self._chunk)])
        self._pending = [block[whole:].copy()]

    def finish(self) -> None:
        """Write what is left and the array's zarr.json.

        Raises
        ------
        StoreWriteError
            If the file system refuses.
        """
        (chunk,), (shard,) = layout.vector_chunks(
            self._length, chunk=self._chunk, shard=self._shard
        )
        held = self._length - self._n_chunks * self._chunk
        if held:
            last = np.zeros(chunk, dtype=self._dtype)
            last[:held] = np.concatenate(self._pending)
            self._write_chunks([last])
        if self._open is not None:
            inside = self._n_chunks % (self._shard // self._chunk)
            self._open.finish(grid=(shard // chunk,), inside=(inside,))
            self._open = None
        write_document(
            self._directory,
            array_document(
                shape=(self._length,),
                dtype=self._dtype,
                chunks=(chunk,),
                shards=(shard,),
                codecs=self._codec.codecs(self._dtype),
                attributes=self._attributes,
            ),
        )

    def close(self) -> None:
        """Close the open shard as it is; after `finish` this does nothing."""
        if self._open is not None:
            self._open.close()

    def _write_chunks(self, chunks: list[NDArray[Any]]) -> None:
        per_shard = self._shard // self._chunk
        for start in range(0, len(chunks), _ENCODED_AT_ONCE):
            batch = chunks[start : start + _ENCODED_AT_ONCE]
            for encoded in _pool.map_chunks(self._codec.encode, batch):
                number, position = divmod(self._n_chunks, per_shard)
                if self._open is None:
                    self._open = ShardWriter(self._directory / "c" / str(number))
                self._open.append((position,), encoded)
                self._n_chunks += 1
                if position == per_shard - 1:
                    self._open.finish(grid=(per_shard,), inside=(per_shard,))
                    self._open = None


def write_vector(
    directory: Path, values: NDArray[Any], *, attributes: Mapping[str, Any] | None = None
) -> None:
    """Write a 1-D array of numbers that is wholly in memory.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the array.
    values : (n,) ndarray
        The array.
    attributes : mapping, optional
        Its attributes.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    with closing(VectorWriter(directory, values.dtype, attributes=attributes)) as writer:
        writer.append(values)
        writer.finish()

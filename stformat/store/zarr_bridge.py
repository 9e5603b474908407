"""A committed store as zarr-python reads it: for codecs and encodings that are not ours to decode.

zarr-python sees every array without shards and without the compressor, and its checksum, that may
end its codecs: here each chunk is found, held to the size it may have, and unpacked. So a missing
chunk is an error and never a fill value, and a small file cannot unfold to fill the memory, whoever
does the reading.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from stformat.errors import CorruptStoreError, Problem, StoreError, UnsupportedStoreError
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.metadata.zarr_codecs import promises_checksum
from stformat.store.chunk_bytes import ChunkBytes, ChunkRun, chunk_grid
from stformat.store.chunk_codec import (
    ChunkError,
    compressed_bound,
    declared_size,
    decode_into,
    without_crc32c,
)
from stformat.store.chunk_jpeg import jpeg_bound, parse_frame
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import map_reads

__all__ = ["UNREADABLE", "ZarrChunks", "open_array", "open_element"]

_METADATA_KEY = "zarr.json"
_CHUNK_KEY = re.compile(r"(?P<array>.+)/c/(?P<index>\d+(/\d+)*)")
_MAX_CHUNK_BYTES = 2**26
"""Most bytes of a decoded chunk whose size does not follow from its shape, as that of text."""

_CODEC_OVERHEAD = 4096
UNREADABLE = (ValueError, TypeError, RuntimeError, EOFError, OSError, zlib.error)
"""What zarr-python, numcodecs and imagecodecs raise for bytes that they cannot read."""

_UNWRAPPED = frozenset({"zstd", "numcodecs.zstd", "gzip", "numcodecs.zlib"})


def open_element(store: CommittedStore, path: str) -> zarr.Group | zarr.Array[Any]:
    """Open a group or an array of a store with zarr-python, to read all that is in it.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Path of the group or the array.

    Returns
    -------
    zarr.Group or zarr.Array
        Read-only. Where each read waits for a network, the chunks have been read by now, many at
        once, and are held as they are stored until they are decoded.
    """
    bridge = _BridgeStore(store)
    if store.files.costs.n_in_flight:
        bridge.hold_chunks(path)
    if store.node(path)["node_type"] == "array":
        return zarr.open_array(bridge, mode="r", path=path, zarr_format=3)
    return zarr.open_group(bridge, mode="r", path=path, zarr_format=3, use_consolidated=False)


def open_array(store: CommittedStore, path: str) -> zarr.Array[Any]:
    """Open an array of a store with zarr-python, to read parts of it."""
    return zarr.open_array(_BridgeStore(store), mode="r", path=path, zarr_format=3)


class ZarrChunks:
    """The chunks of an array whose codecs are zarr-python's to decode.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Path of the array.
    metadata : ArrayMetadata
        Of the array.

    Raises
    ------
    UnsupportedStoreError
        If zarr-python knows no such codec, or not with this configuration.
    """

    def __init__(self, store: CommittedStore, path: str, metadata: ArrayMetadata) -> None:
        self._path = path
        self._chunks = metadata.chunks
        self._grid = chunk_grid(metadata.shape, metadata.chunks)
        try:
            self._array = open_array(store, path)
        except StoreError:
            raise
        except (*UNREADABLE, LookupError) as error:
            raise UnsupportedStoreError(
                Problem(
                    "array.codecs",
                    path,
                    "zarr-python must be able to read the codecs",
                    f"{', '.join(metadata.codec_names)}: {error}",
                )
            ) from error

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Make a run of each chunk, without bytes: where they lie is zarr-python's to know."""
        return [
            ChunkRun(key=self._path, starts=[0], lengths=[0], positions=[at], chunks=[number])
            for at, number in enumerate(chunks.tolist())
        ]

    def iter_run(
        self,
        run: ChunkRun,
        data: memoryview,  # noqa: ARG002 - zarr-python reads for itself
        new_chunk: Callable[[int], NDArray[Any]],
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read and decode a run; see `ChunkSource`.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        for position, number in zip(run.positions, run.chunks, strict=True):
            index = tuple(int(i) for i in np.unravel_index(number, self._grid))
            region = tuple(
                slice(i * edge, (i + 1) * edge) for i, edge in zip(index, self._chunks, strict=True)
            )
            values = _read(self._array, region, f"{self._path}, chunk {index}")
            chunk = new_chunk(position)
            inside = tuple(slice(n) for n in values.shape)
            chunk[inside] = values
            yield position, chunk[inside]


def _read(array: zarr.Array[Any], region: tuple[slice, ...], where: str) -> NDArray[Any]:
    try:
        return np.asarray(array[region])
    except StoreError:
        raise
    except UNREADABLE as error:
        raise CorruptStoreError(
            Problem("array.chunk", where, "a chunk must be as it was committed", str(error))
        ) from error


class _PlainView:
    """One array as zarr-python sees it: no shards, no codec at the end that compresses."""

    def __init__(self, store: CommittedStore, path: str) -> None:
        self.metadata = store.array(path)
        document = store.node(path)
        codecs = _inner_codecs(document)
        self._has_crc32c = len(codecs) > 1 and codecs[-1]["name"] == "crc32c"
        if self._has_crc32c:
            codecs = codecs[:-1]
        self._codec = codecs[-1]["name"]
        self._requires_checksum = promises_checksum(codecs[-1])
        is_exact = [codec["name"] for codec in codecs[:-1]] == ["bytes"]
        self._size = _chunk_bytes(self.metadata) if is_exact else _MAX_CHUNK_BYTES
        self._is_exact = is_exact
        self.document = {
            **document,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.metadata.chunks)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": codecs[:-1] if self._codec in _UNWRAPPED else codecs,
        }
        bound = jpeg_bound if self._codec == "imagecodecs_jpeg" else compressed_bound
        limit = bound(self._size) + _CODEC_OVERHEAD
        self._bytes = ChunkBytes(store.files, path, self.metadata, max_bytes=limit)
        self._grid = chunk_grid(self.metadata.shape, self.metadata.chunks)
        self._held: dict[int, memoryview] = {}

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return math.prod(self._grid)

    def hold(self, number: int) -> None:
        """Read a chunk and hold it until `read` is asked for it."""
        self._held[number] = self._bytes.read(number)

    def read(self, index: tuple[int, ...]) -> bytes | memoryview:
        """Return a chunk as its remaining codecs take it."""
        number = int(np.ravel_multi_index(index, self._grid))
        encoded = self._held.pop(number, None)
        if encoded is None:
            encoded = self._bytes.read(number)
        try:
            return self._unwrap(encoded)
        except (ChunkError, zlib.error) as error:
            raise self._bytes.corrupt(number, str(error)) from error

    def _unwrap(self, encoded: memoryview) -> bytes | memoryview:
        if self._has_crc32c:
            encoded = without_crc32c(encoded)
        if self._codec in {"zstd", "numcodecs.zstd"}:
            size, _ = declared_size(encoded)
            out = np.empty(self._held_to_size(size), dtype=np.uint8)
            decode_into(encoded, out, requires_checksum=self._requires_checksum)
            return memoryview(out)
        if self._codec in {"gzip", "numcodecs.zlib"}:
            stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # a gzip or a zlib header
            content = stream.decompress(encoded, self._size + 1)
            self._held_to_size(len(content) if stream.eof else None)
            return content
        if self._codec == "blosc":
            if len(encoded) < 16:
                raise ChunkError("no blosc buffer")
            size, _, stored = struct.unpack_from("<III", encoded, 4)
            self._held_to_size(size if stored == len(encoded) else None)
        if self._codec == "imagecodecs_jpeg":
            self._held_to_size(math.prod(parse_frame(encoded)))
        return encoded

    def _held_to_size(self, size: int | None) -> int:
        """Return the size of the content, if a chunk may have it."""
        if size is None or size > self._size or (self._is_exact and size != self._size):
            raise ChunkError(f"{size} bytes of content instead of {self._size}")
        return size


def _chunk_bytes(metadata: ArrayMetadata) -> int:
    return math.prod(metadata.chunks) * metadata.dtype.itemsize


def _inner_codecs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    codecs: list[dict[str, Any]] = document["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    return codecs


class _BridgeStore(Store):
    """Serves the keys of a committed store to zarr-python; nothing can be written."""

    def __init__(self, store: CommittedStore) -> None:
        super().__init__(read_only=True)
        self._committed = store
        self._views: dict[str, _PlainView] = {}

    def hold_chunks(self, path: str) -> None:
        """Read every chunk at and below a path, as many at once as waits for a network."""
        store = self._committed
        nodes = [node for node in store.paths() if f"{node}/".startswith(f"{path}/")]
        arrays = [node for node in nodes if store.node(node)["node_type"] == "array"]
        chunked = [store.array(node) for node in arrays]
        views = [
            self._view(node)
            for node, metadata in zip(arrays, chunked, strict=True)
            if metadata.has_plain_index and metadata.shape
        ]
        chunks = [(view, number) for view in views for number in range(view.n_chunks)]
        map_reads(lambda chunk: chunk[0].hold(chunk[1]), chunks, store.files.costs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BridgeStore) and other._committed is self._committed

    def __hash__(self) -> int:
        return id(self._committed)

    @property
    def supports_writes(self) -> bool:
        """No: a committed store is read."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No: a committed store is read."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Groups list their nodes."""
        return True

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a metadata document or a chunk, or None where the key names neither."""
        value = await asyncio.to_thread(self._value, key, byte_range)
        return None if value is None else prototype.buffer.from_bytes(value)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several values; see `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether a key has a value."""
        return await asyncio.to_thread(self._value, key, RangeByteRequest(0, 1)) is not None

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002 - zarr's own name
        """Refuse: a committed store is read."""
        raise PermissionError(f"{key} belongs to a committed store, which is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: a committed store is read."""
        raise PermissionError(f"{key} belongs to a committed store, which is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Yield the path of every file."""
        for key in self._committed.files.walk():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the path of every file that begins with a prefix."""
        for key in self._committed.files.walk():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of the nodes right below a group."""
        for name in self._committed.children(prefix.rstrip("/")):
            yield name

    def _value(self, key: str, byte_range: ByteRequest | None) -> bytes | memoryview | None:
        parent, _, name = key.rpartition("/")
        if name == _METADATA_KEY:
            return _cut(self._document(parent), byte_range) if self._has_node(parent) else None
        found = _CHUNK_KEY.fullmatch(key)
        path = found["array"] if found else key.removesuffix("/c")
        if path == key or not self._has_node(path):
            return None
        if found and self._committed.array(path).has_plain_index:
            index = tuple(int(part) for part in found["index"].split("/"))
            return _cut(self._view(path).read(index), byte_range)
        files = self._committed.files
        start, stop = _bounds(byte_range, files.size(key))
        return files.read_range(key, start, stop - start)

    def _document(self, path: str) -> bytes:
        document: Mapping[str, Any] = self._committed.node(path)
        if document["node_type"] == "group":
            # Every node is asked for by its own path, so none may answer for those below it.
            document = {k: v for k, v in document.items() if k != "consolidated_metadata"}
        else:
            metadata = self._committed.array(path)
            if metadata.has_plain_index and metadata.shape:
                document = self._view(path).document
        return json.dumps(document).encode()

    def _has_node(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        return not path or name in self._committed.children(parent)

    def _view(self, path: str) -> _PlainView:
        view = self._views.get(path)
        if view is None:
            view = self._views[path] = _PlainView(self._committed, path)
        return view


def _bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    match byte_range:
        case RangeByteRequest(start, stop):
            return min(start, size), min(stop, size)
        case OffsetByteRequest(offset):
            return min(offset, size), size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
        case _:
            return 0, size


def _cut(value: bytes | memoryview, byte_range: ByteRequest | None) -> bytes | memoryview:
    start, stop = _bounds(byte_range, len(value))
    return value[start:stop]

"""Text of a table, one column at a time: what a lookup by name needs, without a data frame.

Specification: https://anndata.readthedocs.io/en/stable/fileformat-prose.html, "String arrays" and
"Nullable string arrays", and the codec "vlen-utf8" of the zarr extensions registry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_bytes import ChunkBytes, chunk_grid
from stformat.store.chunk_codec import ChunkError, compressed_bound, declared_size, decode_into
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import RunReader

__all__ = ["read_text"]

_MAX_CHUNK_BYTES = 2**26
"""Most bytes of a decoded chunk: its size does not follow from its shape."""

_COUNT_BYTES = 4
_INDEX_CODECS = ("bytes", "crc32c")
_TEXT_CODECS = ("vlen-utf8", "zstd")


def read_text(store: CommittedStore, path: str) -> NDArray[np.object_]:
    """Read a column of text, or an index, in one of the encodings of AnnData.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Path of the column.

    Returns
    -------
    (n,) ndarray of object
        A str each, or None where a value is missing.

    Raises
    ------
    CorruptStoreError
        If it is damaged, or not encoded as it says.
    UnsupportedStoreError
        If it is in another encoding than those of the columns of a dataframe.
    """
    encoding = store.node(path).get("attributes", {}).get("encoding-type")
    if encoding == "string-array" and _is_decoded_here(store.array(path)):
        return _read_strings(store, path)
    if encoding == "nullable-string-array" and _is_decoded_here(store.array(f"{path}/values")):
        texts = _read_strings(store, f"{path}/values")
        is_missing = ArrayReader(store, f"{path}/mask")
        if is_missing.shape != texts.shape or is_missing.dtype != np.bool_:
            raise _corrupt(
                f"{path}/mask",
                f"one bool a value, {len(texts)}, is needed",
                f"{is_missing.dtype} of shape {is_missing.shape}",
            )
        texts[is_missing.read_1d(0, len(texts))] = None
        return texts
    return _as_text(store, path)


def _is_decoded_here(metadata: ArrayMetadata) -> bool:
    """Return whether an array is text as this library writes it: lengths and UTF-8 under zstd."""
    names = metadata.codec_names
    if metadata.shards is not None:
        names = names[1:-2] if names[-2:] == _INDEX_CODECS else ()
    return (
        metadata.data_type == "string"
        and len(metadata.shape) == 1
        and metadata.has_plain_index
        and metadata.has_checksums
        and names == _TEXT_CODECS
    )


def _read_strings(store: CommittedStore, path: str) -> NDArray[np.object_]:
    metadata = store.array(path)
    (length,), (edge,) = metadata.shape, metadata.chunks
    encoded = ChunkBytes(store.files, path, metadata, max_bytes=compressed_bound(_MAX_CHUNK_BYTES))
    texts = np.empty(length, dtype=object)
    runs = encoded.locate(np.arange(*chunk_grid((length,), (edge,))))
    with RunReader(store.files, runs) as reader:
        for nth, run in enumerate(runs):
            with reader.read(nth) as data:
                for number, _, frame in run.iter_chunks(data):
                    try:
                        chunk = _decode(frame, edge)
                    except ChunkError as error:
                        raise encoded.corrupt(number, str(error)) from error
                    start = number * edge
                    texts[start : start + edge] = chunk[: length - start]
    return texts


def _decode(frame: memoryview, n_texts: int) -> NDArray[np.object_]:
    """Decode a chunk of so many texts."""
    from numcodecs.vlen import VLenUTF8  # noqa: PLC0415 - dear to import, and needed here alone

    size, _ = declared_size(frame)
    if size is None or not _COUNT_BYTES <= size <= _MAX_CHUNK_BYTES:
        raise ChunkError(f"{size} bytes of text, of which at most {_MAX_CHUNK_BYTES} are read")
    content = np.empty(size, dtype=np.uint8)
    decode_into(frame, content)
    # Told before room is made for as many texts as the chunk says that it has.
    found = int.from_bytes(content[:_COUNT_BYTES].tobytes(), "little")
    if found != n_texts:
        raise ChunkError(f"{found} texts instead of {n_texts}")
    try:
        chunk: NDArray[np.object_] = VLenUTF8().decode(content)
    except (ValueError, TypeError) as error:
        raise ChunkError(f"no text ({error})") from error
    return chunk


def _as_text(store: CommittedStore, path: str) -> NDArray[np.object_]:
    """Read a column that another tool has encoded, whatever its encoding."""
    import pandas as pd  # noqa: PLC0415 - opening a slide must not import pandas

    from stformat.store.elements import read_element  # noqa: PLC0415 - imports anndata

    values = read_element(store, path)
    if np.ndim(values) != 1:
        raise _corrupt(path, "a column is needed", f"{np.ndim(values)} dimensions")
    column = pd.Series(values)
    texts = column.astype(str).astype(object)
    return texts.where(column.notna(), None).to_numpy(dtype=object)


def _corrupt(path: str, expected: str, found: str) -> CorruptStoreError:
    return CorruptStoreError(Problem("table.element", path, expected, found))

"""What stands for all that decides the bytes of a store, to tell two conversions apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.metadata.strict_json import dump_canonical
from stformat.model import Genes, Image, SlideRecord, Spots
from stformat.store.description import describe_ahead
from stformat.store.image_codecs import ZSTD, ImageCodec, chunk_edge
from stformat.store.journal import Key

__all__ = ["record_key"]

# Beside those that the description of a slide names: they decode images and write tables.
_SOFTWARE = ("tifffile", "pandas", "shapely")
_BLOCK_ROWS = 1 << 16


def record_key(record: SlideRecord, codec: ImageCodec = ZSTD) -> Key:
    """Return a digest over what a record is written as, and over the software that writes it.

    Parameters
    ----------
    record : SlideRecord
        The slide. Its arrays in memory are read; pixels, counts and outlines are not, they stand
        there by the digests of the files that they come from (`SlideRecord.sources`).
    codec : ImageCodec, default: zstd
        How the image is stored.

    Returns
    -------
    Key
        SHA-256, 64 hexadecimal digits, known once the digests of all sources are.

    Notes
    -----
    About a second for ten million spots.
    """
    in_memory = _digest_in_memory(record, codec)

    def text() -> str:
        sources = [[source.name, source.size, source.sha256] for source in record.sources]
        return hashlib.sha256(
            dump_canonical({"in_memory": in_memory, "sources": sources})
        ).hexdigest()

    def is_known() -> bool:
        return all(source.digest.is_known for source in record.sources)

    return Key(text=text, is_known=is_known)


def _digest_in_memory(record: SlideRecord, codec: ImageCodec) -> str:
    """Return the digest of everything but the sources."""
    digest = hashlib.sha256()
    digest.update(
        dump_canonical(
            {
                "description": describe_ahead(record).model_dump(mode="json", exclude={"sources"}),
                "image": None if record.image is None else _image_members(record.image, codec),
                "outlines": [
                    {"name": outlines.name, "columns": list(outlines.columns.items())}
                    for outlines in record.outlines
                ],
                "software": {name: version(name) for name in _SOFTWARE},
            }
        )
    )
    for table in record.tables:
        digest.update(dump_canonical({"counts": table.counts.dtype.str}))
        for name, values in (*_arrays(table.spots), *_arrays(table.genes)):
            members = {"array": name, "dtype": values.dtype.str, "shape": list(values.shape)}
            digest.update(dump_canonical(members))
            for start in range(0, len(values), _BLOCK_ROWS):
                digest.update(_encoded(values[start : start + _BLOCK_ROWS]))
    return digest.hexdigest()


def _image_members(image: Image, codec: ImageCodec) -> dict[str, Any]:
    return {
        "codecs": codec.codecs(image.dtype),
        "chunk_px": chunk_edge(codec, image),
        "shape": list(image.shape),
        "dtype": image.dtype.str,
        "channel_names": list(image.channel_names),
    }


def _arrays(part: Spots | Genes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of one part of a table by name; what else it holds is in the description."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, value
        elif isinstance(value, Mapping):
            yield from ((f"{field.name}/{name}", labels) for name, labels in value.items())


def _encoded(values: NDArray[Any]) -> bytes:
    if values.dtype == object:  # text, None, or WKB
        return json.dumps(values.tolist(), default=bytes.hex).encode()
    return values.tobytes()

"""Whether a store that is there is what a conversion would make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stformat.metadata.stformat_v0_1 import StformatAttributes
from stformat.model import SlideRecord
from stformat.store.description import describe_slide
from stformat.store.image_codecs import ImageCodec, with_codec_notes
from stformat.store.reader import open_slide

__all__ = ["differences"]


def differences(record: SlideRecord, store: Path, codec: ImageCodec) -> tuple[str, ...]:
    """Compare a committed store with a slide as read from its source and with the options now.

    Parameters
    ----------
    record : SlideRecord
        The slide. Pixels and counts stand there by the digests of the files that they come from.
    store : pathlib.Path
        The store.
    codec : ImageCodec
        How the image would be stored.

    Returns
    -------
    tuple of str
        Names of the members of the root attribute that differ, and ``"image_codec"``; empty where
        the store is of the same source and options. Versions of software are not compared.

    Raises
    ------
    StoreError
        If `store` is no committed store.
    """
    with open_slide(store) as slide:
        there = slide.metadata
        stored_codec = slide.levels[0].codec if slide.has_image else None
    sums = {table.name: (table.nnz, table.total) for table in there.tables}
    wanted = _members(describe_slide(with_codec_notes(record, codec), sums))
    found = _members(there)
    changed = [name for name, value in wanted.items() if found[name] != value]
    if stored_codec not in {None, codec.name} and record.image is not None:
        changed.append("image_codec")
    return tuple(changed)


def _members(attributes: StformatAttributes) -> dict[str, Any]:
    return attributes.model_dump(mode="json", exclude={"software"})

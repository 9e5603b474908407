"""How an open slide shows itself: a line of text, or in a notebook a small table and a picture."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape

import numpy as np
from numpy.typing import NDArray

from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store.annotations import Annotations
from stformat.store.open_store import OpenStore
from stformat.store.pyramid import channel_names, thumbnail

__all__ = ["slide_html", "slide_text"]

_THUMBNAIL_PX = 160


def slide_text(opened: OpenStore, bound: TableAttributes) -> str:
    """Return one line that says what a slide is; the bound table has a star.

    Parameters
    ----------
    opened : OpenStore
        The open store.
    bound : TableAttributes
        The table that the slide is bound to.

    Returns
    -------
    str
        Nothing but metadata is read.
    """
    known = opened.store.attributes
    image = "no image" if known.image is None else _size(opened)
    names = [f"*{table.name}" if table == bound else table.name for table in known.tables]
    table = f"{bound.n_obs} x {bound.n_vars} in {', '.join(names)}"
    return f"<Slide {known.slide_id}: {known.technology}, {image}, {_mpp(opened)}, {table}>"


def slide_html(opened: OpenStore, bound: TableAttributes) -> str:
    """Return HTML that says what a slide is and shows its image; the bound table is bold.

    Parameters
    ----------
    opened, bound
        As for `slide_text`.

    Returns
    -------
    str
        Metadata, and a picture of at most 160 pixels, for which the smallest level of the image is
        read. Needs no style sheet or script, and refers to nothing outside of it.

    Raises
    ------
    CorruptStoreError
        If a chunk of the smallest level is missing or damaged.
    """
    cell = "text-align: left; padding: 0 1em 0 0; vertical-align: top"
    rows = "".join(
        f'<tr><th style="{cell}">{escape(name)}</th><td style="{cell}">{value}</td></tr>'
        for name, value in _rows(opened, bound)
    )
    picture = ""
    if opened.store.attributes.image is not None:
        data = b64encode(_png(thumbnail(opened.engine, _THUMBNAIL_PX))).decode()
        picture = f'<td style="{cell}"><img alt="" src="data:image/png;base64,{data}"/></td>'
    return f'<table><tr>{picture}<td style="{cell}"><table>{rows}</table></td></tr></table>'


def _rows(opened: OpenStore, bound: TableAttributes) -> Iterator[tuple[str, str]]:
    """Yield the name and the HTML of each row; what is not known has none."""
    known = opened.store.attributes
    yield "Slide", f"<b>{escape(known.slide_id)}</b>"
    origin = (known.technology, known.species, known.tissue, known.disease)
    yield "Sample", escape(", ".join(text for text in origin if text is not None))
    if known.image is not None:
        engine = opened.engine
        channels = ", ".join(channel_names(opened.store, known.image, engine.n_c))
        levels = "1 level" if engine.n_levels == 1 else f"{engine.n_levels} levels"
        facts = [_size(opened), str(engine.dtype), levels, engine.level_codec(0), channels]
        yield "Image", escape("; ".join(facts))
    yield "Resolution", _mpp(opened)
    for table in known.tables:
        text = f"{escape(table.name)}: {table.n_obs:,} {table.shape}s x {table.n_vars:,} features"
        yield "Table", f"<b>{text}</b>" if table == bound else text
    annotations = Annotations(opened.store)
    if annotations:
        yield "Annotations", escape(", ".join(annotations))
    for note in known.notes:
        yield "Note", escape(note.message)


def _size(opened: OpenStore) -> str:
    height, width = opened.engine.level_shape(0)
    return f"{width} x {height} px"


def _mpp(opened: OpenStore) -> str:
    mpp = opened.store.attributes.mpp.value
    return "mpp unknown" if mpp is None else f"mpp {mpp:.4g}"


def _png(image: NDArray[np.unsignedinteger]) -> bytes:
    """Encode a small image: colours as they are, channels of fluorescence by their brightest."""
    from imagecodecs import png_encode  # noqa: PLC0415 - opening a slide must not import it

    if len(image) == 3 and image.dtype == np.uint8:
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    else:
        brightest = image.max(axis=0).astype(np.float64)
        pixels = np.round(brightest * (255 / max(1.0, brightest.max()))).astype(np.uint8)
    return bytes(png_encode(pixels))

"""JPEG tiles of a TIFF as streams of their own, for stores that keep them undecoded.

TIFF Technical Note 2 (JPEG in TIFF: tables apart from the streams); ITU-T T.81, annex B; Adobe
Technical Note 5116 (the APP14 marker).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stformat.model import JpegTiles
from stformat.sources._image_file import FileIdentity, InputFile
from stformat.sources._image_jpeg import JpegStream, parse_jpeg
from stformat.sources._image_tiff import TiffLayout
from stformat.sources._segments import Segment

__all__ = ["complete_stream", "jpeg_tiles"]

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_APP14, _DQT, _DHT, _SOS = 0xEE, 0xDB, 0xC4, 0xDA
_BEFORE_TABLES = frozenset({*range(0xE0, 0xF0), 0xFE})
_NO_MARKERS = frozenset({0x00, 0x01, *range(0xD0, 0xD8), 0xFF})
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_MAX_TABLE_BYTES = 2**16
_MAX_SEGMENTS = 100

# Adobe's segment of version 100 whose last byte says that samples are not transformed: RGB.
_NOT_TRANSFORMED = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def jpeg_tiles(path: Path, identity: FileIdentity, layout: TiffLayout) -> JpegTiles | None:
    """Return the tiles of a TIFF if they are JPEG that a store may keep.

    Parameters
    ----------
    path : Path
        The file.
    identity : FileIdentity
        State of the file when its header was read.
    layout : TiffLayout
        The image in it.

    Returns
    -------
    JpegTiles or None
        None where the file has no square tiles of JPEG, or changes the pixels that they decode to.
    """
    grid, kind = layout.grid, layout.kind
    n_channels = grid.shape[0]
    if (
        kind.codec != "jpeg"
        or kind.stored.is_inverted
        or grid.height != grid.width
        or n_channels not in {1, 3}
        or (grid.n_planes, grid.samples) != (1, n_channels)
        or len(layout.jpeg_tables[0] or b"") > _MAX_TABLE_BYTES
    ):
        return None
    return JpegTiles(edge_px=grid.height, read=_TileReader(path, identity, layout).read)


@dataclass(frozen=True, slots=True)
class _TileReader:
    """Reads single tiles, in any thread."""

    path: Path
    identity: FileIdentity
    layout: TiffLayout

    def read(self, row: int, column: int) -> bytes | None:
        """Return the stream of a tile; see `stformat.model.JpegTiles.read`."""
        layout = self.layout
        segment = Segment(0, row, column)
        start, length = int(layout.starts[segment]), int(layout.lengths[segment])
        if length > 2 * layout.grid.segment_bytes:
            return None  # noise, or not the tile's alone
        with InputFile.reopen(self.path, self.identity) as file:
            data = file.read(start, length)
            where = f"{file.name}, segment at offset {start}"
        stream = parse_jpeg(lambda at, n_bytes: data[at : at + n_bytes], where)
        edge, n_samples = layout.grid.height, layout.grid.samples
        if (
            (stream.height, stream.width, len(stream.components)) != (edge, edge, n_samples)
            or stream.frame not in _SEQUENTIAL
            or (stream.n_scans, stream.first_scan_components) != (1, n_samples)
            or len(_segments(data)[0]) > _MAX_SEGMENTS
        ):
            return None
        return complete_stream(data, stream, layout.jpeg_tables[0], is_rgb=layout.kind.is_rgb)


def complete_stream(
    data: bytes, stream: JpegStream, tables: bytes | None, *, is_rgb: bool
) -> bytes:
    """Make a tile a stream that any decoder takes for what it is.

    Parameters
    ----------
    data : bytes
        The tile.
    stream : JpegStream
        What its headers declare.
    tables : bytes, optional
        Stream of the tables that the tiles of a page share.
    is_rgb : bool
        Whether the page says that samples are RGB: they are, unless the tile is JFIF.

    Returns
    -------
    bytes
        The tile's own entropy-coded data; before its own tables, which come later and so win,
        those it shares; an Adobe segment where only page or component names tell RGB.
    """
    names = bytes(component.identifier for component in stream.components)
    segments, end = _segments(data)
    is_told = any(_is_adobe(segment) for segment in segments)
    if len(names) == 3 and not stream.is_jfif and (is_rgb or (names == b"RGB" and not is_told)):
        segments = [_NOT_TRANSFORMED, *(part for part in segments if not _is_adobe(part))]
    shared = [part for part in _segments(tables or _SOI)[0] if part[1] in {_DQT, _DHT}]
    first = next(at for at, segment in enumerate(segments) if segment[1] not in _BEFORE_TABLES)
    headers = b"".join([*segments[:first], *shared, *segments[first:]])
    return _SOI + headers + data[end : data.rindex(_EOI)] + _EOI


def _segments(data: bytes) -> tuple[list[bytes], int]:
    """Return the marker segments after SOI, to the scan's header or EOI, and where they end."""
    found: list[bytes] = []
    at = len(_SOI)
    while at + 4 <= len(data):
        # Between segments a decoder passes over fill bytes and whatever else is no marker.
        if data[at] != 0xFF or data[at + 1] in _NO_MARKERS:
            at += 1
            continue
        code, stop = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if code == _EOI[1]:
            break
        found.append(data[at:stop])
        at = stop
        if code == _SOS:
            break
    return found, at


def _is_adobe(segment: bytes) -> bool:
    return segment[1] == _APP14 and segment[4:9] == b"Adobe"

"""JPEG 2000 code streams: what their headers declare, and what decoding them would take.

ITU-T T.800 (JPEG 2000 part 1), annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from stformat.errors import ImageError
from stformat.sources._image_file import image_error

__all__ = ["Jpeg2000Stream", "parse_jpeg2000"]

_SOC, _SIZ, _COD, _SOT, _SOD, _EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF90, 0xFF93, 0xFFD9
_QCD, _QCC, _COM, _TLM, _PLM, _PLT, _CRG = (
    0xFF5C, 0xFF5D, 0xFF64, 0xFF55, 0xFF57, 0xFF58, 0xFF63,
)  # fmt: skip
# Others change how the parts are coded, so that the bounds below would not hold for them.
_MAIN_HEADER = {_COD, _QCD, _QCC, _COM, _TLM, _PLM, _CRG}
_TILE_HEADER = {_QCD, _QCC, _COM, _PLT}

_MAX_TILE_PARTS = 4096
_MAX_TILES = 1024
_MAX_LEVELS = 32

# A decoder keeps a record of each precinct and code block, and one of each precinct in each
# quality layer, however few bytes there are to fill them.
_MAX_PRECINCTS = 2**15
_MAX_CODE_BLOCKS = 2**18
_MAX_PACKETS = 2**21


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg2000Stream:
    """What the headers of a code stream declare."""

    width: int
    """Columns."""

    height: int
    """Rows."""

    n_components: int
    """Colour components, all of the full size and of `bits` bits."""

    bits: int
    """Bits of an unsigned sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """The SIZ marker segment."""

    stream: Jpeg2000Stream
    tile_width: int
    tile_height: int
    n_tiles: int


def parse_jpeg2000(data: bytes, where: str) -> Jpeg2000Stream:
    """Read the headers of a code stream and check that its parts are all there.

    Parameters
    ----------
    data : bytes
        A code stream from its SOC marker on, without the boxes of a JP2 file.
    where : str
        The file, for messages.

    Returns
    -------
    Jpeg2000Stream
        Size, components and depth.

    Raises
    ------
    ImageError
        If the stream is cut short, is of a kind that is not read (subsampled or signed components,
        coding that differs between tiles), or declares more parts than a decoder should allocate.
    """
    if data[:4] != struct.pack(">HH", _SOC, _SIZ):
        raise _unsupported(where, f"data that start with {data[:8].hex(' ')}")
    size = _parse_size(_body(data, 2, where), where)
    at = 2
    has_coding = False
    while (marker := _marker(data, at, where)) != _SOT:
        body = _body(data, at, where)
        if marker == _COD:
            _check_coding(size, body, where)
            has_coding = True
        elif marker != _SIZ or at != 2:
            _check_marker(marker, _MAIN_HEADER, where)
        at += 4 + len(body)
    if not has_coding:
        raise image_error("corrupt", where, "a code stream must say how it is coded", "no COD")
    _walk_tile_parts(data, at, where)
    return size.stream


def _marker(data: bytes, at: int, where: str) -> int:
    if at + 2 > len(data):
        raise _truncated(where)
    return int.from_bytes(data[at : at + 2])


def _body(data: bytes, at: int, where: str) -> bytes:
    """Return the parameters of the marker segment at `at`."""
    length = int.from_bytes(data[at + 2 : at + 4])
    if length < 2 or at + 2 + length > len(data):
        raise _truncated(where)
    return data[at + 4 : at + 2 + length]


def _check_marker(marker: int, allowed: set[int], where: str) -> None:
    if marker not in allowed:
        raise _unsupported(where, f"marker {marker:04X}")


def _parse_size(body: bytes, where: str) -> _Size:
    """Read the SIZ marker segment."""
    if len(body) < 36:
        raise _truncated(where)
    _, x1, y1, x0, y0, tile_width, tile_height, tile_x0, tile_y0, n_components = struct.unpack_from(
        ">H8IH", body
    )
    components = body[36:]
    if len(components) != 3 * n_components or not n_components:
        raise image_error("corrupt", where, "each component must be described", f"{len(body)} B")
    depths, steps = set(components[::3]), {*components[1::3], *components[2::3]}
    if steps != {1} or len(depths) != 1 or min(depths) >= 0x80:
        raise _unsupported(where, "components that are subsampled, signed or of different depths")
    if not (x0 < x1 and y0 < y1 and tile_width and tile_height):
        raise image_error("corrupt", where, "a code stream must declare its size", "none")
    if x0 or y0 or tile_x0 or tile_y0:
        raise _unsupported(where, "an image that does not begin where its grid does")
    n_tiles = -(-x1 // tile_width) * -(-y1 // tile_height)
    _check_number("tiles", n_tiles, _MAX_TILES, where)
    return _Size(
        stream=Jpeg2000Stream(
            width=x1, height=y1, n_components=n_components, bits=depths.pop() + 1
        ),
        tile_width=min(tile_width, x1),
        tile_height=min(tile_height, y1),
        n_tiles=n_tiles,
    )


def _check_coding(size: _Size, body: bytes, where: str) -> None:
    """Bound what a decoder allocates by the COD marker segment."""
    if len(body) < 10:
        raise _truncated(where)
    style, _, n_layers, _, n_levels, block_width, block_height = struct.unpack_from(
        ">BBHBBBB", body
    )
    precincts = body[10 : 11 + n_levels] if style & 1 else b"\xff" * (n_levels + 1)
    if n_levels > _MAX_LEVELS or len(precincts) != n_levels + 1 or not n_layers:
        raise image_error("corrupt", where, "levels and layers must be as T.800 allows", "others")
    n_parts = size.n_tiles * size.stream.n_components
    n_precincts = n_blocks = 0
    for resolution, exponents in enumerate(precincts):
        shrink = n_levels - resolution
        width = -(-size.tile_width >> shrink) or 1
        height = -(-size.tile_height >> shrink) or 1
        columns, rows = exponents & 15, exponents >> 4
        # One more each way: tiles do not begin where precincts and code blocks do.
        n_precincts += n_parts * ((width >> columns) + 2) * ((height >> rows) + 2)
        columns, rows = min(columns, (block_width & 15) + 2), min(rows, (block_height & 15) + 2)
        n_blocks += n_parts * ((width >> columns) + 2) * ((height >> rows) + 2)
    _check_number("precincts", n_precincts, _MAX_PRECINCTS, where)
    _check_number("code blocks", n_blocks, _MAX_CODE_BLOCKS, where)
    _check_number("packets", n_layers * n_precincts, _MAX_PACKETS, where)


def _walk_tile_parts(data: bytes, at: int, where: str) -> None:
    """Check that every tile part is there and declares nothing new."""
    for _ in range(_MAX_TILE_PARTS):
        if (marker := _marker(data, at, where)) == _EOC:
            return
        _check_marker(marker, {_SOT}, where)
        head = _body(data, at, where)
        if len(head) != 8:
            raise _truncated(where)
        length = int.from_bytes(head[2:6])
        # Length 0 is allowed of the last part, which reaches to the end.
        stop = at + length if length else len(data) - 2
        inner = at + 12
        while (marker := _marker(data, inner, where)) != _SOD:
            _check_marker(marker, _TILE_HEADER, where)
            inner += 4 + len(_body(data, inner, where))
        if inner + 2 > stop:
            raise image_error("corrupt", where, "a tile part must hold its header", "a shorter one")
        at = stop
    raise image_error("too-large", where, f"at most {_MAX_TILE_PARTS} tile parts", "more")


def _check_number(name: str, found: int, limit: int, where: str) -> None:
    if found > limit:
        raise image_error(
            "too-large", where, f"a JPEG 2000 tile may have at most {limit} {name}", str(found)
        )


def _truncated(where: str) -> ImageError:
    return image_error(
        "truncated",
        where,
        "a JPEG 2000 code stream must reach its EOC marker",
        "the end of the data first",
        "copy the file again from its source",
    )


def _unsupported(where: str, found: str) -> ImageError:
    return image_error(
        "unsupported",
        where,
        "JPEG 2000 must be a code stream of unsigned components of one size and depth",
        found,
        "rewrite it with deflate or JPEG",
    )

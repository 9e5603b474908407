"""How much the tags of a TIFF would take once they are read.

TIFF 6.0, section 2; BigTIFF. A tag is a count and an offset, and any number of tags may share what
lies there: a file of a few megabytes can declare more than any memory holds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from stformat.sources._image_file import InputFile, image_error

__all__ = ["MAX_DIRECTORIES", "check_directories"]

MAX_DIRECTORIES = 1000
"""Most pages of a file."""

_MAX_NUMBERS = 2**24
"""Most numbers in all tags: they become Python integers of up to 40 bytes each. A strip or tile has
two, so they suffice for 32 channels of 131,072 x 131,072 pixels in tiles of 256."""

_MAX_BYTES = 2**28
"""Most bytes in all tags of text or of unsaid content, such as the layers of Photoshop."""

_MAX_POINTERS = 4 * MAX_DIRECTORIES
_MAX_TAGS = 4096

# BYTE, ASCII, SBYTE and UNDEFINED are read as they are.
_BYTE_TYPES = {1, 2, 6, 7}
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# RATIONAL and SRATIONAL are pairs.
_PAIR_TYPES = {5, 10}
# Directories that are read along with a page: EXIF, GPS and interoperability.
_POINTERS = {34665, 34853, 40965}

# Count of tags, a tag, an offset: classic and BigTIFF. In the file all follow its byte order.
_FORMATS = {False: ("H", "HHII", "I"), True: ("Q", "HHQQ", "Q")}


class _Layout(NamedTuple):
    """Sizes in a classic TIFF or a BigTIFF."""

    n_tags: struct.Struct
    tag: struct.Struct
    offset: struct.Struct


@dataclass(slots=True)
class _Declared:
    """What the tags seen so far hold."""

    n_numbers: int = 0
    n_bytes: int = 0
    pointers: list[int] = field(default_factory=list)


def check_directories(file: InputFile) -> None:
    """Refuse a TIFF whose tags declare more than should be read.

    Parameters
    ----------
    file : InputFile
        A file that starts with a TIFF signature.

    Raises
    ------
    ImageError
        If the tags of the first `MAX_DIRECTORIES` pages together hold too many values. What else
        is wrong with them is left to the parser, also a chain of pages that is broken or endless.
    """
    head = file.read(0, 16)
    order = "<" if head.startswith(b"II") else ">"
    is_big = b"\x2b" in head[2:4]
    layout = _Layout(*(struct.Struct(order + kind) for kind in _FORMATS[is_big]))
    declared = _Declared()
    seen: set[int] = set()
    start = 8 if is_big else 4
    for _ in range(MAX_DIRECTORIES):
        at = _number(file, layout.offset, start)
        if not at or at in seen:
            break
        seen.add(at)
        start = _take_directory(file, layout, at, declared)
        _check(declared, file.name)
    for at in declared.pointers:  # which may grow by pointers in what they point to
        _take_directory(file, layout, at, declared)
        _check(declared, file.name)


def _number(file: InputFile, kind: struct.Struct, at: int) -> int:
    """Read a number; 0 beyond the end of the file."""
    data = file.read(at, kind.size)
    return int(kind.unpack(data)[0]) if len(data) == kind.size else 0


def _take_directory(file: InputFile, layout: _Layout, at: int, declared: _Declared) -> int:
    """Add up the tags of a directory; return where the offset of the next one stands."""
    n_tags = _number(file, layout.n_tags, at)
    start = at + layout.n_tags.size
    # Of a directory with more tags the parser reads none.
    entries = file.read(start, min(n_tags, _MAX_TAGS) * layout.tag.size)
    whole = len(entries) - len(entries) % layout.tag.size
    for tag, kind, count, value in layout.tag.iter_unpack(entries[:whole]):
        if value > file.size - count * _SIZES.get(kind, 1) and count > 1:
            continue  # the parser reads nothing that reaches beyond the file
        if kind in _BYTE_TYPES:
            declared.n_bytes += count
        else:
            declared.n_numbers += count * (2 if kind in _PAIR_TYPES else 1)
        if tag in _POINTERS:
            declared.pointers.append(value)
    return start + n_tags * layout.tag.size


def _check(declared: _Declared, where: str) -> None:
    for found, limit, what in (
        (declared.n_numbers, _MAX_NUMBERS, "numbers"),
        (declared.n_bytes, _MAX_BYTES, "bytes"),
        (len(declared.pointers), _MAX_POINTERS, "directories"),
    ):
        if found > limit:
            raise image_error(
                "too-large",
                where,
                f"the tags of a TIFF may hold at most {limit} {what}",
                f"{found}",
                "save the image alone, in tiles of at least 256 x 256 pixels",
            )

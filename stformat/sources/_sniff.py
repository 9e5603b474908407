"""What a file is, by its bytes: delimited text and its columns, an image, neither."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from stformat.errors import InputError, Problem

__all__ = [
    "GZIP_ERRORS",
    "MAX_COLUMNS",
    "MAX_LINE_BYTES",
    "TextHead",
    "choose_delimiter",
    "classify_table",
    "is_image",
    "open_text",
    "parse_spot_name",
    "read_head",
    "split_fields",
]

type TableClass = Literal["spots", "labels", "counts"]

MAX_LINE_BYTES = 1 << 24
"""Longest line that is read: 16 MiB."""

MAX_COLUMNS = 1_000_000
"""More columns than any matrix of genes has: a file beyond it is something else."""

GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
"""What a damaged gzip stream raises."""

_HEAD_BYTES = 1 << 16  # of the second line
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGE_MAGIC = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+",
)  # fmt: skip
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs"}
_DELIMITERS = ("\t", ",", ";")
_SPOT_NAME = re.compile(r"X?(\d{1,6}(?:\.\d{1,9})?)[xX_](\d{1,6}(?:\.\d{1,9})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHead:
    """The first two lines of a delimited text file."""

    delimiter: str | None
    """Character between fields, or None for runs of white space."""

    header: tuple[str, ...]
    """Fields of the first line, unquoted."""

    first_row: tuple[str, ...]
    """Fields of the second line, unquoted; the last may be cut short. Empty where there is none."""


def open_text(path: Path) -> BinaryIO:
    """Open a text file, gzip-compressed or not, as its bytes say and not as its name does.

    Parameters
    ----------
    path : pathlib.Path
        File to read.

    Returns
    -------
    binary file
        The text, decompressed. Reading may raise one of `GZIP_ERRORS`.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
        return cast("BinaryIO", gzip.open(path, "rb")) if is_gzip else path.open("rb")
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", path.name, "the file must be readable", str(error))
        ) from error


def read_head(path: Path) -> TextHead | None:
    """Read the first two lines of a delimited text file.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    TextHead or None
        None for what is no text of at least two columns: binary data, damaged compression, a first
        line beyond `MAX_LINE_BYTES`.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    with open_text(path) as file:
        try:
            first = file.readline(MAX_LINE_BYTES + 1)
            if not first.endswith(b"\n") or b"\0" in first:
                return None
            second = file.readline(_HEAD_BYTES)
        except GZIP_ERRORS:
            return None
    try:
        header_line = first.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return None
    # The second line may be cut inside a character.
    row_line = second.decode("utf-8", errors="replace").rstrip("\r\n")
    delimiter = choose_delimiter(header_line, row_line)
    if header_line.count(delimiter or " ") > MAX_COLUMNS:
        return None
    header = split_fields(header_line, delimiter)
    first_row = split_fields(row_line, delimiter) if row_line else []
    if max(len(header), len(first_row)) < 2:
        return None
    return TextHead(delimiter=delimiter, header=tuple(header), first_row=tuple(first_row))


def choose_delimiter(header: str, row: str) -> str | None:
    """Choose what separates the fields of a table.

    Parameters
    ----------
    header, row : str
        The first two lines.

    Returns
    -------
    str or None
        The commonest of tab, comma and semicolon in the header, or in the row where the header has
        none of them; None, for runs of white space, where neither has.

    Examples
    --------
    >>> choose_delimiter("ERBB2", "10x13,4")
    ','
    """
    for line in (header, row):
        best = max(_DELIMITERS, key=line.count)
        if best in line:
            return best
    return None


def split_fields(line: str, delimiter: str | None) -> list[str]:
    r"""Split a line into its fields.

    Parameters
    ----------
    line : str
        A line without its end.
    delimiter : str or None
        Character between fields; None splits at runs of white space.

    Returns
    -------
    list of str
        Fields without the white space and the quotes around them.

    Examples
    --------
    >>> split_fields('"HLA,A", 3', ",")
    ['HLA,A', '3']
    >>> split_fields('10x13  0 "in situ"', None)
    ['10x13', '0', 'in situ']
    """
    if '"' not in line:
        return [field.strip() for field in line.split(delimiter)]
    plain = line if delimiter else line.strip().replace("\t", " ")
    try:
        row = next(csv.reader([plain], delimiter=delimiter or " ", skipinitialspace=True))
    except csv.Error:
        return [field.strip().strip('"') for field in line.split(delimiter)]
    return [field.strip() for field in row]


def parse_spot_name(name: str) -> tuple[str, str] | None:
    """Read the name of a spot on a legacy ST array.

    Parameters
    ----------
    name : str
        ``"10x13"``, ``"10_13"``, ``"13.064x6.086"``, ``"010x013"``, or one of these behind the
        ``X`` that R puts before column names.

    Returns
    -------
    tuple of str or None
        The two numbers as they are printed, x first; None for any other text.

    Examples
    --------
    >>> parse_spot_name("13.064x6.086")
    ('13.064', '6.086')
    >>> parse_spot_name("ERBB2") is None
    True
    """
    match = _SPOT_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def classify_table(head: TextHead) -> TableClass | None:
    """Say which file of a legacy ST sample a table is, by its columns.

    Parameters
    ----------
    head : TextHead
        From `read_head`.

    Returns
    -------
    {"spots", "labels", "counts"} or None
        ``"labels"``: a column ``label`` beside ``x, y`` or ``pixel_x, pixel_y``. ``"spots"``:
        columns ``x, y, pixel_x, pixel_y``. ``"counts"``: names of spots down the first column or
        along the header, and a number beside them.

    Examples
    --------
    >>> classify_table(TextHead(delimiter=",", header=("", "ERBB2"), first_row=("10x13", "4")))
    'counts'
    """
    columns = {name.casefold() for name in head.header}
    if "label" in columns and ({"x", "y"} <= columns or {"pixel_x", "pixel_y"} <= columns):
        return "labels"
    if {"x", "y", "pixel_x", "pixel_y"} <= columns:
        return "spots"
    if len(head.first_row) < 2 or not any(_is_number(field) for field in head.first_row[1:]):
        return None
    along_header = sum(parse_spot_name(name) is not None for name in head.header)
    if parse_spot_name(head.first_row[0]) or 2 * along_header > len(head.header):
        return "counts"
    return None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def is_image(path: Path) -> bool:
    """Say whether a file is an image by its bytes, or claims to be one by its name.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    bool
        True for JPEG, PNG and TIFF signatures, and for the suffixes of these, so that a damaged
        image is reported when it is opened and not passed over.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if path.suffix.lower() in _IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(
            Problem("source.unreadable", path.name, "the file must be readable", str(error))
        ) from error
    return start.startswith(_IMAGE_MAGIC)

"""Where the spots of an STimage-1K4M slide are, and what their names say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.sources._notes import named
from stformat.sources._sniff import read_head, split_fields
from stformat.sources._stimage_files import COORDINATE_COLUMNS
from stformat.sources._text import read_text

__all__ = ["SpotNames", "StimageCoords", "read_coords", "read_spot_names"]

MAX_BYTES = 1 << 27
"""Largest table that is read: 128 MiB of text; a Visium HD slide's has half as much."""

_LARGEST = 1e9
_NUMBER = r"\d{1,6}(?:\.\d{1,9})?"
_SPOT = re.compile(
    rf"(?:.*_)?(?:(?P<x>{_NUMBER})x(?P<y>{_NUMBER})"
    r"|(?P<bin>s_(?P<size>\d{3})um_(?P<row>\d{1,6})_(?P<col>\d{1,6})(?:-\d+)?)"
    r"|(?P<barcode>[ACGTN]{8,}(?:[-.]\d+)?))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StimageCoords:
    """Places of spots, in the order of the file."""

    names: tuple[str, ...]
    """(n,) names down the first column, unique."""

    xy: NDArray[np.float64]
    """(n, 2) columns xaxis, yaxis, finite."""

    radius: NDArray[np.float64]
    """(n,) column r, positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotNames:
    """What stands behind the name of the slide in the names of its spots."""

    kind: Literal["array", "bin", "barcode", "other"]
    """Positions on an array (``10x13``), bins of Visium HD (``s_008um_00301_00321-1``), barcodes
    of Visium, or something else."""

    short: tuple[str, ...]
    """(n,) names without what all of them share before these; unique."""

    array_xy: NDArray[np.float64] | None
    """(n, 2) column and row on the array; None where names do not tell them."""

    bin_um: float | None
    """Side of a bin in microns, where these are bins."""


def read_coords(path: Path) -> StimageCoords:
    """Read a table of coordinates.

    Parameters
    ----------
    path : pathlib.Path
        Text with names down the first column and the columns ``yaxis``, ``xaxis`` and ``r``, in
        any order.

    Returns
    -------
    StimageCoords
        Every row of the file.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, has no rows, a name repeats, or a value is not
        what it must be.
    """
    text = read_text(path, topic="positions", error=PositionsError, max_bytes=MAX_BYTES)
    header, delimiter = _read_header(path)
    columns = [header.index(name) for name in ("xaxis", "yaxis", "r")]
    lines = text.split("\n")
    values = np.empty((len(lines), 3))
    names: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        fields = split_fields(line, delimiter)
        if len(fields) != len(header):
            raise PositionsError(
                Problem(
                    "positions.ragged",
                    where,
                    f"every line needs {len(header)} fields",
                    str(len(fields)),
                )
            )
        for target, column in enumerate(columns):
            values[len(names), target] = _number(
                fields[column], f"{where}, column {header[column]}"
            )
        if not values[len(names), 2] > 0:
            raise PositionsError(
                Problem(
                    "positions.radius",
                    f"{where}, column r",
                    "a radius must be positive",
                    fields[columns[2]],
                )
            )
        names.append(fields[0])
    if not names:
        raise PositionsError(
            Problem("positions.empty", path.name, "at least one spot is needed", "no rows")
        )
    _refuse_repeated(names, path.name)
    values = values[: len(names)]
    return StimageCoords(names=tuple(names), xy=values[:, :2].copy(), radius=values[:, 2].copy())


def _read_header(path: Path) -> tuple[list[str], str | None]:
    """Names of the columns, in lower case, and what stands between fields."""
    head = read_head(path)
    header = [] if head is None else [name.casefold() for name in head.header]
    # R's write.table leaves out the cell above the row names.
    if head is not None and len(head.first_row) == len(header) + 1:
        header.insert(0, "")
    if head is None or any(header[1:].count(name) != 1 for name in COORDINATE_COLUMNS):
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                f"names and the columns {', '.join(COORDINATE_COLUMNS)} are needed",
                f"the columns {', '.join(header)[:200]}" if header else "no table",
            )
        )
    return header, head.delimiter


def _number(text: str, where: str) -> float:
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        value = float("nan")
    if not abs(value) < _LARGEST:
        raise PositionsError(
            Problem(
                "positions.not-a-number", where, "a position must be a finite number", repr(text)
            )
        )
    return value


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        repeated = [name for name, n in Counter(names).items() if n > 1]
        raise PositionsError(
            Problem(
                "positions.repeated-spots",
                where,
                "a spot must occur once",
                f"{named(repeated)} repeated",
            )
        )


def read_spot_names(names: Sequence[str], *, slide_id: str) -> SpotNames:
    """Tell what kind of names spots have.

    Parameters
    ----------
    names : sequence of str
        Names of all spots.
    slide_id : str
        Name of the slide, which other names than the three kinds may begin with.

    Returns
    -------
    SpotNames
        The kind that all of them are of.

    Examples
    --------
    >>> spots = read_spot_names(["A1_10x13", "A1_10x14"], slide_id="A1")
    >>> spots.kind, spots.short, spots.array_xy.tolist()
    ('array', ('10x13', '10x14'), [[10.0, 13.0], [10.0, 14.0]])
    """
    matches = [_SPOT.fullmatch(name) for name in names]
    found = [match for match in matches if match is not None]
    kinds = {(_kind(match), match["size"]) for match in found}
    if len(found) < len(names) or len(kinds) != 1:
        prefix = f"{slide_id}_"
        short = tuple(name.removeprefix(prefix) for name in names)
        return SpotNames(kind="other", short=_if_unique(short, names), array_xy=None, bin_um=None)
    ((kind, size),) = kinds
    if kind == "barcode":
        short = tuple(match["barcode"] for match in found)
        return SpotNames(kind=kind, short=_if_unique(short, names), array_xy=None, bin_um=None)
    if kind == "array":
        short = tuple(f"{match['x']}x{match['y']}" for match in found)
        places = np.array([(match["x"], match["y"]) for match in found], dtype=np.float64)
        return SpotNames(kind=kind, short=_if_unique(short, names), array_xy=places, bin_um=None)
    short = tuple(match["bin"] for match in found)
    places = np.array([(match["col"], match["row"]) for match in found], dtype=np.float64)
    return SpotNames(kind=kind, short=_if_unique(short, names), array_xy=places, bin_um=float(size))


def _kind(match: re.Match[str]) -> Literal["array", "bin", "barcode"]:
    if match["x"] is not None:
        return "array"
    return "bin" if match["bin"] is not None else "barcode"


def _if_unique(short: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    return short if len(set(short)) == len(short) else tuple(names)

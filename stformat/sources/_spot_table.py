"""Small text tables of a legacy ST sample: where its spots are, what a pathologist called them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.sources._sniff import read_head, split_fields
from stformat.sources._text import read_text

__all__ = ["LabelTable", "SpotTable", "read_labels", "read_spots"]

MAX_BYTES = 1 << 22
"""Largest table that is read, 4 MiB of text: an array has a few thousand spots."""

_LARGEST = 1e9  # beyond any array position or pixel; keeps rounded values inside int64
_TRUE, _FALSE = {"1", "1.0", "true", "t"}, {"0", "0.0", "false", "f"}
_MISSING = {"", "na", "nan", "none", "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotTable:
    """Places of spots, in the order of the file."""

    array_xy: NDArray[np.float64]
    """(n, 2) columns x, y: nominal positions on the array."""

    new_xy: NDArray[np.float64] | None
    """(n, 2) columns new_x, new_y: positions on the array as measured; None where absent."""

    pixel_xy: NDArray[np.float64]
    """(n, 2) columns pixel_x, pixel_y, finite."""

    selected: NDArray[np.bool_]
    """(n,) column selected; all True where it is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """Labels of spots, in the order of the file."""

    array_xy: NDArray[np.float64] | None
    """(n, 2) columns x, y; None where absent. A row that has no position is NaN."""

    pixel_xy: NDArray[np.float64] | None
    """(n, 2) columns pixel_x, pixel_y; None where absent. A row that has no position is NaN."""

    label: NDArray[np.object_]
    """(n,) str, or None where the field is empty."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Fields of a text table by lower-case column name."""

    name: str
    fields: dict[str, list[str]]
    lines: list[int]

    def numbers(self, columns: Sequence[str], *, missing_allowed: bool) -> NDArray[np.float64]:
        """(n, len(columns)) float64; a missing value is NaN, or an error."""
        table = np.empty((len(self.lines), len(columns)))
        for index, column in enumerate(columns):
            for row, text in enumerate(self.fields[column]):
                table[row, index] = self._number(row, column, text, missing_allowed=missing_allowed)
        return table

    def _number(self, row: int, column: str, text: str, *, missing_allowed: bool) -> float:
        if missing_allowed and text.casefold() in _MISSING:
            return float("nan")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not abs(value) < _LARGEST:
            raise PositionsError(
                Problem(
                    "positions.not-a-number",
                    f"{self.name}, line {self.lines[row]}, column {column}",
                    "a position must be a finite number",
                    repr(text),
                )
            )
        return value

    def booleans(self, column: str) -> NDArray[np.bool_]:
        flags = np.empty(len(self.lines), dtype=np.bool_)
        for row, text in enumerate(self.fields[column]):
            word = text.casefold()
            if word not in _TRUE | _FALSE:
                raise PositionsError(
                    Problem(
                        "positions.not-a-flag",
                        f"{self.name}, line {self.lines[row]}, column {column}",
                        "a flag must be 0 or 1",
                        repr(text),
                    )
                )
            flags[row] = word in _TRUE
        return flags


def read_spots(path: Path) -> SpotTable:
    """Read a spot file.

    Parameters
    ----------
    path : pathlib.Path
        Text with the columns ``x, y, pixel_x, pixel_y`` and, where present, ``new_x, new_y,
        selected``, in any order.

    Returns
    -------
    SpotTable
        Every row of the file.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, has no rows, or a value is not what it must be.
    """
    table = _read_columns(path, needed=("x", "y", "pixel_x", "pixel_y"))
    if not table.lines:
        raise PositionsError(
            Problem("positions.empty", path.name, "at least one spot is needed", "no rows")
        )
    has_new = {"new_x", "new_y"} <= table.fields.keys()
    new_xy = table.numbers(("new_x", "new_y"), missing_allowed=True) if has_new else None
    return SpotTable(
        array_xy=table.numbers(("x", "y"), missing_allowed=False),
        new_xy=new_xy if new_xy is not None and np.isfinite(new_xy).all() else None,
        pixel_xy=table.numbers(("pixel_x", "pixel_y"), missing_allowed=False),
        selected=(
            table.booleans("selected")
            if "selected" in table.fields
            else np.ones(len(table.lines), dtype=np.bool_)
        ),
    )


def read_labels(path: Path) -> LabelTable:
    """Read a pathologist's label file.

    Parameters
    ----------
    path : pathlib.Path
        Text with the column ``label`` and ``x, y`` or ``pixel_x, pixel_y`` or both.

    Returns
    -------
    LabelTable
        Every row of the file.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, or a position is no number.
    """
    table = _read_columns(path, needed=("label",))
    pairs = {
        pair: table.numbers(pair, missing_allowed=True)
        for pair in (("x", "y"), ("pixel_x", "pixel_y"))
        if set(pair) <= table.fields.keys()
    }
    if not pairs:
        raise PositionsError(
            Problem(
                "labels.columns",
                path.name,
                "a label file needs the columns x, y or pixel_x, pixel_y",
                ", ".join(table.fields),
            )
        )
    texts = table.fields["label"]
    return LabelTable(
        array_xy=pairs.get(("x", "y")),
        pixel_xy=pairs.get(("pixel_x", "pixel_y")),
        label=np.array(
            [None if text.casefold() in _MISSING else text for text in texts], dtype=object
        ),
    )


def _read_columns(path: Path, *, needed: tuple[str, ...]) -> _Columns:
    text = read_text(path, topic="positions", error=PositionsError, max_bytes=MAX_BYTES)
    head = read_head(path)
    names = [] if head is None else [name.casefold() for name in head.header]
    missing = [name for name in needed if name not in names]
    if head is None or missing:
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                f"the columns {', '.join(needed)} are needed",
                f"the columns {', '.join(names)}" if names else "no table",
            )
        )
    if len(set(names)) < len(names):
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                "column names must differ",
                f"the columns {', '.join(names)}",
            )
        )
    rows: list[list[str]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n")[1:], start=2):
        if not line.strip():
            continue
        fields = split_fields(line, head.delimiter)
        # R's write.table leaves out the cell above the row names.
        fields = fields[1:] if len(fields) == len(names) + 1 else fields
        if len(fields) != len(names):
            raise PositionsError(
                Problem(
                    "positions.ragged",
                    f"{path.name}, line {number}",
                    f"every line needs {len(names)} fields",
                    str(len(fields)),
                )
            )
        rows.append(fields)
        lines.append(number)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    return _Columns(name=path.name, fields=columns, lines=lines)

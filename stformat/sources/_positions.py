"""Where Space Ranger places its spots: every spelling of its table of tissue positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.sources._notes import named
from stformat.sources._sniff import GZIP_ERRORS, open_text, read_head, split_fields
from stformat.sources._text import read_text

__all__ = [
    "COLUMNS",
    "PARQUET_DAMAGE",
    "TissuePositions",
    "damaged_parquet",
    "is_parquet",
    "is_positions",
    "read_positions",
]

MAX_SPOTS = 1_000_000
"""Most rows that are read: an array has at most 14,336 positions, a stitched slide a few times."""

MAX_BYTES = 1 << 28
"""Largest text that is read: 256 MiB."""

COLUMNS = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
"""Columns after that of the barcodes, in the order that a table without a header has them in."""

PARQUET_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises on a damaged file."""

_IDENTIFIERS = ("barcode", "key", "barcodes", "")
_PARQUET = b"PAR1"
_LARGEST = 1e9  # beyond any pixel; keeps array positions inside int64
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class TissuePositions:
    """Places of spots, in the order of the file."""

    identifiers: tuple[tuple[str, ...], ...]
    """Columns that name the spots, (n,) str each: ``barcode`` and, where a slide is stitched from
    several, ``key``."""

    in_tissue: NDArray[np.bool_]
    """(n,) True where the file says that tissue covers the spot."""

    array_row: NDArray[np.int64]
    """(n,) row on the capture array."""

    array_col: NDArray[np.int64]
    """(n,) column on the capture array."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels, columns ``(x, y)``, finite: the file's columns
    ``pxl_col_in_fullres`` and ``pxl_row_in_fullres``."""


def is_positions(path: Path) -> bool:
    """Say whether a file is a table of tissue positions, by its content.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    bool
        True for text or Parquet with the columns that `read_positions` needs, and for text without
        a header whose first row has such values in such places.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if is_parquet(path):
        try:
            names = pq.read_schema(path).names
        except PARQUET_DAMAGE:
            return False
        return set(COLUMNS) <= {name.casefold() for name in names}
    head = read_head(path)
    return head is not None and (_is_header(head.header) or _is_row(head.header))


def damaged_parquet(path: Path, error: Exception) -> PositionsError:
    """Make the error of a table of positions that pyarrow cannot read."""
    return PositionsError(
        Problem(
            "positions.damaged",
            path.name,
            "the file must be whole Parquet",
            str(error),
            "copy the file again from its source",
        )
    )


def is_parquet(path: Path) -> bool:
    """Say whether a file is Parquet, compressed a second time or not, by its first bytes."""
    with open_text(path) as file:
        try:
            return file.read(len(_PARQUET)) == _PARQUET
        except GZIP_ERRORS:
            return False


def _is_header(fields: Sequence[str]) -> bool:
    return set(COLUMNS) <= {field.casefold() for field in fields}


def _is_row(fields: Sequence[str]) -> bool:
    return (
        len(fields) == len(COLUMNS) + 1
        and bool(fields[0])
        and _number(fields[0]) is None
        and fields[1].casefold() in _FLAGS
        and all(_number(field) is not None for field in fields[2:])
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < _LARGEST else None


def read_positions(path: Path) -> TissuePositions:
    """Read a table of tissue positions.

    Parameters
    ----------
    path : pathlib.Path
        ``tissue_positions_list.csv``, ``tissue_positions.csv``, ``tissue_positions.parquet`` or
        the like: text with or without a header, gzip-compressed or not, or Parquet. Columns of a
        header may stand in any order, and others beside them.

    Returns
    -------
    TissuePositions
        Every row of the file.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, has no rows or too many, a value is not what it
        must be, or a barcode repeats.
    """
    columns, first_line = _parquet_columns(path) if is_parquet(path) else _text_columns(path)
    n_rows = len(columns["in_tissue"])
    if not n_rows:
        raise PositionsError(
            Problem("positions.empty", path.name, "at least one spot is needed", "no rows")
        )
    identifiers = tuple(
        tuple(columns[name]) for name in dict.fromkeys(_IDENTIFIERS) if name in columns
    )
    # One column of several may repeat: the same barcodes come with every slide of a stitched one.
    usable = tuple(names for names in identifiers if len(set(names)) == n_rows and all(names))
    if not usable:
        raise _repeated(path, identifiers)
    values = {name: _numbers(path.name, name, columns[name], first_line) for name in COLUMNS}
    for name in ("array_row", "array_col"):
        _refuse_fractions(path.name, name, values[name], first_line)
    return TissuePositions(
        identifiers=usable,
        in_tissue=values["in_tissue"] > 0,
        array_row=values["array_row"].astype(np.int64),
        array_col=values["array_col"].astype(np.int64),
        xy=np.stack([values["pxl_col_in_fullres"], values["pxl_row_in_fullres"]], axis=1),
    )


def _repeated(path: Path, identifiers: tuple[tuple[str, ...], ...]) -> PositionsError:
    names = identifiers[0] if identifiers else ()
    repeated = [name or "an empty one" for name, n in Counter(names).items() if n > 1 or not name]
    return PositionsError(
        Problem(
            "positions.repeated-spots" if identifiers else "positions.columns",
            path.name,
            "every spot needs a barcode of its own",
            f"{named(repeated)} more than once" if identifiers else "no column of barcodes",
        )
    )


def _text_columns(path: Path) -> tuple[dict[str, list[str]], int]:
    """Fields by lower-case column name, and the line of the first row."""
    text = read_text(path, topic="positions", error=PositionsError, max_bytes=MAX_BYTES)
    lines = text.splitlines()
    head = read_head(path)
    fields = () if head is None else head.header
    if head is None or not (_is_header(fields) or _is_row(fields)):
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                f"the columns barcode, {', '.join(COLUMNS)} are needed, named in a header or in "
                "this order without one",
                f"the first line {', '.join(fields)}"[:200] if fields else "no table",
            )
        )
    has_header = _is_header(fields)
    names = [field.casefold() for field in fields] if has_header else ["barcode", *COLUMNS]
    if set(names).isdisjoint(_IDENTIFIERS) and len(head.first_row) == len(names) + 1:
        # R's write.table leaves out the cell above the row names.
        names = ["", *names]
    if len(set(names)) < len(names):
        raise PositionsError(
            Problem("positions.columns", path.name, "column names must differ", ", ".join(names))
        )
    rows = []
    for number, line in enumerate(lines[has_header:], start=1 + has_header):
        if not line.strip():
            continue
        row = split_fields(line, head.delimiter)
        if len(row) != len(names):
            raise PositionsError(
                Problem(
                    "positions.ragged",
                    f"{path.name}, line {number}",
                    f"every line needs {len(names)} fields",
                    str(len(row)),
                )
            )
        rows.append(row)
    _refuse_many(path, len(rows))
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}, 1 + has_header


def _parquet_columns(path: Path) -> tuple[dict[str, list[str]], int]:
    try:
        with pq.ParquetFile(path) as file:
            _refuse_many(path, file.metadata.num_rows)
            fields = [field for field in file.schema_arrow if _is_known(field)]
            table = file.read(columns=[field.name for field in fields])
        columns = {
            name.casefold(): ["" if value is None else str(value) for value in column.to_pylist()]
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    except PARQUET_DAMAGE as error:
        raise damaged_parquet(path, error) from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                f"the columns {', '.join(missing)} are needed",
                ", ".join(columns) or "none of them",
            )
        )
    return columns, 1


def _is_known(field: pa.Field) -> bool:
    """Whether a column is one that is read, of texts or numbers."""
    types = pa.types
    is_plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating)
    return field.name.casefold() in {*COLUMNS, *_IDENTIFIERS} and (
        types.is_boolean(field.type) or any(check(field.type) for check in is_plain)
    )


def _refuse_many(path: Path, n_rows: int) -> None:
    if n_rows > MAX_SPOTS:
        raise PositionsError(
            Problem("positions.size", path.name, f"at most {MAX_SPOTS} rows are read", f"{n_rows}")
        )


def _numbers(name: str, column: str, fields: list[str], first_line: int) -> NDArray[np.float64]:
    is_flag = column == "in_tissue"
    values = np.empty(len(fields))
    for row, text in enumerate(fields):
        value = _FLAGS.get(text.casefold()) if is_flag else _number(text)
        if value is None:
            raise PositionsError(
                Problem(
                    "positions.not-a-flag" if is_flag else "positions.not-a-number",
                    f"{name}, row {row + 1} (line {first_line + row}), column {column}",
                    "a flag must be 0 or 1" if is_flag else "a position must be a finite number",
                    repr(text),
                )
            )
        values[row] = value
    return values


def _refuse_fractions(name: str, column: str, values: NDArray[np.float64], first_line: int) -> None:
    is_fraction = values != np.floor(values)
    if is_fraction.any():
        row = int(np.argmax(is_fraction))
        raise PositionsError(
            Problem(
                "positions.not-a-number",
                f"{name}, row {row + 1} (line {first_line + row}), column {column}",
                "a place on the array must be an integer",
                f"{values[row]:g}",
            )
        )

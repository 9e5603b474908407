"""Where the bins of a Visium HD array lie: millions of rows, read in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.sources._packed_text import pack_texts, packed_blocks
from stformat.sources._positions import (
    COLUMNS,
    PARQUET_DAMAGE,
    damaged_parquet,
    is_parquet,
    read_positions,
)
from stformat.text_keys import repeated_row

__all__ = ["BinPositions", "read_bin_positions"]

MAX_BINS = 200_000_000
"""Most rows that are read; the largest array has 11,222,500 bins of 2 um."""

_ROWS_AT_ONCE = 1 << 17
_LARGEST = 1e9  # beyond any pixel
_BARCODE = "barcode"


@dataclass(frozen=True, slots=True, kw_only=True)
class BinPositions:
    """Places of bins, in the order of the file."""

    names: NDArray[np.bytes_]
    """(n,) barcodes, unique."""

    in_tissue: NDArray[np.bool_]
    """(n,) True where the file says that tissue covers the bin."""

    array_row: NDArray[np.int32]
    """(n,) row on the capture array, from 0."""

    array_col: NDArray[np.int32]
    """(n,) column on the capture array, from 0."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels, columns ``(x, y)``, finite."""


def read_bin_positions(path: Path) -> BinPositions:
    """Read a table of tissue positions of Visium HD.

    Parameters
    ----------
    path : pathlib.Path
        ``tissue_positions.parquet``, or the same as text.

    Returns
    -------
    BinPositions
        Every row of the file.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, has no rows or too many, a value is not what it
        must be, or a barcode repeats.

    Notes
    -----
    Memory: 25 bytes a bin and its barcode, once more while blocks are joined.
    """
    if not is_parquet(path):
        return _of_text(path)
    try:
        positions = _read_parquet(path)
    except PARQUET_DAMAGE as error:
        raise damaged_parquet(path, error) from error
    is_empty = positions.names == b""
    row = int(np.argmax(is_empty)) if is_empty.any() else repeated_row(positions.names)
    if row is not None:
        name = positions.names[row].decode()
        raise PositionsError(
            Problem(
                "positions.repeated-spots",
                path.name,
                "every bin needs a barcode of its own",
                f"{name!r} again" if name else "one without any",
            )
        )
    _check_places(path, positions)
    return positions


def _of_text(path: Path) -> BinPositions:
    positions = read_positions(path)
    found = BinPositions(
        names=pack_texts(positions.identifiers[0]),
        in_tissue=positions.in_tissue,
        array_row=positions.array_row.astype(np.int32),
        array_col=positions.array_col.astype(np.int32),
        xy=positions.xy,
    )
    _check_places(path, found)
    return found


def _check_places(path: Path, positions: BinPositions) -> None:
    if min(positions.array_row.min(), positions.array_col.min()) < 0:
        raise PositionsError(
            Problem(
                "positions.not-a-number",
                path.name,
                "array_row and array_col must be from 0",
                f"{min(positions.array_row.min(), positions.array_col.min())}",
            )
        )


def _read_parquet(path: Path) -> BinPositions:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = _column_names(path, file.schema_arrow)
        n_bins = file.metadata.num_rows
        if not 0 < n_bins <= MAX_BINS:
            raise PositionsError(
                Problem("positions.size", path.name, f"1 to {MAX_BINS} rows are read", f"{n_bins}")
            )
        values = {
            "in_tissue": np.empty(n_bins, dtype=np.bool_),
            "array_row": np.empty(n_bins, dtype=np.int32),
            "array_col": np.empty(n_bins, dtype=np.int32),
        }
        xy = np.empty((n_bins, 2))
        targets = values | {"pxl_col_in_fullres": xy[:, 0], "pxl_row_in_fullres": xy[:, 1]}
        barcodes = []
        done = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(names.values())):
            rows = slice(done, done + batch.num_rows)
            for column, target in targets.items():
                target[rows] = _numbers(path, column, batch.column(names[column]), done)
            block = batch.column(names[_BARCODE]).cast(pa.binary())
            if block.null_count:
                raise _bad_value(path, _BARCODE, "a missing value", "every bin needs a barcode")
            one_block = [block.to_numpy(zero_copy_only=False)]
            barcodes.append(
                packed_blocks(path.name, one_block, topic="positions", error=PositionsError)
            )
            done += batch.num_rows
    return BinPositions(names=np.concatenate(barcodes), xy=xy, **values)


def _column_names(path: Path, schema: pa.Schema) -> dict[str, str]:
    """Names of the columns that are read, as the file spells them."""
    found = {field.name.casefold(): field.name for field in schema}
    missing = [name for name in (_BARCODE, *COLUMNS) if name not in found]
    if missing:
        raise PositionsError(
            Problem(
                "positions.columns",
                path.name,
                f"the columns {', '.join(missing)} are needed",
                ", ".join(schema.names)[:200] or "none",
            )
        )
    names = {name: found[name] for name in (_BARCODE, *COLUMNS)}
    types = pa.types
    for name, spelled in names.items():
        kind = schema.field(spelled).type
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind)
        is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        if not (is_text if name == _BARCODE else is_number):
            needed = "texts are needed" if name == _BARCODE else "numbers are needed"
            raise _bad_value(path, name, str(kind), needed)
    return names


def _numbers(path: Path, column: str, values: pa.Array, first_row: int) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = (
        pc.cast(values, pa.float64(), safe=False)
        .fill_null(float("nan"))
        .to_numpy(zero_copy_only=False)
    )
    with np.errstate(invalid="ignore"):
        is_bad = ~(np.abs(numbers) < _LARGEST)
    expected = "a position must be a finite number"
    if column == "in_tissue":
        is_bad = ~np.isin(numbers, (0.0, 1.0))
        expected = "a flag must be 0 or 1"
    elif column.startswith("array_"):
        is_bad |= numbers != np.floor(numbers)
        expected = "a place on the array must be an integer"
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise _bad_value(
            path, f"{column}, row {first_row + row + 1}", f"{numbers[row]:g}", expected
        )
    return numbers


def _bad_value(path: Path, column: str, found: str, expected: str) -> PositionsError:
    return PositionsError(
        Problem("positions.not-a-number", f"{path.name}, column {column}", expected, found)
    )

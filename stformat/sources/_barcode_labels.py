"""Labels that a study gives its spots by barcode."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Note
from stformat.sources._notes import counted, named
from stformat.sources._sniff import read_head, split_fields
from stformat.sources._text import read_text
from stformat.sources._visium_join import without_suffix

__all__ = ["read_barcode_labels"]

MAX_BYTES = 1 << 28
"""Largest file that is read: 256 MiB of text."""

_MISSING = {"", "na", "nan", "none", "null"}
_BARCODE = re.compile(r"[ACGTN]{8,}(?![A-Za-z])")

type _Rows = list[list[str]]


def read_barcode_labels(
    path: Path, barcodes: Sequence[str], *, slide_id: str, aliases: Sequence[str] = ()
) -> tuple[dict[str, NDArray[np.object_]], tuple[Note, ...]]:
    """Give each spot its labels.

    Parameters
    ----------
    path : pathlib.Path
        Delimited text with a column of barcodes and columns of labels, with a header or without.
    barcodes : sequence of str
        Spots of the table.
    slide_id : str
        Identifier of the slide: where one file labels several, a column names them, and rows are
        those whose name stands as a word in this one.
    aliases : sequence of str, optional
        Other names of the spots, one each, that the file may have for them.

    Returns
    -------
    dict of str to (n,) ndarray of str or None
        One annotation for each column of labels, under its name, or ``label``, ``label_2``, ...
        where there is no header.
    tuple of Note
        Labels without a spot, spots without a label, and rows that repeat another.

    Raises
    ------
    PositionsError
        If the file is damaged or no such table, no label finds a spot, or two rows label one spot
        differently.
    """
    rows = _read(path)
    spots = {alias: row for row, alias in enumerate(aliases)}
    spots |= {barcode: row for row, barcode in enumerate(barcodes)}
    column = _barcode_column(path, rows, spots)
    names, rows = _without_header(rows, column, spots)
    different = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    n_repeated = len(rows) - len(different)
    rows = different
    keys = [row[column] for row in rows]
    if not any(key in spots for key in keys):
        spots = _spots_without_suffix(path, spots)
        keys = [without_suffix(key) for key in keys]
    labelled = [index for index in range(len(names)) if index != column]
    if len(set(keys)) < len(keys):
        sample = _sample_column(path, rows, keys, labelled, slide_id)
        kept = [index for index, row in enumerate(rows) if _is_word(row[sample], slide_id)]
        rows, keys = [rows[index] for index in kept], [keys[index] for index in kept]
        labelled.remove(sample)
    found = np.array([spots.get(key, -1) for key in keys], dtype=np.int64)
    if not (found >= 0).any():
        raise _no_join(path, "no label at any spot")
    annotations = {}
    for index, name in zip(labelled, _column_names(names, labelled), strict=True):
        values = np.full(len(barcodes), None, dtype=object)
        for row, spot in zip(rows, found.tolist(), strict=True):
            if spot >= 0 and row[index].casefold() not in _MISSING:
                values[spot] = row[index]
        annotations[name] = values
    return annotations, _notes(annotations, found, n_repeated=n_repeated)


def _read(path: Path) -> _Rows:
    """Fields of every line, of which the first may name the columns."""
    text = read_text(path, topic="labels", error=PositionsError, max_bytes=MAX_BYTES)
    head = read_head(path)
    if head is None:
        raise _no_table(path, "another file")
    rows = [split_fields(line, head.delimiter) for line in text.splitlines() if line.strip()]
    if len(rows) > 1 and {len(row) for row in rows[1:]} == {len(rows[0]) + 1}:
        # R's write.table leaves out the cell above the row names.
        rows[0].insert(0, "")
    ragged = [number for number, row in enumerate(rows, start=1) if len(row) != len(rows[0])]
    if ragged:
        raise _no_table(path, f"{len(rows[0])} fields in the first row, others in row {ragged[0]}")
    return rows


def _without_header(
    rows: _Rows, column: int, spots: dict[str, int]
) -> tuple[list[str | None], _Rows]:
    """Names of the columns, None where the first row has a spot as the others do, and the rows."""
    first = rows[0][column]
    has_header = first not in spots and not _BARCODE.match(first)
    names: list[str | None] = [*rows[0]] if has_header else [None] * len(rows[0])
    return names, rows[has_header:]


def _spots_without_suffix(path: Path, spots: dict[str, int]) -> dict[str, int]:
    bare = {without_suffix(barcode): row for barcode, row in spots.items()}
    if len(bare) < len(spots):
        raise _no_join(path, "labels without the suffix that tells spots apart")
    return bare


def _no_table(path: Path, found: str) -> PositionsError:
    return PositionsError(
        Problem(
            "labels.columns",
            path.name,
            "a table with a column of barcodes and a column of labels is needed",
            found,
        )
    )


def _barcode_column(path: Path, rows: _Rows, spots: dict[str, int]) -> int:
    """Column whose values are most often barcodes of the slide."""
    bare = {without_suffix(barcode) for barcode in spots}
    n_found = [
        sum(without_suffix(row[index]) in bare for row in rows) for index in range(len(rows[0]))
    ]
    if not any(n_found):
        raise _no_join(path, "no label at any spot")
    return n_found.index(max(n_found))


def _is_word(name: str, text: str) -> bool:
    return bool(name) and bool(re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text))


def _sample_column(
    path: Path, rows: _Rows, keys: list[str], candidates: list[int], slide_id: str
) -> int:
    """Column that tells rows of one barcode apart, by names of which one is the slide's."""
    for index in candidates:
        names = {row[index] for row in rows}
        pairs = {(key, row[index]) for key, row in zip(keys, rows, strict=True)}
        if len(pairs) == len(rows) and sum(_is_word(name, slide_id) for name in names) == 1:
            return index
    repeated = [key for key, n in Counter(keys).items() if n > 1]
    raise PositionsError(
        Problem(
            "labels.contradiction",
            path.name,
            f"a spot must have one row, or a column must name the slide {slide_id!r}",
            f"{named(repeated)} more than once",
            "give the name that the file has for the slide as slide_id",
        )
    )


def _no_join(path: Path, found: str) -> PositionsError:
    return PositionsError(
        Problem(
            "labels.no-join",
            path.name,
            "barcodes of labels must be those of the counts",
            found,
            "check that both are of the same sample",
        )
    )


def _column_names(names: list[str | None], labelled: list[int]) -> list[str]:
    """Names that elements may have, unique ignoring case."""
    taken: set[str] = set()
    result = []
    for index in labelled:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", names[index] or "").strip("_.") or "label"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name.lower())
        result.append(name)
    return result


def _notes(
    annotations: dict[str, NDArray[np.object_]], found: NDArray[np.int64], *, n_repeated: int
) -> tuple[Note, ...]:
    n_without_spot = int(np.count_nonzero(found < 0))
    is_labelled = [values != np.array(None) for values in annotations.values()]
    n_without_label = int(np.count_nonzero(~np.any(is_labelled, axis=0))) if is_labelled else 0
    notes = []
    if n_without_spot:
        labels = counted(n_without_spot, "label is", "labels are")
        message = f"{labels} at no spot of the table."
        notes.append(Note(code="labels.without-spot", message=message, count=n_without_spot))
    if n_without_label:
        message = f"{counted(n_without_label, 'spot has', 'spots have')} no label."
        notes.append(Note(code="spots.without-label", message=message, count=n_without_label))
    if n_repeated:
        message = f"{counted(n_repeated, 'row repeats', 'rows repeat')} another one of the labels."
        notes.append(Note(code="labels.repeated", message=message, count=n_repeated))
    return tuple(notes)

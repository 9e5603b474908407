"""A text count matrix as CSR, parsed as a stream: dense text in bounded memory, zeros dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.sources._sniff import (
    GZIP_ERRORS,
    MAX_COLUMNS,
    MAX_LINE_BYTES,
    choose_delimiter,
    open_text,
    split_fields,
)

__all__ = ["TextCounts", "read_counts_text"]

BLOCK_BYTES = 1 << 20
"""Text parsed at a time; a longer row is parsed alone."""

_LARGEST = np.iinfo(np.int32).max
_NEWLINE, _ZERO, _POINT = (ord(character) for character in "\n0.")
_MAX_DIGITS = 9  # any nine digits fit int32


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounts:
    """A count matrix as its text has it: rows and columns are not yet spots and genes."""

    row_names: tuple[str, ...]
    """Names down the first column, unique or not."""

    column_names: tuple[str, ...]
    """Names along the header, unique or not."""

    matrix: sparse.csr_array
    """(n_rows, n_columns) int32, or float32 where a value is no integer; no explicit zeros."""

    n_non_integer: int
    """How many values are no integers."""


def read_counts_text(path: Path) -> TextCounts:
    """Read a dense text matrix with one header line and one column of names.

    Parameters
    ----------
    path : pathlib.Path
        Tab-, comma-, semicolon- or space-separated text, gzip-compressed or not. The header may
        leave out the cell above the row names.

    Returns
    -------
    TextCounts
        The matrix with its zeros dropped.

    Raises
    ------
    CountsError
        If the file is damaged or no such matrix, a row has too many or too few values, a value is
        no number, negative, not finite, or an integer beyond int32.

    Notes
    -----
    Memory: a few times the larger of `BLOCK_BYTES` and the longest row, and about 16 bytes for a
    value other than zero.
    """
    with open_text(path) as file:
        try:
            return _Reader(path.name, file).read()
        except GZIP_ERRORS as error:
            raise CountsError(
                Problem(
                    "counts.truncated",
                    path.name,
                    "the compressed file must be whole",
                    f"damaged or cut-off gzip data ({error})",
                    "copy the file again from its source",
                )
            ) from error


@dataclass(slots=True)
class _Rows:
    """What was parsed so far of the values other than zero."""

    names: list[str]
    n_values: list[NDArray[np.int64]]
    indices: list[NDArray[np.int32]]
    data: list[NDArray[np.float64]]


class _Reader:
    """One pass over one file."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.delimiter = "\t"
        self.is_spaced = False
        self.columns: list[str] = []

    def read(self) -> TextCounts:
        blocks = self._blocks(self._read_header())
        rows = _Rows([], [], [], [])
        for block in blocks:
            self._parse(block, rows)
        if not rows.names:
            self._fail("counts.empty", "at least one row of counts is needed", "only a header line")
        data = np.concatenate(rows.data)
        is_integer = data == np.floor(data)
        n_non_integer = int(np.count_nonzero(~is_integer))
        indices = np.concatenate(rows.indices)
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(rows.n_values))])
        largest = float(np.finfo(np.float32).max) if n_non_integer else _LARGEST
        if data.size and data.max() > largest:
            entry = int(data.argmax())
            row = int(np.searchsorted(indptr, entry, side="right")) - 1
            self._fail(
                "counts.overflow",
                f"a value must be at most {largest}",
                f"{data[entry]:.12g}",
                row=rows.names[row],
                column=self.columns[indices[entry]],
            )
        matrix = sparse.csr_array(
            (data.astype(np.float32 if n_non_integer else np.int32), indices, indptr),
            shape=(len(rows.names), len(self.columns)),
        )
        return TextCounts(
            row_names=tuple(rows.names),
            column_names=tuple(self.columns),
            matrix=matrix,
            n_non_integer=n_non_integer,
        )

    def _fail(
        self, code: str, expected: str, found: str, *, row: str = "", column: str = ""
    ) -> NoReturn:
        where = [self.name, f"row {row!r}" if row else "", f"column {column!r}" if column else ""]
        raise CountsError(Problem(code, ", ".join(filter(None, where)), expected, found))

    def _read_header(self) -> bytes:
        """Take the header, choose the delimiter and return the first row of counts."""
        header = self._line()
        first = self._line()
        while first and not first.strip():
            first = self._line()
        try:
            text = header.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError as error:
            self._fail("counts.encoding", "the header must be UTF-8 text", str(error))
        row = first.decode("utf-8", "replace").strip("\r\n")
        delimiter = choose_delimiter(text, row)
        self.delimiter = delimiter or "\t"
        self.is_spaced = delimiter is None
        if text.count(self.delimiter) > MAX_COLUMNS:
            self._fail(
                "counts.columns",
                f"a count matrix has at most {MAX_COLUMNS} columns",
                f"{text.count(self.delimiter)} in the first line",
            )
        fields = split_fields(text, delimiter)
        n_first = len(split_fields(row, delimiter))
        # R's write.table leaves out the cell above the row names.
        self.columns = fields if n_first == len(fields) + 1 else fields[1:]
        if not self.columns:
            self._fail("counts.columns", "a count matrix needs a header of names", "one column")
        return first

    def _line(self) -> bytes:
        line = self.file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            self._fail_line()
        return line

    def _fail_line(self) -> NoReturn:
        self._fail("counts.line", f"a line has at most {MAX_LINE_BYTES} bytes", "a longer one")

    def _blocks(self, first: bytes) -> Iterator[bytes]:
        """Yield whole lines: each field ended by the delimiter or a bare newline, no blank line."""
        pending = first
        while True:
            text = self.file.read(BLOCK_BYTES)
            if not text:
                break
            pending += text
            end = pending.rfind(b"\n") + 1
            if end:
                yield self._normalize(pending[:end])
                pending = pending[end:]
            elif len(pending) > MAX_LINE_BYTES:
                self._fail_line()
        yield self._normalize(pending)

    def _normalize(self, text: bytes) -> bytes:
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        if b'"' in text:
            text = self._unquote(text)
        elif self.is_spaced:
            text = re.sub(rb"[ \t]*\n[ \t]*", b"\n", text.strip(b" \t"))
            text = re.sub(rb"[ \t]+", b"\t", text)
        if b"\n\n" in text or text.startswith(b"\n"):
            text = re.sub(rb"\n\n+", b"\n", text).lstrip(b"\n")
        return text if text.endswith(b"\n") or not text else text + b"\n"

    def _unquote(self, text: bytes) -> bytes:
        """Take quotes away from fields; a delimiter inside a quoted field becomes a space."""
        delimiter = None if self.is_spaced else self.delimiter
        lines = text.decode("utf-8", "surrogateescape").split("\n")
        plain = (
            self.delimiter.join(
                field.replace(self.delimiter, " ") for field in split_fields(line, delimiter)
            )
            for line in lines
        )
        return "\n".join(plain).encode("utf-8", "surrogateescape")

    def _parse(self, block: bytes, rows: _Rows) -> None:
        """Append the rows of a block."""
        if not block:
            return
        # Before memory is taken for them: a row may be nothing but delimiters.
        if block.count(self.delimiter.encode()) > block.count(b"\n") * len(self.columns):
            self._fail_ragged(block)
        characters = np.frombuffer(block, dtype=np.uint8)
        is_newline = characters == _NEWLINE
        field_ends = np.flatnonzero(is_newline | (characters == ord(self.delimiter)))
        last = np.flatnonzero(is_newline[field_ends])
        if (np.diff(last, prepend=-1) != len(self.columns) + 1).any():
            self._fail_ragged(block)
        ends = field_ends.reshape(-1, len(self.columns) + 1)
        starts = np.concatenate([[0], field_ends[:-1] + 1]).reshape(ends.shape)
        name_spans = zip(starts[:, 0].tolist(), ends[:, 0].tolist(), strict=True)
        try:
            names = [block[start:end].decode().strip() for start, end in name_spans]
        except UnicodeDecodeError as error:
            self._fail("counts.encoding", "names of rows must be UTF-8 text", str(error))
        row, column, values = self._values(block, characters, starts[:, 1:], ends[:, 1:], names)
        kept = values != 0
        rows.names.extend(names)
        rows.n_values.append(np.bincount(row[kept], minlength=len(names)))
        rows.indices.append(column[kept].astype(np.int32))
        rows.data.append(values[kept])

    def _fail_ragged(self, block: bytes) -> NoReturn:
        delimiter, n_values = self.delimiter.encode(), len(self.columns)
        ragged = next(row for row in block.split(b"\n") if row.count(delimiter) != n_values)
        self._fail(
            "counts.ragged",
            f"every row needs {n_values} values, one for each name in the header",
            str(ragged.count(delimiter)),
            row=ragged.partition(delimiter)[0].decode("utf-8", "replace"),
        )

    def _values(
        self,
        block: bytes,
        characters: NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        names: list[str],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Parse every field but the bare zeros, which are nearly all."""
        is_zero = (ends - starts == 1) & (characters[starts] == _ZERO)
        row, column = np.nonzero(~is_zero)
        start, end = starts[row, column], ends[row, column]
        length = end - start
        # "3.0" is the integer 3.
        has_point = characters[end - 2] == _POINT
        length -= 2 * ((length > 2) & has_point & (characters[end - 1] == _ZERO))
        values = np.zeros(len(row))
        is_plain = (length > 0) & (length <= _MAX_DIGITS)
        for position in range(_MAX_DIGITS):
            live = is_plain & (position < length)
            if not live.any():
                break
            digit = characters[np.where(live, start + position, 0)].astype(np.int64) - _ZERO
            is_plain &= ~live | ((digit >= 0) & (digit <= 9))
            values = np.where(live, values * 10 + digit, values)
        for entry in np.flatnonzero(~is_plain).tolist():
            text = block[start[entry] : end[entry]].decode("utf-8", "replace").strip()
            place = {"row": names[row[entry]], "column": self.columns[column[entry]]}
            values[entry] = self._number(text, **place)
        return row, column, values

    def _number(self, text: str, *, row: str, column: str) -> float:
        try:
            value = float(text.strip('"')) if "_" not in text else None
        except ValueError:
            value = None
        if value is None:
            self._fail(
                "counts.not-a-number",
                "a count must be a number",
                repr(text),
                row=row,
                column=column,
            )
        if not np.isfinite(value):
            self._fail(
                "counts.not-finite", "a count must be finite", repr(text), row=row, column=column
            )
        if value < 0:
            self._fail(
                "counts.negative",
                "a count must not be negative",
                repr(text),
                row=row,
                column=column,
            )
        return value

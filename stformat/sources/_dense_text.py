"""A dense text matrix of counts as a stream of sparse rows, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, Problem
from stformat.kernels import CountRows, parse_count_rows
from stformat.kernels._pool import map_chunks, thread_count
from stformat.sources._sniff import (
    GZIP_ERRORS,
    MAX_COLUMNS,
    MAX_LINE_BYTES,
    choose_delimiter,
    open_text,
    split_fields,
)

__all__ = ["CountBlock", "DenseText", "open_dense_text"]

BLOCK_BYTES = 1 << 20
"""Text parsed at a time by a thread; a longer row is parsed alone."""

MAX_THREADS = 8
"""Reading is one thread's work and feeds no more parsers than these; memory grows with them."""

LARGEST_COUNT = np.iinfo(np.int32).max
LARGEST_VALUE = float(np.finfo(np.float32).max)

_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CountBlock:
    """Consecutive rows of a matrix, zeros dropped."""

    names: tuple[str, ...]
    """(n_rows,) names of the rows."""

    n_values: NDArray[np.int64]
    """(n_rows,) values of each row."""

    indices: NDArray[np.int32]
    """(nnz,) column of each value, ascending in a row."""

    values: NDArray[np.float64]
    """(nnz,) values, positive and finite."""

    n_non_integer: int
    """How many values are no integers."""

    largest: float
    """The largest value, 0 without one."""

    where_largest: str
    """Where the largest value stands, if it is no int32."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Whole lines of a text."""

    text: bytes
    first_line: int


@contextmanager
def open_dense_text(path: Path) -> Iterator[DenseText]:
    """Open a dense text matrix with one header line and one column of names.

    Parameters
    ----------
    path : pathlib.Path
        Tab-, comma-, semicolon- or space-separated text, gzip-compressed or not. The header may
        leave out the cell above the row names.

    Yields
    ------
    DenseText
        The matrix, its header read.

    Raises
    ------
    CountsError
        If the file is damaged or no such matrix.
    """
    with open_text(path) as file:
        yield DenseText(path.name, file)


class DenseText:
    """One pass over a dense text matrix; made by `open_dense_text`.

    Notes
    -----
    Memory: a few times `BLOCK_BYTES`, or the longest row, for each of up to `MAX_THREADS` threads.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        """Name of the file."""

        self.n_non_integer = 0
        """How many values of the blocks so far are no integers."""

        self._file = file
        header, self._first = self._read_header()
        text = header.decode("utf-8-sig").strip("\r\n")
        row = self._first.text.decode("utf-8", "replace").strip("\r\n")
        delimiter = choose_delimiter(text, row)
        self._is_spaced = delimiter is None
        self._delimiter = delimiter or "\t"
        if text.count(self._delimiter) > MAX_COLUMNS:
            self._fail(
                "counts.columns",
                f"a count matrix has at most {MAX_COLUMNS} columns",
                f"{text.count(self._delimiter)} in the first line",
            )
        fields = split_fields(text, delimiter)
        n_first = len(split_fields(row, delimiter))
        # R's write.table leaves out the cell above the row names.
        self.columns = tuple(fields if n_first == len(fields) + 1 else fields[1:])
        """Names along the header, unique or not."""
        if not self.columns:
            self._fail("counts.columns", "a count matrix needs a header of names", "one column")

    @property
    def dtype(self) -> np.dtype[np.int32] | np.dtype[np.float32]:
        """Type that holds the values of the blocks so far."""
        return np.dtype(np.float32) if self.n_non_integer else np.dtype(np.int32)

    def blocks(self) -> Iterator[CountBlock]:
        """Parse the rows, once.

        Yields
        ------
        CountBlock
            Rows in their order.

        Raises
        ------
        CountsError
            If the file is damaged, a row has too many or too few values, a value is no number,
            negative or not finite, or, behind the last block, if there was no row or the largest
            value is beyond int32 and all are integers, or beyond float32.
        """
        n_threads = min(thread_count(), MAX_THREADS)
        n_rows = 0
        largest, where_largest = 0.0, ""
        for chunks in batched(self._chunks(), 2 * n_threads):
            for block in map_chunks(self._parse, chunks, n_threads=n_threads):
                if isinstance(block, CountsError):
                    raise block
                n_rows += len(block.names)
                self.n_non_integer += block.n_non_integer
                if block.largest > largest:
                    largest, where_largest = block.largest, block.where_largest
                yield block
        if not n_rows:
            self._fail("counts.empty", "at least one row of counts is needed", "only a header line")
        limit = LARGEST_VALUE if self.n_non_integer else LARGEST_COUNT
        if largest > limit:
            raise CountsError(
                Problem(
                    "counts.overflow",
                    where_largest,
                    f"a value must be at most {limit}",
                    f"{largest:.12g}",
                )
            )

    def _where(self, *, line: int = 0, row: str = "", column: int | None = None) -> str:
        parts = [
            self.name,
            f"line {line}" if line else "",
            f"row {row!r}" if row else "",
            f"column {self.columns[column]!r}" if column is not None else "",
        ]
        return ", ".join(filter(None, parts))

    def _fail(self, code: str, expected: str, found: str, *, where: str = "") -> NoReturn:
        raise CountsError(Problem(code, where or self.name, expected, found))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except GZIP_ERRORS as error:
            raise CountsError(
                Problem(
                    "counts.truncated",
                    self.name,
                    "the compressed file must be whole",
                    f"damaged or cut-off gzip data ({error})",
                    "copy the file again from its source",
                )
            ) from error

    def _read_header(self) -> tuple[bytes, _Chunk]:
        """Read the header and the first row, which is not yet parsed."""
        header, first, number = self._line(), self._line(), 2
        while first and not first.strip():
            first, number = self._line(), number + 1
        try:
            header.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._fail("counts.encoding", "the header must be UTF-8 text", str(error))
        return header, _Chunk(first, number)

    def _line(self) -> bytes:
        with self._reading():
            line = self._file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            self._fail_line()
        return line

    def _fail_line(self) -> NoReturn:
        self._fail("counts.line", f"a line has at most {MAX_LINE_BYTES} bytes", "a longer one")

    def _chunks(self) -> Iterator[_Chunk]:
        """Cut the text behind the header into whole lines, the last one ended as well."""
        pending, line = self._first.text, self._first.first_line
        while True:
            with self._reading():
                text = self._file.read(BLOCK_BYTES)
            if not text:
                break
            pending += text
            end = pending.rfind(b"\n") + 1
            if end:
                yield _Chunk(pending[:end], line)
                line += pending.count(b"\n")
                pending = pending[end:]
            elif len(pending) > MAX_LINE_BYTES:
                self._fail_line()
        if pending:
            yield _Chunk(pending if pending.endswith(b"\n") else pending + b"\n", line)

    def _parse(self, chunk: _Chunk) -> CountBlock | CountsError:
        """Parse lines, in any thread; of several errors the first in the file is to be raised."""
        try:
            return self._rows(chunk)
        except CountsError as error:
            return error

    def _rows(self, chunk: _Chunk) -> CountBlock:
        text = self._evenly_spaced(chunk.text) if self._is_spaced else chunk.text
        rows = parse_count_rows(
            np.frombuffer(text, np.uint8), delimiter=self._delimiter, n_columns=len(self.columns)
        )
        names = self._names(text, rows, chunk.first_line)
        values, indices, n_values = rows.values, rows.indices, rows.n_values
        row_stops = np.cumsum(n_values)

        def where(entry: int) -> str:
            row = int(np.searchsorted(row_stops, entry, side="right"))
            line = chunk.first_line + int(rows.lines[row])
            return self._where(line=line, row=names[row], column=int(indices[entry]))

        if len(rows.spans):
            # Of a row that is at fault itself its fields tell nothing.
            n_read = len(values) - (int(n_values[-1]) if rows.fault else 0)
            entries = np.flatnonzero(np.isnan(values[:n_read])).tolist()
            for entry, (start, stop) in zip(entries, rows.spans.tolist(), strict=False):
                field = text[start:stop].decode("utf-8", "replace")
                values[entry] = self._number(field, where(entry))
        self._check_last(rows, names, chunk.first_line)
        n_non_integer = int(np.count_nonzero(values != np.floor(values)))
        largest = int(values.argmax()) if values.size else -1
        is_beyond = largest >= 0 and values[largest] > LARGEST_COUNT
        where_largest = where(largest) if is_beyond else ""
        if len(rows.spans) and not values.all():
            is_kept = values != 0
            row_of = np.repeat(np.arange(len(names)), n_values)
            n_values = np.bincount(row_of[is_kept], minlength=len(names)).astype(np.int64)
            values, indices = values[is_kept], indices[is_kept]
        return CountBlock(
            names=names,
            n_values=n_values,
            indices=indices,
            values=values,
            n_non_integer=n_non_integer,
            largest=float(rows.values[largest]) if largest >= 0 else 0.0,
            where_largest=where_largest,
        )

    def _evenly_spaced(self, text: bytes) -> bytes:
        """Put one tab for each run of white space; one inside a quoted field becomes a space."""
        text = text.replace(b"\r\n", b"\n")
        if b'"' in text:
            lines = text.decode("utf-8", "surrogateescape").split("\n")
            plain = (
                "\t".join(field.replace("\t", " ") for field in split_fields(line, None))
                for line in lines
            )
            return "\n".join(plain).encode("utf-8", "surrogateescape")
        text = re.sub(rb"[ \t]*\n[ \t]*", b"\n", text.strip(b" \t"))
        return re.sub(rb"[ \t]+", b"\t", text)

    def _names(self, text: bytes, rows: CountRows, first_line: int) -> tuple[str, ...]:
        names = []
        for row, (start, stop) in enumerate(rows.names.tolist()):
            try:
                name = text[start:stop].decode().strip()
            except UnicodeDecodeError as error:
                self._fail(
                    "counts.encoding",
                    "names of rows must be UTF-8 text",
                    str(error),
                    where=self._where(line=first_line + int(rows.lines[row])),
                )
            names.append(split_fields(name, self._delimiter)[0] if name[:1] == '"' else name)
        return tuple(names)

    def _check_last(self, rows: CountRows, names: tuple[str, ...], first_line: int) -> None:
        if rows.fault is None:
            return
        line, row = first_line + int(rows.lines[-1]), names[-1]
        if rows.fault == "ragged":
            self._fail(
                "counts.ragged",
                f"every row needs {len(self.columns)} values, one for each name in the header",
                str(rows.n_fields),
                where=self._where(line=line, row=row[:_SHOWN_CHARACTERS]),
            )
        self._number("", self._where(line=line, row=row, column=rows.n_fields))

    def _number(self, field: str, where: str) -> float:
        """Read a field that is not plain."""
        text = field.strip().strip('"')
        shown = repr(field.strip()[:_SHOWN_CHARACTERS])
        try:
            value = float(text) if "_" not in text else None
        except ValueError:
            value = None
        if value is None:
            self._fail("counts.not-a-number", "a count must be a number", shown, where=where)
        if not np.isfinite(value):
            self._fail("counts.not-finite", "a count must be finite", shown, where=where)
        if value < 0:
            self._fail("counts.negative", "a count must not be negative", shown, where=where)
        return value

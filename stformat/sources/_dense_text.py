"""A dense text matrix of counts as a stream of sparse rows, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

    lines: NDArray[np.int64]
    """(n_rows,) line of each row, from 0 for the first of the block."""

    n_values: NDArray[np.int64]
    """(n_rows,) values of each row."""

    indices: NDArray[np.int32]
    """(nnz,) column of each value, ascending in a row."""

    values: NDArray[np.float64]
    """(nnz,) values, positive and finite."""

    n_non_integer: int
    """How many values are no integers."""

    n_lines: int
    """Lines of the block, blank ones included."""


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
        self._line_number = 2
        header, self._first = self._read_header()
        text = header.decode("utf-8-sig").strip("\r\n")
        row = self._first.decode("utf-8", "replace").strip("\r\n")
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
        has_corner = n_first != len(fields) + 1 or (len(fields) > 1 and not fields[0])
        self.columns = tuple(fields[has_corner:])
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
            blocks = map_chunks(self._parse, chunks, n_threads=n_threads)
            for chunk, block in zip(chunks, blocks, strict=True):
                if block is None:
                    # Now that the lines before it are counted, its error can name its own.
                    block = self._rows(chunk)  # noqa: PLW2901 - raises
                n_rows += len(block.names)
                self.n_non_integer += block.n_non_integer
                if block.values.size and (value := block.values.max()) > max(
                    largest, LARGEST_COUNT
                ):
                    largest = float(value)
                    where_largest = self._where_value(block, int(block.values.argmax()))
                self._line_number += block.n_lines
                yield block
        if not n_rows:
            self._fail("counts.empty", "at least one row of counts is needed", "only a header line")
        limit = LARGEST_VALUE if self.n_non_integer else LARGEST_COUNT
        if largest > limit:
            self._fail(
                "counts.overflow",
                f"a value must be at most {limit}",
                f"{largest:.12g}",
                where=where_largest,
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

    def _read_header(self) -> tuple[bytes, bytes]:
        """Read the header and the first row, which is not yet parsed."""
        header, first = self._line(), self._line()
        while first and not first.strip():
            first = self._line()
            self._line_number += 1
        try:
            header.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._fail("counts.encoding", "the header must be UTF-8 text", str(error))
        return header, first

    def _line(self) -> bytes:
        with self._reading():
            line = self._file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            self._fail_line()
        return line

    def _fail_line(self) -> NoReturn:
        self._fail("counts.line", f"a line has at most {MAX_LINE_BYTES} bytes", "a longer one")

    def _chunks(self) -> Iterator[bytes]:
        """Cut the text behind the header into whole lines, the last one ended as well."""
        pending = self._first
        while True:
            with self._reading():
                text = self._file.read(BLOCK_BYTES)
            if not text:
                break
            pending += text
            end = pending.rfind(b"\n") + 1
            if end:
                yield pending[:end]
                pending = pending[end:]
            elif len(pending) > MAX_LINE_BYTES:
                self._fail_line()
        if pending:
            yield pending if pending.endswith(b"\n") else pending + b"\n"

    def _parse(self, chunk: bytes) -> CountBlock | None:
        """Parse lines, in any thread; of several errors the first in the file is to be raised."""
        try:
            return self._rows(chunk)
        except CountsError:
            return None

    def _rows(self, chunk: bytes) -> CountBlock:
        text = self._evenly_spaced(chunk) if self._is_spaced else chunk
        rows = parse_count_rows(
            np.frombuffer(text, np.uint8), delimiter=self._delimiter, n_columns=len(self.columns)
        )
        block = CountBlock(
            names=self._names(text, rows),
            lines=rows.lines,
            n_values=rows.n_values,
            indices=rows.indices,
            values=rows.values,
            n_non_integer=0,
            n_lines=rows.n_lines,
        )
        if len(rows.spans):
            block = self._with_fields(block, text, rows)
        if rows.fault is not None:
            self._fail_last(block, rows)
        values = block.values
        return replace(block, n_non_integer=int(np.count_nonzero(values != np.floor(values))))

    def _with_fields(self, block: CountBlock, text: bytes, rows: CountRows) -> CountBlock:
        """Read the fields that are not plain."""
        values = block.values
        # Of a row that is at fault itself its fields tell nothing.
        n_read = len(values) - (int(block.n_values[-1]) if rows.fault else 0)
        entries = np.flatnonzero(np.isnan(values[:n_read])).tolist()
        for entry, (start, stop) in zip(entries, rows.spans.tolist(), strict=False):
            field = text[start:stop].decode("utf-8", "replace")
            values[entry] = self._number(field, self._where_value(block, entry))
        is_kept = values != 0
        if is_kept.all():
            return block
        row_of = np.repeat(np.arange(len(block.names)), block.n_values)
        n_values = np.bincount(row_of[is_kept], minlength=len(block.names)).astype(np.int64)
        return replace(
            block, n_values=n_values, indices=block.indices[is_kept], values=values[is_kept]
        )

    def _where_value(self, block: CountBlock, entry: int) -> str:
        row = int(np.searchsorted(np.cumsum(block.n_values), entry, side="right"))
        return self._where(
            line=self._line_number + int(block.lines[row]),
            row=block.names[row],
            column=int(block.indices[entry]),
        )

    def _fail_last(self, block: CountBlock, rows: CountRows) -> NoReturn:
        line, row = self._line_number + int(block.lines[-1]), block.names[-1]
        if rows.fault == "ragged":
            self._fail(
                "counts.ragged",
                f"every row needs {len(self.columns)} values, one for each name in the header",
                str(rows.n_fields),
                where=self._where(line=line, row=row[:_SHOWN_CHARACTERS]),
            )
        self._fail(
            "counts.not-a-number",
            "a count must be a number",
            "''",
            where=self._where(line=line, row=row, column=rows.n_fields),
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

    def _names(self, text: bytes, rows: CountRows) -> tuple[str, ...]:
        names = []
        for row, (start, stop) in enumerate(rows.names.tolist()):
            try:
                name = text[start:stop].decode().strip()
            except UnicodeDecodeError as error:
                self._fail(
                    "counts.encoding",
                    "names of rows must be UTF-8 text",
                    str(error),
                    where=self._where(line=self._line_number + int(rows.lines[row])),
                )
            names.append(split_fields(name, self._delimiter)[0] if name[:1] == '"' else name)
        return tuple(names)

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

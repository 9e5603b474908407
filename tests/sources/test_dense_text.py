"""Dense text matrices as a stream, against Python's csv and float."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import CountsError
from stformat.sources import _dense_text
from stformat.sources._counts_text import read_counts_text
from stformat.sources._spilled_counts import spill_counts_text

NUMBERS = st.one_of(
    st.sampled_from(["0", "0.0", "1.0", "3", "12.50", "1e3", "2.5E-2", "+4", "007", "1e-50", ".5"]),
    st.integers(0, 2**31 - 1).map(str),
    st.floats(0, 1e30, allow_nan=False).map(repr),
    st.decimals(0, 10**6, places=6).map(str),
)
NAMES = st.text(st.sampled_from('ab,"_ é1x.'), min_size=1, max_size=6).map(str.strip).filter(bool)
WRONG = [
    ("nan", "counts.not-finite"), ("NaN", "counts.not-finite"), ("inf", "counts.not-finite"),
    ("1e999", "counts.not-finite"), ("-1", "counts.negative"), ("-0.5", "counts.negative"),
    ("", "counts.not-a-number"), ("NA", "counts.not-a-number"), ("1,5", "counts.ragged"),
    ("1_0", "counts.not-a-number"), ("0x1", "counts.not-a-number"), ("٣", None),
    ("1e39", "counts.overflow"), ("4294967296", "counts.overflow"),
]  # fmt: skip


def written(table, is_quoted, end, has_last_end):
    """The text of a table as Python's csv writes it."""
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
    csv.writer(out, quoting=quoting, lineterminator=end).writerows(table)
    return out.getvalue() if has_last_end else out.getvalue().removesuffix(end)


@st.composite
def tables(draw):
    """Names of columns, names of rows, and numbers as text."""
    n_columns, n_rows = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    columns = draw(st.lists(NAMES, min_size=n_columns, max_size=n_columns))
    rows = draw(st.lists(NAMES, min_size=n_rows, max_size=n_rows))
    values = [draw(st.lists(NUMBERS, min_size=n_columns, max_size=n_columns)) for _ in rows]
    return columns, rows, values


@settings(max_examples=150, deadline=None)
@given(
    table=tables(),
    style=st.tuples(st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans()),
    is_compressed=st.booleans(),
    block_bytes=st.integers(1, 60),
)
def test_any_table_is_what_csv_and_float_read(table, style, is_compressed, block_bytes):
    columns, rows, values = table
    lines = [["", *columns], *([name, *fields] for name, fields in zip(rows, values, strict=True))]
    text = written(lines, *style)
    read = list(csv.reader(io.StringIO(text, newline="")))
    expected = np.array([[float(field) for field in line[1:]] for line in read[1:]])
    is_count = bool((expected == np.floor(expected)).all())
    data = text.encode()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dense_text, "BLOCK_BYTES", block_bytes)
        path = Path(folder) / "counts.csv"
        path.write_bytes(gzip.compress(data) if is_compressed else data)
        if is_count and expected.max() > np.iinfo(np.int32).max:
            with pytest.raises(CountsError, match="must be at most"):
                read_counts_text(path)
            return
        found = read_counts_text(path)
        spilled = spill_counts_text(path, scratch=None)
    assert found.row_names == spilled.row_names == tuple(line[0].strip() for line in read[1:])
    assert found.column_names == tuple(name.strip() for name in read[0][1:])
    assert found.matrix.dtype == (np.int32 if is_count else np.float32)
    np.testing.assert_array_equal(found.matrix.toarray(), expected.astype(found.matrix.dtype))
    counts = spilled.rows(np.ones(len(rows), dtype=np.bool_))
    assert counts.dtype == found.matrix.dtype
    blocks = [block.toarray() for block in counts.iter_blocks()]
    np.testing.assert_array_equal(np.vstack(blocks), found.matrix.toarray())


@settings(max_examples=100, deadline=None)
@given(
    wrong=st.sampled_from([pair for pair in WRONG if pair[1]]),
    row=st.integers(0, 19),
    column=st.integers(0, 2),
    n_blank=st.integers(0, 3),
    block_bytes=st.sampled_from([1, 7, 50, 1 << 20]),
)
def test_errors_name_line_row_and_column(wrong, row, column, n_blank, block_bytes):
    field, code = wrong
    lines = [f"r{number},1,0,2" for number in range(20)]
    fields = lines[row].split(",")
    fields[column + 1] = field
    lines[row] = ",".join(fields)
    text = "\n".join([",a,b,c", *([""] * n_blank), *lines])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dense_text, "BLOCK_BYTES", block_bytes)
        path = Path(folder) / "counts.csv"
        path.write_text(text)
        for read in (read_counts_text, lambda path: spill_counts_text(path, scratch=None)):
            with pytest.raises(CountsError) as caught:
                read(path)
            (problem,) = caught.value.problems
            assert problem.code == code
            place = f"counts.csv, line {row + n_blank + 2}, row 'r{row}'"
            if code != "counts.ragged":
                place += f", column {'abc'[column]!r}"
            assert problem.where == place


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_of_several_errors_the_first_in_the_file_is_raised(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(_dense_text, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "counts.csv"
    lines = [f"r{row},1" for row in range(200)]
    lines[150], lines[70], lines[71] = "r150", "r70,-1", "r71,nan"
    path.write_text("\n".join([",a", *lines]))
    with pytest.raises(CountsError, match="line 72, row 'r70'"):
        read_counts_text(path)


def test_a_shifted_row_is_ragged_whatever_its_fields(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text(",a,b\nr1,1,2\nr2,x,3,4\n")
    with pytest.raises(CountsError, match="every row needs 2 values"):
        read_counts_text(path)


def test_digits_of_other_scripts_are_numbers_as_python_has_it(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text(",a\nr1,٣\n")
    assert read_counts_text(path).matrix.toarray().tolist() == [[float("٣")]]


def test_rows_may_be_left_out_and_read_again(tmp_path):
    path = tmp_path / "counts.csv"
    n_rows = 3000
    path.write_text(",a,b\n" + "".join(f"r{row},{row},{row % 7}.5\n" for row in range(n_rows)))
    spilled = spill_counts_text(path, scratch=tmp_path)
    kept = np.arange(n_rows) % 3 == 1
    counts = spilled.rows(kept)
    assert counts.shape == (1000, 2)
    assert counts.nnz is not None
    del spilled
    for _ in range(2):
        found = np.vstack([block.toarray() for block in counts.iter_blocks()])
        rows = np.flatnonzero(kept)
        np.testing.assert_array_equal(found, np.stack([rows, rows % 7 + 0.5], axis=1))


def test_what_memory_does_not_hold_is_in_files_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr("stformat.sources._spilled_counts.MEMORY_BYTES", 1000)
    path = tmp_path / "counts.csv"
    # Integers before the first fraction are read back as what the whole matrix is.
    path.write_text(",a\n" + "".join(f"r{row},{row + 1}\n" for row in range(5000)) + "last,0.5\n")
    spilled = spill_counts_text(path, scratch=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["counts.csv"]
    counts = spilled.rows(np.ones(5001, dtype=np.bool_))
    assert counts.dtype == np.float32
    found = np.vstack([block.toarray() for block in counts.iter_blocks()])[:, 0]
    np.testing.assert_array_equal(found, np.float32([*range(1, 5001), 0.5]))

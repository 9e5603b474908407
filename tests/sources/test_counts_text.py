"""Text count matrices: every accepted spelling is the same matrix, everything else an error."""

from __future__ import annotations

import gzip
import re
import tempfile
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stformat.errors import CountsError
from stformat.sources import _dense_text
from stformat.sources._counts_text import read_counts_text

COUNTS = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.one_of(st.just(0), st.integers(0, 12), st.integers(0, 2**31 - 1)),
    fill=st.just(0),
)


def spelled(value: int, style: int) -> str:
    """One of the ways a program prints a count."""
    return [f"{value}", f"{value}.0", f"{value}.", f"{value:e}".replace("e", "E")
            if float(f"{value:e}") == value else f"{value}", f"+{value}", f" {value}",
            f"{value:012d}", f"{value}.000"][style]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(data=st.data(), counts=COUNTS, delimiter=st.sampled_from("\t,;"))
def test_every_spelling_is_the_same_matrix(data, counts, delimiter):
    n_rows, n_columns = counts.shape
    styles = data.draw(hnp.arrays(np.int8, counts.shape, elements=st.integers(0, 7)))
    corner = data.draw(st.sampled_from([[], [""], ["spot"]]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    quote = data.draw(st.sampled_from(["", '"']))
    blank = data.draw(st.sampled_from(["", end, end * 2]))
    last = data.draw(st.sampled_from(["", end]))
    columns = [f"{quote}g{column}{quote}" for column in range(n_columns)]
    lines = [delimiter.join([*corner, *columns])]
    for row, values in enumerate(counts.tolist()):
        fields = [spelled(value, style) for value, style in zip(values, styles[row], strict=True)]
        lines.append(delimiter.join([f"{quote}r{row}{quote}", *fields]))
    text = (end + blank).join(lines) + last
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # Blocks of a few bytes cut rows, line ends and fields at every place.
        patch.setattr(_dense_text, "BLOCK_BYTES", data.draw(st.integers(1, 40)))
        path = Path(folder) / "matrix"
        path.write_bytes(
            gzip.compress(text.encode()) if data.draw(st.booleans()) else text.encode()
        )
        found = read_counts_text(path)
    assert found.row_names == tuple(f"r{row}" for row in range(n_rows))
    assert found.column_names == tuple(f"g{column}" for column in range(n_columns))
    assert found.matrix.dtype == np.int32
    assert found.n_non_integer == 0
    np.testing.assert_array_equal(found.matrix.toarray(), counts)
    assert found.matrix.nnz == np.count_nonzero(counts)
    assert found.matrix.has_canonical_format


@settings(max_examples=50, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(0, 2.0**100, width=32, allow_subnormal=False),
    )
)
def test_values_that_are_no_integers_keep_float32(values):
    lines = ["\t".join(["", *map(str, range(values.shape[1]))])]
    lines += ["\t".join([f"r{row}", *map(repr, line.tolist())]) for row, line in enumerate(values)]
    values[0, 0] = 0.25
    lines[1] = "\t".join(["r0", *map(repr, values[0].tolist())])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix"
        path.write_text("\n".join(lines))
        found = read_counts_text(path)
    assert found.matrix.dtype == np.float32
    assert found.n_non_integer == np.count_nonzero(values != np.floor(values))
    np.testing.assert_array_equal(found.matrix.toarray(), values)


def test_runs_of_spaces(tmp_path):
    path = tmp_path / "matrix"
    path.write_text('  "g1"  "g 2"\n"1x1"  3   4 \n  1x2 5 6\n')
    found = read_counts_text(path)
    assert found.column_names == ("g1", "g 2")
    assert found.row_names == ("1x1", "1x2")
    assert found.matrix.toarray().tolist() == [[3, 4], [5, 6]]


def test_runs_of_spaces_without_quotes(tmp_path):
    path = tmp_path / "matrix"
    path.write_bytes(b" g1  g2 \r\n 1x1  3   4  \r\n\r\n1x2 5 \t6\r")
    found = read_counts_text(path)
    assert found.column_names == ("g1", "g2")
    assert found.row_names == ("1x1", "1x2")
    assert found.matrix.toarray().tolist() == [[3, 4], [5, 6]]


def test_delimiter_inside_quotes_is_part_of_the_name(tmp_path):
    path = tmp_path / "matrix"
    path.write_text('"","HLA,A","B"\n"H,1",3,4\n')
    found = read_counts_text(path)
    assert found.column_names == ("HLA,A", "B")
    assert found.matrix.toarray().tolist() == [[3, 4]]


def test_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "matrix"
    path.write_bytes("\ufeffg1\tg2\nr\t1\t2\n".encode())
    assert read_counts_text(path).column_names == ("g1", "g2")


PLAIN = "\tg1\tg2\nr1\t1\t2\nr2\t3\t4\n"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (PLAIN.replace("3", "-3"), "counts.negative", "row 'r2', column 'g1'"),
        (PLAIN.replace("3", "nan"), "counts.not-finite", "row 'r2', column 'g1'"),
        (PLAIN.replace("3", "inf"), "counts.not-finite", "'inf'"),
        (PLAIN.replace("3", "NA"), "counts.not-a-number", "'NA'"),
        (PLAIN.replace("3", ""), "counts.not-a-number", "''"),
        (PLAIN.replace("3", "1_000"), "counts.not-a-number", "'1_000'"),
        (PLAIN.replace("3", "0x3"), "counts.not-a-number", "'0x3'"),
        (PLAIN.replace("3", "2147483648"), "counts.overflow", "row 'r2', column 'g1'"),
        (PLAIN.replace("3", "1e39").replace("4", "0.5"), "counts.overflow", "1e+39"),
        (PLAIN.replace("3\t", "3\t\t"), "counts.ragged", "row 'r2'"),
        (PLAIN.replace("\t4", ""), "counts.ragged", "row 'r2'"),
        (PLAIN + "r3", "counts.ragged", "row 'r3'"),
        ("\tg1\tg2\n", "counts.empty", "header"),
        ("", "counts.columns", "header"),
        ("name\nr1\n", "counts.columns", "one column"),
    ],
)
def test_errors_name_file_row_and_column(tmp_path, text, code, said):
    path = tmp_path / "matrix.tsv"
    path.write_text(text)
    with pytest.raises(CountsError) as caught:
        read_counts_text(path)
    (found,) = caught.value.problems
    assert found.code == code
    assert "matrix.tsv" in found.where
    assert said in str(found)


@pytest.mark.parametrize("damaged", [b"\xff\xfe\tg\nr\t1\n", b"\tg\n\xff\xfe\t1\n"])
def test_text_that_is_not_utf8(tmp_path, damaged):
    path = tmp_path / "matrix"
    path.write_bytes(damaged)
    with pytest.raises(CountsError, match="UTF-8"):
        read_counts_text(path)


def test_every_flipped_byte_of_gzip_is_an_error_or_the_same_matrix(tmp_path):
    path = tmp_path / "matrix.gz"
    text = "\tg1\tg2\n" + "".join(f"r{row}\t{row}\t{row * 7}\n" for row in range(60))
    whole = gzip.compress(text.encode(), mtime=0)
    path.write_bytes(whole)
    expected = read_counts_text(path).matrix.toarray()
    for place in range(10, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        try:
            found = read_counts_text(path)
        except CountsError:
            continue
        np.testing.assert_array_equal(found.matrix.toarray(), expected)


def test_a_line_without_end_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "matrix.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"\tg1\nr1\t")
        for _ in range(80):
            file.write(b"1" * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(CountsError, match=re.escape("a line has at most")):
            read_counts_text(path)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_zeros(tmp_path):
    path = tmp_path / "matrix"
    n_rows, n_columns = 4000, 5000
    with path.open("wb") as file:
        file.write(b"\t" + b"\t".join(b"g%d" % column for column in range(n_columns)) + b"\n")
        for row in range(n_rows):
            file.write(b"r%d" % row + b"\t0" * (n_columns - 1) + b"\t7\n")
    tracemalloc.start()
    try:
        found = read_counts_text(path)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert found.matrix.nnz == n_rows
    assert (found.matrix.indices == n_columns - 1).all()


@pytest.mark.parametrize("filler", [b"\t", b"1", b'"', b" ", b",", b"\r"])
def test_hostile_row_is_refused_in_little_memory(tmp_path, filler):
    path = tmp_path / "matrix"
    path.write_bytes(b"\tg1\n1x1\t" + filler * (15 << 20) + b"\n")
    tracemalloc.start()
    try:
        with pytest.raises(CountsError):
            read_counts_text(path)
        assert tracemalloc.get_traced_memory()[1] < 512 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("filler", [b"\t", b",", b'"', b" ", b"1", b"\r"])
def test_hostile_header_takes_little_memory(tmp_path, filler):
    path = tmp_path / "matrix"
    path.write_bytes(filler * (15 << 20) + b"\n1x1\t1\n")
    # White space, quotes and one long name make a column, if a useless one.
    is_refused = filler in {b"\t", b","}
    outcome = pytest.raises(CountsError, match="columns") if is_refused else nullcontext()
    tracemalloc.start()
    try:
        with outcome:
            assert len(read_counts_text(path).column_names) == 1
        assert tracemalloc.get_traced_memory()[1] < 512 << 20
    finally:
        tracemalloc.stop()

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

import stformat as stf
from stformat.errors import ExportError
from stformat.export import _row_blocks
from stformat.export._counts_text import csv_field, dense_lines
from stformat.export._row_blocks import row_blocks

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
INTEGERS = st.sampled_from([0, 0, 1, 9, 10, 11, 123, 2**31 - 1])
FRACTIONS = st.sampled_from([0.0, 0.25, 1.0, 9.5, 12.0, 0.1, 1e-7, 3.4e38])


@given(
    hnp.arrays(np.int32, SHAPES, elements=INTEGERS)
    | hnp.arrays(np.float32, SHAPES, elements=FRACTIONS.map(np.float32))
)
def test_lines_are_those_of_the_dense_matrix(dense):
    names = [f"S1_{row}x1" for row in range(len(dense))]
    lines = list(dense_lines(sparse.csr_array(dense), names))
    assert all(line.endswith(b"\n") for line in lines)
    spelled = [line.decode().rstrip("\n").split(",") for line in lines]
    assert [row[0] for row in spelled] == names
    read = np.array([row[1:] for row in spelled]).astype(np.float64).astype(dense.dtype)
    assert np.array_equal(read, dense)
    if dense.dtype == np.int32:
        assert [row[1:] for row in spelled] == [[str(v) for v in row] for row in dense.tolist()]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_fields_are_those_that_csv_reads(fields):
    line = ",".join(["first", *map(csv_field, fields)])
    assert next(csv.reader([line])) == ["first", *fields]


def test_a_name_of_two_lines_is_refused():
    with pytest.raises(ExportError, match="one line of text"):
        csv_field("a\nb")


def test_blocks_cover_the_rows_and_hold_a_bounded_number_of_counts(store_of, monkeypatch):
    monkeypatch.setattr(_row_blocks, "_BLOCK_VALUES", 100)
    with stf.open_slide(store_of("two tables")) as slide:
        blocks = list(row_blocks(slide))
        assert [start for start, _ in blocks] == [0, *(stop for _, stop in blocks[:-1])]
        assert blocks[-1][1] == slide.n_obs
        sizes = [slide.counts[start:stop].nnz for start, stop in blocks]
        assert all(
            n <= 100 or stop == start + 1 for n, (start, stop) in zip(sizes, blocks, strict=True)
        )
        assert len(blocks) < slide.n_obs
        assert max(stop - start for start, stop in row_blocks(slide, most_rows=2)) == 2

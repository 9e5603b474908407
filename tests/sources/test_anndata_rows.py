"""Names of rows of a dataframe, held as text or as bytes of fixed width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stformat.errors import CountsError
from stformat.sources import _anndata
from stformat.sources._anndata import ArrayNode, GroupNode, read_frame, read_rows
from stformat.sources._packed_text import texts_of


def frame_of(values):
    """A dataframe of these names, or numbers, and nothing else."""
    index = np.array(values, dtype=object)
    node = ArrayNode(
        where="obs/_index",
        attributes={},
        shape=index.shape,
        dtype=index.dtype,
        read=lambda start, stop: index[start:stop],
    )
    return GroupNode(
        where="obs",
        attributes={
            "encoding-type": "dataframe", "encoding-version": "0.2.0",
            "_index": "_index", "column-order": [],
        },
        names=("_index",),
        child=lambda _name: node,
    )  # fmt: skip


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


@settings(deadline=None)
@given(names=st.lists(st.none() | NAMES) | st.lists(st.integers(0, 10**9)), block=st.integers(1, 4))
def test_bytes_are_the_names(names, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_anndata, "_BLOCK", block)
        rows, frame = read_rows(frame_of(names)), read_frame(frame_of(names))
    assert frame.index.tolist() == ["" if name is None else str(name) for name in names]
    assert rows.index.dtype.kind == "S"
    assert texts_of(rows.index) == frame.index.tolist()
    assert len(rows) == len(names)


@pytest.mark.parametrize(
    ("name", "found"), [("x" * 257, "one of 257 bytes"), ("a\0", "a zero byte in one")]
)
def test_names_that_do_not_fit_are_refused(name, found):
    with pytest.raises(CountsError) as caught:
        read_rows(frame_of(["a", name]))
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == ("obs/_index", found)
    assert read_frame(frame_of(["a", name])).index.tolist() == ["a", name]

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stformat.loader.held_counts import HeldCounts
from stformat.loader.memory import Memory


class Counts:
    """Rows of so many values each, all different."""

    def __init__(self, first, lengths):
        self.lengths = np.array(lengths, dtype=np.int64)
        self.values = first + np.arange(self.lengths.sum(), dtype=np.int32)

    def read_rows(self, rows, empty):
        data, indices = (make(len(self.values)) for make in empty)
        data[:], indices[:] = self.values, -self.values
        return self.lengths[rows]


@given(st.lists(st.lists(st.integers(0, 5000), max_size=3), min_size=1), st.integers(0, 20_000))
def test_rows_follow_one_another_however_many_values_were_expected(slides, expected):
    held = HeldCounts(Memory(max_bytes=2**20), np.int32, np.int64, expected)
    every = []
    for number, lengths in enumerate(slides):
        counts = Counts(number * 100_000, lengths)
        held.add(counts, np.arange(len(lengths)))
        every.append(counts)
    values = np.concatenate([counts.values for counts in every])
    np.testing.assert_array_equal(held.data, values)
    np.testing.assert_array_equal(held.indices, -values)
    lengths = np.concatenate([counts.lengths for counts in every])
    np.testing.assert_array_equal(held.indptr, np.append(0, np.cumsum(lengths)))
    assert (held.data.dtype, held.indices.dtype) == (np.int32, np.int64)
